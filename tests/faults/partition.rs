//! Nodes that cannot reach each other.

use crate::{cluster::Cluster, content::Blob, network::Number};

/// How often the bucket may be asked for the parts of a blob by two halves that do not reach each other: once by each
/// of them, or by each node of one in which nobody is who might know it.
fn bound(blob: &Blob, halves: [&[Number]; 2]) -> usize {
    let all = halves.concat();
    let by_half = |owners: &Vec<Number>, half: &[Number]| {
        if owners.iter().any(|owner| half.contains(owner)) { 1 } else { half.len() }
    };
    let most = |owners| halves.iter().map(|half| by_half(owners, half)).sum::<usize>();
    blob.owners(&all).iter().map(most).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halves_are_cut_off_from_each_other_and_find_together_again() {
    let mut blobs = Blob::some();
    let later = Blob::later();
    let mut cluster = Cluster::of(6).await;
    let all = cluster.all();
    let halves = [&all[..3], &all[3..]];
    let storm = cluster.half_a_storm(&all, &blobs).await;
    cluster.network.cut(halves[0], halves[1]);
    cluster.network.cut(halves[1], halves[0]);
    cluster.s3.release();
    // From here on most is waited for.
    cluster.rest();
    storm.outcomes().await.expect_right(&all);
    cluster.expect_reads(&blobs, |blob| bound(blob, halves));
    for half in halves {
        for node in half {
            cluster.sees(*node, half).await;
        }
    }
    cluster.take_turn().await;
    cluster.network.heal();
    cluster.agree(&all).await;
    cluster.forgive(&all).await;
    blobs.extend_from_slice(&later);
    cluster.pull(&all, &blobs).await;
    cluster.expect_reads(&later, Blob::parts);
}
