//! Lists of mirrored repositories: tags and referrers.

use bytes::Bytes;
use millpond::oci::Digest;
use reqwest::Response;
use serde_json::{Value, json};

use crate::{
    fake_upstream::{Fault, Script},
    fixture::{MANIFEST_TYPE, Mirror, NAME, REPOSITORY, header, read, read_text, requests},
    node::Backend,
};

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

async fn json_of(answer: Response) -> Value {
    let (status, body) = read(answer).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

async fn tags_of(answer: Response) -> Vec<String> {
    serde_json::from_value(json_of(answer).await["tags"].take()).unwrap()
}

async fn digests_of(answer: Response) -> Vec<String> {
    let index = json_of(answer).await;
    let found = index["manifests"].as_array().unwrap().iter();
    found.map(|found| found["digest"].as_str().unwrap().to_owned()).collect()
}

fn is_stale(answer: &Response) -> bool {
    header(answer, "warning").starts_with("110 ")
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_come_from_the_upstream_page_by_page() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    // In the order of the specification `a-b` is behind `a`, and letters are behind figures.
    let all = ["1", "A", "a", "a-b", "a.b", "b"];
    all.iter().for_each(|tag| drop(mirror.put_image(tag, 10)));
    mirror.upstream.set_page(2);
    assert_eq!(tags_of(mirror.get("tags/list").await).await, all);
    assert_eq!(mirror.asked("GET", "tags/list"), 3);
    let page = mirror.get("tags/list?n=2").await;
    let next = format!("</v2/{NAME}/{REPOSITORY}/tags/list?last=A&n=2>; rel=\"next\"");
    assert_eq!(header(&page, "link"), next);
    assert_eq!(tags_of(page).await, all[..2]);
    assert_eq!(tags_of(mirror.get("tags/list?n=3&last=A").await).await, all[2..5]);
    let last = mirror.get("tags/list?n=3&last=a-b").await;
    assert_eq!(header(&last, "link"), "");
    assert_eq!(tags_of(last).await, all[4..]);
    assert!(tags_of(mirror.get("tags/list?n=0").await).await.is_empty());
    // One list for all pages.
    assert_eq!(mirror.asked("GET", "tags/list"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_page_is_of_the_same_registry() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    ["a", "b", "c"].iter().for_each(|tag| drop(mirror.put_image(tag, 10)));
    let base = mirror.node.url();
    let mut next = format!("/v2/{REPOSITORY}/tags/list?ns={NAME}&n=1");
    let mut found = Vec::new();
    for _ in 0..3 {
        let answer = mirror.node.http().get(format!("{base}{next}")).send().await.unwrap();
        let link = header(&answer, "link").to_owned();
        found.extend(tags_of(answer).await);
        next = link.trim_start_matches('<').split('>').next().unwrap().to_owned();
        assert!(next.is_empty() || next.contains(&format!("ns={NAME}")), "{link}");
    }
    assert_eq!((found.join(" ").as_str(), next.as_str()), ("a b c", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_listed_as_they_were_while_the_upstream_is_gone() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "tag_ttl: 0s").await;
        mirror.put_image("v1", 10);
        mirror.put_image("v2", 10);
        assert_eq!(mirror.get("manifests/v2").await.status(), 200);
        let listed = mirror.get("tags/list").await;
        assert!(!is_stale(&listed));
        assert_eq!(tags_of(listed).await, ["v1", "v2"]);
        mirror.assert_keeps_tag("v2").await;
        mirror.upstream.stop().await;
        let listed = mirror.get("tags/list").await;
        assert!(is_stale(&listed));
        assert_eq!(tags_of(listed).await, ["v1", "v2"]);
        // A node that has never seen the list has what is held.
        let upstream = mirror.upstream;
        let other = Mirror { upstream, node: mirror.node.sibling().await };
        let listed = other.get("tags/list").await;
        assert!(is_stale(&listed));
        assert_eq!(tags_of(listed).await, ["v2"]);
        other.upstream.restart().await;
        let listed = other.get("tags/list").await;
        assert!(!is_stale(&listed));
        assert_eq!(tags_of(listed).await, ["v1", "v2"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_of_a_repository_that_is_gone_upstream_are_not_listed() {
    let mirror = Mirror::start(Backend::Directory, "tag_ttl: 0s").await;
    mirror.put_image("v1", 10);
    assert_eq!(mirror.get("manifests/v1").await.status(), 200);
    // Never listed, and listed before.
    for _ in 0..2 {
        mirror.upstream.script(Script::new(Fault::Status(404)));
        let (status, body) = read_text(mirror.get("tags/list").await).await;
        assert_eq!((status, body.contains("NAME_UNKNOWN")), (404, true), "{body}");
        mirror.upstream.clear_scripts();
        assert_eq!(tags_of(mirror.get("tags/list").await).await, ["v1"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_that_nobody_knows_are_an_error_while_the_upstream_is_gone() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    mirror.upstream.stop().await;
    let (status, body) = read_text(mirror.get("tags/list").await).await;
    assert_eq!((status, body.contains(NAME)), (502, true), "{body}");
}

fn put_referrer(mirror: &Mirror, subject: &Digest, kind: &str) -> (String, Bytes) {
    let config = mirror.upstream.put_blob(REPOSITORY, Bytes::from_static(b"{}"));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "artifactType": kind, "layers": [],
        "config": {"mediaType": "application/json", "digest": config.to_string(), "size": 2},
        "subject": {"mediaType": MANIFEST_TYPE, "digest": subject.to_string(), "size": 1},
    });
    let bytes = Bytes::from(manifest.to_string());
    let digest = mirror.upstream.put_manifest(REPOSITORY, None, MANIFEST_TYPE, bytes.clone());
    (digest.to_string(), bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_come_from_the_upstream_and_are_filtered_here() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 10);
    let mut all: Vec<_> = ["sig/a", "sig/a+x", "sbom/b"]
        .into_iter()
        .map(|kind| (put_referrer(&mirror, &image.digest, kind).0, kind))
        .collect();
    all.sort();
    let path = format!("referrers/{}", image.digest);
    mirror.upstream.set_page(2);
    let listed: Vec<_> = all.iter().map(|(digest, _)| digest.clone()).collect();
    assert_eq!(digests_of(mirror.get(&path).await).await, listed);
    assert_eq!(mirror.asked("GET", &path), 2);
    let filtered = mirror.get(&format!("{path}?artifactType=sig/a%2Bx")).await;
    assert_eq!(header(&filtered, "oci-filters-applied"), "artifactType");
    let wanted = all.iter().find(|(_, kind)| *kind == "sig/a+x").unwrap();
    assert_eq!(digests_of(filtered).await, std::slice::from_ref(&wanted.0));
    let page = mirror.get(&format!("{path}?n=1")).await;
    assert!(header(&page, "link").contains("last=sha256"), "{}", header(&page, "link"));
    assert_eq!(digests_of(page).await, listed[..1]);
    // One list for all of that.
    assert_eq!(mirror.asked("GET", &path), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_of_an_upstream_without_the_api_come_from_their_tag() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 10);
    let (digest, manifest) = put_referrer(&mirror, &image.digest, "sig/a");
    mirror.upstream.without_referrers();
    let path = format!("referrers/{}", image.digest);
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX_TYPE,
        "manifests": [{
            "mediaType": MANIFEST_TYPE, "digest": digest, "size": manifest.len(),
            "artifactType": "sig/a",
        }],
    });
    let tag = image.digest.to_string().replace(':', "-");
    mirror.upstream.put_manifest(REPOSITORY, Some(&tag), INDEX_TYPE, index.to_string());
    assert_eq!(digests_of(mirror.get(&path).await).await, [digest]);
    // Neither the API nor a tag: there are none.
    let other = mirror.put_image("v22", 10);
    let none = mirror.get(&format!("referrers/{}", other.digest)).await;
    assert!(!is_stale(&none));
    assert!(digests_of(none).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_listed_as_they_were_while_the_upstream_is_gone() {
    let mirror = Mirror::start(Backend::Directory, "tag_ttl: 0s").await;
    let image = mirror.put_image("v1", 10);
    let (known, _) = put_referrer(&mirror, &image.digest, "sig/a");
    let (held, _) = put_referrer(&mirror, &image.digest, "sig/b");
    let path = format!("referrers/{}", image.digest);
    let mut both = vec![known, held.clone()];
    both.sort();
    assert_eq!(digests_of(mirror.get(&path).await).await, both);
    assert_eq!(mirror.get(&format!("manifests/{held}")).await.status(), 200);
    mirror.assert_keeps_manifest(&held.parse().expect("a digest")).await;
    mirror.upstream.stop().await;
    let listed = mirror.get(&path).await;
    assert!(is_stale(&listed));
    assert_eq!(digests_of(listed).await, both);
    // A node that has never seen the list has what is held, and does not say that there is nothing.
    let upstream = mirror.upstream;
    let other = Mirror { upstream, node: mirror.node.sibling().await };
    let listed = other.get(&path).await;
    assert!(is_stale(&listed));
    assert_eq!(digests_of(listed).await, [held]);
    let unknown = other.get(&format!("referrers/sha256:{}", "ab".repeat(32))).await;
    let (status, body) = read_text(unknown).await;
    assert_eq!((status, body.contains(NAME)), (502, true), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_may_be_stale_no_list_is() {
    let mirror = Mirror::start(Backend::Directory, "tag_ttl: 0s, max_stale: 0s").await;
    let image = mirror.put_image("v1", 10);
    let (held, _) = put_referrer(&mirror, &image.digest, "sig/a");
    let lists = ["tags/list".to_owned(), format!("referrers/{}", image.digest)];
    for path in ["manifests/v1".to_owned(), format!("manifests/{held}")].iter().chain(&lists) {
        assert_eq!(mirror.get(path).await.status(), 200, "{path}");
    }
    mirror.upstream.stop().await;
    for (path, kind) in lists.iter().zip(["tags", "referrers"]) {
        assert_eq!(mirror.get(path).await.status(), 502, "{path}");
        assert_eq!(mirror.metric(&requests(kind, "served")).await, 1, "{path}");
        assert_eq!(mirror.metric(&requests(kind, "failed")).await, 1, "{path}");
    }
}
