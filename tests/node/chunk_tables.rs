//! What bytes from a bucket are held against: the table that is kept with a long blob, or the digest of a short one.

use std::{fs, os::unix::fs::FileExt, path::PathBuf};

use bytes::Bytes;
use futures_util::StreamExt;

use crate::{
    blobs::{Style, push},
    client::with_query,
    content::{pattern, sha256},
    disk::metric,
    node::{Backend, TestNode},
    raw::eventually,
    s3_server::{Action, Injection},
};

const MIB: usize = 1 << 20;

const MISMATCHES: &str = "millpond_cache_mismatches_total";

/// A blob in a bucket, of which a node that runs has read nothing.
struct Blob {
    bytes: Bytes,
    digest: String,
}

impl Blob {
    async fn pushed(bytes: Bytes) -> (TestNode, Self) {
        let mut node = TestNode::start(Backend::S3, "cache: {disk: {size: 0B}}").await;
        let digest = node.push_blob("a", &bytes).await;
        node.restart().await;
        node.s3().take_requests();
        (node, Self { bytes, digest })
    }

    fn hex(&self) -> &str {
        &self.digest["sha256:".len()..]
    }

    /// The file in which the bucket has the blob.
    fn data(&self, node: &TestNode) -> PathBuf {
        let hex = self.hex();
        let path = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        node.s3().files().join(path)
    }

    fn table(&self, node: &TestNode) -> PathBuf {
        table_of(node, &self.digest)
    }

    /// Changes a bit of what the bucket has, or changes it back.
    fn flip(&self, node: &TestNode, at: usize) {
        let file = fs::File::options().read(true).write(true).open(self.data(node)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at as u64).unwrap();
    }

    /// Pulls it. Returns how many bytes came, all of them right, and whether they ended as if these were all.
    async fn pull(&self, node: &TestNode) -> (usize, Ended) {
        let request = node.http().get(format!("{}/v2/a/blobs/{}", node.url(), self.digest));
        let answer = request.send().await.unwrap();
        if answer.status() != 200 {
            assert!(answer.status().is_server_error(), "{answer:?}");
            return (0, Ended::Badly);
        }
        let (mut body, mut received) = (answer.bytes_stream(), 0);
        while let Some(next) = body.next().await {
            let Ok(next) = next else { return (received, Ended::Badly) };
            let end = received + next.len();
            assert!(self.bytes[received..end] == next, "other bytes from {received} to {end}");
            received = end;
        }
        (received, Ended::Well)
    }

