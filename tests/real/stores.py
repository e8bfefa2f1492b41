"""Where a registry keeps its content: a directory, or a bucket in MinIO.

Both tell each registry how to use them in its own configuration, and both can
be looked into from outside, as `key -> size in bytes`.
"""

import contextlib
import os

DRIVERS = ("directory", "minio")


class DirectoryStore:
    """A folder on this machine."""

    def __init__(self, folder):
        self.folder = folder

    def millpond_settings(self):
        """The `storage` part of Millpond's configuration."""
        return {"directory": {"path": str(self.folder)}}

    def distribution_settings(self):
        """The `storage` part of docker-registry's and distribution's configuration."""
        return {"filesystem": {"rootdirectory": str(self.folder)}}

    def objects(self):
        """Every file with its size."""
        found = {}
        # `walk` passes over a folder that goes while it looks; so does this over a file.
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    found[os.path.relpath(path, self.folder)] = os.stat(path).st_size
        return found


class BucketStore:
    """A bucket of its own."""

    def __init__(self, bucket):
        self.bucket = bucket

    def millpond_settings(self):
        """The `storage` part of Millpond's configuration."""
        return {"s3": {
            "endpoint": f"http://{self.bucket.address}", "region": "us-east-1",
            "bucket": self.bucket.name, "access_key": self.bucket.access_key,
            "secret_key": self.bucket.secret_key}}

    def distribution_settings(self):
        """The `storage` part of docker-registry's and distribution's configuration."""
        return {"s3": {
            "regionendpoint": f"http://{self.bucket.address}", "region": "us-east-1",
            "bucket": self.bucket.name, "accesskey": self.bucket.access_key,
            "secretkey": self.bucket.secret_key, "secure": False, "v4auth": True,
            "forcepathstyle": True},
            # Clients get bytes from the registry, not a redirect to the bucket.
            "redirect": {"disable": True}}

    def objects(self):
        """Every object with its size."""
        return self.bucket.objects()
