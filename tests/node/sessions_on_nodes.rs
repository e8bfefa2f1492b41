//! Upload sessions on several nodes, each of which remembers what it has seen of one.

use bytes::Bytes;

use crate::{
    client::{Answer, with_query},
    content::{pattern, sha256},
    node::{Backend, TestNode},
    raw::{Raw, eventually},
};

on_both_backends! {
    an_end_that_was_acknowledged_is_one_on_every_node,
    a_shorter_way_that_leads_further_is_not_lost,
    a_session_that_another_node_has_finished_is_gone,
    the_last_put_may_be_repeated_on_another_node,
    the_last_put_may_be_repeated_while_pieces_are_deleted,
    a_session_that_another_node_has_cancelled_cannot_be_finished,
    what_hung_on_another_node_is_let_go,
    what_hung_on_another_node_does_not_come_back_after_the_end,
    two_nodes_that_get_one_chunk_at_once_store_no_other_bytes,
}

fn finish(location: &str, digest: &str) -> String {
    with_query(location, &format!("digest={digest}"))
}

async fn three(backend: Backend) -> [TestNode; 3] {
    let first = TestNode::start(backend, "").await;
    let (second, third) = (first.sibling().await, first.sibling().await);
    [first, second, third]
}

/// Sends a part of `bytes` as the next chunk; returns the location to go on with.
async fn send(node: &TestNode, location: &str, bytes: &Bytes, at: (usize, usize)) -> String {
    node.patch(location, bytes.slice(at.0..at.1)).expect(202).await.location()
}

fn pieces(node: &TestNode) -> Vec<String> {
    let mut names = Vec::new();
    let uploads = std::fs::read_dir(node.files().join("millpond/v1/uploads"));
    for session in uploads.into_iter().flatten() {
        // It may go while it is looked at.
        let entries = std::fs::read_dir(session.unwrap().path()).into_iter().flatten();
        let entry_names = entries.flatten().map(|entry| entry.file_name());
        names.extend(entry_names.map(|name| name.into_string().unwrap()));
    }
    names
}

async fn nothing_is_left(node: &TestNode) {
    let empty = || async { pieces(node).is_empty().then_some(()) };
    eventually("every piece is deleted", empty).await;
}

async fn an_end_that_was_acknowledged_is_one_on_every_node(backend: Backend) {
    let [first, second, third] = three(backend).await;
    let bytes = pattern(6_000, 1);
    let digest = sha256(&bytes);
    let begun = send(&first, &first.begin_upload("a").await, &bytes, (0, 1_000)).await;
    let middle = send(&second, &begun, &bytes, (1_000, 2_000)).await;
    // As if it had hung on its way to the first node, which knows no better.
    let late = send(&first, &begun, &bytes, (1_000, 4_000)).await;
    let end = send(&second, &middle, &bytes, (2_000, 3_000)).await;
    for location in [&end, &late] {
        let head = third.patch(location, "").expect(202).await;
        assert_eq!(head.location(), *location);
    }
    // From here on the client went on.
    for old in [&begun, &middle] {
        third.patch(old, "x").refused(416, "RANGE_INVALID").await;
    }
    third.put(&finish(&end, &digest), bytes.slice(3_000..)).expect(201).await;
    assert_eq!(first.pull_blob("a", &digest).await, bytes);
    nothing_is_left(&first).await;
}

async fn a_shorter_way_that_leads_further_is_not_lost(backend: Backend) {
    let [first, second, third] = three(backend).await;
    let bytes = pattern(6_000, 1);
    let digest = sha256(&bytes);
    let begun = send(&first, &first.begin_upload("a").await, &bytes, (0, 1_000)).await;
    send(&second, &begun, &bytes, (1_000, 2_000)).await;
    let location = send(&first, &begun, &bytes, (1_000, 1_500)).await;
    let location = send(&first, &location, &bytes, (1_500, 5_000)).await;
    assert_eq!(third.get(&location).expect(204).await.header("range"), "0-4999");
    let location = send(&third, &location, &bytes, (5_000, 6_000)).await;
    second.put(&finish(&location, &digest), "").expect(201).await;
    assert_eq!(third.pull_blob("a", &digest).await, bytes);
    nothing_is_left(&first).await;
}

async fn a_session_that_another_node_has_finished_is_gone(backend: Backend) {
    let [first, second, third] = three(backend).await;
    let bytes = pattern(2_000, 1);
    let digest = sha256(&bytes);
    let location = send(&first, &first.begin_upload("a").await, &bytes, (0, 2_000)).await;
    second.put(&finish(&location, &digest), "").expect(201).await;
    nothing_is_left(&first).await;
    for node in [&first, &second, &third] {
        node.get(&location).refused(404, "BLOB_UPLOAD_UNKNOWN").await;
        node.delete(&location).refused(404, "BLOB_UPLOAD_UNKNOWN").await;
    }
    third.patch(&location, "x").refused(404, "BLOB_UPLOAD_UNKNOWN").await;
    let other = finish(&location, &sha256(b"another blob"));
    third.put(&other, "x").refused(404, "BLOB_UPLOAD_UNKNOWN").await;
}

/// The answer was lost, and the client is told by another node, which knows the session as it was before.
async fn the_last_put_may_be_repeated_on_another_node(backend: Backend) {
    let [first, second, third] = three(backend).await;
    let bytes = pattern(3_000, 1);
    let digest = sha256(&bytes);
    for (stored, last) in [(1_000, 2_000), (3_000, 0)] {
        let location = send(&first, &first.begin_upload("a").await, &bytes, (0, 500)).await;
        let location = send(&first, &location, &bytes, (500, stored)).await;
        let put = |node: &TestNode| {
            node.put(&finish(&location, &digest), bytes.slice(stored..stored + last)).expect(201)
        };
        put(&second).await;
        nothing_is_left(&first).await;
        for node in [&first, &second, &third] {
            put(node).await;
            assert_eq!(node.pull_blob("a", &digest).await, bytes);
        }
        nothing_is_left(&first).await;
    }
}

