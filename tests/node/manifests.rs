//! Pushing and pulling manifests (end-3, end-7), beside what the data sets cover.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::{
    content::{
        CONFIG, INDEX, LAYER, MANIFEST, describe, descriptor, image, index, pattern, referrer,
        sha256, sha512, small_index, text, unknown_digest,
    },
    node::{Backend, TestNode},
};

on_both_backends! {
    whatever_accept_says_the_stored_bytes_come,
    a_manifest_is_described_the_same_by_head_and_get,
    a_manifest_that_is_known_already_is_not_sent_again,
    a_content_type_may_have_parameters,
    a_content_type_may_be_missing,
    a_content_type_that_contradicts_the_manifest_is_refused,
    docker_manifests_are_kept_as_docker_manifests,
    a_manifest_without_a_media_type_is_known_by_its_shape,
    missing_references_are_named,
    missing_references_are_accepted_where_that_is_configured,
    references_of_another_repository_are_missing,
    a_manifest_of_the_greatest_length_is_accepted,
    a_manifest_beyond_the_greatest_length_is_refused,
    schema_1_is_refused,
    what_is_no_manifest_is_refused,
    a_digest_that_is_not_of_the_bytes_is_refused,
    a_malformed_reference_is_refused,
    a_missing_manifest_is_unknown,
    a_tag_moves_to_the_manifest_pushed_last,
    a_tag_moves_for_every_node_at_once,
    a_subject_is_acknowledged,
    many_tags_come_with_one_push,
    too_many_tags_are_refused,
    a_malformed_tag_parameter_is_refused,
    the_same_manifest_has_one_digest_per_hash,
}

async fn put(node: &TestNode, reference: &str, content_type: &str, body: &Bytes) -> u16 {
    let put = node.put(&format!("/v2/a/manifests/{reference}"), body.clone());
    put.header("content-type", content_type).send().await.status
}

async fn whatever_accept_says_the_stored_bytes_come(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let manifest = small_index("x");
    node.push_manifest("a", "v1", &manifest).await;
    let accepts: [&[&str]; 7] = [
        &[],
        &["*/*"],
        &[INDEX, MANIFEST],
        &[MANIFEST, INDEX],
        &[MANIFEST],
        &["application/vnd.docker.distribution.manifest.v2+json"],
        &["text/html;q=0.9, image/png"],
    ];
    for reference in ["v1", &sha256(&manifest)] {
        for accept in accepts {
            let get = node.get(&format!("/v2/a/manifests/{reference}"));
            let get = accept.iter().fold(get, |get, value| get.header("accept", value));
            let answer = get.expect(200).await;
            assert_eq!(answer.body, manifest, "{reference} with {accept:?}");
            assert_eq!(answer.header("content-type"), INDEX, "{reference} with {accept:?}");
        }
    }
    let mut raw = crate::raw::Raw::connect(&node).await;
    raw.send("GET /v2/a/manifests/v1 HTTP/1.1\r\nhost: r\r\n\r\n").await;
    assert_eq!(raw.answer().await.body, manifest, "no Accept at all");
}

async fn a_manifest_is_described_the_same_by_head_and_get(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let manifest = small_index("x");
    let digest = sha256(&manifest);
    node.push_manifest("a", "v1", &manifest).await;
    for reference in ["v1", &digest] {
        for method in [Method::GET, Method::HEAD] {
            let ask = node.ask(method, &format!("/v2/a/manifests/{reference}"));
            let answer = ask.header("accept-encoding", "gzip").expect(200).await;
            assert_eq!(answer.header("content-length"), manifest.len().to_string());
            assert_eq!(answer.header("content-type"), INDEX);
            assert_eq!(answer.header("docker-content-digest"), digest);
            assert_eq!(answer.header("etag"), format!("\"{digest}\""));
            assert!(answer.header_all("content-encoding").is_empty());
        }
    }
}

