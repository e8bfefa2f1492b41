//! How nodes talk to each other: the messages, their form, who may speak, and the side that asks.
//!
//! HTTP/1.1 at an address of its own, with small headers and raw bodies: whatever can be said by a method, a path and a
//! status is, so that nothing has to be decoded but numbers and names. The side that answers is `api::peers`, because
//! nothing else serves HTTP; what it does not have to know of the form is here.

mod answer;
mod ask;
mod client;
mod clock;
mod connection;
mod error;
mod exchange;
mod fields;
mod guard;
mod nonces;
mod part_body;
mod seal;
mod tls;
mod trust;

pub use answer::{Answer, Answered, CallAnswer, REFERRED_MOST, write_node};
pub use ask::{AVOIDED_MOST, Ask, Origin, PartKind, PartName, Request};
pub use client::{ANSWER_BYTES, PeerClient, QUESTION_BYTES};
pub use error::Error;
pub use fields::InvalidMessage;
pub use guard::{Carrier, Guard, Pass, Refusal};
pub use part_body::PartBody;
pub use seal::{SharedSecret, ShortSecret};
pub use tls::{CertificateFault, CertificateFiles, CertificateKeeper, PeerCertificates};
pub use trust::Trust;
