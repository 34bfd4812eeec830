"""Intensity statistics: fitted once, the same for every layout of the same voxels, readable and editable."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from volumetool.errors import ConfigError
from volumetool.geometry import Box, Triple, plan_levels
from volumetool.processing.statistics import SMOOTHING, Statistics, fit_statistics, no_normalisation, sample_statistics
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing
from volumetool.storage.volume import Volume

Voxels = np.ndarray[Any, Any]

TABLES = st.tuples(st.integers(1, 2), st.integers(1, 6)).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float64, shape, elements=st.floats(-1e6, 1e6)),
        hnp.arrays(np.float64, shape, elements=st.floats(1.0, 1e6)),
    ).map(lambda parts: Statistics(parts[0], parts[0] + parts[1]))
)


def stored(folder: Path, voxels: Voxels, chunk: Triple, shard: Triple) -> Volume:
    """Write voxels, (z, y, x) or (c, z, y, x), as a volume of one level."""
    shape = (voxels.shape[-3], voxels.shape[-2], voxels.shape[-1])
    levels = plan_levels(shape, (8.0, 8.0, 8.0), (0.0, 0.0, 0.0), chunk, shard)[:1]
    layout = VolumeLayout(voxels.dtype.name, levels, channels=voxels.shape[0] if voxels.ndim == 4 else None)
    volume = create_volume(str(folder), layout, {})
    for channel in range(layout.channels or 1):
        part = voxels[channel] if voxels.ndim == 4 else voxels
        open_for_writing(volume.url, layout, 0, channel).write(part).result()
    return volume


def inverted_cdf(values: Voxels, percent: int) -> float:
    """Return the smallest value that at least `percent` of the values do not exceed."""
    ordered = sorted(values.ravel().tolist())
    share = Fraction(percent, 100) * len(ordered)
    return next(float(v) for n, v in enumerate(ordered, 1) if n >= share)


def smoothed(values: list[float]) -> Voxels:
    """Average with the binomial weights; beyond the first and last section these go on."""
    last = len(values) - 1
    weights = [Fraction(int(w), int(sum(SMOOTHING))) for w in SMOOTHING]
    return np.array(
        [sum(float(w) * values[min(max(z + k - 2, 0), last)] for k, w in enumerate(weights)) for z in range(last + 1)]
    )


def test_percentiles_are_the_inverted_distribution_smoothed_along_z(tmp_path: Path) -> None:
    """Every section's percentiles are voxels of it, by brute force, before the smoothing that the module states."""
    voxels = np.random.default_rng(0).integers(0, 4000, (7, 20, 25), dtype=np.uint16)
    fitted = fit_statistics(stored(tmp_path / "v", voxels, (4, 16, 16), (4, 16, 16)), 0, (5, 75))
    np.testing.assert_allclose(fitted.low[0], smoothed([inverted_cdf(section, 5) for section in voxels]), rtol=1e-12)
    np.testing.assert_allclose(fitted.high[0], smoothed([inverted_cdf(section, 75) for section in voxels]), rtol=1e-12)


@pytest.mark.parametrize("shape", [(20, 33, 47), (18, 1100, 1000)], ids=["read whole", "sampled"])
def test_chunks_and_shards_do_not_move_the_sample(tmp_path: Path, shape: Triple) -> None:
    """The same voxels in other chunks have the same statistics, bit for bit."""
    voxels = np.random.default_rng(1).integers(0, 255, shape, dtype=np.uint8)
    one = fit_statistics(stored(tmp_path / "a", voxels, (16, 128, 128), (16, 256, 512)), 0, (1, 99))
    other = fit_statistics(stored(tmp_path / "b", voxels, (5, 300, 200), (20, 300, 1000)), 0, (1, 99))
    assert one.digest == other.digest
    np.testing.assert_array_equal(one.low, other.low)


