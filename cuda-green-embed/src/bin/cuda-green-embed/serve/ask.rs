//! Requests as clients write them. JSON is read in two steps, so that a list of texts ends at its limit and not in memory.

use cuda_green_embed::Lane;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, SeqAccess, Unexpected, Visitor},
};
use serde_json::{error::Category, value::RawValue};

use super::{
    limits::Limits,
    refusal::{Api, Kind, Refusal},
};

/// One text, or its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    Text(String),
    Tokens(Vec<u32>),
}

/// The form of the vectors in the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    #[default]
    Float,
    /// Little-endian `f32`.
    Base64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    #[serde(alias = "Left")]
    Left,
    #[default]
    #[serde(alias = "Right")]
    Right,
}

/// A request of either API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub texts: Vec<Text>,
    /// Whether it was one text outside of a list.
    pub is_single: bool,
    pub model: Option<String>,
    pub lane: Option<Lane>,
    pub prompt_name: Option<String>,
    /// Whether overlong texts are cut, if the request says so.
    pub truncate: Option<bool>,
    pub side: Side,
    pub normalize: bool,
    pub dimensions: Option<usize>,
    pub encoding: Encoding,
}

/// The fields of both APIs; those that only one has are ignored in the other, as unknown ones are.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
    #[serde(borrow, default)]
    inputs: Option<&'a RawValue>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    lane: Option<String>,
    #[serde(default)]
    prompt_name: Option<String>,
    #[serde(default)]
    truncate: Option<bool>,
    #[serde(default)]
    truncation_direction: Option<Side>,
    #[serde(default)]
    normalize: Option<bool>,
    #[serde(default)]
    dimensions: Option<usize>,
    #[serde(default)]
    encoding_format: Option<Encoding>,
}

impl Ask {
    /// Reads a body.
    pub fn parse(body: &[u8], api: Api, limits: &Limits) -> Result<Self, Refusal> {
        // Else a list would be taken for the fields in their order.
        if body.trim_ascii_start().first() == Some(&b'[') {
            return Err(Refusal::new(Kind::Invalid, "the body must be an object"));
        }
        let fields: Fields<'_> = serde_json::from_slice(body).map_err(|error| refuse(&error))?;
        let (name, input) = match api {
            Api::OpenAi => ("input", fields.input),
            Api::Tei => ("inputs", fields.inputs),
        };
        let missing = || Refusal::new(Kind::Invalid, format!("`{name}` is missing"));
        let input = input.ok_or_else(missing)?;
        let mut reader = serde_json::Deserializer::from_str(input.get());
        let most = limits.texts;
        let found = List { most }.deserialize(&mut reader);
        let found = found.map_err(|error| {
            let refusal = refuse(&error);
            Refusal::new(refusal.kind, format!("`{name}`: {}", refusal.message))
        })?;
        let (texts, is_single) = match found {
            Found::Single(text) => (vec![text], true),
            Found::List(texts) => (texts, false),
            Found::TooMany(texts) => {
                let message = format!("{texts} texts in a request exceed the server's {most}");
                return Err(Refusal::new(Kind::TooLarge, message));
            }
        };
        if texts.is_empty() {
            return Err(Refusal::new(
                Kind::Empty,
                format!("`{name}` cannot be empty"),
            ));
        }
        let lane = fields.lane.as_deref().map(lane).transpose()?;
        Ok(Self {
            texts,
            is_single,
            model: fields.model,
            lane,
            prompt_name: fields.prompt_name,
            truncate: fields.truncate,
            side: fields.truncation_direction.unwrap_or_default(),
            normalize: fields.normalize.unwrap_or(true) || api == Api::OpenAi,
            dimensions: fields.dimensions,
            encoding: match api {
                Api::OpenAi => fields.encoding_format.unwrap_or_default(),
                Api::Tei => Encoding::Float,
            },
        })
    }
}

/// Returns the lane of this name.
pub fn lane(name: &str) -> Result<Lane, Refusal> {
    let found = Lane::ALL.into_iter().find(|lane| lane.name() == name);
    found.ok_or_else(|| {
        let message = format!("there is no lane `{name}`; use `interactive` or `bulk`");
        Refusal::new(Kind::Invalid, message)
    })
}

fn refuse(error: &serde_json::Error) -> Refusal {
    match error.classify() {
        Category::Data => Refusal::new(Kind::Invalid, error.to_string()),
        _ => Refusal::new(Kind::Syntax, format!("the body is not JSON: {error}")),
    }
}

enum Found {
    Single(Text),
    List(Vec<Text>),
    /// The number of them.
    TooMany(usize),
}

const EXPECTED: &str = "a text, a list of texts, a list of tokens, or a list of such lists";

/// Reads a text, tokens, or a list of them.
struct List {
    most: usize,
}

impl<'de> DeserializeSeed<'de> for List {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Found, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for List {
    type Value = Found;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        Ok(Found::Single(Text::Text(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Found, A::Error> {
        let mut texts = Vec::new();
        let mut tokens = Vec::new();
        loop {
            if texts.len() == self.most {
                let mut more = 0;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    more += 1;
                }
                return Ok(match more {
                    0 => Found::List(texts),
                    more => Found::TooMany(self.most + more),
                });
            }
            match list.next_element::<Element>()? {
                None if tokens.is_empty() => return Ok(Found::List(texts)),
                None => return Ok(Found::Single(Text::Tokens(tokens))),
                Some(Element::Text(text)) if tokens.is_empty() => texts.push(text),
                Some(Element::Token(token)) if texts.is_empty() => tokens.push(token),
                Some(_) => {
                    let mixed = Unexpected::Other("tokens beside texts");
                    return Err(A::Error::invalid_type(mixed, &EXPECTED));
                }
            }
        }
    }
}

enum Element {
    Text(Text),
    Token(u32),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ElementVisitor)
    }
}

struct ElementVisitor;

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a text, a token, or a list of tokens")
    }

    fn visit_str<E>(self, text: &str) -> Result<Element, E> {
        Ok(Element::Text(Text::Text(text.to_owned())))
    }

    fn visit_u64<E: serde::de::Error>(self, token: u64) -> Result<Element, E> {
        let wrong = |_| E::invalid_value(Unexpected::Unsigned(token), &"a token");
        u32::try_from(token).map(Element::Token).map_err(wrong)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element, A::Error> {
        let mut tokens = Vec::new();
        while let Some(token) = list.next_element()? {
            tokens.push(token);
        }
        Ok(Element::Text(Text::Tokens(tokens)))
    }
}
