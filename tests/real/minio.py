"""A real MinIO on loopback, one for a whole run."""

import parts
from process import Daemon, clean_environment, free_port
from s3 import Bucket, S3Error

ACCESS_KEY = "millpond-test"
SECRET_KEY = "millpond-test-secret"


class Minio:
    """One server; every store gets a bucket of its own in it. It is at a free port of loopback, if it is not told
    where, and started by what the command begins with, if that is more than its name."""

    def __init__(self, folder, address=None, command_begin=()):
        self.address = address or f"127.0.0.1:{free_port()}"
        environment = clean_environment(
            MINIO_ROOT_USER=ACCESS_KEY, MINIO_ROOT_PASSWORD=SECRET_KEY,
            MINIO_BROWSER="off", MINIO_UPDATE="off")
        self._data = folder / "data"
        self._data.mkdir()
        command = [*command_begin, parts.path("minio"), "server", "--quiet", "--address", self.address, self._data]
        self._daemon = Daemon("minio", command, folder, environment)
        self._buckets = 0

    def start(self):
        """Starts it and waits until it takes requests."""
        self._daemon.start(self._ready)

    def stop(self):
        """Stops it."""
        self._daemon.stop()

    def create_bucket(self):
        """A new empty bucket."""
        self._buckets += 1
        bucket = Bucket(self.address, f"bucket-{self._buckets}", ACCESS_KEY, SECRET_KEY)
        bucket.create()
        return bucket

    def unfinished_bytes(self):
        """What uploads that were neither completed nor aborted hold, in all buckets."""
        # Its API lists them for an exact key only, so this looks at its files.
        parts_of_uploads = (self._data / ".minio.sys/multipart").rglob("part.*")
        return sum(path.stat().st_size for path in parts_of_uploads if path.is_file())

    def _ready(self):
        # Its health page says so a moment before it takes requests.
        try:
            Bucket(self.address, "ready", ACCESS_KEY, SECRET_KEY).create()
        except (OSError, S3Error):
            return False
        return True
