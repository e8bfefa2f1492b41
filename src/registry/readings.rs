//! Links that are read, once for many who want the same.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{Either, select};
use tokio::time::timeout;

use super::{
    Error,
    links::Beliefs,
    words::{Link, LinkQuestion},
};
use crate::{
    cluster::{Asked, Colleagues, Item},
    oci::{Algorithm, Digest},
    runtime::{NextFlight, Tasks},
    storage::{SharedStorage, Storage, read},
};

/// Longest link: a digest, and whatever white space an editor left behind it.
const LINK_MAX_BYTES: u64 = 256;

/// How long readers of a link wait for those who asked before them. A bucket answers within a fraction of that; if one
/// request is stuck, not everybody shall be.
const READING_PATIENCE: Duration = Duration::from_secs(1);

/// The same, for those who wait for another node: that one has them share, and this only keeps down how often the same is
/// asked.
const ASKING_PATIENCE: Duration = Duration::from_millis(20);

/// How long another node may take to answer, before the storage is read as well, where the answer is.
const OWNER_PATIENCE: Duration = Duration::from_millis(300);

/// How long its answer is good, if the storage has given none by then. Where lines are full, a request to the storage may
/// fail for want of a connection, and what the owner has read is already on its way.
const OWNER_PATIENCE_MOST: Duration = Duration::from_secs(10);

/// The call by which a link is asked for.
pub(super) const LINK: &str = "link";

/// What was found, shared by all who wanted to know.
type Reading = Result<Option<Link>, Arc<Error>>;

/// What is read, after so many removals: whoever asks after one was made known shares nothing with those who asked
/// before.
type Wanted = (LinkQuestion, u64);

/// Reads of links in a storage where each is a request. None of those who share one is told what was true only before
/// it asked; but that content is in a repository is good enough if it was so a moment ago, because it is believed for
/// much longer afterwards.
#[derive(Clone, Debug)]
pub(super) struct Readings(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    storage: SharedStorage,
    beliefs: Beliefs,
    flights: NextFlight<Wanted, Reading>,
    others: Option<Others>,
}

/// Nodes with which readings are shared, too: each link is read by the one that owns it.
#[derive(Debug)]
struct Others {
    colleagues: Colleagues,
    questions: NextFlight<Wanted, Reading>,
}

impl Others {
    /// What is asked about a link, and in which words, if another node owns it.
    fn owned_elsewhere(&self, question: &LinkQuestion) -> Option<(Item, Bytes)> {
        let words = question.to_string();
        let item = Item::question(&Digest::of(Algorithm::Sha256, words.as_bytes()));
        (!self.colleagues.is_owner(item)).then(|| (item, words.into()))
    }
}

impl Readings {
    pub(super) fn new(
        (storage, beliefs): (SharedStorage, Beliefs),
        tasks: &Tasks,
        colleagues: Option<Colleagues>,
    ) -> Self {
        let flights = NextFlight::new("read a link", tasks.clone(), READING_PATIENCE);
        let others = colleagues.map(|colleagues| {
            let questions = NextFlight::new("ask for a link", tasks.clone(), ASKING_PATIENCE);
            Others { colleagues, questions }
        });
        Self(Arc::new(Shared { storage, beliefs, flights, others }))
    }

    /// What a link says: read here, or by the node that owns it.
    pub(super) async fn read(&self, wanted: Wanted) -> Reading {
        let others = self.0.others.as_ref();
        match others.and_then(|others| Some((others, others.owned_elsewhere(&wanted.0)?))) {
            // In a box of its own: each reading here would need as much memory.
            Some((others, asked)) => Box::pin(self.read_by_owner(others, asked, wanted)).await,
            None => self.read_here(wanted).await,
        }
    }

    async fn read_by_owner(
        &self,
        others: &Others,
        (item, words): (Item, Bytes),
        wanted: Wanted,
    ) -> Reading {
        let (readings, question, asked) = (self.clone(), wanted.clone(), others.colleagues.clone());
        let asking = async move {
            if let Some(link) = readings.believed(&question) {
                return Ok(Some(link));
            }
            readings.read_there_or_here(&asked, (item, words), question).await
        };
        share(&others.questions, wanted, asking).await
    }

