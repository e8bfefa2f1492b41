//! What is sent along to prove who this side is, and to whom.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use reqwest::Url;

use super::{
    Error,
    challenge::{self, BearerChallenge, Challenge},
    config::PlainHttp,
    credentials::{Credential, Credentials, CredentialsError, basic, bearer},
    token::{Key, Token, Tokens},
};
use crate::oci::RepositoryName;

/// Repositories of which it is remembered what they ask for.
const LEARNT_MOST: u64 = 10_000;

/// Answers the challenges of one upstream.
#[derive(Debug)]
pub(super) struct Authenticator {
    pub(super) upstream: Arc<str>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) tokens: Tokens,
    /// Hosts, some with a port, that may issue tokens beside the host of the upstream's address.
    pub(super) trusted: Vec<String>,
    pub(super) plain_http: PlainHttp,
    pub(super) learnt: moka::future::Cache<Asked, Scheme>,
}

/// Who asked for what: the number of the upstream's address, and the repository.
pub(super) type Asked = (usize, RepositoryName);

/// How a repository wants to be asked.
#[derive(Clone, Debug)]
pub(super) enum Scheme {
    Basic,
    Bearer(Key),
}

/// A header, and what it was made of.
#[derive(Clone, Debug)]
pub(super) struct Proof {
    pub(super) header: HeaderValue,
    made_of: MadeOf,
}

#[derive(Clone, Debug)]
enum MadeOf {
    Fixed,
    Credential(Credential),
    Token(Token),
}

pub(super) fn learnt() -> moka::future::Cache<Asked, Scheme> {
    moka::future::Cache::new(LEARNT_MOST)
}

impl Authenticator {
    /// What the upstream is known to ask for; nothing, if it has never asked.
    pub(super) async fn known(&self, asked: &Asked) -> Result<Option<Proof>, Error> {
        if let Some(token) = self.credentials.fixed_token() {
            let header = bearer(token.expose()).map_err(|error| self.failed(Arc::new(error)))?;
            return Ok(Some(Proof { header, made_of: MadeOf::Fixed }));
        }
        match self.learnt.get(asked).await {
            None => Ok(None),
            Some(Scheme::Basic) => self.basic(None).await.map(Some),
            Some(Scheme::Bearer(key)) => Ok(Some(Proof::token(self.tokens.get(&key).await?))),
        }
    }

    /// What to send instead of `refused` to `address`, which answered 401 with these headers.
    ///
    /// # Errors
    /// [`Error::Denied`] if there is nothing to send; [`Error::Realm`] if it should be a token of a
    /// stranger.
    pub(super) async fn answer(
        &self,
        asked: &Asked,
        address: &Url,
        headers: &HeaderMap,
        refused: Option<Proof>,
    ) -> Result<Proof, Error> {
        let made_of = refused.map(|proof| proof.made_of);
        if matches!(made_of, Some(MadeOf::Fixed)) {
            return Err(self.denied());
        }
        let scheme = self.scheme(asked, address, headers)?;
        let proof = match (&scheme, made_of) {
            (Scheme::Basic, Some(MadeOf::Credential(refused))) => {
                self.basic(Some(&refused)).await?
            }
            (Scheme::Basic, _) => self.basic(None).await?,
            (Scheme::Bearer(key), Some(MadeOf::Token(refused))) => {
                Proof::token(self.tokens.renew(key, &refused).await?)
            }
            (Scheme::Bearer(key), _) => Proof::token(self.tokens.get(key).await?),
        };
        self.learnt.insert(asked.clone(), scheme).await;
        Ok(proof)
    }

    /// Tokens go before passwords, where the upstream takes either.
    fn scheme(&self, asked: &Asked, address: &Url, headers: &HeaderMap) -> Result<Scheme, Error> {
        let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
        let challenges = challenge::parse(values.filter_map(|value| value.to_str().ok()));
        let takes_basic = challenges.contains(&Challenge::Basic);
        let bearer = challenges.into_iter().find_map(|challenge| match challenge {
            Challenge::Bearer(bearer) => Some(bearer),
            Challenge::Basic => None,
        });
        match bearer.map(|bearer| self.key(asked, address, bearer)) {
            Some(Ok(key)) => Ok(Scheme::Bearer(key)),
            Some(Err(error)) if !takes_basic => Err(error),
            None if !takes_basic => Err(self.denied()),
            None | Some(Err(_)) => Ok(Scheme::Basic),
        }
    }

    fn key(&self, asked: &Asked, address: &Url, bearer: BearerChallenge) -> Result<Key, Error> {
        let BearerChallenge { realm, service, scope } = bearer;
        let realm = address.join(&realm).map_err(|_| self.stranger("no address".to_owned()))?;
        self.check_realm(address, &realm)?;
        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", asked.1));
        Ok(Key { realm, service, scope })
    }

    /// A realm is where credentials are sent. It must be the upstream's: its own host, one that the table
    /// of known registries or the configuration names.
    fn check_realm(&self, address: &Url, realm: &Url) -> Result<(), Error> {
        let host = realm.host_str().unwrap_or_default();
        let with_port = format!("{host}:{}", realm.port_or_known_default().unwrap_or_default());
        let is_named = |known: &String| {
            known.eq_ignore_ascii_case(host) || known.eq_ignore_ascii_case(&with_port)
        };
        let is_own = address.host_str() == Some(host) || self.trusted.iter().any(is_named);
        match realm.scheme() {
            "https" if is_own => Ok(()),
            "http" if is_own && address.scheme() == "http" => match self.plain_http {
                PlainHttp::Allow => Ok(()),
                PlainHttp::Deny => Err(self.stranger(format!("http://{with_port}"))),
            },
            scheme => Err(self.stranger(format!("{scheme}://{with_port}"))),
        }
    }

    /// The header of a name and a password, others than `refused`.
    async fn basic(&self, refused: Option<&Credential>) -> Result<Proof, Error> {
        let found = match refused {
            None => self.credentials.get().await.map(Some),
            Some(refused) => self.credentials.renew(refused).await,
        };
        let Some(credential) = found.map_err(|error| self.failed(error))? else {
            return Err(self.denied());
        };
        let header = match &credential {
            Credential::Password { username, password } => basic(username, password),
            Credential::Anonymous | Credential::Identity { .. } | Credential::Token(_) => {
                return Err(self.denied());
            }
        };
        let header = header.map_err(|error| self.failed(Arc::new(error)))?;
        Ok(Proof { header, made_of: MadeOf::Credential(credential) })
    }

    fn denied(&self) -> Error {
        Error::Denied { upstream: Arc::clone(&self.upstream), status: 401 }
    }

    fn stranger(&self, host: String) -> Error {
        Error::Realm { upstream: Arc::clone(&self.upstream), host }
    }

    fn failed(&self, source: Arc<CredentialsError>) -> Error {
        Error::Credentials { upstream: Arc::clone(&self.upstream), source }
    }
}

impl Proof {
    fn token(token: Token) -> Self {
        Self { header: token.header.clone(), made_of: MadeOf::Token(token) }
    }
}
