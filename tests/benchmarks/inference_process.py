"""One program's side of `compare_inference.py`, run by the interpreter of its own environment: one volume, timed, as JSON.

    python inference_process.py TASK

What is imported counts as little as anybody's start does; loading the weights counts. The clock runs from there to the last
byte written.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from inference_peers import PEERS, Work
from inference_task import Task


def ours(task: Task) -> Work:
    """Prepare `volumetool enhance` at its defaults, planning included, its own section statistics too."""
    from volumetool.jobs.api import enhance
    from volumetool.storage.open import open_volume

    def work() -> None:
        outcome = enhance(task.source, task.output, model=task.model)
        if not outcome.complete:
            raise SystemExit("the job is not complete")

    def look() -> None:
        table = Path(task.place) / "sections.csv"
        rows = [f"0,{z},{low!r},{high!r}" for z, (low, high) in enumerate(zip(task.low, task.high, strict=True))]
        table.write_text("\n".join(["channel,z,low,high", *rows]) + "\n")
        options: dict[str, Any] = {
            "statistics": str(table),
            "precision": "float32",
            "dtype": "float32",
            "exact": task.peer == "ours-exact",
        }
        if task.peer == "ours":  # the card's patch, asked for by name: one that covered a short axis would have no seam
            options["patch"] = ",".join(map(str, task.patch))
        enhance(task.source, task.output, model=task.model, **options)
        assert task.result is not None
        np.save(task.result, open_volume(task.output).open().read().result())

    return look if task.result else work


def main() -> None:
    """Do the task; the answer is the last line of stdout."""
    task = Task.load(Path(sys.argv[1]))
    programs: dict[str, Callable[[Task], Work]] = {"ours": ours, "ours-exact": ours, **PEERS}
    prepared = programs[task.peer](task)
    started = time.perf_counter()
    prepared()
    seconds = time.perf_counter() - started
    sys.stdout.write("\n" + json.dumps({"seconds": seconds, "peak_mib": peak_mib()}) + "\n")


def peak_mib() -> float:
    """Return the largest resident size of this process so far; what `getrusage` says may be that of the process before it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
