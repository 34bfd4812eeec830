"""One region in a process of its own: if that process ends or hangs, the worker learns of it.

``python -m volumetool.jobs.execution.isolated`` reads one line of JSON, runs the region, and writes its record as one line. It
ends when its parent does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict

from volumetool.errors import DeviceError, StorageFullError
from volumetool.geometry import RegionTask
from volumetool.jobs.execution.supervisor import Watch, quarantined
from volumetool.jobs.records.ledger import Record

HUNG = 70
"""Exit code of a process whose region gave no sign of life."""


def run_alone(url: str, runtime: str, turn: RegionTask) -> Record:
    """Run a region in a process of its own, and return its record; one that the process died of is set aside.

    Parameters
    ----------
    url, runtime, turn
        As for :func:`volumetool.jobs.clusters.dask_task.run_region`.

    Raises
    ------
    StorageFullError
        ``output.full``: no trouble of the region's own.
    """
    asked = json.dumps({"url": url, "runtime": runtime, "turn": asdict(turn)}) + "\n"
    command = [sys.executable, "-m", "volumetool.jobs.execution.isolated"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  (our own)
        try:
            assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018  (pipes were asked for)
            process.stdin.write(asked)
            process.stdin.flush()
            said = process.stdout.readline()
        except BrokenPipeError:
            said = ""
        except BaseException:
            process.kill()
            raise
    if said:
        fields = json.loads(said)
        if full := fields.get("full"):
            raise StorageFullError(full["code"], full["message"], hint=full["hint"], where=full.get("where"))
        return Record(**fields | {"checksums": tuple(fields["checksums"])})
    return quarantined(turn.region, (_ending(process.returncode),))


def _ending(code: int) -> str:
    if code == HUNG:
        return "no sign of life in a process of its own"
    if code >= 0:
        return f"a process of its own ended with exit code {code}"
    name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
    return f"a process of its own was ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")


def main() -> None:
    """Run the region that standard input names."""
    from volumetool.jobs.execution.worker import worker_of
    from volumetool.processing.predictor import BatchPredictor

    # What libraries print belongs to the log; standard output carries the record alone.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    worker = worker_of(asked["url"], asked["runtime"])
    turn = RegionTask(asked["turn"]["region"], tuple(asked["turn"]["earlier"]), tuple(asked["turn"]["later"]))
    with Watch(worker.plan.job.hang_timeout, lambda _: os._exit(HUNG)) as watch:
        try:
            record = worker.run(turn, BatchPredictor(worker.engine, watch.beat))
        except DeviceError as error:
            record = quarantined(turn.region, (error.message,))
        except StorageFullError as error:
            print(json.dumps({"full": error.as_dict()}), file=answer, flush=True)
            return
    print(json.dumps(vars(record)), file=answer, flush=True)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
