//! An S3 that is busy, lies, breaks off, or is not there.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use millpond::{
    oci::ByteRange,
    storage::{
        Error, Fault, ListQuery, Piece, Purge, Storage, WriteOptions,
        s3::{Config, S3},
    },
};

use crate::{
    fixture::{config, connect},
    s3_server::{Action, Injection, S3Server},
    suite::{assert_same, cut, key, list, pattern, read, write},
};

const MIB: usize = 1 << 20;

async fn start() -> (S3Server, S3) {
    let server = S3Server::start().await;
    let s3 = connect(Config { attempts: 3, ..config(&server) }).await;
    (server, s3)
}

fn fault(error: &Error) -> Option<Fault> {
    match error {
        Error::Failed { fault, .. } => Some(*fault),
        Error::NotFound { .. } | Error::RangeOutside { .. } => None,
    }
}

#[tokio::test]
async fn a_busy_server_is_asked_so_often_and_no_more() {
    let (server, s3) = start().await;
    server.inject(Injection::new(Action::SlowDown));
    let error = s3.put(&key("a/b"), pattern(10, 1)).await.unwrap_err();
    assert_eq!(fault(&error), Some(Fault::Busy), "{error:?}");
    assert!(error.is_retryable());
    assert_eq!(server.take_requests(), ["PUT /pond/a/b"; 3]);
    let error = s3.head(&key("a/b")).await.unwrap_err();
    assert_eq!(fault(&error), Some(Fault::Busy), "{error:?}");
    assert_eq!(server.take_requests(), ["HEAD /pond/a/b"; 3]);
}

#[tokio::test]
async fn a_passing_failure_is_not_seen() {
    let (server, s3) = start().await;
    let at = key("a/b");
    for action in [Action::LoseAnswer, Action::SlowDown, Action::Refuse(500, "InternalError")] {
        server.inject(Injection::new(action.clone()).times(1));
        s3.put(&at, pattern(10, 1)).await.unwrap();
        assert_eq!(server.take_requests(), ["PUT /pond/a/b"; 2], "{action:?}");
        server.inject(Injection::new(action.clone()).times(1));
        read(&s3, &at, None).await.unwrap();
        assert_eq!(server.take_requests(), ["GET /pond/a/b"; 2], "{action:?}");
    }
    // The same body is sent again.
    server.inject(Injection::new(Action::SlowDown).on("partNumber=2").times(1));
    write(&s3, &at, None, cut(&pattern(12 * MIB, 3), MIB)).await.unwrap();
    assert_same(&read(&s3, &at, None).await.unwrap(), &pattern(12 * MIB, 3), "a repeated part");
}

