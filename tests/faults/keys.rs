//! A node that cannot read the bucket.

use crate::{
    cluster::{Cluster, Traits},
    content::Blob,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_has_a_wrong_key() {
    const WRONG: usize = 3;
    let blobs = Blob::some();
    let traits = Traits { has_wrong_key: true, ..Traits::default() };
    let cluster = Cluster::with(5, (WRONG, traits)).await;
    let all = cluster.all();
    let others: Vec<usize> = all.iter().copied().filter(|node| *node != WRONG).collect();
    // Its own clients are given what others have, or told that it fails.
    cluster.storm(&all, &blobs).outcomes().await.expect_right(&others);
    // Besides, it asks the bucket in vain, three times for each node that wants something of it.
    let in_vain = 3 * all.len();
    cluster.expect_reads(&blobs, |blob| blob.parts() + in_vain * blob.owned(&all, WRONG));
}
