//! The bytes of a digest: reading them, and making bytes visible under the digest they hash to.
//!
//! Nothing here knows repositories. Bytes become readable under a digest only after hashing to it.

mod error;
mod hash;
mod receive;
mod store;

pub use error::Error;
pub use receive::Received;
pub use store::{Content, ContentStore};
