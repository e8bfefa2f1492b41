"""What runs on the hosts of a network: servers, clients, and something that damages what goes by."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import socketserver
import subprocess
import threading
import time

import servers
import storm_network

PIECE_BYTES = 64 << 10
# The client ends by itself; this is for one that does not.
CLIENT_STOP_SECONDS = 5


class Server(servers.Server):
    """A server on a host."""

    def __init__(self, name, scratch, host, address):
        super().__init__(name, scratch, address=address)
        self.where = host
        self.spent = None

    def start(self, command, probe, **extra):
        self.cpu_before = 0
        super().start([*self.where.enter_command(), *command], probe, **extra)
        return self

    def answers(self, probe):
        return storm_network.inside(self.where.namespace, super().answers, probe)

    def begin_measuring(self):
        self.cpu_before = servers.cpu_seconds(self.pid)

    def measure(self):
        """CPU seconds since the begin and the highest resident bytes. Of one that is gone, what it was
        when it went."""
        if self.spent is None:
            if self.has_ended():
                log = self.log.read_text(errors="replace")[-2000:]
                raise SystemExit(f"{self.name} on {self.where} has ended:\n{log}")
            return servers.cpu_seconds(self.pid) - self.cpu_before, highest_resident_bytes(self.pid)
        return self.spent

    def has_ended(self):
        return self.process.poll() is not None

    def leave(self, how):
        """Sends a signal, and does not wait for what comes of it."""
        self.spent = self.measure()
        self.send(how)

    def send(self, how):
        self.process.send_signal(how)


def highest_resident_bytes(pid):
    """Of the process, and of those it has started, as nginx's workers."""
    fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    own = int(fields["VmHWM"].split()[0]) << 10
    return own + sum(map(highest_resident_bytes, servers.children(pid)))


def stop_all(started):
    """All at once, since each may take a while."""
    for server in started:
        if server.process is not None and not server.has_ended():
            server.send(signal.SIGTERM)
    for server in started:
        server.stop()


class Clients:
    """A client on each of some hosts. All begin at the same moment: the end of a pipe that is the input of
    all."""

    def __init__(self, load, options):
        self.load = load
        self.options = options
        self.running = {}
        self.reports = {}
        self.read_end, self.write_end = os.pipe()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()
        for process in self.running.values():
            process.kill()
            process.communicate()

    def add(self, host, target, image):
        """Returns when the client waits."""
        command = [*host.enter_command(), self.load, "storm", "--target", target]
        command += ["--repository", image.repository, *self.options]
        process = subprocess.Popen(
            list(map(str, command)), stdin=self.read_end, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.running[host.number] = process
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"the client on {host} did not start: {process.stderr.read()}")

    def release(self):
        for end in (self.read_end, self.write_end):
            if end is not None:
                os.close(end)
        self.read_end = self.write_end = None

    def ended(self, numbers):
        """Whether all of those are done; what they say is then in the reports."""
        for number in [number for number in self.running if self.running[number].poll() is not None]:
            output, errors = self.running.pop(number).communicate(timeout=CLIENT_STOP_SECONDS)
            try:
                self.reports[number] = json.loads(output)
            except ValueError:
                raise SystemExit(f"the client on host {number} failed: {errors}") from None
        return not self.running.keys() & set(numbers)


class Threads(socketserver.ThreadingTCPServer):
    """A server of threads of this process that are on a host."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, host, address, handler):
        self.where = host
        super().__init__(address, handler, bind_and_activate=False)
        self.socket.close()
        storm_network.inside(host.namespace, self.bind)

    def bind(self):
        # A socket belongs to the namespace in which it was made.
        self.socket = socket.socket()
        self.server_bind()
        self.server_activate()

    def __enter__(self):
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def serve(self):
        # The threads of connections are begun by this one, and so are where it is.
        storm_network.enter(self.where.namespace)
        self.serve_forever(poll_interval=0.1)

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        """Connections break where nodes are killed."""


class DamagingRelay(Threads):
    """Takes the place of a port of a host for all other hosts, and changes a byte here and there in what
    that port answers."""

    # Once in so many bytes, and only in pieces that are no headers.
    EVERY_BYTES = 1 << 20
    LEAST_PIECE_BYTES = 4 << 10

    def __init__(self, host, port, own_port):
        super().__init__(host, (host.address, own_port), DamagedPassage)
        self.behind = (host.address, port)
        self.lock = threading.Lock()
        self.left = self.EVERY_BYTES
        self.damaged = 0
        self.redirect = ("-i", "eth0", "-p", "tcp", "--dport", port, "-j", "REDIRECT", "--to-ports", own_port)

    def __enter__(self):
        self.route("-A")
        return super().__enter__()

    def __exit__(self, *_):
        super().__exit__()
        self.route("-D")

    def route(self, change):
        """What comes from other hosts is led here; what this host sends to itself is not."""
        command = ("iptables", "-t", "nat", change, "PREROUTING", *self.redirect)
        storm_network.run(*self.where.enter_command(), *command)

    def damage(self, piece):
        with self.lock:
            self.left -= len(piece)
            if self.left > 0 or len(piece) < self.LEAST_PIECE_BYTES:
                return piece
            self.left = self.EVERY_BYTES
            self.damaged += 1
        changed = bytearray(piece)
        changed[len(piece) // 2] ^= 1
        return bytes(changed)


class DamagedPassage(socketserver.BaseRequestHandler):
    """One connection."""

    def handle(self):
        with socket.create_connection(self.server.behind) as behind:
            threading.Thread(target=pass_on, args=(self.request, behind, bytes), daemon=True).start()
            pass_on(behind, self.request, self.server.damage)


def pass_on(source, sink, change):
    # Whoever hangs up ends it, for both.
    with contextlib.suppress(OSError):
        while piece := source.recv(PIECE_BYTES):
            sink.sendall(change(piece))
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class Processors:
    """How much of the time the machine had nothing to do."""

    # In the first line of /proc/stat: what is spent waiting for a disk is no work of a processor.
    IDLE_FIELDS = slice(3, 5)
    # The times of guests are part of those before.
    FIELDS = 8

    def __init__(self):
        self.begin = self.read()

    def read(self):
        fields = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        times = list(map(int, fields[: self.FIELDS]))
        return sum(times[self.IDLE_FIELDS]), sum(times)

    def idle_share(self):
        (idle_before, all_before), (idle, every) = self.begin, self.read()
        return (idle - idle_before) / max(1, every - all_before)


def wait_until(condition, seconds, interval=0.02):
    """Whether it came true in that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True
