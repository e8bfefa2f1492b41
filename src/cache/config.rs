//! Settings of the cache.

use std::{fs, path::PathBuf};

use crate::runtime::{ByteSize, Section};

/// With less, a few clients that pull at once would have no room for what comes.
const MEMORY_LEAST: ByteSize = ByteSize::mebibytes(64);

const MEMORY_MOST: ByteSize = ByteSize(1 << 44);

/// The part of the machine's memory that is taken where nothing is said: one in so many.
const SHARE_OF_MACHINE: u64 = 4;

/// Where chunks are kept where nothing is said.
const DISK_PATH: &str = "./millpond-data/cache";

/// With less, a chunk or two would drive out all others.
const DISK_LEAST: ByteSize = ByteSize::mebibytes(64);

const DISK_MOST: ByteSize = ByteSize(1 << 50);

/// Settings of the cache, section `cache`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Memory for chunks of blobs that lie in a bucket, at least 64 MiB. Default: a quarter of the machine's memory,
    /// or of what its control group may use.
    pub memory: Option<ByteSize>,
    /// The disk for chunks that were used more than once.
    pub disk: DiskConfig,
}

/// Settings of the cache's disk, section `cache.disk`.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// The folder, which no other process uses. Default: `./millpond-data/cache`.
    pub path: PathBuf,
    /// Bytes of the disk, at least 64 MiB; zero for none. Default: a quarter of its size. What is less than a
    /// twentieth of the disk is always left free.
    pub size: Option<ByteSize>,
}

impl DiskConfig {
    /// Whether no disk is to be used.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.size == Some(ByteSize(0))
    }

    fn read(section: &mut Section<'_>) -> Self {
        let path = section.get("path", PathBuf::from(DISK_PATH));
        let size = section.optional::<ByteSize>("size");
        let is_wrong = |size: &ByteSize| size.0 != 0 && !(DISK_LEAST..=DISK_MOST).contains(size);
        if let Some(wrong) = size.filter(is_wrong) {
            let expected = format!("{DISK_LEAST} to {DISK_MOST}, or 0B for none, is expected");
            section.problem("size", Some(wrong.to_string()), expected);
        }
        Self { path, size }
    }
}

impl Config {
    /// Reads the section, reporting what is wrong with it.
    pub fn read(section: &mut Section<'_>) -> Self {
        let memory = section.optional::<ByteSize>("memory");
        if let Some(wrong) = memory.filter(|size| !(MEMORY_LEAST..=MEMORY_MOST).contains(size)) {
            let expected = format!("{MEMORY_LEAST} to {MEMORY_MOST} is expected");
            section.problem("memory", Some(wrong.to_string()), expected);
        }
        Self { memory, disk: DiskConfig::read(&mut section.section("disk")) }
    }

    /// The memory for chunks, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let share = || machine_bytes().map_or(0, |bytes| bytes / SHARE_OF_MACHINE);
        self.memory.map_or_else(share, |memory| memory.0).clamp(MEMORY_LEAST.0, MEMORY_MOST.0)
    }
}

/// Memory that this process may use at most: the machine's, or its control group's.
fn machine_bytes() -> Option<u64> {
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max");
    let group = group.ok().and_then(|text| text.trim().parse().ok());
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of(&text));
    [group, machine].into_iter().flatten().min()
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_memory_is_found() {
        assert_eq!(total_of("MemFree: 7 kB\nMemTotal:       24576 kB\n"), Some(24 << 20));
        assert_eq!(total_of("MemTotal: none"), None);
        assert!(machine_bytes().is_some_and(|bytes| bytes >= 64 << 20));
    }

    #[test]
    fn what_is_said_is_taken() {
        let disk = DiskConfig { path: PathBuf::new(), size: None };
        let config = Config { memory: Some(ByteSize::mebibytes(100)), disk };
        assert_eq!(config.memory_bytes(), 100 << 20);
    }
}
