"""A mirror, an upstream, or the line between them that breaks while a layer is fetched.

Nothing half of the layer is left, no client hangs, and the next pull succeeds.
"""

import contextlib
import threading

from mirror_case import MirrorCase
from process import CommandFailed
from relay import Relay

LAYER_BYTES = 16_000_000
# How much of the layer has come when the mirror is killed, and who is pulling it.
MOMENTS = ((0.1, "podman"), (0.5, "containerd"), (0.9, "dockerd"))
# Clients that give up soon by themselves: dockerd tries for minutes.
IMPATIENT = ("podman", "containerd")
# For a client to get its image or to give up. dockerd waits 5, 10, 15 seconds between attempts.
CLIENT_SECONDS = 120


class MirrorCrashTest(MirrorCase):
    @classmethod
    def prepare(cls):
        cls.line = cls.start(Relay(cls.upstreams["docker.io"].address))
        cls.special_settings = {"docker.io": {"url": f"http://{cls.line.address}"}}

    def test_a_layer_in_the_middle_of_which_the_mirror_is_killed_is_fetched_again(self):
        for fraction, kind in MOMENTS:
            with self.subTest(f"{fraction:.0%} there", kind=kind):
                image = f"docker.io/crash/at-{fraction * 100:.0f}:1"
                layout, layer = self.seed_slow(image)
                engine = self.new_engine(kind)
                with self.pulling(engine, image, fraction):
                    self.registry.kill()
                    self.line.cut()
                    self.assertEqual(self.stored(layer), {})
                    self.registry.start()
                self.check_pulled(engine, image, layout)

    def test_a_layer_at_the_end_of_which_the_mirror_is_killed_is_whole_or_fetched_again(self):
        image = "docker.io/crash/at-end:1"
        layout, layer = self.seed_slow(image)
        engine = self.new_engine("podman")
        with self.pulling(engine, image, 0.999):
            # A few bytes are left: they arrive, and all is made visible, while it is killed.
            self.line.release()
            self.registry.kill()
            sizes = [size for key, size in self.stored(layer).items() if key.endswith("/data")]
            self.assertIn(sizes, ([], [len(layout.read(layer))]))
            self.registry.start()
        self.check_pulled(engine, image, layout)

    def test_an_upstream_that_dies_in_the_middle_of_a_layer_leaves_no_half_of_it(self):
        for kind in IMPATIENT:
            with self.subTest(kind):
                image = f"docker.io/crash/under-{kind}:1"
                layout, layer = self.seed_slow(image)
                engine = self.new_engine(kind)
                upstream = self.upstreams["docker.io"]
                with self.pulling(engine, image, 0.5) as failures:
                    upstream.kill()
                    self.line.cut()
                upstream.start()
                self.assertEqual(len(failures), 1, "it cannot have succeeded")
                self.assertEqual(self.stored(layer), {})
                self.check_pulled(engine, image, layout)

    def test_a_line_that_breaks_in_the_middle_of_a_layer_goes_unnoticed_by_podman(self):
        # Which gives up at the first body that ends too soon.
        image = "docker.io/crash/line:1"
        layout, _ = self.seed_slow(image)
        engine = self.new_engine("podman")
        with self.pulling(engine, image, 0.5) as failures:
            self.line.cut()
        self.assertEqual(failures, [])
        self.check_pulled(engine, image, layout)

    def seed_slow(self, image):
        """An image of one large layer; its layout, and the layer's digest."""
        layout = self.seed(image, self.new_image(image, layer_bytes=LAYER_BYTES, layers=1))
        digests = layout.tree(layout.digest("1"))
        return layout, max(digests, key=lambda digest: len(layout.read(digest)))

    @contextlib.contextmanager
    def pulling(self, engine, image, fraction):
        """An engine is pulling, and so much of the layer has come and no more.

        At the end it pulls no more, and the list has what it failed with.
        """
        failures = []

        def attempt():
            # Some clients give up, and some wait until the mirror is back.
            try:
                engine.pull(image)
            except CommandFailed as error:
                failures.append(error)

        self.line.hold_after(fraction * LAYER_BYTES)
        client = threading.Thread(target=attempt)
        client.start()
        try:
            self.line.wait_until_held()
            yield failures
        finally:
            self.line.release()
            client.join(CLIENT_SECONDS)
        self.assertFalse(client.is_alive(), "the client hangs")

    def check_pulled(self, engine, image, layout):
        """The engine gets the image now, and the mirror holds all of it."""
        engine.pull(image)
        engine.check(image, layout)
        held = self.client.check_tree(*image.split(":"))
        self.assertEqual(held, layout.tree(layout.digest("1")))

    def stored(self, digest):
        """Everything the storage has of a blob, finished or not, with its size."""
        return {key: size for key, size in self.store.objects().items()
                if digest.partition(":")[2] in key}
