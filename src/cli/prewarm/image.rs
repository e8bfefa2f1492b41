//! Images as people write them, and as the daemon knows them.

use std::{fmt, str::FromStr};

use crate::oci::{Digest, InvalidDigest, InvalidName, InvalidTag, Reference, RepositoryName, Tag};

/// The tag that is meant where none is written.
const DEFAULT_TAG: &str = "latest";

/// Docker's own registry, whose images without an owner belong to `library`.
const DOCKER: &str = "docker.io";

/// A name of [`DOCKER`] from before 2015, which Docker still takes for it.
const DOCKER_OF_OLD: &str = "index.docker.io";

/// An image at the daemon. The registry that it comes from, if any, is the first component of the repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Image {
    /// Its repository at the daemon.
    pub(super) repository: RepositoryName,
    /// Which manifest of the repository it is. Where a tag and a digest are written, this is the digest.
    pub(super) reference: Reference,
}

/// Why a text names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidImage {
    /// It has a scheme.
    #[error("an image is named without a scheme, as in ghcr.io/org/app:1")]
    Scheme,
    /// Its registry has a port, which no path of the daemon can hold.
    #[error(
        "the registry {host} has a port, which cannot be part of a name at the daemon: write the name \
         that its configuration gives to this registry, as in NAME/{path}"
    )]
    Port {
        /// The registry.
        host: String,
        /// The rest of the name.
        path: String,
    },
    /// The part before the tag or digest is no repository name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The part after the last colon is no tag.
    #[error(transparent)]
    Tag(#[from] InvalidTag),
    /// The part after the `@` is no digest.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
}

impl FromStr for Image {
    type Err = InvalidImage;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains("://") {
            return Err(InvalidImage::Scheme);
        }
        let (tagged, digest) = match text.split_once('@') {
            Some((tagged, digest)) => (tagged, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (name, tag) = split_tag(tagged);
        let repository = repository(name)?;
        // Checked also where the digest makes it superfluous: a mistake there is a mistake.
        let tag: Tag = tag.unwrap_or(DEFAULT_TAG).parse()?;
        let reference = digest.map_or(Reference::Tag(tag), Reference::Digest);
        Ok(Self { repository, reference })
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reference {
            Reference::Tag(tag) => write!(f, "{}:{tag}", self.repository),
            Reference::Digest(digest) => write!(f, "{}@{digest}", self.repository),
        }
    }
}

/// Splits off the tag. A colon before the last slash belongs to the registry.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

fn repository(name: &str) -> Result<RepositoryName, InvalidImage> {
    let Some((host, path)) = name.split_once('/').filter(|(first, _)| is_registry(first)) else {
        return Ok(name.parse()?);
    };
    if host.contains(':') {
        return Err(InvalidImage::Port { host: host.to_owned(), path: path.to_owned() });
    }
    let host = if host == DOCKER_OF_OLD { DOCKER } else { host };
    let owner = if host == DOCKER && !path.contains('/') { "library/" } else { "" };
    Ok(format!("{host}/{owner}{path}").parse()?)
}

/// Whether the first component of a name is a registry: the rule of every container tool.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_people_write_becomes_a_name_at_the_daemon() {
        let by_digest = format!("docker.io/library/nginx@{DIGEST}");
        let with_both = format!("docker.io/nginx:1.27@{DIGEST}");
        for (written, read) in [
            ("nginx", "nginx:latest"),
            ("nginx:1.27", "nginx:1.27"),
            ("team/app:1", "team/app:1"),
            ("a.b", "a.b:latest"),
            ("localhost:5000", "localhost:5000"),
            ("localhost/app", "localhost/app:latest"),
            ("ghcr.io/org/app:tag", "ghcr.io/org/app:tag"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx:1", "docker.io/library/nginx:1"),
            ("docker.io/bitnami/redis:7", "docker.io/bitnami/redis:7"),
            ("quay.io/nginx", "quay.io/nginx:latest"),
            (&by_digest, &by_digest),
            (&with_both, &by_digest),
        ] {
            assert_eq!(written.parse::<Image>().map(|image| image.to_string()), Ok(read.into()));
        }
    }

    #[test]
    fn what_names_no_image_is_refused_with_the_reason() {
        let is = |text: &str| text.parse::<Image>().unwrap_err();
        assert_eq!(is("https://ghcr.io/org/app"), InvalidImage::Scheme);
        assert!(matches!(is("10.0.0.1:5000/org/app"), InvalidImage::Port { .. }));
        assert!(matches!(is("[::1]:5000/app:1"), InvalidImage::Port { .. }));
        for name in ["", "Nginx", "docker.io/", "/nginx", "a//b", ":1", "GHCR.io/a", "a b"] {
            assert!(matches!(is(name), InvalidImage::Name(_)), "{name}");
        }
        for tag in ["nginx:", "nginx:.1", "nginx:a b", "nginx:ü"] {
            assert!(matches!(is(tag), InvalidImage::Tag(_)), "{tag}");
        }
        for digest in ["nginx@", "nginx@sha256:12", "nginx@latest", "nginx@sha1:12"] {
            assert!(matches!(is(digest), InvalidImage::Digest(_)), "{digest}");
        }
    }

    proptest! {
        #[test]
        fn an_image_is_read_back_as_it_is_shown(
            host in "((ghcr|quay|index\\.docker|docker)\\.io/|localhost/)?",
            path in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}(\\.[a-z0-9]{1,3})?){0,3}",
            rest in prop_oneof!["", ":[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", "@sha256:[0-9a-f]{64}"],
        ) {
            let image: Image = format!("{host}{path}{rest}").parse().unwrap();
            prop_assert_eq!(image.to_string().parse::<Image>(), Ok(image));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "([a-z.:/@]|\\PC){0,40}") {
            if let Ok(image) = text.parse::<Image>() {
                prop_assert_eq!(image.to_string().parse::<Image>(), Ok(image));
            }
        }
    }
}
