//! Storms among simulated nodes, which are the daemon's own state machines: short versions of `cargo bench --bench
//! swarm`.

#[path = "../../benches/swarm/agenda.rs"]
mod agenda;
#[path = "../../benches/swarm/host.rs"]
mod host;
#[path = "../../benches/swarm/model.rs"]
mod model;
#[path = "../../benches/swarm/network.rs"]
mod network;
#[path = "../../benches/swarm/storm.rs"]
mod storm;

use model::Model;
use storm::{Outcome, Storm, quantile};

const MIB: u64 = 1 << 20;

/// T1, which is what is measured with real nodes, too.
fn t1() -> Storm {
    Storm::default()
}

fn run(storm: Storm) -> Outcome {
    let most = 40.0 * storm.ideal();
    Model::new(storm).run(most)
}

#[test]
fn a_storm_takes_little_longer_than_one_pull_and_one_copy() {
    let storm = t1();
    let ideal = storm.ideal();
    let outcome = run(storm);
    assert_eq!(outcome.failed, 0);
    assert!(outcome.quantile(0.5) <= 1.12 * ideal, "{outcome:?}");
    assert!(outcome.quantile(1.0) <= 1.12 * ideal, "{outcome:?}");
    assert!((outcome.origin - 1.0).abs() < 0.02, "{outcome:?}");
    assert!(outcome.sent_most() <= 1.1, "no node sends much more than others: {outcome:?}");
    assert!(outcome.messages <= 16 * 66 * 40, "{} messages", outcome.messages);
    assert_eq!((outcome.counts.direct, outcome.counts.deputies), (0, 0));
    let busy = outcome.course.iter().take(8).map(|second| second.origin).fold(1.0, f64::min);
    assert!(busy > 0.85, "the storage never waits while it has much to give: {outcome:?}");
}

#[test]
fn the_time_does_not_grow_with_the_number_of_hosts() {
    let ends = [4, 8, 32].map(|hosts| run(Storm { hosts, ..t1() }).quantile(1.0));
    assert!(ends[2] <= 1.3 * ends[0], "{ends:?}");
}

#[test]
fn a_node_that_does_not_pull_sends_little() {
    let outcome = run(Storm { pullers: t1().every(4).collect(), ..t1() });
    let most = outcome.sent_idle.iter().copied().fold(0.0, f64::max);
    assert!(outcome.sent_idle.len() == 12 && most <= 0.2, "{most}");
    assert!((outcome.origin - 1.0).abs() < 0.02, "{outcome:?}");
}

#[test]
fn agents_own_nothing_and_a_storm_is_as_quick() {
    let storm = Storm { owners: 3, ..t1() };
    let ideal = storm.ideal();
    let outcome = run(storm);
    assert!(outcome.failed == 0 && outcome.quantile(1.0) <= 1.6 * ideal, "{outcome:?}");
}

#[test]
fn nodes_that_die_in_the_middle_cost_others_little() {
    let storm = Storm { deaths: vec![(3, 3.0), (7, 3.0)], ..t1() };
    let ideal = storm.ideal();
    let outcome = run(storm);
    assert_eq!((outcome.failed, outcome.ends.len()), (0, 14), "{outcome:?}");
    assert!(outcome.quantile(1.0) <= 1.6 * ideal, "{outcome:?}");
    assert!(outcome.origin <= 1.5, "{outcome:?}");
}

#[test]
fn a_hundred_hosts_pull_at_almost_the_speed_of_their_links() {
    let storm = Storm { blobs: vec![400 * MIB; 2], ..Storm::kraken(100) };
    let ideal = storm.ideal();
    let outcome = run(storm);
    assert!(outcome.quantile(0.5) <= 1.25 * ideal, "{outcome:?}");
    assert!(quantile(&outcome.healthy, 0.99) <= 1.3 * ideal, "{outcome:?}");
    assert!(outcome.origin <= 1.1, "{outcome:?}");
}

#[test]
fn slow_nodes_hold_nobody_up() {
    let storm = Storm { slow: t1().every(2).map(|host| (host, 0.1)).collect(), ..t1() };
    let ideal = storm.ideal();
    let outcome = run(storm);
    assert_eq!(outcome.failed, 0);
    assert!(quantile(&outcome.healthy, 1.0) <= 2.0 * ideal, "{outcome:?}");
    assert!(outcome.origin <= 1.3, "{outcome:?}");
}

#[test]
fn a_slow_bucket_makes_nobody_slow() {
    let storm = Storm { origin_rate: t1().rate / 10.0, ..t1() };
    let ideal = storm.ideal();
    let outcome = run(storm);
    assert!(outcome.failed == 0 && outcome.quantile(1.0) <= 1.1 * ideal, "{outcome:?}");
    assert!((outcome.origin - 1.0).abs() < 0.02 && outcome.counts.passed == 0, "{outcome:?}");
}

#[test]
fn owners_that_are_dead_from_the_beginning_cost_little() {
    let storm = Storm { deaths: t1().every(3).map(|host| (host, 0.0)).collect(), ..t1() };
    let ideal = storm.ideal();
    let outcome = run(storm);
    assert_eq!((outcome.failed, outcome.ends.len()), (0, 13), "{outcome:?}");
    assert!(outcome.quantile(1.0) <= 1.6 * ideal && outcome.origin <= 1.1, "{outcome:?}");
}

#[test]
fn nodes_that_join_while_others_end_get_everything_too() {
    let storm =
        Storm { joins: vec![(15, 3.0), (14, 5.0)], deaths: vec![(2, 4.0), (9, 6.0)], ..t1() };
    let ideal = storm.ideal();
    let outcome = run(storm);
    assert_eq!((outcome.failed, outcome.ends.len()), (0, 14), "{outcome:?}");
    assert!(outcome.quantile(1.0) <= 1.6 * ideal && outcome.origin <= 1.5, "{outcome:?}");
}

#[test]
fn two_halves_that_do_not_know_each_other_cost_two_copies() {
    let outcome = run(Storm { is_split: true, ..t1() });
    assert_eq!(outcome.failed, 0);
    assert!((outcome.origin - 2.0).abs() < 0.05, "{outcome:?}");
}
