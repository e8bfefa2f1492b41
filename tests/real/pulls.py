"""A storm: clients on many hosts that pull one image at the same moment, each from the node on its own host."""

import collections
import http.client
import json
import queue
import threading
import time

from hops import CONNECTION_LOST
from images import noise
from layout import CONFIG_TYPE, LAYER_TYPE, to_json
from push import describe
import wire

REPOSITORY = "storm/app"
MIB = 1 << 20
# A large layer and one that nodes check whole before they give it, and what every image has of small ones.
LAYERS = (16 * MIB, 5 * MIB, 3 * MIB, 30_000, 20_000, 300)
# Blobs that one client asks for at once, as real ones do.
AT_ONCE = 3
READ_BYTES = 1 << 16
# Whoever gets nothing for so long hangs: no client should have to find that out. The bucket may stop for a third of it.
SILENCE_SECONDS = 30
# A client that was refused or cut off waits so long before it tries again, and gives up after so many times.
PAUSE_SECONDS = 0.5
ATTEMPTS = 40
# For all of a storm, whatever happens meanwhile.
STORM_SECONDS = 60


class Broken(Exception):
    """It came to no good end, and said so: a client may try again."""


class Wrong(Exception):
    """What no client can mend, or even notice: wrong bytes, a wrong status, or silence."""


class Image:
    """An image that nothing else has a part of."""

    def __init__(self, seed, layers=LAYERS):
        self.tag = seed
        config = to_json({"architecture": "amd64", "os": "linux", "seed": seed,
                          "rootfs": {"type": "layers", "diff_ids": []}})
        datas = [noise(f"{seed} {number}", size) for number, size in enumerate(layers)]
        self.blobs = {wire.digest_of(data): data for data in (config, *datas)}
        self.manifest = to_json({
            "schemaVersion": 2, "mediaType": wire.OCI_MANIFEST,
            "config": describe(CONFIG_TYPE, config),
            "layers": [describe(LAYER_TYPE, data) for data in datas]})

    @property
    def size_bytes(self):
        """What one client gets, without the manifest."""
        return sum(map(len, self.blobs.values()))

    def push(self, client):
        """Pushes all of it."""
        for digest, data in self.blobs.items():
            client.push_blob(REPOSITORY, data, digest)
        client.push_manifest(REPOSITORY, self.tag, self.manifest)


class Pull:
    """One client's pull. It tries again what breaks, as long as its node is there."""

    def __init__(self, storm, node):
        self._storm = storm
        self._node = node
        self._waiting = queue.SimpleQueue()
        # Its node is on its way out: what breaks is not tried again, and is the end of it.
        self.is_excused = False
        self._is_over = False
        # What broke, and was tried again.
        self.broken = []
        # What ended it for good; more than one, since it does several things at once.
        self.failures = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self):
        """Begins to pull."""
        self._thread.start()

    def join(self, seconds):
        """Whether it has ended by then."""
        self._thread.join(max(0, seconds))
        return not self._thread.is_alive()

    def _run(self):
        self._node.host.enter()
        if not self._get(f"manifests/{self._storm.image.tag}", self._storm.image.manifest):
            return
        for digest in self._storm.image.blobs:
            self._waiting.put(digest)
        threads = [threading.Thread(target=self._get_blobs, daemon=True) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _get_blobs(self):
        try:
            while not self._is_over:
                digest = self._waiting.get_nowait()
                self._get(f"blobs/{digest}", self._storm.image.blobs[digest])
        except queue.Empty:
            return

    def _get(self, path, data):
        """Gets something until it has it, or there is no hope; whether it has it."""
        for _ in range(ATTEMPTS):
            try:
                self._attempt(path, data)
                return True
            except Broken as error:
                if self.is_excused:
                    self._is_over = True
                    return False
                self.broken.append(f"{path}: {error}")
                time.sleep(PAUSE_SECONDS)
            except Exception as error:  # Whatever it is, it is this client's result.
                return self._fail(f"{path}: {type(error).__name__}: {error}")
        return self._fail(f"{path}: given up: {self.broken[-1]}")

    def _fail(self, text):
        self._is_over = True
        self.failures.append(text)
        return False

    def _attempt(self, path, data):
        connection = http.client.HTTPConnection(self._node.address, timeout=SILENCE_SECONDS)
        try:
            connection.request("GET", f"/v2/{REPOSITORY}/{path}", headers={"Accept": wire.OCI_MANIFEST})
            response = connection.getresponse()
            if response.status != 200:
                raise _refusal(response)
            self._compare(response, data)
        except TimeoutError:
            raise Wrong(f"silent for {SILENCE_SECONDS} s") from None
        except CONNECTION_LOST as error:
            raise Broken(repr(error)) from None
        finally:
            connection.close()

    def _compare(self, response, data):
        """Each piece is what it should be, also where the rest does not come; that is more than the digest tells."""
        count = 0
        while piece := response.read(READ_BYTES):
            if not data.startswith(piece, count):
                raise Wrong(f"wrong bytes after byte {count} of {len(data)}")
            count += len(piece)
            self._storm.add(len(piece))
        if count != len(data):
            raise Broken(f"ended after {count} of {len(data)} bytes")


def _refusal(response):
    body = response.read()
    text = f"{response.status} {body[:300]!r}"
    if response.status != 429 and response.status < 500:
        return Wrong(text)
    try:
        json.loads(body)["errors"][0]["code"]
    except (ValueError, LookupError, TypeError):
        return Wrong(f"no clear error: {text}")
    return Broken(text)


class Storm:
    """The pulls of one image."""

    def __init__(self, image, nodes):
        self.image = image
        self._pulls = {node: Pull(self, node) for node in nodes}
        self._changed = threading.Condition()
        self._received_bytes = 0
        self._ends = time.monotonic() + STORM_SECONDS
        for pull in self._pulls.values():
            pull.start()

    def add(self, count):
        """So many bytes have come to a client."""
        with self._changed:
            self._received_bytes += count
            self._changed.notify_all()

    def wait_for(self, share):
        """Waits until so much of what all clients want has come; a storm that ends before does not get there."""
        wanted = int(share * self.image.size_bytes * len(self._pulls))
        with self._changed:
            if not self._changed.wait_for(lambda: self._received_bytes >= wanted, self._left()):
                raise TimeoutError(f"{self._received_bytes} of {wanted} bytes came: {self._broken()}")

    def join(self, node):
        """One client more, with a node of its own."""
        pull = self._pulls[node] = Pull(self, node)
        pull.start()

    def excuse(self, node):
        """What happens to a node's client from now on is the end of that client."""
        self._pulls[node].is_excused = True

    def end(self):
        """Waits for all. What failed, by node; and how often something broke and was mended, by what it was."""
        failed = {}
        for node, pull in self._pulls.items():
            if not pull.join(self._left()):
                raise TimeoutError(f"the client at {node.host.name} does not end: {self._broken()}")
            if pull.failures:
                failed[node] = pull.failures
        return failed, self._broken()

    def _left(self):
        return self._ends - time.monotonic()

    def _broken(self):
        texts = [text for pull in self._pulls.values() for text in pull.broken]
        return collections.Counter(text.partition(": ")[2] for text in texts)
