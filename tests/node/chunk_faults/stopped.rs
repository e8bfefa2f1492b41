//! Clients that ask for a blob and stop reading: they keep what is theirs and hold up nobody.

use std::{fs, time::Duration};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{BOUND, Blob, Check, MIB, Outcome, is_responsive, node_with};
use crate::{
    content::pattern,
    node::TestNode,
    raw::{eventually, find},
};

/// Clients that stop, unless this process may not open as many files.
const CLIENTS: usize = 1_000;

/// Descriptors that are left for everything else in this process.
const OTHER_FILES: usize = 400;

/// Those who read on in the end.
const RESUMING: usize = 20;

/// What the client's kernel takes in for it, at most.
const RECEIVE_BUFFER_BYTES: u32 = 64 << 10;

/// Requests that are not answered in full.
const IN_FLIGHT: &str = "millpond_http_requests_in_flight";

/// How long nothing may happen until nothing is expected any more.
const QUIET: Duration = Duration::from_millis(200);

/// As many clients as there are descriptors for: each needs one, and so does the node for it.
fn clients() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").expect("the kernel tells the limits");
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft =
        files.and_then(|text| text.split_whitespace().next()).expect("there is one of files");
    let soft = soft.parse().unwrap_or(usize::MAX);
    CLIENTS.min(soft.saturating_sub(OTHER_FILES) / 2)
}

/// A client that has read the headers of its answer, and maybe a little more.
struct Stopped {
    socket: TcpStream,
    body: Vec<u8>,
}

impl Stopped {
    async fn ask(node: &TestNode, blob: &Blob) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).expect("a size the system takes");
        let address = node.url()["http://".len()..].parse().expect("an address");
        let mut socket = socket.connect(address).await.expect("the node accepts connections");
        let request = format!("GET {} HTTP/1.1\r\nhost: r\r\n\r\n", blob.path());
        socket.write_all(request.as_bytes()).await.expect("the node reads");
        let mut head = Vec::new();
        let end = loop {
            if let Some(end) = find(&head, b"\r\n\r\n") {
                break end + 4;
            }
            let mut some = [0; 512];
            let length = socket.read(&mut some).await.expect("the node answers");
            assert!(length > 0, "no answer, only {:?}", String::from_utf8_lossy(&head));
            head.extend_from_slice(&some[..length]);
        };
        let body = head.split_off(end);
        assert!(head.starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&head));
        Self { socket, body }
    }

    /// Reads all of the body.
    async fn read_on(mut self, blob: &Blob) {
        let mut check = Check::new(&blob.bytes);
        check.take(&self.body);
        let mut buffer = vec![0; MIB];
        while check.received < blob.bytes.len() {
            let length = self.socket.read(&mut buffer).await.expect("the node goes on");
            assert!(length > 0, "the body ends after {} bytes", check.received);
            check.take(&buffer[..length]);
        }
        check.end(&blob.digest);
    }
}

/// What waits to be sent on the connections of a node, as the kernel has it, by the port of the other end.
fn queues(node: &TestNode) -> Vec<(String, u64)> {
    let port = node.url().rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    let own = format!(":{:04X}", port.expect("a URL with a port"));
    let table = fs::read_to_string("/proc/net/tcp").expect("the kernel tells the connections");
    let connections = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (queued, _received) = fields.get(4)?.split_once(':')?;
        let is_own = fields[1].ends_with(&own);
        is_own.then(|| (fields[2].to_owned(), u64::from_str_radix(queued, 16).unwrap_or_default()))
    });
    connections.filter(|(_, queued)| *queued > 0).collect()
}

/// A number among the metrics.
async fn metric(node: &TestNode, name: &str) -> u64 {
    let text = node.get(&format!("{}/metrics", node.admin_url())).expect(200).await.body;
    let text = String::from_utf8(text.to_vec()).expect("metrics are text");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("{name} is missing from {text}"));
    value.parse().unwrap_or_else(|_| panic!("{name} is {value}"))
}

/// Waits until the node has sent to so many clients what the kernel takes, and can send no more.
async fn wait_until_stuck(node: &TestNode, clients: usize) {
    eventually("nothing more can be sent", async || {
        let before = queues(node);
        tokio::time::sleep(QUIET).await;
        (before.len() >= clients && before == queues(node)).then_some(())
    })
    .await;
}