async fn a_manifest_that_is_known_already_is_not_sent_again(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (old, new) = (small_index("old"), small_index("new"));
    node.push_manifest("a", "v1", &old).await;
    let tag = format!("\"{}\"", sha256(&old));
    let target = "/v2/a/manifests/v1";
    for method in [Method::GET, Method::HEAD] {
        let answer = node.ask(method, target).header("if-none-match", &tag).expect(304).await;
        assert_eq!(answer.header("docker-content-digest"), sha256(&old));
    }
    node.push_manifest("a", "v1", &new).await;
    let answer = node.get(target).header("if-none-match", &tag).expect(200).await;
    assert_eq!(answer.body, new);
}

async fn a_content_type_may_have_parameters(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    for suffix in ["; charset=utf-8", ";charset=\"utf-8\"; a=b"] {
        assert_eq!(put(&node, "v1", &format!("{INDEX}{suffix}"), &small_index(suffix)).await, 201);
        let get = node.get("/v2/a/manifests/v1").expect(200).await;
        assert_eq!(get.header("content-type"), INDEX);
    }
}

async fn a_content_type_may_be_missing(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    node.put("/v2/a/manifests/v1", small_index("x")).expect(201).await;
    let get = node.get("/v2/a/manifests/v1").expect(200).await;
    assert_eq!(get.header("content-type"), INDEX);
}

async fn a_content_type_that_contradicts_the_manifest_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let put = node.put("/v2/a/manifests/v1", small_index("x")).header("content-type", MANIFEST);
    put.refused(400, "MANIFEST_INVALID").await;
    assert_eq!(node.status_of("/v2/a/manifests/v1").await, 404);
}

async fn docker_manifests_are_kept_as_docker_manifests(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (config, layer) = (pattern(50, 1), pattern(500, 2));
    node.push_blob("a", &config).await;
    node.push_blob("a", &layer).await;
    let docker = |kind: &str| format!("application/vnd.docker.distribution.manifest.{kind}+json");
    let mut manifest = image(
        &describe("application/vnd.docker.container.image.v1+json", &config),
        &[describe("application/vnd.docker.image.rootfs.diff.tar.gzip", &layer)],
    );
    manifest["mediaType"] = docker("v2").into();
    let manifest = text(&manifest);
    node.push_manifest("a", "image", &manifest).await;
    let mut list = index(&[describe(&docker("v2"), &manifest)]);
    list["mediaType"] = docker("list.v2").into();
    let list = text(&list);
    node.push_manifest("a", "list", &list).await;
    for (tag, kind, bytes) in [("image", "v2", manifest), ("list", "list.v2", list)] {
        let get = node.get(&format!("/v2/a/manifests/{tag}")).header("accept", INDEX);
        let answer = get.expect(200).await;
        assert_eq!(answer.header("content-type"), docker(kind));
        assert_eq!(answer.body, bytes);
    }
}

async fn a_manifest_without_a_media_type_is_known_by_its_shape(backend: Backend) {
    let node = TestNode::start(backend, "registry: {references: sparse}").await;
    let mut manifest = image(&descriptor(CONFIG, &unknown_digest(), 5), &[]);
    let mut list = index(&[]);
    for (value, media_type) in [(&mut manifest, MANIFEST), (&mut list, INDEX)] {
        value.as_object_mut().unwrap().remove("mediaType");
        let bytes = text(value);
        assert_eq!(put(&node, "v1", media_type, &bytes).await, 201);
        let get = node.get("/v2/a/manifests/v1").expect(200).await;
        assert_eq!((get.header("content-type"), &get.body), (media_type, &bytes));
    }
}

