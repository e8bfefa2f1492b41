//! Upload sessions: order of chunks, where they stand, resuming, cancelling (end-5, 6, 13, 14).

use bytes::Bytes;
use http::Method;

use crate::{
    client::{Answer, with_query},
    content::{pattern, sha256, sha512},
    node::{Backend, TestNode},
    raw::{Raw, eventually},
};

on_both_backends! {
    a_chunk_out_of_order_leaves_the_session_as_it_was,
    a_final_chunk_out_of_order_leaves_the_session_as_it_was,
    a_session_survives_a_wrong_digest,
    the_status_of_a_session_is_its_length,
    a_range_that_is_not_the_length_of_its_chunk_is_refused,
    a_malformed_content_range_is_refused,
    the_content_range_of_docker_registry_is_understood,
    an_empty_chunk_changes_nothing,
    a_cancelled_session_is_gone,
    a_cancelled_session_is_gone_on_every_node,
    sessions_nobody_began_are_unknown,
    a_session_belongs_to_its_repository,
    a_finished_session_is_gone,
    the_last_put_may_be_repeated,
    the_last_put_may_be_repeated_after_a_restart,
    a_session_outlives_a_restart,
    a_session_outlives_a_restart_for_sha512,
    three_nodes_share_one_session,
    a_client_that_vanished_goes_on_where_it_stopped,
    a_chunk_that_comes_twice_at_once_does_not_mix,
    a_session_is_taken_over_from_a_silent_connection,
    an_old_location_is_out_of_order,
}

fn finish(location: &str, digest: &str) -> String {
    with_query(location, &format!("digest={digest}"))
}

/// `PATCH` with the range of `bytes` that is sent.
async fn patch_range(node: &TestNode, location: &str, bytes: &Bytes, at: (usize, usize)) -> Answer {
    let range = format!("{}-{}", at.0, at.1 - 1);
    node.patch(location, bytes.slice(at.0..at.1)).header("content-range", &range).send().await
}

async fn stands_at(node: &TestNode, location: &str) -> Answer {
    let status = node.get(location).expect(204).await;
    assert_eq!(status.body.len(), 0);
    status
}

async fn a_chunk_out_of_order_leaves_the_session_as_it_was(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(3_000, 1);
    let digest = sha256(&bytes);
    let mut location = node.begin_upload("a").await;
    for (start, wrong) in [(0, 1000), (1000, 2000), (2000, 0)] {
        let refused = patch_range(&node, &location, &bytes, (wrong, wrong + 1000)).await;
        assert_eq!(refused.status, 416, "a chunk at {wrong} after {start}: {refused:?}");
        assert_eq!(refused.json()["errors"][0]["code"], "RANGE_INVALID");
        let stored = format!("0-{}", start.max(1) - 1);
        // The same URL is asked, and the way to go on is in the answer.
        for target in [location.clone(), finish(&location, &digest)] {
            let status = stands_at(&node, &target).await;
            assert_eq!(status.header("range"), stored, "after a chunk at {wrong}");
            location = status.location();
        }
        let taken = patch_range(&node, &location, &bytes, (start, start + 1000)).await;
        assert_eq!(taken.status, 202, "{taken:?}");
        location = taken.location();
    }
    node.put(&finish(&location, &digest), "").expect(201).await;
    assert_eq!(node.pull_blob("a", &digest).await, bytes);
}

async fn a_final_chunk_out_of_order_leaves_the_session_as_it_was(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(3_000, 1);
    let digest = sha256(&bytes);
    for stored in [0, 1_500] {
        let mut location = node.begin_upload("a").await;
        if stored > 0 {
            location = patch_range(&node, &location, &bytes, (0, stored)).await.location();
        }
        let target = finish(&location, &digest);
        let put = node.put(&target, bytes.slice(2_000..)).header("content-range", "2000-2999");
        put.refused(416, "RANGE_INVALID").await;
        let status = stands_at(&node, &target).await;
        assert_eq!(status.header("range"), format!("0-{}", stored.max(1) - 1));
        let put = node.put(&finish(&status.location(), &digest), bytes.slice(stored..));
        put.header("content-range", &format!("{stored}-2999")).expect(201).await;
        assert_eq!(node.pull_blob("a", &digest).await, bytes);
    }
}

