"""A trust volume has voxels as large as the input's: how its grid is found, where it lies, what it takes, and earlier ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import SMALL, Interrupting, attributes, digest, noise, read_levels, run, shard_files, write_input
from small_networks import small_network

from volumetool.errors import ConfigError, FingerprintError
from volumetool.geometry import coarse_level, plan_levels, without_shards
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.jobs.verification.adopt import adopt
from volumetool.jobs.verification.verify import Extent, verify
from volumetool.processing.operation import open_operation, with_trust
from volumetool.storage.open import open_volume

NOWHERE = (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("voxel_size", "scale", "level", "grid"),
    [
        ((30.0, 32.0, 32.0), (1, 4, 4), 2, (30.0, 32.0, 32.0)),
        ((8.0, 8.0, 8.0), (1, 4, 4), 2, (8.0, 8.0, 8.0)),
        ((30.0, 16.0, 16.0), (1, 2, 2), 1, (30.0, 16.0, 16.0)),
        ((16.0, 16.0, 16.0), (2, 2, 2), 1, (16.0, 16.0, 16.0)),
        ((32.0, 8.0, 8.0), (4, 1, 1), 1, (16.0, 16.0, 16.0)),
        ((8.0, 32.0, 32.0), (1, 4, 4), 2, (32.0, 32.0, 32.0)),
        ((30.0, 8.0, 8.0), (1, 1, 1), 0, (30.0, 8.0, 8.0)),
    ],
    ids=["em-x4", "em-x4, cubes", "em-x2", "em-iso2", "em-z4", "em-x4, finer along z", "em-denoise"],
)
def test_it_begins_at_the_finest_level_with_no_more_voxels_than_the_input(
    voxel_size: tuple[float, float, float], scale: tuple[int, int, int], level: int, grid: tuple[float, float, float]
) -> None:
    for shape in ((40, 512, 512), (33, 301, 507)):
        fine = tuple(size / factor for size, factor in zip(voxel_size, scale, strict=True))
        made = tuple(n * factor for n, factor in zip(shape, scale, strict=True))
        levels = plan_levels((made[0], made[1], made[2]), (fine[0], fine[1], fine[2]), NOWHERE)
        assert coarse_level(levels, shape[0] * shape[1] * shape[2]) == level
        assert levels[level].voxel_size == grid


def test_levels_that_regions_do_not_write_are_left_out_and_the_coarsest_one_stands_in() -> None:
    levels = plan_levels((8, 512, 512), (30.0, 8.0, 8.0), NOWHERE, chunk=(8, 64, 64), shard=(8, 128, 128))
    assert [level.fused for level in levels] == [True, True, False, False]
    assert coarse_level(levels, 1) == 1
    assert coarse_level(without_shards(levels), 1) == 0
    assert coarse_level(levels[:1], 1) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a network, an input, and a job with a trust volume, in float32, which nothing disturbed."""
    folder = tmp_path_factory.mktemp("grid")
    small_network(folder / "tiny.safetensors")
    write_input(folder / "in.zarr", noise((3, 40, 51)), voxel_size=(30.0, 16.0, 16.0))
    assert run(**options(folder)).complete
    return folder


def options(folder: Path, **more: Any) -> dict[str, Any]:
    """Return the options of such a job; `more` wins, and None takes an option away."""
    given = SMALL | {"model": str(folder / "tiny.safetensors"), "chunk": "2,16,16", "shard": "2,64,64"}
    given |= {"dtype": "float32", "region": "1,1,1"}
    given |= {name: str(folder / f"{place}.zarr") for name, place in (("input", "in"), ("output", "out"), ("trust", "trust"))}
    return {name: value for name, value in (given | more).items() if value is not None}


def test_values_are_means_over_voxels_of_the_input_and_stand_where_these_do(folder: Path, tmp_path: Path) -> None:
    """Against the channels of every voxel: patches are blended after they were averaged, where ramps are not quite constant."""
    named = str(folder / "tiny.safetensors") + ";expected_error=true;consistency=true"
    run(**options(folder, output=str(tmp_path / "all.zarr"), model=named, trust=None, dtype=None))
    image, *channels = read_levels(tmp_path / "all.zarr")[0]
    np.testing.assert_array_equal(read_levels(folder / "out.zarr")[0], image)
    means = np.stack([channel.reshape(3, 40, 2, 51, 2).mean((2, 4)) for channel in channels])
    off = abs(read_levels(folder / "trust.zarr")[0] - means)
    assert off.max() < 0.2 * means.std()
    assert np.median(off) < 1e-5 * means.std()
    trust, source, told = (open_volume(str(folder / f"{name}.zarr")) for name in ("trust", "in", "out"))
    first, below = trust.levels[0], source.levels[0]
    assert (first.shape, first.voxel_size, first.translation) == (below.shape, below.voxel_size, below.translation)
    assert [level.shape for level in trust.levels] == [level.shape for level in told.levels[1:]]
    own = attributes(folder / "trust.zarr")
    assert (own["block"], own["unit"]) == ([1, 2, 2], "grey values of the output")


