"""Nodes on hosts of their own, which get everything from one MinIO behind one line."""

import collections
import contextlib
import json
import re
import signal
import threading
import urllib.request

from case import Case
from hosts import Network
from minio import ACCESS_KEY, SECRET_KEY, Minio
from nodes import Node
from process import wait_until
from pulls import Image, LAYERS
from relay import Relay
from s3 import Bucket
from stores import BucketStore
import wire

NODES = 8
# An image takes two to three seconds.
LINE = "100mbit"
# The same on each host: nobody else is there.
API_ADDRESS, ADMIN_ADDRESS, MINIO_ADDRESS = "127.0.0.1:5000", "127.0.0.1:5002", "127.0.0.1:9001"
# For one copy, its manifest included. About 40 are enough where nothing goes wrong.
MOST_REQUESTS = 60
PEER_PORT, BEHIND_PORT, BUCKET_PORT = 5003, 5004, 9000
REQUEST = re.compile(rb"([A-Z]+) (/[^ ]*) HTTP/1\.1\r\n")
BLOB = re.compile(r"/blobs/sha256/../[0-9a-f]{64}/data$")


class HostMinio(Minio):
    """MinIO on a host. Only that host reaches it."""

    def __init__(self, folder, host):
        self._host = host
        super().__init__(folder, MINIO_ADDRESS, host.enter_command())

    @contextlib.contextmanager
    def stopped(self):
        """Meanwhile it does nothing, and its connections stay."""
        self._daemon.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self._daemon.send(signal.SIGCONT)

    def _ready(self):
        return self._host.call(super()._ready)


class CountingLine(Relay):
    """The way to a bucket, which knows what was asked for on it, and what came."""

    def __init__(self, *addresses):
        super().__init__(*addresses)
        self._lock = threading.Lock()
        self._paths = {}
        self._requests, self._bytes = collections.Counter(), collections.Counter()

    def take(self):
        """How often each path was asked for and how many bytes came for it, since the last time."""
        with self._lock:
            taken = self._requests, self._bytes
            self._requests, self._bytes = collections.Counter(), collections.Counter()
        return taken

    def asked(self, pair, data):
        # On each connection one request follows the other, and begins a packet.
        if request := REQUEST.match(data):
            path = request[2].decode().partition("?")[0]
            with self._lock:
                self._paths[pair] = path
                self._requests[path] += 1
        return data

    def answered(self, pair, data):
        with self._lock:
            self._bytes[self._paths.get(pair, "")] += len(data)
        return data


