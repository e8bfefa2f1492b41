//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::address::Address;

const MIB: u64 = 1 << 20;

/// Measures a container registry.
#[derive(Debug, Parser)]
#[command(name = "load")]
pub(crate) struct Arguments {
    /// Passed by `cargo bench` to every benchmark, and without meaning here.
    #[arg(long, hide = true, global = true)]
    bench: bool,

    #[command(subcommand)]
    pub(crate) action: Option<Action>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Measure one row.
    Run(Run),
    /// Push the image that the reading rows read.
    Seed(Seed),
    /// Push and pull with many clients, and watch the server's memory.
    Memory(Memory),
    /// Be the registry that mirrors are measured in front of.
    Upstream(Upstream),
    /// Pull the upstream's image with many clients at once.
    Pull(Pull),
    /// Get one object once, whole or in parts.
    Download(Download),
    /// Pull an image by its tag as soon as standard input ends.
    Storm(Storm),
}

/// The registry under load.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Where it listens, such as http://127.0.0.1:5000 or https://127.0.0.1:5000; https is TLS 1.3
    /// with AES-128-GCM.
    #[arg(long)]
    target: String,

    /// Certificates to trust, in PEM; https needs it.
    #[arg(long)]
    ca_file: Option<PathBuf>,

    /// Its process, on this machine, whose CPU time and memory are reported.
    #[arg(long)]
    pub(crate) server_pid: Option<u32>,
}

impl Target {
    /// # Errors
    /// When it is not one that can be spoken to.
    pub(crate) fn address(&self) -> Result<Address> {
        Address::new(&self.target, self.ca_file.as_deref())
    }
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) target: Target,

    /// What to do.
    #[arg(long, value_enum)]
    pub(crate) row: Row,

    /// The size of the layer that is pushed or read; rows on manifests ignore it.
    #[arg(long, default_value = "1MiB")]
    pub(crate) size: ByteSize,

    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,

    /// Stop after so many operations.
    #[arg(long, default_value_t = u64::MAX)]
    pub(crate) operations: u64,

    /// Begin no operation later than this.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) seconds: f64,

    /// A new connection for every request, as dockerd and podman do.
    #[arg(long)]
    pub(crate) reconnect: bool,

    /// Count what comes through TLS without decrypting it, but for the first answer of each
    /// connection; for blob-get.
    #[arg(long, conflicts_with = "reconnect")]
    pub(crate) undecrypted: bool,

    /// Hash what the server returns for one operation, before the clock starts (pushes: after it
    /// has stopped).
    #[arg(long)]
    pub(crate) verify: bool,

    /// Distinguishes the content pushed by this run from that of other runs.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// Print one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Row {
    /// POST, PATCH with a chunked body, PUT with the digest.
    PushDockerd,
    /// POST, PUT with the digest and the whole body.
    PushContainerd,
    /// GET a manifest by its tag.
    ManifestTag,
    /// GET a manifest by its digest.
    ManifestDigest,
    /// HEAD a blob.
    BlobHead,
    /// GET a blob.
    BlobGet,
}

#[derive(Debug, Args)]
pub(crate) struct Seed {
    #[command(flatten)]
    pub(crate) target: Target,

    /// Sizes of the layers, with how many of each: SIZExCOUNT.
    #[arg(long, value_delimiter = ',', default_value = "1MiBx16,256MiBx1")]
    pub(crate) layers: Vec<Layers>,
}

#[derive(Debug, Args)]
pub(crate) struct Memory {
    #[command(flatten)]
    pub(crate) target: Target,

    /// Clients at work at the same time.
    #[arg(long, default_value_t = 200)]
    pub(crate) clients: usize,

    /// Different layers among them; the others push content the registry has already, which it
    /// cannot know before the last byte.
    #[arg(long, default_value_t = 8)]
    pub(crate) distinct: usize,

    /// The size of every layer.
    #[arg(long, default_value = "256MiB")]
    pub(crate) size: ByteSize,

    /// Who does what when.
    #[arg(long, value_enum, default_value_t = Order::Mixed)]
    pub(crate) order: Order,

    /// Fail when the server's memory was ever above this.
    #[arg(long)]
    pub(crate) limit: Option<ByteSize>,

    /// Fail when it takes longer than this.
    #[arg(long, default_value_t = 1800.0)]
    pub(crate) seconds: f64,

