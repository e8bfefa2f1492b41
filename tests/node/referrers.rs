//! Listing referrers (end-12), beside what the data sets cover.

use std::{fs, path::PathBuf};

use bytes::Bytes;
use serde_json::Value;

use crate::{
    client::Answer,
    content::{
        ARTIFACT, EMPTY, INDEX, MANIFEST, describe, descriptor, image, index, referrer, sha256,
        sha512, small_index, text, unknown_digest,
    },
    node::{Backend, TestNode},
};

on_both_backends! {
    what_nobody_refers_to_has_an_empty_list,
    a_malformed_digest_is_refused,
    a_filter_leaves_the_others_out,
    an_artifact_type_falls_back_to_the_configuration,
    a_filter_for_no_type_finds_what_names_none,
    annotations_are_copied,
    a_long_list_comes_in_pages,
    pages_keep_the_filter,
    a_deleted_referrer_is_gone_at_once,
    a_deleted_referrer_is_gone_on_every_node,
    a_subject_may_be_deleted_and_come_back,
    referrers_belong_to_their_repository,
    a_new_referrer_is_seen_on_every_node_at_once,
    referrers_survive_a_restart,
    a_tree_of_another_registry_is_understood,
    a_broken_index_is_built_anew,
    a_broken_manifest_does_not_hide_the_others,
    a_subject_by_sha512_is_found_by_sha512,
}

const NAME: &str = "refer/here";

fn target(digest: &str) -> String {
    format!("/v2/{NAME}/referrers/{digest}")
}

/// A subject that is pushed, and the descriptor of it.
async fn subject(node: &TestNode) -> (Value, String) {
    let manifest = small_index("subject");
    node.push_manifest(NAME, "subject", &manifest).await;
    (describe(INDEX, &manifest), sha256(&manifest))
}