class DamagingLine(Relay):
    """The way to a node, on which a bit changes now and then."""

    # Once in so many bytes, and only in pieces that are no headers.
    EVERY_BYTES = 512 << 10
    LEAST_PIECE_BYTES = 4 << 10

    def __init__(self, *addresses):
        super().__init__(*addresses)
        self._lock = threading.Lock()
        self._to_go = self.EVERY_BYTES
        self.damaged = 0

    def answered(self, pair, data):
        with self._lock:
            self._to_go -= len(data)
            if self._to_go > 0 or len(data) < self.LEAST_PIECE_BYTES:
                return data
            self._to_go = self.EVERY_BYTES
            self.damaged += 1
        changed = bytearray(data)
        changed[len(data) // 2] ^= 1
        return bytes(changed)


class HostNode(Node):
    """A node on a host, which serves the clients there; or what serves there and has no others beside it, if it is
    never told of them."""

    def __init__(self, host, *arguments):
        self.host = host
        super().__init__(*arguments)
        self.address, self.admin_address = API_ADDRESS, ADMIN_ADDRESS
        self.peer_address = f"{host.address}:{PEER_PORT}"
        # What others say to this node comes to it here.
        self.behind = self.peer_address
        self.write(self.settings())

    def settings(self):
        return super().settings() | {"cache": {"memory": "128MiB", "disk": {"size": "0B"}}}

    def cluster(self, nodes):
        settings = super().cluster(nodes)
        settings["cluster"] |= {"listen": self.behind, "advertise": self.peer_address}
        return settings

    def command(self):
        return [*self.host.enter_command(), *super().command()]

    def status(self):
        """What it knows of all nodes, as `/cluster` tells it."""
        return json.loads(self.host.call(_fetched, f"http://{self.admin_address}/cluster"))

    @property
    def is_started(self):
        """Whether it was started, and neither stopped nor killed since."""
        return self._daemon.is_started

    def log_text(self):
        """All that it has said."""
        return self._daemon.log.read_text(errors="replace")

    def _ready(self):
        return self.host.call(super()._ready)


class StormCase(Case):
    """Tests of a network of nodes. Whatever a test does to them, the next one finds all of them there."""

    drivers = ("minio",)

    @classmethod
    def setUpClass(cls):
        cls.network = cls.start(Network(NODES + 1, LINE))
        host = cls.network.storage
        cls.minio = cls.start(HostMinio(cls.new_folder("minio"), host))
        bucket = host.call(cls.minio.create_bucket)
        cls.line = host.call(CountingLine, MINIO_ADDRESS, f"{host.address}:{BUCKET_PORT}")
        cls.addClassCleanup(cls.line.stop)
        host.call(cls.line.start)
        cls.store = BucketStore(Bucket(cls.line.address, bucket.name, ACCESS_KEY, SECRET_KEY))
        # Nothing of what is pushed goes over a line.
        cls.seeder = cls.start(HostNode(host, BucketStore(bucket), cls.new_folder("seeder")))
        *cls.nodes, cls.newcomer = [
            HostNode(host, cls.store, cls.new_folder("node")) for host in cls.network.hosts]
        for node in (*cls.nodes, cls.newcomer):
            node.join((*cls.nodes, cls.newcomer))
            cls.addClassCleanup(node.stop)
        # What the report quotes when a test fails.
        cls.registry = cls.nodes[0]

    def setUp(self):
        self.newcomer.stop()
        self.start_nodes()

    def start_nodes(self):
        """Starts those that are not there, and waits until all know each other."""
        for node in self.nodes:
            if not node.is_started:
                node.start()
        self.wait_until_together()

    def wait_until_together(self):
        """Until each node knows that the others are there, and they agree who owns what."""
        everybody = {node.peer_address for node in self.nodes}

        def are_together():
            states = [node.status() for node in self.nodes]
            heard = [{each["address"] for each in state["nodes"] if is_well(each)} for state in states]
            return all(each == everybody for each in heard) and len({state["node"]["epoch"] for state in states}) == 1

        def is_well(node):
            return not node["is_silent"] and node["breaker_seconds"] is None and node["share"] > 0

        wait_until(are_together, "nodes to know each other")

    def wait_until_silent(self, nodes, others):
        """Until the others are gone for these nodes."""
        addresses = {other.peer_address for other in others}

        def are_silent():
            states = [node.status() for node in nodes]
            return all(each["is_silent"] for state in states for each in state["nodes"]
                       if each["address"] in addresses)

        wait_until(are_silent, "nodes to be given up")

    def damage(self, node):
        """Damages what this node sends to others, until the test is done: the line that does."""
        node.stop()
        node.behind = f"{node.host.address}:{BEHIND_PORT}"
        node.join((*self.nodes, self.newcomer))
        line = node.host.call(DamagingLine, node.behind, node.peer_address)
        self.addCleanup(self.mend, node, line)
        node.host.call(line.start)
        self.start_nodes()
        return line

    def mend(self, node, line):
        """Takes that line away."""
        node.stop()
        line.stop()
        node.behind = node.peer_address
        node.join((*self.nodes, self.newcomer))

    def new_image(self, seed, layers=LAYERS):
        """An image that is in the bucket, and that no node knows."""
        image = Image(seed, layers)
        self.network.storage.call(image.push, wire.Client(self.seeder.address))
        self.line.take()
        return image

    def check_storm(self, storm, copies):
        """All clients get their image, and the bucket is asked for no more than so many copies of it, and not more
        often than for that."""
        failed, broken = storm.end()
        self.assertEqual({node.host.name: texts for node, texts in failed.items()}, {})
        asked, came = self.line.take()
        blob_bytes = sum(count for path, count in came.items() if BLOB.search(path))
        told = (f"{blob_bytes / storm.image.size_bytes:.3f} copies, {asked.total()} requests, "
                f"broken and mended: {dict(broken)}")
        print(f"  {told}", flush=True)
        self.assertLessEqual(blob_bytes, copies * storm.image.size_bytes, told)
        self.assertLessEqual(asked.total(), copies * MOST_REQUESTS, asked)
        for node in self.nodes:
            self.assertNotIn("panicked", node.log_text(), node.host.name)


def _fetched(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read()
