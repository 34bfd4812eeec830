"""The history keeps every run, and finds the last one that may be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from volumetool.benchmark.history import SAME, default_history, remember
from volumetool.errors import OutputError


def run(number: int, **changes: Any) -> dict[str, Any]:
    return {**dict.fromkeys(SAME, "x"), "number": number, "void": False} | changes


def test_the_last_run_like_this_one_is_found(tmp_path: Path) -> None:
    file = tmp_path / "new" / "bench.jsonl"
    assert remember(file, run(1)) is None
    assert remember(file, run(2, model="other")) is None
    assert remember(file, run(3, void=True)) == run(1)
    assert remember(file, run(4)) == run(1), "a void run says nothing"
    assert remember(file, run(5)) == run(4)
    assert len(file.read_text().splitlines()) == 5


def test_a_line_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "bench.jsonl"
    file.write_text(json.dumps(run(1)) + "\n" + json.dumps(run(2))[:20] + "\n7\n")
    assert remember(file, run(3)) == run(1)


def test_a_history_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="--history") as caught:
        remember(tmp_path, run(1))
    assert caught.value.code == "output.unwritable"


def test_the_history_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOLUMETOOL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_history() == Path("/somewhere/volumetool/bench.jsonl")
