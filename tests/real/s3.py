"""A client for one bucket, just enough to make it, look into it and count its objects."""

import datetime
import hashlib
import hmac
import http.client
import urllib.parse
import xml.etree.ElementTree as xml

REGION = "us-east-1"
TIMEOUT_SECONDS = 60
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


class S3Error(Exception):
    """The server answered something other than success."""


class Bucket:
    """One bucket of an S3 server on loopback; every request is signed (version 4)."""

    def __init__(self, address, name, access_key, secret_key):
        self.address = address
        self.name = name
        self.access_key = access_key
        self.secret_key = secret_key

    def create(self):
        """Makes the bucket."""
        self._request("PUT", "")

    def objects(self, prefix=""):
        """Every key below `prefix` with its size in bytes."""
        found, token = {}, None
        while True:
            query = {"list-type": "2", "prefix": prefix}
            if token:
                query["continuation-token"] = token
            answer = xml.fromstring(self._request("GET", "", query))
            space = answer.tag.partition("}")[0] + "}"
            for entry in answer.iter(f"{space}Contents"):
                found[entry.findtext(f"{space}Key")] = int(entry.findtext(f"{space}Size"))
            token = answer.findtext(f"{space}NextContinuationToken")
            if not token:
                return found

    def read(self, key):
        """The bytes of one object."""
        return self._request("GET", key)

    def _request(self, method, key, query=None):
        path = urllib.parse.quote(f"/{self.name}/{key}".rstrip("/"), safe="/~")
        pairs = sorted((query or {}).items())
        query_text = "&".join(
            f"{urllib.parse.quote(name, safe='~')}={urllib.parse.quote(value, safe='~')}"
            for name, value in pairs)
        connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT_SECONDS)
        try:
            target = f"{path}?{query_text}" if query_text else path
            connection.request(method, target, headers=self._signed(method, path, query_text))
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status // 100 != 2:
            raise S3Error(f"{method} {target}: {answer.status} {body.decode(errors='replace')}")
        return body

    def _signed(self, method, path, query_text):
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        headers = {"host": self.address, "x-amz-content-sha256": EMPTY_SHA256, "x-amz-date": now}
        names = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        request = f"{method}\n{path}\n{query_text}\n{lines}\n{names}\n{EMPTY_SHA256}"
        scope = f"{now[:8]}/{REGION}/s3/aws4_request"
        hashed = hashlib.sha256(request.encode()).hexdigest()
        key = f"AWS4{self.secret_key}".encode()
        for word in (now[:8], REGION, "s3", "aws4_request"):
            key = hmac.digest(key, word.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashed}"
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}")
        return headers
