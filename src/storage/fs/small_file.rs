//! Small files that were read lately: reading one again is one question to the kernel.
//!
//! Most of what is read here are links of 71 bytes, the same ones again and again. To open such a file, look at it, read
//! and close it takes 4.1 µs; to ask by its path whether it is still the one that was read takes 1.4. So the bytes are
//! kept with what the kernel said of the file, its *stamp*, and are given again only as long as it says the same.
//!
//! # Why the stamp tells every change
//! Whoever replaces the file makes another inode. Whoever writes into it has the kernel set its time of change
//! (`ctime`), which no program can set to a value of its choice, before the first byte is copied; and this is seen from then
//! on by every process on this kernel. Two writes can still have the same time, if they follow each other within a tick
//! of the clock by which the kernel stamps files. Therefore a file is kept only if it has not changed for
//! [`SETTLED_AFTER`] when it is read: the next change then has another time. And nothing is kept where the kernel does
//! not know of every change or does not tell one time from the next:
//! - on file systems that other machines write to, because their attributes may be answered from a cache (NFS between two
//!   `open`s), and on those that are programs (FUSE, HDFS mounts); [`LOCAL_FILE_SYSTEMS`] are the only ones,
//! - if the time is a whole second: that may be all that the file system can note down,
//! - if the time lies ahead: a clock has been set back, and may come by that time once more.

use std::{
    fs::{self, File, Metadata},
    hash::{BuildHasher, RandomState},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::time::Instant;

use super::super::{
    Key,
    cached::{open_cached, read_cached},
};

/// Longest file that is kept: links, and little else.
const SMALL_BYTES: u64 = 256;

/// Rows of files, by the hashes of their keys, and files in a row: eight thousand links, which take 3 MiB. A cache that
/// weighs what it holds and knows what is read often takes 1,800 instructions to ask, this one 600.
const ROWS: usize = 2048;
const ROW_FILES: usize = 4;

/// How long a file that is kept has not changed when it is read. Clocks tick every 10 ms at most, but a writer may be
/// held up between the change of the time and that of the bytes, by a journal that is being written or a disk that is
/// slow. Until then the file is opened each time.
const SETTLED_AFTER: Duration = Duration::from_secs(10);

/// How long after its last reading a file is forgotten. To ask for it may not take long, because there is no other
/// thread for that; within so short a time the kernel has not forgotten where it lies.
const IDLE: Duration = Duration::from_secs(10);

/// File systems of this machine alone: ext2 to ext4, XFS, Btrfs, tmpfs, and overlays of them. By their numbers in
/// `linux/magic.h`.
const LOCAL_FILE_SYSTEMS: [u64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630];

/// The files that were read lately. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct SmallFiles {
    rows: Arc<[Mutex<Row>]>,
    hashes: RandomState,
    settled_after: Duration,
}

/// Files whose keys have the same place, at most [`ROW_FILES`].
#[derive(Debug, Default)]
struct Row(Vec<SmallFile>);

/// A file as it was read.
#[derive(Debug)]
struct SmallFile {
    key: Key,
    bytes: Bytes,
    stamp: Stamp,
    /// When it was asked for last.
    asked: Instant,
}

