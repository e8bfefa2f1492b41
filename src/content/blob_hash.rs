//! What is learnt of a blob while its bytes pass.

use super::table::{ChunkTable, TableBuilder};
use crate::oci::{Algorithm, Digest, Hasher};

/// The running hash over a blob, and the sums of its parts where somebody wants them.
#[derive(Clone, Debug)]
pub struct BlobHash {
    hasher: Hasher,
    table: Option<TableBuilder>,
}

/// What the bytes of a blob came to.
#[derive(Clone, Debug)]
pub struct Hashed {
    /// The digest of all of them.
    pub digest: Digest,
    /// The sums of their parts, if they were wanted.
    pub table: Option<ChunkTable>,
}

impl BlobHash {
    /// Nothing yet, without sums.
    pub(super) fn new(algorithm: Algorithm) -> Self {
        Self { hasher: Hasher::new(algorithm), table: None }
    }

    /// Nothing yet, with sums: 64 KiB of memory for 1 GiB.
    pub(super) fn with_table(algorithm: Algorithm) -> Self {
        Self { table: Some(TableBuilder::default()), ..Self::new(algorithm) }
    }

    /// The algorithm given at the start.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.hasher.algorithm()
    }

    /// Takes in the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        if let Some(table) = &mut self.table {
            table.update(bytes);
        }
    }

    /// What all bytes came to.
    #[must_use]
    pub fn finish(self) -> Hashed {
        Hashed { digest: self.hasher.finish(), table: self.table.map(TableBuilder::finish) }
    }
}
