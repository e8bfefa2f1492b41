//! What the registries of one cluster say to each other, as short texts.
//!
//! A text begins with what it is about. Whoever does not know that refuses the text, so others can be added; what is
//! known has one written form.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::LinkKind;
use crate::{
    oci::{Digest, RepositoryName, Tag, UploadId},
    storage::{Key, layout},
};

/// What another node shall believe no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forget {
    /// That content is in a repository: it has been taken out.
    Link {
        /// What it is there.
        kind: LinkKind,
        /// Where.
        repository: RepositoryName,
        /// By which digest it was linked.
        digest: Digest,
    },
    /// That content is there, and how long it is.
    Blob(Digest),
    /// That a client still sends over a connection that hangs: it has gone on with its upload through another node.
    UploadTaken(UploadId),
    /// That an upload can be gone on with.
    UploadEnded(UploadId),
}

/// A link that is to be read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LinkQuestion {
    /// Whether content is in a repository, and under which digest it is stored.
    Content(LinkKind, RepositoryName, Digest),
    /// Where a tag points.
    Tag(RepositoryName, Tag),
    /// Where a tag points, and since when.
    DatedTag(RepositoryName, Tag),
}

/// What a link says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where it points.
    pub digest: Digest,
    /// When it was written, to the millisecond, if that was asked.
    pub modified: Option<SystemTime>,
}

/// A text of another node that means nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another node said something that means nothing here")]
pub struct InvalidWords;

const BLOB: &str = "blob";
const UPLOAD_TAKEN: &str = "upload-taken";
const UPLOAD_ENDED: &str = "upload-ended";
const TAG: &str = "tag";
const DATED_TAG: &str = "dated-tag";

impl LinkKind {
    const fn word(self) -> &'static str {
        match self {
            Self::Layer => "layer",
            Self::Revision => "revision",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Layer, Self::Revision].into_iter().find(|kind| kind.word() == word)
    }
}

impl LinkQuestion {
    /// Where the link lies.
    pub(super) fn key(&self) -> Key {
        match self {
            Self::Content(kind, name, digest) => kind.key(name, digest),
            Self::Tag(name, tag) | Self::DatedTag(name, tag) => layout::tag_current(name, tag),
        }
    }
}

impl fmt::Display for Forget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link { kind, repository, digest } => {
                write!(f, "{} {repository} {digest}", kind.word())
            }
            Self::Blob(digest) => write!(f, "{BLOB} {digest}"),
            Self::UploadTaken(id) => write!(f, "{UPLOAD_TAKEN} {id}"),
            Self::UploadEnded(id) => write!(f, "{UPLOAD_ENDED} {id}"),
        }
    }
}

impl FromStr for Forget {
    type Err = InvalidWords;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (about, rest) = text.split_once(' ').ok_or(InvalidWords)?;
        match about {
            BLOB => Ok(Self::Blob(read(rest)?)),
            UPLOAD_TAKEN => Ok(Self::UploadTaken(read(rest)?)),
            UPLOAD_ENDED => Ok(Self::UploadEnded(read(rest)?)),
            other => {
                let kind = LinkKind::parse(other).ok_or(InvalidWords)?;
                let (repository, digest) = read_two(rest)?;
                Ok(Self::Link { kind, repository, digest })
            }
        }
    }
}

impl fmt::Display for LinkQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content(kind, name, digest) => write!(f, "{} {name} {digest}", kind.word()),
            Self::Tag(name, tag) => write!(f, "{TAG} {name} {tag}"),
            Self::DatedTag(name, tag) => write!(f, "{DATED_TAG} {name} {tag}"),
        }
    }
}

