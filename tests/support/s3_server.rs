//! An S3 server within the test: real HTTP on a loopback port, real signature checks, objects as files
//! in a temporary directory. It writes down every request, and fails those it is told to fail.
//!
//! Any test target can have it: `#[path = "../support/s3_server.rs"] mod s3_server;`.
//!
//! ```ignore
//! let server = S3Server::start().await;
//! server.inject(Injection::new(Action::SlowDown).on("GET /pond/a/b").times(2));
//! // … point the driver at server.endpoint(), then:
//! assert_eq!(server.take_requests(), ["GET /pond/a/b", "GET /pond/a/b", "GET /pond/a/b"]);
//! ```

mod s3_bodies;
mod s3_objects;

use std::{
    error::Error as _,
    future::poll_fn,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::TokioIo;
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};

use s3_bodies::{Gate, ServerBody, cut, flipped, shortened};
use s3_objects::{OtherRange, S3Objects};

const BUCKET: &str = "pond";
const ACCESS_KEY: &str = "AKIAMILLPONDTEST";
const SECRET_KEY: &str = "not-a-secret-at-all";

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A running server with one empty bucket. Dropping it ends it and deletes everything.
pub(crate) struct S3Server {
    address: SocketAddr,
    endpoint: String,
    directory: TempDir,
    state: Arc<State>,
    shows_uploads: Arc<AtomicBool>,
    presence: Mutex<Presence>,
}

/// Whether the server can be reached.
enum Presence {
    Serving(JoinSet<()>),
    /// Its address is kept, by a socket that does not listen.
    Away(TcpSocket),
    Moving,
}

struct State {
    service: S3Service,
    log: Mutex<Vec<Seen>>,
    injections: Mutex<Vec<Injection>>,
    gate: Arc<Gate>,
}

struct Seen {
    line: String,
    operation: &'static str,
}

/// What happens to a request instead of, or besides, being carried out.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Not carried out; answered 503 `SlowDown`.
    SlowDown,
    /// Not carried out; answered with this status and code.
    Refuse(u16, &'static str),
    /// Carried out, but answered 500 `InternalError`: as if the answer was lost.
    LoseAnswer,
    /// Not carried out; the connection is reset.
    Reset,
    /// Carried out, but the body of the answer breaks off after so many bytes.
    CutBody(u64),
    /// Carried out, but of the body no more than so many bytes come until [`S3Server::release`].
    HoldBody(u64),
    /// Carried out, but the answer has no more than so many bytes, and says so in its `Content-Length` alone.
    ShortBody(u64),
    /// Carried out, but a bit of this byte of the body is another, or of the last one.
    FlipBit(u64),
    /// Carried out after this time.
    Delay(Duration),
    /// Carried out at once, but answered after this time.
    DelayAnswer(Duration),
    /// Carried out for these bytes, first and last, or for all of them, whatever was asked for.
    Range(Option<(u64, u64)>),
    /// Carried out for no more than the first so many bytes of the range that was asked for, as all of the answer
    /// says.
    ShortRange(u64),
}

/// An [`Action`] for some of the requests to come.
#[derive(Clone, Debug)]
pub(crate) struct Injection {
    action: Action,
    on: String,
    skip: usize,
    times: usize,
    chance: Option<Chance>,
}

/// One in so many, as the same seed always has it.
#[derive(Clone, Debug)]
struct Chance {
    one_in: usize,
    random: fastrand::Rng,
}

impl Injection {
    /// For every request from now on.
    pub(crate) fn new(action: Action) -> Self {
        Self { action, on: String::new(), skip: 0, times: usize::MAX, chance: None }
    }

    /// Only for requests whose line, as in [`S3Server::take_requests`], has this text in it, or whose
    /// S3 operation has this name.
    pub(crate) fn on(self, text: impl Into<String>) -> Self {
        Self { on: text.into(), ..self }
    }

    /// Not for the first `requests` of those.
    pub(crate) fn skip(self, requests: usize) -> Self {
        Self { skip: requests, ..self }
    }

