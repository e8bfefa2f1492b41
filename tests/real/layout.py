"""OCI image layouts on disk: written from parts, and read back byte by byte."""

import gzip
import hashlib
import io
import json
import pathlib
import subprocess
import tarfile

import parts
from wire import OCI_INDEX, OCI_MANIFEST, digest_of

REF_NAME = "org.opencontainers.image.ref.name"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CREATED = "2024-01-01T00:00:00Z"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


def to_json(value):
    """The one way these tests write JSON."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def stored(data):
    """gzip without compressing: for bytes that do not compress anyway."""
    return gzip.compress(data, compresslevel=0, mtime=0)


def gzipped(data):
    """gzip, always the same bytes."""
    return gzip.compress(data, compresslevel=6, mtime=0)


class Layout:
    """A folder in the OCI image layout."""

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def names(self):
        """Every name in its index, with the digest it stands for."""
        index = json.loads((self.path / "index.json").read_bytes())
        return {d.get("annotations", {}).get(REF_NAME, ""): d["digest"] for d in index["manifests"]}

    def digest(self, name):
        """The digest a name stands for."""
        return self.names()[name]

    def read(self, digest):
        """The bytes of one blob."""
        return self._file(digest).read_bytes()

    def tree(self, digest):
        """Every digest below one manifest, itself included, after hashing each file."""
        found = {self._checked(digest)}
        manifest = json.loads(self.read(digest))
        for child in manifest.get("manifests", []):
            found |= self.tree(child["digest"])
        parts_named = [manifest.get("config"), *manifest.get("layers", [])]
        return found | {self._checked(part["digest"]) for part in parts_named if part}

    def _file(self, digest):
        algorithm, _, hexadecimal = digest.partition(":")
        return self.path / "blobs" / algorithm / hexadecimal

    def _checked(self, digest):
        with open(self._file(digest), "rb") as file:
            found = hashlib.file_digest(file, digest.partition(":")[0]).hexdigest()
        assert digest.endswith(found), f"{self.path}: {digest} holds {found}"
        return digest


class LayoutWriter:
    """Makes a layout; the same calls make the same bytes."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self._names = []
        (self.path / "blobs/sha256").mkdir(parents=True)
        (self.path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', encoding="utf-8")

    def add(self, media_type, data):
        """Stores a blob; its descriptor."""
        digest = digest_of(data)
        (self.path / "blobs" / digest.replace(":", "/")).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def add_layer(self, files, compress=gzipped, suffix="+gzip"):
        """Stores a layer of `{file name: bytes}`; its descriptor and its diff id."""
        archive = _tar(files)
        return self.add(LAYER_TYPE + suffix, compress(archive)), digest_of(archive)

    def add_image(self, layers, architecture="amd64", variant=None):
        """Stores the config and manifest over layers; the manifest's descriptor."""
        platform = {"architecture": architecture, "os": "linux"}
        if variant:
            platform["variant"] = variant
        config = to_json(platform | {
            "created": CREATED,
            "config": {"Cmd": ["/file-0"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
            "history": [{"created": CREATED, "created_by": "a test"} for _ in layers],
        })
        manifest = {
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": self.add(CONFIG_TYPE, config),
            "layers": [descriptor for descriptor, _ in layers],
        }
        return self.add(OCI_MANIFEST, to_json(manifest)) | {"platform": platform}

    def add_index(self, manifests):
        """Stores an index; its descriptor."""
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
        return self.add(OCI_INDEX, to_json(index))

    def add_artifact(self, subject, artifact_type, data):
        """Stores an artifact that refers to `subject`; its descriptor."""
        manifest = {
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": artifact_type,
            "config": self.add(EMPTY_TYPE, b"{}"),
            "layers": [self.add(artifact_type, data)],
            "subject": {key: subject[key] for key in ("mediaType", "digest", "size")},
        }
        return self.add(OCI_MANIFEST, to_json(manifest))

    def name(self, name, descriptor):
        """Gives a descriptor a name in the layout's index."""
        self._names.append(descriptor | {"annotations": {REF_NAME: name}})

    def finish(self):
        """Writes the layout's index; the layout."""
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self._names}
        (self.path / "index.json").write_bytes(to_json(index))
        return Layout(self.path)


def zstandard(data):
    """zstd by Debian's program: Python 3.11 has none."""
    command = [parts.path("zstd"), "-q", "-c"]
    return subprocess.run(command, input=data, capture_output=True, check=True, timeout=60).stdout


def _tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            # TarInfo's defaults: owner 0, time 0. Nothing of this machine gets in.
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
