//! What was measured, and how it is printed.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::process::Memory;

const MB: f64 = 1e6;
const MIB: f64 = (1 << 20) as f64;
/// Operations that move less than this are about requests, not about bytes.
const PER_GB_FROM_BYTES: u64 = 64 << 10;

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) content_bytes: u64,
    /// From the end of the request to the first byte of content, or of the answer if it has none.
    pub(crate) wait: Duration,
    pub(crate) total: Duration,
}

/// One row on one server.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) row: String,
    pub(crate) connections: usize,
    pub(crate) operations: usize,
    pub(crate) content_bytes: u64,
    pub(crate) elapsed_seconds: f64,
    pub(crate) operations_per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) wait_ms: Percentiles,
    pub(crate) total_ms: Percentiles,
    pub(crate) client_cpu_seconds: f64,
    pub(crate) server: Option<Server>,
}

/// What the row cost the server.
#[derive(Debug, Serialize)]
pub(crate) struct Server {
    pub(crate) cpu_seconds: f64,
    pub(crate) memory: Memory,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Percentiles {
    /// Percentiles of durations, in milliseconds; zeros if there are none.
    pub(crate) fn of(durations: impl Iterator<Item = Duration>) -> Self {
        let mut sorted: Vec<f64> = durations.map(|each| each.as_secs_f64() * 1e3).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(place.saturating_sub(1)).copied().unwrap_or_default()
        };
        Self { p50: at(0.50), p99: at(0.99) }
    }
}

impl Report {
    pub(crate) fn print(&self) {
        println!(
            "{}: {} operations on {} connections in {:.2} s: {:.1} MB/s, {:.0}/s",
            self.row,
            self.operations,
            self.connections,
            self.elapsed_seconds,
            self.bytes_per_second / MB,
            self.operations_per_second
        );
        println!(
            "  total p50 {:.2} ms, p99 {:.2} ms; first byte or answer p50 {:.2} ms, p99 {:.2} ms",
            self.total_ms.p50, self.total_ms.p99, self.wait_ms.p50, self.wait_ms.p99
        );
        println!("  client: {:.2} CPU s", self.client_cpu_seconds);
        if let Some(server) = &self.server {
            self.print_server(server);
        }
    }

    fn print_server(&self, server: &Server) {
        let cost = if self.content_bytes >= PER_GB_FROM_BYTES * self.operations as u64 {
            format!("{:.3} s/GB", server.cpu_seconds / (self.content_bytes as f64 / 1e9))
        } else {
            format!("{:.0} us/operation", server.cpu_seconds / self.operations as f64 * 1e6)
        };
        println!(
            "  server: {:.2} CPU s ({cost}), {:.0} MiB resident, {:.0} MiB at most",
            server.cpu_seconds,
            server.memory.resident_bytes as f64 / MIB,
            server.memory.peak_resident_bytes as f64 / MIB
        );
    }
}

/// Prints a report as one line of JSON.
///
/// # Errors
/// When it holds a number JSON cannot write.
pub(crate) fn print_json(report: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}
