//! One HTTP request to a registry, with its redirections.

use std::{
    error::Error as StdError,
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Response, Url, redirect};
use tokio::time::timeout;

use super::{
    Error, SetupError,
    config::{PlainHttp, TlsConfig, UpstreamConfig},
    pause::retry_after,
};

/// Most redirections of one request.
const REDIRECTIONS_MOST: usize = 5;

/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(60);

/// How often the other side of a quiet connection is asked whether it is there. Otherwise, requests would go
/// on over a connection that somebody between has forgotten.
const PROBE: Duration = Duration::from_secs(10);

/// The connections to an upstream.
#[derive(Debug)]
pub(super) struct Transport {
    upstream: Arc<str>,
    /// HTTP/2 where the server has it, for small answers: many on one connection.
    shared: Client,
    /// HTTP/1.1 only, for blobs: each has a connection, and a flow control, of its own.
    own: Client,
    plain_http: PlainHttp,
    connect_timeout: Duration,
    response_timeout: Duration,
}

/// Which connection a request goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    Shared,
    Own,
}

/// A request before it is known where it ends up.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: &'a HeaderMap,
    /// Sent to the scheme, host and port of `url` only.
    pub(super) authorization: Option<&'a HeaderValue>,
    pub(super) connection: Connection,
}

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answerer {
    /// The upstream itself.
    Upstream,
    /// Whom the upstream sent this side to.
    Other,
}

/// An answer whose body has not been read.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) response: Response,
    pub(super) by: Answerer,
}

impl Transport {
    pub(super) fn new(config: &UpstreamConfig) -> Result<Self, SetupError> {
        let upstream = config.name.clone();
        let client = |builder: ClientBuilder| {
            let upstream = upstream.clone();
            builder.build().map_err(|source| SetupError::Client { upstream, source })
        };
        Ok(Self {
            shared: client(builder(config)?)?,
            own: client(builder(config)?.http1_only())?,
            upstream: upstream.as_str().into(),
            plain_http: config.plain_http,
            connect_timeout: config.limits.connect_timeout,
            response_timeout: config.limits.response_timeout,
        })
    }

    /// Sends the request and those that the answers redirect to, until an answer is none of these.
    ///
    /// # Errors
    /// [`Error::Timeout`] if that takes too long; not for any status.
    pub(super) async fn send(&self, request: Outgoing<'_>) -> Result<Answered, Error> {
        let sent = timeout(self.response_timeout, self.follow(request)).await;
        sent.unwrap_or_else(|_| Err(self.timed_out(self.response_timeout)))
    }

    /// Sends a form, and follows nothing.
    pub(super) async fn post(&self, url: Url, form: String) -> Result<Response, Error> {
        let request = self
            .shared
            .post(url)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(form);
        let sent = timeout(self.response_timeout, request.send()).await;
        let response = sent.map_err(|_| self.timed_out(self.response_timeout))?;
        response.map_err(|error| self.failed(error))
    }

    /// Without TLS there is no HTTP/2, so that any idle connection will do: one from the manifest before, most likely.
    fn client(&self, connection: Connection, url: &Url) -> &Client {
        match connection {
            Connection::Own if url.scheme() == "https" => &self.own,
            Connection::Own | Connection::Shared => &self.shared,
        }
    }

    async fn follow(&self, request: Outgoing<'_>) -> Result<Answered, Error> {
        let Outgoing { method, mut url, headers, authorization, connection } = request;
        let home = url.origin();
        for _ in 0..=REDIRECTIONS_MOST {
            let (client, is_home) = (self.client(connection, &url), url.origin() == home);
            let mut next = client.request(method.clone(), url.clone()).headers(headers.clone());
            if let Some(value) = authorization.filter(|_| is_home) {
                next = next.header(header::AUTHORIZATION, value);
            }
            let response = next.send().await.map_err(|error| self.failed(error))?;
            let Some(target) = self.redirection(&url, &response)? else {
                let by = if is_home { Answerer::Upstream } else { Answerer::Other };
                return Ok(Answered { response, by });
            };
            url = target;
        }
        Err(self.protocol("it redirects without end"))
    }

