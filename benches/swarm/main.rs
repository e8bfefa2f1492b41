//! Simulated storms: `cargo bench --bench swarm -- kraken`.
#![expect(clippy::print_stdout, reason = "this is a program that prints")]

mod model;
mod network;

use millpond::cluster::exchange::Limits;
use model::{Model, Storm, quantile};
use tokio::time::Instant;

const MIB: u64 = 1 << 20;

fn base() -> Storm {
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

fn kraken(hosts: usize) -> Storm {
    Storm {
        hosts,
        rate: 300e6,
        origin_rate: 1.5e9,
        blobs: vec![1_500_000_000; 2],
        step: 0.005,
        ..base()
    }
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let get = |name: &str| {
        arguments
            .iter()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse::<f64>().ok())
    };
    let which = arguments.first().map_or("t1", String::as_str);
    let hosts = get("hosts").map(|hosts| hosts as usize);
    let mut storm = match which {
        "t1" => Storm { hosts: hosts.unwrap_or(16), ..base() },
        "kraken" => kraken(hosts.unwrap_or(2600)),
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
    if let Some(seconds) = get("check") {
        storm.limits.check = std::time::Duration::from_secs_f64(seconds);
    }
    if let Some(part) = get("slow") {
        let count = (part * storm.hosts as f64) as usize;
        storm.slow = (0..count).map(|host| (host * storm.hosts / count, 0.1)).collect();
    }
    if let Some(part) = get("dead") {
        let count = (part * storm.hosts as f64) as usize;
        storm.deaths = (0..count).map(|host| (host * storm.hosts / count, 0.0)).collect();
    }
    if let Some(count) = get("pullers") {
        let count = count as usize;
        storm.pullers = (0..count).map(|host| host * storm.hosts / count).collect();
    }
    if let Some(step) = get("step") {
        storm.step = step;
    }
    let image: u64 = storm.blobs.iter().sum();
    let ideal = image as f64 / storm.rate.min(storm.origin_rate);
    for round in 0..get("rounds").map_or(1, |rounds| rounds as u64) {
        let began = Instant::now();
        let outcome =
            Model::new(Storm { seed: storm.seed + round, ..storm.clone() }).run(40.0 * ideal);
        let most = outcome.sent.iter().copied().fold(0.0, f64::max);
        let idle = outcome.sent_idle.iter().copied().fold(0.0, f64::max);
        println!(
            "ideal {ideal:.2} p50 {:.2} ({:.2}x) p99 {:.2} max {:.2} ({:.2}x) healthy p99 {:.2} max {:.2} \
             failed {} origin {:.3}x sent most {most:.2} idle {idle:.3} messages {} {:?} took {:?}",
            outcome.quantile(0.5),
            outcome.quantile(0.5) / ideal,
            outcome.quantile(0.99),
            outcome.quantile(1.0),
            outcome.quantile(1.0) / ideal,
            quantile(&outcome.healthy, 0.99),
            quantile(&outcome.healthy, 1.0),
            outcome.failed,
            outcome.origin,
            outcome.messages,
            outcome.counts,
            began.elapsed(),
        );
    }
}
