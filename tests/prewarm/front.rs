//! What stands before a node: a server that records each request, passes it on, and spoils the answers that a
//! test wants spoilt.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::{certificates::acceptor, node::TestNode};

/// How an answer is spoilt.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The connection ends after so many bytes of the body.
    CutAfter(usize),
    /// The first byte of the body is another.
    Corrupt,
    /// The body has only so many bytes, and says so.
    Short(usize),
    /// The body goes on for one byte more, and says so.
    Long,
    /// The whole content comes, whatever part was asked for.
    Whole,
    /// There is a status and nothing else.
    Status(u16),
    /// Nothing comes at all.
    Hang,
}

/// A server before a node. It ends with the test.
pub(crate) struct Front {
    url: String,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    node_url: String,
    http: reqwest::Client,
    requests: watch::Sender<Vec<Request>>,
    /// For each path, what happens to the next requests for it.
    faults: Mutex<HashMap<String, VecDeque<Fault>>>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: String,
    path: String,
    headers: HeaderMap,
}

impl Front {
    pub(crate) async fn before(node: &TestNode) -> Self {
        Self::start(node, None).await
    }

    /// The same with TLS, as a proxy in front of a daemon ends it.
    pub(crate) async fn with_tls(node: &TestNode) -> Self {
        Self::start(node, Some(acceptor())).await
    }

    async fn start(node: &TestNode, acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().expect("it is bound"));
        let state = Arc::new(State {
            node_url: node.url().to_owned(),
            http: node.http().clone(),
            requests: watch::Sender::new(Vec::new()),
            faults: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, acceptor, Arc::clone(&state)));
        Self { url, state, accepting }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The next requests for `path` meet these faults, one each; those after them are answered well.
    pub(crate) fn spoil(&self, path: &str, faults: &[Fault]) {
        let mut all = self.state.faults.lock().expect("nobody panicked");
        all.entry(path.to_owned()).or_default().extend(faults);
    }

    /// Each request so far as method and path, sorted.
    pub(crate) fn requests(&self) -> Vec<String> {
        let requests = self.state.requests.borrow();
        let mut lines: Vec<String> = requests
            .iter()
            .map(|Request { method, path, .. }| format!("{method} {path}"))
            .collect();
        lines.sort_unstable();
        lines
    }

    /// A header of each request for `path`, in the order in which they came; empty where it is missing.
    pub(crate) fn headers_of(&self, path: &str, header: &str) -> Vec<String> {
        let requests = self.state.requests.borrow();
        let of_path = requests.iter().filter(|request| request.path == path);
        let value = |request: &Request| {
            let value = request.headers.get(header).map(|value| value.to_str().expect("ASCII"));
            value.unwrap_or_default().to_owned()
        };
        of_path.map(value).collect()
    }

    /// Waits until `path` is asked for.
    pub(crate) async fn asked_for(&self, path: &str) {
        let mut requests = self.state.requests.subscribe();
        let asked = requests.wait_for(|all| all.iter().any(|request| request.path == path)).await;
        asked.expect("the front is there");
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("connections are accepted");
        let (state, acceptor) = (Arc::clone(&state), acceptor.clone());
        // A client that ends early is none of our business, nor is one that trusts nobody.
        connections.spawn(async move {
            match acceptor {
                None => answer(stream, &state).await.ok(),
                Some(acceptor) => answer(acceptor.accept(stream).await.ok()?, &state).await.ok(),
            }
        });
    }
}

/// Answers one request; the connection ends with it.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, state: &State) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    let request = read_request(&mut stream).await?;
    state.requests.send_modify(|all| all.push(request.clone()));
    let fault = {
        let mut faults = state.faults.lock().expect("nobody panicked");
        faults.get_mut(&request.path).and_then(VecDeque::pop_front)
    };
    let mut forwarded = request.headers.clone();
    forwarded.remove("host");
    if matches!(fault, Some(Fault::Whole)) {
        forwarded.remove("range");
    }
    let url = format!("{}{}", state.node_url, request.path);
    let method = request.method.parse()?;
    let response = state.http.request(method, url).headers(forwarded).send().await?;
    let (mut status, headers) = (response.status(), response.headers().clone());
    let mut body: Bytes = response.bytes().await?;
    let mut sent_bytes = usize::MAX;
    match fault {
        None | Some(Fault::Whole) => {}
        Some(Fault::CutAfter(bytes)) => sent_bytes = bytes,
        Some(Fault::Corrupt) => body = [&[body[0] ^ 1], &body[1..]].concat().into(),
        Some(Fault::Short(bytes)) => body.truncate(bytes),
        Some(Fault::Long) => body = [&body[..], b"x"].concat().into(),
        Some(Fault::Status(code)) => {
            (status, body) = (StatusCode::from_u16(code)?, Bytes::new());
        }
        Some(Fault::Hang) => return std::future::pending().await,
    }
    let mut head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
    for (name, value) in &headers {
        if !matches!(name.as_str(), "content-length" | "connection" | "transfer-encoding") {
            head.push_str(&format!("{name}: {}\r\n", value.to_str()?));
        }
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body[..body.len().min(sent_bytes)]).await?;
    stream.shutdown().await?;
    Ok(())
}

/// Reads the head of a request; none here has a body.
async fn read_request(stream: &mut (impl AsyncBufRead + Unpin)) -> anyhow::Result<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut words = line.split(' ').map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        anyhow::bail!("no request line: {line:?}");
    };
    let mut headers = HeaderMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.append(http::HeaderName::try_from(name)?, value.parse()?);
    }
    Ok(Request { method, path, headers })
}