    /// Only so many times.
    pub(crate) fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// Only for one in so many of those, by a chance that is the same for the same `seed`.
    pub(crate) fn one_in(self, one_in: usize, seed: u64) -> Self {
        Self { chance: Some(Chance { one_in, random: fastrand::Rng::with_seed(seed) }), ..self }
    }

    /// Whether it is for this request, which has the text of `on`.
    fn takes(&mut self) -> bool {
        if self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let mut chance = self.chance.as_mut();
        let takes = chance.as_mut().is_none_or(|chance| chance.random.usize(..chance.one_in) == 0);
        self.times -= usize::from(takes);
        takes
    }
}

impl S3Server {
    /// Starts a server on a free port.
    pub(crate) async fn start() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        std::fs::create_dir(directory.path().join(BUCKET)).expect("a folder for the bucket");
        let shows_uploads = Arc::<AtomicBool>::default();
        let objects = S3Objects::new(directory.path(), Arc::clone(&shows_uploads));
        let mut builder = S3ServiceBuilder::new(objects);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let (log, injections, gate) = Default::default();
        let state = Arc::new(State { service: builder.build(), log, injections, gate });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        let endpoint = format!("http://{address}");
        let presence = Mutex::new(Presence::serving(listener, &state));
        Self { address, endpoint, directory, state, shows_uploads, presence }
    }

    /// Ends every connection, and refuses all others until [`S3Server::come_back`].
    pub(crate) async fn go_away(&self) {
        let before = std::mem::replace(&mut *lock(&self.presence), Presence::Moving);
        if let Presence::Serving(mut serving) = before {
            serving.shutdown().await;
        }
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("its address may have been in use");
        socket.bind(self.address).expect("the address is not taken by others");
        *lock(&self.presence) = Presence::Away(socket);
    }

    /// Can be reached again, where it was.
    pub(crate) fn come_back(&self) {
        let mut presence = lock(&self.presence);
        match std::mem::replace(&mut *presence, Presence::Moving) {
            Presence::Away(socket) => {
                let listener = socket.listen(BACKLOG).expect("the address is its own");
                *presence = Presence::serving(listener, &self.state);
            }
            Presence::Serving(_) | Presence::Moving => panic!("who comes back has gone away"),
        }
    }

    /// Its address: `http://127.0.0.1:<port>`.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A folder for spools that goes away with the server.
    pub(crate) fn spool(&self) -> PathBuf {
        self.directory.path().join("spool")
    }

    /// The name of its bucket.
    pub(crate) fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// The id of the only access key it knows.
    pub(crate) fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    /// The secret of that access key.
    pub(crate) fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    /// The folder in which an object is the file of its key.
    pub(crate) fn files(&self) -> PathBuf {
        self.directory.path().join(BUCKET)
    }

    /// The requests since the last call, in order of arrival: method, path and query, without what the
    /// SDK adds for itself, and with `*` for upload ids.
    pub(crate) fn take_requests(&self) -> Vec<String> {
        lock(&self.state.log).drain(..).map(|seen| seen.line).collect()
    }

    /// The same as names of S3 operations, sorted: `GetObject`, `UploadPart`, …
    pub(crate) fn take_operations(&self) -> Vec<&'static str> {
        let mut operations: Vec<_> =
            lock(&self.state.log).drain(..).map(|seen| seen.operation).collect();
        operations.sort_unstable();
        operations
    }

    /// From now on does this as well. The first injection that fits a request is the one that counts.
    pub(crate) fn inject(&self, injection: Injection) {
        lock(&self.state.injections).push(injection);
    }

    /// Waits until it holds so many bodies back, as [`Action::HoldBody`] says.
    pub(crate) async fn until_held(&self, bodies: usize) {
        self.state.gate.until_held(bodies).await;
    }

    /// Holds nothing back any more.
    pub(crate) fn release(&self) {
        self.state.gate.open();
    }

    /// From now on lists the multipart uploads under way. Until then it does not know that request, as
    /// many servers do not.
    pub(crate) fn show_uploads(&self) {
        self.shows_uploads.store(true, Ordering::Relaxed);
    }

    /// From now on serves every request again.
    pub(crate) fn heal(&self) {
        lock(&self.state.injections).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics while it holds this")
}

