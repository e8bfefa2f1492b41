//! Many clients push and pull at the same time, while the server's memory is watched.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::arguments::{Memory as Arguments, Order};
use crate::client::{Client, Reuse, Sink};
use crate::content::{Content, Layer};
use crate::process::{Memory, Process};
use crate::pull::Readable;
use crate::push::{PushStyle, push};
use crate::report::{Percentiles, Sample, print_json};

const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
const SEEDED: &str = "memory/seed";
const SEED: u64 = 0x3e3;
const MIB: f64 = (1 << 20) as f64;

/// Runs the crowd and prints the report.
///
/// # Errors
/// When a client fails, the time is up, or the server took more memory than allowed.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    ensure!(arguments.clients > 0 && arguments.distinct > 0, "no clients or no layers");
    let pid = arguments.target.server_pid.context("--server-pid says whose memory to watch")?;
    let server = Process::of(pid);
    let crowd = Crowd::gather(&arguments).await.context("before the crowd")?;
    let before = server.memory()?;
    let cpu_before = server.cpu_time()?;
    let begin = Instant::now();
    let limit = Duration::try_from_secs_f64(arguments.seconds)?;
    let (samples, most) = timeout(limit, watch(&server, crowd.work()))
        .await
        .with_context(|| format!("not done after {limit:?}"))??;
    let report = Report {
        clients: arguments.clients,
        content_bytes: samples.iter().map(|sample| sample.content_bytes).sum(),
        elapsed_seconds: begin.elapsed().as_secs_f64(),
        total_ms: Percentiles::of(samples.iter().map(|sample| sample.total)),
        server_cpu_seconds: (server.cpu_time()? - cpu_before).as_secs_f64(),
        before,
        most,
    };
    if arguments.json {
        print_json(&report)?;
    } else {
        report.print();
    }
    let peak = report.most.peak_resident_bytes;
    ensure!(
        arguments.limit.is_none_or(|limit| peak <= limit.0),
        "the server had {:.0} MiB in memory",
        peak as f64 / MIB
    );
    Ok(())
}

#[derive(Debug, Serialize)]
struct Report {
    clients: usize,
    content_bytes: u64,
    elapsed_seconds: f64,
    total_ms: Percentiles,
    server_cpu_seconds: f64,
    before: Memory,
    /// The largest value of each figure, the peak since the server's start included.
    most: Memory,
}

impl Report {
    fn print(&self) {
        println!(
            "{} clients: {:.1} GB in {:.1} s, {:.0} MB/s; transfer p50 {:.1} s, p99 {:.1} s; \
             server {:.1} CPU s",
            self.clients,
            self.content_bytes as f64 / 1e9,
            self.elapsed_seconds,
            self.content_bytes as f64 / 1e6 / self.elapsed_seconds,
            self.total_ms.p50 / 1e3,
            self.total_ms.p99 / 1e3,
            self.server_cpu_seconds
        );
        println!(
            "resident: {:.0} MiB before, {:.0} MiB at most (sampled {:.0}, of it without files {:.0}); \
             in files that are only in memory: {:.0} MiB at most",
            self.before.resident_bytes as f64 / MIB,
            self.most.peak_resident_bytes as f64 / MIB,
            self.most.resident_bytes as f64 / MIB,
            self.most.anonymous_bytes as f64 / MIB,
            self.most.memory_file_bytes as f64 / MIB
        );
    }
}

/// Samples the server's memory until the work is done.
///
/// # Cancel safety
/// Stopping at any point leaves nothing behind.
async fn watch<T>(server: &Process, work: impl Future<Output = Result<T>>) -> Result<(T, Memory)> {
    let mut work = std::pin::pin!(work);
    let mut most = server.memory()?;
    let mut ticks = interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            done = &mut work => Some(done?),
            _ = ticks.tick() => None,
        };
        let now = server.memory().context("the server is gone")?;
        most.resident_bytes = most.resident_bytes.max(now.resident_bytes);
        most.anonymous_bytes = most.anonymous_bytes.max(now.anonymous_bytes);
        most.memory_file_bytes = most.memory_file_bytes.max(now.memory_file_bytes);
        most.peak_resident_bytes = now.peak_resident_bytes;
        if let Some(done) = done {
            return Ok((done, most));
        }
    }
}

struct Crowd {
    members: Vec<Member>,
}

impl Crowd {
    /// Prepares the clients and pushes what they will pull.
    async fn gather(arguments: &Arguments) -> Result<Self> {
        let address = arguments.target.address()?;
        let content = Content::new(arguments.size.0, SEED)?;
        let distinct = arguments.distinct.min(arguments.clients);
        let layers: Vec<Layer> = (0..distinct).map(|index| content.layer(index as u64)).collect();
        let mut client = Client::new(&address, Reuse::KeepAlive);
        for layer in &layers {
            push(&mut client, SEEDED, layer, PushStyle::Containerd).await?;
        }
        let all_pushed = Arc::new(Barrier::new(arguments.clients));
        let members = (0..arguments.clients)
            .map(|index| Member {
                index,
                client: Client::new(&address, Reuse::KeepAlive),
                layer: layers[index % distinct].clone(),
                // One client for each layer hashes what it pulls: all of them would measure
                // the client.
                sink: if index < distinct { Sink::Hash } else { Sink::Count },
                order: arguments.order,
                all_pushed: Arc::clone(&all_pushed),
            })
            .collect();
        Ok(Self { members })
    }

    async fn work(self) -> Result<Vec<Sample>> {
        let mut clients = JoinSet::new();
        for member in self.members {
            clients.spawn(member.work());
        }
        let mut samples = Vec::new();
        while let Some(done) = clients.join_next().await {
            samples.extend(done.context("a client panicked")??);
        }
        Ok(samples)
    }
}

struct Member {
    index: usize,
    client: Client,
    layer: Layer,
    sink: Sink,
    order: Order,
    all_pushed: Arc<Barrier>,
}

impl Member {
    async fn work(mut self) -> Result<[Sample; 2]> {
        match self.order {
            Order::Mixed if self.index % 2 == 1 => Ok([self.pull().await?, self.push().await?]),
            Order::Mixed => Ok([self.push().await?, self.pull().await?]),
            Order::PushThenPull => {
                let pushed = self.push().await?;
                self.all_pushed.wait().await;
                Ok([pushed, self.pull().await?])
            }
        }
    }

    async fn push(&mut self) -> Result<Sample> {
        // Both ways in both halves of a mixed crowd.
        let style = if (self.index / 2).is_multiple_of(2) {
            PushStyle::Dockerd
        } else {
            PushStyle::Containerd
        };
        let repository = format!("memory/client-{}", self.index);
        push(&mut self.client, &repository, &self.layer, style)
            .await
            .with_context(|| format!("push of client {}", self.index))
    }

    async fn pull(&mut self) -> Result<Sample> {
        Readable::blob(SEEDED, &self.layer.digest, self.layer.size_bytes)
            .read(&mut self.client, self.sink)
            .await
            .with_context(|| format!("pull of client {}", self.index))
    }
}
