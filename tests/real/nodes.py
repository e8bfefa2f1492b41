"""Several Millponds on one bucket, and a load balancer before them."""

import re
import urllib.request

from case import Case
from process import free_port, wait_until
from registries import Millpond
from round_robin import RoundRobin
import wire

NODES = 3


class Node(Millpond):
    """A Millpond that has others beside it."""

    def __init__(self, *args):
        self.peer_address = f"127.0.0.1:{free_port()}"
        super().__init__(*args)

    def join(self, nodes):
        """Tells it of all nodes, before it starts."""
        self.write(self.settings() | self.cluster(nodes))

    def cluster(self, nodes):
        """More sections of its configuration."""
        return {"cluster": {
            "listen": self.peer_address,
            "members": [node.peer_address for node in nodes],
            "secret": "a secret of the nodes under test",
            "warm_up": "0s",
        }}

    def known(self):
        """How many nodes it knows, itself among them."""
        with urllib.request.urlopen(f"http://{self.admin_address}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        return int(re.search(r"^millpond_cluster_members (\d+)$", text, re.MULTILINE)[1])


class NodesCase(Case):
    """Tests of several nodes; `self.client` speaks to the load balancer, `self.clients` to each node."""

    drivers = ("minio",)
    # What a node is.
    node_kind = Node

    @classmethod
    def setUpClass(cls):
        cls.store = cls.new_store()
        cls.images = cls.shared.images
        cls.nodes = [cls.node_kind(cls.store, cls.new_folder("node"), cls.registry_settings)
                     for _ in range(NODES)]
        for node in cls.nodes:
            node.join(cls.nodes)
            cls.start(node)
        wait_until(lambda: all(node.known() == NODES for node in cls.nodes), "nodes to find each other")
        # What the report quotes when a test fails.
        cls.registry = cls.nodes[0]
        cls.clients = [wire.Client(node.address) for node in cls.nodes]
        cls.balancer = cls.start(RoundRobin([node.address for node in cls.nodes]))
        cls.client = wire.Client(cls.balancer.address)

    def check_content(self):
        """Everything is stored under its own digest; the digests."""
        bucket, digests = self.store.bucket, set()
        for key in bucket.objects("docker/registry/v2/blobs/"):
            algorithm, hashed = re.fullmatch(r".*/blobs/(\w+)/../(\w+)/data", key).groups()
            digest = wire.digest_of(bucket.read(key), algorithm)
            self.assertEqual(digest, f"{algorithm}:{hashed}")
            digests.add(digest)
        return digests