/// Waits until no request is being answered any more.
async fn wait_until_idle(node: &TestNode) {
    eventually("those who have gone are let go", async || {
        (metric(node, IN_FLIGHT).await == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_that_stop_reading_hold_up_nobody() {
    let (node, blobs) = node_with([pattern(70 * MIB, 1)], "cache: {memory: 64MiB}").await;
    let (blob, clients) = (&blobs[0], clients());
    let asked = join_all((0..clients).map(|_| Stopped::ask(&node, blob)));
    let mut stopped = tokio::time::timeout(BOUND, asked).await.expect("all of them are answered");
    wait_until_stuck(&node, clients).await;
    assert!(metric(&node, IN_FLIGHT).await >= clients as u64);
    is_responsive(&node).await;
    assert_eq!(blob.pull(&node, node.http()).await, Outcome::Whole);
    let used = metric(&node, "millpond_cache_memory_bytes").await;
    assert!((1..=64 << 20).contains(&used), "{used}");
    let resumed = stopped.drain(..RESUMING).map(|client| client.read_on(blob));
    let resumed = tokio::time::timeout(BOUND, join_all(resumed)).await;
    resumed.expect("who reads on gets all of it");
    drop(stopped);
    wait_until_idle(&node).await;
}

/// Connections whose streams are given no window.
const CONNECTIONS: usize = 4;

/// Streams on each.
const STREAMS: usize = 100;

/// A client that speaks HTTP/2.
fn speaking_http_2() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().http2_prior_knowledge()
}

/// What comes of so many requests for a blob on each of so many connections, whose client takes no byte of a body.
async fn ask_without_window(url: String) -> Vec<reqwest::Response> {
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| speaking_http_2().http2_initial_stream_window_size(0).build())
        .map(|client| client.expect("a client without TLS"))
        .collect();
    let requests = clients.iter().flat_map(|client| {
        let requests = (0..STREAMS).map(|_| client.get(&url).send());
        requests.collect::<Vec<_>>()
    });
    let answers = join_all(requests).await.into_iter();
    answers.map(|answer| answer.expect("an answer, whatever it is")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_given_no_window_hold_up_none_but_those_like_them() {
    let blobs = [70, 9].map(|length| pattern(length * MIB, 1));
    let settings = "{cache: {memory: 64MiB}, memory: {buffers: 16MiB}}";
    let (node, blobs) = node_with(blobs, settings).await;
    let other = speaking_http_2().build().expect("a client without TLS");
    let url = format!("{}{}", node.url(), blobs[0].path());
    let stalled = tokio::spawn(ask_without_window(url));
    eventually("all of them have asked", async || {
        let asked = metric(&node, IN_FLIGHT).await >= (CONNECTIONS * STREAMS) as u64;
        asked.then_some(())
    })
    .await;
    is_responsive(&node).await;
    node.push_blob("a", &pattern(MIB, 2)).await;
    // Neither of them is in memory, and by HTTP/1 neither is copied.
    for blob in &blobs {
        assert_eq!(blob.pull(&node, node.http()).await, Outcome::Whole);
    }
    let used = metric(&node, "millpond_cache_memory_bytes").await;
    assert!((1..=64 << 20).contains(&used), "{used}");
    let pulled = blobs[1].pull(&node, &other).await;
    assert!([Outcome::Whole, Outcome::unavailable()].contains(&pulled), "{pulled:?}");
    let stalled = stalled.await.expect("all of them are answered");
    for answer in &stalled {
        let is_refused = answer.status() == 503 && answer.headers().contains_key("retry-after");
        assert!(answer.status() == 200 || is_refused, "{answer:?}");
    }
    drop(stalled);
    wait_until_idle(&node).await;
    for blob in &blobs {
        assert_eq!(blob.pull(&node, &other).await, Outcome::Whole);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_given_no_window_is_given_up() {
    let (node, blobs) = node_with([pattern(9 * MIB, 1)], "api: {write_timeout: 1s}").await;
    let client = speaking_http_2().http2_initial_stream_window_size(0).build();
    let client = client.expect("a client without TLS");
    let url = format!("{}{}", node.url(), blobs[0].path());
    let answer = client.get(&url).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    wait_until_idle(&node).await;
    assert!(answer.bytes().await.is_err(), "the body ends in an error");
    let other = speaking_http_2().build().expect("a client without TLS");
    assert_eq!(blobs[0].pull(&node, &other).await, Outcome::Whole);
}
