//! Credentials from Docker's `config.json`.

use std::{fs, path::Path};

use base64::prelude::{BASE64_STANDARD, Engine};
use http::header;
use millpond::upstream::{CredentialsConfig, Error, SetupError, UpstreamConfig};

use crate::{
    fake_upstream::{Access, FakeUpstream, Seen, TokenServer},
    fixture::{MANIFEST, REPOSITORY, config, open, reference, repository, try_open},
};

async fn start(access: Access) -> FakeUpstream {
    let fake = FakeUpstream::start().await;
    fake.put_manifest(REPOSITORY, Some("v1"), MANIFEST, "{}");
    fake.set_access(access);
    fake
}

fn host(fake: &FakeUpstream) -> &str {
    &fake.url()["http://".len()..]
}

fn write(path: &Path, fake: &FakeUpstream, password: &str) {
    let auth = BASE64_STANDARD.encode(format!("alice:{password}"));
    let text = format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, host(fake));
    fs::write(path, text).unwrap();
}

fn with_file(fake: &FakeUpstream, path: &Path) -> UpstreamConfig {
    let credentials = CredentialsConfig::DockerConfig(path.to_owned());
    UpstreamConfig { credentials, ..config(fake.url()) }
}

#[tokio::test]
async fn a_password_in_the_file_is_used_and_read_again_when_it_is_refused() {
    let fake = start(Access::Basic("alice", "new")).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    write(&path, &fake, "old");
    let upstream = open(with_file(&fake, &path));
    let head = || async { upstream.head_manifest(&repository(), &reference("v1")).await };
    let error = head().await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    write(&path, &fake, "new");
    head().await.unwrap();
    fs::remove_file(&path).unwrap();
    head().await.unwrap();
}

#[tokio::test]
async fn a_password_that_a_token_server_refuses_is_read_again_too() {
    let server = TokenServer { login: Some(("alice", "new")), ..TokenServer::default() };
    let fake = start(Access::Token(server)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    write(&path, &fake, "old");
    let upstream = open(with_file(&fake, &path));
    let head = || async { upstream.head_manifest(&repository(), &reference("v1")).await };
    assert!(matches!(head().await.unwrap_err(), Error::Denied { .. }));
    assert_eq!(fake.count("GET", "/token"), 1);
    write(&path, &fake, "new");
    head().await.unwrap();
    assert_eq!(fake.count("GET", "/token"), 3);
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let server = TokenServer { identity: Some("1dentity"), ..TokenServer::default() };
    let fake = start(Access::Token(server)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let text = format!(r#"{{"auths": {{"{}": {{"identitytoken": "1dentity"}}}}}}"#, host(&fake));
    fs::write(&path, text).unwrap();
    let upstream = open(with_file(&fake, &path));
    upstream.head_manifest(&repository(), &reference("v1")).await.unwrap();
    let posted: Vec<Seen> =
        fake.requests().into_iter().filter(|seen| seen.method == "POST").collect();
    assert_eq!(posted.len(), 1);
    let form = String::from_utf8(posted[0].body.to_vec()).unwrap();
    assert_eq!(
        form,
        "grant_type=refresh_token&client_id=millpond&refresh_token=1dentity\
         &scope=repository%3Ateam%2Fapp%3Apull&service=fake"
    );
}

#[tokio::test]
async fn an_identity_token_is_a_password_where_post_is_unknown() {
    let server = TokenServer { login: Some(("alice", "1dentity")), ..TokenServer::default() };
    let fake = start(Access::Token(server)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let auth = BASE64_STANDARD.encode("alice:");
    let text = format!(
        r#"{{"auths": {{"{}": {{"auth": "{auth}", "identitytoken": "1dentity"}}}}}}"#,
        host(&fake)
    );
    fs::write(&path, text).unwrap();
    let upstream = open(with_file(&fake, &path));
    upstream.head_manifest(&repository(), &reference("v1")).await.unwrap();
    assert_eq!((fake.count("POST", "/token"), fake.count("GET", "/token")), (1, 1));
}

#[tokio::test]
async fn a_file_without_this_registry_means_nobody() {
    let fake = start(Access::Open).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fs::write(&path, r#"{"auths": {"other.example": {"auth": "YTpi"}}}"#).unwrap();
    let upstream = open(with_file(&fake, &path));
    upstream.head_manifest(&repository(), &reference("v1")).await.unwrap();
    assert!(!fake.requests()[0].headers.contains_key(header::AUTHORIZATION));
}

#[tokio::test]
async fn somebody_who_logs_in_later_is_found() {
    let fake = start(Access::Basic("alice", "new")).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fs::write(&path, "{}").unwrap();
    let upstream = open(with_file(&fake, &path));
    let head = || async { upstream.head_manifest(&repository(), &reference("v1")).await };
    assert!(matches!(head().await.unwrap_err(), Error::Denied { .. }));
    write(&path, &fake, "new");
    head().await.unwrap();
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_told_at_the_start() {
    let fake = start(Access::Open).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let missing = try_open(vec![with_file(&fake, &path)]).unwrap_err();
    assert!(matches!(missing, SetupError::Credentials { .. }), "{missing:?}");
    fs::write(&path, "[]").unwrap();
    let wrong = try_open(vec![with_file(&fake, &path)]).unwrap_err();
    assert!(matches!(wrong, SetupError::Credentials { .. }), "{wrong:?}");
    let mut config = config(fake.url());
    config.tls.ca_file = Some(folder.path().join("ca.pem"));
    let missing = try_open(vec![config]).unwrap_err();
    assert!(matches!(missing, SetupError::File { .. }), "{missing:?}");
}