def test_a_large_section_is_sampled_and_the_seed_moves_the_sample(tmp_path: Path) -> None:
    """The sample is near the truth, its positions follow from the seed: one seed one sample, another seed another."""
    ramp = np.add.outer(np.arange(1100), np.arange(1000)).astype(np.uint16)
    volume = stored(tmp_path / "v", ramp[None], (1, 256, 256), (1, 1024, 1024))
    first, again, moved = (fit_statistics(volume, 0, (10, 90), seed=seed) for seed in (0, 0, 1))
    assert first.digest == again.digest != moved.digest
    for percent, fitted in ((10, first.low), (90, first.high)):
        assert abs(fitted[0, 0] - np.percentile(ramp, percent)) < 250


def test_blank_sections_take_their_neighbours(tmp_path: Path) -> None:
    """A section of one value says nothing: its percentiles lie between those of the nearest sections that do."""
    voxels = np.random.default_rng(2).integers(50, 200, (9, 16, 16), dtype=np.uint8)
    voxels[3:5] = 0
    voxels[8] = 255
    fitted = fit_statistics(stored(tmp_path / "v", voxels, (4, 16, 16), (4, 16, 16)), 0, (0, 100))
    known = [0, 1, 2, 5, 6, 7]
    ends = [np.interp(np.arange(9), known, [getattr(voxels[z], name)() for z in known]) for name in ("min", "max")]
    np.testing.assert_allclose(fitted.low[0], smoothed(ends[0].tolist()), rtol=1e-12)
    np.testing.assert_allclose(fitted.high[0], smoothed(ends[1].tolist()), rtol=1e-12)


def test_mean_and_standard_deviation_are_fitted_where_a_network_wants_them(tmp_path: Path) -> None:
    voxels = np.random.default_rng(4).integers(0, 2**16, (3, 40, 50), dtype=np.uint16)
    fitted = fit_statistics(stored(tmp_path / "v", voxels, (1, 40, 50), (1, 40, 50)), 0, None)
    np.testing.assert_allclose(fitted.low[0], smoothed(voxels.mean((1, 2)).tolist()), rtol=1e-12)
    np.testing.assert_allclose((fitted.high - fitted.low)[0], smoothed(voxels.std((1, 2)).tolist()), rtol=1e-9)


def test_a_blank_volume_has_a_contrast_all_the_same(tmp_path: Path) -> None:
    fitted = fit_statistics(stored(tmp_path / "v", np.full((3, 8, 8), 9, np.uint8), (1, 8, 8), (1, 8, 8)), 0, (1, 99))
    assert (fitted.high > fitted.low).all()
    assert np.isfinite(fitted.low).all()


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 0.0), ("float32", math.nan), ("float32", -1.0)])
def test_missing_voxels_do_not_count(tmp_path: Path, dtype: str, nodata: float) -> None:
    """Statistics of a volume with a missing half are those of the other half."""
    half = np.random.default_rng(3).integers(1, 200, (6, 16, 16)).astype(dtype)
    with_missing = np.concatenate([np.full((6, 16, 16), nodata, dtype), half], axis=2)
    whole = fit_statistics(stored(tmp_path / "a", with_missing, (2, 8, 8), (2, 8, 8)), 0, (2, 98), nodata=nodata)
    only = fit_statistics(stored(tmp_path / "b", half, (2, 8, 8), (2, 8, 8)), 0, (2, 98))
    assert whole.digest == only.digest


