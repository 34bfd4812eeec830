"""The benchmark's history: one line a run, so that a change of code or machine can be told from the weather."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from volumetool.benchmark.result import BenchResult
from volumetool.configuration import cache_folder
from volumetool.errors import OutputError
from volumetool.jobs.planning.autotune import machine
from volumetool.paths import check_regular
from volumetool.version import __version__

SAME = ("model", "device", "precision", "batch", "threads", "streams", "workers", "input_shape", "output_shape", "machine")
"""Facts in which two runs must agree to be compared."""


def default_history() -> Path:
    """Return the user's history file: ``bench.jsonl`` in the cache folder."""
    return cache_folder() / "bench.jsonl"


def describe_run(result: BenchResult) -> dict[str, Any]:
    """Return what the history keeps of a run: plain JSON values."""
    facts = {**result.as_dict(), "version": __version__, "machine": machine(), "time": round(time.time())}
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def remember(file: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """Append a run; return the last one before it that can be compared with it.

    A line that is no JSON, such as one cut short, is passed over.

    Raises
    ------
    OutputError
        ``output.unwritable``.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            check_regular(file)
        before = file.read_text().splitlines() if file.exists() else []
        with file.open("a") as lines:
            lines.write(json.dumps(run) + "\n")
    except OSError as error:
        raise OutputError(
            "output.unwritable",
            f"the history {file} cannot be written: {error.strerror}",
            hint="name another file with --history",
            where=str(file),
        ) from error
    return next((found for found in map(_parsed, reversed(before)) if found is not None and _alike(found, run)), None)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(name) == other.get(name) for name in SAME) and not one.get("void")
