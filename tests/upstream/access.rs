//! Passwords and tokens: asked for, fetched once, renewed, and never given to strangers.

use http::header;
use millpond::{
    oci::Reference,
    runtime::Secret,
    upstream::{CredentialsConfig, Error, UpstreamConfig},
};

use crate::{
    fake_upstream::{Access, FakeUpstream, Fault, Script, TokenServer},
    fixture::{MANIFEST, REPOSITORY, config, open, pattern, read, reference, repository},
};

const MANIFEST_PATH: &str = "/v2/team/app/manifests/v1";
const LOGIN: (&str, &str) = ("alice", "s3cret");

async fn start() -> FakeUpstream {
    let fake = FakeUpstream::start().await;
    fake.put_manifest(REPOSITORY, Some("v1"), MANIFEST, "{}");
    fake
}

fn v1() -> Reference {
    reference("v1")
}

fn with_password(fake: &FakeUpstream, (username, password): (&str, &str)) -> UpstreamConfig {
    let (username, password) = (username.to_owned(), Secret::new(password.to_owned()));
    let credentials = CredentialsConfig::Password { username, password };
    UpstreamConfig { credentials, ..config(fake.url()) }
}

#[tokio::test]
async fn a_password_is_sent_when_asked_for_and_unasked_from_then_on() {
    let fake = start().await;
    fake.set_access(Access::Basic(LOGIN.0, LOGIN.1));
    let upstream = open(with_password(&fake, LOGIN));
    upstream.head_manifest(&repository(), &v1()).await.unwrap();
    upstream.head_manifest(&repository(), &v1()).await.unwrap();
    let sent: Vec<bool> = fake
        .requests()
        .iter()
        .map(|request| request.headers.contains_key(header::AUTHORIZATION))
        .collect();
    assert_eq!(sent, [false, true, true]);
}

#[tokio::test]
async fn a_wrong_password_is_tried_once() {
    let fake = start().await;
    fake.set_access(Access::Basic(LOGIN.0, LOGIN.1));
    let upstream = open(with_password(&fake, (LOGIN.0, "wrong")));
    let error = upstream.head_manifest(&repository(), &v1()).await.unwrap_err();
    assert!(matches!(error, Error::Denied { status: 401, .. }), "{error:?}");
    assert_eq!(fake.requests().len(), 2);
}

#[tokio::test]
async fn without_credentials_a_challenge_is_the_end() {
    let fake = start().await;
    fake.set_access(Access::Basic(LOGIN.0, LOGIN.1));
    let upstream = open(config(fake.url()));
    let error = upstream.head_manifest(&repository(), &v1()).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test]
async fn a_token_is_fetched_anonymously_and_used_again() {
    let fake = start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(100));
    fake.set_access(Access::Token(TokenServer::default()));
    let upstream = open(config(fake.url()));
    upstream.head_manifest(&repository(), &v1()).await.unwrap();
    upstream.fetch_manifest(&repository(), &v1(), 1000).await.unwrap();
    let blob = upstream.open_blob(&repository(), &digest, 0).await.unwrap();
    assert_eq!(read(blob).await.unwrap(), pattern(100));
    assert_eq!(fake.count("GET", "/token"), 1);
    assert_eq!(fake.count("HEAD", MANIFEST_PATH), 2);
    assert_eq!(fake.count("GET", MANIFEST_PATH), 1);
    let requests = fake.requests();
    let token = requests.iter().find(|request| request.path == "/token").unwrap();
    assert_eq!(token.query, "service=fake&scope=repository%3Ateam%2Fapp%3Apull");
    assert!(!token.headers.contains_key(header::AUTHORIZATION));
}

#[tokio::test]
async fn each_repository_has_a_token_of_its_own() {
    let fake = start().await;
    fake.put_manifest("other", Some("v1"), MANIFEST, "{}");
    fake.set_access(Access::Token(TokenServer::default()));
    let upstream = open(config(fake.url()));
    upstream.head_manifest(&repository(), &v1()).await.unwrap();
    upstream.head_manifest(&"other".parse().unwrap(), &v1()).await.unwrap();
    upstream.head_manifest(&repository(), &v1()).await.unwrap();
    assert_eq!(fake.count("GET", "/token"), 2);
}

#[tokio::test]
async fn a_password_goes_to_the_token_server_and_not_to_the_registry() {
    let fake = start().await;
    let server = TokenServer { login: Some(LOGIN), ..TokenServer::default() };
    fake.set_access(Access::Token(server));
    let upstream = open(with_password(&fake, LOGIN));
    upstream.head_manifest(&repository(), &v1()).await.unwrap();
    for request in fake.requests() {
        let sent = request.headers.get(header::AUTHORIZATION).map(|sent| sent.to_str().unwrap());
        match request.path.as_str() {
            "/token" => {
                assert_eq!(sent, Some("Basic YWxpY2U6czNjcmV0"));
                assert!(request.query.ends_with("&account=alice"), "{}", request.query);
            }
            _ => assert!(sent.is_none_or(|sent| sent.starts_with("Bearer ")), "{sent:?}"),
        }
    }
}

