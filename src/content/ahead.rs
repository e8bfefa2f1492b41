//! The rest of a large blob by connections of its own, while its beginning still comes.
//!
//! A blob comes by one connection, the front. Where each connection has a limit, more of them are faster: then
//! what is left is cut in two, and the second half comes at the same time, straight to its place in the spool.
//! When the front arrives there, it takes over what has come and the connection that it comes by.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Error,
    intake::{Intake, WINDOW_BYTES, Written},
    pace::{Advice, Pace},
    source::{Source, Whole},
};
use crate::{
    runtime::{Abandoned, Permit, Tasks},
    storage::Spool,
};

/// If less is left of a blob, one connection is enough: it takes a few seconds at most where a second one
/// could bring something.
const LARGE_BYTES: u64 = 256 << 20;

/// No part is shorter: opening a connection, and closing one too early, costs some hundred kilobytes.
const PART_BYTES: u64 = 32 << 20;

/// Over so long a time it is measured what the connections bring. Long enough for a new one to gather speed.
const WINDOW: Duration = Duration::from_secs(1);

/// The parts of a blob that come ahead of its front.
pub(super) struct Ahead {
    tasks: Tasks,
    spool: Spool,
    blob: Whole,
    /// Where the front ends: where the first part begins.
    front_end: Arc<AtomicU64>,
    /// By their beginnings; those which the front has reached are gone.
    parts: VecDeque<Part>,
    pace: Pace,
    window: Window,
}

/// The time over which bytes are counted.
struct Window {
    end: Instant,
    /// Bytes that were here when it began.
    bytes: u64,
}

/// A part of the blob, and who fetches it.
struct Part {
    start: u64,
    end: Arc<AtomicU64>,
    /// Bytes from the start on that can be read.
    held_bytes: Arc<AtomicU64>,
    stop: CancellationToken,
    work: AbortOnDropHandle<Result<Outcome, Error>>,
}

/// How the work on a part ended.
enum Outcome {
    /// What comes next may be had from there.
    Open(Source),
    /// The other registry gives no such part, or no more of it.
    Refused,
}

/// What the front finds where its own connection ends.
pub(super) struct Found {
    /// Bytes from there on that can be read.
    pub(super) held_bytes: u64,
    /// What follows them.
    pub(super) source: Source,
}

impl Ahead {
    /// Nothing ahead of `front` yet. `None` if there will be nothing either.
    pub(super) fn of(front: &Source, spool: &Spool, tasks: &Tasks) -> Option<Self> {
        let blob = front.whole().filter(|blob| blob.size_bytes >= LARGE_BYTES)?;
        let most = blob.remote.upstream.connections_for_a_blob();
        (most > 1).then(|| Self {
            tasks: tasks.clone(),
            spool: spool.clone(),
            blob,
            front_end: front.end(),
            parts: VecDeque::new(),
            pace: Pace::new(most),
            window: Window { end: Instant::now() + WINDOW, bytes: 0 },
        })
    }