impl FromStr for LinkQuestion {
    type Err = InvalidWords;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (about, rest) = text.split_once(' ').ok_or(InvalidWords)?;
        match about {
            TAG => read_two(rest).map(|(name, tag)| Self::Tag(name, tag)),
            DATED_TAG => read_two(rest).map(|(name, tag)| Self::DatedTag(name, tag)),
            other => {
                let kind = LinkKind::parse(other).ok_or(InvalidWords)?;
                read_two(rest).map(|(name, digest)| Self::Content(kind, name, digest))
            }
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digest.fmt(f)?;
        match self.modified {
            None => Ok(()),
            // Nothing in a storage is older than that.
            Some(time) => {
                let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
                write!(f, " {}", u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }
}

impl FromStr for Link {
    type Err = InvalidWords;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((digest, millis)) = text.split_once(' ') else {
            return Ok(Self { digest: read(text)?, modified: None });
        };
        let since = Duration::from_millis(read(millis)?);
        let modified = UNIX_EPOCH.checked_add(since).ok_or(InvalidWords)?;
        let link = Self { digest: read(digest)?, modified: Some(modified) };
        // A number can be written in several ways.
        if link.to_string() == text { Ok(link) } else { Err(InvalidWords) }
    }
}

fn read<T: FromStr>(text: &str) -> Result<T, InvalidWords> {
    text.parse().map_err(|_| InvalidWords)
}

fn read_two<A: FromStr, B: FromStr>(text: &str) -> Result<(A, B), InvalidWords> {
    let (first, second) = text.split_once(' ').ok_or(InvalidWords)?;
    Ok((read(first)?, read(second)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    fn names() -> impl Strategy<Value = RepositoryName> {
        "[a-z0-9]{1,9}(/[a-z0-9]{1,9}){0,3}".prop_map(|name| name.parse().unwrap())
    }

    fn tags() -> impl Strategy<Value = Tag> {
        "[A-Za-z0-9_][A-Za-z0-9._-]{0,20}".prop_map(|tag| tag.parse().unwrap())
    }

    fn digests() -> impl Strategy<Value = Digest> {
        let algorithm = prop_oneof![Just(Algorithm::Sha256), Just(Algorithm::Sha512)];
        (algorithm, any::<[u8; 4]>()).prop_map(|(algorithm, bytes)| Digest::of(algorithm, &bytes))
    }

    fn kinds() -> impl Strategy<Value = LinkKind> {
        prop_oneof![Just(LinkKind::Layer), Just(LinkKind::Revision)]
    }

    fn ids() -> impl Strategy<Value = UploadId> {
        let parts = (names(), any::<u32>(), any::<u64>());
        parts.prop_map(|(name, seconds, random)| {
            UploadId::new(&name, Algorithm::Sha256, Duration::from_secs(seconds.into()), random)
        })
    }

    fn forgets() -> impl Strategy<Value = Forget> {
        prop_oneof![
            (kinds(), names(), digests()).prop_map(|(kind, repository, digest)| Forget::Link {
                kind,
                repository,
                digest
            }),
            digests().prop_map(Forget::Blob),
            ids().prop_map(Forget::UploadTaken),
            ids().prop_map(Forget::UploadEnded),
        ]
    }

    fn questions() -> impl Strategy<Value = LinkQuestion> {
        prop_oneof![
            (kinds(), names(), digests())
                .prop_map(|(kind, name, digest)| LinkQuestion::Content(kind, name, digest)),
            (names(), tags()).prop_map(|(name, tag)| LinkQuestion::Tag(name, tag)),
            (names(), tags()).prop_map(|(name, tag)| LinkQuestion::DatedTag(name, tag)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(forget in forgets(), question in questions()) {
            prop_assert_eq!(forget.to_string().parse(), Ok(forget));
            prop_assert_eq!(question.to_string().parse(), Ok(question));
        }

        #[test]
        fn links_are_read_as_they_were_written(digest in digests(), millis in any::<Option<u32>>()) {
            let since = millis.map(|millis| Duration::from_millis(millis.into()));
            let link = Link { digest, modified: since.map(|since| UNIX_EPOCH + since) };
            prop_assert_eq!(link.to_string().parse(), Ok(link));
        }

        #[test]
        fn no_other_text_means_the_same(forget in forgets(), place in 0_usize..200, with in ".{0,2}") {
            let mut text = forget.to_string();
            let place = text.floor_char_boundary(place);
            text.insert_str(place, &with);
            if let Ok(read) = text.parse::<Forget>() {
                prop_assert_eq!(read.to_string(), text);
            }
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "(layer|tag|blob|upload-taken)? ?.{0,40}") {
            let _any = (text.parse::<Forget>(), text.parse::<LinkQuestion>(), text.parse::<Link>());
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let digest = Digest::of(Algorithm::Sha256, b"");
        let texts = [
            "",
            "blob",
            "blob ",
            "layer a",
            "manifest a v1",
            "tag a",
            " tag a v1",
            "tag a v1 ",
            "tag a  v1",
        ];
        for text in texts {
            assert_eq!(text.parse::<Forget>(), Err(InvalidWords), "{text:?}");
            assert_eq!(text.parse::<LinkQuestion>(), Err(InvalidWords), "{text:?}");
        }
        for tail in [" ", " 01", " +1", " -1", " 1 ", " 18446744073709551616"] {
            assert_eq!(format!("{digest}{tail}").parse::<Link>(), Err(InvalidWords), "{tail:?}");
        }
    }
}
