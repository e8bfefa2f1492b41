"""kill -9 of the registry at every step of a push.

Whatever was acknowledged before is there after the restart, byte for byte; no
tag points at missing content; the client goes on where it stopped, or begins
again, and succeeds.
"""

import contextlib
import http.client
import threading
import time

from case import Case
from process import wait_until
from push import CHUNK_BYTES, STEPS, Image, Push, go_on
import wire

REPOSITORY = "crash/app"
# Kills spread evenly over the time a whole push takes.
MOMENTS = 20
# What a client sees of a registry that dies under it.
CONNECTION_LOST = (OSError, http.client.HTTPException)


class Killed(Exception):
    """The registry was killed at the step that was asked for."""


class CrashTest(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # What `latest` is before anything goes wrong.
        Push(cls.client, REPOSITORY, Image("old")).run()

    def setUp(self):
        self.latest = [self.client.manifest(REPOSITORY, "latest")]

    def test_a_push_that_is_killed_at_any_step_loses_nothing(self):
        for step in STEPS:
            with self.subTest(step):
                push = self.new_push(step)
                push.at_step = self.killer(step)
                self.assertRaises(Killed, push.run)
                self.restart()
                self.check_sound(push)
                Push(self.client, REPOSITORY, push.image).run()
                self.check_whole(push.image)

    def test_an_upload_goes_on_where_it_stood_when_the_registry_was_killed(self):
        for step in STEPS[:STEPS.index("layer_acknowledged")]:
            with self.subTest(step):
                push = self.new_push(f"resume {step}")
                push.at_step = self.killer(step)
                self.assertRaises(Killed, push.run)
                push.at_step = go_on
                self.restart()
                try:
                    push.resume()
                except wire.UnexpectedAnswer:
                    # The one case in which there may be nothing to go on with.
                    self.assertEqual(step, "final_put_sent")
                    push.run()
                self.check_sound(push)

    def test_a_chunk_whose_answer_was_lost_may_be_sent_again(self):
        push = self.new_push("again")
        push.at_step = self.killer("first_chunk_sent")
        self.assertRaises(Killed, push.run)
        push.at_step = go_on
        self.restart()
        answer = self.client.request(
            "PATCH", push.location, push.image.layer[:CHUNK_BYTES],
            Content_Range=f"0-{CHUNK_BYTES - 1}", Content_Type="application/octet-stream")
        # 416: some of it had been stored, and is to be gone on from.
        self.assertIn(answer.status, (202, 416), answer)
        push.stored_bytes = CHUNK_BYTES if answer.status == 202 else 0
        push.resume()
        self.check_sound(push)

    def test_a_push_that_is_killed_at_any_moment_loses_nothing(self):
        started = time.monotonic()
        Push(self.client, REPOSITORY, Image(f"timing {self.driver}")).run()
        whole = time.monotonic() - started
        self.latest = [self.client.manifest(REPOSITORY, "latest")]
        for moment in range(MOMENTS):
            with self.subTest(moment=moment, of=MOMENTS, seconds=whole):
                push = self.new_push(f"moment {moment}")
                self.kill_during(push.run, whole * moment / MOMENTS)
                self.restart()
                self.check_sound(push)
                Push(self.client, REPOSITORY, push.image).run()
                self.check_whole(push.image)

    def test_a_tag_that_is_made_or_deleted_in_a_kill_is_whole_or_not_there(self):
        manifest = self.latest[0]

        def make(tag):
            self.client.push_manifest(REPOSITORY, tag, manifest)

        def delete(tag):
            self.client.expect(202, "DELETE", f"/v2/{REPOSITORY}/manifests/{tag}")

        for name, change in (("make", make), ("delete", delete)):
            seconds = self.time_change(make, delete, change)
            broken = []
            for moment in range(MOMENTS):
                tag = f"{name}-{moment}"
                if change is delete:
                    make(tag)
                self.kill_during(lambda: change(tag), seconds * moment / MOMENTS)
                self.restart()
                answer = self.client.get_manifest(REPOSITORY, tag)
                if tag in self.client.tags(REPOSITORY) and answer.body != manifest:
                    broken.append((f"{moment} of {MOMENTS}", str(answer)))
                # The client tries again.
                make(tag)
                delete(tag)
                self.assertNotIn(tag, self.client.tags(REPOSITORY))
            with self.subTest(name, seconds=round(seconds, 4)):
                self.assertEqual(broken, [], "listed, but not to be had")

    def time_change(self, make, delete, change):
        """How long a change to a tag takes, when everything is warm."""
        make("warm")
        if change is make:
            delete("warm")
        started = time.monotonic()
        change("warm")
        return time.monotonic() - started

    def test_a_deletion_that_was_acknowledged_stays(self):
        push = self.new_push("deleted")
        push.run()
        (tag,) = set(push.tags) - {"latest"}
        self.client.expect(202, "DELETE", f"/v2/{REPOSITORY}/manifests/{tag}")
        self.restart()
        self.assertNotIn(tag, self.client.tags(REPOSITORY))
        self.assertEqual(self.client.get_manifest(REPOSITORY, tag).status, 404)
        self.client.check_tree(REPOSITORY, "latest")

    def test_sigterm_lets_a_push_in_flight_finish(self):
        push = self.new_push("drained")
        stopping = threading.Event()

        def stop_midway(step):
            if step == "final_put_half_sent":
                stopper.start()
                # Draining has begun when new connections are refused.
                wait_until(self.refuses, "the registry to take no more connections")
                stopping.set()

        stopper = threading.Thread(target=self.registry.stop)
        push.at_step = stop_midway
        push.begin()
        push.chunk("first_chunk", 0)
        push.chunk("second_chunk", CHUNK_BYTES)
        push.finish(2 * CHUNK_BYTES)
        stopper.join()
        self.assertTrue(stopping.is_set())
        self.registry.start()
        self.check_sound(push)

    def restart(self):
        """Kills the registry, unless it is dead, and starts it on what it left."""
        self.registry.kill()
        self.registry.start()

    def new_push(self, seed):
        """A push of an image of its own, over the `latest` that is there."""
        push = Push(self.client, REPOSITORY, Image(f"{self.driver} {seed}"))
        push.tags["latest"] = self.latest
        return push

    def killer(self, fatal_step):
        """What kills the registry at a step and stops the client there."""
        def at_step(step):
            if step == fatal_step:
                self.registry.kill()
                raise Killed(step)
        return at_step

    def kill_during(self, work, seconds):
        """Kills the registry so many seconds into a client's work."""
        def attempt():
            with contextlib.suppress(*CONNECTION_LOST):
                work()

        client = threading.Thread(target=attempt)
        client.start()
        client.join(seconds)
        self.registry.kill()
        client.join(wire.TIMEOUT_SECONDS)
        self.assertFalse(client.is_alive(), "the client hangs")

    def check_sound(self, push):
        """What was acknowledged is there, and every tag leads to all of its content."""
        for data in push.blobs:
            self.client.check_blob(REPOSITORY, wire.digest_of(data), len(data))
        tags = self.client.tags(REPOSITORY)
        for tag, allowed in push.tags.items():
            if len(allowed) == 1:
                self.assertIn(tag, tags)
            if tag in tags:
                self.assertIn(self.client.manifest(REPOSITORY, tag), allowed, tag)
        for tag in {"latest", *push.tags} & set(tags):
            self.client.check_tree(REPOSITORY, tag)
        self.latest = [self.client.manifest(REPOSITORY, "latest")]

    def check_whole(self, image):
        """The image is `latest`, with everything in it."""
        self.assertEqual(self.client.manifest(REPOSITORY, "latest"), image.manifest)
        self.client.check_tree(REPOSITORY, "latest")
        self.latest = [image.manifest]

    def refuses(self):
        """Whether the registry takes no new connection."""
        try:
            return self.client.request("GET", "/v2/").status == 503
        except CONNECTION_LOST:
            return True
