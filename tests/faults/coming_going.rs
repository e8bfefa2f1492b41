//! Nodes that come and go in the middle of a storm.

use crate::{
    cluster::{Cluster, Traits, until},
    content::Blob,
    network::Number,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_comes() {
    let blobs = Blob::some();
    let mut cluster = Cluster::prepared(5).await;
    let all = cluster.all();
    let (new, before) = all.split_last().expect("there are some");
    for node in before {
        cluster.start(*node, &Traits::default()).await;
    }
    cluster.agree(before).await;
    cluster.take_turn().await;
    let storm = cluster.half_a_storm(before, &blobs).await;
    cluster.start(*new, &Traits::default()).await;
    cluster.agree(&all).await;
    let late = cluster.storm(&[*new], &blobs);
    cluster.s3.release();
    storm.outcomes().await.expect_right(before);
    late.outcomes().await.expect_right(&[*new]);
    // What it owns now had another owner, who may have fetched it.
    cluster.expect_reads(&blobs, |blob| blob.parts() + blob.owned(&all, *new));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes() {
    const GOING: usize = 0;
    let blobs = Blob::some();
    let mut cluster = Cluster::of(5).await;
    let all = cluster.all();
    let staying: Vec<Number> = all.iter().copied().filter(|node| *node != GOING).collect();
    let storm = cluster.half_a_storm(&all, &blobs).await;
    cluster.process(GOING).terminate();
    for node in &staying {
        cluster.sees(*node, &staying).await;
    }
    cluster.s3.release();
    // Its clients are served to the end.
    storm.outcomes().await.expect_right(&all);
    cluster.expect_reads(&blobs, |blob| blob.parts() + blob.owned(&all, GOING));
    until("it ends", async || cluster.process(GOING).has_ended()).await;
}
