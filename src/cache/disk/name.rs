//! What the file of a chunk is called: everything that has to be known of it without opening it.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::{
    cache::{ChunkIndex, ChunkKey, ChunkLayout},
    oci::Digest,
};

/// Names the file of a chunk, as `<algorithm>-<hex>.<index>.<length of the blob>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkName {
    pub(super) key: ChunkKey,
    /// It says how the blob is cut into chunks.
    pub(super) blob_bytes: u64,
}

/// The text is not the name of a chunk's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoChunkName;

impl ChunkName {
    /// Length of the chunk.
    pub(super) fn chunk_bytes(&self) -> u64 {
        let range = ChunkLayout::of(self.blob_bytes).range(self.key.index);
        range.end - range.start
    }

    /// Where the file is, below the folder of all of them. There are 256 folders, so that none has very many files.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("{:02x}", self.key.digest.hash()[0])).join(self.to_string())
    }
}

impl fmt::Display for ChunkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ChunkKey { digest, index } = self.key;
        write!(f, "{}-{}.{}.{}", digest.algorithm(), digest.hex(), index.number(), self.blob_bytes)
    }
}

impl FromStr for ChunkName {
    type Err = NoChunkName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (algorithm, rest) = text.split_once('-')?;
            let (hex, rest) = rest.split_once('.')?;
            let (index, blob_bytes) = rest.split_once('.')?;
            let digest = Digest::from_parts(algorithm, hex).ok()?;
            let (index, blob_bytes) = (index.parse().ok()?, blob_bytes.parse().ok()?);
            let name = Self { key: ChunkKey { digest, index: ChunkIndex::new(index) }, blob_bytes };
            // One spelling only, and a chunk that the blob has.
            (name.to_string() == text && name.chunk_bytes() > 0).then_some(name)
        };
        parse().ok_or(NoChunkName)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    proptest! {
        #[test]
        fn a_name_is_read_as_it_was_written(seed: u64, blob_bytes in 1_u64..1 << 40, part in 0.0..1.0) {
            for algorithm in Algorithm::ALL {
                let digest = Digest::of(algorithm, &seed.to_le_bytes());
                let at = (part * blob_bytes as f64) as u64;
                let index = ChunkLayout::of(blob_bytes).index_at(at.min(blob_bytes - 1));
                let name = ChunkName { key: ChunkKey { digest, index }, blob_bytes };
                prop_assert_eq!(name.to_string().parse(), Ok(name));
                prop_assert!(name.to_string().len() <= 255);
            }
        }

        #[test]
        fn any_text_is_a_name_or_not(text in "(sha256-[0-9a-f]{62,66})?[.0-9a-z+-]{0,40}") {
            if let Ok(name) = text.parse::<ChunkName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        let hex = "0".repeat(64);
        for text in [
            "",
            "lock",
            "sha256-00.0.1",
            &format!("sha256-{hex}.0"),
            &format!("sha256-{hex}.0.0"),
            &format!("sha256-{hex}.1.1000"),
            &format!("sha256-{hex}.00.1000"),
            &format!("sha256-{hex}.0.+1000"),
            &format!("sha256-{hex}.0.1000.tmp"),
            &format!("sha256-{hex}.18446744073709551615.18446744073709551615"),
            &format!("md5-{hex}.0.1000"),
        ] {
            assert_eq!(text.parse::<ChunkName>(), Err(NoChunkName), "{text}");
        }
    }
}
