//! Pulling blobs, whole and in ranges (end-2; RFC 9110, sections 13 and 14).

use bytes::Bytes;
use http::Method;

use crate::{
    client::{Answer, with_query},
    content::{pattern, sha256, sha512, unknown_digest},
    node::{Backend, TestNode},
    raw::{Raw, find},
};

on_both_backends! {
    a_blob_is_described_the_same_by_head_and_get,
    a_blob_of_another_repository_is_invisible,
    a_missing_blob_is_unknown_everywhere,
    a_blob_that_is_known_already_is_not_sent_again,
    a_blob_unlike_the_one_known_is_sent,
    ranges_are_answered_exactly,
    ranges_outside_the_blob_are_refused_with_its_length,
    several_ranges_come_in_parts,
    of_several_ranges_those_outside_are_left_out,
    ranges_that_repeat_everything_are_answered_whole,
    too_many_ranges_are_refused,
    what_is_no_byte_range_is_ignored,
    if_range_holds_the_range_to_the_digest,
    a_head_ignores_ranges,
    an_empty_blob_is_a_blob,
    a_blob_by_sha512_is_named_by_it,
    a_large_blob_comes_whole_and_in_ranges,
    large_blobs_asked_for_at_once_come_one_after_the_other,
    who_goes_away_in_a_large_blob_disturbs_nobody,
    nothing_is_compressed_on_the_way,
}

const SIZE: usize = 2048;

struct Pushed {
    node: TestNode,
    bytes: Bytes,
    digest: String,
    target: String,
}

async fn pushed(backend: Backend, size: usize) -> Pushed {
    let node = TestNode::start(backend, "").await;
    let bytes = pattern(size, 7);
    let digest = node.push_blob("pull/here", &bytes).await;
    let target = format!("/v2/pull/here/blobs/{digest}");
    Pushed { node, bytes, digest, target }
}

impl Pushed {
    async fn range(&self, range: &str) -> Answer {
        self.node.get(&self.target).header("range", range).send().await
    }
}

async fn a_blob_is_described_the_same_by_head_and_get(backend: Backend) {
    let pushed = pushed(backend, SIZE).await;
    let get = pushed.node.get(&pushed.target).expect(200).await;
    let head = pushed.node.head(&pushed.target).expect(200).await;
    assert_eq!(get.body, pushed.bytes);
    assert!(head.body.is_empty());
    for answer in [get, head] {
        assert_eq!(answer.header("content-length"), "2048");
        assert_eq!(answer.header("docker-content-digest"), pushed.digest);
        assert_eq!(answer.header("etag"), format!("\"{}\"", pushed.digest));
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        assert_eq!(answer.header("accept-ranges"), "bytes");
    }
}

async fn a_blob_of_another_repository_is_invisible(backend: Backend) {
    let pushed = pushed(backend, SIZE).await;
    for other in ["pull", "pull/her", "pull/here/too"] {
        let target = format!("/v2/{other}/blobs/{}", pushed.digest);
        assert_eq!(pushed.node.status_of(&target).await, 404, "{other}");
        pushed.node.get(&target).refused(404, "BLOB_UNKNOWN").await;
    }
}

async fn a_missing_blob_is_unknown_everywhere(backend: Backend) {
    let pushed = pushed(backend, SIZE).await;
    for repository in ["never/seen", "pull/here"] {
        let target = format!("/v2/{repository}/blobs/{}", unknown_digest());
        pushed.node.get(&target).refused(404, "BLOB_UNKNOWN").await;
        pushed.node.head(&target).refused(404, "BLOB_UNKNOWN").await;
        let get = pushed.node.get(&target).header("range", "bytes=0-1,3-4");
        get.refused(404, "BLOB_UNKNOWN").await;
        let get = pushed.node.get(&target).header("if-none-match", "*");
        get.refused(404, "BLOB_UNKNOWN").await;
    }
}

