"""One store, two programs: what docker-registry 2.8 or distribution 3.1 wrote is
Millpond's to serve, and the other way round, also after *their* collection.
"""

import json

from case import Case
from content import REFERRERS, Content
from images import noise
from process import wait_until
from registries import BY_NAME
from wire import Client, digest_of
import wire


class Interchange:
    """The tests for one other program; a subclass names it."""

    other = None

    @classmethod
    def setUpClass(cls):
        cls.content = Content(cls.new_folder("content"))

    def setUp(self):
        # Both at once on one store: what one acknowledged, the other serves.
        store = self.new_store()
        folder = self.new_folder("registry")
        # How long a deletion by another process goes unnoticed.
        settings = {"known_for": "100ms"}
        self.registry = BY_NAME[self.shared.registry](store, folder, settings)
        self.neighbour = BY_NAME[self.other](store, self.new_folder("neighbour"))
        for registry in (self.registry, self.neighbour):
            self.addCleanup(registry.stop)
            registry.start()
        self.ours = Client(self.registry.address)
        self.theirs = Client(self.neighbour.address)

    def test_its_tree_is_served_before_and_after_it_collects(self):
        self.write_collect_serve(self.theirs)

    def test_it_serves_our_tree_before_and_after_it_collects(self):
        self.write_collect_serve(self.ours)

    def write_collect_serve(self, writer):
        """One writes, both serve; theirs collects, in both its ways, and both serve again."""
        self.content.push(writer)
        self.check_both(untagged_present=True)
        self.collect(delete_untagged=False)
        self.check_both(untagged_present=True)
        self.content.check_collected(self.ours)
        self.collect(delete_untagged=True)
        self.check_both(untagged_present=False)
        # What was collected is pushed anew: nobody may believe that it is still there.
        self.content.push(self.ours)
        self.check_both(untagged_present=True)

    def collect(self, delete_untagged):
        """Their collection, with everything stopped as it demands."""
        for registry in (self.registry, self.neighbour):
            registry.stop()
        self.neighbour.collect(delete_untagged)
        for registry in (self.registry, self.neighbour):
            registry.start()

    def check_both(self, untagged_present):
        """Both programs serve the same store in full."""
        self.content.check(self.ours)
        # distribution 3.1 loses tags that extend another tag, on S3 only (#4891).
        loses_tags = self.other == "distribution" and self.driver == "minio"
        self.content.check(self.theirs, lists_tags=not loses_tags)
        self.content.check_untagged(self.ours, untagged_present)
        if self.registry.has_referrers:
            expected = {self.content.tagged_referrer}
            expected |= {self.content.referrer} if untagged_present else set()
            found = self.ours.referrers(REFERRERS, self.content.subject)
            self.assertEqual({d["digest"] for d in found}, expected)

    def test_a_change_by_one_is_seen_by_the_other_at_once(self):
        for one, other in ((self.ours, self.theirs), (self.theirs, self.ours)):
            first, second = (self.push_image(one, "live", seed) for seed in (1, 2))
            one.push_manifest("live", "1", first)
            self.assertEqual(other.manifest("live", "1"), first)
            one.push_manifest("live", "1", second)
            self.assertEqual(other.manifest("live", "1"), second)
            # Deleting a manifest takes its tags along, for both.
            other.expect(202, "DELETE", f"/v2/live/manifests/{digest_of(second)}")
            self.assertEqual(one.get_manifest("live", "1").status, 404)
            wait_until(lambda: one.get_manifest("live", digest_of(second)).status == 404,
                       "the deleted manifest to be gone", timeout=5)
            self.assertEqual(one.manifest("live", digest_of(first)), first)

    def test_a_sha512_blob_of_one_is_served_by_the_other(self):
        for seed, (one, other) in enumerate(((self.theirs, self.ours), (self.ours, self.theirs))):
            data = noise(f"sha512 {seed}", 300_000)
            digest = digest_of(data, "sha512")
            one.push_blob("long/digest", data, digest)
            self.assertEqual(one.blob("long/digest", digest), data)
            self.assertEqual(other.blob("long/digest", digest), data)
            head = other.expect(200, "HEAD", f"/v2/long/digest/blobs/{digest}")
            self.assertEqual(head.headers["Content-Length"], str(len(data)))

    def test_a_blob_of_one_is_mounted_by_the_other(self):
        for seed, (one, other) in enumerate(((self.theirs, self.ours), (self.ours, self.theirs))):
            data = noise(f"mounted {seed}", 300_000)
            digest = one.push_blob("mount/from", data)
            other.expect(201, "POST", f"/v2/mount/to/blobs/uploads/?mount={digest}&from=mount/from")
            for client in (one, other):
                self.assertEqual(client.blob("mount/to", digest), data)

    def push_image(self, client, repository, seed):
        """A small image, all but its tag; its manifest."""
        config = f'{{"seed":{seed}}}'.encode()
        layer = noise(seed, 10_000)
        for data in (config, layer):
            client.push_blob(repository, data)
        return json.dumps({
            "schemaVersion": 2, "mediaType": wire.DOCKER_MANIFEST,
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json",
                       "digest": digest_of(config), "size": len(config)},
            "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                        "digest": digest_of(layer), "size": len(layer)}]}).encode()


class DockerRegistryTest(Interchange, Case):
    other = "docker-registry"


class DistributionTest(Interchange, Case):
    other = "distribution"
