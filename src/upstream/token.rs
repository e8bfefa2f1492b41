//! Tokens of a registry's token server (distribution's token authentication, also with OAuth2).

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::{Response, Url};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Error,
    body::Meter,
    credentials::{Credential, Credentials, basic, bearer},
    metrics::{Kind, Outcome, UpstreamMetrics},
    transport::{Answered, Connection, Outgoing, Transport, refusal},
};
use crate::runtime::{Abandoned, SingleFlight, Tasks};

/// How long a token lives if the server does not say (distribution's token specification).
const LIFETIME: u64 = 60;

/// The longest that a token is believed to live, whatever the server says.
const LIFETIME_MOST: u64 = 24 * 60 * 60;

/// A token is used for this part of its life: clocks differ, and the last request takes a while.
const USED: f64 = 0.9;

/// Tokens that are remembered.
const TOKENS_MOST: u64 = 10_000;

/// Longest answer of a token server.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// Attempts at one token.
const ATTEMPTS: usize = 2;

/// What this side calls itself towards OAuth2 servers.
const CLIENT: &str = "millpond";

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The token server, known to be the upstream's.
    pub(super) realm: Url,
    pub(super) service: Option<String>,
    pub(super) scope: String,
}

/// A token, as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) header: HeaderValue,
    until: Instant,
}

/// The tokens for one upstream.
pub(super) struct Tokens {
    server: Arc<Server>,
    kept: moka::future::Cache<Key, Token>,
    under_way: SingleFlight<Key, Result<Token, Error>>,
}

/// Whoever issues tokens, and how to talk to them.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) upstream: Arc<str>,
    pub(super) transport: Arc<Transport>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) meter: Arc<Meter>,
    pub(super) metrics: Arc<UpstreamMetrics>,
}

#[derive(Deserialize)]
struct Issued {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<f64>,
}

impl Tokens {
    pub(super) fn new(server: Server, tasks: Tasks) -> Self {
        let kept = moka::future::Cache::new(TOKENS_MOST);
        let under_way = SingleFlight::new("fetch a token", tasks);
        Self { server: Arc::new(server), kept, under_way }
    }

    /// A token that is still good, fetched once for all who want it.
    pub(super) async fn get(&self, key: &Key) -> Result<Token, Error> {
        if let Some(token) = self.kept.get(key).await.filter(|token| Instant::now() < token.until) {
            return Ok(token);
        }
        let (server, kept, wanted) = (Arc::clone(&self.server), self.kept.clone(), key.clone());
        let fetch = async move {
            let token = server.issue(&wanted).await?;
            kept.insert(wanted, token.clone()).await;
            Ok(token)
        };
        self.under_way.run(key.clone(), fetch).await.unwrap_or_else(|Abandoned| {
            Err(Error::Abandoned { upstream: Arc::clone(&self.server.upstream) })
        })
    }