def stored_bytes(place: Path) -> int:
    """Return the bytes of all shards of a volume."""
    return sum(file.stat().st_size for file in shard_files(place))


def test_of_two_channels_at_twice_the_scale_half_the_bytes_are_written(folder: Path) -> None:
    assert stored_bytes(folder / "trust.zarr") < 0.55 * stored_bytes(folder / "out.zarr")


@pytest.mark.slow
def test_of_em_x4_an_eighth_of_the_bytes_is_written(tmp_path: Path) -> None:
    """Two channels of a sixteenth of the voxels."""
    write_input(tmp_path / "in.zarr", noise((4, 130, 130)), voxel_size=(30.0, 32.0, 32.0))
    own = options(tmp_path, model="em-x4", patch="1,64,64", overlap="0,24,24", shard="4,256,256", chunk="4,64,64", dtype=None)
    assert run(**own).complete
    assert stored_bytes(tmp_path / "trust.zarr") < 0.14 * stored_bytes(tmp_path / "out.zarr")


def test_a_box_that_is_cut_out_begins_on_a_voxel_of_the_input(folder: Path, tmp_path: Path) -> None:
    """Its trust volume stands where these voxels do, and says of them what that of the whole says."""
    places = {name: str(tmp_path / f"{name}.zarr") for name in ("output", "trust")}
    assert run(**options(folder, **places, roi="1:3,7:38,5:50", crop=True)).complete
    cut, whole = (open_volume(place) for place in (places["trust"], str(folder / "trust.zarr")))
    assert cut.levels[0].shape == (2, 31, 45)
    assert cut.levels[0].translation == tuple(
        at + n * size for at, n, size in zip(whole.translation, (1, 7, 5), whole.voxel_size, strict=True)
    )
    np.testing.assert_array_equal(read_levels(places["trust"])[0], read_levels(folder / "trust.zarr")[0][:, 1:3, 7:38, 5:50])


def test_a_job_that_an_earlier_version_began_goes_on_on_the_grid_of_its_output(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its plan says no level; what is begun now is on the coarser grid, and blocks are for trust volumes alone."""
    shutil.copytree(folder / "in.zarr", tmp_path / "in.zarr")
    shutil.copy(folder / "tiny.safetensors", tmp_path)
    with monkeypatch.context() as earlier:
        earlier.setattr("volumetool.jobs.planning.resolve.coarse_level", lambda *_: 0)
        with pytest.raises(KeyboardInterrupt):
            run(Interrupting(1), **options(tmp_path))
    before = stored_plan(str(tmp_path / "out.zarr"))
    assert not {"trust_level", "block"} & set(str(before.spec.plain()).replace("'", " ").split())
    outcome = run(**options(tmp_path))
    assert outcome.complete
    assert outcome.plan.fingerprint == before.fingerprint
    assert read_levels(tmp_path / "trust.zarr")[0].shape == (2, 3, 80, 102)
    assert digest(tmp_path / "out.zarr") == digest(folder / "out.zarr")
    assert verify(stored_plan(str(tmp_path / "out.zarr")), Extent("full")).ok
    shutil.rmtree(tmp_path / "out.zarr.job")
    adopted = adopt(str(tmp_path / "out.zarr"))  # cut into regions as they would be now
    assert adopted.regions == adopted.of
    assert run(**options(tmp_path)).ran == 0
    assert plan(make_job(**options(tmp_path, overwrite=True))).spec.trust_level == 1
    with pytest.raises(ConfigError, match="block is for a trust volume"):
        plan(make_job(**options(tmp_path, model=f"{folder}/tiny.safetensors;expected_error=true;block=1,2,2", trust=None)))


def test_the_operation_averages_as_far_as_blocks_divide_the_scale() -> None:
    operation = open_operation("em-z4")
    made = with_trust(operation, means=(2, 2, 2))
    assert [channel.block for channel in made.card.channels] == [(1, 1, 1), (2, 1, 1)]
    assert made.identity != with_trust(operation).identity
    assert open_operation(made.spec).identity == made.identity


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("consistency=true;block=0,1,1", "every axis must be above 0"),
        ("consistency=true;block=1,3,3", r"blocks of \(1, 3, 3\) voxels, but tiny makes \(1, 2, 2\)"),
        ("consistency=true;block=1,2,2", "block is for a trust volume"),
        ("consistency=true;steps=true", "steps is for blocks of several voxels"),
    ],
    ids=["none", "not of the scale", "without a trust volume", "steps without blocks"],
)
def test_means_that_somebody_asks_for_by_name_are_refused_with_the_reason(folder: Path, said: str, word: str) -> None:
    own = options(folder, model=f"{folder}/tiny.safetensors;{said}", output=str(folder / "new.zarr"), trust=None)
    with pytest.raises(ConfigError, match=word):
        plan(make_job(**own))


def test_shards_that_move_the_grid_are_named_and_not_the_weights(folder: Path) -> None:
    with pytest.raises(FingerprintError) as caught:
        plan(make_job(**options(folder, shard="2,16,16")))
    assert [line.strip() for line in caught.value.message.splitlines()[1:]] == ["--shard: 2,64,64 then, 2,16,16 now"]
