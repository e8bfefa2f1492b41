//! Where the daemon is, and as whom to ask it.

use std::{fmt, fs, io, net::SocketAddr, path::Path, str::FromStr};

use reqwest::Url;

use crate::runtime::Secret;

/// Scheme, host and port of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server(Url);

impl Server {
    /// The daemon at an address, without TLS.
    pub(super) fn at(address: SocketAddr) -> Self {
        let url = Url::parse(&format!("http://{address}"));
        Self(url.expect("an address and a port make a URL"))
    }

    /// The URL of a path of the daemon. `path` has no characters that a URL would have to escape.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        url.set_path(path);
        url
    }

    /// Whether certificates are needed to talk to it.
    pub(super) fn has_tls(&self) -> bool {
        self.0.scheme() == "https"
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// Why a text is no daemon's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidServer {
    /// It is no URL of HTTP.
    #[error("a server is http://HOST[:PORT] or https://HOST[:PORT]")]
    Form,
    /// It has a path, a query or a fragment.
    #[error("a server has nothing behind its port")]
    Path,
    /// It has a user or a password.
    #[error("a user is given with --username and --password-file, not in the server's URL")]
    Login,
}

impl FromStr for Server {
    type Err = InvalidServer;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text).map_err(|_malformed| InvalidServer::Form)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(InvalidServer::Form);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidServer::Login);
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidServer::Path);
        }
        Ok(Self(url))
    }
}

/// A user and a password, sent with every request.
#[derive(Clone, Debug)]
pub(super) struct Login {
    /// The user.
    pub(super) username: String,
    /// The password.
    pub(super) password: Secret,
}

impl Login {
    /// Reads the password from a file; line breaks at its end do not belong to it.
    ///
    /// # Errors
    /// If the file cannot be read as UTF-8 text.
    pub(super) fn read(username: String, password_file: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(password_file)?;
        let password = Secret::new(text.trim_end_matches(['\r', '\n']).to_owned());
        Ok(Self { username, password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_scheme_host_and_port() {
        for good in ["http://127.0.0.1:5000", "https://registry.example", "http://[::1]:5000/"] {
            let server: Server = good.parse().unwrap();
            assert_eq!(server.to_string(), good.trim_end_matches('/'));
            assert_eq!(server.url("/v2/a").as_str(), format!("{server}/v2/a"));
        }
        let refusal = |text: &str| text.parse::<Server>().unwrap_err();
        for bad in ["", "127.0.0.1:5000", "localhost:5000", "ftp://a", "http://", "unix:/a"] {
            assert_eq!(refusal(bad), InvalidServer::Form, "{bad}");
        }
        for bad in ["http://a/v2/", "http://a?b", "http://a#b"] {
            assert_eq!(refusal(bad), InvalidServer::Path, "{bad}");
        }
        assert_eq!(refusal("http://me:secret@a"), InvalidServer::Login);
    }
}
