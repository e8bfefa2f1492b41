//! Repositories as the daemon knows them.

use std::fmt;

use reqwest::Url;

use super::server::Server;
use crate::oci::{Digest, Reference, RepositoryName};

/// A repository at the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Repository {
    /// The registry that the name is one of, where the name cannot say so itself: one with a port, which
    /// no path of the daemon can hold. The daemon is told as containerd tells it, with `?ns=`.
    pub(super) registry: Option<String>,
    /// Its name. The registry that it comes from, if that has no port, is the first component.
    pub(super) name: RepositoryName,
}

/// Something in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    repository: &'a Repository,
    /// Its path below the repository.
    path: String,
}

impl Repository {
    /// Where a manifest is.
    pub(super) fn manifest(&self, reference: &Reference) -> Place<'_> {
        Place { repository: self, path: format!("manifests/{reference}") }
    }

    /// Where a blob is.
    pub(super) fn blob(&self, digest: Digest) -> Place<'_> {
        Place { repository: self, path: format!("blobs/{digest}") }
    }
}

impl Place<'_> {
    /// Its URL at the daemon.
    pub(super) fn url(&self, server: &Server) -> Url {
        let Repository { registry, name } = self.repository;
        let mut url = server.url(&format!("/v2/{name}/{}", self.path));
        if let Some(registry) = registry {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        url
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.registry.as_ref().map_or(Ok(()), |registry| write!(f, "{registry}/"))?;
        write!(f, "{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_with_a_port_goes_into_the_query() {
        let server: Server = "http://127.0.0.1:5000".parse().unwrap();
        let manifest: Reference = "1".parse().unwrap();
        for (registry, url) in [
            (None, "http://127.0.0.1:5000/v2/org/app/manifests/1"),
            (Some("a.b:5000"), "http://127.0.0.1:5000/v2/org/app/manifests/1?ns=a.b%3A5000"),
            (Some("[::1]:5"), "http://127.0.0.1:5000/v2/org/app/manifests/1?ns=%5B%3A%3A1%5D%3A5"),
        ] {
            let (registry, name) = (registry.map(str::to_owned), "org/app".parse().unwrap());
            let repository = Repository { registry, name };
            assert_eq!(repository.manifest(&manifest).url(&server).as_str(), url);
        }
    }
}
