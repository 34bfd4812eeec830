"""Recipes of containers and rules of workflow managers: versions are pinned, and what they call exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from volumetool.cli.main import app

ROOT = Path(__file__).parents[2]
CONTAINERS, WORKFLOWS = ROOT / "examples/containers", ROOT / "examples/workflows"
INSTRUCTIONS = {"ARG", "CMD", "COPY", "ENTRYPOINT", "FROM", "RUN", "USER", "WORKDIR"}


def test_both_containers_stand_on_one_pinned_python_and_on_the_versions_of_the_tests() -> None:
    texts = [(CONTAINERS / name).read_text() for name in ("Dockerfile", "volumetool.def")]
    bases = [re.findall(r"^(?:ARG BASE=|From: )(?:docker\.io/library/)?(\S+)$", text, re.MULTILINE) for text in texts]
    assert bases[0] == bases[1]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases[0][0])
    for text in texts:
        installs = re.findall(r"pip install .*", text)
        assert installs
        assert all("--constraint constraints.txt" in line for line in installs)


def test_the_dockerfile_is_one_that_the_linter_accepts() -> None:
    text = re.sub(r"\\\n", "", (CONTAINERS / "Dockerfile").read_text())
    words = {line.split()[0] for line in text.splitlines() if line and not line.startswith("#")}
    assert words == INSTRUCTIONS
    subprocess.run([Path(sys.executable).with_name("hadolint"), CONTAINERS / "Dockerfile"], check=True)


def test_the_definition_of_apptainer_has_the_sections_that_it_needs() -> None:
    text = (CONTAINERS / "volumetool.def").read_text()
    assert re.findall(r"^%(\w+)$", text, re.MULTILINE) == ["files", "post", "environment", "runscript", "test"]
    assert "Bootstrap: docker" in text


@pytest.mark.parametrize("name", ["Snakefile", "enhance.nf"])
def test_a_rule_is_ten_lines_and_starts_again_at_exit_code_75(name: str) -> None:
    text = (WORKFLOWS / name).read_text()
    assert text.count("\n") <= 10
    assert "75" in text
    assert "--signal=B:USR1@120" in text
    command = re.search(r'"exec (volumetool [^"]+)"', text)
    assert command is not None
    _, verb, *words = shlex.split(command[1])
    known = {option for each in typer.main.get_command(app).commands[verb].params for option in each.opts}  # type: ignore[attr-defined]
    assert {word for word in words if word.startswith("--")} <= known
