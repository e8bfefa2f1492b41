"""dockerd and containerd, as many as a test needs side by side, each with nothing in it."""

import json

import parts
from process import CommandFailed, Daemon, clean_environment, run

CONTAINERD_SETTINGS = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
"""


class Dockerd:
    """One dockerd with its own containerd, and the command line that talks to it."""

    def __init__(self, folder):
        self.socket = f"unix://{folder}/d.sock"
        self._client_settings = folder / "client"
        # Without a bridge: two of them in one network would delete each other's.
        command = [
            parts.path("dockerd"), "--host", self.socket, "--data-root", folder / "data",
            "--exec-root", folder / "exec", "--pidfile", folder / "pid", "--bridge=none",
            "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
            "--userland-proxy=false", "--insecure-registry=127.0.0.0/8"]
        self._daemon = Daemon("dockerd", command, folder)

    def start(self):
        """Starts it and waits until it answers."""
        self._daemon.start(self._ready)
        return self

    def stop(self):
        """Stops it."""
        self._daemon.stop()

    def docker(self, *words):
        """One `docker` command; its standard output."""
        command = [parts.path("docker"), "--config", self._client_settings, "--host", self.socket]
        environment = clean_environment(DOCKER_CLI_EXPERIMENTAL="enabled")
        return run(*command, *words, environment=environment)

    def identity(self, image):
        """What the daemon says an image is: the config's digest and the digests of its layers."""
        facts = json.loads(self.docker("image", "inspect", image))[0]
        return facts["Id"], facts["RootFS"]["Layers"]

    def _ready(self):
        try:
            self.docker("version")
        except CommandFailed:
            return False
        return True


class Containerd:
    """One containerd, and the `ctr` that talks to it."""

    def __init__(self, folder):
        self._socket = folder / "c.sock"
        settings = folder / "containerd.toml"
        settings.write_text(
            CONTAINERD_SETTINGS.format(folder=folder, socket=self._socket), encoding="utf-8")
        self._daemon = Daemon("containerd", [parts.path("containerd"), "-c", settings], folder)

    def start(self):
        """Starts it and waits until it answers."""
        self._daemon.start(self._ready)
        return self

    def stop(self):
        """Stops it."""
        self._daemon.stop()

    def ctr(self, *words):
        """One `ctr` command; its standard output."""
        return run(parts.path("ctr"), "--address", self._socket, *words)

    def contents(self):
        """The digest of everything in its content store, which it verified itself."""
        return set(self.ctr("content", "ls", "--quiet").split())

    def _ready(self):
        try:
            self.ctr("version")
        except CommandFailed:
            return False
        return True
