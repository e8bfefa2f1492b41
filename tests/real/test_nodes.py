"""Several nodes in front of one bucket look like one registry to those who push."""

import json
import random
import threading
import time

import conformance
from hops import CONNECTION_LOST, Upload
from images import noise
from nodes import NODES, NodesCase
from process import wait_until
from push import describe
import wire

UPLOADS = 200
CLIENTS = 8
# So many uploads are done when a node is killed, and so many when it comes back.
KILLED_AFTER = (40, 120)
STARTED_AFTER = (80, 160)
# Some are one request to the bucket, some are parts, and their pieces are copied there.
SMALL_BYTES = 600_000
LARGE_BYTES = 14_000_000
LARGE_ONE_IN = 16
# A node deletes pieces a second after the end, together with others.
DELETED_WITHIN_SECONDS = 3
SETTLE_SECONDS = 30
TAG_PUSHES = 100
ROUNDS = 30


class NodesConformanceTest(NodesCase):
    registry_settings = conformance.REGISTRY_SETTINGS

    def test_the_specification_holds_where_each_request_comes_to_another_node(self):
        passed, others = conformance.outcomes(self.client.address, self.new_folder("conformance"))
        self.assertEqual(others, {})
        self.assertEqual(passed, conformance.TESTS)


class NodesUploadsTest(NodesCase):
    def test_uploads_that_hop_between_nodes_survive_the_death_of_one(self):
        uploads = [self.new_upload(number) for number in range(UPLOADS)]
        killed = self.push_all(uploads)
        for number, client in enumerate(self.clients):
            for upload in uploads:
                with self.subTest(node=number, style=upload.style, failures=upload.failures):
                    client.check_blob(upload.repository, upload.digest, len(upload.data))
        self.assertEqual(self.check_content(), {upload.digest for upload in uploads})
        # What a node had not deleted yet when it died stays until the purge, and so does what a client gave up.
        unclean = {name for upload in uploads for name in upload.unclean}
        for node, moment in killed:
            ended = [upload for upload in uploads if upload.last == node and upload.ended]
            late = [upload for upload in ended if -1 <= moment - upload.ended <= DELETED_WITHIN_SECONDS]
            unclean |= {name for upload in late for name in upload.sessions}
        wait_until(lambda: self.sessions() <= unclean, "pieces to be deleted", SETTLE_SECONDS)
        failed = sum(1 for upload in uploads if upload.failures)
        attempts = max(1 + len(upload.failures) for upload in uploads)
        print(f"  {UPLOADS} uploads, {failed} of them interrupted, {attempts} attempts at most, "
              f"{len(self.sessions())} sessions left to the purge", flush=True)

    def new_upload(self, number):
        """An upload of one kind or another; the same in each run."""
        source = random.Random(f"upload {number}")
        most = LARGE_BYTES if source.randrange(LARGE_ONE_IN) == 0 else SMALL_BYTES
        data = noise(f"blob {number}", source.randint(0, most))
        return Upload(self.clients, f"hops/{number % 5}", data, source)

    def push_all(self, uploads):
        """Pushes all of them, some at once, and kills nodes meanwhile; which ones and when."""
        waiting, done, failures = list(reversed(uploads)), [], []
        changed = threading.Condition()

        def work():
            while True:
                with changed:
                    if not waiting or failures:
                        return
                    upload = waiting.pop()
                try:
                    upload.run()
                except Exception as error:  # Whatever it is, it is this client's result.
                    failures.append(error)
                with changed:
                    done.append(upload)
                    changed.notify_all()

        def reached(count):
            with changed:
                changed.wait_for(lambda: len(done) >= count or failures)

        threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        killed = []
        for number, (kill_after, start_after) in enumerate(zip(KILLED_AFTER, STARTED_AFTER)):
            reached(kill_after)
            self.nodes[number].kill()
            killed.append((number, time.monotonic()))
            reached(start_after)
            self.nodes[number].start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        return killed

    def sessions(self):
        """The upload sessions of which anything is stored."""
        keys = self.store.bucket.objects("millpond/v1/uploads/")
        return {key.split("/")[3] for key in keys}


class NodesAtOnceTest(NodesCase):
    """What one node has acknowledged, every other one knows."""

    def test_a_tag_is_read_on_every_node_as_it_was_pushed_last(self):
        pushed = -1
        done, failures = threading.Event(), []

        def read(client):
            while not done.is_set():
                before = pushed
                found = self.number(client.manifest("tags", "moving"))
                if found < before:
                    failures.append(f"{found} after {before} on {client.address}")

        readers = [threading.Thread(target=read, args=(client,)) for client in self.clients]
        for number in range(TAG_PUSHES):
            client = self.clients[number % NODES]
            client.push_manifest("tags", "moving", self.numbered(number))
            pushed = number
            for other in self.clients:
                self.assertEqual(self.number(other.manifest("tags", "moving")), number)
            if number == 0:
                for reader in readers:
                    reader.start()
        done.set()
        for reader in readers:
            reader.join()
        self.assertEqual(failures, [])

    def test_a_tag_that_was_deleted_on_one_node_is_gone_on_every_other(self):
        for number in range(ROUNDS):
            client = self.clients[number % NODES]
            self.client.push_manifest("tags", "fleeting", self.numbered(number))
            client.expect(202, "DELETE", "/v2/tags/manifests/fleeting")
            for other in self.clients:
                self.assertEqual(other.get_manifest("tags", "fleeting").status, 404)
                self.assertNotIn("fleeting", other.tags("tags"))

    def test_a_blob_is_used_on_other_nodes_at_once(self):
        for number in range(ROUNDS):
            one, two, three = (self.clients[(number + place) % NODES] for place in range(NODES))
            layer, config = noise(f"layer {number}", 5_000), f'{{"number": {number}}}'.encode()
            # The first thing each of them hears of it is a question with no as the answer.
            digest = wire.digest_of(layer)
            for client in self.clients:
                for repository in ("parts", "whole"):
                    target = f"/v2/{repository}/blobs/{digest}"
                    client.expect(404, "HEAD", target)
            one.push_blob("parts", layer)
            mount = f"/v2/whole/blobs/uploads/?mount={digest}&from=parts"
            two.expect(201, "POST", mount)
            three.push_blob("whole", config)
            manifest = json.dumps({
                "schemaVersion": 2, "mediaType": wire.OCI_MANIFEST,
                "config": describe("application/vnd.oci.image.config.v1+json", config),
                "layers": [describe("application/vnd.oci.image.layer.v1.tar", layer)]}).encode()
            two.push_manifest("whole", f"v{number}", manifest)
            for client in self.clients:
                client.check_tree("whole", f"v{number}")
            listed = self.numbered(number, wire.digest_of(manifest), len(manifest))
            one.push_manifest("whole", "index", listed)
            three.check_tree("whole", "index")

    def numbered(self, number, *child):
        """An index that only differs by a number, of one manifest or none."""
        children = [{"mediaType": wire.OCI_MANIFEST, "digest": digest, "size": size}
                    for digest, size in [child] if child] if child else []
        return json.dumps({
            "schemaVersion": 2, "mediaType": wire.OCI_INDEX, "manifests": children,
            "annotations": {"number": str(number)}}).encode()

    def number(self, manifest):
        """What tells it from others."""
        return int(json.loads(manifest)["annotations"]["number"])


