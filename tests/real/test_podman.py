"""podman 4.3, buildah 1.28 and skopeo 1.9.

podman and buildah compress again what they push, so what comes back is compared
by the config's digest and the layers' diff ids; skopeo keeps every byte.
"""

import json

from case import Case
from containers import Containers
from images import PLATFORMS


class PodmanTest(Case):
    program = "podman"

    def test_a_large_image_is_pushed_and_pulled(self):
        target = self.name(f"{self.program}/large:1")
        pusher, image = self.load(self.images.large)
        self.engine(pusher)("push", "-q", "--tls-verify=false", image, target)
        self.client.check_tree(f"{self.program}/large", "1")
        self.pull_and_compare(target, pusher.identity(image))

    def test_zstd_layers_are_pushed_and_pulled(self):
        target = self.name(f"{self.program}/zstd:1")
        pusher, image = self.load(self.images.zstd)
        self.engine(pusher)(
            "push", "-q", "--tls-verify=false", "--compression-format", "zstd", image, target)
        self.client.check_tree(f"{self.program}/zstd", "1")
        manifest = json.loads(self.client.manifest(f"{self.program}/zstd", "1"))
        kinds = {layer["mediaType"].rpartition("+")[2] for layer in manifest["layers"]}
        self.assertEqual(kinds, {"zstd"})
        self.pull_and_compare(target, pusher.identity(image))

    def test_an_index_is_pushed_and_each_platform_is_pulled_from_it(self):
        target = self.name(f"{self.program}/index:1")
        pusher = self.new_engine()
        engine = self.engine(pusher)
        engine("manifest", "create", "index:1")
        engine("manifest", "add", "--all", "index:1", f"oci:{self.images.index.path}:1")
        engine("manifest", "push", "-q", "--tls-verify=false", "--all", "index:1",
               f"docker://{target}")
        index = json.loads(self.client.manifest(f"{self.program}/index", "1"))
        self.assertEqual(len(index["manifests"]), len(PLATFORMS))
        self.client.check_tree(f"{self.program}/index", "1")
        for architecture, variant in PLATFORMS:
            puller = self.new_engine()
            options = ["--arch", architecture] + (["--variant", variant] if variant else [])
            self.engine(puller)("pull", "-q", "--tls-verify=false", *options, target)
            self.assertEqual(puller.identity(target)[1], self.diff_ids(architecture))

    def new_engine(self):
        """An engine with nothing in it."""
        return Containers(self.new_folder(self.program), self.registry.address)

    def engine(self, containers):
        """The program under test, on one engine's images."""
        return containers.engine(self.program)

    def load(self, layout):
        """An engine that holds the image of a layout, and the image's id there."""
        containers = self.new_engine()
        said = self.engine(containers)("pull", "-q", f"oci:{layout.path}:1")
        return containers, said.split()[-1]

    def pull_and_compare(self, target, identity):
        """An empty engine pulls `target` and sees the same image."""
        puller = self.new_engine()
        self.engine(puller)("pull", "-q", "--tls-verify=false", target)
        self.assertEqual(puller.identity(target), identity)

    def diff_ids(self, architecture):
        """The diff ids of one image of the index."""
        layout = self.images.index
        children = json.loads(layout.read(layout.digest("1")))["manifests"]
        child = next(c for c in children if c["platform"]["architecture"] == architecture)
        manifest = json.loads(layout.read(child["digest"]))
        return json.loads(layout.read(manifest["config"]["digest"]))["rootfs"]["diff_ids"]


class BuildahTest(PodmanTest):
    program = "buildah"
