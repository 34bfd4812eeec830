"""S10: what is installed for the tests is pinned, and what is promised of it is true."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]

LAST_BAD = {
    "bokeh": ("3.8.1", "CVE-2026-21883: any site whose name begins like an allowed one reaches the dashboard's websocket"),
    "cryptography": ("49.0.0", "CVE-2026-69247, and CVE-2026-39892 (46.0.6): an overflow of buffers"),
    "distributed": ("2025.12.0", "CVE-2026-23528: code in the address of the dashboard's error page"),
    "h11": ("0.15.0", "CVE-2025-43859: smuggled requests"),
    "h5py": ("3.15.1", "CVE-2025-44905 and others: overflows in the HDF5 1.14 that it carries"),
    "imagecodecs": ("2023.9.4", "CVE-2023-4863: an overflow in the libwebp that it carries"),
    "jinja2": ("3.1.5", "CVE-2025-27516: out of the sandbox"),
    "pillow": ("12.3.0", "CVE-2026-96641, and CVE-2026-59197 to 59200 (12.2.0): writes beyond the heap"),
    "pyyaml": ("5.3.1", "CVE-2020-14343: code in a document"),
    "requests": ("2.32.5", "CVE-2026-25645: a file of another user is taken for its own"),
    "starlette": ("1.3.0", "CVE-2026-54283: forms without a limit; CVE-2026-48710 (1.0.0): paths in the Host header"),
    "torch": ("2.9.1", "CVE-2026-24747: code in a checkpoint, although only weights are asked for"),
    "tornado": ("6.5.8", "CVE-2026-103261: arguments without a limit"),
    "urllib3": ("2.6.3", "CVE-2026-44431 and 44432: secrets that follow a redirect, bombs"),
}
"""Of what users install with volumetool, the last version with a known hole, and which. What is only in the tests' environment,
and holes in parts that nothing here reaches, are left to constraints.txt."""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _asked(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(text) for group in groups for text in group]


def _pinned() -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return {_normal(name): pin for name, _, pin in (line.partition("==") for line in lines if line)}


def test_every_dependency_is_pinned_to_one_version_that_its_bounds_allow() -> None:
    pinned = _pinned()
    assert all(pinned.values())
    for requirement in _asked("test"):
        name = _normal(requirement.name)
        if not name.startswith("types-"):
            assert requirement.specifier.contains(pinned[name]), name


@pytest.mark.parametrize("name", LAST_BAD)
def test_no_bound_admits_a_version_with_a_known_hole(name: str) -> None:
    asked = [requirement for requirement in _asked() if _normal(requirement.name) == name]
    assert asked, "nothing bounds it"
    last, hole = LAST_BAD[name]
    assert not any(requirement.specifier.contains(last) for requirement in asked), hole
    assert Version(_pinned()[name]) > Version(last)


def test_no_extra_brings_back_what_the_dependencies_refuse() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for requirement in _asked(*extras):
        if (found := LAST_BAD.get(_normal(requirement.name))) is not None:
            assert not requirement.specifier.contains(found[0]), requirement


def test_the_tests_run_with_the_pinned_versions_of_what_guards() -> None:
    for name in ("safetensors", *LAST_BAD):
        assert Version(version(name)).public == _pinned()[name]