    /// What a link says, by its owner, or by the storage if that takes too long.
    async fn read_there_or_here(
        &self,
        colleagues: &Colleagues,
        (item, words): (Item, Bytes),
        wanted: Wanted,
    ) -> Reading {
        let mut there = pin!(self.read_there(colleagues, (item, words), wanted.clone()));
        match timeout(OWNER_PATIENCE, &mut there).await {
            Ok(Some(found)) => return found,
            Ok(None) => return self.read_here(wanted).await,
            Err(_elapsed) => colleagues.note_late(item),
        }
        let mut here = pin!(self.read_here(wanted));
        match select(&mut there, &mut here).await {
            Either::Left((Some(found), _)) => found,
            Either::Left((None, _)) => here.await,
            Either::Right((Ok(found), _)) => Ok(found),
            Either::Right((Err(error), _)) => there.await.unwrap_or(Err(error)),
        }
    }

    /// What the owner of a link says; nothing if it says nothing that makes sense.
    async fn read_there(
        &self,
        colleagues: &Colleagues,
        (item, words): (Item, Bytes),
        wanted: Wanted,
    ) -> Option<Reading> {
        match colleagues.ask_owner(item, LINK, words, OWNER_PATIENCE_MOST).await {
            Asked::Here => None,
            Asked::There(answer) => Some(Ok(self.learnt(wanted, understood(&answer)?))),
        }
    }

    /// What a link says, read here whoever owns it.
    pub(super) async fn read_here(&self, wanted: Wanted) -> Reading {
        let (readings, question) = (self.clone(), wanted.clone());
        let reading = async move {
            if let Some(link) = readings.believed(&question) {
                return Ok(Some(link));
            }
            let found = read_link(&*readings.0.storage, &question.0).await.map_err(Arc::new)?;
            Ok(readings.learnt(question, found))
        };
        share(&self.0.flights, wanted, reading).await
    }

    /// What another flight has found, which ended when this one was about to begin.
    fn believed(&self, (question, _): &Wanted) -> Option<Link> {
        match question {
            LinkQuestion::Content(kind, name, digest) => {
                let stored = self.0.beliefs.get(&(*kind, name.clone(), *digest))?;
                Some(Link { digest: stored, modified: None })
            }
            LinkQuestion::Tag(..) | LinkQuestion::DatedTag(..) => None,
        }
    }

    /// Believes what was found before the flight ends: whoever comes later finds one or the other.
    fn learnt(&self, (question, removals): Wanted, found: Option<Link>) -> Option<Link> {
        if let (LinkQuestion::Content(kind, name, digest), Some(link)) = (question, found) {
            self.0.beliefs.believe((kind, name, digest), link.digest, removals);
        }
        found
    }
}

async fn share(
    flights: &NextFlight<Wanted, Reading>,
    wanted: Wanted,
    work: impl Future<Output = Reading> + Send + 'static,
) -> Reading {
    let shared = match &wanted.0 {
        LinkQuestion::Content(..) => {
            flights.run_unless(wanted, |reading| matches!(reading, Ok(Some(_))), work).await
        }
        LinkQuestion::Tag(..) | LinkQuestion::DatedTag(..) => flights.run(wanted, work).await,
    };
    shared.unwrap_or_else(|abandoned| Err(Arc::new(abandoned.into())))
}

/// What a node is answered that asks for a link.
pub(super) fn answer(found: Option<Link>) -> Bytes {
    Bytes::from(found.map(|link| link.to_string()).unwrap_or_default())
}

/// What the owner of a link has answered; nothing if that makes no sense.
fn understood(answer: &[u8]) -> Option<Option<Link>> {
    match std::str::from_utf8(answer).ok()? {
        "" => Some(None),
        text => text.parse().ok().map(Some),
    }
}

/// What a link says. A broken one points nowhere, as if it were missing: pushing again mends it.
pub(super) async fn read_link(
    storage: &dyn Storage,
    question: &LinkQuestion,
) -> Result<Option<Link>, Error> {
    let key = question.key();
    let bytes = match read(storage, &key, LINK_MAX_BYTES).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let digest = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
    let Some(digest) = digest else {
        tracing::warn!(%key, "this link does not hold a digest and is treated as missing");
        return Ok(None);
    };
    let modified = match question {
        LinkQuestion::Content(..) | LinkQuestion::Tag(..) => None,
        LinkQuestion::DatedTag(..) => match storage.head(&key).await {
            Ok(meta) => Some(meta.modified),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        },
    };
    Ok(Some(Link { digest, modified }))
}
