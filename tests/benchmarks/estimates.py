"""What the plan said beside what then happened: seconds, memory of the process, and bytes on disk.

Each job runs in a process of its own, on all cores, from disk to disk; planning, which measures the machine, is not counted.
pytest does not collect this file. To run it::

    python tests/benchmarks/estimates.py VOLUME --model em-x4 --model em-denoise --roi 0:40,:,:
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

JOB = """
import json, re, sys, time
from pathlib import Path
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.run import run
decided = plan(make_job(**json.loads(sys.argv[1])))
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
started = time.perf_counter()
assert run(decided).complete
seconds = time.perf_counter() - started
# Not getrusage: what a process had before it became this one, its parent's memory, counts there.
peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
written = sum(file.stat().st_size for file in Path(decided.job.output).rglob("*") if file.is_file())
said = decided.estimates
found = {"seconds": (said.seconds, seconds), "memory": (said.worker_bytes, peak), "bytes": (said.written_bytes, written)}
print(json.dumps(found))
"""


def main() -> None:
    """Run each model and print what was said and what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume", type=Path)
    parser.add_argument("--model", action="append", required=True, help="may be given several times")
    parser.add_argument("--roi", default=None, help="part of the volume, cropped to; the whole one without")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    table = Table(title="estimated, seen, and seen in times of the estimate", title_justify="left")
    for column in ("model", "seconds", "", "", "memory, MiB", "", "", "written, MiB", "", ""):
        table.add_column(column)
    for model in options.model * options.rounds:
        found = _measure(options.volume, model, options.roi)
        cells = [model]
        for name, unit in (("seconds", 1), ("memory", 2**20), ("bytes", 2**20)):
            said, seen = found[name]
            cells += [f"{said / unit:.1f}", f"{seen / unit:.1f}", f"{seen / said:.2f}"]
        table.add_row(*cells)
    Console(width=140).print(table)


def _measure(volume: Path, model: str, roi: str | None) -> dict[str, tuple[float, float]]:
    with tempfile.TemporaryDirectory() as folder:
        job = {"input": str(volume), "output": f"{folder}/out.zarr", "model": model, "device": "cpu", "force_voxel_size": True}
        if roi is not None:
            job |= {"roi": roi, "crop": True}
        command = [sys.executable, "-c", JOB, json.dumps(job)]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, tuple[float, float]] = json.loads(ran.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
