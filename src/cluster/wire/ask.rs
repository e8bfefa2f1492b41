//! What one node asks of another.

use http::{HeaderMap, Method, request::Parts};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::fields::{self, Fields, InvalidMessage, value};
use crate::{
    cluster::{Epoch, Item, NodeId, Peer, exchange::Role},
    oci::{Digest, RepositoryName},
};

/// Most nodes that are named as those not to be referred to.
pub const AVOIDED_MOST: usize = 16;

/// Where parts are, calls go, and a node says who it is.
const PARTS: &str = "/v1/parts/";
const CALLS: &str = "/v1/calls/";
pub(super) const HELLO: &str = "/v1/hello";

/// How the chunk table is named where a part has its number.
const TABLE: &str = "table";

/// What stands between the number of a part that is to come from a fill and the number of that.
const INCOMING: &str = "/incoming/";

/// What is said by who is sent something already.
const SERVED: &str = "already";

/// Longest name of a call, in bytes.
const CALL_BYTES: usize = 64;

/// Longest name of an upstream, in bytes: that of a host with a port, and more.
const UPSTREAM_BYTES: usize = 300;

/// What is escaped in the name of an upstream.
const ESCAPED: AsciiSet =
    NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_').remove(b':').remove(b'~');

/// What of a blob is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PartKind {
    /// The part with this number.
    Part(u64),
    /// The same, as it comes to the asked node from another registry: nothing has been held against anything yet, and
    /// the last bytes of the blob come when all of it is known to be right.
    Incoming {
        /// Which part.
        part: u64,
        /// Which of the fills of this blob.
        fill: u64,
    },
    /// What its parts are held against.
    Table,
}

/// Names what is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PartName {
    /// The blob's digest.
    pub digest: Digest,
    /// What of it.
    pub kind: PartKind,
}

impl PartName {
    /// The name by which its owner is found.
    #[must_use]
    pub fn item(&self) -> Item {
        match self.kind {
            PartKind::Part(part) | PartKind::Incoming { part, .. } => {
                Item::part(&self.digest, part)
            }
            PartKind::Table => Item::table(&self.digest),
        }
    }

    fn path(&self) -> String {
        match self.kind {
            PartKind::Part(number) => format!("{PARTS}{}/{number}", self.digest),
            PartKind::Incoming { part, fill } => {
                format!("{PARTS}{}/{part}{INCOMING}{fill}", self.digest)
            }
            PartKind::Table => format!("{PARTS}{}/{TABLE}", self.digest),
        }
    }

    /// What follows [`PARTS`].
    fn parse(text: &str) -> Option<Self> {
        let (digest, kind) = text.split_once('/')?;
        let kind = match kind.split_once(INCOMING) {
            Some((part, fill)) => {
                PartKind::Incoming { part: fields::number(part)?, fill: fields::number(fill)? }
            }
            None if kind == TABLE => PartKind::Table,
            None => PartKind::Part(fields::number(kind)?),
        };
        Some(Self { digest: digest.parse().ok()?, kind })
    }
}

const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Owner => "owner",
        Role::Deputy => "deputy",
        Role::Holder => "holder",
    }
}

fn parse_role(text: &str) -> Option<Role> {
    [Role::Owner, Role::Deputy, Role::Holder].into_iter().find(|role| role_name(*role) == text)
}

/// Where a blob can be had that no storage has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The other registry, by its name in the configuration. 1 to 300 bytes.
    pub upstream: String,
    /// The blob's repository there.
    pub repository: RepositoryName,
}

impl Origin {
    fn text(&self) -> String {
        format!("{} {}", utf8_percent_encode(&self.upstream, &ESCAPED), self.repository)
    }

    fn parse(text: &str) -> Option<Self> {
        let (upstream, repository) = text.split_once(' ')?;
        let upstream = percent_decode_str(upstream).decode_utf8().ok()?.into_owned();
        let is_named = (1..=UPSTREAM_BYTES).contains(&upstream.len());
        is_named.then_some(Self { upstream, repository: repository.parse().ok()? })
    }
}

/// One node asks another for a part of a blob, or for its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What is asked for.
    pub part: PartName,
    /// Who asks, and where it listens.
    pub from: Peer,
    /// What the asked node is believed to be.
    pub role: Role,
    /// The first byte of the part that is wanted; more than 0 where another node has given those before.
    pub offset: u64,
    /// How often the question has been passed on.
    pub hop: u8,
    /// How many parts the asking node sends to others at the moment, or passes on when they come.
    pub load: u32,
    /// How many bytes come to the asking node in a second, while it wants many; 0 if it does not know.
    pub rate: u64,
    /// Nodes that are not to be referred to, because they failed. At most [`AVOIDED_MOST`]; further ones are not sent.
    pub avoid: Vec<NodeId>,
    /// Whether somebody sends it already, so that one is looked for who has more of it.
    pub is_served: bool,
    /// What the asking node knows of the others.
    pub epoch: Epoch,
    /// Length of the whole blob, if the asking node knows it.
    pub blob_bytes: Option<u64>,
    /// Where the blob can be had if the storage does not have it.
    pub origin: Option<Origin>,
}

