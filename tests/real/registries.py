"""Registries under test and beside it: Millpond, Debian's docker-registry 2.8, distribution 3.1.

All three serve one store, are reached at `address`, and can be stopped, killed
and started again on the same store and the same port.
"""

import http.client
import json

import parts
from process import Daemon, clean_environment, free_port, run


class Registry:
    """What is common to all of them; a subclass gives name, command and settings."""

    name = ""
    ready_path = "/v2/"
    ready_status = 200

    def __init__(self, store, folder, registry_settings=None):
        self.store = store
        # More of Millpond's section `registry`; the others have none.
        self.registry_settings = registry_settings or {}
        self.address = f"127.0.0.1:{free_port()}"
        self.admin_address = f"127.0.0.1:{free_port()}"
        self.configuration = folder / f"{self.name}.yml"
        self.write(self.settings())
        self._daemon = Daemon(self.name, self.command(), folder, self.environment())

    def settings(self):
        """The whole configuration file, as data."""
        raise NotImplementedError

    def write(self, settings):
        """Writes its configuration file, which it reads when it starts."""
        # JSON is YAML too, and needs no library to write.
        self.configuration.write_text(json.dumps(settings, indent=2), encoding="utf-8")

    def command(self):
        """The command line that serves."""
        raise NotImplementedError

    def environment(self):
        """What the process sees; without AWS_CA_BUNDLE, at which docker-registry 2.8 panics."""
        return clean_environment(OTEL_TRACES_EXPORTER="none")

    @property
    def pid(self):
        """Its process while it runs."""
        return self._daemon.pid

    def start(self):
        """Starts it and waits until it takes requests."""
        self._daemon.start(self._ready)
        return self

    def stop(self):
        """Ends it with SIGTERM."""
        self._daemon.stop()

    def kill(self):
        """Ends it with SIGKILL."""
        self._daemon.kill()

    def last_words(self):
        """The end of its log."""
        return self._daemon.last_words()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def _ready(self):
        connection = http.client.HTTPConnection(self._ready_address(), timeout=5)
        try:
            connection.request("GET", self.ready_path)
            return connection.getresponse().status == self.ready_status
        except OSError:
            return False
        finally:
            connection.close()

    def _ready_address(self):
        return self.address


class Millpond(Registry):
    """The registry this project is."""

    name = "millpond"
    ready_path = "/readyz"
    has_referrers = True

    def settings(self):
        return {
            "api": {"listen": self.address, "admin": self.admin_address},
            "storage": self.store.millpond_settings(),
            "cache": {"disk": {"path": str(self.configuration.parent / "cache")}},
            # The default would listen on a port of its own, and ask the world.
            "upstreams": [],
            "registry": {"references": "strict", "delete": True} | self.registry_settings,
        }

    def command(self):
        return [parts.path("millpond"), "serve", "--config", self.configuration]

    def _ready_address(self):
        return self.admin_address


class DockerRegistry(Registry):
    """Debian's docker-registry 2.8.2."""

    name = "docker-registry"
    has_referrers = False

    def settings(self):
        return {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": self.store.distribution_settings() | {"delete": {"enabled": True}},
            "http": {"addr": self.address, "secret": "real-tests"},
        }

    def command(self):
        return [parts.path("docker-registry"), "serve", self.configuration]

    def collect(self, delete_untagged):
        """Runs its garbage collection; every registry on the store must be stopped."""
        options = ["--delete-untagged=true"] if delete_untagged else []
        program = self.command()[0]
        return run(program, "garbage-collect", *options, self.configuration,
                   environment=self.environment())


class Distribution(DockerRegistry):
    """distribution 3.1.1."""

    name = "distribution"

    def command(self):
        return [parts.path("registry"), "serve", self.configuration]


BY_NAME = {kind.name: kind for kind in (Millpond, DockerRegistry, Distribution)}
