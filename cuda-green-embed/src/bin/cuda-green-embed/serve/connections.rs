//! Connections: their number, the time that each may take to say what it wants, and their end.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;

use super::limits::Limits;

/// Connections that hear this answer at a time; further ones are closed without a word.
const REFUSED: usize = 64;

/// The time that each of them has to hear it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The time after a failure to accept: most often all file descriptors are in use.
const RECOVERY: Duration = Duration::from_millis(50);

/// Serves connections until `end`, and then those that have a request until that is answered, for so long at most.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    end: impl Future<Output = ()>,
    drain: Duration,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let refused = Arc::new(Semaphore::new(REFUSED));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_time);
    let mut end = std::pin::pin!(end);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("a connection was not accepted: {error}");
                sleep(RECOVERY).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            if let Ok(place) = Arc::clone(&refused).try_acquire_owned() {
                tokio::spawn(async move {
                    refuse(stream).await;
                    drop(place);
                });
            }
            continue;
        };
        // Answers are small, and whole when they are written.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        // A client that reads nothing holds its place for so long.
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(limits.write_time));
        let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                log::debug!("a connection ended: {error}");
            }
            drop(place);
        });
    }
    drop(listener);
    if timeout(drain, graceful.shutdown()).await.is_err() {
        log::warn!("requests were left unanswered after {} s", drain.as_secs());
    }
}

/// Answers a connection that is one too many, and reads what it sends meanwhile: else closing it would take the answer
/// back.
async fn refuse(mut stream: TcpStream) {
    let body = r#"{"error":"too many connections","error_type":"Overloaded"}"#;
    let head = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
        content-type: application/json\r\n";
    let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let all = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut read = [0; 4096];
        while stream.read(&mut read).await? > 0 {}
        std::io::Result::Ok(())
    };
    // Whatever happens, it is closed.
    let _ = timeout(PATIENCE, all).await;
}
