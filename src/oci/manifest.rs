//! What a registry needs to know of a manifest: its type, what it refers to, and its subject.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Descriptor, Digest, InvalidDigest, MediaType};

/// A parsed view of a manifest's bytes. The bytes themselves are stored and served unaltered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    media_type: MediaType,
    references: Vec<Reference>,
    subject: Option<Digest>,
    artifact_type: Option<String>,
    annotations: BTreeMap<String, String>,
}

/// One piece of content that a manifest refers to and needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Digest of the content.
    pub digest: Digest,
    /// What it is to the manifest.
    pub kind: ManifestKind,
}

/// What a manifest's reference stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestKind {
    /// A configuration or layer blob that must be held.
    Blob,
    /// A layer that may be fetched from elsewhere: it names `urls`, or is non-distributable.
    ForeignBlob,
    /// A manifest in an index.
    Child,
}

/// Why bytes are no acceptable manifest.
#[derive(Debug, thiserror::Error)]
pub enum InvalidManifest {
    /// The bytes are no UTF-8, also where nobody looks at them.
    #[error("the manifest is not UTF-8 text: {0}")]
    Text(#[from] std::str::Utf8Error),
    /// The bytes are no JSON object of the expected shape.
    #[error("the manifest is not valid JSON of its type: {0}")]
    Json(#[from] serde_json::Error),
    /// It is of Docker's schema 1, withdrawn in 2019.
    #[error("manifests of schema version 1 are not supported: push with a current client")]
    Schema1,
    /// `schemaVersion` is missing or unknown.
    #[error("schemaVersion must be 2, not {0}")]
    SchemaVersion(u64),
    /// `mediaType` inside names a type this registry does not know.
    #[error("the manifest's mediaType {0:?} is not an OCI or Docker manifest or index")]
    UnknownMediaType(String),
    /// The type announced and the type inside differ.
    #[error("Content-Type says {announced} and the manifest's mediaType says {actual}")]
    MediaTypeMismatch {
        /// What the request announced.
        announced: String,
        /// What the bytes say.
        actual: MediaType,
    },
    /// Both `manifests` and `layers` or `config` are there: two readers could disagree on what it is
    /// (CVE-2021-41190).
    #[error("a manifest has either config and layers or manifests, not both")]
    Ambiguous,
    /// A digest inside is malformed.
    #[error("the digest {text:?} in the manifest is malformed: {source}")]
    Digest {
        /// As written.
        text: String,
        /// What is wrong with it.
        source: InvalidDigest,
    },
}

/// The fields of all manifest types that a registry looks at. Unknown fields are allowed everywhere
/// (image-spec, "Extensibility").
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    #[serde(default)]
    schema_version: u64,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Object<Target>>,
    layers: Option<Vec<Object<Target>>>,
    manifests: Option<Vec<Object<Target>>>,
    subject: Option<Object<Target>>,
    annotations: Option<BTreeMap<String, String>>,
    #[serde(rename = "fsLayers")]
    schema1_layers: Option<serde::de::IgnoredAny>,
}

/// A JSON object and nothing else: serde also reads a struct from an array of its fields.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FromMap<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for FromMap<T> {
            type Value = T;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(serde::de::value::MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(FromMap(std::marker::PhantomData)).map(Self)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    media_type: Option<String>,
    digest: String,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

impl Target {
    fn digest(&self) -> Result<Digest, InvalidManifest> {
        let malformed = |source| InvalidManifest::Digest { text: self.digest.clone(), source };
        self.digest.parse().map_err(malformed)
    }

    fn is_foreign(&self) -> bool {
        let non_distributable =
            |name: &str| name.contains("nondistributable") || name.contains("image.rootfs.foreign");
        self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
            || self.media_type.as_deref().is_some_and(non_distributable)
    }
}

impl Manifest {
    /// Parses the bytes of a manifest. Where it does not name its own type, the type follows from its
    /// shape, the way docker-registry derives it: storage keeps bytes only.
    ///
    /// # Errors
    /// [`InvalidManifest`], for anything a reader could misunderstand.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidManifest> {
        let text = std::str::from_utf8(bytes)?;
        let fields: Fields = serde_json::from_str::<Object<Fields>>(text)?.0;
        let media_type = fields.own_media_type()?;
        let references = fields.references(media_type)?;
        let subject = fields.subject.as_ref().map(|subject| subject.0.digest()).transpose()?;
        let config_type = fields.config.and_then(|config| config.0.media_type);
        let fallback = if media_type.is_index() { None } else { config_type };
        let artifact_type = fields.artifact_type.filter(|own| !own.is_empty()).or(fallback);
        let annotations = fields.annotations.unwrap_or_default();
        Ok(Self { media_type, references, subject, artifact_type, annotations })
    }

    /// As [`Manifest::parse`], and holds the bytes to the `Content-Type` they were announced with.
    ///
    /// # Errors
    /// [`InvalidManifest`], also where the two types differ.
    pub fn parse_announced(bytes: &[u8], announced: &str) -> Result<Self, InvalidManifest> {
        if MediaType::is_schema1(announced) {
            return Err(InvalidManifest::Schema1);
        }
        let manifest = Self::parse(bytes)?;
        let agrees = match MediaType::from_name(announced) {
            Some(known) => known == manifest.media_type,
            None => announced.is_empty() || announced.starts_with("application/json"),
        };
        if agrees {
            return Ok(manifest);
        }
        let actual = manifest.media_type;
        Err(InvalidManifest::MediaTypeMismatch { announced: announced.to_owned(), actual })
    }

    /// The manifest's type.
    #[must_use]
    pub const fn media_type(&self) -> MediaType {
        self.media_type
    }

    /// Configuration and layers, or the manifests of an index, in the order they are listed. The
    /// subject is not among them: it may be missing for ever.
    #[must_use]
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// The manifest that this one says something about.
    #[must_use]
    pub const fn subject(&self) -> Option<Digest> {
        self.subject
    }

    /// The descriptor of this manifest for a referrers list (distribution-spec, "Listing Referrers"):
    /// `artifactType` falls back to the configuration's type for images.
    #[must_use]
    pub fn descriptor(&self, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: self.media_type.name().to_owned(),
            digest,
            size,
            artifact_type: self.artifact_type.clone(),
            annotations: self.annotations.clone(),
        }
    }
}

