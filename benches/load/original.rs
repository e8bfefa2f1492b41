//! The image of the upstream. Its bytes follow from the command line, so that clients know them
//! without having pulled them.

use anyhow::{Result, ensure};
use aws_lc_rs::digest;
use bytes::Bytes;

use crate::arguments;
use crate::content::{Content, Layer, digest_name};
use crate::manifest::{CONFIG_BYTES, CONFIG_TYPE, Descriptor, LAYER_TYPE, Manifest};

/// The repository that clients ask for; the upstream gives the image under any name.
pub(crate) const REPOSITORY: &str = "bench/image";
pub(crate) const TAG: &str = "latest";

/// An image, whole.
pub(crate) struct Original {
    pub(crate) manifest: Bytes,
    pub(crate) manifest_digest: String,
    /// The config, then the layers: the order in which clients ask for them.
    pub(crate) blobs: Vec<Layer>,
}

impl Original {
    /// Hashes the layers, which takes seconds for gigabytes.
    ///
    /// # Errors
    /// When there are none, or one is too small to differ from others.
    pub(crate) fn new(arguments: &arguments::Original) -> Result<Self> {
        let mut blobs = vec![Content::new(CONFIG_BYTES, arguments.seed)?.layer(0)];
        let mut layers = Vec::new();
        for group in &arguments.layers {
            let content = Content::new(group.size.0, arguments.seed)?;
            // Counted over all groups: the config is number 0.
            let first = blobs.len() as u64;
            blobs.extend((first..first + group.count).map(|index| content.layer(index)));
        }
        ensure!(blobs.len() > 1, "an image without layers measures nothing");
        layers.extend(blobs[1..].iter().map(|layer| Descriptor::of(layer, LAYER_TYPE)));
        let manifest = Manifest::new(Descriptor::of(&blobs[0], CONFIG_TYPE), layers);
        let manifest = Bytes::from(serde_json::to_vec(&manifest)?);
        let manifest_digest = digest_name(&digest::digest(&digest::SHA256, &manifest));
        Ok(Self { manifest, manifest_digest, blobs })
    }

    /// Its layers, without the config.
    pub(crate) fn layers(&self) -> &[Layer] {
        &self.blobs[1..]
    }

    pub(crate) fn blob(&self, digest: &str) -> Option<&Layer> {
        self.blobs.iter().find(|blob| blob.digest == digest)
    }
}
