//! Health, readiness, metrics and the cluster, on a listener of their own.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use prometheus::{Encoder, TextEncoder};

use super::{
    body::Body,
    error::{RETRY_AFTER, seconds},
    listener::Service,
};
use crate::{
    content::ContentStore,
    runtime::Shutdown,
    storage::{ListQuery, SharedStorage, layout},
};

/// How long readiness waits for the storage.
const STORAGE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Whether requests should be sent here.
#[derive(Debug)]
pub struct Readiness {
    storage: SharedStorage,
    shutdown: Shutdown,
    serving: AtomicBool,
}

impl Readiness {
    /// Not ready yet. Ready is: serving, not stopping, and the storage answers.
    #[must_use]
    pub const fn new(storage: SharedStorage, shutdown: Shutdown) -> Self {
        Self { storage, shutdown, serving: AtomicBool::new(false) }
    }

    /// The listeners are up.
    pub fn serving(&self) {
        self.serving.store(true, Ordering::Release);
    }

    async fn check(&self) -> Result<(), &'static str> {
        if self.shutdown.has_begun() {
            return Err("stopping\n");
        }
        if !self.serving.load(Ordering::Acquire) {
            return Err("starting\n");
        }
        let repositories = layout::repositories();
        let probe = self.storage.list(&repositories, ListQuery::children(1));
        match tokio::time::timeout(STORAGE_TIMEOUT, probe).await {
            Ok(Ok(_listing)) => Ok(()),
            Ok(Err(_)) => Err("the storage fails\n"),
            Err(_elapsed) => Err("the storage does not answer\n"),
        }
    }
}

/// Serves `/healthz`, `/readyz`, `/metrics` and `/cluster`.
#[derive(Debug)]
pub struct Admin {
    readiness: Arc<Readiness>,
    metrics: prometheus::Registry,
    /// What knows of the other nodes, if there are to be any.
    clustered: Option<ContentStore>,
}

impl Admin {
    /// Serves what `readiness` says, what is registered in `metrics` and what `clustered` knows of its cluster; `None`
    /// if there is none.
    #[must_use]
    pub const fn new(
        readiness: Arc<Readiness>,
        metrics: prometheus::Registry,
        clustered: Option<ContentStore>,
    ) -> Self {
        Self { readiness, metrics, clustered }
    }

    fn cluster(&self) -> Response<Body> {
        let status = self.clustered.as_ref().and_then(ContentStore::cluster_status);
        let Some(status) = status else {
            let text = "this node is in no cluster: cluster.listen is not set\n";
            return text_response(StatusCode::NOT_FOUND, text);
        };
        let json = serde_json::to_vec(&status).expect("numbers and words have a form in JSON");
        let mut response = Response::new(Body::full(json));
        let format = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, format);
        response
    }

    fn metrics(&self) -> Response<Body> {
        let encoder = TextEncoder::new();
        let mut text = Vec::new();
        match encoder.encode(&self.metrics.gather(), &mut text) {
            Ok(()) => {
                let mut response = Response::new(Body::full(text));
                let format = HeaderValue::from_static("text/plain; version=0.0.4");
                response.headers_mut().insert(header::CONTENT_TYPE, format);
                response
            }
            Err(error) => {
                tracing::error!(%error, "metrics could not be written");
                text_response(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written\n")
            }
        }
    }
}

impl Service for Admin {
    async fn call(
        self: Arc<Self>,
        _peer: SocketAddr,
        request: Request<Incoming>,
    ) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let refusal = "only GET and HEAD are allowed here\n";
            let mut response = text_response(StatusCode::METHOD_NOT_ALLOWED, refusal);
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/healthz" => text_response(StatusCode::OK, "alive\n"),
            "/readyz" => match self.readiness.check().await {
                Ok(()) => text_response(StatusCode::OK, "ready\n"),
                Err(reason) => {
                    let mut response = text_response(StatusCode::SERVICE_UNAVAILABLE, reason);
                    response.headers_mut().insert(header::RETRY_AFTER, seconds(RETRY_AFTER));
                    response
                }
            },
            "/metrics" => self.metrics(),
            "/cluster" => self.cluster(),
            _ => {
                let there = "here are /healthz, /readyz, /metrics and /cluster\n";
                text_response(StatusCode::NOT_FOUND, there)
            }
        }
    }
}

fn text_response(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    response
}
