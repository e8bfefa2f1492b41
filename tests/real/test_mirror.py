"""One mirror of three registries: one with passwords, one with tokens, one open to all.

dockerd, containerd and podman pull through it as their users set it up, and push beside it.
"""

import contextlib
import json
import socket
import threading
import time

from mirror_case import MirrorCase, blob_bytes
from mirror_clients import KINDS
from process import CommandFailed, free_port

# A client that waits longer for a mirror is as good as hanging.
PATIENCE_SECONDS = 60
NOT_TO_BE_WRITTEN = "mirrors docker.io and cannot be written to: push there"
# Registries whose images the mirror cannot give, each for another reason, and what it says then.
WITHOUT_IMAGES = {
    "denied.test": 403, "gone.test": 502, "plain.test": 502, "refused.test": 404,
    "silent.test": 504, "unknown.test": 404}


class MirrorTest(MirrorCase):
    @classmethod
    def prepare(cls):
        # It takes connections, because the system does that for it, and never says a word.
        silent = socket.create_server(("127.0.0.1", 0))
        cls.addClassCleanup(silent.close)
        open_to_all = cls.upstreams["quay.io"].mirror_settings()
        cls.special_settings = {
            "silent.test": {
                "url": f"http://127.0.0.1:{silent.getsockname()[1]}", "plain_http": "allow",
                "response_timeout": "500ms"},
            "gone.test": {"url": f"http://127.0.0.1:{free_port()}", "plain_http": "allow"},
            # It has no TLS, and no password is sent without.
            "plain.test": {"url": open_to_all["url"].replace("http:", "https:")},
            "denied.test": {
                "url": cls.upstreams["docker.io"].mirror_settings()["url"], "plain_http": "allow"},
            "refused.test": open_to_all | {"repositories": {"deny": ["**"]}},
        }

    # --- pulling

    def test_dockerd_pulls_cold_then_warm_then_with_every_upstream_stopped(self):
        self.cold_warm_stopped("dockerd", "docker.io/library/for-docker:1", "docker.io/user/app:1")

    def test_containerd_pulls_cold_then_warm_then_with_every_upstream_stopped(self):
        self.cold_warm_stopped("containerd", "docker.io/library/for-ctr:1", "ghcr.io/ctr/app:1")

    def test_podman_pulls_cold_then_warm_then_with_every_upstream_stopped(self):
        self.cold_warm_stopped("podman", "docker.io/library/for-podman:1", "ghcr.io/podman/app:1")

    def cold_warm_stopped(self, kind, *names):
        """Three empty engines in a row: the first fetches, the others disturb nobody."""
        images = {name: self.seed(name) for name in names}
        self.pull(kind, images)
        self.check_sent_once(images)
        asked = self.registry.requests_upstream()
        self.pull(kind, images)
        self.assertEqual(self.registry.requests_upstream(), asked)
        with self.upstreams_stopped():
            self.pull(kind, images)
        self.check_sent_once(images)

    def test_a_large_image_is_pulled_by_all_at_once_while_all_push_to_hosted_names(self):
        pulled, pushed = "docker.io/library/large:1", "docker.io/team/base:1"
        large = {pulled: self.seed(pulled, self.images.large)}
        small = {pushed: self.seed(pushed)}
        pullers = {kind: self.new_engine(kind) for kind in KINDS}
        pushers = {kind: self.pull(kind, small) for kind in KINDS}
        works = {}
        for kind in KINDS:
            target = self.name("hosted", f"{kind}:1")
            works[f"{kind} pulls"] = lambda e=pullers[kind]: e.pull(pulled)
            works[f"{kind} pushes"] = lambda e=pushers[kind], t=target: e.push(pushed, t)
        self.together(works)
        for kind, engine in pullers.items():
            engine.check(pulled, large[pulled])
            self.client.check_tree(f"hosted/{kind}", "1")
        self.check_sent_once(large)
        with self.upstreams_stopped():
            self.pull("dockerd", large)

    def test_every_platform_of_an_index_comes_through(self):
        layout = self.seed("ghcr.io/team/index:1", self.images.index)
        expected = layout.tree(layout.digest("1"))
        self.assertEqual(self.client.check_tree("ghcr.io/team/index", "1"), expected)
        with self.upstreams_stopped():
            self.assertEqual(self.client.check_tree("ghcr.io/team/index", "1"), expected)

    def test_a_token_is_asked_for_once_and_in_the_name_of_the_mirror(self):
        tokens = self.upstreams["ghcr.io"].tokens
        image = "ghcr.io/team/tokens:1"
        images = {image: self.seed(image)}
        del tokens.given[:]
        self.pull("containerd", images)
        self.assertEqual(tokens.given, [("millpond", ("repository:team/tokens:pull",))])

    def test_what_the_mirror_cannot_give_is_pulled_from_the_next_place(self):
        direct = self.upstreams["quay.io"].address
        for registry, status in WITHOUT_IMAGES.items():
            self.containerd_hosts[registry] = [self.registry.address, direct]
            self.podman_mirrors[registry] = [f"{self.registry.address}/{registry}", direct]
            for kind in ("containerd", "podman"):
                with self.subTest(registry, kind=kind):
                    name = f"{registry.removesuffix('.test')}/{kind}"
                    layout = self.seed(f"quay.io/{name}:1")
                    target = f"/v2/{name}/manifests/1?ns={registry}"
                    self.client.expect(status, "GET", target)
                    self.pull(kind, {f"{registry}/{name}:1": layout})
                    self.check_sent_once({f"quay.io/{name}:1": layout})

    # --- fetching before anybody pulls

    def test_what_was_prewarmed_is_pulled_with_every_upstream_stopped(self):
        names = ("docker.io/library/warm:1", "ghcr.io/team/warm:1", "quay.io/team/warm:1")
        images = {name: self.seed(name) for name in names}
        said = self.registry.prewarm(*names)
        for name, layout in images.items():
            planned, warm = (line for line in said if line.startswith(f"{name}: "))
            self.assertRegex(planned, rf": {len(blob_bytes(layout))} blobs, [0-9.]+ MiB$")
            self.assertRegex(warm, r": warm, [0-9.]+ MiB in ")
        self.assertRegex(said[-1], r"^3 of 3 images warm: [0-9.]+ MiB in ")
        self.assertEqual(len(said), 2 * len(images) + 1, said)
        self.check_sent_once(images)
        with self.upstreams_stopped():
            for kind in KINDS:
                self.pull(kind, images)
        self.check_sent_once(images)

    def test_all_platforms_of_what_was_prewarmed_are_there(self):
        image = "ghcr.io/team/warm-index:1"
        layout = self.seed(image, self.images.index)
        self.assertIn("1 of 1 image warm", self.registry.prewarm(image)[-1])
        with self.upstreams_stopped():
            held = self.client.check_tree("ghcr.io/team/warm-index", "1")
        self.assertEqual(held, layout.tree(layout.digest("1")))

    def test_what_cannot_be_prewarmed_is_told_of_and_the_rest_is_fetched(self):
        image = "docker.io/team/warm-beside:1"
        images = {image: self.seed(image)}
        error = self.fails(lambda: self.registry.prewarm("gone.test/team/app:1", image))
        self.assertIn("ended with 1", error)
        self.assertRegex(error, r"gone\.test/team/app:1: .*502")
        self.assertIn("1 of 2 images warm, 1 failed", error)
        with self.upstreams_stopped():
            self.pull("podman", images)

    # --- tags that move

    def test_a_tag_that_is_not_believed_costs_a_question_and_no_blob(self):
        images = {"quay.io/team/asked:1": self.seed("quay.io/team/asked:1")}
        self.pull("podman", images)
        before = self.registry.requests_upstream()
        for kind in KINDS:
            self.pull(kind, images)
        after = self.registry.requests_upstream()
        grown = {labels for labels in after if after[labels] != before.get(labels)}
        self.assertEqual(grown, {'kind="manifest",outcome="ok",upstream="quay.io"'})
        self.check_sent_once(images)
        with self.upstreams_stopped():
            for kind in KINDS:
                self.pull(kind, images)
            stale = self.client.get_manifest("quay.io/team/asked", "1")
        self.assertIn("Warning", stale.headers, stale)

    def test_a_tag_that_moved_is_followed_when_it_is_no_longer_believed(self):
        for registry, moves in (("quay.io", True), ("docker.io", False)):
            image = f"{registry}/team/moving:1"
            old = self.seed(image)
            self.pull("podman", {image: old})
            new = self.seed(image, self.new_image(f"{image} moved"))
            for kind in KINDS:
                with self.subTest(registry, kind=kind):
                    self.pull(kind, {image: new if moves else old})

    # --- upstreams that are gone

    def test_a_mirror_that_is_restarted_without_its_upstreams_serves_what_it_holds(self):
        names = ("docker.io/team/kept:1", "quay.io/team/kept:1")
        images = {name: self.seed(name) for name in names}
        self.pull("podman", images)
        with self.upstreams_stopped():
            self.registry.stop()
            self.registry.start()
            for kind in KINDS:
                self.pull(kind, images)

    def test_what_was_never_pulled_fails_soon_while_upstream_is_stopped(self):
        for kind in KINDS:
            with self.subTest(kind):
                image = f"docker.io/team/never-{kind}:1"
                layout = self.seed(image)
                engine = self.new_engine(kind)
                with self.upstreams_stopped():
                    self.fails(lambda: engine.pull(image))
                engine.pull(image)
                engine.check(image, layout)

    def test_a_half_pulled_image_fails_at_its_manifest_while_upstream_is_stopped(self):
        # quay.io is asked about its tags each time: the first pull is refused.
        for kind in KINDS:
            with self.subTest(kind), self.half_pulled("quay.io", kind) as half:
                self.refused_at_the_manifest(*half, "502 Bad Gateway")

    def test_a_half_pulled_image_whose_tag_is_believed_fails_at_its_manifest_too(self):
        # A registry that was heard of a moment ago is taken to be there, until one pull has failed.
        for kind in KINDS:
            # dockerd tells of the last place it looked, which is Docker Hub itself.
            told = "registry-1.docker.io" if kind == "dockerd" else "502 Bad Gateway"
            with self.subTest(kind), self.half_pulled("docker.io", kind) as half:
                engine, image, _ = half
                self.fails(lambda: engine.pull(image))
                self.refused_at_the_manifest(*half, told)

    @contextlib.contextmanager
    def half_pulled(self, registry, kind):
        """An empty engine, an image that the mirror holds a part of, and its layout; no upstream.

        At the end upstream is back, and the engine gets the image.
        """
        repository = f"{registry}/team/half-{kind}"
        image = f"{repository}:1"
        layout = self.seed(image)
        manifest = json.loads(self.client.manifest(repository, "1"))
        self.client.blob(repository, manifest["layers"][0]["digest"])
        engine = self.new_engine(kind)
        with self.upstreams_stopped():
            yield engine, image, layout
        engine.pull(image)
        engine.check(image, layout)

    def refused_at_the_manifest(self, engine, image, layout, told):
        """The engine is told so before it has a manifest, and asks for no blob."""
        asked_for = self.registry.blobs_asked_for()
        self.assertIn(told, self.fails(lambda: engine.pull(image)))
        self.assertEqual(self.registry.blobs_asked_for(), asked_for)
        repository, _, tag = image.partition(":")
        for reference in (tag, layout.digest("1")):
            answer = self.client.get_manifest(repository, reference)
            self.assertEqual(answer.status, 502, answer)

    def test_an_upstream_that_takes_connections_and_says_nothing_makes_nobody_hang(self):
        for kind in KINDS:
            with self.subTest(kind):
                engine = self.new_engine(kind)
                self.fails(lambda: engine.pull("silent.test/team/app:1"))
        answer = self.client.get_manifest("silent.test/team/app", "1")
        self.assertEqual(answer.status, 504, answer)

    # --- pushing

    def test_a_push_to_a_mirrored_name_is_denied_with_the_place_to_push_to(self):
        image = "docker.io/team/denied:1"
        images = {image: self.seed(image)}
        # Of one nothing is there, of the other everything but the tag.
        targets = ("docker.io/library/x:1", "docker.io/team/denied:2")
        for kind in KINDS:
            engine = self.pull(kind, images)
            for target in targets:
                with self.subTest(kind, target=target):
                    error = self.fails(lambda: engine.push(image, self.name(target)))
                    # containerd shows the status and keeps the message to itself.
                    told = "403 Forbidden" if kind == "containerd" else NOT_TO_BE_WRITTEN
                    self.assertIn(told, error)
        for target in targets:
            self.assertEqual(self.client.get_manifest(*target.split(":")).status, 404)

    def fails(self, work):
        """Does what must fail, and soon; what the client said."""
        started = time.monotonic()
        with self.assertRaises(CommandFailed) as caught:
            work()
        self.assertLess(time.monotonic() - started, PATIENCE_SECONDS, str(caught.exception))
        return str(caught.exception)

    def together(self, works):
        """Does `{what: work}` all at once, and all of it succeeds."""
        barrier, failures = threading.Barrier(len(works)), {}

        def run(what, work):
            barrier.wait()
            try:
                work()
            except Exception as error:  # Whatever it is, it is the result of this work.
                failures[what] = str(error)

        threads = [threading.Thread(target=run, args=item) for item in works.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, {})
