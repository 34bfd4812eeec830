"""Jobs of the portal at a SLURM site: submitted as job arrays, known by their name there, and ended as their ledgers say."""

from __future__ import annotations

import getpass
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from volumetool.errors import InputError, OutputError
from volumetool.jobs.inspection import status
from volumetool.sites.slurm import PATIENCE, job_name

_log = logging.getLogger(__name__)

ASK_SECONDS = 10.0
"""Between two questions to SLURM: a site counts them."""

LOGS = "volumetool-*.log"
"""What elements say, in a job's folder."""


class SlurmQueue:
    """Knows which jobs SLURM has, by their names: these follow from where a job writes, so nothing has to be remembered.

    Parameters
    ----------
    options : dict
        Options of ``volumetool slurm``, by name.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._names: frozenset[str] | None = frozenset()
        self._asked = -ASK_SECONDS

    def command(self, input: str, output: Path, options: list[str]) -> list[str]:  # noqa: A002
        """Return the command that submits a job and ends.

        Parameters
        ----------
        input : str
            Volume to read.
        output : Path
            Volume to write.
        options : list of str
            Options of the job, as the command line takes them.
        """
        asked = [f"--{name.replace('_', '-')}={value}" for name, value in sorted(self._options.items())]
        program = [sys.executable, "-m", "volumetool", "slurm"]
        return [*program, *options, *asked, "--submit", "--json", "--", input, str(output)]

    def holds(self, output: Path) -> bool:
        """Return whether SLURM has something of a job, waiting or running; where it does not answer, it may have."""
        if time.monotonic() - self._asked >= ASK_SECONDS:
            self._names, self._asked = _names(), time.monotonic()
        return self._names is None or job_name(str(output)) in self._names

    def look_again(self) -> None:
        """Ask SLURM at the next question: something was submitted, or cancelled."""
        self._asked = -ASK_SECONDS

    def cancel(self, output: Path) -> None:
        """Take all of a job out of SLURM; its elements keep what is finished."""
        _ask("scancel", f"--user={getpass.getuser()}", f"--name={job_name(str(output))}")
        self.look_again()


def last_word(output: Path) -> dict[str, Any]:
    """Return what the ledger says of a job that SLURM has no more, as `volumetool enhance` would have said it; else nothing."""
    try:
        found = status(output)
    except (InputError, OutputError):
        return {}
    if found.state == "complete" or found.failed:
        return {"kind": "run", "complete": found.state == "complete", "failed": found.failed, "regions": found.regions}
    return {}


def _names() -> frozenset[str] | None:
    told = _ask("squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%j")
    return None if told is None else frozenset(told.split())


def _ask(*command: str) -> str | None:
    """Return what a program of SLURM prints; None where it does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)  # noqa: S603
    except subprocess.CalledProcessError as error:
        _log.warning("%s: %s; this is tried again", command[0], error.stderr.strip())
        return None
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.warning("%s: %s; this is tried again", command[0], error)
        return None
    return done.stdout
