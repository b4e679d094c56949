//! Connections: how many there may be, which of them are closed, and how they end.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use super::*;
use crate::serve::connections;

/// A server that listens on a free port.
struct Listening {
    server: Server,
    address: SocketAddr,
    end: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Listening {
    async fn new(limits: Limits) -> Self {
        let server = Server::of(None, limits.clone(), 1000);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = server.router.clone();
        let (end, ended) = oneshot::channel();
        let served = tokio::spawn(async move {
            let end = async { drop(ended.await) };
            connections::serve(listener, router, &limits, end, Duration::from_secs(60)).await;
        });
        Self {
            server,
            address,
            end,
            served,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

fn request(body: &str) -> String {
    format!(
        "POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads until something is found.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let read = stream.read(&mut bytes).await.unwrap();
        assert!(read > 0, "closed after {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&bytes[..read]);
        let whole = String::from_utf8_lossy(&text);
        if whole.contains(end) {
            return whole.into_owned();
        }
    }
}

/// Reads until the server closes the connection.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A connection that is reset has ended, too.
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8(text).unwrap()
}

/// A client that asks and never reads is closed, and leaves its place to others.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_closed() {
    let limits = Limits {
        connections: 1,
        write_time: Duration::from_millis(50),
        ..small_limits()
    };
    let listening = Listening::new(limits).await;
    let mut greedy = listening.connect().await;
    let asks = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    // Until its own writes fail: neither the server's buffers nor the system's are endless.
    while greedy.write_all(asks.as_bytes()).await.is_ok() {}
    loop {
        let mut other = listening.connect().await;
        let _ = other
            .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await;
        // The place is free a moment after the connection ended.
        if read_to_end(&mut other).await.starts_with("HTTP/1.1 200") {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_503_and_the_others_do_not_notice() {
    let limits = Limits {
        connections: 2,
        ..small_limits()
    };
    let listening = Listening::new(limits).await;
    let mut first = listening.connect().await;
    let mut second = listening.connect().await;
    for stream in [&mut first, &mut second] {
        stream
            .write_all(request(r#"{"inputs":"a"}"#).as_bytes())
            .await
            .unwrap();
        let answer = read_until(stream, "]]").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let mut third = listening.connect().await;
    third
        .write_all(request(r#"{"inputs":"a"}"#).as_bytes())
        .await
        .unwrap();
    let answer = read_to_end(&mut third).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())));
    // One that ends makes room.
    drop(first);
    loop {
        let mut stream = listening.connect().await;
        stream
            .write_all(request(r#"{"inputs":"a"}"#).as_bytes())
            .await
            .unwrap();
        let mut bytes = [0; 12];
        stream.read_exact(&mut bytes).await.unwrap();
        match &bytes {
            b"HTTP/1.1 200" => break,
            b"HTTP/1.1 503" => {}
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
    second
        .write_all(request(r#"{"inputs":"a"}"#).as_bytes())
        .await
        .unwrap();
    read_until(&mut second, "]]").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_come_closes_the_connection() {
    let limits = Limits {
        head_time: Duration::from_millis(50),
        ..small_limits()
    };
    let listening = Listening::new(limits).await;
    let mut silent = listening.connect().await;
    let mut half = listening.connect().await;
    half.write_all(b"POST /embed HTTP/1.1\r\nhost:")
        .await
        .unwrap();
    read_to_end(&mut silent).await;
    read_to_end(&mut half).await;
    let mut garbage = listening.connect().await;
    garbage.write_all(b"\0\xff garbage\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut garbage).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let mut good = listening.connect().await;
    good.write_all(request(r#"{"inputs":"a"}"#).as_bytes())
        .await
        .unwrap();
    read_until(&mut good, "]]").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_is_408_and_then_closed() {
    let limits = Limits {
        body_time: Duration::from_millis(50),
        ..small_limits()
    };
    let listening = Listening::new(limits).await;
    let mut slow = listening.connect().await;
    let text = request(r#"{"inputs":"a"}"#);
    slow.write_all(&text.as_bytes()[..text.len() - 3])
        .await
        .unwrap();
    let answer = read_to_end(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

/// A body that is far too large is read to its end and thrown away, so that its sender hears why.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_100_mib_is_413() {
    let listening = Listening::new(small_limits()).await;
    let mut stream = listening.connect().await;
    let head = "POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 104857600\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = vec![b' '; 1 << 20];
    for _ in 0..100 {
        stream.write_all(&chunk).await.unwrap();
    }
    let answer = read_until(&mut stream, "error_type").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    // The same connection goes on.
    stream
        .write_all(request(r#"{"inputs":"a"}"#).as_bytes())
        .await
        .unwrap();
    read_until(&mut stream, "]]").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_gives_its_texts_up() {
    let listening = Listening::new(small_limits()).await;
    let server = &listening.server;
    server.interactive.hold();
    let mut first = listening.connect().await;
    first
        .write_all(request(r#"{"inputs":"a"}"#).as_bytes())
        .await
        .unwrap();
    until("the first is on the way", || {
        server.interactive.submitted().len() == 1
    })
    .await;
    let mut second = listening.connect().await;
    second
        .write_all(request(r#"{"inputs":"b"}"#).as_bytes())
        .await
        .unwrap();
    let queued = || {
        let info = server.app.info().unwrap();
        info["interactive"]["queued"].as_u64().unwrap()
    };
    until("the second waits", || queued() == 1).await;
    drop(second);
    until("it is given up", || queued() == 0).await;
    server.interactive.open();
    read_until(&mut first, "]]").await;
    assert_eq!(server.interactive.submitted().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_waits_for_what_was_asked_and_no_longer() {
    let listening = Listening::new(small_limits()).await;
    let server = &listening.server;
    server.interactive.hold();
    let mut idle = listening.connect().await;
    let mut busy = listening.connect().await;
    busy.write_all(request(r#"{"inputs":"a"}"#).as_bytes())
        .await
        .unwrap();
    until("it is on the way", || {
        server.interactive.submitted().len() == 1
    })
    .await;
    listening.end.send(()).unwrap();
    assert_eq!(read_to_end(&mut idle).await, "");
    assert!(!listening.served.is_finished());
    server.interactive.open();
    let answer = read_to_end(&mut busy).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    listening.served.await.unwrap();
    TcpStream::connect(listening.address).await.unwrap_err();
}
