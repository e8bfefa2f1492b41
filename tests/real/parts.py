"""Every foreign program the real tests run: pinned here, installed once, found by name.

    python3 tests/real/parts.py           installs what is missing
    python3 tests/real/parts.py crane     says where that program is

Go programs are built into a cache outside the tree, one folder per version, so
that changing one pin rebuilds one program and a second run installs nothing.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

# Debian's own parts. Their versions are pinned by the release (Debian 12).
DEBIAN_PROGRAMS = {
    "gcc": "gcc",
    "make": "make",
    "docker.io": "dockerd",
    "containerd": "containerd",
    "runc": "runc",
    "podman": "podman",
    "buildah": "buildah",
    "skopeo": "skopeo",
    "docker-registry": "docker-registry",
    "zstd": "zstd",
    "apache2-utils": "htpasswd",
    "openssl": "openssl",
    "strace": "strace",
    "valgrind": "valgrind",
    # Network namespaces, and lines between them (`tc` comes with it).
    "iproute2": "ip",
}
# Headers have no program to look for: a file stands for the package.
DEBIAN_FILES = {"libc6-dev": "/usr/include/stdio.h"}

# name: (package, version). `go install package@version`.
GO_PROGRAMS = {
    "minio": ("github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c"),
    "crane": ("github.com/google/go-containerregistry/cmd/crane", "v0.22.1"),
    "regctl": ("github.com/regclient/regclient/cmd/regctl", "v0.11.7"),
    "helm": ("helm.sh/helm/v4/cmd/helm", "v4.3.1"),
    "registry": ("github.com/distribution/distribution/v3/cmd/registry", "v3.1.1"),
    # The specification's own program. It has no releases: this is the state of a day.
    "conformance": ("github.com/opencontainers/distribution-spec/conformance",
                    "v0.0.0-20260831232431-97274622c111"),
}
# Built from a module of its own beside this file (see oras/pin.go).
GO_MODULES = {"oras": ("oras.land/oras/cmd/oras", "v1.2.3")}

CARGO_PROGRAMS = {"cargo-deny": "0.20.2"}

# Programs of which the machine may hold several: the path names the one meant.
FIXED_PATHS = {"docker": "/usr/bin/docker"}

HERE = pathlib.Path(__file__).resolve().parent
TREE = HERE.parent.parent
INSTALL_SECONDS = 1500


def cache():
    """The folder of everything built here; it outlives a run and a clone."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "millpond-tests"


def path(name):
    """The program of that name. Missing is an error: nothing is skipped silently."""
    if name == "millpond":
        target = os.environ.get("CARGO_TARGET_DIR", TREE / "target")
        found = pathlib.Path(os.environ.get("MILLPOND", f"{target}/debug/millpond"))
    elif name in FIXED_PATHS:
        found = pathlib.Path(FIXED_PATHS[name])
    elif name in GO_PROGRAMS or name in GO_MODULES or name in CARGO_PROGRAMS:
        found = _cached(name)
    else:
        found = pathlib.Path(shutil.which(name, path=_search_path()) or f"/missing/{name}")
    if not found.exists():
        raise FileNotFoundError(f"{name} is not at {found}: run tests/real/parts.py")
    return str(found.absolute())


def install():
    """Installs what is missing, and says how long each took."""
    _install_debian()
    for name, (package, version) in GO_PROGRAMS.items():
        _build(name, ["go", "install", "-ldflags=-s -w", f"{package}@{version}"], "GOBIN")
    for name, (package, _) in GO_MODULES.items():
        command = ["go", "install", "-ldflags=-s -w", package]
        _build(name, command, "GOBIN", folder=HERE / name)
    for name, version in CARGO_PROGRAMS.items():
        # Unoptimised: it runs for a second and builds in a quarter of the time.
        command = ["cargo", "install", "--quiet", "--locked", "--debug", "--version", version, name]
        _build(name, command, "CARGO_INSTALL_ROOT")


def _search_path():
    return os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"


def _cached(name):
    if name in CARGO_PROGRAMS:
        return cache() / f"{name}-{CARGO_PROGRAMS[name]}" / "bin" / name
    _, version = (GO_PROGRAMS | GO_MODULES)[name]
    return cache() / f"{name}-{version}" / name


def _install_debian():
    search = _search_path()
    missing = [
        package for package, program in DEBIAN_PROGRAMS.items()
        if not shutil.which(program, path=search)]
    missing += [package for package, file in DEBIAN_FILES.items() if not os.path.exists(file)]
    if not missing:
        return
    started = time.monotonic()
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    install_command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    for command in (["apt-get", "update", "-qq"], install_command):
        subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=True,
                       stdout=subprocess.DEVNULL, timeout=INSTALL_SECONDS)
    _say("debian: " + " ".join(missing), started)


def _build(name, command, destination_variable, folder=None):
    target = _cached(name)
    if target.exists():
        return
    started = time.monotonic()
    home = cache() / target.relative_to(cache()).parts[0]
    cache().mkdir(parents=True, exist_ok=True)
    # Built aside and renamed: a build that was stopped leaves nothing that looks whole.
    with tempfile.TemporaryDirectory(dir=cache(), prefix="building-") as aside:
        environment = dict(os.environ, **{destination_variable: f"{aside}/built"})
        environment["CARGO_TARGET_DIR"] = f"{aside}/target"
        subprocess.run(command, cwd=folder or aside, env=environment, check=True,
                       stdin=subprocess.DEVNULL, timeout=INSTALL_SECONDS)
        shutil.rmtree(home, ignore_errors=True)
        os.rename(f"{aside}/built", home)
    _say(str(home.name), started)


def _say(what, started):
    print(f"installed {what} in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    try:
        if len(sys.argv) > 1:
            print(path(sys.argv[1]))
        else:
            install()
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        sys.exit(str(error))