    /// Print one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Order {
    /// One half of the clients pushes and then pulls, the other half pulls and then pushes. At
    /// most about half of all bytes lie in unfinished uploads.
    Mixed,
    /// All push, and when all have pushed, all pull. All bytes lie in unfinished uploads shortly
    /// before the end of the pushes: clients x size must fit on the server's disk.
    PushThenPull,
}

/// The image of the upstream: whoever serves it and whoever pulls it know every byte.
#[derive(Clone, Debug, Args)]
pub(crate) struct Original {
    /// Sizes of the layers, with how many of each: SIZExCOUNT.
    #[arg(long, value_delimiter = ',', default_value = "64MiBx4")]
    pub(crate) layers: Vec<Layers>,

    /// Images of different seeds have no layer in common.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Upstream {
    #[command(flatten)]
    pub(crate) original: Original,

    /// Address and port to listen on.
    #[arg(long)]
    pub(crate) listen: SocketAddr,

    /// Bytes of blobs per second, all connections together. Without it: as fast as it goes.
    #[arg(long)]
    pub(crate) rate: Option<ByteSize>,
}

#[derive(Debug, Args)]
pub(crate) struct Pull {
    #[command(flatten)]
    pub(crate) original: Original,

    /// Where the mirror listens, such as http://127.0.0.1:5000.
    #[arg(long)]
    pub(crate) target: String,

    /// Clients that begin at the same moment.
    #[arg(long, default_value_t = 1)]
    pub(crate) clients: usize,

    /// Connections of one client, each with one request in flight; dockerd's default.
    #[arg(long, default_value_t = 3)]
    pub(crate) connections: usize,

    /// Pull only the first layer, without asking for the manifest.
    #[arg(long)]
    pub(crate) blob: bool,

    /// Further clients, which begin earlier and read slowly. They are left when the others are done.
    #[arg(long, default_value_t = 0)]
    pub(crate) slow: usize,

    /// Bytes per second of each slow client.
    #[arg(long, default_value = "1MiB")]
    pub(crate) slow_rate: ByteSize,

    /// Leave after so many seconds; the report says how many clients were not done.
    #[arg(long, default_value_t = 1800.0)]
    pub(crate) seconds: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Download {
    /// Where the server listens, such as http://127.0.0.1:9000.
    #[arg(long)]
    pub(crate) target: String,

    /// Path of the object there, with the query if it has one.
    #[arg(long)]
    pub(crate) path: String,

    /// Its size; another one is an error.
    #[arg(long)]
    pub(crate) size: ByteSize,

    /// Ask for parts of this size. Without it: for the whole.
    #[arg(long)]
    pub(crate) part: Option<ByteSize>,

    /// Connections for parts, each with one request in flight.
    #[arg(long, default_value_t = 10)]
    pub(crate) connections: usize,

    /// Fail when it takes longer than this.
    #[arg(long, default_value_t = 600.0)]
    pub(crate) seconds: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Storm {
    /// Where the registry listens, such as http://127.0.0.1:5000.
    #[arg(long)]
    pub(crate) target: String,

    /// Repository of the image.
    #[arg(long)]
    pub(crate) repository: String,

    /// Its tag.
    #[arg(long, default_value = "latest")]
    pub(crate) tag: String,

    /// Connections, each with one request in flight; dockerd's default.
    #[arg(long, default_value_t = 3)]
    pub(crate) connections: usize,

    /// How often each manifest and blob that failed is asked for again. The report counts it.
    #[arg(long, default_value_t = 0)]
    pub(crate) retries: u64,

    /// Leave after so many seconds; the report says so.
    #[arg(long, default_value_t = 1800.0)]
    pub(crate) seconds: f64,
}

/// A number of bytes, written as `512`, `64KiB`, `1MiB`, `2GiB` or `5MB`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ByteSize(pub(crate) u64);

impl FromStr for ByteSize {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().with_context(|| format!("{text:?} is no size"))?;
        let unit = match unit {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => MIB,
            "GiB" => 1 << 30,
            // Lines are rated in these.
            "MB" => 1_000_000,
            _ => bail!("{text:?} does not end in B, KiB, MiB, GiB or MB"),
        };
        number.checked_mul(unit).map(Self).with_context(|| format!("{text:?} is too large"))
    }
}

/// Some layers of one size, written as `1MiBx16`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layers {
    pub(crate) size: ByteSize,
    pub(crate) count: u64,
}

impl FromStr for Layers {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (size, count) = text.split_once('x').context("write layers as SIZExCOUNT")?;
        Ok(Self { size: size.parse()?, count: count.parse().context("not a count of layers")? })
    }
}
