//! What tags of mirrored repositories point to.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use moka::future::Cache;
use tokio::time::Instant;

use super::{
    Freshness, Mirrored,
    failure::Failure,
    manifests::ServedManifest,
    others::{age_ms, since},
    words::{Said, Wish},
};
use crate::{
    oci::{Digest, Reference, RepositoryName, Tag},
    registry::{Error, StoredManifest},
    runtime::{Flight, SingleFlight, Tasks},
    upstream::{self, Policy},
};

/// Tags remembered at once. An entry is about 400 bytes.
const KNOWN_TAGS: u64 = 100_000;

type Key = (RepositoryName, Tag);

/// What tags were found to point to, and who is asking.
#[derive(Debug)]
pub(super) struct Tags {
    known: Cache<Key, KnownTag>,
    questions: SingleFlight<Key, Result<KnownTag, Arc<Error>>>,
}

impl Tags {
    pub(super) fn new(tasks: &Tasks) -> Self {
        let questions = SingleFlight::new("ask for a tag", tasks.clone());
        Self { known: Cache::new(KNOWN_TAGS), questions }
    }
}

/// What is known of a tag.
#[derive(Clone, Debug)]
struct KnownTag {
    state: TagState,
    /// When the other registry was last asked.
    asked: Instant,
}

#[derive(Clone, Debug)]
enum TagState {
    /// The other registry says that it points here.
    Present(Digest),
    /// It does not know the tag.
    Absent,
    /// It cannot say; this is what the tag pointed to before.
    Stale(HeldTag, Arc<Error>),
}

impl KnownTag {
    fn now(state: TagState) -> Self {
        Self { state, asked: Instant::now() }
    }

    /// What it last pointed to for sure.
    fn into_held(self) -> Option<HeldTag> {
        match self.state {
            TagState::Present(digest) => Some(HeldTag { digest, age: self.asked.elapsed() }),
            TagState::Stale(HeldTag { digest, age }, _) => {
                Some(HeldTag { digest, age: age + self.asked.elapsed() })
            }
            TagState::Absent => None,
        }
    }

    /// Whether it may be relied on without asking.
    fn is_fresh(&self, policy: &Policy) -> bool {
        let time = match self.state {
            TagState::Present(_) => policy.tag_ttl,
            // Whoever does not answer is not asked for every pull, but soon again.
            TagState::Absent | TagState::Stale(..) => policy.negative_ttl,
        };
        self.asked.elapsed() < time
    }
}

impl Mirrored {
    pub(super) async fn manifest_by_tag(&self, tag: &Tag) -> Result<ServedManifest, Error> {
        let known = self.known_tag(tag).await?;
        match known.state {
            TagState::Absent => {
                Err(Error::ManifestUnknown { reference: Reference::Tag(tag.clone()) })
            }
            TagState::Present(digest) => self.manifest_by_digest(&digest).await,
            TagState::Stale(HeldTag { digest, .. }, why) => {
                let stored = self.held_whole(&digest).await?.ok_or(Error::Shared(why))?;
                Ok(ServedManifest { stored, freshness: Freshness::Stale })
            }
        }
    }

