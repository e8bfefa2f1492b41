//! What every test here needs.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use millpond::{
    oci::{Reference, RepositoryName},
    runtime::Tasks,
    upstream::{
        BaseUrl, Config, Error, PlainHttp, RemoteBlob, SetupError, Upstream, UpstreamConfig,
        Upstreams,
    },
};
use prometheus::Registry;

/// Long enough to be sure that something is waited for, short enough to wait for it.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

pub(crate) const REPOSITORY: &str = "team/app";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An upstream called `fake` at `url`, which may be without TLS.
pub(crate) fn config(url: &str) -> UpstreamConfig {
    named("fake", url)
}

pub(crate) fn named(name: &str, url: &str) -> UpstreamConfig {
    UpstreamConfig { plain_http: PlainHttp::Allow, ..UpstreamConfig::new(name, base(url)) }
}

pub(crate) fn base(url: &str) -> BaseUrl {
    url.parse().expect("a registry's address")
}

pub(crate) fn open(config: UpstreamConfig) -> Arc<Upstream> {
    open_metered(config).0
}

pub(crate) fn open_metered(config: UpstreamConfig) -> (Arc<Upstream>, Registry) {
    let (upstreams, metrics) = try_open(vec![config]).expect("the configuration is good");
    let upstream = upstreams.iter().next().expect("one upstream").clone();
    (upstream, metrics)
}

pub(crate) fn try_open(
    upstreams: Vec<UpstreamConfig>,
) -> Result<(Upstreams, Registry), SetupError> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let metrics = Registry::new();
    Ok((Upstreams::new(&Config { upstreams }, &Tasks::new(), &metrics)?, metrics))
}

pub(crate) fn repository() -> RepositoryName {
    REPOSITORY.parse().expect("a repository name")
}

pub(crate) fn reference(text: &str) -> Reference {
    text.parse().expect("a reference")
}

/// Bytes that differ from their neighbours.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// All bytes of a blob.
pub(crate) async fn read(blob: RemoteBlob) -> Result<Vec<u8>, Error> {
    let pieces: Vec<bytes::Bytes> = blob.stream.try_collect().await?;
    Ok(pieces.concat())
}
