//! What S3 is asked for, request by request: each costs money and a round trip.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;

use crate::{
    blobs::{Style, push},
    client::with_query,
    content::{
        ARTIFACT, CONFIG, INDEX, LAYER, describe, image, pattern, referrer, sha256, small_index,
        text,
    },
    node::{Backend, TestNode},
    raw::eventually,
    s3_server::{Action, Injection},
};

async fn start() -> TestNode {
    TestNode::start(Backend::S3, "").await
}

/// The requests since the last call, sorted, with `*` for hashes and ids. What is deleted later, off
/// every client's path, is left out.
fn requests(node: &TestNode) -> Vec<String> {
    let requests = node.s3().take_requests();
    let mut requests: Vec<String> =
        requests.iter().map(|line| shape(line)).filter(|line| !is_cleaning(line)).collect();
    requests.sort_unstable();
    requests
}

fn is_cleaning(line: &str) -> bool {
    line == "POST ?delete" || line.starts_with("DELETE uploads/")
}

fn shape(line: &str) -> String {
    let line = line.replacen("/pond/", "", 1).replacen("/pond?", "?", 1);
    let line = line.replace("docker/registry/v2/", "").replace("millpond/v1/", "");
    let line = line.replace("%2F", "/").replace("docker/registry/v2/", "");
    let parts = line.split('/').map(|part| {
        let hex =
            part.len() >= 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if hex { "*" } else { part }
    });
    parts.collect::<Vec<_>>().join("/")
}

