//! The words of the wire: names, digests, ranges, manifests and error codes of the OCI
//! distribution and image specifications.
//!
//! Everything here is pure: no IO, no clock, no async. Each type is parsed once, where it enters the
//! process, and is valid ever after.

mod descriptor;
mod digest;
mod error_code;
mod manifest;
mod media_type;
mod name;
mod range;
mod upload_id;

pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, Hasher, InvalidDigest};
pub use error_code::{ErrorBody, ErrorCode};
pub use manifest::{InvalidManifest, Manifest, ManifestKind, Reference as ManifestReference};
pub use media_type::MediaType;
pub use name::{InvalidName, InvalidReference, InvalidTag, Reference, RepositoryName, Tag};
pub use range::{ByteRange, ChunkRange, InvalidChunkRange, RangeHeader};
pub use upload_id::{InvalidUploadId, UploadId, UploadPosition};
