"""Functions and networks of one's own as operations: what they make, what tells them apart, and when their code runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from small_jobs import read_levels

import volumetool as vt
from volumetool.errors import ConfigError, ModelError, VolumetoolError
from volumetool.models.foreign.trust import TRUSTED
from volumetool.processing.operation import open_operation, operation_name, trust_operation
from volumetool.processing.operations.function import FunctionOptions, hand_over
from volumetool.processing.spec import Numerics
from volumetool.testing.operation_suite import OperationSuite

Floats = NDArray[np.float32]

MINE = """
import numpy as np
from scipy import ndimage

def sharpen(block):
    return 2 * block - ndimage.uniform_filter(block, (3, 3, 1), mode="mirror")

def twice(block):
    return np.repeat(np.repeat(block, 2, 1), 2, 2)

def narrow(block):
    return block[:, 1:]

def divide(block):
    return 1 / 0

def leave(block):
    raise SystemExit(0)
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a file of own functions."""
    path = tmp_path_factory.mktemp("mine") / "mine.py"
    path.write_text(MINE)
    return path


class TestFunctionOfAFile(OperationSuite):
    """It is trusted by the environment, as in a worker that was started elsewhere."""

    dtype = "float32"
    other_patch = "4,16,32"
    slow_cases = ("test_a_killed_job_goes_on_to_the_same_bytes", "test_verify_finds_a_flipped_bit_and_nothing_before")

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def trusted(cls, mine: Path) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(TRUSTED, hashlib.sha256(MINE.encode()).hexdigest())
            patch.setattr(cls, "operation", operation_name(f"{mine}:sharpen", ["halo=1,1,0"]), raising=False)
            yield

    def whole(self, values: Floats) -> Floats:
        return 2 * values - ndimage.uniform_filter(values, (3, 3, 1), mode="mirror")


def test_a_function_or_a_network_in_python_is_applied_and_may_enlarge(tmp_path: Path) -> None:
    """As `vt.apply` is called: what it makes is what it makes of the whole volume."""
    voxels = OperationSuite.voxels((3, 40, 50))
    source = OperationSuite.write(tmp_path / "in.zarr", voxels)
    vt.apply(lambda block: 255 - block, source, tmp_path / "turned.zarr", device="cpu")
    np.testing.assert_array_equal(read_levels(tmp_path / "turned.zarr")[0], 255 - voxels)
    vt.apply(torch.nn.Upsample(scale_factor=2), source, tmp_path / "large.zarr", scale=(1, 2, 2), device="cpu")
    np.testing.assert_array_equal(read_levels(tmp_path / "large.zarr")[0], voxels.repeat(2, 1).repeat(2, 2))
    assert vt.open_volume(tmp_path / "large.zarr").levels[0].voxel_size == (30.0, 4.0, 4.0)


def test_a_function_may_make_one_voxel_of_several(tmp_path: Path) -> None:
    voxels = OperationSuite.voxels((3, 40, 50))
    source = OperationSuite.write(tmp_path / "in.zarr", voxels)
    vt.apply(lambda block: block[:, ::2, ::2], source, tmp_path / "half.zarr", scale=(1, 0.5, 1 / 2), device="cpu")
    np.testing.assert_array_equal(read_levels(tmp_path / "half.zarr")[0], voxels[:, ::2, ::2], strict=True)


def test_functions_and_networks_that_differ_in_a_value_or_a_layer_are_other_operations() -> None:
    """Else a run that goes on would mix the two."""

    def times(factor: int) -> Callable[[Floats], Floats]:
        return lambda block: block * factor

    class Gain(torch.nn.Module):
        def __init__(self, gain: object) -> None:
            super().__init__()
            self.gain = gain

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.gain  # type: ignore[operator]

        def of(self, block: Floats) -> Floats:
            return block * self.gain  # type: ignore[operator]

    asked = FunctionOptions()
    names = [hand_over(times(1), asked), hand_over(times(2), asked), hand_over(times(np.ones(3)), asked)]  # type: ignore[arg-type]
    names += [hand_over(each, asked) for each in (lambda block: block + 1, lambda block: block * 2)]  # fmt: skip
    names += [hand_over(Gain(gain), asked) for gain in (2.0, 3.0, torch.ones(1), torch.zeros(1))]
    names += [hand_over(torch.nn.Upsample(scale_factor=2, mode=mode), asked) for mode in ("nearest", "bilinear")]
    names += [hand_over(torch.nn.Sequential(part), asked) for part in (torch.nn.ReLU(), torch.nn.Sigmoid())]
    assert len({open_operation(name).identity for name in names}) == len(names)
    for unknown in (times(object()), Gain(object()), Gain(2.0).of, np.abs):  # type: ignore[arg-type]  # as a user may
        with pytest.raises(ConfigError, match="cannot be told from others"):
            hand_over(unknown, asked)
    assert hand_over(times(1), asked) == names[0]


@pytest.mark.parametrize(
    ("operation", "more"), [("median", {"halo": (0, 1, 1)}), (abs, {"halo": 1}), (abs, {"scale": (0, 1, 1)})]
)
def test_halo_and_scale_are_three_numbers_for_functions_alone(tmp_path: Path, operation: object, more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        vt.apply(operation, tmp_path / "in.zarr", tmp_path / "out.zarr", **more)
    assert caught.value.code == "config.option"


def test_code_of_a_file_runs_where_a_user_trusts_it_as_it_is_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "ran"
    own = tmp_path / "own.py"
    own.write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\ndef same(block):\n    return block\n")
    monkeypatch.delenv(TRUSTED, raising=False)
    spec = operation_name(f"{own}:same")
    with pytest.raises(ModelError) as caught:
        open_operation(spec)
    assert (caught.value.code, marker.exists()) == ("model.untrusted", False)
    trust_operation(spec)
    before = open_operation(spec).identity
    assert marker.exists()
    own.write_text(own.read_text() + "# changed\n")
    with pytest.raises(ModelError, match="nobody said that it may"):
        open_operation(spec)
    trust_operation(spec)
    assert open_operation(spec).identity != before


@pytest.mark.parametrize(
    ("name", "options", "code", "words"),
    [
        ("narrow", [], "numerics.function", "made a block of shape"),
        ("divide", [], "numerics.function", "raised ZeroDivisionError"),
        ("leave", [], "numerics.function", "raised SystemExit"),
        ("nothing", [], "model.unknown", "has no function nothing"),
        ("sharpen", ["halo=1"], "config.option", "halo"),
        ("sharpen", ["halo=0,0,999"], "config.option", "halo"),
        ("sharpen", ["width=1"], "config.option", "width"),
    ],
)
def test_a_function_that_cannot_be_applied_is_an_error_that_names_it(
    mine: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: list[str], code: str, words: str
) -> None:
    monkeypatch.setenv(TRUSTED, hashlib.sha256(MINE.encode()).hexdigest())

    def call() -> None:
        opened = open_operation(operation_name(f"{mine}:{name}", options))
        opened.open(torch.device("cpu"), Numerics("float32", 1, pad=False))(np.zeros((2, 1, 8, 8), np.float32))

    with pytest.raises(VolumetoolError, match=words) as caught:
        call()
    assert caught.value.code == code
