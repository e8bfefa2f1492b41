"""What tests of mirrors start from: three registries, one Millpond before them, engines on it."""

import contextlib
import json

from case import Case
from containers import Containers
from images import noise
from layout import LayoutWriter, stored
from mirror import Mirror
from mirror_clients import KINDS
from process import free_port, wait_until
from upstreams import OpenRegistry, PasswordRegistry, TokenRegistry
from wire import Client

# Registries, by the names they have in the world.
UPSTREAMS = {"docker.io": PasswordRegistry, "ghcr.io": TokenRegistry, "quay.io": OpenRegistry}
# quay.io is asked about a tag each time, the others once.
FRESHNESS = {
    "docker.io": {"tag_ttl": "1h"}, "ghcr.io": {"tag_ttl": "1h"},
    "quay.io": {"tag_ttl": "0s", "negative_ttl": "0s"}}
LAYER_BYTES = 700_000


class MirrorCase(Case):
    """A group of tests on one mirror of three registries."""

    # Settings that are other than usual, by the upstream's name; new names are no registries.
    special_settings = {}

    @classmethod
    def setUpClass(cls):
        if cls.shared.registry != "millpond":
            raise RuntimeError(f"{cls.shared.registry} does not mirror several registries")
        cls.images = cls.shared.images
        cls.upstreams = {
            name: cls.start(kind(cls.new_folder(name))) for name, kind in UPSTREAMS.items()}
        cls.registry_mirror = f"127.0.0.1:{free_port()}"
        cls.prepare()
        cls.store = cls.new_store()
        cls.registry = cls.start(
            Mirror(cls.store, cls.new_folder("registry"), cls.upstream_settings()))
        cls.client = Client(cls.registry.address)
        cls.seeder = Containers(cls.new_folder("seeder"), cls.registry.address)
        names = [upstream["name"] for upstream in cls.upstream_settings()]
        cls.podman_mirrors = {name: [f"{cls.registry.address}/{name}"] for name in names}
        cls.containerd_hosts = {name: [cls.registry.address] for name in names}

    @classmethod
    def prepare(cls):
        """What is to be done between the start of the upstreams and that of the mirror."""

    @classmethod
    def upstream_settings(cls):
        """The list `upstreams` of the configuration."""
        usual = {
            name: upstream.mirror_settings() | FRESHNESS[name]
            for name, upstream in cls.upstreams.items()}
        usual["docker.io"]["listen"] = cls.registry_mirror
        return [
            {"name": name} | usual.get(name, {}) | cls.special_settings.get(name, {})
            for name in [*usual, *(name for name in cls.special_settings if name not in usual)]]

    @classmethod
    def new_image(cls, seed, layer_bytes=LAYER_BYTES, layers=3):
        """An image that no other test has."""
        writer = LayoutWriter(cls.new_folder("image"))
        parts = [
            writer.add_layer({f"file-{n}": noise(f"{seed} {n}", layer_bytes)}, stored)
            for n in range(layers)]
        writer.name("1", writer.add_image(parts))
        return writer.finish()

    def seed(self, image, layout=None):
        """Puts an image where it is to be mirrored from, under a name like `ghcr.io/team/app:1`."""
        layout = layout or self.new_image(image)
        registry, _, name = image.partition("/")
        upstream = self.upstreams[registry]
        self.seeder.skopeo(
            "copy", "-q", "--all", "--preserve-digests", *upstream.push_options(),
            f"oci:{layout.path}:1", f"docker://{upstream.address}/{name}")
        return layout

    def new_engine(self, kind):
        """An engine with nothing in it."""
        return KINDS[kind](self)

    def pull(self, kind, images):
        """An empty engine pulls `{image: layout}` and has the same then; the engine."""
        engine = self.new_engine(kind)
        for image, layout in images.items():
            engine.pull(image)
            engine.check(image, layout)
        return engine

    @contextlib.contextmanager
    def upstreams_stopped(self):
        """None of the mirrored registries is there."""
        for upstream in self.upstreams.values():
            upstream.kill()
        try:
            yield
        finally:
            for upstream in self.upstreams.values():
                upstream.start()

    def check_sent_once(self, images):
        """Every byte of the blobs of these images was sent to the mirror, and only once."""
        for image, layout in images.items():
            upstream = self.upstreams[image.partition("/")[0]]
            expected = blob_bytes(layout)

            def sent():
                return {digest: upstream.blob_bytes()[digest] for digest in expected}

            # Written down when the answer is over, which may be a moment after it arrived.
            wait_until(lambda: min(sent().values()) > 0, f"{image} in the log of its registry")
            self.assertEqual(sent(), expected, image)


def blob_bytes(layout):
    """The size of each blob of the image `1` of a layout."""
    manifest = json.loads(layout.read(layout.digest("1")))
    return {part["digest"]: part["size"] for part in (manifest["config"], *manifest["layers"])}
