"""The overlay says of every region what the ledger and the driver say of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_jobs import SMALL, Interrupting, noise, run, write_input
from volumetool.cli.main import main

from volumetool.errors import ConfigError
from volumetool.events import Event, RegionEnded
from volumetool.jobs import job_dir
from volumetool.jobs.job_dir import JobDir
from volumetool.jobs.records.in_flight import InFlight, read_in_flight
from volumetool.jobs.records.ledger import Record
from volumetool.jobs.records.plan_file import open_ledger, stored_plan
from volumetool.sealed import decode, encode
from volumetool.viewer.layers import make_layers
from volumetool.viewer.page import Page
from volumetool.viewer.progress import DONE, FAILED, RUNNING, SKIPPED, TODO, Overlay, PerRegion, RegionMap
from volumetool.viewer.state import Look, Picture
from volumetool.viewer.view import View, view


@pytest.fixture
def begun(tmp_path: Path) -> str:
    """Give the output of a job that was interrupted after 3 of 12 regions."""
    source = write_input(tmp_path / "in.zarr", noise((10, 37, 45)))
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(3), input=str(source), output=str(tmp_path / "out.zarr"), **SMALL)
    return str(tmp_path / "out.zarr")


def test_every_state_is_told_apart(begun: str) -> None:
    plan = stored_plan(begun)
    states = RegionMap(plan)
    states.refresh()
    assert states.states.ravel().tolist() == [DONE] * 3 + [TODO] * 9
    ledger = open_ledger(plan)
    ledger.append(Record(3, "failed", seconds=2.0))
    ledger.append(Record(4, "done", patches=6, skipped=6, seconds=0.5, consistency=0.25))
    ledger.append(Record(5, "done", patches=6, skipped=5, seconds=4.0))
    ledger.flush()
    with InFlight(JobDir(begun).url) as in_flight:
        assert list(in_flight.beginning(iter([2, 7, 8]))) == [2, 7, 8]  # of 2 the ledger knows better
        in_flight._write()
        assert states.refresh()
        assert states.states.ravel().tolist() == [DONE] * 3 + [FAILED, SKIPPED, DONE, TODO, RUNNING, RUNNING, TODO, TODO, TODO]
        assert states.finished == 5
        assert not states.refresh()
    assert states.refresh()
    assert states.states.ravel().tolist()[7:9] == [TODO, TODO]
    assert states.seconds.ravel()[3:6].tolist() == [2.0, 0.5, 4.0]
    assert (states.seconds.ravel()[6:] == -1).all()
    assert states.consistency.ravel()[:3].tolist() == [0.0] * 3  # the identity's
    assert states.consistency.ravel()[3:].tolist() == [-1, 0.25] + [-1] * 7


def test_a_merged_ledger_says_the_same(begun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = stored_plan(begun)
    states = RegionMap(plan)
    states.refresh()
    ledger = open_ledger(plan)
    ledger.append(Record(0, "failed"))
    ledger.flush()
    monkeypatch.setattr("volumetool.jobs.records.ledger.COMPACT_SEGMENTS", 0)
    ledger.compact()
    states.refresh()
    assert states.states.ravel().tolist() == [FAILED, DONE, DONE] + [TODO] * 9


def test_the_driver_notes_what_is_computed_and_takes_the_note_away(begun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volumetool.jobs.records.in_flight.SECONDS", 0.0)
    seen: list[tuple[int, ...]] = []

    def look(event: Event) -> None:
        if isinstance(event, RegionEnded):  # in-process, the next one begins when this call returns: the note holds none or one
            seen.append(tuple(read_in_flight(JobDir(begun).url)))

    source = stored_plan(begun).job.input
    run(look, input=source, output=begun, **SMALL)
    assert len(seen) == 9
    assert all(len(each) <= 1 for each in seen)
    assert not Path(JobDir(begun).url, job_dir.RUNNING).exists()


def test_a_killed_drivers_note_is_not_believed(tmp_path: Path) -> None:
    with InFlight(str(tmp_path)) as in_flight:
        next(in_flight.beginning(iter([4])))
        in_flight._write()
        note = decode((tmp_path / job_dir.RUNNING).read_bytes())
        assert (note["pid"], note["regions"]) == (os.getpid(), [4])
        assert read_in_flight(str(tmp_path)) == {4}
        (tmp_path / job_dir.RUNNING).write_bytes(encode({**note, "born": note["born"] - 60}))
        assert read_in_flight(str(tmp_path)) == frozenset()
        (tmp_path / job_dir.RUNNING).write_bytes(encode({**note, "place": "another", "born": note["born"] - 60}))
        assert read_in_flight(str(tmp_path)) == {4}
        (tmp_path / job_dir.RUNNING).write_text("{torn")
        assert read_in_flight(str(tmp_path)) == frozenset()


def test_the_overlay_covers_the_volume_region_by_region(begun: str) -> None:
    (layer,) = make_layers([begun])
    assert layer.job is not None
    overlay = Overlay(layer, layer.job, lambda _: None, "consistency")
    regions, seconds, consistency = overlay.layers()
    assert seconds["source"]["transform"] == consistency["source"]["transform"] == regions["source"]["transform"]
    transform = regions["source"]["transform"]
    lengths = [scale * 1e9 for scale, _ in transform["outputDimensions"].values()]
    low = [row[-1] * length for row, length in zip(transform["matrix"], lengths, strict=True)]
    assert low == pytest.approx(layer.corners[0])
    covered = [at + n * length for at, n, length in zip(low, overlay._shape, lengths, strict=True)]
    assert covered == pytest.approx(layer.corners[1])
    for region in map(layer.job.grid.region, range(layer.job.grid.count)):
        box = region.box
        part = overlay._states.data[
            tuple(slice(a // s, -(-b // s)) for a, b, s in zip(box.start, box.stop, overlay._step, strict=True))
        ]
        assert np.unique(part).tolist() == [overlay._map.states.ravel()[region.index]]
    assert set(regions["segmentColors"]) == set(regions["segments"]) == {"1", "2", "3", "4", "5"}
    assert (seconds["visible"], consistency["visible"]) == (False, True)


def test_an_array_per_region_is_made_where_it_is_asked_for() -> None:
    values = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    array = PerRegion(lambda: values, (1, 4, 8), (2, 2, 3))
    expected = np.kron(values, np.ones((2, 2, 3), np.uint8))[:1, :4, :8]
    np.testing.assert_array_equal(array[0:1, 0:4, 0:8], expected)
    np.testing.assert_array_equal(array[0:1, 1:3, 2:7], expected[:, 1:3, 2:7])


def test_the_page_follows_the_job(begun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volumetool.viewer.progress.POLL_SECONDS", 0.05)
    with view([begun], progress=True) as shown:
        assert shown.overlay is not None
        assert shown.overlay.counts() == {"skipped": 0, "done": 3, "to do": 9, "running": 0, "failed": 0}
        before = shown.page.state.layers["out.zarr"].layer.source[0].url
        ledger = open_ledger(stored_plan(begun))
        ledger.append(Record(6, "done"))
        ledger.flush()
        until = time.monotonic() + 120
        while shown.page.state.layers["out.zarr"].layer.source[0].url == before and time.monotonic() < until:
            time.sleep(0.05)
        assert shown.overlay.counts()["done"] == 4
        # The client keeps what it has read: new voxels are seen under another name alone.
        assert shown.page.state.layers["out.zarr"].layer.source[0].url == before.replace("/0/|", "/0.1/|")


def test_one_looks_where_the_job_is(begun: str) -> None:
    grid = stored_plan(begun).grid
    assert grid.grid[0] > 1
    last = grid.count - grid.count // grid.grid[0]  # the first region of the last layer
    ledger = open_ledger(stored_plan(begun))
    ledger.append(Record(last, "done"))
    ledger.flush()
    box = grid.region(last).box
    with view([begun], progress=True) as shown, view([begun]) as without:
        z = shown.page.state.position[2]
        assert box.start[0] <= z < box.stop[0]
        assert without.page.state.position[2] == grid.shape[0] // 2 < box.start[0]
        assert list(shown.page.state.position)[:2] == list(without.page.state.position)[:2]
    with view([begun], Look(position=(8.0, 0.0, 0.0)), progress=True) as shown:
        assert shown.page.state.position[2] == 1.0
    for region in set(range(grid.count)) - {0, 1, 2, last}:
        ledger.append(Record(region, "done"))
    ledger.flush()
    with view([begun], progress=True) as shown:
        assert shown.page.state.position[2] == grid.shape[0] // 2


def test_a_picture_is_of_one_moment(begun: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("volumetool.viewer.progress.POLL_SECONDS", 0.01)
    ledger = open_ledger(stored_plan(begun))

    def draw(page: Page, file: Path, size: Picture) -> None:  # noqa: ARG001
        ledger.append(Record(6, "done"))
        ledger.flush()
        time.sleep(0.5)

    monkeypatch.setattr("volumetool.viewer.browser.take_picture", draw)
    with pytest.raises(SystemExit) as ended:
        main(["view", begun, "--progress", "--screenshot", str(Path(begun).parent / "picture.png")])
    assert not ended.value.code
    said = capsys.readouterr().err
    assert "regions: 3 done, 9 to do" in said
    assert "heat map of consistency: 0 (dark) to" in said
    with view([begun], progress=True) as shown:
        assert shown.overlay is not None
        with shown.still():
            ledger.append(Record(7, "done"))
            ledger.flush()
            assert shown.overlay.counts()["done"] == 4
        assert wait_for(lambda: shown.overlay is not None and shown.overlay.counts()["done"] == 5)


def test_a_heat_map_has_a_panel_of_its_own_and_its_colours_follow_the_job(begun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volumetool.viewer.progress.POLL_SECONDS", 0.05)
    monkeypatch.setattr("volumetool.viewer.progress.FRESH_SECONDS", 0.0)
    ledger = open_ledger(stored_plan(begun))

    def finish(region: int, **found: float) -> None:
        ledger.append(Record(region, "done", **found))
        ledger.flush()

    with view([begun], progress="seconds") as shown:
        panels = shown.page.state.to_json()["layout"]["children"]
        assert [panel["layers"] for panel in panels] == [
            ["out.zarr", "regions", "consistency"],
            ["out.zarr", "seconds per region"],
        ]
        finish(5, seconds=77.0, consistency=0.5)
        assert wait_for(lambda: ends(shown, "seconds per region")[1] == 77.0)
        assert ends(shown, "consistency") == (0.0, 0.5)
        with shown.page.txn() as state:
            state.layers["consistency"].layer.shader_controls["normalized"].range = [0.0, 0.1]
        finish(6, seconds=99.0, consistency=0.75)
        assert wait_for(lambda: ends(shown, "seconds per region")[1] == 99.0)
        assert ends(shown, "consistency") == (0.0, 0.1)  # the user's


def ends(shown: View, name: str) -> tuple[float, float]:
    low, high = shown.page.state.layers[name].layer.shader_controls["normalized"].range
    return float(low), float(high)


def wait_for(what: Callable[[], bool]) -> bool:
    until = time.monotonic() + 120
    while not what() and time.monotonic() < until:
        time.sleep(0.05)
    return what()


def test_progress_wants_a_job(tmp_path: Path) -> None:
    path = write_input(tmp_path / "in.zarr", noise((2, 8, 8)))
    with pytest.raises(ConfigError, match="no job wrote"), view([str(path)], progress=True):
        pass
