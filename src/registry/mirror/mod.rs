//! Repositories of other registries, pulled through and kept.
//!
//! What was fetched lies in the storage like anything that was pushed, under the other registry's name: so it
//! survives that registry, and this process. What was learnt about it (whether a tag is still what it was) is in
//! memory, and in the date of the tag's link, which every process sees.

mod blobs;
mod failure;
mod lists;
mod manifests;
mod metrics;
mod others;
mod tags;
mod words;

use std::{fmt, sync::Arc, time::Duration};

use futures_util::FutureExt;
use moka::future::Cache;
use tokio::time::Instant;

use super::{Error, Registry, Repository};
use crate::{
    cluster::{Colleagues, wire::Origin},
    content::{Finder, Found, Remote},
    oci::{Digest, RepositoryName},
    runtime::{SingleFlight, Tasks},
    upstream::{Upstream, Upstreams},
};
use lists::Lists;
pub use manifests::ServedManifest;
use manifests::{Confirmations, Fetches, Keeping};
use metrics::MirrorMetrics;
pub(super) use others::MIRROR;
use others::Others;
use tags::Tags;
pub use words::{Answer, Question};

/// Digests that are remembered at once as asked for. An entry is about 300 bytes.
const KNOWN_DIGESTS: u64 = 100_000;

/// Whoever was heard of so lately is taken to be there, and to have what it had.
const HEARD_LATELY: Duration = Duration::from_secs(10);

/// A digest in a mirrored repository, by its name here.
type Place = (RepositoryName, Digest);

/// Other registries, and what is known of their repositories.
#[derive(Debug)]
pub(super) struct Mirrors {
    upstreams: Upstreams,
    tags: Tags,
    fetches: Fetches,
    keeping: Keeping,
    /// When the other registry last said that it has this digest.
    confirmed: Cache<Place, Instant>,
    /// When it last said that it does not.
    denied: Cache<Place, Instant>,
    sizes: SingleFlight<Place, Result<Option<u64>, Arc<Error>>>,
    confirmations: Confirmations,
    lists: Lists,
    /// Nodes with which all that is shared.
    others: Option<Others>,
    metrics: MirrorMetrics,
}

impl Mirrors {
    pub(super) fn new(
        upstreams: Upstreams,
        colleagues: Option<Colleagues>,
        (tasks, metrics): (&Tasks, &prometheus::Registry),
    ) -> Self {
        Self {
            upstreams,
            tags: Tags::new(tasks),
            fetches: Fetches::new("fetch manifest", tasks.clone()),
            keeping: Keeping::new("keep a manifest", tasks.clone()),
            confirmed: Cache::new(KNOWN_DIGESTS),
            denied: Cache::new(KNOWN_DIGESTS),
            sizes: SingleFlight::new("ask for a blob", tasks.clone()),
            confirmations: Confirmations::new("ask for a manifest", tasks.clone()),
            lists: Lists::new(tasks),
            others: colleagues.map(|colleagues| Others::new(colleagues, tasks)),
            metrics: MirrorMetrics::new(metrics),
        }
    }
}

/// Whether an answer is as the other registry would give it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It is, or was a moment ago.
    Current,
    /// It was, the last time the other registry answered.
    Stale,
}

/// A repository of another registry. Cheap to clone.
#[derive(Clone)]
pub struct Mirrored {
    registry: Arc<Registry>,
    upstream: Arc<Upstream>,
    /// Its name there.
    remote: RepositoryName,
    /// What is kept of it here.
    local: Repository,
}

