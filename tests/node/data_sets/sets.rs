//! The sets.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::content::{
    ARTIFACT, CONFIG, EMPTY, Hash, INDEX, LAYER, MANIFEST, descriptor, pattern, text,
};

const OTHER_ARTIFACT: &str = "application/vnd.example.signature.v1";
const LAYER_PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// Content that belongs together.
#[derive(Debug)]
pub(crate) struct DataSet {
    pub(crate) hash: Hash,
    pub(crate) blobs: Vec<Bytes>,
    /// In the order in which they can be pushed.
    pub(crate) manifests: Vec<ManifestOfSet>,
}

#[derive(Debug)]
pub(crate) struct ManifestOfSet {
    pub(crate) bytes: Bytes,
    pub(crate) tags: Vec<String>,
    /// Whether the tags come with the push by digest.
    pub(crate) by_parameters: bool,
    pub(crate) media_type: String,
    pub(crate) subject: Option<String>,
    /// What a referrers list says of it.
    pub(crate) artifact_type: Option<String>,
    pub(crate) annotations: Value,
}

/// Seeds, so that no two blobs of a set are the same.
struct Builder {
    set: DataSet,
    seed: u64,
}

impl Builder {
    fn new(hash: Hash) -> Self {
        Self { set: DataSet { hash, blobs: Vec::new(), manifests: Vec::new() }, seed: 0 }
    }

    fn blob(&mut self, media_type: &str, bytes: Bytes) -> Value {
        let described = descriptor(media_type, &self.set.hash.of(&bytes), bytes.len());
        if !self.set.blobs.contains(&bytes) {
            self.set.blobs.push(bytes);
        }
        described
    }

    fn random(&mut self, media_type: &str) -> Value {
        self.seed += 1;
        self.blob(media_type, pattern(1_000 + self.seed as usize, self.seed))
    }

    /// An image's fields, with two layers.
    fn image(&mut self) -> Value {
        let layers = [self.random(LAYER), self.random(LAYER)];
        let config = self.random(CONFIG);
        crate::content::image(&config, &layers)
    }

    /// An artifact's fields, with the empty configuration and one layer.
    fn artifact(&mut self, artifact_type: &str) -> Value {
        let layer = self.random(artifact_type);
        let config = self.blob(EMPTY, Bytes::from_static(b"{}"));
        let mut manifest = crate::content::image(&config, &[layer]);
        manifest["artifactType"] = artifact_type.into();
        manifest
    }

    /// Adds a manifest; returns its descriptor.
    fn add(&mut self, manifest: &Value, tag: &str) -> Value {
        let bytes = text(manifest);
        let media_type = manifest["mediaType"].as_str().unwrap().to_owned();
        let described = descriptor(&media_type, &self.set.hash.of(&bytes), bytes.len());
        let subject = manifest["subject"]["digest"].as_str().map(str::to_owned);
        let own = manifest["artifactType"].as_str();
        let artifact_type = own.or(manifest["config"]["mediaType"].as_str()).map(str::to_owned);
        self.set.manifests.push(ManifestOfSet {
            bytes,
            tags: if tag.is_empty() { vec![] } else { vec![tag.to_owned()] },
            by_parameters: false,
            media_type,
            subject,
            artifact_type,
            annotations: manifest["annotations"].clone(),
        });
        described
    }

    /// An index's fields, of two images made by `child`.
    fn index_of(&mut self, child: fn(&mut Self) -> Value) -> Value {
        let mut children = Vec::new();
        for architecture in ["amd64", "arm64"] {
            let manifest = child(self);
            let mut described = self.add(&manifest, "");
            described["platform"] = json!({ "os": "linux", "architecture": architecture });
            children.push(described);
        }
        crate::content::index(&children)
    }

    fn done(self) -> DataSet {
        self.set
    }
}