    /// The manifest if it and everything it refers to is held.
    async fn held_whole(&self, digest: &Digest) -> Result<Option<Arc<StoredManifest>>, Error> {
        match self.held_manifest(digest).await {
            Ok(stored) => Ok(self.is_complete(&stored).await?.then_some(stored)),
            Err(Error::ManifestUnknown { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn known_tag(&self, tag: &Tag) -> Result<KnownTag, Error> {
        let key = (self.name().clone(), tag.clone());
        let tags = &self.mirrors().tags;
        if let Some(known) = tags.known.get(&key).await
            && known.is_fresh(self.upstream.policy())
        {
            return Ok(known);
        }
        match self.tag_elsewhere(tag).await? {
            Some(known) => {
                tags.known.insert(key, known.clone()).await;
                Ok(known)
            }
            None => self.known_tag_here(tag).await,
        }
    }

    /// What the node says of a tag that asks for all; nothing if this node is to ask.
    async fn tag_elsewhere(&self, tag: &Tag) -> Result<Option<KnownTag>, Error> {
        let Some((_, answer)) = self.ask_others(Wish::Tag(tag.clone())).await? else {
            return Ok(None);
        };
        Ok(match answer.said {
            Said::Points { digest, age_ms } => {
                let Ok(digest) = digest.parse() else { return Ok(None) };
                if !answer.bytes.is_empty() {
                    self.learn_manifest(&digest, answer.bytes).await;
                }
                Some(KnownTag { state: TagState::Present(digest), asked: since(age_ms) })
            }
            Said::Absent { age_ms } => {
                Some(KnownTag { state: TagState::Absent, asked: since(age_ms) })
            }
            Said::Stale { digest, age_ms, why } => {
                let Ok(digest) = digest.parse() else { return Ok(None) };
                let held = HeldTag { digest, age: Duration::from_millis(age_ms) };
                let why = why.into_error(&self.upstream, self.name());
                Some(KnownTag::now(TagState::Stale(held, Arc::new(why))))
            }
            _ => None,
        })
    }

    /// What another node is told of a tag, with the manifest if it is in memory.
    pub(super) async fn tag_for_others(&self, tag: &Tag) -> Result<(Said, Bytes), Error> {
        let known = self.known_tag_here(tag).await?;
        let said = match known.state {
            TagState::Present(digest) => {
                let stored = self.registry.manifests.get(&digest);
                let bytes = stored.map(|stored| stored.bytes.clone()).unwrap_or_default();
                let age_ms = age_ms(known.asked);
                return Ok((Said::Points { digest: digest.to_string(), age_ms }, bytes));
            }
            TagState::Absent => Said::Absent { age_ms: age_ms(known.asked) },
            TagState::Stale(HeldTag { digest, age }, why) => {
                let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                let why = Failure::of(&why).unwrap_or(Failure::Interrupted);
                Said::Stale { digest: digest.to_string(), age_ms, why }
            }
        };
        Ok((said, Bytes::new()))
    }

    /// What is known of a tag, asked for by this node if it has to be.
    async fn known_tag_here(&self, tag: &Tag) -> Result<KnownTag, Error> {
        let key = (self.name().clone(), tag.clone());
        let (mirrored, wanted) = (self.clone(), tag.clone());
        let question = async move { mirrored.ask_for_tag(wanted).await.map_err(Arc::new) };
        self.mirrors().tags.questions.run(key, question).await?.map_err(Error::Shared)
    }

    async fn ask_for_tag(&self, tag: Tag) -> Result<KnownTag, Error> {
        let key = (self.name().clone(), tag.clone());
        let known = self.mirrors().tags.known.get(&key).await;
        // Whoever was asked while this one waited for its turn.
        if let Some(known) = &known
            && known.is_fresh(self.upstream.policy())
        {
            return Ok(known.clone());
        }
        // What this process knows may not have come to the storage yet; what another one knows has.
        let held = [self.held_tag(&tag).await?, known.and_then(KnownTag::into_held)];
        let held = held.into_iter().flatten().min_by_key(|held| held.age);
        let known = match held {
            Some(held) if held.age < self.upstream.policy().tag_ttl => held.as_known(),
            Some(held) => self.revalidate(&tag, held).await?,
            None => self.fetch_tag(&tag).await?,
        };
        self.mirrors().tags.known.insert(key, known.clone()).await;
        Ok(known)
    }

    /// A tag that nothing is known of: its manifest says it all.
    async fn fetch_tag(&self, tag: &Tag) -> Result<KnownTag, Error> {
        match self.fetch_manifest_here(Reference::Tag(tag.clone())).await {
            Ok(fetched) => Ok(self.pointed(tag, fetched.stored.digest, fetched.keeping)),
            Err(error) if error.is_manifest_unknown() => Ok(KnownTag::now(TagState::Absent)),
            Err(error) => Err(error),
        }
    }

    async fn revalidate(&self, tag: &Tag, held: HeldTag) -> Result<KnownTag, Error> {
        let reference = Reference::Tag(tag.clone());
        let moved_to = match self.upstream.head_manifest(&self.remote, &reference).await {
            Ok(head) if head.digest == Some(held.digest) => {
                self.confirm(&held.digest).await;
                return Ok(self.pointed(tag, held.digest, None));
            }
            Ok(head) => head.digest.map_or(reference, Reference::Digest),
            Err(error) if error.is_not_found() => return Ok(KnownTag::now(TagState::Absent)),
            Err(error) => return self.stale(tag, held, error),
        };
        match self.fetch_manifest_here(moved_to).await {
            Ok(fetched) => Ok(self.pointed(tag, fetched.stored.digest, fetched.keeping)),
            Err(error) if held.age < self.upstream.policy().max_stale => {
                Ok(KnownTag::now(TagState::Stale(held, Arc::new(error))))
            }
            Err(error) => Err(error),
        }
    }

    fn stale(&self, tag: &Tag, held: HeldTag, error: upstream::Error) -> Result<KnownTag, Error> {
        if held.age >= self.upstream.policy().max_stale {
            return Err(error.into());
        }
        let (name, age_seconds) = (self.name(), held.age.as_secs());
        tracing::warn!(%name, %tag, %error, age_seconds, "a tag cannot be checked; what it pointed to is served if all of it is held");
        Ok(KnownTag::now(TagState::Stale(held, Arc::new(error.into()))))
    }

    /// Notes where a tag points, in the storage as soon as the manifest is there. The date of the link tells every
    /// process when it was asked for.
    fn pointed(&self, tag: &Tag, digest: Digest, keeping: Option<Flight<bool>>) -> KnownTag {
        let (mirrored, tag) = (self.clone(), tag.clone());
        self.registry.tasks.spawn("point a tag", async move {
            let kept = match keeping {
                Some(keeping) => keeping.ended().await.unwrap_or(false),
                None => true,
            };
            if kept {
                mirrored.point(&tag, &digest).await;
            }
        });
        KnownTag::now(TagState::Present(digest))
    }

    async fn point(&self, tag: &Tag, digest: &Digest) {
        let pointed = async {
            self.local.move_tags(&[tag], digest).await?;
            self.local.note_tags(&[tag], digest).await
        };
        if let Err(error) = pointed.await {
            let name = self.name();
            tracing::error!(%name, %tag, %error, "where a tag points could not be kept");
        }
    }

    async fn held_tag(&self, tag: &Tag) -> Result<Option<HeldTag>, Error> {
        let held = self.registry.links.read_tag_dated(self.name(), tag).await?;
        Ok(held.map(|(digest, modified)| HeldTag {
            digest,
            // A storage whose clock is ahead has written just now.
            age: SystemTime::now().duration_since(modified).unwrap_or_default(),
        }))
    }
}

/// What the storage has of a tag.
#[derive(Clone, Copy, Debug)]
struct HeldTag {
    digest: Digest,
    /// Since the other registry last said so.
    age: Duration,
}

impl HeldTag {
    fn as_known(self) -> KnownTag {
        let now = Instant::now();
        let asked = now.checked_sub(self.age).unwrap_or(now);
        KnownTag { state: TagState::Present(self.digest), asked }
    }
}
