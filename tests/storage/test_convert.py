"""Conversion: exact, in bounded memory, and refusing what would harm."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from volumetool.errors import DataError, InputError, OutputError, StorageFullError
from volumetool.events import Event, Progressed
from volumetool.geometry.box import Box, cut
from volumetool.geometry.levels import LevelGrid, plan_levels
from volumetool.storage import convert as convert_module
from volumetool.storage.conversion import MEMORY_BYTES, ConversionPlan, plan_conversion, shard_groups
from volumetool.storage.convert import write_finest
from volumetool.storage.create import VolumeLayout
from volumetool.storage.open import open_volume
from volumetool.storage.validate import validate_volume
from volumetool.storage.volume import Level, Volume
from volumetool.storage.writing.staging import Staging

SIZE = (30.0, 8.0, 4.0)
VOXELS = np.arange(9 * 20 * 30, dtype=np.uint16).reshape(9, 20, 30)
Voxels = np.ndarray[Any, Any]


def _levels(shape: tuple[int, int, int] = (9, 20, 30)) -> tuple[LevelGrid, ...]:
    return plan_levels(shape, SIZE, (0.0, 0.0, 0.0), (2, 4, 4), (4, 8, 8))


def convert(source: Path | Volume, place: Path | str, **options: Any) -> Volume:
    """Write level 0 of a volume."""
    return write_finest(plan_conversion(source, place, **options))


def test_a_stack_becomes_a_conformant_volume_with_the_same_voxels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    volume = convert(tmp_path / "stack.tif", str(tmp_path / "v.zarr"), voxel_size=SIZE)
    assert (volume.voxel_size, volume.translation) == (SIZE, (0.0, 0.0, 0.0))
    assert validate_volume(volume.url) == []
    np.testing.assert_array_equal(volume.open().read().result(), VOXELS)


@pytest.mark.parametrize("memory", [1, 2 * 4 * 8 * 8 * 2, 10**9])
def test_the_voxels_do_not_depend_on_the_memory(tmp_path: Path, memory: int) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS, compression="zlib")
    seen: list[Event] = []
    plan = plan_conversion(tmp_path / "stack.tif", str(tmp_path / "v.zarr"), voxel_size=SIZE, levels=_levels(), memory=memory)
    volume = write_finest(plan, observer=seen.append)
    np.testing.assert_array_equal(volume.open().read().result(), VOXELS)
    done = [event.done for event in seen if isinstance(event, Progressed)]
    assert done == sorted(done)
    assert seen[-1] == Progressed("converting", 2 * VOXELS.size, 2 * VOXELS.size)


@given(
    shape=st.tuples(*[st.integers(1, 30)] * 3),
    shard=st.tuples(*[st.integers(1, 9)] * 3),
    voxels=st.integers(0, 5000),
)
def test_slabs_are_whole_sections_and_whole_shards_and_keep_to_the_bound(
    shape: tuple[int, int, int], shard: tuple[int, int, int], voxels: int
) -> None:
    (grid, *_) = plan_levels(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1, 1, 1), shard)
    slabs = list(shard_groups(grid, voxels))
    assert [slab.start[0] for slab in slabs] == [0, *(slab.stop[0] for slab in slabs[:-1])]
    assert all(slab.shape[1:] == shape[1:] and slab.start[0] % shard[0] == 0 for slab in slabs)
    assert slabs[-1].stop == shape
    assert all(slab.voxels <= max(voxels, shard[0] * shape[1] * shape[2]) for slab in slabs)


@given(
    start=st.tuples(*[st.integers(0, 9)] * 3),
    size=st.tuples(*[st.integers(1, 20)] * 3),
    step=st.tuples(*[st.integers(1, 9)] * 3),
    voxels=st.integers(0, 3000),
)
def test_a_box_is_cut_at_steps_alone_into_parts_that_cover_it_once(
    start: tuple[int, int, int], size: tuple[int, int, int], step: tuple[int, int, int], voxels: int
) -> None:
    box = Box(start, (start[0] + size[0], start[1] + size[1], start[2] + size[2]))
    count = np.zeros(box.stop, int)
    for part in cut(box, step, voxels):
        count[part.slices] += 1
        assert all(a in (edge, 0) or a % n == 0 for a, n, edge in zip(part.start, step, start, strict=True))
        assert all(b == edge or b % n == 0 for b, n, edge in zip(part.stop, step, box.stop, strict=True))
        assert part.voxels <= max(voxels, step[0] * step[1] * step[2])
    assert (count[box.slices] == 1).all()
    assert count.sum() == box.voxels


@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    chunk=st.tuples(*[st.integers(1, 50)] * 3),
    inner=st.tuples(*[st.integers(1, 5)] * 3),
    memory=st.integers(1, 10**5),
)
@settings(max_examples=30)
def test_no_chunk_of_a_volume_is_decoded_more_than_twice(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    chunk: tuple[int, int, int],
    inner: tuple[int, int, int],
    memory: int,
) -> None:
    folder = tmp_path_factory.mktemp("twice")
    voxels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    metadata = {"shape": shape, "chunks": chunk, "dtype": "|u1"}
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(folder / "in.zarr")}, "metadata": metadata}
    ts.open(spec, create=True).result().write(voxels).result()
    count = np.zeros([-(-n // c) for n, c in zip(shape, chunk, strict=True)], int)
    real = convert_module.read_part

    def counted(array: ts.TensorStore, slices: tuple[slice, ...], *rest: Any) -> Voxels:
        count[tuple(slice(s.start // c, (s.stop - 1) // c + 1) for s, c in zip(slices, chunk, strict=True))] += 1
        return real(array, slices, *rest)

    (grid, *_) = plan_levels(shape, SIZE, (0.0, 0.0, 0.0), inner, (inner[0] * 2, inner[1] * 3, inner[2]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_module, "read_part", counted)
        volume = write_finest(
            plan_conversion(folder / "in.zarr", str(folder / "v.zarr"), voxel_size=SIZE, levels=(grid,), memory=memory)
        )
    np.testing.assert_array_equal(volume.open().read().result(), voxels)
    assert 1 <= count.min() <= count.max() <= 2


@pytest.mark.parametrize(
    ("shape", "size"), [((1000, 8192, 8192), (8, 8, 8)), ((2000, 10000, 10000), (30, 8, 8)), ((5000, 60000, 60000), (30, 4, 4))]
)
def test_sections_of_any_size_are_planned_in_one_pass(shape: tuple[int, int, int], size: tuple[float, float, float]) -> None:
    (grid, *_) = plan_levels(shape, size, (0.0, 0.0, 0.0))
    level = Level("", shape, size, (0.0, 0.0, 0.0), (1, 2**22 // shape[2], shape[2]), None)
    stack = Volume("/stack.tif", "tiff", "virtual_chunked", ("z", "y", "x"), np.dtype("uint8"), None, (level,))
    plan = ConversionPlan(stack, "/v.zarr", VolumeLayout("uint8", (grid,)), MEMORY_BYTES)
    assert plan.staged
    assert sum(slab.shape[0] for slab in plan.slabs) == shape[0]
    assert plan.staging_bytes == grid.shard[0] * shape[1] * shape[2]
    assert plan.peak_bytes <= MEMORY_BYTES


def test_a_volume_keeps_its_size_its_place_and_its_channels(tmp_path: Path) -> None:
    voxels = np.stack([VOXELS, VOXELS[::-1]])
    attributes = {"axes": ["x", "y", "z", "c"], "units": ["nm"] * 4, "resolution": [4, 8, 30, 1], "offset": [1, 2, 3, 0]}
    metadata = {"dimensions": [30, 20, 9, 2], "dataType": "uint16", "blockSize": [7] * 4, "compression": {"type": "raw"}}
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": str(tmp_path / "in.n5/s0")}, "metadata": metadata}
    ts.open(spec, create=True).result().write(voxels.transpose()).result()
    (tmp_path / "in.n5" / "attributes.json").write_text(str(attributes).replace("'", '"'))
    source = open_volume(tmp_path / "in.n5")
    volume = convert(source, str(tmp_path / "v.zarr"))
    assert (volume.channels, volume.voxel_size, volume.translation) == (2, SIZE, (3.0, 2.0, 1.0))
    assert volume.attributes["conversion"]["source_identity"] == source.identity
    for channel in (0, 1):
        np.testing.assert_array_equal(volume.open(0, channel).read().result(), voxels[channel])


def test_java_n5_converts_exactly(tmp_path: Path, fixture: Callable[[str], Path]) -> None:
    source = open_volume(fixture("mobie_bdv_n5_segmentation") / "segmentation.n5", voxel_size=(5.0, 5.0, 5.0))
    volume = convert(source, str(tmp_path / "v.zarr"))
    np.testing.assert_array_equal(volume.open().read().result(), source.open().read().result())


def test_unless_told_otherwise_half_of_little_free_memory_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    monkeypatch.setattr("volumetool.storage.conversion.usable_memory", lambda: 2**20)
    assert plan_conversion(tmp_path / "stack.tif", tmp_path / "v.zarr", voxel_size=SIZE).memory == 2**19


def test_a_given_voxel_size_wins_over_the_source(tmp_path: Path, filled: tuple[Volume, Voxels]) -> None:
    volume = convert(filled[0], str(tmp_path / "v.zarr"), voxel_size=(1.0, 2.0, 3.0))
    assert volume.voxel_size == (1.0, 2.0, 3.0)


class FullDisk(io.BytesIO):
    """A file on a disk without room."""

    def write(self, _: object) -> int:
        """Fail."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_room_for_the_temporary_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: FullDisk())
    with pytest.raises(StorageFullError, match="temporary file in"):
        convert(tmp_path / "stack.tif", str(tmp_path / "v.zarr"), voxel_size=SIZE, memory=1)


