"""Conversion: exact, in bounded memory, and refusing what would harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from volumetool.errors import DataError, InputError, OutputError
from volumetool.geometry.levels import LevelGrid, plan_levels
from volumetool.store.convert import convert, shard_groups
from volumetool.store.images import open_images
from volumetool.store.open import open_volume
from volumetool.store.validate import validate_volume
from volumetool.store.volume import Volume

SIZE = (30.0, 8.0, 4.0)
VOXELS = np.arange(9 * 20 * 30, dtype=np.uint16).reshape(9, 20, 30)
Voxels = np.ndarray[Any, Any]


def _levels(shape: tuple[int, int, int] = (9, 20, 30)) -> tuple[LevelGrid, ...]:
    return plan_levels(shape, SIZE, (0.0, 0.0, 0.0), (2, 4, 4), (4, 8, 8))


def test_a_stack_becomes_a_conformant_volume_with_the_same_voxels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    volume = convert(tmp_path / "stack.tif", str(tmp_path / "v.zarr"), voxel_size=SIZE)
    assert (volume.voxel_size, volume.translation) == (SIZE, (0.0, 0.0, 0.0))
    assert validate_volume(volume.url) == []
    np.testing.assert_array_equal(volume.open().read().result(), VOXELS)


@pytest.mark.parametrize("memory", [1, 2 * 4 * 8 * 8 * 2, 10**9])
def test_the_voxels_do_not_depend_on_the_memory(tmp_path: Path, memory: int) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS, compression="zlib")
    seen: list[tuple[int, int]] = []
    volume = convert(
        tmp_path / "stack.tif",
        str(tmp_path / "v.zarr"),
        voxel_size=SIZE,
        levels=_levels(),
        memory=memory,
        progress=lambda done, total: seen.append((done, total)),
    )
    np.testing.assert_array_equal(volume.open().read().result(), VOXELS)
    assert seen[-1] == (VOXELS.size, VOXELS.size)
    assert seen == sorted(seen)


@given(
    shape=st.tuples(*[st.integers(1, 30)] * 3),
    shard=st.tuples(*[st.integers(1, 9)] * 3),
    voxels=st.integers(0, 5000),
)
def test_groups_are_whole_shards_cover_all_once_and_keep_to_the_bound(
    shape: tuple[int, int, int], shard: tuple[int, int, int], voxels: int
) -> None:
    (grid, *_) = plan_levels(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1, 1, 1), shard)
    count = np.zeros(shape, int)
    one = shard[0] * shard[1] * shard[2]
    for box in shard_groups(grid, voxels):
        count[box.slices] += 1
        assert all(start % n == 0 for start, n in zip(box.start, shard, strict=True))
        assert all(stop % n == 0 or stop == end for stop, n, end in zip(box.stop, shard, shape, strict=True))
        assert box.voxels <= max(voxels, one)
    assert (count == 1).all()


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
    source = open_volume(fixture("mobie_bdv_n5_segmentation") / "segmentation.n5")
    volume = convert(source, str(tmp_path / "v.zarr"))
    np.testing.assert_array_equal(volume.open().read().result(), source.open().read().result())


def test_a_given_voxel_size_wins_over_the_source(tmp_path: Path, filled: tuple[Volume, Voxels]) -> None:
    volume = convert(filled[0], str(tmp_path / "v.zarr"), voxel_size=(1.0, 2.0, 3.0))
    assert volume.voxel_size == (1.0, 2.0, 3.0)


def test_converting_again_gives_the_same_bytes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    stack = open_images(tmp_path / "stack.tif")

    def files() -> dict[str, bytes]:
        convert(stack, str(tmp_path / "v.zarr"), voxel_size=SIZE, levels=_levels())
        root = tmp_path / "v.zarr"
        return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}

    assert files() == files()


def test_a_stack_without_voxel_size_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    with pytest.raises(InputError, match="--voxel-size") as caught:
        convert(tmp_path / "stack.tif", str(tmp_path / "v.zarr"))
    assert caught.value.code == "input.no-voxel-size"
    assert not (tmp_path / "v.zarr").exists()


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
