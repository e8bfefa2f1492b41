"""Child processes: commands that end and daemons that stay, both with a bound on time."""

import os
import random
import signal
import socket
import subprocess
import time

COMMAND_SECONDS = 300
READY_SECONDS = 30
STOP_SECONDS = 40
POLL_SECONDS = 0.02
LINE_CHARACTERS = 400
UNWANTED = (
    "AWS_", "BUILDAH_", "CONTAINERS_", "DOCKER_", "HELM_", "MILLPOND_", "MINIO_", "REGISTRY_")
# Below the kernel's ephemeral range, so that no outgoing connection takes one.
PORTS = range(20000, 32000)


class CommandFailed(Exception):
    """A command ended with a status other than zero; the text has its output."""


def run(*command, **options):
    """Runs a command to its end and gives its standard output as text."""
    return run_both(*command, **options)[0]


def run_both(*command, environment=None, folder=None, timeout=COMMAND_SECONDS, data=None):
    """Runs a command to its end and gives its standard output and its standard error as text."""
    command = [str(word) for word in command]
    ended = subprocess.run(
        command, env=environment or clean_environment(), cwd=folder, timeout=timeout,
        input=data if data is not None else b"", capture_output=True, check=False)
    if ended.returncode != 0:
        raise CommandFailed(
            f"{' '.join(command)}\n  ended with {ended.returncode}\n"
            f"  stdout: {_tail(ended.stdout)}\n  stderr: {_tail(ended.stderr)}")
    return ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace")


def clean_environment(**more):
    """The environment without what would change a client or a registry."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(UNWANTED)}
    return kept | {k: str(v) for k, v in more.items()}


def wait_until(condition, what, timeout=READY_SECONDS):
    """Waits until `condition()` is true, and fails naming `what` when it never is."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout} s still waiting for {what}")
        time.sleep(POLL_SECONDS)


def free_port():
    """A port of 127.0.0.1 that nobody listens on."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Daemon:
    """A process that stays until it is stopped. Only ever signalled by its own handle."""

    def __init__(self, name, command, folder, environment=None):
        self.name = name
        self.folder = folder
        self.log = folder / f"{name}.log"
        self._command = [str(word) for word in command]
        self._environment = environment or clean_environment()
        self._child = None

    @property
    def pid(self):
        """Its process while it runs."""
        return self._child.pid

    @property
    def is_started(self):
        """Whether it was started, and neither stopped nor killed since."""
        return self._child is not None

    def start(self, ready):
        """Starts it and waits until `ready()` is true."""
        assert self._child is None, f"{self.name} is running"
        with open(self.log, "ab") as log:
            # It dies with this program, however this program ends.
            self._child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._command], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, env=self._environment, cwd=self.folder,
                start_new_session=True)
        try:
            wait_until(lambda: self._alive() and ready(), f"{self.name} to be ready")
        except Exception as error:
            self.kill()
            raise RuntimeError(f"{error}\n{self.last_words()}") from error

    def stop(self):
        """Asks it to end and waits; one that does not end in time is an error."""
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"{self.name} ignored SIGTERM for {STOP_SECONDS} s") from None
        self._child = None

    def kill(self):
        """kill -9, to it and what it started."""
        if self._child is None:
            return
        # Not reaped yet, so the number is still its own, and so is the group's.
        os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait(STOP_SECONDS)
        self._child = None

    def send(self, number):
        """Sends it a signal."""
        self._child.send_signal(number)

    def last_words(self, lines=12):
        """The end of its log."""
        text = self.log.read_text(errors="replace").splitlines()
        shortened = (line[:LINE_CHARACTERS] for line in text[-lines:])
        return f"--- {self.name} said last:\n" + "\n".join(shortened)

    def _alive(self):
        if self._child.poll() is None:
            return True
        raise RuntimeError(f"{self.name} ended with {self._child.returncode}")


def _tail(output, characters=3000):
    return output.decode(errors="replace")[-characters:].strip()
