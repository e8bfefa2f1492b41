//! Mounting blobs from one repository into another (end-11).

use crate::{
    client::{Answer, with_query},
    content::{Hash, pattern, sha256, unknown_digest},
    node::{Backend, TestNode},
};

on_both_backends! {
    a_blob_is_mounted_from_another_repository,
    a_blob_is_mounted_from_wherever_it_is,
    a_mount_of_a_missing_blob_begins_an_upload,
    a_mount_from_a_repository_without_the_blob_begins_an_upload,
    a_mount_with_malformed_parameters_is_refused,
    a_mounted_blob_outlives_its_source,
    a_mount_into_the_same_repository_is_a_mount,
}

async fn mount(node: &TestNode, digest: &str, from: &str) -> Answer {
    let target = format!("/v2/to/blobs/uploads/?mount={digest}");
    let target = if from.is_empty() { target } else { with_query(&target, from) };
    node.post(&target).send().await
}

/// The mount must have begun an upload that works.
async fn assert_upload(node: &TestNode, answer: &Answer) {
    assert_eq!(answer.status, 202, "{answer:?}");
    let digest = sha256(b"after all");
    let target = with_query(&answer.location(), &format!("digest={digest}"));
    node.put(&target, "after all").expect(201).await;
    assert_eq!(node.pull_blob("to", &digest).await, "after all");
}

async fn a_blob_is_mounted_from_another_repository(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    for hash in Hash::ALL {
        let bytes = pattern(500, 1);
        let digest = hash.of(&bytes);
        let target = with_query(&node.begin_upload("from/here").await, &format!("digest={digest}"));
        node.put(&target, bytes.clone()).expect(201).await;
        assert_eq!(node.status_of(&format!("/v2/to/blobs/{digest}")).await, 404);
        let mounted = mount(&node, &digest.replace(':', "%3A"), "from=from%2Fhere").await;
        assert_eq!(mounted.status, 201, "{mounted:?}");
        assert_eq!(mounted.header("docker-content-digest"), digest);
        assert!(mounted.location().contains("/v2/to/blobs/"), "{mounted:?}");
        assert_eq!(node.get(&mounted.location()).expect(200).await.body, bytes);
    }
}

async fn a_blob_is_mounted_from_wherever_it_is(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(500, 1);
    let digest = node.push_blob("somewhere", &bytes).await;
    let mounted = mount(&node, &digest, "").await;
    assert_eq!(mounted.status, 201, "{mounted:?}");
    assert_eq!(node.get(&mounted.location()).expect(200).await.body, bytes);
}

async fn a_mount_of_a_missing_blob_begins_an_upload(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    assert_upload(&node, &mount(&node, &unknown_digest(), "").await).await;
    assert_upload(&node, &mount(&node, &unknown_digest(), "from=nowhere").await).await;
}

async fn a_mount_from_a_repository_without_the_blob_begins_an_upload(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let digest = node.push_blob("one", &pattern(500, 1)).await;
    node.push_blob("other", &pattern(500, 2)).await;
    assert_upload(&node, &mount(&node, &digest, "from=other").await).await;
    assert_eq!(node.status_of(&format!("/v2/to/blobs/{digest}")).await, 404);
}

async fn a_mount_with_malformed_parameters_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let answer = mount(&node, "sha256:bad", "from=a").await;
    assert_eq!(
        (answer.status, &answer.json()["errors"][0]["code"]),
        (400, &"DIGEST_INVALID".into())
    );
    let answer = mount(&node, &unknown_digest(), "from=UPPER").await;
    assert_eq!((answer.status, &answer.json()["errors"][0]["code"]), (400, &"NAME_INVALID".into()));
}

async fn a_mounted_blob_outlives_its_source(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(500, 1);
    let digest = node.push_blob("one", &bytes).await;
    assert_eq!(mount(&node, &digest, "from=one").await.status, 201);
    node.delete(&format!("/v2/one/blobs/{digest}")).expect(202).await;
    assert_eq!(node.status_of(&format!("/v2/one/blobs/{digest}")).await, 404);
    assert_eq!(node.pull_blob("to", &digest).await, bytes);
}

async fn a_mount_into_the_same_repository_is_a_mount(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let digest = node.push_blob("to", &pattern(500, 1)).await;
    assert_eq!(mount(&node, &digest, "from=to").await.status, 201);
}
