"""What goes wrong is named, stops the region, and leaves neither a thread nor wrong voxels."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import torch
from harness import Case, Voxels, engine_of, flat_case, random_voxels
from torch import Tensor, nn

from volumetool.errors import DataError, NumericsError
from volumetool.geometry import plan_levels
from volumetool.models import Model
from volumetool.processing.predictor import BatchPredictor
from volumetool.processing.region import RegionStats, enhance_region
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing
from volumetool.storage.voxels import Source

UNTOUCHED = 77


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Check after each test that every stage was stopped and waited for."""
    before = threading.enumerate()  # whatever tests before this one have left
    yield
    assert not [each for each in threading.enumerate() if each.name == "volumetool-prefetch" and each not in before]


@pytest.fixture
def case() -> Case:
    return flat_case((2, 16, 40))


def targets_of(case: Case, dtype: str = "float32") -> list[ts.TensorStore]:
    return [ts.array(np.full(level.shape, UNTOUCHED, dtype)) for level in case.spec(dtype).fused]


def enhance(case: Case, model: Model, source: Source, targets: list[Any], **more: Any) -> RegionStats:
    """Enhance the first region of a case."""
    return enhance_region(
        case.spec("float32", **more), case.grid((1, 2, 99)).region(0), BatchPredictor(engine_of(model)), source, targets
    )


class Poisoned(nn.Module):
    """Enlarges, and makes one bad value from its second call on, or at once."""

    def __init__(self, bad: float, good_calls: int) -> None:
        super().__init__()
        self.bad, self.good_calls = bad, good_calls

    def forward(self, x: Tensor) -> Tensor:
        y = x[:, :1].repeat_interleave(2, 2).repeat_interleave(2, 3)
        self.good_calls -= 1
        if self.good_calls < 0:
            y[-1, 0, 3, 3] = self.bad
        return y


class PoisonedModel(Model):
    """A model whose network is broken."""

    def __init__(self, like: Model, bad: float, good_calls: int = 0) -> None:
        super().__init__(like.card, "poisoned", {})
        object.__setattr__(self, "broken", (bad, good_calls))

    def network(self) -> nn.Module:
        return Poisoned(*self.broken)  # type: ignore[attr-defined]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_network_that_makes_no_number_stops_the_region(case: Case, bad: float) -> None:
    """NaN or infinity in a single voxel of a single patch: a named error, and nothing is written."""
    voxels = random_voxels(1, case.lattice.shape, np.dtype("uint8"))
    targets = targets_of(case)
    with pytest.raises(NumericsError) as caught:
        enhance(case, PoisonedModel(case.model(), bad), Source(ts.array(voxels)), targets)
    assert caught.value.code == "numerics.not-finite"
    assert all((np.asarray(target) == UNTOUCHED).all() for target in targets)


def test_a_network_that_fails_later_leaves_no_wrong_voxel(case: Case) -> None:
    """What was written before the first bad value is right; the rest is untouched."""
    voxels = random_voxels(1, case.lattice.shape, np.dtype("uint8"))
    targets = targets_of(case)
    with pytest.raises(NumericsError):
        enhance(case, PoisonedModel(case.model(), math.nan, good_calls=9), Source(ts.array(voxels)), targets)
    level0 = np.asarray(targets[0])
    right = np.repeat(np.repeat(voxels, 2, 1), 2, 2).astype(np.float32)
    assert ((level0 == UNTOUCHED) | (level0 == right)).all()


def test_large_numbers_are_not_taken_for_infinity(case: Case) -> None:
    """Voxels whose sum overflows are finite all the same."""
    voxels = np.random.default_rng(1).uniform(2e38, 3e38, case.lattice.shape).astype(np.float32)
    targets = targets_of(case)
    enhance(case, case.model(), Source(ts.array(voxels)), targets)
    assert np.asarray(targets[0]).max() > 2.9e38


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_undeclared_nan_in_the_input_is_refused(case: Case, bad: float) -> None:
    voxels = random_voxels(1, case.lattice.shape, np.dtype("float32"))
    voxels[1, 7, 21] = bad
    targets = targets_of(case)
    with pytest.raises(DataError) as caught:
        enhance(case, case.model(), Source(ts.array(voxels)), targets)
    assert caught.value.code == "data.not-finite"
    assert "z 1, y 7, x 21" in caught.value.message
    assert "nodata" in caught.value.hint


