//! Bodies that come slowly, stop, or end too early.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};

use super::{State, script::Fault};

pub(super) type FakeBody = UnsyncBoxBody<Bytes, io::Error>;

/// Bytes that are handed to the connection at once.
const PIECE: usize = 16 << 10;

/// What is still to be sent, and how.
struct Plan {
    state: Arc<State>,
    rest: Bytes,
    sent: usize,
    slow: Option<(usize, Duration)>,
    stall_at: Option<usize>,
    cut_at: Option<usize>,
}

/// The body `bytes` with what `faults` do to it.
pub(super) fn body(state: &Arc<State>, bytes: Bytes, faults: &[Fault]) -> FakeBody {
    let mut plan = Plan {
        state: Arc::clone(state),
        rest: bytes,
        sent: 0,
        slow: None,
        stall_at: None,
        cut_at: None,
    };
    for fault in faults {
        match fault {
            Fault::Slow(bytes, every) => plan.slow = Some((*bytes, *every)),
            Fault::StallAfter(bytes) => plan.stall_at = Some(*bytes),
            Fault::CutAfter(bytes) => plan.cut_at = Some(*bytes),
            Fault::WrongBytes => plan.rest = with_another_first_byte(&plan.rest),
            _ => {}
        }
    }
    let pieces = stream::try_unfold(plan, |mut plan| async move {
        Ok(plan.next().await?.map(|piece| (Frame::data(piece), plan)))
    });
    StreamBody::new(pieces).boxed_unsync()
}

impl Plan {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.cut_at == Some(self.sent) {
            // So that the connection sends what it has got until now.
            tokio::task::yield_now().await;
            return Err(io::Error::other("cut off, as the script says"));
        }
        if self.stall_at == Some(self.sent) {
            let mut released = self.state.released.subscribe();
            let _ = released.wait_for(|released| *released).await;
            self.stall_at = None;
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut length = self.rest.len().min(PIECE);
        if let Some((bytes, every)) = self.slow {
            tokio::time::sleep(every).await;
            length = length.min(bytes);
        }
        for stop in [self.stall_at, self.cut_at].into_iter().flatten() {
            length = length.min(stop.saturating_sub(self.sent)).max(1);
        }
        self.sent += length;
        self.state.sent_bytes.fetch_add(length as u64, Ordering::SeqCst);
        Ok(Some(self.rest.split_to(length)))
    }
}

fn with_another_first_byte(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    if let Some(first) = bytes.first_mut() {
        *first ^= 1;
    }
    bytes.into()
}
