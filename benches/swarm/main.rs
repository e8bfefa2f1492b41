//! Simulated storms: `cargo bench --bench swarm -- kraken`.
#![expect(clippy::print_stdout, reason = "this is a program that prints")]

mod agenda;
mod host;
mod model;
mod network;
mod storm;

use std::time::Duration;

use model::Model;
use storm::{Outcome, Storm, quantile};
use tokio::time::Instant;

/// How many times the ideal a storm may take before it is given up.
const PATIENCE: f64 = 40.0;

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let get = |name: &str| {
        arguments
            .iter()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse::<f64>().ok())
    };
    let storm = storm(arguments.first().map_or("t1", String::as_str), &get);
    for round in 0..get("rounds").map_or(1, |rounds| rounds as u64) {
        let began = Instant::now();
        let storm = Storm { seed: storm.seed + round, ..storm.clone() };
        let ideal = storm.ideal();
        let outcome = Model::new(storm).run(PATIENCE * ideal);
        if arguments.iter().any(|word| word == "course") {
            for (number, second) in outcome.course.iter().enumerate() {
                println!("{:3} s: {second}", number + 1);
            }
        }
        print(&outcome, ideal, began.elapsed());
    }
}

fn storm(which: &str, get: &impl Fn(&str) -> Option<f64>) -> Storm {
    let hosts = get("hosts").map(|hosts| hosts as usize);
    let mut storm = match which {
        "t1" => Storm { hosts: hosts.unwrap_or(16), ..Storm::default() },
        "kraken" => Storm::kraken(hosts.unwrap_or(2600)),
        other => panic!("{other}: t1 or kraken is expected"),
    };
    let set = |value: &mut usize, name: &str| {
        if let Some(given) = get(name) {
            *value = given as usize;
        }
    };
    set(&mut storm.limits.window, "window");
    set(&mut storm.limits.lanes, "lanes");
    set(&mut storm.limits.children, "children");
    set(&mut storm.limits.fetches, "fetches");
    set(&mut storm.owners, "owners");
    if let Some(part) = get("size") {
        storm.blobs.iter_mut().for_each(|bytes| *bytes = (*bytes as f64 * part) as u64);
    }
    let count = |part: f64| (part * storm.hosts as f64) as usize;
    let slow = get("slow").map_or(0, count);
    let dead = get("dead").map_or(0, count);
    let joins = get("joins").map_or(0, count);
    let at = get("at").unwrap_or(0.0);
    storm.slow = storm.every(slow).map(|host| (host, 0.1)).collect();
    storm.deaths = storm.every(dead).map(|host| (host, at)).collect();
    storm.joins = storm.every(joins).map(|host| (storm.hosts - 1 - host, at)).collect();
    storm.pullers = storm.every(get("pullers").map_or(0, |count| count as usize)).collect();
    storm.is_split = get("split").is_some_and(|split| split > 0.0);
    storm.step = get("step").unwrap_or(storm.step);
    storm.delay = get("delay").unwrap_or(storm.delay);
    storm
}

fn print(outcome: &Outcome, ideal: f64, took: Duration) {
    let idle = outcome.sent_idle.iter().copied().fold(0.0, f64::max);
    println!(
        "ideal {ideal:.2} p50 {:.2} ({:.3}x) p99 {:.2} max {:.2} ({:.3}x) healthy p99 {:.2} max {:.2} \
         failed {} origin {:.3}x sent most {:.2} idle {idle:.3} messages {} {:?} took {took:.1?}",
        outcome.quantile(0.5),
        outcome.quantile(0.5) / ideal,
        outcome.quantile(0.99),
        outcome.quantile(1.0),
        outcome.quantile(1.0) / ideal,
        quantile(&outcome.healthy, 0.99),
        quantile(&outcome.healthy, 1.0),
        outcome.failed,
        outcome.origin,
        outcome.sent_most(),
        outcome.messages,
        outcome.counts,
    );
}
