"""The pace of the network: what is tried, what is chosen, what is kept. Never a speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volumetool.jobs.choices import BatchingChoice
from volumetool.jobs.planning import autotune as module
from volumetool.jobs.planning.autotune import ALIKE, autotune, choose_batching, ways
from volumetool.processing.operation import open_operation

MODEL = "fake:identity?patch=1,16,16&overlap=0,4,4&trim=0,1,1"

PACES = st.lists(
    st.builds(BatchingChoice, st.integers(1, 8), st.integers(1, 4), st.floats(1e-3, 10)),
    min_size=1,
    unique_by=lambda pace: (pace.streams, pace.batch),
).map(tuple)


@given(paces=PACES, most=st.integers(1, 32))
def test_the_choice_fits_and_nothing_that_fits_is_clearly_faster(paces: tuple[BatchingChoice, ...], most: int) -> None:
    chosen = choose_batching(paces, lambda pace: pace.patches <= most)
    fitting = [pace for pace in paces if pace.patches <= most]
    if not fitting:
        assert chosen.patches == min(pace.patches for pace in paces)
        return
    assert chosen in fitting
    assert all(pace.patch_seconds >= chosen.patch_seconds * ALIKE for pace in fitting)
    assert all(pace.streams <= chosen.streams for pace in fitting if pace.patch_seconds <= chosen.patch_seconds)


@given(threads=st.integers(1, 200))
def test_every_way_on_a_cpu_gives_each_call_a_thread(threads: int) -> None:
    tried = ways("cpu", threads)
    assert len(set(tried)) == len(tried)
    assert all(streams <= threads for streams, _ in tried)
    assert (threads, 1) in tried
    assert all(batch == 1 for _, batch in tried)  # bytes may depend on it


def test_what_was_found_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "folder" / "paces.jsonl"
    first = autotune(open_operation(MODEL), "float32", "cpu", 2, cache=cache)
    cache.write_text(cache.read_text() + '{"cut sh')
    monkeypatch.setattr(module, "measure_choices", lambda *_: pytest.fail("tried again"))
    assert autotune(open_operation(MODEL), "float32", "cpu", 2, cache=cache) == first


def test_another_model_precision_or_number_of_threads_is_tried_anew(tmp_path: Path) -> None:
    cache = tmp_path / "paces.jsonl"
    for model, precision, threads in (
        (MODEL, "float32", 2),
        (MODEL, "bfloat16", 2),
        (MODEL, "float32", 1),
        ("fake:identity?patch=1,32,32&overlap=0,4,4&trim=0,1,1", "float32", 2),
    ):
        autotune(open_operation(model), precision, "cpu", threads, cache=cache)
    assert len({json.dumps(json.loads(line)["key"]) for line in cache.read_text().splitlines()}) == 4


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert autotune(open_operation(MODEL), "float32", "cpu", 1, cache=tmp_path / "file" / "paces.jsonl")
