//! Answers byte by byte, for what no HTTP server would send.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// A server that answers each connection's first request with the same bytes, and closes it.
#[derive(Debug)]
pub(crate) struct RawUpstream {
    url: String,
    requests: Arc<watch::Sender<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl RawUpstream {
    /// Starts a server that answers so.
    pub(crate) async fn start(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound port"));
        let requests = Arc::new(watch::Sender::new(Vec::new()));
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, answer.into(), Arc::clone(&requests)));
        Self { url, requests, _serving: serving }
    }

    /// Its address: `http://127.0.0.1:<port>`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The heads of all requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.borrow().clone()
    }
}

async fn serve(listener: TcpListener, answer: Vec<u8>, requests: Arc<watch::Sender<Vec<String>>>) {
    let mut connections = JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await.expect("connections are accepted");
        let (answer, requests) = (answer.clone(), Arc::clone(&requests));
        connections.spawn(async move {
            let head = read_head(&mut stream).await;
            requests.send_modify(|all| all.push(head));
            // The client may leave before it has read everything.
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        });
    }
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}
