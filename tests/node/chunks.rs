//! Blobs of a bucket are read in chunks, each once however many want it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all};

use crate::{
    content::{pattern, sha256},
    disk::metric,
    node::{Backend, TestNode},
    s3_server::{Action, Injection},
};

const MIB: usize = 1 << 20;

/// A node that has never seen the blob, and where the blob is.
async fn node_with(bytes: &Bytes) -> (TestNode, String) {
    node_of(bytes, "").await
}

async fn node_of(bytes: &Bytes, settings: &str) -> (TestNode, String) {
    let mut node = TestNode::start(Backend::S3, settings).await;
    let digest = node.push_blob("a", bytes).await;
    node.restart().await;
    node.s3().take_requests();
    (node, format!("/v2/a/blobs/{digest}"))
}

/// How often bytes of a blob, or what they are held against, were asked of the bucket since the last call, and how often
/// the blob's length.
fn asked(node: &TestNode) -> (usize, usize) {
    let requests = node.s3().take_requests();
    let of_blob = |line: &&String| line.ends_with("/data") || line.ends_with("/table");
    let of_blob: Vec<_> = requests.iter().filter(of_blob).collect();
    let gets = of_blob.iter().filter(|line| line.starts_with("GET ")).count();
    (gets, of_blob.len() - gets)
}

