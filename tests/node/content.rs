//! Things to push.

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::Digest as _;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const EMPTY: &str = "application/vnd.oci.empty.v1+json";
pub(crate) const ARTIFACT: &str = "application/vnd.example.sbom.v1+json";

/// Bytes that depend on their place and on `seed`, and that no compression would shorten much.
pub(crate) fn pattern(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

/// A way to hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    pub(crate) const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The digest of `bytes`, by another implementation than the server's.
    pub(crate) fn of(self, bytes: &[u8]) -> String {
        match self {
            Self::Sha256 => format!("sha256:{}", hex(&sha2::Sha256::digest(bytes))),
            Self::Sha512 => format!("sha512:{}", hex(&sha2::Sha512::digest(bytes))),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Hash::Sha256.of(bytes)
}

pub(crate) fn sha512(bytes: &[u8]) -> String {
    Hash::Sha512.of(bytes)
}

/// A digest of nothing that was ever pushed.
pub(crate) fn unknown_digest() -> String {
    sha256(b"never pushed")
}

pub(crate) fn descriptor(media_type: &str, digest: &str, size: usize) -> Value {
    json!({ "mediaType": media_type, "digest": digest, "size": size })
}

/// The descriptor of `bytes` by their sha256.
pub(crate) fn describe(media_type: &str, bytes: &[u8]) -> Value {
    descriptor(media_type, &sha256(bytes), bytes.len())
}

/// An image manifest of a configuration and layers.
pub(crate) fn image(config: &Value, layers: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers })
}

/// An index of manifests.
pub(crate) fn index(manifests: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests })
}

/// An index that refers to nothing: the smallest thing to give a tag to. Different for each `note`.
pub(crate) fn small_index(note: &str) -> Bytes {
    let mut manifest = index(&[]);
    manifest["annotations"] = json!({ "note": note });
    text(&manifest)
}

/// A manifest that says something about `subject` and refers to nothing else.
pub(crate) fn referrer(subject: &Value, artifact_type: &str, note: &str) -> Bytes {
    let mut manifest = index(&[]);
    manifest["artifactType"] = artifact_type.into();
    manifest["subject"] = subject.clone();
    manifest["annotations"] = json!({ "note": note });
    text(&manifest)
}

/// The bytes of a manifest. Not the shortest form: a server that formats JSON anew is found out.
pub(crate) fn text(manifest: &Value) -> Bytes {
    serde_json::to_string_pretty(manifest).expect("JSON can be written").into()
}
