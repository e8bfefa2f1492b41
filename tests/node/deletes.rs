//! Deleting tags, manifests and blobs (end-9, end-10).

use std::time::Duration;

use crate::{
    content::{
        CONFIG, describe, image, pattern, sha256, sha512, small_index, text, unknown_digest,
    },
    node::{Backend, TestNode},
    raw::eventually,
    s3_server::{Action, Injection},
};

on_both_backends! {
    a_deleted_tag_leaves_its_manifest,
    a_deleted_manifest_takes_its_tags_along,
    a_tag_that_has_moved_on_stays,
    a_deleted_manifest_stays_in_other_repositories,
    a_deleted_blob_stays_in_other_repositories,
    what_is_absent_is_not_deleted,
    what_was_deleted_may_come_back,
    a_deletion_is_seen_at_once_whatever_was_read_before,
    a_deletion_is_believed_elsewhere_in_time,
    an_unknown_repository_is_unknown,
    nothing_is_deleted_where_that_is_switched_off,
    a_deleted_blob_cannot_be_referred_to,
    a_deleted_manifest_by_sha512_leaves_the_one_by_sha256,
}

const TAG: &str = "/v2/a/manifests/v1";

fn manifest_target(digest: &str) -> String {
    format!("/v2/a/manifests/{digest}")
}

async fn a_deleted_tag_leaves_its_manifest(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let manifest = small_index("x");
    for tag in ["v1", "v2"] {
        node.push_manifest("a", tag, &manifest).await;
    }
    let deleted = node.delete(TAG).expect(202).await;
    assert!(deleted.body.is_empty());
    node.get(TAG).refused(404, "MANIFEST_UNKNOWN").await;
    for left in ["v2", &sha256(&manifest)] {
        assert_eq!(node.get(&manifest_target(left)).expect(200).await.body, manifest);
    }
    let tags = node.get("/v2/a/tags/list").expect(200).await.json();
    assert_eq!(tags["tags"], serde_json::json!(["v2"]));
}

async fn a_deleted_manifest_takes_its_tags_along(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (gone, stays) = (small_index("gone"), small_index("stays"));
    for number in 0..5 {
        node.push_manifest("a", &format!("gone-{number}"), &gone).await;
        node.push_manifest("a", &format!("stays-{number}"), &stays).await;
    }
    node.delete(&manifest_target(&sha256(&gone))).expect(202).await;
    for number in 0..5 {
        assert_eq!(node.status_of(&manifest_target(&format!("gone-{number}"))).await, 404);
        assert_eq!(node.status_of(&manifest_target(&format!("stays-{number}"))).await, 200);
    }
    node.get(&manifest_target(&sha256(&gone))).refused(404, "MANIFEST_UNKNOWN").await;
    let tags = node.get("/v2/a/tags/list").expect(200).await.json();
    assert_eq!(tags["tags"].as_array().unwrap().len(), 5, "{tags}");
}

async fn a_tag_that_has_moved_on_stays(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (old, new) = (small_index("old"), small_index("new"));
    node.push_manifest("a", "v1", &old).await;
    node.push_manifest("a", "v1", &new).await;
    node.delete(&manifest_target(&sha256(&old))).expect(202).await;
    assert_eq!(node.get(TAG).expect(200).await.body, new);
}

async fn a_deleted_manifest_stays_in_other_repositories(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let manifest = small_index("x");
    for name in ["a", "b", "a/b"] {
        node.push_manifest(name, "v1", &manifest).await;
    }
    node.delete(&manifest_target(&sha256(&manifest))).expect(202).await;
    assert_eq!(node.status_of(TAG).await, 404);
    for name in ["b", "a/b"] {
        let get = node.get(&format!("/v2/{name}/manifests/v1")).expect(200).await;
        assert_eq!(get.body, manifest, "{name}");
    }
}

async fn a_deleted_blob_stays_in_other_repositories(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(100, 1);
    let digest = node.push_blob("a", &bytes).await;
    node.push_blob("b", &bytes).await;
    node.delete(&format!("/v2/a/blobs/{digest}")).expect(202).await;
    node.get(&format!("/v2/a/blobs/{digest}")).refused(404, "BLOB_UNKNOWN").await;
    assert_eq!(node.pull_blob("b", &digest).await, bytes);
}

async fn what_is_absent_is_not_deleted(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    node.push_manifest("a", "other", &small_index("x")).await;
    node.delete(TAG).refused(404, "MANIFEST_UNKNOWN").await;
    node.delete(&manifest_target(&unknown_digest())).refused(404, "MANIFEST_UNKNOWN").await;
    let blob = format!("/v2/a/blobs/{}", unknown_digest());
    node.delete(&blob).refused(404, "BLOB_UNKNOWN").await;
    // A manifest is no blob of the repository, though it is stored as one.
    let blob = format!("/v2/a/blobs/{}", sha256(&small_index("x")));
    node.delete(&blob).refused(404, "BLOB_UNKNOWN").await;
    assert_eq!(node.status_of("/v2/a/manifests/other").await, 200);
}

async fn what_was_deleted_may_come_back(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (manifest, blob) = (small_index("x"), pattern(100, 1));
    for _round in 0..3 {
        node.push_manifest("a", "v1", &manifest).await;
        let digest = node.push_blob("a", &blob).await;
        assert_eq!(node.get(TAG).expect(200).await.body, manifest);
        assert_eq!(node.pull_blob("a", &digest).await, blob);
        node.delete(&manifest_target(&sha256(&manifest))).expect(202).await;
        node.delete(&format!("/v2/a/blobs/{digest}")).expect(202).await;
        assert_eq!(node.status_of(TAG).await, 404);
        assert_eq!(node.status_of(&format!("/v2/a/blobs/{digest}")).await, 404);
    }
}

