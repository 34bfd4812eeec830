"""A conversion that was killed goes on; what changes, fails or is lost meanwhile is told."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import tifffile

from volumetool.errors import InputError, OutputError
from volumetool.geometry import Box
from volumetool.geometry.levels import LevelGrid, plan_levels
from volumetool.storage import convert as convert_module
from volumetool.storage.conversion import plan_conversion
from volumetool.storage.convert import DONE_KEY, write_finest
from volumetool.storage.create import write_attributes
from volumetool.storage.images import ImageStack
from volumetool.storage.io import retries
from volumetool.storage.io.chunks import stored_chunks
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume

SIZE = (30.0, 8.0, 4.0)
VOXELS = np.arange(9 * 20 * 30, dtype=np.uint16).reshape(9, 20, 30)
Voxels = np.ndarray[Any, Any]


def _levels(shape: tuple[int, int, int] = (9, 20, 30)) -> tuple[LevelGrid, ...]:
    return plan_levels(shape, SIZE, (0.0, 0.0, 0.0), (2, 4, 4), (4, 8, 8))


class Killed(BaseException):
    """What ends a run as a signal would."""


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def chunk_file(volume: Volume, place: tuple[int, int, int]) -> Path:
    chunks = stored_chunks(volume, 0, 0)
    return Path(chunks.url, chunks.key(place))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count how often each section is decoded."""
    count: Counter[int] = Counter()
    read = ImageStack.read

    def counted(self: ImageStack, start: int, stop: int, rows: slice) -> Voxels:
        count.update(range(start, stop))
        return read(self, start, stop, rows)

    monkeypatch.setattr(ImageStack, "read", counted)
    return count


def kill_after(patch: pytest.MonkeyPatch, writes: int) -> None:
    """End a run before it writes so many times."""
    real, count = convert_module.write_part, itertools.count()

    def write(target: ts.TensorStore, slices: tuple[slice, ...], voxels: Voxels) -> None:
        if next(count) == writes:
            raise Killed
        real(target, slices, voxels)

    patch.setattr(convert_module, "write_part", write)


def convert(source: Any, url: str, **options: Any) -> Volume:
    """Write the finest level of a conversion, in levels that the test chooses."""
    return write_finest(plan_conversion(source, url, **options))


def killed(writes: int, *arguments: Any, **options: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, writes)
        with pytest.raises(Killed):
            convert(*arguments, **options)


