//! TLS: whom this side trusts, what it shows, and that nothing leads out of it.

use http::Version;
use millpond::upstream::{Error, PlainHttp, SetupError, UpstreamConfig};

use crate::{
    fake_upstream::{Access, FakeUpstream, Fault, Script, Tls, TokenServer},
    fixture::{MANIFEST, REPOSITORY, config, open, pattern, read, reference, repository, try_open},
};

async fn start(tls: Tls) -> FakeUpstream {
    let fake = FakeUpstream::start_with(tls).await;
    fake.put_manifest(REPOSITORY, Some("v1"), MANIFEST, "{}");
    fake
}

/// Trusts the tests' certificates, and allows nothing without TLS.
fn trusting(fake: &FakeUpstream) -> UpstreamConfig {
    let mut config = UpstreamConfig { plain_http: PlainHttp::Deny, ..config(fake.url()) };
    config.tls.ca_file = Some(Tls::file("ca.pem"));
    config
}

async fn head(config: UpstreamConfig) -> Result<(), Error> {
    open(config).head_manifest(&repository(), &reference("v1")).await.map(|_| ())
}

#[tokio::test]
async fn a_certificate_is_trusted_if_the_configuration_says_so() {
    let fake = start(Tls::Anybody).await;
    head(trusting(&fake)).await.unwrap();
    let error = head(config(fake.url())).await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert!(!error.is_retryable());
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test]
async fn a_server_without_tls_behind_https_is_told() {
    let fake = start(Tls::None).await;
    let error = head(config(&fake.url().replace("http:", "https:"))).await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
}

#[tokio::test]
async fn a_certificate_is_shown_to_those_who_want_one() {
    let fake = start(Tls::WithCertificate).await;
    let error = head(trusting(&fake)).await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    let mut config = trusting(&fake);
    config.tls.client_cert_file = Some(Tls::file("client.pem"));
    config.tls.client_key_file = Some(Tls::file("client.key"));
    head(config).await.unwrap();
}

#[tokio::test]
async fn a_file_without_a_key_is_told_at_the_start() {
    let fake = start(Tls::WithCertificate).await;
    let mut config = trusting(&fake);
    config.tls.client_cert_file = Some(Tls::file("client.pem"));
    config.tls.client_key_file = Some(Tls::file("README.md"));
    let error = try_open(vec![config]).unwrap_err();
    assert!(matches!(error, SetupError::Pem { .. }), "{error:?}");
}

#[tokio::test]
async fn nothing_leads_out_of_tls_even_where_plain_http_is_allowed() {
    let (fake, store) = (start(Tls::Anybody).await, FakeUpstream::start().await);
    let digest = fake.put_blob(REPOSITORY, pattern(10));
    store.put_blob("store", pattern(10));
    let target = format!("{}/v2/store/blobs/{digest}", store.url());
    fake.script(Script::new(Fault::Redirect(307, target)).on("GET "));
    let upstream = open(UpstreamConfig { plain_http: PlainHttp::Allow, ..trusting(&fake) });
    let error = upstream.open_blob(&repository(), &digest, 0).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    let realm = Some(format!("{}/token", store.url()));
    fake.set_access(Access::Token(TokenServer { realm, ..TokenServer::default() }));
    let error = upstream.head_manifest(&repository(), &reference("v1")).await.unwrap_err();
    assert!(matches!(error, Error::Realm { .. }), "{error:?}");
    assert_eq!(store.requests().len(), 0);
}

#[tokio::test]
async fn tokens_come_over_tls() {
    let fake = start(Tls::Anybody).await;
    fake.set_access(Access::Token(TokenServer::default()));
    head(trusting(&fake)).await.unwrap();
    assert_eq!(fake.count("GET", "/token"), 1);
}

#[tokio::test]
async fn manifests_share_connections_and_blobs_have_their_own() {
    let fake = start(Tls::Anybody).await;
    let digest = fake.put_blob(REPOSITORY, pattern(100_000));
    let upstream = open(trusting(&fake));
    upstream.head_manifest(&repository(), &reference("v1")).await.unwrap();
    let blob = upstream.open_blob(&repository(), &digest, 0).await.unwrap();
    assert_eq!(read(blob).await.unwrap(), pattern(100_000));
    let versions: Vec<Version> = fake.requests().iter().map(|seen| seen.version).collect();
    assert_eq!(versions, [Version::HTTP_2, Version::HTTP_11]);
}
