"""A live volume has the voxels of the batch job, whoever asks in whatever order, and makes each patch once."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import zarr
from small_jobs import block_means, factors, noise, read_levels, run, write_input

from volumetool.errors import InputError
from volumetool.live_view.levels import LiveLevel, below
from volumetool.live_view.patches import PatchMaker, PatchPosition, places_of
from volumetool.processing.spec import OutputSpec
from volumetool.storage.create import open_for_writing
from volumetool.storage.io.retries import STORAGE
from volumetool.storage.open import open_volume


def _computed(served: Any) -> list[LiveLevel]:
    return [level for level in served.opened.layout.levels if level.kind == "computed"]


def _random_keys(served: Any, count: int, seed: int) -> list[tuple[LiveLevel, tuple[int, int, int]]]:
    keys = []
    for level in _computed(served):
        grid = [-(-n // c) for n, c in zip(level.grid.shape, level.grid.chunk, strict=True)]
        keys += [(level, (int(z), int(y), int(x))) for z, y, x in np.ndindex(*grid)]
    return random.Random(seed).sample(keys, min(count, len(keys)))  # noqa: S311


def _needed(served: Any, keys: list[tuple[LiveLevel, tuple[int, int, int]]]) -> set[PatchPosition]:
    spec = served.opened.basis.spec
    assert isinstance(spec, OutputSpec)
    boxes = [below(spec.levels, level.number, level.box(place)) for level, place in keys]
    return {place for box in boxes for place in places_of(spec, 0, box)}


@pytest.mark.parametrize("kind", ["flat", "deep", pytest.param("gaussian", marks=pytest.mark.slow)])
def test_100_random_keys_of_8_clients_are_the_jobs_voxels_and_no_patch_is_made_twice(
    kind: str, request: pytest.FixtureRequest, serve: Any, volume: Path, tmp_path: Path
) -> None:
    options = request.getfixturevalue(kind)
    run(input=str(volume), output=str(tmp_path / "out.zarr"), **options)
    levels = read_levels(tmp_path / "out.zarr")
    with serve(volume, **options) as served:
        keys = _random_keys(served, 100, seed=7)
        names = {level.name for level, _ in keys}
        stores = {name: served.array(name) for name in names}
        arrays = {name: zarr.open_array(f"{served.url}/{name}", mode="r") for name in names}

        def ask(number: int) -> None:
            level, place = keys[number]
            where = level.box(place).slices
            array = stores[level.name] if number % 2 else arrays[level.name]
            got = array[where].read().result() if isinstance(array, ts.TensorStore) else array[where]
            np.testing.assert_array_equal(got, levels[level.number][where], strict=True)

        with ThreadPoolExecutor(8) as clients:
            list(clients.map(ask, range(len(keys))))
        assert len(keys) == 100
        assert served.opened.desk.made == len(_needed(served, keys))


def test_every_computed_level_of_a_network_with_statistics_and_gaps_is_the_jobs(
    serve: Any, tmp_path: Path, tiny_model: Path
) -> None:
    voxels = noise((5, 40, 50), "uint16")
    voxels[:, 8:21, 17:30] = 0
    voxels[3] = 0
    path = write_input(tmp_path / "in.zarr", voxels)
    options = {"model": str(tiny_model), "nodata": 0, "chunk": "2,16,16", "shard": "4,64,64", "device": "cpu", "memory": "4GiB"}
    run(input=str(path), output=str(tmp_path / "out.zarr"), **options)
    with serve(path, **options) as served:
        for level in _computed(served):
            np.testing.assert_array_equal(
                served.read(level.name), read_levels(tmp_path / "out.zarr")[level.number], strict=True
            )


def test_channels_have_their_own_voxels(serve: Any, tmp_path: Path, flat: dict[str, Any]) -> None:
    path = write_input(tmp_path / "in.zarr", noise((2, 3, 21, 22)))
    run(input=str(path), output=str(tmp_path / "out.zarr"), **flat)
    with serve(path, **flat) as served:
        for level in _computed(served):
            np.testing.assert_array_equal(
                served.read(level.name), read_levels(tmp_path / "out.zarr")[level.number], strict=True
            )


def test_a_job_that_fills_a_lost_section_has_its_voxels_live(serve: Any, tmp_path: Path, tiny_model: Path) -> None:
    voxels = noise((10, 37, 45))
    voxels[4] = 0
    volume = write_input(tmp_path / "in.zarr", voxels)
    options = {"model": str(tiny_model), "chunk": "2,16,16", "shard": "4,64,64", "device": "cpu", "memory": "4GiB"}
    options |= {"repair_sections": "fill"}
    assert run(input=str(volume), output=str(tmp_path / "out.zarr"), **options).plan.spec.repair.bad == ((4,),)
    with serve(volume, **options) as served:
        np.testing.assert_array_equal(served.read("0"), read_levels(tmp_path / "out.zarr")[0], strict=True)


def test_a_cropped_job_and_one_with_a_mask_have_their_voxels_live(
    serve: Any, volume: Path, tmp_path: Path, tiny_model: Path
) -> None:
    wanted = np.zeros((10, 37, 45), "uint8")
    wanted[:, :20, :20] = 1
    mask = write_input(tmp_path / "mask.zarr", wanted)
    options = {"model": str(tiny_model), "chunk": "2,16,16", "shard": "4,64,64", "device": "cpu", "memory": "4GiB"}
    for number, more in enumerate(({"roi": "2:7,5:30,3:40", "crop": True}, {"mask": str(mask)})):
        output = tmp_path / f"out{number}.zarr"
        run(input=str(volume), output=str(output), **options, **more)
        with serve(volume, **options, **more) as served:
            finest, *_ = read_levels(output)
            np.testing.assert_array_equal(served.read("0"), finest, strict=True)


def test_sections_are_chunks_of_their_own_without_a_chunk_that_was_asked_for(
    serve: Any, volume: Path, flat: dict[str, Any]
) -> None:
    del flat["chunk"], flat["shard"], flat["region"]
    with serve(volume, **flat) as served:
        served.array("0")[4].read().result()
        assert served.opened.desk.made == 16  # of one section


def test_coarse_levels_are_the_inputs_own(serve: Any, tmp_path: Path, flat: dict[str, Any]) -> None:
    path = write_input(tmp_path / "in.zarr", noise((10, 37, 45)), levels=3)
    own = read_levels(path)
    with serve(path, **flat) as served:
        np.testing.assert_array_equal(served.read("input-1"), own[1], strict=True)
        np.testing.assert_array_equal(served.read("input-2"), own[2], strict=True)
        assert served.opened.desk.made == 0


def test_coarse_levels_are_made_where_the_input_has_none(serve: Any, tmp_path: Path, flat: dict[str, Any]) -> None:
    voxels = noise((80, 70, 90))
    path = write_input(tmp_path / "in.zarr", voxels, voxel_size=(32.0, 32.0, 32.0))
    with serve(path, **flat) as served:
        np.testing.assert_array_equal(served.read("input-mean-1"), block_means(voxels, (2, 2, 2)), strict=True)


def test_another_dtype_holds_the_same_intensities(serve: Any, tmp_path: Path, flat: dict[str, Any]) -> None:
    voxels = np.random.default_rng(0).normal(100, 80, (4, 70, 90)).astype("float32")
    path = write_input(tmp_path / "in.zarr", voxels, levels=2)
    with serve(path, **flat, dtype="uint8") as served:
        np.testing.assert_array_equal(
            served.read("input-1"), np.clip(np.rint(read_levels(path)[1]), 0, 255).astype("uint8"), strict=True
        )


def test_metadata_are_the_jobs_but_for_shards_and_coarse_levels(
    serve: Any, volume: Path, tmp_path: Path, flat: dict[str, Any]
) -> None:
    run(input=str(volume), output=str(tmp_path / "out.zarr"), **flat)
    with serve(volume, **flat) as served:
        live, batch = zarr.open_group(served.url, mode="r"), zarr.open_group(str(tmp_path / "out.zarr"), mode="r")
        count = len(_computed(served))
        mine, theirs = (dict(group.attrs)["ome"]["multiscales"][0] for group in (live, batch))
        assert mine["datasets"][:count] == theirs["datasets"][:count]
        assert mine["axes"] == theirs["axes"]
        own = dict(live.attrs)["volumetool"]
        assert own["fingerprint"] == dict(batch.attrs)["volumetool"]["fingerprint"]  # type: ignore[index,call-overload]
        assert "not enhanced" in own["levels"]["input-mean-1"]  # type: ignore[index,call-overload]
        assert factors(tmp_path / "out.zarr")[: count - 1] == [(2, 2, 2)]
        for number in range(count):
            a, b = live[str(number)], batch[str(number)]
            assert isinstance(a, zarr.Array)
            assert isinstance(b, zarr.Array)
            assert (a.shape, a.dtype, a.chunks, a.fill_value) == (b.shape, b.dtype, b.chunks, b.fill_value)
            assert a.shards is None


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_real_network_gives_the_jobs_bytes_in_whatever_batches(serve: Any, tmp_path: Path, precision: str) -> None:
    smooth = np.kron(np.random.default_rng(1).integers(60, 200, (3, 40, 50)), np.ones((1, 15, 12)))
    voxels = np.clip(smooth + np.random.default_rng(2).normal(0, 12, smooth.shape), 1, 255).astype("uint8")
    path = write_input(tmp_path / "in.zarr", voxels, voxel_size=(30.0, 32.0, 32.0), chunk=(4, 64, 64))
    options = {"model": "em-x4", "precision": precision, "batch": 3, "device": "cpu"}
    run(input=str(path), output=str(tmp_path / "out.zarr"), **options)
    with serve(path, **options) as served:
        for level in _computed(served):
            keys = _random_keys(served, 1000, seed=3)
            batch = read_levels(tmp_path / "out.zarr")[level.number]
            for _, place in (key for key in keys if key[0] == level):
                where = level.box(place).slices
                np.testing.assert_array_equal(served.array(level.name)[where].read().result(), batch[where], strict=True)


def test_an_input_that_is_rewritten_meanwhile_is_read_again_and_told(
    serve: Any, volume: Path, tmp_path: Path, flat: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run(input=str(volume), output=str(tmp_path / "old.zarr"), **flat)
    with serve(volume, **flat) as served:
        part = np.s_[4:6, :64, :64]
        np.testing.assert_array_equal(served.array("0")[part].read().result(), read_levels(tmp_path / "old.zarr")[0][part])
        open_for_writing(str(volume), open_volume(volume)).write(noise((10, 37, 45), seed=1)).result()
        run(input=str(volume), output=str(tmp_path / "new.zarr"), **flat)
        np.testing.assert_array_equal(served.array("0")[part].read().result(), read_levels(tmp_path / "new.zarr")[0][part])
    assert sum("was written to" in line for line in caplog.messages) == 1


def test_an_answer_is_never_made_of_two_inputs(
    serve: Any, volume: Path, flat: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written to in the middle of every answer: an error, and no mixture."""
    chunk = volume / "0" / "c" / "0" / "0" / "0"
    make, times = PatchMaker.make, itertools.count(1)

    def meddling(self: PatchMaker, places: Any) -> Any:
        made = make(self, places)
        os.utime(chunk, ns=(next(times), next(times)))
        return made

    monkeypatch.setattr(PatchMaker, "make", meddling)
    with serve(volume, **flat) as served, pytest.raises(InputError) as caught:
        asyncio.run(served.opened.keys("0/c/0/0/0"))
    assert caught.value.code == "input.changed"


def test_a_chunk_that_is_deleted_meanwhile_is_an_error_and_nothing_blank(
    serve: Any, volume: Path, flat: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(STORAGE, "_sleep", lambda _: None)
    with serve(volume, **flat) as served:
        asyncio.run(served.opened.keys("0/c/0/0/0"))
        (volume / "0" / "c" / "0" / "0" / "0").unlink()
        with pytest.raises(InputError) as caught:
            asyncio.run(served.opened.keys("0/c/0/0/0"))
    assert caught.value.code == "input.vanished"
