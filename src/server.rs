//! The daemon: what is built of what, and in which order it starts and stops.
//!
//! Start: storage, registry, listeners bound, background work, ready. Stop: not ready, no new connections,
//! the requests under way end within the grace period, then the rest.

use std::{io, net::SocketAddr, sync::Arc};

use crate::{
    api::{Admin, Api, Listener, Readiness},
    config::Config,
    registry::{self, Registry},
    runtime::{ByteBudget, Shutdown, Tasks},
    storage::{self, Metered, SharedStorage},
};

/// A daemon whose sockets are bound.
#[derive(Debug)]
pub struct Server {
    config: Config,
    driver: storage::Driver,
    api: Arc<Api>,
    admin: Arc<Admin>,
    readiness: Arc<Readiness>,
    registry: Arc<Registry>,
    listeners: Vec<Listener>,
    admin_listener: Listener,
    tasks: Tasks,
    shutdown: Shutdown,
}

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage cannot be opened.
    #[error("the storage cannot be opened: {0}")]
    Storage(#[from] storage::Error),
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
        let metrics = prometheus::Registry::new();
        let tasks = Tasks::new();
        let budget = ByteBudget::new(config.memory.buffers.0);
        let driver = storage::Driver::open(&config.storage, budget).await?;
        let shared: SharedStorage = Arc::new(Metered::new(driver.shared(), &metrics));
        tracing::info!(storage = %shared, "storage is open");
        let registry = Registry::new(config.registry.clone(), Arc::clone(&shared), &tasks);
        registry::register_metrics(&registry, &metrics);
        let api = Api::new(Arc::clone(&registry), config.api.clone(), tasks.clone(), &metrics);
        let readiness = Arc::new(Readiness::new(shared, shutdown.clone()));
        let admin = Admin::new(Arc::clone(&readiness), metrics);
        let mut listeners = Vec::new();
        for address in &config.api.listen {
            listeners.push(bind(*address, &config).await?);
        }
        let admin_listener = bind(config.api.admin, &config).await?;
        let (api, admin) = (Arc::new(api), Arc::new(admin));
        Ok(Self {
            config,
            driver,
            api,
            admin,
            readiness,
            registry,
            listeners,
            admin_listener,
            tasks,
            shutdown,
        })
    }

    /// Where the registry is served.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(Listener::address).collect()
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
        let Self { config, driver, api, admin, readiness, registry, tasks, shutdown, .. } = self;
        for listener in self.listeners {
            announce(&listener, "the registry is served here");
            let serve = listener.serve(Arc::clone(&api), tasks.clone(), shutdown.clone());
            tasks.spawn("listener", serve);
        }
        announce(&self.admin_listener, "health and metrics are served here");
        // Health is answered until the very end, so its listener stops with this function.
        let (admin_tasks, admin_shutdown) = (Tasks::new(), Shutdown::new());
        let serve = self.admin_listener.serve(admin, admin_tasks.clone(), admin_shutdown.clone());
        admin_tasks.spawn("admin listener", serve);
        tasks.spawn("purge", registry::run_purges(Arc::clone(&registry), shutdown.clone()));
        readiness.serving();
        shutdown.begun().await;
        tracing::info!("stopping: no new connections, waiting for the requests under way");
        // The registry's own tasks end when nobody holds it any more.
        drop((api, registry));
        let grace = config.api.drain_timeout;
        let cut_off = tasks.finish(grace).await;
        driver.finish(grace).await;
        admin_shutdown.begin();
        admin_tasks.finish(ADMIN_GRACE).await;
        cut_off
    }
}

/// How long the last answers of the admin listener may take.
const ADMIN_GRACE: std::time::Duration = std::time::Duration::from_secs(1);

fn announce(listener: &Listener, what: &'static str) {
    if let Ok(address) = listener.address() {
        tracing::info!(%address, "{what}");
    }
}

async fn bind(address: SocketAddr, config: &Config) -> Result<Listener, Error> {
    let listener = Listener::bind(address, config.api.limits).await;
    listener.map_err(|source| Error::Bind { address, source })
}