impl Registry {
    /// The repository `name` of the other registry called `namespace`, by name or alias.
    ///
    /// # Errors
    /// [`Error::NamespaceUnknown`]; [`Error::Upstream`] if the configuration does not allow the repository;
    /// [`Error::NameUnknown`] if both names together are too long.
    pub fn mirrored(
        self: &Arc<Self>,
        namespace: &str,
        name: RepositoryName,
    ) -> Result<Mirrored, Error> {
        let upstream = self.mirrors.upstreams.named(namespace);
        let upstream =
            upstream.ok_or_else(|| Error::NamespaceUnknown { namespace: namespace.to_owned() })?;
        let remote = upstream.remote_name(name);
        let local = format!("{}/{remote}", upstream.name());
        let local = local.parse().map_err(|_| Error::NameUnknown { name: remote.clone() })?;
        if !upstream.allows(&remote) {
            return Err(Error::NameUnknown { name: local });
        }
        let local = self.repository(local);
        Ok(Mirrored { registry: Arc::clone(self), upstream, remote, local })
    }

    /// Which node fetches a blob of another registry; nothing if it cannot be had.
    async fn filler_of(self: Arc<Self>, digest: Digest, origin: Origin) -> Option<Found> {
        let mirrored = self.mirrored(&origin.upstream, origin.repository).ok()?;
        match mirrored.find_filler(&digest).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%digest, %error, "nobody fetches a blob");
                None
            }
        }
    }

    /// Has content find out by this registry which node fetches a blob.
    pub(super) fn tell_who_fetches(self: &Arc<Self>) {
        let registry = Arc::downgrade(self);
        let finder = Finder::new(move |digest, origin| {
            let registry = registry.upgrade();
            async move { registry?.filler_of(digest, origin).await }.boxed()
        });
        self.content.find_fills_by(finder);
    }

    /// The other registry that `name` lies in by its first component, and the rest of the name.
    #[must_use]
    pub fn namespace_of<'n>(&self, name: &'n RepositoryName) -> Option<(&'n str, &'n str)> {
        let (first, rest) = name.as_str().split_once('/').unwrap_or((name.as_str(), ""));
        let upstream = self.mirrors.upstreams.named(first)?;
        (upstream.name() == first).then_some((first, rest))
    }
}

impl Mirrored {
    /// The name of the other registry.
    #[must_use]
    pub fn upstream_name(&self) -> &str {
        self.upstream.name()
    }

    /// The repository's name here: the other registry's name and its name there.
    #[must_use]
    pub const fn name(&self) -> &RepositoryName {
        self.local.name()
    }

    /// What is kept of it here.
    #[must_use]
    pub fn into_kept(self) -> Repository {
        self.local
    }

    fn mirrors(&self) -> &Mirrors {
        &self.registry.mirrors
    }

    fn place(&self, digest: &Digest) -> Place {
        (self.name().clone(), *digest)
    }

    fn origin(&self) -> Remote {
        Remote { upstream: Arc::clone(&self.upstream), repository: self.remote.clone() }
    }

    /// The same in words that other nodes know.
    fn named_origin(&self) -> Origin {
        Origin { upstream: self.upstream.name().to_owned(), repository: self.remote.clone() }
    }

    /// Whether the other registry gave something a moment ago.
    fn was_heard_lately(&self) -> bool {
        self.upstream.was_heard_within(HEARD_LATELY)
    }

    /// Notes that the other registry has `digest`.
    async fn confirm(&self, digest: &Digest) {
        self.mirrors().confirmed.insert(self.place(digest), Instant::now()).await;
    }

    /// Whether the other registry has said lately that it has `digest`.
    async fn is_confirmed(&self, digest: &Digest) -> bool {
        let confirmed = self.mirrors().confirmed.get(&self.place(digest)).await;
        is_within(confirmed, self.upstream.policy().tag_ttl.max(HEARD_LATELY))
    }

    /// Notes that the other registry does not have `digest`.
    async fn deny(&self, digest: &Digest) {
        self.mirrors().denied.insert(self.place(digest), Instant::now()).await;
    }

    async fn is_denied(&self, digest: &Digest) -> bool {
        let denied = self.mirrors().denied.get(&self.place(digest)).await;
        is_within(denied, self.upstream.policy().negative_ttl)
    }
}

fn is_within(since: Option<Instant>, time: Duration) -> bool {
    since.is_some_and(|since| since.elapsed() < time)
}

impl fmt::Debug for Mirrored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mirrored").field(self.name()).finish()
    }
}
