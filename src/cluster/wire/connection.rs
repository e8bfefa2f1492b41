//! Connections to other nodes, which are used again.

use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use super::{Error, Trust, error::interrupted};
use crate::runtime::Tasks;

/// How long a node may take to accept a connection. The kernel does that, also for a process that is busy.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections to one node that are kept while nobody uses them.
const IDLE_MOST: usize = 8;

/// How long they are kept: less than the other side keeps them.
const IDLE_TIME: Duration = Duration::from_secs(20);

/// Nodes to which connections are kept.
const NODES_MOST: usize = 4096;

/// Connections by where they lead to. Cloning shares them.
#[derive(Clone)]
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    trust: Trust,
    tasks: Tasks,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    by_node: HashMap<SocketAddr, Vec<(Line, Instant)>>,
    /// Nothing is kept any more.
    is_closed: bool,
}

/// An end of a connection. The connection ends when it is dropped.
struct Line {
    sender: SendRequest<Full<Bytes>>,
    /// Why it has ended.
    ended: JoinHandle<hyper::Result<()>>,
}

/// A connection on which one request can be sent, or one answer is read. Dropping it ends the connection.
pub(super) struct Connection {
    line: Line,
    node: SocketAddr,
    connections: Connections,
}

impl Connections {
    pub(super) fn new(trust: Trust, tasks: Tasks) -> Self {
        Self(Arc::new(Shared { trust, tasks, idle: Mutex::default() }))
    }

    /// Ends those that nobody uses, and keeps none any more.
    pub(super) fn close(&self) {
        *self.idle() = Idle { by_node: HashMap::new(), is_closed: true };
    }

    /// Ends those to `node` that nobody uses.
    pub(super) fn forget(&self, node: SocketAddr) {
        let _ended = self.idle().by_node.remove(&node);
    }

    /// One that has been used before, if there is one.
    pub(super) async fn idle_to(&self, node: SocketAddr) -> Option<Connection> {
        loop {
            let (mut line, since) = self.idle().by_node.get_mut(&node)?.pop()?;
            // The last one was used last: if it is too old, so are all.
            if since.elapsed() > IDLE_TIME {
                self.forget(node);
                return None;
            }
            if line.sender.ready().await.is_ok() {
                let connections = self.clone();
                return Some(Connection { line, node, connections });
            }
        }
    }

    /// A new one.
    pub(super) async fn open(&self, node: SocketAddr) -> Result<Connection, Error> {
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(node)).await;
        let connected = connected.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
        // Questions are written whole; waiting for more to fill a packet only adds delay.
        let stream = connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let stream = stream.map_err(|source| Error::Connect { node, source })?;
        let line = match &self.0.trust {
            Trust::Loopback | Trust::Secret(_) => self.speak(node, stream).await?,
            Trust::Certificates(certificates) => {
                let connector = TlsConnector::from(certificates.client());
                let connecting = connector.connect(node.ip().into(), stream);
                let stream = connecting.await.map_err(|error| interrupted(node, error))?;
                self.speak(node, stream).await?
            }
        };
        Ok(Connection { line, node, connections: self.clone() })
    }

    async fn speak(
        &self,
        node: SocketAddr,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Line, Error> {
        let shaken = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| interrupted(node, error))?;
        // It ends when its sender and the body that is read are dropped.
        let ended = self.0.tasks.spawn("connection to a node", connection);
        Ok(Line { sender, ended })
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("trust", &self.0.trust).finish_non_exhaustive()
    }
}

impl Connection {
    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Error> {
        let sent = self.line.sender.send_request(request).await;
        match sent {
            Err(error) if error.is_canceled() => {
                // The connection has ended before, and its task knows why: a node that does not believe a certificate says
                // so when the handshake is over on this side.
                let ended = (&mut self.line.ended).await;
                let known = ended.ok().and_then(Result::err).unwrap_or(error);
                Err(interrupted(self.node, known))
            }
            sent => sent.map_err(|error| interrupted(self.node, error)),
        }
    }

    /// Its answer has been read to the end: somebody else may use it.
    pub(super) fn give_back(self) {
        let Self { line, node, connections } = self;
        let mut idle = connections.idle();
        if idle.is_closed || line.sender.is_closed() {
            return;
        }
        if idle.by_node.len() >= NODES_MOST && !idle.by_node.contains_key(&node) {
            idle.by_node.clear();
        }
        let to_node = idle.by_node.entry(node).or_default();
        if to_node.len() < IDLE_MOST {
            to_node.push((line, Instant::now()));
        }
    }
}
