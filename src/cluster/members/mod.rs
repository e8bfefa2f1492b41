//! Who there is: finds other nodes, hears of them, and says who owns things.

mod asking;
mod book;
mod discovery;
mod gossip;
mod joined;
mod names;
mod pace;
mod resolve;
mod signed;

use std::{
    error, fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{sync::watch, time::Instant};

pub use joined::Joined;

use self::{book::Book, pace::Pace};
use super::{Config, Epoch, Hello, NodeId, NodeState, Peer, View, Weight};

/// Why an address did not say who is there.
pub type AskError = Box<dyn error::Error + Send + Sync>;

/// Asks an address which node is there.
pub type Ask = Arc<dyn Fn(SocketAddr) -> BoxFuture<'static, Result<Hello, AskError>> + Send + Sync>;

/// Who there is, as one node knows it. Cloning shares it.
#[derive(Clone)]
pub struct Members(Arc<Shared>);

/// A node and what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The node.
    pub peer: Peer,
    /// The weight that it told.
    pub weight: Weight,
    /// What it said that it is about to do.
    pub state: NodeState,
    /// For how long nothing was heard of it; zero for this node.
    pub silent_for: Duration,
    /// Whether that is so long that it owns nothing any more.
    pub is_silent: bool,
}

/// Why a node cannot join the others.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// There is no cluster in the configuration.
    #[error("cluster.listen is not set")]
    NoCluster,
    /// The address for gossip cannot be used.
    #[error("cluster.gossip.listen: {address} cannot be listened on: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// What the handles and the task that keeps it up to date share.
struct Shared {
    book: Mutex<Book>,
    view: watch::Sender<Arc<View>>,
    hello: watch::Sender<Hello>,
    /// Counts how often others are to be looked for at once.
    looks: watch::Sender<u64>,
    /// How often the view has become one of another epoch.
    view_changes: AtomicU64,
    /// When they were looked for so.
    looked: Mutex<Option<Instant>>,
    pace: Pace,
}

impl Members {
    /// Joins the nodes that the configuration speaks of, as the node `id`. Nothing is done until [`Joined::run`] runs;
    /// until then this node owns everything, if it has a weight. Addresses are asked who is there by `ask`.
    ///
    /// # Errors
    /// [`JoinError`]: there is no cluster, or no address for gossip. That other nodes, DNS or the network are away is
    /// no error.
    pub async fn join(config: &Config, id: NodeId, ask: Ask) -> Result<(Self, Joined), JoinError> {
        Self::join_at(config, id, ask, Pace::usual(config.warm_up)).await
    }

    async fn join_at(
        config: &Config,
        id: NodeId,
        ask: Ask,
        pace: Pace,
    ) -> Result<(Self, Joined), JoinError> {
        let address = config.advertise.ok_or(JoinError::NoCluster)?;
        let discovery = discovery::open(&config.discovery, id, pace).await?;
        let book = Book::new(Peer { id, address }, config.weight, pace.patience, Instant::now());
        let shared = Arc::new(Shared::new(book, pace));
        let joined = Joined::new(Arc::clone(&shared), discovery, ask);
        Ok((Self(shared), joined))
    }

    /// Who owns things now. This node is among them if it does.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.0.view.borrow())
    }

    /// Tells whenever somebody else owns things, or is reached elsewhere.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<View>> {
        self.0.view.subscribe()
    }

    /// How often what each node owns has become something else since the start.
    #[must_use]
    pub fn view_changes(&self) -> u64 {
        self.0.view_changes.load(Ordering::Relaxed)
    }

    /// What this node says to those who ask who it is.
    #[must_use]
    pub fn hello(&self) -> Hello {
        *self.0.hello.borrow()
    }

    /// Says from now on that this node is about to end: it owns nothing any more. It is still to answer others, who learn
    /// of it when they ask next, or are told.
    pub fn drain(&self) {
        self.0.change(|book, _| book.drain());
    }

    /// Another node has said this of itself without being asked, such as that it is about to end.
    pub fn told(&self, hello: Hello) {
        self.0.change(|book, now| book.heard(hello.peer.address, hello.into(), now));
    }

    /// Another node told this epoch. If this node has another one, it looks at once who there is, though not more than
    /// once in a second.
    pub fn disagrees(&self, epoch: Epoch) {
        if epoch != self.hello().epoch {
            self.0.look();
        }
    }

    /// Everybody this node knows, also who was not heard for up to ten minutes; this node first, the others by their
    /// ids.
    #[must_use]
    pub fn all(&self) -> Vec<Known> {
        let book = self.0.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.all(Instant::now())
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members")
            .field("hello", &self.hello())
            .field("view", &self.view())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn new(mut book: Book, pace: Pace) -> Self {
        let now = Instant::now();
        book.settle(now);
        let view = View::new(book.owners(now));
        let hello = hello(&book, view.epoch());
        Self {
            book: Mutex::new(book),
            view: watch::Sender::new(Arc::new(view)),
            hello: watch::Sender::new(hello),
            looks: watch::Sender::new(0),
            view_changes: AtomicU64::new(0),
            looked: Mutex::new(None),
            pace,
        }
    }

    /// Changes what is known, and tells everybody what follows. Returns when it is to be looked at again, if nothing
    /// happens until then.
    fn change(&self, change: impl FnOnce(&mut Book, Instant)) -> Option<Instant> {
        let now = Instant::now();
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut book, now);
        book.settle(now);
        // With the book still locked, so that the last one to tell knows all.
        self.publish(&book, now);
        book.next_change(now)
    }

    fn publish(&self, book: &Book, now: Instant) {
        let owners = book.owners(now);
        self.view.send_if_modified(|view| {
            let is_new = view.members() != owners;
            if is_new {
                let new = View::new(owners);
                let is_other = u64::from(new.epoch() != view.epoch());
                self.view_changes.fetch_add(is_other, Ordering::Relaxed);
                *view = Arc::new(new);
                tracing::info!(owners = view.members().len(), epoch = %view.epoch(), "who owns things has changed");
            }
            is_new
        });
        let new = hello(book, self.view.borrow().epoch());
        self.hello.send_if_modified(|hello| std::mem::replace(hello, new) != new);
    }

    /// Has others looked for at once, unless that was done lately.
    fn look(&self) {
        let now = Instant::now();
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_none_or(|before| now >= before + self.pace.look_again) {
            *looked = Some(now);
            self.looks.send_modify(|looks| *looks = looks.wrapping_add(1));
        }
    }
}

fn hello(book: &Book, epoch: Epoch) -> Hello {
    let own = book.own();
    Hello { peer: own.peer, weight: own.weight, state: own.state, epoch }
}

#[cfg(test)]
mod tests;
