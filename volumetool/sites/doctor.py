"""What is found on this machine, what it means for a job, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from volumetool.errors import ViewError
from volumetool.jobs.planning.memory import MemoryModel
from volumetool.jobs.planning.resources import MEMORY_SHARE
from volumetool.machine import (
    byte_limits,
    core_limits,
    existing_folder,
    file_limits,
    memory_limits,
    mount_of,
    usable_cores,
    usable_memory,
)
from volumetool.processing.device.arrays import KINDS, why_absent, why_no_gpu
from volumetool.processing.device.gpus import DRIVER, DeviceName, visible_gpus
from volumetool.sites.slurm import scheduler_limits
from volumetool.storage.io.kvstore import canonical_url, is_local, local_path
from volumetool.units import show_bytes
from volumetool.version import __version__
from volumetool.viewer.browser import find_browser

State = Literal["fine", "note", "missing"]
"""Fine; something that some jobs lack, or should know; something without which no job runs."""

EXTRAS = {
    "onnx": ("onnxruntime", "networks in ONNX files"),
    "czi": ("pylibCZIrw", "Zeiss' files (.czi)"),
    "dm": ("ncempy", "DigitalMicrograph's files (.dm3, .dm4)"),
    "bm3d": ("bm3d", "BM3D among the methods of evaluate"),
    "cuda12 or cuda13": ("dask_cuda", "--cluster cuda: one worker per GPU"),
}
"""Extras of the package: a module of each, and what it is for."""

SHARED_MEMORY = "/dev/shm"  # noqa: S108  (it is looked at alone)

FEW_FILES = 1024
"""Open files below which a job over many shards may meet the limit."""


@dataclass(frozen=True)
class CheckResult:
    """Something that was looked at.

    Attributes
    ----------
    name : str
        What was looked at.
    state : {"fine", "note", "missing"}
        Fine; something that some jobs lack, or should know; something without which no job runs.
    found : str
        What there is.
    means : str
        What that means for a job, and what to do.
    """

    name: str
    state: State
    found: str
    means: str = ""


@dataclass(frozen=True)
class Examination:
    """All that was looked at.

    Attributes
    ----------
    findings : tuple of CheckResult
        In the order in which they are told.
    """

    findings: tuple[CheckResult, ...]

    @property
    def ok(self) -> bool:
        """Nothing is missing without which no job runs."""
        return not any(finding.state == "missing" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return the findings, and the verdict, as plain values."""
        return {"ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}


def examine(output: str | os.PathLike[str] | None = None) -> Examination:
    """Look at this machine as a job would find it.

    Parameters
    ----------
    output : str or path, optional
        Where a job would write; this folder without it.
    """
    place = canonical_url(os.fspath(output) if output is not None else ".")
    return Examination(
        (
            *_program(),
            _cores(),
            _memory(),
            _gpu(),
            _folder("temporary", Path(tempfile.gettempdir()), "TMPDIR names another one"),
            *_shared_memory(),
            *([_folder("output", local_path(place), "choose another place")] if is_local(place) else []),
            _ports(),
            *_open_files(),
            *_slurm(),
            _browser(),
            _extras(),
        )
    )


def _program() -> Iterator[CheckResult]:
    import torch

    versions = f"volumetool {__version__}, Python {sys.version.partition(' ')[0]}, torch {torch.__version__}"
    yield CheckResult("program", "fine", versions, f"the same on all machines of a job: {sys.prefix}")


def _cores() -> CheckResult:
    every = "; ".join(f"{number} by {whose}" for number, whose in sorted(core_limits()))
    return CheckResult("cores", "fine", f"{usable_cores()}: {every}", "workers share them (--workers)")


def _memory() -> CheckResult:
    allowed, limits = usable_memory(), sorted(memory_limits())
    every = "; ".join(f"{show_bytes(left)} left by {whose}" for left, whose in limits)
    share, least = int(MEMORY_SHARE * allowed), MemoryModel.BASE
    if share <= least:
        return CheckResult("memory", "missing", every, f"a job takes {show_bytes(least)} before its first voxel: ask for more")
    return CheckResult("memory", "fine", every, f"a job is planned for {show_bytes(share)} (--memory)")


def _gpu() -> CheckResult:
    import torch

    reason = why_no_gpu()
    if reason is not None:
        others: tuple[DeviceName, ...] = ("mps", "xpu")
        for name in others:
            if why_absent(name) is None:
                return CheckResult("GPU", "fine", KINDS[name][0], f"--device {name} takes it")
        wanted = DRIVER.exists() or "SLURM_JOB_GPUS" in os.environ
        means = "there seems to be one: see to it" if wanted else "networks run on the CPU"
        return CheckResult("GPU", "note", f"none: {reason}", means)
    told = []
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        told.append(f"{facts.name}, GPU-{facts.uuid}, {show_bytes(facts.total_memory)}")
    version = DRIVER / "version"
    driver = version.read_text().splitlines()[0] if version.exists() else "driver of unknown version"
    means = "--device cuda takes the first" + (", --cluster cuda all" if len(told) > 1 else "")
    return CheckResult("GPU", "fine", f"{'; '.join(told)}; {driver}; shown: {', '.join(visible_gpus()) or 'all'}", means)


def _folder(name: str, place: Path, otherwise: str) -> CheckResult:
    """Look at a folder that is written to: whether it can be, how much room there is, and whether it takes memory."""
    folder = existing_folder(place)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"volumetool")
            os.fsync(file.fileno())
    except OSError as error:
        return CheckResult(name, "missing", f"{folder}: {error.strerror}", f"nothing can be written there: {otherwise}")
    kind, files = mount_of(folder)[1], file_limits(folder)
    room = [f"{show_bytes(left)} left by {whose}" for left, whose in sorted(byte_limits(folder))]
    room += [f"{left} files may be added by {whose}" for left, whose in sorted(files)]
    found = f"{folder} ({kind}): {'; '.join(room)}"
    if kind == "tmpfs":
        return CheckResult(name, "note", found, "it lies in memory: what is written there counts to the memory of the job")
    return CheckResult(name, "fine", found)


