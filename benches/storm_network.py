"""Hosts of a network that is on this machine only: each is a network namespace with a line of its own.

All lines end at a switch, which is a namespace too. A token bucket at each end of a line limits it: the one
at the host what it sends, the one at the switch what it gets. Round trips take no time but that in queues.

The switch is three bridges. The origin and whatever is added to the hosts are at the middle one, the two
halves of the hosts at the others, which reach each other through the middle. Where the middle isolates its
two joints from each other, the halves are parted, and both reach the origin.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import re
import signal
import subprocess
import threading

SUBNET = "10.77.0"
PREFIX_BITS = 24
ORIGIN_NUMBER = 254
MOST_HOSTS = 200
# How much a line may send at once after a pause, and how long what it cannot send yet may wait.
BURST, QUEUE = "128kb", "50ms"
BITS = {"kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
CLONE_NEWNET = 0x40000000
CONGESTION_FILE = "/proc/sys/net/ipv4/tcp_congestion_control"
MIDDLE, HALVES = "middle", ("left", "right")
# How many addresses of neighbours the kernel keeps before it looks for old ones, throws them away sooner, and takes no
# more, in all namespaces together. With 32 hosts that all speak with each other there are more than the usual 1024:
# then packets are dropped, at whichever host comes too late.
NEIGHBOURS_FOLDER = pathlib.Path("/proc/sys/net/ipv4/neigh/default")
NEIGHBOURS_MOST = {"gc_thresh3": 1 << 16, "gc_thresh2": 1 << 15, "gc_thresh1": 1 << 15}

LIBC = ctypes.CDLL(None, use_errno=True)


def bits_per_second(text):
    """A rate as tc writes them, such as 50mbit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]bit)", text)
    if not match:
        raise ValueError(f"{text!r} is no rate such as 50mbit")
    return round(float(match[1]) * BITS[match[2]])


def ip(*command):
    """Runs ip, and returns what it prints."""
    return run("ip", *command)


def run(*command):
    result = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {result.stderr.strip()}")
    return result.stdout


