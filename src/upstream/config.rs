//! Settings of the upstreams.

use std::{
    collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration,
};

use reqwest::Url;

use super::{
    pattern::Repositories,
    quirks::{self, Quirk},
};
use crate::{
    oci::RepositoryName,
    runtime::{ByteSize, Secret, Section, Setting, choices},
};

const TAG_TTL: Duration = Duration::from_mins(5);
const NEGATIVE_TTL: Duration = Duration::from_secs(30);
const MAX_STALE: Duration = Duration::from_hours(7 * 24);
const CONNECTIONS: usize = 64;
const CONNECTIONS_MOST: usize = 4096;
const CONNECTIONS_PER_BLOB: usize = 4;
const CONNECTIONS_PER_BLOB_MOST: usize = 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A line of 512 kbit/s is as much for each of the 64 connections by default.
const LEAST_BYTES_PER_SECOND: ByteSize = ByteSize(1 << 10);

/// Docker Hub, and where docker daemons find nothing but it.
const DEFAULT_UPSTREAM: [(&str, &str); 2] = [("name", "docker.io"), ("listen", "127.0.0.1:5001")];

/// Longest time that may be set for anything about freshness.
const AGE_MOST: Duration = Duration::from_hours(10 * 365 * 24);

/// Longest time that may be set for waiting: clients have given up long before.
const WAIT_MOST: Duration = Duration::from_mins(10);

/// Settings of all upstreams, list `upstreams`.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The registries that are mirrored. Default: Docker Hub, which is also alone on `127.0.0.1:5001`.
    pub upstreams: Vec<UpstreamConfig>,
}

/// Settings of one upstream, an item of `upstreams`.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// First component of the names of its repositories here, such as `docker.io`. Must be given.
    pub name: String,
    /// Other names for it, such as `registry-1.docker.io` or `registry.example:5000`, by which clients
    /// ask for it in `?ns=`. Default: what else a known registry is called.
    pub aliases: Vec<String>,
    /// Addresses and ports, besides `api.listen`, where every name is one of this upstream's: for
    /// dockerd's `registry-mirrors`, which does not say which registry it means. Default: none.
    pub listen: Vec<SocketAddr>,
    /// Hosts, as clients write them in `Host`, for which the same holds. Default: none.
    pub hosts: Vec<String>,
    /// Its addresses. A later one is asked when those before it cannot be reached or fail. Default:
    /// `https://<name>`, or where a known registry really is.
    pub urls: Vec<BaseUrl>,
    /// Who this side is. Default: nobody.
    pub credentials: CredentialsConfig,
    /// Hosts beside its own that may issue its tokens, as `host` or `host:port`, and so are sent the
    /// credentials. Default: those of a known registry.
    pub auth_hosts: Vec<String>,
    /// Certificates and keys.
    pub tls: TlsConfig,
    /// Whether an address, a token server or a redirection may be without TLS. Default: deny.
    pub plain_http: PlainHttp,
    /// How long answers may be used.
    pub policy: Policy,
    /// Limits on what is asked of it.
    pub limits: Limits,
    /// Which of its repositories may be mirrored. Default: all.
    pub repositories: Repositories,
}

/// Who this side is towards an upstream.
#[derive(Clone, Debug, Default)]
pub enum CredentialsConfig {
    /// Nobody.
    #[default]
    Anonymous,
    /// A name and a password, for Basic authentication and token servers.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A token that is sent as it is.
    Token(Secret),
    /// Docker's `config.json`, read again when the upstream refuses what was in it.
    DockerConfig(PathBuf),
    /// The program `docker-credential-<this>`, run again when the upstream refuses what it said.
    Helper(String),
}

/// Certificates and keys for an upstream, PEM files read at start.
#[derive(Clone, Debug, Default)]
pub struct TlsConfig {
    /// Certificates to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// This side's certificate; needs a key.
    pub client_cert_file: Option<PathBuf>,
    /// The key of this side's certificate.
    pub client_key_file: Option<PathBuf>,
}

/// Whether something may be asked for without TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainHttp {
    /// No.
    #[default]
    Deny,
    /// Yes, also credentials may be sent so.
    Allow,
}

choices!(PlainHttp: "deny" => Deny, "allow" => Allow);

/// How long what an upstream said may be used. This module keeps nothing; it is for those who do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a tag is believed without asking again. Default: 5 min.
    pub tag_ttl: Duration,
    /// How long it is believed that something is not there. Default: 30 s.
    pub negative_ttl: Duration,
    /// How long a tag may be served that cannot be asked for again. Default: 7 d.
    pub max_stale: Duration,
}

