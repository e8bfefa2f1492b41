//! Nodes that are listed, or that DNS lists.

use std::{collections::BTreeSet, net::SocketAddr};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use tokio::time;

use super::{
    discovery::{Discovery, Found, Scene},
    pace::{Pace, jittered},
    resolve::{Resolve, ResolveError, addresses},
};
use crate::cluster::Place;

/// Names that are looked up at once.
const AT_ONCE: usize = 16;

/// Addresses that are told.
const ADDRESSES_MOST: usize = 4096;

/// Finds the addresses that names have, now and later. While DNS does not know a name, or does not answer, the addresses
/// that it had last are believed: who is not there any more does not answer.
pub(super) struct Names {
    names: Vec<Named>,
    resolve: Resolve,
    pace: Pace,
}

/// A name and its addresses.
struct Named {
    place: Place,
    addresses: BTreeSet<SocketAddr>,
    /// Whether the last look brought nothing, which is told once.
    is_failing: bool,
}

impl Names {
    pub(super) fn new(places: Vec<Place>, pace: Pace) -> Self {
        Self::with(places, Resolve::as_the_system(), pace)
    }

    fn with(places: Vec<Place>, resolve: Resolve, pace: Pace) -> Self {
        let named = |place| match place {
            Place::Address(address) => {
                Named { addresses: [address].into(), place, is_failing: false }
            }
            Place::Host { .. } | Place::Service { .. } => {
                Named { addresses: BTreeSet::new(), place, is_failing: false }
            }
        };
        Self { names: places.into_iter().map(named).collect(), resolve, pace }
    }

    /// All addresses, in order.
    fn addresses(&self) -> Vec<SocketAddr> {
        let all: BTreeSet<SocketAddr> =
            self.names.iter().flat_map(|named| &named.addresses).copied().collect();
        all.into_iter().take(ADDRESSES_MOST).collect()
    }

    /// Looks all names up again.
    async fn look(&mut self) {
        if self.names.iter().all(Named::is_fixed) {
            return;
        }
        let resolver = match self.resolve.resolver().await {
            Ok(resolver) => resolver,
            Err(error) => {
                let names = self.names.iter_mut().filter(|named| !named.is_fixed());
                names.for_each(|named| named.failed(&error));
                return;
            }
        };
        let wait = self.pace.resolve;
        let names = self.names.iter().enumerate().filter(|(_, named)| !named.is_fixed());
        let places: Vec<_> = names.map(|(number, named)| (number, named.place.clone())).collect();
        let looks = stream::iter(places).map(|(number, place)| {
            let resolver = resolver.clone();
            async move {
                let found = time::timeout(wait, addresses(&resolver, &place)).await;
                (number, found.unwrap_or(Err(ResolveError::TimedOut)))
            }
        });
        let looks: Vec<_> = looks.buffer_unordered(AT_ONCE).collect().await;
        looks.into_iter().for_each(|(number, found)| self.names[number].looked(found));
        if self.is_failing() {
            self.resolve.renew();
        }
    }

    fn is_failing(&self) -> bool {
        self.names.iter().any(|named| named.is_failing)
    }
}

impl Named {
    const fn is_fixed(&self) -> bool {
        matches!(self.place, Place::Address(_))
    }

