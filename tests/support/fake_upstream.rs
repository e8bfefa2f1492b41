//! A registry within the test: real HTTP on a loopback port, blobs, manifests and tags in memory. It writes
//! down every request, misbehaves as it is told to, and asks for passwords or tokens if it is told to.
//!
//! Any test target can have it: `#[path = "../support/fake_upstream.rs"] mod fake_upstream;`. One that uses only
//! a part of it puts `#[expect(dead_code, reason = "…")]` before that.
//!
//! ```ignore
//! let upstream = FakeUpstream::start().await;
//! let digest = upstream.put_blob("library/nginx", b"bytes".to_vec());
//! upstream.script(Script::new(Fault::Status(503)).on("GET /v2/library/nginx/blobs").times(2));
//! // … ask upstream.url(), then:
//! assert_eq!(upstream.count("GET", &format!("/v2/library/nginx/blobs/{digest}")), 3);
//! ```

#[path = "fake_upstream/access.rs"]
mod access;
#[path = "fake_upstream/body.rs"]
mod body;
#[path = "fake_upstream/content.rs"]
mod content;
#[path = "fake_upstream/raw.rs"]
mod raw;
#[path = "fake_upstream/script.rs"]
mod script;
#[path = "fake_upstream/serve.rs"]
mod serve;
#[path = "fake_upstream/tls.rs"]
mod tls;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Version};
use millpond::oci::{Algorithm, Digest};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::timeout};

use access::Gate;
pub(crate) use access::{Access, TokenServer};
use content::Content;
pub(crate) use raw::RawUpstream;
pub(crate) use script::{Fault, Script};
pub(crate) use tls::Tls;

/// Nothing that a test waits for takes longer, however busy the machine is.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running registry, empty at first and open to everybody. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct FakeUpstream {
    address: SocketAddr,
    tls: Tls,
    state: Arc<State>,
    serving: Mutex<JoinSet<()>>,
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The method.
    pub(crate) method: String,
    /// The path, without the query.
    pub(crate) path: String,
    /// The query, without the question mark; empty if there was none.
    pub(crate) query: String,
    /// The version of HTTP.
    pub(crate) version: Version,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The body.
    pub(crate) body: Bytes,
}

#[derive(Debug)]
struct State {
    url: String,
    content: Mutex<Content>,
    gate: Mutex<Gate>,
    scripts: Mutex<Vec<Script>>,
    seen: watch::Sender<Vec<Seen>>,
    released: watch::Sender<bool>,
    sent_bytes: AtomicU64,
}

impl FakeUpstream {
    /// Starts a registry on a free port of 127.0.0.1.
    pub(crate) async fn start() -> Self {
        Self::start_with(Tls::None).await
    }

    /// Starts a registry with or without TLS, which has HTTP/2 as well.
    pub(crate) async fn start_with(tls: Tls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        let state = Arc::new(State {
            url: format!("{}://{address}", tls.scheme()),
            content: Mutex::default(),
            gate: Mutex::default(),
            scripts: Mutex::default(),
            seen: watch::Sender::new(Vec::new()),
            released: watch::Sender::new(false),
            sent_bytes: AtomicU64::new(0),
        });
        let upstream = Self { address, tls, state, serving: Mutex::default() };
        upstream.serve(listener);
        upstream
    }

    /// Its address: `http://127.0.0.1:<port>`, or https.
    pub(crate) fn url(&self) -> &str {
        &self.state.url
    }

    /// Stores a blob in a repository.
    pub(crate) fn put_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        lock(&self.state.content).put_blob(repository, digest, bytes);
        digest
    }

    /// Stores a manifest in a repository, and lets `tag` mean it from now on.
    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let mut content = lock(&self.state.content);
        content.put_manifest(repository, digest, media_type, bytes);
        if let Some(tag) = tag {
            content.tag(repository, tag, digest);
        }
        digest
    }

    /// Lists are answered in pages of so many items.
    pub(crate) fn set_page(&self, items: usize) {
        lock(&self.state.content).page = items;
    }

    /// Answers 404 to referrers, as a registry without that API does.
    pub(crate) fn without_referrers(&self) {
        lock(&self.state.content).has_referrers = false;
    }

    /// Who is let in from now on. Tokens that were issued are void.
    pub(crate) fn set_access(&self, access: Access) {
        lock(&self.state.gate).set(access);
    }

    /// Makes some of the requests to come go wrong.
    pub(crate) fn script(&self, script: Script) {
        lock(&self.state.scripts).push(script);
    }

    /// Ends all scripts.
    pub(crate) fn clear_scripts(&self) {
        lock(&self.state.scripts).clear();
    }

    /// Lets everything that hangs or stalls go on, now and from now on.
    pub(crate) fn release(&self) {
        self.state.released.send_replace(true);
    }

    /// Every request so far, those that were answered with an error included.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.state.seen.borrow().clone()
    }

    /// Forgets the requests so far.
    pub(crate) fn forget_requests(&self) {
        self.state.seen.send_replace(Vec::new());
    }

    /// How many requests there were with this method for this path, with any query.
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        count(&self.state.seen.borrow(), method, path)
    }

    /// Waits until there were as many.
    pub(crate) async fn until_asked(&self, method: &str, path: &str, times: usize) {
        let mut seen = self.state.seen.subscribe();
        let enough = seen.wait_for(|seen| count(seen, method, path) >= times);
        let waited = timeout(DEADLINE, enough).await;
        assert!(waited.is_ok(), "{method} {path} was not asked for {times} times in time");
    }

    /// Bytes of bodies that were handed to connections so far.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.state.sent_bytes.load(Ordering::SeqCst)
    }

    /// Ends every connection and takes no more: they are refused.
    pub(crate) async fn stop(&self) {
        let mut serving = std::mem::take(&mut *lock(&self.serving));
        serving.shutdown().await;
    }

    /// Comes back after [`FakeUpstream::stop`] on the same port, with everything it had.
    pub(crate) async fn restart(&self) {
        let listener = TcpListener::bind(self.address).await.expect("the port is free again");
        self.serve(listener);
    }

    fn serve(&self, listener: TcpListener) {
        lock(&self.serving).spawn(serve::serve(listener, self.tls, Arc::clone(&self.state)));
    }
}

fn count(seen: &[Seen], method: &str, path: &str) -> usize {
    seen.iter().filter(|seen| seen.method == method && seen.path == path).count()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics with the lock")
}
