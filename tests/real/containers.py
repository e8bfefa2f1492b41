"""podman, buildah and skopeo: programs over one library, so one class runs all three."""

import json
import os

from offline import offline
import parts
from process import clean_environment, run

# Shared by all three programs and not movable by any option. It makes them
# replace layers by ones they saw elsewhere, so no test may see another's.
CACHE = "/var/lib/containers/cache"
IN_OWN_CACHE = f'mount --bind "$0" {CACHE} && exec "$@"'

SETTINGS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{folder}/libpod"
"""
REGISTRIES = """
unqualified-search-registries = []
[[registry]]
location = "{address}"
insecure = true
"""
MIRRORED = """
[[registry]]
location = "{registry}"
"""
MIRROR = """
[[registry.mirror]]
location = "{mirror}"
insecure = true
"""


class Containers:
    """An engine with nothing in it: its own images, settings and memory of other registries.

    `mirrors` has the places, each an address and a path, to ask for the images of a registry, in
    this order. With some it knows nothing of the world beside them.
    """

    def __init__(self, folder, address, mirrors=None):
        for name in ("cache", "tmp"):
            (folder / name).mkdir()
        self._cache = folder / "cache"
        os.makedirs(CACHE, exist_ok=True)
        (folder / "containers.conf").write_text(SETTINGS.format(folder=folder), encoding="utf-8")
        self._before = offline(folder) if mirrors else []
        registries = REGISTRIES.format(address=address) + "".join(
            MIRRORED.format(registry=registry) + "".join(
                MIRROR.format(mirror=place) for place in places)
            for registry, places in (mirrors or {}).items())
        (folder / "registries.conf").write_text(registries, encoding="utf-8")
        # Nobody's login: without this file they would read the user's.
        (folder / "auth.json").write_text("{}", encoding="utf-8")
        self._environment = clean_environment(
            CONTAINERS_CONF=folder / "containers.conf",
            CONTAINERS_REGISTRIES_CONF=folder / "registries.conf",
            REGISTRY_AUTH_FILE=folder / "auth.json", TMPDIR=folder / "tmp")
        self._storage = [
            "--root", folder / "storage", "--runroot", folder / "run",
            "--storage-driver", "overlay"]

    def podman(self, *words):
        """One podman command; its standard output."""
        return self._run("podman", *self._storage, *words)

    def buildah(self, *words):
        """One buildah command, on the same images as podman's."""
        return self._run("buildah", *self._storage, *words)

    def skopeo(self, command, *words):
        """One skopeo command; it has no storage of its own."""
        # It alone does not take `insecure` from the settings.
        sides = ("src-", "dest-") if command == "copy" else ("",)
        plain = [f"--{side}tls-verify=false" for side in sides]
        return self._run("skopeo", command, *plain, *words)

    def engine(self, program):
        """podman or buildah by name."""
        return {"podman": self.podman, "buildah": self.buildah}[program]

    def identity(self, image):
        """What the engine says an image is: the config's digest and the digests of its layers."""
        facts = json.loads(self.podman("image", "inspect", image))[0]
        return facts["Id"], facts["RootFS"]["Layers"]

    def _run(self, program, *words):
        command = ["unshare", "--mount", "sh", "-c", IN_OWN_CACHE, self._cache]
        command = [*self._before, *command, parts.path(program), *words]
        return run(*command, environment=self._environment)
