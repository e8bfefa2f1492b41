//! Nodes that are slower than others, or do not answer at all.

use crate::{
    cluster::{Cluster, Traits},
    content::Blob,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_has_a_narrow_line() {
    const SLOW: usize = 3;
    let blobs = Blob::some();
    let line = Traits { bytes_per_second: Some(8 << 20), ..Traits::default() };
    let cluster = Cluster::with(5, (SLOW, line)).await;
    let all = cluster.all();
    all.iter().filter(|node| **node != SLOW).for_each(|node| {
        cluster.network.limit(*node, 80 << 20);
    });
    cluster.pull(&all, &blobs).await;
    // What it owns may be fetched by who comes after it, too.
    cluster.expect_reads(&blobs, |blob| blob.parts() + blob.owned(&all, SLOW));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_takes_questions_and_answers_none() {
    const HUNG: usize = 1;
    let blobs = Blob::some();
    let cluster = Cluster::of(5).await;
    let all = cluster.all();
    let others: Vec<usize> = all.iter().copied().filter(|node| *node != HUNG).collect();
    let storm = cluster.half_a_storm(&all, &blobs).await;
    cluster.network.cut(&others, &[HUNG]);
    cluster.s3.release();
    storm.outcomes().await.expect_right(&all);
    // What it owns is fetched by who comes after it, too.
    cluster.expect_reads(&blobs, |blob| blob.parts() + blob.owned(&all, HUNG));
}