#[tokio::test]
async fn a_token_that_is_used_up_is_renewed_once() {
    let fake = start().await;
    fake.set_access(Access::Token(TokenServer { uses: Some(2), ..TokenServer::default() }));
    let upstream = open(config(fake.url()));
    for _ in 0..5 {
        upstream.head_manifest(&repository(), &v1()).await.unwrap();
    }
    // Challenged at first, and after every second request.
    assert_eq!(fake.count("HEAD", MANIFEST_PATH), 8);
    assert_eq!(fake.count("GET", "/token"), 3);
    fake.set_access(Access::Token(TokenServer { uses: Some(0), ..TokenServer::default() }));
    let error = upstream.head_manifest(&repository(), &v1()).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert_eq!(fake.count("GET", "/token"), 4);
}

#[tokio::test]
async fn an_expired_token_is_renewed_before_it_is_refused() {
    let fake = start().await;
    fake.set_access(Access::Token(TokenServer { expires_in: Some(1), ..TokenServer::default() }));
    let upstream = open(config(fake.url()));
    upstream.head_manifest(&repository(), &v1()).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    upstream.head_manifest(&repository(), &v1()).await.unwrap();
    assert_eq!(fake.count("GET", "/token"), 2);
    assert_eq!(fake.count("HEAD", MANIFEST_PATH), 3);
}

#[tokio::test]
async fn a_crowd_fetches_one_token() {
    let fake = start().await;
    fake.set_access(Access::Token(TokenServer::default()));
    fake.script(Script::new(Fault::Hang).on("GET /token"));
    let upstream = open(config(fake.url()));
    let (repository, v1) = (repository(), v1());
    let crowd =
        futures_util::future::join_all((0..20).map(|_| upstream.head_manifest(&repository, &v1)));
    let release = async {
        // Everyone has been challenged, so everyone wants a token.
        fake.until_asked("HEAD", MANIFEST_PATH, 20).await;
        fake.until_asked("GET", "/token", 1).await;
        fake.release();
    };
    let (heads, ()) = tokio::join!(crowd, release);
    assert!(heads.iter().all(Result::is_ok), "{heads:?}");
    assert_eq!(fake.count("GET", "/token"), 1);
}

#[tokio::test]
async fn a_token_server_that_fails_once_is_asked_again() {
    let fake = start().await;
    fake.set_access(Access::Token(TokenServer::default()));
    fake.script(Script::new(Fault::Status(503)).on("GET /token").times(1));
    let upstream = open(config(fake.url()));
    upstream.head_manifest(&repository(), &v1()).await.unwrap();
    assert_eq!(fake.count("GET", "/token"), 2);
}

#[tokio::test]
async fn what_a_token_server_answers_wrongly_is_told() {
    let fake = start().await;
    fake.set_access(Access::Token(TokenServer { login: Some(LOGIN), ..TokenServer::default() }));
    let upstream = open(config(fake.url()));
    let error = upstream.head_manifest(&repository(), &v1()).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    fake.script(Script::new(Fault::Status(200)).on("GET /token"));
    let error = upstream.head_manifest(&repository(), &v1()).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
}

#[tokio::test]
async fn credentials_are_not_given_to_a_stranger() {
    let fake = start().await;
    let stranger = FakeUpstream::start().await;
    // The same machine under another name.
    let realm = format!("{}/token", stranger.url().replace("127.0.0.1", "localhost"));
    let server = || TokenServer { realm: Some(realm.clone()), ..TokenServer::default() };
    fake.set_access(Access::Token(server()));
    let upstream = open(with_password(&fake, LOGIN));
    let error = upstream.head_manifest(&repository(), &v1()).await.unwrap_err();
    assert!(matches!(&error, Error::Realm { host, .. } if host.contains("localhost")), "{error:?}");
    assert_eq!(stranger.requests().len(), 0);
    let mut config = with_password(&fake, LOGIN);
    config.auth_hosts = vec!["localhost".to_owned()];
    let upstream = open(config);
    let _no_token = upstream.head_manifest(&repository(), &v1()).await.unwrap_err();
    assert_eq!(stranger.count("GET", "/token"), 1);
}

#[tokio::test]
async fn a_fixed_token_is_sent_as_it_is_and_to_nobody_else() {
    let fake = start().await;
    let credentials = CredentialsConfig::Token(Secret::new("t0ken".to_owned()));
    let upstream = open(UpstreamConfig { credentials, ..config(fake.url()) });
    upstream.head_manifest(&repository(), &v1()).await.unwrap();
    assert_eq!(fake.requests()[0].headers[header::AUTHORIZATION], "Bearer t0ken");
    fake.set_access(Access::Token(TokenServer::default()));
    let error = upstream.head_manifest(&repository(), &v1()).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert_eq!(fake.count("GET", "/token"), 0);
}

#[tokio::test]
async fn nothing_that_is_printed_shows_a_secret() {
    let fake = start().await;
    let server = TokenServer { login: Some(LOGIN), ..TokenServer::default() };
    fake.set_access(Access::Token(server));
    let config = with_password(&fake, LOGIN);
    assert!(!format!("{config:?}").contains(LOGIN.1));
    let upstream = open(config);
    upstream.head_manifest(&repository(), &v1()).await.unwrap();
    let printed = format!("{upstream:?}");
    assert!(printed.contains("fake"));
    for secret in [LOGIN.1, "YWxpY2U6czNjcmV0", "token-1"] {
        assert!(!printed.contains(secret), "{secret} in {printed}");
    }
}