async fn a_session_survives_a_wrong_digest(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(2_000, 1);
    let wrong = sha256(b"something else");
    let location = node.begin_upload("a").await;
    // Nothing stored yet, and everything comes with the wrong digest.
    node.put(&finish(&location, &wrong), bytes.clone()).refused(400, "DIGEST_INVALID").await;
    assert_eq!(stands_at(&node, &location).await.header("range"), "0-0");
    let patched = node.patch(&location, bytes.slice(..1_200)).expect(202).await;
    // The last chunk comes with the wrong digest, and is taken back.
    let target = finish(&patched.location(), &wrong);
    node.put(&target, bytes.slice(1_200..)).refused(400, "DIGEST_INVALID").await;
    let status = stands_at(&node, &patched.location()).await;
    assert_eq!(status.header("range"), "0-1199");
    let digest = sha256(&bytes);
    let target = finish(&status.location(), &digest);
    node.put(&target, bytes.slice(1_200..)).expect(201).await;
    assert_eq!(node.pull_blob("a", &digest).await, bytes);
}

async fn the_status_of_a_session_is_its_length(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let mut location = node.begin_upload("a").await;
    for (length, range) in [(1, "0-0"), (1, "0-1"), (998, "0-999")] {
        let patched = node.patch(&location, pattern(length, 1)).expect(202).await;
        location = patched.location();
        let uuid = patched.header("docker-upload-uuid").to_owned();
        for method in [Method::GET, Method::HEAD] {
            let status = node.ask(method.clone(), &location).expect(204).await;
            assert_eq!(status.header("range"), range, "{method}");
            assert_eq!(status.location(), location, "{method}");
            assert_eq!(status.header("docker-upload-uuid"), uuid, "{method}");
        }
    }
}

async fn a_range_that_is_not_the_length_of_its_chunk_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(1_000, 1);
    let location = node.begin_upload("a").await;
    for range in ["0-998", "0-1000", "0-0"] {
        let patch = node.patch(&location, bytes.clone()).header("content-range", range);
        patch.refused(400, "SIZE_INVALID").await;
        // The length is not announced, and turns out to be another one.
        let pieces = vec![bytes.slice(..300), bytes.slice(300..)];
        let patch = node.ask(Method::PATCH, &location).stream(pieces);
        patch.header("content-range", range).refused(400, "SIZE_INVALID").await;
        assert_eq!(stands_at(&node, &location).await.header("range"), "0-0", "after {range}");
    }
    assert_eq!(patch_range(&node, &location, &bytes, (0, 1_000)).await.status, 202);
}

async fn a_malformed_content_range_is_refused(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let location = node.begin_upload("a").await;
    for range in ["", "0", "0-", "-5", "5-0", "a-b", "0-4,6-9", "0x0-0x4", "bytes"] {
        let patch = node.patch(&location, "hello").header("content-range", range);
        let answer = patch.send().await;
        assert_eq!(answer.status, 400, "Content-Range: {range:?}: {answer:?}");
        assert_eq!(stands_at(&node, &location).await.header("range"), "0-0", "after {range:?}");
    }
}

async fn the_content_range_of_docker_registry_is_understood(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let location = node.begin_upload("a").await;
    let patch = node.patch(&location, "hello").header("content-range", "bytes 0-4/5");
    assert_eq!(patch.expect(202).await.header("range"), "0-4");
}

async fn an_empty_chunk_changes_nothing(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let mut location = node.begin_upload("a").await;
    for (chunk, range) in [("", "0-0"), ("hello", "0-4"), ("", "0-4"), (" pond", "0-9")] {
        let patched = node.patch(&location, chunk).expect(202).await;
        assert_eq!(patched.header("range"), range, "{chunk:?}");
        location = patched.location();
    }
    node.put(&finish(&location, &sha256(b"hello pond")), "").expect(201).await;
}

async fn a_cancelled_session_is_gone(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let begun = node.begin_upload("a").await;
    let patched = node.patch(&begin(&node).await, "hello").expect(202).await.location();
    for location in [begun, patched] {
        let cancelled = node.delete(&location).expect(204).await;
        assert_eq!(cancelled.body.len(), 0);
        assert_unknown(&node, &location).await;
    }
}

async fn begin(node: &TestNode) -> String {
    node.begin_upload("a").await
}

async fn assert_unknown(node: &TestNode, location: &str) {
    node.get(location).refused(404, "BLOB_UPLOAD_UNKNOWN").await;
    node.patch(location, "x").refused(404, "BLOB_UPLOAD_UNKNOWN").await;
    let target = finish(location, &sha256(b"hellox"));
    node.put(&target, "x").refused(404, "BLOB_UPLOAD_UNKNOWN").await;
    node.delete(location).refused(404, "BLOB_UPLOAD_UNKNOWN").await;
}

