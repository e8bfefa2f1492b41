//! Bodies: what is sent to clients, and what they send.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{
    access_log::AccessRecord,
    sendfile::{Data, FileLane},
    stall::Stream as ClientStream,
};
use crate::{
    content::ContentBytes,
    registry,
    runtime::{BodyError, BodyStream, FilePiece, Tasks},
    storage::{self, ObjectBytes, ObjectStream},
};

/// The body of an answer. What its buffers cost is inside the stream and is given back when it ends.
#[derive(Default)]
pub struct Body {
    kind: Kind,
    /// Written when the last byte has been handed over, or the client has gone.
    record: Option<AccessRecord>,
    /// Where its client has to give it leave to be sent.
    stream: Option<ClientStream>,
}

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Parts {
        parts: Parts,
        remaining_bytes: u64,
    },
}

/// Where the bytes come from.
enum Parts {
    Stream(ObjectStream),
    /// For another node.
    Copies(Copies),
    /// Sent in place of what goes through the body.
    File {
        pieces: FilePieces,
        lane: FileLane,
    },
}

/// Pieces of files, one after the other.
pub(super) type FilePieces = Pin<Box<dyn Stream<Item = Result<FilePiece, Error>> + Send>>;

/// Bytes of files, one piece after the other.
pub(super) type Copies = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

impl Parts {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Data, Error>>> {
        match self {
            Self::Stream(stream) => {
                stream.as_mut().poll_next(context).map_ok(Data::from).map_err(Error::from)
            }
            Self::Copies(stream) => stream.as_mut().poll_next(context).map_ok(Data::from),
            Self::File { pieces, lane } => {
                let polled = pieces.as_mut().poll_next(context);
                polled.map_ok(|piece| lane.send(piece))
            }
        }
    }
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage could not go on.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A file could not be read.
    #[error("a file could not be read")]
    File(#[from] io::Error),
    /// What is on its way to this node and from here to another one has come to an end.
    #[error("this node did not get the rest")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Body {
    /// No bytes.
    pub(super) fn empty() -> Self {
        Self::default()
    }

    /// These bytes.
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        Self { kind: Kind::Full(bytes.into()), record: None, stream: None }
    }

    /// As many bytes as `length_bytes`, as they come. If the stream ends early the connection is cut: no
    /// client takes a part for the whole.
    pub(super) fn stream(stream: ObjectStream, length_bytes: u64) -> Self {
        Self::of(Parts::Stream(stream), length_bytes)
    }

    /// The same of bytes that were opened: past this process if they are in a file, and if the connection has a
    /// lane for files.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub(super) async fn opened(
        bytes: ContentBytes,
        length_bytes: u64,
        lane: Option<&FileLane>,
    ) -> Result<Self, registry::Error> {
        let parts = match (bytes, lane) {
            (ContentBytes::Object(ObjectBytes::File(file)), Some(lane)) => {
                let pieces = file.into_bytes().pieces().map_err(Error::from);
                Parts::File { pieces: pieces.boxed(), lane: lane.clone() }
            }
            (ContentBytes::Chunks(chunks), Some(lane)) => {
                let pieces = chunks.pieces().map_err(Error::from);
                Parts::File { pieces: pieces.boxed(), lane: lane.clone() }
            }
            (bytes, _) => Parts::Stream(bytes.into_stream().await?),
        };
        Ok(Self::of(parts, length_bytes))
    }

    /// As many bytes as `length_bytes` of files, past this process.
    pub(super) fn files(pieces: FilePieces, length_bytes: u64, lane: FileLane) -> Self {
        Self::of(Parts::File { pieces, lane }, length_bytes)
    }

    /// As many bytes as `length_bytes` of files, through this process.
    pub(super) fn copies(copies: Copies, length_bytes: u64) -> Self {
        Self::of(Parts::Copies(copies), length_bytes)
    }

    fn of(parts: Parts, length_bytes: u64) -> Self {
        Self {
            kind: Kind::Parts { parts, remaining_bytes: length_bytes },
            record: None,
            stream: None,
        }
    }

    /// Has the request logged when this body ends.
    pub(super) fn log_at_end(&mut self, record: AccessRecord) {
        self.record = Some(record);
    }

    /// Has it count as one of the streams of a connection.
    pub(super) fn wait_as(&mut self, stream: ClientStream) {
        self.stream = Some(stream);
    }

    /// Bytes still to be sent.
    pub(super) fn remaining_bytes(&self) -> u64 {
        match &self.kind {
            Kind::Empty => 0,
            Kind::Full(bytes) => bytes.len() as u64,
            Kind::Parts { remaining_bytes, .. } => *remaining_bytes,
        }
    }
}

impl http_body::Body for Body {
    type Data = Data;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Data>, Error>>> {
        let this = &mut *self;
        if let Some(stream) = &this.stream {
            stream.goes_on();
        }
        let polled = match &mut this.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                this.kind = Kind::Empty;
                Poll::Ready(Some(Ok(bytes.into())))
            }
            Kind::Parts { remaining_bytes: 0, .. } => {
                this.kind = Kind::Empty;
                Poll::Ready(None)
            }
            Kind::Parts { parts, remaining_bytes } => {
                let polled = parts.poll_next(context);
                if let Poll::Ready(Some(Ok(data))) = &polled {
                    *remaining_bytes = remaining_bytes.saturating_sub(data.remaining() as u64);
                }
                polled
            }
        };
        if let (Poll::Ready(Some(Ok(_))), Some(stream)) = (&polled, &this.stream) {
            stream.waits();
        }
        if let (Poll::Ready(Some(Ok(data))), Some(record)) = (&polled, &mut this.record) {
            record.add_sent(data.remaining() as u64);
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
