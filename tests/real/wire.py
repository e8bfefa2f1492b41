"""The distribution protocol spoken by hand: every request one connection, nothing retried."""

import hashlib
import http.client
import json
import urllib.parse

TIMEOUT_SECONDS = 120
READ_BYTES = 1 << 20

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST_TYPES = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX)


def digest_of(data, algorithm="sha256"):
    """The digest of some bytes, in its written form."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def media_type_of(data):
    """The type of a manifest, as its own bytes tell it."""
    manifest = json.loads(data)
    return manifest.get("mediaType") or (OCI_INDEX if "manifests" in manifest else OCI_MANIFEST)


class Answer:
    """A response that was read to its end."""

    def __init__(self, request, response):
        self.request = request
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def __str__(self):
        return f"{self.request} -> {self.status} {dict(self.headers)} {self.body[:500]!r}"


class UnexpectedAnswer(Exception):
    """The status is not one the caller can go on with; the text has request and answer."""


class Request:
    """A request under way, whose body is sent piece by piece; without a length, in chunks."""

    def __init__(self, address, method, target, length, headers):
        self.text = f"{method} {target}"
        self._connection = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
        self._connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers.items():
            self._connection.putheader(name, value)
        # Bytes of the body so far.
        self.sent = 0
        self._is_chunked = length is None
        if self._is_chunked:
            self._connection.putheader("Transfer-Encoding", "chunked")
        else:
            self._connection.putheader("Content-Length", str(length))
        self._connection.endheaders()

    def send(self, data):
        """Sends some bytes of the body; of a body in chunks, the end if there are none."""
        self.sent += len(data)
        if self._is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        try:
            self._connection.send(data)
        except (BrokenPipeError, ConnectionResetError):
            # It may have answered before the end and closed: `answer` will tell.
            pass
        return self

    def answer(self):
        """Waits for the answer; an OSError or HTTPException when there is none."""
        try:
            return Answer(self.text, self._connection.getresponse())
        finally:
            self._connection.close()

    def abandon(self):
        """Closes the connection without looking at it again."""
        self._connection.close()


class Client:
    """One registry."""

    def __init__(self, address):
        self.address = address

    # --- single requests

    def request(self, method, target, data=b"", **headers):
        """One request and its whole answer, whatever the status."""
        return self.begin(method, target, len(data), **headers).send(data).answer()

    def begin(self, method, target, length, **headers):
        """A request with a body of `length` bytes, or of any, of which nothing has been sent yet."""
        target = target.removeprefix(f"http://{self.address}")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Request(self.address, method, target, length, named)

    def expect(self, status, method, target, data=b"", **headers):
        """One request that must be answered with `status`."""
        answer = self.request(method, target, data, **headers)
        if answer.status != status:
            raise UnexpectedAnswer(f"expected {status}: {answer}")
        return answer

    # --- blobs

    def begin_upload(self, repository):
        """Opens an upload; its location."""
        return self.expect(202, "POST", f"/v2/{repository}/blobs/uploads/").headers["Location"]

    def with_digest(self, location, digest):
        """The location that ends an upload."""
        joint = "&" if "?" in location else "?"
        return f"{location}{joint}digest={urllib.parse.quote(digest, safe='')}"

    def push_blob(self, repository, data, digest=None):
        """POST, then one PUT with everything."""
        digest = digest or digest_of(data)
        location = self.with_digest(self.begin_upload(repository), digest)
        self.expect(201, "PUT", location, data, Content_Type="application/octet-stream")
        return digest

    def push_blob_in_chunks(self, repository, data, chunk_bytes, digest=None):
        """POST, PATCHes, and an empty PUT."""
        digest = digest or digest_of(data)
        location = self.begin_upload(repository)
        for start in range(0, len(data), chunk_bytes):
            chunk = data[start:start + chunk_bytes]
            answer = self.expect(
                202, "PATCH", location, chunk, Content_Type="application/octet-stream",
                Content_Range=f"{start}-{start + len(chunk) - 1}")
            location = answer.headers["Location"]
        self.expect(201, "PUT", self.with_digest(location, digest))
        return digest

    def blob(self, repository, digest):
        """The bytes of a blob, which must hash to its digest."""
        data = self.expect(200, "GET", f"/v2/{repository}/blobs/{digest}").body
        if digest_of(data, digest.partition(":")[0]) != digest:
            raise UnexpectedAnswer(f"{repository}@{digest} is {len(data)} other bytes")
        return data

    def check_blob(self, repository, digest, size):
        """HEAD and GET agree with each other and with the digest; nothing is kept."""
        target = f"/v2/{repository}/blobs/{digest}"
        head = self.expect(200, "HEAD", target)
        algorithm = hashlib.new(digest.partition(":")[0])
        connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", target)
            response = connection.getresponse()
            count = 0
            while piece := response.read(READ_BYTES):
                algorithm.update(piece)
                count += len(piece)
        finally:
            connection.close()
        found = f"{algorithm.name}:{algorithm.hexdigest()}"
        facts = (response.status, count, int(head.headers["Content-Length"]), found)
        if facts != (200, size, size, digest):
            raise UnexpectedAnswer(f"GET {target}: status, bytes, HEAD's bytes, digest: {facts}")

    # --- manifests

    def push_manifest(self, repository, reference, data):
        """PUTs a manifest under a tag or its digest; its digest."""
        target = f"/v2/{repository}/manifests/{reference}"
        media_type = media_type_of(data)
        self.expect(201, "PUT", target, data, Content_Type=media_type)
        return digest_of(data)

    def get_manifest(self, repository, reference):
        """GETs a manifest, whatever the status."""
        target = f"/v2/{repository}/manifests/{reference}"
        return self.request("GET", target, Accept=", ".join(MANIFEST_TYPES))

    def manifest(self, repository, reference):
        """The bytes of a manifest; its digest header and type must fit them."""
        answer = self.get_manifest(repository, reference)
        if answer.status != 200:
            raise UnexpectedAnswer(f"expected 200: {answer}")
        digest = digest_of(answer.body)
        told = answer.headers["Docker-Content-Digest"]
        media_type = media_type_of(answer.body)
        asked = reference if ":" in reference else digest
        if (told, asked, answer.headers["Content-Type"]) != (digest, digest, media_type):
            raise UnexpectedAnswer(f"digest {digest}, type {media_type}, but: {answer}")
        return answer.body

    def check_tree(self, repository, reference):
        """A manifest and everything it names is there, byte for byte; all digests."""
        data = self.manifest(repository, reference)
        manifest, digests = json.loads(data), {digest_of(data)}
        for child in manifest.get("manifests", []):
            digests |= self.check_tree(repository, child["digest"])
        for part in [manifest.get("config"), *manifest.get("layers", [])]:
            if part:
                self.check_blob(repository, part["digest"], part["size"])
                digests.add(part["digest"])
        return digests

    # --- lists

    def tags(self, repository, page=None):
        """All tags, following `Link`."""
        return self._pages(f"/v2/{repository}/tags/list", "tags", page)

    def repositories(self, page=None):
        """The whole catalog, following `Link`."""
        return self._pages("/v2/_catalog", "repositories", page)

    def referrers(self, repository, digest):
        """Descriptors of what refers to `digest`."""
        answer = self.expect(200, "GET", f"/v2/{repository}/referrers/{digest}")
        return json.loads(answer.body)["manifests"]

    def _pages(self, target, field, page):
        found = []
        target = f"{target}?n={page}" if page else target
        while target:
            answer = self.expect(200, "GET", target)
            found += json.loads(answer.body)[field] or []
            link = answer.headers["Link"]
            target = link[link.index("<") + 1:link.index(">")] if link else None
        return found
