//! Manifests: what is asked, and what is made of the answer.

use http::header;
use millpond::upstream::Error;

use crate::{
    fake_upstream::{FakeUpstream, Fault, Script},
    fixture::{MANIFEST, REPOSITORY, config, named, open, reference, repository},
};

const LIMIT: u64 = 1 << 20;

#[tokio::test]
async fn a_manifest_comes_as_it_is_with_its_type_and_digest() {
    let fake = FakeUpstream::start().await;
    // Not canonical JSON: whatever touches it changes it.
    let bytes = b"{ \"schemaVersion\":2,\n\t\"x\" : 1.50}\n".to_vec();
    let digest = fake.put_manifest(REPOSITORY, Some("v1"), MANIFEST, bytes.clone());
    let upstream = open(config(fake.url()));
    for reference in [reference("v1"), reference(&digest.to_string())] {
        let fetched = upstream.fetch_manifest(&repository(), &reference, LIMIT).await.unwrap();
        assert_eq!(fetched.bytes, bytes);
        assert_eq!(fetched.content_type.as_deref(), Some(MANIFEST));
        assert_eq!(fetched.digest, Some(digest));
        let head = upstream.head_manifest(&repository(), &reference).await.unwrap();
        assert_eq!(head.digest, Some(digest));
        assert_eq!(head.size_bytes, Some(bytes.len() as u64));
        assert_eq!(head.content_type.as_deref(), Some(MANIFEST));
    }
    assert_eq!(fake.count("GET", "/v2/team/app/manifests/v1"), 1);
    assert_eq!(fake.count("HEAD", "/v2/team/app/manifests/v1"), 1);
}

#[tokio::test]
async fn what_is_accepted_stands_on_one_line_and_is_never_encoded() {
    let fake = FakeUpstream::start().await;
    fake.put_manifest(REPOSITORY, Some("v1"), MANIFEST, "{}");
    let upstream = open(config(fake.url()));
    upstream.fetch_manifest(&repository(), &reference("v1"), LIMIT).await.unwrap();
    upstream.head_manifest(&repository(), &reference("v1")).await.unwrap();
    for request in fake.requests() {
        let accepted: Vec<_> = request.headers.get_all(header::ACCEPT).iter().collect();
        assert_eq!(accepted.len(), 1, "{request:?}");
        let accepted = accepted[0].to_str().unwrap();
        for kind in [
            "docker.distribution.manifest.list.v2",
            "docker.distribution.manifest.v2",
            "oci.image.index.v1",
            "oci.image.manifest.v1",
        ] {
            assert!(accepted.contains(&format!("application/vnd.{kind}+json")), "{accepted}");
        }
        assert!(!accepted.contains('*'), "{accepted}");
        assert_eq!(request.headers[header::ACCEPT_ENCODING], "identity");
        assert!(request.headers[header::USER_AGENT].to_str().unwrap().starts_with("millpond/"));
        assert!(!request.headers.contains_key(header::AUTHORIZATION));
    }
}

#[tokio::test]
async fn a_manifest_beyond_the_limit_is_refused_with_and_without_a_length() {
    let fake = FakeUpstream::start().await;
    fake.put_manifest(REPOSITORY, Some("v1"), MANIFEST, vec![b' '; 1001]);
    let upstream = open(config(fake.url()));
    for fault in [None, Some(Fault::NoLength)] {
        fake.clear_scripts();
        if let Some(fault) = fault {
            fake.script(Script::new(fault));
        }
        let error =
            upstream.fetch_manifest(&repository(), &reference("v1"), 1000).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { limit_bytes: 1000, .. }), "{error:?}");
        let fetched = upstream.fetch_manifest(&repository(), &reference("v1"), 1001).await.unwrap();
        assert_eq!(fetched.bytes.len(), 1001);
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_from_what_is_denied_and_what_fails() {
    let fake = FakeUpstream::start().await;
    let upstream = open(config(fake.url()));
    let fetch =
        async || upstream.fetch_manifest(&repository(), &reference("v1"), LIMIT).await.unwrap_err();
    let error = fetch().await;
    assert!(error.is_not_found() && !error.is_retryable(), "{error:?}");
    assert_eq!((error.kind(), error.to_string().as_str()), ("not_found", "fake does not have it"));
    for (status, kind, is_retryable) in
        [(403, "denied", false), (400, "status", false), (500, "status", true)]
    {
        fake.clear_scripts();
        fake.script(Script::new(Fault::Status(status)));
        let error = fetch().await;
        assert_eq!((error.kind(), error.is_retryable()), (kind, is_retryable), "{error:?}");
        assert!(!error.is_not_found());
    }
}

#[tokio::test]
async fn an_encoded_manifest_is_refused() {
    let fake = FakeUpstream::start().await;
    fake.put_manifest(REPOSITORY, Some("v1"), MANIFEST, "{}");
    fake.script(Script::new(Fault::Header("content-encoding", "gzip".to_owned())).times(1));
    fake.script(Script::new(Fault::Header("content-encoding", "identity".to_owned())).skip(1));
    let upstream = open(config(fake.url()));
    let error = upstream.fetch_manifest(&repository(), &reference("v1"), LIMIT).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    upstream.fetch_manifest(&repository(), &reference("v1"), LIMIT).await.unwrap();
}

#[tokio::test]
async fn names_of_one_component_are_below_library_at_docker_hub_only() {
    let fake = FakeUpstream::start().await;
    let name = |text: &str| text.parse().unwrap();
    let hub = open(named("docker.io", fake.url()));
    assert_eq!(hub.remote_name(name("nginx")), name("library/nginx"));
    assert_eq!(hub.remote_name(name("team/app")), name("team/app"));
    let other = open(config(fake.url()));
    assert_eq!(other.remote_name(name("nginx")), name("nginx"));
    let longest = name(&"a".repeat(255));
    assert_eq!(hub.remote_name(longest.clone()), longest);
}

#[tokio::test]
async fn a_repository_that_may_not_be_mirrored_is_not_asked_for() {
    let fake = FakeUpstream::start().await;
    let mut config = config(fake.url());
    config.repositories.allow = vec!["team/*".parse().unwrap()];
    config.repositories.deny = vec!["team/secret".parse().unwrap()];
    let upstream = open(config);
    let digest = fake.put_blob("team/secret", "secret");
    for refused in ["other/app", "team/secret"] {
        let repository = refused.parse().unwrap();
        assert!(!upstream.allows(&repository));
        let errors = [
            upstream.fetch_manifest(&repository, &reference("v1"), LIMIT).await.unwrap_err(),
            upstream.head_manifest(&repository, &reference("v1")).await.unwrap_err(),
            upstream.open_blob(&repository, &digest, 0).await.unwrap_err(),
            upstream.stat_blob(&repository, &digest).await.unwrap_err(),
            upstream.tags(&repository).await.unwrap_err(),
            upstream.referrers(&repository, &digest).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        }
    }
    assert_eq!(fake.requests().len(), 0);
}
