"""Images of random bytes, and how they get into a registry."""

import hashlib
import http.client
import json
import random
import urllib.parse

# Docker's own, because not all rivals know those of OCI.
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"
CONFIG_BYTES = 4 << 10
TAG = "latest"
PUSH_SECONDS = 120


class Image:
    """Layers of these sizes. Those of different numbers have nothing in common."""

    def __init__(self, number, layer_sizes):
        self.number = number
        self.repository = f"bench/storm-{number}"
        self.layer_sizes = tuple(layer_sizes)
        self.kinds = {}
        config = self.descriptor(0, CONFIG_TYPE)
        layers = [self.descriptor(place, LAYER_TYPE) for place in range(1, 1 + len(self.layer_sizes))]
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers}
        self.manifest = json.dumps(manifest).encode()
        self.manifest_digest = digest_of(self.manifest)
        self.kinds[self.manifest_digest] = "manifest"
        self.size_bytes = len(self.manifest) + sum(each["size"] for each in (config, *layers))

    def blob(self, place):
        """The config is in place 0, the layers come after it."""
        size = self.layer_sizes[place - 1] if place else CONFIG_BYTES
        return random.Random(f"{self.number} {self.layer_sizes} {place}").randbytes(size)

    def descriptor(self, place, media_type):
        blob = self.blob(place)
        digest = digest_of(blob)
        self.kinds[digest] = "layers" if place else "config"
        return {"mediaType": media_type, "digest": digest, "size": len(blob)}

    def push(self, address):
        """Into the registry that is there, from the namespace the calling thread is in."""
        connection = http.client.HTTPConnection(address, timeout=PUSH_SECONDS)
        try:
            for place in range(1 + len(self.layer_sizes)):
                blob = self.blob(place)
                location = ask(connection, "POST", f"/v2/{self.repository}/blobs/uploads/", 202)
                target = location + ("&" if "?" in location else "?")
                target += urllib.parse.urlencode({"digest": digest_of(blob)})
                ask(connection, "PUT", target, 201, blob, "application/octet-stream")
            ask(connection, "PUT", f"/v2/{self.repository}/manifests/{TAG}", 201, self.manifest, MANIFEST_TYPE)
        finally:
            connection.close()


def ask(connection, method, target, wanted, body=b"", media_type=None):
    """Returns the path of the answer's location."""
    headers = {"Content-Length": str(len(body))} | ({"Content-Type": media_type} if media_type else {})
    connection.request(method, target, body, headers)
    response = connection.getresponse()
    text = response.read()
    if response.status != wanted:
        raise SystemExit(f"{method} {target}: {response.status}, not {wanted}: {text[:300]!r}")
    location = urllib.parse.urlsplit(response.headers.get("Location", ""))
    return location.path + (f"?{location.query}" if location.query else "")


def digest_of(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
