//! What the kernel knows about a process.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

/// Linux counts CPU time for /proc in hundredths of a second on all architectures of ours.
const TICK: Duration = Duration::from_millis(10);
/// Linux counts the length of files in these, whatever the file system's are.
const BLOCK_BYTES: u64 = 512;
/// Places in /proc/PID/stat, counted from the field after the name (`state`).
const USER_FIELD: usize = 11;
const SYSTEM_FIELD: usize = 12;

/// A process on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pid: u32,
}

impl Process {
    pub(crate) fn of(pid: u32) -> Self {
        Self { pid }
    }

    pub(crate) fn own() -> Self {
        Self::of(std::process::id())
    }

    /// CPU time of all its threads, those that ended included, and of the processes it has started
    /// and that still run, as nginx's workers do.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let stat = self.read("stat")?;
        // The name is in brackets and may contain anything.
        let (_, fields) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let ticks = |place: usize| -> Result<u32> {
            let field = fields.get(place).context("too few fields in /proc/PID/stat")?;
            field.parse().context("CPU time is no number")
        };
        let mut time = TICK * (ticks(USER_FIELD)? + ticks(SYSTEM_FIELD)?);
        for child in self.read(&format!("task/{}/children", self.pid))?.split_ascii_whitespace() {
            time += Self::of(child.parse()?).cpu_time()?;
        }
        Ok(time)
    }

    /// Lets the peak of its memory begin anew. Where the kernel or its owner forbids that, the
    /// peak remains that since its start.
    pub(crate) fn forget_peak(&self) {
        // proc(5): 5 resets the peak resident set size.
        let _ = fs::write(format!("/proc/{}/clear_refs", self.pid), "5");
    }

    /// # Errors
    /// When the process is gone.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let status = self.read("status")?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let line = line.with_context(|| format!("no {name} in /proc/PID/status"))?;
            let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
            Ok(kib << 10)
        };
        Ok(Memory {
            resident_bytes: field("VmRSS:")?,
            peak_resident_bytes: field("VmHWM:")?,
            anonymous_bytes: field("RssAnon:")?,
            memory_file_bytes: self.memory_file_bytes(),
        })
    }

    /// What files take that are only in memory (`memfd_create`). One that is closed meanwhile counts for nothing.
    fn memory_file_bytes(&self) -> u64 {
        let descriptors =
            fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        let taken = descriptors.filter_map(|descriptor| {
            let file = fs::read_link(descriptor.path()).ok()?;
            let is_in_memory = file.to_string_lossy().starts_with("/memfd:");
            let metadata = is_in_memory.then(|| fs::metadata(descriptor.path()))?.ok()?;
            Some(metadata.blocks() * BLOCK_BYTES)
        });
        taken.sum()
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Memory {
    /// Now in memory, mapped files included.
    pub(crate) resident_bytes: u64,
    /// The most that ever was.
    pub(crate) peak_resident_bytes: u64,
    /// The part now in memory that belongs to no file.
    pub(crate) anonymous_bytes: u64,
    /// In files that are only in memory, which do not count as resident.
    pub(crate) memory_file_bytes: u64,
}
