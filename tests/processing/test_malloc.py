"""The network's memory is used again instead of being asked for anew."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from volumetool.processing.device.malloc import environment

COUNT_FAULTS = """
import resource, sys
from volumetool.processing.device import malloc
if "keep" in sys.argv:
    assert malloc.keep_freed_memory()
from volumetool.processing import engine
from volumetool.processing.operations.network import NetworkOperation
from volumetool.processing.spec import Numerics
from volumetool.models import load_model
model = load_model("em-denoise")
network = engine.Engine(NetworkOperation(model), Numerics("float32", 1, pad=False), "cpu", threads=1)
patches = engine.probe_patches(model.card.z_context, model.card.patch, 1)
for _ in range(2):
    network.predict(patches)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
    network.predict(patches)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

MALLOPT_CALLS = """
import sys, volumetool as vt
from volumetool.processing.device import malloc
vt.enhance, vt.plan, vt.Job
import volumetool.processing.engine, volumetool.jobs.run
print(malloc.keep_freed_memory.cache_info().currsize)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the switch")


def faults(*arguments: str, **variables: str) -> int:
    """Return how many pages a fresh process, warmed up, asks the kernel for while the network runs on two patches."""
    command = [sys.executable, "-c", COUNT_FAULTS, *arguments]
    return int(subprocess.run(command, env={**os.environ, **variables}, check=True, capture_output=True, text=True).stdout)


def test_importing_the_library_leaves_the_memory_of_its_host_alone() -> None:
    found = subprocess.run([sys.executable, "-c", MALLOPT_CALLS], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "0"


@pytest.mark.slow
def test_a_patch_takes_the_memory_of_the_one_before() -> None:
    assert faults("keep") < faults() / 2


@pytest.mark.slow
def test_a_process_is_told_the_same_by_its_environment() -> None:
    assert faults(**environment()) < faults() / 2
