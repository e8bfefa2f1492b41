//! What a manifest lists, with the lengths and platforms that choosing and counting need.

use serde::Deserialize;

use super::{download::Blob, platform::Platform};
use crate::oci::{Digest, InvalidManifest, Manifest, ManifestKind};

/// A manifest or an index.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Listing {
    /// An image, or another artifact.
    Image {
        /// Configuration and layers, without those that are not to be had from a registry.
        blobs: Vec<Blob>,
        /// The configuration among them.
        config: Option<Digest>,
    },
    /// The manifests of an index.
    Index(Vec<Child>),
}

/// A manifest in an index.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Child {
    /// Its digest.
    pub(super) digest: Digest,
    /// What it is made for, if the index says so.
    pub(super) platform: Option<Platform>,
}

/// The fields that [`Manifest`] does not keep.
#[derive(Deserialize)]
struct Fields {
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct Descriptor {
    size: Option<u64>,
    platform: Option<Platform>,
}

impl Listing {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`InvalidManifest`].
    pub(super) fn read(bytes: &[u8]) -> Result<Self, InvalidManifest> {
        let manifest = Manifest::parse(bytes)?;
        let fields: Fields = serde_json::from_slice(bytes)?;
        // `Manifest` lists its references in this order too.
        let references = manifest.references().iter();
        if manifest.media_type().is_index() {
            let descriptors = fields.manifests.into_iter().flatten();
            let child = |(reference, descriptor): (&crate::oci::ManifestReference, Descriptor)| {
                Child { digest: reference.digest, platform: descriptor.platform }
            };
            return Ok(Self::Index(references.zip(descriptors).map(child).collect()));
        }
        let config = fields.config.as_ref().and_then(|_there| manifest.references().first());
        let config = config.map(|reference| reference.digest);
        let descriptors = fields.config.into_iter().chain(fields.layers.into_iter().flatten());
        let blobs = references.zip(descriptors).filter_map(|(reference, descriptor)| {
            let blob = Blob { digest: reference.digest, size_bytes: descriptor.size };
            match reference.kind {
                ManifestKind::Blob | ManifestKind::Child => Some(blob),
                ManifestKind::ForeignBlob => None,
            }
        });
        Ok(Self::Image { blobs: blobs.collect(), config })
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
    fn an_image_lists_what_a_registry_holds_of_it() {
        let (config, foreign, layer) = (digest("c"), digest("f"), digest("l"));
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":5}},
                "layers":[{{"digest":"{foreign}","size":6,"urls":["https://a/b"]}},
                          {{"digest":"{layer}"}}]}}"#
        );
        let blob = |digest, size_bytes| Blob { digest, size_bytes };
        let blobs = vec![blob(config, Some(5)), blob(layer, None)];
        let expected = Listing::Image { blobs, config: Some(config) };
        assert_eq!(Listing::read(text.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn an_index_lists_its_platforms() {
        let (first, second) = (digest("1"), digest("2"));
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"digest":"{first}","size":1,
                "platform":{{"os":"linux","architecture":"arm","variant":"v7"}}}},
                {{"digest":"{second}","size":1}}]}}"#
        );
        let platform = Some("linux/arm/v7".parse().unwrap());
        let children =
            vec![Child { digest: first, platform }, Child { digest: second, platform: None }];
        assert_eq!(Listing::read(text.as_bytes()).unwrap(), Listing::Index(children));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            fields in "(\"(config|layers|manifests)\":(\\[?\\{\"digest\":\"sha256:[0-9a-f]{64}\"(,\"size\":-?[0-9])?\\}\\]?),?){0,3}",
        ) {
            let _ = Listing::read(&bytes);
            let _ = Listing::read(format!("{{\"schemaVersion\":2,{fields}}}").as_bytes());
        }
    }
}
