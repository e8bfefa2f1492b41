//! A bucket that goes away and comes back.

use crate::{
    cluster::{Cluster, until},
    content::Blob,
    s3_server::{Action, Injection},
};

/// Requests to the bucket that fail before it is back.
const FAILED: u64 = 10;

impl Cluster {
    async fn until_the_bucket_is_missed(&self) {
        let before = self.storage_errors().await;
        let is_missed = async || self.storage_errors().await >= before + FAILED;
        until("the bucket is missed", is_missed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bucket_is_away_for_a_while() {
    let blobs = Blob::some();
    let cluster = Cluster::of(5).await;
    let all = cluster.all();
    let storm = cluster.half_a_storm(&all, &blobs).await;
    cluster.s3.go_away().await;
    cluster.until_the_bucket_is_missed().await;
    cluster.s3.release();
    cluster.s3.come_back();
    // Some may have failed.
    storm.outcomes().await;
    cluster.pull(&all, &blobs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bucket_refuses_everything_for_a_while() {
    let blobs = Blob::some();
    let cluster = Cluster::of(5).await;
    let all = cluster.all();
    let storm = cluster.half_a_storm(&all, &blobs).await;
    cluster.s3.heal();
    cluster.s3.inject(Injection::new(Action::SlowDown));
    cluster.s3.release();
    cluster.until_the_bucket_is_missed().await;
    cluster.s3.heal();
    // Some may have failed.
    storm.outcomes().await;
    cluster.pull(&all, &blobs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bucket_stays_away_until_all_pulls_have_ended() {
    let blobs = Blob::some();
    let cluster = Cluster::of(5).await;
    let all = cluster.all();
    let storm = cluster.half_a_storm(&all, &blobs).await;
    cluster.s3.go_away().await;
    let outcomes = storm.outcomes().await;
    assert!(outcomes.failed() >= 1, "parts that nobody has cannot be given");
    cluster.s3.release();
    cluster.s3.come_back();
    cluster.pull(&all, &blobs).await;
}
