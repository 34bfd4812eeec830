"""Shards and regions: whole chunks, and few patches computed twice in the memory that is given."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_jobs import SMALL

from volumetool.errors import ConfigError
from volumetool.geometry import Lattice, Triple, default_shard, plan_levels
from volumetool.jobs.job import make_job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning import cache_policy
from volumetool.jobs.planning import cost as estimate
from volumetool.jobs.planning.calibrate import Sample
from volumetool.jobs.planning.layout import make_lattice, upright_shard
from volumetool.jobs.planning.memory import MemoryModel
from volumetool.jobs.planning.planner import plan
from volumetool.models import Model, load_model
from volumetool.processing.operation import OperationCard, open_operation
from volumetool.processing.operations.network import NetworkOperation
from volumetool.storage.create import VolumeLayout, create_volume

POWERS = st.integers(0, 8).map(lambda power: 2**power)


@given(chunk=st.tuples(POWERS, POWERS, POWERS), shape=st.tuples(*[st.integers(1, 50_000)] * 3))
def test_an_upright_shard_holds_the_chunks_of_the_default_one(chunk: tuple[int, int, int], shape: tuple[int, int, int]) -> None:
    upright, default = upright_shard(chunk, shape), default_shard(chunk, shape)
    assert math.prod(upright) == math.prod(default)
    assert all(a % b == 0 for a, b in zip(upright, chunk, strict=True))
    assert upright[0] <= default[0]
    assert upright[2] <= default[2]


@cache
def card_of(model: str) -> OperationCard:
    return open_operation(model).card


def lattice_of(model: str, shape: Triple, **options: object) -> Lattice:
    return make_lattice(make_job(input="in.zarr", output="out.zarr", model=model, **options), card_of(model), shape)


@given(st.sampled_from(["em-x4", "em-iso2", "em-z4"]), st.tuples(*[st.integers(1, 1500)] * 3))
def test_one_patch_covers_a_short_axis_where_it_stays_small(model: str, shape: Triple) -> None:
    """Asked for by name, the card's patch is never exceeded; else by a quarter, and there are no more patches for it."""
    card = card_of(model)
    own = lattice_of(model, shape)
    asked = lattice_of(model, shape, patch=",".join(map(str, card.patch)))
    assert math.prod(own.patch) <= 1.25 * math.prod(card.patch)
    assert all(line.patch <= patch for line, patch in zip(asked.axes, card.patch, strict=True))
    for line, before in zip(own.axes, asked.axes, strict=True):
        assert line == before or (line.count == 1 < before.count)


def test_a_stack_as_deep_as_the_patch_is_one_layer() -> None:
    assert [line.count for line in lattice_of("em-iso2", (64, 340, 520)).axes] == [1, 4, 6]
    assert [line.count for line in lattice_of("em-x4", (64, 340, 520)).axes] == [64, 1, 1]


def test_patches_in_plane_do_not_depend_on_the_number_of_sections() -> None:
    """A volume that grows keeps its patches, as far as sections are independent."""
    shallow, deep = (lattice_of("em-x4", (depth, 700, 1300)) for depth in (3, 3000))
    assert (shallow.y, shallow.x) == (deep.y, deep.x)


def test_sections_of_a_2d_model_do_not_overlap() -> None:
    with pytest.raises(ConfigError, match="section by section") as caught:
        lattice_of("em-x4", (8, 100, 100), overlap="1,48,48")
    assert caught.value.code == "config.patch"


def plan_large(folder: Path, **options: object) -> Plan:
    """Plan a 2D job at 4x over 3.2 Tvox of output; of the input no chunk is stored."""
    levels = plan_levels((2000, 10_000, 10_000), (30.0, 32.0, 32.0), (0.0, 0.0, 0.0))
    create_volume(str(folder / "in.zarr"), VolumeLayout("uint8", levels[:1]), {})
    model = "fake:identity?patch=1,432,432&overlap=0,48,48&trim=0,22,22"
    places = {"input": str(folder / "in.zarr"), "output": str(folder / "out.zarr")}
    return plan(make_job(**{**places, "model": model, "device": "cpu", "memory": "16GiB", "patch_cache": "never", **options}))


def test_a_large_2d_job_computes_few_patches_twice_in_16_gib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "free_bytes", lambda _output: None)
    # Regions are as wide as memory allows, not as time does.
    monkeypatch.setattr("volumetool.jobs.planning.planner.take_sample", lambda *_: Sample(patch_seconds=1e-3, compression=1.0))
    upright = plan_large(tmp_path).estimates
    cubes = plan_large(tmp_path, shard="256,512,1024").estimates
    assert upright.recomputed <= 0.05 * (upright.patches - upright.recomputed)
    assert cubes.recomputed > 2 * upright.recomputed
    assert max(upright.worker_bytes, cubes.worker_bytes) <= 16 * 2**30


