//! The daemon: what is built of what, and in which order it starts and stops.
//!
//! Start: storage, registry, listeners bound, background work, ready. Stop: not ready, no new connections,
//! the requests under way end within the grace period, then the rest.

mod node;

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc};

use crate::{
    api::{self, Admin, Api, Certificates, Face, Limits, Listener, Readiness, Transport},
    cache::{DiskKeeper, Pond},
    cluster::{
        JoinError,
        wire::{CertificateFault, ShortSecret},
    },
    config::Config,
    content::ContentStore,
    registry::{self, Registry},
    runtime::{ByteBudget, Shutdown, Tasks},
    storage::{self, Metered, SharedStorage},
    telemetry,
    upstream::{self, Upstreams},
};
use node::{Node, RunningNode};

/// A daemon whose sockets are bound.
#[derive(Debug)]
pub struct Server {
    config: Config,
    driver: storage::Driver,
    admin: Arc<Admin>,
    readiness: Arc<Readiness>,
    registry: Arc<Registry>,
    listeners: Vec<(Listener, Arc<Face>)>,
    admin_listener: Listener,
    certificates: Option<Certificates>,
    disk_keeper: Option<DiskKeeper>,
    node: Option<(Node, ContentStore, ByteBudget)>,
    tasks: Tasks,
    shutdown: Shutdown,
}

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage cannot be opened.
    #[error("the storage cannot be opened: {0}")]
    Storage(#[from] storage::Error),
    /// The other registries cannot be set up.
    #[error("the upstreams cannot be used: {0}")]
    Upstreams(#[from] upstream::SetupError),
    /// The certificate of the registry cannot be used.
    #[error(transparent)]
    Tls(#[from] api::TlsError),
    /// The certificate for other nodes cannot be used.
    #[error("cluster.tls: {0}")]
    PeerCertificates(#[from] CertificateFault),
    /// The secret for other nodes cannot be used.
    #[error("cluster.secret: {0}")]
    PeerSecret(#[from] ShortSecret),
    /// The other nodes cannot be looked for.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// An address cannot be bound.
    #[error("{address} cannot be listened on: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

impl Server {
    /// Opens the storage and binds the sockets; nothing is served yet. `shutdown` will end the daemon.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn bind(config: Config, shutdown: Shutdown) -> Result<Self, Error> {
        // Only the first call in a process has an effect; the others agree with it.
        let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let certificates = config.api.tls.clone().map(Certificates::load).transpose()?;
        let metrics = prometheus::Registry::new();
        let tasks = Tasks::new();
        let budget = ByteBudget::new(config.memory.buffers.0);
        register_buffers(&metrics, budget.clone());
        let driver = storage::Driver::open(&config.storage, budget.clone()).await?;
        let shared: SharedStorage = Arc::new(Metered::new(driver.shared(), &metrics));
        tracing::info!(storage = %shared, "storage is open");
        let upstreams = Upstreams::new(&config.upstreams, &tasks, &metrics)?;
        let content =
            ContentStore::new(Arc::clone(&shared), config.registry.known_for, tasks.clone());
        let node = Node::bind(&config, &metrics).await?;
        let (content, disk_keeper) = match &config.storage {
            // What lies in files of this machine is in the kernel's memory already.
            storage::Config::Directory { .. } => (content, None),
            storage::Config::S3(_) => {
                let (pond, disk_keeper) = Pond::new(&config.cache, &metrics);
                let neighbours = node.as_ref().map(|node| node.neighbours(&config));
                (content.through(pond, budget.clone(), neighbours), disk_keeper)
            }
        };
        content.register_metrics(&metrics);
        let colleagues = node.as_ref().map(Node::colleagues);
        let node = node.map(|node| (node, content.clone(), budget));
        let means = (&tasks, &metrics);
        let registry =
            Registry::new(config.registry.clone(), content, upstreams, colleagues, means);
        registry::register_metrics(&registry, &metrics);
        let settings = (config.api.clone(), hosts(&config));
        let api = Arc::new(Api::new(Arc::clone(&registry), settings, tasks.clone(), &metrics));
        let readiness = Arc::new(Readiness::new(shared, shutdown.clone()));
        let clustered = node.as_ref().map(|(_, content, _)| content.clone());
        let admin = Admin::new(Arc::clone(&readiness), metrics, clustered);
        let transport = certificates.as_ref().map_or(Transport::Plain, Certificates::transport);
        let listeners = bind_all(&config, &api, &transport).await?;
        let admin_listener = bind(config.api.admin, Transport::Plain, &config).await?;
        let admin = Arc::new(admin);
        Ok(Self {
            config,
            driver,
            admin,
            readiness,
            registry,
            listeners,
            admin_listener,
            certificates,
            disk_keeper,
            node,
            tasks,
            shutdown,
        })
    }

    /// Where the registry is served, and then where mirrors of a single registry are.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(|(listener, _)| listener.address()).collect()
    }

    /// Where health and metrics are served.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin_listener.address()
    }

    /// Serves until the shutdown given to [`Server::bind`] begins, and then until every request is answered
    /// or the grace period is over. Returns how many requests had to be cut off.
    pub async fn run(self) -> usize {
        let Self { config, driver, admin, readiness, registry, tasks, shutdown, .. } = self;
        for (listener, face) in self.listeners {
            match face.namespace() {
                None => announce(&listener, "the registry is served here"),
                Some(namespace) => announce(&listener, &format!("{namespace} is mirrored here")),
            }
            let serve = listener.serve(face, tasks.clone(), shutdown.clone());
            tasks.spawn("listener", serve);
        }
        start_threads();
        announce(&self.admin_listener, "health and metrics are served here");
        // Health is answered until the very end, so its listener stops with this function.
        let (admin_tasks, admin_shutdown) = (Tasks::new(), Shutdown::new());
        let serve = self.admin_listener.serve(admin, admin_tasks.clone(), admin_shutdown.clone());
        admin_tasks.spawn("admin listener", serve);
        tasks.spawn("purge", registry::run_purges(Arc::clone(&registry), shutdown.clone()));
        if let Some(certificates) = self.certificates {
            tasks.spawn("certificates", certificates.keep_fresh(shutdown.clone()));
        }
        if let Some(disk_keeper) = self.disk_keeper {
            tasks.spawn("cache on the disk", disk_keeper.run(shutdown.clone()));
        }
        let weak = Arc::downgrade(&registry);
        let node = self.node.map(|(node, content, budget)| node.run((content, weak), budget));
        readiness.serving();
        shutdown.begun().await;
        tracing::info!("stopping: no new connections, waiting for the requests under way");
        node.iter().for_each(RunningNode::drain);
        // The registry's own tasks end when nobody holds it any more.
        drop(registry);
        let grace = config.api.drain_timeout;
        let cut_off = tasks.finish(grace).await;
        if let Some(node) = node {
            node.finish().await;
        }
        driver.finish(grace).await;
        admin_shutdown.begin();
        admin_tasks.finish(ADMIN_GRACE).await;
        cut_off
    }
}

/// How long the last answers of the admin listener may take.
const ADMIN_GRACE: std::time::Duration = std::time::Duration::from_secs(1);

/// Threads for file access that the first requests find: one for what is asked and one for what is kept meanwhile.
const FIRST_THREADS: usize = 2;

/// Each finds the others busy or not started yet, and so gets a thread of its own.
fn start_threads() {
    (0..FIRST_THREADS).for_each(|_| drop(tokio::task::spawn_blocking(|| {})));
}

fn announce(listener: &Listener, what: &str) {
    if let Ok(address) = listener.address() {
        tracing::info!(%address, "{what}");
    }
}

async fn bind(
    address: SocketAddr,
    transport: Transport,
    config: &Config,
) -> Result<Listener, Error> {
    bind_with(address, transport, config.api.limits).await
}

async fn bind_with(
    address: SocketAddr,
    transport: Transport,
    limits: Limits,
) -> Result<Listener, Error> {
    let listener = Listener::bind(address, transport, limits).await;
    listener.map_err(|source| Error::Bind { address, source })
}

/// A listener for the registry and one for each mirror of a single registry.
async fn bind_all(
    config: &Config,
    api: &Arc<Api>,
    transport: &Transport,
) -> Result<Vec<(Listener, Arc<Face>)>, Error> {
    let bind = |address: &SocketAddr| bind(*address, transport.clone(), config);
    let mut listeners = Vec::new();
    for address in &config.api.listen {
        listeners.push((bind(address).await?, Face::of(Arc::clone(api))));
    }
    for upstream in &config.upstreams.upstreams {
        for address in &upstream.listen {
            let face = Face::mirroring(Arc::clone(api), upstream.name.clone());
            listeners.push((bind(address).await?, face));
        }
    }
    Ok(listeners)
}

/// Has the metrics tell how much of `memory.buffers` is used.
fn register_buffers(metrics: &prometheus::Registry, budget: ByteBudget) {
    let total_bytes = budget.total_bytes();
    let limit = ("millpond_buffers_limit_bytes", "Most memory of buffers, as memory.buffers says");
    telemetry::register_gauge(metrics, limit, move || total_bytes);
    let used = ("millpond_buffers_bytes", "Memory of buffers that is in use");
    telemetry::register_gauge(metrics, used, move || total_bytes - budget.free_bytes());
}

/// The hosts that stand for a single registry.
fn hosts(config: &Config) -> BTreeMap<String, String> {
    let upstreams = config.upstreams.upstreams.iter();
    let hosts =
        upstreams.flat_map(|upstream| upstream.hosts.iter().map(|host| (host, &upstream.name)));
    hosts.map(|(host, name)| (host.to_ascii_lowercase(), name.clone())).collect()
}
