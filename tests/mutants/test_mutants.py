"""The tests can fail: plausible bugs, put into a copy of the package one at a time, are noticed by the tests that should."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from mutant import ROOT, Mutant
from mutants import MUTANTS

FAILED = 1
"""Exit code of pytest where tests ran and some failed; 2 to 5 are runs that came to nothing."""

CONFTEST = """

import importlib.util

from hypothesis import Phase

for name in ("volumetool", "volumetool.cli", "volumetool.schemas"):
    origin = importlib.util.find_spec(name).origin
    if not Path(origin).is_relative_to(Path.cwd()):
        raise ImportError(f"{origin} is not the copy")
phases = [Phase.explicit, Phase.generate]
settings.register_profile("mutants", settings.get_profile("patient"), derandomize=True, database=None, phases=phases)
settings.load_profile("mutants")
"""
"""Ends the conftest of a copy: the copy is what is tested, nothing is drawn by chance, no time goes into smaller examples."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Give a copy of the package, as it installs, and of its tests."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "volumetool", copy / "volumetool")
    for room in ("cli", "schemas"):
        shutil.copytree(ROOT / room, copy / "volumetool" / room)
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=shutil.ignore_patterns("mutants", "benchmarks"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    with (copy / "tests" / "conftest.py").open("a") as conftest:
        conftest.write(CONFTEST)
    yield copy
    shutil.rmtree(copy)  # half a hundred of them are a gigabyte


def run_tests(folder: Path, nodes: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Run fast tests of a copy against it."""
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow", f"--basetemp={folder / 'made'}"]
    command = [sys.executable, "-m", "pytest", *options, *nodes]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(folder)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_table_is_that_of_todays_source() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30
    for mutant in MUTANTS:
        mutant.applied()
        for killer in mutant.killers:
            file, _, test = killer.partition("::")
            assert f"def {test.partition('[')[0]}(" in (ROOT / file).read_text() if test else (ROOT / file).exists(), killer


@pytest.mark.slow
def test_without_a_mutant_all_these_tests_pass(folder: Path) -> None:
    nodes = sorted({killer for mutant in MUTANTS for killer in mutant.killers})
    run = run_tests(folder, nodes)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mutant_is_killed(mutant: Mutant, folder: Path) -> None:
    (folder / mutant.file).write_text(mutant.applied(folder))
    run = run_tests(folder, mutant.killers)
    assert run.returncode == FAILED, f"exit code {run.returncode}\n{run.stdout}{run.stderr}"
    # Python, too, ends with 1 where pytest itself breaks: a killer must be named as failed.
    failed = [line.split()[1] for line in run.stdout.splitlines() if line.startswith("FAILED tests/")]
    assert any(test.startswith(killer) for test in failed for killer in mutant.killers), run.stdout
