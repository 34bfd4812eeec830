"""An input that vanishes while it is read never ends as a finished output; one that comes back soon does."""

from __future__ import annotations

import importlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import SMALL, Recording, attributes, digest, noise, run, write_input
from vanishing import Moved, Place, leave_for, leaving, placed

from volumetool.errors import InputError, VolumetoolError
from volumetool.events import Observer, RegionEnded, ignore
from volumetool.jobs.execution import worker
from volumetool.jobs.planning import inputs
from volumetool.processing.region import enhance_region
from volumetool.processing.statistics import Statistics, sample_statistics
from volumetool.storage.conversion import plan_conversion
from volumetool.storage.convert_volume import convert_volume
from volumetool.storage.io import retries
from volumetool.storage.pyramid import build_pyramid
from volumetool.training.data.crappification import Crappification, crappify_volume, plan_crappification

Options = dict[str, Any]
KINDS = ["moved", "unmounted", "refused", "deleted"]
SHAPE = (10, 37, 45)


def sparse(shape: tuple[int, int, int] = SHAPE) -> np.ndarray[Any, Any]:
    """Return noise in which some chunks are blank, so that they are not stored."""
    voxels = noise(shape)
    voxels[:4, 16:32, :16] = 0
    voxels[4:8, :16, 16:] = 0
    return voxels


class After(Recording):
    """Does something once a number of regions ended."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        super().__init__()
        self._number, self._act = number, act

    def after_region(self, _: RegionEnded) -> None:
        if len(self.ended) == self._number:
            self._act()


@pytest.fixture(params=[*KINDS[:3], pytest.param(KINDS[3], marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "disk").mkdir()
    write_input(tmp_path / "disk" / "in.zarr", sparse())
    with placed(request.param, tmp_path, request) as where:
        yield where


@pytest.fixture
def options(place: Place, tmp_path: Path, tiny_model: Path) -> Options:
    """Give a job whose bytes depend on statistics of the input."""
    return SMALL | {"input": place.url, "output": str(tmp_path / "out.zarr"), "model": str(tiny_model), "region": "1,1,1"}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> str:
    """Return the digest of an output whose input was always there, wherever that is."""
    folder = tmp_path_factory.mktemp("straight")
    source = write_input(folder / "in.zarr", sparse())
    asked = {"input": str(source), "output": str(folder / "out.zarr"), "model": str(tiny_model), "region": "1,1,1"}
    return digest_of(SMALL | asked)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait only moments for what is gone."""
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.002)


def digest_of(options: Options, observer: Observer = ignore) -> str:
    assert run(observer, **options).complete
    return digest(options["output"])


@pytest.mark.thin(2)
@pytest.mark.usefixtures("soon")
def test_a_job_whose_input_vanishes_stops_and_goes_on_when_it_is_back(place: Place, options: Options, straight: str) -> None:
    """Nothing of what was read meanwhile is recorded: the next run trusts the records, and its bytes are right."""
    observer = After(3, place.vanish)
    with pytest.raises(InputError, match="gone") as caught:
        run(observer, **options)
    assert caught.value.code == "input.vanished"
    assert attributes(options["output"])["status"] == "unfinished"
    assert [bool(ended.error) for ended in observer.ended] == [False] * 3 + [True]
    assert observer.ended[3].error["code"] == "input.vanished"
    place.come_back()
    assert digest_of(options | {"input_check": "metadata"}) == straight


@pytest.mark.parametrize(
    "place",
    ["moved", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("unmounted", "refused", "deleted"))],
    indirect=True,
)
def test_an_absence_of_two_seconds_ends_complete_and_right(place: Place, options: Options, straight: str) -> None:
    assert digest_of(options, After(3, lambda: leave_for(place, 2.0))) == straight