impl Ask {
    pub(super) fn path(&self) -> String {
        self.part.path()
    }

    pub(super) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(&fields::FROM, value(fields::peer_text(&self.from)));
        headers.insert(&fields::VIEW, value(self.epoch.to_string()));
        headers.insert(&fields::ROLE, value(role_name(self.role)));
        headers.insert(&fields::HOP, u16::from(self.hop).into());
        headers.insert(&fields::LOAD, self.load.into());
        if self.rate > 0 {
            headers.insert(&fields::RATE, self.rate.into());
        }
        if !self.avoid.is_empty() {
            let avoid = self.avoid.iter().take(AVOIDED_MOST).map(NodeId::to_string);
            headers.insert(&fields::AVOID, value(fields::joined(avoid)));
        }
        if self.is_served {
            headers.insert(&fields::SERVED, value(SERVED));
        }
        if let Some(blob_bytes) = self.blob_bytes {
            headers.insert(&fields::BLOB_BYTES, blob_bytes.into());
        }
        if let Some(origin) = &self.origin {
            headers.insert(&fields::ORIGIN, value(origin.text()));
        }
        if self.offset > 0 {
            headers.insert(&fields::RANGE, value(format!("bytes={}-", self.offset)));
        }
    }

    fn parse(part: PartName, fields: Fields<'_>) -> Result<Self, InvalidMessage> {
        let avoid = |text: &str| fields::list(text, AVOIDED_MOST, fields::node);
        let offset = |text: &str| fields::number(text.strip_prefix("bytes=")?.strip_suffix('-')?);
        let served = |text: &str| (text == SERVED).then_some(());
        let number = "a number";
        Ok(Self {
            part,
            from: fields.required((&fields::FROM, "<node id>@<address>"), fields::peer)?,
            role: fields.required((&fields::ROLE, "owner, deputy or holder"), parse_role)?,
            offset: fields.optional((&fields::RANGE, "bytes=<number>-"), offset)?.unwrap_or(0),
            hop: fields.required((&fields::HOP, "a number up to 255"), fields::number)?,
            load: fields.required((&fields::LOAD, number), fields::number)?,
            rate: fields.optional((&fields::RATE, number), fields::number)?.unwrap_or(0),
            avoid: fields
                .optional((&fields::AVOID, "at most 16 node ids"), avoid)?
                .unwrap_or_default(),
            is_served: fields.optional((&fields::SERVED, SERVED), served)?.is_some(),
            epoch: fields.required((&fields::VIEW, "16 hexadecimal digits"), fields::epoch)?,
            blob_bytes: fields.optional((&fields::BLOB_BYTES, number), fields::number)?,
            origin: fields.optional((&fields::ORIGIN, "<upstream> <repository>"), Origin::parse)?,
        })
    }
}

/// What comes in at a node's address for other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// For a part of a blob, or its table.
    Ask(Box<Ask>),
    /// A small question of this name.
    Call(String),
    /// Who is there?
    Hello,
}

impl Request {
    /// Understands a request without its body.
    ///
    /// # Errors
    /// [`InvalidMessage`], which names what is wrong.
    pub fn parse(head: &Parts) -> Result<Self, InvalidMessage> {
        let fields = Fields::of_request(&head.headers)?;
        let unknown = || InvalidMessage::Path {
            method: fields::shortened(head.method.as_str()),
            path: fields::shortened(&head.uri.to_string()),
        };
        if head.uri.query().is_some() {
            return Err(unknown());
        }
        let path = head.uri.path();
        if head.method == Method::GET && path == HELLO {
            return Ok(Self::Hello);
        }
        if head.method == Method::GET
            && let Some(part) = path.strip_prefix(PARTS).and_then(PartName::parse)
        {
            return Ok(Self::Ask(Box::new(Ask::parse(part, fields)?)));
        }
        match path.strip_prefix(CALLS) {
            Some(name) if head.method == Method::POST && is_call(name) => {
                Ok(Self::Call(name.to_owned()))
            }
            _ => Err(unknown()),
        }
    }
}

fn is_call(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=CALL_BYTES).contains(&name.len()) && name.bytes().all(is_letter)
}