async fn missing_references_are_named(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let held = pattern(10, 1);
    node.push_blob("a", &held).await;
    let missing = [sha256(b"config"), sha512(b"layer")];
    let layers = [describe(LAYER, &held), descriptor(LAYER, &missing[1], 5)];
    let manifest = text(&image(&descriptor(CONFIG, &missing[0], 6), &layers));
    let put = node.put("/v2/a/manifests/v1", manifest).header("content-type", MANIFEST);
    let answer = put.refused(400, "MANIFEST_BLOB_UNKNOWN").await;
    let detail = answer.json()["errors"][0]["detail"].to_string();
    assert!(missing.iter().all(|digest| detail.contains(digest)), "{detail}");
    assert!(!detail.contains(&sha256(&held)), "{detail}");
    assert_eq!(node.status_of("/v2/a/manifests/v1").await, 404);

    let list = text(&index(&[descriptor(MANIFEST, &unknown_digest(), 5)]));
    let put = node.put("/v2/a/manifests/v1", list).header("content-type", INDEX);
    put.refused(400, "MANIFEST_BLOB_UNKNOWN").await;
}

async fn missing_references_are_accepted_where_that_is_configured(backend: Backend) {
    let node = TestNode::start(backend, "registry: {references: sparse}").await;
    let missing = descriptor(LAYER, &unknown_digest(), 5);
    node.push_manifest("a", "image", &text(&image(&missing, std::slice::from_ref(&missing)))).await;
    node.push_manifest("a", "index", &text(&index(&[missing]))).await;
}

async fn references_of_another_repository_are_missing(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let config = pattern(10, 1);
    node.push_blob("b", &config).await;
    let manifest = text(&image(&describe(CONFIG, &config), &[]));
    assert_eq!(put(&node, "v1", MANIFEST, &manifest).await, 400);
    node.push_manifest("b", "v1", &manifest).await;
    let list = text(&index(&[describe(MANIFEST, &manifest)]));
    assert_eq!(put(&node, "v1", INDEX, &list).await, 400);
    node.push_manifest("b", "list", &list).await;
}

/// An index of exactly so many bytes.
fn index_of(length: usize) -> Bytes {
    let rest = length - text(&padded("")).len();
    let bytes = text(&padded(&"A".repeat(rest)));
    assert_eq!(bytes.len(), length);
    bytes
}

fn padded(padding: &str) -> Value {
    let mut manifest = index(&[]);
    manifest["annotations"] = json!({ "padding": padding });
    manifest
}

async fn a_manifest_of_the_greatest_length_is_accepted(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let manifest = index_of(4 << 20);
    node.push_manifest("a", "v1", &manifest).await;
    let get = node.get("/v2/a/manifests/v1").expect(200).await;
    assert!(get.body == manifest, "other bytes came back");
}

async fn a_manifest_beyond_the_greatest_length_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let manifest = index_of((4 << 20) + 1);
    let put = node.put("/v2/a/manifests/v1", manifest.clone()).header("content-type", INDEX);
    put.refused(413, "MANIFEST_INVALID").await;
    // The length is not announced.
    let pieces = manifest.chunks(1 << 20).map(Bytes::copy_from_slice).collect();
    let put = node.ask(Method::PUT, "/v2/a/manifests/v1").stream(pieces);
    put.header("content-type", INDEX).refused(413, "MANIFEST_INVALID").await;
    assert_eq!(node.status_of("/v2/a/manifests/v1").await, 404);
}

async fn schema_1_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let schema1 = json!({
        "schemaVersion": 1, "name": "a", "tag": "v1", "architecture": "amd64",
        "fsLayers": [], "history": [], "signatures": [],
    });
    for kind in ["v1+json", "v1+prettyjws"] {
        let media_type = format!("application/vnd.docker.distribution.manifest.{kind}");
        let put = node.put("/v2/a/manifests/v1", text(&schema1));
        put.header("content-type", &media_type).refused(400, "MANIFEST_INVALID").await;
    }
    let put = node.put("/v2/a/manifests/v1", text(&schema1));
    put.header("content-type", MANIFEST).refused(400, "MANIFEST_INVALID").await;
}

