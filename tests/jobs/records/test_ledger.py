"""The ledger keeps the last word on every region, through flushes, crashes, damage and compaction."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import NeverTimer

from volumetool.errors import LedgerError, OutputError
from volumetool.jobs.records import ledger as module
from volumetool.jobs.records import segments as records
from volumetool.jobs.records.ledger import DONE, FAILED, TODO, Ledger, Record, Totals
from volumetool.jobs.records.segments import segment_keys
from volumetool.sealed import encode_line

REGIONS = 9

pytestmark = pytest.mark.usefixtures("no_time")


def record(region: int, state: Any = "done", **more: Any) -> Record:
    error = {"code": "data.unreadable", "message": "gone"} if state == "failed" else {}
    return Record(region=region, state=state, error=error, **more)


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "ledger").glob("*.jsonl"))


def test_every_field_of_a_record_survives_the_disk(tmp_path: Path) -> None:
    written = Record(
        region=4,
        state="failed",
        checksums=(1, 2**32 - 1),
        stored=(("12:00ff00ff", ""), ("1:00000000",)),
        read={"voxels": 5, "stored": "ab", "chunks": 3, "absent": 1},
        patches=7,
        recomputed=2,
        skipped=1,
        seconds=1.25,
        network_seconds=0.5,
        consistency=0.03125,
        worker="host:1",
        numerics="abc",
        error={"code": "data.unreadable", "message": 'voxels 1:2 — "µm"\n\u2028 gone', "hint": "mend it"},
        finished=1.7e9,
    )
    ledger = Ledger(str(tmp_path), REGIONS)
    ledger.append(written)
    ledger.flush()
    again = Ledger(str(tmp_path), REGIONS)
    assert list(again.records()) == [written]
    assert again.failures == {4: written}
    assert (again.damaged, again.last_finished) == (0, 1.7e9)


def test_the_later_record_of_a_region_wins(tmp_path: Path) -> None:
    for state in ("failed", "done", "failed", "done"):
        ledger = Ledger(str(tmp_path), REGIONS)
        ledger.append(record(2, state))
        ledger.flush()
        assert Ledger(str(tmp_path), REGIONS).states[2] == (DONE if state == "done" else FAILED)
        assert list(Ledger(str(tmp_path), REGIONS).failures) == ([2] if state == "failed" else [])
    assert [each.state for each in Ledger(str(tmp_path), REGIONS).records()] == ["failed", "done", "failed", "done"]


def test_totals_count_each_finished_region_once(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), REGIONS)
    for region, state, patches in ((0, "done", 5), (1, "failed", 0), (0, "done", 7), (2, "done", 1), (2, "failed", 0)):
        ledger.append(record(region, state, patches=patches, recomputed=1, skipped=2, seconds=0.5, network_seconds=0.25))
    ledger.flush()
    assert ledger.totals() == Totals(done=1, patches=7, recomputed=1, skipped=2, seconds=0.5, network_seconds=0.25)


@pytest.mark.parametrize("part", ["checksum", "text", "cut"])
def test_a_damaged_line_costs_its_region_alone(tmp_path: Path, part: str) -> None:
    ledger = Ledger(str(tmp_path), REGIONS)
    for region in range(5):
        ledger.append(record(region))
    ledger.flush()
    (segment,) = segments(tmp_path)
    lines = segment.read_bytes().splitlines(keepends=True)
    line = bytearray(lines[3])
    if part == "cut":
        line = line[: len(line) // 2] + b"\n"
    else:
        line[2 if part == "checksum" else 30] ^= 1
    segment.write_bytes(b"".join([*lines[:3], bytes(line), lines[4]]))
    again = Ledger(str(tmp_path), REGIONS)
    assert again.states.tolist() == [DONE, DONE, DONE, TODO, DONE, TODO, TODO, TODO, TODO]
    assert again.damaged == 1


def test_every_single_flipped_byte_is_noticed(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), REGIONS)
    ledger.append(record(3, patches=12))
    ledger.flush()
    (segment,) = segments(tmp_path)
    whole = segment.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        segment.write_bytes(damaged)
        assert Ledger(str(tmp_path), REGIONS).states[3] == TODO, position


def test_a_torn_last_line_loses_nothing_before_it(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), REGIONS)
    for region in range(3):
        ledger.append(record(region))
    ledger.flush()
    (segment,) = segments(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-20])
    assert Ledger(str(tmp_path), REGIONS).states[:3].tolist() == [DONE, DONE, TODO]


@pytest.mark.parametrize(
    "name", ["notes.jsonl", "1.jsonl", "00000002 (copy).jsonl", "00000002.jsonl.__lock", "old/00000002.jsonl", "00000002.txt"]
)
def test_foreign_files_are_left_alone(tmp_path: Path, name: str) -> None:
    ledger = Ledger(str(tmp_path), REGIONS)
    ledger.append(record(0))
    ledger.flush()
    file = tmp_path / "ledger" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(encode_line({"region": 5, "state": "done", "checksums": []}))
    again = Ledger(str(tmp_path), REGIONS)
    assert again.states.tolist() == [DONE] + [TODO] * (REGIONS - 1)
    again.append(record(1))
    again.flush()
    assert Ledger(str(tmp_path), REGIONS).done == 2
    assert file.exists() or name.endswith("__lock")  # the writer of that segment takes its own lock file over


def test_a_segment_of_noise_is_counted_and_stops_nothing(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), REGIONS)
    ledger.append(record(0))
    ledger.flush()
    (tmp_path / "ledger" / "00000007.jsonl").write_bytes(bytes(range(256)) + b"\n")
    again = Ledger(str(tmp_path), REGIONS)
    assert (again.done, again.damaged > 0) == (1, True)
    again.append(record(1))
    again.flush()
    assert [file.name for file in segments(tmp_path)] == ["00000001.jsonl", "00000007.jsonl", "00000008.jsonl"]


def test_a_record_of_a_region_that_does_not_exist_is_counted_as_damage(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), REGIONS)
    ledger.append(record(REGIONS - 1))
    ledger.flush()
    smaller = Ledger(str(tmp_path), REGIONS - 1)
    assert (smaller.done, smaller.damaged) == (0, 1)


@pytest.mark.parametrize("fields", [{"region": 1, "state": "done", "checksums": [], "mood": "good"}, {"region": 1}])
def test_a_sound_line_with_other_fields_is_refused_by_name(tmp_path: Path, fields: Any) -> None:
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "00000001.jsonl").write_bytes(encode_line(fields))
    with pytest.raises(LedgerError) as caught:
        Ledger(str(tmp_path), REGIONS)
    assert caught.value.code == "ledger.version"


def test_segments_are_read_in_the_order_of_writing(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    for number, state in ((9, "done"), (10, "failed"), (100, "done"), (11, "failed")):
        line = encode_line({"region": 1, "state": state, "checksums": []})
        (tmp_path / "ledger" / f"{number:08d}.jsonl").write_bytes(line)
    assert [key[-9:-6] for key in segment_keys(str(tmp_path))] == ["009", "010", "011", "100"]
    assert Ledger(str(tmp_path), REGIONS).states[1] == DONE


def test_no_more_records_wait_than_are_allowed_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_RECORDS", 4)
    ledger = Ledger(str(tmp_path), REGIONS)
    for number in range(1, REGIONS + 1):
        ledger.append(record(number - 1))
        assert Ledger(str(tmp_path), REGIONS).done == number // 4 * 4
    assert len(segments(tmp_path)) == 2


def test_a_record_reaches_the_disk_in_time_though_no_other_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # here time passes
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.1)
    ledger = Ledger(str(tmp_path), REGIONS)
    ledger.append(record(0))
    ledger.append(record(1))
    deadline = time.monotonic() + 60
    while Ledger(str(tmp_path), REGIONS).done < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_records_wait_on_where_their_segment_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(str(tmp_path), REGIONS)
    ledger.append(record(3))

    def refuse(*_: Any) -> None:
        raise OutputError("output.full", "there is no room", hint="make some")

    with monkeypatch.context() as patch:
        patch.setattr(module, "create_key", refuse)
        with pytest.raises(OutputError):
            ledger.flush()
    ledger.append(record(5))
    ledger.flush()
    assert np.flatnonzero(Ledger(str(tmp_path), REGIONS).states == DONE).tolist() == [3, 5]


def test_flushing_nothing_writes_nothing(tmp_path: Path) -> None:
    Ledger(str(tmp_path), REGIONS).flush()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("deletions", range(4))
def test_a_compaction_that_dies_before_the_old_segments_are_gone_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deletions: int
) -> None:
    monkeypatch.setattr(module, "COMPACT_SEGMENTS", 3)
    ledger = Ledger(str(tmp_path), REGIONS)
    for region, state in ((0, "failed"), (1, "done"), (0, "done"), (2, "failed")):
        ledger.append(record(region, state))
        ledger.flush()
    before = list(ledger.latest())

    real, deleted = records.delete_key, list[str]()

    def die(url: str, key: str) -> None:
        if len(deleted) == deletions:
            raise KeyboardInterrupt
        deleted.append(key)
        real(url, key)

    with monkeypatch.context() as patch:
        patch.setattr(records, "delete_key", die)
        with pytest.raises(KeyboardInterrupt):
            ledger.compact()
    again = Ledger(str(tmp_path), REGIONS)
    assert list(again.latest()) == before
    monkeypatch.setattr(module, "COMPACT_SEGMENTS", 1)
    again.compact()
    assert len(segments(tmp_path)) == 1
    assert list(Ledger(str(tmp_path), REGIONS).latest()) == before


STEPS = st.one_of(
    st.tuples(st.sampled_from(["done", "failed"]), st.integers(0, REGIONS - 1)),
    st.tuples(st.sampled_from(["flush", "crash", "compact"]), st.just(0)),
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, max_size=40))
def test_the_ledger_is_a_dictionary_that_survives_crashes(steps: list[tuple[str, int]]) -> None:
    """Against a plain dict: what was flushed is never lost, what was not is, and compaction changes nothing."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FLUSH_SECONDS", 1e9)
        patch.setattr(module, "FLUSH_RECORDS", 1000)
        patch.setattr(module, "COMPACT_SEGMENTS", 2)
        patch.setattr(module, "MERGED_RECORDS", 2)
        patch.setattr(threading, "Timer", NeverTimer)
        ledger = Ledger(folder, REGIONS)
        stored: dict[int, Record] = {}
        waiting: dict[int, Record] = {}
        for number, (step, region) in enumerate(steps):
            if step in ("done", "failed"):
                waiting[region] = record(region, step, patches=number, checksums=(number,))
                ledger.append(waiting[region])
            elif step == "crash":
                waiting = {}
                ledger = Ledger(folder, REGIONS)
            else:
                stored |= waiting
                waiting = {}
                ledger.flush() if step == "flush" else ledger.compact()
            known = stored | waiting
            wanted = [TODO] * REGIONS
            for index, each in known.items():
                wanted[index] = DONE if each.state == "done" else FAILED
            assert ledger.states.tolist() == wanted
            assert ledger.failures == {index: each for index, each in known.items() if each.state == "failed"}
            assert {record.region: record for record in ledger.latest()} == stored
            assert ledger.damaged == 0


def test_a_segment_without_its_last_newline_costs_one_record_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMPACT_SEGMENTS", 2)
    ledger = Ledger(str(tmp_path), REGIONS)
    for region in (0, 1):
        ledger.append(record(region, "done"))
        ledger.flush()
    first = segments(tmp_path)[0]
    first.write_bytes(first.read_bytes()[:-1])
    cut = Ledger(str(tmp_path), REGIONS)
    assert (cut.done, cut.damaged) == (1, 1)
    cut.compact()
    again = Ledger(str(tmp_path), REGIONS)
    assert (again.done, again.damaged) == (1, 0)
    assert again.states[1] == DONE


def test_totals_count_a_damaged_line_once(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), REGIONS)
    ledger.append(record(0, "done"))
    ledger.flush()
    segment = segments(tmp_path)[0]
    segment.write_bytes(segment.read_bytes() + b"00000000 {}\n")
    again = Ledger(str(tmp_path), REGIONS)
    assert again.totals().done == 1
    assert again.damaged == 1
