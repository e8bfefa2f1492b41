//! Many clients pull the upstream's image through a mirror at the same moment.
//!
//! Every byte that comes is compared with what the upstream has there, which is cheaper than
//! hashing it and says as much: the clients share the machine with the mirror.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use http::header::ACCEPT;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::address::Address;
use crate::arguments::Pull as Arguments;
use crate::client::{Client, Reuse, content_length, empty, expect, keep, request};
use crate::content::Layer;
use crate::count::unix_nanoseconds;
use crate::manifest::MANIFEST_ACCEPT;
use crate::original::{Original, REPOSITORY, TAG};
use crate::process::Process;
use crate::report::print_json;

/// Pulls with all clients and prints what each of them saw.
///
/// # Errors
/// When a client gets anything but the original.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    ensure!(arguments.clients > 0 && arguments.connections > 0, "nobody pulls");
    let original = Arc::new(Original::new(&arguments.original)?);
    let patience = Duration::try_from_secs_f64(arguments.seconds)?;
    let slow_rate = Some(arguments.slow_rate.0);
    let mut slow = Crowd::new(&arguments, &original, arguments.slow, slow_rate)?;
    slow.begin();
    timeout(patience, slow.first_bytes()).await.context("a slow client got no byte")??;
    let mut crowd = Crowd::new(&arguments, &original, arguments.clients, None)?;
    let cpu_before = Process::own().cpu_time()?;
    let begin = Instant::now();
    crowd.begin();
    // Whoever is not done by then is told apart in the report.
    if let Ok(done) = timeout(patience, crowd.done()).await {
        done?;
    }
    let report = Report {
        elapsed_ms: milliseconds(begin.elapsed()),
        client_cpu_seconds: (Process::own().cpu_time()? - cpu_before).as_secs_f64(),
        clients: crowd.seen(begin),
        slow: slow.seen(begin),
    };
    slow.unbroken()?;
    print_json(&report)
}

#[derive(Debug, Serialize)]
struct Report {
    elapsed_ms: f64,
    client_cpu_seconds: f64,
    clients: Vec<Seen>,
    slow: Vec<Seen>,
}

/// What one client saw.
#[derive(Debug, Serialize)]
struct Seen {
    /// From the common begin to the first byte of a layer. Null: none came. Slow clients begin
    /// earlier, and theirs may be negative.
    first_byte_ms: Option<f64>,
    first_byte_unix_nanoseconds: Option<u128>,
    /// From the common begin to the last byte. Null: it was not done.
    total_ms: Option<f64>,
    /// Bytes of blobs that came, all of them the right ones.
    bytes: u64,
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Clients of one speed.
struct Crowd {
    pulls: Vec<Arc<Pull>>,
    running: JoinSet<Result<()>>,
}

impl Crowd {
    fn new(
        arguments: &Arguments,
        original: &Arc<Original>,
        clients: usize,
        bytes_per_second: Option<u64>,
    ) -> Result<Self> {
        let address = Address::new(&arguments.target, None)?;
        let pull = || Pull {
            address: address.clone(),
            connections: arguments.connections,
            what: if arguments.blob { What::FirstLayer } else { What::Image },
            original: Arc::clone(original),
            bytes_per_second,
            progress: Progress::default(),
        };
        let pulls = std::iter::repeat_with(|| Arc::new(pull())).take(clients).collect();
        Ok(Self { pulls, running: JoinSet::new() })
    }

    fn begin(&mut self) {
        for pull in &self.pulls {
            self.running.spawn(Arc::clone(pull).run());
        }
    }

    /// Waits until each client has a byte of a layer.
    async fn first_bytes(&mut self) -> Result<()> {
        for pull in &self.pulls {
            let mut begun = pull.progress.first_byte.subscribe();
            let has_begun = begun.wait_for(Option::is_some);
            tokio::select! {
                seen = has_begun => drop(seen.context("the client is gone")?),
                Some(ended) = self.running.join_next() => ended.context("a client panicked")??,
            }
        }
        Ok(())
    }

    /// Waits until all clients are done.
    async fn done(&mut self) -> Result<()> {
        while let Some(ended) = self.running.join_next().await {
            ended.context("a client panicked")??;
        }
        Ok(())
    }

