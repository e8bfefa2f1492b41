//! Settings of the HTTP face.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    listener::{Limits, UNSENT_BYTES},
    tls::TlsConfig,
};
use crate::runtime::{ByteSize, Section, Setting, choices};

const REGISTRY_PORT: u16 = 5000;
const ADMIN_PORT: u16 = 5002;
const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

const CONNECTIONS: usize = 4096;
/// More descriptors than any system gives to a process.
const CONNECTIONS_MOST: usize = 1 << 20;
const HEADER_MAX: ByteSize = ByteSize(64 << 10);
/// hyper takes no smaller buffer.
const HEADER_MAX_LEAST: ByteSize = ByteSize(8 << 10);
/// It is also how much of a body is read at once, from every client.
const HEADER_MAX_MOST: ByteSize = ByteSize::mebibytes(1);
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
const BODY_TIMEOUT: Duration = Duration::from_mins(1);
const WRITE_TIMEOUT: Duration = Duration::from_mins(2);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// From where requests without credentials are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// From this machine only: listening elsewhere is a configuration error.
    #[default]
    Loopback,
    /// From anywhere: everybody who can connect may read and write everything.
    Anywhere,
}

choices!(Anonymous: "loopback" => Loopback, "anywhere" => Anywhere);

/// The form of `Location` headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocationForm {
    /// A path: right behind every proxy.
    #[default]
    Relative,
    /// A whole URL, for clients that want one: from `external_url`, or from what a trusted proxy says, or
    /// from the request's `Host`.
    Absolute,
}

choices!(LocationForm: "relative" => Relative, "absolute" => Absolute);

/// Addresses that share their first bits, written `10.0.0.0/8` or as one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressBlock {
    address: IpAddr,
    prefix_bits: u8,
}

impl AddressBlock {
    /// Whether `address` is one of them. An IPv4 address that came over IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
            IpAddr::V6(v6) => (v6.to_bits(), false),
        };
        let ((own, own_is_v4), (other, other_is_v4)) =
            (bits(self.address), bits(address.to_canonical()));
        let shift = 128 - u32::from(self.prefix_bits);
        own_is_v4 == other_is_v4 && own.checked_shr(shift) == other.checked_shr(shift)
    }
}

impl Setting for AddressBlock {
    const ACCEPTED: &'static str = "an address or a block such as 10.0.0.0/8";

    fn read(text: &str) -> Option<Self> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
        (prefix_bits <= most).then_some(Self { address, prefix_bits })
    }

    fn show(&self) -> String {
        format!("{}/{}", self.address, self.prefix_bits)
    }
}

/// Settings of the HTTP face, section `api`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the registry listens. Default: `127.0.0.1:5000`.
    pub listen: Vec<SocketAddr>,
    /// Where health, readiness and metrics are served. Default: `127.0.0.1:5002`.
    pub admin: SocketAddr,
    /// Certificate and key for TLS, which is then spoken at every address but the one of health and metrics.
    /// Default: none, and no TLS.
    pub tls: Option<TlsConfig>,
    /// From where requests are taken at all, as long as nobody has to log in. Default: loopback.
    pub anonymous: Anonymous,
    /// Whether `Location` headers are paths or URLs. Default: relative.
    pub location: LocationForm,
    /// How clients reach this registry, such as `https://registry.example`. Default: from the request.
    pub external_url: Option<String>,
    /// Proxies whose `X-Forwarded-Proto` and `X-Forwarded-Host` are believed. Default: none.
    pub trusted_proxies: Vec<AddressBlock>,
    /// Headers added to every answer. Default: none.
    pub headers: HeaderMap,
    /// No byte of a request body for this long ends the request. Default: 1 min.
    pub body_timeout: Duration,
    /// How long requests may go on after the signal to stop. Default: 30 s.
    pub drain_timeout: Duration,
    /// Limits on connections.
    pub limits: Limits,
}

impl Config {
    /// Reads the section, reporting what is wrong with it.
    pub fn read(section: &mut Section<'_>) -> Self {
        let listen = section.list("listen", vec![SocketAddr::from((LOOPBACK, REGISTRY_PORT))]);
        let admin = section.get("admin", SocketAddr::from((LOOPBACK, ADMIN_PORT)));
        let anonymous = section.get("anonymous", Anonymous::default());
        check_addresses(section, anonymous, &listen, admin);
        let tls = TlsConfig::read(&mut section.section("tls"));
        let location = section.get("location", LocationForm::default());
        let external_url = section.optional::<String>("external_url");
        if let Some(url) = &external_url
            && !is_base_url(url)
        {
            let message = "a URL without a path is expected, such as https://registry.example";
            section.problem("external_url", Some(url.clone()), message);
        }
        Self {
            listen,
            admin,
            tls,
            anonymous,
            location,
            external_url: external_url.map(|url| url.trim_end_matches('/').to_owned()),
            trusted_proxies: section.list("trusted_proxies", Vec::new()),
            headers: read_headers(section),
            body_timeout: section.get("body_timeout", BODY_TIMEOUT),
            drain_timeout: section.get("drain_timeout", DRAIN_TIMEOUT),
            limits: read_limits(section),
        }
    }
}

fn check_addresses(
    section: &Section<'_>,
    anonymous: Anonymous,
    listen: &[SocketAddr],
    admin: SocketAddr,
) {
    if listen.is_empty() {
        section.problem("listen", None, "at least one address is expected");
    }
    let named = listen.iter().map(|address| ("listen", address)).chain([("admin", &admin)]);
    for (name, address) in named {
        if anonymous == Anonymous::Loopback && !address.ip().is_loopback() {
            let message = "other machines can reach this address and nobody has to log in; listen on \
                           loopback, or accept it with api.anonymous: anywhere";
            section.problem(name, Some(address.to_string()), message);
        }
    }
}

fn is_base_url(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some()
            && matches!(uri.path_and_query().map(http::uri::PathAndQuery::as_str), None | Some("/"))
    })
}

fn read_headers(section: &mut Section<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in section.table("headers") {
        match (HeaderName::try_from(&name), HeaderValue::try_from(&value)) {
            (Ok(name), Ok(value)) => {
                headers.insert(name, value);
            }
            _ => section.problem(
                "headers",
                Some(format!("{name}: {value}")),
                "an HTTP header is expected",
            ),
        }
    }
    headers
}

fn read_limits(section: &mut Section<'_>) -> Limits {
    let connections = section.get_within("connections", CONNECTIONS, 1..=CONNECTIONS_MOST);
    let header_max =
        section.get_within("header_max", HEADER_MAX, HEADER_MAX_LEAST..=HEADER_MAX_MOST);
    Limits {
        connections,
        header_max,
        header_timeout: section.get("header_timeout", HEADER_TIMEOUT),
        write_timeout: section.get("write_timeout", WRITE_TIMEOUT),
        unsent_bytes: UNSENT_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_the_addresses_that_share_their_first_bits() {
        let contains = |block: &str, address: &str| {
            AddressBlock::read(block).unwrap().contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("127.0.0.1", "127.0.0.1"));
        assert!(!contains("127.0.0.1", "127.0.0.2"));
        assert!(contains("0.0.0.0/0", "1.2.3.4"));
        assert!(!contains("0.0.0.0/0", "::1"));
        assert!(contains("fd00::/8", "fd12::1"));
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "host"] {
            assert_eq!(AddressBlock::read(bad), None, "{bad}");
        }
    }
}
