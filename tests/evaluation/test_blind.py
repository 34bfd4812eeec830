"""The kit hides what is what, shows what it says, and counts what was chosen."""

from __future__ import annotations

import csv
import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from volumetool.errors import InputError, OutputError
from volumetool.evaluation.blind_rating import KEY, PAGE, read_ratings, write_kit
from volumetool.evaluation.evaluate import EvaluationRequest


@pytest.fixture(scope="module")
def kit(field: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blind") / "kit"
    assert (
        write_kit(EvaluationRequest(field.volumes, seed=3), folder) == 12
    )  # 4 sections with room for one field, 3 pairs of kinds
    return folder


def _key(folder: Path) -> list[dict[str, str]]:
    with (folder / KEY).open(newline="") as file:
        return list(csv.DictReader(file))


def _rate(folder: Path, path: Path, choose: Any) -> Path:
    lines = ["kit,trial,choice,seconds", *(f"{row['kit']},{row['trial']},{choose(row)},1.0" for row in _key(folder))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_pictures_are_what_the_key_says(field: Any, kit: Path) -> None:
    kinds = {"truth": field.truth, "restored": field.restored}
    for row in _key(kit):
        for side in ("left", "right"):
            shown = np.asarray(Image.open(kit / f"trial_{int(row['trial']):03d}_{side}.png"), np.float64)
            if row[side] in kinds:
                z, y, x = (int(row[axis]) for axis in "zyx")
                source = kinds[row[side]][z, y : y + shown.shape[0], x : x + shown.shape[1]]
                assert np.corrcoef(shown.ravel(), source.ravel())[0, 1] > 0.99


def test_every_pair_is_shown_equally_often_in_mixed_order(kit: Path) -> None:
    rows = _key(kit)
    pairs = Counter(tuple(sorted((row["left"], row["right"]))) for row in rows)
    assert set(pairs.values()) == {4}
    assert len(pairs) == 3
    assert len({(row["left"], row["right"]) for row in rows}) > 3  # sides are mixed


def test_neither_page_nor_names_tell_what_is_what(kit: Path) -> None:
    text = (kit / PAGE).read_text()
    for word in ("restored", "truth", "bilinear", "http"):
        assert word not in text
    assert not any(word in path.name for path in kit.iterdir() for word in ("restored", "truth", "bilinear"))


def test_the_same_seed_makes_the_same_kit(field: Any, kit: Path, tmp_path: Path) -> None:
    write_kit(EvaluationRequest(field.volumes, seed=3), tmp_path / "again")
    for path in kit.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    write_kit(EvaluationRequest(field.volumes, seed=4), tmp_path / "other")
    assert (tmp_path / "other" / KEY).read_text() != (kit / KEY).read_text()


def test_ratings_are_counted_with_an_exact_interval(kit: Path, tmp_path: Path) -> None:
    def truth_first(row: dict[str, str]) -> str:
        return "left" if row["left"] == "truth" else "right" if row["right"] == "truth" else "equal"

    ratings = [_rate(kit, tmp_path / f"{name}.csv", truth_first) for name in ("a", "b")]
    found = {(each.first, each.second): each for each in read_ratings(kit, ratings)}
    best = found["restored", "truth"]
    assert (best.for_first, best.for_second, best.equal, best.share) == (0, 8, 0, 0.0)
    assert best.interval == pytest.approx((0.0, 1 - 0.025 ** (1 / 8)))  # Clopper and Pearson, none of 8
    undecided = found["bilinear", "restored"]
    assert (undecided.equal, undecided.share, undecided.interval) == (8, None, None)


def test_ratings_of_another_kit_and_rubbish_are_refused(field: Any, kit: Path, tmp_path: Path) -> None:
    write_kit(EvaluationRequest(dataclasses.replace(field.volumes, low=None), seed=9), tmp_path / "other")
    foreign = _rate(tmp_path / "other", tmp_path / "foreign.csv", lambda _row: "left")
    with pytest.raises(InputError, match="line 2"):
        read_ratings(kit, [foreign])
    with pytest.raises(InputError, match="cannot be read"):
        read_ratings(kit, [tmp_path / "nowhere.csv"])
    with pytest.raises(InputError, match="line 2"):
        read_ratings(kit, [_rate(kit, tmp_path / "bad.csv", lambda _row: "middle")])


def test_a_folder_in_use_is_left_alone(field: Any, kit: Path) -> None:
    with pytest.raises(OutputError, match="not empty"):
        write_kit(EvaluationRequest(field.volumes), kit)