fn one(manifest: impl FnOnce(&mut Builder) -> Value, tag: &str) -> DataSet {
    let mut builder = Builder::new(Hash::Sha256);
    let manifest = manifest(&mut builder);
    builder.add(&manifest, tag);
    builder.done()
}

pub(crate) fn all() -> Vec<DataSet> {
    vec![
        image(),
        uncompressed(),
        index(Hash::Sha256),
        nested_index(),
        empty_index(),
        artifact(),
        artifact_index(),
        artifact_without_layers(),
        artifacts_with_subject(),
        index_with_subject(),
        missing_subject(),
        data_field(),
        foreign_layers(),
        custom_fields(),
        no_layers(),
        sparse(),
        index(Hash::Sha512),
        tagged_by_parameters(Hash::Sha256),
        tagged_by_parameters(Hash::Sha512),
    ]
}

pub(crate) fn image() -> DataSet {
    one(Builder::image, "image")
}

pub(crate) fn uncompressed() -> DataSet {
    let build = |builder: &mut Builder| {
        let layer = builder.blob(LAYER_PLAIN, Bytes::from(vec![b'a'; 10_240]));
        let config = builder.random(CONFIG);
        crate::content::image(&config, &[layer])
    };
    one(build, "image-uncompressed")
}

pub(crate) fn large_manifest() -> DataSet {
    let build = |builder: &mut Builder| {
        let mut manifest = builder.image();
        for number in 0..390 {
            let name = format!("large-annotation-{number}");
            manifest["annotations"][name] = "A".repeat(10_000).into();
        }
        manifest
    };
    let set = one(build, "large-manifest");
    assert!(set.manifests[0].bytes.len() > 3_900_000);
    set
}

pub(crate) fn index(hash: Hash) -> DataSet {
    let mut builder = Builder::new(hash);
    let manifest = builder.index_of(Builder::image);
    // Without parameters only a manifest by sha256 can have a tag.
    builder.add(&manifest, if hash == Hash::Sha256 { "index" } else { "" });
    builder.done()
}

pub(crate) fn nested_index() -> DataSet {
    let mut builder = Builder::new(Hash::Sha256);
    let indexes = [0, 1].map(|_| {
        let manifest = builder.index_of(Builder::image);
        builder.add(&manifest, "")
    });
    builder.add(&crate::content::index(&indexes), "index-of-index");
    builder.done()
}

pub(crate) fn empty_index() -> DataSet {
    one(|_| crate::content::index(&[]), "index")
}

pub(crate) fn artifact() -> DataSet {
    one(|builder| builder.artifact(ARTIFACT), "artifact")
}

pub(crate) fn artifact_index() -> DataSet {
    let build = |builder: &mut Builder| {
        let mut manifest = builder.index_of(|builder| builder.artifact(ARTIFACT));
        manifest["artifactType"] = ARTIFACT.into();
        manifest
    };
    one(build, "artifact-index")
}

pub(crate) fn artifact_without_layers() -> DataSet {
    let build = |builder: &mut Builder| {
        let empty = builder.blob(EMPTY, Bytes::from_static(b"{}"));
        let mut manifest = crate::content::image(&empty, std::slice::from_ref(&empty));
        manifest["artifactType"] = ARTIFACT.into();
        manifest
    };
    one(build, "artifact-without-layers")
}

fn annotated(mut manifest: Value, subject: &Value, note: &str) -> Value {
    manifest["subject"] = subject.clone();
    manifest["annotations"] =
        json!({ "org.example.greeting": "hello pond", "org.example.note": note });
    manifest
}

pub(crate) fn artifacts_with_subject() -> DataSet {
    let mut builder = Builder::new(Hash::Sha256);
    let manifest = builder.image();
    let subject = builder.add(&manifest, "image");
    // An image says what it is by the type of its configuration.
    let mut plain = builder.image();
    plain["subject"] = subject.clone();
    builder.add(&plain, "");
    for (artifact_type, tag) in [(ARTIFACT, "tagged-1"), (OTHER_ARTIFACT, "tagged-2")] {
        let manifest = annotated(builder.artifact(artifact_type), &subject, tag);
        builder.add(&manifest, tag);
    }
    builder.done()
}

