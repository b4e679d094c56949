//! The errors that a client is told, in the shape of each API. They name what the client can change, and nothing of what
//! is inside.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};
use cuda_green_embed::Error;
use serde_json::json;

/// The API that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    OpenAi,
    /// That of text-embeddings-inference.
    Tei,
}

/// The reason for a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The body is not JSON.
    Syntax,
    /// There is no text.
    Empty,
    /// The JSON is not a request.
    Invalid,
    /// The tokeniser or the vocabulary has no tokens for a text.
    Tokens,
    TooLarge,
    MediaType,
    NoSuchModel,
    NoSuchPath,
    Method,
    /// The body did not come in time.
    SlowBody,
    Overloaded,
    /// The vectors were not there in time.
    Late,
    /// The model is being loaded, the server ends, or the GPU has failed.
    Unavailable,
    /// The GPU or the encoder failed the batch.
    Inference,
    Internal,
}

/// An error for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub kind: Kind,
    pub message: String,
}

/// The most characters in a message: texts of a client's may be quoted in it.
const LONGEST: usize = 400;

impl Refusal {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(LONGEST) {
            message.truncate(end);
            message.push('…');
        }
        Self { kind, message }
    }

    pub fn internal() -> Self {
        Self::new(Kind::Internal, "internal error")
    }

    /// Returns it with the index of the text at fault.
    pub fn of_text(self, index: usize) -> Self {
        Self::new(self.kind, format!("text {index}: {}", self.message))
    }

    pub fn status(&self, api: Api) -> StatusCode {
        match self.kind {
            Kind::Syntax | Kind::Empty => StatusCode::BAD_REQUEST,
            Kind::Invalid | Kind::Tokens => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Kind::NoSuchModel | Kind::NoSuchPath => StatusCode::NOT_FOUND,
            Kind::Method => StatusCode::METHOD_NOT_ALLOWED,
            Kind::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Kind::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Kind::Late => StatusCode::GATEWAY_TIMEOUT,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            // Text-embeddings-inference has a status of its own for this.
            Kind::Inference if api == Api::Tei => StatusCode::FAILED_DEPENDENCY,
            Kind::Inference | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns the answer to a client of this API.
    pub fn response(&self, api: Api) -> Response<Body> {
        let body = match api {
            Api::OpenAi => json!({"error": {
                "message": self.message,
                "type": self.openai_type(),
                "param": null,
                "code": self.openai_code(),
            }}),
            Api::Tei => json!({"error": self.message, "error_type": self.tei_type()}),
        };
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status(api);
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        if matches!(self.kind, Kind::Overloaded | Kind::Unavailable) {
            let second = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, second);
        }
        if self.kind == Kind::SlowBody {
            // What is left of the body would be taken for the next request.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }

    fn openai_type(&self) -> &'static str {
        match self.kind {
            Kind::Overloaded => "rate_limit_error",
            Kind::Late | Kind::Unavailable | Kind::Inference | Kind::Internal => "server_error",
            _ => "invalid_request_error",
        }
    }

    fn openai_code(&self) -> Option<&'static str> {
        match self.kind {
            Kind::NoSuchModel => Some("model_not_found"),
            Kind::Overloaded => Some("rate_limit_exceeded"),
            _ => None,
        }
    }

    fn tei_type(&self) -> &'static str {
        match self.kind {
            Kind::Empty => "Empty",
            Kind::Tokens => "Tokenizer",
            Kind::Overloaded | Kind::Late => "Overloaded",
            Kind::Unavailable => "Unhealthy",
            Kind::Inference | Kind::Internal => "Backend",
            _ => "Validation",
        }
    }
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Self {
        let kind = match error {
            Error::Tokenize { reason, .. } => {
                return Self::new(Kind::Tokens, format!("it cannot be tokenised: {reason}"));
            }
            Error::UnknownToken { .. } | Error::EmptyText { .. } => Kind::Tokens,
            Error::BatchTooLarge { .. } => Kind::TooLarge,
            Error::Overloaded { .. } => Kind::Overloaded,
            Error::DeadlineExceeded => Kind::Late,
            Error::Overflow { .. } => Kind::Inference,
            Error::ShutDown => return Self::new(Kind::Unavailable, "the server is shutting down"),
            // The causes are for the operator, in the log.
            Error::ServiceDead { .. } => {
                return Self::new(Kind::Unavailable, "the GPU has failed; restart the server");
            }
            _ => return Self::new(Kind::Inference, "the batch with this text failed"),
        };
        Self::new(kind, error.to_string())
    }
}
