//! What one node answers another.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use super::fields::{self, Fields, InvalidMessage, value};
use crate::cluster::{Epoch, NodeId, Peer};

/// Most nodes that are referred to at once.
pub const REFERRED_MOST: usize = 3;

/// The answer to an [`super::Ask`], with a body of type `B`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<B> {
    /// Here it is.
    Bytes {
        /// Length of the whole blob.
        blob_bytes: u64,
        /// Bytes of the body: from the offset that was asked for to the end of the part or the table.
        length: u64,
        /// The bytes.
        body: B,
    },
    /// These nodes have it or are getting it: 1 to 3, the one to be asked first first.
    Refer {
        /// The nodes.
        peers: Vec<Peer>,
    },
    /// There are too many who ask.
    Busy {
        /// When to come back.
        after: Duration,
    },
    /// The asked node is slow: who comes after it as an owner should be asked.
    Pass,
    /// There is no such thing in the storage, nor at the origin; or the asked node, as a holder, does not have it.
    Unknown,
    /// It could not be got.
    Failed {
        /// Whether it might be got a little later.
        is_retryable: bool,
    },
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallAnswer {
    /// The answer itself, of at most 16 MiB.
    Answered(Bytes),
    /// There is nothing to answer: what is asked about is not there, or there is no such call.
    Unknown,
    /// There are too many who ask.
    Busy {
        /// When to come back.
        after: Duration,
    },
    /// There should be an answer, and is none.
    Failed {
        /// Whether there might be one a little later.
        is_retryable: bool,
    },
}

/// An answer, and who gave it.
#[derive(Debug, PartialEq, Eq)]
pub struct Answered<A> {
    /// The node that answered, which may be another than the one that used to be at that address.
    pub node: NodeId,
    /// What it knows of the others.
    pub epoch: Epoch,
    /// What it answered.
    pub answer: A,
}

impl<B> Answer<B> {
    /// The head of an answer to who asked from `offset` on, and the body if there is one. Its length is not in the head
    /// unless there is one.
    #[must_use]
    pub fn into_head(self, offset: u64) -> (Response<()>, Option<B>) {
        let mut head = Response::new(());
        let headers = head.headers_mut();
        let mut bytes = None;
        let status = match self {
            Self::Bytes { blob_bytes, length, body } => {
                headers.insert(&fields::BLOB_BYTES, blob_bytes.into());
                headers.insert(&fields::CONTENT_LENGTH, length.into());
                bytes = Some(body);
                write_range(headers, offset, length)
            }
            Self::Refer { peers } if peers.is_empty() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Refer { peers } => {
                let peers = peers.iter().take(REFERRED_MOST).map(fields::peer_text);
                headers.insert(&fields::PEERS, value(fields::joined(peers)));
                StatusCode::MULTIPLE_CHOICES
            }
            Self::Busy { after } => write_busy(headers, after),
            Self::Pass => StatusCode::MISDIRECTED_REQUEST,
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::Failed { is_retryable } => failed(is_retryable),
        };
        *head.status_mut() = status;
        (head, bytes)
    }

    /// The same with another body.
    pub fn map<T>(self, change: impl FnOnce(B) -> T) -> Answer<T> {
        match self {
            Self::Bytes { blob_bytes, length, body } => {
                Answer::Bytes { blob_bytes, length, body: change(body) }
            }
            Self::Refer { peers } => Answer::Refer { peers },
            Self::Busy { after } => Answer::Busy { after },
            Self::Pass => Answer::Pass,
            Self::Unknown => Answer::Unknown,
            Self::Failed { is_retryable } => Answer::Failed { is_retryable },
        }
    }
}

impl Answer<()> {
    /// Understands the head of the answer to who asked from `offset` on.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse<T>(head: &Response<T>, offset: u64) -> Result<Self, InvalidMessage> {
        let fields = Fields::of_answer(head.headers())?;
        let number = "a number";
        match head.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                let length = fields.required((&fields::CONTENT_LENGTH, number), fields::number)?;
                check_range(head.status(), fields, (offset, length))?;
                let blob_bytes = fields.required((&fields::BLOB_BYTES, number), fields::number)?;
                Ok(Self::Bytes { blob_bytes, length, body: () })
            }
            StatusCode::MULTIPLE_CHOICES => {
                let peers = |text: &str| fields::list(text, REFERRED_MOST, fields::peer);
                let peers = fields.required((&fields::PEERS, "one to three nodes"), peers)?;
                Ok(Self::Refer { peers })
            }
            StatusCode::MISDIRECTED_REQUEST => Ok(Self::Pass),
            status => Ok(match Nothing::parse(status, fields)? {
                Nothing::Unknown => Self::Unknown,
                Nothing::Busy { after } => Self::Busy { after },
                Nothing::Failed { is_retryable } => Self::Failed { is_retryable },
            }),
        }
    }
}

impl CallAnswer {
    /// The head of the answer, and its body.
    #[must_use]
    pub fn into_head(self) -> (Response<()>, Bytes) {
        let mut head = Response::new(());
        let headers = head.headers_mut();
        let mut bytes = Bytes::new();
        let status = match self {
            Self::Answered(answer) => {
                bytes = answer;
                StatusCode::OK
            }
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::Busy { after } => write_busy(headers, after),
            Self::Failed { is_retryable } => failed(is_retryable),
        };
        *head.status_mut() = status;
        (head, bytes)
    }

    /// Understands the head of an answer; what it answers is still to be read.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse<T>(head: &Response<T>) -> Result<Self, InvalidMessage> {
        let fields = Fields::of_answer(head.headers())?;
        match head.status() {
            StatusCode::OK => Ok(Self::Answered(Bytes::new())),
            status => Ok(match Nothing::parse(status, fields)? {
                Nothing::Unknown => Self::Unknown,
                Nothing::Busy { after } => Self::Busy { after },
                Nothing::Failed { is_retryable } => Self::Failed { is_retryable },
            }),
        }
    }
}

