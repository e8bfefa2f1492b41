"""What a daemon asks of the kernel: its system calls, seen by strace while it runs."""

import contextlib
import dataclasses
import re

import parts
from process import Daemon

READING = ("read", "pread64", "readv", "preadv", "preadv2", "recvfrom", "recvmsg")
WRITING = ("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendto", "sendmsg")
WAITING = ("epoll_wait", "epoll_pwait", "epoll_pwait2", "futex", "restart_syscall", "sched_yield")

# `name(first, rest) = result`. A call that strace came or left in the middle of has no result.
CALL = re.compile(r"^(?P<name>\w+)\((?P<first>[^,)]*)(?P<rest>.*)\) += (?P<result>-?\d+)")
# Of what is read or written: enough to tell a request from other things, and all of a wake-up.
SHOWN_BYTES = 8
# One is added to an eventfd to wake a thread.
WAKE_UP = r', "\1\0\0\0\0\0\0\0", 8'


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One of them; the texts are strace's."""

    name: str
    first: str
    rest: str
    result: str

    def is_wait(self):
        """Whether a thread waits by it, or wakes another."""
        return self.name in WAITING or self.rest == WAKE_UP

    def is_whole(self):
        """Whether a `sendfile` has sent all it was to."""
        return self.rest.endswith(f", {self.result}")


class Calls(list):
    """Calls of all threads of a process, in no order."""

    def named(self, *names):
        """Those of some names."""
        return Calls(call for call in self if call.name in names)

    def waits(self):
        """Those by which threads wait and wake each other."""
        return Calls(call for call in self if call.is_wait())

    def with_clients(self):
        """Those on sockets on which a request came."""
        asked = {call.first for call in self.named(*READING) if ', "GET ' in call.rest}
        return Calls(call for call in self if call.first in asked)

    def without(self, others):
        """All but some of them."""
        others = set(others)
        return Calls(call for call in self if call not in others)

    def moved_bytes(self):
        """What all of them have moved, if they are calls that move bytes."""
        return sum(max(0, int(call.result)) for call in self)


@contextlib.contextmanager
def watched(process, folder):
    """Gives the calls of a process in the block; they are there when it has ended."""
    calls = Calls()
    # A file for each thread: where they share one, a call that waits is torn in two by the others.
    command = [parts.path("strace"), "-ff", "-s", SHOWN_BYTES, "-o", folder / "calls", "-p", process]
    strace = Daemon("strace", command, folder)
    strace.start(lambda: "attached" in strace.log.read_text(encoding="utf-8"))
    try:
        yield calls
    finally:
        strace.stop()
    for trace in folder.glob("calls.*"):
        with open(trace, encoding="utf-8") as lines:
            calls.extend(Call(**found.groupdict()) for found in map(CALL.match, lines) if found)
