"""Runs commands as processes of their own, each forked from one that has loaded what they need; some of their streams unread.

Called with the file to write to; on stdin, as JSON, the words of each command and the numbers of the streams that nobody reads.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import tensorstore  # noqa: F401  (loaded once for all)
from volumetool.cli.main import main

import volumetool.storage.convert  # noqa: F401
from volumetool.testing import register_fakes


def run(words: list[str], unread: list[int]) -> tuple[int, str, str]:
    """Return the exit code of a command, and what it wrote to stdout and stderr."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            for number, file in ((1, out), (2, err)):
                os.dup2(file.fileno(), number)
                if number in unread:
                    reader, writer = os.pipe()
                    os.close(reader)
                    os.dup2(writer, number)
            sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
            sys.stderr = sys.__stderr__ = open(2, "w", closefd=False)  # noqa: SIM115
            main(words)  # ends the process, as it ends one that was started
        _, status = os.waitpid(child, 0)
        said = [os.pread(file.fileno(), 10**7, 0).decode() for file in (out, err)]
    return os.waitstatus_to_exitcode(status), said[0], said[1]


if __name__ == "__main__":
    register_fakes()
    Path(sys.argv[1]).write_text(json.dumps([run(words, unread) for words, unread in json.loads(sys.stdin.read())]))
