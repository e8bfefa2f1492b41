//! A whole Millpond within the test: the real server with real sockets, on a directory or on the S3
//! server of `s3_server.rs`.
//!
//! A test target that has this also has `#[path = "../support/s3_server.rs"] mod s3_server;`. Tests run
//! on `#[tokio::test(flavor = "multi_thread")]`: dropping a node waits until it has stopped.

use std::{io, path::PathBuf, sync::Arc};

use millpond::{
    config::Config,
    runtime::{Environment, Shutdown},
    server::Server,
};
use tempfile::TempDir;
use tokio::{runtime::Handle, task::JoinHandle};

use crate::s3_server::S3Server;

/// What a node keeps its content in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// A temporary directory.
    Directory,
    /// An empty bucket of an S3 server in this process.
    S3,
}

/// The storage itself. It outlives the nodes that share it.
pub(crate) enum Ground {
    Directory(TempDir),
    S3(S3Server),
}

/// A running node. Dropping it stops it gracefully, and panics if a request is still not answered then.
pub(crate) struct TestNode {
    pub(crate) ground: Arc<Ground>,
    /// The disk of its own, which outlives its restarts.
    pub(crate) disk: Arc<TempDir>,
    /// What is in force from its next start on.
    pub(crate) settings: String,
    running: Option<Running>,
    http: reqwest::Client,
}

struct Running {
    url: String,
    admin_url: String,
    shutdown: Shutdown,
    /// How many requests were cut off at the end.
    served: JoinHandle<usize>,
}

impl TestNode {
    /// A node on a storage of its own. `settings` is YAML, as in a configuration file; addresses and the
    /// storage are set by the node.
    pub(crate) async fn start(backend: Backend, settings: &str) -> Self {
        let ground = match backend {
            Backend::Directory => Ground::Directory(TempDir::new().expect("a temporary directory")),
            Backend::S3 => Ground::S3(S3Server::start().await),
        };
        Self::on(Arc::new(ground), Self::new_disk(), settings).await
    }

    /// Another node with the same settings on the same storage.
    pub(crate) async fn sibling(&self) -> Self {
        Self::on(Arc::clone(&self.ground), Self::new_disk(), &self.settings).await
    }

    fn new_disk() -> Arc<TempDir> {
        Arc::new(TempDir::new().expect("a temporary directory"))
    }

    /// A node with all of these.
    pub(crate) async fn on(ground: Arc<Ground>, disk: Arc<TempDir>, settings: &str) -> Self {
        let running = Running::start(config(&ground, &disk, settings)).await;
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client without TLS");
        Self { ground, disk, settings: settings.to_owned(), running: Some(running), http }
    }

    /// Stops the node and starts it again on the same storage, at another address.
    pub(crate) async fn restart(&mut self) {
        assert_eq!(self.stop().await, 0, "requests were cut off at the restart");
        self.start_again().await;
    }

    /// Starts the node again after it was stopped.
    pub(crate) async fn start_again(&mut self) {
        assert!(self.running.is_none(), "it was stopped");
        self.running = Some(Running::start(self.config()).await);
    }

    /// Stops the node; returns how many requests were cut off at the end of the grace period.
    pub(crate) async fn stop(&mut self) -> usize {
        let running = self.running.take().expect("a node is stopped once");
        running.shutdown.begin();
        running.served.await.expect("the server does not panic")
    }

    /// Tells the node to stop, and does not wait for it.
    pub(crate) fn begin_stop(&self) {
        self.running().shutdown.begin();
    }

    /// Where the registry is: `http://127.0.0.1:<port>`.
    pub(crate) fn url(&self) -> &str {
        &self.running().url
    }

    /// Where health and metrics are.
    pub(crate) fn admin_url(&self) -> &str {
        &self.running().admin_url
    }

    /// A client that follows no redirect and keeps its connections.
    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The folder in which the storage's objects are the files of their keys.
    pub(crate) fn files(&self) -> PathBuf {
        match &*self.ground {
            Ground::Directory(directory) => directory.path().to_owned(),
            Ground::S3(server) => server.files(),
        }
    }

    /// The S3 server of the node.
    pub(crate) fn s3(&self) -> &S3Server {
        match &*self.ground {
            Ground::Directory(_) => panic!("this node is on a directory"),
            Ground::S3(server) => server,
        }
    }