impl Presence {
    fn serving(listener: TcpListener, state: &Arc<State>) -> Self {
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(state)));
        Self::Serving(serving)
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _peer)) = listener.accept().await {
        let state = Arc::clone(&state);
        let service = hyper::service::service_fn(move |request| {
            let state = Arc::clone(&state);
            Box::pin(async move { state.answer(request).await })
        });
        // A client that goes away is its own affair.
        connections.spawn(async move {
            let mut http = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
            let ended = poll_fn(|context| http.poll_without_shutdown(context)).await;
            if ended.is_err_and(|error| is_reset(&error)) {
                let _gone = http.into_parts().io.into_inner().set_zero_linger();
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Whether a connection ends because the test wants it to be reset.
fn is_reset(error: &hyper::Error) -> bool {
    let reason = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    reason.is_some_and(|reason| reason.kind() == io::ErrorKind::ConnectionReset)
}

impl State {
    async fn answer(&self, mut request: Request<Incoming>) -> io::Result<Response<ServerBody>> {
        let (line, operation) = (line(&request), operation(&request));
        let action = self.action(&line, operation);
        lock(&self.log).push(Seen { line, operation });
        match action {
            None => self.carry_out(request).await,
            Some(Action::SlowDown) => refuse(request, 503, "SlowDown").await,
            Some(Action::Refuse(status, code)) => refuse(request, status, code).await,
            Some(Action::LoseAnswer) => {
                let answer = self.carry_out(request).await?;
                // Some answers are made while they are read.
                let _answer = answer.into_body().collect().await.map_err(io::Error::other)?;
                Ok(refusal(500, "InternalError"))
            }
            Some(Action::Reset) => Err(io::ErrorKind::ConnectionReset.into()),
            Some(Action::CutBody(bytes)) => Ok(cut(self.carry_out(request).await?, bytes)),
            Some(Action::HoldBody(bytes)) => {
                self.gate.hold(self.carry_out(request).await?, bytes).await
            }
            Some(Action::ShortBody(bytes)) => {
                shortened(self.carry_out(request).await?, bytes).await
            }
            Some(Action::FlipBit(at)) => flipped(self.carry_out(request).await?, at).await,
            Some(Action::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                self.carry_out(request).await
            }
            Some(Action::DelayAnswer(delay)) => {
                let answer = self.carry_out(request).await?;
                // Some answers are made while they are read.
                let (head, body) = answer.into_parts();
                let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
                tokio::time::sleep(delay).await;
                let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
                Ok(Response::from_parts(head, body))
            }
            Some(Action::Range(range)) => {
                request.extensions_mut().insert(OtherRange::This(range));
                self.carry_out(request).await
            }
            Some(Action::ShortRange(bytes)) => {
                request.extensions_mut().insert(OtherRange::First(bytes));
                self.carry_out(request).await
            }
        }
    }

    fn action(&self, line: &str, operation: &str) -> Option<Action> {
        let mut injections = lock(&self.injections);
        let mut fitting = injections
            .iter_mut()
            .filter(|injection| line.contains(&injection.on) || operation == injection.on);
        fitting.find_map(|injection| injection.takes().then(|| injection.action.clone()))
    }

    async fn carry_out(&self, request: Request<Incoming>) -> io::Result<Response<ServerBody>> {
        let answer = self.service.call(request.map(s3s::Body::from)).await;
        let answer = answer.map_err(|error| io::Error::other(format!("{error:?}")))?;
        Ok(answer.map(BodyExt::boxed_unsync))
    }
}

/// Takes in the whole request, as a server does that wants to keep its connection.
async fn refuse(
    request: Request<Incoming>,
    status: u16,
    code: &str,
) -> io::Result<Response<ServerBody>> {
    let _body = request.into_body().collect().await.map_err(io::Error::other)?;
    Ok(refusal(status, code))
}

fn refusal(status: u16, code: &str) -> Response<ServerBody> {
    let text = format!("<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>");
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(status).expect("a status that HTTP has");
    answer
}

fn line(request: &Request<Incoming>) -> String {
    let query = query(request).filter_map(|pair| match pair.split_once('=') {
        Some(("x-id", _)) => None,
        Some(("uploadId", _)) => Some("uploadId=*"),
        Some((name, "")) => Some(name),
        _ => Some(pair),
    });
    let query = query.collect::<Vec<_>>().join("&");
    let separator = if query.is_empty() { "" } else { "?" };
    format!("{} {}{separator}{query}", request.method(), request.uri().path())
}

fn query(request: &Request<Incoming>) -> impl Iterator<Item = &str> {
    request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty())
}

fn operation(request: &Request<Incoming>) -> &'static str {
    let has = |name: &str| query(request).any(|pair| pair.split('=').next() == Some(name));
    let copies = request.headers().contains_key("x-amz-copy-source");
    match request.method().as_str() {
        "GET" if has("list-type") => "ListObjectsV2",
        "GET" if has("uploads") => "ListMultipartUploads",
        "GET" => "GetObject",
        "HEAD" => "HeadObject",
        "PUT" if has("partNumber") && copies => "UploadPartCopy",
        "PUT" if has("partNumber") => "UploadPart",
        "PUT" if copies => "CopyObject",
        "PUT" => "PutObject",
        "POST" if has("uploads") => "CreateMultipartUpload",
        "POST" if has("uploadId") => "CompleteMultipartUpload",
        "POST" if has("delete") => "DeleteObjects",
        "DELETE" if has("uploadId") => "AbortMultipartUpload",
        "DELETE" => "DeleteObject",
        _ => "Other",
    }
}

/// The server's own test, which every target that has the server runs, and which uses all of it.
#[tokio::test]
async fn the_s3_server_counts_and_fails_as_told() {
    let server = S3Server::start().await;
    assert!(server.endpoint().starts_with("http://127.0.0.1:"));
    assert!(server.files().ends_with(server.bucket()));
    assert_ne!(server.access_key(), server.secret_key());
    let actions = [
        Action::SlowDown,
        Action::Refuse(403, "AccessDenied"),
        Action::LoseAnswer,
        Action::CutBody(1),
        Action::ShortBody(1),
        Action::FlipBit(u64::MAX),
        Action::Delay(Duration::from_millis(1)),
        Action::DelayAnswer(Duration::from_millis(1)),
        Action::Range(None),
        Action::ShortRange(1),
        Action::Reset,
    ];
    for action in actions {
        server.inject(Injection::new(action).on("GetObject").skip(0).one_in(1, 7).times(1));
    }
    let get = || async {
        let mut socket = TcpStream::connect(&server.endpoint()["http://".len()..]).await?;
        tokio::io::AsyncWriteExt::write_all(
            &mut socket,
            b"GET /pond/key?x-id=GetObject&versionId= HTTP/1.1\r\nhost: s3\r\nconnection: close\r\n\r\n",
        )
        .await?;
        let mut answer = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut answer).await?;
        io::Result::Ok(
            String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned(),
        )
    };
    let expected = ["503", "403", "500", "403", "403", "403", "403", "403", "403", "403"];
    for status in expected {
        let answer = get().await.unwrap();
        assert!(answer.contains(status), "{answer}");
    }
    assert_eq!(get().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(server.take_requests(), vec!["GET /pond/key?versionId"; expected.len() + 1]);
    server.inject(Injection::new(Action::HoldBody(1)).times(1));
    let release = server.until_held(1).map(|()| server.release());
    assert!(tokio::join!(get(), release).0.unwrap().contains("403"));
    server.take_requests();
    server.go_away().await;
    assert_eq!(get().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    server.come_back();
    server.inject(Injection::new(Action::SlowDown));
    server.heal();
    server.show_uploads();
    assert!(get().await.unwrap().contains("403"));
    assert_eq!(server.take_operations(), ["GetObject"]);
}