async fn a_blob_that_is_known_already_is_not_sent_again(backend: Backend) {
    let pushed = pushed(backend, SIZE).await;
    let tag = format!("\"{}\"", pushed.digest);
    let known = [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()];
    for known in known {
        for method in [Method::GET, Method::HEAD] {
            let ask = pushed.node.ask(method, &pushed.target).header("if-none-match", &known);
            let answer = ask.expect(304).await;
            assert!(answer.body.is_empty());
            assert_eq!(answer.header("etag"), tag);
        }
    }
    let two_lines = pushed.node.get(&pushed.target).header("if-none-match", "\"x\"");
    two_lines.header("if-none-match", &tag).expect(304).await;
}

async fn a_blob_unlike_the_one_known_is_sent(backend: Backend) {
    let pushed = pushed(backend, SIZE).await;
    for known in [format!("\"{}\"", unknown_digest()), pushed.digest.clone(), "\"*\"".to_owned()] {
        let get = pushed.node.get(&pushed.target).header("if-none-match", &known);
        assert_eq!(get.expect(200).await.body, pushed.bytes, "{known}");
    }
}

async fn ranges_are_answered_exactly(backend: Backend) {
    let pushed = pushed(backend, SIZE).await;
    let cases = [
        ("bytes=500-1499", 500..1500),
        ("bytes=500-", 500..SIZE),
        ("bytes=-500", SIZE - 500..SIZE),
        ("bytes=2000-5000", 2000..SIZE),
        ("bytes=0-0", 0..1),
        ("bytes=2047-2047", 2047..SIZE),
        ("bytes=-1", 2047..SIZE),
        ("bytes=-5000", 0..SIZE),
        ("bytes=0-", 0..SIZE),
        ("bytes=0-2047", 0..SIZE),
        ("bytes=0-99999999999999999999", 0..SIZE),
        ("BYTES=1-2", 1..3),
        ("bytes= 1-2 , ", 1..3),
    ];
    for (range, expected) in cases {
        let answer = pushed.range(range).await;
        assert_eq!(answer.status, 206, "{range}: {answer:?}");
        assert_eq!(answer.body, pushed.bytes.slice(expected.clone()), "{range}");
        assert_eq!(answer.header("content-length"), expected.len().to_string(), "{range}");
        let described = format!("bytes {}-{}/{SIZE}", expected.start, expected.end - 1);
        assert_eq!(answer.header("content-range"), described, "{range}");
        assert_eq!(answer.header("docker-content-digest"), pushed.digest, "{range}");
        assert_eq!(answer.header("content-type"), "application/octet-stream", "{range}");
    }
}

async fn ranges_outside_the_blob_are_refused_with_its_length(backend: Backend) {
    let pushed = pushed(backend, SIZE).await;
    for range in ["500-0", "5000-10000", "2048-", "2048-2048", "-0", "3000-,4000-"] {
        let get = pushed.node.get(&pushed.target).header("range", &format!("bytes={range}"));
        let answer = get.refused(416, "RANGE_INVALID").await;
        assert_eq!(answer.header("content-range"), "bytes */2048", "{range}");
    }
}

/// The parts of a `multipart/byteranges` body, read as RFC 2046 has it: what `Content-Range` says of each,
/// and its bytes.
fn parts(answer: &Answer) -> Vec<(String, Vec<u8>)> {
    let media_type = answer.header("content-type");
    let boundary = media_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let delimiter = format!("\r\n--{boundary}");
    let body = [b"\r\n".as_slice(), &answer.body].concat();
    let mut rest = &body[find(&body, delimiter.as_bytes()).unwrap() + delimiter.len()..];
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        let end = find(rest, delimiter.as_bytes()).expect("a delimiter after each part");
        let (part, after) = (&rest[..end], &rest[end + delimiter.len()..]);
        let head_end = find(part, b"\r\n\r\n").expect("an empty line after the headers");
        let head = String::from_utf8(part[..head_end].to_vec()).unwrap().to_lowercase();
        let range = head.lines().find_map(|line| line.strip_prefix("content-range: "));
        parts.push((range.unwrap().to_owned(), part[head_end + 4..].to_vec()));
        rest = after;
    }
    assert!(rest == b"--\r\n" || rest == b"--", "after the last part: {rest:?}");
    parts
}

