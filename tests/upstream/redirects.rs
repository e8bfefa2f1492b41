//! Redirections: followed to other hosts, without credentials, and not for ever.

use http::header;
use millpond::{
    oci::Digest,
    runtime::Secret,
    upstream::{CredentialsConfig, Error, PlainHttp, UpstreamConfig},
};

use crate::{
    fake_upstream::{Access, FakeUpstream, Fault, Script, TokenServer},
    fixture::{REPOSITORY, config, open, pattern, read, repository},
};

/// A registry whose blobs are at another one.
async fn start() -> (FakeUpstream, FakeUpstream, Digest) {
    let (fake, store) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let digest = fake.put_blob(REPOSITORY, pattern(1000));
    store.put_blob("store", pattern(1000));
    (fake, store, digest)
}

fn redirect(fake: &FakeUpstream, status: u16, to: &str) {
    fake.script(Script::new(Fault::Redirect(status, to.to_owned())));
}

#[tokio::test]
async fn every_redirection_is_followed_with_the_range() {
    let (fake, store, digest) = start().await;
    let upstream = open(config(fake.url()));
    let target = format!("{}/v2/store/blobs/{digest}?X-Amz-Signature=abc", store.url());
    for status in [301, 302, 303, 307, 308] {
        fake.clear_scripts();
        redirect(&fake, status, &target);
        let blob = upstream.open_blob(&repository(), &digest, 400).await.unwrap();
        assert_eq!((blob.start, blob.size_bytes), (400, Some(1000)));
        assert_eq!(read(blob).await.unwrap(), pattern(1000)[400..]);
        let seen = store.requests().pop().unwrap();
        assert_eq!((seen.method.as_str(), seen.query.as_str()), ("GET", "X-Amz-Signature=abc"));
        assert_eq!(seen.headers[header::RANGE], "bytes=400-");
        assert!(!seen.headers.contains_key(header::REFERER));
        assert_eq!(upstream.stat_blob(&repository(), &digest).await.unwrap(), Some(1000));
    }
}

#[tokio::test]
async fn credentials_stay_with_whoever_asked_for_them() {
    let (fake, store, digest) = start().await;
    let target = format!("{}/v2/store/blobs/{digest}", store.url());
    fake.script(Script::new(Fault::Redirect(307, target)).on("GET /v2/").skip(1));
    fake.set_access(Access::Token(TokenServer::default()));
    let upstream = open(config(fake.url()));
    for _ in 0..2 {
        read(upstream.open_blob(&repository(), &digest, 0).await.unwrap()).await.unwrap();
    }
    assert_eq!(store.requests().len(), 2);
    for seen in store.requests() {
        assert!(!seen.headers.contains_key(header::AUTHORIZATION), "{seen:?}");
    }
}

#[tokio::test]
async fn credentials_go_along_within_the_registry_itself() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob("elsewhere", pattern(10));
    let from = format!("GET /v2/{REPOSITORY}/");
    let target = format!("/v2/elsewhere/blobs/{digest}");
    fake.script(Script::new(Fault::Redirect(302, target)).on(from));
    let credentials = CredentialsConfig::Token(Secret::new("t0ken".to_owned()));
    let upstream = open(UpstreamConfig { credentials, ..config(fake.url()) });
    read(upstream.open_blob(&repository(), &digest, 0).await.unwrap()).await.unwrap();
    let seen = fake.requests();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.headers[header::AUTHORIZATION] == "Bearer t0ken"));
}

#[tokio::test]
async fn a_challenge_of_another_host_is_not_answered() {
    let (fake, store, digest) = start().await;
    store.set_access(Access::Basic("alice", "s3cret"));
    redirect(&fake, 307, &format!("{}/v2/store/blobs/{digest}", store.url()));
    let (username, password) = ("alice".to_owned(), Secret::new("s3cret".to_owned()));
    let credentials = CredentialsConfig::Password { username, password };
    let upstream = open(UpstreamConfig { credentials, ..config(fake.url()) });
    let error = upstream.open_blob(&repository(), &digest, 0).await.unwrap_err();
    assert!(matches!(error, Error::Status { status: 401, .. }), "{error:?}");
    assert_eq!(store.requests().len(), 1);
}

#[tokio::test]
async fn redirections_without_end_are_an_error_after_five() {
    let (fake, _, digest) = start().await;
    redirect(&fake, 307, &format!("/v2/team/app/blobs/{digest}?again"));
    let upstream = open(config(fake.url()));
    let error = upstream.open_blob(&repository(), &digest, 0).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    assert_eq!(fake.requests().len(), 6);
}

#[tokio::test]
async fn a_redirection_to_no_address_is_an_error() {
    let (fake, _, digest) = start().await;
    let upstream = open(config(fake.url()));
    for target in ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://[", ""] {
        fake.clear_scripts();
        redirect(&fake, 307, target);
        let error = upstream.open_blob(&repository(), &digest, 0).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{target}: {error:?}");
    }
}

#[tokio::test]
async fn a_redirection_without_tls_must_be_allowed() {
    let (fake, store, digest) = start().await;
    redirect(&fake, 307, &format!("{}/v2/store/blobs/{digest}", store.url()));
    let upstream = open(UpstreamConfig { plain_http: PlainHttp::Deny, ..config(fake.url()) });
    let error = upstream.open_blob(&repository(), &digest, 0).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    assert_eq!(store.requests().len(), 0);
}

#[tokio::test]
async fn a_head_that_only_its_target_refuses_tells_no_length() {
    let (fake, store, digest) = start().await;
    redirect(&fake, 307, &format!("{}/v2/store/blobs/{digest}", store.url()));
    store.script(Script::new(Fault::Status(403)).on("HEAD "));
    let upstream = open(config(fake.url()));
    assert_eq!(upstream.stat_blob(&repository(), &digest).await.unwrap(), None);
}
