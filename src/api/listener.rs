//! Accepting connections and speaking HTTP on them.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response, Version};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::SockRef;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::server::TlsStream;

use super::{
    body::Body,
    sendfile::{FileLane, FileTransport},
    stall::{StallGuard, Streams},
    tls::Transport,
};
use crate::runtime::{ByteSize, Shutdown, Tasks};

/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;

/// How often an idle HTTP/2 peer is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long accepting pauses when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bytes that wait in the kernel for their turn to be sent, beside those that are on their way. Without this limit,
/// a thousand clients that read slowly had 2 GiB there. With half of it one quick client got blobs of 16 MiB at 0.81
/// of nginx' speed, instead of 0.95; with twice as much 64 of them did, at 0.97 instead of 1.07.
pub(super) const UNSENT_BYTES: u32 = 512 << 10;

/// Bytes that are encrypted, and sent, at once: those of a large piece. With a quarter of it, which is what rustls has,
/// the kernel is called four times as often. Who has stopped reading keeps so many in memory, unpaid for, beside
/// [`UNSENT_BYTES`] in the kernel.
const SEALED_BYTES: usize = 256 << 10;

/// First byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// What Go's server says, and what clients recognise. They try TLS first on registries they were told are
/// insecure, and a connection that is merely closed confuses some of them.
const PLAIN_HTTP_HERE: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n";

/// The same for the other mistake. Whoever reads it is more likely a person.
const TLS_HERE: &[u8] = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n\
    Client sent an HTTP request to an HTTPS server; use https.\n";

/// How long a client that was told of its mistake may go on sending, and how many bytes: what it sent has to be
/// read, or the system tells it of a broken connection before it has read what it was told.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES: u64 = 1 << 20;

/// Limits on connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; further ones wait to be accepted. Default: 4096.
    pub connections: usize,
    /// Bytes of a request's line and headers together, and of a body that are read at once. Default:
    /// 64 KiB.
    pub header_max: ByteSize,
    /// Time for a request's headers to arrive, counted from the end of the request before; so it also
    /// bounds how long a connection may be idle. A TLS handshake and the first byte after it have the same
    /// time. Default: 75 s.
    pub header_timeout: Duration,
    /// No progress in sending for this long ends the connection. Default: 2 min.
    pub write_timeout: Duration,
    /// Bytes that wait in the kernel for their turn to be sent, beside those that are on their way. Not configured:
    /// [`UNSENT_BYTES`] for clients.
    pub unsent_bytes: u32,
}

/// Something that answers requests.
pub trait Service: Send + Sync + 'static {
    /// Answers one request of the client at `peer`.
    fn call(
        self: Arc<Self>,
        peer: SocketAddr,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// Put into requests that came over TLS.
#[derive(Clone, Copy, Debug)]
pub(super) struct OverTls;

/// A bound socket whose connections are served by a [`Service`].
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    transport: Transport,
    limits: Limits,
}

impl Listener {
    /// Binds `address`. Connections begin as `transport` says; they wait in the backlog until
    /// [`Listener::serve`].
    ///
    /// # Errors
    /// As binding fails: the address is in use, or is not one of this machine's.
    pub async fn bind(
        address: SocketAddr,
        transport: Transport,
        limits: Limits,
    ) -> io::Result<Self> {
        Ok(Self { socket: TcpListener::bind(address).await?, transport, limits })
    }

    /// The address that was bound, with the port the system chose if it was asked to.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `shutdown`, then stops accepting and returns. Connections end in `tasks`, each after the
    /// request it is in.
    pub async fn serve<S: Service>(self, service: Arc<S>, tasks: Tasks, shutdown: Shutdown) {
        let free = Arc::new(Semaphore::new(self.limits.connections));
        loop {
            let accepted = tokio::select! {
                () = shutdown.begun() => return,
                accepted = self.accept(&free) => accepted,
            };
            let (stream, peer, permit) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let connection = Connection {
                peer,
                transport: self.transport.clone(),
                limits: self.limits,
                shutdown: shutdown.clone(),
            };
            let service = Arc::clone(&service);
            tasks.spawn("connection", async move {
                connection.serve(stream, service).await;
                drop(permit);
            });
        }
    }

    async fn accept(
        &self,
        free: &Arc<Semaphore>,
    ) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
        let permit = Arc::clone(free).acquire_owned().await;
        let permit = permit.expect("the semaphore of a listener is never closed");
        let (stream, peer) = self.socket.accept().await?;
        Ok((stream, peer, permit))
    }
}

