//! One client of many that pull an image at the same moment, each in a process and maybe in a network of its own.
//!
//! It reads nothing but the server's answers, so that it can stand for a client of any registry: what it gets is held
//! against the digests of the manifest. That it is ready is its first line of output, and the end of its standard
//! input, which all of them have in common, lets it begin.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest;
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::header::ACCEPT;
use http::{Method, StatusCode};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::address::Address;
use crate::arguments::Storm as Arguments;
use crate::client::{Client, Reuse, Sink, drain, empty, expect, keep, request};
use crate::content::digest_name;
use crate::count::unix_nanoseconds;
use crate::manifest::{Descriptor, MANIFEST_ACCEPT, Manifest};
use crate::process::Process;
use crate::report::print_json;

/// Before something is asked for again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Pulls the image when it is let, and prints what came of it.
///
/// # Errors
/// Only when there was nothing to measure: a pull that failed is a report.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    ensure!(arguments.connections > 0, "nothing is pulled over no connection");
    let patience = Duration::try_from_secs_f64(arguments.seconds)?;
    let pull = Pull {
        address: Address::new(&arguments.target, None)?,
        arguments,
        bytes: AtomicU64::new(0),
        retries: AtomicU64::new(0),
    };
    println!("ready");
    std::io::stdout().flush()?;
    // Nothing else is to be done meanwhile, so the thread may stand still.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let begin_unix_nanoseconds = unix_nanoseconds();
    let begin = Instant::now();
    let pulled = timeout(patience, pull.image()).await.context("not done in time").flatten();
    let seconds = begin.elapsed().as_secs_f64();
    let (manifest_digest, error) = match pulled {
        Ok(digest) => (Some(digest), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    print_json(&Report {
        begin_unix_nanoseconds,
        seconds,
        bytes: pull.bytes.into_inner(),
        retries: pull.retries.into_inner(),
        manifest_digest,
        error,
        client_cpu_seconds: Process::own().cpu_time()?.as_secs_f64(),
    })
}

#[derive(Debug, Serialize)]
struct Report {
    begin_unix_nanoseconds: u128,
    /// Until the last byte was hashed, or the pull failed.
    seconds: f64,
    /// Of blobs that came whole.
    bytes: u64,
    retries: u64,
    /// What the tag meant. Null: the pull failed.
    manifest_digest: Option<String>,
    error: Option<String>,
    client_cpu_seconds: f64,
}

struct Pull {
    address: Address,
    arguments: Arguments,
    bytes: AtomicU64,
    retries: AtomicU64,
}

impl Pull {
    /// Returns the digest of the manifest.
    async fn image(&self) -> Result<String> {
        let mut client = Client::new(&self.address, Reuse::KeepAlive);
        let body = self.insist(async || self.manifest(&mut client).await).await?;
        let manifest: Manifest = serde_json::from_slice(&body).context("not a manifest")?;
        self.blobs(client, &manifest.blobs()).await?;
        Ok(digest_name(&digest::digest(&digest::SHA256, &body)))
    }

    async fn manifest(&self, client: &mut Client) -> Result<Bytes> {
        let Arguments { repository, tag, .. } = &self.arguments;
        let get = request(Method::GET, &format!("/v2/{repository}/manifests/{tag}"))
            .header(ACCEPT, MANIFEST_ACCEPT);
        let response = expect(client.send(get, empty()).await?, StatusCode::OK).await?;
        keep(response.into_body()).await
    }

    /// Pulls all of them, several at a time, each connection the next one that is left.
    async fn blobs(&self, first: Client, blobs: &[&Descriptor]) -> Result<()> {
        let next = AtomicUsize::new(0);
        let mut clients = vec![first];
        for _ in 1..self.arguments.connections {
            clients.push(Client::new(&self.address, Reuse::KeepAlive));
        }
        let lanes = clients.into_iter().map(|mut client| {
            let next = &next;
            async move {
                while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    self.insist(async || self.blob(&mut client, blob).await).await?;
                }
                anyhow::Ok(())
            }
        });
        try_join_all(lanes).await.map(drop)
    }

    async fn blob(&self, client: &mut Client, blob: &Descriptor) -> Result<()> {
        let Descriptor { digest, size, .. } = blob;
        let get =
            request(Method::GET, &format!("/v2/{}/blobs/{digest}", self.arguments.repository));
        let response = expect(client.send(get, empty()).await?, StatusCode::OK)
            .await
            .with_context(|| digest.clone())?;
        let drained = drain(response, Sink::Hash).await.with_context(|| digest.clone())?;
        ensure!(drained.bytes == *size, "{digest} has {} bytes, not {size}", drained.bytes);
        let found = drained.digest.unwrap_or_default();
        ensure!(found == *digest, "{digest} hashes to {found}");
        self.bytes.fetch_add(drained.bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Tries again what failed, as often as it may, from its beginning.
    async fn insist<T>(&self, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        for _ in 0..self.arguments.retries {
            if let Ok(done) = attempt().await {
                return Ok(done);
            }
            self.retries.fetch_add(1, Ordering::Relaxed);
            sleep(RETRY_PAUSE).await;
        }
        attempt().await
    }
}
