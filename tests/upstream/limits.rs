//! Upstreams that want fewer requests, and limits of this side's own.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt;
use millpond::upstream::{Error, Upstream};

use crate::{
    fake_upstream::{Access, FakeUpstream, Fault, Script, TokenServer},
    fixture::{MANIFEST, REPOSITORY, SHORT, config, open, pattern, read, reference, repository},
};

const PATH: &str = "/v2/team/app/manifests/v1";

async fn start() -> FakeUpstream {
    let fake = FakeUpstream::start().await;
    fake.put_manifest(REPOSITORY, Some("v1"), MANIFEST, "{}");
    fake
}

async fn head(upstream: &Upstream) -> Result<(), Error> {
    upstream.head_manifest(&repository(), &reference("v1")).await.map(|_| ())
}

async fn get(upstream: &Upstream) -> Result<(), Error> {
    upstream.fetch_manifest(&repository(), &reference("v1"), 1000).await.map(|_| ())
}

fn wait(error: &Error) -> Duration {
    match error {
        Error::RateLimited { retry_after: Some(wait), .. } => *wait,
        other => panic!("not limited for a time: {other:?}"),
    }
}

#[tokio::test]
async fn after_429_nothing_is_asked_until_the_time_is_over() {
    let fake = start().await;
    fake.script(Script::new(Fault::RateLimit(Some("1".to_owned()))).times(1));
    let upstream = open(config(fake.url()));
    assert_eq!(wait(&get(&upstream).await.unwrap_err()), Duration::from_secs(1));
    let left = wait(&head(&upstream).await.unwrap_err());
    assert!(left <= Duration::from_secs(1));
    assert!(matches!(upstream.tags(&repository()).await, Err(Error::RateLimited { .. })));
    assert_eq!(fake.requests().len(), 1);
    tokio::time::sleep(left).await;
    head(&upstream).await.unwrap();
}

#[tokio::test]
async fn the_time_may_be_a_moment_or_not_be_told() {
    let fake = start().await;
    let upstream = open(config(fake.url()));
    let moment = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
    fake.script(Script::new(Fault::RateLimit(Some(moment))));
    let told = wait(&get(&upstream).await.unwrap_err());
    assert!(told > Duration::from_secs(60) && told <= Duration::from_secs(100), "{told:?}");
    fake.clear_scripts();
    fake.script(Script::new(Fault::RateLimit(None)));
    let upstream = open(config(fake.url()));
    let error = get(&upstream).await.unwrap_err();
    assert!(matches!(error, Error::RateLimited { retry_after: None, .. }), "{error:?}");
    let left = wait(&get(&upstream).await.unwrap_err());
    assert!(left > Duration::from_secs(20) && left <= Duration::from_secs(30), "{left:?}");
}

#[tokio::test]
async fn blobs_go_on_while_manifests_are_limited() {
    let fake = start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(100));
    let limit = Fault::RateLimit(Some("600".to_owned()));
    fake.script(Script::new(limit.clone()).on(format!("GET {PATH}")));
    let upstream = open(config(fake.url()));
    get(&upstream).await.unwrap_err();
    read(upstream.open_blob(&repository(), &digest, 0).await.unwrap()).await.unwrap();
    fake.script(Script::new(limit).on("GET /v2/team/app/blobs"));
    wait(&upstream.open_blob(&repository(), &digest, 0).await.unwrap_err());
    let asked = fake.requests().len();
    wait(&upstream.stat_blob(&repository(), &digest).await.unwrap_err());
    assert_eq!(fake.requests().len(), asked);
}

#[tokio::test]
async fn a_token_server_that_is_asked_too_much_is_left_alone_as_well() {
    let fake = start().await;
    fake.set_access(Access::Token(TokenServer::default()));
    let limit = Fault::RateLimit(Some("600".to_owned()));
    fake.script(Script::new(limit).on("GET /token"));
    let upstream = open(config(fake.url()));
    wait(&head(&upstream).await.unwrap_err());
    wait(&head(&upstream).await.unwrap_err());
    assert_eq!(fake.count("GET", "/token"), 1);
}

/// What Docker Hub says about how much is left of 100 in six hours.
fn left(count: u32) -> [Script; 2] {
    let header = |name, value| Script::new(Fault::Header(name, value));
    [
        header("ratelimit-limit", "100;w=21600".to_owned()),
        header("ratelimit-remaining", format!("{count};w=21600")),
    ]
}

#[tokio::test]
async fn with_nothing_left_manifests_are_only_looked_at() {
    let fake = start().await;
    let upstream = open(config(fake.url()));
    left(0).into_iter().for_each(|script| fake.script(script));
    get(&upstream).await.unwrap();
    let again = wait(&get(&upstream).await.unwrap_err());
    assert!(again > Duration::from_secs(100) && again <= Duration::from_secs(216), "{again:?}");
    head(&upstream).await.unwrap();
    assert_eq!((fake.count("GET", PATH), fake.count("HEAD", PATH)), (1, 1));
    fake.clear_scripts();
    left(50).into_iter().for_each(|script| fake.script(script));
    head(&upstream).await.unwrap();
    get(&upstream).await.unwrap();
}

#[tokio::test]
async fn with_little_left_manifests_come_one_after_the_other() {
    let fake = start().await;
    let upstream = open(config(fake.url()));
    left(5).into_iter().for_each(|script| fake.script(script));
    get(&upstream).await.unwrap();
    fake.script(Script::new(Fault::Hang).on(format!("GET {PATH}")));
    let crowd = futures_util::future::join_all((0..3).map(|_| get(&upstream)));
    let watch = async {
        fake.until_asked("GET", PATH, 2).await;
        // The others would have come by now.
        tokio::time::sleep(SHORT).await;
        assert_eq!(fake.count("GET", PATH), 2);
        fake.release();
    };
    let (got, ()) = tokio::join!(crowd, watch);
    assert!(got.iter().all(Result::is_ok), "{got:?}");
    assert_eq!(fake.count("GET", PATH), 4);
}

#[tokio::test]
async fn there_is_a_limit_to_connections_and_to_waiting_for_one() {
    let fake = start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(100_000));
    fake.script(Script::new(Fault::StallAfter(50_000)).on("GET /v2/team/app/blobs").times(1));
    let mut config = config(fake.url());
    config.limits.connections = 2;
    config.limits.response_timeout = SHORT;
    let upstream = open(config);
    let mut blob = upstream.open_blob(&repository(), &digest, 0).await.unwrap();
    blob.stream.next().await.unwrap().unwrap();
    let error = upstream.open_blob(&repository(), &digest, 0).await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error:?}");
    assert!(error.is_retryable());
    // One connection is kept free of blobs.
    head(&upstream).await.unwrap();
    drop(blob);
    read(upstream.open_blob(&repository(), &digest, 0).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_blob_that_was_read_gives_its_connection_back() {
    let fake = start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(10));
    let mut config = config(fake.url());
    config.limits.connections = 1;
    let upstream = Arc::clone(&open(config));
    for _ in 0..3 {
        read(upstream.open_blob(&repository(), &digest, 0).await.unwrap()).await.unwrap();
    }
}