#[tokio::test]
async fn a_body_that_breaks_off_ends_in_an_error() {
    let (server, s3) = start().await;
    let at = key("a/b");
    s3.put(&at, pattern(MIB, 1)).await.unwrap();
    for (cut, range) in
        [(0, None), (1, None), (MIB as u64 - 1, None), (7, Some(ByteRange::Last(1000)))]
    {
        server.inject(Injection::new(Action::CutBody(cut)).on("GetObject").times(1));
        let error = read(&s3, &at, range).await.unwrap_err();
        assert_eq!(fault(&error), Some(Fault::Unavailable), "after {cut} bytes: {error:?}");
        assert!(read(&s3, &at, range).await.is_ok(), "the next try");
    }
    // A composition that reads a broken piece publishes nothing.
    server.inject(Injection::new(Action::CutBody(5)).on("GetObject"));
    let piece = Piece { key: at, size_bytes: 1 << 20 };
    let error = s3.compose(&[piece.clone(), piece], &key("a/c")).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(s3.head(&key("a/c")).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_read_past_them() {
    let (server, s3) = start().await;
    let (at, bytes) = (key("a/b"), pattern(300_000, 1));
    s3.put(&at, bytes.clone()).await.unwrap();
    server.inject(Injection::new(Action::Range(None)).on("GetObject"));
    let cases = [
        (ByteRange::Bounded { start: 70_000, end: 200_000 }, 70_000..200_000),
        (ByteRange::From(299_999), 299_999..300_000),
        (ByteRange::Last(5), 299_995..300_000),
    ];
    for (range, expected) in cases {
        let actual = read(&s3, &at, Some(range)).await.unwrap();
        assert_same(&actual, &bytes.slice(expected), range);
    }
    let error = s3.open(&at, Some(ByteRange::From(300_000))).await.unwrap_err();
    assert!(matches!(error, Error::RangeOutside { size_bytes: 300_000, .. }), "{error:?}");
}

#[tokio::test]
async fn another_range_than_asked_for_is_refused() {
    let (server, s3) = start().await;
    let at = key("a/b");
    s3.put(&at, pattern(1000, 1)).await.unwrap();
    server.inject(Injection::new(Action::Range(Some((0, 99)))).on("GetObject"));
    let error = s3.open(&at, Some(ByteRange::Bounded { start: 100, end: 200 })).await.unwrap_err();
    assert_eq!(fault(&error), Some(Fault::Corrupt), "{error:?}");
    let error = s3.open(&at, None).await.unwrap_err();
    assert_eq!(fault(&error), Some(Fault::Corrupt), "{error:?}");
}

#[tokio::test]
async fn errors_are_told_apart() {
    let (server, s3) = start().await;
    let cases = [
        (403, "AccessDenied", Fault::Denied),
        (403, "QuotaExceeded", Fault::Full),
        (507, "XMinioStorageFull", Fault::Full),
        (429, "TooManyRequests", Fault::Busy),
        (503, "ServiceUnavailable", Fault::Busy),
        (502, "BadGateway", Fault::Unavailable),
        (400, "InvalidArgument", Fault::Other),
        (404, "NoSuchBucket", Fault::Other),
    ];
    for (status, code, expected) in cases {
        server.inject(Injection::new(Action::Refuse(status, code)));
        let error = s3.put(&key("a/b"), pattern(10, 1)).await.unwrap_err();
        assert_eq!(fault(&error), Some(expected), "{status} {code}: {error:?}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(code), "{cause}");
        server.heal();
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let server = S3Server::start().await;
    let gone = Config { endpoint: Some("http://127.0.0.1:9".to_owned()), ..config(&server) };
    let error = connect(gone).await.head(&key("a/b")).await.unwrap_err();
    assert_eq!(fault(&error), Some(Fault::Unavailable), "{error:?}");
    let other = Config { bucket: "elsewhere".to_owned(), ..config(&server) };
    let error = connect(other).await.list(&key("a"), ListQuery::all(1)).await.unwrap_err();
    assert_eq!(fault(&error), Some(Fault::Other), "{error:?}");
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let server = S3Server::start().await;
    let quick =
        Config { request_timeout: Duration::from_millis(50), attempts: 2, ..config(&server) };
    let s3 = connect(quick).await;
    server.inject(Injection::new(Action::Delay(Duration::from_secs(600))));
    let error = s3.head(&key("a/b")).await.unwrap_err();
    assert_eq!(fault(&error), Some(Fault::Unavailable), "{error:?}");
    // On a busy machine an attempt may end before it reaches the server.
    assert!(server.take_requests().len() <= 2);
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_is_recognised() {
    let (server, s3) = start().await;
    let (at, bytes) = (key("a/b"), pattern(12 * MIB, 1));
    let complete = "CompleteMultipartUpload";
    server.inject(Injection::new(Action::LoseAnswer).on(complete).times(1));
    write(&s3, &at, None, cut(&bytes, MIB)).await.unwrap();
    assert_same(&read(&s3, &at, None).await.unwrap(), &bytes, "completed once");
    // Gone without having been completed: the object there is another one.
    server.inject(Injection::new(Action::Refuse(404, "NoSuchUpload")).on(complete));
    let error = write(&s3, &at, None, cut(&pattern(16 * MIB, 2), MIB)).await.unwrap_err();
    assert_eq!(fault(&error), Some(Fault::Other), "{error:?}");
    assert_same(&read(&s3, &at, None).await.unwrap(), &bytes, "still the first");
}

#[tokio::test]
async fn a_failed_writer_cannot_be_committed() {
    let server = S3Server::start().await;
    let s3 = connect(Config { attempts: 1, ..config(&server) }).await;
    server.inject(Injection::new(Action::Refuse(500, "InternalError")).on("partNumber=1").times(1));
    let mut writer = s3.write(&key("a/b"), WriteOptions::default()).await.unwrap();
    let mut results = Vec::new();
    for piece in cut(&pattern(40 * MIB, 1), MIB) {
        results.push(writer.write(piece).await);
    }
    results.push(writer.commit().await);
    assert!(results.iter().any(Result::is_err));
    assert!(results.last().unwrap().is_err(), "the commit fails, whatever failed before");
    assert!(s3.head(&key("a/b")).await.unwrap_err().is_not_found());
}

/// Fails each request of some work in turn, before it is carried out and after, and looks at what
/// remains.
async fn fail_each_request<Work>(work: impl Fn(Arc<S3>) -> Work, new: Bytes)
where
    Work: Future<Output = Result<(), Error>>,
{
    let server = S3Server::start().await;
    let s3 = Arc::new(connect(Config { attempts: 1, ..config(&server) }).await);
    let (at, old) = (key("target/object"), pattern(1000, 9));
    for index in 0..2 {
        let piece = pattern(6 * MIB, index);
        s3.put(&key(format!("pieces/{index}")), piece).await.unwrap();
    }
    for action in [Action::Refuse(500, "InternalError"), Action::LoseAnswer] {
        for request in 0.. {
            s3.put(&at, old.clone()).await.unwrap();
            server.inject(Injection::new(action.clone()).skip(request).times(1));
            let result = work(Arc::clone(&s3)).await;
            server.heal();
            let seen = read(&*s3, &at, None).await.unwrap();
            let allowed = seen == new || (result.is_err() && seen == old);
            assert!(allowed, "{action:?} of request {request}: {} bytes, {result:?}", seen.len());
            s3.finish(Duration::from_secs(20)).await;
            let later = SystemTime::now() + Duration::from_secs(3600);
            s3.purge_unfinished(later, Purge::Remove).await.unwrap();
            let (left, _more) = list(&*s3, &key("millpond"), ListQuery::all(10)).await.unwrap();
            assert!(left.is_empty(), "{action:?} of request {request} leaves {left:?}");
            // Create, note, parts, complete, forget; all of them were failed.
            if result.is_ok() && request >= 7 {
                break;
            }
            assert!(request < 20, "the work goes on failing: {result:?}");
        }
    }
}

#[tokio::test]
async fn a_write_that_fails_at_any_request_leaves_the_old_or_the_new() {
    let new = pattern(12 * MIB, 2);
    let bytes = new.clone();
    let work = move |s3: Arc<S3>| {
        let pieces = cut(&bytes, MIB);
        async move { write(&*s3, &key("target/object"), None, pieces).await }
    };
    fail_each_request(work, new).await;
}

#[tokio::test]
async fn a_composition_that_fails_at_any_request_leaves_the_old_or_the_new() {
    let new = Bytes::from([pattern(6 * MIB, 0), pattern(6 * MIB, 1)].concat());
    let work = |s3: Arc<S3>| async move {
        let pieces = ["pieces/0", "pieces/1"].map(|at| Piece { key: key(at), size_bytes: 6 << 20 });
        s3.compose(&pieces, &key("target/object")).await
    };
    fail_each_request(work, new).await;
}

#[tokio::test]
async fn batches_that_the_server_does_not_know_are_deleted_singly() {
    for (status, code) in
        [(501, "NotImplemented"), (400, "InvalidRequest"), (400, "MissingContentMD5")]
    {
        let (server, s3) = start().await;
        let keys: Vec<_> = (0..30).map(|index| key(format!("a/{index}"))).collect();
        server.inject(Injection::new(Action::Refuse(status, code)).on("DeleteObjects"));
        for _round in 0..2 {
            for at in &keys {
                s3.put(at, pattern(1, 1)).await.unwrap();
            }
            s3.delete(&keys).await.unwrap();
            let (left, _more) = list(&s3, &key("a"), ListQuery::all(100)).await.unwrap();
            assert!(left.is_empty(), "{left:?}");
        }
        let operations = server.take_operations();
        let batches = operations.iter().filter(|name| **name == "DeleteObjects").count();
        let singles = operations.iter().filter(|name| **name == "DeleteObject").count();
        assert_eq!((batches, singles), (1, 60), "{code}");
    }
}

#[tokio::test]
async fn a_batch_that_is_denied_is_an_error() {
    let (server, s3) = start().await;
    server.inject(Injection::new(Action::Refuse(403, "AccessDenied")).on("DeleteObjects"));
    let error = s3.delete(&[key("a/b"), key("a/c")]).await.unwrap_err();
    assert_eq!(fault(&error), Some(Fault::Denied), "{error:?}");
}