@pytest.mark.slow
@pytest.mark.usefixtures("soon")
def test_no_moment_to_vanish_ends_complete_with_something_missing(
    place: Place, options: Options, straight: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Twenty moments by chance, from before planning to after the end."""
    began = time.monotonic()
    digest_of(options | {"output": str(tmp_path / "timed.zarr")})
    length, random, ends = time.monotonic() - began, np.random.default_rng(15), Counter[str]()
    for number in range(20):
        asked = options | {"output": str(tmp_path / f"{number}.zarr"), "input_check": "metadata"}
        with leaving(place, random.uniform(0, length)):
            try:
                complete = run(**asked).complete
                ends["complete" if complete else "regions failed"] += 1
            except VolumetoolError as error:
                complete = False
                ends[error.code] += 1
        if complete:
            assert digest(asked["output"]) == straight
        place.come_back()
        assert digest_of(asked) == straight
    record_property("ends", dict(ends))
    assert ends["complete"] < 20


@pytest.mark.usefixtures("soon")
def test_a_chunk_that_is_gone_fails_its_regions_by_name(tmp_path: Path) -> None:
    """Its array is there, so only the list of what was stored tells."""
    source = write_input(tmp_path / "in.zarr", sparse())
    asked = SMALL | {"input": str(source), "output": str(tmp_path / "out.zarr"), "region": "1,1,1"}
    observer = After(3, (source / "0" / "c" / "2" / "1" / "2").unlink)
    outcome = run(observer, **asked)
    assert not outcome.complete
    assert 0 < len(outcome.failures) < outcome.regions
    for record in outcome.failures:
        assert record.error["code"] == "input.vanished"
        assert "c/2/1/2" in record.error["message"]
    assert outcome.done + outcome.failed == outcome.regions


@pytest.mark.usefixtures("soon")
def test_a_mask_that_vanishes_stops_the_job(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.zarr", sparse())
    mask = write_input(tmp_path / "mask.zarr", (noise(SHAPE) > 40).astype(np.uint8))
    asked = SMALL | {"input": str(source), "mask": str(mask), "region": "1,1,1"}
    wanted = digest_of(asked | {"output": str(tmp_path / "straight.zarr")})
    asked["output"] = str(tmp_path / "out.zarr")
    with pytest.raises(InputError) as caught:
        run(After(3, Moved(mask).vanish), **asked)
    assert (caught.value.code, caught.value.where) == ("input.vanished", str(mask))
    Moved(mask).come_back()
    assert digest_of(asked | {"input_check": "metadata"}) == wanted


@pytest.mark.parametrize("missing", ["fill", "skip"])
def test_a_region_whose_input_is_written_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Here the last chunk that a region reads changes after its voxels were read: in the end all of it is the new one."""
    source = write_input(tmp_path / "in.zarr", sparse())
    later = write_input(tmp_path / "later.zarr", sparse()[::-1].copy())
    asked = SMALL | {"input": str(source), "output": str(tmp_path / "out.zarr"), "missing": missing, "fill": 0}
    made: list[int] = []
    table = str(tmp_path / "sections.csv")
    Path(table).write_text(Statistics(np.zeros((1, 10)), np.full((1, 10), 255.0)).to_csv())
    asked["statistics"] = table

    def enhance(spec: Any, region: Any, *rest: Any, **more: Any) -> Any:
        done = enhance_region(spec, region, *rest, **more)
        if not made:
            shutil.copytree(later / "0" / "c", source / "0" / "c", dirs_exist_ok=True)
        made.append(region.index)
        return done

    monkeypatch.setattr(worker, "enhance_region", enhance)
    observer = Recording()
    got = digest_of(asked, observer)
    assert made[:2] == [0, 0]
    assert len(made) == len(observer.ended) + 1
    assert got == digest_of(asked | {"output": str(tmp_path / "straight.zarr")})


@pytest.mark.parametrize("which", ["input", "mask"])
def test_chunks_that_are_away_while_they_are_read_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """Their array's metadata are there all the time; before and after the region is made, its chunks are, too."""
    places = {"input": write_input(tmp_path / "in.zarr", sparse())}
    places["mask"] = write_input(tmp_path / "mask.zarr", (noise(SHAPE) > 40).astype(np.uint8))
    asked = SMALL | {name: str(place) for name, place in places.items()} | {"output": str(tmp_path / "straight.zarr")}
    asked["model"] = "fake:box?dims=2&scale=1,1,1&radius=2&patch=1,16,16&overlap=0,4,4&trim=0,2,2"
    wanted, away = digest_of(asked), Moved(places[which] / "0" / "c")

    def enhance(spec: Any, region: Any, *rest: Any, **more: Any) -> Any:
        back = leave_for(away, 0.3) if region.index == 0 else None
        made = enhance_region(spec, region, *rest, **more)
        if back is not None:
            back.join()
        return made

    monkeypatch.setattr(worker, "enhance_region", enhance)
    assert digest_of(asked | {"output": str(tmp_path / "out.zarr")}) == wanted


def converted(source: str, output: str) -> str:
    return convert_volume(plan_conversion(source, output)).url


def crappified(source: str, output: str) -> str:
    asked = Crappification(input=source, output=output, recipe="sem-fast", scale=(1, 2, 2), limits=(0.0, 255.0))
    return crappify_volume(plan_crappification(asked)).url


def with_levels(source: str, output: str) -> str:
    shutil.copytree(source, output)
    return build_pyramid(output).url


@pytest.mark.parametrize(
    ("make", "module", "reads"),
    [
        (converted, "volumetool.storage.convert", "read_part"),
        (crappified, "volumetool.training.data.crappification", "read_voxels"),
        (with_levels, "volumetool.storage.downsample", "read_voxels"),
    ],
)
def test_chunks_that_are_away_while_a_command_reads_them_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[str, str], str], module: str, reads: str
) -> None:
    source = str(write_input(tmp_path / "in.zarr", sparse()))
    wanted = digest(make(source, str(tmp_path / "straight.zarr")))
    output = tmp_path / "out.zarr"
    chunks = (output if make is with_levels else tmp_path / "in.zarr") / "0" / "c"
    read, away = getattr(importlib.import_module(module), reads), [Moved(chunks)]

    def slow(*given: Any, **options: Any) -> Any:
        back = leave_for(away.pop(), 0.3) if away else None
        voxels = read(*given, **options)
        if back is not None:
            back.join()
        return voxels

    monkeypatch.setattr(f"{module}.{reads}", slow)
    assert digest(make(source, str(output))) == wanted
    assert not away


