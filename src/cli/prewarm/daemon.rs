//! Requests to the daemon, one at a time: no retries here, see [`super::retry`].

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;

use super::{
    error::{Error, Refusal},
    repository::Place,
    server::{Login, Server},
};
use crate::oci::{ChunkRange, MediaType};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for the head of an answer. A mirror may have to ask far away, with retries of its own.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest silence within a body.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// Most that is read of the body of a refusal.
const REFUSAL_MAX_BYTES: usize = 16 << 10;

/// The daemon that images are pulled through.
#[derive(Debug)]
pub(super) struct Daemon {
    http: reqwest::Client,
    server: Server,
    login: Option<Login>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// A manifest of any type.
    Manifest,
    /// The bytes of a blob from this one on.
    BlobFrom(u64),
    /// Whether a blob is there.
    BlobHead,
}

/// An answer whose body is still to come.
#[derive(Debug)]
pub(super) struct Answer {
    response: reqwest::Response,
    /// The place of the first byte of the body in the content.
    pub(super) start: u64,
}

impl Daemon {
    /// Connects when first asked. Goes directly, whatever proxies the environment names: the daemon is the
    /// proxy. Follows no redirect: what comes from elsewhere warms nothing.
    ///
    /// # Errors
    /// If there is TLS and the system has no certificates.
    pub(super) fn new(server: Server, login: Option<Login>) -> Result<Self, reqwest::Error> {
        // Only the first call in a process has an effect; the others agree with it.
        let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("millpond-prewarm/", env!("CARGO_PKG_VERSION")));
        // An image of nothing but this program has no certificates, and without TLS needs none.
        let builder = if server.has_tls() { builder } else { builder.tls_certs_only([]) };
        Ok(Self { http: builder.build()?, server, login })
    }

    /// Sends a request; the answer is a success.
    ///
    /// # Errors
    /// [`Error`], also where the answer is none to what was asked.
    pub(super) async fn ask(&self, place: &Place<'_>, want: Want) -> Result<Answer, Error> {
        let response = self.send(place, want).await?;
        let start = match (response.status(), want) {
            (StatusCode::OK, _) => 0,
            (StatusCode::PARTIAL_CONTENT, Want::BlobFrom(asked)) => {
                let start = range_start(response.headers());
                start.filter(|&start| start == asked).ok_or(Error::Range { asked })?
            }
            (_, _) => return Err(Error::Refused(read_refusal(response).await)),
        };
        Ok(Answer { response, start })
    }

    async fn send(&self, place: &Place<'_>, want: Want) -> Result<reqwest::Response, Error> {
        let url = place.url(&self.server);
        let mut request = match want {
            Want::Manifest => self.http.get(url).header(header::ACCEPT, accepted()),
            Want::BlobHead => self.http.head(url),
            Want::BlobFrom(0) => self.http.get(url),
            Want::BlobFrom(start) => {
                self.http.get(url).header(header::RANGE, format!("bytes={start}-"))
            }
        };
        if let Some(Login { username, password }) = &self.login {
            request = request.basic_auth(username, Some(password.expose()));
        }
        match tokio::time::timeout(HEAD_TIMEOUT, request.send()).await {
            Ok(sent) => sent.map_err(|source| Error::Unreachable {
                server: self.server.clone(),
                source: source.without_url(),
            }),
            Err(_elapsed) => Err(Error::NoAnswer { waited: HEAD_TIMEOUT }),
        }
    }
}

impl Answer {
    /// The digest that the daemon says the content has.
    pub(super) fn announced_digest(&self) -> Option<&str> {
        self.response.headers().get("docker-content-digest")?.to_str().ok()
    }

    /// The next bytes of the body; `None` after its clean end.
    ///
    /// # Errors
    /// [`Error::Broken`] or [`Error::Silent`].
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match tokio::time::timeout(SILENCE_TIMEOUT, self.response.chunk()).await {
            Ok(chunk) => chunk.map_err(|source| Error::Broken { source: source.without_url() }),
            Err(_elapsed) => Err(Error::Silent { waited: SILENCE_TIMEOUT }),
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// As [`Answer::next`], and [`Error::TooLarge`].
    pub(super) async fn read(mut self, limit_bytes: usize) -> Result<Bytes, Error> {
        let mut body = bytes::BytesMut::new();
        while let Some(chunk) = self.next().await? {
            if body.len() + chunk.len() > limit_bytes {
                return Err(Error::TooLarge { limit_bytes });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

/// The value of `Accept` for manifests: a registry may answer 404 to who does not name the type.
fn accepted() -> String {
    MediaType::ALL.map(MediaType::name).join(", ")
}

fn range_start(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    Some(value.parse::<ChunkRange>().ok()?.range().start)
}

/// The body of a refusal (distribution-spec, "Error Codes").
#[derive(Deserialize)]
struct RefusalBody {
    #[serde(default)]
    errors: Vec<RefusalEntry>,
}

#[derive(Deserialize)]
struct RefusalEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

async fn read_refusal(response: reqwest::Response) -> Refusal {
    let status = response.status();
    let after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let body = Answer { response, start: 0 }.read(REFUSAL_MAX_BYTES).await;
    // Without its words a refusal is still one.
    let body = body.ok().and_then(|body| serde_json::from_slice::<RefusalBody>(&body).ok());
    let first = body.and_then(|body| body.errors.into_iter().next());
    let words = first.map(|RefusalEntry { code, message }| format!("{code}: {message}"));
    Refusal { status, words, retry_after }
}
