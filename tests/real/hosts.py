"""Hosts of a network that is on this machine only: each is a network namespace with a line of its own.

The lines end at a switch, which is a namespace too and has three bridges. The storage is at the middle one, the two
halves of the other hosts at the others, which reach each other through the middle. Where the middle isolates its two
joints, the halves are parted, and both reach the storage. A token bucket at each end of a line limits it.
"""

import atexit
import contextlib
import ctypes
import os
import pathlib
import subprocess
import threading

import parts
from process import run

# Followed by the number of the process that has made it.
PREFIX = "millpond-real-"
NAMESPACES = pathlib.Path("/run/netns")
SUBNET = "10.78.0"
STORAGE_NUMBER = 254
MIDDLE, HALVES = "middle", ("left", "right")
# How much a line may send at once after a pause, and how long what it cannot send yet may wait.
BURST, QUEUE = "128kb", "50ms"
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


class Host:
    """One namespace; the line is called the same at the switch as the host in the network."""

    def __init__(self, prefix, name, number, bridge):
        self.name = name
        self.namespace = f"{prefix}-{name}"
        # The same in every network: each has a switch of its own.
        self.address = f"{SUBNET}.{number}"
        self.bridge = bridge

    def enter_command(self):
        """What a command begins with that is to run there: it becomes that command."""
        return [parts.path("nsenter"), f"--net={NAMESPACES / self.namespace}"]

    def call(self, function, *arguments):
        """Calls the function there, and returns what it returns or raises what it raises. Threads that it begins
        stay there, and a socket always belongs to where it was made."""
        outcome = {}

        def work():
            try:
                self.enter()
                outcome["value"] = function(*arguments)
            except BaseException as error:  # Whatever it is, it is the caller's.
                outcome["error"] = error

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if "error" in outcome:
            raise outcome["error"]
        return outcome["value"]

    def enter(self):
        """The calling thread is there from now on."""
        descriptor = os.open(NAMESPACES / self.namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if LIBC.setns(descriptor, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter {self.namespace}")
        finally:
            os.close(descriptor)


class Network:
    """A switch, a host for the storage, and so many others."""

    def __init__(self, count, rate):
        prefix = f"{PREFIX}{os.getpid()}"
        self.rate = rate
        self.switch = Host(prefix, "switch", 0, None)
        self.storage = Host(prefix, "storage", STORAGE_NUMBER, MIDDLE)
        self.hosts = [Host(prefix, f"host{number}", number, HALVES[number % 2]) for number in range(1, count + 1)]
        self._made = []

    def start(self):
        """Makes it; nothing is left of it after `stop`."""
        _remove_left_behind()
        # However this program ends, short of a kill.
        atexit.register(self.stop)
        try:
            self._make_switch()
            for host in (self.storage, *self.hosts):
                self._make_host(host)
        except BaseException:
            self.stop()
            raise

    def stop(self):
        """Removes it. Whatever ran there must be stopped."""
        while self._made:
            # A line goes with either of its ends.
            _remove(self._made.pop())
        atexit.unregister(self.stop)

    def limit(self, host, rate):
        """Limits a host's line, both ways."""
        self._limit("change", host, rate)

    @contextlib.contextmanager
    def cut(self, host):
        """Meanwhile nothing reaches a host or leaves it."""
        self._at_switch("link", "set", host.name, "down")
        try:
            yield
        finally:
            self._at_switch("link", "set", host.name, "up")

    @contextlib.contextmanager
    def parted(self):
        """Meanwhile nothing goes from one half of the hosts to the other."""
        self._isolate("on")
        try:
            yield
        finally:
            self._isolate("off")

    def _isolate(self, state):
        for half in HALVES:
            self._at_switch("link", "set", "dev", _joint(half), "type", "bridge_slave", "isolated", state)

    def _make_switch(self):
        self._make_namespace(self.switch)
        for bridge in (MIDDLE, *HALVES):
            self._at_switch("link", "add", bridge, "type", "bridge")
            self._at_switch("link", "set", bridge, "up")
        for half in HALVES:
            here, there = f"{half}-joint", _joint(half)
            self._at_switch("link", "add", here, "type", "veth", "peer", "name", there)
            for end, bridge in ((here, half), (there, MIDDLE)):
                self._at_switch("link", "set", end, "master", bridge, "up")

    def _make_host(self, host):
        self._make_namespace(host)
        _ip("link", "add", "eth0", "netns", host.namespace, "type", "veth",
            "peer", "name", host.name, "netns", self.switch.namespace)
        _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _ip("-n", host.namespace, "link", "set", "eth0", "up")
        self._at_switch("link", "set", host.name, "master", host.bridge, "up")
        self._limit("add", host, self.rate)

    def _make_namespace(self, host):
        _ip("netns", "add", host.namespace)
        self._made.append(host.namespace)
        _ip("-n", host.namespace, "link", "set", "lo", "up")

    def _limit(self, verb, host, rate):
        bucket = ("root", "tbf", "rate", rate, "burst", BURST, "latency", QUEUE)
        for namespace, device in ((host.namespace, "eth0"), (self.switch.namespace, host.name)):
            run(parts.path("tc"), "-n", namespace, "qdisc", verb, "dev", device, *bucket)

    def _at_switch(self, *command):
        _ip("-n", self.switch.namespace, *command)


def _ip(*command):
    run(parts.path("ip"), *command)


def _remove(namespace):
    subprocess.run([parts.path("ip"), "netns", "delete", namespace], check=False)


def _remove_left_behind():
    """Of programs that were killed. What ran there was killed with them."""
    for path in NAMESPACES.glob(f"{PREFIX}*"):
        process = path.name.removeprefix(PREFIX).partition("-")[0]
        if not os.path.exists(f"/proc/{process}"):
            _remove(path.name)


def _joint(half):
    """The middle's end of the line to a half."""
    return f"{half}-middle"
