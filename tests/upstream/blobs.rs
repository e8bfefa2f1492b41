//! Blobs: whole, from the middle, slow, broken.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use http::header;
use millpond::{
    oci::{Algorithm, Digest},
    runtime::ByteSize,
    upstream::Error,
};
use tokio::time::Instant;

use crate::{
    fake_upstream::{FakeUpstream, Fault, RawUpstream, Script},
    fixture::{REPOSITORY, SHORT, config, open, pattern, read, repository},
};

const LENGTH: usize = 100_000;

#[tokio::test]
async fn a_blob_comes_whole_with_its_length() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(LENGTH));
    let upstream = open(config(fake.url()));
    assert_eq!(upstream.stat_blob(&repository(), &digest).await.unwrap(), Some(LENGTH as u64));
    assert_eq!(fake.sent_bytes(), 0);
    let blob = upstream.open_blob(&repository(), &digest, 0).await.unwrap();
    assert_eq!((blob.start, blob.size_bytes), (0, Some(LENGTH as u64)));
    assert_eq!(read(blob).await.unwrap(), pattern(LENGTH));
    assert_eq!(fake.sent_bytes(), LENGTH as u64);
    let requests = fake.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert!(!request.headers.contains_key(header::RANGE));
        assert_eq!(request.headers[header::ACCEPT_ENCODING], "identity");
    }
}

#[tokio::test]
async fn a_blob_is_taken_up_in_the_middle() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(LENGTH));
    let upstream = open(config(fake.url()));
    let blob = upstream.open_blob(&repository(), &digest, 99_990).await.unwrap();
    assert_eq!((blob.start, blob.size_bytes), (99_990, Some(LENGTH as u64)));
    assert_eq!(read(blob).await.unwrap(), pattern(LENGTH)[99_990..]);
    assert_eq!(fake.requests()[0].headers[header::RANGE], "bytes=99990-");
    let error = upstream.open_blob(&repository(), &digest, LENGTH as u64).await.unwrap_err();
    assert!(matches!(error, Error::Status { status: 416, .. }), "{error:?}");
}

#[tokio::test]
async fn an_upstream_that_ignores_ranges_is_told_by_the_start() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(LENGTH));
    fake.script(Script::new(Fault::IgnoreRange));
    let upstream = open(config(fake.url()));
    let blob = upstream.open_blob(&repository(), &digest, 5).await.unwrap();
    assert_eq!((blob.start, blob.size_bytes), (0, Some(LENGTH as u64)));
    assert_eq!(read(blob).await.unwrap(), pattern(LENGTH));
}

#[tokio::test]
async fn another_range_than_was_asked_for_is_refused() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(LENGTH));
    let upstream = open(config(fake.url()));
    for range in ["bytes 6-99999/100000", "bytes */100000", "nonsense"] {
        fake.clear_scripts();
        fake.script(Script::new(Fault::Header("content-range", range.to_owned())));
        let error = upstream.open_blob(&repository(), &digest, 5).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{range}: {error:?}");
    }
}

#[tokio::test]
async fn a_part_that_ends_before_the_blob_does_is_an_error_at_its_end() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(LENGTH));
    let told = "bytes 5-100000/100001".to_owned();
    fake.script(Script::new(Fault::Header("content-range", told)));
    let upstream = open(config(fake.url()));
    let blob = upstream.open_blob(&repository(), &digest, 5).await.unwrap();
    assert_eq!(blob.size_bytes, Some(100_001));
    let error = read(blob).await.unwrap_err();
    assert!(matches!(error, Error::Interrupted { source: None, .. }), "{error:?}");
}

#[tokio::test]
async fn a_blob_without_a_length_comes_to_its_end() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(LENGTH));
    fake.script(Script::new(Fault::NoLength));
    let upstream = open(config(fake.url()));
    let blob = upstream.open_blob(&repository(), &digest, 0).await.unwrap();
    assert_eq!((blob.start, blob.size_bytes), (0, None));
    assert_eq!(read(blob).await.unwrap(), pattern(LENGTH));
    assert_eq!(upstream.stat_blob(&repository(), &digest).await.unwrap(), None);
}

#[tokio::test]
async fn a_blob_that_is_cut_short_ends_in_an_error_after_what_came() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(LENGTH));
    fake.script(Script::new(Fault::CutAfter(40_000)));
    fake.script(Script::new(Fault::NoLength).skip(1));
    let upstream = open(config(fake.url()));
    for _with_and_without_length in 0..2 {
        let mut blob = upstream.open_blob(&repository(), &digest, 0).await.unwrap();
        let mut came = Vec::new();
        let error = loop {
            match blob.stream.next().await.expect("an error before the end") {
                Ok(piece) => came.extend_from_slice(&piece),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Interrupted { source: Some(_), .. }), "{error:?}");
        assert!(error.is_retryable());
        assert_eq!(came, pattern(LENGTH)[..40_000]);
        assert!(blob.stream.next().await.is_none());
    }
}

#[tokio::test]
async fn a_blob_that_stalls_ends_in_an_error() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(LENGTH));
    fake.script(Script::new(Fault::StallAfter(50_000)).times(1));
    let mut config = config(fake.url());
    config.limits.stall_timeout = SHORT;
    let upstream = open(config);
    let blob = upstream.open_blob(&repository(), &digest, 0).await.unwrap();
    let error = read(blob).await.unwrap_err();
    assert!(matches!(error, Error::Stalled { .. }), "{error:?}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_reader_that_takes_its_time_is_no_stall() {
    let fake = FakeUpstream::start().await;
    // More than the buffers of a connection hold, so that the upstream has to wait.
    let length = 16 << 20;
    let digest = fake.put_blob(REPOSITORY, pattern(length));
    let mut config = config(fake.url());
    config.limits.stall_timeout = SHORT;
    let upstream = open(config);
    let mut blob = upstream.open_blob(&repository(), &digest, 0).await.unwrap();
    let first = blob.stream.next().await.unwrap().unwrap();
    tokio::time::sleep(3 * SHORT).await;
    assert!(fake.sent_bytes() < length as u64, "the upstream was not held back");
    let rest: Vec<bytes::Bytes> = blob.stream.try_collect().await.unwrap();
    assert_eq!([vec![first], rest].concat().concat(), pattern(length));
}

