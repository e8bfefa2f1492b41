//! The task that keeps up to date who there is.

use std::{fmt, net::SocketAddr, sync::Arc};

use tokio::sync::mpsc;

use super::{
    Ask, Shared,
    asking::{Asking, until},
    discovery::{Discovery, Found, Scene},
};
use crate::{cluster::Hello, runtime::Shutdown};

/// What was found and not yet taken down.
const FOUND_AHEAD: usize = 4;

/// A node that is ready to find the others; see [`Joined::run`].
#[must_use = "nobody is found until it runs"]
pub struct Joined {
    shared: Arc<Shared>,
    discovery: Box<dyn Discovery>,
    asking: Asking,
}

/// Something that happened.
enum Event {
    Shutdown,
    Found(Found),
    Asked(SocketAddr, Option<Hello>),
    Look,
    Time,
}

impl Joined {
    pub(super) fn new(shared: Arc<Shared>, discovery: Box<dyn Discovery>, ask: Ask) -> Self {
        let asking = Asking::new(ask, shared.pace);
        Self { shared, discovery, asking }
    }

    /// Finds other nodes and keeps [`super::Members`] up to date until the shutdown begins.
    ///
    /// # Cancel safety
    /// May be dropped at any time: what was known stays as it is.
    pub async fn run(self, shutdown: Shutdown) {
        let (sender, found) = mpsc::channel(FOUND_AHEAD);
        let scene = Scene {
            found: sender,
            hello: self.shared.hello.subscribe(),
            looks: self.shared.looks.subscribe(),
            shutdown: shutdown.clone(),
        };
        let keeping = keep(self.shared, self.asking, found, shutdown);
        tokio::join!(self.discovery.run(scene), keeping);
    }
}

/// Takes down who is heard.
async fn keep(
    shared: Arc<Shared>,
    mut asking: Asking,
    mut found: mpsc::Receiver<Found>,
    shutdown: Shutdown,
) {
    let mut looks = shared.looks.subscribe();
    let mut next = shared.change(|_, _| {});
    loop {
        let event = tokio::select! {
            () = shutdown.begun() => Event::Shutdown,
            Some(found) = found.recv() => Event::Found(found),
            (place, hello) = asking.next() => Event::Asked(place, hello),
            Ok(()) = looks.changed() => Event::Look,
            () = until(next) => Event::Time,
        };
        next = shared.change(|book, now| match event {
            Event::Found(Found::Places(places)) => {
                let own = book.own().peer.address;
                asking.set_places(places.into_iter().filter(|place| *place != own));
            }
            Event::Found(Found::Nodes(nodes)) => {
                nodes.into_iter().for_each(|said| book.heard(said.peer.address, said, now));
            }
            Event::Asked(place, Some(hello)) => book.heard(place, hello.into(), now),
            Event::Look => asking.hurry(),
            Event::Asked(_, None) | Event::Time | Event::Shutdown => {}
        });
        if shutdown.has_begun() {
            return;
        }
    }
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined").finish_non_exhaustive()
    }
}
