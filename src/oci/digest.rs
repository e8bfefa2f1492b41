//! Content digests: `sha256:<64 hex>` and `sha512:<128 hex>`.

use std::{
    fmt,
    hash::{self, Hash},
    str::FromStr,
};

/// A hash algorithm of the image specification, "Digests", that this registry accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, the canonical one.
    #[default]
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Every algorithm, the canonical one first.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The name as it stands before the colon of a digest.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the hash in bytes; its hexadecimal form is twice as long.
    #[must_use]
    pub const fn hash_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn implementation(self) -> &'static aws_lc_rs::digest::Algorithm {
        match self {
            Self::Sha256 => &aws_lc_rs::digest::SHA256,
            Self::Sha512 => &aws_lc_rs::digest::SHA512,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == text)
            .ok_or(InvalidDigest::Algorithm)
    }
}

/// Longest hash of all algorithms, in bytes.
const MAX_HASH_BYTES: usize = 64;

/// What a byte is worth as a hexadecimal digit; more than that if it is none.
const NIBBLES: [u8; 256] = {
    let mut nibbles = [u8::MAX; 256];
    let mut digit = 0;
    while digit < 16 {
        nibbles[DIGITS[digit] as usize] = digit as u8;
        digit += 1;
    }
    nibbles
};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Longest written form, in bytes: a name, a colon and the hash.
const MAX_TEXT_BYTES: usize = "sha512:".len() + 2 * MAX_HASH_BYTES;

/// The digest of some bytes: an algorithm and the hash they have under it.
///
/// Ordered by algorithm, then by hash, which is also the order of the written forms.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// The hash, followed by zeros where the algorithm's is shorter.
    hash: [u8; MAX_HASH_BYTES],
}

impl Digest {
    /// The digest of `bytes`. Hashes on the calling thread: for small inputs only, about 3 ms per MiB.
    #[must_use]
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Parses `<algorithm>` and `<hex>` that stand apart, as in the paths of the storage layout.
    ///
    /// # Errors
    /// The same as [`Digest::from_str`].
    pub fn from_parts(algorithm: &str, hex: &str) -> Result<Self, InvalidDigest> {
        let algorithm: Algorithm = algorithm.parse()?;
        let length = algorithm.hash_bytes();
        if hex.len() != 2 * length {
            return Err(InvalidDigest::Length { algorithm, actual: hex.len() });
        }
        let mut hash = [0; MAX_HASH_BYTES];
        // Looked at once for all: this is done for most requests.
        let mut all = 0;
        for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().as_chunks().0) {
            let [high, low] = pair.map(|digit| NIBBLES[usize::from(digit)]);
            all |= high | low;
            *byte = (high << 4) | low;
        }
        if all < 16 { Ok(Self { algorithm, hash }) } else { Err(InvalidDigest::Hex) }
    }

    /// The algorithm before the colon.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash itself, [`Algorithm::hash_bytes`] long.
    #[must_use]
    pub fn hash(&self) -> &[u8] {
        &self.hash[..self.algorithm.hash_bytes()]
    }

    /// The lower-case hexadecimal form of the hash, without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        let mut text = self.to_string();
        text.drain(..=self.algorithm.name().len());
        text
    }

    /// The written form in `text`; says how long it is.
    fn write(&self, text: &mut [u8; MAX_TEXT_BYTES]) -> usize {
        let name = self.algorithm.name().as_bytes();
        text[..name.len()].copy_from_slice(name);
        text[name.len()] = b':';
        let hex = &mut text[name.len() + 1..];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.hash()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        name.len() + 1 + 2 * self.hash().len()
    }
}

impl Hash for Digest {
    /// Without the zeros that follow, because digests are looked up all the time.
    fn hash<H: hash::Hasher>(&self, hasher: &mut H) {
        hasher.write(self.hash());
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In one piece: most of what is written here becomes a string of its own, which then grows but once.
        let mut text = [0; MAX_TEXT_BYTES];
        let length = self.write(&mut text);
        f.write_str(std::str::from_utf8(&text[..length]).expect("names and digits are ASCII"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (algorithm, hex) = text.split_once(':').ok_or(InvalidDigest::Colon)?;
        Self::from_parts(algorithm, hex)
    }
}

/// Why a text is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// There is no colon between algorithm and hash.
    #[error("a digest is <algorithm>:<hex>, for example sha256:e3b0c442…")]
    Colon,
    /// The algorithm is unknown.
    #[error("the digest algorithm is neither sha256 nor sha512")]
    Algorithm,
    /// The hash has the wrong number of digits.
    #[error("a {algorithm} digest has {} hexadecimal digits, not {actual}", 2 * algorithm.hash_bytes())]
    Length {
        /// The algorithm that was named.
        algorithm: Algorithm,
        /// How many digits were given.
        actual: usize,
    },
    /// A character is no lower-case hexadecimal digit.
    #[error("a digest is written in lower-case hexadecimal digits")]
    Hex,
}

/// A running hash over bytes that arrive piece by piece.
///
/// The fastest vetted implementation measured for this project (`aws-lc-rs`); tests compare it with
/// the `sha2` crate.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: aws_lc_rs::digest::Context,
}

impl Hasher {
    /// A hash over nothing yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, context: aws_lc_rs::digest::Context::new(algorithm.implementation()) }
    }

    /// The algorithm given at the start.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Takes in `bytes`, at about 0.3 GB/s on one core without hardware support.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The digest of all bytes taken in.
    #[must_use]
    pub fn finish(self) -> Digest {
        let computed = self.context.finish();
        let mut hash = [0; MAX_HASH_BYTES];
        hash[..self.algorithm.hash_bytes()].copy_from_slice(computed.as_ref());
        Digest { algorithm: self.algorithm, hash }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::Digest as _;

    use super::*;

    fn oracle(algorithm: Algorithm, bytes: &[u8]) -> String {
        let hash: Vec<u8> = match algorithm {
            Algorithm::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
            Algorithm::Sha512 => sha2::Sha512::digest(bytes).to_vec(),
        };
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{algorithm}:{hex}")
    }

    proptest! {
        #[test]
        fn hash_agrees_with_an_independent_implementation(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
        ) {
            for algorithm in Algorithm::ALL {
                let mut hasher = Hasher::new(algorithm);
                pieces.iter().for_each(|piece| hasher.update(piece));
                prop_assert_eq!(hasher.finish().to_string(), oracle(algorithm, &pieces.concat()));
            }
        }

        #[test]
        fn written_form_parses_back(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for algorithm in Algorithm::ALL {
                let digest = Digest::of(algorithm, &bytes);
                prop_assert_eq!(digest.to_string().parse(), Ok(digest));
            }
        }

        #[test]
        fn any_text_parses_or_is_refused_without_panic(text in "\\PC*") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }
    }

    #[test]
    fn malformed_digests_say_what_is_wrong() {
        let hex = "a".repeat(64);
        let cases = [
            ("sha256".to_owned(), InvalidDigest::Colon),
            (format!("md5:{hex}"), InvalidDigest::Algorithm),
            (
                "sha256:ab".to_owned(),
                InvalidDigest::Length { algorithm: Algorithm::Sha256, actual: 2 },
            ),
            (format!("sha256:{}", hex.to_uppercase()), InvalidDigest::Hex),
            (format!("sha256:{}g", &hex[1..]), InvalidDigest::Hex),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Digest>(), Err(expected), "{text}");
        }
    }
}
