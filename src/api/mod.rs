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
mod range;
mod referrers;
mod request;
pub mod route;
mod stall;
mod tags;
mod upload;

use std::sync::Arc;

pub use admin::{Admin, Readiness};
pub use body::Body;
pub use config::Config;
pub use listener::{Limits, Listener, Service};

use crate::{registry::Registry, runtime::Tasks};
use metrics::HttpMetrics;

/// Everything a request to the registry needs.
#[derive(Debug)]
pub struct Api {
    registry: Arc<Registry>,
    config: Config,
    metrics: HttpMetrics,
    tasks: Tasks,
}

impl Api {
    /// The API of `registry`. Changes run detached in `tasks`; metrics are registered in `metrics`.
    #[must_use]
    pub fn new(
        registry: Arc<Registry>,
        config: Config,
        tasks: Tasks,
        metrics: &prometheus::Registry,
    ) -> Self {
        Self { registry, config, metrics: HttpMetrics::new(metrics), tasks }
    }
}