@pytest.mark.parametrize("name", ["v.tif", "v.TIFF", "v.h5", "v.mrc", "v.png"])
def test_an_output_named_as_another_format_is_told_what_is_written(tmp_path: Path, name: str) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    with pytest.raises(OutputError, match=r"ome-zarr-0\.5") as caught:
        convert(tmp_path / "stack.tif", str(tmp_path / name), voxel_size=SIZE)
    assert caught.value.code == "output.format"
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.jp2", "as TIFF first"), ("missing.tif", "spelling"), ("s_*.tif", "the folder"), (".", "own directory")],
)
def test_what_cannot_be_converted_is_told_what_can(tmp_path: Path, name: str, words: str) -> None:
    for there in {"a.mrc", name} - {"missing.tif", "s_*.tif", "."}:
        (tmp_path / there).write_bytes(b"")
    with pytest.raises(InputError) as caught:
        convert(tmp_path / name, str(tmp_path / "v.zarr"))
    assert words in caught.value.hint


@given(data=st.data())
def test_what_is_gathered_in_a_file_comes_out_as_it_went_in(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    wanted = np.zeros(shape, np.uint16)
    with Staging(Path(tempfile.gettempdir()), shape, wanted.dtype, data.draw(st.integers(1, 12))) as staging:
        for n in range(data.draw(st.integers(0, 5))):
            box = data.draw(boxes(shape))
            wanted[box.slices] = np.arange(box.voxels).reshape(box.shape) + 100 * n + 1
            staging.put(box, wanted[box.slices])
        box = data.draw(boxes(shape))
        np.testing.assert_array_equal(staging.take(box), wanted[box.slices])


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, int, int]) -> Box:
    spans = [sorted(draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in shape]
    (z, z2), (y, y2), (x, x2) = spans
    return Box((z, y, x), (z2, y2, x2))


def test_a_stack_without_voxel_size_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    with pytest.raises(InputError, match="--voxel-size") as caught:
        convert(tmp_path / "stack.tif", str(tmp_path / "v.zarr"))
    assert caught.value.code == "input.no-voxel-size"
    assert not (tmp_path / "v.zarr").exists()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_shards_of_nothing_but_zero_are_not_missed(tmp_path: Path, dtype: str) -> None:
    voxels = np.zeros((9, 20, 30), dtype)
    voxels[5, 6, 7] = 1
    voxels[0, 0, 0] = -0.0
    tifffile.imwrite(tmp_path / "stack.tif", voxels, photometric="minisblack")
    volume = write_finest(
        plan_conversion(tmp_path / "stack.tif", str(tmp_path / "v.zarr"), voxel_size=SIZE, levels=_levels()[:1])
    )
    np.testing.assert_array_equal(volume.open().read().result(), voxels)


def test_an_output_above_the_input_is_refused(filled: tuple[Volume, Voxels]) -> None:
    with pytest.raises(OutputError) as caught:
        convert(filled[0], Path(filled[0].url).parent)
    assert caught.value.code == "output.inside-input"


@pytest.mark.parametrize("below", ["", "out.zarr"])
def test_an_output_inside_the_input_is_refused(filled: tuple[Volume, Voxels], below: str) -> None:
    with pytest.raises(OutputError) as caught:
        convert(filled[0], str(Path(filled[0].url) / below))
    assert caught.value.code == "output.inside-input"


def test_a_damaged_source_is_named_with_the_voxels(tmp_path: Path, filled: tuple[Volume, Voxels]) -> None:
    shard = Path(filled[0].url) / "0" / "c" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(DataError, match="0:20,0:70,0:45") as caught:
        convert(filled[0], str(tmp_path / "v.zarr"))
    assert caught.value.code == "data.unreadable"