    /// The configuration of the node.
    pub(crate) fn config(&self) -> Config {
        config(&self.ground, &self.disk, &self.settings)
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the node is not stopped")
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.shutdown.begin();
        // A failed test ends its runtime, and with it everything that is still under way.
        if !std::thread::panicking() {
            // On a thread of its own: waiting on this one would take the wake-ups that are meant for whatever
            // else the test waits for.
            let handle = Handle::current();
            let waiting = std::thread::spawn(move || handle.block_on(running.served));
            let stopped = tokio::task::block_in_place(|| waiting.join());
            let cut_off = stopped.expect("no panic in between").expect("the server does not panic");
            assert_eq!(cut_off, 0, "requests were cut off when the node was dropped");
        }
    }
}

impl Running {
    async fn start(config: Config) -> Self {
        let shutdown = Shutdown::new();
        let server = Server::bind(config, shutdown.clone()).await.expect("the node starts");
        let addresses = server.addresses().expect("the registry is bound");
        let admin = server.admin_address().expect("the admin listener is bound");
        let (url, admin_url) = (format!("http://{}", addresses[0]), format!("http://{admin}"));
        Self { url, admin_url, shutdown, served: tokio::spawn(server.run()) }
    }
}

/// Variables that say where everything is, so that the text of a test says only what it is about.
struct Variables(Vec<(&'static str, String)>);

impl Environment for Variables {
    fn variables(&self) -> Vec<(String, String)> {
        self.0.iter().map(|(name, value)| (format!("MILLPOND_{name}"), value.clone())).collect()
    }

    fn read_file(&self, _path: &std::path::Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn config(ground: &Ground, disk: &TempDir, settings: &str) -> Config {
    let any_port = || "127.0.0.1:0".to_owned();
    let mut variables = vec![("API__LISTEN", any_port()), ("API__ADMIN", any_port())];
    let path = disk.path().to_str().expect("a path in UTF-8").to_owned();
    variables.push(("CACHE__DISK__PATH", path));
    if !settings.contains("upstreams") {
        // The default would listen on a port of its own, and ask the world.
        variables.push(("UPSTREAMS", "[]".to_owned()));
    }
    match ground {
        Ground::Directory(directory) => {
            let path = directory.path().to_str().expect("a path in UTF-8").to_owned();
            variables.push(("STORAGE__DIRECTORY__PATH", path));
        }
        Ground::S3(server) => variables.extend([
            ("STORAGE__S3__ENDPOINT", server.endpoint().to_owned()),
            ("STORAGE__S3__BUCKET", server.bucket().to_owned()),
            ("STORAGE__S3__ACCESS_KEY", server.access_key().to_owned()),
            ("STORAGE__S3__SECRET_KEY", server.secret_key().to_owned()),
            ("STORAGE__S3__SPOOL", server.spool().to_str().expect("a path in UTF-8").to_owned()),
            // Small parts and short waits: tests push little and have no time.
            ("STORAGE__S3__PART", "5MiB".to_owned()),
            ("STORAGE__S3__RETRY_BACKOFF", "5ms".to_owned()),
        ]),
    }
    match Config::parse("the test's settings", settings, &Variables(variables)) {
        Ok(loaded) => loaded.config,
        Err(error) => panic!("{error}"),
    }
}

/// The node's own test, which every target that has it runs, and which uses all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_node_starts_restarts_and_stops() {
    for backend in [Backend::Directory, Backend::S3] {
        let mut node = TestNode::start(backend, "registry: {references: sparse}").await;
        assert!(node.files().is_dir());
        assert_eq!(node.config().registry.references, millpond::registry::References::Sparse);
        let sibling = node.sibling().await;
        assert_ne!(sibling.url(), node.url());
        node.restart().await;
        for url in [format!("{}/v2/", node.url()), format!("{}/readyz", node.admin_url())] {
            let answer = sibling.http().get(&url).send().await.expect("the node answers");
            assert_eq!(answer.status(), 200, "{url}");
        }
        if backend == Backend::S3 {
            assert!(!node.s3().take_requests().is_empty(), "readiness asks the storage");
        }
        sibling.begin_stop();
        assert_eq!(node.stop().await, 0);
    }
}
