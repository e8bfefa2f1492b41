//! What other registries are asked once for all nodes of a cluster.
//!
//! Everything that is asked of one repository is asked by one node, which knows best what was said: where a tag points,
//! and the manifest there, which lies nowhere else yet. Its answer is used as if this node had asked, also if it says
//! that something failed: else all would ask one after the other. Whoever is asked by another node passes nothing on.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::{
    Mirrored,
    failure::Failure,
    words::{Answer, Question, Said, Wish},
};
use crate::{
    cluster::{Colleagues, Item, Peer, Turn, wire::CallAnswer},
    oci::{Algorithm, Digest, Manifest, Reference},
    registry::{Error, Registry, StoredManifest},
    runtime::{SingleFlight, Tasks},
};

/// The call by which another registry is asked for something.
pub(in crate::registry) const MIRROR: &str = "mirror";

/// After so long whoever asks is told that it takes longer: other registries take their time.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// How long a node may take for an answer, or to say that it takes longer.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often somebody is asked who says that it takes longer. Everything that is asked of other registries has limits of
/// its own, which are over before that.
const ASKED_MOST: usize = 150;

/// Nodes that ask for each other.
#[derive(Debug)]
pub(super) struct Others {
    colleagues: Colleagues,
    askings: SingleFlight<Question, Option<(Peer, Answer)>>,
}

impl Others {
    pub(super) fn new(colleagues: Colleagues, tasks: &Tasks) -> Self {
        Self { colleagues, askings: SingleFlight::new("ask for a mirror", tasks.clone()) }
    }

    /// This node.
    pub(super) fn me(&self) -> Peer {
        self.colleagues.me()
    }
}

impl Question {
    /// By which it is found who asks for all.
    fn item(&self) -> Item {
        match &self.wish {
            // Blobs are large: each may come by another node.
            Wish::Fill(digest) => Item::fill(digest),
            _ => {
                let place = format!("{} {}", self.upstream, self.repository);
                Item::question(&Digest::of(Algorithm::Sha256, place.as_bytes()))
            }
        }
    }
}

impl Mirrored {
    /// What the node says that asks for all; nothing if this node is to ask itself.
    pub(super) async fn ask_others(&self, wish: Wish) -> Result<Option<(Peer, Answer)>, Error> {
        let Some(others) = &self.mirrors().others else { return Ok(None) };
        let (upstream, repository) = (self.upstream.name().to_owned(), self.remote.clone());
        let question = Question { upstream, repository, wish: wish.clone() };
        let (colleagues, item) = (others.colleagues.clone(), question.item());
        if colleagues.is_owner(item) {
            return Ok(None);
        }
        let words = question.encode();
        let asking = async move { ask_until_told(&colleagues, item, words).await };
        let told = others.askings.run(question, asking).await?;
        let Some((by, answer)) = told else { return Ok(None) };
        if answer.is_heard {
            self.upstream.note_that_it_was_heard();
        }
        match answer.said {
            Said::Failed(Failure::NotFound) => Err(not_found(&wish, self)),
            Said::Failed(failure) => Err(failure.into_error(&self.upstream, self.name())),
            _ => Ok(Some((by, answer))),
        }
    }

    /// Takes note of a manifest that came from another node, which says that the other registry has it.
    pub(super) async fn learn_manifest(
        &self,
        digest: &Digest,
        bytes: Bytes,
    ) -> Option<Arc<StoredManifest>> {
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            tracing::warn!(%digest, "another node gave something else as a manifest");
            return None;
        }
        let manifest = Manifest::parse(&bytes).ok()?;
        let stored = Arc::new(StoredManifest { digest: *digest, bytes, manifest });
        self.confirm(digest).await;
        self.registry.manifests.insert(Arc::clone(&stored));
        Some(stored)
    }

    /// Does what another node wishes, without asking further nodes.
    async fn fulfil(&self, wish: Wish) -> Result<(Said, Bytes), Error> {
        let said = match wish {
            Wish::Tag(tag) => return self.tag_for_others(&tag).await,
            Wish::Manifest(digest) => {
                let stored = self.manifest_here(&digest).await?;
                return Ok((Said::Manifest, stored.bytes.clone()));
            }
            Wish::Confirmation(digest) => {
                self.confirm_here(&digest).await?;
                Said::Confirmed
            }
            Wish::Size(digest) => Said::Size { bytes: self.ask_for_blob_here(&digest).await? },
            Wish::Tags => {
                let (all, fetched) = self.tags_here().await?;
                Said::Tags { all: all.to_vec(), age_ms: age_ms(fetched) }
            }
            Wish::Referrers(digest) => {
                let (all, fetched) = self.referrers_here(&digest).await?;
                Said::Referrers { all: all.to_vec(), age_ms: age_ms(fetched) }
            }
            Wish::Fill(digest) => self.fill_for_others(&digest).await?,
        };
        Ok((said, Bytes::new()))
    }
}

impl Registry {
    /// Answers another node that wants something of another registry.
    pub(in crate::registry) async fn answer_mirror(
        self: &Arc<Self>,
        question: Question,
    ) -> CallAnswer {
        let Question { upstream, repository, wish } = question;
        let mirrored = match self.mirrored(&upstream, repository) {
            Ok(mirrored) => mirrored,
            Err(error) => {
                tracing::debug!(%error, "another node mirrors what this one does not");
                return CallAnswer::Failed { is_retryable: false };
            }
        };
        let fulfilled = timeout(ANSWERED_WITHIN, mirrored.fulfil(wish)).await;
        let (said, bytes) = match fulfilled {
            Err(_elapsed) => (Said::NotYet, Bytes::new()),
            Ok(Ok(told)) => told,
            Ok(Err(error)) => match Failure::of(&error) {
                Some(failure) => (Said::Failed(failure), Bytes::new()),
                // What is wrong here need not be wrong at another node.
                None => {
                    tracing::warn!(%error, "nothing can be got from another registry for other nodes");
                    return CallAnswer::Failed { is_retryable: true };
                }
            },
        };
        let is_heard = mirrored.was_heard_lately();
        CallAnswer::Answered(Answer { said, is_heard, bytes }.encode())
    }
}

async fn ask_until_told(
    colleagues: &Colleagues,
    item: Item,
    words: Bytes,
) -> Option<(Peer, Answer)> {
    for _ in 0..ASKED_MOST {
        match colleagues.ask_in_turn(item, MIRROR, words.clone(), PATIENCE).await {
            Turn::Here => return None,
            Turn::There(by, form) => match Answer::decode(&form) {
                Some(Answer { said: Said::NotYet, .. }) => {}
                // One that makes no sense is as good as none.
                other => return other.map(|answer| (by, answer)),
            },
        }
    }
    None
}

/// That the other registry does not have what was wished for.
fn not_found(wish: &Wish, mirrored: &Mirrored) -> Error {
    match wish {
        Wish::Tag(tag) => Error::ManifestUnknown { reference: Reference::Tag(tag.clone()) },
        Wish::Manifest(digest) | Wish::Confirmation(digest) => {
            Error::ManifestUnknown { reference: Reference::Digest(*digest) }
        }
        Wish::Size(digest) | Wish::Fill(digest) => Error::BlobUnknown { digest: *digest },
        Wish::Tags | Wish::Referrers(_) => {
            Failure::NotFound.into_error(&mirrored.upstream, mirrored.name())
        }
    }
}

/// How long ago that was, for another node.
pub(super) fn age_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// When that was, as another node says.
pub(super) fn since(age_ms: u64) -> Instant {
    let now = Instant::now();
    now.checked_sub(Duration::from_millis(age_ms)).unwrap_or(now)
}
