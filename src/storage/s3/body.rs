//! Bodies of requests.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::runtime::Pieces;

/// A body made of `pieces` as they are: nothing is copied, and a retry sends the same memory again.
pub(super) fn of(pieces: Pieces) -> ByteStream {
    let body = SdkBody::retryable(move || {
        let left_bytes = pieces.len() as u64;
        SdkBody::from_body_1_x(PiecesBody { parts: pieces.clone().into_iter(), left_bytes })
    });
    ByteStream::new(body)
}

struct PiecesBody {
    parts: <Pieces as IntoIterator>::IntoIter,
    left_bytes: u64,
}

impl http_body::Body for PiecesBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.parts.next();
        self.left_bytes -= next.as_ref().map_or(0, |part| part.len() as u64);
        Poll::Ready(next.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.left_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_can_be_sent_twice() {
        let mut pieces = Pieces::default();
        pieces.push(Bytes::from_static(b"still "));
        pieces.push(Bytes::from_static(b"waters"));
        let body = of(pieces).into_inner();
        assert_eq!(body.content_length(), Some(12));
        let again = body.try_clone().expect("a body of pieces can be cloned");
        for body in [body, again] {
            assert_eq!(ByteStream::new(body).collect().await.unwrap().to_vec(), b"still waters");
        }
    }
}
