//! One row: the same operation again and again, over some connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::address::Address;
use crate::arguments::{Row, Run};
use crate::client::{Client, Reuse, Sink};
use crate::content::Content;
use crate::process::Process;
use crate::pull::{Image, Readable};
use crate::push::{PushStyle, push, verify};
use crate::report::{Percentiles, Report, Sample, Server, print_json};
use crate::sealed::{SealedClient, head_bytes};

/// The longest an operation may take: 1 GiB at 2 MB/s.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(600);
/// Pushed by each connection before the clock starts, so that the clock sees no first time.
const WARM_UP_BYTES: u64 = 64 << 10;
/// Blobs from this size on are read once before the clock starts, smaller ones once by each
/// connection.
const LARGE_BYTES: u64 = 16 << 20;

/// Measures one row and prints its report.
///
/// # Errors
/// When any operation fails: a number from a failing server would mislead.
pub(crate) async fn run(arguments: Run) -> Result<()> {
    ensure!(arguments.connections > 0, "no connections, no measurement");
    let reuse = if arguments.reconnect { Reuse::PerRequest } else { Reuse::KeepAlive };
    let address = arguments.target.address()?;
    let mut clients: Vec<Client> = std::iter::repeat_with(|| Client::new(&address, reuse))
        .take(arguments.connections)
        .collect();
    let work = Work::prepare(&arguments, &mut clients[0]).await?;
    work.warm_up(&mut clients, &arguments).await.context("before the measurement")?;
    let workers = if arguments.undecrypted {
        drop(clients);
        work.sealed(&address, &arguments).await.context("before the measurement")?
    } else {
        clients.into_iter().map(Worker::Opens).collect()
    };
    let report = measure(&arguments, workers, &Arc::new(work)).await?;
    if arguments.json {
        return print_json(&report);
    }
    report.print();
    Ok(())
}

/// Who performs operations, one at a time.
enum Worker {
    /// Reads answers.
    Opens(Client),
    /// Counts them.
    Counts(Box<SealedClient>),
}

impl Worker {
    async fn read(&mut self, thing: &Readable) -> Result<Sample> {
        match self {
            Self::Opens(client) => thing.read(client, Sink::Count).await,
            Self::Counts(client) => client.read(thing).await,
        }
    }
}

/// What one row does.
enum Work {
    Push { style: PushStyle, content: Content, repositories: u64 },
    Read { things: Vec<Readable> },
}

impl Work {
    async fn prepare(arguments: &Run, client: &mut Client) -> Result<Self> {
        let size = arguments.size.0;
        let pushing = |style| -> Result<Self> {
            let content = Content::new(size, arguments.seed)?;
            Ok(Self::Push { style, content, repositories: arguments.connections as u64 })
        };
        let things = match arguments.row {
            Row::PushDockerd => return pushing(PushStyle::Dockerd),
            Row::PushContainerd => return pushing(PushStyle::Containerd),
            Row::ManifestTag => vec![Image::find(client).await?.by_tag()],
            Row::ManifestDigest => vec![Image::find(client).await?.by_digest()],
            Row::BlobGet => Image::find(client).await?.layers(size)?,
            Row::BlobHead => {
                let layers = Image::find(client).await?.layers(size)?;
                layers.into_iter().map(Readable::head).collect()
            }
        };
        Ok(Self::Read { things })
    }

    async fn warm_up(&self, clients: &mut [Client], arguments: &Run) -> Result<()> {
        match self {
            Self::Push { style, .. } => {
                let content = Content::new(WARM_UP_BYTES, arguments.seed)?;
                for (index, client) in (0..).zip(clients.iter_mut()) {
                    push(client, &repository(index), &content.layer(index), *style).await?;
                }
            }
            Self::Read { things } => {
                let large = arguments.row == Row::BlobGet && arguments.size.0 >= LARGE_BYTES;
                let warmed = if large { 1 } else { clients.len() };
                for client in &mut clients[..warmed] {
                    for thing in things {
                        thing.read(client, Sink::Count).await?;
                    }
                }
                if arguments.verify {
                    things[0].read(&mut clients[0], Sink::Hash).await?;
                }
            }
        }
        Ok(())
    }

    /// Connections that do not decrypt.
    async fn sealed(&self, address: &Address, arguments: &Run) -> Result<Vec<Worker>> {
        let Self::Read { things } = self else { bail!("a push says little that could be sealed") };
        ensure!(arguments.row == Row::BlobGet, "only blobs are long enough not to be decrypted");
        let head_bytes = head_bytes(address, &things[0]).await?;
        let mut workers = Vec::new();
        for _ in 0..arguments.connections {
            let client = SealedClient::open(address, head_bytes, &things[0]).await?;
            workers.push(Worker::Counts(Box::new(client)));
        }
        Ok(workers)
    }