    /// Where the answer of `from` redirects to, if anywhere.
    fn redirection(&self, from: &Url, response: &Response) -> Result<Option<Url>, Error> {
        let is_redirection = matches!(
            response.status(),
            StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT
        );
        if !is_redirection {
            return Ok(None);
        }
        let location = response.headers().get(header::LOCATION);
        let location = location.and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
        let target = location.and_then(|location| from.join(location).ok());
        let target = target.ok_or_else(|| self.protocol("it redirects to no address"))?;
        match (from.scheme(), target.scheme()) {
            (_, "https") => Ok(Some(target)),
            ("http", "http") if self.plain_http == PlainHttp::Allow => Ok(Some(target)),
            _ => Err(self.protocol("it redirects to an address without TLS")),
        }
    }

    fn failed(&self, error: reqwest::Error) -> Error {
        let upstream = Arc::clone(&self.upstream);
        // URLs of redirections are signed.
        let source = Arc::new(error.without_url());
        if has_cause(&source, is_tls) {
            return Error::Tls { upstream, source };
        }
        if source.is_timeout() {
            return self.timed_out(self.connect_timeout);
        }
        if has_cause(&source, is_no_http) {
            return self.protocol("it does not speak HTTP");
        }
        Error::Connect { upstream, source }
    }

    fn timed_out(&self, after: Duration) -> Error {
        Error::Timeout { upstream: Arc::clone(&self.upstream), after }
    }

    fn protocol(&self, what: &'static str) -> Error {
        Error::Protocol { upstream: Arc::clone(&self.upstream), what }
    }
}

/// The error that a status other than success means.
pub(super) fn refusal(upstream: &Arc<str>, status: StatusCode, headers: &HeaderMap) -> Error {
    let upstream = Arc::clone(upstream);
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Error::NotFound { upstream },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Error::Denied { upstream, status: status.as_u16() }
        }
        StatusCode::TOO_MANY_REQUESTS => {
            Error::RateLimited { upstream, retry_after: retry_after(headers, SystemTime::now()) }
        }
        other => Error::Status { upstream, status: other.as_u16() },
    }
}

/// Whether `is_it` holds for one of the causes of `error`.
fn has_cause(error: &reqwest::Error, is_it: impl Fn(&(dyn StdError + 'static)) -> bool) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if is_it(error) {
            return true;
        }
        // An `io::Error` is not the source of what it wraps, but stands in its place.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    false
}

/// rustls tells of some alerts by text only; and without TLS, data is never invalid to a socket.
fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    let is_invalid = |error: &io::Error| error.kind() == io::ErrorKind::InvalidData;
    error.is::<rustls::Error>() || error.downcast_ref().is_some_and(is_invalid)
}

fn is_no_http(error: &(dyn StdError + 'static)) -> bool {
    error.downcast_ref().is_some_and(hyper::Error::is_parse)
}

/// A client without a will of its own: no proxy from the environment, no redirection, no retry, no
/// `Referer`.
fn builder(config: &UpstreamConfig) -> Result<ClientBuilder, SetupError> {
    let mut builder = Client::builder()
        .user_agent(concat!("millpond/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .connect_timeout(config.limits.connect_timeout)
        .tcp_keepalive(PROBE)
        .http2_keep_alive_interval(PROBE)
        .http2_keep_alive_timeout(PROBE)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(config.limits.connections);
    let TlsConfig { ca_file, client_cert_file, client_key_file } = &config.tls;
    let pem = |path: &Path| {
        let (upstream, path) = (config.name.clone(), path.to_owned());
        move |source| SetupError::Pem { upstream, path, source }
    };
    if let Some(path) = ca_file {
        let bundle = read(config, path)?;
        let certificates = Certificate::from_pem_bundle(&bundle).map_err(pem(path))?;
        if certificates.is_empty() {
            let (upstream, path) = (config.name.clone(), path.clone());
            return Err(SetupError::NoCertificate { upstream, path });
        }
        builder = builder.tls_certs_merge(certificates);
    }
    if let (Some(certificate), Some(key)) = (client_cert_file, client_key_file) {
        let mut both = read(config, key)?;
        both.push(b'\n');
        both.extend(read(config, certificate)?);
        builder = builder.identity(Identity::from_pem(&both).map_err(pem(certificate))?);
    }
    Ok(builder)
}

fn read(config: &UpstreamConfig, path: &Path) -> Result<Vec<u8>, SetupError> {
    let (upstream, file) = (config.name.clone(), path.to_owned());
    fs::read(path).map_err(|source| SetupError::File { upstream, path: file, source })
}
