"""The cache on a node's disk, on disks that fail and under kill -9.

Whatever becomes of the disk, every byte that is delivered is right and every
request is answered; the cache uses the disk again as soon as it can.
"""

import contextlib
import http.client
import pathlib
import re
import subprocess
import threading

from case import Case
from images import noise
from process import wait_until
from registries import Millpond
import wire

REPOSITORY = "disk/app"
MIB = 1 << 20
# Chunks are of 1 MiB in all of these. Together more than the memory, so that the disk is read.
BLOB_BYTES = (1 * MIB, 3 * MIB + 7, 9 * MIB, 20 * MIB, 30 * MIB, 40 * MIB)
MEMORY_BYTES = 64 * MIB
KILLS = 20
CLIENTS = 4
# How long the clients pull before each kill: from none to all blobs on the disk.
KILL_SECONDS = 1.5
CONNECTION_LOST = (OSError, http.client.HTTPException)


class CachingMillpond(Millpond):
    """Millpond with a small memory and a disk of its own."""

    @property
    def disk(self):
        """The folder of the cache."""
        return self.configuration.parent / "cache"

    def settings(self):
        return super().settings() | {
            "cache": {"memory": f"{MEMORY_BYTES}B", "disk": {"path": str(self.disk), "size": "1GiB"}}}

    def metric(self, name):
        """The value of one metric; 0 if it is not there."""
        connection = http.client.HTTPConnection(self.admin_address, timeout=wire.TIMEOUT_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        found = re.search(rf"^{re.escape(name)} (\d+)$", text, re.MULTILINE)
        return int(found.group(1)) if found else 0

    def faults(self, kind):
        """How many faults of one kind there were."""
        return self.metric(f'millpond_cache_disk_faults_total{{fault="{kind}"}}')

    def found(self, where):
        """How many chunks were found in one place."""
        return self.metric(f'millpond_cache_lookups_total{{found="{where}"}}')


class Tmpfs:
    """A small disk of its own."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()

    def mount(self, options):
        """Makes it, empty."""
        self._run("mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder)
        return self

    def change(self, options):
        """Makes it another one, with the same files; it is busy while a chunk is being written."""
        command = ["mount", "-o", f"remount,{options}", str(self.folder)]

        def is_changed():
            tried = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            return tried.returncode == 0

        wait_until(is_changed, f"{options} of {self.folder}")

    def unmount(self):
        """Ends it, whoever still looks into it."""
        self._run("umount", "--lazy", self.folder)

    @staticmethod
    def _run(*command):
        subprocess.run([str(word) for word in command], check=True, stdin=subprocess.DEVNULL)


class DiskTest(Case):
    # A directory needs no cache: the system keeps its files in memory.
    drivers = ("minio",)

    @classmethod
    def serve(cls, store, name=None):
        registry = CachingMillpond(store, cls.new_folder("registry"))
        cls.disk = Tmpfs(registry.disk).mount("size=400m")
        cls.addClassCleanup(cls.disk.unmount)
        cls.start(registry)
        return registry

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        blobs = (noise(f"disk {length}", length) for length in BLOB_BYTES)
        cls.blobs = {cls.client.push_blob(REPOSITORY, data): data for data in blobs}

    def setUp(self):
        """A disk that has nothing, and a registry that knows nothing."""
        self.registry.stop()
        self.disk.unmount()
        self.disk.mount("size=400m")
        self.start_registry()

    def start_registry(self):
        self.registry.start()
        wait_until(lambda: self.registry.metric("millpond_cache_disk_limit_bytes") > 0, "the disk")

    def pull(self):
        """Every blob, whose bytes must be right."""
        for digest, data in self.blobs.items():
            self.client.check_blob(REPOSITORY, digest, len(data))

    def pull_until_written(self, at_least):
        """Pulls until so many bytes more are on the disk."""
        wanted = self.registry.metric("millpond_cache_disk_written_bytes_total") + at_least

        def is_written():
            self.pull()
            return self.registry.metric("millpond_cache_disk_written_bytes_total") >= wanted

        wait_until(is_written, f"{at_least} bytes on the disk")

    def test_a_full_disk_is_done_without_until_it_has_room(self):
        for name, options, more in (("no bytes", "size=20m", "size=400m"),
                                    ("no inodes", "size=400m,nr_inodes=20", "nr_inodes=0")):
            with self.subTest(name):
                self.registry.stop()
                self.disk.unmount()
                self.disk.mount(options)
                self.start_registry()
                for _ in range(3):
                    self.pull()
                self.assertGreater(self.registry.faults("full"), 0)
                self.assertGreater(self.registry.metric("millpond_cache_disk_left_out_total"), 0)
                self.disk.change(more)
                self.pull_until_written(20 * MIB)

    def test_a_disk_that_turns_read_only_is_read_and_written_again_when_it_can_be(self):
        self.pull_until_written(60 * MIB)
        self.disk.change("ro")
        before = self.registry.found("disk")
        fresh = noise("read-only", 5 * MIB)
        digest = self.client.push_blob(REPOSITORY, fresh)
        for _ in range(3):
            self.pull()
            self.client.check_blob(REPOSITORY, digest, len(fresh))
        self.assertGreater(self.registry.found("disk"), before)
        wait_until(lambda: self.registry.faults("unwritable") > 0, "a chunk that cannot be written")
        self.disk.change("rw")
        written = self.registry.metric("millpond_cache_disk_written_bytes_total")

        def is_written():
            self.client.check_blob(REPOSITORY, digest, len(fresh))
            now = self.registry.metric("millpond_cache_disk_written_bytes_total")
            return now >= written + len(fresh)

        wait_until(is_written, "the fresh blob on the disk")

    def test_a_disk_that_is_taken_away_is_missed(self):
        self.pull_until_written(60 * MIB)
        self.disk.unmount()
        for _ in range(3):
            self.pull()
        self.assertGreater(self.registry.faults("missing"), 0)
        self.disk.mount("size=400m")

    def test_twenty_kills_under_load_lose_little_and_change_nothing(self):
        wrong = []
        pulls = 0
        for kill in range(KILLS):
            stop = threading.Event()
            counts = [0] * CLIENTS
            clients = [threading.Thread(target=self.keep_pulling, args=(stop, wrong, counts, number))
                       for number in range(CLIENTS)]
            for client in clients:
                client.start()
            # Not until then: the daemon is at a step of its own at every kill.
            clients[0].join(KILL_SECONDS * kill / KILLS)
            self.registry.kill()
            stop.set()
            for client in clients:
                client.join(wire.TIMEOUT_SECONDS)
                self.assertFalse(client.is_alive(), "a client hangs")
            pulls += sum(counts)
            self.start_registry()
        self.assertEqual(wrong, [])
        self.assertGreater(pulls, 0)
        self.pull_until_all_is_there()
        self.registry.kill()
        self.start_registry()
        self.pull()
        missed, found = self.registry.found("nothing"), self.registry.found("disk")
        self.assertGreater(found, 0)
        self.assertLessEqual(missed, 0.05 * (missed + found), "chunks that were not on the disk")
        self.assertEqual(self.registry.faults("rotten"), 0)

    def pull_until_all_is_there(self):
        whole = sum(BLOB_BYTES)

        def is_there():
            self.pull()
            return self.registry.metric("millpond_cache_disk_bytes") >= whole

        wait_until(is_there, "all chunks on the disk")

    def keep_pulling(self, stop, wrong, counts, number):
        """Pulls one blob after the other; every byte that comes must be right."""
        digests = list(self.blobs)
        turn = number
        while not stop.is_set():
            digest = digests[turn % len(digests)]
            turn += 1
            try:
                status, received = self.receive(digest)
            except CONNECTION_LOST:
                # It was killed before it answered.
                continue
            if status != 200 or not self.blobs[digest].startswith(received):
                wrong.append(f"{digest}: {status} with {len(received)} bytes")
            counts[number] += len(received) == len(self.blobs[digest])

    def receive(self, digest):
        """Status and body of a blob, however far it comes."""
        connection = http.client.HTTPConnection(self.registry.address, timeout=wire.TIMEOUT_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", f"/v2/{REPOSITORY}/blobs/{digest}")
            response = connection.getresponse()
            received = bytearray()
            with contextlib.suppress(*CONNECTION_LOST):
                while piece := response.read(wire.READ_BYTES):
                    received += piece
            return response.status, received
