//! What is counted.

use prometheus::{Registry, TextEncoder};

use crate::{
    fake_upstream::{Access, FakeUpstream, Fault, Script, TokenServer},
    fixture::{
        MANIFEST, REPOSITORY, config, named, open_metered, pattern, read, reference, repository,
        try_open,
    },
};

/// The lines of the metrics that have `part` in them.
fn lines(metrics: &Registry, part: &str) -> Vec<String> {
    let text = TextEncoder::new().encode_to_string(&metrics.gather()).unwrap();
    text.lines()
        .filter(|line| line.contains(part) && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn requests_are_counted_by_kind_and_outcome_and_bytes_as_they_come() {
    let fake = FakeUpstream::start().await;
    fake.set_access(Access::Token(TokenServer::default()));
    fake.put_manifest(REPOSITORY, Some("v1"), MANIFEST, "{}");
    let digest = fake.put_blob(REPOSITORY, pattern(1000));
    let (upstream, metrics) = open_metered(config(fake.url()));
    upstream.head_manifest(&repository(), &reference("v1")).await.unwrap();
    upstream.head_manifest(&repository(), &reference("v2")).await.unwrap_err();
    read(upstream.open_blob(&repository(), &digest, 0).await.unwrap()).await.unwrap();
    fake.script(Script::new(Fault::RateLimit(None)));
    upstream.tags(&repository()).await.unwrap_err();
    upstream.tags(&repository()).await.unwrap_err();
    let count = |kind: &str, outcome: &str, count: u64| {
        format!(
            "millpond_upstream_requests_total{{kind=\"{kind}\",outcome=\"{outcome}\",upstream=\"fake\"}} {count}"
        )
    };
    let expected = [
        count("blob", "ok", 1),
        count("manifest", "challenged", 1),
        count("manifest", "not_found", 1),
        count("manifest", "ok", 1),
        count("tags", "paused", 1),
        count("tags", "rate_limited", 1),
        count("token", "ok", 1),
    ];
    assert_eq!(lines(&metrics, "requests_total"), expected);
    let bytes = lines(&metrics, "bytes_total");
    let token_bytes = r#"{"access_token":"token-1"}"#.len();
    assert_eq!(
        bytes,
        [format!("millpond_upstream_bytes_total{{upstream=\"fake\"}} {}", 1000 + token_bytes)]
    );
    let timed = lines(&metrics, "request_seconds_count");
    assert_eq!(timed.len(), 4, "{timed:?}");
    let paused = lines(&metrics, "paused_seconds");
    let seconds: f64 = paused[0].rsplit(' ').next().unwrap().parse().unwrap();
    assert!(seconds > 20.0 && seconds <= 30.0, "{paused:?}");
}

#[tokio::test]
async fn what_is_left_of_a_limit_is_shown() {
    let fake = FakeUpstream::start().await;
    fake.put_manifest(REPOSITORY, Some("v1"), MANIFEST, "{}");
    let (upstream, metrics) = open_metered(config(fake.url()));
    assert_eq!(lines(&metrics, "ratelimit"), [""; 0]);
    fake.script(Script::new(Fault::Header("ratelimit-limit", "100;w=21600".to_owned())));
    fake.script(Script::new(Fault::Header("ratelimit-remaining", "76;w=21600".to_owned())));
    upstream.head_manifest(&repository(), &reference("v1")).await.unwrap();
    let expected = [
        "millpond_upstream_ratelimit_limit{upstream=\"fake\"} 100",
        "millpond_upstream_ratelimit_remaining{upstream=\"fake\"} 76",
    ];
    assert_eq!(lines(&metrics, "ratelimit"), expected);
}

#[tokio::test]
async fn bodies_that_break_are_counted() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(1000));
    fake.script(Script::new(Fault::CutAfter(500)));
    let (upstream, metrics) = open_metered(config(fake.url()));
    read(upstream.open_blob(&repository(), &digest, 0).await.unwrap()).await.unwrap_err();
    let expected = "millpond_upstream_body_errors_total{error=\"interrupted\",upstream=\"fake\"} 1";
    assert_eq!(lines(&metrics, "body_errors"), [expected]);
}

#[tokio::test]
async fn upstreams_are_found_by_name_and_alias_and_share_none() {
    let mut first = named("a.example", "http://127.0.0.1:1");
    first.aliases = vec!["b.example:5000".to_owned()];
    let second = named("docker.io", "http://127.0.0.1:1");
    let (upstreams, _) = try_open(vec![first.clone(), second]).unwrap();
    assert_eq!(upstreams.iter().count(), 2);
    for (asked, found) in [
        ("a.example", Some("a.example")),
        ("B.Example:5000", Some("a.example")),
        ("registry-1.docker.io", Some("docker.io")),
        ("index.docker.io", Some("docker.io")),
        ("b.example", None),
        ("", None),
    ] {
        let upstream = upstreams.named(asked);
        assert_eq!(upstream.as_ref().map(|upstream| upstream.name()), found, "{asked}");
    }
    let same = named("b.example:5000", "http://127.0.0.1:1");
    assert!(try_open(vec![first, same]).is_err());
}
