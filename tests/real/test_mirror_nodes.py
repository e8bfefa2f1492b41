"""Three nodes on one bucket, a dockerd for each, and one image of another registry that nobody has yet."""

import collections

from containers import Containers
from engines import Dockerd
from images import noise
from layout import LayoutWriter, stored
from mirror_clients import identity
from nodes import NODES, Node, NodesCase
from process import free_port, wait_until
from together import together
from upstreams import LOG_LINE, TokenRegistry

NAME = "docker.io"
REPOSITORY = "team/app"
# Longer than what nodes check as a whole, and shorter.
LAYERS = (30_000_000, 12_000_000, 2_000_000, 10_000)


class MirrorNode(Node):
    """A node that mirrors a registry, at an address that belongs to that alone."""

    upstream = {}

    def __init__(self, *args):
        self.mirror_address = f"127.0.0.1:{free_port()}"
        super().__init__(*args)

    def settings(self):
        upstream = {"name": NAME, "listen": self.mirror_address, "tag_ttl": "1h"}
        return super().settings() | {"upstreams": [upstream | self.upstream]}


class MirrorNodesTest(NodesCase):
    node_kind = MirrorNode

    @classmethod
    def setUpClass(cls):
        cls.upstream = cls.start(TokenRegistry(cls.new_folder("upstream")))
        MirrorNode.upstream = cls.upstream.mirror_settings()
        super().setUpClass()

    def test_dockerds_of_all_nodes_that_pull_at_once_cost_one_request_for_each_object(self):
        layout = self.seed()
        engines = [self.new_engine(node) for node in self.nodes]
        image = f"{REPOSITORY}:1"
        before = self.requests()
        failures = together([lambda engine=engine: engine.docker("pull", "--quiet", image)
                             for engine in engines])
        self.assertEqual(failures, [])
        for engine in engines:
            self.assertEqual(engine.identity(image), identity(layout))
        expected = {digest: 1 for digest in layout.tree(layout.digest("1"))} | {"1": 1}
        # The tag's manifest comes with it.
        del expected[layout.digest("1")]
        wait_until(lambda: len(self.requests() - before) >= len(expected), "the log of the upstream")
        self.assertEqual(dict(self.requests() - before), expected)
        print(f"  {NODES} dockerds at once: {len(expected)} objects, one GET each", flush=True)

    def seed(self):
        """Puts an image at the upstream."""
        writer = LayoutWriter(self.new_folder("image"))
        layers = [writer.add_layer({f"file-{n}": noise(f"nodes {n}", size)}, stored)
                  for n, size in enumerate(LAYERS)]
        writer.name("1", writer.add_image(layers))
        layout = writer.finish()
        seeder = Containers(self.new_folder("seeder"), self.nodes[0].address)
        seeder.skopeo("copy", "-q", "--preserve-digests", *self.upstream.push_options(),
                      f"oci:{layout.path}:1", f"docker://{self.upstream.address}/{REPOSITORY}:1")
        return layout

    def new_engine(self, node):
        """A dockerd with nothing in it, to which a node is Docker Hub."""
        engine = Dockerd(self.new_folder("docker"), node.mirror_address)
        self.addCleanup(engine.stop)
        return engine.start()

    def requests(self):
        """How often the upstream gave each manifest and blob, by its tag or digest."""
        asked = collections.Counter()
        for line in LOG_LINE.finditer(self.upstream.log_text()):
            path = line["path"].partition("?")[0]
            if line["method"] == "GET" and line["status"] in ("200", "206") and REPOSITORY in path:
                asked[path.rpartition("/")[2]] += 1
        return asked