class NodesSessionTest(NodesCase):
    """Two nodes work on one session, because a connection hangs that its client has given up."""

    def test_a_client_that_has_come_back_through_another_node_gets_its_bytes_or_a_refusal(self):
        for number in range(ROUNDS):
            source = random.Random(f"session {number}")
            with self.subTest(number):
                self.come_back(source, noise(f"came back {number}", source.randint(200_000, 3_000_000)))
        self.check_content()

    def come_back(self, source, data):
        """One such push, to its end."""
        one, two, three = source.sample(self.clients, NODES)
        begun = source.choice((0, 10_000, 100_000))
        location = self.begin(one, data[:begun])
        hanging = one.begin("PATCH", location, len(data) - begun)
        hanging.send(data[begun:source.randint(begun, len(data) - 1)])
        # To be as far as it gets.
        time.sleep(source.choice((0, 0.02)))
        location, stored = self.status(two, location)
        end = source.randint(stored, len(data))
        answer = two.request("PATCH", location, data[stored:end])
        ends = [hanging.abandon, lambda: self.complete(hanging, data[begun:]), lambda: None]
        source.choice(ends)()
        if answer.status == 416:
            location, stored = self.where(answer)
        else:
            self.assertEqual(answer.status, 202, answer)
            location, stored = answer.headers["Location"], end
        # Wherever it goes on, it is where it was told.
        wrong = three.with_digest(location, wire.digest_of(b"something else"))
        answer = three.request("PUT", wrong, data[stored:])
        self.assertEqual(answer.status, 400, answer)
        answer = three.request("PUT", three.with_digest(location, wire.digest_of(data)), data[stored:])
        self.assertEqual(answer.status, 201, answer)
        hanging.abandon()
        for client in self.clients:
            client.check_blob("back", wire.digest_of(data), len(data))

    def test_two_clients_that_send_different_bytes_at_once_get_no_mixture(self):
        for number in range(ROUNDS):
            source = random.Random(f"mixture {number}")
            length = source.choice((1_000, 700_000))
            datas = [noise(f"mixture {number} {client}", length) for client in range(2)]
            location = self.begin(self.client, datas[0][:500])
            datas = [datas[0][:500] + data for data in datas]
            answers = self.together([
                lambda client=client, data=data: client.request("PATCH", location, data[500:])
                for client, data in zip(self.clients, datas)])
            # Whoever is heard of by the other node while it still sends is taken to have been given up.
            self.assertLessEqual({answer.status for answer in answers}, {202, 409, 416})
            self.assertIn(202, {answer.status for answer in answers})
            for data in datas:
                digest = wire.digest_of(data)
                location, _ = self.status(self.clients[2], location)
                answer = self.client.request("PUT", self.client.with_digest(location, digest))
                if answer.status == 201:
                    self.client.check_blob("back", digest, len(data))
                    break
                self.assertEqual(answer.status, 400, answer)
                self.assertEqual(json.loads(answer.body)["errors"][0]["code"], "DIGEST_INVALID")
        self.check_content()

    def begin(self, client, data):
        """A session in which these bytes are stored; where it goes on."""
        location = client.begin_upload("back")
        if data:
            location = client.expect(202, "PATCH", location, data).headers["Location"]
        return location

    def status(self, client, location):
        """Where a session goes on, and how much of it is stored."""
        return self.where(client.expect(204, "GET", location))

    def where(self, answer):
        """The same, from an answer that says so."""
        location = answer.headers["Location"]
        stored = int(answer.headers["Range"].partition("-")[2]) + 1
        return location, 0 if location.endswith(".0") else stored

    def complete(self, request, data):
        """Sends all of a request after all; what it has sent so far comes first."""
        request.send(data[request.sent:])
        try:
            answer = request.answer()
        except CONNECTION_LOST:
            return
        self.assertIn(answer.status, (202, 404, 409, 416), answer)

    def together(self, works):
        """Runs all of it at once; what each gives."""
        barrier, results = threading.Barrier(len(works)), [None] * len(works)

        def run(place):
            barrier.wait()
            results[place] = works[place]()

        threads = [threading.Thread(target=run, args=(place,)) for place in range(len(works))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results
