//! Storms among simulated nodes, which are the daemon's own state machines: short versions of `cargo bench --bench
//! swarm`.

#[path = "../../benches/swarm/model.rs"]
mod model;
#[path = "../../benches/swarm/network.rs"]
mod network;

use millpond::cluster::exchange::Limits;
use model::{Model, Outcome, Storm, quantile};

const MIB: u64 = 1 << 20;

/// The time that the slowest link takes for the image, which nobody can go below.
fn ideal(storm: &Storm) -> f64 {
    storm.blobs.iter().sum::<u64>() as f64 / storm.rate.min(storm.origin_rate)
}

/// T1: 16 hosts and a storage with 50 Mbit each, 64 MiB in four layers.
fn t1() -> Storm {
    Storm {
        hosts: 16,
        rate: 6.25e6,
        origin_rate: 6.25e6,
        blobs: vec![32 * MIB, 16 * MIB, 12 * MIB, 4 * MIB],
        slow: Vec::new(),
        deaths: Vec::new(),
        pullers: Vec::new(),
        owners: 0,
        limits: Limits::default(),
        seed: 1,
        delay: 0.0005,
        step: 0.01,
    }
}

fn run(storm: Storm) -> Outcome {
    let most = 40.0 * ideal(&storm);
    Model::new(storm).run(most)
}

#[test]
fn a_storm_takes_little_longer_than_one_pull_and_one_copy() {
    let storm = t1();
    let ideal = ideal(&storm);
    let outcome = run(storm);
    assert_eq!(outcome.failed, 0);
    assert!(outcome.quantile(0.5) <= 1.3 * ideal, "{outcome:?}");
    assert!(outcome.quantile(1.0) <= 1.35 * ideal, "{outcome:?}");
    assert!((outcome.origin - 1.0).abs() < 0.02, "{outcome:?}");
    let most = outcome.sent.iter().copied().fold(0.0, f64::max);
    assert!(most <= 1.4, "no node sends much more than others: {most}");
    assert!(outcome.messages <= 16 * 66 * 40, "{} messages", outcome.messages);
    assert_eq!((outcome.counts.direct, outcome.counts.deputies), (0, 0));
}

#[test]
fn the_time_does_not_grow_with_the_number_of_hosts() {
    let ends = [4, 8, 32].map(|hosts| run(Storm { hosts, ..t1() }).quantile(1.0));
    assert!(ends[2] <= 1.3 * ends[0], "{ends:?}");
}

#[test]
fn a_node_that_does_not_pull_sends_little() {
    let outcome = run(Storm { pullers: (0..4).map(|host| 4 * host).collect(), ..t1() });
    let most = outcome.sent_idle.iter().copied().fold(0.0, f64::max);
    assert!(outcome.sent_idle.len() == 12 && most <= 0.2, "{most}");
    assert!((outcome.origin - 1.0).abs() < 0.02, "{outcome:?}");
}

#[test]
fn agents_own_nothing_and_a_storm_is_as_quick() {
    let storm = Storm { owners: 3, ..t1() };
    let ideal = ideal(&storm);
    let outcome = run(storm);
    assert!(outcome.failed == 0 && outcome.quantile(1.0) <= 1.6 * ideal, "{outcome:?}");
}

#[test]
fn nodes_that_die_in_the_middle_cost_others_little() {
    let storm = Storm { deaths: vec![(3, 3.0), (7, 3.0)], ..t1() };
    let ideal = ideal(&storm);
    let outcome = run(storm);
    assert_eq!((outcome.failed, outcome.ends.len()), (0, 14), "{outcome:?}");
    assert!(outcome.quantile(1.0) <= 1.6 * ideal, "{outcome:?}");
    assert!(outcome.origin <= 1.5, "{outcome:?}");
}

#[test]
fn a_hundred_hosts_pull_at_almost_the_speed_of_their_links() {
    let storm = Storm {
        hosts: 100,
        rate: 300e6,
        origin_rate: 1.5e9,
        blobs: vec![400 * MIB; 2],
        step: 0.005,
        ..t1()
    };
    let ideal = ideal(&storm);
    let outcome = run(storm);
    assert!(outcome.quantile(0.5) <= 1.25 * ideal, "{outcome:?}");
    assert!(quantile(&outcome.healthy, 0.99) <= 1.3 * ideal, "{outcome:?}");
    assert!(outcome.origin <= 1.1, "{outcome:?}");
}
