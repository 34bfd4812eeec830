"""Volumes as arrays of NumPy, dask and zarr-python, and such arrays as places."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
import tifffile
import zarr
from distributed.protocol import deserialize, serialize
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_jobs import noise, write_input

import volumetool as vt
from volumetool.errors import InputError, ResourceError
from volumetool.geometry import Box
from volumetool.storage import voxels as stored_voxels
from volumetool.storage.volume import Volume

SHAPE = (9, 33, 41)


@pytest.fixture(scope="module")
def voxels() -> NDArray[Any]:
    """Give two channels of noise."""
    return noise((2, *SHAPE), "uint16")


@pytest.fixture(scope="module")
def volume(voxels: NDArray[Any], tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """Give a volume of two channels and three levels."""
    return vt.open_volume(write_input(tmp_path_factory.mktemp("volume") / "in.zarr", voxels, levels=2))


def _parts(length: int) -> st.SearchStrategy[int | slice]:
    return st.integers(-length, length - 1) | st.slices(length)


@given(st.tuples(st.integers(0, 1) | st.slices(2), *map(_parts, SHAPE)), st.integers(0, 4))
def test_a_volume_is_indexed_as_the_array_of_its_voxels(
    volume: Volume, voxels: NDArray[Any], key: tuple[Any, ...], said: int
) -> None:
    key = key[:said] if said % 2 else (*key[:said], ..., *key[said:])
    read, wanted = volume[key], voxels[key]
    assert read.shape == wanted.shape
    assert read.dtype == wanted.dtype
    assert np.array_equal(read, wanted)


@pytest.mark.parametrize("key", [(0, 9), (0, 0, 0, 0, 0), (..., ...), 1.5, "z", ([0, 1],)])
def test_what_is_no_part_of_a_volume_is_an_index_error(volume: Volume, key: Any) -> None:
    with pytest.raises(IndexError):
        volume[key]


def test_a_volume_is_an_array_to_numpy(volume: Volume, voxels: NDArray[Any]) -> None:
    assert np.array_equal(np.asarray(volume), voxels)
    assert np.asarray(volume, np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="copy"):
        np.array(volume, copy=False)


def test_more_than_the_free_memory_is_refused_with_a_way_to_read_it(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_voxels, "usable_memory", lambda: 1000)
    with pytest.raises(ResourceError, match="to_dask") as caught:
        np.asarray(volume)
    assert caught.value.code == "resource.memory"
    assert volume[0, 0, 0].size == SHAPE[2]


def test_dask_reads_blocks_of_whole_chunks_here_and_in_another_process(
    volume: Volume, voxels: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "1")  # else dask sets it, for all tests after this one
    array = volume.to_dask()
    assert array.chunks == ((1, 1), (4, 4, 1), (16, 16, 1), (16, 16, 9))
    assert np.array_equal(array.compute(), voxels)
    assert np.array_equal(array[:, [5, 3], ::2].compute(), voxels[:, [5, 3], ::2])
    assert len(pickle.dumps(array)) < 10_000  # with handles that are open
    assert np.array_equal(array.compute(scheduler="processes", num_workers=1), voxels)
    assert volume.to_dask(1).shape == (2, *volume.levels[1].shape)
    assert volume.to_dask(chunks=(2, -1, -1, -1)).numblocks == (1, 1, 1, 1)
    assert volume.to_dask(chunks="auto").numblocks == (1, 1, 1, 1)


def test_a_slice_of_a_huge_volume_makes_few_tasks_and_reads_the_voxels_that_it_names(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    finest = replace(volume.levels[0], shape=(10_000, 100_000, 100_000), shard=(32, 1024, 1024))
    huge = replace(volume, levels=(finest,)).to_dask()
    read: list[tuple[int, ...]] = []

    def zeros(_: Any, box: Box, *_more: Any) -> NDArray[Any]:
        read.append(box.shape)
        return np.zeros(box.shape, np.uint16)

    monkeypatch.setattr(stored_voxels, "read_voxels", zeros)
    part = huge[1, 5000, 49_000:50_000, 49_000:49_010]
    (made,) = dask.optimize(part)
    assert len(dict(made.__dask_graph__())) <= 4
    assert part.compute().shape == (1000, 10)
    assert sorted(read) == [(1, 152, 10), (1, 848, 10)]


def test_the_scheduler_of_distributed_computes_a_volume(volume: Volume, voxels: NDArray[Any]) -> None:
    with (
        dask.config.set({"distributed.worker.memory.terminate": False}),
        distributed.Client(n_workers=1, processes=False, dashboard_address="127.0.0.1:0"),
    ):
        assert volume.to_dask().sum().compute() == voxels.sum(dtype=np.uint64)


def test_blocks_of_a_sharded_volume_are_shards(tmp_path: Path) -> None:
    vt.convert(write_input(tmp_path / "in.zarr", noise(SHAPE)), tmp_path / "out.zarr", format="ome-zarr-0.5")
    copy = vt.open_volume(tmp_path / "out.zarr")
    shard = copy.levels[0].shard
    assert shard is not None
    assert copy.to_dask().chunksize == tuple(map(min, shard, SHAPE))


def test_a_volume_without_stored_arrays_is_one_to_dask_too(tmp_path: Path) -> None:
    stack = noise(SHAPE)
    tifffile.imwrite(tmp_path / "s.tif", stack, photometric="minisblack")
    opened = vt.open_volume(tmp_path / "s.tif", voxel_size=(8, 8, 8))
    assert np.array_equal(opened.to_dask().compute(), stack)
    with pytest.raises(InputError, match=r"tiff.*\n.*to_dask") as caught:
        opened.to_zarr()
    assert caught.value.code == "input.no-zarr"


def test_zarr_python_gets_the_stored_array(volume: Volume, voxels: NDArray[Any], tmp_path: Path) -> None:
    array = volume.to_zarr()
    assert isinstance(array, zarr.Array)
    assert array.read_only
    assert np.array_equal(array[:], voxels)
    assert volume.to_zarr(1).shape[1:] == volume.levels[1].shape
    with pytest.raises(InputError, match="levels 0 to 1"):
        volume.to_zarr(2)
    vt.convert(volume.url, tmp_path / "copy.n5")
    with pytest.raises(InputError, match="to_dask"):
        vt.open_volume(tmp_path / "copy.n5").to_zarr()


def test_zarr_in_a_zip_file_is_opened_by_zarr_python_and_behind_http_by_dask(
    volume: Volume, voxels: NDArray[Any], tmp_path: Path, served: str
) -> None:
    shutil.copytree(volume.url, tmp_path / "in.zarr")
    packed = shutil.make_archive(str(tmp_path / "in.zarr"), "zip", volume.url)
    assert np.array_equal(vt.open_volume(packed).to_zarr()[0, 0], voxels[0, 0])
    afar = vt.open_volume(f"{served}/in.zarr")
    assert np.array_equal(afar.to_dask()[0, 0].compute(), voxels[0, 0])
    with pytest.raises(InputError, match="to_dask"):
        afar.to_zarr()


def test_arrays_and_groups_of_zarr_python_are_places(volume: Volume, tmp_path: Path) -> None:
    finest = volume.to_zarr()
    assert vt.open_volume(finest, voxel_size=(8, 8, 8)).url == f"{volume.url}/{volume.levels[0].path}"
    group = zarr.open_group(volume.url, mode="r")
    assert vt.open_volume(group) == volume
    by_fsspec = zarr.open_group(f"file://{volume.url}", mode="r", storage_options={"auto_mkdir": False})
    assert type(by_fsspec.store).__name__ == "FsspecStore"
    assert vt.open_volume(by_fsspec) == volume
    assert vt.convert(group, tmp_path / "copy.zarr").shape == volume.shape
    assert vt.Job(input=group, output=tmp_path / "out.zarr").input == volume.url


def test_an_array_of_zarr_python_without_a_place_is_refused_with_a_way_on(tmp_path: Path) -> None:
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=SHAPE, dtype="uint8")
    with pytest.raises(InputError, match=r"MemoryStore.*\n.*voxel_size=") as caught:
        vt.convert(array, tmp_path / "out.zarr")
    assert caught.value.code == "input.no-place"


ARRAYS: dict[str, Callable[[NDArray[Any]], Any]] = {
    "numpy": np.asarray,
    "transposed, of the other byte order": lambda voxels: np.asfortranarray(voxels).astype(voxels.dtype.newbyteorder()),
    "zarr in memory": lambda voxels: zarr.array(voxels, store=zarr.storage.MemoryStore(), chunks=(1, 4, 16, 16)),
    "dask": lambda voxels: da.from_array(voxels, chunks=(1, 5, -1, 20)),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_in_memory_is_a_volume(kind: str, voxels: NDArray[Any]) -> None:
    opened = vt.open_volume(ARRAYS[kind](voxels), voxel_size=(30, 8, 4))
    assert np.array_equal(opened[...], voxels)
    assert np.array_equal(opened.to_dask(chunks="auto").compute(), voxels)
    assert opened[0].dtype == voxels.dtype
    assert (opened.channels, opened.shape, opened.voxel_size) == (2, SHAPE, (30, 8, 4))
    assert opened.translation == (15, 4, 2)  # its corner lies at 0
    travelled = deserialize(*serialize(opened))  # as dask sends it to a worker
    assert np.array_equal(travelled[1, 2], voxels[1, 2])
    assert "memory://array: array, uint16, 9 x 33 x 41 voxels of 30 x 8 x 4 nm" in repr(opened)
    assert "base64" in opened._repr_html_()


def test_an_array_of_a_section_is_a_volume_and_what_is_changed_in_it_is_seen() -> None:
    section = noise((20, 24))
    opened = vt.open_volume(section, voxel_size=(30, 8, 4))
    assert opened.shape == (1, 20, 24)
    section[3, 4] = 7
    assert opened[0, 3, 4] == 7


@pytest.mark.parametrize(
    ("array", "options", "code"),
    [
        (np.ones((3, 4, 5), "uint8"), {}, "input.no-voxel-size"),
        (np.ones((3, 4, 5), "int64"), {"voxel_size": (1, 1, 1)}, "input.dtype"),
        (np.ones(5, "uint8"), {"voxel_size": (1, 1, 1)}, "input.axes"),
        (np.ones((0, 4, 5), "uint8"), {"voxel_size": (1, 1, 1)}, "input.axes"),
        (np.ones((3, 4, 5), "uint8"), {"voxel_size": (1, 0, 1)}, "input.voxel-size"),
        ([[1, 2], [3, 4]], {"voxel_size": (1, 1, 1)}, "input.no-place"),
    ],
)
def test_an_array_that_is_no_volume_is_refused(array: Any, options: dict[str, Any], code: str) -> None:
    with pytest.raises(InputError) as caught:
        vt.open_volume(array, **options)
    assert caught.value.code == code
