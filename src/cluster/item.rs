//! What nodes exchange.

use crate::oci::Digest;

/// Names something that nodes exchange, in a few bytes: a part of a blob, its chunk table, or the answer to a question
/// that many ask. How it is made is known to all nodes of a cluster, because who owns it follows from it.
///
/// Two things with the same name would be taken for each other where it is looked up who has them; what is then
/// received is still held against its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Item(u128);

/// Makes numbers that differ in any bit differ everywhere (the finaliser of MurmurHash3, public domain).
const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let number = (number ^ (number >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    number ^ (number >> 33)
}

impl Item {
    /// The part of a blob with this number.
    #[must_use]
    pub fn part(digest: &Digest, number: u64) -> Self {
        Self::of(digest, number)
    }

    /// The chunk table of a blob.
    #[must_use]
    pub fn table(digest: &Digest) -> Self {
        Self::of(digest, u64::MAX)
    }

    /// The answer to a question, by the digest of its words.
    #[must_use]
    pub fn question(words: &Digest) -> Self {
        Self::of(words, u64::MAX - 1)
    }

    /// The way of a blob here from another registry.
    #[must_use]
    pub fn fill(digest: &Digest) -> Self {
        Self::of(digest, u64::MAX - 2)
    }

    fn of(digest: &Digest, number: u64) -> Self {
        let mut first = [0; 16];
        first.copy_from_slice(&digest.hash()[..16]);
        let spread = u128::from(mix(number)) << 64 | u128::from(mix(!number));
        Self(u128::from_be_bytes(first) ^ spread)
    }

    /// Stands for what an epoch has taken in so far, and the weight of the next node.
    pub(super) const fn epoch_part(epoch: u64, weight: u32) -> Self {
        Self((epoch as u128) << 64 | weight as u128)
    }

    /// What a node of this number is worth to it: the owner is worth most.
    pub(super) const fn worth(self, node: u128) -> u64 {
        let high = mix((self.0 >> 64) as u64 ^ (node >> 64) as u64);
        mix(high ^ self.0 as u64 ^ (node as u64).rotate_left(32))
    }
}
