//! The bytes of an answer, as they come.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::{
    Error, InvalidMessage, connection::Connection, error::interrupted, seal::HASHED_AT_ONCE,
};
use crate::{
    oci::{Digest, Hasher},
    runtime::{Pieces, take_turns},
};

/// Longest silence within a body.
const SILENCE: Duration = Duration::from_secs(30);

/// The bytes of a part or of a table, as they come.
///
/// Ends cleanly only after as many as were announced. Those of a part are not verified: whoever reads them holds them
/// against the table or the digest. Dropping it before its end closes the connection.
pub struct PartBody {
    node: SocketAddr,
    /// `None` once all has come, or nothing more will.
    from: Option<(Incoming, Connection)>,
    left_bytes: u64,
    /// What has come and is not hashed.
    held: Bytes,
    /// What all of it has to have.
    expected: Option<(Digest, Hasher)>,
    patience: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl PartBody {
    /// As many bytes as were announced, and with the digest that was.
    pub(super) fn new(
        node: SocketAddr,
        from: (Incoming, Connection),
        (length_bytes, digest): (u64, Option<Digest>),
    ) -> Result<Self, Error> {
        let mut body = Self {
            node,
            from: Some(from),
            left_bytes: length_bytes,
            held: Bytes::new(),
            expected: digest.map(|digest| (digest, Hasher::new(digest.algorithm()))),
            patience: Box::pin(tokio::time::sleep(SILENCE)),
            is_waiting: false,
        };
        if length_bytes == 0 {
            body.end()?;
        }
        Ok(body)
    }

    /// Where the bytes come from.
    #[must_use]
    pub const fn node(&self) -> SocketAddr {
        self.node
    }

    /// Bytes that have not come.
    #[must_use]
    pub const fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// All of it, which was announced to have no more than somebody has memory for.
    pub(super) async fn whole(mut self) -> Result<Bytes, Error> {
        let mut pieces = Pieces::default();
        while let Some(piece) = self.next().await {
            let piece = piece?;
            take_turns(piece.len() as u64).await;
            pieces.push(piece);
        }
        Ok(pieces.concat())
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        loop {
            if !self.held.is_empty() {
                let piece = self.held.split_to(self.held.len().min(HASHED_AT_ONCE));
                return Poll::Ready(Some(self.take(piece)));
            }
            let Some((body, _)) = &mut self.from else { return Poll::Ready(None) };
            let Poll::Ready(frame) = Pin::new(body).poll_frame(context) else { break };
            self.is_waiting = false;
            match frame {
                // Trailers carry nothing for us.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if bytes.is_empty() => {}
                    Ok(bytes) if self.expected.is_some() => self.held = bytes,
                    Ok(bytes) => return Poll::Ready(Some(self.take(bytes))),
                    Err(_trailers) => {}
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(interrupted(self.node, error)))),
                None => return Poll::Ready(self.end().err().map(Err)),
            }
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.patience.as_mut().reset(Instant::now() + SILENCE);
        }
        ready!(self.patience.as_mut().poll(context));
        let silent = io::Error::new(io::ErrorKind::TimedOut, "no byte has come for too long");
        Poll::Ready(Some(Err(interrupted(self.node, silent))))
    }

    fn take(&mut self, bytes: Bytes) -> Result<Bytes, Error> {
        self.left_bytes = self.left_bytes.saturating_sub(bytes.len() as u64);
        if let Some((_, hasher)) = &mut self.expected {
            hasher.update(&bytes);
        }
        // The last ones count only if all is as it should be.
        if self.left_bytes == 0 {
            self.end()?;
        }
        Ok(bytes)
    }

    /// Nothing more comes.
    fn end(&mut self) -> Result<(), Error> {
        let node = self.node;
        let from = self.from.take();
        if self.left_bytes > 0 {
            return Err(interrupted(node, io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        if let Some((digest, hasher)) = self.expected.take()
            && hasher.finish() != digest
        {
            return Err(Error::Protocol { node, source: InvalidMessage::Digest });
        }
        if let Some((_, connection)) = from {
            connection.give_back();
        }
        Ok(())
    }
}

impl Stream for PartBody {
    type Item = Result<Bytes, Error>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Error>>> {
        let polled = ready!(self.poll_piece(context));
        if let Some(Err(_)) = &polled {
            (self.from, self.held) = (None, Bytes::new());
        }
        Poll::Ready(polled)
    }
}

impl fmt::Debug for PartBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartBody")
            .field("node", &self.node)
            .field("left_bytes", &self.left_bytes)
            .finish_non_exhaustive()
    }
}
