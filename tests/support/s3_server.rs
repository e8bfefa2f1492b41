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

mod s3_objects;

use std::{
    io,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};

use s3_objects::{OtherRange, S3Objects};

const BUCKET: &str = "pond";
const ACCESS_KEY: &str = "AKIAMILLPONDTEST";
const SECRET_KEY: &str = "not-a-secret-at-all";

type ServerBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A running server with one empty bucket. Dropping it ends it and deletes everything.
pub(crate) struct S3Server {
    endpoint: String,
    directory: TempDir,
    state: Arc<State>,
    shows_uploads: Arc<AtomicBool>,
    _serving: JoinSet<()>,
}

struct State {
    service: S3Service,
    log: Mutex<Vec<Seen>>,
    injections: Mutex<Vec<Injection>>,
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
    /// Carried out, but the body of the answer breaks off after so many bytes.
    CutBody(u64),
    /// Carried out after this time.
    Delay(Duration),
    /// Carried out for these bytes, first and last, or for all of them, whatever was asked for.
    Range(Option<(u64, u64)>),
}

/// An [`Action`] for some of the requests to come.
#[derive(Clone, Debug)]
pub(crate) struct Injection {
    action: Action,
    on: String,
    skip: usize,
    times: usize,
}

impl Injection {
    /// For every request from now on.
    pub(crate) fn new(action: Action) -> Self {
        Self { action, on: String::new(), skip: 0, times: usize::MAX }
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
        let (log, injections) = Default::default();
        let state = Arc::new(State { service: builder.build(), log, injections });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("a bound port"));
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&state)));
        Self { endpoint, directory, state, shows_uploads, _serving: serving }
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

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _peer)) = listener.accept().await {
        let state = Arc::clone(&state);
        let service = hyper::service::service_fn(move |request| {
            let state = Arc::clone(&state);
            async move { state.answer(request).await }
        });
        connections.spawn(async move {
            let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A client that goes away is its own affair.
            let _gone = http.serve_connection(TokioIo::new(socket), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
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
            Some(Action::CutBody(bytes)) => Ok(cut(self.carry_out(request).await?, bytes)),
            Some(Action::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                self.carry_out(request).await
            }
            Some(Action::Range(range)) => {
                request.extensions_mut().insert(OtherRange(range));
                self.carry_out(request).await
            }
        }
    }

    fn action(&self, line: &str, operation: &str) -> Option<Action> {
        let mut injections = lock(&self.injections);
        for injection in injections.iter_mut() {
            if injection.times == 0 || !(line.contains(&injection.on) || operation == injection.on)
            {
                continue;
            }
            if injection.skip > 0 {
                injection.skip -= 1;
                continue;
            }
            injection.times -= 1;
            return Some(injection.action.clone());
        }
        None
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

fn cut(answer: Response<ServerBody>, left_bytes: u64) -> Response<ServerBody> {
    let size = answer.body().size_hint().exact();
    let mut answer = answer.map(|body| CutBody { body, left_bytes, flushed: false }.boxed_unsync());
    if let Some(size) = size {
        answer.headers_mut().entry(header::CONTENT_LENGTH).or_insert(size.into());
    }
    answer
}

struct CutBody {
    body: ServerBody,
    left_bytes: u64,
    /// Whether what came before the cut had a chance to be sent.
    flushed: bool,
}

impl Body for CutBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left_bytes == 0 && !self.flushed {
            self.flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.left_bytes == 0 {
            return Poll::Ready(Some(Err("the test cuts here".into())));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
        let Ok(mut bytes) = frame.into_data() else { return Poll::Ready(None) };
        bytes.truncate(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
        self.left_bytes -= bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
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
        Action::Delay(Duration::from_millis(1)),
        Action::Range(None),
    ];
    for action in actions {
        server.inject(Injection::new(action).on("GetObject").skip(0).times(1));
    }
    let get = || async {
        let mut socket =
            tokio::net::TcpStream::connect(&server.endpoint()["http://".len()..]).await?;
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
    let expected = ["503", "403", "500", "403", "403", "403"];
    for status in expected {
        let answer = get().await.unwrap();
        assert!(answer.contains(status), "{answer}");
    }
    assert_eq!(server.take_requests(), vec!["GET /pond/key?versionId"; expected.len()]);
    server.inject(Injection::new(Action::SlowDown));
    server.heal();
    server.show_uploads();
    assert!(get().await.unwrap().contains("403"));
    assert_eq!(server.take_operations(), ["GetObject"]);
}