    /// # Errors
    /// When a client has failed until now.
    fn unbroken(&mut self) -> Result<()> {
        while let Some(ended) = self.running.try_join_next() {
            ended.context("a client panicked")?.context("a slow client")?;
        }
        Ok(())
    }

    fn seen(&self, begin: Instant) -> Vec<Seen> {
        self.pulls.iter().map(|pull| pull.progress.seen(begin)).collect()
    }
}

/// How far a client is.
#[derive(Debug, Default)]
struct Progress {
    first_byte: watch::Sender<Option<FirstByte>>,
    bytes: AtomicU64,
    done: OnceLock<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct FirstByte {
    came: Instant,
    unix_nanoseconds: u128,
}

impl Progress {
    fn begins(&self) {
        let now = FirstByte { came: Instant::now(), unix_nanoseconds: unix_nanoseconds() };
        self.first_byte.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(now);
            is_first
        });
    }

    fn seen(&self, begin: Instant) -> Seen {
        let since = |time: Instant| {
            milliseconds(time.saturating_duration_since(begin))
                - milliseconds(begin.saturating_duration_since(time))
        };
        let first = *self.first_byte.borrow();
        Seen {
            first_byte_ms: first.map(|first| since(first.came)),
            first_byte_unix_nanoseconds: first.map(|first| first.unix_nanoseconds),
            total_ms: self.done.get().map(|done| since(*done)),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum What {
    Image,
    FirstLayer,
}

/// One client.
struct Pull {
    address: Address,
    connections: usize,
    what: What,
    original: Arc<Original>,
    bytes_per_second: Option<u64>,
    progress: Progress,
}

impl Pull {
    async fn run(self: Arc<Self>) -> Result<()> {
        let mut client = Client::new(&self.address, Reuse::KeepAlive);
        match self.what {
            What::FirstLayer => self.blob(&mut client, &self.original.layers()[0]).await?,
            What::Image => {
                self.manifest(&mut client).await?;
                self.blobs(client).await?;
            }
        }
        let _ = self.progress.done.set(Instant::now());
        Ok(())
    }

    async fn manifest(&self, client: &mut Client) -> Result<()> {
        let get = request(Method::GET, &format!("/v2/{REPOSITORY}/manifests/{TAG}"))
            .header(ACCEPT, MANIFEST_ACCEPT);
        let response = expect(client.send(get, empty()).await?, StatusCode::OK).await?;
        let body = keep(response.into_body()).await?;
        ensure!(body == self.original.manifest, "another manifest than the upstream's");
        Ok(())
    }

    /// Pulls all blobs, several at a time, each connection the next one that is left.
    async fn blobs(&self, first: Client) -> Result<()> {
        let next = AtomicUsize::new(0);
        let mut clients = vec![first];
        for _ in 1..self.connections {
            clients.push(Client::new(&self.address, Reuse::KeepAlive));
        }
        let lanes = clients.into_iter().map(|mut client| {
            let next = &next;
            async move {
                while let Some(blob) = self.original.blobs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    self.blob(&mut client, blob).await?;
                }
                anyhow::Ok(())
            }
        });
        try_join_all(lanes).await.map(drop)
    }

    async fn blob(&self, client: &mut Client, blob: &Layer) -> Result<()> {
        let digest = &blob.digest;
        let get = request(Method::GET, &format!("/v2/{REPOSITORY}/blobs/{digest}"));
        let response = expect(client.send(get, empty()).await?, StatusCode::OK).await?;
        let announced = content_length(&response)?;
        ensure!(announced == blob.size_bytes, "{digest}: {announced} bytes announced");
        let is_layer = *digest != self.original.blobs[0].digest;
        let mut body = response.into_body();
        let begin = Instant::now();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.with_context(|| format!("{digest} broke off after {bytes} bytes"))?;
            let Some(data) = frame.data_ref() else { continue };
            if is_layer && bytes == 0 {
                self.progress.begins();
            }
            ensure!(blob.has(bytes, data), "{digest}: other bytes at {bytes} or behind");
            bytes += data.len() as u64;
            self.progress.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
            if let Some(rate) = self.bytes_per_second {
                sleep_until(begin + Duration::from_secs_f64(bytes as f64 / rate as f64)).await;
            }
        }
        ensure!(bytes == blob.size_bytes, "{digest} ended after {bytes} bytes");
        Ok(())
    }
}
