//! A node as others see it, which answers as the number of a part says.

use std::{
    fs::File,
    io::Write,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use millpond::{
    api::{Listener, PEER_LIMITS, PartError, PartStream, PeerFace, PeerHandler, Transport},
    cluster::{
        Epoch, NodeId, Peer,
        exchange::Role,
        wire::{Answer, Ask, CallAnswer, PartKind, PartName, PeerClient, SharedSecret, Trust},
    },
    oci::{Algorithm, Digest},
    runtime::{ByteBudget, FilePiece, Secret, Shutdown, Tasks},
};

/// Nothing here takes longer, however busy the machine is.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Length of the part that is there.
pub(crate) const PART_BYTES: u64 = (3 << 20) + 77;

/// Bytes of one piece of it.
const PIECE_BYTES: u64 = 1 << 20;

/// Length of the blob of which it is a part.
pub(crate) const BLOB_BYTES: u64 = 100 << 20;

/// What is answered to who asks for the part with this number.
pub(crate) const THERE: u64 = 0;
pub(crate) const REFERRED: u64 = 1;
pub(crate) const BUSY: u64 = 2;
pub(crate) const UNKNOWN: u64 = 3;
pub(crate) const FAILED: u64 = 4;
pub(crate) const FAILED_FOR_GOOD: u64 = 5;
/// It breaks off after the first piece.
pub(crate) const BREAKING: u64 = 6;
/// The first byte never comes.
pub(crate) const LATE: u64 = 7;
/// There is never an answer.
pub(crate) const SILENT: u64 = 8;
pub(crate) const PASSED: u64 = 10;
/// It is there and has no bytes.
pub(crate) const EMPTY: u64 = 9;

/// Answers, and counts how often it is asked.
pub(crate) struct Script {
    file: Arc<File>,
    pub(crate) asked: AtomicUsize,
}

/// A node that can be asked until it is dropped.
pub(crate) struct TestPeer {
    pub(crate) peer: Peer,
    pub(crate) script: Arc<Script>,
    shutdown: Shutdown,
    tasks: Tasks,
}

pub(crate) fn part_bytes() -> Vec<u8> {
    (0..PART_BYTES).map(|at| (at % 251) as u8).collect()
}

pub(crate) fn table() -> Bytes {
    Bytes::from(vec![7; 200_000])
}

pub(crate) fn node(number: u128, address: SocketAddr) -> Peer {
    Peer { id: NodeId::new(number), address }
}

impl Script {
    fn new() -> Arc<Self> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&part_bytes()).unwrap();
        Arc::new(Self { file: Arc::new(file), asked: AtomicUsize::new(0) })
    }

    fn pieces(
        &self,
        offset: u64,
    ) -> impl Iterator<Item = Result<FilePiece, PartError>> + Send + use<> {
        let file = Arc::clone(&self.file);
        let starts = (offset..PART_BYTES).step_by(PIECE_BYTES as usize);
        starts.map(move |start| {
            let end = PART_BYTES.min(start + PIECE_BYTES);
            Ok(FilePiece::new(Arc::clone(&file), start..end))
        })
    }

    fn part(&self, ask: &Ask, number: u64) -> Answer<PartStream> {
        let pieces = stream::iter(self.pieces(ask.offset));
        let broken = || Err(PartError::from("the node before it has gone"));
        let pieces = match number {
            BREAKING => pieces.take(1).chain(stream::iter([broken()])).boxed(),
            LATE => stream::pending().boxed(),
            EMPTY => stream::empty().boxed(),
            _ => pieces.boxed(),
        };
        let length = if number == EMPTY { 0 } else { PART_BYTES - ask.offset };
        Answer::Bytes { blob_bytes: BLOB_BYTES, length, body: PartStream::Pieces(pieces) }
    }
}

