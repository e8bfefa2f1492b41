//! Pushing blobs in every style of the specification (end-4 to end-6), with each hash.

use bytes::Bytes;
use http::Method;

use crate::{
    client::{Answer, with_query},
    content::{Hash, pattern, sha256, sha512},
    node::{Backend, TestNode},
};

on_both_backends! {
    every_style_stores_every_size_under_every_hash,
    a_small_blob_in_many_chunks_is_joined,
    a_large_blob_in_uneven_chunks_is_joined,
    a_session_for_sha512_takes_sha512,
    a_session_for_sha512_takes_sha256,
    an_unknown_algorithm_is_refused,
    a_wrong_digest_is_refused_in_every_style,
    a_malformed_digest_is_refused,
    a_missing_digest_is_refused,
    a_body_shorter_than_announced_is_no_blob,
    the_digest_may_be_percent_encoded,
    pushing_a_blob_twice_is_pushing_it_once,
    no_chunk_is_too_small,
    a_blob_beyond_the_limit_is_refused,
    a_mebibyte_in_tiny_writes_arrives_whole,
}

/// How a client pushes a blob.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Style {
    /// `POST ?digest=` with everything.
    PostOnly,
    /// `POST`, then `PUT ?digest=` with everything.
    PostPut,
    /// `POST`, `PATCH` with `Content-Range` for each third, `PUT` without a body.
    Chunked,
    /// The same, with the last third in the `PUT`.
    ChunkedAndPut,
    /// `POST`, `PATCH` of unknown length, `PUT` without a body.
    Stream,
}

impl Style {
    pub(crate) const ALL: [Self; 5] =
        [Self::PostOnly, Self::PostPut, Self::Chunked, Self::ChunkedAndPut, Self::Stream];
}

/// Pushes `bytes` and says they hash to `digest`; returns the last answer.
pub(crate) async fn push(
    node: &TestNode,
    name: &str,
    style: Style,
    (digest, bytes): (&str, &Bytes),
) -> Answer {
    let finish = format!("digest={digest}");
    if let Style::PostOnly = style {
        let target = format!("/v2/{name}/blobs/uploads/?{finish}");
        return node.ask(Method::POST, &target).bytes(bytes.clone()).send().await;
    }
    let mut location = node.begin_upload(name).await;
    let third = bytes.len() / 3 + 1;
    let (chunked, last) = match style {
        Style::PostOnly | Style::PostPut => (0, bytes.len()),
        Style::Stream => {
            let halves = bytes.split_at(bytes.len() / 2);
            let halves = [halves.0, halves.1].map(Bytes::copy_from_slice).to_vec();
            let patch = node.ask(Method::PATCH, &location).stream(halves);
            location = patch.expect(202).await.location();
            (0, 0)
        }
        Style::Chunked => (bytes.len(), 0),
        Style::ChunkedAndPut => (bytes.len() - bytes.len().min(third), bytes.len().min(third)),
    };
    for start in (0..chunked).step_by(third) {
        let end = chunked.min(start + third);
        let patch = node.patch(&location, bytes.slice(start..end));
        let patch = patch.header("content-range", &format!("{start}-{}", end - 1));
        let answer = patch.expect(202).await;
        assert_eq!(answer.header("range"), format!("0-{}", end - 1), "{style:?}");
        location = answer.location();
    }
    let mut put = node.put(&with_query(&location, &finish), bytes.slice(bytes.len() - last..));
    if chunked > 0 && last > 0 {
        let range = format!("{}-{}", bytes.len() - last, bytes.len() - 1);
        put = put.header("content-range", &range);
    }
    put.send().await
}

async fn every_style_stores_every_size_under_every_hash(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let mut seed = 0;
    for style in Style::ALL {
        for hash in Hash::ALL {
            for size in [0, 1, 2, 2048, 300_000] {
                seed += 1;
                let bytes = pattern(size, seed);
                let digest = hash.of(&bytes);
                let input = format!("{style:?} of {size} bytes as {digest}");
                let answer = push(&node, "styles/all", style, (&digest, &bytes)).await;
                assert_eq!(answer.status, 201, "{input}: {answer:?}");
                assert_eq!(answer.header("docker-content-digest"), digest, "{input}");
                let pulled = node.get(&answer.location()).expect(200).await;
                assert_eq!(pulled.body, bytes, "{input}");
                let head = node.head(&format!("/v2/styles/all/blobs/{digest}")).expect(200).await;
                assert_eq!(head.header("content-length"), size.to_string(), "{input}");
            }
        }
    }
}

