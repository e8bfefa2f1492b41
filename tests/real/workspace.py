"""The temporary folder of one run, and its removal."""

import pathlib
import secrets
import shutil
import subprocess
import tempfile


class Workspace:
    """A folder of its own for each thing that asks for one."""

    def __init__(self, keep=False):
        # Short, because a Unix socket's path has room for 107 bytes; hexadecimal, because podman makes
        # an image's name of a layout's path, and not every name that mkdtemp finds can be one.
        self.root = pathlib.Path(tempfile.gettempdir(), f"mp-{secrets.token_hex(4)}")
        self.root.mkdir(mode=0o700)
        self.keep = keep
        self._count = 0

    def folder(self, name):
        """A new empty folder whose name begins with `name`."""
        self._count += 1
        path = self.root / f"{name}-{self._count}"
        path.mkdir()
        return path

    def discard(self, path):
        """Removes one folder now: a large one should not wait for the end of the run."""
        if self.keep:
            return
        _unmount_below(path)
        shutil.rmtree(path, ignore_errors=True)

    def remove(self):
        """Removes everything, unless it was to be kept."""
        if self.keep:
            print(f"kept {self.root}")
            return
        self.discard(self.root)


def _unmount_below(root):
    """Container engines leave overlay and nsfs mounts behind; rmtree must not enter them."""
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        points = [line.split(" ")[1] for line in mounts]
    for point in sorted((p for p in points if p.startswith(f"{root}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False)