fn digests(answer: &Answer) -> Vec<String> {
    let body = answer.json();
    let manifests = body["manifests"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
    manifests.iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
}

async fn listed(node: &TestNode, target: &str) -> Vec<String> {
    let answer = node.get(target).expect(200).await;
    assert_eq!(answer.header("content-type"), INDEX);
    digests(&answer)
}

async fn push_referrer(node: &TestNode, subject: &Value, kind: &str, note: &str) -> String {
    let manifest = referrer(subject, kind, note);
    let digest = sha256(&manifest);
    node.push_manifest(NAME, &digest, &manifest).await;
    digest
}

async fn what_nobody_refers_to_has_an_empty_list(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (_, digest) = subject(&node).await;
    for digest in [digest, unknown_digest(), sha512(b"never pushed")] {
        for name in [NAME, "never/seen"] {
            let answer = node.get(&format!("/v2/{name}/referrers/{digest}")).expect(200).await;
            assert_eq!(answer.header("content-type"), INDEX);
            let expected = serde_json::json!(
                { "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }
            );
            assert_eq!(answer.json(), expected);
            let head = node.head(&target(&digest)).expect(200).await;
            assert_eq!(head.header("content-type"), INDEX);
        }
    }
}

async fn a_malformed_digest_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    for digest in ["sha256:baddigeststring", "latest", "sha256:", "md5:00", ""] {
        node.get(&target(digest)).refused(400, "DIGEST_INVALID").await;
    }
}

async fn a_filter_leaves_the_others_out(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (subject, digest) = subject(&node).await;
    let one = push_referrer(&node, &subject, ARTIFACT, "1").await;
    let two = push_referrer(&node, &subject, "text/plain", "2").await;
    let mut both = vec![one.clone(), two.clone()];
    both.sort_unstable();
    assert_eq!(listed(&node, &target(&digest)).await, both);
    // A plus sign may be encoded or not: media types have them, and clients forget.
    let plain = ARTIFACT.to_owned();
    let encoded = ARTIFACT.replace('+', "%2B").replace('/', "%2F");
    for (filter, expected) in [
        (plain, vec![one.clone()]),
        (encoded, vec![one]),
        ("text/plain".into(), vec![two]),
        ("x/y".into(), vec![]),
    ] {
        let answer =
            node.get(&format!("{}?artifactType={filter}", target(&digest))).expect(200).await;
        assert_eq!(answer.header("oci-filters-applied"), "artifactType", "{filter}");
        assert_eq!(digests(&answer), expected, "{filter}");
    }
}

async fn an_artifact_type_falls_back_to_the_configuration(backend: Backend) {
    let node = TestNode::start(backend, "registry: {references: sparse}").await;
    let (subject, digest) = subject(&node).await;
    let config = descriptor("application/vnd.example.config.v1+json", &unknown_digest(), 2);
    let mut by_config = image(&config, &[]);
    let mut empty_config = image(&descriptor(EMPTY, &unknown_digest(), 2), &[]);
    let mut own = image(&config, &[]);
    own["artifactType"] = ARTIFACT.into();
    let mut blank = image(&config, &[]);
    blank["artifactType"] = "".into();
    blank["annotations"]["note"] = "not the one without".into();
    let cases = [
        (&mut by_config, "application/vnd.example.config.v1+json"),
        (&mut empty_config, EMPTY),
        (&mut own, ARTIFACT),
        (&mut blank, "application/vnd.example.config.v1+json"),
    ];
    for (manifest, expected) in cases {
        manifest["subject"] = subject.clone();
        let manifest = text(manifest);
        node.push_manifest(NAME, "v1", &manifest).await;
        let listed = node.get(&target(&digest)).expect(200).await.json();
        let listed = listed["manifests"].as_array().unwrap();
        let entry = listed.iter().find(|entry| entry["digest"] == sha256(&manifest)).unwrap();
        assert_eq!(entry["artifactType"], expected, "{entry:#?}");
        assert_eq!(entry["mediaType"], MANIFEST);
    }
}

async fn a_filter_for_no_type_finds_what_names_none(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (subject, digest) = subject(&node).await;
    push_referrer(&node, &subject, ARTIFACT, "1").await;
    let mut silent = index(&[]);
    silent["subject"] = subject;
    let silent = text(&silent);
    node.push_manifest(NAME, &sha256(&silent), &silent).await;
    let all = node.get(&target(&digest)).expect(200).await.json();
    let entry = all["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["digest"] == sha256(&silent));
    assert_eq!(entry.unwrap().get("artifactType"), None, "an index without one has none");
    // The specification's program asks for the type of each referrer, also where that is empty.
    let answer = node.get(&format!("{}?artifactType=", target(&digest))).expect(200).await;
    assert_eq!(answer.header("oci-filters-applied"), "artifactType");
    assert_eq!(digests(&answer), [sha256(&silent)]);
}

async fn annotations_are_copied(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (subject, digest) = subject(&node).await;
    let mut manifest = index(&[]);
    manifest["subject"] = subject;
    manifest["annotations"] = serde_json::json!({ "a": "", "b/c": "\u{1f986}\n\"", "org.opencontainers.image.created": "x" });
    node.push_manifest(NAME, "v1", &text(&manifest)).await;
    let listed = node.get(&target(&digest)).expect(200).await.json();
    assert_eq!(listed["manifests"][0]["annotations"], manifest["annotations"]);
}

/// Follows links to the end; returns every digest, and how many pages there were.
async fn all_pages(node: &TestNode, first: String) -> (Vec<String>, usize) {
    let (mut found, mut count, mut next) = (Vec::new(), 0, Some(first));
    while let Some(target) = next {
        let answer = node.get(&target).expect(200).await;
        found.extend(digests(&answer));
        (count, next) = (count + 1, answer.next_page());
        assert!(count < 100, "the links lead nowhere");
    }
    (found, count)
}

async fn a_long_list_comes_in_pages(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (subject, digest) = subject(&node).await;
    let mut expected = Vec::new();
    for number in 0..7 {
        expected.push(push_referrer(&node, &subject, ARTIFACT, &number.to_string()).await);
    }
    expected.sort_unstable();
    for (n, count) in [(1, 7), (2, 4), (3, 3), (7, 1), (8, 1)] {
        let (found, pages) = all_pages(&node, format!("{}?n={n}", target(&digest))).await;
        assert_eq!((&found, pages), (&expected, count), "n={n}");
    }
    assert_eq!(all_pages(&node, target(&digest)).await, (expected, 1));
}

async fn pages_keep_the_filter(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (subject, digest) = subject(&node).await;
    let mut expected = Vec::new();
    for number in 0..5 {
        expected.push(push_referrer(&node, &subject, ARTIFACT, &number.to_string()).await);
        push_referrer(&node, &subject, "text/plain", &number.to_string()).await;
    }
    expected.sort_unstable();
    let first = format!("{}?artifactType={ARTIFACT}&n=2", target(&digest));
    assert_eq!(all_pages(&node, first).await, (expected, 3));
}

async fn a_deleted_referrer_is_gone_at_once(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (subject, digest) = subject(&node).await;
    let one = push_referrer(&node, &subject, ARTIFACT, "1").await;
    let two = push_referrer(&node, &subject, ARTIFACT, "2").await;
    assert_eq!(listed(&node, &target(&digest)).await.len(), 2);
    node.delete(&format!("/v2/{NAME}/manifests/{one}")).expect(202).await;
    assert_eq!(listed(&node, &target(&digest)).await, [two]);
    push_referrer(&node, &subject, ARTIFACT, "1").await;
    assert_eq!(listed(&node, &target(&digest)).await.len(), 2);
}

async fn a_deleted_referrer_is_gone_on_every_node(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let other = node.sibling().await;
    let (subject, digest) = subject(&node).await;
    let one = push_referrer(&node, &subject, ARTIFACT, "1").await;
    assert_eq!(listed(&other, &target(&digest)).await, [one.as_str()]);
    node.delete(&format!("/v2/{NAME}/manifests/{one}")).expect(202).await;
    assert_eq!(listed(&other, &target(&digest)).await, [""; 0]);
}

async fn a_subject_may_be_deleted_and_come_back(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (subject_descriptor, digest) = subject(&node).await;
    let one = push_referrer(&node, &subject_descriptor, ARTIFACT, "1").await;
    node.delete(&format!("/v2/{NAME}/manifests/{digest}")).expect(202).await;
    assert_eq!(listed(&node, &target(&digest)).await, [one.as_str()]);
    subject(&node).await;
    assert_eq!(listed(&node, &target(&digest)).await, [one]);
}

async fn referrers_belong_to_their_repository(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (subject, digest) = subject(&node).await;
    push_referrer(&node, &subject, ARTIFACT, "1").await;
    for other in ["refer", "refer/here/below", "other"] {
        node.push_manifest(other, "v1", &small_index("subject")).await;
        let target = format!("/v2/{other}/referrers/{digest}");
        assert_eq!(listed(&node, &target).await, [""; 0], "{other}");
    }
}

async fn a_new_referrer_is_seen_on_every_node_at_once(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let other = node.sibling().await;
    let (subject, digest) = subject(&node).await;
    let mut expected = Vec::new();
    for round in 0..5 {
        let (writer, reader) = if round % 2 == 0 { (&node, &other) } else { (&other, &node) };
        expected.push(push_referrer(writer, &subject, ARTIFACT, &round.to_string()).await);
        expected.sort_unstable();
        assert_eq!(listed(reader, &target(&digest)).await, expected, "round {round}");
    }
}

async fn referrers_survive_a_restart(backend: Backend) {
    let mut node = TestNode::start(backend, "").await;
    let (subject, digest) = subject(&node).await;
    let one = push_referrer(&node, &subject, ARTIFACT, "1").await;
    node.restart().await;
    let first = node.get(&target(&digest)).expect(200).await;
    node.restart().await;
    let second = node.get(&target(&digest)).expect(200).await;
    assert_eq!((digests(&first), first.body), (vec![one], second.body));
}

/// Writes a manifest as docker-registry does, with nothing of ours beside it.
fn plant(node: &TestNode, manifest: &Bytes) -> String {
    let digest = sha256(manifest);
    let hex = &digest["sha256:".len()..];
    let write = |path: String, bytes: &[u8]| {
        let path: PathBuf = node.files().join("docker/registry/v2").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    write(format!("blobs/sha256/{}/{hex}/data", &hex[..2]), manifest);
    let revision = format!("repositories/{NAME}/_manifests/revisions/sha256/{hex}/link");
    write(revision, digest.as_bytes());
    digest
}

async fn a_tree_of_another_registry_is_understood(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let subject_bytes = small_index("subject");
    let subject = describe(INDEX, &subject_bytes);
    let digest = plant(&node, &subject_bytes);
    let mut expected: Vec<String> = (0..3)
        .map(|number| plant(&node, &referrer(&subject, ARTIFACT, &number.to_string())))
        .collect();
    expected.sort_unstable();
    assert_eq!(listed(&node, &target(&digest)).await, expected);
    // One comes and one goes while this node serves.
    let hex = expected.remove(1)["sha256:".len()..].to_owned();
    let revisions = format!("docker/registry/v2/repositories/{NAME}/_manifests/revisions/sha256");
    fs::remove_dir_all(node.files().join(revisions).join(hex)).unwrap();
    expected.push(plant(&node, &referrer(&subject, ARTIFACT, "late")));
    expected.sort_unstable();
    assert_eq!(listed(&node, &target(&digest)).await, expected);
}

async fn a_broken_index_is_built_anew(backend: Backend) {
    let mut node = TestNode::start(backend, "").await;
    let (subject, digest) = subject(&node).await;
    let one = push_referrer(&node, &subject, ARTIFACT, "1").await;
    listed(&node, &target(&digest)).await;
    let file = node.files().join(format!("millpond/v1/referrers/{NAME}/_index.json"));
    let good = fs::read(&file).expect("what was learnt is kept");
    let broken: [&[u8]; 6] =
        [b"", b"{", b"null", b"{\"without_subject\":7}", b"\xff\xfe", &good[..good.len() / 2]];
    for bytes in broken {
        fs::write(&file, bytes).unwrap();
        node.restart().await;
        let shown = String::from_utf8_lossy(bytes);
        assert_eq!(listed(&node, &target(&digest)).await, [one.as_str()], "{shown}");
        let again = fs::read(&file).unwrap();
        assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&good), "{shown}");
    }
    fs::remove_file(&file).unwrap();
    node.restart().await;
    assert_eq!(listed(&node, &target(&digest)).await, [one]);
}

async fn a_broken_manifest_does_not_hide_the_others(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (subject, digest) = subject(&node).await;
    let one = push_referrer(&node, &subject, ARTIFACT, "1").await;
    plant(&node, &Bytes::from_static(b"no manifest at all"));
    // Its link is there and its bytes are not.
    let lost = plant(&node, &referrer(&subject, ARTIFACT, "lost"));
    let hex = &lost["sha256:".len()..];
    let data = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    fs::remove_file(node.files().join(data)).unwrap();
    // Its bytes are not those of its digest.
    let rotten = plant(&node, &referrer(&subject, ARTIFACT, "rotten"));
    let hex = &rotten["sha256:".len()..];
    let data = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    fs::write(node.files().join(data), referrer(&subject, ARTIFACT, "changed")).unwrap();
    assert_eq!(listed(&node, &target(&digest)).await, [one]);
}

async fn a_subject_by_sha512_is_found_by_sha512(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let subject_bytes = small_index("subject");
    let digest = sha512(&subject_bytes);
    node.push_manifest(NAME, &digest, &subject_bytes).await;
    let subject = descriptor(INDEX, &digest, subject_bytes.len());
    let manifest = referrer(&subject, ARTIFACT, "1");
    node.push_manifest(NAME, &sha512(&manifest), &manifest).await;
    assert_eq!(listed(&node, &target(&digest)).await, [sha512(&manifest)]);
    assert_eq!(listed(&node, &target(&sha256(&subject_bytes))).await, [""; 0]);
}
