//! Bytes near at hand: chunks of blobs in memory that the kernel sends from, and on a disk of this machine.
//!
//! A blob is cut into chunks whose length depends on the blob's alone ([`ChunkLayout`]). Whoever needs a chunk asks
//! the [`Pond`]: it is there, or it is on its way and can be read as it comes, or whoever asked first is to fill
//! it. The pond does not know where chunks come from.

mod arena;
mod chunk;
mod config;
mod disk;
mod key;
mod metrics;
mod pond;
mod reads;
mod writer;

pub use arena::{Block, SEGMENT_BYTES};
pub use chunk::{Chunk, Unfilled};
pub use config::{Config, DiskConfig};
pub use disk::{DiskKeeper, node_id};
pub use key::{ChunkIndex, ChunkKey, ChunkLayout};
pub use metrics::Origin;
pub use pond::{Look, Pond};
pub use reads::{Purpose, Use};
pub use writer::ChunkWriter;