/// # Panics
/// If no call can have this name.
pub(super) fn call_path(name: &str) -> String {
    assert!(is_call(name), "a call is named by up to 64 small letters, digits and dashes");
    format!("{CALLS}{name}")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::oci::Algorithm;

    fn peers() -> impl Strategy<Value = Peer> {
        (any::<u128>(), any::<std::net::IpAddr>(), any::<u16>()).prop_map(|(id, ip, port)| Peer {
            id: NodeId::new(id),
            address: SocketAddr::new(ip, port),
        })
    }

    fn parts() -> impl Strategy<Value = PartName> {
        let kinds = prop_oneof![
            Just(PartKind::Table),
            any::<u64>().prop_map(PartKind::Part),
            any::<(u64, u64)>().prop_map(|(part, fill)| PartKind::Incoming { part, fill }),
        ];
        (any::<[u8; 8]>(), kinds).prop_map(|(bytes, kind)| PartName {
            digest: Digest::of(Algorithm::Sha256, &bytes),
            kind,
        })
    }

    fn origins() -> impl Strategy<Value = Origin> {
        ("\\PC{1,40}", "[a-z]{1,8}/[a-z]{1,8}").prop_map(|(upstream, repository)| Origin {
            upstream,
            repository: repository.parse().unwrap(),
        })
    }

    prop_compose! {
        fn asks()(
            (part, from, origin) in (parts(), peers(), option::of(origins())),
            role in prop_oneof![Just(Role::Owner), Just(Role::Deputy), Just(Role::Holder)],
            (offset, hop, load, rate, epoch) in any::<(u64, u8, u32, u64, u64)>(),
            avoid in vec(any::<u128>(), 0..=AVOIDED_MOST),
            blob_bytes: Option<u64>,
            is_served: bool,
        ) -> Ask {
            let avoid = avoid.into_iter().map(NodeId::new).collect();
            let epoch = Epoch::new(epoch);
            Ask {
                part, from, role, offset, hop, load, rate, avoid, is_served, epoch, blob_bytes, origin,
            }
        }
    }

    fn head(method: &str, path: &str, headers: HeaderMap) -> Option<Parts> {
        let request = http::Request::builder().method(method).uri(path).body(()).ok()?;
        let mut head = request.into_parts().0;
        head.headers = headers;
        Some(head)
    }

    fn written(ask: &Ask) -> Parts {
        let mut headers = HeaderMap::new();
        headers.insert(&fields::PROTOCOL, value(fields::VERSION));
        ask.write(&mut headers);
        head("GET", &ask.path(), headers).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(ask in asks()) {
            let read = Request::parse(&written(&ask));
            prop_assert_eq!(read, Ok(Request::Ask(Box::new(ask))));
        }

        #[test]
        fn no_header_makes_the_parser_panic(ask in asks(), which in 0_usize..12, text in "[ -~]{0,60}") {
            let mut head = written(&ask);
            let name = head.headers.keys().nth(which % head.headers.len()).unwrap().clone();
            head.headers.insert(&name, value(text.as_str()));
            if let Err(error) = Request::parse(&head) {
                let named = error.to_string();
                prop_assert!(named.contains(name.as_str()) || name == fields::PROTOCOL, "{}", named);
            }
        }

        #[test]
        fn no_path_makes_the_parser_panic(
            method in "GET|POST|PUT",
            path in "/[ -~]{0,60}|/v1/(parts|calls)/[ -~]{0,90}",
        ) {
            let mut headers = HeaderMap::new();
            headers.insert(&fields::PROTOCOL, value(fields::VERSION));
            if let Some(head) = head(&method, &path, headers) {
                let _any = Request::parse(&head);
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let ask = Ask {
            part: PartName { digest: Digest::of(Algorithm::Sha256, b""), kind: PartKind::Part(1) },
            from: Peer { id: NodeId::new(1), address: "127.0.0.1:1".parse().unwrap() },
            role: Role::Owner,
            offset: 0,
            hop: 0,
            load: 0,
            rate: 0,
            avoid: Vec::new(),
            is_served: false,
            epoch: Epoch::new(1),
            blob_bytes: None,
            origin: None,
        };
        let seventeen = fields::joined((0..17).map(|id| NodeId::new(id).to_string()));
        for (name, text, expected) in [
            ("millpond-protocol", "2", "version 1 of the protocol is spoken here, not \"2\""),
            ("millpond-new", "1", "the header millpond-new is not known"),
            (
                "millpond-hop",
                "256",
                "the header millpond-hop is \"256\", and a number up to 255 is expected",
            ),
            ("millpond-load", "+1", "the header millpond-load is \"+1\", and a number is expected"),
            (
                "range",
                "bytes=1-2",
                "the header range is \"bytes=1-2\", and bytes=<number>- is expected",
            ),
            ("millpond-avoid", &seventeen, "at most 16 node ids is expected"),
            ("millpond-origin", "host", "<upstream> <repository> is expected"),
        ] {
            let mut head = written(&ask);
            head.headers.insert(http::HeaderName::from_static(name), value(text));
            let error = Request::parse(&head).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let mut head = written(&ask);
        head.headers.append(&fields::HOP, 1.into());
        let error = Request::parse(&head).unwrap_err().to_string();
        assert_eq!(error, "the header millpond-hop is there more than once");
    }
}