async fn what_is_no_manifest_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "registry: {references: sparse}").await;
    let bodies = [
        String::new(),
        "{".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        "{}".to_owned(),
        "\u{feff}{}".to_owned(),
        json!({ "schemaVersion": 2, "mediaType": "text/plain" }).to_string(),
        json!({ "schemaVersion": 3, "mediaType": INDEX, "manifests": [] }).to_string(),
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": {} }).to_string(),
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [{ "digest": "x" }] })
            .to_string(),
        json!({ "schemaVersion": 2, "manifests": [], "layers": [] }).to_string(),
        json!({ "schemaVersion": 2, "mediaType": INDEX, "layers": [] }).to_string(),
        json!({ "schemaVersion": 2, "manifests": [], "subject": { "digest": "sha256:x" } })
            .to_string(),
        "[".repeat(100_000),
    ];
    for body in bodies {
        let put = node.put("/v2/a/manifests/v1", body.clone());
        let shown: String = body.chars().take(60).collect();
        let answer = put.send().await;
        assert_eq!(answer.status, 400, "{shown}: {answer:?}");
        assert_eq!(answer.json()["errors"][0]["code"], "MANIFEST_INVALID", "{shown}");
    }
    assert_eq!(node.status_of("/v2/a/manifests/v1").await, 404);
}

async fn a_digest_that_is_not_of_the_bytes_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let (manifest, other) = (small_index("x"), small_index("y"));
    for digest in [sha256(&other), sha512(&other)] {
        let target = format!("/v2/a/manifests/{digest}?tag=v1");
        let put = node.put(&target, manifest.clone()).header("content-type", INDEX);
        put.refused(400, "DIGEST_INVALID").await;
        assert_eq!(node.status_of(&format!("/v2/a/manifests/{digest}")).await, 404);
    }
    for reference in ["v1", &sha256(&manifest)] {
        assert_eq!(node.status_of(&format!("/v2/a/manifests/{reference}")).await, 404);
    }
}

async fn a_malformed_reference_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let long = "a".repeat(129);
    let bad = [
        ("sha256:baddigeststring", "DIGEST_INVALID"),
        ("sha256:", "DIGEST_INVALID"),
        ("v1:x", "DIGEST_INVALID"),
        (".hidden", "TAG_INVALID"),
        ("-x", "TAG_INVALID"),
        ("a%20b", "TAG_INVALID"),
        ("a%00b", "TAG_INVALID"),
        ("%C3%A9", "TAG_INVALID"),
        (&long, "TAG_INVALID"),
    ];
    for (reference, code) in bad {
        let target = format!("/v2/a/manifests/{reference}");
        let put = node.put(&target, small_index("x")).header("content-type", INDEX);
        put.refused(400, code).await;
        for method in [Method::GET, Method::HEAD, Method::DELETE] {
            node.ask(method, &target).refused(400, code).await;
        }
    }
    for reference in ["_", "A.b-c_9", &long[..128]] {
        node.push_manifest("a", reference, &small_index("x")).await;
        node.get(&format!("/v2/a/manifests/{reference}")).expect(200).await;
    }
}

async fn a_missing_manifest_is_unknown(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    node.push_manifest("a", "v1", &small_index("x")).await;
    let blob = node.push_blob("a", &pattern(10, 1)).await;
    for name in ["a", "never/seen"] {
        for reference in ["missing", &unknown_digest(), &sha512(b"never pushed"), &blob] {
            let target = format!("/v2/{name}/manifests/{reference}");
            node.get(&target).refused(404, "MANIFEST_UNKNOWN").await;
            node.head(&target).refused(404, "MANIFEST_UNKNOWN").await;
        }
    }
}

async fn a_tag_moves_to_the_manifest_pushed_last(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    for round in ["one", "two", "three", "one"] {
        let manifest = small_index(round);
        let answer = node.push_manifest("a", "latest", &manifest).await;
        assert_eq!(answer.header("docker-content-digest"), sha256(&manifest));
        assert_eq!(node.get(&answer.location()).expect(200).await.body, manifest);
        assert_eq!(node.get("/v2/a/manifests/latest").expect(200).await.body, manifest);
    }
    for round in ["one", "two", "three"] {
        let digest = sha256(&small_index(round));
        node.get(&format!("/v2/a/manifests/{digest}")).expect(200).await;
    }
}