async fn a_small_blob_in_many_chunks_is_joined(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(1_000, 1);
    let mut location = node.begin_upload("a").await;
    for (number, chunk) in bytes.chunks(50).enumerate() {
        let patch = node.patch(&location, Bytes::copy_from_slice(chunk));
        let answer = patch.expect(202).await;
        assert_eq!(answer.header("range"), format!("0-{}", number * 50 + 49));
        assert_eq!(answer.header("content-length"), "0");
        location = answer.location();
    }
    let digest = sha256(&bytes);
    node.put(&with_query(&location, &format!("digest={digest}")), "").expect(201).await;
    assert_eq!(node.pull_blob("a", &digest).await, bytes);
}

async fn a_large_blob_in_uneven_chunks_is_joined(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    // Around the smallest part of S3, so that every way to join pieces there is taken.
    let bytes = pattern(14 << 20, 2);
    let cuts = [0, 6 << 20, (6 << 20) + 10, 7 << 20, 13 << 20, 14 << 20];
    let mut location = node.begin_upload("a").await;
    for cut in cuts.windows(2) {
        let patch = node.patch(&location, bytes.slice(cut[0]..cut[1]));
        location = patch.expect(202).await.location();
    }
    let digest = sha256(&bytes);
    node.put(&with_query(&location, &format!("digest={digest}")), "").expect(201).await;
    assert!(node.pull_blob("a", &digest).await == bytes, "other bytes came back");
}

async fn a_session_for_sha512_takes_sha512(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(5_000, 1);
    let begin = node.post("/v2/a/blobs/uploads/?digest-algorithm=sha512").expect(202).await;
    let patched = node.patch(&begin.location(), bytes.clone()).expect(202).await;
    let digest = sha512(&bytes);
    node.put(&with_query(&patched.location(), &format!("digest={digest}")), "").expect(201).await;
    assert_eq!(node.pull_blob("a", &digest).await, bytes);
}

async fn a_session_for_sha512_takes_sha256(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(5_000, 1);
    let begin = node.post("/v2/a/blobs/uploads/?digest-algorithm=sha512").expect(202).await;
    let patched = node.patch(&begin.location(), bytes.clone()).expect(202).await;
    let digest = sha256(&bytes);
    node.put(&with_query(&patched.location(), &format!("digest={digest}")), "").expect(201).await;
    assert_eq!(node.pull_blob("a", &digest).await, bytes);
}

async fn an_unknown_algorithm_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    for algorithm in ["md5", "sha1", "SHA256", "blake3", ""] {
        let target = format!("/v2/a/blobs/uploads/?digest-algorithm={algorithm}");
        node.post(&target).refused(400, "DIGEST_INVALID").await;
    }
}

async fn a_wrong_digest_is_refused_in_every_style(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(3_000, 1);
    for hash in Hash::ALL {
        let wrong = hash.of(b"something else");
        for style in Style::ALL {
            let answer = push(&node, "a", style, (&wrong, &bytes)).await;
            assert_eq!(answer.status, 400, "{style:?} {wrong}: {answer:?}");
            let code = &answer.json()["errors"][0]["code"];
            assert_eq!(code, "DIGEST_INVALID", "{style:?} {wrong}");
            for digest in [&wrong, &hash.of(&bytes)] {
                let status = node.status_of(&format!("/v2/a/blobs/{digest}")).await;
                assert_eq!(status, 404, "{style:?} stored {digest}");
            }
        }
    }
}

