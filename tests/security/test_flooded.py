"""Strangers at a socket cost no memory, keep nobody out, and fill no log."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from flooding import Flood, bear

from volumetool.jobs.run import Outcome

PATIENCE = 60
MOST_MEMORY = 50 * 2**20
MOST_LINES = 10
FEW_DESCRIPTORS = 'ulimit -n 256; exec "$@"'
"""Fewer than strangers have connections."""

FIGURES = logging.getLogger(__name__)
"""Shown with --log-cli-level=info."""

SMALL_FLOOD = Flood(connections=300, bodies=8, body=25 * 2**20)
LARGE_FLOOD = Flood(connections=400, bodies=40, body=2**28)
FLOODS = [SMALL_FLOOD, pytest.param(LARGE_FLOOD, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]


@dataclass(frozen=True)
class Running:
    """A command that listens.

    Attributes
    ----------
    said : dict
        Its first line of JSON.
    process : psutil.Process
        The command.
    ports : tuple of int
        Where it listens.
    errors : Path
        What it writes to standard error.
    """

    said: dict[str, str]
    process: psutil.Process
    ports: tuple[int, ...]
    errors: Path


@contextmanager
def running(command: list[str], errors: Path) -> Iterator[Running]:
    """Run a command that stays, with few descriptors."""
    with (
        errors.open("w") as file,
        subprocess.Popen(
            ["/bin/sh", "-c", FEW_DESCRIPTORS, "sh", sys.executable, "-m", "volumetool.cli.main", *command, "--json"],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        ) as popen,
    ):
        assert popen.stdout is not None
        try:
            said, process = json.loads(popen.stdout.readline()), psutil.Process(popen.pid)
            ports = {each.laddr.port for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
            yield Running(said, process, tuple(sorted(ports)), errors)
            assert popen.poll() is None
        finally:
            popen.kill()


def _view(job: Outcome) -> list[str]:
    return ["view", job.plan.job.input, job.plan.job.output]


def _live(job: Outcome) -> list[str]:
    return ["live", job.plan.job.input, "--model", "fake-zoom"]


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("command", [_view, pytest.param(_live, marks=pytest.mark.slow)])
def test_strangers_at_a_page_or_at_its_volumes_cost_no_memory_keep_nobody_out_and_fill_no_log(
    command: Callable[[Outcome], list[str]], flood: Flood, job: Outcome, tmp_path: Path
) -> None:
    with running(command(job), tmp_path / "errors") as it:
        assert len(it.ports) == 2
        page = httpx.URL(it.said["link"]).port
        before = len(it.errors.read_text().splitlines())
        for port in it.ports:
            path, status = (it.said["link"], 200) if port == page else (f"http://127.0.0.1:{port}/", 404)

            def ask(path: str = path, status: int = status) -> None:
                assert httpx.get(path, timeout=PATIENCE).status_code == status

            borne = bear(port, flood, it.process, ask)
            FIGURES.info("%s: %s", "page" if port == page else "volumes", borne)
            assert borne.grown < MOST_MEMORY
        lines = it.errors.read_text().splitlines()
        assert "Traceback" not in "".join(lines)
        assert len(lines) - before <= MOST_LINES
