"""One blob pushed to several nodes, each request to another one, by a client that does what real ones do."""

import http.client
import time

import wire

ATTEMPTS = 5
STYLES = ("whole", "put", "chunks", "stream")
# What a client sees of a node that dies under it.
CONNECTION_LOST = (OSError, http.client.HTTPException)
PIECE_BYTES = 1 << 16


class GaveUp(Exception):
    """As many attempts as a client makes were not enough."""


class Refused(Exception):
    """The registry has answered, and not with what this client can go on with."""


class Upload:
    """A push of `data`, in one of the `STYLES`. What it chooses, it chooses by `random`."""

    def __init__(self, clients, repository, data, random):
        self.repository = repository
        self.data = data
        self.style = random.choice(STYLES)
        self.digest = wire.digest_of(data, random.choice(("sha256", "sha256", "sha512")))
        # Every session that was begun; those that may leave something behind.
        self.sessions = []
        self.unclean = set()
        # The node that was asked last, and when the blob was there.
        self.last = None
        self.ended = None
        self._clients = clients
        self._random = random
        self._location = None
        self._stored = 0
        self.failures = []

    def run(self):
        """All of it, with as many attempts as it takes or is allowed."""
        for _ in range(ATTEMPTS):
            try:
                self._attempt()
                self.ended = time.monotonic()
                return
            except (*CONNECTION_LOST, Refused) as error:
                self.failures.append(f"{self.style} at {self._stored}: {error!r}")
                self.unclean.update(self.sessions[-1:])
                if self._is_there():
                    return
        raise GaveUp(f"{len(self.data)} bytes: {self.failures}")

    def _attempt(self):
        if self.style == "whole":
            target = f"/v2/{self.repository}/blobs/uploads/?digest={self.digest}"
            self._ask(201, "POST", target, self.data)
            return
        if self._location is None or not self._resume():
            self._begin()
        if self.style == "stream" and self._stored == 0:
            self._send_stream()
        while self.style != "put" and self._stored < len(self.data) and not self._chance(4):
            self._send_chunk()
            if self._chance(4):
                self._ask_status()
        location = self._clients[0].with_digest(self._location, self.digest)
        self._ask(201, "PUT", location, self.data[self._stored:])

    def _begin(self):
        self._stored = 0
        answer = self._ask(202, "POST", f"/v2/{self.repository}/blobs/uploads/")
        self._location = answer.headers["Location"]
        self.sessions.append(answer.headers["Docker-Upload-UUID"])

    def _resume(self):
        """Goes on with the session if it is still there, and if this is a client that does."""
        if self.style == "put":
            return False
        try:
            self._ask_status()
        except Refused:
            return False
        return True

    def _ask_status(self):
        self._stands(self._ask(204, "GET", self._location))

    def _send_chunk(self):
        left = len(self.data) - self._stored
        chunk = self.data[self._stored:self._stored + self._random.randint(1, max(left, 1))]
        headers = {"Content-Type": "application/octet-stream"}
        if self._chance(2):
            headers["Content-Range"] = f"{self._stored}-{self._stored + len(chunk) - 1}"
        self._stands(self._ask(202, "PATCH", self._location, chunk, **headers))

    def _send_stream(self):
        def work(client):
            request = client.begin("PATCH", self._location, None)
            for start in range(0, len(self.data), PIECE_BYTES):
                request.send(self.data[start:start + PIECE_BYTES])
            return request.send(b"").answer()
        self._stands(self._checked(202, self._at_next(work)))

    def _stands(self, answer):
        """Takes over what an answer says of the session."""
        self._location = answer.headers["Location"]
        last = int(answer.headers["Range"].partition("-")[2])
        # Both "nothing" and "one byte" are written 0-0; the location tells them apart.
        self._stored = 0 if self._location.endswith(".0") else last + 1
        if self._stored > len(self.data):
            raise AssertionError(f"{len(self.data)} bytes were sent at most: {answer}")

    def _is_there(self):
        """Whether the blob is there after all: an answer may have been lost."""
        try:
            target = f"/v2/{self.repository}/blobs/{self.digest}"
            return self._ask_any("HEAD", target).status == 200
        except CONNECTION_LOST:
            return False

    def _ask(self, status, method, target, data=b"", **headers):
        return self._checked(status, self._ask_any(method, target, data, **headers))

    def _ask_any(self, method, target, data=b"", **headers):
        return self._at_next(lambda client: client.request(method, target, data, **headers))

    def _checked(self, status, answer):
        if answer.status == status:
            return answer
        if answer.status >= 500 or answer.status == 400:
            raise AssertionError(f"a client did nothing wrong: {answer}")
        if answer.status == 416:
            self._stands(answer)
        raise Refused(str(answer))

    def _at_next(self, work):
        """Does something at another node than the last one. One that takes no connection is passed over."""
        others = [number for number in range(len(self._clients)) if number != self.last]
        self._random.shuffle(others)
        for number in others:
            self.last = number
            try:
                return work(self._clients[number])
            except ConnectionRefusedError as error:
                refused = error
        raise refused

    def _chance(self, one_in):
        return self._random.randrange(one_in) == 0
