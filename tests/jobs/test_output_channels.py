"""Operations of several output channels keep the promises of every operation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foreign_networks as made
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from small_jobs import read_levels
from torch import nn

import volumetool as vt
from volumetool.errors import ConfigError, ModelError
from volumetool.geometry import plan_levels
from volumetool.models.foreign.trust import TRUSTED
from volumetool.processing.operation import open_operation, operation_name, placed_operation
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing
from volumetool.testing.operation_suite import OperationSuite
from volumetool.viewer.layers import make_layers
from volumetool.viewer.state import Look, build_state

Floats = NDArray[np.float32]

MEAN_AND_ERROR = """
import numpy as np
from scipy import ndimage

def mean_and_error(block):
    mean = ndimage.uniform_filter(block, (3, 3, 1), mode="mirror")
    return np.stack([mean, abs(block - mean)])

def larger(block):
    return mean_and_error(block).repeat(2, 2).repeat(3, 3)

def smaller(block):
    return mean_and_error(block)[:, ::2, :, 1::2]
"""


class TestFunctionOfTwoChannels(OperationSuite):
    """A mean, and how far voxels are from it."""

    dtype = "float32"
    other_patch = "4,16,32"
    slow_cases = ("test_a_killed_job_goes_on_to_the_same_bytes", "test_verify_finds_a_flipped_bit_and_nothing_before")
    function, scale = "mean_and_error", "1,1,1"

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def trusted(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        """Write the file, and trust it."""
        path = tmp_path_factory.mktemp("mine") / "mine.py"
        path.write_text(MEAN_AND_ERROR)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(TRUSTED, hashlib.sha256(MEAN_AND_ERROR.encode()).hexdigest())
            named = operation_name(f"{path}:{cls.function}", ["halo=1,1,0", "channels=mean:grey,error", f"scale={cls.scale}"])
            patch.setattr(cls, "operation", named, raising=False)
            yield

    def whole(self, values: Floats) -> Floats:
        mean = ndimage.uniform_filter(values, (3, 3, 1), mode="mirror")
        return np.stack([mean, abs(values - mean)])


@pytest.mark.slow
class TestLargerFunctionOfTwoChannels(TestFunctionOfTwoChannels):
    """The same, with 2 by 3 voxels for each."""

    function, scale = "larger", "1,2,3"

    def whole(self, values: Floats) -> Floats:
        return super().whole(values).repeat(2, 2).repeat(3, 3)


@pytest.mark.slow
class TestSmallerFunctionOfTwoChannels(TestFunctionOfTwoChannels):
    """Every second voxel along z and x; what is left of an odd number is neither read nor made."""

    function, scale, shape, shard = "smaller", "1/2,1,1/2", (7, 70, 91), "2,32,16"
    other_patch = "8,16,32"

    def whole(self, values: Floats) -> Floats:
        return super().whole(values[:6, :, :90])[:, ::2, :, 1::2]


class _Small(OperationSuite):
    """Volumes and options of the suite, for jobs that name their own operation."""

    operation = ""


def _small(folder: Path, shape: tuple[int, int, int] = (3, 40, 50)) -> tuple[NDArray[Any], Path]:
    voxels = _Small.voxels(shape)
    return voxels, _Small.write(folder / "in.zarr", voxels)


def test_a_network_writes_expected_error_and_consistency_beside_the_same_image(tmp_path: Path) -> None:
    """The image is that of the job without, bit for bit, and both are in grey values."""
    voxels, source = _small(tmp_path)
    options = {"model": "em-x4", "dtype": "float32", "patch": "1,48,48", "overlap": "0,24,24", "shard": "2,64,64"}
    options |= {"voxel_size": "30,32,32"}
    assert _Small.perform(source, tmp_path / "plain.zarr", **options).complete
    with_error = options | {"model": operation_name("em-x4", ["expected_error=true", "consistency=true"]), "dtype": None}
    outcome = _Small.perform(source, tmp_path / "both.zarr", **with_error)
    image, error, consistency = read_levels(tmp_path / "both.zarr")[0]
    np.testing.assert_array_equal(image, read_levels(tmp_path / "plain.zarr")[0], strict=True)
    low, high = outcome.plan.spec.statistics.low[0], outcome.plan.spec.statistics.high[0]
    assert (error > 0).all()
    assert 0.001 < np.median(error) / np.median(high - low) < 1
    away = image.reshape(3, 40, 4, 50, 4).mean((2, 4)) - voxels  # (z, y, x) of the input
    # Patches are blended voxel by voxel, after each was compared: over a voxel of the input ramps are not quite constant.
    np.testing.assert_allclose(consistency, away.repeat(4, 1).repeat(4, 2), atol=0.01 * np.median(high - low))
    assert np.median(abs(away)) > 0.05 * np.median(high - low)
    assert placed_operation(outcome.plan.model_spec) == outcome.plan.model_spec
    display = json.loads((tmp_path / "both.zarr" / "zarr.json").read_text())["attributes"]["ome"]["omero"]["channels"]
    assert [each["label"] for each in display] == ["image", "expected-error", "consistency"]
    assert display[1]["window"]["start"] == 0


def test_a_network_that_expects_no_error_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="em-denoise says no error") as caught:
        open_operation(operation_name("em-denoise", ["expected_error=yes"]))
    assert caught.value.code == "model.geometry"
    assert open_operation(operation_name("em-x4", ["expected_error=no"])).spec == "em-x4"


def test_each_channel_of_a_volume_becomes_all_channels_of_the_operation_in_turn(tmp_path: Path) -> None:
    """First all of the first, then all of the second."""
    voxels = np.random.default_rng(1).integers(1, 255, (2, 3, 40, 50), np.uint8)
    levels = plan_levels(voxels.shape[1:], (30.0, 8.0, 8.0), (0.0, 0.0, 0.0), (4, 16, 16), (4, 16, 16))[:1]
    layout = VolumeLayout("uint8", levels, 2)
    create_volume(str(tmp_path / "in.zarr"), layout, {})
    for channel in range(2):
        open_for_writing(str(tmp_path / "in.zarr"), layout, 0, channel)[...].write(voxels[channel]).result()

    def three(block: Floats) -> Floats:
        return np.stack([block, 255 - block, block / 2])

    names = ["same:grey", "turned:grey", "half:grey"]
    done = vt.apply(three, tmp_path / "in.zarr", tmp_path / "out.zarr", channels=names, device="cpu", chunk=(2, 16, 16))
    assert done.complete
    assert vt.verify(tmp_path / "out.zarr", recompute=2).ok
    one = [[part, 255 - part, np.rint(part / 2).astype(np.uint8)] for part in voxels]
    np.testing.assert_array_equal(read_levels(tmp_path / "out.zarr")[0], np.concatenate(one), strict=True)
    layers = make_layers([str(tmp_path / "out.zarr")])
    assert [layer.name for layer in layers] == [f"out.zarr: {name} {n}" for n in (0, 1) for name in ("same", "turned", "half")]
    shown = build_state(layers, [layer.source(None) for layer in layers], Look())["layers"]
    assert [layer["localPosition"] for layer in shown] == [[n] for n in range(6)]
    assert layers[2].window != layers[0].window


def test_all_channels_of_a_network_of_others_are_kept_where_they_are_named(tmp_path: Path) -> None:
    _, source = _small(tmp_path)
    network = nn.Conv2d(1, 2, 1)
    nn.init.zeros_(network.bias)
    network.weight.data[:, 0, 0, 0] = network.weight.new_tensor([0.5, 2.0])
    file = made.write_onnx(tmp_path / "two.onnx", network)
    assert _Small.perform(source, tmp_path / "out.zarr", model=f"{file};channels=half,twice").complete
    stored = read_levels(tmp_path / "out.zarr")[0]
    np.testing.assert_array_equal(stored, np.stack([_Small.voxels((3, 40, 50)) * np.float32(f) for f in (0.5, 2)]), strict=True)
    with pytest.raises(ModelError, match="gives 2 channels, but 3 are named"):
        open_operation(f"{file};channels=a,b,c")


def test_a_patch_of_one_value_is_computed_where_the_output_is_no_image_of_its_kind(tmp_path: Path) -> None:
    """Else black resin would stay black in a turned volume, and a mask would hold grey values."""
    voxels = np.zeros((2, 40, 50), np.uint8)
    source = _Small.write(tmp_path / "in.zarr", voxels)
    vt.apply(lambda block: 255 - block, source, tmp_path / "turned.zarr", device="cpu")
    assert (read_levels(tmp_path / "turned.zarr")[0] == 255).all()
    assert _Small.perform(source, tmp_path / "rescaled.zarr", model="rescale:window=-10,10;to=0,200").complete
    assert (read_levels(tmp_path / "rescaled.zarr")[0] == 100).all()


@pytest.mark.parametrize("channels", ["a b", "a:white", ","])
def test_channels_without_a_name_or_of_unknown_values_are_refused(tmp_path: Path, channels: str) -> None:
    with pytest.raises(ConfigError) as caught:
        operation_name(f"{tmp_path}/mine.py:f", [f"channels={channels}"])
    assert caught.value.code == "config.option"
