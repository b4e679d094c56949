//! What each path answers to a good request.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::*;

/// The ids of the small model: `[CLS]` is 2, `[SEP]` 3, `a` 5, `b` 6, `##b` 8.
const AB: [u32; 4] = [2, 5, 8, 3];
const A: [u32; 3] = [2, 5, 3];

#[tokio::test]
async fn openai_s_embeddings() {
    let server = Server::new();
    let ask = json!({"input": ["ab", "a"], "model": "small", "user": "u", "unknown": [{}]});
    let answer = server.json("/v1/embeddings", ask).await.with(200);
    assert_eq!(answer["object"], "list");
    assert_eq!(answer["model"], "small");
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": 7, "total_tokens": 7})
    );
    let data = answer["data"].as_array().unwrap();
    assert_eq!(data.len(), 2);
    for (index, tokens) in [&AB[..], &A].iter().enumerate() {
        assert_eq!(data[index]["object"], "embedding");
        assert_eq!(data[index]["index"], index);
        assert_near(&values(&data[index]["embedding"]), &vector(tokens));
    }
}

#[tokio::test]
async fn each_form_of_input_is_taken() {
    let server = Server::new();
    for (input, expected) in [
        (json!("ab"), vec![vector(&AB)]),
        (json!(["ab"]), vec![vector(&AB)]),
        (json!([2, 5, 3]), vec![vector(&A)]),
        (
            json!([[2, 5, 3], [2, 5, 8, 3]]),
            vec![vector(&A), vector(&AB)],
        ),
        (json!(["a", [2, 5, 8, 3]]), vec![vector(&A), vector(&AB)]),
        (json!(""), vec![vector(&[2, 3])]),
        (json!("\u{0}a\u{0}"), vec![vector(&A)]),
    ] {
        let ask = json!({"input": input, "model": null});
        let answer = server.json("/v1/embeddings", ask).await.with(200);
        let data = answer["data"].as_array().unwrap();
        assert_eq!(data.len(), expected.len(), "{input}");
        for (one, expected) in data.iter().zip(&expected) {
            assert_near(&values(&one["embedding"]), expected);
        }
        let answer = server.json("/embed", json!({"inputs": input})).await;
        let answer = answer.with(200);
        let data = answer.as_array().unwrap();
        assert_eq!(data.len(), expected.len(), "{input}");
        for (one, expected) in data.iter().zip(&expected) {
            assert_near(&values(one), expected);
        }
    }
}

#[tokio::test]
async fn base64_holds_little_endian_floats() {
    let server = Server::new();
    let ask = json!({"input": ["ab", "a"], "encoding_format": "base64"});
    let answer = server.json("/v1/embeddings", ask).await.with(200);
    for (index, tokens) in [&AB[..], &A].iter().enumerate() {
        let text = answer["data"][index]["embedding"].as_str().unwrap();
        let bytes = BASE64_STANDARD.decode(text).unwrap();
        let floats: Vec<_> = bytes
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
            .collect();
        assert_near(&floats, &vector(tokens));
    }
}

#[tokio::test]
async fn dimensions_cut_a_vector_before_it_is_scaled() {
    let server = Server::new();
    let expected = scaled(raw(&AB)[..2].to_vec());
    let ask = json!({"input": "ab", "dimensions": 2});
    let answer = server.json("/v1/embeddings", ask).await.with(200);
    assert_near(&values(&answer["data"][0]["embedding"]), &expected);
    let ask = json!({"inputs": "ab", "dimensions": 2});
    let answer = server.json("/embed", ask).await.with(200);
    assert_near(&values(&answer[0]), &expected);
}

#[tokio::test]
async fn tei_s_embed() {
    let server = Server::new();
    for path in ["/embed", "/"] {
        let ask = json!({"inputs": "ab", "normalize": false});
        let answer = server.json(path, ask).await.with(200);
        assert_eq!(values(&answer[0]), raw(&AB));
        // The tokeniser has neither `query` nor `:`, which makes two unknown tokens.
        let ask = json!({"inputs": "a", "prompt_name": "query"});
        let answer = server.json(path, ask).await.with(200);
        assert_near(&values(&answer[0]), &vector(&[2, 1, 1, 5, 3]));
    }
}

#[tokio::test]
async fn overlong_texts_are_cut_if_the_request_says_so() {
    let server = Server::new();
    let text = "a ".repeat(50);
    let cut = [&[2][..], &[5; 8], &[3]].concat();
    for direction in ["right", "Right"] {
        let ask = json!({"inputs": text, "truncate": true, "truncation_direction": direction});
        let answer = server.json("/embed", ask).await.with(200);
        assert_near(&values(&answer[0]), &vector(&cut));
    }
    // What need not be cut has no side.
    let ask = json!({"inputs": "a", "truncate": true, "truncation_direction": "left"});
    let answer = server.json("/embed", ask).await.with(200);
    assert_near(&values(&answer[0]), &vector(&A));
}

#[tokio::test]
async fn the_models_are_listed() {
    let server = Server::new();
    let list = server.get("/v1/models").await.with(200);
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "small");
    let one = server.get("/v1/models/small").await.with(200);
    assert_eq!(one, list["data"][0]);
    let answer = server.get("/v1/models/large").await.with(404);
    assert_eq!(answer["error"]["code"], "model_not_found");
}

#[tokio::test]
async fn a_model_without_a_name_answers_to_each() {
    let server = Server::of(None, small_limits(), 1000);
    let ask = json!({"input": "a", "model": "text-embedding-3-small"});
    let answer = server.json("/v1/embeddings", ask).await.with(200);
    // It says which one it is.
    assert!(answer["model"].as_str().unwrap().starts_with(".tmp"));
}

#[tokio::test]
async fn the_info_has_tei_s_fields() {
    let server = Server::new();
    let info = server.get("/info").await.with(200);
    for (field, expected) in [
        ("model_id", json!("small")),
        ("model_dtype", json!("float16")),
        ("model_type", json!({"embedding": {"pooling": "cls"}})),
        ("max_input_length", json!(10)),
        ("max_client_batch_size", json!(20)),
        ("auto_truncate", json!(false)),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(info[field], expected, "{field}");
    }
}

#[tokio::test]
async fn the_figures_are_those_of_tei_with_its_buckets() {
    let server = Server::new();
    server
        .json("/embed", json!({"inputs": "ab"}))
        .await
        .with(200);
    let answer = server.get("/metrics").await;
    assert_eq!(answer.status, 200);
    let kind = answer.headers[header::CONTENT_TYPE].to_str().unwrap();
    assert!(kind.starts_with("text/plain"), "{kind}");
    for line in [
        "# TYPE te_request_count counter",
        "# TYPE te_request_duration histogram",
        "te_request_duration_bucket{lane=\"interactive\",le=\"0.000015",
        "te_embed_duration_bucket{lane=\"interactive\",le=\"0.000015",
        "te_batch_next_size_bucket{lane=\"interactive\",le=\"4096\"}",
        "te_batch_next_tokens_bucket{lane=\"interactive\",le=\"1048576\"}",
        "te_request_input_length_bucket{lane=\"interactive\",le=\"512\"}",
        "te_queue_size{lane=\"interactive\"} 0",
        "cuda_green_embed_dead 0",
        "cuda_green_embed_single_context_mode 0",
    ] {
        assert!(answer.text.contains(line), "{line}:\n{}", answer.text);
    }
}