pub(crate) fn index_with_subject() -> DataSet {
    let mut builder = Builder::new(Hash::Sha256);
    let manifest = builder.index_of(Builder::image);
    let subject = builder.add(&manifest, "index");
    let mut manifest = builder.index_of(|builder| builder.artifact(ARTIFACT));
    manifest["artifactType"] = ARTIFACT.into();
    builder.add(&annotated(manifest, &subject, "one"), "tagged");
    // Says nothing of what it is.
    let manifest = crate::content::index(&[]);
    builder.add(&annotated(manifest, &subject, "two"), "");
    builder.done()
}

pub(crate) fn missing_subject() -> DataSet {
    let subject = descriptor(MANIFEST, &Hash::Sha256.of(b"missing content"), 123);
    one(|builder| annotated(builder.artifact(ARTIFACT), &subject, "one"), "tagged")
}

pub(crate) fn data_field() -> DataSet {
    let build = |builder: &mut Builder| {
        let mut layer = builder.blob(ARTIFACT, Bytes::from_static(b"abc"));
        layer["data"] = "YWJj".into();
        let mut config = builder.blob(EMPTY, Bytes::from_static(b"{}"));
        config["data"] = "e30=".into();
        crate::content::image(&config, &[layer])
    };
    one(build, "data-field")
}

pub(crate) fn foreign_layers() -> DataSet {
    let build = |builder: &mut Builder| {
        let mut layers = ["tar+gzip", "tar"].map(|kind| {
            let digest = Hash::Sha256.of(kind.as_bytes());
            let media_type = format!("application/vnd.oci.image.layer.nondistributable.v1.{kind}");
            let mut layer = descriptor(&media_type, &digest, 123_456);
            layer["urls"] = json!([format!("https://store.example.com/{digest}")]);
            layer
        });
        layers[1].as_object_mut().unwrap().remove("urls");
        let [first, second] = layers;
        let normal = builder.random(LAYER);
        let config = builder.random(CONFIG);
        crate::content::image(&config, &[first, second, normal])
    };
    one(build, "non-distributable")
}

pub(crate) fn custom_fields() -> DataSet {
    let build = |builder: &mut Builder| {
        let mut manifest = builder.index_of(|builder| {
            let mut manifest = builder.image();
            manifest["org.example.custom"] = "value".into();
            manifest["layers"][0]["org.example.custom"] = json!({ "a": [1, null, 2.5] });
            manifest
        });
        manifest["org.example.custom"] = json!([{ "b": "\u{1f986}" }]);
        manifest
    };
    one(build, "custom-fields")
}

pub(crate) fn no_layers() -> DataSet {
    let build = |builder: &mut Builder| {
        let config = builder.random(CONFIG);
        crate::content::image(&config, &[])
    };
    one(build, "no-layers")
}

pub(crate) fn sparse() -> DataSet {
    let mut builder = Builder::new(Hash::Sha256);
    let manifest = builder.image();
    builder.add(&manifest, "sparse-image");
    // The first layer is never pushed.
    builder.set.blobs.remove(0);
    let manifest = builder.image();
    let present = builder.add(&manifest, "");
    let missing = descriptor(INDEX, &Hash::Sha256.of(b"another platform"), 1024);
    builder.add(&crate::content::index(&[present, missing]), "sparse-index");
    builder.done()
}

pub(crate) fn tagged_by_parameters(hash: Hash) -> DataSet {
    let mut set = index(hash);
    for (number, manifest) in set.manifests.iter_mut().enumerate() {
        manifest.by_parameters = true;
        manifest.tags.push(format!("parameter-{hash:?}-{number}"));
        manifest.tags.push(format!("parameter-{hash:?}-{number}-again"));
    }
    set
}
