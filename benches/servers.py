"""The servers a benchmark compares, each started for itself in a directory of its own."""

import datetime
import hashlib
import hmac
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The same versions in the same cache as the tests in tests/real: one build serves both.
GO_PROGRAMS = {
    "minio": ("github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c"),
    "registry": ("github.com/distribution/distribution/v3/cmd/registry", "v3.1.1"),
}
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "millpond-tests"
HOST = "127.0.0.1"
START_SECONDS = 60
STOP_SECONDS = 20
ACCESS_KEY = "benchmark"
SECRET_KEY = "benchmark-secret"
REGION = "us-east-1"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
# Distribution: its tracing exporter would look for a collector. Both: S3 clients would take
# settings for the real AWS.
UNWANTED = ("AWS_", "OTEL_", "REGISTRY_", "MINIO_", "MILLPOND_")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# In /proc/PID/stat, counted from the field after the name: user, system.
CPU_FIELDS = slice(11, 13)


def add_arguments(parser, third="minio"):
    """What every benchmark must know about the programs; the third is not in all of them."""
    parser.add_argument("--millpond", type=whole_path, help="default: built here, release profile")
    parser.add_argument("--distribution", type=whole_path, help="default: installed with go")
    parser.add_argument(f"--{third}", type=whole_path, help="default: installed")
    parser.add_argument("--load", type=whole_path, help="the load generator; default: built here")
    parser.add_argument("--millpond-config", type=json.loads, default={}, metavar="JSON", help="merged into its file")
    parser.add_argument("--scratch", type=whole_path, help="for the servers' data, on a real disk; default: TMPDIR")


def whole_path(text):
    """A path that means the same in every directory: each server is started in one of its own."""
    return pathlib.Path(text).resolve()


class Programs:
    """The executables: those that were named, otherwise built or installed."""

    def __init__(self, arguments, kinds, storages):
        self.paths = {}
        if "millpond" in kinds:
            self.paths["millpond"] = arguments.millpond or build_millpond()
        if "distribution" in kinds:
            self.paths["distribution"] = arguments.distribution or installed("registry")
        if "minio" in storages:
            self.paths["minio"] = arguments.minio or installed("minio")
        if "nginx" in kinds:
            self.paths["nginx"] = arguments.nginx or unpacked("nginx", "usr/sbin/nginx")
        self.load = arguments.load or build_load()
        self.millpond_config = arguments.millpond_config

    def run_load(self, *arguments, **options):
        """Runs the load generator; its failures say what happened and need no backtrace."""
        environment = {**os.environ, "RUST_BACKTRACE": "0"}
        command = [self.load, *map(str, arguments)]
        return subprocess.run(command, env=environment, text=True, check=False, **options)

    def describe(self):
        """One line for each program, with its version."""
        lines = [f"- {name}: {version(path)}" for name, path in sorted(self.paths.items())]
        return "\n".join(lines)


def version(path):
    flag = "-v" if path.name == "nginx" else "--version"
    result = subprocess.run([path, flag], capture_output=True, text=True, check=False)
    text = (result.stdout or result.stderr).strip()
    return text.splitlines()[0] if text else "unknown"


def build_millpond():
    subprocess.run(["cargo", "build", "--release", "--bin", "millpond"], cwd=ROOT, check=True)
    return target_directory() / "release/millpond"


def target_directory():
    command = ["cargo", "metadata", "--format-version=1", "--no-deps"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    return pathlib.Path(json.loads(output)["target_directory"])


def build_load():
    command = ["cargo", "bench", "--bench", "load", "--no-run", "--message-format=json"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "load":
            return pathlib.Path(message["executable"])
    raise SystemExit("cargo did not say where the load generator is")


def installed(name):
    package, release = GO_PROGRAMS[name]
    home = CACHE / f"{name}-{release}"
    if not (home / name).exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Built aside and renamed: a build that was stopped leaves nothing that looks whole.
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="building-") as aside:
            environment = {**os.environ, "GOBIN": f"{aside}/built"}
            command = ["go", "install", "-ldflags=-s -w", f"{package}@{release}"]
            subprocess.run(command, cwd=aside, env=environment, check=True)
            shutil.rmtree(home, ignore_errors=True)
            os.rename(f"{aside}/built", home)
    return home / name


def unpacked(package, file, *more):
    """A program of Debian's, whose version is pinned by the release: the machine's own, or the
    package unpacked into the cache, with more that it needs. Not installed: that would start a
    service."""
    found = shutil.which(package, path=os.environ.get("PATH", "") + ":/usr/sbin")
    home = CACHE / f"{package}-debian"
    if found or (home / file).exists():
        return pathlib.Path(found or home / file)
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="unpacking-") as aside:
        # apt downloads as a user of its own, who must be able to write here.
        os.chmod(aside, 0o777)
        subprocess.run(["apt-get", "update", "-qq"], check=True, stdout=subprocess.DEVNULL)
        command = ["apt-get", "download", "-qq", package, *more]
        subprocess.run(command, cwd=aside, check=True, stdout=subprocess.DEVNULL)
        for archive in pathlib.Path(aside).glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", archive, f"{aside}/tree"], check=True)
        shutil.rmtree(home, ignore_errors=True)
        os.rename(f"{aside}/tree", home)
    return home / file


