//! Lists: tags and referrers, page by page.

use millpond::{
    oci::{Algorithm, Digest},
    upstream::Error,
};
use serde_json::json;

use crate::{
    fake_upstream::{FakeUpstream, Fault, Script},
    fixture::{MANIFEST, REPOSITORY, config, open, repository},
};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const TAGS: &str = "/v2/team/app/tags/list";

fn subject() -> Digest {
    Digest::of(Algorithm::Sha256, b"subject")
}

fn referrers_path() -> String {
    format!("/v2/team/app/referrers/{}", subject())
}

#[tokio::test]
async fn all_pages_of_tags_are_read() {
    let fake = FakeUpstream::start().await;
    let tags: Vec<String> = (0..25).map(|number| format!("v{number:02}")).collect();
    for tag in &tags {
        fake.put_manifest(REPOSITORY, Some(tag), MANIFEST, "{}");
    }
    fake.set_page(10);
    let upstream = open(config(fake.url()));
    assert_eq!(upstream.tags(&repository()).await.unwrap(), tags);
    assert_eq!(fake.count("GET", TAGS), 3);
    let error = upstream.tags(&"other".parse().unwrap()).await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
}

#[tokio::test]
async fn a_link_to_another_host_is_asked_here() {
    let (fake, other) = (FakeUpstream::start().await, FakeUpstream::start().await);
    for tag in ["a", "b"] {
        fake.put_manifest(REPOSITORY, Some(tag), MANIFEST, "{}");
    }
    let link = format!("<{}{TAGS}?n=1&last=a>; rel=\"next\"", other.url());
    fake.set_page(1);
    fake.script(Script::new(Fault::Header("link", link)).times(1));
    let upstream = open(config(fake.url()));
    assert_eq!(upstream.tags(&repository()).await.unwrap(), ["a", "b"]);
    assert_eq!(other.requests().len(), 0);
}

#[tokio::test]
async fn a_link_out_of_the_repository_is_not_followed() {
    let fake = FakeUpstream::start().await;
    fake.put_manifest(REPOSITORY, Some("a"), MANIFEST, "{}");
    let upstream = open(config(fake.url()));
    for target in ["/v2/other/tags/list", "/admin", "/v2/team/app/../other/tags/list"] {
        fake.clear_scripts();
        fake.script(Script::new(Fault::Header("link", format!("<{target}>; rel=next"))));
        let error = upstream.tags(&repository()).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{target}: {error:?}");
    }
    assert_eq!(fake.count("GET", TAGS), 3);
    assert_eq!(fake.requests().len(), 3);
}

#[tokio::test]
async fn a_list_without_end_is_an_error() {
    let fake = FakeUpstream::start().await;
    fake.put_manifest(REPOSITORY, Some("a"), MANIFEST, "{}");
    fake.script(Script::new(Fault::Header("link", format!("<{TAGS}?n=1>; rel=next"))));
    let upstream = open(config(fake.url()));
    let error = upstream.tags(&repository()).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    assert_eq!(fake.count("GET", TAGS), 1000);
}

/// Artifacts of the subject, and their digests in order.
fn put_artifacts(fake: &FakeUpstream, count: usize) -> Vec<Digest> {
    let put = |number| {
        let artifact = json!({
            "schemaVersion": 2, "artifactType": "application/x",
            "subject": { "digest": subject().to_string() }, "number": number,
        });
        fake.put_manifest(REPOSITORY, None, MANIFEST, artifact.to_string())
    };
    let mut digests: Vec<Digest> = (0..count).map(put).collect();
    digests.sort();
    digests
}

#[tokio::test]
async fn all_pages_of_referrers_are_read() {
    let fake = FakeUpstream::start().await;
    let expected = put_artifacts(&fake, 5);
    fake.set_page(2);
    let upstream = open(config(fake.url()));
    let found = upstream.referrers(&repository(), &subject()).await.unwrap();
    assert_eq!(found.iter().map(|found| found.digest).collect::<Vec<_>>(), expected);
    assert!(found.iter().all(|found| found.media_type == MANIFEST));
    assert!(found.iter().all(|found| found.artifact_type.as_deref() == Some("application/x")));
    assert_eq!(fake.count("GET", &referrers_path()), 3);
}

#[tokio::test]
async fn an_empty_list_is_an_answer() {
    let fake = FakeUpstream::start().await;
    let upstream = open(config(fake.url()));
    assert_eq!(upstream.referrers(&repository(), &subject()).await.unwrap(), []);
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test]
async fn without_the_api_the_tag_that_stands_in_for_it_is_read() {
    let fake = FakeUpstream::start().await;
    fake.without_referrers();
    let upstream = open(config(fake.url()));
    assert_eq!(upstream.referrers(&repository(), &subject()).await.unwrap(), []);
    let artifact = Digest::of(Algorithm::Sha256, b"artifact");
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [{ "mediaType": MANIFEST, "digest": artifact.to_string(), "size": 7 }],
    });
    let tag = format!("sha256-{}", subject().hex());
    fake.put_manifest(REPOSITORY, Some(&tag), INDEX, index.to_string());
    let found = upstream.referrers(&repository(), &subject()).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].digest, found[0].size), (artifact, 7));
}

#[tokio::test]
async fn a_page_for_people_is_no_list_of_referrers() {
    let fake = FakeUpstream::start().await;
    put_artifacts(&fake, 1);
    fake.script(Script::new(Fault::Header("content-type", "text/html".to_owned())));
    let upstream = open(config(fake.url()));
    assert_eq!(upstream.referrers(&repository(), &subject()).await.unwrap(), []);
    assert_eq!(fake.requests().len(), 2);
}

#[tokio::test]
async fn referrers_that_are_denied_are_an_error() {
    let fake = FakeUpstream::start().await;
    fake.script(Script::new(Fault::Status(403)));
    let upstream = open(config(fake.url()));
    let error = upstream.referrers(&repository(), &subject()).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
}