@pytest.mark.parametrize("change", ["away", "written"])
def test_an_input_that_changes_while_its_job_is_planned_is_told(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The statistics would be of other voxels than the regions."""
    source = write_input(tmp_path / "in.zarr", sparse())
    asked = SMALL | {"input": str(source), "output": str(tmp_path / "out.zarr"), "model": str(tiny_model)}
    chunks = Moved(source / "0" / "c")

    def fit(*given: Any, **options: Any) -> Statistics:
        if change == "away":
            chunks.vanish()
        fitted = sample_statistics(*given, **options)
        if change == "away":
            chunks.come_back()
        else:
            write_input(source, sparse()[::-1].copy())
        return fitted

    with monkeypatch.context() as patch:
        patch.setattr(inputs, "sample_statistics", fit)
        with pytest.raises(InputError) as caught:
            run(**asked)
    assert caught.value.code == "input.changed"
    assert not (tmp_path / "out.zarr").exists()
    assert digest_of(asked) == digest_of(asked | {"output": str(tmp_path / "straight.zarr")})


def test_a_region_whose_input_is_written_for_ever_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_input(tmp_path / "in.zarr", sparse())
    asked = SMALL | {"input": str(source), "output": str(tmp_path / "out.zarr")}

    def enhance(spec: Any, region: Any, *rest: Any, **more: Any) -> Any:
        done = enhance_region(spec, region, *rest, **more)
        if region.index == 0:
            os.utime(source / "0" / "c" / "0" / "0" / "0")
        return done

    monkeypatch.setattr(worker, "enhance_region", enhance)
    outcome = run(**asked)
    assert [(record.region, record.error["code"]) for record in outcome.failures] == [(0, "input.changed")]
    assert not outcome.complete