def test_each_channel_has_its_own(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    voxels = np.stack([random.integers(0, 100, (4, 16, 16)), random.integers(1000, 4000, (4, 16, 16))]).astype(np.uint16)
    both = fit_statistics(stored(tmp_path / "c", voxels, (2, 8, 8), (2, 8, 8)), 0, (1, 99))
    for channel in range(2):
        alone = fit_statistics(stored(tmp_path / str(channel), voxels[channel], (2, 8, 8), (2, 8, 8)), 0, (1, 99))
        np.testing.assert_array_equal(both.low[channel], alone.low[0])
        np.testing.assert_array_equal(both.high[channel], alone.high[0])


def test_every_tile_of_the_sample_is_shown_with_its_place(tmp_path: Path) -> None:
    voxels = np.arange(20 * 64, dtype=np.uint16).reshape(20, 8, 8)
    seen: list[Box] = []

    def look(channel: int, box: Box, tile: Voxels) -> None:
        assert channel == 0
        np.testing.assert_array_equal(tile, voxels[box.slices])
        seen.append(box)

    sample_statistics(stored(tmp_path / "v", voxels, (4, 8, 8), (4, 8, 8)), 0, (1, 99), seen=look)
    assert seen == [Box((0, 0, 0), (16, 8, 8)), Box((16, 0, 0), (20, 8, 8))]


@given(TABLES)
def test_the_table_survives_its_csv_exactly(statistics: Statistics) -> None:
    back = Statistics.from_csv(statistics.to_csv(), *statistics.low.shape)
    np.testing.assert_array_equal(back.low, statistics.low)
    np.testing.assert_array_equal(back.high, statistics.high)
    assert back.digest == statistics.digest


@settings(max_examples=30)
@given(TABLES, st.data())
def test_any_changed_value_changes_the_digest(statistics: Statistics, data: st.DataObject) -> None:
    place = tuple(data.draw(st.integers(0, n - 1)) for n in statistics.low.shape)
    high = statistics.high.copy()
    high[place] = np.nextafter(high[place], np.inf)
    assert Statistics(statistics.low, high).digest != statistics.digest


def test_no_normalisation_leaves_values_as_they_are() -> None:
    statistics = no_normalisation(2, 3)
    assert (statistics.low == 0).all()
    assert (statistics.high == 1).all()
    assert statistics.low.shape == (2, 3)


HEADER = "channel,z,low,high\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "z,low,high\n0,1,2\n",
        HEADER + "0,0,1,2\n",
        HEADER + "0,0,1,2\n0,1,5,5\n",
        HEADER + "0,0,1,2\n0,1,9,5\n",
        HEADER + "0,0,1,2\n0,1,nan,5\n",
        HEADER + "0,0,1,2\n0,1,0,inf\n",
        HEADER + "0,0,1,2\n0,1,-inf,0\n",
        HEADER + "0,0,1,2\n0,one,1,2\n",
        HEADER + "0,0,1,2\n0,1,low,2\n",
        HEADER + "0,0,1,2\n0,1,1\n",
        HEADER + "0,0,1,2\n0,1,1,2\n0,2,1,2\n",
        HEADER + "0,0,1,2\n0,1,1,2\n1,0,1,2\n",
        HEADER + "0,0,1,2\n0,-1,1,2\n",
        HEADER + "0,0,1,2\n0,1,1,2\n0,1,3,4\n",
    ],
    ids=[
        "empty", "no channel", "row missing", "equal", "reversed", "not a number", "endless", "endless below", "words for z",
        "words for low", "short row", "section too many", "channel too many", "negative section", "row twice",
    ],
)  # fmt: skip
def test_a_bad_table_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Statistics.from_csv(text, 1, 2)
    assert caught.value.code == "config.statistics"


def test_a_chunk_that_cannot_be_read_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    voxels = np.random.default_rng(5).integers(0, 200, (20, 16, 16)).astype(np.uint8)
    volume = stored(tmp_path / "v", voxels, (4, 16, 16), (4, 16, 16))
    whole = fit_statistics(volume, 0, (1, 99))
    (tmp_path / "v" / "0" / "c" / "4" / "0" / "0").write_bytes(b"torn")
    found = fit_statistics(volume, 0, (1, 99))
    assert "16:20,0:16,0:16" in caplog.text
    np.testing.assert_array_equal(found.low[0, :14], whole.low[0, :14])
    assert (found.high > found.low).all()
