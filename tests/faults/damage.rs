//! A node that sends something else than it has.

use crate::{cluster::Cluster, content::Blob};

/// The bytes at this place of all that a node sends are wrong, be it at the beginning of a part or at its end.
async fn is_damaged(place: usize) {
    const BROKEN: usize = 0;
    let blobs = Blob::some();
    let cluster = Cluster::of(5).await;
    let all = cluster.all();
    cluster.network.damage(BROKEN, place);
    cluster.pull(&all, &blobs).await;
    // What it owns, and a short blob that went through it, each of the others may have to fetch itself.
    let others = all.len() - 1;
    cluster.expect_reads(&blobs, |blob| blob.parts() + others * blob.owned(&all, BROKEN).max(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_sends_is_wrong_at_the_beginning() {
    is_damaged(100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_sends_is_wrong_at_the_end() {
    is_damaged(usize::MAX).await;
}
