"""The engines that pull through a mirror, each the way its users set it up, behind one face."""

import json

from containers import Containers
from engines import Containerd, Dockerd


class Docker:
    """dockerd, to which the mirror is Docker Hub; others it knows by the mirror's path."""

    def __init__(self, case):
        self._case = case
        self._engine = Dockerd(case.new_folder("docker"), case.registry_mirror)
        case.addCleanup(self._engine.stop)
        self._engine.start()

    def pull(self, image):
        """Pulls an image by the name it has in the world."""
        self._engine.docker("pull", "--quiet", self._own_name(image))

    def check(self, image, layout):
        """What was pulled is what the layout holds."""
        name = self._own_name(image)
        self._case.assertEqual(self._engine.identity(name), identity(layout), image)
        told = self._engine.docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", name)
        self._case.assertEqual(told.strip().partition("@")[2], layout.digest("1"), image)

    def push(self, image, target):
        """Pushes what was pulled to another name."""
        self._engine.docker("tag", self._own_name(image), target)
        return self._engine.docker("push", "--quiet", target)

    def _own_name(self, image):
        registry, _, rest = image.partition("/")
        if registry == "docker.io":
            # As people write them: `app` and `team/app`.
            return rest.removeprefix("library/")
        return self._case.name(image)


class Ctr:
    """containerd by `ctr`, which asks the mirror for every registry with `?ns=`."""

    def __init__(self, case):
        self._case = case
        self._engine = Containerd(case.new_folder("containerd"), case.containerd_hosts)
        case.addCleanup(self._engine.stop)
        self._engine.start()

    def pull(self, image):
        """Pulls an image by the name it has in the world."""
        self._engine.pull(image)

    def check(self, image, layout):
        """What was pulled is what the layout holds."""
        self._case.assertLessEqual(layout.tree(layout.digest("1")), self._engine.contents(), image)
        self._case.assertIn(image, self._engine.ctr("images", "ls", "--quiet").split())

    def push(self, image, target):
        """Pushes what was pulled to another name."""
        self._engine.ctr("images", "tag", image, target)
        return self._engine.ctr("images", "push", "--plain-http", target)


class Podman:
    """podman, which tells registries apart by the mirror's path."""

    def __init__(self, case):
        self._case = case
        self._engine = Containers(
            case.new_folder("podman"), case.registry.address, case.podman_mirrors)

    def pull(self, image):
        """Pulls an image by the name it has in the world."""
        self._engine.podman("pull", "-q", image)

    def check(self, image, layout):
        """What was pulled is what the layout holds."""
        found, layers = self._engine.identity(image)
        self._case.assertEqual((f"sha256:{found}", layers), identity(layout), image)
        told = self._engine.podman("image", "inspect", "--format", "{{.Digest}}", image)
        self._case.assertEqual(told.strip(), layout.digest("1"), image)

    def push(self, image, target):
        """Pushes what was pulled to another name."""
        return self._engine.podman("push", "-q", "--tls-verify=false", image, target)


KINDS = {"dockerd": Docker, "containerd": Ctr, "podman": Podman}


def identity(layout):
    """The config's digest and the diff ids of the image `1` of a layout."""
    manifest = json.loads(layout.read(layout.digest("1")))
    config = manifest["config"]["digest"]
    return config, json.loads(layout.read(config))["rootfs"]["diff_ids"]
