"""A live view that fills a job is a worker of it: what it recorded stays, and `enhance` goes on."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from small_jobs import Recording, digest, noise, read_levels, run

from volumetool.errors import FingerprintError, LedgerError
from volumetool.geometry import Box
from volumetool.jobs.job_dir import JobDir
from volumetool.jobs.records.lease import own
from volumetool.jobs.records.ledger import DONE
from volumetool.jobs.records.plan_file import open_ledger, stored_plan
from volumetool.jobs.verification.verify import verify
from volumetool.live_view.background import BackgroundFill
from volumetool.live_view.patches import places_of
from volumetool.processing.engine import Engine
from volumetool.storage.create import open_for_writing
from volumetool.storage.open import open_volume

PATIENCE = 120


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Give a function that lets a live view run so many regions, once somebody looked, and no more."""
    from volumetool.live_view.background import BackgroundFill

    def hold(regions: int) -> None:
        order = BackgroundFill._order

        def bounded(self: BackgroundFill) -> Any:
            wait_until(lambda: bool(self._looked) or self._closing.is_set())
            for number, index in enumerate(order(self)):
                if number == regions:
                    self._closing.wait()
                yield index

        monkeypatch.setattr(BackgroundFill, "_order", bounded)

    return hold


def test_regions_that_were_looked_at_come_first_and_enhance_does_the_rest(
    serve: Any, volume: Path, tmp_path: Path, flat: dict[str, Any], held: Callable[[int], None]
) -> None:
    whole, output = tmp_path / "whole.zarr", tmp_path / "out.zarr"
    run(input=str(volume), output=str(whole), **flat)
    held(1)
    with serve(volume, output, **flat) as served:
        grid = stored_plan(str(output)).grid
        served.array("0")[9, 147, 179].read().result()  # the last region
        wait_until(lambda: open_ledger(stored_plan(str(output))).done > 0)
    ledger = open_ledger(stored_plan(str(output)))
    done = set(np.flatnonzero(ledger.states == DONE).tolist())
    assert done == {grid.count - 1}
    seen = Recording()
    outcome = run(seen, input=str(volume), output=str(output), **flat)
    assert {ended.region for ended in seen.ended} == set(range(grid.count)) - done
    assert outcome.complete
    assert digest(output) == digest(whole)
    assert verify(stored_plan(str(output))).ok


def test_a_live_view_that_is_left_alone_completes_the_job(
    serve: Any, volume: Path, tmp_path: Path, flat: dict[str, Any]
) -> None:
    whole, output = tmp_path / "whole.zarr", tmp_path / "out.zarr"
    run(input=str(volume), output=str(whole), **flat)
    with serve(volume, output, **flat) as served:
        wait_until(lambda: read_status(output) == "complete")
        made = served.opened.desk.made
        assert_levels(served, whole)
        assert served.opened.desk.made == made  # all from the store
    assert digest(output) == digest(whole)


def test_a_live_view_of_a_job_with_a_trust_volume_shows_the_image_and_fills_both(
    serve: Any, volume: Path, tmp_path: Path, flat: dict[str, Any]
) -> None:
    whole, output = tmp_path / "whole.zarr", tmp_path / "out.zarr"
    run(input=str(volume), output=str(whole), trust=str(tmp_path / "whole-trust.zarr"), **flat)
    with serve(volume, output, trust=str(tmp_path / "trust.zarr"), **flat) as served:
        np.testing.assert_array_equal(served.array("0")[:8].read().result(), read_levels(whole)[0][:8])
        wait_until(lambda: read_status(output) == "complete")
        assert_levels(served, whole)
    assert digest(tmp_path / "trust.zarr") == digest(tmp_path / "whole-trust.zarr")


