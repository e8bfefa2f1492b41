//! The HTTP face: the only module that serves requests and knows status codes.
//!
//! [`route`] says what a path means, [`dispatch`] which handler that is, one file per noun handles it, and
//! [`error`] turns every failure into an answer.

mod access_log;
mod admin;
mod blob;
mod body;
mod config;
mod dispatch;
mod error;
mod listener;
mod location;
mod manifest;
mod metrics;
mod part;
mod peers;
mod range;
mod referrers;
mod request;
pub mod route;
mod sendfile;
mod stall;
mod tags;
mod tls;
mod upload;

use std::{collections::BTreeMap, sync::Arc};

use http::{header, request::Parts};

pub use admin::{Admin, Readiness};
pub use body::Body;
pub use config::Config;
pub use dispatch::Face;
pub use listener::{Limits, Listener, Service};
pub use part::{PartError, PartStream};
pub use peers::{PEER_LIMITS, PeerFace, PeerHandler};
pub use sendfile::Data;
pub use tls::{Certificates, Handshakes, TlsConfig, TlsError, Transport};

use crate::{registry::Registry, runtime::Tasks};
use metrics::HttpMetrics;

/// Everything a request to the registry needs.
#[derive(Debug)]
pub struct Api {
    registry: Arc<Registry>,
    config: Config,
    metrics: HttpMetrics,
    tasks: Tasks,
    /// Which other registry every name means that is asked of a host.
    hosts: BTreeMap<String, String>,
}

impl Api {
    /// The API of `registry`. Changes run detached in `tasks`; metrics are registered in `metrics`. A request
    /// to a host among `hosts`, without port, means the other registry named there.
    #[must_use]
    pub fn new(
        registry: Arc<Registry>,
        (config, hosts): (Config, BTreeMap<String, String>),
        tasks: Tasks,
        metrics: &prometheus::Registry,
    ) -> Self {
        Self { registry, config, metrics: HttpMetrics::new(metrics), tasks, hosts }
    }

    fn namespace_of_host(&self, request: &Parts) -> Option<String> {
        if self.hosts.is_empty() {
            return None;
        }
        let host = request.headers.get(header::HOST).and_then(|value| value.to_str().ok());
        let authority = match request.uri.authority() {
            Some(authority) => authority.clone(),
            None => host?.parse().ok()?,
        };
        self.hosts.get(&authority.host().to_ascii_lowercase()).cloned()
    }
}
