//! Bodies of answers that are not what they should be.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Response, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};

/// What the server answers with.
pub(crate) type ServerBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Has the body end cleanly after `left_bytes`, as `Content-Length` then says.
pub(crate) async fn shortened(
    answer: Response<ServerBody>,
    left_bytes: u64,
) -> io::Result<Response<ServerBody>> {
    let (mut head, body) = answer.into_parts();
    let mut bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
    bytes.truncate(usize::try_from(left_bytes).unwrap_or(usize::MAX));
    head.headers.insert(header::CONTENT_LENGTH, bytes.len().into());
    let body = Full::new(bytes).map_err(|never| match never {}).boxed_unsync();
    Ok(Response::from_parts(head, body))
}

/// Has a bit of the byte at `at` flipped, or of the last byte if there are not so many.
pub(crate) async fn flipped(
    answer: Response<ServerBody>,
    at: u64,
) -> io::Result<Response<ServerBody>> {
    let (head, body) = answer.into_parts();
    let mut bytes = body.collect().await.map_err(io::Error::other)?.to_bytes().to_vec();
    let at = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len().saturating_sub(1));
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 0b100;
    }
    let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync();
    Ok(Response::from_parts(head, body))
}

/// Has the body break off after `left_bytes`.
pub(crate) fn cut(answer: Response<ServerBody>, left_bytes: u64) -> Response<ServerBody> {
    let size = answer.body().size_hint().exact();
    let mut answer = answer.map(|body| CutBody { body, left_bytes, flushed: false }.boxed_unsync());
    if let Some(size) = size {
        answer.headers_mut().entry(header::CONTENT_LENGTH).or_insert(size.into());
    }
    answer
}

struct CutBody {
    body: ServerBody,
    left_bytes: u64,
    /// Whether what came before the cut had a chance to be sent.
    flushed: bool,
}

impl Body for CutBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left_bytes == 0 && !self.flushed {
            self.flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.left_bytes == 0 {
            return Poll::Ready(Some(Err("the test cuts here".into())));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
        let Ok(mut bytes) = frame.into_data() else { return Poll::Ready(None) };
        bytes.truncate(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
        self.left_bytes -= bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}
