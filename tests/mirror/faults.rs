//! Blobs of registries that break off, stall, refuse and lie.

use std::time::Duration;

use futures_util::future::join_all;

use crate::{
    fake_upstream::{Access, FakeUpstream, Fault, Script, TokenServer},
    fixture::{
        Mirror, REPOSITORY, assert_layer, body_errors, fills, first_bytes, header, pattern,
        read_text, requests, upstream_requests,
    },
    node::Backend,
};

const MIB: usize = 1 << 20;

/// How requests for blobs begin.
const BLOBS: &str = "GET /v2/team/app/blobs/";

/// More than any number of repetitions takes, and less than forever.
const BOUND: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_upstream_is_abandoned_and_taken_up_by_range() {
    let mirror = Mirror::start(Backend::Directory, "stall_timeout: 500ms").await;
    let image = mirror.put_image("v1", 3 * MIB);
    mirror.upstream.script(Script::new(Fault::StallAfter(MIB)).times(1));
    assert_layer(mirror.get(&image.layer_path()).await, &image).await;
    assert_eq!(mirror.ranges(&image.layer_path()), ["", "bytes=1048576-"]);
    mirror.assert_kept(&image).await;
    assert_eq!(mirror.metric(&body_errors("stalled")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trickling_upstream_is_abandoned_and_taken_up_by_range() {
    let mirror = Mirror::start(Backend::Directory, "stall_timeout: 500ms").await;
    let image = mirror.put_image("v1", MIB);
    let trickle = Fault::Slow(1, Duration::from_millis(50));
    mirror.upstream.script(Script::new(trickle).on(BLOBS).times(1));
    assert_layer(mirror.get(&image.layer_path()).await, &image).await;
    let ranges = mirror.ranges(&image.layer_path());
    let resumed: usize = ranges[1]["bytes=".len()..].trim_end_matches('-').parse().unwrap();
    assert!((1..100).contains(&resumed), "{ranges:?}");
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    mirror.assert_kept(&image).await;
    assert_eq!(mirror.metric(&body_errors("slow")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_always_trickles_is_given_up() {
    let mirror = Mirror::start(Backend::Directory, "stall_timeout: 200ms").await;
    let image = mirror.put_image("v1", MIB);
    let trickle = Fault::Slow(1, Duration::from_millis(20));
    mirror.upstream.script(Script::new(trickle).on(BLOBS));
    let answer = mirror.get(&image.layer_path()).await;
    assert_eq!(answer.status(), 200);
    let ended = tokio::time::timeout(BOUND, answer.bytes()).await.expect("an end in time");
    ended.expect_err("the body breaks off");
    mirror.until_filled("slow", 1).await;
    let attempts = mirror.asked("GET", &image.layer_path());
    assert_eq!(mirror.metric(&body_errors("slow")).await, attempts as u64);
    mirror.assert_no_trace_of(&image.layer);
    mirror.upstream.clear_scripts();
    assert_layer(mirror.get(&image.layer_path()).await, &image).await;
    mirror.assert_kept(&image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_every_connection_in_use_is_told_when_to_come_back() {
    let mirror = Mirror::start(Backend::Directory, "connections: 1, response_timeout: 300ms").await;
    let image = mirror.put_image("v1", MIB);
    mirror.upstream.script(Script::new(Fault::StallAfter(100_000)).on(BLOBS).times(1));
    let path = image.layer_path();
    let under_way = mirror.get(&path).await;
    let answer = mirror.get("manifests/v1").await;
    assert_eq!((answer.status().as_u16(), header(&answer, "retry-after")), (503, "2"));
    mirror.upstream.release();
    assert_layer(under_way, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_limited_without_a_time_is_told_one() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    mirror.put_image("v1", 1000);
    mirror.upstream.script(Script::new(Fault::RateLimit(None)));
    for _first_hand_and_while_it_is_left_alone in 0..2 {
        let answer = mirror.get("manifests/v1").await;
        let seconds: u64 = header(&answer, "retry-after").parse().unwrap();
        assert_eq!(answer.status(), 429);
        assert!((20..=30).contains(&seconds), "{seconds}");
    }
    assert_eq!(mirror.asked("GET", "manifests/v1"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_ranges_is_read_again_and_no_byte_is_given_twice() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "").await;
        let image = mirror.put_image("v1", 3 * MIB);
        mirror.upstream.script(Script::new(Fault::IgnoreRange));
        mirror.upstream.script(Script::new(Fault::CutAfter(MIB)).times(1));
        mirror.upstream.script(Script::new(Fault::CutAfter(2 * MIB)).skip(1).times(1));
        let crowd = (0..4).map(|_| async {
            assert_layer(mirror.get(&image.layer_path()).await, &image).await;
        });
        join_all(crowd).await;
        let ranges = mirror.ranges(&image.layer_path());
        assert_eq!(ranges, ["", "bytes=1048576-", "bytes=2097152-"]);
        mirror.assert_kept(&image).await;
        assert_eq!(mirror.metric(&body_errors("interrupted")).await, 2);
        assert_eq!(mirror.metric(&requests("blob", "fetched")).await, 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_always_ends_too_early_is_given_up() {
    let bytes = pattern(50_000, 1);
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n".to_vec();
    answer.extend_from_slice(&bytes);
    let mirror = Mirror::of_raw(Backend::Directory, answer, "").await;
    let digest = millpond::oci::Digest::of(millpond::oci::Algorithm::Sha256, &bytes);
    let answer = mirror.get(&format!("blobs/{digest}")).await;
    assert_eq!(answer.status(), 200);
    answer.bytes().await.expect_err("the body breaks off");
    mirror.until_filled("interrupted", 1).await;
    let attempts = mirror.upstream.requests().len();
    assert!((2..10).contains(&attempts), "{:?}", mirror.upstream.requests());
    assert_eq!(mirror.metric(&body_errors("interrupted")).await, attempts as u64);
    mirror.assert_no_trace_of(&digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_always_stalls_is_given_up() {
    let mirror = Mirror::start(Backend::Directory, "stall_timeout: 200ms").await;
    let image = mirror.put_image("v1", 3 * MIB);
    mirror.upstream.script(Script::new(Fault::IgnoreRange));
    mirror.upstream.script(Script::new(Fault::StallAfter(MIB)));
    let answer = mirror.get(&image.layer_path()).await;
    assert_eq!(answer.status(), 200);
    let ended = tokio::time::timeout(BOUND, answer.bytes()).await.expect("an end in time");
    ended.expect_err("the body breaks off");
    mirror.until_filled("stalled", 1).await;
    let attempts = mirror.asked("GET", &image.layer_path());
    assert!((2..10).contains(&attempts), "{:?}", mirror.upstream.requests());
    assert_eq!(mirror.metric(&body_errors("stalled")).await, attempts as u64);
    mirror.assert_no_trace_of(&image.layer);
    mirror.upstream.clear_scripts();
    mirror.upstream.release();
    assert_layer(mirror.get(&image.layer_path()).await, &image).await;
    mirror.assert_kept(&image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn access_that_is_denied_in_the_middle_is_an_error_and_no_clean_end() {
    for (status, outcome) in [(401, "challenged"), (403, "denied")] {
        let mirror = Mirror::start(Backend::Directory, "").await;
        let image = mirror.put_image("v1", 3 * MIB);
        mirror.upstream.script(Script::new(Fault::CutAfter(MIB)).times(1));
        mirror.upstream.script(Script::new(Fault::Status(status)).skip(1));
        let answer = mirror.get(&image.layer_path()).await;
        assert_eq!(answer.status(), 200);
        answer.bytes().await.expect_err("the body breaks off");
        mirror.until_filled("denied", 1).await;
        assert_eq!(mirror.metric(&upstream_requests("blob", outcome)).await, 1, "{status}");
        mirror.assert_no_trace_of(&image.layer);
        mirror.upstream.clear_scripts();
        assert_layer(mirror.get(&image.layer_path()).await, &image).await;
        mirror.assert_kept(&image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_looks_like_one_and_is_too_early_is_no_end() {
    // Without a length the end of the connection is the end of the body, wherever it is.
    let bytes = pattern(100_000, 1);
    let mut answer = b"HTTP/1.0 200 OK\r\n\r\n".to_vec();
    answer.extend_from_slice(&bytes[..50_000]);
    let mirror = Mirror::of_raw(Backend::Directory, answer, "").await;
    let digest = millpond::oci::Digest::of(millpond::oci::Algorithm::Sha256, &bytes);
    for times in 1..=2 {
        let (status, body) = read_text(mirror.get(&format!("blobs/{digest}")).await).await;
        assert_eq!((status, body.contains("DIGEST_INVALID")), (502, true), "{body}");
        mirror.until_filled("mismatch", times).await;
        assert_eq!(mirror.metric(&requests("blob", "failed")).await, times);
        mirror.assert_no_trace_of(&digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoded_body_is_refused_and_the_next_try_may_be_good() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 100_000);
    let gzip = Fault::Header("content-encoding", "gzip".to_owned());
    mirror.upstream.script(Script::new(gzip).on(BLOBS).times(1));
    let (status, body) = read_text(mirror.get(&image.layer_path()).await).await;
    assert_eq!((status, body.contains("encoded")), (502, true), "{body}");
    assert_eq!(mirror.metric(&fills("protocol")).await, 1);
    assert_eq!(mirror.metric(&requests("blob", "failed")).await, 1);
    mirror.assert_no_trace_of(&image.layer);
    assert_layer(mirror.get(&image.layer_path()).await, &image).await;
    mirror.assert_kept(&image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_readers_of_wrong_bytes_none_sees_a_clean_end() {
    for backend in [Backend::Directory, Backend::S3] {
        let mirror = Mirror::start(backend, "").await;
        let image = mirror.put_image("v1", 300_000);
        mirror.upstream.script(Script::new(Fault::WrongBytes).times(1));
        mirror.upstream.script(Script::new(Fault::StallAfter(100_000)).times(1));
        let path = image.layer_path();
        let mut crowd = join_all((0..8).map(|_| mirror.get(&path))).await;
        // Nor does who reads a part that has come long before the end.
        let parts = ["bytes=0-9", "bytes=50000-99999"];
        crowd.extend(join_all(parts.map(|part| mirror.get_range(&path, part))).await);
        mirror.upstream.release();
        for answer in crowd {
            assert!(answer.status().is_success(), "{}", answer.status());
            answer.bytes().await.expect_err("the body breaks off");
        }
        assert_eq!(mirror.asked("GET", &path), 1);
        mirror.until_filled("mismatch", 1).await;
        assert_eq!(mirror.metric(&requests("blob", "fetched")).await, 10);
        mirror.assert_no_trace_of(&image.layer);
        assert_layer(mirror.get(&path).await, &image).await;
        mirror.assert_kept(&image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_between_two_connections_is_renewed() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 3 * MIB);
    mirror.upstream.set_access(Access::Token(TokenServer { uses: Some(1), ..Default::default() }));
    // The first answer is the challenge.
    mirror.upstream.script(Script::new(Fault::CutAfter(MIB)).on(BLOBS).skip(1).times(1));
    assert_layer(mirror.get(&image.layer_path()).await, &image).await;
    assert_eq!(mirror.upstream.count("GET", "/token"), 2);
    let resumed = "bytes=1048576-";
    assert_eq!(mirror.ranges(&image.layer_path()), ["", "", resumed, resumed]);
    mirror.assert_kept(&image).await;
    let counted = [("blob", "challenged"), ("token", "ok"), ("blob", "ok")];
    for (kind, outcome) in counted {
        assert_eq!(mirror.metric(&upstream_requests(kind, outcome)).await, 2, "{kind} {outcome}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_wants_fewer_requests_is_left_alone() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 100_000);
    let limit = Fault::RateLimit(Some("120".to_owned()));
    mirror.upstream.script(Script::new(limit).on(BLOBS));
    let path = image.layer_path();
    for _ in 0..3 {
        for answer in join_all((0..10).map(|_| mirror.get(&path))).await {
            let seconds: u64 = header(&answer, "retry-after").parse().unwrap();
            assert!((60..=120).contains(&seconds), "{seconds}");
            let (status, body) = read_text(answer).await;
            assert_eq!((status, body.contains("TOOMANYREQUESTS")), (429, true), "{body}");
        }
    }
    assert_eq!(mirror.asked("GET", &path), 1);
    assert_eq!(mirror.metric(&requests("blob", "failed")).await, 30);
    assert_eq!(mirror.metric(&upstream_requests("blob", "rate_limited")).await, 1);
    assert!(mirror.metric(&upstream_requests("blob", "paused")).await >= 2);
    assert!(mirror.metric(&fills("rate_limited")).await >= 3);
    mirror.assert_no_trace_of(&image.layer);
    // Manifests are counted apart.
    assert_eq!(mirror.get("manifests/v1").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_blob_a_short_pause_is_waited_for() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 2 * MIB);
    mirror.upstream.script(Script::new(Fault::CutAfter(MIB)).times(1));
    let limit = Fault::RateLimit(Some("2".to_owned()));
    mirror.upstream.script(Script::new(limit).skip(1).times(1));
    assert_layer(mirror.get(&image.layer_path()).await, &image).await;
    let resumed = "bytes=1048576-";
    assert_eq!(mirror.ranges(&image.layer_path()), ["", resumed, resumed]);
    assert_eq!(mirror.metric(&upstream_requests("blob", "rate_limited")).await, 1);
    mirror.assert_kept(&image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_unwell_for_a_moment_is_asked_again() {
    let cases = [(Fault::Status(503), "status"), (Fault::Disconnect, "connect")];
    let cases = cases.map(|(fault, outcome)| async move {
        let mirror = Mirror::start(Backend::Directory, "").await;
        let image = mirror.put_image("v1", 2 * MIB);
        mirror.upstream.script(Script::new(fault.clone()).on(BLOBS).times(2));
        // And again in the middle, for longer.
        mirror.upstream.script(Script::new(Fault::CutAfter(MIB)).on(BLOBS).skip(2).times(1));
        mirror.upstream.script(Script::new(fault).on(BLOBS).skip(3).times(4));
        assert_layer(mirror.get(&image.layer_path()).await, &image).await;
        assert_eq!(mirror.ranges(&image.layer_path())[2..4], ["", "bytes=1048576-"]);
        mirror.assert_kept(&image).await;
        assert_eq!(mirror.metric(&upstream_requests("blob", outcome)).await, 6, "{outcome}");
        assert_eq!(mirror.metric(&requests("blob", "fetched")).await, 1);
    });
    join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_stays_unwell_is_told_of_soon() {
    let cases = [
        (Fault::Status(503), 502, "status"),
        (Fault::Status(500), 502, "status"),
        (Fault::Status(403), 403, "denied"),
        (Fault::Status(404), 404, "not_found"),
        (Fault::Disconnect, 502, "connect"),
        (Fault::Hang, 504, "timeout"),
    ];
    let cases = cases.map(|(fault, status, outcome)| async move {
        let mirror = Mirror::start(Backend::Directory, "response_timeout: 300ms").await;
        let image = mirror.put_image("v1", 100_000);
        mirror.upstream.script(Script::new(fault.clone()).on(BLOBS));
        let asked = tokio::time::timeout(BOUND, mirror.get(&image.layer_path())).await;
        let answer = read_text(asked.expect("an answer in time")).await;
        assert_eq!(answer.0, status, "{fault:?}: {}", answer.1);
        // The client may go elsewhere as long as it is still there.
        assert!(mirror.asked("GET", &image.layer_path()) <= 3, "{fault:?}");
        assert_eq!(mirror.metric(&fills(outcome)).await, 1, "{fault:?}");
        let ended = if outcome == "not_found" { "unknown" } else { "failed" };
        assert_eq!(mirror.metric(&requests("blob", ended)).await, 1, "{fault:?}");
        mirror.assert_no_trace_of(&image.layer);
        mirror.upstream.clear_scripts();
        mirror.upstream.release();
        if outcome != "not_found" {
            assert_layer(mirror.get(&image.layer_path()).await, &image).await;
            mirror.assert_kept(&image).await;
        }
    });
    join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_gone_is_told_of_and_asked_again_when_it_is_back() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 100_000);
    mirror.upstream.stop().await;
    let (status, body) = read_text(mirror.get(&image.layer_path()).await).await;
    assert_eq!((status, body.contains("other.example")), (502, true), "{body}");
    assert_eq!(mirror.metric(&fills("connect")).await, 1);
    mirror.upstream.restart().await;
    assert_layer(mirror.get(&image.layer_path()).await, &image).await;
    mirror.assert_kept(&image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_redirects_to_sees_no_credentials() {
    let mirror = Mirror::start(Backend::Directory, "username: me, password: mine").await;
    let image = mirror.put_image("v1", 2 * MIB);
    mirror.upstream.set_access(Access::Basic("me", "mine"));
    let elsewhere = FakeUpstream::start().await;
    elsewhere.put_blob(REPOSITORY, image.layer_bytes.clone());
    elsewhere.script(Script::new(Fault::CutAfter(MIB)).times(1));
    let path = format!("/v2/{REPOSITORY}/{}", image.layer_path());
    let redirect = Fault::Redirect(307, format!("{}{path}?signed=yes", elsewhere.url()));
    // After the challenge.
    mirror.upstream.script(Script::new(redirect).on(BLOBS).skip(1));
    assert_layer(mirror.get(&image.layer_path()).await, &image).await;
    let seen = elsewhere.requests();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.iter().all(|seen| !seen.headers.contains_key("authorization")), "{seen:?}");
    let home = mirror.upstream.requests();
    assert!(home[1..].iter().all(|seen| seen.headers.contains_key("authorization")), "{home:?}");
    mirror.assert_kept(&image).await;
    assert_eq!(mirror.metric(&upstream_requests("blob", "ok")).await, 2);
    assert_eq!(mirror.metric(&body_errors("interrupted")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_length_in_the_middle_is_an_error_and_no_clean_end() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 3 * MIB);
    mirror.upstream.script(Script::new(Fault::CutAfter(MIB)).times(1));
    let other = Fault::Header("content-range", "bytes 1048576-3145727/4194304".to_owned());
    mirror.upstream.script(Script::new(other).skip(1).times(1));
    let answer = mirror.get(&image.layer_path()).await;
    assert_eq!(answer.status(), 200);
    answer.bytes().await.expect_err("the body breaks off");
    mirror.until_filled("length", 1).await;
    mirror.assert_no_trace_of(&image.layer);
    assert_layer(mirror.get(&image.layer_path()).await, &image).await;
    mirror.assert_kept(&image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_range_than_was_asked_for_is_an_error_and_no_clean_end() {
    let mirror = Mirror::start(Backend::Directory, "").await;
    let image = mirror.put_image("v1", 3 * MIB);
    mirror.upstream.script(Script::new(Fault::CutAfter(MIB)).times(1));
    let other = Fault::Header("content-range", "bytes 5-2097156/3145728".to_owned());
    mirror.upstream.script(Script::new(other).skip(1).times(1));
    let mut body = Box::pin(mirror.get(&image.layer_path()).await.bytes_stream());
    first_bytes(&mut body, 1000).await;
    let rest: Vec<_> = futures_util::StreamExt::collect(body).await;
    assert!(rest.iter().any(Result::is_err), "the body breaks off");
    mirror.until_filled("protocol", 1).await;
    mirror.assert_no_trace_of(&image.layer);
}