@pytest.mark.parametrize("kind", ["flat", pytest.param("deep", marks=pytest.mark.slow)])
def test_a_region_takes_the_patches_that_were_looked_at(
    kind: str, request: pytest.FixtureRequest, serve: Any, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is asked for each patch of a region once: by who looked, or by the region."""
    options = request.getfixturevalue(kind)
    whole, output = tmp_path / "whole.zarr", tmp_path / "out.zarr"
    run(input=str(volume), output=str(whole), **options)
    may, order, ask = threading.Event(), BackgroundFill._order, Engine._call
    asked = 0

    def looked_at_first(self: BackgroundFill) -> Any:
        assert may.wait(PATIENCE)
        yield next(order(self))
        self._closing.wait()

    def count(self: Engine, part: Any, *places: Any) -> Any:
        nonlocal asked
        asked += len(part)
        return ask(self, part, *places)

    monkeypatch.setattr(BackgroundFill, "_order", looked_at_first)
    with serve(volume, output, **options) as served:
        monkeypatch.setattr(Engine, "_call", count)
        plan = stored_plan(str(output))
        region = plan.grid.region(plan.grid.count - 1)
        low = region.box.start
        half = Box((low[0], low[1], (low[2] + region.box.stop[2]) // 2), region.box.stop)
        served.array("0")[half.slices].read().result()
        needed = set(places_of(served.opened.basis.spec, 0, region.box))
        looked = served.opened.desk.made
        assert 0 < looked == asked < len(needed)
        may.set()
        wait_until(lambda: open_ledger(plan).done == 1)
        assert asked == len(needed)
    assert run(input=str(volume), output=str(output), **options).complete
    assert digest(output) == digest(whole)


def test_a_region_takes_no_patch_of_an_input_that_was_rewritten_since(
    serve: Any, volume: Path, tmp_path: Path, flat: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    may, order, output = threading.Event(), BackgroundFill._order, tmp_path / "out.zarr"

    def looked_at_first(self: BackgroundFill) -> Any:
        assert may.wait(PATIENCE)
        yield from order(self)

    monkeypatch.setattr(BackgroundFill, "_order", looked_at_first)
    with serve(volume, output, **flat) as served:
        served.array("0")[4:6, :64, :64].read().result()
        open_for_writing(str(volume), open_volume(volume)).write(noise((10, 37, 45), seed=1)).result()
        may.set()
        wait_until(lambda: read_status(output) == "complete")
    run(input=str(volume), output=str(tmp_path / "new.zarr"), **flat)
    assert digest(output) == digest(tmp_path / "new.zarr")


def assert_levels(served: Any, output: Path) -> None:
    """Compare a part of the finest level, and all others whole, once the volume names them: it looks every two seconds."""
    finest, *coarse = read_levels(output)
    wait_until(lambda: len(named_levels(served)) == 1 + len(coarse))
    np.testing.assert_array_equal(served.array("0")[9, 50:90].read().result(), finest[9, 50:90], strict=True)
    for number, level in enumerate(coarse, start=1):
        np.testing.assert_array_equal(served.read(str(number)), level, strict=True)


def named_levels(served: Any) -> list[str]:
    """Return the levels that a live volume says it has."""
    with urllib.request.urlopen(f"{served.url}/zarr.json", timeout=PATIENCE) as answer:  # noqa: S310  (a server on loopback)
        image = json.load(answer)["attributes"]["ome"]["multiscales"][0]
    return [dataset["path"] for dataset in image["datasets"] if dataset["path"].isdecimal()]


def read_status(output: Path) -> str:
    from small_jobs import attributes

    return str(attributes(output)["status"])


def test_a_finished_job_is_shown_from_its_store(serve: Any, volume: Path, tmp_path: Path, flat: dict[str, Any]) -> None:
    output = tmp_path / "out.zarr"
    run(input=str(volume), output=str(output), **flat)
    with serve(volume, output, **flat) as served:
        assert_levels(served, output)
        assert served.opened.desk.made == 0


def test_other_settings_are_refused(serve: Any, volume: Path, tmp_path: Path, flat: dict[str, Any]) -> None:
    output = tmp_path / "out.zarr"
    run(input=str(volume), output=str(output), **flat)
    with pytest.raises(FingerprintError), serve(volume, output, **flat | {"invert": True}):
        pass


def test_a_job_that_somebody_else_writes_is_only_looked_at(
    serve: Any, volume: Path, tmp_path: Path, flat: dict[str, Any]
) -> None:
    output = tmp_path / "out.zarr"
    run(input=str(volume), output=str(output), roi="0:2,0:37,0:45", **flat)
    before = sorted(str(file) for file in Path(JobDir(str(output)).url).rglob("*"))
    with own(JobDir(str(output)).url), serve(volume, output, **flat) as served:
        assert any("none is written" in note for note in served.opened.notes)
        assert served.array("0")[0].read().result().any()
        assert served.opened.desk.made == 0  # finished
        assert served.array("0")[9].read().result().any()
        assert served.opened.desk.made > 0
    assert sorted(str(file) for file in Path(JobDir(str(output)).url).rglob("*")) == before


def test_what_another_process_finishes_meanwhile_is_shown_from_the_store(
    serve: Any, volume: Path, tmp_path: Path, flat: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("volumetool.live_view.completed.REFRESH_SECONDS", 0.0)
    output = tmp_path / "out.zarr"
    run(input=str(volume), output=str(output), roi="0:2,0:37,0:45", **flat)
    with ExitStack() as other:
        other.enter_context(own(JobDir(str(output)).url))
        with serve(volume, output, **flat) as served:
            before = list(zarr.open_group(served.url, mode="r").attrs["volumetool"]["levels"])  # type: ignore[index,call-overload,arg-type]
            assert before == ["0", "1", "input-mean-1"]
            other.close()
            run(input=str(volume), output=str(output), **flat)
            after = list(zarr.open_group(served.url, mode="r").attrs["volumetool"]["levels"])  # type: ignore[index,call-overload,arg-type]
            assert after == [str(number) for number in range(len(read_levels(output)))]
            assert_levels(served, output)
            assert served.opened.desk.made == 0


def test_enhance_is_refused_while_a_live_view_fills_the_job(
    serve: Any, volume: Path, tmp_path: Path, flat: dict[str, Any], held: Callable[[int], None]
) -> None:
    held(0)
    with serve(volume, tmp_path / "out.zarr", **flat):
        with pytest.raises(LedgerError) as refused:
            run(input=str(volume), output=str(tmp_path / "out.zarr"), **flat)
        assert refused.value.code == "ledger.owned"
    assert run(input=str(volume), output=str(tmp_path / "out.zarr"), **flat).complete
