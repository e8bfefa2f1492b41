//! Names under which other nodes are looked for.

use std::{fmt, net::SocketAddr};

use crate::runtime::Setting;

/// Longest name of DNS, and longest part of one between dots.
const NAME_MOST: usize = 253;
const LABEL_MOST: usize = 63;

/// Where to look for nodes: an address, or a name that stands for some.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// An address and a port.
    Address(SocketAddr),
    /// The addresses of a host, and a port.
    Host {
        /// Its name.
        name: String,
        /// The port.
        port: u16,
    },
    /// What the SRV records of a service say.
    Service {
        /// Its name, `_service._proto.name`.
        name: String,
    },
}

impl Place {
    /// Reads an address and a port, or a host and a port.
    fn with_port(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return (address.port() != 0).then_some(Self::Address(address));
        }
        let (name, port) = text.rsplit_once(':')?;
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        let port: u16 = port.parse().ok().filter(|port| is_number && *port != 0)?;
        is_host(name).then(|| Self::Host { name: name.to_owned(), port })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
            Self::Service { name } => f.write_str(name),
        }
    }
}

/// A [`Place`] that has a port: no service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlaceWithPort(pub(super) Place);

impl Setting for PlaceWithPort {
    const ACCEPTED: &'static str =
        "an address or a host with a port, such as 10.0.0.7:5003 or node-1.example:5003";

    fn read(text: &str) -> Option<Self> {
        Place::with_port(text).map(Self)
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// A [`Place`] that DNS knows: no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlaceOfDns(pub(super) Place);

impl Setting for PlaceOfDns {
    const ACCEPTED: &'static str = "a name with a port, such as millpond.example:5003, or the name of a service such as \
         _peer._tcp.millpond.example";

    fn read(text: &str) -> Option<Self> {
        if is_service(text) {
            return Some(Self(Place::Service { name: text.to_owned() }));
        }
        let place = Place::with_port(text)?;
        matches!(place, Place::Host { .. }).then_some(Self(place))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

fn is_host(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or_default();
    // What ends in a number is an address, or a mistake in one.
    let is_address = last.bytes().all(|byte| byte.is_ascii_digit());
    is_name(name) && !is_address && !name.starts_with('_')
}

fn is_service(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut labels = name.split('.');
    let mut is_marked =
        || labels.next().is_some_and(|label| label.len() > 1 && label.starts_with('_'));
    is_name(name) && is_marked() && is_marked() && labels.next().is_some()
}

fn is_name(name: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_label =
        |label: &str| (1..=LABEL_MOST).contains(&label.len()) && label.bytes().all(is_known);
    name.len() <= NAME_MOST && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(name: &str, port: u16) -> Place {
        Place::Host { name: name.to_owned(), port }
    }

    #[test]
    fn addresses_hosts_and_services_are_told_apart() {
        let address = |text: &str| Place::Address(text.parse().unwrap());
        for (text, expected) in [
            ("10.0.0.7:5003", Some(address("10.0.0.7:5003"))),
            ("[::1]:5003", Some(address("[::1]:5003"))),
            ("node-1:5003", Some(host("node-1", 5003))),
            ("node_1.example.:1", Some(host("node_1.example.", 1))),
            ("10.0.0.7", None),
            ("10.0.0.700:5003", None),
            ("node-1", None),
            ("node-1:0", None),
            ("10.0.0.7:0", None),
            ("node-1:+5", None),
            ("node-1:65536", None),
            ("a..b:1", None),
            (":1", None),
            ("http://node-1:5003", None),
            ("_peer._tcp.pond:1", None),
        ] {
            assert_eq!(PlaceWithPort::read(text).map(|read| read.0), expected, "{text}");
        }
        let service = |name: &str| Place::Service { name: name.to_owned() };
        for (text, expected) in [
            ("pond:5003", Some(host("pond", 5003))),
            ("_peer._tcp.pond", Some(service("_peer._tcp.pond"))),
            ("_peer._tcp.pond.example.", Some(service("_peer._tcp.pond.example."))),
            ("_peer._tcp.pond:1", None),
            ("_peer._tcp", None),
            ("_peer.tcp.pond", None),
            ("pond", None),
            ("10.0.0.7:5003", None),
        ] {
            assert_eq!(PlaceOfDns::read(text).map(|read| read.0), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(text in "[a-z0-9_.:\\[\\]-]{1,30}") {
            if let Some(place) = PlaceWithPort::read(&text) {
                prop_assert_eq!(PlaceWithPort::read(&place.show()), Some(place));
            }
            if let Some(place) = PlaceOfDns::read(&text) {
                prop_assert_eq!(PlaceOfDns::read(&place.show()), Some(place));
            }
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in ".{0,60}") {
            let _any = (PlaceWithPort::read(&text), PlaceOfDns::read(&text));
        }
    }
}
