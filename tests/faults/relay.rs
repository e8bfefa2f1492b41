//! Somebody before a node, by whom alone the others know it, and who does to what goes through what the test wants.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

use crate::{
    http::{self, Answers},
    network::{Network, Number},
};

/// Bytes that are passed on at once.
const PIECE_BYTES: usize = 64 << 10;

/// From one look whether a node that starts is there to the next.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What passes on to one address. It ends when it is dropped.
pub(crate) struct Relay {
    /// Where anybody may ask.
    address: SocketAddr,
    /// Where it is known who asks, by that.
    entrances: HashMap<Number, SocketAddr>,
    target: Arc<Target>,
    _serving: JoinSet<()>,
}

/// What is at the other end of a relay.
struct Target {
    address: SocketAddr,
    /// The node there; none if it is the storage.
    node: Option<Number>,
    /// Whether connections wait until somebody is there.
    is_awaited: AtomicBool,
}

/// One connection through a relay.
struct Passage {
    network: Network,
    from: Number,
    to: Option<Number>,
}

impl Relay {
    /// Passes on to a node what `askers` and others ask it.
    pub(crate) async fn to_node(
        network: &Network,
        (node, address): (Number, SocketAddr),
        askers: &[Number],
    ) -> Self {
        Self::to(network, (Some(node), address), askers).await
    }

    /// Passes on to the storage what a node asks it.
    pub(crate) async fn to_storage(network: &Network, node: Number, address: SocketAddr) -> Self {
        Self::to(network, (None, address), &[node]).await
    }

    async fn to(
        network: &Network,
        (node, address): (Option<Number>, SocketAddr),
        askers: &[Number],
    ) -> Self {
        let target = Arc::new(Target { address, node, is_awaited: AtomicBool::default() });
        let (mut serving, mut entrances) = (JoinSet::new(), HashMap::new());
        let mut open = async |asker| {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let own = listener.local_addr().expect("a bound port");
            serving.spawn(serve(network.clone(), (listener, asker), Arc::clone(&target)));
            own
        };
        for asker in askers {
            entrances.insert(*asker, open(Some(*asker)).await);
        }
        let address = open(None).await;
        Self { address, entrances, target, _serving: serving }
    }

    /// Where anybody may ask who says who it is.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where `asker` asks, and nobody else.
    pub(crate) fn entrance(&self, asker: Number) -> SocketAddr {
        self.entrances[&asker]
    }

    /// Whether connections wait until somebody is there to whom they can be passed on; else they end if nobody is.
    pub(crate) fn await_target(&self, is_awaited: bool) {
        self.target.is_awaited.store(is_awaited, Ordering::Relaxed);
    }
}

/// Passes on what comes to a listener: what `asker` asks there, or whoever it is.
async fn serve(
    network: Network,
    (listener, asker): (TcpListener, Option<Number>),
    target: Arc<Target>,
) {
    let own = listener.local_addr().expect("a bound port");
    let mut passages = JoinSet::new();
    while let Ok((near, far)) = listener.accept().await {
        passages.spawn(enter(network.clone(), (near, far, own), asker, Arc::clone(&target)));
        while passages.try_join_next().is_some() {}
    }
}

async fn enter(
    network: Network,
    (mut near, far, own): (TcpStream, SocketAddr, SocketAddr),
    asker: Option<Number>,
    target: Arc<Target>,
) {
    let mut first = vec![0; PIECE_BYTES];
    // Whoever has gone already wants nothing.
    let Ok(length @ 1..) = near.read(&mut first).await else { return };
    first.truncate(length);
    let from = match asker.or_else(|| http::asker(&first)) {
        Some(from) => from,
        None => match network.owner_of(far, own).await {
            Some(from) => from,
            None => return,
        },
    };
    let passage = Passage { network, from, to: target.node };
    passage.until_open().await;
    if let Some(mut far) = target.reach().await
        && far.write_all(&first).await.is_ok()
    {
        passage.pass(near, far).await;
    }
}

impl Target {
    async fn reach(&self) -> Option<TcpStream> {
        loop {
            match TcpStream::connect(self.address).await {
                Ok(far) => return Some(far),
                Err(_) if self.is_awaited.load(Ordering::Relaxed) => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(_) => return None,
            }
        }
    }
}

impl Passage {
    /// Passes on what both sides say, until one of them has ended.
    async fn pass(&self, near: TcpStream, far: TcpStream) {
        // What is passed on in pieces would wait for more to fill packets.
        let is_set = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
        is_set.expect("a socket can be told so");
        let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
        tokio::select! {
            () = self.pass_questions(from_near, to_far) => {}
            () = self.pass_answers(from_far, to_near) => {}
        }
    }

    async fn pass_questions(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            self.until_open().await;
            if to.write_all(&piece[..length]).await.is_err() {
                return;
            }
        }
    }

    async fn pass_answers(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let (mut piece, mut answers) = (vec![0; PIECE_BYTES], Answers::default());
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            self.until_open().await;
            self.network.carry(self.to, self.from, length).await;
            let place = self.to.and_then(|node| self.network.damaged(node));
            answers.follow(&mut piece[..length], place);
            if to.write_all(&piece[..length]).await.is_err() {
                return;
            }
        }
    }

    async fn until_open(&self) {
        if let Some(to) = self.to {
            self.network.until_open(self.from, to).await;
        }
    }
}
