//! Settings of the registry.

use std::time::Duration;

use crate::runtime::{ByteSize, Section, choices};

/// Largest manifest by default; the specification asks registries to take at least this much.
const MANIFEST_MAX: ByteSize = ByteSize::mebibytes(4);
/// Beyond this no index is a real one, and parsing would be an attack on memory.
const MANIFEST_MAX_MOST: ByteSize = ByteSize::mebibytes(64);
const BLOB_MAX: ByteSize = ByteSize(1 << 40);
const MANIFEST_MEMORY: ByteSize = ByteSize::mebibytes(32);
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// Longer than this, deletions by other processes would hardly ever be seen.
const KNOWN_FOR_MOST: Duration = Duration::from_hours(24);
const UPLOAD_AGE_MOST: Duration = Duration::from_hours(24 * 365);
const UPLOAD_AGE: Duration = Duration::from_hours(168);
const UPLOAD_INTERVAL: Duration = Duration::from_hours(24);

/// Whether a manifest is accepted while something it refers to is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum References {
    /// Everything it needs must be in the repository.
    #[default]
    Strict,
    /// Anything may be missing, such as the other platforms of a partly copied index.
    Sparse,
}

choices!(References: "strict" => Strict, "sparse" => Sparse);

/// Settings of the registry, section `registry`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether manifests may refer to what is missing. Default: strict.
    pub references: References,
    /// Whether tags, manifests and blobs can be deleted; otherwise 405. Default: true.
    pub delete: bool,
    /// Longest manifest in bytes, at most 64 MiB. Default: 4 MiB. Longer ones are refused with 413.
    pub manifest_max: ByteSize,
    /// Longest blob in bytes. Default: 1 TiB. Longer ones are refused with 413.
    pub blob_max: ByteSize,
    /// Memory for manifests that were read lately. Default: 32 MiB.
    pub manifest_memory: ByteSize,
    /// How long this process believes that a blob or manifest it has seen is still there, though another
    /// process may have deleted it. Tags are never believed. Default: 10 s. Nodes of one cluster tell each other what they
    /// delete; of what other programs delete they may learn after twice this time, because they tell each other what
    /// they believe.
    pub known_for: Duration,
    /// Unfinished uploads.
    pub uploads: UploadsConfig,
}

/// What becomes of uploads that nobody finishes, section `registry.uploads`.
#[derive(Clone, Debug)]
pub struct UploadsConfig {
    /// How long a session lives from its first request. Default: 168 h.
    pub age: Duration,
    /// How often sessions beyond that age are removed. Default: 24 h; the first time at a random moment
    /// within the first hour, so that processes started together do not work together.
    pub interval: Duration,
    /// Only log what would be removed. Default: false.
    pub dry_run: bool,
}

impl Config {
    /// Reads the section, reporting what is wrong with it.
    pub fn read(section: &mut Section<'_>) -> Self {
        let references = section.get("references", References::default());
        let delete = section.get("delete", true);
        Self {
            references,
            delete,
            manifest_max: section.get_within(
                "manifest_max",
                MANIFEST_MAX,
                ByteSize(1)..=MANIFEST_MAX_MOST,
            ),
            blob_max: section.get("blob_max", BLOB_MAX),
            manifest_memory: section.get("manifest_memory", MANIFEST_MEMORY),
            known_for: section.get_within("known_for", KNOWN_FOR, Duration::ZERO..=KNOWN_FOR_MOST),
            uploads: UploadsConfig::read(&mut section.section("uploads")),
        }
    }
}

impl UploadsConfig {
    fn read(section: &mut Section<'_>) -> Self {
        let interval_limits = Duration::from_secs(1)..=UPLOAD_AGE_MOST;
        Self {
            age: section.get_within("age", UPLOAD_AGE, Duration::from_mins(1)..=UPLOAD_AGE_MOST),
            interval: section.get_within("interval", UPLOAD_INTERVAL, interval_limits),
            dry_run: section.get("dry_run", false),
        }
    }
}
