//! Media types of manifests, as far as a registry must tell them apart.

use std::fmt;

/// The kinds of manifest that registries exchange.
///
/// Other types never reach this enum: a stored manifest is known by its bytes alone, and a pushed one
/// of a foreign type is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MediaType {
    /// An OCI image manifest, also the form of every artifact.
    OciManifest,
    /// An OCI image index: a list of manifests.
    OciIndex,
    /// Docker's image manifest, version 2, schema 2.
    DockerManifest,
    /// Docker's manifest list.
    DockerManifestList,
}

impl MediaType {
    /// Every type.
    pub const ALL: [Self; 4] =
        [Self::OciManifest, Self::OciIndex, Self::DockerManifest, Self::DockerManifestList];

    /// The name as it stands in `Content-Type` and `mediaType`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OciManifest => "application/vnd.oci.image.manifest.v1+json",
            Self::OciIndex => "application/vnd.oci.image.index.v1+json",
            Self::DockerManifest => "application/vnd.docker.distribution.manifest.v2+json",
            Self::DockerManifestList => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// The type with this name; parameters after a `;` and letter case do not matter (RFC 9110,
    /// section 8.3.1).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let essence = name.split(';').next().unwrap_or_default().trim();
        Self::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(essence))
    }

    /// Whether `name` is one of Docker's schema 1 types, which are refused everywhere.
    #[must_use]
    pub fn is_schema1(name: &str) -> bool {
        let essence = name.split(';').next().unwrap_or_default().trim();
        [
            "application/vnd.docker.distribution.manifest.v1+json",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
        ]
        .iter()
        .any(|schema1| schema1.eq_ignore_ascii_case(essence))
    }

    /// Whether a manifest of this type lists other manifests.
    #[must_use]
    pub const fn is_index(self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerManifestList)
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
