//! Requests of other nodes: what is refused is refused with a reason, and what is understood is within its limits.
//!
//! The first line is method and path, each other one a header.

use http::{HeaderName, HeaderValue, request::Parts};
use millpond::cluster::wire::{AVOIDED_MOST, PartKind, Request};

pub(crate) fn check(text: &str) {
    let Some(head) = head(text) else { return };
    match Request::parse(&head) {
        Err(error) => assert!(!error.to_string().is_empty(), "{text:?}"),
        Ok(Request::Hello) => assert_eq!(head.uri.path(), "/v1/hello", "{text:?}"),
        Ok(Request::Call(name)) => {
            assert_eq!(head.uri.path(), format!("/v1/calls/{name}"), "{text:?}");
            assert!((1..=64).contains(&name.len()), "{text:?}");
        }
        Ok(Request::Ask(ask)) => {
            let digest = ask.part.digest;
            let path = match ask.part.kind {
                PartKind::Table => format!("/v1/parts/{digest}/table"),
                PartKind::Incoming { part, fill } => {
                    format!("/v1/parts/{digest}/{part}/incoming/{fill}")
                }
                PartKind::Part(number) => format!("/v1/parts/{digest}/{number}"),
            };
            assert_eq!(head.uri.path(), path, "{text:?}");
            assert!(ask.avoid.len() <= AVOIDED_MOST, "{text:?}");
            if let Some(origin) = &ask.origin {
                assert!((1..=300).contains(&origin.upstream.len()), "{text:?}");
            }
        }
    }
}

fn head(text: &str) -> Option<Parts> {
    let mut lines = text.lines();
    let (method, path) = lines.next()?.split_once(' ')?;
    let request = http::Request::builder().method(method).uri(path).body(()).ok()?;
    let mut head = request.into_parts().0;
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        let name = HeaderName::try_from(name).ok()?;
        head.headers.append(name, HeaderValue::try_from(value).ok()?);
    }
    Some(head)
}