def test_with_kept_patches_a_large_3d_job_computes_none_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With patches of 64 x 128 x 128, in 16 GiB: regions are short, and what is kept at once is a fraction of the output."""
    monkeypatch.setattr(estimate, "free_bytes", lambda _output: 2**41)
    monkeypatch.setattr(cache_policy, "trial_seconds", lambda *_: 0.1)
    monkeypatch.setattr("volumetool.jobs.planning.planner.take_sample", lambda *_: Sample(patch_seconds=1.0, compression=1.0))
    levels = plan_levels((2000, 8000, 8000), (16.0, 16.0, 16.0), (0.0, 0.0, 0.0))
    create_volume(str(tmp_path / "in.zarr"), VolumeLayout("uint8", levels[:1]), {})
    model = "fake:identity?dims=3&scale=2,2,2&patch=64,128,128&overlap=32,32,32&trim=14,14,14"
    places = {"input": str(tmp_path / "in.zarr"), "output": str(tmp_path / "out.zarr")}
    decided = plan(make_job(**places, model=model, device="cpu", memory="16GiB"))
    cost = decided.estimates
    assert (cost.kept, cost.recomputed) == ("all", 0)
    assert cost.seconds / decided.grid.count <= 120
    assert cost.kept_bytes < 0.1 * cost.written_bytes
    assert cost.worker_bytes <= 16 * 2**30


def test_more_voxels_and_wider_types_are_planned_with_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "free_bytes", lambda _output: None)
    monkeypatch.setattr(estimate, "output_files", lambda _output: None)
    levels = plan_levels((256, 4096, 4096), (8.0, 32.0, 32.0), (0.0, 0.0, 0.0))
    needs = []
    for dtype, region in (("uint8", "1,8,1"), ("uint8", "1,64,1"), ("float32", "1,64,1")):
        create_volume(str(tmp_path / f"{dtype}.zarr"), VolumeLayout(dtype, levels[:1]), {})
        places = {"input": str(tmp_path / f"{dtype}.zarr"), "output": str(tmp_path / f"{dtype}-out.zarr")}
        needs.append(plan(make_job(**{**SMALL, **places, "memory": "64GiB", "region": region})).estimates.worker_bytes)
    assert needs == sorted(set(needs))


def test_activations_are_planned_by_precision_and_dimensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same voxels and width: bfloat16 half of float32, a 3D network more than a 2D one, two streams twice of one."""
    monkeypatch.setattr(estimate, "free_bytes", lambda _output: None)
    spec = plan_large(tmp_path).spec
    flat, deep = load_model("em-x4"), load_model("em-iso2")
    architecture = deep.card.architecture.model_copy(update={"width": flat.card.architecture.width})
    deep = replace(deep, card=deep.card.model_copy(update={"architecture": architecture}))

    def needed(model: Model, precision: str, streams: int = 1) -> int:
        return MemoryModel(NetworkOperation(model), 1, precision, 1, streams).network(spec.lattice)

    assert 0 < needed(flat, "bfloat16") * 2 == needed(flat, "float32")
    assert needed(flat, "float32") < needed(deep, "float32") < 2 * needed(flat, "float32") == needed(flat, "float32", streams=2)


def test_a_region_holds_no_more_shards_than_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory grows with a region's length along the sweep up to the shards that one column keeps open, and then no more."""
    monkeypatch.setattr(estimate, "free_bytes", lambda _output: None)
    spec = plan_large(tmp_path).spec
    needs = [MemoryModel(open_operation("em-x4"), 1, "float32", 1)(spec, (1, 1, length)) for length in range(1, 30)]
    assert needs[0] < needs[1]
    assert needs[-1] == needs[-10]
    assert needs == sorted(needs)


def test_what_strips_share_of_wide_chunks_is_planned_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two copies of a chunk's voxels, or of `LAYER` bytes of them, where strips touch chunks often enough; else none."""
    monkeypatch.setattr(estimate, "free_bytes", lambda _output: None)
    lattice = plan_large(tmp_path).spec.lattice
    operation, window = open_operation("em-x4"), (64, 4096, lattice.patch[2])
    narrow, wide, tall = (
        MemoryModel(operation, 1, "float32", 1, chunk=(chunk, math.prod(chunk)))._shared(lattice, window)
        for chunk in ((64, 64, 8), (1, 1024, 1024), (64, 2048, 1024))
    )
    assert (narrow, wide, tall) == (0, 2 * 4096 * 1024, 2 * 64 * 2048 * 1024)
