"""The images every client is tried with. No network, and the same bytes on every machine.

| layout     | names               | what it is                                            |
|------------|---------------------|-------------------------------------------------------|
| `large`    | `1`                 | 6 layers, 216 MB as they travel, one of them 100 MB   |
| `index`    | `1`                 | an index of four platforms                            |
| `zstd`     | `1`                 | two layers in zstd                                    |
| `artifact` | `subject`, `referrer` | an image, and an artifact whose subject it is       |
"""

import random

from layout import LayoutWriter, stored, zstandard

MEGABYTE = 1_000_000
PLATFORMS = (("amd64", None), ("arm64", None), ("arm", "v7"), ("s390x", None))
ARTIFACT_TYPE = "application/spdx+json"


class Images:
    """The layouts, each made when it is first asked for and kept for the run."""

    def __init__(self, folder):
        self._folder = folder
        self._made = {}

    def __getattr__(self, name):
        if name.startswith("_") or name not in _RECIPES:
            raise AttributeError(name)
        if name not in self._made:
            writer = LayoutWriter(self._folder / name)
            _RECIPES[name](writer)
            self._made[name] = writer.finish()
        return self._made[name]


def noise(seed, length):
    """Bytes that do not compress; the same for the same seed."""
    return random.Random(seed).randbytes(length)


def prose(seed, length):
    """Bytes that compress about five to one."""
    line = f"{seed} is the number of this line's layer, and its own is "
    text = "".join(f"{line}{number}\n" for number in range(length // len(line) + 1))
    return text.encode()[:length]


def _large(writer):
    sizes = (100, 26, 26, 26, 26)
    layers = [
        writer.add_layer({f"file-{n}": noise(n, size * MEGABYTE)}, stored)
        for n, size in enumerate(sizes)]
    layers.append(writer.add_layer({"prose": prose(6, 60 * MEGABYTE)}))
    writer.name("1", writer.add_image(layers))


def _index(writer):
    # A layer of the architecture's own over one that all of them share.
    shared = writer.add_layer({"shared": noise("shared", 300_000)}, stored)
    images = [
        writer.add_image(
            [shared, writer.add_layer({"own": noise(f"{name}{variant}", 100_000)}, stored)],
            name, variant)
        for name, variant in PLATFORMS]
    writer.name("1", writer.add_index(images))


def _zstd(writer):
    layers = [
        writer.add_layer({f"file-{n}": data}, zstandard, "+zstd")
        for n, data in enumerate((prose(1, 5 * MEGABYTE), noise("zstd", MEGABYTE)))]
    writer.name("1", writer.add_image(layers))


def _artifact(writer):
    layer = writer.add_layer({"file-0": noise("subject", 200_000)}, stored)
    subject = writer.add_image([layer])
    referrer = writer.add_artifact(subject, ARTIFACT_TYPE, b'{"spdxVersion":"SPDX-2.3"}')
    writer.name("subject", subject)
    writer.name("referrer", referrer)


_RECIPES = {"large": _large, "index": _index, "zstd": _zstd, "artifact": _artifact}