#[tokio::test]
async fn a_slow_blob_is_no_stall() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(10));
    fake.script(Script::new(Fault::Slow(1, SHORT / 2)));
    let mut config = config(fake.url());
    config.limits.stall_timeout = 4 * SHORT;
    config.limits.response_timeout = 4 * SHORT;
    let upstream = open(config);
    let blob = upstream.open_blob(&repository(), &digest, 0).await.unwrap();
    assert_eq!(read(blob).await.unwrap(), pattern(10));
}

#[tokio::test]
async fn a_blob_that_trickles_ends_in_an_error() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(LENGTH));
    fake.script(Script::new(Fault::Slow(1, SHORT / 10)));
    let mut config = config(fake.url());
    config.limits.stall_timeout = SHORT;
    let upstream = open(config);
    let mut blob = upstream.open_blob(&repository(), &digest, 0).await.unwrap();
    let mut came = 0;
    let error = loop {
        match blob.stream.next().await.expect("an error before the end") {
            Ok(piece) => came += piece.len() as u64,
            Err(error) => break error,
        }
    };
    match error {
        Error::Slow { bytes, within, .. } => {
            assert_eq!(bytes, came);
            assert!(bytes < 100 && within >= 2 * SHORT, "{bytes} bytes in {within:?}");
        }
        other => panic!("not too slow: {other:?}"),
    }
    assert!(error.is_retryable());
}

#[tokio::test]
async fn what_is_slow_on_this_side_is_not_held_against_the_upstream() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(200_000));
    let mut config = config(fake.url());
    config.limits.stall_timeout = SHORT / 3;
    // Nobody gives as much in the time that this takes.
    config.limits.least_bytes_per_second = ByteSize(2_000_000);
    let unthrottled = open(config.clone());
    let mut blob = unthrottled.open_blob(&repository(), &digest, 0).await.unwrap();
    let mut came = Vec::new();
    while let Some(piece) = blob.stream.next().await {
        came.extend_from_slice(&piece.unwrap());
        tokio::time::sleep(SHORT / 3).await;
    }
    assert_eq!(came, pattern(200_000));
    config.limits.bytes_per_second = Some(ByteSize(200_000));
    let throttled = open(config);
    let blob = throttled.open_blob(&repository(), &digest, 0).await.unwrap();
    assert_eq!(read(blob).await.unwrap(), pattern(200_000));
}

#[tokio::test]
async fn what_comes_is_not_verified_here() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(10));
    fake.script(Script::new(Fault::WrongBytes));
    let upstream = open(config(fake.url()));
    let blob = upstream.open_blob(&repository(), &digest, 0).await.unwrap();
    assert_ne!(Digest::of(Algorithm::Sha256, &read(blob).await.unwrap()), digest);
}

#[tokio::test]
async fn an_encoded_blob_is_refused() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(10));
    fake.script(Script::new(Fault::Header("content-encoding", "gzip".to_owned())));
    let upstream = open(config(fake.url()));
    let error = upstream.open_blob(&repository(), &digest, 0).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
}

#[tokio::test]
async fn an_answer_of_http_1_0_is_taken_with_and_without_a_length() {
    let digest = Digest::of(Algorithm::Sha256, b"hello");
    let with_length = "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let without = "HTTP/1.0 200 OK\r\n\r\nhello";
    for (answer, size_bytes) in [(with_length, Some(5)), (without, None)] {
        let server = RawUpstream::start(answer).await;
        let upstream = open(config(server.url()));
        let blob = upstream.open_blob(&repository(), &digest, 0).await.unwrap();
        assert_eq!(blob.size_bytes, size_bytes);
        assert_eq!(read(blob).await.unwrap(), b"hello");
        assert!(server.requests()[0].starts_with(&format!("GET /v2/team/app/blobs/{digest} ")));
    }
    let server = RawUpstream::start("HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello").await;
    let upstream = open(config(server.url()));
    let blob = upstream.open_blob(&repository(), &digest, 0).await.unwrap();
    assert!(matches!(read(blob).await.unwrap_err(), Error::Interrupted { .. }));
}

#[tokio::test]
async fn what_is_no_http_is_told() {
    let server = RawUpstream::start("SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
    let upstream = open(config(server.url()));
    let digest = Digest::of(Algorithm::Sha256, b"hello");
    let error = upstream.open_blob(&repository(), &digest, 0).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
}

#[tokio::test]
async fn all_transfers_together_keep_to_the_rate() {
    let fake = FakeUpstream::start().await;
    let digest = fake.put_blob(REPOSITORY, pattern(50_000));
    let mut config = config(fake.url());
    config.limits.bytes_per_second = Some(ByteSize(200_000));
    let upstream = open(config);
    let started = Instant::now();
    let fetch =
        async || read(upstream.open_blob(&repository(), &digest, 0).await.unwrap()).await.unwrap();
    let all = tokio::join!(fetch(), fetch());
    assert_eq!((all.0.len(), all.1.len()), (50_000, 50_000));
    // Half a second, less what may be saved up.
    assert!(started.elapsed() >= Duration::from_millis(400), "{:?}", started.elapsed());
}
