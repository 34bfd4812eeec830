"""A card that cannot be true is refused, and the hash covers what changes a voxel and nothing else."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from volumetool.models import VALIDATION, Metric, ModelCard, Normalisation, Provenance, UNetConfig, VoxelSizeRange

GOOD: dict[str, object] = {
    "name": "em-x4",
    "description": "test",
    "licence": "MIT",
    "dims": 2,
    "scale": (1, 4, 4),
    "patch": (1, 144, 144),
    "overlap": (0, 16, 16),
    "trim": (0, 4, 4),
    "granularity": (1, 4, 4),
    "receptive_field": (0, 25, 25),
    "normalisation": Normalisation(),
    "architecture": UNetConfig(),
}


def card(**changes: object) -> ModelCard:
    return ModelCard.model_validate(GOOD | changes)


def test_a_good_card_survives_json() -> None:
    assert ModelCard.model_validate_json(card().model_dump_json()) == card()


def test_stride_is_patch_less_overlap() -> None:
    assert card().stride == (1, 128, 128)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"scale": (1, 2, 2)}, "scale"),
        ({"dims": 3}, "dims"),
        ({"z_context": 1}, "z_context"),
        ({"granularity": (1, 2, 2)}, "granularity"),
        ({"granularity": (1, 0, 4)}, "granularity"),
        ({"patch": (1, 146, 144)}, "multiples of 4"),
        ({"overlap": (0, 16, 18)}, "multiples of 4"),
        ({"trim": (0, 9, 4)}, "must fit into the overlap"),
        ({"trim": (0, -1, 4)}, "must fit into the overlap"),
        ({"overlap": (0, 80, 16)}, "exceeds the stride"),
        ({"patch": (2, 144, 144)}, "along z"),
        ({"receptive_field": (0, -1, 25)}, "receptive field"),
        ({"name": "EM x4"}, "name"),
        ({"secret": 1}, "secret"),
        ({"architecture": {"kind": "python", "source": "x"}}, "architecture"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        card(**changes)


def test_a_plain_cut_in_the_middle_of_the_overlap_is_allowed() -> None:
    assert card(trim=(0, 8, 8)).trim == (0, 8, 8)


def test_cards_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        card().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("patch", (1, 152, 144)),
        ("overlap", (0, 8, 16)),
        ("trim", (0, 8, 4)),
        ("normalisation", Normalisation(kind="none")),
        ("architecture", UNetConfig(width=16)),
    ],
)
def test_fields_that_change_voxels_are_semantic(field: str, value: object) -> None:
    assert card(**{field: value}).semantic() != card().semantic()


@pytest.mark.parametrize(("field", "value"), [("description", "other"), ("name", "other"), ("licence", "BSD-3-Clause")])
def test_fields_that_change_no_voxel_are_not(field: str, value: object) -> None:
    assert card(**{field: value}).semantic() == card().semantic()


@pytest.mark.parametrize(
    ("voxel_size", "holds"), [((40, 32, 32), True), ((40, 16, 64), True), ((40, 15.9, 32), False), ((40, 32, 65), False)]
)
def test_voxel_size_range_includes_its_ends(voxel_size: tuple[float, float, float], holds: bool) -> None:  # noqa: FBT001
    assert VoxelSizeRange(smallest=(1, 16, 16), largest=(1000, 64, 64)).holds(voxel_size) is holds


def test_impossible_ranges_are_refused() -> None:
    with pytest.raises(ValidationError, match="smallest"):
        VoxelSizeRange(smallest=(1, 64, 16), largest=(1000, 16, 64))
    with pytest.raises(ValidationError, match="percentile"):
        Normalisation(low=99, high=1)


def test_gains_are_means_over_protocols_by_tissue_and_leave_out_what_the_training_kept_apart() -> None:
    rows = [
        ("liver", "a", "linear", 20.0),
        ("liver", "a", "net", 21.0),
        ("liver", "b", "linear", 22.0),
        ("liver", "b", "net", 25.0),
    ]
    rows += [("liver", "a", "cubic", 90.0), (VALIDATION, "a", "linear", 20.0), (VALIDATION, "a", "net", 30.0)]
    rows += [("bone", "a", "linear", 20.0), ("bone", "a", "net", 19.5)]
    metrics = tuple(Metric(dataset=d, protocol=p, method=m, psnr=v, ssim=0.5) for d, p, m, v in rows)
    assert Provenance(metrics=metrics).gains == {"liver": pytest.approx(2.0), "bone": pytest.approx(-0.5)}
    assert Provenance().gains == {}
