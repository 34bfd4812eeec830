"""Operations that take a second volume on the input's grid."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from small_jobs import read_levels

import volumetool as vt
from volumetool.errors import ConfigError, FingerprintError
from volumetool.geometry import Triple
from volumetool.models.foreign.trust import TRUSTED
from volumetool.processing.operation import operation_name
from volumetool.testing.operation_suite import OperationSuite

Floats = NDArray[np.float32]

INSIDE = """
from scipy import ndimage

def inside(image, mask):
    return ndimage.uniform_filter(image * (mask > 100), (1, 3, 3), mode="mirror")
"""


class TestFunctionOfTwoVolumes(OperationSuite):
    """The mean of what a second volume, of another data type and other chunks, marks."""

    dtype = "float32"
    other_patch = "1,16,32"
    slow_cases = ("test_a_killed_job_goes_on_to_the_same_bytes", "test_verify_finds_a_flipped_bit_and_nothing_before")

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def trusted(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        """Write the file, and trust it."""
        path = tmp_path_factory.mktemp("mine") / "mine.py"
        path.write_text(INSIDE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(TRUSTED, hashlib.sha256(INSIDE.encode()).hexdigest())
            patch.setattr(cls, "operation", operation_name(f"{path}:inside", ["halo=0,1,1"]), raising=False)
            yield

    @classmethod
    def options(cls, source: Path, output: Path, **more: Any) -> dict[str, Any]:
        """Name the second volume, which is written where there is none."""
        marks = source.parent / "marks.zarr"
        if not marks.exists():
            _Marks.write(marks, _marks(cls.shape))
        return super().options(source, output, **{"with_": str(marks)} | more)

    def whole(self, values: Floats) -> Floats:
        return ndimage.uniform_filter(values * (_marks(self.shape) > 100), (1, 3, 3), mode="mirror")


class _Marks(OperationSuite):
    operation = ""
    dtype = "uint16"


def _marks(shape: Triple) -> NDArray[np.uint16]:
    return np.random.default_rng(3).integers(0, 200, shape, np.uint16)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    shape = (2, 40, 50)
    image = _Marks.write(tmp_path / "in.zarr", np.full(shape, 7, np.uint16))
    return image, _Marks.write(tmp_path / "marks.zarr", _marks(shape))


def add(image: Floats, mask: Floats) -> Floats:
    return image + mask


def test_a_second_volume_is_part_of_the_fingerprint_and_a_change_of_it_is_noticed(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    source, marks = places
    done = vt.apply(add, source, tmp_path / "out.zarr", with_=marks, device="cpu")
    np.testing.assert_array_equal(read_levels(tmp_path / "out.zarr")[0], _marks((2, 40, 50)) + 7, strict=True)
    said = done.plan.spec.plain()
    assert (said["inputs"], said["mask"]) == (2, vt.open_volume(marks, voxel_size=(1.0, 1.0, 1.0)).identity_of(0))
    chunks = [next(path for path in (place / "0" / "c").rglob("*") if path.is_file()) for place in (source, marks)]
    chunks[1].write_bytes(chunks[0].read_bytes())
    with pytest.raises(FingerprintError, match="its input has other voxels now"):
        vt.apply(add, source, tmp_path / "out.zarr", with_=marks, device="cpu")


@pytest.mark.parametrize(
    ("shape", "more", "words"),
    [
        ((2, 40, 51), {}, "has \\(2, 40, 51\\) voxels"),
        ((2, 40, 50), {"voxel_size": (30.0, 8.0, 16.0)}, "voxels of 30 x 8 x 8 nm, the input"),
        ((2, 40, 50), {"mask": "marks"}, "--mask"),
        (None, {}, "takes a second volume; given was none"),
    ],
)
def test_a_second_volume_on_another_grid_is_refused_and_so_is_none(
    places: tuple[Path, Path], tmp_path: Path, shape: Triple | None, more: dict[str, Any], words: str
) -> None:
    if shape is not None:
        more = more | {"with_": _Marks.write(tmp_path / "other.zarr", _marks(shape))}
    more = more | ({"mask": places[1]} if "mask" in more else {})
    with pytest.raises(ConfigError, match=words) as caught:
        vt.apply(add, places[0], tmp_path / "out.zarr", device="cpu", **more)
    assert caught.value.code == "config.with"


def test_a_second_volume_for_an_operation_that_takes_none_is_refused(places: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="median takes no second volume"):
        vt.apply("median", places[0], tmp_path / "out.zarr", with_=places[1], device="cpu")
    with pytest.raises(ConfigError, match=r"--with .* is for one operation"):
        vt.apply(["median", add], places[0], tmp_path / "out.zarr", with_=places[1], device="cpu")
