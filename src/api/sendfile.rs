//! Files on their way from the kernel's memory to a socket, past this process.
//!
//! hyper takes bytes, and knows no files. So it is given *stand-ins*: slices of a region that nobody ever reads,
//! each as long as the piece of a file that is meant. The transport below hyper recognises them by their
//! address and sends, in their place, what was put on its [`FileLane`] (`sendfile(2)`). Only HTTP/1 without
//! TLS can be served so: there, what is written is what the client gets.
//!
//! A stand-in never reaches a client. hyper could copy one only by asking for its bytes one slice at a time
//! ([`Buf::chunk`]), which gives none; and a lane that does not fit what is written is an error.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem::MaybeUninit,
    ops::Range,
    pin::Pin,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use crate::runtime::FilePiece;

/// Most bytes that one stand-in can stand for.
const REGION_BYTES: usize = 4 << 20;

/// What stand-ins are slices of. Its pages are never touched, so it costs addresses and no memory.
static REGION: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0; REGION_BYTES]);

/// Bytes of a body, or what stands for them.
#[derive(Debug)]
pub struct Data(Kind);

#[derive(Debug)]
enum Kind {
    Bytes(Bytes),
    /// So many bytes of a file that is on the lane.
    StandIn(usize),
}

impl From<Bytes> for Data {
    fn from(bytes: Bytes) -> Self {
        Self(Kind::Bytes(bytes))
    }
}

impl Buf for Data {
    fn remaining(&self) -> usize {
        match &self.0 {
            Kind::Bytes(bytes) => bytes.remaining(),
            Kind::StandIn(length) => *length,
        }
    }

    /// Nothing for a stand-in: who asks for it here wants to copy it.
    fn chunk(&self) -> &[u8] {
        match &self.0 {
            Kind::Bytes(bytes) => bytes.chunk(),
            Kind::StandIn(_) => &[],
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match &self.0 {
            Kind::Bytes(bytes) => bytes.chunks_vectored(slices),
            Kind::StandIn(0) => 0,
            Kind::StandIn(length) => match slices.first_mut() {
                Some(first) => {
                    *first = IoSlice::new(&REGION[..*length]);
                    1
                }
                None => 0,
            },
        }
    }

    fn advance(&mut self, count: usize) {
        match &mut self.0 {
            Kind::Bytes(bytes) => bytes.advance(count),
            Kind::StandIn(length) => {
                assert!(count <= *length, "no more can be taken than there is");
                *length -= count;
            }
        }
    }
}

/// The files that one connection is to send, in the order of their stand-ins. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct FileLane(Arc<Mutex<VecDeque<FilePiece>>>);

impl FileLane {
    /// Puts `piece` in the lane. What is returned has to be written next.
    pub(super) fn send(&self, piece: FilePiece) -> Data {
        let length = usize::try_from(piece.len()).unwrap_or(usize::MAX);
        assert!(length <= REGION_BYTES, "pieces are shorter than the region");
        self.pieces().push_back(piece);
        Data(Kind::StandIn(length))
    }

    fn pieces(&self) -> MutexGuard<'_, VecDeque<FilePiece>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends from the first piece, of which so many bytes are left to be written.
    fn send_first(&self, stand_in_bytes: usize, socket: &TcpStream) -> io::Result<usize> {
        let mut pieces = self.pieces();
        let Some(piece) = pieces.front_mut().filter(|piece| piece.len() == stand_in_bytes as u64)
        else {
            return Err(io::Error::other("a stand-in is written for which there is no file"));
        };
        let sent = piece.send(socket)?;
        if piece.is_empty() {
            pieces.pop_front();
        }
        Ok(sent)
    }
}

/// A connection that sends files where their stand-ins are written.
#[derive(Debug)]
pub(super) struct FileTransport {
    socket: TcpStream,
    lane: FileLane,
}

impl FileTransport {
    pub(super) const fn new(socket: TcpStream, lane: FileLane) -> Self {
        Self { socket, lane }
    }

    fn poll_send(
        &self,
        context: &mut Context<'_>,
        mut send: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_write_ready(context))?;
            match self.socket.try_io(Interest::WRITABLE, || send(&self.socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

/// Whether `slice` is one of a stand-in.
fn is_stand_in(slice: &[u8]) -> bool {
    let Range { start, end } = REGION.as_ptr_range();
    (start..end).contains(&slice.as_ptr()) && !slice.is_empty()
}

impl AsyncRead for FileTransport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for FileTransport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match slices.iter().position(|slice| is_stand_in(slice)) {
            None => Pin::new(&mut self.socket).poll_write_vectored(context, slices),
            Some(0) => {
                self.poll_send(context, |socket| self.lane.send_first(slices[0].len(), socket))
            }
            // The file follows at once, and belongs into the same packet.
            Some(first) => self.poll_send(context, |socket| {
                let mut nothing = SendAncillaryBuffer::new(&mut [] as &mut [MaybeUninit<u8>]);
                Ok(sendmsg(socket, &slices[..first], &mut nothing, SendFlags::MORE)?)
            }),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::{
        runtime::ByteBudget,
        storage::{ObjectBytes, Storage, fs::Directory},
    };

    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(connecting, listener.accept());
        (accepted.unwrap().0, client.unwrap())
    }

    /// The pieces of a stored file with these bytes.
    async fn pieces(bytes: &Bytes) -> Vec<FilePiece> {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(folder.path().into(), ByteBudget::new(1 << 20)).unwrap();
        let key = "a/file".parse().unwrap();
        directory.put(&key, bytes.clone()).await.unwrap();
        let ObjectBytes::File(file) = directory.open(&key, None).await.unwrap().bytes else {
            panic!("a large object of a directory is a file");
        };
        file.into_bytes().pieces().try_collect().await.unwrap()
    }

    fn pattern(length: usize) -> Bytes {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    #[tokio::test]
    async fn files_are_sent_where_their_stand_ins_are_written() {
        let bytes = pattern((2 << 20) + 77);
        let (socket, mut client) = connection().await;
        let lane = FileLane::default();
        let mut transport = FileTransport::new(socket, lane.clone());
        let pieces = pieces(&bytes).await;
        let reading = tokio::spawn(async move {
            let mut received = Vec::new();
            client.read_to_end(&mut received).await.unwrap();
            received
        });
        for piece in pieces {
            let text = |text| Data::from(Bytes::from_static(text));
            let mut data = text(b"<").chain(lane.send(piece)).chain(text(b">"));
            transport.write_all_buf(&mut data).await.unwrap();
        }
        transport.shutdown().await.unwrap();
        drop(transport);
        let framed = |piece: &[u8]| [b"<", piece, b">"].concat();
        let expected: Vec<u8> = bytes.chunks(1 << 20).flat_map(framed).collect();
        assert!(reading.await.unwrap() == expected, "other bytes than those of the file");
    }

    #[tokio::test]
    async fn a_stand_in_without_its_file_is_an_error() {
        let (socket, _client) = connection().await;
        let mut transport = FileTransport::new(socket, FileLane::default());
        let error = transport.write_all_buf(&mut Data(Kind::StandIn(5))).await.unwrap_err();
        assert!(error.to_string().contains("no file"), "{error}");
    }

    #[tokio::test]
    async fn a_stand_in_cannot_be_copied() {
        let piece = pieces(&pattern(100_000)).await.remove(0);
        let stand_in = FileLane::default().send(piece);
        assert_eq!((stand_in.remaining(), stand_in.chunk()), (100_000, [].as_slice()));
    }
}
