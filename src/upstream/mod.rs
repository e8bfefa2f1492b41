//! Other registries, asked over HTTP: tokens, limits, retries, quirks.
//!
//! Nothing is stored here and nothing is verified: bytes come as the upstream sends them, and whoever
//! stores them checks their digest. Only configured upstreams are asked; an address never comes from a
//! request. Every wait has a limit.
//!
//! A question goes through [`exchange`]: not while the upstream wants a [`pause`], in its turn, to one
//! address after the other, some attempts at each, with what [`auth`] adds. [`transport`] sends it and
//! follows redirections, and [`body`] watches what comes.

mod auth;
mod body;
mod challenge;
mod config;
mod credentials;
mod docker_config;
mod error;
mod exchange;
mod floor;
mod heard;
mod helper;
mod link;
mod listing;
mod metrics;
mod pattern;
mod pause;
mod quirks;
mod quota;
mod remote;
mod several;
mod throttle;
mod token;
mod transport;
pub mod wire;

use std::{collections::HashMap, fmt, sync::Arc};

use prometheus::Registry;
use reqwest::Url;

pub use body::{RemoteBlob, RemoteStream};
pub use config::{
    BaseUrl, Config, CredentialsConfig, InvalidBaseUrl, Limits, PlainHttp, Policy, TlsConfig,
    UpstreamConfig,
};
pub use credentials::CredentialsError;
pub use error::{Error, SetupError};
pub use pattern::{InvalidPattern, Pattern, Repositories};
pub use remote::{FetchedManifest, ManifestHead, Upstream};

use self::{
    auth::Authenticator,
    body::Meter,
    credentials::{Credentials, Login},
    exchange::{Address, Exchange, Turns},
    floor::Floor,
    heard::Heard,
    metrics::{Metrics, PausedSeconds, UpstreamMetrics},
    pause::Pauses,
    quota::Quota,
    several::Several,
    throttle::Throttle,
    token::{Server, Tokens},
    transport::Transport,
};
use crate::runtime::Tasks;

/// All upstreams.
pub struct Upstreams {
    all: Vec<Arc<Upstream>>,
    by_name: HashMap<String, Arc<Upstream>>,
}

impl Upstreams {
    /// Makes what the configuration describes; asks nobody. What is asked for several at once will run in
    /// `tasks`. rustls must have its crypto provider.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(config: &Config, tasks: &Tasks, registry: &Registry) -> Result<Self, SetupError> {
        let metrics = Metrics::register(registry)?;
        let (mut all, mut by_name) = (Vec::new(), HashMap::new());
        for item in &config.upstreams {
            let upstream = Arc::new(build(item, tasks, metrics.of(&item.name))?);
            for name in std::iter::once(&item.name).chain(&item.aliases) {
                if by_name.insert(name.to_ascii_lowercase(), Arc::clone(&upstream)).is_some() {
                    let what = "its name or an alias of it is another one's";
                    return Err(SetupError::Config { upstream: item.name.clone(), what });
                }
            }
            all.push(upstream);
        }
        let pauses = |upstream: &Arc<Upstream>| {
            (Arc::clone(&upstream.name), Arc::clone(&upstream.exchange.pauses))
        };
        PausedSeconds::register(registry, all.iter().map(pauses).collect())?;
        Ok(Self { all, by_name })
    }

    /// The upstream of this name or alias; letter case does not matter.
    #[must_use]
    pub fn named(&self, name_or_alias: &str) -> Option<Arc<Upstream>> {
        self.by_name.get(&name_or_alias.to_ascii_lowercase()).cloned()
    }

    /// All of them, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.all.iter()
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|upstream| upstream.name())).finish()
    }
}

fn build(
    config: &UpstreamConfig,
    tasks: &Tasks,
    metrics: UpstreamMetrics,
) -> Result<Upstream, SetupError> {
    let name: Arc<str> = config.name.as_str().into();
    let metrics = Arc::new(metrics);
    let limits = config.limits;
    let transport = Arc::new(Transport::new(config)?);
    let urls: Vec<&Url> = config.urls.iter().map(BaseUrl::url).collect();
    let login = login(config, &urls)?;
    let credentials = Arc::new(Credentials::new(config.credentials.clone(), login, tasks.clone()));
    credentials
        .check()
        .map_err(|source| SetupError::Credentials { upstream: config.name.clone(), source })?;
    let heard = Arc::new(Heard::default());
    let meter = Arc::new(Meter {
        upstream: Arc::clone(&name),
        heard: Arc::clone(&heard),
        metrics: Arc::clone(&metrics),
        throttle: limits.bytes_per_second.map(|rate| Throttle::new(rate.0)),
        stall_timeout: limits.stall_timeout,
        floor: Floor::new(limits.least_bytes_per_second.0, 2 * limits.stall_timeout),
        whole_timeout: 2 * limits.response_timeout.max(limits.stall_timeout),
    });
    let server = Server {
        upstream: Arc::clone(&name),
        transport: Arc::clone(&transport),
        credentials: Arc::clone(&credentials),
        meter: Arc::clone(&meter),
        metrics: Arc::clone(&metrics),
    };
    let authenticator = Authenticator {
        upstream: Arc::clone(&name),
        credentials,
        tokens: Tokens::new(server, tasks.clone()),
        trusted: trusted(config, &urls),
        plain_http: config.plain_http,
        learnt: auth::learnt(),
    };
    let exchange = Exchange {
        upstream: Arc::clone(&name),
        addresses: urls.iter().map(|url| Address::new((*url).clone())).collect(),
        transport,
        authenticator,
        pauses: Arc::new(Pauses::default()),
        quota: Quota::new(Arc::clone(&metrics)),
        heard,
        turns: Turns::new(limits.connections),
        metrics,
        response_timeout: limits.response_timeout,
    };
    Ok(Upstream {
        name,
        policy: config.policy,
        repositories: config.repositories.clone(),
        default_namespace: config.quirk().default_namespace,
        exchange,
        meter,
        several: Several::new(limits.connections_per_blob),
    })
}

/// How the registry is called where credentials are kept.
fn login(config: &UpstreamConfig, urls: &[&Url]) -> Result<Login, SetupError> {
    let hosts: Vec<String> = urls.iter().filter_map(|url| host(url)).collect();
    let Some(first) = hosts.first() else {
        let what = "it has no address";
        return Err(SetupError::Config { upstream: config.name.clone(), what });
    };
    // By the host: a password for Docker Hub is not for a registry that is merely called so here.
    let quirk = quirks::of(first);
    let server = quirk.login.unwrap_or(first).to_owned();
    let known = quirk.hosts.iter().map(|host| (*host).to_owned());
    Ok(Login { server, hosts: known.chain(hosts.iter().cloned()).collect() })
}

/// Hosts that may issue tokens for the registries at these addresses.
fn trusted(config: &UpstreamConfig, urls: &[&Url]) -> Vec<String> {
    let known = urls.iter().filter_map(|url| url.host_str());
    let known = known.flat_map(|host| quirks::of(host).auth_hosts);
    config.auth_hosts.iter().cloned().chain(known.map(|host| (*host).to_owned())).collect()
}

/// The host, with the port where the URL has one.
fn host(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}