async fn the_last_put_may_be_repeated_while_pieces_are_deleted(backend: Backend) {
    let [first, second, third] = three(backend).await;
    let bytes = pattern(3_000, 1);
    let digest = sha256(&bytes);
    let location = send(&first, &first.begin_upload("a").await, &bytes, (0, 500)).await;
    let location = send(&first, &location, &bytes, (500, 3_000)).await;
    let target = finish(&location, &digest);
    second.put(&target, "").expect(201).await;
    nothing_is_left(&first).await;
    // As if only the second piece had gone so far.
    let id = location.rsplit_once('/').unwrap().1.split_once('.').unwrap().0;
    let folder = first.files().join("millpond/v1/uploads").join(id);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{:020}-{:016x}", 0, 7)), &bytes[..500]).unwrap();
    for node in [&first, &second, &third] {
        node.put(&target, "").expect(201).await;
    }
    let other = finish(&location, &sha256(b"another blob"));
    third.put(&other, "").refused(416, "RANGE_INVALID").await;
}

async fn a_session_that_another_node_has_cancelled_cannot_be_finished(backend: Backend) {
    let [first, second, third] = three(backend).await;
    let bytes = pattern(3_000, 1);
    let digest = sha256(&bytes);
    let location = send(&first, &first.begin_upload("a").await, &bytes, (0, 500)).await;
    let location = send(&first, &location, &bytes, (500, 2_000)).await;
    second.delete(&location).expect(204).await;
    let note_only = || async { (pieces(&first) == ["cancelled"]).then_some(()) };
    eventually("every piece is deleted", note_only).await;
    for node in [&first, &second, &third] {
        let put = node.put(&finish(&location, &digest), bytes.slice(2_000..));
        put.refused(404, "BLOB_UPLOAD_UNKNOWN").await;
        assert_eq!(node.status_of(&format!("/v2/a/blobs/{digest}")).await, 404);
    }
    eventually("the last piece is deleted", note_only).await;
}

/// A request of which this much has come, and no more will.
async fn hang(node: &TestNode, location: &str, bytes: &[u8]) -> Raw {
    let mut raw = Raw::connect(node).await;
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: r\r\nexpect: 100-continue\r\n");
    raw.send(format!("{head}content-length: 1000000\r\n\r\n")).await;
    assert_eq!(raw.answer().await.status, 100, "the handler runs");
    raw.send(bytes).await;
    raw
}

async fn what_hung_on_another_node_is_let_go(backend: Backend) {
    let [mut first, second, third] = three(backend).await;
    let bytes = pattern(9_000, 1);
    let digest = sha256(&bytes);
    for stored in [0, 1_000] {
        let mut location = first.begin_upload("a").await;
        if stored > 0 {
            location = send(&first, &location, &bytes, (0, stored)).await;
        }
        let hanging = hang(&first, &location, &bytes[stored..8_000]).await;
        let location = send(&second, &location, &bytes, (stored, 3_000)).await;
        drop(hanging);
        first.restart().await;
        assert_eq!(third.get(&location).expect(204).await.header("range"), "0-2999");
        let location = send(&third, &location, &bytes, (3_000, 9_000)).await;
        first.put(&finish(&location, &digest), "").expect(201).await;
        assert_eq!(second.pull_blob("a", &digest).await, bytes);
        nothing_is_left(&first).await;
    }
}

async fn what_hung_on_another_node_does_not_come_back_after_the_end(backend: Backend) {
    let [mut first, second, _third] = three(backend).await;
    let bytes = pattern(9_000, 1);
    let digest = sha256(&bytes);
    let location = send(&first, &first.begin_upload("a").await, &bytes, (0, 1_000)).await;
    let hanging = hang(&first, &location, &bytes[1_000..8_000]).await;
    second.put(&finish(&location, &digest), bytes.slice(1_000..)).expect(201).await;
    nothing_is_left(&first).await;
    drop(hanging);
    first.restart().await;
    assert_eq!(pieces(&first), [""; 0]);
    assert_eq!(first.pull_blob("a", &digest).await, bytes);
}

async fn two_nodes_that_get_one_chunk_at_once_store_no_other_bytes(backend: Backend) {
    let [first, second, third] = three(backend).await;
    let bytes = pattern(9_000, 1);
    let digest = sha256(&bytes);
    for round in 0..8 {
        let location = send(&third, &first.begin_upload("a").await, &bytes, (0, 1_000)).await;
        let (one, other) = tokio::join!(
            first.patch(&location, bytes.slice(1_000..5_000)).send(),
            second.patch(&location, bytes.slice(1_000..7_000)).send()
        );
        let good = |answer: &Answer| matches!(answer.status, 202 | 416);
        assert!(good(&one) && good(&other), "round {round}: {one:?} {other:?}");
        for answer in [&one, &other].into_iter().filter(|answer| answer.status == 202) {
            let stands = third.patch(&answer.location(), "").send().await;
            assert_eq!(stands.status, 202, "round {round}: {answer:?}, then {stands:?}");
        }
        let status = first.get(&location).expect(204).await;
        let stored: usize = status.header("range")["0-".len()..].parse::<usize>().unwrap() + 1;
        let put = third.put(&finish(&status.location(), &digest), bytes.slice(stored..));
        put.expect(201).await;
        assert_eq!(first.pull_blob("a", &digest).await, bytes, "round {round}");
        nothing_is_left(&first).await;
    }
}
