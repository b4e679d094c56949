//! What a bad request is told, and that the next good one does not notice.

use std::{task::Poll, time::Duration};

use super::*;

/// Ensures that a server still answers.
async fn assert_well(server: &Server) {
    server
        .json("/embed", json!({"inputs": "a"}))
        .await
        .with(200);
    server.get("/health").await;
}

#[tokio::test]
async fn each_kind_of_bad_body_has_its_status() {
    let server = Server::new();
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let many = json!({"input": vec!["a"; 21], "inputs": vec!["a"; 21]}).to_string();
    let far_too_many = format!(
        r#"{{"input":[{0}],"inputs":[{0}]}}"#,
        vec!["1"; 15_000].join(",")
    );
    let long = json!({"input": "a ".repeat(50), "inputs": "a ".repeat(50)}).to_string();
    let wide = json!({"input": vec!["a a a a a a a"; 20], "inputs": vec!["a a a a a a a"; 20]});
    let both = |value: &str| format!(r#"{{"input":{value},"inputs":{value}}}"#);
    let with = |field: &str| format!(r#"{{"input":"a","inputs":"a",{field}}}"#);
    let cases: Vec<(Vec<u8>, u16)> = vec![
        (b"".to_vec(), 400),
        (b"{".to_vec(), 400),
        (b"nonsense".to_vec(), 400),
        (b"\xff\xfe".to_vec(), 400),
        (b"\0".to_vec(), 400),
        (b"{\"input\":\"\xff\",\"inputs\":\"\xff\"}".to_vec(), 400),
        (both(r#""\ud800""#).into(), 400),
        (both(r#""a"} x {"#).into(), 400),
        (both("[]").into(), 400),
        (b"null".to_vec(), 422),
        (b"[]".to_vec(), 422),
        (b"{}".to_vec(), 422),
        (deep.clone().into(), 422),
        (both(&deep).into(), 422),
        (both("null").into(), 422),
        (both("1").into(), 422),
        (both("true").into(), 422),
        (both("{}").into(), 422),
        (both("[null]").into(), 422),
        (both("[1.5]").into(), 422),
        (both("[-1]").into(), 422),
        (both("[4294967296]").into(), 422),
        (both(r#"["a", 1]"#).into(), 422),
        (both(r#"[1, "a"]"#).into(), 422),
        (both(r#"[["a"]]"#).into(), 422),
        (both(r#"[[[1]]]"#).into(), 422),
        (both("[[]]").into(), 422),
        (with(r#""dimensions": 0"#).into(), 422),
        (with(r#""dimensions": 4"#).into(), 422),
        (with(r#""dimensions": -1"#).into(), 422),
        (with(r#""dimensions": "3""#).into(), 422),
        (with(r#""encoding_format": "int8""#).into(), 422),
        (with(r#""model": 1"#).into(), 422),
        (with(r#""truncate": "yes""#).into(), 422),
        (with(r#""truncation_direction": "up""#).into(), 422),
        (with(r#""prompt_name": "none such""#).into(), 422),
        (with(r#""lane": null, "lane": null"#).into(), 422),
        (with(r#""model": "large""#).into(), 404),
        (many.into(), 413),
        (far_too_many.into(), 413),
        (long.into(), 413),
        (wide.to_string().into(), 413),
        (vec![b' '; 65 << 10], 413),
    ];
    for (body, expected) in cases {
        for path in ["/v1/embeddings", "/embed", "/", "/bulk/embed"] {
            let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
            let answer = server.post(path, body.clone()).await;
            assert_eq!(answer.status, expected, "{path} {shown}: {}", answer.text);
            let message = match path {
                "/v1/embeddings" => {
                    let answer = answer.with(expected);
                    assert!(answer["error"]["type"].is_string(), "{answer}");
                    answer["error"]["message"].clone()
                }
                _ => {
                    let answer = answer.with(expected);
                    assert!(answer["error_type"].is_string(), "{answer}");
                    answer["error"].clone()
                }
            };
            let message = message.as_str().unwrap();
            assert!(
                !message.is_empty() && message.chars().count() < 500,
                "{message}"
            );
        }
    }
    assert_well(&server).await;
}

#[tokio::test]
async fn a_text_at_fault_is_named_and_fails_its_request_alone() {
    let server = Server::new();
    let ask = json!({"inputs": ["a", "a ".repeat(50)]});
    let answer = server.json("/embed", ask).await.with(413);
    let message = answer["error"].as_str().unwrap();
    assert!(message.starts_with("text 1: "), "{message}");
    for (token, status, openai) in [
        (gated::UNKNOWN, 422, 422),
        (gated::OVERFLOW, 424, 500),
        (gated::BATCH, 424, 500),
        (gated::PANIC_IN_SUBMIT, 424, 500),
        (gated::PANIC_IN_WAIT, 424, 500),
    ] {
        let ask = json!({"inputs": [[2, token, 3]], "input": [[2, token, 3]]});
        server.json("/embed", ask.clone()).await.with(status);
        server.json("/v1/embeddings", ask).await.with(openai);
        assert_well(&server).await;
    }
}

#[tokio::test]
async fn other_types_paths_and_methods() {
    let server = Server::new();
    for kind in [None, Some("text/plain"), Some("application/jsonx")] {
        let mut request = Request::post("/v1/embeddings");
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let body = json!({"input": "a"}).to_string();
        let request = request.body(Body::from(body)).unwrap();
        server.send(request).await.with(415);
    }
    let body = json!({"input": "a"}).to_string();
    let request = Request::post("/v1/embeddings")
        .header(header::CONTENT_TYPE, "Application/JSON; charset=utf-8")
        .body(Body::from(body))
        .unwrap();
    server.send(request).await.with(200);
    let answer = server.get("/v1/embeddings").await.with(405);
    assert!(answer["error"]["message"].is_string(), "{answer}");
    let answer = server.get("/nothing").await.with(404);
    assert!(answer["error"].is_string(), "{answer}");
    server.get("/v1/nothing").await.with(404);
}

#[tokio::test]
async fn a_full_queue_is_429_and_when_to_come_again() {
    let server = Server::of(None, small_limits(), 64);
    server.interactive.hold();
    let lane = |texts: usize| json!({"inputs": vec!["a"; texts], "lane": "interactive"});
    let mut held = Vec::new();
    // 8 texts are on the way, and 64 may wait.
    for _ in 0..9 {
        let mut request = Box::pin(server.json("/embed", lane(8)));
        // It is queued when it is first looked at.
        let first = std::future::poll_fn(|context| Poll::Ready(request.as_mut().poll(context)));
        assert!(first.await.is_pending());
        held.push(request);
    }
    let ask = json!({"input": "a"});
    let answer = server.json("/v1/embeddings", ask).await;
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    let answer = answer.with(429);
    assert_eq!(answer["error"]["code"], "rate_limit_exceeded");
    let answer = server.json("/embed", lane(1)).await.with(429);
    assert_eq!(answer["error_type"], "Overloaded");
    // The other lane has its own queue.
    let bulk = json!({"inputs": "a", "lane": "bulk"});
    server.json("/embed", bulk).await.with(200);
    server.interactive.open();
    for one in held {
        one.await.with(200);
    }
    assert_well(&server).await;
}

#[tokio::test]
async fn more_texts_than_a_queue_can_ever_take_are_not_told_to_come_again() {
    let limits = Limits {
        texts: 100,
        tokens: 10_000,
        ..small_limits()
    };
    let server = Server::of(None, limits, 64);
    let ask = json!({"inputs": vec!["a"; 65]});
    server.json("/embed", ask).await.with(413);
}

#[tokio::test]
async fn bodies_that_do_not_fit_into_memory_together_are_429() {
    let limits = Limits {
        bodies: 32 << 10,
        ..small_limits()
    };
    let server = Server::of(None, limits, 1000);
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let first = axum::body::Bytes::from(vec![b' '; 20 << 10]);
    let slow = futures(vec![first], receiver);
    let mut slow = Box::pin(server.post("/embed", slow));
    let polled = std::future::poll_fn(|context| Poll::Ready(slow.as_mut().poll(context)));
    assert!(polled.await.is_pending());
    let answer = server.json("/embed", json!({"inputs": "a"})).await;
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    answer.with(429);
    sender.send(()).unwrap();
    slow.await.with(400);
    assert_well(&server).await;
}

/// Returns a body of these chunks that ends when it is told to.
fn futures(chunks: Vec<axum::body::Bytes>, end: tokio::sync::oneshot::Receiver<()>) -> Body {
    Body::new(Slow { chunks, end })
}

struct Slow {
    chunks: Vec<axum::body::Bytes>,
    end: tokio::sync::oneshot::Receiver<()>,
}

impl hyper::body::Body for Slow {
    type Data = axum::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        match self.chunks.pop() {
            Some(chunk) => Poll::Ready(Some(Ok(hyper::body::Frame::data(chunk)))),
            None => std::pin::Pin::new(&mut self.end)
                .poll(context)
                .map(|_| None),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_408() {
    let server = Server::new();
    let (_sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let answer = server.post("/embed", futures(Vec::new(), receiver)).await;
    assert_eq!(answer.headers[header::CONNECTION], "close");
    answer.with(408);
}

#[tokio::test(start_paused = true)]
async fn vectors_that_take_too_long_are_504() {
    let server = Server::new();
    server.interactive.hold();
    let answer = server.json("/embed", json!({"inputs": "a"})).await;
    answer.with(504);
    server.interactive.open();
}

#[tokio::test]
async fn a_deadline_in_the_queue_is_504() {
    let limits = Limits {
        time: Duration::ZERO,
        ..small_limits()
    };
    let server = Server::of(None, limits, 1000);
    let answer = server.json("/embed", json!({"inputs": "a"})).await;
    answer.with(504);
}

#[tokio::test]
async fn a_server_that_loads_ends_or_has_lost_its_gpu_is_503() {
    let loading = Server::loading(small_limits());
    let dead = Server::new();
    // A GPU that fails a batch twice is dead.
    let ask = json!({"inputs": [[gated::GPU]]});
    let answer = dead.json("/embed", ask).await.with(503);
    assert_eq!(answer["error_type"], "Unhealthy");
    // The cause is the operator's business.
    assert!(!answer.to_string().contains("device"), "{answer}");
    for server in [&loading, &dead] {
        let answer = server.get("/health").await;
        assert_eq!(answer.headers[header::RETRY_AFTER], "1");
        answer.with(503);
        let ask = json!({"input": "a", "inputs": "a"});
        server.json("/embed", ask.clone()).await.with(503);
        server.json("/v1/embeddings", ask).await.with(503);
        assert_eq!(server.get("/metrics").await.status, 200);
    }
    let ending = Server::new();
    assert_eq!(ending.get("/health").await.status, 200);
    ending.app.close();
    ending.get("/health").await.with(503);
    // What is sent all the same is answered.
    let ask = json!({"inputs": "a"});
    ending.json("/embed", ask).await.with(200);
}

#[tokio::test]
async fn a_request_that_is_dropped_is_never_submitted() {
    let server = Server::new();
    server.bulk.hold();
    let first = json!({"inputs": "a", "lane": "bulk"});
    let mut first = Box::pin(server.json("/embed", first));
    let second = json!({"inputs": "b", "lane": "bulk"});
    let mut second = Box::pin(server.json("/embed", second));
    for request in [&mut first, &mut second] {
        let polled = std::future::poll_fn(|context| Poll::Ready(request.as_mut().poll(context)));
        assert!(polled.await.is_pending());
    }
    drop(second);
    server.bulk.open();
    first.await.with(200);
    let third = json!({"inputs": "c", "lane": "bulk"});
    server.json("/embed", third).await.with(200);
    let texts = server.bulk.submitted().concat();
    assert_eq!(texts, [[2, 5, 3], [2, 11, 3]]);
}