fn write_range(headers: &mut HeaderMap, offset: u64, length: u64) -> StatusCode {
    if offset == 0 {
        return StatusCode::OK;
    }
    // There is no way to write that nothing follows; no byte of the part then has to be where it is expected.
    if length > 0 {
        let end = offset.saturating_add(length);
        let text = format!("bytes {offset}-{}/{end}", end - 1);
        headers.insert(&fields::CONTENT_RANGE, value(text));
    }
    StatusCode::PARTIAL_CONTENT
}

fn check_range(
    status: StatusCode,
    fields: Fields<'_>,
    (offset, length): (u64, u64),
) -> Result<(), InvalidMessage> {
    if (status == StatusCode::PARTIAL_CONTENT) != (offset > 0) {
        return Err(InvalidMessage::Status { status: status.as_u16() });
    }
    if offset == 0 || length == 0 {
        return Ok(());
    }
    let end = offset.saturating_add(length);
    let is_asked = |text: &str| (text == format!("bytes {offset}-{}/{end}", end - 1)).then_some(());
    fields.required((&fields::CONTENT_RANGE, "what was asked for"), is_asked)
}

fn write_busy(headers: &mut HeaderMap, after: Duration) -> StatusCode {
    let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    headers.insert(&fields::AFTER, after_ms.into());
    StatusCode::TOO_MANY_REQUESTS
}

const fn failed(is_retryable: bool) -> StatusCode {
    if is_retryable { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_GATEWAY }
}

/// What all answers share: that there is none.
enum Nothing {
    Unknown,
    Busy { after: Duration },
    Failed { is_retryable: bool },
}

impl Nothing {
    fn parse(status: StatusCode, fields: Fields<'_>) -> Result<Self, InvalidMessage> {
        match status {
            StatusCode::NOT_FOUND => Ok(Self::Unknown),
            StatusCode::TOO_MANY_REQUESTS => {
                let after = fields.required((&fields::AFTER, "milliseconds"), fields::number)?;
                Ok(Self::Busy { after: Duration::from_millis(after) })
            }
            StatusCode::SERVICE_UNAVAILABLE => Ok(Self::Failed { is_retryable: true }),
            StatusCode::BAD_GATEWAY => Ok(Self::Failed { is_retryable: false }),
            other => Err(InvalidMessage::Status { status: other.as_u16() }),
        }
    }
}

/// Adds who answers.
pub fn write_node(headers: &mut HeaderMap, (node, epoch): (NodeId, Epoch)) {
    headers.insert(&fields::PROTOCOL, value(fields::VERSION));
    headers.insert(&fields::NODE, value(node.to_string()));
    headers.insert(&fields::VIEW, value(epoch.to_string()));
}

/// Who answers.
pub(super) fn read_node(headers: &HeaderMap) -> Result<(NodeId, Epoch), InvalidMessage> {
    let fields = Fields::of_answer(headers)?;
    let node = fields.required((&fields::NODE, "32 hexadecimal digits"), fields::node)?;
    let epoch = fields.required((&fields::VIEW, "16 hexadecimal digits"), fields::epoch)?;
    Ok((node, epoch))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn answers() -> impl Strategy<Value = Answer<()>> {
        let peer = (any::<u128>(), any::<std::net::IpAddr>(), any::<u16>());
        let peer = peer.prop_map(|(id, ip, port)| Peer {
            id: NodeId::new(id),
            address: SocketAddr::new(ip, port),
        });
        prop_oneof![
            any::<(u64, u32)>().prop_map(|(blob_bytes, length)| {
                Answer::Bytes { blob_bytes, length: length.into(), body: () }
            }),
            vec(peer, 1..=REFERRED_MOST).prop_map(|peers| Answer::Refer { peers }),
            any::<u32>().prop_map(|ms| Answer::Busy { after: Duration::from_millis(ms.into()) }),
            Just(Answer::Pass),
            Just(Answer::Unknown),
            any::<bool>().prop_map(|is_retryable| Answer::Failed { is_retryable }),
        ]
    }

    fn written(answer: Answer<()>, offset: u64) -> Response<()> {
        let (mut head, _body) = answer.into_head(offset);
        write_node(head.headers_mut(), (NodeId::new(7), Epoch::new(8)));
        head
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(answer in answers(), offset in 0_u64..1 << 40) {
            let head = written(answer.clone(), offset);
            prop_assert_eq!(Answer::parse(&head, offset), Ok(answer));
            prop_assert_eq!(read_node(head.headers()), Ok((NodeId::new(7), Epoch::new(8))));
        }

        #[test]
        fn no_answer_makes_the_parser_panic(
            answer in answers(),
            (status, offset) in (100_u16..600, any::<u64>()),
            (which, text) in (0_usize..12, "[ -~]{0,60}"),
        ) {
            let mut head = written(answer, offset);
            let name = head.headers().keys().nth(which % head.headers().len()).unwrap().clone();
            head.headers_mut().insert(name, value(text));
            *head.status_mut() = StatusCode::from_u16(status).unwrap();
            let _any = (Answer::parse(&head, offset), CallAnswer::parse(&head));
        }
    }

    #[test]
    fn other_bytes_than_were_asked_for_are_not_taken() {
        let bytes = || Answer::Bytes { blob_bytes: 10, length: 5, body: () };
        assert!(Answer::parse(&written(bytes(), 0), 5).is_err());
        assert!(Answer::parse(&written(bytes(), 5), 0).is_err());
        assert!(Answer::parse(&written(bytes(), 4), 5).is_err());
    }
}
