"""Matched histograms: what is counted, what goes on, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.exposure import match_histograms
from small_jobs import read_levels

import volumetool as vt
from volumetool.errors import ConfigError
from volumetool.processing.operations import match
from volumetool.testing.operation_suite import OperationSuite

SMALL: dict[str, Any] = {"shard": "1,16,16", "chunk": "1,8,8", "device": "cpu"}


def _voxels() -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    return np.stack([random.normal(mean, 12, (40, 50)) for mean in (60, 120, 180)]).clip(1, 255).astype(np.uint8)


def test_the_last_of_a_chain_counts_what_the_ones_before_it_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The volume between them is computed part by part."""
    monkeypatch.setattr(match, "AT_ONCE", 2048)
    source = OperationSuite.write(tmp_path / "in.zarr", _voxels())
    vt.apply("median", source, tmp_path / "first.zarr", **SMALL)
    vt.apply("match:section=1", tmp_path / "first.zarr", tmp_path / "second.zarr", **SMALL)
    assert vt.apply(["median", {"match": {"section": 1}}], source, tmp_path / "chain.zarr", **SMALL).complete
    made, expected = (read_levels(tmp_path / f"{name}.zarr")[0] for name in ("chain", "second"))
    np.testing.assert_array_equal(made, expected, strict=True)


def test_voxels_without_data_and_sections_of_one_value_are_not_matched(tmp_path: Path) -> None:
    """The former are counted neither in the section nor in the reference."""
    voxels = np.concatenate([_voxels(), np.zeros((1, 40, 50), np.uint8)])
    voxels[1] = 7
    voxels[0, :20], voxels[2, :, :30] = 0, 0
    source = OperationSuite.write(tmp_path / "in.zarr", voxels)
    assert vt.apply("match:section=2", source, tmp_path / "out.zarr", nodata=0, **SMALL).complete
    made, valid = read_levels(tmp_path / "out.zarr")[0], voxels != 0
    assert not made[~valid].any()
    assert (made[1] == 7).all()
    expected = match_histograms(voxels[0][valid[0]], voxels[2][valid[2]])
    np.testing.assert_array_equal(made[0][valid[0]], np.rint(expected.astype(np.float32)))
    np.testing.assert_array_equal(made[2], voxels[2])


def test_a_section_that_is_written_anew_makes_another_job(tmp_path: Path) -> None:
    """The curves are in the fingerprint."""
    prints = []
    for name, brighter in (("one", 0), ("other", 30)):
        voxels = _voxels()
        voxels[2] += np.uint8(brighter)
        source = OperationSuite.write(tmp_path / f"{name}.zarr", voxels)
        job = vt.Job(input=source, output=tmp_path / f"out-{name}.zarr", model="match", **SMALL)
        prints.append(vt.plan(job).fingerprint)
    assert prints[0] != prints[1]


@pytest.mark.parametrize(
    ("operation", "dtype", "most", "said"),
    [
        ("match", "float32", match.MOST_CURVES, "the volume is float32"),
        ("match:section=3", "uint8", match.MOST_CURVES, "the sections 0 to 2"),
        ("match", "uint8", 100, "of at most 100 B"),
    ],
)
def test_what_cannot_be_matched_is_refused_with_what_to_do(
    operation: str, dtype: str, most: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match, "MOST_CURVES", most)

    class Suite(OperationSuite):
        pass

    Suite.dtype = dtype
    source = Suite.write(tmp_path / "in.zarr", _voxels().astype(dtype))
    with pytest.raises(ConfigError, match=said) as caught:
        vt.apply(operation, source, tmp_path / "out.zarr", **SMALL)
    assert caught.value.code == "config.histograms"
    assert caught.value.hint
