//! What S3 is asked for. Every request costs money and a round trip, so they are counted.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use millpond::{
    oci::ByteRange,
    runtime::ByteBudget,
    storage::{
        Fault, ListQuery, Piece, Purge, Storage, WriteOptions,
        s3::{Checksums, Config, Encryption, S3},
    },
};

use crate::{
    fixture::{PART_BYTES, config, connect},
    s3_server::S3Server,
    suite::{assert_same, cut, expecting, key, list, pattern, read, write},
};

const MIB: usize = 1 << 20;

async fn start() -> (S3Server, S3) {
    let server = S3Server::start().await;
    let s3 = connect(config(&server)).await;
    (server, s3)
}

fn piece(name: &str, size: usize) -> Piece {
    Piece { key: key(name), size_bytes: size as u64 }
}

#[tokio::test]
async fn simple_operations_are_one_request_each() {
    let (server, s3) = start().await;
    let at = key("a/b");
    s3.put(&at, pattern(100, 1)).await.unwrap();
    assert_eq!(server.take_requests(), ["PUT /pond/a/b"]);
    s3.head(&at).await.unwrap();
    assert_eq!(server.take_requests(), ["HEAD /pond/a/b"]);
    read(&s3, &at, None).await.unwrap();
    assert_eq!(server.take_requests(), ["GET /pond/a/b"]);
    read(&s3, &at, Some(ByteRange::Last(3))).await.unwrap();
    assert_eq!(server.take_requests(), ["GET /pond/a/b"]);
    s3.open(&key("a/c"), None).await.unwrap_err();
    assert_eq!(server.take_requests(), ["GET /pond/a/c"]);
    s3.list(&key("a"), ListQuery::children(10)).await.unwrap();
    let listing = "GET /pond/?list-type=2&delimiter=%2F&max-keys=10&prefix=a%2F";
    assert_eq!(server.take_requests(), [listing]);
    s3.delete(&[at]).await.unwrap();
    assert_eq!(server.take_requests(), ["DELETE /pond/a/b"]);
    s3.delete(&[]).await.unwrap();
    assert!(server.take_requests().is_empty());
}

#[tokio::test]
async fn an_object_that_fits_a_part_is_one_put() {
    let (server, s3) = start().await;
    for length in [0, 1, MIB, PART_BYTES] {
        write(&s3, &key("a/b"), None, cut(&pattern(length, 1), MIB)).await.unwrap();
        assert_eq!(server.take_requests(), ["PUT /pond/a/b"], "{length} bytes");
    }
}

#[tokio::test]
async fn a_large_object_is_its_parts_and_four_more() {
    let (server, s3) = start().await;
    write(&s3, &key("a/b"), None, cut(&pattern(12 * MIB, 1), MIB)).await.unwrap();
    let mut expected = vec![
        "CompleteMultipartUpload",
        "CreateMultipartUpload",
        // The note in the journal.
        "DeleteObject",
        "PutObject",
    ];
    expected.extend(["UploadPart"; 3]);
    assert_eq!(server.take_operations(), expected);
}

#[tokio::test]
async fn compositions_move_as_little_as_possible() {
    let (server, s3) = start().await;
    let sizes = [("p/large", 12 * MIB), ("p/part", PART_BYTES), ("p/small", MIB), ("p/tiny", 10)];
    for (name, size) in sizes {
        write(&s3, &key(name), None, [pattern(size, 1)]).await.unwrap();
    }
    server.take_requests();
    let [large, part, small, tiny] = sizes.map(|(name, size)| piece(name, size));
    let to = key("p/all");

    s3.compose(std::slice::from_ref(&large), &to).await.unwrap();
    assert_eq!(server.take_requests(), ["PUT /pond/p/all"], "one copy");
    s3.compose(&[small.clone(), tiny.clone(), small.clone()], &to).await.unwrap();
    assert_eq!(server.take_operations(), ["GetObject", "GetObject", "GetObject", "PutObject"]);

    let around = ["CompleteMultipartUpload", "CreateMultipartUpload", "DeleteObject"];
    s3.compose(&[large.clone(), part.clone(), tiny], &to).await.unwrap();
    let copies = ["PutObject", "UploadPartCopy", "UploadPartCopy", "UploadPartCopy"];
    assert_eq!(server.take_operations(), [around.as_slice(), &copies].concat());

    // The head of the large one fills up the small one before it.
    s3.compose(&[small, large], &to).await.unwrap();
    let joined = ["GetObject", "GetObject", "PutObject", "UploadPart", "UploadPartCopy"];
    assert_eq!(server.take_operations(), [around.as_slice(), &joined].concat());
}

