"""Runs commands as processes of their own, each forked from one that has loaded what they need; some of their streams unread.

Called with the file to write to; on stdin, as JSON, the words of each command and the numbers of the streams that nobody reads.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from pathlib import Path

import tensorstore  # noqa: F401  (loaded once for all)
from volumetool.cli.main import main

import volumetool.storage.convert  # noqa: F401


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
    asked = json.loads(sys.stdin.read())
    if any(word.startswith("fake:") for words, _ in asked for word in words):
        from volumetool.testing import register_fakes  # imports torch

        register_fakes()
    gc.freeze()  # a process that ends looks through all objects, which copies the memory that it shares with this one
    Path(sys.argv[1]).write_text(json.dumps([run(words, unread) for words, unread in asked]))
