"""A load balancer that knows nothing of sessions: each request goes to the next server."""

import contextlib
import re
import socket
import threading

READ_BYTES = 1 << 16
HEAD_BYTES_MOST = 1 << 16
# A client that has its answer goes; one that does not is left behind.
LINGER_SECONDS = 30


class RoundRobin:
    """Passes each request to the next of some servers.

    A connection carries one request: the relay tells both ends so, and then passes bytes on as they come. So
    bodies flow in both directions, `100 Continue` and `HEAD` need no care, and a server that dies breaks the
    connection for its client. A server that takes no connection is passed over.
    """

    def __init__(self, targets):
        self._targets = [(host, int(port)) for host, _, port in (t.rpartition(":") for t in targets)]
        self._next = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def start(self):
        """Begins to take connections."""
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        """Takes no more connections; those there are come to their end."""
        # Wakes up who waits in `accept`; closing alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client, contextlib.suppress(OSError):
            received = _read_head(client)
            if received is None:
                return
            head, rest = received
            with self._connect() as server:
                server.sendall(_closing(head) + rest)
                back = threading.Thread(target=_back, args=(server, client), daemon=True)
                back.start()
                _forth(client, server)
                back.join()

    def _connect(self):
        """A connection to the next server that takes one."""
        for _ in self._targets:
            with self._lock:
                target = self._targets[self._next]
                self._next = (self._next + 1) % len(self._targets)
            with contextlib.suppress(ConnectionRefusedError):
                return socket.create_connection(target)
        raise ConnectionRefusedError("no server is there")


def _read_head(client):
    """The head of a request and what came after it; nothing if the client goes before its end."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = client.recv(READ_BYTES)
        if not data or len(received) > HEAD_BYTES_MOST:
            return None
        received += data
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest


def _closing(head):
    """The head of a request that is the last on its connection."""
    lines = [line for line in head.split(b"\r\n") if not re.match(rb"(?i)connection:", line)]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])


def _forth(client, server):
    # A server that has answered early is sent no more, but the client may still be writing: what it sends is
    # taken in, because closing on it would reset the connection before it has read the answer.
    while data := client.recv(READ_BYTES):
        with contextlib.suppress(OSError):
            server.sendall(data)
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_WR)


def _back(server, client):
    with contextlib.suppress(OSError):
        while data := server.recv(READ_BYTES):
            client.sendall(data)
    with contextlib.suppress(OSError):
        client.settimeout(LINGER_SECONDS)
        client.shutdown(socket.SHUT_WR)
