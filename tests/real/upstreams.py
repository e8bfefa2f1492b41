"""Registries that Millpond mirrors, each with its own way to find out who asks."""

import collections
import re

import parts
from process import free_port, run
from registries import Distribution, DockerRegistry
from stores import DirectoryStore
from token_server import TokenServer

# Who pulls, and who put there what is pulled.
PULLER = ("millpond", "a password for pulling")
PUSHER = ("author", "a password for pushing")
# The common log format: what was asked, the status, and how many bytes were answered.
LOG_LINE = re.compile(
    r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/[\d.]+" (?P<status>\d+) (?P<bytes>\d+)')
BLOB = re.compile(r"/blobs/(sha256:[0-9a-f]{64})(?:\?|$)")


class Logging:
    """A registry on a folder of its own that writes down what it was asked."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "store").mkdir()
        super().__init__(DirectoryStore(folder / "store"), folder)

    def settings(self):
        log = {"level": "error", "accesslog": {"disabled": False}}
        return super().settings() | {"log": log}

    def mirror_settings(self):
        """What Millpond has to be told to mirror it."""
        return {"url": f"http://{self.address}", "plain_http": "allow"}

    def push_options(self):
        """How skopeo proves that it may push here."""
        return []

    def log_text(self):
        """What it has written down; the last lines may be missing for a moment."""
        return self._daemon.log.read_text(errors="replace")

    def blob_bytes(self):
        """How many bytes of each blob it has sent; the last ones may be missing for a moment."""
        sent = collections.Counter()
        for line in LOG_LINE.finditer(self.log_text()):
            blob = BLOB.search(line["path"])
            if blob and line["method"] == "GET" and line["status"] in ("200", "206"):
                sent[blob[1]] += int(line["bytes"])
        return sent


class OpenRegistry(Logging, DockerRegistry):
    """docker-registry for everybody."""


class PasswordRegistry(Logging, DockerRegistry):
    """docker-registry that wants a name and a password from everybody."""

    ready_status = 401

    def settings(self):
        users = self.folder / "htpasswd"
        # bcrypt, the only kind it reads.
        lines = [run(parts.path("htpasswd"), "-Bbn", *user).strip() for user in (PULLER, PUSHER)]
        users.write_text("\n".join(lines), encoding="utf-8")
        return super().settings() | {
            "auth": {"htpasswd": {"realm": "registry-of-a-test", "path": str(users)}}}

    def mirror_settings(self):
        return super().mirror_settings() | credentials(self.folder)

    def push_options(self):
        return ["--dest-creds", ":".join(PUSHER)]


class TokenRegistry(Logging, Distribution):
    """distribution that wants a token of a server beside it."""

    ready_status = 401

    def __init__(self, folder):
        grants = {PULLER[0]: (PULLER[1], ("pull",)), PUSHER[0]: (PUSHER[1], ("pull", "push"))}
        self.tokens = TokenServer(folder, free_port(), grants)
        super().__init__(folder)

    def settings(self):
        return super().settings() | {"auth": self.tokens.settings()}

    def mirror_settings(self):
        return super().mirror_settings() | credentials(self.folder) | {
            "auth_hosts": [self.tokens.host]}

    def push_options(self):
        return ["--dest-creds", ":".join(PUSHER)]

    def start(self):
        self.tokens.start()
        return super().start()

    def stop(self):
        super().stop()
        self.tokens.stop()

    def kill(self):
        super().kill()
        self.tokens.stop()


def credentials(folder):
    """Name and password of who pulls, the password in a file."""
    file = folder / "password"
    file.write_text(f"{PULLER[1]}\n", encoding="utf-8")
    return {"username": PULLER[0], "password_file": str(file)}
