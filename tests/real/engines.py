"""dockerd and containerd, as many as a test needs side by side, each with nothing in it."""

import json

from offline import offline
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
HOSTS = """
server = "https://{registry}"
"""
HOST = """
[host."http://{address}"]
  capabilities = ["pull", "resolve"]
"""


class Dockerd:
    """One dockerd with its own containerd, and the command line that talks to it.

    With the address of a mirror it knows that as Docker Hub, and nothing of the world beside it.
    """

    def __init__(self, folder, mirror=None):
        self.socket = f"unix://{folder}/d.sock"
        self._client_settings = folder / "client"
        # Without a bridge: two of them in one network would delete each other's.
        command = [
            parts.path("dockerd"), "--host", self.socket, "--data-root", folder / "data",
            "--exec-root", folder / "exec", "--pidfile", folder / "pid", "--bridge=none",
            "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
            "--userland-proxy=false", "--insecure-registry=127.0.0.0/8"]
        if mirror:
            command = [*offline(folder), *command, f"--registry-mirror=http://{mirror}"]
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
    """One containerd, and the `ctr` that talks to it.

    `hosts` has the addresses to ask for the images of a registry, in this order; without any, `ctr`
    asks the registry itself. With some it knows nothing of the world beside them.
    """

    def __init__(self, folder, hosts=None):
        self._socket = folder / "c.sock"
        self._hosts = folder / "hosts.d"
        self._before = offline(folder) if hosts else []
        for registry, addresses in (hosts or {}).items():
            (self._hosts / registry).mkdir(parents=True)
            text = HOSTS.format(registry=registry) + "".join(
                HOST.format(address=address) for address in addresses)
            (self._hosts / registry / "hosts.toml").write_text(text, encoding="utf-8")
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
        return run(*self._before, parts.path("ctr"), "--address", self._socket, *words)

    def pull(self, image):
        """Pulls from the hosts it was given."""
        return self.ctr("images", "pull", "--hosts-dir", self._hosts, image)

    def contents(self):
        """The digest of everything in its content store, which it verified itself."""
        return set(self.ctr("content", "ls", "--quiet").split())

    def _ready(self):
        try:
            self.ctr("version")
        except CommandFailed:
            return False
        return True