const PUT_DATA: &str = "PUT blobs/sha256/*/*/data";
const GET_DATA: &str = "GET blobs/sha256/*/*/data";
const PUT_LAYER: &str = "PUT repositories/a/_layers/sha256/*/link";
const HEAD_DATA: &str = "HEAD blobs/sha256/*/*/data";
const GET_LAYER: &str = "GET repositories/a/_layers/sha256/*/link";
const PUT_PIECE: &str = "PUT uploads/*/*";
const GET_REVISION: &str = "GET repositories/a/_manifests/revisions/sha256/*/link";
const PUT_REVISION: &str = "PUT repositories/a/_manifests/revisions/sha256/*/link";
const GET_TAG: &str = "GET repositories/a/_manifests/tags/v1/current/link";
const PUT_TAG: &str = "PUT repositories/a/_manifests/tags/v1/current/link";
const PUT_TAG_INDEX: &str = "PUT repositories/a/_manifests/tags/v1/index/sha256/*/link";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_blob_is_two_or_three_requests_in_every_style() {
    let node = start().await;
    let whole = vec![PUT_DATA, PUT_LAYER];
    // The copy is a PUT as well.
    let in_pieces = vec![PUT_DATA, PUT_LAYER, PUT_PIECE];
    let expected = [
        (Style::PostOnly, whole.clone()),
        (Style::PostPut, whole),
        (Style::Stream, in_pieces.clone()),
    ];
    for (seed, (style, expected)) in (1..).zip(expected) {
        let bytes = pattern(100_000, seed);
        let answer = push(&node, "a", style, (&sha256(&bytes), &bytes)).await;
        assert_eq!(answer.status, 201, "{style:?}: {answer:?}");
        assert_eq!(requests(&node), expected, "{style:?}");
    }
    let bytes = pattern(100_000, 9);
    let location = node.begin_upload("a").await;
    let patch = node.patch(&location, bytes.clone()).header("content-range", "0-99999");
    let location = patch.expect(202).await.location();
    let target = with_query(&location, &format!("digest={}", sha256(&bytes)));
    node.put(&target, "").expect(201).await;
    assert_eq!(requests(&node), in_pieces, "one chunk with its range");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_cost_nothing_until_bytes_come() {
    let node = start().await;
    let location = node.begin_upload("a").await;
    node.ask(http::Method::PATCH, &location).bytes("").expect(202).await;
    assert_eq!(requests(&node), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_are_deleted_in_one_request_later() {
    let node = start().await;
    let mut location = node.begin_upload("a").await;
    let bytes = pattern(5_000, 1);
    for chunk in bytes.chunks(1_000) {
        let patch = node.patch(&location, Bytes::copy_from_slice(chunk));
        location = patch.expect(202).await.location();
    }
    let target = with_query(&location, &format!("digest={}", sha256(&bytes)));
    node.put(&target, "").expect(201).await;
    let cleaned = eventually("the pieces are deleted", || async {
        let lines: Vec<String> = node.s3().take_requests().iter().map(|line| shape(line)).collect();
        let cleaned: Vec<String> = lines.into_iter().filter(|line| is_cleaning(line)).collect();
        (!cleaned.is_empty()).then_some(cleaned)
    });
    assert_eq!(cleaned.await, ["POST ?delete"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_by_tag_is_four_requests_where_its_references_are_known() {
    let node = start().await;
    let blobs = [pattern(10, 1), pattern(10, 2), pattern(10, 3)];
    for bytes in &blobs {
        node.push_blob("a", bytes).await;
    }
    requests(&node);
    let layers = [describe(LAYER, &blobs[1]), describe(LAYER, &blobs[2])];
    let manifest = text(&image(&describe(CONFIG, &blobs[0]), &layers));
    node.push_manifest("a", "v1", &manifest).await;
    let mut four = vec![PUT_DATA, PUT_REVISION, PUT_TAG, PUT_TAG_INDEX];
    four.sort_unstable();
    assert_eq!(requests(&node), four);

    // A node that has not seen them asks for each: whether it is linked, and whether it is still there.
    let cold = node.sibling().await;
    cold.push_manifest("a", "v1", &manifest).await;
    let mut ten = [vec![GET_LAYER; 3], vec![HEAD_DATA; 3], four].concat();
    ten.sort_unstable();
    assert_eq!(requests(&node), ten);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_by_digest_is_two_requests() {
    let node = start().await;
    let manifest = small_index("x");
    node.push_manifest("a", &sha256(&manifest), &manifest).await;
    assert_eq!(requests(&node), [PUT_DATA, PUT_REVISION]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_blob_is_its_link_and_one_read() {
    let pusher = start().await;
    let bytes = pattern(100_000, 1);
    let digest = pusher.push_blob("a", &bytes).await;
    let node = pusher.sibling().await;
    requests(&node);
    node.pull_blob("a", &digest).await;
    assert_eq!(requests(&node), [GET_DATA, GET_LAYER]);
    // From then on its bytes are here.
    node.pull_blob("a", &digest).await;
    let get = node.get(&format!("/v2/a/blobs/{digest}")).header("range", "bytes=5-9");
    get.expect(206).await;
    assert_eq!(requests(&node), [""; 0]);
    // Whoever pushed it knows the link.
    pusher.pull_blob("a", &digest).await;
    assert_eq!(requests(&node), [GET_DATA]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_of_a_blob_is_never_a_read() {
    let pusher = start().await;
    let digest = pusher.push_blob("a", &pattern(100_000, 1)).await;
    let target = format!("/v2/a/blobs/{digest}");
    let node = pusher.sibling().await;
    requests(&node);
    node.head(&target).expect(200).await;
    assert_eq!(requests(&node), [GET_LAYER, HEAD_DATA]);
    node.head(&target).expect(200).await;
    node.get(&target).header("if-none-match", "*").expect(304).await;
    assert_eq!(requests(&node), [""; 0]);
    pusher.head(&target).expect(200).await;
    assert_eq!(requests(&node), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_manifest_by_tag_is_one_request_and_by_digest_none() {
    let pusher = start().await;
    let manifest = small_index("x");
    pusher.push_manifest("a", "v1", &manifest).await;
    let node = pusher.sibling().await;
    requests(&node);
    let (by_tag, by_digest) =
        ("/v2/a/manifests/v1", format!("/v2/a/manifests/{}", sha256(&manifest)));
    node.get(by_tag).expect(200).await;
    assert_eq!(requests(&node), [GET_DATA, GET_TAG, GET_REVISION].sorted());
    for node in [&node, &pusher] {
        node.get(by_tag).expect(200).await;
        assert_eq!(requests(node), [GET_TAG]);
        node.head(by_tag).expect(200).await;
        assert_eq!(requests(node), [GET_TAG]);
        node.get(&by_digest).expect(200).await;
        node.head(&by_digest).expect(200).await;
        assert_eq!(requests(node), [""; 0]);
    }
}

const READ_TAG: &str =
    "GET /pond/docker/registry/v2/repositories/a/_manifests/tags/v1/current/link";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_readers_of_a_tag_are_two_requests() {
    let node = start().await;
    node.push_manifest("a", "v1", &small_index("x")).await;
    requests(&node);
    // As long as they need to come, and not so long that those who wait for their turn lose patience.
    node.s3().inject(Injection::new(Action::Delay(Duration::from_millis(700))).on(READ_TAG));
    let answers = (0..100).map(|_| node.get("/v2/a/manifests/v1").expect(200));
    join_all(answers).await;
    assert_eq!(requests(&node), [GET_TAG; 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_while_a_tag_is_read_is_seen_by_all_who_come_after_it() {
    let (node, [old, new]) = (start().await, ["old", "new"].map(small_index));
    let other = node.sibling().await;
    node.push_manifest("a", "v1", &old).await;
    requests(&node);
    // It is told what was true before the push, after the push.
    let slow = Injection::new(Action::DelayAnswer(Duration::from_millis(700)));
    node.s3().inject(slow.on(READ_TAG).times(1));
    let early = tokio::spawn(node.get("/v2/a/manifests/v1").expect(200));
    let begun = || async { node.s3().take_requests().contains(&READ_TAG.to_owned()).then_some(()) };
    eventually("the tag is read", begun).await;
    other.push_manifest("a", "v1", &new).await;
    requests(&node);
    let later = (0..10).map(|_| node.get("/v2/a/manifests/v1").expect(200));
    for answer in join_all(later).await {
        assert_eq!(answer.header("docker-content-digest"), sha256(&new));
    }
    let read = requests(&node);
    assert_eq!(read.iter().filter(|line| *line == GET_TAG).count(), 1, "{read:#?}");
    assert_eq!(early.await.unwrap().header("docker-content-digest"), sha256(&old));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_whose_reading_failed_is_read_again() {
    let node = start().await;
    node.push_manifest("a", "v1", &small_index("x")).await;
    requests(&node);
    node.s3().inject(Injection::new(Action::Refuse(403, "AccessDenied")).on(READ_TAG).times(1));
    node.get("/v2/a/manifests/v1").refused(503, "UNAVAILABLE").await;
    node.get("/v2/a/manifests/v1").expect(200).await;
    assert_eq!(requests(&node), [GET_TAG; 2]);
}

trait Sorted {
    fn sorted(self) -> Self;
}

impl<const N: usize> Sorted for [&str; N] {
    fn sorted(mut self) -> Self {
        self.sort_unstable();
        self
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_one_request() {
    let node = start().await;
    let digest = crate::content::unknown_digest();
    let cases = [
        (format!("/v2/a/blobs/{digest}"), GET_LAYER),
        ("/v2/a/manifests/v1".to_owned(), GET_TAG),
        (format!("/v2/a/manifests/{digest}"), GET_REVISION),
    ];
    for (target, expected) in cases {
        assert_eq!(node.status_of(&target).await, 404);
        assert_eq!(requests(&node), [expected], "{target}");
    }
}

/// Tags of one manifest, as files, because pushing them would take long.
fn plant_tags(node: &TestNode, numbers: Range<usize>, manifest: &Bytes) {
    let digest = sha256(manifest);
    let hex = &digest["sha256:".len()..];
    let tags = node.files().join("docker/registry/v2/repositories/a/_manifests/tags");
    for number in numbers {
        let tag = tags.join(format!("v{number:04}"));
        let mut folders = vec![tag.join("current")];
        // A few histories are enough for what looks at them.
        folders.extend((number < 200).then(|| tag.join(format!("index/sha256/{hex}"))));
        for folder in folders {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("link"), &digest).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tags_are_one_request() {
    let node = start().await;
    for (numbers, expected) in [(0..102, 1), (102..2_500, 3)] {
        plant_tags(&node, numbers.clone(), &small_index("x"));
        let listed = node.get("/v2/a/tags/list").expect(200).await.json();
        assert_eq!(listed["tags"].as_array().unwrap().len(), numbers.end);
        let requests = requests(&node);
        assert_eq!(requests.len(), expected, "{requests:#?}");
        assert!(requests.iter().all(|line| line.starts_with("GET ?list-type=2")), "{requests:#?}");
    }
    node.get("/v2/a/tags/list?n=50").expect(200).await;
    assert_eq!(requests(&node).len(), 1, "one page");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_manifest_does_not_look_at_every_tag() {
    let node = start().await;
    let (other, gone) = (small_index("other"), small_index("gone"));
    plant_tags(&node, 0..102, &other);
    node.push_manifest("a", "v1", &gone).await;
    requests(&node);
    node.delete(&format!("/v2/a/manifests/{}", sha256(&gone))).expect(202).await;
    let operations = node.s3().take_operations();
    assert!(operations.len() <= 8, "{operations:?}");
    let listed = node.get("/v2/a/tags/list").expect(200).await.json();
    assert_eq!(listed["tags"].as_array().unwrap().len(), 102);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_is_the_link_and_what_is_not_known_yet() {
    let node = start().await;
    let digest = node.push_blob("from", &pattern(10, 1)).await;
    requests(&node);
    let target = format!("/v2/a/blobs/uploads/?mount={digest}");
    node.post(&with_query(&target, "from=from")).expect(201).await;
    assert_eq!(requests(&node), [PUT_LAYER], "everything is known");
    let cold = node.sibling().await;
    cold.post(&with_query(&target, "from=from")).expect(201).await;
    let asked = ["GET repositories/from/_layers/sha256/*/link", HEAD_DATA];
    assert_eq!(requests(&node), [asked[0], asked[1], PUT_LAYER].sorted());
    let colder = node.sibling().await;
    colder.post(&target).expect(201).await;
    assert_eq!(requests(&node), [asked[1], PUT_LAYER].sorted(), "from anywhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warm_referrers_are_one_request() {
    let node = start().await;
    let subject = small_index("subject");
    node.push_manifest("a", "v1", &subject).await;
    for number in 0..20 {
        let manifest = referrer(&describe(INDEX, &subject), ARTIFACT, &number.to_string());
        node.push_manifest("a", &sha256(&manifest), &manifest).await;
    }
    let target = format!("/v2/a/referrers/{}", sha256(&subject));
    node.get(&target).expect(200).await;
    requests(&node);
    node.get(&target).expect(200).await;
    let warm = requests(&node);
    assert_eq!(warm.len(), 1, "{warm:#?}");
    assert!(warm[0].starts_with("GET ?list-type=2"), "{warm:#?}");
    // After a restart: the listing and what was learnt before.
    let restarted = node.sibling().await;
    let listed = restarted.get(&target).expect(200).await.json();
    assert_eq!(listed["manifests"].as_array().unwrap().len(), 20);
    let after = requests(&node);
    assert_eq!(after.len(), 2, "{after:#?}");
    assert_eq!(after[0], warm[0]);
    assert_eq!(after[1], "GET referrers/a/_index.json");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_asks_nothing() {
    let node = start().await;
    node.get("/v2/").expect(200).await;
    node.get("/v2/A/tags/list").expect(400).await;
    assert_eq!(requests(&node), [""; 0]);
}