def free_port():
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]


class Certificate:
    """A certificate that only its own holders trust, for servers on this machine, and its key."""

    REQUEST = f"""
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = {HOST}
[extensions]
subjectAltName = IP:{HOST}
basicConstraints = critical, CA:FALSE
"""

    def __init__(self, scratch):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="certificate-", dir=scratch))
        self.file, self.key_file, request = folder / "certificate.pem", folder / "key.pem", folder / "request.conf"
        request.write_text(self.REQUEST)
        command = ["openssl", "req", "-x509", "-config", request, "-days", "30", "-keyout", self.key_file, "-noenc"]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", self.file]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


class Server:
    """A running process and the directory it may write to; both are gone after `stop`. With a
    certificate it speaks TLS only. It is at a free port of this machine, if no address is given."""

    def __init__(self, name, scratch, certificate=None, address=None):
        self.name = name
        self.certificate = certificate
        self.host, self.port = address or (HOST, free_port())
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=scratch))
        self.process = None

    @property
    def url(self):
        return f"{'https' if self.certificate else 'http'}://{self.address}"

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    @property
    def pid(self):
        return self.process.pid

    def start(self, command, probe, **extra):
        """Starts the process and waits until `probe` answers 200."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(UNWANTED)}
        environment |= {"OTEL_TRACES_EXPORTER": "none", **extra}
        self.log = self.folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=self.folder
            )
        try:
            self.wait_for(probe)
        except BaseException:
            self.stop()
            raise
        return self

    def wait_for(self, probe):
        deadline = time.monotonic() + START_SECONDS
        while not self.answers(probe):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def answers(self, probe):
        context = ssl.create_default_context(cafile=self.certificate.file) if self.certificate else None
        try:
            with urllib.request.urlopen(self.url + probe, timeout=5, context=context) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Directory:
    """Storage on this machine's disk."""

    def __init__(self, scratch):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="directory-", dir=scratch))

    def millpond(self):
        return {"directory": {"path": str(self.path)}}

    def distribution(self):
        return {"filesystem": {"rootdirectory": str(self.path)}}

    def stop(self):
        shutil.rmtree(self.path, ignore_errors=True)


class Minio:
    """Storage in a bucket of a MinIO of its own."""

    bucket = "registry"

    def __init__(self, programs, scratch, server=None, **extra):
        self.server = server or Server("minio", scratch)
        data = self.server.folder / "data"
        # A directory that is there when MinIO starts is a bucket.
        (data / self.bucket).mkdir(parents=True)
        addresses = ("--address", self.server.address, "--console-address", f"{HOST}:{free_port()}")
        self.server.start(
            [programs.paths["minio"], "server", data, *addresses],
            "/minio/health/ready",
            MINIO_ROOT_USER=ACCESS_KEY,
            MINIO_ROOT_PASSWORD=SECRET_KEY,
            MINIO_REGION=REGION,
            MINIO_UPDATE="off",
            MINIO_BROWSER="off",
            **extra,
        )

    def millpond(self):
        return {
            "s3": {
                "endpoint": self.server.url,
                "region": REGION,
                "bucket": self.bucket,
                "access_key": ACCESS_KEY,
                "secret_key": SECRET_KEY,
            }
        }

    def distribution(self):
        return {
            "s3": {
                "regionendpoint": self.server.url,
                "region": REGION,
                "bucket": self.bucket,
                "accesskey": ACCESS_KEY,
                "secretkey": SECRET_KEY,
                "forcepathstyle": True,
                "secure": False,
            }
        }

    def signed_path(self, key):
        """Path and query by which whoever has them may GET the object for a week."""
        moment = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{moment[:8]}/{REGION}/s3/aws4_request"
        path = urllib.parse.quote(f"/{self.bucket}/{key}")
        parameters = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{ACCESS_KEY}/{scope}",
            "X-Amz-Date": moment,
            "X-Amz-Expires": 7 * 24 * 3600,
            "X-Amz-SignedHeaders": "host",
        }
        query = urllib.parse.urlencode(parameters)
        host = f"host:{self.server.address}\n"
        request = "\n".join(["GET", path, query, host, "host", "UNSIGNED-PAYLOAD"])
        text = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()])
        key = f"AWS4{SECRET_KEY}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return f"{path}?{query}&X-Amz-Signature={hmac.digest(key, text.encode(), 'sha256').hex()}"

    def stop(self):
        self.server.stop()