def enter(namespace):
    """The calling thread, and all threads that it begins, are in the namespace from now on. What other
    threads do is where it was, and a socket is always where it was made."""
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if LIBC.setns(descriptor, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot enter {namespace}: {os.strerror(number)}")
    finally:
        os.close(descriptor)


def inside(namespace, function, *arguments):
    """Calls the function in the namespace and returns what it returns, or raises what it raises."""
    outcome = {}

    def call():
        try:
            enter(namespace)
            outcome["value"] = function(*arguments)
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


def end_all(namespace):
    """Ends what is left there of servers that ended without what they had started."""
    found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    for pid in found.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


class Host:
    """One namespace with its line."""

    def __init__(self, prefix, number, name, rate, bridge):
        self.number = number
        self.name = name
        self.namespace = f"{prefix}{name}"
        # The same in every network: each has a switch of its own.
        self.address = f"{SUBNET}.{number}"
        self.rate = rate
        self.bridge = bridge
        self.port = f"port{number}"

    def enter_command(self):
        """What a command begins with that is to run on the host: it becomes that command."""
        return ["ip", "netns", "exec", self.namespace]

    def __repr__(self):
        return self.name


class Network:
    """A switch, the origin and so many hosts. Take it with `with`: nothing is left of it."""

    def __init__(self, origin_rate, rates, congestion, extra_rates=()):
        if len(rates) + len(extra_rates) > MOST_HOSTS:
            raise SystemExit(f"no more than {MOST_HOSTS} hosts")
        self.congestion = congestion
        self.prefix = f"storm-{os.getpid()}-"
        self.switch = f"{self.prefix}switch"
        self.origin = Host(self.prefix, ORIGIN_NUMBER, "origin", origin_rate, MIDDLE)
        half = (len(rates) + 1) // 2
        self.hosts = [
            Host(self.prefix, number, f"host{number}", rate, HALVES[number > half])
            for number, rate in enumerate(rates, 1)
        ]
        self.extras = [
            Host(self.prefix, number, f"server{number}", rate, MIDDLE)
            for number, rate in enumerate(extra_rates, len(rates) + 1)
        ]
        self.made = []
        self.neighbours_before = {}

    def __enter__(self):
        try:
            self.make_room_for_neighbours()
            self.make_switch()
            for host in (self.origin, *self.hosts, *self.extras):
                self.make_host(host)
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.remove()

    def remove(self):
        # A line goes with either of its ends.
        while self.made:
            namespace = self.made.pop()
            end_all(namespace)
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
        # The least first: each may be no more than the next.
        for name, value in sorted(self.neighbours_before.items()):
            (NEIGHBOURS_FOLDER / name).write_text(value)
        self.neighbours_before = {}

    def make_room_for_neighbours(self):
        for name, most in NEIGHBOURS_MOST.items():
            before = (NEIGHBOURS_FOLDER / name).read_text()
            if int(before) < most:
                self.neighbours_before[name] = before
                (NEIGHBOURS_FOLDER / name).write_text(str(most))

    def make_namespace(self, name):
        ip("netns", "add", name)
        self.made.append(name)
        ip("-n", name, "link", "set", "lo", "up")

    def make_switch(self):
        self.make_namespace(self.switch)
        for bridge in (MIDDLE, *HALVES):
            self.at_switch("link", "add", bridge, "type", "bridge")
            self.at_switch("link", "set", bridge, "up")
        for half in HALVES:
            here, there = f"{half}-joint", joint(half)
            self.at_switch("link", "add", here, "type", "veth", "peer", "name", there)
            for end, bridge in ((here, half), (there, MIDDLE)):
                self.at_switch("link", "set", end, "master", bridge, "up")

    def make_host(self, host):
        self.make_namespace(host.namespace)
        peer = ("peer", "name", host.port, "netns", self.switch)
        ip("link", "add", "eth0", "netns", host.namespace, "type", "veth", *peer)
        ip("-n", host.namespace, "addr", "add", f"{host.address}/{PREFIX_BITS}", "dev", "eth0")
        ip("-n", host.namespace, "link", "set", "eth0", "up")
        self.at_switch("link", "set", host.port, "master", host.bridge, "up")
        limit = ("root", "tbf", "rate", f"{host.rate}bit", "burst", BURST, "latency", QUEUE)
        run("tc", "-n", host.namespace, "qdisc", "add", "dev", "eth0", *limit)
        run("tc", "-n", self.switch, "qdisc", "add", "dev", host.port, *limit)
        inside(host.namespace, self.set_congestion)

    def set_congestion(self):
        try:
            pathlib.Path(CONGESTION_FILE).write_text(self.congestion)
        except OSError as error:
            # A namespace may have only what the whole machine allows to everyone.
            raise SystemExit(f"TCP here does not know {self.congestion}, or may not use it") from error

    def at_switch(self, *command):
        return ip("-n", self.switch, *command)

    def cut(self, host):
        """Nothing reaches the host or leaves it."""
        self.at_switch("link", "set", host.port, "down")

    def mend(self, host):
        self.at_switch("link", "set", host.port, "up")

    def part(self):
        """Nothing goes from one half of the hosts to the other."""
        self.isolate("on")

    def join(self):
        self.isolate("off")

    def isolate(self, state):
        for half in HALVES:
            self.at_switch("link", "set", "dev", joint(half), "type", "bridge_slave", "isolated", state)

    def sent_bytes(self):
        """What has come from each host until now, by its number. A packet that a card would have cut into
        many has one header here, so that this is little more than what was sent in it."""
        return {number: sent for number, (sent, _) in self.passed_bytes().items()}

    def passed_bytes(self):
        """What has come from each host and what has gone to it until now, by its number."""
        links = {each["ifname"]: each for each in json.loads(self.at_switch("-s", "-j", "link"))}
        counts = {host.number: links[host.port]["stats64"] for host in (self.origin, *self.hosts, *self.extras)}
        return {number: (count["rx"]["bytes"], count["tx"]["bytes"]) for number, count in counts.items()}


def joint(half):
    """The middle's end of the line to a half."""
    return f"{half}-middle"