/// Lists a folder page by page.
async fn list_all(s3: &S3, folder: &str, mut query: ListQuery) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        let (page, more) = list(s3, &key(folder), query.clone()).await.unwrap();
        assert!(page.len() <= query.limit && (!more || !page.is_empty()));
        names.extend(page);
        let Some(last) = names.last().filter(|_| more) else { return names };
        query = query.after(last.clone());
    }
}

#[tokio::test]
async fn a_thousand_entries_are_one_request() {
    let (server, s3) = start().await;
    let folder = server.files().join("many");
    std::fs::create_dir(&folder).unwrap();
    for index in 0..2500 {
        std::fs::write(folder.join(format!("{index:04}")), "").unwrap();
    }
    for query in [ListQuery::children(1000), ListQuery::all(1000)] {
        let names = list_all(&s3, "many", query).await;
        assert_eq!(names.len(), 2500);
        assert!(names.is_sorted());
        assert_eq!(server.take_operations(), ["ListObjectsV2"; 3]);
    }
    // Another process does not know the server's tokens, and starts over.
    let other = connect(config(&server)).await;
    let query = ListQuery::all(1000).after("1499");
    assert_eq!(list_all(&other, "many", query).await.len(), 1000);
    assert_eq!(server.take_operations(), ["ListObjectsV2"; 3]);
}

