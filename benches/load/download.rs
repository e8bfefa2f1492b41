//! One client that gets one object, once: whole, as clients of registries do, or in parts at the same time, as
//! clients of buckets do. Nothing is asked before the clock starts.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use http::header::RANGE;
use http::{Method, StatusCode};
use serde::Serialize;
use tokio::time::{Instant, timeout};

use crate::address::Address;
use crate::arguments::Download as Arguments;
use crate::client::{Client, Reuse, Sink, drain, empty, expect, request};
use crate::process::Process;
use crate::report::print_json;

/// Gets the object and prints how long it took.
///
/// # Errors
/// When the server does not give it, in the right length, in time.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let address = Address::new(&arguments.target, None)?;
    let patience = Duration::try_from_secs_f64(arguments.seconds)?;
    let cpu_before = Process::own().cpu_time()?;
    let begin = Instant::now();
    let bytes = match arguments.part {
        None => timeout(patience, whole(&address, &arguments.path)).await,
        Some(part) => {
            let parts = Parts::new(arguments.size.0, part.0)?;
            timeout(patience, parts.all(&address, &arguments)).await
        }
    };
    let bytes = bytes.context("not done in time")??;
    let elapsed_seconds = begin.elapsed().as_secs_f64();
    ensure!(bytes == arguments.size.0, "{bytes} bytes, not {}", arguments.size.0);
    let client_cpu_seconds = (Process::own().cpu_time()? - cpu_before).as_secs_f64();
    print_json(&Report { elapsed_seconds, bytes, client_cpu_seconds })
}

#[derive(Debug, Serialize)]
struct Report {
    /// From nothing, not even a connection, to the last byte.
    elapsed_seconds: f64,
    bytes: u64,
    client_cpu_seconds: f64,
}

async fn whole(address: &Address, path: &str) -> Result<u64> {
    let mut client = Client::new(address, Reuse::KeepAlive);
    let response = client.send(request(Method::GET, path), empty()).await?;
    Ok(drain(expect(response, StatusCode::OK).await?, Sink::Count).await?.bytes)
}

/// The parts that nobody has asked for yet.
struct Parts {
    left: Mutex<Range<u64>>,
    part_bytes: u64,
}

impl Parts {
    fn new(size_bytes: u64, part_bytes: u64) -> Result<Self> {
        ensure!(part_bytes > 0, "parts of nothing have no end");
        Ok(Self { left: Mutex::new(0..size_bytes), part_bytes })
    }

    fn take(&self) -> Option<Range<u64>> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let start = left.start;
        left.start = left.end.min(start + self.part_bytes);
        (start < left.start).then_some(start..left.start)
    }

    /// Gets all of them, several at a time; returns how many bytes came.
    async fn all(&self, address: &Address, arguments: &Arguments) -> Result<u64> {
        let connections = (0..arguments.connections).map(|_| self.some(address, &arguments.path));
        Ok(try_join_all(connections).await?.into_iter().sum())
    }

    /// Gets what others leave, one after the other.
    async fn some(&self, address: &Address, path: &str) -> Result<u64> {
        let mut client = Client::new(address, Reuse::KeepAlive);
        let mut bytes = 0;
        while let Some(part) = self.take() {
            let range = format!("bytes={}-{}", part.start, part.end - 1);
            let get = request(Method::GET, path).header(RANGE, range);
            let response = expect(client.send(get, empty()).await?, StatusCode::PARTIAL_CONTENT);
            bytes += drain(response.await?, Sink::Count).await?.bytes;
        }
        Ok(bytes)
    }
}
