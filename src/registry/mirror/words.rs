//! What nodes ask each other about another registry, and what they answer.

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use crate::{
    oci::{Descriptor, Digest, RepositoryName, Tag},
    registry::words::InvalidWords,
};

/// What another registry is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::registry) enum Wish {
    /// Where a tag points, and the manifest there.
    Tag(Tag),
    /// A manifest.
    Manifest(Digest),
    /// Whether it is there and has this manifest.
    Confirmation(Digest),
    /// How long a blob is.
    Size(Digest),
    /// All tags.
    Tags,
    /// What refers to a manifest.
    Referrers(Digest),
    /// That a blob comes, to be had from whoever is asked.
    Fill(Digest),
}

/// A wish, and where it is to be fulfilled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The other registry, by its name in the configuration.
    pub(in crate::registry) upstream: String,
    /// The repository there.
    pub(in crate::registry) repository: RepositoryName,
    pub(in crate::registry) wish: Wish,
}

/// A question as it is written.
#[derive(Serialize, Deserialize)]
struct WrittenQuestion<'a> {
    upstream: &'a str,
    repository: &'a str,
    wish: &'a str,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    of: &'a str,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Said {
    /// It takes longer; ask again.
    NotYet,
    /// The tag points there. The manifest follows if it is near at hand.
    Points {
        digest: String,
        age_ms: u64,
    },
    /// There was no such tag so long ago.
    Absent {
        age_ms: u64,
    },
    /// The other registry does not answer; so long ago the tag pointed there.
    Stale {
        digest: String,
        age_ms: u64,
        why: Failure,
    },
    /// The manifest, which follows.
    Manifest,
    Confirmed,
    Size {
        bytes: Option<u64>,
    },
    Tags {
        all: Vec<String>,
        age_ms: u64,
    },
    Referrers {
        all: Vec<Descriptor>,
        age_ms: u64,
    },
    /// The blob comes, and whoever answers has what is there of it.
    Coming {
        size_bytes: u64,
        fill: u64,
    },
    /// The blob is in the storage.
    Held,
    Failed(Failure),
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub(super) said: Said,
    /// Whether the other registry gave something a moment ago.
    pub(super) is_heard: bool,
    /// A manifest, or nothing.
    pub(super) bytes: Bytes,
}

#[derive(Serialize, Deserialize)]
struct WrittenAnswer<S> {
    said: S,
    heard: bool,
}

impl Question {
    /// Its written form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (wish, of) = match &self.wish {
            Wish::Tag(tag) => ("tag", tag.to_string()),
            Wish::Manifest(digest) => ("manifest", digest.to_string()),
            Wish::Confirmation(digest) => ("confirmation", digest.to_string()),
            Wish::Size(digest) => ("size", digest.to_string()),
            Wish::Tags => ("tags", String::new()),
            Wish::Referrers(digest) => ("referrers", digest.to_string()),
            Wish::Fill(digest) => ("fill", digest.to_string()),
        };
        let (upstream, repository) = (&*self.upstream, self.repository.as_str());
        json(&WrittenQuestion { upstream, repository, wish, of: &of }).into()
    }

    /// The question that was written as `text`.
    ///
    /// # Errors
    /// If that means nothing here.
    pub fn decode(text: &[u8]) -> Result<Self, InvalidWords> {
        let written: WrittenQuestion<'_> =
            serde_json::from_slice(text).map_err(|_| InvalidWords)?;
        let digest = || written.of.parse().map_err(|_| InvalidWords);
        let wish = match written.wish {
            "tag" => Wish::Tag(written.of.parse().map_err(|_| InvalidWords)?),
            "manifest" => Wish::Manifest(digest()?),
            "confirmation" => Wish::Confirmation(digest()?),
            "size" => Wish::Size(digest()?),
            "tags" => Wish::Tags,
            "referrers" => Wish::Referrers(digest()?),
            "fill" => Wish::Fill(digest()?),
            _ => return Err(InvalidWords),
        };
        let repository = written.repository.parse().map_err(|_| InvalidWords)?;
        Ok(Self { upstream: written.upstream.to_owned(), repository, wish })
    }
}

impl Answer {
    /// Its written form: a line of JSON, and the manifest as it is.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut form =
            BytesMut::from(&*json(&WrittenAnswer { said: &self.said, heard: self.is_heard }));
        form.extend_from_slice(b"\n");
        form.extend_from_slice(&self.bytes);
        form.freeze()
    }

    /// The answer that was written as `form`; nothing if that means nothing here.
    #[must_use]
    pub fn decode(form: &Bytes) -> Option<Self> {
        // No line of JSON has a line break within.
        let end = form.iter().position(|byte| *byte == b'\n')?;
        let WrittenAnswer { said, heard } = serde_json::from_slice(&form[..end]).ok()?;
        Some(Self { said, is_heard: heard, bytes: form.slice(end + 1..) })
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("words and numbers have a form in JSON")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    fn wishes() -> impl Strategy<Value = Wish> {
        let digest = || any::<[u8; 4]>().prop_map(|bytes| Digest::of(Algorithm::Sha256, &bytes));
        prop_oneof![
            "[A-Za-z0-9_][A-Za-z0-9._-]{0,20}".prop_map(|tag| Wish::Tag(tag.parse().unwrap())),
            digest().prop_map(Wish::Manifest),
            digest().prop_map(Wish::Confirmation),
            digest().prop_map(Wish::Size),
            Just(Wish::Tags),
            digest().prop_map(Wish::Referrers),
            digest().prop_map(Wish::Fill),
        ]
    }

    fn failures() -> impl Strategy<Value = Failure> {
        prop_oneof![
            Just(Failure::NotFound),
            any::<u16>().prop_map(|status| Failure::Denied { status }),
            any::<Option<u64>>().prop_map(|retry_after_ms| Failure::RateLimited { retry_after_ms }),
            any::<u64>().prop_map(|after_ms| Failure::Timeout { after_ms }),
        ]
    }

    fn said() -> impl Strategy<Value = Said> {
        prop_oneof![
            Just(Said::NotYet),
            ("\\PC{0,9}", any::<u64>())
                .prop_map(|(digest, age_ms)| Said::Points { digest, age_ms }),
            ("\\PC{0,9}", any::<u64>(), failures()).prop_map(|(digest, age_ms, why)| Said::Stale {
                digest,
                age_ms,
                why
            }),
            any::<Option<u64>>().prop_map(|bytes| Said::Size { bytes }),
            (proptest::collection::vec("\\PC{0,9}", 0..3), any::<u64>())
                .prop_map(|(all, age_ms)| Said::Tags { all, age_ms }),
            any::<(u64, u64)>().prop_map(|(size_bytes, fill)| Said::Coming { size_bytes, fill }),
            failures().prop_map(Said::Failed),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(
            wish in wishes(),
            upstream in "[a-z.:0-9]{1,20}",
            repository in "[a-z]{1,8}(/[a-z]{1,8})?",
            said in said(),
            is_heard: bool,
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let question = Question { upstream, repository: repository.parse().unwrap(), wish };
            prop_assert_eq!(Question::decode(&question.encode()), Ok(question));
            let answer = Answer { said, is_heard, bytes: bytes.into() };
            prop_assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,60}\n?.{0,9}") {
            let _any = (Question::decode(text.as_bytes()), Answer::decode(&text.into()));
        }
    }
}
