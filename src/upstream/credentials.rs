//! Who this side is towards an upstream: from the configuration, Docker's file or a helper program.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::prelude::{BASE64_STANDARD, Engine};
use http::HeaderValue;

use super::{
    config::CredentialsConfig,
    docker_config::{self, Found},
    helper,
};
use crate::runtime::{Abandoned, Secret, SingleFlight, Tasks};

/// What proves who this side is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Nothing: this side is nobody.
    Anonymous,
    /// A name and a password.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A token that a token server exchanges for others.
    Identity {
        /// The name.
        username: String,
        /// The token.
        token: Secret,
    },
    /// A token for the registry itself.
    Token(Secret),
}

/// How a registry is called where credentials are kept.
#[derive(Clone, Debug)]
pub(super) struct Login {
    /// What a helper program is asked for.
    pub(super) server: String,
    /// Hosts, with their ports, under which `config.json` may have it.
    pub(super) hosts: Vec<String>,
}

/// Why there are no credentials although the configuration says where they are.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not of the form that Docker writes.
    #[error("{} is no config.json of Docker", path.display())]
    DockerConfig {
        /// The file.
        path: PathBuf,
    },
    /// A helper program cannot be run.
    #[error("{program} cannot be run: {source}")]
    Run {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A helper program did not end in time.
    #[error("{program} did not answer within {after:?}")]
    Slow {
        /// The program.
        program: String,
        /// How long was waited.
        after: Duration,
    },
    /// A helper program failed, or answered with something else than credentials.
    #[error("{program} gave no credentials: {what}")]
    Helper {
        /// The program.
        program: String,
        /// What happened; never what the program printed.
        what: &'static str,
    },
    /// Looking for them came to no end.
    #[error(transparent)]
    Abandoned(#[from] Abandoned),
    /// The credentials have characters that no header can carry.
    #[error("the credentials cannot be put in a header")]
    Characters,
}

/// The credentials for one upstream, remembered until the upstream refuses them.
#[derive(Debug)]
pub(super) struct Credentials {
    source: CredentialsConfig,
    login: Login,
    current: Mutex<Option<Credential>>,
    looking: SingleFlight<(), Result<Credential, Arc<CredentialsError>>>,
}

impl Credentials {
    pub(super) fn new(source: CredentialsConfig, login: Login, tasks: Tasks) -> Self {
        let looking = SingleFlight::new("look for credentials", tasks);
        Self { source, login, current: Mutex::default(), looking }
    }

    /// Whether they can be used; reads a file, and runs no program.
    pub(super) fn check(&self) -> Result<(), CredentialsError> {
        match &self.source {
            CredentialsConfig::Anonymous | CredentialsConfig::Helper(_) => Ok(()),
            CredentialsConfig::Password { username, password } => {
                basic(username, password).map(|_| ())
            }
            CredentialsConfig::Token(token) => bearer(token.expose()).map(|_| ()),
            CredentialsConfig::DockerConfig(path) => {
                let read = std::fs::read_to_string(path);
                let text =
                    read.map_err(|source| CredentialsError::File { path: path.clone(), source })?;
                let found = docker_config::lookup(&text, &self.login.hosts);
                found
                    .map(|_| ())
                    .ok_or_else(|| CredentialsError::DockerConfig { path: path.clone() })
            }
        }
    }

    /// The credentials, found once for all who ask.
    pub(super) async fn get(&self) -> Result<Credential, Arc<CredentialsError>> {
        if let Some(credential) = self.lock().clone() {
            return Ok(credential);
        }
        let (source, login) = (self.source.clone(), self.login.clone());
        let look = async move { find(&source, &login).await.map_err(Arc::new) };
        let found = self.looking.run((), look).await;
        let found =
            found.unwrap_or_else(|abandoned| Err(Arc::new(CredentialsError::from(abandoned))))?;
        // That there are none is not remembered: somebody may log in.
        if found != Credential::Anonymous {
            *self.lock() = Some(found.clone());
        }
        Ok(found)
    }

    /// Other credentials than `refused`, which the upstream did not take; `None` if there are none.
    pub(super) async fn renew(
        &self,
        refused: &Credential,
    ) -> Result<Option<Credential>, Arc<CredentialsError>> {
        let is_renewable = matches!(
            self.source,
            CredentialsConfig::DockerConfig(_) | CredentialsConfig::Helper(_)
        );
        if !is_renewable {
            return Ok(None);
        }
        self.lock().take_if(|current| current == refused);
        let other = self.get().await?;
        Ok((other != *refused).then_some(other))
    }

    /// The token that is sent without being asked for, if that is what the configuration has.
    pub(super) fn fixed_token(&self) -> Option<&Secret> {
        match &self.source {
            CredentialsConfig::Token(token) => Some(token),
            _ => None,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Credential>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn find(source: &CredentialsConfig, login: &Login) -> Result<Credential, CredentialsError> {
    match source {
        CredentialsConfig::Anonymous => Ok(Credential::Anonymous),
        CredentialsConfig::Password { username, password } => {
            Ok(Credential::Password { username: username.clone(), password: password.clone() })
        }
        CredentialsConfig::Token(token) => Ok(Credential::Token(token.clone())),
        CredentialsConfig::Helper(name) => helper::ask(name, login).await,
        CredentialsConfig::DockerConfig(path) => {
            let read = tokio::fs::read_to_string(path).await;
            let text =
                read.map_err(|source| CredentialsError::File { path: path.clone(), source })?;
            match docker_config::lookup(&text, &login.hosts) {
                None => Err(CredentialsError::DockerConfig { path: path.clone() }),
                Some(Found::Nothing) => Ok(Credential::Anonymous),
                Some(Found::Credential(credential)) => Ok(credential),
                Some(Found::Helper(name)) => helper::ask(&name, login).await,
            }
        }
    }
}

/// The header that carries a name and a password.
pub(super) fn basic(username: &str, password: &Secret) -> Result<HeaderValue, CredentialsError> {
    let encoded = BASE64_STANDARD.encode(format!("{username}:{}", password.expose()));
    sensitive(&format!("Basic {encoded}"))
}

/// The header that carries a token.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, CredentialsError> {
    sensitive(&format!("Bearer {token}"))
}

/// A header value that is not shown by `Debug` and not kept in a compression table.
fn sensitive(text: &str) -> Result<HeaderValue, CredentialsError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| CredentialsError::Characters)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_with_credentials_are_not_shown() {
        let header = basic("alice", &Secret::new("s3cret".to_owned())).unwrap();
        assert_eq!(header.to_str().unwrap(), "Basic YWxpY2U6czNjcmV0");
        assert_eq!(format!("{header:?}"), "Sensitive");
        assert!(matches!(bearer("a\nb"), Err(CredentialsError::Characters)));
        let username = "alice".to_owned();
        let secret = Credential::Password { username, password: Secret::new("s3cret".to_owned()) };
        assert!(!format!("{secret:?}").contains("s3cret"));
    }
}