/// What the kernel says of a file, and says otherwise after every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size_bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl SmallFiles {
    pub(super) fn new() -> Self {
        Self::settled_after(SETTLED_AFTER)
    }

    fn settled_after(settled_after: Duration) -> Self {
        let rows = std::iter::repeat_with(Mutex::default).take(ROWS).collect();
        Self { rows, hashes: RandomState::new(), settled_after }
    }

    /// All bytes of the file `key`, which lies at `path`, if it is small, and if that takes no disk.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn get(&self, key: &Key, path: &Path) -> Option<io::Result<Bytes>> {
        match self.unchanged(key, path) {
            Some(bytes) => Some(Ok(bytes)),
            None => self.read(key, path),
        }
    }

    /// The bytes of a file that is still what was read lately.
    fn unchanged(&self, key: &Key, path: &Path) -> Option<Bytes> {
        let (bytes, stamp) = self.row(key).get(key, Instant::now())?;
        let now = Stamp::of(&fs::metadata(path).ok()?);
        (stamp == now).then_some(bytes)
    }

    /// Reads a file that the kernel has in memory, and keeps it if that may be.
    fn read(&self, key: &Key, path: &Path) -> Option<io::Result<Bytes>> {
        let file = match open_cached(path)? {
            Ok(file) => file,
            Err(error) => return Some(Err(error)),
        };
        let before = file.metadata().ok()?;
        if !before.is_file() || before.len() > SMALL_BYTES {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(before.len()).ok()?];
        read_cached(&file, &mut bytes, 0).ok()?;
        let bytes = Bytes::from(bytes);
        self.keep((key, path), (&file, &before), &bytes);
        Some(Ok(bytes))
    }

    /// Keeps `bytes` if they are all that was just read of a file, and if that may be. `before` is what the open file
    /// said of itself before that.
    pub(super) fn keep(
        &self,
        (key, path): (&Key, &Path),
        (file, before): (&File, &Metadata),
        bytes: &Bytes,
    ) {
        if before.len() <= SMALL_BYTES
            && before.len() == bytes.len() as u64
            && let Some(stamp) = self.stamp(file, before, path)
        {
            let (key, bytes) = (key.clone(), bytes.clone());
            self.row(&key).insert(SmallFile { key, bytes, stamp, asked: Instant::now() });
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "as good as the whole hash")]
    fn row(&self, key: &Key) -> MutexGuard<'_, Row> {
        let row = &self.rows[self.hashes.hash_one(key) as usize % ROWS];
        row.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stamp of a file that was just read, if it may be kept. `before` is what the open file said of itself before
    /// that. If what lies at `path` says the same now, it is that file, and it was not changed in between.
    fn stamp(&self, file: &File, before: &Metadata, path: &Path) -> Option<Stamp> {
        let stamp = Stamp::of(before);
        let may_be_kept = stamp.is_settled(SystemTime::now(), self.settled_after)
            && is_local(file)
            && Stamp::of(&fs::metadata(path).ok()?) == stamp;
        may_be_kept.then_some(stamp)
    }
}

impl Row {
    fn get(&mut self, key: &Key, now: Instant) -> Option<(Bytes, Stamp)> {
        let file = self.0.iter_mut().find(|file| file.key == *key)?;
        if now.duration_since(file.asked) > IDLE {
            return None;
        }
        file.asked = now;
        Some((file.bytes.clone(), file.stamp))
    }

    /// Takes `file` in the place of what was known of it, or of the one that was not asked for for longest.
    fn insert(&mut self, file: SmallFile) {
        let files = &mut self.0;
        let known = files.iter().position(|other| other.key == file.key);
        let oldest = || (0..files.len()).min_by_key(|&at| files[at].asked);
        let place = known.or_else(|| oldest().filter(|_| files.len() == ROW_FILES));
        match place {
            Some(place) => files[place] = file,
            None => files.push(file),
        }
    }
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size_bytes: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether the next change will have another time than the last one.
    fn is_settled(&self, now: SystemTime, after: Duration) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(seconds), u32::try_from(nanoseconds))
        else {
            return false;
        };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        nanoseconds != 0 && now.duration_since(changed).is_ok_and(|age| age >= after)
    }
}

