//! Bytes on their way in: the body of a request, seen from the layers that know no HTTP.

use std::{collections::VecDeque, pin::Pin, task::Poll};

use bytes::Bytes;
use futures_util::{Stream, stream};

/// The bytes a client is sending. Ends cleanly only when the client sent all it announced.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// Why a client's bytes stopped coming.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection ended before the body did.
    #[error("the client's connection ended within the body")]
    Disconnected(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No byte came for as long as the configuration allows.
    #[error("the client sent nothing for too long")]
    Stalled,
    /// The client has come back with another request for the same thing.
    #[error("the client has come back with another request")]
    TakenOver,
    /// The body grew beyond its limit.
    #[error("the body is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
}

/// The same body, which ends in [`BodyError::TakenOver`] as soon as `end` does.
pub fn until(mut body: BodyStream, end: impl Future<Output = ()> + Send + 'static) -> BodyStream {
    let mut end = Box::pin(end);
    let mut ended = false;
    Box::pin(stream::poll_fn(move |context| {
        if ended {
            return Poll::Ready(None);
        }
        if end.as_mut().poll(context).is_ready() {
            ended = true;
            return Poll::Ready(Some(Err(BodyError::TakenOver)));
        }
        body.as_mut().poll_next(context)
    }))
}

/// Pieces of a byte sequence in order, kept as they came: no copy is made to join them.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    parts: VecDeque<Bytes>,
    length: usize,
}

impl Pieces {
    /// Adds `bytes` at the end.
    pub fn push(&mut self, bytes: Bytes) {
        self.length += bytes.len();
        self.parts.push_back(bytes);
    }

    /// Bytes in all pieces together.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The pieces in order.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.parts.iter()
    }

    /// Removes and returns the first `length` bytes, or all if there are fewer.
    #[must_use]
    pub fn take_front(&mut self, length: usize) -> Self {
        let mut front = Self::default();
        while front.length < length {
            let Some(mut part) = self.parts.pop_front() else { break };
            let missing = length - front.length;
            if part.len() > missing {
                self.parts.push_front(part.split_off(missing));
            }
            front.push(part);
        }
        self.length -= front.length;
        front
    }

    /// All bytes in one buffer: a copy, unless there is but one piece.
    #[must_use]
    pub fn concat(mut self) -> Bytes {
        if self.parts.len() == 1 {
            return self.parts.pop_front().unwrap_or_default();
        }
        let mut joined = bytes::BytesMut::with_capacity(self.length);
        self.parts.iter().for_each(|part| joined.extend_from_slice(part));
        joined.freeze()
    }
}

impl IntoIterator for Pieces {
    type Item = Bytes;
    type IntoIter = std::collections::vec_deque::IntoIter<Bytes>;

    fn into_iter(self) -> Self::IntoIter {
        self.parts.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_front_and_the_rest_are_the_whole(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..6),
            length in 0_usize..60,
        ) {
            let whole = parts.concat();
            let mut rest = Pieces::default();
            parts.into_iter().for_each(|part| rest.push(part.into()));
            let front = rest.take_front(length);
            prop_assert_eq!(front.len(), length.min(whole.len()));
            prop_assert_eq!(front.len() + rest.len(), whole.len());
            prop_assert_eq!([front.concat(), rest.concat()].concat(), whole);
        }
    }
}
