"""The pace of the network here: how many patches to compute side by side, found by trying.

Which way is fastest depends on processor and network: threads that share a layer wait for each other, patches side by side want
memory and caches. So each way is tried once per machine and model, and what was found is kept in the cache folder. On a CPU a
call of a network holds one patch, so that no byte depends on what was tried.
"""

from __future__ import annotations

import contextlib
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from volumetool.configuration import cache_folder
from volumetool.geometry import Triple
from volumetool.jobs.choices import BatchingChoice
from volumetool.machine import usable_cores
from volumetool.processing.device.arrays import device_title, resolve_device
from volumetool.processing.device.gpus import DeviceName
from volumetool.processing.engine import Engine, probe_patches
from volumetool.processing.operation import Operation
from volumetool.processing.spec import Numerics

GPU_BATCHES = (1, 2, 4, 8, 16, 32)
"""Patches per call that are tried on a GPU."""

ROUNDS, ROUND_SECONDS = 3, 2.0
"""Times that a way is tried; the fastest counts. No new round begins after so many seconds."""

ALIKE = 0.95
"""A way this close to the fastest is as good; more streams then lose less while other stages take a core."""


def ways(device: str, threads: int, most: int = sys.maxsize, together: int = 1) -> list[tuple[int, int]]:
    """Return the ways to batch patches that are worth trying on a device.

    Parameters
    ----------
    device : str
        Kind of the device, as torch names it: ``cpu``, ``cuda``.
    threads : int
        CPU threads that the network may use.
    most : int
        Patches that memory holds in the network at once. On a CPU only the first way may exceed it; the memory of a GPU is
        found out by trying.
    together : int
        Patches per call on a CPU, as the operation's card says.

    Returns
    -------
    list of (int, int)
        Batches side by side, and patches per batch. The way that holds fewest patches comes first.
    """
    if device != "cpu":
        return [(1, batch) for batch in GPU_BATCHES]
    streams = sorted({1, max(1, threads // 4), threads})
    several = [(n, together) for n in streams if n * together <= most]
    return several if together == 1 and several else [(1, 1), *several]


def autotune(
    operation: Operation, precision: str, device: DeviceName, threads: int, most: int = sys.maxsize, cache: Path | None = None
) -> tuple[BatchingChoice, ...]:
    """Return the pace of every way, from the cache or by trying.

    Parameters
    ----------
    operation : Operation
        The network; it is tried on its card's patch.
    precision : str
        ``float32`` or ``bfloat16``.
    device : str
        Where; a GPU's ways end where its memory does.
    threads : int
        CPU threads that the network may use.
    most : int
        Patches that memory holds in the network at once.
    cache : Path, optional
        File of what was found before, a line each; ``paces.jsonl`` in the cache folder without it.

    Returns
    -------
    tuple of BatchingChoice
        The ways that were tried, with their time per patch. On a GPU those whose memory did not suffice are left out.
    """
    cache = cache or cache_folder() / "paces.jsonl"
    key = {
        "machine": machine(),
        "device": device_title(resolve_device(device)),
        "torch": torch.__version__,
        "model": operation.identity,
        "precision": precision,
        "threads": threads,
        "ways": [list(way) for way in ways(resolve_device(device).type, threads, most, operation.card.together)],
    }
    found = _recall(cache, key)
    if found is None:
        found = measure_choices(operation, precision, device, threads, most)
        _keep(cache, key, found)
    return found


def measure_choices(
    operation: Operation, precision: str, device: DeviceName, threads: int, most: int = sys.maxsize
) -> tuple[BatchingChoice, ...]:
    """Try every way on patches of noise.

    Parameters
    ----------
    operation, precision, device, threads, most
        As for :func:`autotune`.

    Returns
    -------
    tuple of BatchingChoice
        As :func:`autotune`.
    """
    paces: list[BatchingChoice] = []
    for streams, batch in ways(resolve_device(device).type, threads, most, operation.card.together):
        engine = Engine(operation, Numerics(precision, batch, pad=False), device, threads, streams)
        count = max(threads, streams * batch) if engine.device.type == "cpu" else batch
        try:
            paces.append(BatchingChoice(streams, batch, patch_seconds(engine, operation.card.patch, count)))
        except torch.OutOfMemoryError:
            break
    return tuple(paces)


def patch_seconds(engine: Engine, patch: Triple, count: int, rounds: int = ROUNDS) -> float:
    """Measure how long an engine takes per patch.

    Parameters
    ----------
    engine : Engine
        The operation on its device.
    patch : tuple of int
        Shape of an input patch without its z context, in voxels, z, y, x.
    count : int
        Patches of noise that the engine gets at once.
    rounds : int
        Times that it gets them.

    Returns
    -------
    float
        Seconds per patch in the fastest of at most `rounds` rounds.
    """
    patches = probe_patches(engine.card.z_context, patch, count, engine.card.inputs)
    took: list[float] = []
    while len(took) < rounds and sum(took) < ROUND_SECONDS:
        started = time.perf_counter()
        engine.predict(patches)
        took.append(time.perf_counter() - started)
    return min(took) / count


def choose_batching(paces: tuple[BatchingChoice, ...], fits: Callable[[BatchingChoice], bool]) -> BatchingChoice:
    """Return the way with most streams among the fastest that fit; where none fits, the one that holds fewest patches."""
    fitting = [pace for pace in paces if fits(pace)] or [min(paces, key=lambda pace: pace.patches)]
    fastest = min(pace.patch_seconds for pace in fitting)
    alike = [pace for pace in fitting if pace.patch_seconds * ALIKE <= fastest]
    return max(alike, key=lambda pace: (pace.streams, -pace.batch))


def machine() -> str:
    """Name this machine: its processor and how many of its cores may be used."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = named[0] if named else model
    return f"{model}, {usable_cores()} cores"


def _recall(cache: Path, key: dict[str, Any]) -> tuple[BatchingChoice, ...] | None:
    """Return what was found last for a key; a line that is none, such as one cut short, is passed over."""
    lines = cache.read_text().splitlines() if cache.exists() else []
    for line in reversed(lines):
        try:
            kept = json.loads(line)
            if kept["key"] == key:
                return tuple(BatchingChoice(**pace) for pace in kept["paces"])
        except (ValueError, KeyError, TypeError):
            continue
    return None


def _keep(cache: Path, key: dict[str, Any], paces: tuple[BatchingChoice, ...]) -> None:
    # Where nothing can be kept, the next plan tries again: slower, not wrong.
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with cache.open("a") as lines:
            lines.write(json.dumps({"key": key, "paces": [asdict(pace) for pace in paces]}) + "\n")
