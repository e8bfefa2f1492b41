"""One push by one client, step by step, with what was acknowledged to it so far."""

from images import noise
from layout import CONFIG_TYPE, LAYER_TYPE, to_json
import wire

CHUNK_BYTES = 6_000_000
# Two chunks and a remainder that travels with the final PUT.
LAYER_BYTES = 2 * CHUNK_BYTES + 3_000_000

# In this order.
STEPS = (
    "upload_begun",
    "first_chunk_half_sent",
    "first_chunk_sent",
    "first_chunk_acknowledged",
    "second_chunk_half_sent",
    "second_chunk_sent",
    "second_chunk_acknowledged",
    "final_put_half_sent",
    "final_put_sent",
    "layer_acknowledged",
    "config_half_sent",
    "config_sent",
    "config_acknowledged",
    "manifest_half_sent",
    "manifest_sent",
    "manifest_acknowledged",
    "moved_tag_half_sent",
    "moved_tag_sent",
    "moved_tag_acknowledged",
)


class Image:
    """A layer, a config and a manifest that no other test pushes."""

    def __init__(self, seed):
        self.layer = noise(f"layer {seed}", LAYER_BYTES)
        self.config = to_json({"architecture": "amd64", "os": "linux", "seed": seed,
                               "rootfs": {"type": "layers", "diff_ids": []}})
        self.manifest = to_json({
            "schemaVersion": 2, "mediaType": wire.OCI_MANIFEST,
            "config": describe(CONFIG_TYPE, self.config),
            "layers": [describe(LAYER_TYPE, self.layer)]})


def go_on(_step):
    """What happens at a step when nothing is to happen."""


class Push:
    """One push by one client, step by step, and what was acknowledged to it."""

    def __init__(self, client, repository, image):
        self.client = client
        self.repository = repository
        self.image = image
        self.location = None
        self.stored_bytes = 0
        self.blobs = []
        # tag: the manifests it may point at; two while a change is on its way, and
        # None for a tag that need not be there.
        self.tags = {}
        # Called with the name of each step when it is reached.
        self.at_step = go_on

    def run(self):
        """All of it, in the order a client does it."""
        self.begin()
        self.chunk("first_chunk", 0)
        self.chunk("second_chunk", CHUNK_BYTES)
        self.finish(2 * CHUNK_BYTES)
        self.small_blob("config", self.image.config)
        self.tag("manifest", f"new-{wire.digest_of(self.image.manifest)[7:19]}")
        self.tag("moved_tag", "latest")

    def resume(self):
        """Goes on with the layer where the registry says it stands."""
        status = self.client.expect(204, "GET", self.location)
        stands_at = int(status.headers["Range"].partition("-")[2]) + 1
        # Both "nothing" and "one byte" are written 0-0; neither was acknowledged here.
        stands_at = 0 if stands_at == 1 else stands_at
        assert stands_at >= self.stored_bytes, f"{self.stored_bytes} acknowledged: {status}"
        self.location = status.headers["Location"]
        self.finish(stands_at)

    def begin(self):
        """POST."""
        self.location = self.client.begin_upload(self.repository)
        self.at_step("upload_begun")

    def chunk(self, step, start):
        """One PATCH."""
        data = self.image.layer[start:start + CHUNK_BYTES]
        answer = self._slowly(step, "PATCH", self.location, data)
        self._check(answer, 202)
        self.location = answer.headers["Location"]
        self.stored_bytes = start + len(data)
        self.at_step(f"{step}_acknowledged")

    def finish(self, start):
        """The final PUT, with the bytes that are still missing."""
        digest = wire.digest_of(self.image.layer)
        location = self.client.with_digest(self.location, digest)
        self._check(self._slowly("final_put", "PUT", location, self.image.layer[start:]), 201)
        self.blobs.append(self.image.layer)
        self.at_step("layer_acknowledged")

    def small_blob(self, step, data):
        """A POST, and a PUT with everything."""
        location = self.client.begin_upload(self.repository)
        location = self.client.with_digest(location, wire.digest_of(data))
        self._check(self._slowly(step, "PUT", location, data), 201)
        self.blobs.append(data)
        self.at_step(f"{step}_acknowledged")

    def tag(self, step, tag):
        """The PUT of the manifest under a tag."""
        before = self.tags.get(tag, [None])
        self.tags[tag] = [*before, self.image.manifest]
        target = f"/v2/{self.repository}/manifests/{tag}"
        answer = self._slowly(step, "PUT", target, self.image.manifest, wire.OCI_MANIFEST)
        self._check(answer, 201)
        self.tags[tag] = [self.image.manifest]
        self.at_step(f"{step}_acknowledged")

    def _slowly(self, step, method, target, data, kind="application/octet-stream"):
        request = self.client.begin(method, target, len(data), Content_Type=kind)
        half = len(data) // 2
        request.send(data[:half])
        self.at_step(f"{step}_half_sent")
        request.send(data[half:])
        self.at_step(f"{step}_sent")
        return request.answer()

    def _check(self, answer, status):
        if answer.status != status:
            raise wire.UnexpectedAnswer(f"expected {status}: {answer}")


def describe(media_type, data):
    """A descriptor of some bytes."""
    return {"mediaType": media_type, "digest": wire.digest_of(data), "size": len(data)}
