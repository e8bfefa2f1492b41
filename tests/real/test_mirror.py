"""One mirror of three registries: one with passwords, one with tokens, one open to all.

dockerd, containerd and podman pull through it as their users set it up, and push beside it.
"""

import socket
import threading
import time

from mirror_case import MirrorCase
from mirror_clients import KINDS
from process import CommandFailed

# A client that waits longer for a mirror is as good as hanging.
PATIENCE_SECONDS = 60
NOT_TO_BE_WRITTEN = "mirrors docker.io and cannot be written to: push there"


class MirrorTest(MirrorCase):
    @classmethod
    def prepare(cls):
        # It takes connections, because the system does that for it, and never says a word.
        silent = socket.create_server(("127.0.0.1", 0))
        cls.addClassCleanup(silent.close)
        cls.special_settings = {"silent.test": {
            "url": f"http://127.0.0.1:{silent.getsockname()[1]}", "plain_http": "allow",
            "response_timeout": "500ms"}}

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

    def test_containerd_goes_on_to_the_next_host_if_the_mirror_does_not_know_the_registry(self):
        layout = self.seed("quay.io/team/direct:1")
        direct = self.upstreams["quay.io"].address
        self.containerd_hosts["unknown.test"] = [self.registry.address, direct]
        answer = self.client.request("GET", "/v2/team/direct/manifests/1?ns=unknown.test")
        self.assertEqual(answer.status, 404, answer)
        before = self.registry.requests_upstream()
        self.pull("containerd", {"unknown.test/team/direct:1": layout})
        self.assertEqual(self.registry.requests_upstream(), before)
        self.check_sent_once({"quay.io/team/direct:1": layout})

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
        for kind in KINDS:
            with self.subTest(kind):
                repository = f"quay.io/team/half-{kind}"
                layout = self.seed(f"{repository}:1")
                # Its manifest and nothing else.
                self.client.manifest(repository, "1")
                engine = self.new_engine(kind)
                with self.upstreams_stopped():
                    asked_for = self.registry.blobs_asked_for()
                    error = self.fails(lambda: engine.pull(f"{repository}:1"))
                    self.assertIn("502 Bad Gateway", error)
                    self.assertEqual(self.registry.blobs_asked_for(), asked_for)
                    for reference in ("1", layout.digest("1")):
                        answer = self.client.get_manifest(repository, reference)
                        self.assertEqual(answer.status, 502, answer)
                engine.pull(f"{repository}:1")
                engine.check(f"{repository}:1", layout)

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
