"""A trust volume is laid over its output in colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import SMALL, noise, run, write_input

from volumetool.errors import ConfigError
from volumetool.storage.open import open_volume
from volumetool.viewer.layers import make_layers
from volumetool.viewer.trust import FULL, trust_layers


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


@pytest.mark.parametrize("place", ["in.zarr", "other-trust.zarr"])
def test_what_is_no_trust_volume_of_what_is_shown_is_refused(folder: Path, place: str) -> None:
    if place != "in.zarr":
        write_input(folder / "small.zarr", noise((6, 40, 40)))
        other = {"input": str(folder / "small.zarr"), "output": str(folder / "other.zarr"), "trust": str(folder / place)}
        run(**SMALL | other)
    with pytest.raises(ConfigError) as caught:
        trust_layers(folder / place, make_layers([folder / "out.zarr"]))
    assert caught.value.code == "config.option"