def cpu_seconds(pid):
    """CPU time of a process and of those it has started and not yet awaited, as nginx's workers."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()
    ticks = sum(map(int, fields[CPU_FIELDS]))
    return ticks / TICKS_PER_SECOND + sum(map(cpu_seconds, children(pid)))


def children(pid):
    """The processes that one has started and not yet awaited, whichever of its threads it was."""
    files = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


class Memory:
    """What a process has in memory: its own pages and the files that are only in memory
    (`memfd_create`), whether it maps them or not. Files that it opens later do not count."""

    # Linux counts in these what a file takes.
    BLOCK_BYTES = 512

    def __init__(self, pid):
        self.status = pathlib.Path(f"/proc/{pid}/status")
        descriptors = pathlib.Path(f"/proc/{pid}/fd").iterdir()
        self.files = [each for each in descriptors if os.readlink(each).startswith("/memfd:")]

    def resident_bytes(self):
        fields = dict(line.split(":", 1) for line in self.status.read_text().splitlines())
        return sum(int(fields[name].split()[0]) << 10 for name in ("RssAnon", "RssFile"))

    def file_bytes(self):
        return sum(os.stat(file).st_blocks * self.BLOCK_BYTES for file in self.files)


def require_disk(scratch, needed_bytes):
    """Stops before a disk is full: it may be that of others too."""
    folder = scratch or tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise SystemExit(f"{folder} has {free / 1e9:.0f} GB free, this takes up to {needed_bytes / 1e9:.0f} GB")


def make_storage(kind, programs, scratch):
    return Minio(programs, scratch) if kind == "minio" else Directory(scratch)


def start_registry(kind, storage, programs, scratch, certificate=None):
    """A registry on its own port; both read JSON, which is YAML."""
    server = Server(kind, scratch, certificate)
    if kind == "millpond":
        command = [programs.paths[kind], "serve", "--config"]
        config = merged(millpond_config(server, storage), programs.millpond_config)
    else:
        command = [programs.paths[kind], "serve"]
        config = distribution_config(server, storage)
    path = server.folder / "config.yml"
    path.write_text(json.dumps(config))
    return server.start([*command, path], "/v2/")


def millpond_config(server, storage):
    files = server.certificate
    tls = {"tls": {"cert_file": str(files.file), "key_file": str(files.key_file)}} if files else {}
    return {
        "api": {"listen": server.address, "admin": f"{HOST}:{free_port()}", **tls},
        "storage": storage.millpond(),
        "upstreams": [],
        "log": {"level": "error", "access": False},
    }


def distribution_config(server, storage):
    """As fast as it gets: metadata cached, nothing logged, nothing purged meanwhile. Redirects are
    off because they would measure MinIO."""
    files = server.certificate
    tls = {"tls": {"certificate": str(files.file), "key": str(files.key_file)}} if files else {}
    return {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {
            **storage.distribution(),
            "cache": {"blobdescriptor": "inmemory"},
            "delete": {"enabled": True},
            "redirect": {"disable": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": server.address, "secret": "benchmark", **tls},
    }


def registry_get(server, repository, thing):
    """Opens a manifest or a blob of a repository of the load generator's."""
    url = f"{server.url}/v2/{repository}/{thing}"
    return urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": MANIFEST_TYPE}), timeout=60)


def manifest(server, repository):
    """The manifest that the load generator has pushed."""
    with registry_get(server, repository, "manifests/latest") as response:
        return json.load(response)


def merged(base, extra):
    result = dict(base)
    for key, value in extra.items():
        inner = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if inner else value
    return result
