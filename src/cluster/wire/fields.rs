//! The headers of the protocol, and what their values look like.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::cluster::{Epoch, NodeId, Peer};

/// The version of the protocol. One that differs in anything but new calls has another number.
pub(super) const VERSION: &str = "1";

/// What the name of each header of this protocol begins with.
pub(super) const PREFIX: &str = "millpond-";

pub(super) static PROTOCOL: HeaderName = HeaderName::from_static("millpond-protocol");
pub(super) static NODE: HeaderName = HeaderName::from_static("millpond-node");
pub(super) static VIEW: HeaderName = HeaderName::from_static("millpond-view");
pub(super) static FROM: HeaderName = HeaderName::from_static("millpond-from");
pub(super) static ROLE: HeaderName = HeaderName::from_static("millpond-role");
pub(super) static HOP: HeaderName = HeaderName::from_static("millpond-hop");
pub(super) static SERVED: HeaderName = HeaderName::from_static("millpond-served");
pub(super) static LOAD: HeaderName = HeaderName::from_static("millpond-load");
pub(super) static RATE: HeaderName = HeaderName::from_static("millpond-rate");
pub(super) static AVOID: HeaderName = HeaderName::from_static("millpond-avoid");
pub(super) static BLOB_BYTES: HeaderName = HeaderName::from_static("millpond-blob-bytes");
pub(super) static ORIGIN: HeaderName = HeaderName::from_static("millpond-origin");
pub(super) static PEERS: HeaderName = HeaderName::from_static("millpond-peers");
pub(super) static AFTER: HeaderName = HeaderName::from_static("millpond-after");
pub(super) static DIGEST: HeaderName = HeaderName::from_static("millpond-digest");
pub(super) static NONCE: HeaderName = HeaderName::from_static("millpond-nonce");
pub(super) static CLOCK: HeaderName = HeaderName::from_static("millpond-clock");
pub(super) static SEAL: HeaderName = HeaderName::from_static("millpond-seal");
pub(super) static RANGE: HeaderName = header::RANGE;
pub(super) static CONTENT_RANGE: HeaderName = header::CONTENT_RANGE;
pub(super) static CONTENT_LENGTH: HeaderName = header::CONTENT_LENGTH;

/// What any message may carry.
static EVERYWHERE: [&HeaderName; 6] = [&PROTOCOL, &VIEW, &DIGEST, &NONCE, &CLOCK, &SEAL];

/// What requests may carry beside.
static IN_REQUESTS: [&HeaderName; 9] =
    [&FROM, &ROLE, &HOP, &LOAD, &RATE, &AVOID, &SERVED, &BLOB_BYTES, &ORIGIN];

/// What answers may carry beside.
static IN_ANSWERS: [&HeaderName; 4] = [&NODE, &BLOB_BYTES, &PEERS, &AFTER];

/// Longest text that is repeated in an error.
const REPEATED_BYTES: usize = 80;

