//! What a registry means: repositories, and in them blobs, manifests, tags, referrers and uploads.
//!
//! No HTTP and no authorisation here: callers have decided who may call.

mod blobs;
mod calls;
mod catalog;
mod config;
mod error;
mod links;
mod manifests;
mod metrics;
mod mirror;
mod ordered;
mod pieces;
mod place;
mod purge;
mod readings;
mod reaper;
mod referrers;
mod session;
mod tags;
mod uploads;
mod words;

use std::{fmt, sync::Arc};

pub use catalog::CatalogPage;
pub use config::{Config, References, UploadsConfig};
pub use error::Error;
pub use links::LinkKind;
pub use manifests::StoredManifest;
pub use metrics::register as register_metrics;
pub use mirror::{
    Answer as MirrorAnswer, Freshness, Mirrored, Question as MirrorQuestion, ServedManifest,
};
pub use place::Place;
pub use purge::run as run_purges;
pub use referrers::ReferrersPage;
pub use tags::TagPage;
pub use uploads::{Chunk, UploadStatus};
pub use words::{Forget, InvalidWords, Link, LinkQuestion};

use crate::{
    cluster::Colleagues,
    content::ContentStore,
    oci::RepositoryName,
    runtime::Tasks,
    storage::{ListQuery, ReadCost, SharedStorage, layout},
    upstream::Upstreams,
};
use calls::News;
use links::{Beliefs, Links};
use manifests::ManifestMemory;
use mirror::Mirrors;
use readings::Readings;
use reaper::Reaper;
use referrers::Subjects;
use session::Sessions;

/// All repositories on one storage. Several processes may each have one on the same storage.
#[derive(Debug)]
pub struct Registry {
    config: Config,
    storage: SharedStorage,
    content: ContentStore,
    links: Links,
    manifests: ManifestMemory,
    subjects: Subjects,
    sessions: Sessions,
    reaper: Reaper,
    mirrors: Mirrors,
    news: News,
    tasks: Tasks,
}

impl Registry {
    /// The registry on `content` and the storage below it, and mirror of `upstreams`. Its background work runs in
    /// `tasks`. Of several nodes of one cluster, each has one, and they tell each other what has changed.
    ///
    /// # Panics
    /// If its metrics are already registered: there is one registry in a process.
    #[must_use]
    pub fn new(
        config: Config,
        content: ContentStore,
        upstreams: Upstreams,
        colleagues: Option<Colleagues>,
        (tasks, metrics): (&Tasks, &prometheus::Registry),
    ) -> Arc<Self> {
        let storage = Arc::clone(content.storage());
        let news = News::new(colleagues.clone(), tasks.clone());
        let beliefs = Beliefs::new(config.known_for);
        let readings = match storage.read_cost() {
            ReadCost::Calls => None,
            ReadCost::Request => {
                let means = (Arc::clone(&storage), beliefs.clone());
                Some(Readings::new(means, tasks, colleagues.clone()))
            }
        };
        // Nodes that have nothing in common could not give each other what they fetched.
        let sharing = colleagues.filter(|_| content.is_in_cluster());
        let registry = Arc::new(Self {
            content,
            links: Links::new(Arc::clone(&storage), beliefs, (readings, news.clone())),
            manifests: ManifestMemory::new(config.manifest_memory),
            subjects: Subjects::new(),
            sessions: Sessions::new(config.uploads.age),
            reaper: Reaper::start(Arc::clone(&storage), tasks),
            mirrors: Mirrors::new(upstreams, sharing, (tasks, metrics)),
            news,
            tasks: tasks.clone(),
            config,
            storage,
        });
        registry.tell_who_fetches();
        registry
    }

    /// The repository called `name`, whether or not anything is in it.
    #[must_use]
    pub fn repository(self: &Arc<Self>, name: RepositoryName) -> Repository {
        Repository { registry: Arc::clone(self), name }
    }

    /// Settings in force.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }
}

/// One repository. Cheap to clone; every operation looks at the storage anew.
#[derive(Clone)]
pub struct Repository {
    registry: Arc<Registry>,
    name: RepositoryName,
}

impl Repository {
    /// The repository's name.
    #[must_use]
    pub const fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// Whether anything has ever been pushed here that is still there.
    async fn exists(&self) -> Result<bool, Error> {
        // Folders of the layout begin with `_`, which no component of a name does.
        let query = ListQuery::children(1).after("^");
        let listing = self.registry.storage.list(&layout::repository(&self.name), query).await?;
        Ok(listing.entries.first().is_some_and(|entry| entry.name().starts_with('_')))
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Repository").field(&self.name).finish()
    }
}