def _shared_memory() -> Iterator[CheckResult]:
    if sys.platform != "linux":
        return
    if not os.access(SHARED_MEMORY, os.W_OK):
        yield CheckResult(
            "shared memory", "note", f"{SHARED_MEMORY} is not there, or not writable", "training on several devices needs it"
        )
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    few = free < 2**28
    means = "containers give 64 MiB: docker --shm-size 1g, for training on several devices" if few else ""
    yield CheckResult("shared memory", "note" if few else "fine", f"{SHARED_MEMORY}: {show_bytes(free)} free", means)


def _ports() -> CheckResult:
    """Several workers, and the viewer, talk over the loopback interface."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=5):
            return CheckResult("ports", "fine", "the loopback interface answers", "--workers, view and live may listen there")
    except OSError as error:
        return CheckResult("ports", "note", f"127.0.0.1: {error}", "run with one worker; view and live cannot be used")


def _open_files() -> Iterator[CheckResult]:
    if sys.platform == "win32":
        return
    import resource

    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < FEW_FILES:
        yield CheckResult(
            "open files", "note", f"{most} (ulimit -n)", f"raise it to {FEW_FILES} or more: ulimit -n {FEW_FILES}"
        )
    longest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if longest != resource.RLIM_INFINITY:
        yield CheckResult("file size", "note", f"{show_bytes(longest)} (ulimit -f)", "shards must be smaller: --shard")


def _slurm() -> Iterator[CheckResult]:
    job = os.environ.get("SLURM_JOB_ID")
    if job is not None:
        node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
        yield CheckResult("SLURM job", "fine", f"{job} on {node}", "its memory, cores and GPUs are what counts here")
    if shutil.which("sbatch") is None:
        return
    limits = scheduler_limits()
    told = ", ".join(f"{name} {limit}" for name, limit in limits.items()) or "scontrol tells no limits"
    yield CheckResult("SLURM site", "fine" if limits else "note", told, "volumetool slurm INPUT OUTPUT writes a script for it")


def _browser() -> CheckResult:
    try:
        return CheckResult("browser", "fine", find_browser(), "--screenshot can be used")
    except ViewError as error:
        return CheckResult("browser", "note", error.message, f"--screenshot cannot be used; {error.hint}")


def _extras() -> CheckResult:
    lacking = {name: use for name, (module, use) in EXTRAS.items() if importlib.util.find_spec(module) is None}
    if not lacking:
        return CheckResult("extras", "fine", "all are installed")
    told = "; ".join(f"{name}: {use}" for name, use in lacking.items())
    return CheckResult("extras", "note", f"not installed: {told}", "pip install 'volumetool[NAME]', where you need one")
