"""The promises that every format that is read must keep, as tests to subclass."""

from __future__ import annotations

import functools
import multiprocessing
import os
import resource
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from volumetool.errors import DataError, InputError, VolumetoolError
from volumetool.geometry import Box, Size, Triple
from volumetool.storage.cast import CASTABLE, Cast
from volumetool.storage.convert_volume import convert
from volumetool.storage.info import describe_volume
from volumetool.storage.io import retries
from volumetool.storage.io.arrays import read_part
from volumetool.storage.io.chunk_keys import VOLUME_METADATA
from volumetool.storage.io.chunks import level_digests
from volumetool.storage.open import open_volume
from volumetool.storage.volume import DTYPES, Volume
from volumetool.storage.voxels import read_voxels

Voxels = NDArray[Any]

_SHAPE = (9, 26, 37)
_SIZE = (30.0, 8.0, 4.0)
_HUGE = 2**31 - 1
"""Sections of a volume that only says that it has them."""
_MEMORY = 2**27
"""Bytes that such a volume may take."""


class FormatSuite:
    """The conformance suite of a format: subclass it as ``Test...`` in a test module, and say how a volume is written.

    Every axis of its volumes has another length and another voxel size. The cases are the same for all formats; one that a
    format cannot have stands in `lacks`, and the report of the tests says why.

    Attributes
    ----------
    format : str
        Expected value of `Volume.format`.
    ending : str
        Ending of the names of volumes.
    dtypes : tuple of str
        Data types that it stores and volumetool works on; most tests use the first.
    wider : tuple of str
        Data types that it stores, and that are read only where a cast is asked for.
    sized : bool
        Whether it stores voxel sizes; otherwise opening must ask for one.
    position : tuple of float
        Position of the centre of the first voxel in nm; (0, 0, 0) if the format does not store it.
    sparse : bool
        Whether a chunk of zeros need not be stored; a chunk that is not there then reads as zeros. Otherwise it is damage.
    lacks : dict of str to str
        Names of tests that do not apply, and why: something that files of this format cannot hold, or its writer not make.
    """

    format: ClassVar[str]
    ending: ClassVar[str] = ""
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "uint16", "int16", "float32")
    sized: ClassVar[bool] = True
    position: ClassVar[Size] = (60.0, -24.0, 100.0)
    sparse: ClassVar[bool] = True
    wider: ClassVar[tuple[str, ...]] = ("bool", "uint32", "int32", "uint64", "int64", "float16", "float64")
    lacks: ClassVar[dict[str, str]] = {}

    def write(self, place: Path, voxels: Voxels, voxel_size: Size, position: Size) -> None:
        """Write a volume with other software; if the format has chunks, in chunks smaller than the volume.

        Parameters
        ----------
        place : Path
            Place of the volume; the folder above it exists.
        voxels : numpy.ndarray, shape (z, y, x)
            Voxels of one of `dtypes` or `wider`, in either byte order: in the one that they have, if the format has both.
        voxel_size, position : tuple of float
            Nanometres, z, y, x; the position is that of the centre of the first voxel.
        """
        raise NotImplementedError

    def declare(self, place: Path, sections: int) -> None:
        """Change the metadata of a volume so that they say that it has so many sections; its voxels stay as they are."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _applies(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)  # what is damaged is read again, which may take its time elsewhere
        name, parameters = request.function.__name__, getattr(request.node, "callspec", None)
        if name in self.lacks:
            pytest.skip(f"{self.format}: {self.lacks[name]}")
        if parameters and parameters.params.get("dtype", self.dtypes[0]) not in (*self.dtypes, *self.wider):
            pytest.skip(f"{self.format}: it does not hold every data type")

    def _made(
        self, folder: Path, dtype: str = "", shape: Triple = _SHAPE, name: str = "volume", voxels: Voxels | None = None
    ) -> tuple[Path, Voxels]:
        place = folder / f"{name}{self.ending}"
        voxels = _random(shape, dtype or self.dtypes[0]) if voxels is None else voxels
        self.write(place, voxels, _SIZE, self.position)
        return place, voxels

    def _open(self, place: Path | str, cast: Cast | None = None) -> Volume:
        return open_volume(place, voxel_size=None if self.sized else _SIZE, cast=cast)

    def _equal(self, place: Path | str, voxels: Voxels) -> None:
        volume = self._open(place)
        assert (volume.format, volume.dtype, volume.shape) == (self.format, voxels.dtype.newbyteorder("="), voxels.shape)
        np.testing.assert_array_equal(_read(volume), voxels)

    def test_what_it_lacks_are_cases_of_the_suite(self) -> None:
        assert all(callable(getattr(self, name)) and why for name, why in self.lacks.items())

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_voxels_come_back_exactly(self, tmp_path: Path, dtype: str) -> None:
        self._equal(*self._made(tmp_path, dtype))

    @pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if np.dtype(dtype).itemsize > 1])
    def test_voxels_of_the_other_byte_order_come_back_exactly(self, tmp_path: Path, dtype: str) -> None:
        self._equal(*self._made(tmp_path, voxels=_random(_SHAPE, dtype).astype(np.dtype(dtype).newbyteorder("S"))))

    @pytest.mark.parametrize("dtype", [dtype for dtype in CASTABLE if dtype not in DTYPES])
    def test_another_dtype_is_refused_and_read_exactly_where_a_cast_is_asked_for(self, tmp_path: Path, dtype: str) -> None:
        place, voxels = self._made(tmp_path, dtype)
        with pytest.raises(VolumetoolError) as caught:
            self._open(place)
        assert (caught.value.code, dtype in caught.value.message) == ("input.dtype", True)
        np.testing.assert_array_equal(_read(self._open(place, Cast("float32"))), voxels)

    @pytest.mark.parametrize("dtype", ["float32"])
    def test_floats_that_are_no_numbers_come_back_as_they_are(self, tmp_path: Path, dtype: str) -> None:
        voxels = _random(_SHAPE, dtype)
        voxels.flat[:5] = np.nan, np.inf, -np.inf, -0.0, np.finfo(np.float32).tiny
        place, _ = self._made(tmp_path, voxels=voxels)
        assert _read(self._open(place)).tobytes() == voxels.tobytes()

    def test_a_volume_of_zeros_is_zeros(self, tmp_path: Path) -> None:
        self._equal(*self._made(tmp_path, voxels=np.zeros(_SHAPE, self.dtypes[0])))

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

    @pytest.mark.parametrize("axes", [0, 1, 2], ids=["one section", "one row", "one voxel"])
    def test_a_volume_may_have_the_length_1(self, tmp_path: Path, axes: int) -> None:
        self._equal(*self._made(tmp_path, shape=(1,) * (axes + 1) + _SHAPE[axes + 1 :]))  # type: ignore[arg-type]

    def test_a_volume_without_voxels_is_refused(self, tmp_path: Path) -> None:
        place, _ = self._made(tmp_path, shape=(0, *_SHAPE[1:]))
        with pytest.raises(VolumetoolError) as caught:
            self._open(place)
        assert caught.value.code.startswith("input.")

    def test_a_volume_that_only_says_that_it_is_huge_takes_no_memory(self, tmp_path: Path) -> None:
        place, voxels = self._made(tmp_path)
        self.declare(place, _HUGE)
        before = _most_memory()
        with suppress(InputError, DataError):  # huge, and mostly not stored, may be what it is
            volume = self._open(place)
            assert volume.shape == (_HUGE, *_SHAPE[1:])
            np.testing.assert_array_equal(read_part(volume.open(), (slice(0, 2), slice(0, 9), slice(0, 9))), voxels[:2, :9, :9])
        assert _most_memory() - before < _MEMORY

    def test_opening_reads_no_voxels(self, tmp_path: Path) -> None:
        read: list[int] = []
        stored: list[int] = []
        for width in (32, 32, 256):  # the first loads what the format needs
            place, voxels = self._made(tmp_path, shape=(12, width, width), name=f"{len(read)}")
            before = _bytes_read()
            self._open(place)
            read.append(_bytes_read() - before)
            stored.append(voxels.nbytes)
        assert read[2] - read[1] < (stored[2] - stored[1]) / 4

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
        self._equal(*self._made(folder, name="m\u00e4us [1] +x"))

    def test_any_spelling_of_its_place_is_the_same_place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        place, voxels = self._made(tmp_path, name="my volume")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a").mkdir()
        link = f"link{self.ending}"
        (tmp_path / link).symlink_to(place)
        for spelling in (place.name, f"./{place.name}", f"a/../{place.name}", place.resolve().as_uri(), link):
            self._equal(spelling, voxels)

    def test_a_file_of_others_beside_it_changes_nothing(self, tmp_path: Path) -> None:
        place, voxels = self._made(tmp_path)
        for name in (".DS_Store", "Thumbs.db"):
            ((place if place.is_dir() else tmp_path) / name).write_bytes(b"\0\0\0\1Bud1")
        self._equal(place, voxels)

    def test_it_is_not_to_be_written(self, tmp_path: Path) -> None:
        place, voxels = self._made(tmp_path)
        with pytest.raises(ValueError, match=r"(?i)writ|read-only"):
            self._open(place).open().write(voxels).result()

    def test_it_is_described(self, tmp_path: Path) -> None:
        place, voxels = self._made(tmp_path)
        said = describe_volume(self._open(place))
        assert (said["format"], said["dtype"], said["levels"][0]["shape"]) == (self.format, voxels.dtype.name, list(_SHAPE))
        assert said["bytes_on_disk"] > 0

    def test_many_threads_read_at_once(self, tmp_path: Path) -> None:
        place, voxels = self._made(tmp_path)
        array = self._open(place).open()
        with ThreadPoolExecutor(8) as pool:
            parts = list(pool.map(lambda z: read_part(array, (slice(z, z + 1), slice(None), slice(None))), range(_SHAPE[0])))
        np.testing.assert_array_equal(np.concatenate(parts), voxels)

    def test_a_flipped_bit_is_never_other_voxels(self, tmp_path: Path) -> None:
        place, voxels = self._made(tmp_path)
        file, random = _fullest_file(place), np.random.default_rng(3)
        good = file.read_bytes()
        for _ in range(10):
            damaged = bytearray(good)
            damaged[random.integers(len(good))] ^= 1 << random.integers(8)
            file.write_bytes(damaged)
            with suppress(VolumetoolError):
                volume = self._open(place)
                np.testing.assert_array_equal(read_voxels(volume.open(), Box.whole(_SHAPE), "input"), voxels)

    def test_what_is_cut_off_or_gone_after_it_was_opened_is_an_error(self, tmp_path: Path) -> None:
        place, _ = self._made(tmp_path)
        array, file = self._open(place).open(strict=True), _fullest_file(place)
        for spoil in (lambda: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]), lambda: _remove(place)):
            spoil()
            with pytest.raises(VolumetoolError) as caught:
                read_voxels(array, Box.whole(_SHAPE), "input")
            assert caught.value.code.startswith(("input.", "data."))

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
                read_voxels(array, Box.whole(_SHAPE), "input")
            return
        read = read_voxels(array, Box.whole(_SHAPE), "input")
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
    if dtype == "bool":
        return np.ones(shape, bool)
    if dtype.startswith("float"):
        return (random.normal(size=shape) + 10).astype(dtype)
    limits = np.iinfo(dtype)
    voxels = random.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return np.where(voxels == 0, np.array(1, dtype), voxels)


def _remove(place: Path) -> None:
    (shutil.rmtree if place.is_dir() else os.unlink)(place)


def _fullest_file(place: Path) -> Path:
    """Return the file that holds most voxels; of a volume in one file, that file."""
    below = [place] if place.is_file() else sorted(place.rglob("*"))
    files = [file for file in below if file.is_file() and file.name not in VOLUME_METADATA]
    return max(files, key=lambda file: file.stat().st_size)


def _most_memory() -> int:
    """Return how many bytes of memory this process has held at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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
