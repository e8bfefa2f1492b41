//! Images to pull.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::node::TestNode;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let hash = sha2::Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Bytes of a layer, different for each `seed`.
pub(crate) fn layer(length: usize, seed: u8) -> Bytes {
    (0..length).map(|place| (place % 251) as u8 ^ seed).collect()
}

/// The configuration of an image for a platform.
pub(crate) fn config(os: &str, architecture: &str, note: &str) -> Bytes {
    json!({ "os": os, "architecture": architecture, "note": note }).to_string().into()
}

fn describe(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": sha256(bytes), "size": bytes.len() })
}

/// A manifest of an image.
pub(crate) fn image(config: &Bytes, layers: &[&Bytes]) -> Bytes {
    let layers: Vec<Value> = layers.iter().map(|layer| describe(LAYER, layer)).collect();
    let config = describe(CONFIG, config);
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers })
        .to_string()
        .into()
}

/// The manifest of an image whose last layer is to be had elsewhere.
pub(crate) fn image_with_foreign_layer(config: &Bytes, layer: &Bytes, foreign: &Bytes) -> Bytes {
    let mut foreign = describe(LAYER, foreign);
    foreign["urls"] = json!(["https://elsewhere.example/layer"]);
    let (config, layer) = (describe(CONFIG, config), describe(LAYER, layer));
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer, foreign] })
        .to_string()
        .into()
}

/// An index of manifests, each made for a platform; one without a slash says nothing about it.
pub(crate) fn index(children: &[(&Bytes, &str)]) -> Bytes {
    let child = |&(manifest, platform): &(&Bytes, &str)| {
        let parsed: Value = serde_json::from_slice(manifest).expect("a manifest is JSON");
        let media_type = parsed["mediaType"].as_str().expect("it names its type");
        let mut child = describe(media_type, manifest);
        let words: Vec<&str> = platform.split('/').collect();
        match words[..] {
            [os, architecture] => {
                child["platform"] = json!({ "os": os, "architecture": architecture });
            }
            [os, architecture, variant] => {
                child["platform"] =
                    json!({ "os": os, "architecture": architecture, "variant": variant });
            }
            _ => {}
        }
        child
    };
    let manifests: Vec<Value> = children.iter().map(child).collect();
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }).to_string().into()
}

/// A repository of a node, to push to.
pub(crate) struct Repository<'a> {
    pub(crate) node: &'a TestNode,
    pub(crate) name: &'a str,
}

impl Repository<'_> {
    pub(crate) async fn push_blobs(&self, blobs: &[&Bytes]) {
        for &blob in blobs {
            let target = format!("blobs/uploads/?digest={}", sha256(blob));
            self.send(Method::POST, &target, "application/octet-stream", blob).await;
        }
    }

    /// Pushes a manifest under a tag.
    pub(crate) async fn push_manifest(&self, tag: &str, manifest: &Bytes) {
        let parsed: Value = serde_json::from_slice(manifest).expect("a manifest is JSON");
        let media_type = parsed["mediaType"].as_str().expect("it names its type");
        self.send(Method::PUT, &format!("manifests/{tag}"), media_type, manifest).await;
    }

    /// Pushes an image with everything it has, under a tag.
    pub(crate) async fn push_image(&self, tag: &str, config: &Bytes, layers: &[&Bytes]) -> Bytes {
        self.push_blobs(&[config]).await;
        self.push_blobs(layers).await;
        let manifest = image(config, layers);
        self.push_manifest(tag, &manifest).await;
        manifest
    }

    async fn send(&self, method: Method, target: &str, media_type: &str, body: &Bytes) {
        let url = format!("{}/v2/{}/{target}", self.node.url(), self.name);
        let request = self.node.http().request(method, &url).header("content-type", media_type);
        let answer = request.body(body.clone()).send().await.expect("the node answers");
        assert_eq!(answer.status(), 201, "{url}");
    }
}

/// `GET /v2/<name>/manifests/<tag>`, as it is recorded.
pub(crate) fn by_tag(name: &str, tag: &str) -> String {
    format!("GET /v2/{name}/manifests/{tag}")
}

/// `GET /v2/<name>/manifests/<digest>`, as it is recorded.
pub(crate) fn by_digest(name: &str, manifest: &Bytes) -> String {
    by_tag(name, &sha256(manifest))
}

/// `GET /v2/<name>/blobs/<digest>`, as it is recorded.
pub(crate) fn blob(name: &str, bytes: &Bytes) -> String {
    format!("GET {}", blob_path(name, bytes))
}

pub(crate) fn blob_path(name: &str, bytes: &Bytes) -> String {
    format!("/v2/{name}/blobs/{}", sha256(bytes))
}
