"""dockerd 20.10: images of any platform. It knows neither zstd layers nor artifacts."""

import json

from case import Case
from containers import Containers
from engines import Dockerd
from images import PLATFORMS
import wire


class DockerTest(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.pusher = cls.start(Dockerd(cls.new_folder("docker")))
        cls.containers = Containers(cls.new_folder("containers"), cls.registry.address)
        cls.load(cls.images.large, "large:1")

    @classmethod
    def load(cls, layout, image, *options):
        """Gives the pushing dockerd one image of a layout, in the only format it reads."""
        archive = cls.new_folder("archive") / "image.tar"
        cls.containers.skopeo(
            "copy", "-q", *options, f"oci:{layout.path}:1", f"docker-archive:{archive}:{image}")
        cls.pusher.docker("load", "--quiet", "--input", archive)

    def test_a_second_empty_dockerd_pulls_what_the_first_pushed(self):
        target = self.name("team/app:1")
        self.pusher.docker("tag", "large:1", target)
        self.pusher.docker("push", "--quiet", target)
        self.client.check_tree("team/app", "1")
        puller = self.start(Dockerd(self.new_folder("docker")))
        puller.docker("pull", "--quiet", target)
        self.assertEqual(puller.identity(target), self.pusher.identity(target))
        pulled = puller.docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", target)
        manifest = self.client.manifest("team/app", "1")
        self.assertEqual(pulled.strip().partition("@")[2], wire.digest_of(manifest))

    def test_layers_pushed_before_are_mounted_from_the_other_repository(self):
        first, second = self.name("mount/first:1"), self.name("mount/second:1")
        self.pusher.docker("tag", "large:1", first)
        self.pusher.docker("push", "--quiet", first)
        self.pusher.docker("tag", "large:1", second)
        said = self.pusher.docker("push", second)
        self.assertEqual(said.count("Mounted from "), 6, said)
        self.client.check_tree("mount/second", "1")

    def test_an_index_is_pushed_and_each_platform_is_pulled_from_it(self):
        repository = "docker/index"
        images = {platform: self.push_platform(repository, *platform) for platform in PLATFORMS}
        target = self.name(f"{repository}:1")
        self.pusher.docker("manifest", "create", "--insecure", target, *images.values())
        self.pusher.docker("manifest", "push", "--insecure", target)
        # The index, and of each platform the manifest, the config and its own layer;
        # one layer is everyone's.
        self.assertEqual(len(self.client.check_tree(repository, "1")), 1 + 3 * 4 + 1)
        shown = self.pusher.docker("manifest", "inspect", "--insecure", target)
        self.assertEqual(len(json.loads(shown)["manifests"]), 4)
        puller = self.start(Dockerd(self.new_folder("docker")))
        for (architecture, variant), image in images.items():
            platform = "/".join(filter(None, ("linux", architecture, variant)))
            puller.docker("pull", "--quiet", "--platform", platform, target)
            self.assertEqual(puller.identity(target), self.pusher.identity(image), platform)

    def push_platform(self, repository, architecture, variant):
        """Pushes one image of the index on its own; its name."""
        image = self.name(f"{repository}:{architecture}")
        options = ["--override-arch", architecture]
        options += ["--override-variant", variant] if variant else []
        self.load(self.images.index, image, *options)
        self.pusher.docker("push", "--quiet", image)
        return image