    async fn perform(&self, worker: &mut Worker, index: u64) -> Result<Sample> {
        match (self, worker) {
            (Self::Push { style, content, repositories }, Worker::Opens(client)) => {
                let repository = repository(index % repositories);
                push(client, &repository, &content.layer(index), *style).await
            }
            (Self::Push { .. }, Worker::Counts(_)) => bail!("a push has to read its answers"),
            (Self::Read { things }, worker) => {
                worker.read(&things[(index % things.len() as u64) as usize]).await
            }
        }
    }
}

/// There are as many repositories as connections: crowds push different images.
fn repository(index: u64) -> String {
    format!("bench/push-{index}")
}

async fn measure(arguments: &Run, workers: Vec<Worker>, work: &Arc<Work>) -> Result<Report> {
    let server = arguments.target.server_pid.map(Process::of);
    let server_cpu = || server.as_ref().map(Process::cpu_time).transpose();
    server.iter().for_each(Process::forget_peak);
    let client_before = Process::own().cpu_time()?;
    let server_before = server_cpu()?;
    let begin = Instant::now();
    let deadline = begin + Duration::try_from_secs_f64(arguments.seconds)?;
    let samples = drive(workers, work, Budget::new(arguments.operations, deadline)).await?;
    let elapsed = begin.elapsed().as_secs_f64();
    let client_cpu = Process::own().cpu_time()? - client_before;
    let server_cpu = server_cpu()?.zip(server_before).map(|(after, before)| after - before);
    let server = match server.zip(server_cpu) {
        Some((server, cpu)) => {
            Some(Server { cpu_seconds: cpu.as_secs_f64(), memory: server.memory()? })
        }
        None => None,
    };
    if let (Work::Push { content, .. }, true) = (work.as_ref(), arguments.verify) {
        let mut client = Client::new(&arguments.target.address()?, Reuse::KeepAlive);
        verify(&mut client, &repository(0), &content.layer(0)).await?;
    }
    let content_bytes: u64 = samples.iter().map(|sample| sample.content_bytes).sum();
    Ok(Report {
        row: name(arguments),
        connections: arguments.connections,
        operations: samples.len(),
        content_bytes,
        elapsed_seconds: elapsed,
        operations_per_second: samples.len() as f64 / elapsed,
        bytes_per_second: content_bytes as f64 / elapsed,
        wait_ms: Percentiles::of(samples.iter().map(|sample| sample.wait)),
        total_ms: Percentiles::of(samples.iter().map(|sample| sample.total)),
        client_cpu_seconds: client_cpu.as_secs_f64(),
        server,
    })
}

fn name(arguments: &Run) -> String {
    let action = arguments.row.to_possible_value();
    let action = action.as_ref().map_or("", |action| action.get_name());
    match arguments.row {
        Row::ManifestTag | Row::ManifestDigest => action.to_owned(),
        Row::PushDockerd | Row::PushContainerd | Row::BlobHead | Row::BlobGet => {
            format!("{action} of {} bytes", arguments.size.0)
        }
    }
}

/// Hands out operations until their number or the time is spent.
struct Budget {
    next: AtomicU64,
    operations: u64,
    deadline: Instant,
}

impl Budget {
    fn new(operations: u64, deadline: Instant) -> Arc<Self> {
        Arc::new(Self { next: AtomicU64::new(0), operations, deadline })
    }

    fn take(&self) -> Option<u64> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        // The first is always done, so that a report is never empty.
        let in_time = index == 0 || Instant::now() < self.deadline;
        (index < self.operations && in_time).then_some(index)
    }
}

async fn drive(workers: Vec<Worker>, work: &Arc<Work>, budget: Arc<Budget>) -> Result<Vec<Sample>> {
    let mut running = JoinSet::new();
    for mut worker in workers {
        let (work, budget) = (Arc::clone(work), Arc::clone(&budget));
        running.spawn(async move {
            let mut samples = Vec::new();
            while let Some(index) = budget.take() {
                let operation = work.perform(&mut worker, index);
                let sample = timeout(OPERATION_TIMEOUT, operation)
                    .await
                    .context("an operation took too long")?;
                samples.push(sample.with_context(|| format!("operation {index}"))?);
            }
            anyhow::Ok(samples)
        });
    }
    let mut samples = Vec::new();
    while let Some(measured) = running.join_next().await {
        samples.extend(measured.context("a worker panicked")??);
    }
    Ok(samples)
}
