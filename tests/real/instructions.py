"""What a daemon computes: its instructions, counted by valgrind while it runs."""

import re

import parts
from process import run


def counted(command, folder):
    """The command line of the same program, counted in `folder`."""
    return [parts.path("valgrind"), "--tool=callgrind", f"--callgrind-out-file={_file(folder)}", *command]


def take(process, folder):
    """The instructions since the last time, of all threads."""
    run(parts.path("vgdb"), f"--pid={process}", "dump")
    # Each is a file of its own, numbered from 1.
    newest = _file(folder).with_suffix(f".{len(list(folder.glob('instructions.*')))}")
    (total,) = re.findall(r"^totals: (\d+)$", newest.read_text(encoding="utf-8"), re.MULTILINE)
    return int(total)


def _file(folder):
    return folder / "instructions"