impl Fields {
    fn own_media_type(&self) -> Result<MediaType, InvalidManifest> {
        let named = self.media_type.as_deref().unwrap_or_default();
        if self.schema_version == 1 || self.schema1_layers.is_some() || MediaType::is_schema1(named)
        {
            return Err(InvalidManifest::Schema1);
        }
        if self.schema_version != 2 {
            return Err(InvalidManifest::SchemaVersion(self.schema_version));
        }
        let image_shape = self.config.is_some() || self.layers.is_some();
        let index_shape = self.manifests.is_some();
        if image_shape && index_shape {
            return Err(InvalidManifest::Ambiguous);
        }
        match MediaType::from_name(named) {
            Some(known) if known.is_index() && image_shape => Err(InvalidManifest::Ambiguous),
            Some(known) if !known.is_index() && index_shape => Err(InvalidManifest::Ambiguous),
            Some(known) => Ok(known),
            None if !named.is_empty() => Err(InvalidManifest::UnknownMediaType(named.to_owned())),
            None if index_shape => Ok(MediaType::OciIndex),
            None => Ok(MediaType::OciManifest),
        }
    }

    fn references(&self, media_type: MediaType) -> Result<Vec<Reference>, InvalidManifest> {
        let child = |target: &Object<Target>| {
            Ok(Reference { digest: target.0.digest()?, kind: ManifestKind::Child })
        };
        let blob = |Object(target): &Object<Target>| {
            let kind =
                if target.is_foreign() { ManifestKind::ForeignBlob } else { ManifestKind::Blob };
            Ok(Reference { digest: target.digest()?, kind })
        };
        if media_type.is_index() {
            return self.manifests.iter().flatten().map(child).collect();
        }
        self.config.iter().chain(self.layers.iter().flatten()).map(blob).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    fn digest(text: &str) -> Digest {
        Digest::of(Algorithm::Sha256, text.as_bytes())
    }

    #[test]
    fn an_image_refers_to_its_config_and_layers() {
        let (config, layer, foreign) = (digest("c"), digest("l"), digest("f"));
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/x","digest":"{config}","size":1}},
                "layers":[{{"mediaType":"l","digest":"{layer}","size":1}},
                          {{"mediaType":"l","digest":"{foreign}","size":1,"urls":["https://a/b"]}}],
                "unknown":[1]}}"#
        );
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(manifest.media_type(), MediaType::OciManifest);
        let kinds: Vec<_> = manifest.references().iter().map(|r| (r.digest, r.kind)).collect();
        let expected = [
            (config, ManifestKind::Blob),
            (layer, ManifestKind::Blob),
            (foreign, ManifestKind::ForeignBlob),
        ];
        assert_eq!(kinds, expected);
        let described = manifest.descriptor(config, 7);
        assert_eq!(described.artifact_type.as_deref(), Some("application/x"));
    }

    #[test]
    fn an_index_without_a_type_is_known_by_its_shape() {
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}"}}]}}"#, digest("m"));
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(manifest.media_type(), MediaType::OciIndex);
        assert_eq!(manifest.descriptor(digest("i"), 1).artifact_type, None);
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let both = br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
        assert!(matches!(Manifest::parse(both), Err(InvalidManifest::Ambiguous)));
        let lying = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","layers":[]}"#;
        assert!(matches!(Manifest::parse(lying), Err(InvalidManifest::Ambiguous)));
        let other = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        let announced = MediaType::OciManifest.name();
        let error = Manifest::parse_announced(other, announced).unwrap_err();
        assert!(matches!(error, InvalidManifest::MediaTypeMismatch { .. }));
    }

    #[test]
    fn schema1_is_refused_under_each_of_its_names() {
        for text in [
            r#"{"schemaVersion":1,"name":"a"}"#,
            r#"{"schemaVersion":2,"fsLayers":[]}"#,
            r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v1+prettyjws"}"#,
        ] {
            assert!(
                matches!(Manifest::parse(text.as_bytes()), Err(InvalidManifest::Schema1)),
                "{text}"
            );
        }
    }

    #[test]
    fn content_type_parameters_are_ignored() {
        let bytes = br#"{"schemaVersion":2,"layers":[]}"#;
        let announced = format!("{}; charset=utf-8", MediaType::OciManifest);
        assert!(Manifest::parse_announced(bytes, &announced).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Manifest::parse(&bytes);
        }
    }
}
