"""The promises that every format that is read must keep, as tests to subclass."""

from __future__ import annotations

import functools
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from volumetool.errors import VolumetoolError
from volumetool.geometry import Box, Size, Triple
from volumetool.storage.convert_volume import convert
from volumetool.storage.io.arrays import read_part
from volumetool.storage.io.chunk_keys import VOLUME_METADATA
from volumetool.storage.io.chunks import level_digests
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume
from volumetool.storage.voxels import read_voxels

Voxels = NDArray[Any]

_SHAPE = (9, 26, 37)
_SIZE = (30.0, 8.0, 4.0)


class FormatSuite:
    """The conformance suite of a format: subclass it as ``Test...`` in a test module, and say how a volume is written.

    Every axis of its volumes has another length and another voxel size.

    Attributes
    ----------
    format : str
        Expected value of `Volume.format`.
    ending : str
        Ending of the names of volumes.
    dtypes : tuple of str
        Data types that it stores; most tests use the first.
    sized : bool
        Whether it stores voxel sizes; otherwise opening must ask for one.
    position : tuple of float
        Position of the centre of the first voxel in nm; (0, 0, 0) if the format does not store it.
    sparse : bool
        Whether a chunk of zeros need not be stored; a chunk that is not there then reads as zeros. Otherwise it is damage.
    """

    format: ClassVar[str]
    ending: ClassVar[str] = ""
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "uint16", "int16", "float32")
    sized: ClassVar[bool] = True
    position: ClassVar[Size] = (60.0, -24.0, 100.0)
    sparse: ClassVar[bool] = True

    def write(self, place: Path, voxels: Voxels, voxel_size: Size, position: Size) -> None:
        """Write a volume with other software; if the format has chunks, in chunks smaller than the volume.

        Parameters
        ----------
        place : Path
            Place of the volume; the folder above it exists.
        voxels : numpy.ndarray, shape (z, y, x)
            Voxels of one of `dtypes`.
        voxel_size, position : tuple of float
            Nanometres, z, y, x; the position is that of the centre of the first voxel.
        """
        raise NotImplementedError

    def _made(self, folder: Path, dtype: str = "", shape: Triple = _SHAPE, name: str = "volume") -> tuple[Path, Voxels]:
        place = folder / f"{name}{self.ending}"
        voxels = _random(shape, dtype or self.dtypes[0])
        self.write(place, voxels, _SIZE, self.position)
        return place, voxels

    def _open(self, place: Path) -> Any:
        return open_volume(place, voxel_size=None if self.sized else _SIZE)

    def test_voxels_of_every_dtype_come_back_exactly(self, tmp_path: Path) -> None:
        for dtype in self.dtypes:
            place, voxels = self._made(tmp_path, dtype, name=dtype)
            volume = self._open(place)
            assert (volume.format, volume.dtype.name, volume.shape) == (self.format, dtype, _SHAPE)
            np.testing.assert_array_equal(volume.open().read().result(), voxels)

    def test_voxel_size_and_position_come_back_in_nanometres(self, tmp_path: Path) -> None:
        place, _ = self._made(tmp_path)
        if not self.sized:
            with pytest.raises(VolumetoolError) as caught:
                open_volume(place)
            assert caught.value.code == "input.no-voxel-size"
        volume = self._open(place)
        assert volume.voxel_size == pytest.approx(_SIZE, rel=1e-6)
        assert volume.translation == pytest.approx(self.position, rel=1e-6)

    def test_a_voxel_size_that_is_given_corrects_the_one_that_is_stored(self, tmp_path: Path) -> None:
        place, _ = self._made(tmp_path)
        volume = open_volume(place, voxel_size=(15.0, 16.0, 1.0))
        assert volume.voxel_size == (15.0, 16.0, 1.0)
        assert volume.translation == pytest.approx(tuple(a * b for a, b in zip(self.position, (0.5, 2.0, 0.25), strict=True)))

    def test_any_box_reads_as_that_part_of_the_whole(self, tmp_path: Path) -> None:
        place, voxels = self._made(tmp_path, self.dtypes[-1])
        array, random = self._open(place).open(strict=True), np.random.default_rng(5)
        for _ in range(20):
            start = [int(random.integers(0, n)) for n in _SHAPE]
            slices = tuple(slice(a, int(random.integers(a + 1, n + 1))) for a, n in zip(start, _SHAPE, strict=True))
            np.testing.assert_array_equal(read_part(array, slices), voxels[slices])
        np.testing.assert_array_equal(array[4].read().result(), voxels[4])

    def test_one_section_is_a_volume(self, tmp_path: Path) -> None:
        place, voxels = self._made(tmp_path, shape=(1, *_SHAPE[1:]))
        np.testing.assert_array_equal(self._open(place).open().read().result(), voxels)

    def test_reading_a_part_reads_few_bytes(self, tmp_path: Path) -> None:
        place, voxels = self._made(tmp_path, shape=(48, 64, 80))
        array = self._open(place).open()
        before = _bytes_read()
        part = array[10:12, :16].read().result()
        read = _bytes_read() - before
        np.testing.assert_array_equal(part, voxels[10:12, :16])
        assert read < voxels.nbytes / 2

    def test_any_name_and_any_folder_is_read(self, tmp_path: Path) -> None:
        folder = tmp_path / "Gehirn 5 % \u00fc#1"
        folder.mkdir()
        place, voxels = self._made(folder, name="m\u00e4us [1] +x")
        np.testing.assert_array_equal(self._open(place).open().read().result(), voxels)

    def test_a_file_that_was_cut_off_is_an_error_and_never_other_voxels(self, tmp_path: Path) -> None:
        place, voxels = self._made(tmp_path)
        for share in (0.0, 0.5, 0.99):
            damaged = tmp_path / f"{share}{self.ending}"
            (shutil.copytree if place.is_dir() else shutil.copyfile)(place, damaged)
            file = _fullest_file(damaged)
            file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
            with pytest.raises(VolumetoolError) as caught:
                read_voxels(self._open(damaged).open(strict=True), Box.whole(voxels.shape), "input")
            assert caught.value.code.startswith(("input.", "data."))

    def test_a_chunk_that_is_not_there_is_zero_where_the_format_allows_it_and_damage_elsewhere(self, tmp_path: Path) -> None:
        place, voxels = self._made(tmp_path)
        array = self._open(place).open(strict=True)
        _fullest_file(place).unlink()
        if not self.sparse:
            with pytest.raises(VolumetoolError):
                read_voxels(array, Box.whole(array.shape), "input")
            return
        read = read_voxels(array, Box.whole(array.shape), "input")
        assert 0 < np.count_nonzero(read == 0) < read.size
        np.testing.assert_array_equal(read[read != 0], voxels[read != 0])

    def test_a_chunk_that_is_written_again_is_another_state(self, tmp_path: Path) -> None:
        place, _ = self._made(tmp_path)
        volume = self._open(place)
        before = level_digests(volume, 0)
        assert level_digests(self._open(place), 0) == before
        file = _fullest_file(place)
        file.write_bytes(file.read_bytes() + b" ")
        assert level_digests(volume, 0) != before

    def test_a_copy_elsewhere_is_the_same_input_and_another_voxel_size_is_not(self, tmp_path: Path) -> None:
        place, _ = self._made(tmp_path)
        copy = tmp_path / f"copy{self.ending}"
        (shutil.copytree if place.is_dir() else shutil.copyfile)(place, copy)
        assert self._open(copy).identity == self._open(place).identity
        assert open_volume(copy, voxel_size=(1.0, 2.0, 3.0)).identity != self._open(place).identity

    def test_a_volume_travels_to_another_process(self, tmp_path: Path) -> None:
        place, voxels = self._made(tmp_path)
        np.testing.assert_array_equal(_elsewhere().submit(_read, self._open(place)).result(), voxels)

    def test_it_is_converted_exactly(self, tmp_path: Path) -> None:
        place, voxels = self._made(tmp_path)
        made = convert(place, tmp_path / "converted.zarr", voxel_size=None if self.sized else _SIZE)
        np.testing.assert_array_equal(made.open().read().result(), voxels)
        assert made.voxel_size == pytest.approx(_SIZE, rel=1e-6)
        assert made.translation == pytest.approx(self._open(place).translation, rel=1e-6)

    def test_what_is_something_else_is_not_taken_for_it(self, tmp_path: Path) -> None:
        place = tmp_path / f"other{self.ending}"
        place.write_bytes(b"something else" * 100)
        with pytest.raises(VolumetoolError) as caught:
            open_volume(place)
        assert caught.value.code.startswith("input.")


def _random(shape: Triple, dtype: str) -> Voxels:
    """Return voxels of which none is 0: what is 0 was not read."""
    random = np.random.default_rng(11)
    if dtype == "float32":
        return random.normal(size=shape).astype(np.float32) + np.float32(10)
    limits = np.iinfo(dtype)
    voxels = random.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return np.where(voxels == 0, np.array(1, dtype), voxels)


def _fullest_file(place: Path) -> Path:
    """Return the file that holds most voxels; of a volume in one file, that file."""
    below = [place] if place.is_file() else sorted(place.rglob("*"))
    files = [file for file in below if file.is_file() and file.name not in VOLUME_METADATA]
    return max(files, key=lambda file: file.stat().st_size)


def _bytes_read() -> int:
    """Return how many bytes this process has read so far, from files and elsewhere."""
    text = Path("/proc/self/io").read_text()
    return int(text.split("rchar: ")[1].split()[0])


@functools.cache
def _elsewhere() -> ProcessPoolExecutor:
    """Return one other process for the tests of all formats, which ends with this one."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def _read(volume: Volume) -> Voxels:
    """Return the finest level, as a worker that was sent the volume reads it."""
    return volume.open().read().result()