    /// Waits until it is time to think about it again.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(super) async fn window_ended(&self) {
        sleep_until(self.window.end).await;
    }

    /// Opens or closes a connection, if that is faster. The front has come to `front_bytes`.
    pub(super) fn think(&mut self, front_bytes: u64) {
        let bytes = self.bytes(front_bytes);
        let seconds = (WINDOW + self.window.end.elapsed()).as_secs_f64();
        let rate = bytes.saturating_sub(self.window.bytes) as f64 / seconds;
        self.begin_window(front_bytes);
        let has_begun = |part: &Part| part.work.is_finished() || part.held_bytes() > 0;
        if !self.parts.iter().all(has_begun) {
            // It has brought nothing yet because it is being opened.
            return;
        }
        if self.forget_refused() {
            self.pace.refused();
        }
        match self.pace.advise(1 + self.running(), rate) {
            Advice::Stay => {}
            Advice::More => self.add(front_bytes),
            Advice::Fewer => self.close_last(),
        }
        if self.pace.is_one_enough() {
            self.blob.remote.upstream.note_that_one_is_enough();
        }
    }

    /// What lies where the front has ended; `None` if that is the end of the blob.
    ///
    /// # Errors
    /// [`Error::Storage`] if what came ahead could not be written.
    pub(super) async fn take_over(&mut self) -> Result<Option<Found>, Error> {
        let Some(part) = self.parts.pop_front() else { return Ok(None) };
        part.stop.cancel();
        let outcome = part.work.await.map_err(|_panicked| Abandoned)??;
        let held_bytes = part.held_bytes.load(Ordering::Relaxed);
        let source = match outcome {
            Outcome::Open(source) => source,
            Outcome::Refused => self.blob.part(part.start + held_bytes, part.end),
        };
        self.front_end = source.end();
        Ok(Some(Found { held_bytes, source }))
    }

    /// Counts from now on; the front has come to `front_bytes`.
    pub(super) fn begin_window(&mut self, front_bytes: u64) {
        self.window = Window { end: Instant::now() + WINDOW, bytes: self.bytes(front_bytes) };
    }

    fn bytes(&self, front_bytes: u64) -> u64 {
        front_bytes + self.parts.iter().map(Part::held_bytes).sum::<u64>()
    }

    fn running(&self) -> usize {
        self.parts.iter().filter(|part| !part.work.is_finished()).count()
    }

    /// Cuts the longest stretch of what is still to come in two, if it is long enough.
    fn add(&mut self, front_bytes: u64) {
        let front = (front_bytes, Arc::clone(&self.front_end));
        let parts =
            self.parts.iter().map(|part| (part.start + part.held_bytes(), Arc::clone(&part.end)));
        let stretch = |(start, end): (u64, Arc<AtomicU64>)| {
            (
                end.load(Ordering::Relaxed).min(self.blob.size_bytes).saturating_sub(start),
                start,
                end,
            )
        };
        let stretches = std::iter::once(front).chain(parts).map(stretch);
        let Some((length, start, end)) = stretches.max_by_key(|(length, ..)| *length) else {
            return;
        };
        let is_first = self.parts.is_empty();
        let least = if is_first { LARGE_BYTES } else { 2 * PART_BYTES };
        let Some(permit) = self.spool.try_reserve(WINDOW_BYTES) else { return };
        if length < least || !self.blob.remote.upstream.has_connections_to_spare() {
            return;
        }
        let middle = start + length / 2;
        let own_end = Arc::new(AtomicU64::new(end.swap(middle, Ordering::Relaxed)));
        let part = self.begin(middle, own_end, permit);
        let place = self.parts.partition_point(|part| part.start < middle);
        self.parts.insert(place, part);
    }

    fn begin(&self, start: u64, end: Arc<AtomicU64>, permit: Permit) -> Part {
        let (held_bytes, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let counter = Arc::clone(&held_bytes);
        let written: Written = Arc::new(move |bytes| {
            counter.fetch_add(bytes, Ordering::Relaxed);
        });
        let intake = Intake::new(self.spool.clone(), start, written);
        let work = fetch(self.blob.part(start, Arc::clone(&end)), intake, stop.clone(), permit);
        let work = AbortOnDropHandle::new(self.tasks.spawn("fetch ahead", work));
        Part { start, end, held_bytes, stop, work }
    }

    /// Has the part that was begun last come to an end; what there is of it stays.
    fn close_last(&mut self) {
        let mut running = self.parts.iter().rev().filter(|part| !part.work.is_finished());
        if let Some(part) = running.next() {
            part.stop.cancel();
        }
    }

    /// Says whether there is a part of which nothing came, and nothing comes any more. What is before it goes
    /// on to its end.
    fn forget_refused(&mut self) -> bool {
        let is_refused = |part: &Part| part.work.is_finished() && part.held_bytes() == 0;
        let Some(place) = self.parts.iter().position(is_refused) else { return false };
        let Some(refused) = self.parts.remove(place) else { return false };
        let before = match place.checked_sub(1) {
            Some(before) => &self.parts[before].end,
            None => &self.front_end,
        };
        before.store(refused.end.load(Ordering::Relaxed), Ordering::Relaxed);
        true
    }
}

impl Part {
    fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }
}

/// Fetches a part until it is here, or is told to stop, or cannot go on.
async fn fetch(
    mut source: Source,
    mut intake: Intake,
    stop: CancellationToken,
    _permit: Permit,
) -> Result<Outcome, Error> {
    let opened = tokio::select! {
        () = stop.cancelled() => false,
        opened = source.open_part() => opened.unwrap_or(false),
    };
    if !opened {
        return Ok(Outcome::Refused);
    }
    let outcome = loop {
        tokio::select! {
            () = stop.cancelled() => break Outcome::Open(source),
            written = intake.written(), if intake.is_writing() => written?,
            next = source.next(), if !intake.is_full() => match next {
                Ok(Some(bytes)) => intake.push(bytes),
                Ok(None) => break Outcome::Open(source),
                // The front tries again when it comes here, and tells what it is.
                Err(_again_later) => break Outcome::Refused,
            },
        }
    };
    intake.drained().await?;
    Ok(outcome)
}