/// Why a message cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// The other side speaks another version of the protocol.
    #[error("version {VERSION} of the protocol is spoken here, not {found:?}")]
    Protocol {
        /// What it speaks.
        found: String,
    },
    /// There is nothing at this path.
    #[error("{path:?} with {method} is not part of the protocol")]
    Path {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// A header is not there.
    #[error("the header {name} is missing")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// There is no such header in the protocol.
    #[error("the header {name} is not known")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// A header is there more than once.
    #[error("the header {name} is there more than once")]
    Repeated {
        /// Its name.
        name: &'static str,
    },
    /// The value of a header means nothing.
    #[error("the header {name} is {found:?}, and {expected} is expected")]
    Value {
        /// Its name.
        name: &'static str,
        /// The value.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The status of an answer means nothing.
    #[error("the status {status} is not part of the protocol")]
    Status {
        /// The status.
        status: u16,
    },
    /// The body is not the one that is announced.
    #[error("the body has another digest than is announced")]
    Digest,
}

/// The headers of a message, with no unknown one among those that are the protocol's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'m>(&'m HeaderMap);

impl<'m> Fields<'m> {
    pub(super) fn of_request(headers: &'m HeaderMap) -> Result<Self, InvalidMessage> {
        Self::of(headers, &IN_REQUESTS)
    }

    pub(super) fn of_answer(headers: &'m HeaderMap) -> Result<Self, InvalidMessage> {
        Self::of(headers, &IN_ANSWERS)
    }

    fn of(headers: &'m HeaderMap, known: &[&HeaderName]) -> Result<Self, InvalidMessage> {
        // First: in another version, all the rest may be another.
        check_protocol(headers)?;
        let mut own = headers.keys().filter(|name| name.as_str().starts_with(PREFIX));
        match own.find(|name| !EVERYWHERE.contains(name) && !known.contains(name)) {
            None => Ok(Self(headers)),
            Some(name) => Err(InvalidMessage::Unknown { name: shortened(name.as_str()) }),
        }
    }

    /// What `read` makes of a header, if it is there.
    pub(super) fn optional<T>(
        self,
        (name, expected): (&'static HeaderName, &'static str),
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, InvalidMessage> {
        let mut values = self.0.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let name = name.as_str();
        if values.next().is_some() {
            return Err(InvalidMessage::Repeated { name });
        }
        match value.to_str().ok().and_then(read) {
            Some(read) => Ok(Some(read)),
            None => {
                let found = shortened(&String::from_utf8_lossy(value.as_bytes()));
                Err(InvalidMessage::Value { name, found, expected })
            }
        }
    }

    /// What `read` makes of a header that has to be there.
    pub(super) fn required<T>(
        self,
        (name, expected): (&'static HeaderName, &'static str),
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, InvalidMessage> {
        let found = self.optional((name, expected), read)?;
        found.ok_or(InvalidMessage::Missing { name: name.as_str() })
    }
}

/// Whether a message is of the version that is spoken here.
///
/// # Errors
/// If not.
pub(super) fn check_protocol(headers: &HeaderMap) -> Result<(), InvalidMessage> {
    match headers.get(&PROTOCOL) {
        None => Err(InvalidMessage::Missing { name: PROTOCOL.as_str() }),
        Some(version) if version == VERSION => Ok(()),
        Some(version) => {
            let found = shortened(&String::from_utf8_lossy(version.as_bytes()));
            Err(InvalidMessage::Protocol { found })
        }
    }
}

/// The beginning of a text that somebody else has written.
pub(super) fn shortened(text: &str) -> String {
    let end = text.floor_char_boundary(REPEATED_BYTES);
    text[..end].to_owned()
}

/// The value of a header. What the protocol writes is ASCII without control characters.
pub(super) fn value(text: impl Into<String>) -> HeaderValue {
    HeaderValue::try_from(text.into()).expect("what is written here is visible ASCII")
}

/// A number in decimal digits, of which there is one way to write it.
pub(super) fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_short = text == "0" || !text.starts_with('0');
    if is_plain && is_short { text.parse().ok() } else { None }
}

/// A number in as many hexadecimal digits as are given.
pub(super) fn hexadecimal(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_plain = text.len() == digits && text.bytes().all(is_digit);
    if is_plain { u128::from_str_radix(text, 16).ok() } else { None }
}

pub(super) fn epoch(text: &str) -> Option<Epoch> {
    hexadecimal(text, 16).and_then(|number| u64::try_from(number).ok()).map(Epoch::new)
}

pub(super) fn node(text: &str) -> Option<NodeId> {
    text.parse().ok()
}

/// `<id>@<address>`
pub(super) fn peer_text(peer: &Peer) -> String {
    format!("{}@{}", peer.id, peer.address)
}

pub(super) fn peer(text: &str) -> Option<Peer> {
    let (id, address) = text.split_once('@')?;
    Some(Peer { id: node(id)?, address: address.parse::<SocketAddr>().ok()? })
}

/// What `read` makes of each of the texts between the commas, of which there may be `most`.
pub(super) fn list<T>(text: &str, most: usize, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    let read: Vec<T> = text.split(',').take(most + 1).map(read).collect::<Option<_>>()?;
    (read.len() <= most).then_some(read)
}

/// Texts with commas between them.
pub(super) fn joined(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(",")
}
