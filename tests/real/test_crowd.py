"""64 clients push one layer at the same moment: all succeed, and it is stored once."""

from case import Case
from images import noise
from process import wait_until
from together import together
import wire

CLIENTS = 64
LAYER_BYTES = 12_000_000
# Large enough to be several parts on S3, small enough for 64 at once on two cores.
CHUNK_BYTES = 6_000_000
SETTLE_SECONDS = 30
# Links, and whatever else is small beside a layer.
LINKS_BYTES = 1_000_000


class CrowdTest(Case):
    def test_64_clients_push_one_layer_in_chunks_and_it_is_stored_once(self):
        self.check_crowd(
            ["crowd/chunks"] * CLIENTS,
            lambda repository, data: self.client.push_blob_in_chunks(repository, data, CHUNK_BYTES))

    def test_64_clients_push_one_layer_whole_to_64_repositories_and_it_is_stored_once(self):
        self.check_crowd([f"crowd/spread/{n}" for n in range(CLIENTS)], self.client.push_blob)

    def check_crowd(self, repositories, push):
        """Each client pushes the same bytes to its repository, all at the same moment."""
        data = noise(repositories[0] + self.driver, LAYER_BYTES)
        digest = wire.digest_of(data)
        stored_before = self.stored_bytes()
        failures = together([lambda name=name: push(name, data) for name in repositories])
        self.assertEqual(failures, [])
        for repository in set(repositories):
            self.client.check_blob(repository, digest, len(data))
        # What the late ones sent may lie around for a moment, but not for good.
        most = stored_before + LAYER_BYTES + LINKS_BYTES
        wait_until(lambda: self.stored_bytes() < most, "one copy to be left", SETTLE_SECONDS)
        copies = [key for key in self.store.objects() if digest.partition(":")[2] in key
                  and key.endswith("/data")]
        self.assertEqual(len(copies), 1, copies)

    def stored_bytes(self):
        """Everything the store holds, finished or not."""
        unfinished = self.shared.minio.unfinished_bytes() if self.driver == "minio" else 0
        return sum(self.store.objects().values()) + unfinished
