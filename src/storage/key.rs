//! The key of a stored object.

use std::{fmt, str::FromStr, sync::Arc};

/// Longest key of S3, in bytes, less what a configured key prefix may take.
const MAX_KEY_BYTES: usize = 900;

/// A relative path of plain components, joined by `/`: `docker/registry/v2/blobs/…/data`.
///
/// No component is empty, `.` or `..`, and none has a byte that a file system or an S3 server could take
/// for something else. So a key is safe below any root.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The whole key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key that `parts` make one after the other.
    ///
    /// Keys are made for every request, of names that were looked at when they were parsed; so they are looked at
    /// once more in debug builds only. That is in every test.
    pub(super) fn of_valid(parts: &[&str]) -> Self {
        let text = parts.concat();
        debug_assert!(text.parse::<Self>().is_ok(), "{text:?} is no key");
        Self(text.into())
    }

    /// This key with more components behind it.
    ///
    /// # Panics
    /// If `tail` is no key: callers pass validated names only.
    #[must_use]
    pub fn join(&self, tail: impl fmt::Display) -> Self {
        let joined = format!("{}/{tail}", self.0);
        joined.parse().unwrap_or_else(|invalid: InvalidKey| panic!("{joined:?}: {invalid}"))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut components = text.as_bytes().split(|&byte| byte == b'/');
        if text.len() <= MAX_KEY_BYTES && components.all(is_component) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidKey)
        }
    }
}

fn is_component(bytes: &[u8]) -> bool {
    !matches!(bytes, b"" | b"." | b"..") && bytes.iter().all(|&byte| PLAIN[usize::from(byte)])
}

/// Bytes that a component may have. A table, because keys are made for every request.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        plain[byte as usize] =
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+' | b'=' | b'@');
        byte += 1;
    }
    plain
};

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key has plain ASCII components joined by '/', none of them empty, '.' or '..'")]
pub struct InvalidKey;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_escapes_the_root() {
        for bad in ["", "/", "/a", "a/", "a//b", "a/../b", "..", ".", "a\\b", "a b", "é", "a\0"] {
            assert_eq!(bad.parse::<Key>(), Err(InvalidKey), "{bad}");
        }
        assert!("docker/registry/v2/blobs/sha256/ab/abc/data".parse::<Key>().is_ok());
    }
}
