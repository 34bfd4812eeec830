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
from typing import Any

import httpx
import psutil
import pytest
from flooding import Flood, bear
from small_jobs import SMALL, noise, write_input

from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.preparation import prepare
from volumetool.jobs.run import RunResult

PATIENCE = 60
MOST_MEMORY = 50 * 2**20
MOST_LINES = 10
FEW_DESCRIPTORS = 'ulimit -n 256; exec "$@"'
"""Fewer than strangers have connections."""

QUICK = ["--model", "fake:identity?patch=1,16,16&overlap=0,4,4", "--device", "cpu"]

FIGURES = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(900)

SMALL_FLOOD = Flood(connections=300, bodies=8, body=25 * 2**20)
LARGE_FLOOD = Flood(connections=400, bodies=40, body=2**28)
FLOODS = [SMALL_FLOOD, pytest.param(LARGE_FLOOD, marks=pytest.mark.slow)]


@dataclass(frozen=True)
class Running:
    """A program that listens.

    Attributes
    ----------
    said : dict
        Its first line of JSON.
    popen : subprocess.Popen
        The program.
    errors : Path
        What it writes to standard error.
    """

    said: dict[str, Any]
    popen: subprocess.Popen[str]
    errors: Path

    def listeners(self) -> dict[int, psutil.Process]:
        """Return the ports on which it and its children listen, and which of them does."""
        process = psutil.Process(self.popen.pid)
        return {
            each.laddr.port: one
            for one in (process, *process.children(recursive=True))
            for each in one.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN
        }

    def bear(self, name: str, port: int, flood: Flood, ask: Callable[[], object]) -> None:
        """Flood a port while its owner asks; the figures are shown with --log-cli-level=info."""
        before = len(self.errors.read_text().splitlines())
        borne = bear(port, flood, self.listeners()[port], ask)
        FIGURES.info("%s: %s", name, borne)
        assert borne.grown < MOST_MEMORY
        lines = self.errors.read_text().splitlines()[before:]
        assert "Traceback" not in "".join(lines)
        assert len(lines) <= MOST_LINES


@contextmanager
def running(program: list[str], errors: Path) -> Iterator[Running]:
    """Run a program of Python that stays, with few descriptors."""
    with (
        errors.open("w") as file,
        subprocess.Popen(
            ["/bin/sh", "-c", FEW_DESCRIPTORS, "sh", sys.executable, *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        ) as popen,
    ):
        assert popen.stdout is not None
        try:
            yield Running(json.loads(popen.stdout.readline()), popen, errors)
            assert popen.poll() is None
        finally:
            popen.kill()


def answers(url: str, status: int) -> None:
    """Ask a server."""
    assert httpx.get(url, timeout=PATIENCE).status_code == status


def _view(job: RunResult) -> list[str]:
    return ["view", job.plan.job.input, job.plan.output]


def _live(job: RunResult) -> list[str]:
    return ["live", job.plan.job.input, *QUICK]


def _watch(job: RunResult) -> list[str]:
    folder = Path(job.plan.output).parent / "incoming"
    folder.mkdir(exist_ok=True)
    return ["live", str(folder), "--watch", "--voxel-size", "30,16,16", *QUICK]


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("command", [_view, *(pytest.param(each, marks=pytest.mark.slow) for each in (_live, _watch))])
def test_strangers_at_a_page_or_at_its_volumes_cost_no_memory_keep_nobody_out_and_fill_no_log(
    command: Callable[[RunResult], list[str]], flood: Flood, job: RunResult, tmp_path: Path
) -> None:
    with running(["-m", "volumetool.cli.main", *command(job), "--json"], tmp_path / "errors") as it:
        page = httpx.URL(it.said["link"]).port
        assert page is not None
        (volumes,) = it.listeners().keys() - {page}
        it.bear("page", page, flood, lambda: answers(it.said["link"], 200))
        it.bear("volumes", volumes, flood, lambda: answers(f"http://127.0.0.1:{volumes}/", 404))


@pytest.mark.parametrize("flood", FLOODS)
def test_strangers_at_a_cluster_cost_no_memory_keep_nobody_out_and_fill_no_log(flood: Flood, tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.zarr", noise((10, 37, 45)))
    job = make_job(input=str(source), output=str(tmp_path / "out.zarr"), workers=2, dashboard=True, **SMALL)
    prepare(plan(job))
    with running([str(Path(__file__).parent / "cluster_program.py"), job.output], tmp_path / "errors") as it:

        def compute() -> None:
            assert it.popen.stdin is not None
            assert it.popen.stdout is not None
            it.popen.stdin.write("7\n")
            it.popen.stdin.flush()
            assert it.popen.stdout.readline() == "7\n"

        link = httpx.URL(it.said["link"])
        ports = [int(address.rpartition(":")[2]) for address in it.said["nodes"]]
        assert link.port is not None
        assert it.listeners().keys() == {*ports, link.port}
        it.bear("scheduler", ports[0], flood, compute)
        it.bear("worker", ports[1], flood, compute)
        it.bear("dashboard", link.port, flood, lambda: answers(str(link.join("health")), 200))
