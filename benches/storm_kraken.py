"""Kraken: an agent on each host, and on a host of its own what agents need: an origin that seeds, a
tracker, an index of tags, and the Redis of the tracker."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile

import servers
import storm_fleets
import storm_hosts
import storm_network

VERSION = "v0.1.4"
MODULE = "github.com/uber/kraken"
PARTS = ("agent", "origin", "tracker", "build-index")
REDIS_PACKAGES = ("libjemalloc2", "liblzf1")
# In this package the server is a link to what it shares its code with.
REDIS_FILE, LIBRARIES = "usr/bin/redis-check-rdb", "usr/lib/x86_64-linux-gnu"
AGENT_PEER_PORT, AGENT_PORT, NGINX_PORT = 16001, 16002, 16000
ORIGIN_PEER_PORT, ORIGIN_PORT, TRACKER_PORT, INDEX_PORT, REDIS_PORT = 15001, 15002, 15003, 15004, 14001
# Four times smaller than it comes with, for lines that are far slower than those it is made for.
PIECE_LENGTH = "1MB"
LOGGING = {
    "level": "warn",
    "encoding": "console",
    "disableStacktrace": True,
    # It panics without one of them.
    "encoderConfig": {
        "messageKey": "message",
        "levelKey": "level",
        "timeKey": "ts",
        "levelEncoder": "capital",
        "timeEncoder": "iso8601",
        "durationEncoder": "seconds",
        "callerEncoder": "short",
    },
    "outputPaths": ["stdout"],
    "errorOutputPaths": ["stdout"],
}
WITHOUT_TLS = {"name": "kraken", "server": {"disabled": True}, "client": {"disabled": True}}
QUICK_RETRIES = {"retry_interval": "100ms", "poll_retries_interval": "250ms"}


def installed(part):
    """Built in a module of its own, in which its version is written down."""
    home = servers.CACHE / f"kraken-{VERSION}"
    if not (home / part).exists():
        servers.CACHE.mkdir(parents=True, exist_ok=True)
        # Built aside and renamed: a build that was stopped leaves nothing that looks whole.
        with tempfile.TemporaryDirectory(dir=servers.CACHE, prefix="building-") as aside:
            pathlib.Path(aside, "go.mod").write_text(f"module pin\ngo 1.24\nrequire {MODULE} {VERSION}\n")
            for each in PARTS:
                command = ["go", "build", "-mod=mod", "-ldflags=-s -w", "-o", f"{aside}/built/{each}"]
                subprocess.run([*command, f"{MODULE}/{each}"], cwd=aside, check=True)
            shutil.rmtree(home, ignore_errors=True)
            os.rename(f"{aside}/built", home)
    return home / part


class Part(storm_hosts.Server):
    """A process that starts an nginx to stand before it, which would stay when it is gone."""

    def send(self, how):
        started = descendants(self.pid)
        super().send(how)
        for each in started:
            # Whose parent was told already may be gone.
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, how)


def descendants(pid):
    own = servers.children(pid)
    return own + [each for child in own for each in descendants(child)]


class Redis(storm_hosts.Server):
    """It speaks no HTTP."""

    def answers(self, _):
        with contextlib.suppress(OSError):
            address = (self.host, self.port)
            storm_network.inside(self.where.namespace, socket.create_connection, address, 1).close()
            return True
        return False


class Kraken(storm_fleets.Fleet):
    """As its example of a cluster sets it up, without TLS and without limits of its own. Clients ask the
    agent, not its nginx, which gives up a blob of which there is no byte after a minute."""

    needs_extra = True
    program = "kraken"

    def herd_host(self):
        return (self.network.extras or [self.network.origin])[0]

    def start_all(self):
        host = self.herd_host()
        redis = Redis("redis", self.scratch, host, (host.address, REDIS_PORT))
        self.servers["redis"] = redis
        program = servers.unpacked("redis-tools", REDIS_FILE, *REDIS_PACKAGES)
        libraries = program.parents[2] / LIBRARIES
        options = ("--port", REDIS_PORT, "--bind", host.address, "--protected-mode", "no", "--save", "")
        # It is the server only under this name.
        link = redis.folder / "redis-server"
        link.symlink_to(program)
        redis.start([link, *map(str, options)], "", LD_LIBRARY_PATH=str(libraries))
        self.start_part("origin", ORIGIN_PORT, self.origin_config, ORIGIN_FLAGS, "/health")
        self.start_part("tracker", TRACKER_PORT, self.tracker_config, ("--port", TRACKER_PORT), "/health")
        self.start_part("build-index", INDEX_PORT, self.index_config, ("--port", INDEX_PORT), "/health")
        super().start_all()

    def start_part(self, part, port, make_config, flags, probe):
        host = self.herd_host()
        server = Part(part, self.scratch, host, (host.address, port))
        self.servers[part] = server
        own = ("--peer-ip", host.address, "--blobserver-hostname", host.address) if part == "origin" else ()
        self.run_part(server, part, make_config(server), (*flags, *own), probe)

    def start(self, host):
        server = Part("agent", self.scratch, host, (servers.HOST, storm_fleets.PORT))
        self.servers[host.number] = server
        flags = ("--peer-ip", host.address, "--peer-port", AGENT_PEER_PORT, "--agent-server-port", AGENT_PORT)
        flags += ("--agent-registry-port", NGINX_PORT)
        self.run_part(server, "agent", self.agent_config(server), flags, "/v2/")

    def run_part(self, server, part, config, flags, probe):
        """Each waits for the one before it: their nginx read one and the same file when they start."""
        (server.folder / "nginx").mkdir()
        shared = {
            "zap": LOGGING,
            "tls": WITHOUT_TLS,
            "nginx": {
                "name": f"kraken-{part}",
                "cache_dir": str(server.folder / "nginx"),
                "log_dir": str(server.folder / "nginx"),
            },
        }
        path = self.write(server, "config.yaml", json.dumps(shared | config))
        server.start([installed(part), "--config", path, *map(str, flags)], probe)

    def backend(self, kind):
        address = self.from_origin.url.removeprefix("http://")
        security = {"tls": {"client": {"disabled": True}}}
        return [{"namespace": ".*", "backend": {kind: {"address": address, "security": security}}}]

    def at_herd(self, port):
        return {"hosts": {"static": [f"{self.herd_host().address}:{port}"]}}

    def origin_config(self, server):
        folder = server.folder
        return {
            "backends": self.backend("registry_blob"),
            "cluster": self.at_herd(ORIGIN_PORT)["hosts"],
            "hashring": {"max_replica": 1},
            "metainfogen": {"piece_lengths": {0: PIECE_LENGTH}},
            "peer_id_factory": "addr_hash",
            "scheduler": {"torrentlog": {"disable": True}},
            "localdb": {"source": str(folder / "origin.db")},
            "castore": {"upload_dir": str(folder / "upload"), "cache_dir": str(folder / "cache")},
            "blobserver": {"listener": listener(folder)},
            "writeback": QUICK_RETRIES,
        }

    def tracker_config(self, server):
        return {
            "peerstore": {"redis": {"addr": f"{self.herd_host().address}:{REDIS_PORT}"}},
            "peerhandoutpolicy": {"priority": "completeness"},
            "origin": self.at_herd(ORIGIN_PORT),
            "trackerserver": {"announce_interval": "3s", "listener": listener(server.folder)},
        }

    def index_config(self, server):
        folder = server.folder
        return {
            "backends": self.backend("registry_tag"),
            "cluster": self.at_herd(INDEX_PORT),
            "origin": self.at_herd(ORIGIN_PORT),
            "remotes": {},
            "tag_types": [{"namespace": ".*", "type": "docker", "root": "tags"}],
            "tag_store": {"write_through": False},
            "tag_replication": QUICK_RETRIES,
            "writeback": QUICK_RETRIES,
            "localdb": {"source": str(folder / "index.db")},
            "store": {"upload_dir": str(folder / "upload"), "cache_dir": str(folder / "cache")},
            "tagserver": {"listener": listener(folder)},
        }

    def agent_config(self, server):
        folder = server.folder
        return {
            "tracker": self.at_herd(TRACKER_PORT),
            "build_index": self.at_herd(INDEX_PORT),
            "peer_id_factory": "addr_hash",
            "allowed_cidrs": [servers.HOST, f"{storm_network.SUBNET}.0/{storm_network.PREFIX_BITS}"],
            "store": {"download_dir": str(folder / "download"), "cache_dir": str(folder / "cache")},
            "scheduler": {
                "torrentlog": {"disable": True},
                "dispatch": {"piece_request_policy": "rarest_first"},
            },
            "registry": {
                "docker": {
                    "version": "0.1",
                    "log": {"level": "error"},
                    "http": {"net": "tcp", "addr": server.address},
                }
            },
        }


ORIGIN_FLAGS = ("--peer-port", ORIGIN_PEER_PORT, "--blobserver-port", ORIGIN_PORT)


def listener(folder):
    return {"net": "unix", "addr": str(folder / "socket")}
