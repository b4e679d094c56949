//! Random bodies: whatever comes, the answer is JSON with a status for the client's own fault, and the server goes on.

use proptest::prelude::*;

use super::*;

/// Returns JSON of any kind, in which the fields' own names are common.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..20u32).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[abc !]{0,30}".prop_map(Value::from),
        prop::sample::select(vec![
            "bulk",
            "interactive",
            "left",
            "right",
            "query",
            "base64"
        ])
        .prop_map(Value::from),
    ];
    let key = prop_oneof![
        prop::sample::select(vec![
            "input",
            "inputs",
            "model",
            "lane",
            "truncate",
            "truncation_direction",
            "normalize",
            "dimensions",
            "encoding_format",
            "prompt_name",
            "user",
        ])
        .prop_map(str::to_owned),
        ".{0,5}",
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..8)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let json = any_json().prop_map(|value| value.to_string().into_bytes());
    let request = any_json().prop_map(|value| {
        let text = json!({"input": value.clone(), "inputs": value});
        text.to_string().into_bytes()
    });
    // JSON with one byte changed, or its end missing.
    let spoiled =
        (any_json(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(value, index, byte)| {
            let mut bytes = json!({"inputs": value}).to_string().into_bytes();
            let index = index.index(bytes.len());
            match byte % 2 {
                0 => bytes.truncate(index),
                _ => bytes[index] = byte,
            }
            bytes
        });
    prop_oneof![json, request, spoiled, any::<Vec<u8>>()]
}

#[test]
fn any_body_is_answered_with_vectors_or_the_client_s_fault() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let server = Server::of(None, small_limits(), 1000);
    let paths = prop::sample::select(vec!["/v1/embeddings", "/embed", "/bulk/embed"]);
    let config = ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(body in body(), path in paths)| {
        let shown = String::from_utf8_lossy(&body).into_owned();
        let answer = runtime.block_on(server.post(path, body));
        let status = answer.status.as_u16();
        prop_assert!(status == 200 || (400..500).contains(&status), "{} {}", status, shown);
        let text = serde_json::from_str::<Value>(&answer.text);
        prop_assert!(text.is_ok(), "{}", answer.text);
    });
    let ask = json!({"inputs": "a"});
    runtime.block_on(server.json("/embed", ask)).with(200);
}
