//! What the bytes of a blob are held against, part by part.

use bytes::Bytes;

use crate::{cache::SEGMENT_BYTES, oci::Digest};

/// What a stored table begins with. Another form gets another number.
const FORMAT: &[u8] = b"millpond chunk table 1\n";

const LENGTH_BYTES: usize = size_of::<u64>();
const SUM_BYTES: usize = size_of::<u32>();

/// The sums (CRC-32C) of the parts of a blob, [`SEGMENT_BYTES`] each but the last, which were taken while the whole was
/// held against its digest. So later each part can be checked without the others.
///
/// It tells what was damaged on the way or where it lies. It is no proof against whoever may write to the storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkTable {
    blob_bytes: u64,
    sums: Vec<u32>,
}

impl ChunkTable {
    /// Length of the blob in bytes.
    #[must_use]
    pub const fn blob_bytes(&self) -> u64 {
        self.blob_bytes
    }

    /// Where the part ends that has the byte at `position`, and its sum; `None` beyond the end of the blob.
    #[must_use]
    pub fn part_at(&self, position: u64) -> Option<(u64, u32)> {
        if position >= self.blob_bytes {
            return None;
        }
        let index = position / SEGMENT_BYTES;
        let sum = self.sums.get(usize::try_from(index).ok()?)?;
        Some((((index + 1) * SEGMENT_BYTES).min(self.blob_bytes), *sum))
    }

    /// Memory that it takes, or its stored form, about.
    pub(in crate::content) const fn stored_bytes(blob_bytes: u64) -> u64 {
        let sums = blob_bytes.div_ceil(SEGMENT_BYTES) + 1;
        (FORMAT.len() + LENGTH_BYTES) as u64 + sums * SUM_BYTES as u64
    }

    /// The form in which it is stored: the length of the blob, the sums, and one over everything and the digest, all
    /// little-endian.
    #[must_use]
    pub fn encode(&self, digest: &Digest) -> Bytes {
        let mut form = FORMAT.to_vec();
        form.extend(self.blob_bytes.to_le_bytes());
        form.extend(self.sums.iter().flat_map(|sum| sum.to_le_bytes()));
        form.extend(sum_of(&form, digest).to_le_bytes());
        form.into()
    }

    /// The table of `digest` that was stored as `form`; `None` if that is damaged, or something else.
    #[must_use]
    pub fn decode(form: &[u8], digest: &Digest) -> Option<Self> {
        let (body, own) = form.split_last_chunk::<SUM_BYTES>()?;
        if sum_of(body, digest) != u32::from_le_bytes(*own) {
            return None;
        }
        let (length, sums) = body.strip_prefix(FORMAT)?.split_first_chunk::<LENGTH_BYTES>()?;
        let (sums, rest) = sums.as_chunks::<SUM_BYTES>();
        let sums: Vec<u32> = sums.iter().map(|sum| u32::from_le_bytes(*sum)).collect();
        let blob_bytes = u64::from_le_bytes(*length);
        let is_whole = rest.is_empty() && sums.len() as u64 == blob_bytes.div_ceil(SEGMENT_BYTES);
        is_whole.then_some(Self { blob_bytes, sums })
    }
}

fn sum_of(body: &[u8], digest: &Digest) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(digest.to_string().as_bytes()), body)
}

/// A table of bytes that arrive piece by piece: 4 bytes for 64 KiB.
#[derive(Clone, Debug, Default)]
pub(super) struct TableBuilder {
    blob_bytes: u64,
    sums: Vec<u32>,
}

impl TableBuilder {
    /// Takes in the next bytes.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let begun = self.blob_bytes % SEGMENT_BYTES;
            if begun == 0 {
                self.sums.push(0);
            }
            let room = usize::try_from(SEGMENT_BYTES - begun).unwrap_or(usize::MAX);
            let (part, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(sum) = self.sums.last_mut() {
                *sum = crc32c::crc32c_append(*sum, part);
            }
            self.blob_bytes += part.len() as u64;
            bytes = later;
        }
    }

    /// The sums so far.
    pub(super) fn into_sums(self) -> Vec<u32> {
        self.sums
    }

    /// The table of all bytes taken in.
    pub(super) fn finish(self) -> ChunkTable {
        ChunkTable { blob_bytes: self.blob_bytes, sums: self.sums }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    fn digest() -> Digest {
        Digest::of(Algorithm::Sha256, b"x")
    }

    fn table_of(bytes: &[u8], piece_bytes: usize) -> ChunkTable {
        let mut table = TableBuilder::default();
        bytes.chunks(piece_bytes).for_each(|piece| table.update(piece));
        table.finish()
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn each_part_has_its_sum_however_the_bytes_come() {
        for length in [0, 1, 65_535, 65_536, 65_537, 300_000] {
            let bytes = bytes(length);
            let table = table_of(&bytes, 7_777);
            assert_eq!(table, table_of(&bytes, 1 << 20));
            assert_eq!(table.blob_bytes(), length as u64);
            for (index, part) in bytes.chunks(65_536).enumerate() {
                let (start, end) = (index * 65_536, index * 65_536 + part.len());
                let expected = Some((end as u64, crc32c::crc32c(part)));
                for position in [start, end - 1] {
                    assert_eq!(table.part_at(position as u64), expected, "{position} of {length}");
                }
            }
            assert_eq!(table.part_at(length as u64), None);
        }
    }

    #[test]
    fn the_stored_form_is_read_back_and_as_long_as_it_is_said_to_be() {
        for length in [0, 1, 65_536, 300_000] {
            let table = table_of(&bytes(length), 65_536);
            let form = table.encode(&digest());
            assert_eq!(form.len() as u64, ChunkTable::stored_bytes(length as u64));
            assert_eq!(ChunkTable::decode(&form, &digest()), Some(table));
            assert_eq!(ChunkTable::decode(&form, &Digest::of(Algorithm::Sha256, b"y")), None);
        }
    }

    proptest! {
        #[test]
        fn a_damaged_form_is_none(at in 0_usize..55, flipped in 1_u8..=255, kept in 0_usize..55) {
            let form = table_of(&bytes(300_000), 65_536).encode(&digest());
            prop_assert_eq!(form.len(), 55);
            let mut damaged = form.to_vec();
            damaged[at] ^= flipped;
            prop_assert_eq!(ChunkTable::decode(&damaged, &digest()), None);
            prop_assert_eq!(ChunkTable::decode(&form[..kept], &digest()), None);
        }

        #[test]
        fn any_bytes_are_a_table_or_none(form in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(ChunkTable::decode(&form, &digest()), None);
        }
    }
}