async fn a_tag_moves_for_every_node_at_once(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let other = node.sibling().await;
    for round in 0..10 {
        let manifest = small_index(&round.to_string());
        let (writer, reader) = if round % 2 == 0 { (&node, &other) } else { (&other, &node) };
        writer.push_manifest("a", "latest", &manifest).await;
        let get = reader.get("/v2/a/manifests/latest").expect(200).await;
        assert_eq!(get.body, manifest, "round {round}");
    }
}

async fn a_subject_is_acknowledged(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    for subject in [unknown_digest(), sha512(b"never pushed")] {
        let manifest = referrer(&descriptor(MANIFEST, &subject, 5), "a/b", &subject);
        for reference in ["v1", &sha256(&manifest), &sha512(&manifest)] {
            let answer = node.push_manifest("a", reference, &manifest).await;
            assert_eq!(answer.header("oci-subject"), subject, "{reference}");
        }
    }
    let answer = node.push_manifest("a", "v1", &small_index("x")).await;
    assert!(answer.header_all("oci-subject").is_empty());
}

async fn many_tags_come_with_one_push(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let manifest = small_index("x");
    let tags: Vec<String> = (0..10).map(|number| format!("v1.{number}")).collect();
    let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
    for digest in [sha256(&manifest), sha512(&manifest)] {
        let reference = format!("{digest}?{}", query.join("&"));
        let answer = node.push_manifest("a", &reference, &manifest).await;
        assert_eq!(answer.header("docker-content-digest"), digest);
        assert_eq!(answer.header_all("oci-tag"), tags);
        for tag in &tags {
            let get = node.get(&format!("/v2/a/manifests/{tag}")).expect(200).await;
            assert_eq!(get.header("docker-content-digest"), digest, "{tag}");
            assert_eq!(get.body, manifest, "{tag}");
        }
    }
    let answer = node.push_manifest("a", "own?tag=other", &manifest).await;
    assert_eq!(answer.header_all("oci-tag"), ["other"]);
    for tag in ["own", "other"] {
        assert_eq!(node.status_of(&format!("/v2/a/manifests/{tag}")).await, 200, "{tag}");
    }
}

async fn too_many_tags_are_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let manifest = small_index("x");
    let query: Vec<String> = (0..1_000).map(|number| format!("tag=v{number}")).collect();
    let target = format!("/v2/a/manifests/{}?{}", sha256(&manifest), query.join("&"));
    let answer = node.put(&target, manifest).header("content-type", INDEX).send().await;
    assert_eq!(answer.status, 414, "{answer:?}");
    assert_eq!(node.status_of("/v2/a/manifests/v0").await, 404);
}

async fn a_malformed_tag_parameter_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let manifest = small_index("x");
    for tag in ["", ".x", "a%2Fb", "a%20b"] {
        let target = format!("/v2/a/manifests/{}?tag=good&tag={tag}", sha256(&manifest));
        let put = node.put(&target, manifest.clone()).header("content-type", INDEX);
        put.refused(400, "TAG_INVALID").await;
        assert_eq!(node.status_of("/v2/a/manifests/good").await, 404, "{tag:?}");
    }
}

async fn the_same_manifest_has_one_digest_per_hash(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let manifest = small_index("x");
    let (one, other) = (sha256(&manifest), sha512(&manifest));
    node.push_manifest("a", &other, &manifest).await;
    assert_eq!(node.status_of(&format!("/v2/a/manifests/{one}")).await, 404);
    node.push_manifest("a", "v1", &manifest).await;
    for digest in [one, other] {
        let get = node.get(&format!("/v2/a/manifests/{digest}")).expect(200).await;
        assert_eq!(get.header("docker-content-digest"), digest);
        assert_eq!(get.body, manifest);
    }
}