def test_infinity_is_refused_even_where_nan_is_declared(case: Case) -> None:
    voxels = random_voxels(1, case.lattice.shape, np.dtype("float32"))
    voxels[0, 3, 3], voxels[1, 7, 21] = math.nan, math.inf
    with pytest.raises(DataError) as caught:
        enhance(case, case.model(), Source(ts.array(voxels)), targets_of(case), nodata=math.nan, fill=math.nan)
    assert caught.value.code == "data.not-finite"


def damaged(folder: Path, voxels: Voxels) -> ts.TensorStore:
    """Store voxels, one shard per 16 voxels of x, and flip one bit inside the second shard."""
    z, y, x = voxels.shape
    levels = plan_levels((z, y, x), (8.0, 8.0, 8.0), (0.0, 0.0, 0.0), (2, 16, 16), (2, 16, 16))[:1]
    layout = VolumeLayout("uint8", levels)
    volume = create_volume(str(folder), layout, {})
    open_for_writing(volume.url, layout).write(voxels).result()
    (file,) = (path for path in folder.rglob("0/0/1") if path.is_file())
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)
    return volume.open()


def test_a_damaged_chunk_is_named(case: Case, tmp_path: Path) -> None:
    """One flipped bit of the input stops the region and names voxels that hold the damaged chunk."""
    source = damaged(tmp_path / "input", random_voxels(1, case.lattice.shape, np.dtype("uint8")))
    with pytest.raises(DataError) as caught:
        enhance(case, case.model(), Source(source), targets_of(case))
    assert caught.value.code == "data.unreadable"
    assert "input voxels 0:2," in caught.value.message


def test_a_damaged_mask_is_named(case: Case, tmp_path: Path) -> None:
    """A mask that cannot be read is told from the input, and stops the region as well."""
    mask = damaged(tmp_path / "mask", random_voxels(1, case.lattice.shape, np.dtype("uint8")))
    source = Source(ts.array(random_voxels(1, case.lattice.shape, np.dtype("uint8"))), mask)
    with pytest.raises(DataError) as caught:
        enhance(case, case.model(), source, targets_of(case))
    assert caught.value.code == "data.unreadable"
    assert "mask voxels 0:2," in caught.value.message


class Forgetful:
    """Storage that gives back other voxels than it was given."""

    def __init__(self, inner: ts.TensorStore, change: float) -> None:
        self.inner, self.change = inner, change

    def __getitem__(self, key: Any) -> Forgetful:
        return Forgetful(self.inner[key], self.change)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def write(self, voxels: Voxels, **options: Any) -> Any:
        return self.inner.write(voxels, **options)

    def read(self) -> Any:
        voxels = np.array(self.inner.read().result())
        voxels.ravel()[-1] += self.change
        return _Done(voxels)


class _Done:
    def __init__(self, voxels: Voxels) -> None:
        self.voxels = voxels

    def result(self) -> Voxels:
        return self.voxels


@pytest.mark.parametrize("level", [0, 1])
def test_storage_that_changes_a_voxel_is_caught(case: Case, level: int) -> None:
    """Every fused level is read back before the region counts."""
    targets: list[Any] = list(targets_of(case))
    targets[level] = Forgetful(targets[level], 1.0)
    voxels = random_voxels(1, case.lattice.shape, np.dtype("uint8"))
    with pytest.raises(DataError) as caught:
        enhance(case, case.model(), Source(ts.array(voxels)), targets)
    assert caught.value.code == "data.read-back"
    assert f"level {level}" in caught.value.message


def test_honest_storage_is_not_accused(case: Case) -> None:
    """The stand-in for storage passes when it changes nothing, NaN included."""
    voxels = random_voxels(1, case.lattice.shape, np.dtype("float32"))
    voxels[:, :5] = math.nan
    targets = [Forgetful(target, 0.0) for target in targets_of(case)]
    enhance(case, case.model(), Source(ts.array(voxels)), targets, nodata=math.nan, fill=math.nan)


def test_gradients_stay_off_in_the_computing_thread(case: Case) -> None:
    """Outputs are plain numbers even though threads start with gradients switched on."""
    seen: list[bool] = []

    class Watching(Poisoned):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.is_inference_mode_enabled())
            return super().forward(x)

    engine = engine_of(case.model())
    engine._function.network = Watching(0.0, 10**6)
    voxels = random_voxels(1, case.lattice.shape, np.dtype("uint8"))
    enhance_region(
        case.spec("float32"), case.grid().region(0), BatchPredictor(engine), Source(ts.array(voxels)), targets_of(case)
    )
    assert seen
    assert all(seen)
