//! `Location` headers.

use std::net::SocketAddr;

use http::{HeaderValue, header, request::Parts, uri::Authority};

use super::{
    config::{Config, LocationForm},
    listener::OverTls,
};
use crate::oci::{Digest, RepositoryName, UploadPosition};

/// Makes the `Location` headers of one request's answer.
#[derive(Clone, Debug)]
pub(super) struct Locations {
    /// What goes before the path: nothing, or scheme and host.
    base: String,
}

impl Locations {
    pub(super) fn of(config: &Config, peer: SocketAddr, request: &Parts) -> Self {
        let base = match config.location {
            LocationForm::Relative => String::new(),
            LocationForm::Absolute => match &config.external_url {
                Some(url) => url.clone(),
                None => from_request(config, peer, request).unwrap_or_default(),
            },
        };
        Self { base }
    }

    pub(super) fn blob(&self, name: &RepositoryName, digest: &Digest) -> HeaderValue {
        self.value(format_args!("{name}/blobs/{digest}"))
    }

    pub(super) fn manifest(&self, name: &RepositoryName, digest: &Digest) -> HeaderValue {
        self.value(format_args!("{name}/manifests/{digest}"))
    }

    pub(super) fn upload(&self, name: &RepositoryName, position: UploadPosition) -> HeaderValue {
        self.value(format_args!("{name}/blobs/uploads/{position}"))
    }

    fn value(&self, path: std::fmt::Arguments<'_>) -> HeaderValue {
        let text = format!("{}/v2/{path}", self.base);
        HeaderValue::try_from(text).expect("names, digests and hosts are header values")
    }
}

/// The URL by which the client came, as far as that can be known.
fn from_request(config: &Config, peer: SocketAddr, request: &Parts) -> Option<String> {
    let text = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    let trusted = config.trusted_proxies.iter().any(|block| block.contains(peer.ip()));
    // A chain of proxies appends; the first value is the client's side.
    let forwarded = |name: &str| {
        let value = if trusted { text(name) } else { None };
        value.and_then(|value| value.split(',').next()).map(str::trim)
    };
    let own_host =
        request.uri.authority().map(Authority::as_str).or_else(|| text(header::HOST.as_str()));
    let host: Authority = forwarded("x-forwarded-host").or(own_host)?.parse().ok()?;
    let scheme = match forwarded("x-forwarded-proto") {
        Some("https") => "https",
        None if request.extensions.get::<OverTls>().is_some() => "https",
        Some(_) | None => "http",
    };
    Some(format!("{scheme}://{host}"))
}
