//! The identity of an upload session, all of whose state fits in the URL path.

use std::{fmt, str::FromStr, time::Duration};

use super::{Algorithm, Digest, RepositoryName};

/// Identity of one upload session, written as a UUID (version 7, RFC 9562).
///
/// It carries when the session began and which digest algorithm was announced, and it is bound to its
/// repository by a check value. So any process that shares the storage takes up a session it has never
/// heard of, without a record of it anywhere, and an invented identity is still refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId([u8; 16]);

// Layout of the 16 bytes. The fields of RFC 9562 are time, version and variant; the rest is ours.
//   0..6   milliseconds since 1970, big-endian
//   6      version 7, then 4 random bits
//   7      random
//   8      variant 0b10, then 1 bit for the algorithm, then 5 random bits
//   9..12  random
//   12..16 check value over the repository name and bytes 0..12
const CHECK_START: usize = 12;
const SHA512_BIT: u8 = 0x20;

impl UploadId {
    /// A new identity for a session in `repository` that begins `now` after 1970.
    ///
    /// `random` should be unpredictable, so that sessions of one millisecond do not collide.
    #[must_use]
    pub fn new(
        repository: &RepositoryName,
        algorithm: Algorithm,
        now: Duration,
        random: u64,
    ) -> Self {
        let mut bytes = [0; 16];
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        bytes[6..12].copy_from_slice(&random.to_be_bytes()[2..]);
        bytes[6] = 0x70 | (bytes[6] & 0x0f);
        let algorithm_bit = if algorithm == Algorithm::Sha512 { SHA512_BIT } else { 0 };
        bytes[8] = 0x80 | algorithm_bit | (bytes[8] & 0x1f);
        let check = check_value(repository, &bytes);
        bytes[CHECK_START..].copy_from_slice(&check);
        Self(bytes)
    }

    /// Parses an identity and holds it to the repository it is used in.
    ///
    /// # Errors
    /// [`InvalidUploadId`] where this registry cannot have issued it for `repository`.
    pub fn parse(text: &str, repository: &RepositoryName) -> Result<Self, InvalidUploadId> {
        let id: Self = text.parse()?;
        if id.0[CHECK_START..] == check_value(repository, &id.0) {
            Ok(id)
        } else {
            Err(InvalidUploadId)
        }
    }

    /// When the session began, as time since 1970.
    #[must_use]
    pub fn started(&self) -> Duration {
        let mut millis = [0; 8];
        millis[2..].copy_from_slice(&self.0[..6]);
        Duration::from_millis(u64::from_be_bytes(millis))
    }

    /// The algorithm the client announced at the start; the canonical one if it announced none.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        if self.0[8] & SHA512_BIT == 0 { Algorithm::Sha256 } else { Algorithm::Sha512 }
    }
}

fn check_value(repository: &RepositoryName, bytes: &[u8; 16]) -> [u8; 4] {
    let mut input = bytes[..CHECK_START].to_vec();
    input.extend_from_slice(repository.as_str().as_bytes());
    let digest = Digest::of(Algorithm::Sha256, &input);
    let mut check = [0; 4];
    check.copy_from_slice(&digest.hash()[..4]);
    check
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for UploadId {
    type Err = InvalidUploadId;

    /// Parses the form alone. [`UploadId::parse`] also checks the repository.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 16];
        let digits: String = text.chars().filter(|&character| character != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(InvalidUploadId);
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            let pair = &digits[2 * index..2 * index + 2];
            *byte = u8::from_str_radix(pair, 16).map_err(|_not_hex| InvalidUploadId)?;
        }
        let id = Self(bytes);
        if id.to_string() == text { Ok(id) } else { Err(InvalidUploadId) }
    }
}

/// The session part of an upload URL: the identity, and how many bytes the client believes are stored.
///
/// Every answer's `Location` carries the count, so a process that has an older view of the session
/// knows that it must look in storage before it appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadPosition {
    /// The session.
    pub id: UploadId,
    /// Bytes stored when the URL was issued; `None` where the client dropped the count.
    pub offset: Option<u64>,
}

impl UploadPosition {
    /// Parses `<id>` or `<id>.<offset>`.
    ///
    /// # Errors
    /// [`InvalidUploadId`], as [`UploadId::parse`].
    pub fn parse(text: &str, repository: &RepositoryName) -> Result<Self, InvalidUploadId> {
        let (id, offset) = match text.split_once('.') {
            None => (text, None),
            Some((id, offset)) => (id, Some(offset.parse().map_err(|_| InvalidUploadId)?)),
        };
        let position = Self { id: UploadId::parse(id, repository)?, offset };
        if position.to_string() == text { Ok(position) } else { Err(InvalidUploadId) }
    }
}

impl fmt::Display for UploadPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            None => self.id.fmt(f),
            Some(offset) => write!(f, "{}.{offset}", self.id),
        }
    }
}

/// The session was not issued by this registry for this repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no upload session of this repository has this identity")]
pub struct InvalidUploadId;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    proptest! {
        #[test]
        fn an_issued_identity_is_known_again_and_tells_its_start(
            millis in 0_u64..1 << 47, random in any::<u64>(), offset in any::<u64>(),
        ) {
            let started = Duration::from_millis(millis);
            for algorithm in Algorithm::ALL {
                let id = UploadId::new(&name("team/app"), algorithm, started, random);
                let position = UploadPosition { id, offset: Some(offset) };
                prop_assert_eq!(UploadPosition::parse(&position.to_string(), &name("team/app")), Ok(position));
                prop_assert_eq!(id.started(), started);
                prop_assert_eq!(id.algorithm(), algorithm);
                prop_assert!(UploadId::parse(&id.to_string(), &name("team/other")).is_err());
            }
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "\\PC{0,50}") {
            prop_assert!(UploadPosition::parse(&text, &name("a")).is_err());
        }
    }

    #[test]
    fn a_random_uuid_is_no_session() {
        let invented = "0190a5f0-7c1a-7d2b-9c3d-112233445566";
        assert_eq!(UploadId::parse(invented, &name("team/app")), Err(InvalidUploadId));
    }
}
