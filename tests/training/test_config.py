"""A training's file says what is wrong with it, and trainings are told apart by what decides their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from small import small_options, small_training

from volumetool.errors import ConfigError
from volumetool.geometry import Box
from volumetool.training.config import change_config, make_config, read_config

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("em-*.yaml")), ids=lambda path: path.stem)
def test_the_examples_hold(path: Path) -> None:
    config = read_config(path)
    assert config.name == path.stem
    assert all(source.cite and source.licence for source in config.sources)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    options = small_options(tmp_path)
    options["sources"] = [{"path": "here.tif", "noisy": "there.tif"}, {"path": "s3://bucket/volume.zarr"}]
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(options))
    options |= {"degradation": {"recipes": ["pssr-em", "mine.yaml"]}, "start": "old.safetensors"}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(options))
    config = read_config(tmp_path / "train.yaml")
    assert config.degradation.recipes == ("pssr-em", str(tmp_path / "mine.yaml"))
    assert config.start == str(tmp_path / "old.safetensors")
    here, far = config.sources
    assert (here.path, here.noisy) == (str(tmp_path / "here.tif"), str(tmp_path / "there.tif"))
    assert far.path == "s3://bucket/volume.zarr"


def test_boxes_and_triples_are_read_as_on_the_command_line(tmp_path: Path) -> None:
    source = small_options(tmp_path)["sources"][0] | {"boxes": ["1:5,:,2:9"], "mean": "1,2,2"}
    config = small_training(tmp_path, sources=[source])
    assert config.sources[0].boxes == (Box((1, 0, 2), (5, 2**62, 9)),)
    assert config.sources[0].mean == (1, 2, 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stpes": 3}, "did you mean steps"),
        ({"sampling": {"crop": [1, 15, 16]}}, "multiples of the network's"),
        ({"sampling": {"crop": [4, 16, 16]}}, "z_context"),
        ({"blind_spot": {}}, "keeps the scale"),
        ({"blind_spot": {}, "architecture": {"scale": [1, 1, 1], "expected_error": True}}, "no expected_error"),
        ({"degradation": {"noise": [2, 1]}}, "from the smaller to the larger"),
        ({"augmentation": {"contrast": [0, 1]}}, "above 0"),
        ({"normalisation": {"kind": "none"}}, "is percentiles for what is trained"),
        ({"blind_spot": {}, "architecture": {"scale": [1, 1, 1], "z_context": 1}}, "neighbouring sections"),
        ({"blind_spot": {}, "architecture": {"scale": [1, 1, 1]}, "degradation": {"noise": [1, 2]}}, "leave degradation out"),
        ({"sources": [{"path": "a.tif", "noisy": "b.tif"}], "augmentation": {"grain": [0, 1]}}, "leave augmentation out"),
        ({"card": {"smallest": [9, 9, 9], "largest": [8, 8, 8]}}, "smallest <= largest"),
        ({"card": {"stride": [4, 32, 32]}}, "stride of 1 along z"),
        ({"sources": [{"path": "a.tif", "noisy": "b.tif", "planes": "all"}]}, "without planes"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"sources": []}, "at least 1"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        make_config(small_options(tmp_path, **changes))
    assert caught.value.code == "config.option"


def test_where_data_lie_and_how_they_are_computed_makes_no_other_training(tmp_path: Path) -> None:
    config = small_training(tmp_path)
    source = config.sources[0].model_copy(update={"path": "/elsewhere/source1.tif", "cite": "me"})
    moved = config.model_copy(update={"sources": (source,), "workers": 3, "checkpoint_minutes": 1.0})
    assert moved.semantic() == config.semantic()
    assert change_config(config, steps=9).semantic() != config.semantic()
    assert change_config(config, steps=None) == config
