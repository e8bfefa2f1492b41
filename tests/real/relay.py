"""A line to a server that can be held at a chosen byte, and cut."""

import contextlib
import socket
import threading

READ_BYTES = 1 << 16
# For the thing that makes the bytes flow: a client that has to start first.
HELD_SECONDS = 60


class Relay:
    """Passes connections to `target` on, byte for byte, both ways; at a free port of loopback, if it is not told
    where."""

    def __init__(self, target, address="127.0.0.1:0"):
        self._target = _parsed(target)
        self._listener = socket.create_server(_parsed(address))
        host, port = self._listener.getsockname()
        self.address = f"{host}:{port}"
        self._changed = threading.Condition()
        # Both ends of each connection, and how much may still come from the target; None for all.
        self._connections = set()
        self._left = None

    def start(self):
        """Begins to take connections."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def stop(self):
        """Ends every connection and takes no more."""
        # Wakes up who waits in `accept`; closing alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def hold_after(self, count):
        """Lets so many bytes through from the target, from now on, and no more."""
        with self._changed:
            self._left = int(count)

    def wait_until_held(self):
        """Waits until the last of those bytes is through."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._left == 0, HELD_SECONDS):
                raise TimeoutError(f"after {HELD_SECONDS} s still {self._left} bytes to come")

    def release(self):
        """Lets everything through again."""
        with self._changed:
            self._left = None
            self._changed.notify_all()

    def cut(self):
        """Ends every connection there is, and lets everything through on new ones."""
        with self._changed:
            connections, self._connections = self._connections, set()
        for pair in connections:
            _close(pair)
        self.release()

    def asked(self, _pair, data):
        """What is passed on of some bytes from a client."""
        return data

    def answered(self, _pair, data):
        """What is passed on of some bytes from the target."""
        return data

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                pair = (client, socket.create_connection(self._target))
            except OSError:
                client.close()
                continue
            for end in pair:
                # Otherwise the end of an answer waits for a receipt of what came before it.
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                self._connections.add(pair)
            for copy in (self._forth, self._back):
                threading.Thread(target=self._run, args=(copy, pair), daemon=True).start()

    def _run(self, copy, pair):
        with contextlib.suppress(OSError):
            copy(pair)
        with self._changed:
            self._connections.discard(pair)
        _close(pair)

    def _forth(self, pair):
        client, server = pair
        while data := client.recv(READ_BYTES):
            server.sendall(self.asked(pair, data))

    def _back(self, pair):
        client, server = pair
        while data := server.recv(READ_BYTES):
            data = self.answered(pair, data)
            while data:
                count = self._may_pass(len(data), pair)
                client.sendall(data[:count])
                data = data[count:]

    def _may_pass(self, count, pair):
        """How many of these bytes may pass, when some may; an error once the connection is cut."""
        with self._changed:
            self._changed.wait_for(lambda: self._left != 0 or pair not in self._connections)
            if pair not in self._connections:
                raise ConnectionAbortedError
            if self._left is None:
                return count
            count = min(count, self._left)
            self._left -= count
            self._changed.notify_all()
            return count


def _parsed(address):
    host, _, port = address.rpartition(":")
    return host, int(port)


def _close(pair):
    for end in pair:
        # Wakes up who waits in `recv`.
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