#[tokio::test]
async fn a_thousand_objects_are_deleted_by_one_request() {
    let (server, s3) = start().await;
    let keys: Vec<_> = (0..2001).map(|index| key(format!("many/{index}"))).collect();
    s3.put(&keys[2000], pattern(3, 1)).await.unwrap();
    server.take_requests();
    s3.delete(&keys).await.unwrap();
    assert_eq!(server.take_operations(), ["DeleteObjects"; 3]);
    assert!(s3.head(&keys[2000]).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_purge_that_finds_nothing_is_three_listings() {
    let (server, s3) = start().await;
    let found = s3.purge_unfinished(SystemTime::now(), Purge::Remove).await.unwrap();
    assert_eq!(found, 0);
    let expected = ["ListMultipartUploads", "ListMultipartUploads", "ListObjectsV2"];
    assert_eq!(server.take_operations(), expected);
}

#[tokio::test]
async fn a_dropped_writer_aborts_its_upload() {
    let (server, s3) = start().await;
    let mut writer = s3.write(&key("a/b"), WriteOptions::default()).await.unwrap();
    writer.write(pattern(12 * MIB, 1)).await.unwrap();
    drop(writer);
    assert_eq!(s3.finish(Duration::from_secs(20)).await, 0);
    let operations = server.take_operations();
    assert_eq!(operations[..3], ["AbortMultipartUpload", "CreateMultipartUpload", "DeleteObject"]);
    assert!(!operations.contains(&"CompleteMultipartUpload"));
    let (notes, _more) = list(&s3, &key("millpond"), ListQuery::all(10)).await.unwrap();
    assert!(notes.is_empty(), "{notes:?}");
}

/// Leaves an upload behind as a killed process does.
async fn leave_behind(s3: &S3, at: &str) {
    let mut writer = s3.write(&key(at), WriteOptions::default()).await.unwrap();
    writer.write(pattern(12 * MIB, 1)).await.unwrap();
    std::mem::forget(writer);
}

#[tokio::test]
async fn uploads_are_purged_that_only_the_server_knows() {
    let (server, s3) = start().await;
    server.show_uploads();
    leave_behind(&s3, "docker/registry/v2/blobs/x").await;
    let (notes, _more) = list(&s3, &key("millpond/v1"), ListQuery::all(10)).await.unwrap();
    let notes: Vec<_> = notes.iter().map(|name| key(format!("millpond/v1/{name}"))).collect();
    s3.delete(&notes).await.unwrap();
    leave_behind(&s3, "millpond/v1/uploads/y").await;
    leave_behind(&s3, "of/others").await;
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    for (before, purge, found) in [
        (now - hour, Purge::Remove, 0),
        // One in the listing, one in the listing and the journal, one in the journal.
        (now + hour, Purge::DryRun, 3),
        (now + hour, Purge::Remove, 3),
        (now + hour, Purge::Remove, 0),
    ] {
        assert_eq!(s3.purge_unfinished(before, purge).await.unwrap(), found, "{purge:?}");
    }
}

#[tokio::test]
async fn foreign_names_do_not_break_a_listing() {
    let (server, s3) = start().await;
    let folder = server.files().join("shared");
    for name in ["a b", "b&<c>", "c", "d d/x", "e", "f%20", "g/h", "ü"] {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "foreign").unwrap();
    }
    for limit in [1, 2, 3, 100] {
        let names = list_all(&s3, "shared", ListQuery::children(limit)).await;
        assert_eq!(names, ["c", "e", "g/"], "by {limit}");
    }
}

#[tokio::test]
async fn everything_lies_below_the_prefix() {
    let server = S3Server::start().await;
    let s3 = connect(Config { prefix: Some(key("team/pond")), ..config(&server) }).await;
    s3.put(&key("a/b"), pattern(10, 1)).await.unwrap();
    write(&s3, &key("a/c"), None, [pattern(6 * MIB, 1)]).await.unwrap();
    s3.compose(&[piece("a/b", 10), piece("a/c", 6 * MIB)], &key("a/d")).await.unwrap();
    let outside: Vec<_> = server
        .take_requests()
        .into_iter()
        .filter(|line| !line.contains("/pond/team/pond/"))
        .collect();
    assert!(outside.is_empty(), "{outside:?}");
    let (names, _more) = list(&s3, &key("a"), ListQuery::all(10)).await.unwrap();
    assert_eq!(names, ["b", "c", "d"]);
    assert_eq!(std::fs::read(server.files().join("team/pond/a/b")).unwrap(), pattern(10, 1));
    s3.delete(&[key("a/b"), key("a/c")]).await.unwrap();
    s3.delete(&[key("a/d")]).await.unwrap();
    let (names, _more) = list(&s3, &key("a"), ListQuery::all(10)).await.unwrap();
    assert!(names.is_empty(), "{names:?}");
}

#[tokio::test]
async fn checksums_and_encryption_are_sent_when_configured() {
    let server = S3Server::start().await;
    let full = Config {
        checksums: Checksums::WhenSupported,
        server_side_encryption: Some(Encryption::Kms { key_id: Some("alias/pond".to_owned()) }),
        storage_class: Some("REDUCED_REDUNDANCY".to_owned()),
        ..config(&server)
    };
    let s3 = connect(full.clone()).await;
    let (at, to, bytes) = (key("a/b"), key("a/c"), pattern(12 * MIB, 1));
    s3.put(&at, pattern(10, 1)).await.unwrap();
    assert_eq!(read(&s3, &at, None).await.unwrap(), pattern(10, 1));
    write(&s3, &at, None, cut(&bytes, MIB)).await.unwrap();
    assert_same(&read(&s3, &at, None).await.unwrap(), &bytes, "with checksums");
    s3.compose(&[piece("a/b", 12 * MIB)], &to).await.unwrap();
    s3.delete(&[at, to]).await.unwrap();
    // A class that this server does not know shows that the class is sent.
    let s3 = connect(Config { storage_class: Some("GLACIER".to_owned()), ..full }).await;
    let error = s3.put(&key("a/b"), pattern(10, 1)).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("InvalidStorageClass"), "{cause}");
}

