"""Clients that pull slowly, all in one process, which has next to nothing to do: it says how little.

Started by benches/slow. Prints a line when each client has the beginning of its answer, and a report
when its standard input ends.
"""

import argparse
import json
import random
import select
import socket
import statistics
import sys
import time

# A client reads once in this time. Turns of all clients lie evenly in it.
TURN_SECONDS = 0.5
# Turns that are due are taken together.
PAUSE_SECONDS = 0.01
# What a client that got nothing for a while may make up for at once.
CATCH_UP_SECONDS = 1
# A window of about one turn, so that the kernel takes in no more than a line of that speed would.
WINDOW_BYTES = 64 << 10
HEAD_BYTES = 16 << 10
CONNECT_SECONDS = 60
SEED = 5


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--rate", type=int, required=True, help="bytes per second of each of them")
    parser.add_argument("--spread", type=int, default=0, metavar="BYTES", help="begin anywhere in so many first bytes")
    return parser.parse_args()


class Client:
    """One connection with one request."""

    def __init__(self, arguments, start):
        self.rate = arguments.rate
        self.socket = socket.socket()
        # Before it connects: the window is agreed on then.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW_BYTES)
        self.socket.settimeout(CONNECT_SECONDS)
        self.socket.connect((arguments.host, arguments.port))
        head = f"GET {arguments.path} HTTP/1.1\r\nHost: {arguments.host}:{arguments.port}\r\n"
        head += f"Range: bytes={start}-\r\n" if start else ""
        self.socket.sendall(f"{head}\r\n".encode())
        self.bytes = 0

    def begin(self):
        """Reads the head of the answer. What comes behind it is counted from now on."""
        head = b""
        while b"\r\n\r\n" not in head:
            piece = self.socket.recv(HEAD_BYTES)
            head += piece
            if not piece or len(head) > 2 * HEAD_BYTES:
                raise SystemExit(f"no answer: {head[:200]}")
        if head.split(b" ", 2)[1] not in (b"200", b"206"):
            raise SystemExit(f"refused: {head[:200]}")
        self.socket.setblocking(False)
        self.began = time.monotonic()

    def read(self, now, nowhere):
        due = (now - self.began) * self.rate - self.bytes
        if due > CATCH_UP_SECONDS * self.rate:
            # Lost: a line does not become faster because it had nothing to carry.
            self.began += due / self.rate - CATCH_UP_SECONDS
            due = CATCH_UP_SECONDS * self.rate
        if due < 1:
            return
        try:
            # The kernel drops the bytes, instead of copying them to somebody who does not want them.
            count = self.socket.recv_into(nowhere, min(int(due), len(nowhere)), socket.MSG_TRUNC)
        except BlockingIOError:
            return
        if count == 0:
            raise SystemExit(f"broken off after {self.bytes} bytes")
        self.bytes += count


def input_ended():
    return bool(select.select([sys.stdin], [], [], 0)[0])


def read_in_turns(clients):
    """Until the input ends."""
    nowhere = bytearray(int(2 * CATCH_UP_SECONDS * clients[0].rate))
    begin, turn = time.monotonic(), 0
    while not input_ended():
        now = time.monotonic()
        due = int((now - begin) / TURN_SECONDS * len(clients))
        # Never anybody twice in one go.
        turn = max(turn, due - len(clients))
        for number in range(turn, due):
            clients[number % len(clients)].read(now, nowhere)
        turn = due
        time.sleep(PAUSE_SECONDS)


def main():
    arguments = parse_arguments()
    places = random.Random(SEED)
    starts = [places.randrange(arguments.spread) if arguments.spread else 0 for _ in range(arguments.clients)]
    clients = [Client(arguments, start) for start in starts]
    for client in clients:
        client.begin()
    print("begun", flush=True)
    begin, cpu_before = time.monotonic(), time.process_time()
    before = [client.bytes for client in clients]
    read_in_turns(clients)
    seconds = time.monotonic() - begin
    rates = [(client.bytes - bytes) / seconds for client, bytes in zip(clients, before)]
    cpu_share = (time.process_time() - cpu_before) / seconds
    print(json.dumps({"rate": statistics.median(rates), "least_rate": min(rates), "cpu_share": cpu_share}))


if __name__ == "__main__":
    main()
