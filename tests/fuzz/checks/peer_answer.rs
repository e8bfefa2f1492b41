//! Answers of other nodes: what is refused is refused with a reason, and what is understood means the same when it is
//! written again.
//!
//! The first line is the status and the offset that was asked for, each other one a header.

use http::{HeaderName, HeaderValue, Response};
use millpond::cluster::{
    Epoch, NodeId,
    wire::{Answer, CallAnswer, REFERRED_MOST, write_node},
};

pub(crate) fn check(text: &str) {
    let Some((head, offset)) = head(text) else { return };
    match Answer::parse(&head, offset) {
        Err(error) => assert!(!error.to_string().is_empty(), "{text:?}"),
        Ok(answer) => {
            if let Answer::Refer { peers } = &answer {
                assert!((1..=REFERRED_MOST).contains(&peers.len()), "{text:?}");
            }
            let (written, _body) = answer.clone().into_head(offset);
            assert_eq!(Answer::parse(&from_somebody(written), offset), Ok(answer), "{text:?}");
        }
    }
    match CallAnswer::parse(&head) {
        Err(error) => assert!(!error.to_string().is_empty(), "{text:?}"),
        Ok(answer) => {
            let (written, _body) = answer.clone().into_head();
            assert_eq!(CallAnswer::parse(&from_somebody(written)), Ok(answer), "{text:?}");
        }
    }
}

fn from_somebody(mut head: Response<()>) -> Response<()> {
    write_node(head.headers_mut(), (NodeId::new(1), Epoch::new(2)));
    head
}

fn head(text: &str) -> Option<(Response<()>, u64)> {
    let mut lines = text.lines();
    let (status, offset) = lines.next()?.split_once(' ')?;
    let status: u16 = status.parse().ok()?;
    let mut head = http::Response::builder().status(status).body(()).ok()?;
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        let name = HeaderName::try_from(name).ok()?;
        head.headers_mut().append(name, HeaderValue::try_from(value).ok()?);
    }
    Some((head, offset.parse().ok()?))
}
