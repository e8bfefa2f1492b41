//! One HTTP/1.1 connection, and what is done with answers.

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::address::{Address, Connected};
use crate::content::{LayerBody, digest_name};

/// Answers that are kept (manifests, errors) are small; anything above this is a mistake.
const KEPT_BYTES: usize = 4 << 20;
/// How much of an error's body a message shows.
const SHOWN_BYTES: usize = 300;

pub(crate) type Payload = Either<Full<Bytes>, LayerBody>;

pub(crate) fn empty() -> Payload {
    Either::Left(Full::default())
}

/// Whether a connection serves more than one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reuse {
    KeepAlive,
    PerRequest,
}

/// One connection at a time to one server. An answer must be read to its end before the next
/// request.
pub(crate) struct Client {
    address: Address,
    reuse: Reuse,
    connection: Option<Connection>,
}

impl Client {
    /// Connects when there is something to send.
    pub(crate) fn new(address: &Address, reuse: Reuse) -> Self {
        Self { address: address.clone(), reuse, connection: None }
    }

    /// Sends a request for `path`, which begins with a slash, and waits for the answer's head.
    ///
    /// # Errors
    /// When the server cannot be reached or breaks the connection.
    pub(crate) async fn send(
        &mut self,
        request: http::request::Builder,
        payload: Payload,
    ) -> Result<Response<Incoming>> {
        let mut request = request.header(HOST, self.address.host()).body(payload)?;
        if self.reuse == Reuse::PerRequest {
            self.connection = None;
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let description = format!("{} {}", request.method(), request.uri());
        let connection = self.connection().await?;
        connection.sender.send_request(request).await.with_context(|| description)
    }

    async fn connection(&mut self) -> Result<&mut Connection> {
        let mut usable = self.connection.take();
        if let Some(connection) = &mut usable
            && connection.sender.ready().await.is_err()
        {
            usable = None;
        }
        let connection = match usable {
            Some(connection) => connection,
            None => Connection::open(&self.address).await?,
        };
        Ok(self.connection.insert(connection))
    }
}

struct Connection {
    sender: SendRequest<Payload>,
    driver: JoinHandle<()>,
}

impl Connection {
    async fn open(address: &Address) -> Result<Self> {
        match address.connect().await? {
            Connected::Plain(stream) => Self::over(stream).await,
            Connected::Tls(stream) => Self::over(stream).await,
        }
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // A broken connection fails the request that is on it, with the reason.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, driver })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A request for `path`, which begins with a slash.
pub(crate) fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path)
}

/// Passes answers of the wanted status.
///
/// # Errors
/// Otherwise, with the beginning of the body.
pub(crate) async fn expect(
    response: Response<Incoming>,
    wanted: StatusCode,
) -> Result<Response<Incoming>> {
    let status = response.status();
    if status == wanted {
        return Ok(response);
    }
    let body = keep(response.into_body()).await?;
    let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES)]).into_owned();
    bail!("{status} instead of {wanted}: {shown}")
}

/// Reads a small body whole.
///
/// # Errors
/// When it breaks off or is not small.
pub(crate) async fn keep(body: Incoming) -> Result<Bytes> {
    let whole =
        Limited::new(body, KEPT_BYTES).collect().await.map_err(anyhow::Error::from_boxed)?;
    Ok(whole.to_bytes())
}

/// What becomes of a body's bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sink {
    Count,
    Hash,
}

/// A body that was read to its end.
pub(crate) struct Drained {
    pub(crate) bytes: u64,
    pub(crate) first_byte: Instant,
    /// Known when it was hashed.
    pub(crate) digest: Option<String>,
}

/// Reads a body to its end.
///
/// # Errors
/// When it breaks off, or its length differs from the `Content-Length` that must announce it.
pub(crate) async fn drain(response: Response<Incoming>, sink: Sink) -> Result<Drained> {
    let announced = content_length(&response)?;
    let mut body = response.into_body();
    let mut hash = (sink == Sink::Hash).then(|| digest::Context::new(&digest::SHA256));
    let mut bytes = 0;
    let mut first_byte = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.with_context(|| format!("broken off after {bytes} bytes"))?;
        let Some(data) = frame.data_ref() else { continue };
        first_byte.get_or_insert_with(Instant::now);
        bytes += data.len() as u64;
        if let Some(hash) = &mut hash {
            hash.update(data);
        }
    }
    ensure!(bytes == announced, "{bytes} bytes after Content-Length: {announced}");
    Ok(Drained {
        bytes,
        first_byte: first_byte.unwrap_or_else(Instant::now),
        digest: hash.map(|hash| digest_name(&hash.finish())),
    })
}

/// # Errors
/// When the header is missing or no number.
pub(crate) fn content_length<B>(response: &Response<B>) -> Result<u64> {
    let value = response.headers().get(CONTENT_LENGTH).context("no Content-Length")?;
    value.to_str()?.parse().context("Content-Length is no number")
}