/// Limits on what is asked of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most requests at once. One eighth of them, at least one, is kept free of blobs. Default: 64.
    pub connections: usize,
    /// Most connections for one large blob. More than one is used only while that is found to be faster, and
    /// only while others leave connections free. Default: 4; 1 for never more than one.
    pub connections_per_blob: usize,
    /// Most bytes of bodies per second, all transfers together. Default: no limit.
    pub bytes_per_second: Option<ByteSize>,
    /// Longest wait for a connection. Default: 10 s.
    pub connect_timeout: Duration,
    /// Longest wait for the headers of one answer; twice as long for all attempts together. Default:
    /// 30 s.
    pub response_timeout: Duration,
    /// Longest silence within a body. Default: 30 s.
    pub stall_timeout: Duration,
    /// Least bytes per second of one blob, on average over twice the stall timeout. One that brings less is
    /// as good as silent: its connection is given up. Only time spent waiting for the upstream counts.
    /// Default: 1 KiB; 0 for no limit.
    pub least_bytes_per_second: ByteSize,
}

/// Address of a registry: scheme, host and port.
#[derive(Clone, PartialEq, Eq)]
pub struct BaseUrl(Url);

impl Config {
    /// Reads the list `upstreams` of the `root` section, reporting what is wrong with it.
    pub fn read(root: &mut Section<'_>) -> Self {
        let mut taken = BTreeMap::new();
        let read = |mut section: Section<'_>| {
            let config = UpstreamConfig::read(&mut section);
            config.check_names(&section, &mut taken);
            config
        };
        let sections = root.sections_or("upstreams", &DEFAULT_UPSTREAM);
        Self { upstreams: sections.into_iter().map(read).collect() }
    }
}

impl UpstreamConfig {
    /// An upstream called `name` at `url`, with the default for everything else.
    #[must_use]
    pub fn new(name: &str, url: BaseUrl) -> Self {
        Self {
            name: name.to_owned(),
            aliases: default_aliases(name),
            listen: Vec::new(),
            hosts: Vec::new(),
            urls: vec![url],
            credentials: CredentialsConfig::default(),
            auth_hosts: Vec::new(),
            tls: TlsConfig::default(),
            plain_http: PlainHttp::default(),
            policy: Policy::default(),
            limits: Limits::default(),
            repositories: Repositories::default(),
        }
    }

    /// Docker Hub, asked as nobody in particular.
    ///
    /// # Panics
    /// Never: the address is a constant.
    #[must_use]
    pub fn docker_hub() -> Self {
        let name = "docker.io";
        Self::new(name, default_url(name).expect("the table of known registries has its address"))
    }

    fn read(section: &mut Section<'_>) -> Self {
        let name = section.optional::<String>("name").unwrap_or_default();
        let urls = default_url(&name).into_iter().collect();
        let aliases = section.list("aliases", default_aliases(&name));
        let urls = section.list("url", urls);
        let listen = section.list("listen", Vec::new());
        let hosts = section.list("hosts", Vec::new());
        let config = Self {
            aliases,
            listen,
            hosts,
            urls,
            credentials: CredentialsConfig::read(section),
            auth_hosts: section.list("auth_hosts", Vec::new()),
            tls: TlsConfig::read(section),
            plain_http: section.get("plain_http", PlainHttp::default()),
            policy: Policy::read(section),
            limits: Limits::read(section),
            repositories: Repositories::read(&mut section.section("repositories")),
            name,
        };
        config.check_urls(section);
        config
    }

    fn check_urls(&self, section: &Section<'_>) {
        if self.urls.is_empty() && is_name(&self.name) {
            section.problem("url", None, "the address of the registry is expected");
        }
        for url in
            self.urls.iter().filter(|url| self.plain_http == PlainHttp::Deny && !url.is_tls())
        {
            let message = "https is expected, or plain_http: allow beside it";
            section.problem("url", Some(url.to_string()), message);
        }
    }

    fn check_names(&self, section: &Section<'_>, taken: &mut BTreeMap<String, String>) {
        if !is_name(&self.name) {
            let message = "the first component of its repositories' names here is expected: lower-case \
                           letters and digits joined by '.', '_', '__' or dashes";
            let given = Some(self.name.clone()).filter(|name| !name.is_empty());
            section.problem("name", given, message);
            return;
        }
        let names = std::iter::once(("name", &self.name))
            .chain(self.aliases.iter().map(|alias| ("aliases", alias)));
        for (key, name) in names {
            if key == "aliases" && !is_host(name) {
                let message = "a host, or a host and a port, is expected";
                section.problem(key, Some(name.clone()), message);
            }
            let earlier = taken.insert(name.to_ascii_lowercase(), self.name.clone());
            if let Some(earlier) = earlier {
                let message = format!("this name is taken by the upstream {earlier}");
                section.problem(key, Some(name.clone()), message);
            }
        }
    }

    /// The row of the known registry that this is by its name.
    pub(super) fn quirk(&self) -> &'static Quirk {
        quirks::of(&self.name)
    }
}

fn default_url(name: &str) -> Option<BaseUrl> {
    let url = quirks::of(name).url.map(str::to_owned);
    // A name without a dot is no host that the world knows.
    let url = url.or_else(|| name.contains('.').then(|| format!("https://{name}")));
    url.and_then(|url| url.parse().ok())
}

fn default_aliases(name: &str) -> Vec<String> {
    let hosts = quirks::of(name).hosts.iter().filter(|host| **host != name);
    hosts.map(|host| (*host).to_owned()).collect()
}

