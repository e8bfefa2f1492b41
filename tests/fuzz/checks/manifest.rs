//! Manifests. What is accepted means what any other reader of the JSON finds in it.

use millpond::oci::{
    Algorithm, Descriptor, Digest, InvalidManifest, Manifest, ManifestKind, MediaType,
};
use serde_json::Value;

pub(crate) fn check(bytes: &[u8]) {
    let manifest = match Manifest::parse(bytes) {
        Ok(manifest) => manifest,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert!(std::str::from_utf8(bytes).is_ok(), "JSON is UTF-8 (RFC 8259, section 8.1)");
    // Fields that nobody asks for may nest deeper, or have larger numbers, than a `Value` can hold.
    if let Ok(json) = serde_json::from_slice::<Value>(bytes) {
        assert_eq!(json["schemaVersion"], 2);
        check_references(&manifest, &json);
    }
    check_announcements(&manifest, bytes);
    check_descriptor(&manifest, bytes);
}

fn check_references(manifest: &Manifest, json: &Value) {
    let is_there = |key: &str| !json[key].is_null();
    let image = is_there("config") || is_there("layers");
    assert!(!(image && is_there("manifests")), "two readers could differ");
    let is_index = manifest.media_type().is_index();
    let lists = if is_index { &["manifests"][..] } else { &["config", "layers"] };
    let listed: Vec<&Value> = lists.iter().flat_map(|key| targets(&json[*key])).collect();
    assert_eq!(manifest.references().len(), listed.len());
    for (reference, target) in manifest.references().iter().zip(listed) {
        assert_eq!(target["digest"], reference.digest.to_string());
        assert_eq!(reference.kind == ManifestKind::Child, is_index);
    }
    let subject = manifest.subject().map_or(Value::Null, |digest| digest.to_string().into());
    assert_eq!(json["subject"]["digest"], subject);
}

/// A list's items, or the one object that is there.
fn targets(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Null => Vec::new(),
        single => vec![single],
    }
}

fn check_announcements(manifest: &Manifest, bytes: &[u8]) {
    for media_type in MediaType::ALL {
        let parameters = format!("{} ; charset=utf-8", media_type.name().to_uppercase());
        for announced in [media_type.name(), &parameters] {
            match Manifest::parse_announced(bytes, announced) {
                Ok(again) => {
                    assert_eq!(media_type, manifest.media_type());
                    assert_eq!(&again, manifest);
                }
                Err(InvalidManifest::MediaTypeMismatch { actual, .. }) => {
                    assert_ne!(media_type, actual);
                    assert_eq!(actual, manifest.media_type());
                }
                Err(other) => panic!("{announced}: {other}"),
            }
        }
    }
    for announced in ["", "application/json", "application/json; charset=utf-8"] {
        assert!(Manifest::parse_announced(bytes, announced).is_ok(), "{announced:?}");
    }
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    for announced in ["text/plain", "application/vnd.oci.image.config.v1+json", schema1] {
        assert!(Manifest::parse_announced(bytes, announced).is_err(), "{announced:?}");
    }
}

fn check_descriptor(manifest: &Manifest, bytes: &[u8]) {
    let digest = Digest::of(Algorithm::Sha256, bytes);
    let descriptor = manifest.descriptor(digest, bytes.len() as u64);
    assert_eq!(MediaType::from_name(&descriptor.media_type), Some(manifest.media_type()));
    let written = serde_json::to_vec(&descriptor).expect("a descriptor is texts and numbers");
    let again: Descriptor = serde_json::from_slice(&written).expect("what was written is read");
    assert_eq!(again, descriptor);
}
