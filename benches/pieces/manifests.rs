//! Manifests as registries hold them.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use millpond::oci::{Algorithm, Digest, Manifest};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

const LAYERS: usize = 12;
const PLATFORMS: [&str; 8] =
    ["386", "amd64", "arm", "arm64", "mips64le", "ppc64le", "riscv64", "s390x"];

pub(crate) fn measure(criterion: &mut Criterion) {
    for (what, manifest) in [("image", image()), ("index", index())] {
        let text = manifest.to_string();
        assert!(Manifest::parse(text.as_bytes()).is_ok(), "{text}");
        let mut group = criterion.benchmark_group(format!("manifest of an {what}"));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("parse", |bencher| {
            bencher.iter(|| Manifest::parse(black_box(text.as_bytes())));
        });
        group.bench_function("limit: skip", |bencher| {
            bencher.iter(|| serde_json::from_slice::<IgnoredAny>(black_box(text.as_bytes())));
        });
        group.finish();
    }
}

fn image() -> Value {
    let layers = (0..LAYERS).map(|number| descriptor("layer.v1.tar+gzip", &number.to_string()));
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", "config"),
        "layers": layers.collect::<Vec<_>>(),
        "annotations": {"org.opencontainers.image.created": "2026-01-01T00:00:00Z"},
    })
}

/// With an attestation beside each platform, as buildkit pushes them.
fn index() -> Value {
    let mut manifests = Vec::new();
    for architecture in PLATFORMS {
        let mut image = descriptor("manifest.v1+json", architecture);
        image["platform"] = json!({"architecture": architecture, "os": "linux"});
        let mut attestation =
            descriptor("manifest.v1+json", &format!("attestation of {architecture}"));
        attestation["platform"] = json!({"architecture": "unknown", "os": "unknown"});
        attestation["annotations"] = json!({
            "vnd.docker.reference.digest": image["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        });
        manifests.extend([image, attestation]);
    }
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    })
}

fn descriptor(kind: &str, of: &str) -> Value {
    json!({
        "mediaType": format!("application/vnd.oci.image.{kind}"),
        "digest": Digest::of(Algorithm::Sha256, of.as_bytes()).to_string(),
        "size": 12_345_678,
    })
}
