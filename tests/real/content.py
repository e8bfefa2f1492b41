"""What a registry is filled with before another one has to serve it: made, pushed, checked.

Everything that a tree on disk can hold is in it: tags that share prefixes and
manifests, nested repositories, an index, zstd layers, an artifact with its
subject, and manifests that no tag leads to.
"""

import json

from images import ARTIFACT_TYPE, PLATFORMS, noise, prose
from layout import LayoutWriter, stored, zstandard
import wire

REPOSITORY = "team/app"
NESTED = "team/app/nested"
REFERRERS = "team/app/referrers"
# v1 is a prefix of none, t1 of t10 to t19: lists that skip by prefix lose some.
TAGS = ("v1", "v2", *(f"t{number}" for number in range(100)))
IMAGES = 6


class Content:
    """Manifests and blobs, and under which names they were pushed."""

    def __init__(self, folder):
        writer = LayoutWriter(folder)
        base = writer.add_layer({"base": noise("base", 400_000)}, stored)
        self._images = [
            writer.add_image([base, writer.add_layer({f"own-{n}": prose(n, 100_000)})])
            for n in range(IMAGES)]
        self._index = writer.add_index([
            writer.add_image([base, writer.add_layer({"platform": name.encode()})], name, variant)
            for name, variant in PLATFORMS])
        zstd_layer = writer.add_layer({"z": prose(9, 100_000)}, zstandard, "+zstd")
        self._zstd = writer.add_image([zstd_layer])
        self._unwanted, self._deleted = (
            writer.add_image([base, writer.add_layer({"own": noise(name, 100_000)})])
            for name in ("unwanted", "deleted"))
        subject = self._images[0]
        self._referrer = writer.add_artifact(subject, ARTIFACT_TYPE, b'{"of":"an image"}')
        self._tagged_referrer = writer.add_artifact(subject, ARTIFACT_TYPE, b'{"kept":"by a tag"}')
        self._fallback = writer.add_index([
            self._tagged_referrer | {"artifactType": ARTIFACT_TYPE}])
        self._layout = writer.finish()
        self.subject = subject["digest"]
        self.referrer = self._referrer["digest"]
        self.tagged_referrer = self._tagged_referrer["digest"]
        self.unwanted = self._unwanted["digest"]

    @property
    def untagged(self):
        """`(repository, digest)` of the manifests that have no name."""
        return (REPOSITORY, self.unwanted), (REFERRERS, self.referrer)

    @property
    def tags(self):
        """`{(repository, tag): digest}` of everything that has a name."""
        named = {
            (REPOSITORY, tag): self._images[n % IMAGES]["digest"] for n, tag in enumerate(TAGS)}
        named[NESTED, "index"] = self._index["digest"]
        named[NESTED, "zstd"] = self._zstd["digest"]
        # The children of both indexes: docker-registry's collector looks at tags only.
        children = json.loads(self._layout.read(self._index["digest"]))["manifests"]
        for child, (name, _) in zip(children, PLATFORMS, strict=True):
            named[NESTED, name] = child["digest"]
        # Where clients keep referrers on a registry without an API for them.
        named[REFERRERS, self.subject.replace(":", "-")] = self._fallback["digest"]
        named[REFERRERS, "kept"] = self.tagged_referrer
        named[REFERRERS, "subject"] = self.subject
        return named

    def push(self, client):
        """Everything into a registry, in the order a client does it."""
        for (repository, tag), digest in self.tags.items():
            self._push_tree(client, repository, digest, tag)
        # Named for a moment, and never again.
        self._push_tree(client, REPOSITORY, self.unwanted, "v1")
        self._push_tree(client, REPOSITORY, self.tags[REPOSITORY, "v1"], "v1")
        self._push_tree(client, REFERRERS, self.referrer)
        deleted = self._deleted["digest"]
        self._push_tree(client, REPOSITORY, deleted, "deleted")
        client.expect(202, "DELETE", f"/v2/{REPOSITORY}/manifests/{deleted}")

    def check(self, client, lists_tags=True):
        """A registry serves everything that has a name, byte for byte."""
        by_repository = {}
        for (repository, tag), digest in self.tags.items():
            by_repository.setdefault(repository, []).append(tag)
            found = client.manifest(repository, tag)
            assert found == self._layout.read(digest), f"{repository}:{tag} is not {digest}"
        for repository, digest in {(name, digest) for (name, _), digest in self.tags.items()}:
            found = client.check_tree(repository, digest)
            assert found == self._layout.tree(digest), f"{repository}@{digest} is {found}"
        if lists_tags:
            for repository, tags in by_repository.items():
                found = client.tags(repository)
                assert sorted(found) == sorted(tags), f"{repository}: {found}"
            found = client.repositories()
            assert set(found) == set(by_repository), found

    def check_untagged(self, client, present):
        """What has no name is all there, or all gone."""
        for repository, digest in self.untagged:
            if present:
                client.check_tree(repository, digest)
            else:
                self.check_gone(client, repository, digest)

    def check_collected(self, client):
        """What was deleted before a collection is gone after it."""
        self.check_gone(client, REPOSITORY, self._deleted["digest"])

    def check_gone(self, client, repository, digest):
        """Neither a manifest nor its own layer is served, and nothing is built on them."""
        manifest = self._layout.read(digest)
        answer = client.get_manifest(repository, digest)
        assert answer.status == 404, answer
        layer = json.loads(manifest)["layers"][-1]["digest"]
        for method in ("HEAD", "GET"):
            answer = client.request(method, f"/v2/{repository}/blobs/{layer}")
            assert answer.status == 404, answer
        mount = f"/v2/mounted/blobs/uploads/?mount={layer}&from={repository}"
        answer = client.request("POST", mount)
        assert answer.status == 202, answer
        # A tag that would point at missing content.
        answer = client.request(
            "PUT", f"/v2/{repository}/manifests/broken", manifest,
            Content_Type=wire.media_type_of(manifest))
        assert answer.status in (400, 404), answer

    def _push_tree(self, client, repository, digest, tag=None):
        data = self._layout.read(digest)
        manifest = json.loads(data)
        for child in manifest.get("manifests", []):
            self._push_tree(client, repository, child["digest"])
        for part in [manifest.get("config"), *manifest.get("layers", [])]:
            # As every client does: ask first, then send.
            target = part and f"/v2/{repository}/blobs/{part['digest']}"
            if part and client.request("HEAD", target).status != 200:
                client.push_blob(repository, self._layout.read(part["digest"]))
        client.push_manifest(repository, tag or digest, data)