    fn looked(&mut self, found: Result<BTreeSet<SocketAddr>, ResolveError>) {
        match found {
            Ok(addresses) => {
                if self.is_failing {
                    tracing::info!(name = %self.place, "DNS knows the name of nodes again");
                }
                self.is_failing = false;
                self.addresses = addresses;
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &ResolveError) {
        if !self.is_failing {
            tracing::warn!(name = %self.place, known = self.addresses.len(), %error, "the name of nodes cannot be looked up");
        }
        self.is_failing = true;
    }
}

#[async_trait]
impl Discovery for Names {
    async fn run(mut self: Box<Self>, mut scene: Scene) {
        let mut told: Option<Vec<SocketAddr>> = None;
        loop {
            tokio::select! {
                () = scene.shutdown.begun() => return,
                () = self.look() => {}
            }
            let addresses = self.addresses();
            // What is missing may be all there is.
            let is_known = told.is_some() || !self.is_failing() || !addresses.is_empty();
            if is_known && told.as_ref() != Some(&addresses) {
                if scene.found.send(Found::Places(addresses.clone())).await.is_err() {
                    return;
                }
                told = Some(addresses);
            }
            tokio::select! {
                () = scene.shutdown.begun() => return,
                () = time::sleep(jittered(self.pace.resolve_again)) => {}
                Ok(()) = scene.looks.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        sync::{mpsc, watch},
        task::JoinHandle,
    };

    use super::{super::resolve::tests::Dns, *};
    use crate::{
        cluster::{Epoch, Hello, NodeId, NodeState, Peer},
        runtime::Shutdown,
    };

    /// Longer than anything may take.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Names that are looked up again and again.
    struct Looking {
        found: mpsc::Receiver<Found>,
        looks: watch::Sender<u64>,
        shutdown: Shutdown,
        task: JoinHandle<()>,
    }

    impl Looking {
        /// Looks again after this time, and sooner only if it is told to.
        fn start(places: Vec<Place>, resolve: Resolve, again: Duration) -> Self {
            let pace = Pace { resolve_again: again, ..Pace::usual(Duration::ZERO) };
            let names = Box::new(Names::with(places, resolve, pace));
            let peer = Peer { id: NodeId::new(1), address: ([127, 0, 0, 1], 1).into() };
            let state = NodeState::Serving;
            let hello = Hello { peer, weight: 1, state, epoch: Epoch::new(0) };
            let (found_sender, found) = mpsc::channel(1);
            let (looks, shutdown) = (watch::Sender::new(0), Shutdown::new());
            let scene = Scene {
                found: found_sender,
                hello: watch::channel(hello).1,
                looks: looks.subscribe(),
                shutdown: shutdown.clone(),
            };
            Self { found, looks, shutdown, task: tokio::spawn(names.run(scene)) }
        }

        async fn next(&mut self) -> Vec<String> {
            let found = tokio::time::timeout(PATIENCE, self.found.recv()).await;
            let Ok(Some(Found::Places(places))) = found else { panic!("{found:?}") };
            places.iter().map(SocketAddr::to_string).collect()
        }

        async fn stop(self) {
            self.shutdown.begin();
            tokio::time::timeout(PATIENCE, self.task).await.expect("it ends").unwrap();
        }
    }

    fn host(name: &str) -> Place {
        Place::Host { name: name.to_owned(), port: 7 }
    }

    #[tokio::test]
    async fn addresses_are_told_as_they_are() {
        let place = |text: &str| Place::Address(text.parse().unwrap());
        let places = vec![place("10.0.0.2:1"), place("10.0.0.1:1"), place("10.0.0.2:1")];
        let mut looking = Looking::start(places, Resolve::as_the_system(), PATIENCE);
        assert_eq!(looking.next().await, ["10.0.0.1:1", "10.0.0.2:1"]);
        looking.stop().await;
    }

    #[tokio::test]
    async fn a_name_is_looked_up_again_and_what_was_known_holds_while_dns_fails() {
        let dns = Dns::start().await;
        dns.set_host("pond.test.", &["10.0.0.1", "10.0.0.2"]);
        let again = Duration::from_millis(20);
        let mut looking = Looking::start(vec![host("pond.test")], dns.resolve(), again);
        assert_eq!(looking.next().await, ["10.0.0.1:7", "10.0.0.2:7"]);
        dns.set_host("pond.test.", &["10.0.0.2", "10.0.0.3"]);
        assert_eq!(looking.next().await, ["10.0.0.2:7", "10.0.0.3:7"]);
        // Neither silence nor an empty answer is told: the next news is what comes afterwards.
        dns.set_silent(true);
        dns.has_been_asked().await;
        dns.set_silent(false);
        dns.set_host("pond.test.", &[]);
        dns.has_been_asked().await;
        dns.set_host("pond.test.", &["10.0.0.4"]);
        assert_eq!(looking.next().await, ["10.0.0.4:7"]);
        looking.stop().await;
    }

    #[tokio::test]
    async fn who_disagrees_has_names_looked_up_at_once() {
        let dns = Dns::start().await;
        dns.set_host("pond.test.", &["10.0.0.1"]);
        let mut looking = Looking::start(vec![host("pond.test")], dns.resolve(), 10 * PATIENCE);
        assert_eq!(looking.next().await, ["10.0.0.1:7"]);
        dns.set_host("pond.test.", &["10.0.0.2"]);
        looking.looks.send_modify(|looks| *looks += 1);
        assert_eq!(looking.next().await, ["10.0.0.2:7"]);
        looking.stop().await;
    }

    #[tokio::test]
    async fn one_name_that_fails_hides_no_other() {
        let dns = Dns::start().await;
        dns.set_host("pond.test.", &["10.0.0.1"]);
        let places = vec![host("gone.test"), host("pond.test")];
        let mut looking = Looking::start(places, dns.resolve(), Duration::from_millis(20));
        assert_eq!(looking.next().await, ["10.0.0.1:7"]);
        dns.set_host("gone.test.", &["10.0.0.2"]);
        assert_eq!(looking.next().await, ["10.0.0.1:7", "10.0.0.2:7"]);
        looking.stop().await;
    }

    #[tokio::test]
    async fn nothing_is_told_before_something_is_known() {
        let dns = Dns::start().await;
        dns.set_silent(true);
        let again = Duration::from_millis(20);
        let mut looking = Looking::start(vec![host("pond.test")], dns.resolve(), again);
        dns.has_been_asked().await;
        dns.set_host("pond.test.", &["10.0.0.1"]);
        dns.set_silent(false);
        assert_eq!(looking.next().await, ["10.0.0.1:7"]);
        looking.stop().await;
    }
}
