"""The GPUs that this process sees, by what the driver and the batch system say: no library of CUDA is asked."""

from __future__ import annotations

import os
import re
from itertools import takewhile
from pathlib import Path
from typing import Literal

DeviceName = Literal["auto", "cpu", "cuda", "rocm", "mps", "xpu"]
"""Where the network runs: on NVIDIA's, AMD's, Apple's or Intel's GPU, or on the CPU."""

DRIVER = Path("/proc/driver/nvidia")
"""Folder in which the driver shows itself and its GPUs."""


CONTROL = Path("/dev/nvidiactl")
"""Device by which programs reach the driver."""


def driver_gpus() -> list[str]:
    """Return the UUIDs of the GPUs of this machine, such as ``GPU-5ad6...``, in the driver's order; empty without a driver."""
    found = []
    for file in sorted(DRIVER.glob("gpus/*/information")):  # named by their places on the bus
        uuid = re.search(r"^GPU UUID:\s*(\S+)$", file.read_text(errors="replace"), re.MULTILINE)
        found += [uuid[1]] if uuid else []
    return found


def visible_gpus() -> list[str]:
    """Return the GPUs that this process is shown, each as CUDA takes it: a UUID, of a MIG slice too, or a number.

    Those that ``CUDA_VISIBLE_DEVICES`` lists, which ends, as for CUDA itself, at the first entry that cannot be.
    """
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return driver_gpus()
    entries = (entry.strip() for entry in shown.split(","))
    return list(takewhile(lambda entry: re.fullmatch(r"\d+|(GPU|MIG)-.+", entry), entries))


def pin_gpus() -> None:
    """Leave this process its own GPUs, where several tasks of one ``srun`` share a node and each is shown all of them.

    Tasks get whole GPUs in turn by their number on the node; with fewer GPUs than tasks, several tasks get the same one. What
    is decided holds for the processes that this one starts, which are not asked again.
    """
    tasks = max(map(int, re.findall(r"(?<!x)\b\d+", os.environ.pop("SLURM_STEP_TASKS_PER_NODE", ""))), default=1)  # 4(x2),3
    local = os.environ.get("SLURM_LOCALID", "")
    shown = visible_gpus()
    if tasks < 2 or not local.isdigit() or len(shown) < 2:
        return
    each = max(1, len(shown) // tasks)
    first = int(local) * each % len(shown)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(shown[first : first + each])


def why_none_is_given() -> str | None:
    """Return why this process can have no GPU, as driver and batch system say; None where they do not say so."""
    if os.environ.get("SLURM_JOB_ID") and not any(name in os.environ for name in ("SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")):
        return "this SLURM job has asked for none (--gpus-per-node=1)"
    if not DRIVER.exists() and not CONTROL.exists():
        return "this machine has no NVIDIA driver, or a container does not show it (apptainer --nv, docker --gpus all)"
    if not visible_gpus():
        return "the driver shows no GPU"
    return None
