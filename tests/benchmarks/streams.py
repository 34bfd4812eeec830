"""Is one worker with one stream enough for a device? Patches a second of one or two streams, and of one or two processes.

Each process computes the same patches, all begin at once, and what is counted is what they make together. On a GPU both share
its memory and its units; on a CPU the cores are shared out. pytest does not collect this file. To run it::

    python tests/benchmarks/streams.py --device cuda --batch 8
    python tests/benchmarks/streams.py --device cpu --patches 4
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from threading import Barrier as Meeting

from rich.console import Console
from rich.table import Table

from volumetool.machine import usable_cores
from volumetool.processing.device.gpus import DeviceName
from volumetool.processing.engine import Engine, probe_patches
from volumetool.processing.operation import open_operation
from volumetool.processing.spec import Numerics

WAYS = ((1, 1), (2, 1), (1, 2))
"""Streams in each process, and processes."""

ROUNDS = 3

_start: list[Meeting] = []
"""The barrier of this process."""


def begin(start: Meeting) -> None:
    """Take the barrier at which all processes wait for each other."""
    _start.append(start)


def measure(
    model: str, device: DeviceName, numerics: Numerics, streams: int, threads: int, patches: int
) -> list[tuple[float, float]]:
    """Return when each round of so many patches began and ended, on a clock that all processes share."""
    engine = Engine(open_operation(model), numerics, device, threads, streams)
    card = engine.card
    noise = probe_patches(card.z_context, card.patch, patches, card.inputs)
    engine.predict(noise)
    rounds = []
    for _ in range(ROUNDS):
        _start[0].wait()
        began = time.time()
        engine.predict(noise)
        rounds.append((began, time.time()))
    return rounds


def main() -> None:
    """Measure each way and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="em-x4")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default=None, help="bfloat16 on a GPU, float32 on a CPU unless said")
    parser.add_argument("--batch", type=int, default=1, help="patches per call")
    parser.add_argument("--patches", type=int, default=64, help="patches of a process in a round")
    options = parser.parse_args()
    precision = options.precision or ("float32" if options.device == "cpu" else "bfloat16")
    table = Table(title=f"{options.model}, {options.device}, {precision}, batches of {options.batch}", title_justify="left")
    for column in ("processes", "streams of each", "patches/s together"):
        table.add_column(column)
    for streams, processes in WAYS:
        context, numerics = get_context("spawn"), Numerics(precision, options.batch, pad=False)
        threads = max(1, usable_cores() // processes)
        with ProcessPoolExecutor(processes, context, begin, (context.Barrier(processes),)) as pool:
            asked = options.model, options.device, numerics, streams, threads, options.patches
            told = [future.result() for future in [pool.submit(measure, *asked) for _ in range(processes)]]
        spans = [max(end for _, end in turn) - min(start for start, _ in turn) for turn in zip(*told, strict=True)]
        table.add_row(str(processes), str(streams), f"{processes * options.patches / min(spans):.3g}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