async fn a_malformed_digest_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let good = sha256(b"x");
    let bad = [
        "sha256:baddigeststring".to_owned(),
        "sha256:".to_owned(),
        "baddigest".to_owned(),
        good.to_uppercase(),
        good[..70].to_owned(),
        format!("{good}0"),
        format!("md5:{}", &good[7..39]),
        good.replace("sha256", "sha512"),
        format!("sha256:{}g", &good[7..70]),
    ];
    for digest in bad {
        let target = format!("/v2/a/blobs/uploads/?digest={digest}");
        node.ask(Method::POST, &target).bytes("x").refused(400, "DIGEST_INVALID").await;
        let location = node.begin_upload("a").await;
        let target = with_query(&location, &format!("digest={digest}"));
        node.put(&target, "x").refused(400, "DIGEST_INVALID").await;
        let good = with_query(&location, &format!("digest={good}"));
        node.put(&good, "x").expect(201).await;
    }
}

async fn a_missing_digest_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let location = node.begin_upload("a").await;
    node.put(&location, "x").refused(400, "DIGEST_INVALID").await;
    node.put(&with_query(&location, "digest="), "x").refused(400, "DIGEST_INVALID").await;
    node.put(&with_query(&location, &format!("digest={}", sha256(b"x"))), "x").expect(201).await;
}

async fn a_body_shorter_than_announced_is_no_blob(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let digest = sha256(b"half");
    let mut raw = crate::raw::Raw::connect(&node).await;
    let head = format!(
        "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nhost: r\r\ncontent-length: 8\r\n\r\nhalf"
    );
    raw.send(head).await;
    drop(raw);
    // The answer of a later request is no proof that the first has ended, but its absence would be none
    // either: what must never appear is looked for until the node has stopped.
    let mut node = node;
    node.restart().await;
    assert_eq!(node.status_of(&format!("/v2/a/blobs/{digest}")).await, 404);
}

async fn the_digest_may_be_percent_encoded(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(100, 1);
    let encoded = sha256(&bytes).replace(':', "%3A");
    let location = node.begin_upload("a").await;
    let put = node.put(&with_query(&location, &format!("digest={encoded}")), bytes.clone());
    put.expect(201).await;
    assert_eq!(node.pull_blob("a", &encoded).await, bytes);
}

async fn pushing_a_blob_twice_is_pushing_it_once(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(100, 1);
    let digest = sha256(&bytes);
    for style in Style::ALL.into_iter().chain(Style::ALL) {
        let answer = push(&node, "a", style, (&digest, &bytes)).await;
        assert_eq!(answer.status, 201, "{style:?}: {answer:?}");
        assert_eq!(node.pull_blob("a", &digest).await, bytes, "{style:?}");
    }
}

async fn no_chunk_is_too_small(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let answer = node.post("/v2/a/blobs/uploads/").expect(202).await;
    assert!(answer.header_all("oci-chunk-min-length").is_empty(), "there is no minimum here");
    let uuid = answer.header("docker-upload-uuid").to_owned();
    assert!(answer.location().contains(&uuid), "{answer:?}");
    assert_eq!(answer.header("range"), "0-0");
}

async fn a_blob_beyond_the_limit_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "registry: {blob_max: 1000}").await;
    let (most, more) = (pattern(1000, 1), pattern(1001, 1));
    for style in Style::ALL {
        let fits = push(&node, "a", style, (&sha256(&most), &most)).await;
        assert_eq!(fits.status, 201, "{style:?}: {fits:?}");
    }
    let target = format!("/v2/a/blobs/uploads/?digest={}", sha256(&more));
    let post = node.ask(Method::POST, &target).bytes(more.clone());
    post.refused(413, "SIZE_INVALID").await;
    let location = node.begin_upload("a").await;
    let location = node.patch(&location, more.slice(..600)).expect(202).await.location();
    node.patch(&location, more.slice(600..)).refused(413, "SIZE_INVALID").await;
}

async fn a_mebibyte_in_tiny_writes_arrives_whole(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(1 << 20, 1);
    let pieces: Vec<Bytes> = bytes.chunks(1_021).map(Bytes::copy_from_slice).collect();
    let location = node.begin_upload("a").await;
    let patched = node.ask(Method::PATCH, &location).stream(pieces).expect(202).await;
    assert_eq!(patched.header("range"), format!("0-{}", bytes.len() - 1));
    let digest = sha256(&bytes);
    let target = with_query(&patched.location(), &format!("digest={digest}"));
    node.put(&target, "").expect(201).await;
    assert!(node.pull_blob("a", &digest).await == bytes, "other bytes came back");
}
