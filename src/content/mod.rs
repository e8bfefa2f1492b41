//! The bytes of a digest: reading them, and making bytes visible under the digest they hash to.
//!
//! Nothing here knows repositories. Bytes become readable under a digest only after hashing to it.

mod ahead;
mod blob_hash;
mod bytes;
mod chunked;
mod error;
mod fill;
mod hash;
mod intake;
mod pace;
mod receive;
mod source;
mod store;
mod table;
mod transfer;

pub use blob_hash::{BlobHash, Hashed};
pub use bytes::ContentBytes;
pub use chunked::{ChunkBytes, Filler, Finder, Found, Neighbours, Part, PartBytes};
pub use error::Error;
pub use fill::Fill;
pub use receive::Received;
pub use source::Remote;
pub use store::{Content, ContentStore};
pub use table::ChunkTable;
pub use transfer::{AfterFill, FillEnd};