async fn a_cancelled_session_is_gone_on_every_node(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let other = node.sibling().await;
    let begun = begin(&node).await;
    let patched = node.patch(&begin(&node).await, "hello").expect(202).await.location();
    for location in [begun, patched] {
        node.delete(&location).expect(204).await;
        assert_unknown(&other, &location).await;
    }
}

async fn sessions_nobody_began_are_unknown(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let location = begin(&node).await;
    let (folder, id) = location.rsplit_once('/').unwrap();
    let invented = [
        "x".to_owned(),
        "0198c5f0-0000-7000-8000-000000000000".to_owned(),
        id.replacen(|c: char| c.is_ascii_digit(), "f", 3),
        format!("{id}.5.5"),
        format!("{}.-1", id.split('.').next().unwrap()),
        id.to_uppercase().replace('.', "A"),
    ];
    for id in invented.into_iter().filter(|invented| invented != id) {
        let answer = node.get(&format!("{folder}/{id}")).send().await;
        assert_eq!(answer.status, 404, "{id}: {answer:?}");
        assert_eq!(answer.json()["errors"][0]["code"], "BLOB_UPLOAD_UNKNOWN", "{id}");
    }
}

async fn a_session_belongs_to_its_repository(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let location = begin(&node).await;
    for other in ["b", "a/a", "aa"] {
        assert_unknown(&node, &location.replace("/a/", &format!("/{other}/"))).await;
    }
    stands_at(&node, &location).await;
}

async fn a_finished_session_is_gone(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let location = begin(&node).await;
    let patched = node.patch(&location, "hello").expect(202).await.location();
    node.put(&finish(&patched, &sha256(b"hello")), "").expect(201).await;
    node.get(&patched).refused(404, "BLOB_UPLOAD_UNKNOWN").await;
    node.patch(&patched, "x").refused(404, "BLOB_UPLOAD_UNKNOWN").await;
    node.delete(&patched).refused(404, "BLOB_UPLOAD_UNKNOWN").await;
}

async fn the_last_put_may_be_repeated(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let whole = finish(&begin(&node).await, &sha256(b"whole"));
    let patched = node.patch(&begin(&node).await, "in two").expect(202).await.location();
    let parts = finish(&patched, &sha256(b"in two"));
    for (target, last) in [(whole, "whole"), (parts, "")] {
        for attempt in 0..3 {
            let answer = node.put(&target, last).send().await;
            assert_eq!(answer.status, 201, "attempt {attempt} of {last:?}: {answer:?}");
            node.get(&answer.location()).expect(200).await;
        }
    }
}

async fn the_last_put_may_be_repeated_after_a_restart(backend: Backend) {
    let mut node = TestNode::start(backend, "").await;
    let whole = finish(&begin(&node).await, &sha256(b"whole"));
    let patched = node.patch(&begin(&node).await, "in two").expect(202).await.location();
    let parts = finish(&patched, &sha256(b"in two"));
    let pushes = [(whole, "whole"), (parts, "")];
    for (target, last) in &pushes {
        node.put(target, *last).expect(201).await;
    }
    node.restart().await;
    for (target, last) in pushes {
        let answer = node.put(&target, last).send().await;
        assert_eq!(answer.status, 201, "the answer was lost, so {last:?} comes again: {answer:?}");
    }
}

async fn a_session_outlives_a_restart(backend: Backend) {
    resume_after_restart(backend, sha256).await;
}

async fn a_session_outlives_a_restart_for_sha512(backend: Backend) {
    resume_after_restart(backend, sha512).await;
}

async fn resume_after_restart(backend: Backend, hash: fn(&[u8]) -> String) {
    let mut node = TestNode::start(backend, "").await;
    let bytes = pattern(9_000, 1);
    let mut location = begin(&node).await;
    for (start, end) in [(0, 2_000), (2_000, 2_001), (2_001, 6_000)] {
        node.restart().await;
        location = patch_range(&node, &location, &bytes, (start, end)).await.location();
    }
    node.restart().await;
    assert_eq!(stands_at(&node, &location).await.header("range"), "0-5999");
    node.restart().await;
    let digest = hash(&bytes);
    node.put(&finish(&location, &digest), bytes.slice(6_000..)).expect(201).await;
    assert_eq!(node.pull_blob("a", &digest).await, bytes);
}

