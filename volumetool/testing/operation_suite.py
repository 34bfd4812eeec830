"""The promises that every operation must keep, as tests to subclass."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
from numpy.typing import NDArray
from skimage.measure import block_reduce

from volumetool.events import Event, RegionEnded
from volumetool.geometry import Triple, plan_levels
from volumetool.jobs.clusters import plan
from volumetool.jobs.job import make_job
from volumetool.jobs.plan import Plan
from volumetool.jobs.records import ledger
from volumetool.jobs.records.plan_file import open_ledger
from volumetool.jobs.run import RunResult, run
from volumetool.jobs.verification.verify import verify
from volumetool.listening.gate import Gate, accepted_hosts, base_url
from volumetool.live_view.factory import open_live
from volumetool.processing.operation import open_operation
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing
from volumetool.viewer.server import Serving, bind, build_app

Voxels = NDArray[Any]
Floats = NDArray[np.float32]

NODATA = 0
"""Value that marks the voxels without data of `OperationSuite.voxels`."""


@dataclass(frozen=True)
class Done:
    """A job that nothing disturbed.

    Attributes
    ----------
    plan : Plan
        Its plan.
    levels : list of numpy.ndarray
        All levels of its output.
    """

    plan: Plan
    levels: list[Voxels]


class OperationSuite:
    """The conformance suite of an operation: subclass it as ``Test...`` in a test module, and say which one it is.

    Attributes
    ----------
    operation : str
        Its name with its options, as ``volumetool apply`` takes it.
    shape : tuple of int
        Shape of the volume that it is tried on, in voxels, z, y, x; large enough for several regions.
    dtype : str
        Data type of that volume.
    shard : str
        Shard of the output, in voxels; a few dozen make several regions.
    other_patch : str, optional
        A patch that changes no byte, of an operation that does not blend.
    tolerance : float
        Largest error against `whole`, in grey values; 0 asks for the same bytes.
    """

    operation: str
    shape: Triple = (6, 70, 90)
    dtype: str = "uint8"
    shard: str = "4,32,32"
    other_patch: str | None = None
    tolerance: float = 0.0

    def whole(self, values: Floats) -> Floats:
        """Return the operation on a whole volume in memory, by a library.

        Parameters
        ----------
        values : numpy.ndarray of float32, shape (z, y, x)
            The volume, as the operation's card says that it is scaled.

        Returns
        -------
        numpy.ndarray, shape (z, y, x)
            Or (channels, z, y, x) where the card names channels.
        """
        raise NotImplementedError

    @classmethod
    def voxels(cls, shape: Triple) -> Voxels:
        """Return a volume of `shape` (z, y, x): noise with a hole of `NODATA`, which integer types have nowhere else."""
        if np.dtype(cls.dtype).kind == "f":
            voxels = np.random.default_rng(0).normal(100, 30, shape).astype(cls.dtype)
        else:
            voxels = np.random.default_rng(0).integers(1, np.iinfo(cls.dtype).max, shape, cls.dtype, endpoint=True)
        voxels[1:2, 5:30, 10:40] = NODATA
        return voxels

    @classmethod
    def options(cls, source: Path, output: Path, **more: Any) -> dict[str, Any]:
        """Return the options of a job of several regions; `more` wins."""
        small = {"chunk": "2,16,16", "shard": cls.shard, "region": "1,1,1", "memory": "4GiB", "device": "cpu"}
        return small | {"input": str(source), "output": str(output), "model": cls.operation, "workers": 1} | more

    @classmethod
    def perform(cls, source: Path, output: Path, **more: Any) -> RunResult:
        """Plan and run a job."""
        return run(plan(make_job(**cls.options(source, output, **more))))

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Give the volume, on disk."""
        return cls.write(tmp_path_factory.mktemp("operation") / "in.zarr", cls.voxels(cls.shape))

    @classmethod
    def write(cls, place: Path, voxels: Voxels) -> Path:
        """Write a volume of one level."""
        levels = plan_levels(voxels.shape, (30.0, 8.0, 8.0), (0.0, 0.0, 0.0), (4, 16, 16), (4, 16, 16))
        layout = VolumeLayout(cls.dtype, levels[:1])
        create_volume(str(place), layout, {})
        open_for_writing(str(place), layout, 0)[...].write(voxels).result()
        return place

    @pytest.fixture(scope="class")
    @classmethod
    def done(cls, source: Path) -> Done:
        """Give a job that nothing disturbed."""
        outcome = cls.perform(source, source.parent / "out.zarr")
        assert outcome.complete
        assert outcome.plan.grid.count > 2
        return Done(outcome.plan, _levels(source.parent / "out.zarr"))

    def check_whole(self, voxels: Voxels, decided: Plan, made: Voxels) -> None:
        """Compare the finest level of a job's output with `whole` of its input.

        Parameters
        ----------
        voxels : numpy.ndarray, shape (z, y, x)
            The input.
        decided : Plan
            The job's plan.
        made : numpy.ndarray, shape ([channels,] z, y, x)
            Finest level of its output.
        """
        spec, card = decided.spec, open_operation(self.operation).card
        zero, span = (part[:, None, None] for part in spec.input_scale(0))  # (z, 1, 1)
        values = voxels.astype(np.float32)
        scaled = values if card.normalisation.kind == "none" else (values - zero) / span
        expected = self.whole(scaled).astype(np.float32)  # ([channels,] z, y, x)
        sections = [spec.lattice.section(z) for z in range(made.shape[-3])]
        for channel, values in enumerate(expected if spec.outputs else [expected]):
            again, wide = (part[sections, None, None] for part in spec.output_scale(channel))  # (z, 1, 1)
            values *= wide
            values += again
        if np.dtype(spec.dtype).kind != "f":
            limits = np.iinfo(spec.dtype)
            expected = np.clip(np.rint(expected), limits.min, limits.max)
        if self.tolerance:
            np.testing.assert_allclose(made.astype(np.float64), expected, rtol=0, atol=self.tolerance)
        else:
            np.testing.assert_array_equal(made, expected.astype(spec.dtype), strict=True)

    def test_it_is_what_the_library_makes_of_the_whole_volume(self, done: Done) -> None:
        """At the faces, where the volume is mirrored, too."""
        self.check_whole(self.voxels(self.shape), done.plan, done.levels[0])

    def test_regions_patches_and_calls_change_no_byte(self, source: Path, done: Done, tmp_path: Path) -> None:
        """Nor do patches that are kept between regions."""
        cuts: list[dict[str, Any]] = [{"region": "1,2,3", "patch_cache": "always"}]
        if self.other_patch is not None:
            cuts.append({"patch": self.other_patch, "batch": 3})
        for number, cut in enumerate(cuts):
            output = tmp_path / f"{number}.zarr"
            assert self.perform(source, output, **cut).complete
            _assert_same(_levels(output), done.levels)

    def test_a_killed_job_goes_on_to_the_same_bytes(self, source: Path, done: Done, tmp_path: Path) -> None:
        """Regions that were done are not computed again."""
        options = self.options(source, tmp_path / "out.zarr")
        process = multiprocessing.get_context("spawn").Process(target=_run_until_killed, args=(options,))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        decided = plan(make_job(**options))
        before = open_ledger(decided).done
        outcome = run(decided)
        assert outcome.complete
        assert 0 < outcome.ran == outcome.regions - before < outcome.regions
        _assert_same(_levels(tmp_path / "out.zarr"), done.levels)

    def test_verify_finds_a_flipped_bit_and_nothing_before(self, source: Path, tmp_path: Path) -> None:
        """As in every output."""
        decided = self.perform(source, tmp_path / "out.zarr").plan
        assert verify(decided).ok
        shard = max((path for path in (tmp_path / "out.zarr" / "0" / "c").rglob("*") if path.is_file()), key=str)
        stored = bytearray(shard.read_bytes())
        stored[len(stored) // 3] ^= 1
        shard.write_bytes(stored)
        assert not verify(decided).ok

    def test_voxels_without_data_stay_so_and_change_few_others(self, source: Path, done: Done, tmp_path: Path) -> None:
        """Those within the operation's reach, as far as it does not look at statistics."""
        assert self.perform(source, tmp_path / "out.zarr", nodata=NODATA, fill=7).complete
        made, missing = _levels(tmp_path / "out.zarr")[0], self.voxels(self.shape) == NODATA
        cards = [open_operation(each).card for each in make_job(input="", model=self.operation).operations]
        shrink = cards[0].shrink
        if max(shrink) > 1:  # a voxel of which a part is missing is made of the others
            empty = missing[tuple(slice(n - n % s) for n, s in zip(missing.shape, shrink, strict=True))]
            empty = block_reduce(empty, shrink, np.min)
            assert (made[..., empty] == 7).all()
            assert not (made[..., ~empty] == 7).any()
            return
        scale = tuple(a // b for a, b in zip(made.shape[-3:], missing.shape, strict=True))
        assert (made[..., np.kron(missing, np.ones(scale, bool))] == 7).all()
        if all(card.normalisation.kind == "none" and card.matching is None for card in cards):
            farthest = (sum(axis) for axis in zip(*(card.receptive_field for card in cards), strict=True))
            reach = tuple(
                slice(max(0, low - r), high + r) for low, high, r in zip((1, 5, 10), (2, 30, 40), farthest, strict=True)
            )
            far = np.ones(self.shape, bool)
            far[reach] = False
            far = np.kron(far, np.ones(scale, bool)) & (done.levels[0] != 7)  # which a voxel with data may not be
            np.testing.assert_array_equal(made[far], done.levels[0][far])

    def test_the_live_view_shows_the_same_bytes(self, source: Path, done: Done, tmp_path: Path) -> None:
        """Computed where one looks, through HTTP."""
        job = make_job(**self.options(source, tmp_path / "nothing.zarr"))
        with open_live(job, into=False, ahead=0) as opened, bind() as bound:
            port = bound.getsockname()[1]
            gate = Gate(accepted_hosts("127.0.0.1", port))
            with Serving(build_app({"live": opened.keys}, gate), bound):
                url = f"{base_url('127.0.0.1', port)}/{gate.token}/live/0/"
                shown = ts.open({"driver": "zarr3", "kvstore": url}).result()[...].read().result()
        np.testing.assert_array_equal(shown, done.levels[0], strict=True)


def _run_until_killed(options: dict[str, Any]) -> None:
    """Run a job, and kill this process after its second region."""
    ledger.FLUSH_SECONDS = 0.0

    def kill(event: Event) -> None:
        if isinstance(event, RegionEnded) and event.done == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    run(plan(make_job(**options)), kill)


def _levels(place: Path) -> list[Voxels]:
    names = sorted((entry.name for entry in place.iterdir() if entry.name.isdecimal()), key=int)
    arrays = [ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{place}/{name}"}}) for name in names]
    return [np.asarray(array.result().read().result()) for array in arrays]


def _assert_same(levels: list[Voxels], others: list[Voxels]) -> None:
    assert len(levels) == len(others)
    for level, other in zip(levels, others, strict=True):
        np.testing.assert_array_equal(level, other, strict=True)