fn is_name(name: &str) -> bool {
    !name.contains('/') && name.parse::<RepositoryName>().is_ok()
}

fn is_host(text: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
    !text.is_empty() && text.bytes().all(is_known)
}

impl CredentialsConfig {
    fn read(section: &mut Section<'_>) -> Self {
        let username = section.optional::<String>("username");
        let password = section.secret("password", "password_file");
        let token = section.secret("token", "token_file");
        let docker_config = section.optional("docker_config");
        let helper = section.optional::<String>("credential_helper");
        if username.is_some() != password.is_some() {
            section.problem("username", None, "give a username and a password, or neither");
        }
        if let Some(name) = helper.clone().filter(|name| !is_program(name)) {
            let message = "the part of the program's name after docker-credential- is expected";
            section.problem("credential_helper", Some(name), message);
        }
        let password = username.zip(password);
        let ways = [
            password.map(|(username, password)| Self::Password { username, password }),
            token.map(Self::Token),
            docker_config.map(Self::DockerConfig),
            helper.map(Self::Helper),
        ];
        let mut ways = ways.into_iter().flatten();
        let way = ways.next().unwrap_or_default();
        if ways.next().is_some() {
            let message =
                "give one of username and password, token, docker_config or credential_helper";
            section.problem("username", None, message);
        }
        way
    }
}

/// Whether `name` can be the end of a program's name, and no path.
pub(super) fn is_program(name: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.is_empty() && name.bytes().all(is_known)
}

impl TlsConfig {
    fn read(section: &mut Section<'_>) -> Self {
        let config = Self {
            ca_file: section.optional("ca_file"),
            client_cert_file: section.optional("client_cert_file"),
            client_key_file: section.optional("client_key_file"),
        };
        if config.client_cert_file.is_some() != config.client_key_file.is_some() {
            let message = "give client_cert_file and client_key_file, or neither";
            section.problem("client_cert_file", None, message);
        }
        config
    }
}

impl Policy {
    fn read(section: &mut Section<'_>) -> Self {
        let Self { tag_ttl, negative_ttl, max_stale } = Self::default();
        let limits = Duration::ZERO..=AGE_MOST;
        Self {
            tag_ttl: section.get_within("tag_ttl", tag_ttl, limits.clone()),
            negative_ttl: section.get_within("negative_ttl", negative_ttl, limits.clone()),
            max_stale: section.get_within("max_stale", max_stale, limits),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { tag_ttl: TAG_TTL, negative_ttl: NEGATIVE_TTL, max_stale: MAX_STALE }
    }
}

impl Limits {
    fn read(section: &mut Section<'_>) -> Self {
        let defaults = Self::default();
        let wait = Duration::from_millis(1)..=WAIT_MOST;
        let limits = Self {
            connections: section.get_within(
                "connections",
                defaults.connections,
                1..=CONNECTIONS_MOST,
            ),
            connections_per_blob: section.get_within(
                "connections_per_blob",
                defaults.connections_per_blob,
                1..=CONNECTIONS_PER_BLOB_MOST,
            ),
            bytes_per_second: section.optional("bytes_per_second"),
            connect_timeout: section.get_within(
                "connect_timeout",
                defaults.connect_timeout,
                wait.clone(),
            ),
            response_timeout: section.get_within(
                "response_timeout",
                defaults.response_timeout,
                wait.clone(),
            ),
            stall_timeout: section.get_within("stall_timeout", defaults.stall_timeout, wait),
            least_bytes_per_second: section
                .get("least_bytes_per_second", defaults.least_bytes_per_second),
        };
        if limits.bytes_per_second == Some(ByteSize(0)) {
            let message = "more than nothing is expected; leave it out for no limit";
            section.problem("bytes_per_second", Some("0".to_owned()), message);
        }
        limits
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS,
            connections_per_blob: CONNECTIONS_PER_BLOB,
            bytes_per_second: None,
            connect_timeout: CONNECT_TIMEOUT,
            response_timeout: RESPONSE_TIMEOUT,
            stall_timeout: STALL_TIMEOUT,
            least_bytes_per_second: LEAST_BYTES_PER_SECOND,
        }
    }
}

impl Repositories {
    fn read(section: &mut Section<'_>) -> Self {
        Self { allow: section.list("allow", Vec::new()), deny: section.list("deny", Vec::new()) }
    }
}

impl BaseUrl {
    pub(super) const fn url(&self) -> &Url {
        &self.0
    }

    fn is_tls(&self) -> bool {
        self.0.scheme() == "https"
    }
}

/// Why a text is no [`BaseUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is expected", BaseUrl::ACCEPTED)]
pub struct InvalidBaseUrl;

impl FromStr for BaseUrl {
    type Err = InvalidBaseUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text).map_err(|_| InvalidBaseUrl)?;
        let is_bare = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
        if is_bare && is_http { Ok(Self(url)) } else { Err(InvalidBaseUrl) }
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Setting for BaseUrl {
    const ACCEPTED: &'static str =
        "an address such as https://registry.example:5000, without a path";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}
