//! Repository names, tags, and the references that a manifest URL may carry.

use std::{fmt, str::FromStr, sync::Arc};

use super::{Digest, InvalidDigest};

/// Longest repository name, in bytes. The specification advises that host and name together stay
/// within 255; docker-registry enforces the same figure on the name.
const MAX_NAME_BYTES: usize = 255;

/// Longest tag, in bytes (distribution-spec, "Pulling manifests").
const MAX_TAG_BYTES: usize = 128;

/// The name of a repository, such as `team/app`: path components of lower-case letters and digits,
/// joined inside a component by `.`, `_`, `__` or dashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(Arc<str>);

impl RepositoryName {
    /// The whole name, components joined by `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RepositoryName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_NAME_BYTES {
            return Err(InvalidName::TooLong { bytes: text.len() });
        }
        match text.split('/').find(|component| !is_component(component)) {
            None => Ok(Self(text.into())),
            Some(component) => Err(InvalidName::Component { component: component.to_owned() }),
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_well = |byte: Option<&u8>| byte.is_some_and(|&byte| alphanumeric(byte));
    if !ends_well(bytes.first()) || !ends_well(bytes.last()) {
        return false;
    }
    bytes.split(|&byte| alphanumeric(byte)).all(is_separator)
}

/// What may stand between two alphanumeric characters, nothing included.
fn is_separator(bytes: &[u8]) -> bool {
    matches!(bytes, b"" | b"." | b"_" | b"__") || bytes.iter().all(|&byte| byte == b'-')
}

/// Why a text is no repository name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// It is longer than 255 bytes.
    #[error("a repository name has at most {MAX_NAME_BYTES} bytes, not {bytes}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// One of its components breaks the grammar.
    #[error(
        "the repository name component {component:?} is not lower-case letters and digits joined by \
         '.', '_', '__' or dashes"
    )]
    Component {
        /// The component.
        component: String,
    },
}

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Arc<str>);

impl Tag {
    /// The tag as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Tag {
    type Err = InvalidTag;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let starts_well =
            text.bytes().next().is_some_and(|first| inner(first) && !b".-".contains(&first));
        if starts_well && text.len() <= MAX_TAG_BYTES && text.bytes().all(inner) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidTag)
        }
    }
}

/// Why a text is no tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a tag has 1 to {MAX_TAG_BYTES} letters, digits, '_', '.' or '-', and does not start with '.' or '-'"
)]
pub struct InvalidTag;

/// What a manifest URL names: a tag, or the digest of the manifest itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A name that can move.
    Tag(Tag),
    /// Exactly these bytes.
    Digest(Digest),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Why a text is no reference. A colon makes it a digest, since no tag can have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// It has no colon and is no tag.
    #[error(transparent)]
    Tag(#[from] InvalidTag),
    /// It has a colon and is no digest.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains(':') {
            Ok(Self::Digest(text.parse()?))
        } else {
            Ok(Self::Tag(text.parse()?))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn repository_names_follow_the_grammar() {
        for good in ["a", "a/b", "team/app", "a.b/c_d/e__f/g-h/i---j", "0/9", "library/nginx"] {
            assert!(good.parse::<RepositoryName>().is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a_-b", "_a", "a_", "ä", "a b",
            &long,
        ] {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad}");
        }
        assert!("a".repeat(255).parse::<RepositoryName>().is_ok());
    }

    #[test]
    fn tags_follow_the_grammar() {
        let longest = "x".repeat(128);
        for good in ["latest", "1.2.3", "_", "A-b.C_", &longest] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        let too_long = "x".repeat(129);
        for bad in ["", ".a", "-a", "a/b", "a:b", "a b", "é", &too_long] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reference_with_a_colon_is_a_digest() {
        assert!(matches!("v1".parse(), Ok(Reference::Tag(_))));
        assert!(matches!(
            "sha256:nonsense".parse::<Reference>(),
            Err(InvalidReference::Digest(InvalidDigest::Length { .. }))
        ));
    }

    proptest! {
        #[test]
        fn names_the_grammar_produces_are_accepted(
            name in "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}(/[a-z0-9]{1,8}(-[a-z0-9]{1,3})?){0,3}",
        ) {
            prop_assert!(name.parse::<RepositoryName>().is_ok());
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "\\PC{0,40}") {
            if let Ok(name) = text.parse::<RepositoryName>() {
                prop_assert_eq!(name.as_str(), &text);
            }
            if let Ok(tag) = text.parse::<Tag>() {
                prop_assert_eq!(tag.as_str(), &text);
            }
            let _ = text.parse::<Reference>();
        }
    }
}
