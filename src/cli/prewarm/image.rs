//! Images as people write them, and as the daemon knows them.

use std::{fmt, str::FromStr};

use super::repository::Repository;
use crate::oci::{Digest, InvalidDigest, InvalidName, InvalidTag, Reference, Tag};

/// The tag that is meant where none is written.
const DEFAULT_TAG: &str = "latest";

/// Docker's own registry, whose images without an owner belong to `library`.
const DOCKER: &str = "docker.io";

/// A name of [`DOCKER`] from before 2015, which Docker still takes for it.
const DOCKER_OF_OLD: &str = "index.docker.io";

/// An image at the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Image {
    /// Its repository at the daemon.
    pub(super) repository: Repository,
    /// Which manifest of the repository it is. Where a tag and a digest are written, this is the digest.
    pub(super) reference: Reference,
}

/// Why a text names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidImage {
    /// It has a scheme.
    #[error("an image is named without a scheme, as in ghcr.io/org/app:1")]
    Scheme,
    /// Its registry, which has a colon, is no host with a port.
    #[error(
        "the registry {registry} is no host with a port, as in registry.example:5000/org/app:1"
    )]
    Registry {
        /// What stands there.
        registry: String,
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

fn repository(name: &str) -> Result<Repository, InvalidImage> {
    let Some((host, path)) = name.split_once('/').filter(|(first, _)| is_registry(first)) else {
        return Ok(Repository { registry: None, name: name.parse()? });
    };
    if host.contains(':') {
        if !is_host_with_port(host) {
            return Err(InvalidImage::Registry { registry: host.to_owned() });
        }
        // The daemon takes no notice of case there.
        return Ok(Repository { registry: Some(host.to_ascii_lowercase()), name: path.parse()? });
    }
    let host = if host == DOCKER_OF_OLD { DOCKER } else { host };
    let owner = if host == DOCKER && !path.contains('/') { "library/" } else { "" };
    Ok(Repository { registry: None, name: format!("{host}/{owner}{path}").parse()? })
}

/// Whether the first component of a name is a registry: the rule of every container tool.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

/// Whether a text is what URLs have between their slashes: `registry.example:5000`, `[::1]:5000`.
fn is_host_with_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_of = |text: &str, others: &[u8]| {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || others.contains(&byte);
        !text.is_empty() && text.bytes().all(is_known)
    };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => is_of(address, b":."),
        None => is_of(host, b".-_"),
    };
    // A sign would be taken for a part of the number.
    is_host && is_of(port, b"") && port.parse::<u16>().is_ok_and(|port| port > 0)
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
            ("Registry.House:5000/nginx", "registry.house:5000/nginx:latest"),
            ("localhost:5000/org/app:1", "localhost:5000/org/app:1"),
            ("[::1]:5000/app:1", "[::1]:5000/app:1"),
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
        for registry in
            [":1", "a:", "a:0", "a:65536", "a:+1", "a:b", "a:1:2", "[]:1", "[::1]", "::1:1"]
        {
            let image = format!("{registry}/app:1");
            assert_eq!(is(&image), InvalidImage::Registry { registry: registry.to_owned() });
        }
        for name in [
            "a.b:5000/",
            "a.b:5000/App",
            "",
            "Nginx",
            "docker.io/",
            "/nginx",
            "a//b",
            ":1",
            "GHCR.io/a",
            "a b",
        ] {
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
            host in "((ghcr|quay|index\\.docker|docker)\\.io/|localhost/|[a-zA-Z.-]{1,8}:[1-9][0-9]{0,3}/)?",
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
