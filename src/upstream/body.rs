//! Bodies on their way in: watched, counted, slowed down.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, TryStreamExt, stream};
use reqwest::Response;
use tokio::time::{Instant, timeout};

use super::{
    Error,
    exchange::Permits,
    floor::{Floor, FloorWatch, TooSlow},
    heard::Heard,
    metrics::UpstreamMetrics,
    throttle::Throttle,
};

/// The bytes of a blob, as they come. Unverified: whoever reads them checks their digest.
///
/// Ends cleanly only after as many bytes as the upstream announced, if it announced any. Reads ahead by no
/// more than what the connection has received. Dropping it ends the transfer.
pub type RemoteStream = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// Watches the bodies of one upstream.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) upstream: Arc<str>,
    pub(super) heard: Arc<Heard>,
    pub(super) metrics: Arc<UpstreamMetrics>,
    pub(super) throttle: Option<Throttle>,
    /// Longest silence within a body.
    pub(super) stall_timeout: Duration,
    /// The least that a streamed body must bring.
    pub(super) floor: Floor,
    /// Longest time for a whole small body.
    pub(super) whole_timeout: Duration,
}

/// A body that is being streamed.
struct Transfer {
    meter: Arc<Meter>,
    response: Response,
    _permits: Permits,
    left: Option<u64>,
    watch: FloorWatch,
}

impl Meter {
    /// The body as a stream. It must have `expected_bytes`, if that is known.
    pub(super) fn stream(
        self: &Arc<Self>,
        response: Response,
        permits: Permits,
        expected_bytes: Option<u64>,
    ) -> RemoteStream {
        let meter = Arc::clone(self);
        let transfer = Transfer {
            meter: Arc::clone(self),
            response,
            _permits: permits,
            left: expected_bytes,
            watch: FloorWatch::new(self.floor),
        };
        let pieces = stream::try_unfold(transfer, |mut transfer| async move {
            Ok(transfer.next().await?.map(|piece| (piece, transfer)))
        });
        Box::pin(pieces.inspect_err(move |error| meter.metrics.body_failed(error)))
    }

    /// The whole body, which may have `limit_bytes`.
    pub(super) async fn read(&self, response: Response, limit_bytes: u64) -> Result<Bytes, Error> {
        let read = timeout(self.whole_timeout, self.read_within(response, limit_bytes)).await;
        let read = read.unwrap_or_else(|_| {
            Err(Error::Timeout { upstream: Arc::clone(&self.upstream), after: self.whole_timeout })
        });
        read.inspect_err(|error| self.metrics.body_failed(error))
    }

    async fn read_within(&self, mut response: Response, limit_bytes: u64) -> Result<Bytes, Error> {
        let too_large = || Error::TooLarge { upstream: Arc::clone(&self.upstream), limit_bytes };
        if response.content_length().is_some_and(|length| length > limit_bytes) {
            return Err(too_large());
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = self.arrival(&mut response).await? {
            self.pass(piece.len()).await;
            if (whole.len() + piece.len()) as u64 > limit_bytes {
                return Err(too_large());
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Waits for the next piece, and for nothing else.
    async fn arrival(&self, response: &mut Response) -> Result<Option<Bytes>, Error> {
        let upstream = || Arc::clone(&self.upstream);
        let Ok(piece) = timeout(self.stall_timeout, response.chunk()).await else {
            return Err(Error::Stalled { upstream: upstream(), after: self.stall_timeout });
        };
        let piece = piece.map_err(|error| {
            let source = Some(Arc::new(error.without_url()));
            Error::Interrupted { upstream: upstream(), source }
        })?;
        if let Some(piece) = &piece {
            self.metrics.received(piece.len());
            self.heard.now();
        }
        Ok(piece)
    }

    /// Waits until bytes that have come may go on.
    async fn pass(&self, bytes: usize) {
        if let Some(throttle) = &self.throttle {
            throttle.pass(bytes).await;
        }
    }
}

impl Transfer {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let upstream = || Arc::clone(&self.meter.upstream);
        // Of a body that is complete, nothing more is expected but its end.
        if self.left != Some(0)
            && let Err(TooSlow { bytes, within }) = self.watch.check()
        {
            return Err(Error::Slow { upstream: upstream(), bytes, within });
        }
        let asked = Instant::now();
        let piece = self.meter.arrival(&mut self.response).await?;
        let length = piece.as_ref().map_or(0, Bytes::len);
        self.watch.note(asked.elapsed(), length);
        self.meter.pass(length).await;
        let length = length as u64;
        match self.left {
            Some(left) if length > left => {
                let what = "it sends more than it announced";
                return Err(Error::Protocol { upstream: upstream(), what });
            }
            Some(left) if piece.is_none() && left > 0 => {
                return Err(Error::Interrupted { upstream: upstream(), source: None });
            }
            Some(left) => self.left = Some(left - length),
            None => {}
        }
        Ok(piece)
    }
}

/// A blob on its way.
pub struct RemoteBlob {
    /// The first byte that comes: as asked for, or 0 where the upstream sends the whole blob regardless.
    pub start: u64,
    /// Length of the whole blob in bytes, if the upstream told it.
    pub size_bytes: Option<u64>,
    /// The bytes from `start` to the end.
    pub stream: RemoteStream,
}

impl fmt::Debug for RemoteBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteBlob")
            .field("start", &self.start)
            .field("size_bytes", &self.size_bytes)
            .finish_non_exhaustive()
    }
}
