"""The servers that stand between the clients and the origin: Millpond and its rivals."""

import json
import shutil
import signal

import mirrors
import servers
import storm_hosts
import storm_network

PORT, ADMIN_PORT, PEER_PORT, RELAY_PORT = 5000, 5002, 5003, 5004
METRICS_URL = f"http://{servers.HOST}:{ADMIN_PORT}/metrics"
CLUSTER_SECRET = "the hosts of a benchmark trust each other"
# From the start of a node until it owns something.
WARM_UP_SECONDS = 1
CACHE_MEMORY, BUFFERS = "512MiB", "96MiB"
# Requests for parts: a blob is then not one thing that all others wait for.
NGINX_SLICES = (
    "slice 4m; proxy_cache_key $uri$slice_range; "
    'proxy_set_header Connection ""; proxy_set_header Range $slice_range;'
)


class Fleet:
    """Servers of one kind for one plan, by the numbers of their hosts."""

    # Where the images are: bucket or registry.
    origin = "registry"
    # One server for all hosts, on a host of its own; otherwise each host has one.
    is_shared = False
    # Whether there must be such a host.
    needs_extra = False
    program = None
    # What a server needs until it is all it can be.
    settle_seconds = 0

    def __init__(self, programs, scratch, plan, network, origin, arguments):
        self.programs = programs
        self.scratch = scratch
        self.plan = plan
        self.network = network
        self.from_origin = origin
        self.arguments = arguments
        self.servers = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        storm_hosts.stop_all(self.servers.values())

    def hosts(self):
        """Those that have servers, now or later."""
        if self.plan.servers:
            return [self.network.hosts[number - 1] for number in self.plan.servers]
        return self.network.extras if self.is_shared else self.network.hosts

    def has_own(self):
        return not self.plan.servers and not self.is_shared

    def start_all(self):
        for host in self.hosts():
            if host.number not in self.plan.absent or not self.has_own():
                self.start(host)

    def start(self, host):
        address = (servers.HOST if self.has_own() else host.address, PORT)
        server = storm_hosts.Server(self.program, self.scratch, host, address)
        self.servers[host.number] = server
        server.start(self.command(server), "/v2/")

    def target(self, host):
        """Where the client on that host asks."""
        if self.has_own():
            return f"http://{servers.HOST}:{PORT}"
        serving = self.hosts()
        return f"http://{serving[(host.number - 1) % len(serving)].address}:{PORT}"

    def do(self, event):
        """What may happen to servers; rivals that have only one are spared."""
        for number in event.hosts if self.has_own() else ():
            if event.verb == "start":
                self.start(self.network.hosts[number - 1])
            else:
                self.servers[number].leave({"kill": signal.SIGKILL, "leave": signal.SIGTERM}[event.verb])

    def keep(self, folder, errors, answers):
        """Saves what servers say of a round, what the origin answered, and what clients complain of."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "errors").write_text("".join(f"{error}\n" for error in errors))
        (folder / "answers").write_text(answers.text())
        for name, server in self.servers.items():
            shutil.copy(server.log, folder / f"{name}.log")

    def command(self, server):
        raise NotImplementedError

    def write(self, server, name, text):
        path = server.folder / name
        path.write_text(text)
        return path


class Millpond(Fleet):
    """One on each host, in a cluster or each for itself."""

    origin = "bucket"
    program = "millpond"

    @property
    def settle_seconds(self):
        return 0 if self.arguments.no_cluster else 2 * WARM_UP_SECONDS

    def keep(self, folder, errors, answers):
        super().keep(folder, errors, answers)
        for number, server in self.servers.items():
            if not server.has_ended():
                metrics = storm_network.inside(server.where.namespace, mirrors.fetched, METRICS_URL)
                (folder / f"{number}.metrics").write_bytes(metrics)

    def command(self, server):
        config = servers.merged(self.config(server), self.programs.millpond_config)
        path = self.write(server, "config.yml", json.dumps(config))
        return [self.programs.paths[self.program], "serve", "--config", path]

    def config(self, server):
        config = servers.millpond_config(server, self.from_origin.storage)
        changes = {
            "api": {
                "admin": f"{servers.HOST}:{ADMIN_PORT}",
                "anonymous": "loopback" if self.has_own() else "anywhere",
            },
            "cache": {"memory": CACHE_MEMORY, "disk": {"size": "0B"}},
            "memory": {"buffers": BUFFERS},
        }
        if not self.arguments.no_cluster:
            changes["cluster"] = {
                "listen": peer_address(server.where),
                "members": [peer_address(host) for host in self.hosts()],
                "secret": CLUSTER_SECRET,
                "weight": 1,
                "warm_up": f"{WARM_UP_SECONDS}s",
            }
        return servers.merged(config, changes)


def peer_address(host):
    return f"{host.address}:{PEER_PORT}"


class Neighbour(Fleet):
    """A Millpond on each host that has all images, and is asked by the next host: all lines are full, and
    nobody has to wait for anybody. This is what the network and the clients can do on this machine."""

    program = "millpond"

    def has_own(self):
        return False

    def target(self, host):
        return f"http://{self.network.hosts[host.number % len(self.network.hosts)].address}:{PORT}"

    def start_all(self):
        self.storage = servers.Directory(self.scratch)
        super().start_all()
        first = self.hosts()[0]
        for image in self.plan.images:
            storm_network.inside(first.namespace, image.push, self.servers[first.number].address)

    def command(self, server):
        config = servers.merged(servers.millpond_config(server, self.storage), {"api": {"anonymous": "anywhere"}})
        path = self.write(server, "config.yml", json.dumps(config))
        return [self.programs.paths[self.program], "serve", "--config", path]


class Distribution(Fleet):
    """As a mirror, one for all."""

    is_shared = True
    needs_extra = True
    program = "distribution"

    def command(self, server):
        config = json.dumps(mirrors.distribution_config(server, self.from_origin))
        return [self.programs.paths[self.program], "serve", self.write(server, "config.yml", config)]


class DistributionEach(Distribution):
    """As a mirror, one on each host."""

    is_shared = False
    needs_extra = False


class Nginx(Fleet):
    """With a cache of parts that are each fetched once."""

    is_shared = True
    needs_extra = True
    program = "nginx"

    def command(self, server):
        text = mirrors.nginx_config(server, self.from_origin, NGINX_SLICES)
        path = self.write(server, "nginx.conf", text)
        return [self.programs.paths[self.program], "-p", server.folder, "-e", "stderr", "-c", path]


class Nothing(Fleet):
    """All ask the origin."""

    def hosts(self):
        return []

    def target(self, host):
        return self.from_origin.url

    def do(self, event):
        """There are no servers to which anything could happen."""


KINDS = {
    "millpond": Millpond,
    "distribution": Distribution,
    "distribution-each": DistributionEach,
    "nginx": Nginx,
    "nothing": Nothing,
    "neighbour": Neighbour,
}
