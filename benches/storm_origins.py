"""What the hosts get their images from: a bucket, or a registry. Both are on the origin and know who asked
for what."""

import collections
import http.server
import json
import math
import re
import time

import servers
import storm_hosts
import storm_network

BUCKET_PORT, REGISTRY_PORT, SEED_PORT, AUDIT_PORT = 9000, 5000, 5001, 9001
DIGEST = re.compile(r"sha256(?::|/[0-9a-f]{2}/)([0-9a-f]{64})")
ANSWER_TIMEOUT = "1h"
CONTENT_KINDS = ("manifest", "config", "layers")
# MinIO tells what it has answered a little later.
QUIET_SECONDS, QUIET_MOST_SECONDS = 0.3, 5


class Answer:
    """One that the origin has given. The method is HTTP's, or LIST; the part is None if nobody knows it."""

    def __init__(self, method, name, part, sent_bytes):
        self.method = method
        self.name = name
        self.part = part
        self.sent_bytes = sent_bytes


class Answers:
    """Those of a round, for images whose digests are known."""

    def __init__(self, answers, images):
        self.answers = answers
        self.kind_of = {digest: kind for image in images for digest, kind in image.kinds.items()}

    def kind(self, answer):
        """Of the content that was asked for, otherwise of the request."""
        digest = DIGEST.search(answer.name)
        if answer.method == "LIST":
            return "listings"
        if answer.name.startswith("millpond/") or "/millpond/" in answer.name:
            return "Millpond's own"
        if answer.name.endswith("/link"):
            return "links"
        if answer.method == "GET" and digest:
            return self.kind_of.get(f"sha256:{digest[1]}", "others")
        return "others" if answer.method in ("GET", "HEAD") else "writes"

    def by_kind(self):
        return collections.Counter(self.kind(answer) for answer in self.answers)

    def sent_bytes(self):
        return sum(answer.sent_bytes for answer in self.answers)

    def most_for_one_object(self):
        return most(answer.name for answer in self.contents())

    def most_for_one_part(self):
        if any(answer.part is None for answer in self.contents()):
            return math.nan
        return most((answer.name, answer.part) for answer in self.contents())

    def text(self):
        """One line for each."""
        lines = ([each.method, each.name, each.part or "", str(each.sent_bytes)] for each in self.answers)
        return "".join("\t".join(line) + "\n" for line in lines)

    def contents(self):
        return (answer for answer in self.answers if self.kind(answer) in CONTENT_KINDS)


def most(things):
    return max(collections.Counter(things).values(), default=0)


class Bucket:
    """A MinIO that says what it answers to a server of this process."""

    def __init__(self, programs, scratch, network):
        self.programs = programs
        self.scratch = scratch
        self.host = network.origin
        self.audit = Audit(self.host)

    def __enter__(self):
        self.audit.__enter__()
        try:
            server = storm_hosts.Server("minio", self.scratch, self.host, (self.host.address, BUCKET_PORT))
            target = f"http://{servers.HOST}:{AUDIT_PORT}/"
            settings = {
                "MINIO_AUDIT_WEBHOOK_ENABLE_STORM": "on",
                "MINIO_AUDIT_WEBHOOK_ENDPOINT_STORM": target,
                # It cuts off every answer that takes longer, whether bytes go or not; 30 s if not told.
                "MINIO_IDLE_TIMEOUT": ANSWER_TIMEOUT,
            }
            self.storage = servers.Minio(self.programs, self.scratch, server, **settings)
        except BaseException:
            self.audit.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.storage.stop()
        self.audit.__exit__()

    def push(self, images):
        """By a Millpond beside it: nothing of that goes over the line."""
        address = (self.host.address, SEED_PORT)
        server = storm_hosts.Server("seed", self.scratch, self.host, address)
        path = server.folder / "config.yml"
        config = servers.millpond_config(server, self.storage)
        path.write_text(json.dumps(servers.merged(config, {"api": {"anonymous": "anywhere"}})))
        server.start([self.programs.paths["millpond"], "serve", "--config", path], "/v2/")
        try:
            for image in images:
                storm_network.inside(self.host.namespace, image.push, server.address)
        finally:
            server.stop()

    def taken(self, images):
        """What was answered since the last time."""
        return Answers(self.audit.taken(), images)


class Audit(storm_hosts.Threads):
    """Takes what MinIO tells of each request, some at a time."""

    def __init__(self, host):
        super().__init__(host, (servers.HOST, AUDIT_PORT), AuditRequest)
        self.answers = []
        self.last = 0

    def add(self, entry):
        api, headers = entry["api"], entry.get("requestHeader", {})
        # Such as GetObject.
        method = re.match(r"[A-Z]?[a-z]*", api["name"])[0].upper()
        self.last = time.monotonic()
        self.answers.append(Answer(method, api.get("object", ""), headers.get("Range", ""), api.get("tx", 0)))

    def taken(self):
        began = time.monotonic()
        storm_hosts.wait_until(lambda: time.monotonic() - max(began, self.last) > QUIET_SECONDS, QUIET_MOST_SECONDS)
        answers, self.answers = self.answers, []
        return answers


class AuditRequest(http.server.BaseHTTPRequestHandler):
    """One piece of news, or some that follow each other."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        decoder = json.JSONDecoder()
        while text := text.strip():
            entry, end = decoder.raw_decode(text)
            text = text[end:]
            if entry.get("api", {}).get("name"):
                self.server.add(entry)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Nobody wants to know."""


class Registry:
    """A distribution that writes a log of what it answers."""

    LINE = re.compile(r'"([A-Z]+) (/v2/\S*) HTTP/[0-9.]+" (\d+) (\d+)')

    def __init__(self, programs, scratch, network):
        self.programs = programs
        self.scratch = scratch
        self.host = network.origin
        self.read_bytes = 0

    def __enter__(self):
        address = (self.host.address, REGISTRY_PORT)
        self.server = storm_hosts.Server("registry", self.scratch, self.host, address)
        config = servers.distribution_config(self.server, servers.Directory(self.server.folder))
        config["log"]["accesslog"] = {"disabled": False}
        path = self.server.folder / "config.yml"
        path.write_text(json.dumps(config))
        self.server.start([self.programs.paths["distribution"], "serve", path], "/v2/")
        return self

    def __exit__(self, *_):
        self.server.stop()

    @property
    def url(self):
        return self.server.url

    def push(self, images):
        for image in images:
            storm_network.inside(self.host.namespace, image.push, self.server.address)

    def taken(self, images):
        """What was answered since the last time."""
        with self.server.log.open("rb") as log:
            log.seek(self.read_bytes)
            text = log.read()
        self.read_bytes += len(text)
        lines = self.LINE.findall(text.decode(errors="replace"))
        return Answers([Answer(method, path, None, int(sent)) for method, path, _, sent in lines], images)
