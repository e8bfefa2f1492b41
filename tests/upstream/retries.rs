//! Attempts: a few at each address, one address after the other, and never for long.

use std::time::Duration;

use millpond::upstream::{Error, UpstreamConfig};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    fake_upstream::{FakeUpstream, Fault, Script},
    fixture::{MANIFEST, REPOSITORY, SHORT, base, config, open, reference, repository},
};

const PATH: &str = "/v2/team/app/manifests/v1";

async fn start() -> FakeUpstream {
    let fake = FakeUpstream::start().await;
    fake.put_manifest(REPOSITORY, Some("v1"), MANIFEST, "{}");
    fake
}

/// An address where nobody listens.
async fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn with_addresses(urls: &[&str]) -> UpstreamConfig {
    UpstreamConfig { urls: urls.iter().map(|url| base(url)).collect(), ..config(urls[0]) }
}

async fn head(config: UpstreamConfig) -> Result<(), Error> {
    open(config).head_manifest(&repository(), &reference("v1")).await.map(|_| ())
}

#[tokio::test]
async fn what_fails_for_a_moment_is_asked_again_twice() {
    for fault in [Fault::Status(502), Fault::Status(503), Fault::Status(504), Fault::Disconnect] {
        let fake = start().await;
        fake.script(Script::new(fault.clone()).times(2));
        head(config(fake.url())).await.unwrap();
        assert_eq!(fake.count("HEAD", PATH), 3, "{fault:?}");
        fake.forget_requests();
        fake.script(Script::new(fault.clone()));
        let error = head(config(fake.url())).await.unwrap_err();
        assert!(error.is_retryable(), "{error:?}");
        assert_eq!(fake.count("HEAD", PATH), 3, "{fault:?}");
    }
}

#[tokio::test]
async fn what_will_not_change_is_asked_once() {
    for status in [400, 403, 404, 416, 429, 500, 501] {
        let fake = start().await;
        fake.script(Script::new(Fault::Status(status)));
        head(config(fake.url())).await.unwrap_err();
        assert_eq!(fake.count("HEAD", PATH), 1, "{status}");
    }
}

#[tokio::test]
async fn an_upstream_that_is_away_is_told_and_found_when_it_comes_back() {
    let fake = start().await;
    let upstream = open(config(fake.url()));
    let head = || async { upstream.head_manifest(&repository(), &reference("v1")).await };
    head().await.unwrap();
    fake.stop().await;
    let error = head().await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert!(error.is_retryable());
    fake.restart().await;
    head().await.unwrap();
}

#[tokio::test]
async fn the_next_address_is_asked_when_one_fails_and_first_from_then_on() {
    let (nowhere, broken, good) = (nowhere().await, start().await, start().await);
    broken.script(Script::new(Fault::Status(500)));
    let upstream = open(with_addresses(&[&nowhere, broken.url(), good.url()]));
    upstream.head_manifest(&repository(), &reference("v1")).await.unwrap();
    assert_eq!((broken.count("HEAD", PATH), good.count("HEAD", PATH)), (1, 1));
    upstream.head_manifest(&repository(), &reference("v1")).await.unwrap();
    assert_eq!((broken.count("HEAD", PATH), good.count("HEAD", PATH)), (1, 2));
}

#[tokio::test]
async fn an_address_that_answers_is_believed() {
    let (without, with) = (FakeUpstream::start().await, start().await);
    let error = head(with_addresses(&[without.url(), with.url()])).await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
    assert_eq!(with.requests().len(), 0);
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_costs_twice_its_time_at_most() {
    let fake = start().await;
    fake.script(Script::new(Fault::Hang));
    let mut config = with_addresses(&[fake.url(), fake.url(), fake.url()]);
    config.limits.response_timeout = SHORT;
    let upstream = open(config);
    let started = Instant::now();
    let error = upstream.head_manifest(&repository(), &reference("v1")).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert!(error.is_retryable());
    let taken = started.elapsed();
    assert!(taken >= SHORT && taken < 2 * SHORT + Duration::from_secs(2), "{taken:?}");
}

#[tokio::test]
async fn the_next_address_is_asked_when_one_hangs() {
    let (hanging, good) = (start().await, start().await);
    hanging.script(Script::new(Fault::Hang));
    let mut config = with_addresses(&[hanging.url(), good.url()]);
    config.limits.response_timeout = Duration::from_secs(2);
    head(config).await.unwrap();
    assert_eq!((hanging.count("HEAD", PATH), good.count("HEAD", PATH)), (1, 1));
}

#[tokio::test]
async fn an_address_that_failed_is_tried_once_until_it_answers() {
    let fake = start().await;
    let upstream = open(config(fake.url()));
    let head = || async { upstream.head_manifest(&repository(), &reference("v1")).await };
    fake.script(Script::new(Fault::Status(503)));
    for tried in [3, 4, 5] {
        head().await.unwrap_err();
        assert_eq!(fake.count("HEAD", PATH), tried);
    }
    fake.clear_scripts();
    head().await.unwrap();
    fake.script(Script::new(Fault::Status(503)).times(2));
    head().await.unwrap();
    assert_eq!(fake.count("HEAD", PATH), 9);
}

#[tokio::test]
async fn an_answer_that_comes_in_the_second_attempt_is_taken() {
    let fake = start().await;
    fake.script(Script::new(Fault::Hang).times(1));
    let mut config = config(fake.url());
    config.limits.response_timeout = Duration::from_secs(2);
    head(config).await.unwrap();
    assert_eq!(fake.count("HEAD", PATH), 2);
}
