//! The lane of a request.

use super::*;

/// Returns the lane whose encoder a request of so many texts gets to.
async fn lane_of(path: &str, header: Option<&str>, field: Option<&str>, texts: usize) -> Lane {
    let server = Server::new();
    let mut ask = json!({"input": vec!["a"; texts], "inputs": vec!["a"; texts]});
    if let Some(field) = field {
        ask["lane"] = json!(field);
    }
    let mut request = post(path, ask.to_string());
    if let Some(header) = header {
        let value = header.parse().unwrap();
        request.headers_mut().insert(app::LANE_HEADER, value);
    }
    server.send(request).await.with(200);
    let count = |gated: &Gated| gated.submitted().iter().map(Vec::len).sum::<usize>();
    match (count(&server.interactive), count(&server.bulk)) {
        (found, 0) if found == texts => Lane::Interactive,
        (0, found) if found == texts => Lane::Bulk,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_long_list_is_bulk_unless_the_request_says_otherwise() {
    use Lane::{Bulk, Interactive};

    for (path, header, field, texts, expected) in [
        ("", None, None, 1, Interactive),
        ("", None, None, 2, Interactive),
        ("", None, None, 3, Bulk),
        ("/bulk", None, None, 1, Bulk),
        ("/interactive", None, None, 3, Interactive),
        ("", Some("bulk"), None, 1, Bulk),
        ("", Some("interactive"), None, 3, Interactive),
        ("/bulk", Some("interactive"), None, 3, Interactive),
        ("", None, Some("bulk"), 1, Bulk),
        ("/bulk", Some("bulk"), Some("interactive"), 3, Interactive),
    ] {
        for end in ["/v1/embeddings", "/embed"] {
            let found = lane_of(&format!("{path}{end}"), header, field, texts).await;
            assert_eq!(found, expected, "{path}{end} {header:?} {field:?} {texts}");
        }
    }
}

#[tokio::test]
async fn there_are_two_lanes() {
    let server = Server::new();
    let ask = json!({"inputs": "a", "lane": "fast"});
    let answer = server.json("/embed", ask).await.with(422);
    assert_eq!(
        answer["error"],
        "there is no lane `fast`; use `interactive` or `bulk`"
    );
    let mut request = post("/v1/embeddings", json!({"input": "a"}).to_string());
    let value = header::HeaderValue::from_bytes(b"\xff").unwrap();
    request.headers_mut().insert(app::LANE_HEADER, value);
    server.send(request).await.with(422);
    server
        .json("/fast/v1/embeddings", json!({"input": "a"}))
        .await
        .with(404);
}

/// A query does not wait behind bulk work.
#[tokio::test]
async fn a_query_passes_bulk_work_that_is_held_up() {
    let server = Server::new();
    server.bulk.hold();
    let bulk = server.json("/embed", json!({"inputs": ["a", "b", "c"]}));
    let mut bulk = Box::pin(bulk);
    let query = server.json("/embed", json!({"inputs": "a"}));
    tokio::select! {
        biased;
        _ = &mut bulk => panic!("it is held up"),
        answer = query => { answer.with(200); }
    }
    server.bulk.open();
    bulk.await.with(200);
}