#[tokio::test]
async fn buffers_are_paid_for_and_given_back() {
    const TOTAL: u64 = 64 << 20;
    let server = S3Server::start().await;
    let budget = ByteBudget::new(TOTAL);
    let s3 = S3::connect(config(&server), budget.clone()).await.unwrap();
    let at = key("a/b");
    for (expected, paid) in
        [(None, PART_BYTES as u64), (Some(2048), 2048), (Some(1 << 40), 5 << 20)]
    {
        let mut writer = s3.write(&at, expecting(expected)).await.unwrap();
        assert_eq!(budget.free_bytes(), TOTAL, "nothing is held for nothing");
        writer.write(Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(budget.free_bytes(), TOTAL - paid);
        writer.commit().await.unwrap();
        assert_eq!(budget.free_bytes(), TOTAL);
    }
    let opened = s3.open(&at, None).await.unwrap();
    assert_eq!(budget.free_bytes(), TOTAL - (256 << 10));
    drop(opened);
    write(&s3, &at, None, cut(&pattern(24 * MIB, 1), MIB)).await.unwrap();
    assert_eq!(budget.free_bytes(), TOTAL);
}

#[tokio::test]
async fn however_many_write_there_is_memory_to_read() {
    const TOTAL: u64 = 16 << 20;
    let server = S3Server::start().await;
    let budget = ByteBudget::new(TOTAL);
    let s3 = S3::connect(config(&server), budget.clone()).await.unwrap();
    s3.put(&key("a/read"), pattern(10, 1)).await.unwrap();
    let writing = (0..8).map(async |index| {
        let at = key(format!("a/{index}"));
        let mut writer = s3.write(&at, expecting(None)).await.unwrap();
        writer.write(Bytes::from_static(b"x")).await.unwrap();
        writer
    });
    let mut writing: Vec<_> = writing.map(Box::pin).collect();
    let mut held = Vec::new();
    for write in &mut writing {
        if let std::task::Poll::Ready(writer) = futures_util::poll!(write) {
            held.push(writer);
        }
    }
    assert_eq!(held.len(), 2, "of 5 MiB each, in three quarters of the budget");
    assert_eq!(read(&s3, &key("a/read"), None).await.unwrap(), pattern(10, 1));
    assert_eq!(budget.free_bytes(), TOTAL - 2 * PART_BYTES as u64);
}

#[tokio::test]
async fn a_budget_smaller_than_a_part_is_slow_and_not_stuck() {
    let server = S3Server::start().await;
    let s3 = S3::connect(config(&server), ByteBudget::new(1 << 20)).await.unwrap();
    let (from, to, bytes) = (key("a/b"), key("a/c"), pattern(12 * MIB, 1));
    write(&s3, &from, None, cut(&bytes, MIB)).await.unwrap();
    // Reading and writing at once, from the same budget.
    let opened = s3.open(&from, None).await.unwrap();
    let mut stream = opened.bytes.into_stream().await.unwrap();
    let mut writer = s3.write(&to, expecting(Some(12 << 20))).await.unwrap();
    while let Some(piece) = futures_util::TryStreamExt::try_next(&mut stream).await.unwrap() {
        writer.write(piece).await.unwrap();
    }
    writer.commit().await.unwrap();
    assert_same(&read(&s3, &to, None).await.unwrap(), &bytes, "copied");
}

#[tokio::test]
async fn nothing_secret_is_ever_shown() {
    let server = S3Server::start().await;
    let wrong = config(&server);
    let wrong = Config { access_key: Some("nobody".to_owned()), ..wrong };
    let shown = format!("{wrong:?}");
    let s3 = connect(wrong).await;
    let error = s3.put(&key("a/b"), pattern(10, 1)).await.unwrap_err();
    let denied = matches!(error, millpond::storage::Error::Failed { fault: Fault::Denied, .. });
    assert!(denied, "{error:?}");
    let text = format!("{shown} {s3} {s3:?} {error} {error:?}");
    assert!(!text.contains(server.secret_key()), "{text}");
    assert!(!text.contains("Signature="), "{text}");
    assert!(s3.to_string().contains(server.endpoint()) && s3.to_string().contains("pond"));
}
