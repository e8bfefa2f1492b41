//! Reading manifests and blobs, and the image that is there to be read.

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, StatusCode};
use http_body_util::{Either, Full};
use tokio::time::Instant;

use crate::arguments::Seed;
use crate::client::{
    Client, Drained, Reuse, Sink, content_length, drain, empty, expect, keep, request,
};
use crate::content::{Content, digest_name};
use crate::manifest::{
    CONFIG_BYTES, CONFIG_TYPE, Descriptor, LAYER_TYPE, MANIFEST_ACCEPT, MANIFEST_TYPE, Manifest,
};
use crate::push::{PushStyle, push};
use crate::report::Sample;

/// Where the image is that the reading rows read.
const REPOSITORY: &str = "bench/pull";
const TAG: &str = "latest";
/// Gives seeded layers other digests than those of the pushing rows.
const SEED: u64 = 0x5eed;

/// Pushes the image that the reading rows read.
///
/// # Errors
/// When the registry does not take it.
pub(crate) async fn seed(arguments: Seed) -> Result<()> {
    let mut client = Client::new(&arguments.target.address()?, Reuse::KeepAlive);
    let config = seed_layers(&mut client, CONFIG_BYTES, 1, CONFIG_TYPE).await?;
    let mut layers = Vec::new();
    for group in arguments.layers {
        layers.extend(seed_layers(&mut client, group.size.0, group.count, LAYER_TYPE).await?);
    }
    let config = config.into_iter().next().context("no config was pushed")?;
    let manifest = Manifest::new(config, layers);
    let body = Full::new(Bytes::from(serde_json::to_vec(&manifest)?));
    let put = request(Method::PUT, &format!("/v2/{REPOSITORY}/manifests/{TAG}"))
        .header(CONTENT_TYPE, MANIFEST_TYPE);
    let response = client.send(put, Either::Left(body)).await?;
    let response = expect(response, StatusCode::CREATED).await?;
    keep(response.into_body()).await?;
    Ok(())
}

async fn seed_layers(
    client: &mut Client,
    size_bytes: u64,
    count: u64,
    media_type: &str,
) -> Result<Vec<Descriptor>> {
    let content = Content::new(size_bytes, SEED)?;
    let mut descriptors = Vec::new();
    for index in 0..count {
        let layer = content.layer(index);
        push(client, REPOSITORY, &layer, PushStyle::Containerd).await?;
        descriptors.push(Descriptor::of(&layer, media_type));
    }
    Ok(descriptors)
}

/// Something to read, of which length and digest are known.
#[derive(Debug)]
pub(crate) struct Readable {
    method: Method,
    path: String,
    digest: String,
    size_bytes: u64,
}

impl Readable {
    /// Blob `digest` of `repository`.
    pub(crate) fn blob(repository: &str, digest: &str, size_bytes: u64) -> Self {
        Self {
            method: Method::GET,
            path: format!("/v2/{repository}/blobs/{digest}"),
            digest: digest.to_owned(),
            size_bytes,
        }
    }

    /// The same, asked only whether it is there.
    pub(crate) fn head(self) -> Self {
        Self { method: Method::HEAD, ..self }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Reads it once. The sample's wait is the time to the first byte of content (HEAD: of the
    /// answer). A HEAD moves no content.
    ///
    /// # Errors
    /// When the server does not return it, or not in the right length, or (hashed) altered.
    pub(crate) async fn read(&self, client: &mut Client, sink: Sink) -> Result<Sample> {
        let begin = Instant::now();
        let get = request(self.method.clone(), &self.path).header(ACCEPT, MANIFEST_ACCEPT);
        let response = expect(client.send(get, empty()).await?, StatusCode::OK).await?;
        let announced = content_length(&response)?;
        ensure!(announced == self.size_bytes, "{}: {announced} bytes announced", self.path);
        if self.method == Method::HEAD {
            let total = begin.elapsed();
            return Ok(Sample { content_bytes: 0, wait: total, total });
        }
        let Drained { bytes, first_byte, digest } = drain(response, sink).await?;
        ensure!(
            digest.as_ref().is_none_or(|digest| *digest == self.digest),
            "{} hashes to {digest:?}",
            self.path
        );
        Ok(Sample { content_bytes: bytes, wait: first_byte - begin, total: begin.elapsed() })
    }
}

/// What a registry has of the seeded image.
#[derive(Debug)]
pub(crate) struct Image {
    manifest_digest: String,
    manifest_bytes: u64,
    layers: Vec<Descriptor>,
}

impl Image {
    /// # Errors
    /// When the registry was not seeded.
    pub(crate) async fn find(client: &mut Client) -> Result<Self> {
        let get = request(Method::GET, &format!("/v2/{REPOSITORY}/manifests/{TAG}"))
            .header(ACCEPT, MANIFEST_ACCEPT);
        let response = expect(client.send(get, empty()).await?, StatusCode::OK)
            .await
            .context("the registry has no seeded image")?;
        let body = keep(response.into_body()).await?;
        let manifest: Manifest = serde_json::from_slice(&body).context("not a manifest")?;
        Ok(Self {
            manifest_digest: digest_name(&digest::digest(&digest::SHA256, &body)),
            manifest_bytes: body.len() as u64,
            layers: manifest.layers,
        })
    }

    pub(crate) fn by_tag(&self) -> Readable {
        self.manifest(TAG)
    }

    pub(crate) fn by_digest(&self) -> Readable {
        self.manifest(&self.manifest_digest)
    }

    fn manifest(&self, reference: &str) -> Readable {
        Readable {
            method: Method::GET,
            path: format!("/v2/{REPOSITORY}/manifests/{reference}"),
            digest: self.manifest_digest.clone(),
            size_bytes: self.manifest_bytes,
        }
    }

    /// Its layers of one size.
    ///
    /// # Errors
    /// When it has none.
    pub(crate) fn layers(&self, size_bytes: u64) -> Result<Vec<Readable>> {
        let layers: Vec<Readable> = self
            .layers
            .iter()
            .filter(|layer| layer.size == size_bytes)
            .map(|layer| Readable::blob(REPOSITORY, &layer.digest, layer.size))
            .collect();
        ensure!(!layers.is_empty(), "the seeded image has no layer of {size_bytes} bytes");
        Ok(layers)
    }
}