impl PeerHandler for Script {
    async fn ask(&self, ask: Ask) -> Answer<PartStream> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let PartKind::Part(number) = ask.part.kind else {
            let body = table().slice(ask.offset as usize..);
            let length = body.len() as u64;
            let body = PartStream::Bytes(body);
            return Answer::Bytes { blob_bytes: BLOB_BYTES, length, body };
        };
        match number {
            REFERRED => Answer::Refer { peers: referred(&ask) },
            BUSY => Answer::Busy { after: Duration::from_millis(250) },
            PASSED => Answer::Pass,
            UNKNOWN => Answer::Unknown,
            FAILED => Answer::Failed { is_retryable: true },
            FAILED_FOR_GOOD => Answer::Failed { is_retryable: false },
            SILENT => std::future::pending().await,
            _ => self.part(&ask, number),
        }
    }

    async fn call(&self, name: &str, question: Bytes) -> CallAnswer {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match name {
            "echo" => CallAnswer::Answered(question),
            "large" => CallAnswer::Answered(vec![1; 16 << 20].into()),
            "too-large" => CallAnswer::Answered(vec![1; (16 << 20) + 1].into()),
            "busy" => CallAnswer::Busy { after: Duration::from_secs(3) },
            "failed" => CallAnswer::Failed { is_retryable: true },
            _ => CallAnswer::Unknown,
        }
    }

    fn hello(&self) -> Bytes {
        Bytes::from_static(br#"{"weight":1}"#)
    }

    fn node(&self) -> (NodeId, Epoch) {
        (NodeId::new(1), Epoch::new(0xe))
    }
}

/// Whom the node refers to: who asked, so that it can be seen that this has arrived, and those to be avoided.
pub(crate) fn referred(ask: &Ask) -> Vec<Peer> {
    let avoided = ask.avoid.iter().map(|id| Peer { id: *id, address: ask.from.address });
    std::iter::once(ask.from).chain(avoided).collect()
}

impl TestPeer {
    pub(crate) async fn start(trust: &Trust) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), trust).await
    }

    pub(crate) async fn start_at(address: SocketAddr, trust: &Trust) -> Self {
        let transport = match trust {
            Trust::Loopback | Trust::Secret(_) => Transport::Plain,
            Trust::Certificates(certificates) => Transport::tls(certificates.server()),
        };
        let listener = Listener::bind(address, transport, PEER_LIMITS).await.unwrap();
        let (tasks, shutdown, script) = (Tasks::new(), Shutdown::new(), Script::new());
        let peer = node(1, listener.address().unwrap());
        let budget = ByteBudget::new(64 << 20);
        let face = PeerFace::new(Arc::clone(&script), trust, budget, tasks.clone());
        tasks.spawn("peers", listener.serve(face, tasks.clone(), shutdown.clone()));
        Self { peer, script, shutdown, tasks }
    }

    /// Ends it, and waits until nothing of it is left.
    pub(crate) async fn stop(self) {
        self.shutdown.begin();
        assert_eq!(self.tasks.finish(DEADLINE).await, 0, "everything ends");
    }

    pub(crate) fn asked(&self) -> usize {
        self.script.asked.load(Ordering::SeqCst)
    }
}

impl Drop for TestPeer {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

pub(crate) fn secret(text: &str) -> Trust {
    let secret = Secret::new(format!("a secret of these nodes: {text}"));
    Trust::Secret(SharedSecret::new(&secret).unwrap())
}

pub(crate) fn client(trust: &Trust) -> PeerClient {
    PeerClient::new(trust.clone(), DEADLINE, Tasks::new())
}

pub(crate) fn ask(number: u64) -> Ask {
    Ask {
        part: PartName {
            digest: Digest::of(Algorithm::Sha256, b"a blob"),
            kind: PartKind::Part(number),
        },
        from: node(2, "10.0.0.2:5003".parse().unwrap()),
        role: Role::Owner,
        offset: 0,
        hop: 1,
        load: 3,
        rate: 4,
        avoid: vec![NodeId::new(8)],
        is_served: true,
        epoch: Epoch::new(0xf),
        blob_bytes: Some(BLOB_BYTES),
        origin: None,
    }
}

/// For the table of the same blob.
pub(crate) fn ask_table() -> Ask {
    let part = PartName { kind: PartKind::Table, ..ask(0).part };
    Ask { part, ..ask(0) }
}
