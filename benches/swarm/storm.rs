//! What there is in a storm, and how it went.

use std::fmt;

use millpond::{
    cluster::{
        Item,
        exchange::{Counts, Limits},
    },
    oci::{Algorithm, Digest},
};

/// Longest blob that is one part, because only all of it can be held against its digest.
const SHORT_BYTES: u64 = 8 << 20;

/// Shortest blob with large chunks.
const LONG_BYTES: u64 = 64 << 20;

/// What there is and what happens.
#[derive(Clone, Debug)]
pub(crate) struct Storm {
    pub(crate) hosts: usize,
    /// Bytes per second of each host, both ways.
    pub(crate) rate: f64,
    /// Bytes per second of the storage.
    pub(crate) origin_rate: f64,
    /// Lengths of the blobs of the image, in the order in which they are pulled.
    pub(crate) blobs: Vec<u64>,
    /// Hosts with less, and how much less.
    pub(crate) slow: Vec<(usize, f64)>,
    /// Hosts whose node ends, and when.
    pub(crate) deaths: Vec<(usize, f64)>,
    /// Hosts that begin later, and when; before nobody knows of them.
    pub(crate) joins: Vec<(usize, f64)>,
    /// The hosts that pull; all if there are none here.
    pub(crate) pullers: Vec<usize>,
    /// The first so many own things; all if 0.
    pub(crate) owners: usize,
    /// Whether every other host knows only those like itself.
    pub(crate) is_split: bool,
    pub(crate) limits: Limits,
    pub(crate) seed: u64,
    /// Seconds a message takes.
    pub(crate) delay: f64,
    /// Seconds of a step.
    pub(crate) step: f64,
}

impl Default for Storm {
    /// T1: 16 hosts and a storage with 50 Mbit each, 64 MiB in four layers, and what describes them.
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            hosts: 16,
            rate: 6.25e6,
            origin_rate: 6.25e6,
            blobs: vec![4 << 10, 32 * MIB, 16 * MIB, 12 * MIB, 4 * MIB],
            slow: Vec::new(),
            deaths: Vec::new(),
            joins: Vec::new(),
            pullers: Vec::new(),
            owners: 0,
            is_split: false,
            limits: Limits::default(),
            seed: 1,
            delay: 0.0005,
            step: 0.01,
        }
    }
}

impl Storm {
    /// Kraken's test: as many hosts with 300 MB/s, and an image of 3 GB in two layers.
    pub(crate) fn kraken(hosts: usize) -> Self {
        Self {
            hosts,
            rate: 300e6,
            origin_rate: 1.5e9,
            blobs: vec![1_500_000_000; 2],
            step: 0.002,
            ..Self::default()
        }
    }

    /// So many hosts of all, evenly spread.
    pub(crate) fn every(&self, count: usize) -> impl Iterator<Item = usize> {
        let hosts = self.hosts;
        (0..count).map(move |number| number * hosts / count)
    }

    /// The time that the slowest link takes for the image, which nobody can go below.
    pub(crate) fn ideal(&self) -> f64 {
        self.image_bytes() as f64 / self.rate.min(self.origin_rate)
    }

    pub(crate) fn image_bytes(&self) -> u64 {
        self.blobs.iter().sum()
    }
}

/// A part of the image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) item: Item,
    pub(crate) blob: usize,
    pub(crate) bytes: f64,
}

/// The parts of the image, and which of them each blob has.
#[derive(Debug, Default)]
pub(crate) struct Image {
    pub(crate) parts: Vec<Part>,
    pub(crate) blobs: Vec<std::ops::Range<usize>>,
}

impl Image {
    pub(crate) fn of(storm: &Storm) -> Self {
        let mut image = Self::default();
        for (blob, bytes) in storm.blobs.iter().copied().enumerate() {
            let digest = Digest::of(Algorithm::Sha256, &[storm.seed as u8, blob as u8]);
            let part_bytes = if bytes <= SHORT_BYTES {
                bytes
            } else if bytes < LONG_BYTES {
                1 << 20
            } else {
                4 << 20
            };
            let first = image.parts.len();
            let count = bytes.div_ceil(part_bytes);
            image.parts.extend((0..count).map(|number| Part {
                item: Item::part(&digest, number),
                blob,
                bytes: part_bytes.min(bytes - number * part_bytes) as f64,
            }));
            image.blobs.push(first..image.parts.len());
        }
        image
    }
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// When each puller that lives had everything, in seconds since it began, sorted.
    pub(crate) ends: Vec<f64>,
    /// Of those that are not slow.
    pub(crate) healthy: Vec<f64>,
    /// Pullers that were told that something cannot be had.
    pub(crate) failed: usize,
    /// Bytes from the storage for each byte of the image.
    pub(crate) origin: f64,
    /// Images that each node has sent.
    pub(crate) sent: Vec<f64>,
    /// Images that those have sent that did not pull.
    pub(crate) sent_idle: Vec<f64>,
    pub(crate) messages: u64,
    pub(crate) counts: Counts,
    pub(crate) course: Vec<Second>,
}

impl Outcome {
    /// The time by which this part of the pullers was ready.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        quantile(&self.ends, part)
    }

    /// Most that one node has sent.
    pub(crate) fn sent_most(&self) -> f64 {
        self.sent.iter().copied().fold(0.0, f64::max)
    }
}

pub(crate) fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// How busy the links were in one second, from 0 to 1.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Second {
    pub(crate) origin: f64,
    /// What nodes have sent: the mean, the least and the most.
    pub(crate) up: [f64; 3],
    /// What they have received.
    pub(crate) down: [f64; 3],
    /// Items that are fetched at its end.
    pub(crate) fetching: usize,
}

impl fmt::Display for Second {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = |[mean, least, most]: [f64; 3]| {
            format!("{:3.0} ({:.0}-{:.0})", 100.0 * mean, 100.0 * least, 100.0 * most)
        };
        let (up, down) = (hundredths(self.up), hundredths(self.down));
        let Self { origin, fetching, .. } = self;
        write!(f, "origin {:3.0} %, up {up} %, down {down} %, {fetching} fetched", 100.0 * origin)
    }
}