async fn several_ranges_come_in_parts(backend: Backend) {
    let pushed = pushed(backend, SIZE).await;
    let answer = pushed.range("bytes=0-99, 500-599,-100").await;
    assert_eq!(answer.status, 206, "{answer:?}");
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    assert!(answer.header_all("content-range").is_empty(), "each part has its own");
    let expected = [0..100, 500..600, SIZE - 100..SIZE].map(|range| {
        let described = format!("bytes {}-{}/{SIZE}", range.start, range.end - 1);
        (described, pushed.bytes[range].to_vec())
    });
    assert_eq!(parts(&answer), expected);
}

async fn of_several_ranges_those_outside_are_left_out(backend: Backend) {
    let pushed = pushed(backend, SIZE).await;
    let answer = pushed.range("bytes=9000-9999,10-19,5000-").await;
    assert_eq!(answer.status, 206, "{answer:?}");
    let bytes = if answer.header("content-type").starts_with("multipart") {
        let parts = parts(&answer);
        assert_eq!(parts.len(), 1);
        parts[0].1.clone()
    } else {
        answer.body.to_vec()
    };
    assert_eq!(bytes, pushed.bytes[10..20]);
}

async fn ranges_that_repeat_everything_are_answered_whole(backend: Backend) {
    let pushed = pushed(backend, SIZE).await;
    let answer = pushed.range("bytes=0-,0-,0-").await;
    assert_eq!((answer.status, answer.body.clone()), (200, pushed.bytes.clone()), "{answer:?}");
}

async fn too_many_ranges_are_refused(backend: Backend) {
    let pushed = pushed(backend, SIZE).await;
    let ranges: Vec<String> = (0..1_000).map(|start| format!("{start}-{start}")).collect();
    let answer = pushed.range(&format!("bytes={}", ranges.join(","))).await;
    assert_eq!(answer.status, 416, "{}", answer.body.len());
}

async fn what_is_no_byte_range_is_ignored(backend: Backend) {
    let pushed = pushed(backend, SIZE).await;
    for range in
        ["lines=1-2", "bytes", "bytes=", "bytes=a-b", "bytes=1", "bytes=1-2x", "1-2", "bytes=-"]
    {
        let answer = pushed.range(range).await;
        assert_eq!((answer.status, answer.body.len()), (200, SIZE), "{range}");
    }
}

async fn if_range_holds_the_range_to_the_digest(backend: Backend) {
    let pushed = pushed(backend, SIZE).await;
    let own = format!("\"{}\"", pushed.digest);
    let other = format!("\"{}\"", unknown_digest());
    let weak = format!("W/{own}");
    let date = "Tue, 15 Nov 1994 12:45:26 GMT";
    for (condition, status) in [(own.as_str(), 206), (&other, 200), (&weak, 200), (date, 200)] {
        for range in ["bytes=1-2", "bytes=1-2,5-6"] {
            let get = pushed.node.get(&pushed.target).header("range", range);
            let answer = get.header("if-range", condition).send().await;
            assert_eq!(answer.status, status, "If-Range: {condition}, Range: {range}");
        }
    }
}

async fn a_head_ignores_ranges(backend: Backend) {
    let pushed = pushed(backend, SIZE).await;
    for range in ["bytes=1-2", "bytes=9999-"] {
        let head = pushed.node.head(&pushed.target).header("range", range).expect(200).await;
        assert_eq!(head.header("content-length"), "2048", "{range}");
    }
}

async fn an_empty_blob_is_a_blob(backend: Backend) {
    let pushed = pushed(backend, 0).await;
    for method in [Method::GET, Method::HEAD] {
        let answer = pushed.node.ask(method, &pushed.target).expect(200).await;
        assert_eq!(answer.header("content-length"), "0");
        assert!(answer.body.is_empty());
    }
    let mut raw = Raw::connect(&pushed.node).await;
    for _ in 0..2 {
        raw.send(format!("GET {} HTTP/1.1\r\nhost: r\r\n\r\n", pushed.target)).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.header("content-length")), (200, Some("0")));
    }
    for range in ["bytes=0-", "bytes=0-0", "bytes=5-6"] {
        let get = pushed.node.get(&pushed.target).header("range", range);
        let answer = get.refused(416, "RANGE_INVALID").await;
        assert_eq!(answer.header("content-range"), "bytes */0", "{range}");
    }
}

