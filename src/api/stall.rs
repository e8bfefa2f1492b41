//! A connection that does not wait for ever for a client that has stopped reading.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// Fails a write that makes no progress for `timeout`. Reading is left alone: its limits depend on what is
/// being read.
pub(super) struct StallGuard<T> {
    inner: T,
    timeout: Duration,
    deadline: Pin<Box<Sleep>>,
    waiting: bool,
}

impl<T> StallGuard<T> {
    pub(super) fn new(inner: T, timeout: Duration) -> Self {
        Self { inner, timeout, deadline: Box::pin(tokio::time::sleep(timeout)), waiting: false }
    }

    /// Passes on what a write did, and begins or ends waiting accordingly.
    fn watch<R>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if polled.is_ready() {
            self.waiting = false;
            return polled;
        }
        if !self.waiting {
            self.waiting = true;
            self.deadline.as_mut().reset(Instant::now() + self.timeout);
        }
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client has stopped reading")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for StallGuard<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for StallGuard<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.watch(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.watch(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(context);
        self.watch(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(context);
        self.watch(context, polled)
    }
}

/// Bodies of one HTTP/2 connection whose client has to take something before more is asked of them. A client that
/// takes frames and gives a stream no window does not stall the connection, so [`StallGuard`] does not see it.
/// Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams(Arc<Mutex<Handed>>);

/// Since when each of them waits.
#[derive(Debug, Default)]
struct Handed {
    since: BTreeMap<u64, Instant>,
    next: u64,
}

/// One of [`Streams`].
#[derive(Debug)]
pub(super) struct Stream {
    streams: Streams,
    number: u64,
}

impl Streams {
    /// Another stream, which does not wait yet.
    pub(super) fn add(&self) -> Stream {
        let mut handed = self.handed();
        handed.next += 1;
        Stream { streams: self.clone(), number: handed.next }
    }

    /// Ends once a stream has waited for its client for `timeout`, or up to twice as long.
    pub(super) async fn stalled(&self, timeout: Duration) {
        loop {
            let oldest = self.handed().since.values().min().copied();
            match oldest.map(|since| since + timeout) {
                None => tokio::time::sleep(timeout).await,
                Some(end) if end <= Instant::now() => return,
                Some(end) => tokio::time::sleep_until(end).await,
            }
        }
    }

    fn handed(&self) -> MutexGuard<'_, Handed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    /// It was given bytes, and is not asked for more before its client has taken them.
    pub(super) fn waits(&self) {
        self.streams.handed().since.insert(self.number, Instant::now());
    }

    /// It is asked for more.
    pub(super) fn goes_on(&self) {
        self.streams.handed().since.remove(&self.number);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.goes_on();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_is_given_up() {
        let (server, _client) = tokio::io::duplex(16);
        let mut guarded = StallGuard::new(server, Duration::from_secs(5));
        let error = guarded.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_served_to_the_end() {
        let (server, mut client) = tokio::io::duplex(16);
        let mut guarded = StallGuard::new(server, Duration::from_secs(5));
        let reader = tokio::spawn(async move {
            let mut read = 0;
            while read < 64 {
                tokio::time::sleep(Duration::from_secs(4)).await;
                read += client.read(&mut [0; 16]).await.unwrap();
            }
        });
        guarded.write_all(&[0; 64]).await.unwrap();
        reader.await.unwrap();
    }
}
