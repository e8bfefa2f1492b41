//! The registry that is mirrored: it serves one image, under any name, at the speed of a line,
//! and counts.
//!
//! `GET /_count` gives the counts, `DELETE /_count` sets them to zero.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, RANGE,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::arguments::Upstream as Arguments;
use crate::content::Layer;
use crate::count::Count;
use crate::line::{Line, LineBody};
use crate::manifest::MANIFEST_TYPE;
use crate::original::{Original, TAG};

const COUNT_PATH: &str = "/_count";
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// What hyper gathers before it writes. Small, so that what is counted has nearly left.
const BUFFER_BYTES: usize = 64 << 10;

type Body = Either<Full<Bytes>, LineBody>;

/// Serves until the process is ended.
///
/// # Errors
/// When the address cannot be had.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let upstream = Arc::new(Upstream {
        original: Original::new(&arguments.original)?,
        line: Arc::new(Line::new(arguments.rate.map(|rate| rate.0))),
        count: Arc::default(),
    });
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        stream.set_nodelay(true)?;
        // Ends with its connection or with the process: there is nothing to wait for.
        tokio::spawn(Arc::clone(&upstream).serve(stream));
    }
}

struct Upstream {
    original: Original,
    line: Arc<Line>,
    count: Arc<Count>,
}

impl Upstream {
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(move |request| {
            let answer = self.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let mut http = http1::Builder::new();
        http.max_buf_size(BUFFER_BYTES);
        // Mirrors hang up when they are stopped, in the middle of whatever.
        drop(http.serve_connection(TokioIo::new(stream), service).await);
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if path == COUNT_PATH {
            return self.counted(request.method());
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return status(StatusCode::METHOD_NOT_ALLOWED);
        }
        if path == "/v2/" {
            return status(StatusCode::OK);
        }
        if let Some((_, reference)) = path.rsplit_once("/manifests/") {
            return self.manifest(request.method(), reference);
        }
        let digest = path.rsplit_once("/blobs/").map(|(_, digest)| digest);
        match digest.and_then(|digest| self.original.blob(digest)) {
            Some(blob) => self.blob(request, blob),
            None => status(StatusCode::NOT_FOUND),
        }
    }

    fn counted(&self, method: &Method) -> Response<Body> {
        if *method == Method::DELETE {
            self.count.reset();
            return status(StatusCode::NO_CONTENT);
        }
        match serde_json::to_vec(&self.count.figures()) {
            Ok(json) => Response::new(Either::Left(Full::from(json))),
            Err(_) => status(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    fn manifest(&self, method: &Method, reference: &str) -> Response<Body> {
        let is_head = *method == Method::HEAD;
        self.count.add(|figures| {
            *(if is_head { &mut figures.manifest_heads } else { &mut figures.manifest_gets }) += 1;
        });
        let Original { manifest, manifest_digest, .. } = &self.original;
        if reference != TAG && reference != manifest_digest {
            return status(StatusCode::NOT_FOUND);
        }
        let body = if is_head { Bytes::new() } else { manifest.clone() };
        let mut response = Response::new(Either::Left(Full::new(body)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MANIFEST_TYPE));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(manifest.len()));
        insert_digest(&mut response, manifest_digest);
        response
    }

    fn blob(&self, request: &Request<Incoming>, blob: &Layer) -> Response<Body> {
        let is_head = *request.method() == Method::HEAD;
        self.count.add(|figures| {
            *(if is_head { &mut figures.blob_heads } else { &mut figures.blob_gets }) += 1;
        });
        let whole = 0..blob.size_bytes;
        let asked = request.headers().get(RANGE).filter(|_| !is_head);
        let (range, code) = match asked.map(|value| part_of(value, blob.size_bytes)) {
            None => (whole, StatusCode::OK),
            Some(Some(range)) => (range, StatusCode::PARTIAL_CONTENT),
            Some(None) => return status(StatusCode::RANGE_NOT_SATISFIABLE),
        };
        let length = range.end - range.start;
        let body = if is_head {
            Either::Left(Full::default())
        } else {
            Either::Right(LineBody::new(blob.clone(), range.clone(), &self.line, &self.count))
        };
        let mut response = Response::new(body);
        *response.status_mut() = code;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if code == StatusCode::PARTIAL_CONTENT {
            let content = format!("bytes {}-{}/{}", range.start, range.end - 1, blob.size_bytes);
            headers.extend(HeaderValue::from_str(&content).map(|value| (CONTENT_RANGE, value)));
        }
        insert_digest(&mut response, &blob.digest);
        response
    }
}

fn insert_digest(response: &mut Response<Body>, digest: &str) {
    response.headers_mut().extend(HeaderValue::from_str(digest).map(|value| (DIGEST, value)));
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = code;
    response
}

/// The bytes that a `Range` header with one range asks for; `None` where there are none.
fn part_of(header: &HeaderValue, size_bytes: u64) -> Option<Range<u64>> {
    let (first, last) = header.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let range = if first.is_empty() {
        size_bytes.saturating_sub(last.parse().ok()?)..size_bytes
    } else {
        let end = if last.is_empty() { size_bytes } else { last.parse::<u64>().ok()? + 1 };
        first.parse().ok()?..end.min(size_bytes)
    };
    (range.start < range.end).then_some(range)
}