async fn a_blob_by_sha512_is_named_by_it(backend: Backend) {
    let pushed = pushed(backend, SIZE).await;
    let digest = sha512(&pushed.bytes);
    assert_eq!(pushed.node.status_of(&format!("/v2/pull/here/blobs/{digest}")).await, 404);
    let location = pushed.node.begin_upload("pull/here").await;
    let target = with_query(&location, &format!("digest={digest}"));
    let created = pushed.node.put(&target, pushed.bytes.clone()).expect(201).await;
    let get = pushed.node.get(&created.location()).header("range", "bytes=5-9").expect(206).await;
    assert_eq!(get.header("docker-content-digest"), digest);
    assert_eq!(get.header("etag"), format!("\"{digest}\""));
    assert_eq!(get.body, pushed.bytes[5..10]);
}

async fn a_large_blob_comes_whole_and_in_ranges(backend: Backend) {
    let size = (11 << 20) + 3;
    let pushed = pushed(backend, size).await;
    assert!(pushed.node.pull_blob("pull/here", &pushed.digest).await == pushed.bytes);
    for start in [0, (5 << 20) - 1, 5 << 20, 10 << 20, size - 1] {
        let end = size.min(start + (1 << 20));
        let answer = pushed.range(&format!("bytes={start}-{}", end - 1)).await;
        assert_eq!(answer.status, 206, "from {start}");
        assert!(answer.body == pushed.bytes[start..end], "from {start}");
    }
    assert_eq!(sha256(&pushed.bytes), pushed.digest);
}

async fn large_blobs_asked_for_at_once_come_one_after_the_other(backend: Backend) {
    let pushed = pushed(backend, (3 << 20) + 7).await;
    let whole = format!("GET {} HTTP/1.1\r\nhost: a\r\n\r\n", pushed.target);
    let (from, to) = (70_001, (2 << 20) + 70_001);
    let range =
        format!("GET {} HTTP/1.1\r\nhost: a\r\nrange: bytes={from}-{to}\r\n\r\n", pushed.target);
    let mut raw = Raw::connect(&pushed.node).await;
    raw.send([whole.as_str(), &range, &whole].concat()).await;
    for (status, expected) in
        [(200, &pushed.bytes[..]), (206, &pushed.bytes[from..=to]), (200, &pushed.bytes[..])]
    {
        let answer = raw.answer().await;
        assert_eq!(answer.status, status);
        assert!(answer.body == expected, "{status} has other bytes");
    }
}

async fn who_goes_away_in_a_large_blob_disturbs_nobody(backend: Backend) {
    let pushed = pushed(backend, 24 << 20).await;
    let whole = format!("GET {} HTTP/1.1\r\nhost: a\r\n\r\n", pushed.target);
    let mut stays = Raw::connect(&pushed.node).await;
    stays.send(&whole).await;
    for _ in 0..3 {
        let mut goes = Raw::connect(&pushed.node).await;
        goes.send(&whole).await;
        goes.read_exactly(1 << 20).await;
    }
    let answer = stays.answer().await;
    assert!(answer.body == pushed.bytes, "other bytes");
    assert_eq!(pushed.node.pull_blob("pull/here", &pushed.digest).await, pushed.bytes);
}

async fn nothing_is_compressed_on_the_way(backend: Backend) {
    let node = TestNode::start(backend, "").await;
    let bytes = Bytes::from(vec![b'a'; 100_000]);
    let digest = node.push_blob("a", &bytes).await;
    let get = node.get(&format!("/v2/a/blobs/{digest}")).header("accept-encoding", "gzip, br");
    let answer = get.expect(200).await;
    assert!(answer.header_all("content-encoding").is_empty(), "{:?}", answer.headers);
    assert_eq!(answer.header("content-length"), "100000");
    assert_eq!(answer.body, bytes);
}
