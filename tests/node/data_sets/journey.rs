//! What is done with a set, from its first push to its last deletion.

use serde_json::Value;

use super::sets::{DataSet, ManifestOfSet};
use crate::{
    blobs::{Style, push},
    content::INDEX,
    node::TestNode,
};

const NAME: &str = "conformance/repo1";

/// Pushes, lists, pulls and deletes the set.
pub(crate) async fn travel(node: &TestNode, set: &DataSet) {
    push_blobs(node, set).await;
    for manifest in &set.manifests {
        push_manifest(node, set, manifest).await;
    }
    list_tags(node, set).await;
    pull(node, set).await;
    for manifest in &set.manifests {
        if let Some(subject) = &manifest.subject {
            find_referrers(node, set, subject).await;
        }
    }
    delete(node, set).await;
}

fn manifest_target(reference: &str) -> String {
    format!("/v2/{NAME}/manifests/{reference}")
}

fn blob_target(digest: &str) -> String {
    format!("/v2/{NAME}/blobs/{digest}")
}

async fn push_blobs(node: &TestNode, set: &DataSet) {
    for (bytes, style) in set.blobs.iter().zip(Style::ALL.into_iter().cycle()) {
        let digest = set.hash.of(bytes);
        let answer = push(node, NAME, style, (&digest, bytes)).await;
        assert_eq!(answer.status, 201, "{style:?} of {digest}: {answer:?}");
        assert_eq!(&node.get(&answer.location()).expect(200).await.body, bytes, "{digest}");
    }
}

async fn push_manifest(node: &TestNode, set: &DataSet, manifest: &ManifestOfSet) {
    let digest = set.hash.of(&manifest.bytes);
    let mut references = vec![digest.clone()];
    if manifest.by_parameters {
        let query: Vec<String> = manifest.tags.iter().map(|tag| format!("tag={tag}")).collect();
        references = vec![format!("{digest}?{}", query.join("&"))];
    } else {
        references.extend(manifest.tags.iter().cloned());
    }
    for reference in references {
        let answer = node.push_manifest(NAME, &reference, &manifest.bytes).await;
        assert_eq!(answer.header("docker-content-digest"), digest, "{reference}");
        let subject: Vec<&str> = manifest.subject.iter().map(String::as_str).collect();
        assert_eq!(answer.header_all("oci-subject"), subject, "{reference}");
        if manifest.by_parameters {
            assert_eq!(answer.header_all("oci-tag"), manifest.tags, "{reference}");
        }
        let pulled = node.get(&answer.location()).header("accept", INDEX).expect(200).await;
        assert!(pulled.body == manifest.bytes, "{reference} came back otherwise");
    }
}

async fn list_tags(node: &TestNode, set: &DataSet) {
    let listed = node.get(&format!("/v2/{NAME}/tags/list")).expect(200).await.json();
    assert_eq!(listed["name"], NAME);
    let listed = listed["tags"].as_array().unwrap();
    for tag in set.manifests.iter().flat_map(|manifest| &manifest.tags) {
        assert!(listed.contains(&Value::from(tag.as_str())), "{tag} is not in {listed:?}");
    }
}

async fn pull(node: &TestNode, set: &DataSet) {
    for manifest in &set.manifests {
        let digest = set.hash.of(&manifest.bytes);
        for reference in manifest.tags.iter().chain([&digest]) {
            let target = manifest_target(reference);
            let head = node.head(&target).expect(200).await;
            let get = node.get(&target).expect(200).await;
            assert!(get.body == manifest.bytes, "{reference} came back otherwise");
            for answer in [head, get] {
                let length = manifest.bytes.len().to_string();
                assert_eq!(answer.header("content-length"), length, "{reference}");
                assert_eq!(answer.header("content-type"), manifest.media_type, "{reference}");
                assert_eq!(answer.header("docker-content-digest"), digest, "{reference}");
            }
        }
    }
    for bytes in &set.blobs {
        let target = blob_target(&set.hash.of(bytes));
        let head = node.head(&target).expect(200).await;
        assert_eq!(head.header("content-length"), bytes.len().to_string(), "{target}");
        assert_eq!(&node.get(&target).expect(200).await.body, bytes, "{target}");
    }
}

/// The referrers of `subject`, all and by each of their types.
async fn find_referrers(node: &TestNode, set: &DataSet, subject: &str) {
    let referrers: Vec<&ManifestOfSet> = set
        .manifests
        .iter()
        .filter(|manifest| manifest.subject.as_deref() == Some(subject))
        .collect();
    let target = format!("/v2/{NAME}/referrers/{subject}");
    let all = node.get(&target).expect(200).await;
    assert!(all.header_all("oci-filters-applied").is_empty());
    assert_listed(set, &all.json(), &referrers, subject);
    for wanted in referrers.iter().map(|referrer| &referrer.artifact_type) {
        let parameter = wanted.as_deref().unwrap_or_default().replace('+', "%2B");
        let answer = node.get(&format!("{target}?artifactType={parameter}")).expect(200).await;
        assert_eq!(answer.header("oci-filters-applied"), "artifactType", "{parameter:?}");
        let same = referrers.iter().filter(|referrer| &referrer.artifact_type == wanted);
        assert_listed(set, &answer.json(), &same.copied().collect::<Vec<_>>(), &parameter);
    }
}

fn assert_listed(set: &DataSet, listed: &Value, expected: &[&ManifestOfSet], what: &str) {
    assert_eq!((&listed["schemaVersion"], &listed["mediaType"]), (&2.into(), &INDEX.into()));
    let listed = listed["manifests"].as_array().unwrap();
    assert_eq!(listed.len(), expected.len(), "{what:?}: {listed:#?}");
    for manifest in expected {
        let digest = Value::from(set.hash.of(&manifest.bytes));
        let entry = listed.iter().find(|entry| entry["digest"] == digest);
        let entry = entry.unwrap_or_else(|| panic!("{what:?}: {digest} is not in {listed:#?}"));
        assert_eq!(entry["size"], manifest.bytes.len(), "{entry:#?}");
        assert_eq!(entry["mediaType"], manifest.media_type.as_str(), "{entry:#?}");
        assert_eq!(entry["artifactType"].as_str(), manifest.artifact_type.as_deref(), "{entry:#?}");
        for (name, value) in manifest.annotations.as_object().into_iter().flatten() {
            assert_eq!(&entry["annotations"][name], value, "{name} of {entry:#?}");
        }
    }
}

/// Tags, then manifests from the last to the first, then blobs; each is gone at once.
async fn delete(node: &TestNode, set: &DataSet) {
    let tags = set.manifests.iter().flat_map(|manifest| &manifest.tags);
    let digests = set.manifests.iter().rev().map(|manifest| set.hash.of(&manifest.bytes));
    let manifests = tags.cloned().chain(digests).map(|reference| manifest_target(&reference));
    let blobs = set.blobs.iter().map(|bytes| blob_target(&set.hash.of(bytes)));
    for target in manifests.chain(blobs) {
        node.delete(&target).expect(202).await;
        assert_eq!(node.status_of(&target).await, 404, "{target}");
        assert_eq!(node.delete(&target).send().await.status, 404, "{target} again");
    }
    for manifest in &set.manifests {
        if let Some(subject) = &manifest.subject {
            let target = format!("/v2/{NAME}/referrers/{subject}");
            let listed = node.get(&target).expect(200).await.json();
            assert_eq!(listed["manifests"], Value::Array(vec![]), "{subject}");
        }
    }
}