    async fn is_pulled(&self, node: &TestNode) {
        assert_eq!(self.pull(node).await, (self.bytes.len(), Ended::Well));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Well,
    Badly,
}

fn table_of(node: &TestNode, digest: &str) -> PathBuf {
    let hex = &digest["sha256:".len()..];
    node.s3().files().join(format!("millpond/v1/chunks/sha256/{}/{hex}/table", &hex[..2]))
}

fn tables_asked(node: &TestNode) -> usize {
    let requests = node.s3().take_requests();
    requests.iter().filter(|line| line.starts_with("GET ") && line.ends_with("/table")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_push_a_long_blob_keeps_its_table() {
    let mut node = TestNode::start(Backend::S3, "").await;
    for (seed, style) in (1..).zip([Style::PostOnly, Style::PostPut, Style::Stream]) {
        let bytes = pattern(9 * MIB + 1, seed);
        let digest = sha256(&bytes);
        push(&node, "a", style, (&digest, &bytes)).await;
        let table = fs::read(table_of(&node, &digest)).unwrap();
        // A format line, the length, a sum for each 64 KiB, and one over all that.
        assert_eq!(table.len(), 23 + 8 + 4 * 145 + 4, "{style:?}");
    }
    // In two pieces, between which the node is restarted.
    let bytes = pattern(9 * MIB + 1, 9);
    let location = node.begin_upload("a").await;
    let location = node.patch(&location, bytes.slice(..MIB)).expect(202).await.location();
    node.restart().await;
    let target = with_query(&location, &format!("digest={}", sha256(&bytes)));
    node.put(&target, bytes.slice(MIB..)).expect(201).await;
    assert!(table_of(&node, &sha256(&bytes)).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_with_one_request_needs_no_table() {
    let (node, blob) = Blob::pushed(pattern(8 * MIB, 1)).await;
    assert!(!blob.table(&node).exists());
    blob.is_pulled(&node).await;
    assert_eq!(tables_asked(&node), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_asked_for_once_and_not_by_whoever_pushed() {
    let (node, blob) = Blob::pushed(pattern(70 * MIB, 1)).await;
    for times in [1, 0] {
        blob.is_pulled(&node).await;
        assert_eq!(tables_asked(&node), times);
    }
    let bytes = pattern(9 * MIB, 2);
    let digest = node.push_blob("a", &bytes).await;
    Blob { bytes, digest }.is_pulled(&node).await;
    assert_eq!(tables_asked(&node), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_is_given_that_has_changed_in_the_bucket() {
    let (mut node, blob) = Blob::pushed(pattern(70 * MIB + 5, 1)).await;
    // In the beginning and behind it, at the edges of what is checked at once and of chunks, and at the end.
    for at in [0, 65_535, 65_536, 4 * MIB - 1, 8 * MIB, 30 * MIB + 7, 70 * MIB - 1, 70 * MIB + 4] {
        blob.flip(&node, at);
        let (received, ended) = blob.pull(&node).await;
        assert_eq!(ended, Ended::Badly, "{at}");
        assert!(received <= at, "{at}: {received} bytes are given");
        assert!(metric(&node, MISMATCHES).await >= 1, "{at}");
        // Of the rest, all can be had.
        let others = node.get(&format!("/v2/a/blobs/{}", blob.digest));
        let far = if at < 40 * MIB { 60 * MIB } else { 0 };
        let others = others.header("range", &format!("bytes={far}-{}", far + 9)).expect(206).await;
        assert_eq!(others.body, blob.bytes.slice(far..far + 10), "{at}");
        blob.flip(&node, at);
        blob.is_pulled(&node).await;
        node.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_short_blob_that_has_changed_nothing_is_given_or_kept() {
    for (length, at) in [(1, 0), (5_000, 4_999), (3 * MIB, 100), (8 * MIB, 8 * MIB - 1)] {
        let (node, blob) = Blob::pushed(pattern(length, 1)).await;
        blob.flip(&node, at);
        let get = || node.get(&format!("/v2/a/blobs/{}", blob.digest));
        // Nor of its beginning, which is as it should be in all but the first.
        for range in ["bytes=0-", "bytes=0-0"] {
            get().header("range", range).refused(500, "UNKNOWN").await;
        }
        get().refused(500, "UNKNOWN").await;
        let mismatches = metric(&node, MISMATCHES).await;
        assert!(mismatches >= 1, "{length}");
        blob.flip(&node, at);
        blob.is_pulled(&node).await;
        assert_eq!(metric(&node, MISMATCHES).await, mismatches, "{length}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_on_the_way_is_asked_for_again() {
    let long = [(0, 100), (0, 5 * MIB), (1, 0), (2, MIB)];
    is_asked_for_again(pattern(70 * MIB, 1), &long).await;
    is_asked_for_again(pattern(8 * MIB, 1), &[(0, 0), (0, 8 * MIB - 1)]).await;
}

/// That a blob comes whole though one of the requests for its bytes is answered with a wrong bit.
async fn is_asked_for_again(bytes: Bytes, damages: &[(usize, usize)]) {
    let (mut node, blob) = Blob::pushed(bytes).await;
    for &(skip, at) in damages {
        let damaged = Injection::new(Action::FlipBit(at as u64)).on("/data").skip(skip).times(1);
        node.s3().inject(damaged);
        blob.is_pulled(&node).await;
        assert_eq!(metric(&node, MISMATCHES).await, 1);
        node.s3().heal();
        node.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_of_another_program_gets_its_table_when_it_is_read_first() {
    // In whole chunks, and with a last one that is not whole.
    for length in [72 * MIB, 20 * MIB + 1] {
        let (mut node, blob) = Blob::pushed(pattern(length, 1)).await;
        let file = blob.table(&node);
        let table = fs::read(&file).unwrap();
        let other = blob.bytes.slice(..20);
        // There is none, or it is something else, or cut, or too long, or has a wrong bit.
        let mut flipped = table.clone();
        flipped[40] ^= 1;
        let too_long = [&table[..], b"x"].concat();
        for damaged in [None, Some(&other[..]), Some(&table[..50]), Some(&too_long), Some(&flipped)]
        {
            match damaged {
                None => fs::remove_file(&file).unwrap(),
                Some(damaged) => fs::write(&file, damaged).unwrap(),
            }
            blob.is_pulled(&node).await;
            eventually("the table is made again", async || {
                fs::read(&file).is_ok_and(|made| made == table).then_some(())
            })
            .await;
            assert_eq!(metric(&node, MISMATCHES).await, 0);
            node.restart().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_of_another_program_that_is_damaged_is_found_out_and_not_kept() {
    let (node, blob) = Blob::pushed(pattern(20 * MIB, 1)).await;
    fs::remove_file(blob.table(&node)).unwrap();
    blob.flip(&node, 9 * MIB);
    let path = format!("/v2/a/blobs/{}", blob.digest);
    assert_eq!(node.get(&path).expect(200).await.body.len(), 20 * MIB);
    eventually("it is found out", async || (metric(&node, MISMATCHES).await == 1).then_some(()))
        .await;
    assert!(!blob.table(&node).exists());
    blob.flip(&node, 9 * MIB);
    let file = blob.table(&node);
    // The first who comes now may still meet what is being forgotten.
    eventually("it is right again", async || {
        let pulled = node.get(&path).expect(200).await.body == blob.bytes;
        (pulled && file.exists()).then_some(())
    })
    .await;
    blob.is_pulled(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_cannot_be_had_for_now_is_no_reason_to_believe_anything() {
    let (node, blob) = Blob::pushed(pattern(20 * MIB, 1)).await;
    node.s3().inject(Injection::new(Action::Refuse(403, "AccessDenied")).on("/table"));
    assert_eq!(blob.pull(&node).await, (0, Ended::Badly));
    node.s3().heal();
    blob.is_pulled(&node).await;
}
