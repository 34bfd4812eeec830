"""Networks of others keep the promises of every operation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import foreign_networks as made
import numpy as np
import pytest
import torch
import zoo_packages as zoo
from numpy.typing import NDArray
from small_jobs import read_levels
from torch import nn

from volumetool.errors import ConfigError, ModelError, VolumetoolError
from volumetool.jobs.clusters import plan
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.report import describe_plan
from volumetool.models.card import Normalisation
from volumetool.models.foreign.measure import measure_seam
from volumetool.models.foreign.program import open_program
from volumetool.models.foreign.trust import TRUSTED
from volumetool.processing.operation import open_operation, operation_name, reopen_operation, trust_operation
from volumetool.processing.spec import Numerics
from volumetool.testing.operation_suite import OperationSuite

Floats = NDArray[np.float32]


class _Small(OperationSuite):
    """Volumes and options of the suite, for jobs that name their own operation."""

    operation = ""


def denoiser() -> nn.Module:
    torch.manual_seed(0)
    inside = nn.Sequential(nn.MaxPool2d(2), made.conv(2), nn.ReLU(), nn.Upsample(scale_factor=2))
    return nn.Sequential(made.conv(2, (1, 3)), nn.ReLU(), inside, made.conv(2, (3, 1))).eval()


class TestOnnx(OperationSuite):
    """A network with a pool. Another patch is another job: what a library computes may depend on it in the last bit."""

    dtype = "float32"
    tolerance = 1e-3
    slow_cases = ("test_a_killed_job_goes_on_to_the_same_bytes", "test_verify_finds_a_flipped_bit_and_nothing_before")

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def network(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        """Write the file."""
        cls.operation = str(made.write_onnx(tmp_path_factory.mktemp("network") / "denoiser.onnx", denoiser()))

    def whole(self, values: Floats) -> Floats:
        margin = 8
        wide = np.pad(values, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
        with torch.inference_mode():
            return denoiser()(torch.from_numpy(wide)[:, None])[:, 0, margin:-margin, margin:-margin].numpy()


class TestTorchScript(TestOnnx):
    """The same network, traced."""

    pytestmark = pytest.mark.slow

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def network(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:  # type: ignore[override]  # it is trusted
        """Write the file, and trust it."""
        cls.operation = str(made.write_torchscript(tmp_path_factory.mktemp("network") / "denoiser.pt", denoiser()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(TRUSTED, "")
            trust_operation(cls.operation)
            yield


class TestTorchExport(TestOnnx):
    """The same network, as a program of torch.export."""

    pytestmark = pytest.mark.slow

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def network(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        """Write the file."""
        cls.operation = str(made.write_torch_export(tmp_path_factory.mktemp("network") / "denoiser.pt2", denoiser()))


class TestBioImagePackage(TestOnnx):
    """The same network in a package of the zoo, between a step on voxels and the statistics of the plan, and a sigmoid."""

    slow_cases = (*TestOnnx.slow_cases, "test_regions_patches_and_calls_change_no_byte")

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def network(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        """Write the package."""
        said = zoo.version_04(
            "byxc",
            before=[
                {"name": "zero_mean_unit_variance", "kwargs": {"mode": "per_sample", "axes": "yx"}},
                {"name": "scale_linear", "kwargs": {"gain": 3, "offset": 1}},
            ],
            after=[{"name": "sigmoid"}],
        )
        empty = zoo.npy(np.zeros(1, np.float32))
        files = {"w.onnx": zoo.onnx_bytes(denoiser(), "byxc"), "in.npy": empty, "out.npy": empty}
        cls.operation = str(zoo.write_package(tmp_path_factory.mktemp("network") / "package.zip", said, files))

    def whole(self, values: Floats) -> Floats:
        return 1 / (1 + np.exp(-super().whole(3 * values + 1)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return made.write_onnx(tmp_path / "My Network.onnx", denoiser())


@pytest.fixture
def everywhere(tmp_path: Path) -> Path:
    return made.write_onnx(tmp_path / "everywhere.onnx", made.looks_at_everything("instance-norm"))


def test_a_plan_says_what_a_network_is_how_far_it_looks_and_what_seams_remain(file: Path, tmp_path: Path) -> None:
    source = _Small.write(tmp_path / "in.zarr", _Small.voxels((2, 40, 40)))
    named = operation_name(str(file), ["normalise=range"])
    decided = plan(make_job(**_Small.options(source, tmp_path / "out.zarr", model=named)))
    told = dict(describe_plan(decided))["network"]
    for words in ("ONNX network in 2D", "0 to 1 over the range", "0 x 5 x 5 voxels far", "all that it looks at", "seams"):
        assert words in told
    assert decided.model == "my-network"
    assert decided.provenance("unfinished")["model"]["about"] == told


def test_a_network_takes_and_gives_the_range_of_an_integer_type(tmp_path: Path) -> None:
    """One that copies, so that all grey values come back."""
    copy = nn.Conv2d(1, 1, 1)
    nn.init.ones_(copy.weight)
    nn.init.zeros_(copy.bias)
    voxels = _Small.voxels((2, 40, 40))
    source = _Small.write(tmp_path / "in.zarr", voxels)
    named = f"{made.write_onnx(tmp_path / 'copy.onnx', copy)};normalise=range"
    assert _Small.perform(source, tmp_path / "out.zarr", model=named).complete
    np.testing.assert_array_equal(read_levels(tmp_path / "out.zarr")[0], voxels, strict=True)


def test_a_network_gets_mean_0_and_deviation_1_and_its_output_may_stay_as_it_is(tmp_path: Path) -> None:
    copy = nn.Conv2d(1, 1, 1)
    nn.init.ones_(copy.weight)
    nn.init.zeros_(copy.bias)
    source = _Small.write(tmp_path / "in.zarr", _Small.voxels((1, 40, 40)))
    named = f"{made.write_onnx(tmp_path / 'copy.onnx', copy)};normalise=standard;restore=no"
    assert _Small.perform(source, tmp_path / "out.zarr", model=named).complete
    stored = read_levels(tmp_path / "out.zarr")[0]
    assert stored.dtype == np.float32
    assert abs(stored.mean()) < 1e-5
    assert abs(stored.std() - 1) < 1e-5


def test_a_network_that_looks_at_everything_is_refused_until_that_is_accepted(everywhere: Path, tmp_path: Path) -> None:
    source = _Small.write(tmp_path / "in.zarr", _Small.voxels((2, 40, 40)))
    with pytest.raises(ModelError, match="along y, x") as caught:
        open_operation(str(everywhere))
    assert caught.value.code == "model.whole-tile"
    assert "accept_whole_tile=yes" in caught.value.hint
    decided = plan(make_job(**_Small.options(source, tmp_path / "out.zarr", model=f"{everywhere};accept_whole_tile=yes")))
    assert any("patches may show" in note for note in decided.notes)
    assert "patches are blended" in decided.about


def test_what_is_measured_is_kept_and_a_broken_note_is_measured_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLUMETOOL_CACHE", str(tmp_path / "cache"))
    first = open_operation(str(file))
    kept = sorted((tmp_path / "cache" / "networks").iterdir())
    assert len(kept) == 2
    for note in kept:
        note.write_bytes(b"{}")
    assert open_operation(str(file)).identity == first.identity
    with monkeypatch.context() as patched:
        patched.setattr("volumetool.processing.operations.foreign.measure", None)
        assert open_operation(str(file)).card == first.card


def test_another_file_and_other_options_are_another_network(file: Path) -> None:
    """A worker that opens the file after it was replaced refuses it."""
    first = open_operation(str(file))
    assert open_operation(f"{file};halo=0,9,9").identity != first.identity
    assert open_operation(f"{file};halo=0,9,9").card.overlap == (0, 20, 20)
    made.write_onnx(file, made.conv(2, (1, 1)))
    with pytest.raises(ModelError) as caught:
        reopen_operation(first.spec, first.identity)
    assert caught.value.code == "model.changed"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    said = zoo.version_05(
        before=[{"id": "scale_range"}], after=[{"id": "scale_mean_variance", "kwargs": {"reference_tensor": "raw"}}]
    )
    empty = zoo.npy(np.zeros(1, np.float32))
    files = {"w.onnx": zoo.onnx_bytes(denoiser(), "bcyx"), "in.npy": empty, "out.npy": empty}
    return zoo.write_package(tmp_path / "package.zip", said, files)


def test_a_package_says_itself_which_values_it_takes_and_its_output_goes_back_where_that_is_asked(package: Path) -> None:
    with pytest.raises(ConfigError, match="says itself"):
        open_operation(f"{package};normalise=range")
    with pytest.raises(ModelError, match="scale_mean_variance after the network") as caught:
        open_operation(str(package))
    assert "restore=yes" in str(caught.value)
    card = open_operation(f"{package};restore=yes").card
    assert card.restores
    assert card.normalisation == Normalisation(low=0, high=100)


def test_a_network_that_fails_on_a_patch_is_named_with_the_patch_and_its_own_words(file: Path) -> None:
    """Whatever happens in it is no fault of volumetool."""
    operation = open_operation(str(file))
    compute = operation.open(torch.device("cpu"), Numerics("float32", 1, pad=False))
    with pytest.raises(
        ModelError, match=r"my-network failed on a patch of 31 x 33 voxels: Fail: .*Concat|INVALID|ShapeInference|Add"
    ) as caught:
        compute(np.zeros((1, 2, 31, 33), np.float32))
    assert caught.value.code == "model.failed"
    assert "\n" not in caught.value.message


def test_the_memory_of_a_network_is_measured(tmp_path: Path) -> None:
    """A thin first layer says nothing of a wide one behind it."""
    thin, wide = (
        nn.Sequential(made.conv(2, (1, 2)), made.conv(2, (2, width)), nn.ReLU(), made.conv(2, (width, 1))).eval()
        for width in (2, 40)
    )
    operation = open_operation(str(made.write_onnx(tmp_path / "thin.onnx", thin)))
    assert operation.working_bytes((1, 256, 256), "float32") < 40 * 4 * 256 * 256
    program = open_program(made.write_onnx(tmp_path / "wide.onnx", wide))
    assert measure_seam(program, operation.card).bytes_per_voxel > 40 * 4


@pytest.mark.parametrize(
    "option", ["normalise=best", "halo=3", "halo=0,-1,0", "width=2", "accept_whole_tile=perhaps", "channel=-1", "channel=1"]
)
def test_options_that_a_network_does_not_take_are_refused(option: str, file: Path) -> None:
    with pytest.raises(VolumetoolError) as caught:
        open_operation(f"{file};{option}")
    assert caught.value.code in ("config.option", "model.geometry")
