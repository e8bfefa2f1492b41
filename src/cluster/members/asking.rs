//! Asks addresses who is there, again and again.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{self, Instant};

use super::{
    Ask, AskError,
    pace::{Pace, jittered},
};
use crate::cluster::Hello;

/// Questions that are under way at once.
const AT_ONCE: usize = 128;

/// Asks addresses who is there, again and again, each on its own, so that slow ones delay nobody.
pub(super) struct Asking {
    ask: Ask,
    pace: Pace,
    places: HashMap<SocketAddr, Turn>,
    /// The places that are to be asked, and when.
    due: BTreeSet<(Instant, SocketAddr)>,
    under_way: FuturesUnordered<BoxFuture<'static, Answer>>,
}

type Answer = (SocketAddr, Result<Hello, AskError>);

/// How far it is with one place.
struct Turn {
    /// When it is asked next; `None` while it is being asked.
    next: Option<Instant>,
    /// Whether the last question was answered.
    answers: bool,
}

/// Nothing came in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer came in time")]
struct TooSlow;

impl Asking {
    /// Asks nobody yet.
    pub(super) fn new(ask: Ask, pace: Pace) -> Self {
        let (places, due) = (HashMap::new(), BTreeSet::new());
        Self { ask, pace, places, due, under_way: FuturesUnordered::new() }
    }

    /// Asks these places from now on, and no others. New ones are asked at once.
    pub(super) fn set_places(&mut self, places: impl IntoIterator<Item = SocketAddr>) {
        let now = Instant::now();
        let places: BTreeSet<SocketAddr> = places.into_iter().collect();
        self.places.retain(|place, _| places.contains(place));
        self.due.retain(|(_, place)| places.contains(place));
        for place in places {
            self.places.entry(place).or_insert_with(|| {
                self.due.insert((now, place));
                Turn { next: Some(now), answers: false }
            });
        }
    }

    /// Asks everybody at once who is not being asked.
    pub(super) fn hurry(&mut self) {
        let now = Instant::now();
        for (place, turn) in &mut self.places {
            if let Some(next) = turn.next.filter(|next| *next > now) {
                self.due.remove(&(next, *place));
                self.due.insert((now, *place));
                turn.next = Some(now);
            }
        }
    }

    /// The next place that was asked and is still to be asked, and its answer, if it gave one. Pending while there are
    /// none.
    ///
    /// # Cancel safety
    /// May be dropped at any time: what is under way goes on with the next call.
    pub(super) async fn next(&mut self) -> (SocketAddr, Option<Hello>) {
        loop {
            self.begin();
            let has_room = self.under_way.len() < AT_ONCE;
            let due = self.due.first().map(|(due, _)| *due).filter(|_| has_room);
            let ended = tokio::select! {
                Some(ended) = self.under_way.next() => Some(ended),
                () = until(due) => None,
            };
            if let Some(answer) = ended.and_then(|ended| self.take_down(ended)) {
                return answer;
            }
        }
    }

    /// Asks those whose turn it is.
    fn begin(&mut self) {
        let now = Instant::now();
        while self.under_way.len() < AT_ONCE
            && let Some((due, place)) = self.due.first().copied().filter(|(due, _)| *due <= now)
        {
            self.due.remove(&(due, place));
            let turn = self.places.get_mut(&place).expect("who is due is among the places");
            turn.next = None;
            let (answer, wait) = ((self.ask)(place), self.pace.answer);
            self.under_way.push(Box::pin(async move {
                let answer = time::timeout(wait, answer).await;
                (place, answer.unwrap_or_else(|_| Err(TooSlow.into())))
            }));
        }
    }

    fn take_down(&mut self, (place, answer): Answer) -> Option<(SocketAddr, Option<Hello>)> {
        // One that is asked no more, or that came back meanwhile and has its turn already.
        let turn = self.places.get_mut(&place).filter(|turn| turn.next.is_none())?;
        let next = Instant::now() + jittered(self.pace.ask_again);
        self.due.insert((next, place));
        turn.next = Some(next);
        match &answer {
            Ok(_) if !turn.answers => tracing::info!(%place, "a node answers"),
            Ok(_) => {}
            Err(error) if turn.answers => {
                tracing::warn!(%place, error = &**error, "a node does not answer");
            }
            Err(error) => tracing::debug!(%place, error = &**error, "no node answers here"),
        }
        turn.answers = answer.is_ok();
        Some((place, answer.ok()))
    }
}

/// Waits until this time; for good if there is none.
pub(super) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