async fn pull(node: &TestNode, path: &str) -> Bytes {
    node.get(path).expect(200).await.body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_no_more_requests_than_chunks_and_none_when_it_is_pulled_again() {
    // Chunks of 1 MiB, of which the first request brings eight; and of 4 MiB, of which it brings two.
    for (length, most) in [(1, 1), (MIB, 1), (8 * MIB, 1), (8 * MIB + 1, 3), (65 * MIB, 17)] {
        let bytes = pattern(length, 1);
        let (node, path) = node_with(&bytes).await;
        assert!(pull(&node, &path).await == bytes, "{length}: other bytes");
        let (gets, heads) = asked(&node);
        assert!((1..=most).contains(&gets) && heads == 0, "{length}: {gets} requests");
        let filled = metric(&node, "millpond_cache_filled_bytes_total{from=\"storage\"}").await;
        assert_eq!(filled, length as u64, "each byte comes once");
        assert!(pull(&node, &path).await == bytes, "{length}: other bytes");
        assert_eq!(asked(&node), (0, 0), "{length}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_blob_is_asked_for_once() {
    let (node, path) = node_with(&Bytes::new()).await;
    for requests in [1, 0] {
        assert!(pull(&node, &path).await.is_empty());
        assert_eq!(asked(&node).0, requests);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_clients_cost_what_one_costs() {
    let bytes = pattern(9 * MIB, 1);
    let (node, path) = node_with(&bytes).await;
    // So that all of them come before the first byte does.
    node.s3().inject(Injection::new(Action::Delay(Duration::from_millis(300))).on("/data"));
    let pulled = join_all((0..50).map(|_| pull(&node, &path))).await;
    assert!(pulled.iter().all(|pulled| *pulled == bytes), "other bytes");
    assert_eq!(asked(&node), (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_costs_the_chunks_it_touches() {
    let bytes = pattern(70 * MIB, 1);
    let (node, path) = node_with(&bytes).await;
    let range = |first: usize, last: usize| {
        let get = node.get(&path).header("range", &format!("bytes={first}-{last}"));
        get.expect(206)
    };
    // The length has to be asked for, unless the beginning comes anyway; and what to hold the bytes against.
    let (first, last) = (41 * MIB, 45 * MIB - 1);
    assert!(range(first, last).await.body == bytes.slice(first..=last));
    assert_eq!(asked(&node), (3, 1));
    assert!(range(first + 5, last - 5).await.body == bytes.slice(first + 5..=last - 5));
    assert_eq!(asked(&node), (0, 0));
    let tail = node.get(&path).header("range", "bytes=-9").expect(206).await;
    assert!(tail.body == bytes.slice(bytes.len() - 9..));
    assert_eq!(asked(&node), (1, 0));
    let outside = node.get(&path).header("range", "bytes=73400320-").expect(416).await;
    assert_eq!(outside.header("content-range"), "bytes */73400320");
    assert_eq!(asked(&node), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_leaves_the_chunk_to_the_next() {
    let bytes = pattern(MIB, 1);
    let (node, path) = node_with(&bytes).await;
    let url = format!("{}{path}", node.url());
    let answer = node.http().get(url).send().await.unwrap();
    let mut body = answer.bytes_stream();
    assert!(body.next().await.is_some());
    drop(body);
    assert!(pull(&node, &path).await == bytes);
    assert_eq!(asked(&node), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_fails_in_the_middle_ends_the_body_and_nothing_wrong_is_kept() {
    let bytes = pattern(66 * MIB, 1);
    let (node, path) = node_with(&bytes).await;
    // The third chunk, as often as it is tried.
    let refuse = Injection::new(Action::Refuse(500, "InternalError")).on("/data").skip(2);
    node.s3().inject(refuse);
    let failed = node.get(&path).attempt().await;
    assert!(failed.is_err(), "a part is not taken for the whole");
    node.s3().heal();
    assert!(pull(&node, &path).await == bytes, "other bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_break_off_are_gone_on_with() {
    let bytes = pattern(6 * MIB, 1);
    let (node, path) = node_with(&bytes).await;
    node.s3().inject(Injection::new(Action::CutBody(300_000)).on("/data").times(3));
    assert!(pull(&node, &path).await == bytes, "other bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_whose_length_in_the_bucket_has_changed_is_an_error_and_then_what_it_is() {
    let bytes = pattern(66 * MIB, 1);
    let (node, path) = node_with(&bytes).await;
    let tail = || node.get(&path).header("range", "bytes=-9");
    assert_eq!(tail().expect(206).await.body, bytes.slice(bytes.len() - 9..));
    let hex = &sha256(&bytes)["sha256:".len()..];
    let file = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    let file = std::fs::File::options().write(true).open(node.s3().files().join(file)).unwrap();
    file.set_len(65 * MIB as u64).unwrap();
    node.get(&path).refused(500, "UNKNOWN").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_the_memory_is_served_too() {
    let bytes = pattern(100 * MIB, 1);
    let (node, path) = node_of(&bytes, "cache: {memory: 64MiB}").await;
    let both = join_all((0..2).map(|_| pull(&node, &path))).await;
    assert!(both.iter().all(|pulled| *pulled == bytes), "other bytes");
    let metrics = node.http().get(format!("{}/metrics", node.admin_url())).send().await.unwrap();
    let text = metrics.text().await.unwrap();
    let used = text.lines().find_map(|line| line.strip_prefix("millpond_cache_memory_bytes "));
    let used: u64 = used.expect("the memory is told").parse().expect("a number");
    assert!((1..=64 << 20).contains(&used), "{used}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_slowly_keeps_nothing_in_memory_and_gets_the_right_bytes() {
    let (slow, other) = (pattern(70 * MIB, 1), pattern(130 * MIB, 2));
    let (node, path) = node_of(&slow, "cache: {memory: 64MiB}").await;
    let digest = node.push_blob("a", &other).await;
    let answer = node.http().get(format!("{}{path}", node.url())).send().await.unwrap();
    let mut body = answer.bytes_stream();
    let mut pulled = body.next().await.unwrap().unwrap().to_vec();
    // It is in the middle of a chunk, when others need the memory.
    assert!(pull(&node, &format!("/v2/a/blobs/{digest}")).await == other);
    node.s3().take_requests();
    while let Some(bytes) = body.next().await {
        pulled.extend_from_slice(&bytes.unwrap());
    }
    assert!(slow == pulled, "other bytes");
    // What is left of that chunk is fetched in small parts, the other chunks as they are; some had been sent.
    let (gets, _) = asked(&node);
    assert!((1..18 + 64).contains(&gets), "{gets} requests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_chunks_leaves_the_memory_in_which_they_come() {
    let bytes = pattern(10 * MIB, 1);
    let (node, path) = node_of(&bytes, "memory: {buffers: 16MiB}").await;
    node.s3().inject(Injection::new(Action::Delay(Duration::from_millis(300))).on("/data"));
    // Bytes of HTTP/2 are copied, so each of these pays for a window before its first chunk is there.
    let pulls = (0..100).map(|_| async {
        let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
        let answer = client.get(format!("{}{path}", node.url())).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.bytes().await
    });
    for pulled in join_all(pulls).await {
        assert!(pulled.unwrap() == bytes, "other bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_bytes_come_from_and_what_they_take_is_told() {
    let bytes = pattern(6 * MIB, 1);
    let (node, path) = node_of(&bytes, "memory: {buffers: 32MiB}").await;
    for _ in 0..2 {
        assert!(pull(&node, &path).await == bytes, "other bytes");
    }
    let answer = node.http().get(format!("{}/metrics", node.admin_url())).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not told:\n{text}")).parse::<f64>().unwrap()
    };
    assert_eq!(value("millpond_cache_lookups_total{found=\"memory\"}"), 6.0);
    assert_eq!(value("millpond_cache_filled_bytes_total{from=\"storage\"}"), (6 * MIB) as f64);
    assert_eq!(value("millpond_cache_memory_read_bytes_total"), (6 * MIB) as f64);
    assert_eq!(value("millpond_cache_fill_seconds_count{from=\"storage\"}"), 6.0);
    assert_eq!(value("millpond_cache_memory_evictions_total"), 0.0);
    assert!(value("millpond_cache_memory_bytes") >= (6 * MIB) as f64);
    assert!(value("millpond_cache_memory_file_bytes") >= (6 * MIB) as f64);
    assert_eq!(value("millpond_cache_coming_bytes"), 0.0);
    assert_eq!(value("millpond_buffers_limit_bytes"), (32 * MIB) as f64);
    assert!(value("millpond_buffers_bytes") <= (32 * MIB) as f64);
    let pulls = "{method=\"GET\",route=\"blob\"}";
    assert_eq!(value(&format!("millpond_http_first_byte_seconds_count{pulls}")), 2.0);
    assert!(
        value(&format!("millpond_http_first_byte_seconds_sum{pulls}"))
            <= value(&format!("millpond_http_request_seconds_sum{pulls}"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_reading_what_has_gone_from_memory_holds_up_nobody() {
    let (read, other) = (pattern(130 * MIB, 1), pattern(130 * MIB, 2));
    let settings = "{cache: {memory: 64MiB}, memory: {buffers: 16MiB}}";
    let (node, path) = node_of(&read, settings).await;
    let digest = node.push_blob("a", &other).await;
    // More than there is memory for pieces that are fetched for one reader alone.
    let clients = join_all((0..100).map(async |number| {
        let range = format!("bytes={}-", number * MIB);
        let get = node.http().get(format!("{}{path}", node.url())).header("range", range);
        (number * MIB, get.send().await.unwrap().bytes_stream())
    }))
    .await;
    assert!(pull(&node, &format!("/v2/a/blobs/{digest}")).await == other);
    let mut stopped = Vec::new();
    for (mut position, mut body) in clients {
        let end = position + 8 * MIB;
        while position < end {
            let next = tokio::time::timeout(Duration::from_secs(30), body.next()).await;
            let bytes = next.expect("nobody is waited for").unwrap().unwrap();
            assert!(bytes == read[position..position + bytes.len()], "other bytes at {position}");
            position += bytes.len();
        }
        stopped.push(body);
    }
    assert_eq!(stopped.len(), 100);
}
