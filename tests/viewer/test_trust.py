"""A trust volume is laid over its output in colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import SMALL, noise, run, write_input

from volumetool.errors import ConfigError
from volumetool.geometry import plan_levels
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing
from volumetool.storage.open import open_volume
from volumetool.viewer.layers import make_layers
from volumetool.viewer.trust import FULL, trust_layers

pytestmark = pytest.mark.xdist_group("trust")  # the job takes longer than all that looks at it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a job with a trust volume, of an input with structure and with noise of a standard deviation of 10."""
    folder = tmp_path_factory.mktemp("trust")
    y, x = np.mgrid[:160, :160]
    grey = 128 + 60 * np.sin(y / 7) * np.sin(x / 9) + np.random.default_rng(0).normal(0, 10, (4, 160, 160))
    write_input(folder / "in.zarr", np.clip(np.rint(grey), 1, 255).astype(np.uint8))
    places = {"input": str(folder / "in.zarr"), "output": str(folder / "out.zarr"), "trust": str(folder / "trust.zarr")}
    options: dict[str, Any] = SMALL | places | {"model": "em-denoise", "voxel_size": "30,8,8", "region": "1,2,2"}
    assert run(**options).complete
    return folder


def test_the_trust_volume_names_its_channels_and_the_noise_of_the_input(folder: Path) -> None:
    told = open_volume(str(folder / "trust.zarr")).attributes
    assert told["channels"] == ["consistency"]
    assert told["noise"] == pytest.approx(10, rel=0.15)
    assert open_volume(str(folder / "out.zarr")).attributes.get("channels") is None


def test_its_channels_lie_over_their_output_in_standard_deviations_of_the_noise(folder: Path) -> None:
    """The output is one grey layer, as without a trust volume."""
    shown = make_layers([folder / "in.zarr", folder / "out.zarr"])
    assert [layer.name for layer in shown] == ["in.zarr", "out.zarr"]
    over, (layer,) = trust_layers(folder / "trust.zarr", shown)
    assert (over, layer.name, layer.channel) == ("out.zarr", "trust.zarr: consistency", 0)
    noise = open_volume(str(folder / "trust.zarr")).attributes["noise"]
    assert layer.window == (-FULL * noise, FULL * noise)
    assert "emitRGBA" in (layer.shader or "")


@pytest.mark.parametrize("shape", [(4, 80, 102), (4, 81, 103)], ids=["whole", "the last voxels are cut short"])
@pytest.mark.parametrize("block", [[1, 2, 2], None], ids=["coarser", "of an earlier version"])
def test_voxels_of_several_lie_over_those_that_they_are_the_means_of(
    tmp_path: Path, shape: tuple[int, int, int], block: list[int] | None
) -> None:
    """And not over the input, whose voxels may be as large."""
    size, (z, y, x) = (30.0, 8.0, 8.0), shape
    coarse = (z, -(-y // 2), -(-x // 2))
    write_volume(tmp_path / "out.zarr", shape, size)
    write_volume(tmp_path / "in.zarr", coarse, (30.0, 16.0, 16.0), (0.0, 4.0, 4.0))
    own = {"channels": ["consistency"], "noise": 3.0} | ({} if block is None else {"block": block})
    place = (coarse, (30.0, 16.0, 16.0), (0.0, 4.0, 4.0)) if block else (shape, size, (0.0, 0.0, 0.0))
    write_volume(tmp_path / "trust.zarr", *place, own)
    shown = make_layers([tmp_path / "out.zarr", tmp_path / "in.zarr"])
    assert trust_layers(tmp_path / "trust.zarr", shown)[0] == "out.zarr"
    with pytest.raises(ConfigError, match="none that is shown lies there"):
        trust_layers(tmp_path / "trust.zarr", shown[1:])


def write_volume(
    place: Path, shape: Any, voxel_size: Any, translation: Any = (0.0, 0.0, 0.0), told: dict[str, Any] | None = None
) -> None:
    """Write a volume of one value; what it says of its making comes with one channel."""
    levels = plan_levels(shape, voxel_size, translation, (4, 64, 64), (4, 64, 64))[:1]
    layout = VolumeLayout("int8", levels, None if told is None else 1)
    create_volume(str(place), layout, told or {})
    open_for_writing(str(place), layout, 0, 0).write(np.int8(1)).result()


@pytest.mark.parametrize("place", ["in.zarr", "other-trust.zarr"])
def test_what_is_no_trust_volume_of_what_is_shown_is_refused(folder: Path, place: str) -> None:
    if place != "in.zarr":
        write_input(folder / "small.zarr", noise((6, 40, 40)))
        other = {"input": str(folder / "small.zarr"), "output": str(folder / "other.zarr"), "trust": str(folder / place)}
        run(**SMALL | other)
    with pytest.raises(ConfigError) as caught:
        trust_layers(folder / place, make_layers([folder / "out.zarr"]))
    assert caught.value.code == "config.option"
