//! Bodies of answers that are not what they should be.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::stream;
use http::{Response, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::sync::watch;

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

/// Where bodies wait until all may go on.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    held: watch::Sender<usize>,
    is_open: watch::Sender<bool>,
}

impl Gate {
    /// Waits until so many bodies are held back.
    pub(crate) async fn until_held(&self, bodies: usize) {
        let held = self.held.subscribe().wait_for(|held| *held >= bodies).await.map(drop);
        held.expect("the gate is there");
    }

    /// Lets everything go on, also what comes later.
    pub(crate) fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// Has a body wait after its first `free_bytes`.
    pub(crate) async fn hold(
        self: &Arc<Self>,
        answer: Response<ServerBody>,
        free_bytes: u64,
    ) -> io::Result<Response<ServerBody>> {
        let (mut head, body) = answer.into_parts();
        let mut rest = body.collect().await.map_err(io::Error::other)?.to_bytes();
        head.headers.insert(header::CONTENT_LENGTH, rest.len().into());
        let free = usize::try_from(free_bytes).unwrap_or(usize::MAX).min(rest.len());
        let first = rest.split_to(free);
        let frames = stream::unfold((0, Arc::clone(self)), move |(turn, gate)| {
            let (first, rest) = (first.clone(), rest.clone());
            async move {
                match turn {
                    0 => Some((Ok(Frame::data(first)), (1, gate))),
                    1 => {
                        gate.pass().await;
                        Some((Ok(Frame::data(rest)), (2, gate)))
                    }
                    _ => None,
                }
            }
        });
        Ok(Response::from_parts(head, StreamBody::new(frames).boxed_unsync()))
    }

    async fn pass(&self) {
        let _held = Held::one(&self.held);
        let opened = self.is_open.subscribe().wait_for(|is_open| *is_open).await.map(drop);
        opened.expect("the gate is there");
    }
}

/// A body that is held back, until this is dropped.
struct Held<'g>(&'g watch::Sender<usize>);

impl<'g> Held<'g> {
    fn one(held: &'g watch::Sender<usize>) -> Self {
        held.send_modify(|held| *held += 1);
        Self(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|held| *held -= 1);
    }
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
