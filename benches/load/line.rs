//! The line to the upstream: as many bytes per second for all connections together, and bodies
//! that keep to it.

use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::content::Layer;
use crate::count::Count;

/// How much time one piece may stand for: timers have this resolution.
const PIECE: Duration = Duration::from_millis(1);
/// The smallest piece, about what a packet carries.
const LEAST_PIECE_BYTES: u64 = 1460;
/// The largest, which keeps the cost of a piece small beside that of its bytes.
const MOST_PIECE_BYTES: u64 = 64 << 10;
/// How far a transfer that is late, because timers and schedulers are, may catch up at once.
const CATCH_UP: Duration = Duration::from_millis(20);

/// A line that all bodies share. It takes turns: nobody has more than one piece waiting.
#[derive(Debug)]
pub(crate) struct Line {
    bytes_per_second: Option<u64>,
    /// When all pieces that have their turn are through.
    free: Mutex<Instant>,
}

/// Where in its body a piece is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// Time in which the line had nothing to do is not made up for.
    First,
    Later,
}

impl Line {
    /// A line of that speed; as fast as it goes without one.
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        let bytes_per_second = bytes_per_second.map(|rate| rate.max(1));
        Self { bytes_per_second, free: Mutex::new(Instant::now()) }
    }

    /// The most bytes that go at once.
    pub(crate) fn piece_bytes(&self) -> u64 {
        let Some(rate) = self.bytes_per_second else { return MOST_PIECE_BYTES };
        let bytes = (rate as f64 * PIECE.as_secs_f64()) as u64;
        bytes.clamp(LEAST_PIECE_BYTES, MOST_PIECE_BYTES)
    }

    /// Takes the next turn, for so many bytes: when they may go. `None` is at once.
    fn turn(&self, bytes: u64, place: Place) -> Option<Instant> {
        let rate = self.bytes_per_second?;
        let now = Instant::now();
        let late = if place == Place::First { Duration::ZERO } else { CATCH_UP };
        let earliest = now.checked_sub(late).unwrap_or(now);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*free).max(earliest);
        *free = turn + Duration::from_secs_f64(bytes as f64 / rate as f64);
        (turn > now).then_some(turn)
    }
}

/// A part of a blob on the line, counted as it goes.
pub(crate) struct LineBody {
    blob: Layer,
    /// What has not gone yet.
    range: Range<u64>,
    place: Place,
    line: Arc<Line>,
    count: Arc<Count>,
    /// The piece that waits for its turn.
    waiting: Option<(Bytes, Option<Pin<Box<Sleep>>>)>,
}

impl LineBody {
    pub(crate) fn new(
        blob: Layer,
        range: Range<u64>,
        line: &Arc<Line>,
        count: &Arc<Count>,
    ) -> Self {
        let (line, count) = (Arc::clone(line), Arc::clone(count));
        Self { blob, range, place: Place::First, line, count, waiting: None }
    }

    fn take_turn(&self) -> (Bytes, Option<Pin<Box<Sleep>>>) {
        let most = self.line.piece_bytes().min(self.range.end - self.range.start);
        let piece = self.blob.part(self.range.start, most);
        let turn = self.line.turn(piece.len() as u64, self.place);
        (piece, turn.map(|turn| Box::pin(sleep_until(turn))))
    }
}

impl Body for LineBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.range.is_empty() {
            return Poll::Ready(None);
        }
        let (piece, mut turn) = self.waiting.take().unwrap_or_else(|| self.take_turn());
        if let Some(sleep) = &mut turn
            && sleep.as_mut().poll(context).is_pending()
        {
            self.waiting = Some((piece, turn));
            return Poll::Pending;
        }
        if self.place == Place::First {
            self.count.begins(&self.blob.digest);
            self.place = Place::Later;
        }
        self.range.start += piece.len() as u64;
        self.count.add(|figures| figures.blob_bytes += piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.range.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.range.end - self.range.start)
    }
}