fn is_local(file: &File) -> bool {
    let number = rustix::fs::fstatfs(file).ok().and_then(|told| u64::try_from(told.f_type).ok());
    number.is_some_and(|number| LOCAL_FILE_SYSTEMS.contains(&number))
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::FileExt, path::PathBuf};

    use proptest::{
        prelude::*,
        test_runner::{Config, TestRunner},
    };

    use super::*;

    /// A file among those that are kept as soon as they are read.
    struct Bench {
        folder: tempfile::TempDir,
        key: Key,
        path: PathBuf,
        files: SmallFiles,
    }

    impl Bench {
        fn new(content: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("link");
            fs::write(&path, content).unwrap();
            let files = SmallFiles::settled_after(Duration::ZERO);
            Self { key: "link".parse().unwrap(), path, folder, files }
        }

        /// Has the clock of the file system go on, so that the next change has another time.
        fn tick(&self) {
            let (probe, now) = (self.folder.path().join("probe"), || SystemTime::now());
            let begun = now();
            loop {
                fs::write(&probe, "").unwrap();
                let (seconds, nanoseconds) = Stamp::of(&fs::metadata(&probe).unwrap()).changed;
                let changed = Duration::new(seconds as u64, nanoseconds as u32);
                if SystemTime::UNIX_EPOCH + changed > begun {
                    return;
                }
            }
        }

        /// As reading a file of a directory does it. Says whether the bytes were remembered.
        fn read(&self) -> (String, bool) {
            let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
            if let Some(bytes) = self.files.unchanged(&self.key, &self.path) {
                return (text(bytes), true);
            }
            let read = self.files.read(&self.key, &self.path);
            (text(read.expect("the kernel has it in memory").unwrap()), false)
        }

        /// Reads until the bytes are remembered.
        fn learn(&self, content: &str) {
            self.tick();
            assert_eq!(self.read(), (content.to_owned(), false));
            assert_eq!(
                self.read(),
                (content.to_owned(), true),
                "not on a file system of this machine?"
            );
            self.tick();
        }
    }

    /// A way to change what a path leads to. Each leaves as many bytes as there were.
    #[derive(Clone, Copy, Debug)]
    enum Change {
        RenameOver,
        Recreate,
        Truncate,
        InPlace,
        InPlaceKeepingTimes,
        ThroughAnotherName,
        ReplaceFolder,
    }

    const CHANGES: [Change; 7] = [
        Change::RenameOver,
        Change::Recreate,
        Change::Truncate,
        Change::InPlace,
        Change::InPlaceKeepingTimes,
        Change::ThroughAnotherName,
        Change::ReplaceFolder,
    ];

    impl Change {
        fn apply(self, path: &Path, content: &str) {
            let beside = path.with_extension("new");
            let in_place = || File::options().write(true).open(path).unwrap();
            match self {
                Self::RenameOver => {
                    fs::write(&beside, content).unwrap();
                    fs::rename(&beside, path).unwrap();
                }
                Self::Recreate => {
                    // The number of the inode is given to the next one, as a rule.
                    fs::remove_file(path).unwrap();
                    fs::write(path, content).unwrap();
                }
                Self::Truncate => fs::write(path, content).unwrap(),
                Self::InPlace => in_place().write_all_at(content.as_bytes(), 0).unwrap(),
                Self::InPlaceKeepingTimes => {
                    let file = in_place();
                    let meta = file.metadata().unwrap();
                    let (read, written) = (meta.accessed().unwrap(), meta.modified().unwrap());
                    file.write_all_at(content.as_bytes(), 0).unwrap();
                    let times = fs::FileTimes::new().set_accessed(read).set_modified(written);
                    file.set_times(times).unwrap();
                }
                Self::ThroughAnotherName => {
                    fs::hard_link(path, &beside).unwrap();
                    let mut file = File::options().write(true).open(&beside).unwrap();
                    file.write_all(content.as_bytes()).unwrap();
                    fs::remove_file(&beside).unwrap();
                }
                Self::ReplaceFolder => {
                    let folder = path.parent().unwrap();
                    let (old, new) = (folder.with_extension("old"), folder.with_extension("new"));
                    fs::create_dir(&new).unwrap();
                    fs::write(new.join("link"), content).unwrap();
                    fs::rename(folder, &old).unwrap();
                    fs::rename(&new, folder).unwrap();
                    fs::remove_dir_all(&old).unwrap();
                }
            }
        }
    }

    #[test]
    fn every_way_to_change_a_file_is_seen() {
        for change in CHANGES {
            let bench = Bench::new("one");
            bench.learn("one");
            change.apply(&bench.path, "two");
            assert_eq!(bench.read(), ("two".to_owned(), false), "{change:?}");
        }
    }

    #[test]
    fn a_file_that_was_taken_away_is_not_remembered() {
        let bench = Bench::new("one");
        bench.learn("one");
        fs::remove_file(&bench.path).unwrap();
        let error = bench.files.get(&bench.key, &bench.path).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn after_any_changes_the_last_content_is_read() {
        let changes = proptest::collection::vec(proptest::sample::select(&CHANGES[..]), 1..8);
        let mut runner = TestRunner::new(Config { cases: 16, ..Config::default() });
        let outcome = runner.run(&changes, |changes| {
            let bench = Bench::new("000");
            for (number, change) in (1..).zip(changes) {
                bench.tick();
                change.apply(&bench.path, &format!("{number:03}"));
                for _ in 0..3 {
                    let (read, _) = bench.read();
                    prop_assert_eq!(read, format!("{number:03}"));
                }
            }
            Ok(())
        });
        outcome.unwrap();
    }

    /// Without a tick in between: where times are coarse, these changes look like none.
    #[test]
    fn changes_within_a_tick_are_seen_because_what_is_young_is_not_kept() {
        let mut bench = Bench::new("000");
        bench.files = SmallFiles::new();
        for number in 1..200 {
            let content = format!("{number:03}");
            CHANGES[number % CHANGES.len()].apply(&bench.path, &content);
            for _ in 0..2 {
                assert_eq!(bench.read(), (content.clone(), false));
            }
        }
    }

    #[test]
    fn a_change_while_a_file_is_read_keeps_it_from_being_kept() {
        for change in CHANGES {
            let bench = Bench::new("one");
            bench.tick();
            let file = File::open(&bench.path).unwrap();
            let before = file.metadata().unwrap();
            change.apply(&bench.path, "two");
            assert_eq!(bench.files.stamp(&file, &before, &bench.path), None, "{change:?}");
        }
    }

    #[test]
    fn a_row_forgets_what_was_asked_for_longest_ago() {
        let stamp = Stamp { device: 1, inode: 2, size_bytes: 3, modified: (4, 5), changed: (6, 7) };
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let key = |number: usize| format!("link-{number}").parse::<Key>().unwrap();
        let mut row = Row::default();
        for number in 0..ROW_FILES {
            let bytes = number.to_string().into();
            row.insert(SmallFile { key: key(number), bytes, stamp, asked: at(number as u64) });
        }
        assert!(row.get(&key(0), at(9)).is_some());
        row.insert(SmallFile { key: key(9), bytes: "9".into(), stamp, asked: at(9) });
        row.insert(SmallFile { key: key(2), bytes: "new".into(), stamp, asked: at(9) });
        let read = |row: &mut Row, number| row.get(&key(number), at(10)).map(|(bytes, _)| bytes);
        assert_eq!(read(&mut row, 0).unwrap(), "0");
        assert_eq!(read(&mut row, 1), None);
        assert_eq!(read(&mut row, 2).unwrap(), "new");
        assert_eq!(row.0.len(), ROW_FILES);
        let idle = at(10) + IDLE + Duration::from_secs(1);
        assert_eq!(row.get(&key(0), idle), None, "too long ago");
    }

    #[test]
    fn a_time_that_may_come_again_is_not_settled() {
        let at = |changed| Stamp { device: 1, inode: 2, size_bytes: 3, modified: changed, changed };
        let now = SystemTime::UNIX_EPOCH + Duration::new(1_000, 500);
        let settled = |stamp: Stamp| stamp.is_settled(now, SETTLED_AFTER);
        assert!(settled(at((990, 500))));
        assert!(!settled(at((990, 501))), "too young");
        assert!(!settled(at((1_000, 501))), "ahead of the clock");
        assert!(!settled(at((900, 0))), "whole seconds");
        assert!(!settled(at((-1, 500))), "before all clocks");
    }

    #[test]
    fn only_small_files_of_this_machine_are_kept() {
        let of_length = |length| "x".repeat(length as usize);
        let bench = Bench::new(&of_length(SMALL_BYTES + 1));
        bench.tick();
        assert!(bench.files.get(&bench.key, &bench.path).is_none());
        fs::write(&bench.path, of_length(SMALL_BYTES)).unwrap();
        bench.tick();
        assert!(bench.files.get(&bench.key, &bench.path).unwrap().is_ok());
        assert!(bench.files.unchanged(&bench.key, &bench.path).is_some());
        // Not a file system of this machine's disks; NFS is told from them in the same way.
        assert!(!is_local(&File::open("/proc/version").unwrap()));
    }
}