async fn a_deletion_is_seen_at_once_whatever_was_read_before(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let manifest = small_index("x");
    node.push_manifest("a", "v1", &manifest).await;
    let blob = format!("/v2/a/blobs/{}", node.push_blob("a", &pattern(100, 1)).await);
    let by_digest = manifest_target(&sha256(&manifest));
    for target in [TAG, &by_digest, &blob] {
        node.get(target).expect(200).await;
        node.head(target).expect(200).await;
    }
    for target in [TAG, &by_digest, &blob] {
        node.delete(target).expect(202).await;
        assert_eq!(node.status_of(target).await, 404, "{target}");
        assert_eq!(node.get(target).send().await.status, 404, "{target}");
        let known = node.get(target).header("if-none-match", "*").send().await;
        assert_eq!(known.status, 404, "{target}");
        assert_eq!(node.delete(target).send().await.status, 404, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_learnt_before_a_deletion_is_not_believed_after_it() {
    let pusher = TestNode::start(Backend::S3, "").await;
    let digest = pusher.push_blob("a", &pattern(100, 1)).await;
    let (node, blob) = (pusher.sibling().await, format!("/v2/a/blobs/{digest}"));
    node.s3().take_requests();
    // The link is read before the deletion, which waits for a second at most, and the answer comes after it.
    let slow = Injection::new(Action::DelayAnswer(Duration::from_secs(3)));
    node.s3().inject(slow.on("/_layers/").times(1));
    let early = tokio::spawn(node.head(&blob).send());
    let is_link = |line: &String| line.contains("/_layers/");
    let begun = || async { node.s3().take_requests().iter().any(is_link).then_some(()) };
    eventually("the link is read", begun).await;
    node.delete(&blob).expect(202).await;
    assert!(!early.is_finished(), "it was to come after the deletion");
    early.await.unwrap();
    assert_eq!(node.status_of(&blob).await, 404);
}

async fn a_deletion_is_believed_elsewhere_in_time(backend: Backend) {
    let node = TestNode::start(backend, "registry: {known_for: 100ms}").await;
    let other = node.sibling().await;
    let manifest = small_index("x");
    node.push_manifest("a", "v1", &manifest).await;
    let by_digest = manifest_target(&sha256(&manifest));
    let blob = format!("/v2/a/blobs/{}", node.push_blob("a", &pattern(100, 1)).await);
    for target in [&by_digest, &blob] {
        other.get(target).expect(200).await;
        node.delete(target).expect(202).await;
    }
    // Tags are never believed.
    assert_eq!(other.status_of(TAG).await, 404);
    for target in [&by_digest, &blob] {
        eventually("the other node looks again", || async {
            (other.status_of(target).await == 404).then_some(())
        })
        .await;
    }
}

async fn an_unknown_repository_is_unknown(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    for target in [TAG, &manifest_target(&unknown_digest())] {
        assert_eq!(node.delete(target).send().await.status, 404, "{target}");
    }
    assert_eq!(node.delete(&format!("/v2/a/blobs/{}", unknown_digest())).send().await.status, 404);
}

async fn nothing_is_deleted_where_that_is_switched_off(backend: Backend) {
    let node = TestNode::start(backend, "registry: {delete: false}").await;
    let manifest = small_index("x");
    node.push_manifest("a", "v1", &manifest).await;
    let blob = format!("/v2/a/blobs/{}", node.push_blob("a", &pattern(100, 1)).await);
    for target in [TAG, &manifest_target(&sha256(&manifest)), &blob] {
        let refused = node.delete(target).refused(405, "UNSUPPORTED").await;
        // RFC 9110, section 15.5.6: a 405 says what would be allowed.
        let allowed = refused.header("allow");
        assert!(allowed.contains("GET") && !allowed.contains("DELETE"), "{target}: {allowed}");
        assert_eq!(node.status_of(target).await, 200, "{target}");
    }
    // A session is the client's own to give up.
    let location = node.begin_upload("a").await;
    node.delete(&location).expect(204).await;
}

async fn a_deleted_blob_cannot_be_referred_to(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let config = pattern(100, 1);
    let digest = node.push_blob("a", &config).await;
    let manifest = text(&image(&describe(CONFIG, &config), &[]));
    node.push_manifest("a", "v1", &manifest).await;
    node.delete(&format!("/v2/a/blobs/{digest}")).expect(202).await;
    let put =
        node.put("/v2/a/manifests/v2", manifest).header("content-type", crate::content::MANIFEST);
    put.refused(400, "MANIFEST_BLOB_UNKNOWN").await;
}

async fn a_deleted_manifest_by_sha512_leaves_the_one_by_sha256(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let manifest = small_index("x");
    node.push_manifest("a", &format!("{}?tag=by512", sha512(&manifest)), &manifest).await;
    node.push_manifest("a", "by256", &manifest).await;
    node.delete(&manifest_target(&sha512(&manifest))).expect(202).await;
    assert_eq!(node.status_of(&manifest_target("by512")).await, 404);
    assert_eq!(node.get(&manifest_target("by256")).expect(200).await.body, manifest);
    assert_eq!(node.get(&manifest_target(&sha256(&manifest))).expect(200).await.body, manifest);
}
