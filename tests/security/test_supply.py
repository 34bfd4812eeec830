"""S10: what is installed for the tests is pinned, and what is promised of it is true."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def _pinned() -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return {re.sub(r"[-_.]+", "-", name).lower(): pin for name, _, pin in (line.partition("==") for line in lines if line)}


def test_every_dependency_is_pinned_to_one_version_that_its_bounds_allow() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["test"]]
    pinned = _pinned()
    assert all(pinned.values())
    for requirement in asked:
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if not name.startswith("types-"):
            assert requirement.specifier.contains(pinned[name]), name


def test_the_tests_run_with_the_pinned_versions_of_what_guards() -> None:
    for name in ("safetensors", "cryptography", "starlette"):
        assert version(name) == _pinned()[name]