/// A connection whose client has begun to speak.
enum Begun {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// The client speaks something else than this listener, and is to be told so.
    Mistaken(TcpStream, &'static [u8]),
}

/// What the requests of a connection are told about it.
enum Carrier {
    Plain(FileLane),
    Tls,
}

impl Carrier {
    fn mark(&self, request: &mut Request<Incoming>) {
        match self {
            Self::Plain(lane) if request.version() <= Version::HTTP_11 => {
                request.extensions_mut().insert(lane.clone());
            }
            // In the frames of HTTP/2 there is no place for a file.
            Self::Plain(_) => {}
            Self::Tls => {
                request.extensions_mut().insert(OverTls);
            }
        }
    }
}

/// Tells a client of its mistake, and no more.
async fn refuse(mut stream: TcpStream, told: &[u8]) {
    let tell = async {
        stream.write_all(told).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(FAREWELL_BYTES), &mut tokio::io::sink()).await
    };
    let _client_may_have_gone = tokio::time::timeout(FAREWELL, tell).await;
}

struct Connection {
    peer: SocketAddr,
    transport: Transport,
    limits: Limits,
    shutdown: Shutdown,
}

impl Connection {
    async fn serve<S: Service>(&self, stream: TcpStream, service: Arc<S>) {
        // Answers are written whole; waiting for more to fill a packet only adds delay.
        let unsent = SockRef::from(&stream).set_tcp_notsent_lowat(self.limits.unsent_bytes);
        if unsent.and_then(|()| stream.set_nodelay(true)).is_err() {
            return;
        }
        let begun = tokio::select! {
            () = self.shutdown.begun() => return,
            begun = tokio::time::timeout(self.limits.header_timeout, self.begin(stream)) => begun,
        };
        let begun = begun.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
        match begun {
            Ok(Begun::Plain(stream)) => {
                let lane = FileLane::default();
                let io = FileTransport::new(stream, lane.clone());
                self.speak(io, Carrier::Plain(lane), service).await;
            }
            Ok(Begun::Tls(stream)) => self.speak(stream, Carrier::Tls, service).await,
            Ok(Begun::Mistaken(stream, told)) => refuse(stream, told).await,
            Err(error) => {
                tracing::debug!(peer = %self.peer, %error, "a connection ended before its first request");
            }
        }
    }

    /// Waits until the client has begun to speak, and makes the handshake.
    async fn begin(&self, stream: TcpStream) -> io::Result<Begun> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match (&self.transport, first == [TLS_HANDSHAKE]) {
            (Transport::Plain, false) => Ok(Begun::Plain(stream)),
            (Transport::Plain, true) => Ok(Begun::Mistaken(stream, PLAIN_HTTP_HERE)),
            (Transport::Tls(_), false) => Ok(Begun::Mistaken(stream, TLS_HERE)),
            (Transport::Tls(handshakes), true) => {
                let acceptor = handshakes.acceptor();
                let accepted =
                    acceptor.accept_with(stream, |tls| tls.set_buffer_limit(Some(SEALED_BYTES)));
                let mut stream = Box::new(accepted.await?);
                // hyper waits for the first byte without a limit.
                stream.fill_buf().await?;
                Ok(Begun::Tls(stream))
            }
        }
    }

    /// Answers requests until the connection ends, or the process.
    async fn speak<S: Service>(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        carrier: Carrier,
        service: Arc<S>,
    ) {
        let peer = self.peer;
        let streams = Streams::default();
        let of_connection = streams.clone();
        let answer = service_fn(move |mut request: Request<Incoming>| {
            let service = Arc::clone(&service);
            carrier.mark(&mut request);
            let stream = (request.version() == Version::HTTP_2).then(|| of_connection.add());
            async move {
                let mut response = service.call(peer, request).await;
                if let Some(stream) = stream {
                    response.body_mut().wait_as(stream);
                }
                Ok::<_, Infallible>(response)
            }
        });
        let builder = self.builder();
        let io = TokioIo::new(StallGuard::new(io, self.limits.write_timeout));
        let mut connection = std::pin::pin!(builder.serve_connection(io, answer));
        let served = async {
            let ended = tokio::select! {
                ended = connection.as_mut() => Some(ended),
                () = self.shutdown.begun() => None,
            };
            match ended {
                Some(ended) => ended,
                None => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };
        tokio::select! {
            ended = served => if let Err(error) = ended {
                tracing::debug!(peer = %self.peer, %error, "a connection ended in an error");
            },
            // What its streams hold is given back when the connection is dropped.
            () = streams.stalled(self.limits.write_timeout) => {
                tracing::debug!(peer = %self.peer, "a client has stopped taking a stream");
            }
        }
    }

    fn builder(&self) -> auto::Builder<TokioExecutor> {
        let header_max = usize::try_from(self.limits.header_max.0).unwrap_or(usize::MAX);
        let mut builder = auto::Builder::new(TokioExecutor::new());
        // A request has at most the 100 headers that are hyper's own limit: for any other, hyper allocates and fills
        // 8 KiB with each request.
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(header_max)
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .max_header_list_size(u32::try_from(header_max).unwrap_or(u32::MAX))
            .max_concurrent_streams(STREAMS_MAX);
        builder
    }
}