    /// Another token than `refused`, which the upstream did not take.
    pub(super) async fn renew(&self, key: &Key, refused: &Token) -> Result<Token, Error> {
        if self.kept.get(key).await.is_some_and(|token| token == *refused) {
            self.kept.invalidate(key).await;
        }
        self.get(key).await
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Server {
    async fn issue(&self, key: &Key) -> Result<Token, Error> {
        let credential = self.get_credential().await?;
        match self.try_issue(key, &credential).await {
            Err(error @ Error::Denied { .. }) => {
                let other = self.credentials.renew(&credential).await;
                match other.map_err(|source| self.no_credentials(source))? {
                    Some(other) => self.try_issue(key, &other).await,
                    None => Err(error),
                }
            }
            result => result,
        }
    }

    async fn get_credential(&self) -> Result<Credential, Error> {
        self.credentials.get().await.map_err(|source| self.no_credentials(source))
    }

    async fn try_issue(&self, key: &Key, credential: &Credential) -> Result<Token, Error> {
        let mut attempt = 1;
        loop {
            let started = Instant::now();
            let result = self.ask(key, credential).await;
            self.metrics.time(Kind::Token, started.elapsed());
            let outcome = result.as_ref().map_or_else(Outcome::Failed, |_| Outcome::Ok);
            self.metrics.count(Kind::Token, outcome);
            match result {
                Err(error) if error.is_transient() && attempt < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    async fn ask(&self, key: &Key, credential: &Credential) -> Result<Token, Error> {
        let asked = Instant::now();
        let response = match credential {
            Credential::Anonymous | Credential::Token(_) => self.get(key, None).await?,
            Credential::Password { username, password } => {
                let header = basic(username, password).map_err(Arc::new);
                let header = header.map_err(|source| self.no_credentials(source))?;
                self.get(key, Some((username, &header))).await?
            }
            Credential::Identity { username, token } => {
                let response = self.exchange(key, token.expose()).await?;
                // A server without OAuth2: some take the identity token for a password.
                let is_missing = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
                if is_missing.contains(&response.status()) {
                    let header = basic(username, token).map_err(Arc::new);
                    let header = header.map_err(|source| self.no_credentials(source))?;
                    self.get(key, Some((username, &header))).await?
                } else {
                    response
                }
            }
        };
        self.take(response, asked).await
    }

    /// Asks with GET, which every token server knows.
    async fn get(
        &self,
        key: &Key,
        account: Option<(&str, &HeaderValue)>,
    ) -> Result<Response, Error> {
        let mut url = key.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(key.service.iter().map(|service| ("service", service)));
            query.extend_pairs(key.scope.split(' ').map(|scope| ("scope", scope)));
            query.extend_pairs(account.iter().map(|(username, _)| ("account", username)));
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let request = Outgoing {
            method: Method::GET,
            url,
            headers: &headers,
            authorization: account.map(|(_, header)| header),
            connection: Connection::Shared,
        };
        let Answered { response, .. } = self.transport.send(request).await?;
        Ok(response)
    }

    /// Exchanges an identity token with POST.
    async fn exchange(&self, key: &Key, identity: &str) -> Result<Response, Error> {
        let mut form = Url::parse("form:").expect("the text is a URL");
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("client_id", CLIENT)
            .append_pair("refresh_token", identity)
            .append_pair("scope", &key.scope)
            .extend_pairs(key.service.iter().map(|service| ("service", service)));
        let form = form.query().unwrap_or_default().to_owned();
        self.transport.post(key.realm.clone(), form).await
    }

    async fn take(&self, response: Response, asked: Instant) -> Result<Token, Error> {
        if response.status() != StatusCode::OK {
            return Err(refusal(&self.upstream, response.status(), response.headers()));
        }
        let bytes = self.meter.read(response, MAX_ANSWER_BYTES).await?;
        let issued: Issued = serde_json::from_slice(&bytes)
            .map_err(|_| self.protocol("its token server gives no JSON"))?;
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let token = filled(issued.token).or_else(|| filled(issued.access_token));
        let token = token.ok_or_else(|| self.protocol("its token server gives no token"))?;
        let header = bearer(&token)
            .map_err(|_| self.protocol("its token server gives a token for no header"))?;
        Ok(Token { header, until: asked + lifetime(issued.expires_in) })
    }

    fn protocol(&self, what: &'static str) -> Error {
        Error::Protocol { upstream: Arc::clone(&self.upstream), what }
    }

    pub(super) fn no_credentials(
        &self,
        source: Arc<super::credentials::CredentialsError>,
    ) -> Error {
        Error::Credentials { upstream: Arc::clone(&self.upstream), source }
    }
}

/// How long to use a token that lives for so many seconds.
fn lifetime(seconds: Option<f64>) -> Duration {
    let told = seconds.filter(|seconds| *seconds > 0.0).unwrap_or(LIFETIME as f64);
    Duration::from_secs_f64(told.min(LIFETIME_MOST as f64) * USED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_used_a_little_less_long_than_it_lives() {
        for (told, used) in [
            (None, 54),
            (Some(0.0), 54),
            (Some(-5.0), 54),
            (Some(f64::NAN), 54),
            (Some(300.0), 270),
            (Some(1e300), 77_760),
        ] {
            assert_eq!(lifetime(told).as_secs(), used, "{told:?}");
        }
    }
}