async fn three_nodes_share_one_session(backend: Backend) {
    let first = TestNode::start(backend, "").await;
    let nodes = [&first, &first.sibling().await, &first.sibling().await];
    let bytes = pattern(8_000, 1);
    let mut location = begin(nodes[0]).await;
    for (hop, start) in (0..7_000).step_by(1_000).enumerate() {
        let node = nodes[(hop + 1) % 3];
        let patched = patch_range(node, &location, &bytes, (start, start + 1_000)).await;
        assert_eq!(patched.status, 202, "hop {hop}: {patched:?}");
        location = patched.location();
        let asked = stands_at(nodes[(hop + 2) % 3], &location).await;
        assert_eq!(asked.header("range"), format!("0-{}", start + 999), "hop {hop}");
    }
    let digest = sha256(&bytes);
    nodes[0].put(&finish(&location, &digest), bytes.slice(7_000..)).expect(201).await;
    for node in nodes {
        assert_eq!(node.pull_blob("a", &digest).await, bytes);
    }
}

async fn a_client_that_vanished_goes_on_where_it_stopped(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(400_000, 1);
    let location = begin(&node).await;
    let location = node.patch(&location, bytes.slice(..1_000)).expect(202).await.location();
    let mut raw = Raw::connect(&node).await;
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nhost: r\r\ncontent-length: {}\r\n\r\n",
        bytes.len() - 1_000
    );
    raw.send(head).await;
    raw.send(&bytes[1_000..300_000]).await;
    drop(raw);
    // Whatever arrived before the connection broke is kept; the answer waits until that is settled.
    let status = eventually("the session grows by what arrived", || async {
        let status = stands_at(&node, &location).await;
        (status.header("range") != "0-999").then_some(status)
    });
    let status = status.await;
    let stored: usize = status.header("range")["0-".len()..].parse::<usize>().unwrap() + 1;
    assert!((1_000..=300_000).contains(&stored), "{stored} bytes");
    let digest = sha256(&bytes);
    node.put(&finish(&status.location(), &digest), bytes.slice(stored..)).expect(201).await;
    assert!(node.pull_blob("a", &digest).await == bytes, "other bytes came back");
}

/// A client that repeats a chunk takes its session over from the connection it gave up.
async fn a_chunk_that_comes_twice_at_once_does_not_mix(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(200_000, 1);
    let digest = sha256(&bytes);
    for round in 0..8 {
        let location = begin(&node).await;
        let (first, second) = tokio::join!(
            node.patch(&location, bytes.slice(..150_000)).send(),
            node.patch(&location, bytes.slice(..180_000)).send()
        );
        let good = |answer: &Answer| matches!(answer.status, 202 | 409 | 416);
        assert!(good(&first) && good(&second), "round {round}: {first:?} {second:?}");
        // Whatever was kept is the beginning of what was sent.
        let status = stands_at(&node, &location).await;
        let stored: usize = status.header("range")["0-".len()..].parse().unwrap();
        let stored = if status.location().ends_with(".0") { 0 } else { stored + 1 };
        let put = node.put(&finish(&status.location(), &digest), bytes.slice(stored..));
        let answer = put.send().await;
        assert_eq!(answer.status, 201, "round {round}, from {stored}: {answer:?}");
        assert!(node.pull_blob("a", &digest).await == bytes, "round {round}: other bytes");
        node.delete(&format!("/v2/a/blobs/{digest}")).expect(202).await;
    }
}

/// A connection that was given up, but that the node has not seen end, does not block the session.
async fn a_session_is_taken_over_from_a_silent_connection(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(10_000, 1);
    let location = begin(&node).await;
    let mut raw = Raw::connect(&node).await;
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: r\r\nexpect: 100-continue\r\n");
    raw.send(format!("{head}content-length: 10000\r\n\r\n")).await;
    assert_eq!(raw.answer().await.status, 100, "the handler runs");
    raw.send(&bytes[..4_000]).await;
    let digest = sha256(&bytes);
    let put = || node.put(&finish(&location, &digest), bytes.clone()).send();
    let mut answer = put().await;
    if answer.status == 416 {
        // Some of it had arrived and was kept.
        let stored: usize = answer.header("range")["0-".len()..].parse::<usize>().unwrap() + 1;
        let target = finish(&answer.location(), &digest);
        answer = node.put(&target, bytes.slice(stored..)).send().await;
    }
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(raw.answer().await.status, 409);
    assert_eq!(node.pull_blob("a", &digest).await, bytes);
}

async fn an_old_location_is_out_of_order(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let old = begin(&node).await;
    let new = node.patch(&old, "hello").expect(202).await.location();
    // As if the answer to the first chunk had been lost.
    let refused = node.patch(&old, "hello").refused(416, "RANGE_INVALID").await;
    assert_eq!(refused.header("range"), "0-4");
    assert_eq!(refused.location(), new);
    node.put(&finish(&refused.location(), &sha256(b"hello")), "").expect(201).await;
}
