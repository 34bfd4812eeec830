"""`--tta`: a channel of the trust volume says how far the network's outputs of turned and mirrored patches spread."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_jobs import SMALL, Interrupting, attributes, digest, noise, read_levels, run, write_input
from small_networks import small_network

from volumetool.errors import ConfigError, FingerprintError
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.planning.report import describe_plan
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.jobs.verification.verify import Extent, verify
from volumetool.processing.operation import open_operation
from volumetool.processing.spec import Numerics

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a network that says no error, an input, and a job that nothing disturbed."""
    folder = tmp_path_factory.mktemp("spread")
    small_network(folder / "tiny.safetensors", expected_error=False)
    write_input(folder / "in.zarr", noise((4, 38, 41)), voxel_size=(8.0, 8.0, 8.0), chunk=(8, 16, 16))
    assert run(**options(folder)).complete
    return folder


def options(folder: Path, **more: Any) -> dict[str, Any]:
    """Return the options of such a job; `more` wins, and None takes an option away."""
    given = SMALL | {"model": str(folder / "tiny.safetensors"), "shard": "4,32,32", "region": "1,1,1", "tta": True}
    given |= {"input": str(folder / "in.zarr"), "output": str(folder / "out.zarr"), "trust": str(folder / "trust.zarr")}
    return {name: value for name, value in (given | more).items() if value is not None}


def turned(function: Any, patches: Floats) -> list[Floats]:
    """Return the outputs of patches turned by quarters, and mirrored; by halves alone where they are no squares."""
    quarters = range(4) if patches.shape[-1] == patches.shape[-2] else (0, 2)
    outputs = []
    for mirrored in (False, True):
        for quarter in quarters:
            own = np.rot90(patches[..., ::-1] if mirrored else patches, quarter, (-2, -1))
            back = np.rot90(np.asarray(function(np.ascontiguousarray(own))), -quarter, (-2, -1))
            outputs.append(back[..., ::-1] if mirrored else back)
    return outputs


@pytest.mark.parametrize(("dims", "shape"), [(2, (2, 1, 16, 16)), (2, (2, 1, 16, 24)), (3, (1, 8, 16, 16))])
def test_it_is_the_standard_deviation_over_all_ways_to_turn_and_mirror(
    tmp_path: Path, dims: int, shape: tuple[int, ...]
) -> None:
    """The image is the output of the patch as it is."""
    file, numerics = small_network(tmp_path / "tiny.safetensors", dims=dims), Numerics("float32", shape[0], pad=False)
    patches = np.random.default_rng(1).random(shape, np.float32)
    plain = open_operation(file).open(torch.device("cpu"), numerics)
    both = open_operation(f"{file};spread=true").open(torch.device("cpu"), numerics)
    image, spread = np.asarray(both(patches)).swapaxes(0, 1)
    outputs = turned(plain, patches)
    assert len(outputs) == (8 if shape[-1] == shape[-2] else 4)
    np.testing.assert_array_equal(image, plain(patches))
    np.testing.assert_allclose(spread, np.std(outputs, axis=0), atol=1e-4 * np.std(outputs))
    assert spread.min() >= 0
    assert spread.mean() > 0.05 * image.std()


def test_the_trust_volume_has_the_channel_and_the_output_is_that_of_a_job_without(folder: Path, tmp_path: Path) -> None:
    run(**options(folder, output=str(tmp_path / "plain.zarr"), trust=None, tta=None))
    assert digest(tmp_path / "plain.zarr") == digest(folder / "out.zarr")
    assert attributes(folder / "trust.zarr")["channels"] == ["spread", "consistency"]
    spread = read_levels(folder / "trust.zarr")[0][0]
    assert spread.dtype == np.int8
    assert spread.min() >= 0
    assert len(np.unique(spread)) > 5
    told = dict(describe_plan(plan(make_job(**options(folder)))))
    assert told["trust"].endswith("the network runs 8 times for each patch, turned and mirrored")


@pytest.mark.parametrize("more", [{"region": "1,2,1"}, {"patch_cache": "always"}], ids=["other regions", "kept patches"])
def test_both_volumes_have_the_same_bytes_for_any_cut_after_an_interruption(
    folder: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    shutil.copytree(folder / "in.zarr", tmp_path / "in.zarr")
    places = {name: str(tmp_path / f"{name}.zarr") for name in ("in", "out", "trust")}
    own = options(folder, input=places["in"], output=places["out"], trust=places["trust"], **more)
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(2), **own)
    assert run(**own).complete
    assert [digest(tmp_path / f"{name}.zarr") for name in ("out", "trust")] == [
        digest(folder / f"{name}.zarr") for name in ("out", "trust")
    ]
    assert verify(stored_plan(places["out"]), Extent("full")).ok


def test_without_it_is_another_job_and_without_a_trust_volume_it_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FingerprintError) as caught:
        plan(make_job(**options(folder, tta=None)))
    assert [line.strip() for line in caught.value.message.splitlines()[1:]] == ["--tta: given then, not given now"]
    with pytest.raises(ConfigError, match="--tta without --trust"):
        plan(make_job(**options(folder, trust=None, output=str(tmp_path / "new.zarr"))))
