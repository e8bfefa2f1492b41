//! Nodes that are killed in the middle of a storm.

use crate::{cluster::Cluster, content::Blob, network::Number};

/// Nodes that there are.
const NODES: usize = 6;

/// How often the bucket may be asked for the parts of a blob if `dead` are gone: once, or twice if its owner was one of
/// them. Where all were who might know it, each of the others asks the bucket.
fn bound(blob: &Blob, all: &[Number], dead: &[Number]) -> usize {
    let most = |owners: &Vec<Number>| {
        if !dead.contains(&owners[0]) {
            1
        } else if owners.iter().all(|owner| dead.contains(owner)) {
            1 + all.len() - dead.len()
        } else {
            2
        }
    };
    blob.owners(all).iter().map(most).sum()
}

async fn are_killed(choose: fn(&Blob, &[Number]) -> Vec<Number>) {
    let blobs = Blob::some();
    let mut cluster = Cluster::of(NODES).await;
    let all = cluster.all();
    let dead = choose(&blobs[0], &all);
    let living: Vec<Number> = all.iter().copied().filter(|node| !dead.contains(node)).collect();
    let storm = cluster.half_a_storm(&all, &blobs).await;
    dead.iter().for_each(|node| cluster.process(*node).kill());
    cluster.s3.release();
    storm.outcomes().await.expect_right(&living);
    cluster.expect_reads(&blobs, |blob| bound(blob, &all, &dead));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_the_nodes_are_killed() {
    are_killed(|_, all| all[..NODES / 2].to_vec()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_two_that_own_most_are_killed() {
    are_killed(|blob, all| {
        let mut nodes = all.to_vec();
        nodes.sort_by_key(|node| std::cmp::Reverse(blob.owned(all, *node)));
        nodes[..2].to_vec()
    })
    .await;
}
