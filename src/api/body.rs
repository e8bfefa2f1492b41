//! Bodies: what is sent to clients, and what they send.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::access_log::AccessRecord;
use crate::{
    runtime::{BodyError, BodyStream, Tasks},
    storage::{self, ObjectStream},
};

/// The body of an answer. What its buffers cost is inside the stream and is given back when it ends.
#[derive(Default)]
pub struct Body {
    kind: Kind,
    /// Written when the last byte has been handed over, or the client has gone.
    record: Option<AccessRecord>,
}

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Stream {
        stream: ObjectStream,
        remaining_bytes: u64,
    },
}

impl Body {
    /// No bytes.
    pub(super) fn empty() -> Self {
        Self::default()
    }

    /// These bytes.
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        Self { kind: Kind::Full(bytes.into()), record: None }
    }

    /// As many bytes as `length_bytes`, as they come. If the stream ends early the connection is cut: no
    /// client takes a part for the whole.
    pub(super) fn stream(stream: ObjectStream, length_bytes: u64) -> Self {
        Self { kind: Kind::Stream { stream, remaining_bytes: length_bytes }, record: None }
    }

    /// Has the request logged when this body ends.
    pub(super) fn log_at_end(&mut self, record: AccessRecord) {
        self.record = Some(record);
    }

    /// Bytes still to be sent.
    pub(super) fn remaining_bytes(&self) -> u64 {
        match &self.kind {
            Kind::Empty => 0,
            Kind::Full(bytes) => bytes.len() as u64,
            Kind::Stream { remaining_bytes, .. } => *remaining_bytes,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = storage::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, storage::Error>>> {
        let this = &mut *self;
        let polled = match &mut this.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                this.kind = Kind::Empty;
                Poll::Ready(Some(Ok(bytes)))
            }
            Kind::Stream { remaining_bytes: 0, .. } => {
                this.kind = Kind::Empty;
                Poll::Ready(None)
            }
            Kind::Stream { stream, remaining_bytes } => {
                let polled = stream.as_mut().poll_next(context);
                if let Poll::Ready(Some(Ok(bytes))) = &polled {
                    *remaining_bytes = remaining_bytes.saturating_sub(bytes.len() as u64);
                }
                polled
            }
        };
        if let (Poll::Ready(Some(Ok(bytes))), Some(record)) = (&polled, &mut this.record) {
            record.add_sent(bytes.len() as u64);
        }
        polled.map_ok(Frame::data)
    }

    fn is_end_stream(&self) -> bool {
        self.remaining_bytes() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining_bytes())
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body")
            .field("remaining_bytes", &self.remaining_bytes())
            .finish_non_exhaustive()
    }
}

/// Most bytes that are still read of a body nobody wants any more.
const DRAINED_BYTES_MAX: usize = 8 << 20;

/// How long they are waited for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The body of a request.
///
/// If it is dropped before its end, because the request is refused, a task reads on for a while: closing a
/// connection on a client that is still sending destroys the answer on its way.
pub(super) struct RequestBody {
    body: Option<Incoming>,
    tasks: Tasks,
}

impl RequestBody {
    pub(super) fn new(body: Incoming, tasks: Tasks) -> Self {
        Self { body: Some(body), tasks }
    }

    /// The bytes, as the lower layers take them. No byte for `timeout` ends them in an error.
    pub(super) fn into_stream(self, timeout: Duration) -> BodyStream {
        let stream = stream::unfold(Some(self), move |body| async move {
            let mut body = body?;
            let error = match tokio::time::timeout(timeout, body.next()).await {
                Err(_elapsed) => BodyError::Stalled,
                Ok(None) => return None,
                Ok(Some(Ok(bytes))) => return Some((Ok(bytes), Some(body))),
                Ok(Some(Err(error))) => BodyError::Disconnected(Box::new(error)),
            };
            body.body = None;
            Some((Err(error), None))
        });
        stream.boxed()
    }

    async fn next(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        let body = self.body.as_mut()?;
        loop {
            match body.frame().await {
                None => {
                    self.body = None;
                    return None;
                }
                Some(Err(error)) => return Some(Err(error)),
                // Trailers carry nothing for us.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => return Some(Ok(bytes)),
                    Err(_trailers) => continue,
                },
            }
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(body) = self.body.take()
            && !http_body::Body::is_end_stream(&body)
        {
            self.tasks.spawn("drain", tokio::time::timeout(DRAIN_TIMEOUT, drain(body)));
        }
    }
}

async fn drain(mut body: Incoming) {
    let mut drained = 0;
    while drained < DRAINED_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        drained += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// Reads a body whole, if it has at most `limit_bytes`.
pub(super) async fn collect(mut body: BodyStream, limit_bytes: u64) -> Result<Bytes, BodyError> {
    let mut pieces = crate::runtime::Pieces::default();
    while let Some(bytes) = body.next().await {
        let bytes = bytes?;
        if (pieces.len() + bytes.len()) as u64 > limit_bytes {
            return Err(BodyError::TooLarge { limit_bytes });
        }
        pieces.push(bytes);
    }
    Ok(pieces.concat())
}

/// Several streams, one after the other, with text before each.
pub(super) fn chain(parts: impl Stream<Item = ObjectStream> + Send + 'static) -> ObjectStream {
    parts.flatten().boxed()
}