@pytest.mark.parametrize("writes", [0, 5, 12, 13, 24, 26])
def test_what_was_killed_goes_on_after_the_last_slab_and_ends_with_the_same_bytes(
    tmp_path: Path, decoded: Counter[int], writes: int
) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS, compression="zlib")
    stack = open_volume(tmp_path / "stack.tif", voxel_size=SIZE)
    options: dict[str, Any] = {"levels": _levels()[:1]}
    convert(stack, str(tmp_path / "whole.zarr"), **options)
    assert set(decoded.values()) == {1}
    killed(writes, stack, str(tmp_path / "v.zarr"), **options, memory=1)  # a slab of 4 sections is 12 writes
    decoded.clear()
    convert(stack, str(tmp_path / "v.zarr"), **options)  # another memory cuts other slabs
    assert decoded == Counter(range(4 * (writes // 12), 9))
    assert files(tmp_path / "v.zarr") == files(tmp_path / "whole.zarr")
    decoded.clear()
    convert(stack, str(tmp_path / "v.zarr"), **options)
    assert not decoded


def test_a_source_that_was_changed_is_not_mixed_in(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    convert(tmp_path / "stack.tif", str(tmp_path / "v.zarr"), voxel_size=SIZE)
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS[::-1])
    os.utime(tmp_path / "stack.tif", ns=(7, 7))
    plan = plan_conversion(tmp_path / "stack.tif", tmp_path / "v.zarr", voxel_size=SIZE)
    with pytest.raises(InputError, match="was written to since") as caught:
        write_finest(plan)
    assert caught.value.code == "input.changed"
    assert "--overwrite" in caught.value.hint
    np.testing.assert_array_equal(write_finest(plan, overwrite=True).open().read().result(), VOXELS[::-1])


def test_a_source_that_changes_while_it_is_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    write = convert_module.write_part

    def meddling(*arguments: Any) -> None:
        write(*arguments)
        os.utime(tmp_path / "stack.tif", ns=(7, 7))

    monkeypatch.setattr(convert_module, "write_part", meddling)
    with pytest.raises(InputError) as caught:
        convert(tmp_path / "stack.tif", str(tmp_path / "v.zarr"), voxel_size=SIZE)
    assert caught.value.code == "input.changed"
    assert open_volume(tmp_path / "v.zarr").attributes["status"] == "unfinished"


@pytest.mark.parametrize(("harm", "code"), [("written", "input.changed"), ("deleted", "input.vanished")])
def test_a_volume_whose_chunks_change_while_it_is_read_is_told(
    tmp_path: Path, filled: tuple[Volume, Voxels], monkeypatch: pytest.MonkeyPatch, harm: str, code: str
) -> None:
    """Of chunks whose turn is yet to come, too: none of two versions, and nothing blank that was there."""
    source, _ = filled
    chunks = stored_chunks(source, 0, 0)
    *_, last = chunks.places(Box.whole(source.shape))
    file, write = Path(chunks.url, chunks.key(last)), convert_module.write_part

    def meddling(*arguments: Any) -> None:
        write(*arguments)
        if harm == "deleted":
            file.unlink(missing_ok=True)
        else:
            os.utime(file, ns=(7, 7))

    monkeypatch.setattr(convert_module, "write_part", meddling)
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.002)
    with pytest.raises(InputError) as caught:
        write_finest(plan_conversion(source, str(tmp_path / "v.zarr"), levels=_levels(source.shape)[:1], memory=1))
    assert caught.value.code == code
    assert open_volume(tmp_path / "v.zarr").attributes["status"] == "unfinished"


@pytest.mark.parametrize("harm", ["written", "deleted"])
@pytest.mark.parametrize("writes", [60, 200, None])
def test_a_volume_whose_chunks_changed_between_two_runs_is_told(
    tmp_path: Path, filled: tuple[Volume, Voxels], harm: str, writes: int | None
) -> None:
    """After a kill, and after the end, too: what is there was not made of what the source is now."""
    source, _ = filled
    options: dict[str, Any] = {"levels": _levels(source.shape)[:1], "memory": 1}
    if writes is None:
        convert(source, str(tmp_path / "v.zarr"), **options)
    else:
        killed(writes, source, str(tmp_path / "v.zarr"), **options)
    file = chunk_file(source, (0, 0, 0))
    if harm == "deleted":
        file.unlink()
    else:
        os.utime(file, ns=(7, 7))
    with pytest.raises(InputError, match=r"in sections 0 to .*, or deleted") as caught:
        convert(source, str(tmp_path / "v.zarr"), **options)
    assert caught.value.code == "input.changed"
    assert "--overwrite" in (caught.value.hint or "")


def test_a_volume_that_stands_still_goes_on_where_it_was_killed(tmp_path: Path, filled: tuple[Volume, Voxels]) -> None:
    source, voxels = filled
    options: dict[str, Any] = {"levels": _levels(source.shape)[:1]}
    killed(60, source, str(tmp_path / "v.zarr"), **options, memory=1)
    os.utime(chunk_file(source, (2, 0, 0)), ns=(7, 7))  # which was not read yet
    convert(source, str(tmp_path / "v.zarr"), **options)
    np.testing.assert_array_equal(open_volume(tmp_path / "v.zarr").open().read().result(), voxels)
    convert(source, str(tmp_path / "whole.zarr"), **options)
    assert files(tmp_path / "v.zarr") == files(tmp_path / "whole.zarr")


def test_overwriting_deletes_conversions_alone(tmp_path: Path, filled: tuple[Volume, Voxels]) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    before = files(Path(filled[0].url))
    for overwrite, code in ((False, "output.exists"), (True, "output.foreign")):
        with pytest.raises(OutputError) as caught:
            write_finest(plan_conversion(tmp_path / "stack.tif", filled[0].url, voxel_size=SIZE), overwrite=overwrite)
        assert caught.value.code == code
    assert files(Path(filled[0].url)) == before


def test_what_failed_before_anything_was_done_blocks_no_other_settings(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    killed(0, tmp_path / "stack.tif", str(tmp_path / "v.zarr"), voxel_size=SIZE)
    assert convert(tmp_path / "stack.tif", str(tmp_path / "v.zarr"), voxel_size=(9.0, 9.0, 9.0)).voxel_size == (9, 9, 9)


@pytest.mark.parametrize("status", ["complete", "unfinished"])
def test_what_is_half_deleted_is_never_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    plan = plan_conversion(tmp_path / "stack.tif", tmp_path / "v.zarr", voxel_size=SIZE)
    own = write_finest(plan).attributes
    write_attributes(plan.url, {**own, "status": status, **({} if status == "complete" else {DONE_KEY: len(VOXELS)})})
    delete = convert_module.delete_prefix

    def dying(url: str, _last: str) -> None:
        delete(f"{url}/0/c")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "delete_prefix", dying)
        with pytest.raises(KeyboardInterrupt):
            write_finest(plan, overwrite=True)
    assert open_volume(plan.url).attributes["status"] == "unfinished"
    np.testing.assert_array_equal(write_finest(plan).open().read().result(), VOXELS)


def test_shards_that_are_lost_midway_are_missed_before_it_is_called_finished(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    killed(13, tmp_path / "stack.tif", str(tmp_path / "v.zarr"), voxel_size=SIZE, levels=_levels()[:1], memory=1)
    (tmp_path / "v.zarr" / "0" / "c" / "0" / "1" / "1").unlink()
    with pytest.raises(OutputError, match="1 of 36 shards") as caught:
        write_finest(plan_conversion(tmp_path / "stack.tif", str(tmp_path / "v.zarr"), voxel_size=SIZE, levels=_levels()[:1]))
    assert caught.value.code == "output.damaged"
    assert open_volume(tmp_path / "v.zarr").attributes["status"] == "unfinished"
