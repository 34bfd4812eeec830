"""Volumes are scored in the right place, in any cut the same, and refused where they do not match."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from volumetool.errors import ConfigError, InputError, VolumetoolError
from volumetool.evaluation import baselines
from volumetool.evaluation import evaluate as evaluation
from volumetool.evaluation.baselines import METHODS, filtered, restore
from volumetool.evaluation.evaluate import EvaluationRequest, evaluate, score
from volumetool.evaluation.results import NotAvailable, protocol_words, verdict
from volumetool.evaluation.scores import block_sums, tiling
from volumetool.evaluation.scores.align import Matched, Volumes
from volumetool.evaluation.scores.metrics import as_stored, fit_affine, psnr
from volumetool.evaluation.scores.resample import enlarge
from volumetool.evaluation.scores.tiling import Restorer, cut_tiles, spread_sections
from volumetool.geometry import Box
from volumetool.storage.volume import Volume


@pytest.fixture(scope="module")
def found(field: Any) -> Any:
    return evaluate(EvaluationRequest(field.volumes))


def _row(found: Any, name: str) -> Any:
    return next(row for row in found.rows if row.name == name)


def test_every_row_scores_what_its_array_scores(field: Any, found: Any) -> None:
    for name in ("restored", "bilinear", "unsharp+bicubic"):
        row = _row(found, name)
        for z, scores in enumerate(row.sections):
            section = field.restored[z] if name == "restored" else restore(name, field.low[z], 4)
            alone = score(section, field.truth[z], data_range=255)
            for metric in ("psnr", "ssim", "ms_ssim"):
                assert getattr(scores, metric) == pytest.approx(getattr(alone, metric), abs=1e-9), (name, z, metric)
        assert row.scores.ssim == pytest.approx(np.mean([scores.ssim for scores in row.sections]), abs=1e-9)
    assert _row(found, "restored").scores.psnr == pytest.approx(psnr(field.restored, field.truth), abs=1e-9)


def test_one_affine_map_is_fitted_to_all_sections_together(field: Any, found: Any) -> None:
    row = _row(found, "restored")
    gain, offset = fit_affine(field.restored, field.truth)
    assert row.affine == pytest.approx((gain, offset))
    assert row.scores.psnr_affine == pytest.approx(psnr(gain * field.restored + offset, field.truth), abs=1e-9)
    assert row.scores.psnr_affine > row.scores.psnr


def test_the_cut_into_tiles_changes_nothing(field: Any, found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "TILE", 112)
    # Non-local means and total variation look farther than a tile sees.
    local = {name: method for name, method in METHODS.items() if name not in ("nlm", "tv", "bm3d", "nlm-3d", "tv-3d")}
    monkeypatch.setattr(evaluation, "METHODS", local)
    again = evaluate(EvaluationRequest(field.volumes))
    for other in again.rows:
        row = _row(found, other.name)
        assert dataclasses.astuple(other.scores) == pytest.approx(dataclasses.astuple(row.scores), rel=1e-12), row.name
        for metric, ends in row.intervals.items():
            assert other.intervals[metric] == pytest.approx(ends, rel=1e-9)


def test_integer_sums_are_exact(field: Any) -> None:
    matched = Matched(field.volumes)
    total = block_sums.Sums(matched.box, 4, 255)
    for tile in cut_tiles(matched.box, [0, 1, 2, 3]):
        total.add_moments(tile, field.restored[tile.seen.slices][0], field.truth[tile.seen.slices][0])
    error = np.sum((field.restored.astype(int) - field.truth.astype(int)) ** 2)
    assert total.squared_error(total.blocks.sum(axis=0)) == error


def test_a_region_of_interest_counts_voxels_of_the_truth(field: Any) -> None:
    box = Box((1, 21, 34), (3, 150, 190))
    found = evaluate(EvaluationRequest(field.volumes, roi=box))
    expected = psnr(field.restored[box.slices], field.truth[box.slices])
    assert _row(found, "restored").scores.psnr == pytest.approx(expected, abs=1e-9)
    # Real neighbours of the box are used: the row is a cut of the whole enlarged section.
    whole = np.stack([as_stored(restore("bicubic", section, 4), np.dtype(np.uint8)) for section in field.low])
    assert _row(found, "bicubic").scores.psnr == pytest.approx(psnr(whole[box.slices], field.truth[box.slices]), abs=1e-9)


def test_classical_methods_interpolate_along_z_too(deep: Any) -> None:
    restorer = Restorer(Matched(deep.volumes))
    for name in ("nearest", "bilinear", "bicubic", "gauss+bicubic"):
        method = METHODS[name]
        coarse = np.stack([filtered(method, section) for section in deep.low])
        whole = enlarge(coarse, (2, 4, 4), method.kind)
        for z in (0, 1, 7, 15):
            tile = restorer.grey(method, Box((z, 5, 6), (z + 1, 40, 61)))
            np.testing.assert_allclose(tile, whole[z, 5:40, 6:61], atol=1e-3, err_msg=name)


def test_classical_methods_see_real_neighbours_and_beyond_the_faces_mirrored_ones(deep: Any) -> None:
    restorer = Restorer(Matched(deep.volumes), {"z-gauss+bicubic": (1.2, 0.5)})
    method = METHODS["z-gauss+bicubic"]
    padded = np.pad(deep.low, ((method.reach, method.reach), (0, 0), (0, 0)), mode="reflect")
    coarse = np.stack([filtered(method, padded[z : z + 2 * method.reach + 1], (1.2, 0.5)) for z in range(len(deep.low))])
    whole = enlarge(coarse, (2, 4, 4), method.kind)
    for z in (0, 7, 15):
        np.testing.assert_allclose(restorer.grey(method, Box((z, 5, 6), (z + 1, 40, 61))), whole[z, 5:40, 6:61], atol=1e-3)


def test_a_single_section_has_no_rows_of_methods_that_see_neighbours(
    field: Any, write_volume: Callable[..., Volume], tmp_path: Path
) -> None:
    found = {row.name for row in evaluate(EvaluationRequest(field.volumes, sections=1)).rows}
    low = field.volumes.low
    one = {
        "restored": write_volume(tmp_path / "restored.zarr", field.restored[:1]),
        "truth": write_volume(tmp_path / "truth.zarr", field.truth[:1]),
        "low": write_volume(tmp_path / "low.zarr", field.low[:1], low.voxel_size, low.translation),
    }
    alone = {row.name for row in evaluate(EvaluationRequest(Volumes(**one))).rows}
    assert found - alone == {"z-gauss+bicubic", "nlm-3d", "tv-3d"}


def test_intervals_hold_the_score_and_the_gain_is_paired(found: Any) -> None:
    for row in found.rows:
        for metric, (low, high) in row.intervals.items():
            assert low <= getattr(row.scores, metric) <= high
    gain = next(gain for gain in found.gains if gain.metric == "psnr")
    best = max((row for row in found.rows if row.name != "restored"), key=lambda row: row.scores.psnr)
    assert gain.rival == best.name
    assert gain.value == pytest.approx(_row(found, "restored").scores.psnr - best.scores.psnr)
    assert 0 < gain.interval[0] <= gain.value <= gain.interval[1]
    assert "better than the best classical method" in verdict(found)[0]


def test_the_verdict_can_be_bad(field: Any, write_volume: Callable[..., Volume], tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, field.truth.shape).astype(np.uint8)
    volumes = dataclasses.replace(field.volumes, restored=write_volume(tmp_path / "noise.zarr", noise))
    assert "worse than the best classical method" in verdict(evaluate(EvaluationRequest(volumes, sections=1)))[0]


def test_a_volume_equal_to_its_truth_is_scored_and_json_stays_json(field: Any) -> None:
    volumes = Volumes(field.volumes.truth, field.volumes.truth, field.volumes.low)
    found = evaluate(EvaluationRequest(volumes, sections=2))
    assert _row(found, "restored").scores.psnr == float("inf")
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["rows"][0]["scores"]["psnr"] is None


def test_frc_needs_two_acquisitions(field: Any, found: Any, deep: Any) -> None:
    assert found.frc.crossings
    assert isinstance(found.fsc, NotAvailable)
    assert "4 sections" in found.fsc.reason
    assert evaluate(EvaluationRequest(dataclasses.replace(deep.volumes, low=None), sections=1)).fsc.patches == 1
    alone = evaluate(EvaluationRequest(dataclasses.replace(field.volumes, second=None), sections=1))
    assert isinstance(alone.frc, NotAvailable)
    assert "--second" in alone.frc.reason
    with pytest.raises(ConfigError, match="restored volume itself"):
        evaluate(EvaluationRequest(dataclasses.replace(field.volumes, second=field.volumes.restored)))


def test_two_copies_of_one_volume_are_no_two_acquisitions(
    field: Any, write_volume: Callable[..., Volume], tmp_path: Path
) -> None:
    copy = write_volume(tmp_path / "copy.zarr", field.restored)
    found = evaluate(EvaluationRequest(dataclasses.replace(field.volumes, second=copy, low=None), sections=1))
    assert "no independent" in found.frc.reason


def test_tuning_is_said_and_never_lowers_raw_psnr(field: Any, found: Any) -> None:
    tuned = evaluate(EvaluationRequest(field.volumes, tune=True))
    for row in tuned.rows:
        if METHODS.get(row.name, METHODS["nearest"]).grid:
            assert row.tuned
            assert row.scores.psnr >= _row(found, row.name).scores.psnr - 0.02
    assert any("tuned for raw PSNR on the very data shown" in words for words in protocol_words(tuned))
    rival = _row(tuned, tuned.gains[0].rival)
    assert f"the best classical method, {rival.name} at {rival.shown_strength} (95 %" in verdict(tuned)[0]
    with pytest.raises(ConfigError, match="--low"):
        evaluate(EvaluationRequest(dataclasses.replace(field.volumes, low=None), tune=True))


def test_a_method_that_is_not_installed_is_named_and_has_no_row(field: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "find_spec", lambda _name: None)
    found = evaluate(EvaluationRequest(field.volumes, sections=1))
    assert found.protocol.not_installed == ("bm3d",)
    assert "bm3d" not in [row.name for row in found.rows]
    assert any("Not installed: bm3d" in words for words in protocol_words(found))


def test_sections_are_spread_evenly() -> None:
    assert spread_sections(Box((0, 0, 0), (9, 1, 1)), 3) == [1, 4, 7]
    assert spread_sections(Box((5, 0, 0), (8, 1, 1)), 100) == [5, 6, 7]


def test_blocks_grow_until_they_are_few_enough() -> None:
    assert block_sums.block_edge((1000, 1000), 32) == 128
    edge = block_sums.block_edge((100_000, 100_000), 32)
    assert 32 * (-(-100_000 // edge)) ** 2 <= block_sums.MOST_BLOCKS


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"translation": (0.0, 4.0, 0.0)}, "input.position-mismatch", "0 x 1 x 0 voxels"),
        ({"voxel_size": (8.0, 4.0, 5.0)}, "input.voxel-size-mismatch", "8 x 4 x 5 nm"),
        ({"dtype": np.uint16}, "input.dtype-mismatch", "uint16"),
        ({"cut": 8}, "input.shape-mismatch", "--roi 0:4,0:192,0:236"),
    ],
)
def test_volumes_that_do_not_match_are_refused(
    field: Any, write_volume: Callable[..., Volume], tmp_path: Path, change: dict[str, Any], code: str, words: str
) -> None:
    voxels = field.restored[:, : 200 - change.get("cut", 0)].astype(change.get("dtype", np.uint8))
    place = {name: change[name] for name in ("translation", "voxel_size") if name in change}
    volumes = dataclasses.replace(field.volumes, restored=write_volume(tmp_path / "other.zarr", voxels, **place))
    with pytest.raises(InputError) as raised:
        evaluate(EvaluationRequest(volumes))
    assert raised.value.code == code
    assert words in str(raised.value)


def test_the_refusals_can_be_answered(field: Any, write_volume: Callable[..., Volume], tmp_path: Path) -> None:
    shifted = write_volume(tmp_path / "shifted.zarr", field.restored, translation=(0.0, 4.0, 0.0))
    volumes = dataclasses.replace(field.volumes, restored=shifted)
    found = evaluate(EvaluationRequest(volumes, same_corner=True, sections=1))
    assert any("whatever their translations say" in words for words in protocol_words(found))
    cut = write_volume(tmp_path / "cut.zarr", field.restored[:, :192])
    found = evaluate(
        EvaluationRequest(dataclasses.replace(field.volumes, restored=cut), roi=Box((0, 0, 0), (4, 192, 236)), sections=1)
    )
    assert found.protocol.box.shape == (4, 192, 236)


@pytest.mark.parametrize(
    ("size", "corner", "code"),
    [
        ((8.0, 16.0, 16.0), (0.0, 0.0, 0.0), "input.position-mismatch"),  # corners of voxels, not their centres, agree
        ((8.0, 14.0, 16.0), (0.0, 5.0, 6.0), "input.scale"),
    ],
)
def test_a_low_volume_elsewhere_is_refused(
    field: Any, write_volume: Callable[..., Volume], tmp_path: Path, size: Any, corner: Any, code: str
) -> None:
    low = write_volume(tmp_path / "low.zarr", field.low, size, corner)
    with pytest.raises(InputError) as raised:
        evaluate(EvaluationRequest(dataclasses.replace(field.volumes, low=low)))
    assert raised.value.code == code


def test_data_that_do_not_say_their_range_ask_for_it(write_volume: Callable[..., Volume], tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(0, 4095, (1, 40, 40)).astype(np.uint16)
    volumes = Volumes(write_volume(tmp_path / "a.zarr", wide // 2), write_volume(tmp_path / "b.zarr", wide))
    with pytest.raises(VolumetoolError, match="--data-range"):
        evaluate(EvaluationRequest(volumes))
    found = evaluate(EvaluationRequest(volumes, data_range=4095))
    assert found.rows[0].scores.psnr == pytest.approx(psnr(wide // 2, wide, 4095))
    assert found.protocol.ms_ssim_scales == 2
    assert any("2 of its 5 scales" in words for words in protocol_words(found))


def test_real_tissue_is_scored_like_its_arrays(data: Path, write_volume: Callable[..., Volume], tmp_path: Path) -> None:
    truth = tifffile.imread(data / "fib25-fibsem" / "fib25_train1.tif")[:2, :208, :224]
    low = np.rint(truth.reshape(2, 52, 4, 56, 4).mean(axis=(2, 4))).astype(np.uint8)
    restored = np.stack([as_stored(restore("bicubic", section, 4), truth.dtype) for section in low])
    volumes = Volumes(
        write_volume(tmp_path / "restored.zarr", restored),
        write_volume(tmp_path / "truth.zarr", truth),
        write_volume(tmp_path / "low.zarr", low, (8.0, 16.0, 16.0), (0.0, 6.0, 6.0)),
    )
    found = evaluate(EvaluationRequest(volumes))
    assert _row(found, "restored").scores == _row(found, "bicubic").scores
    assert _row(found, "bicubic").scores.psnr > _row(found, "nearest").scores.psnr + 1
