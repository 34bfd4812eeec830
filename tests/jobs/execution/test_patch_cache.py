"""Kept patches: what several regions need is computed once, and no output byte depends on it."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_jobs import SMALL, SMALL_3D, Interrupting, Recording, digest, noise, read_levels, run, write_input

from volumetool.errors import StorageFullError
from volumetool.events import Event, RegionEnded, RunStarted
from volumetool.geometry import PatchSharing, Triple
from volumetool.jobs.execution.clean import Cleaned, clean_output
from volumetool.jobs.job import make_job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.records.ledger import DONE
from volumetool.jobs.records.plan_file import open_ledger
from volumetool.processing.engine import Engine
from volumetool.processing.patch_cache import RegionPatchCache, kept_bytes
from volumetool.storage.io.kvstore import list_keys
from volumetool.storage.open import open_volume

Options = dict[str, Any]

FLAT = SMALL | {"region": "1,1,1", "patch_cache": "always"}
BLOCKS = SMALL_3D | {"patch_cache": "always"}
KINDS = {"2d": FLAT, "3d": BLOCKS, "spread": BLOCKS | {"shard": "4,16,32"}}
"""Patches of the last one reach over more than two regions along an axis."""


class Counting(Recording):
    """Counts the patches that regions ask the network for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop: int | None = None) -> None:
        super().__init__()
        self._asked: list[int] = []  # several streams append to it
        self.stop = stop
        compute = Engine._compute

        def counted(engine: Engine, part: Any, *places: Any) -> Any:
            self._asked.append(len(part))
            return compute(engine, part, *places)

        monkeypatch.setattr(Engine, "_compute", counted)

    @property
    def asked(self) -> int:
        return sum(self._asked)

    def __call__(self, event: Event) -> None:
        """Forget what planning and the worker's probe asked for."""
        if isinstance(event, RunStarted):
            self._asked.clear()
        super().__call__(event)

    def after_region(self, _: RegionEnded) -> None:
        """Interrupt the run after `stop` regions."""
        if len(self.ended) == self.stop:
            raise KeyboardInterrupt


def recomputed(plan: Plan, run: Recording) -> int:
    """Return how many patches a run computed that an earlier region had computed, too."""
    regions = {ended.region for ended in run.ended}
    return sum(record.recomputed for record in open_ledger(plan).latest() if record.region in regions)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Give a small noise volume on disk: 6, 12 or 36 regions."""
    return write_input(tmp_path / "in.zarr", noise((8, 24, 40)))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, volume: Path, tmp_path: Path) -> Options:
    """Give the options of a job that keeps patches, of regions of one shard."""
    return {"input": str(volume), "output": str(tmp_path / "out.zarr"), **KINDS[request.param]}


@pytest.fixture
def blocks(volume: Path, tmp_path: Path) -> Options:
    """Give the options of a 3D job that keeps patches."""
    return {"input": str(volume), "output": str(tmp_path / "out.zarr"), **BLOCKS}


def without(options: Options) -> str:
    """Return the digest of the same job when it keeps nothing."""
    plain = f"{options['output']}.plain"
    assert run(**options | {"output": plain, "patch_cache": "never", "region": None}).complete
    return digest(plain)


def kept_folder(options: Options) -> Path:
    return Path(f"{options['output']}.job", "patches")


def kept_files(options: Options) -> list[Path]:
    """Return the patches that are kept now."""
    return sorted(file for file in kept_folder(options).rglob("*") if file.is_file())


def patches_of(decided: Plan, regions: list[int]) -> set[Triple]:
    """Return the patches that some regions need, by trying every patch of the lattice along each axis."""
    lattice, found = decided.spec.lattice, set()
    for index in regions:
        box = decided.grid.region(index).box
        axes = [
            [i for i in range(line.count) if line.weight_start(i) < high and low < line.weight_stop(i)]
            for line, low, high in zip(lattice.axes, box.start, box.stop, strict=True)
        ]
        found.update(itertools.product(*axes))
    return found


@pytest.mark.thin(3)
def test_the_network_is_asked_once_for_each_patch_of_the_lattice(kind: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Counting(monkeypatch)
    outcome = run(seen, **kind)
    assert outcome.complete, outcome.failures
    distinct = outcome.plan.spec.lattice.count
    totals, planned = open_ledger(outcome.plan).totals(), outcome.plan.estimates
    assert seen.asked == totals.patches == planned.patches == distinct
    assert totals.recomputed == planned.recomputed == 0
    assert not kept_folder(kind).exists()
    assert digest(kind["output"]) == without(kind)


def test_what_is_on_disk_at_once_stays_within_the_estimate(kind: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    last = RegionPatchCache._last

    def counted(self: RegionPatchCache) -> Any:
        counts.append(len(kept_files(kind)))
        return last(self)

    monkeypatch.setattr(RegionPatchCache, "_last", counted)
    outcome = run(**kind)
    size = kept_bytes(outcome.plan.spec.lattice)
    assert 0 < max(counts) * size <= outcome.plan.estimates.kept_bytes
    assert outcome.plan.estimates.kept_bytes <= outcome.plan.estimates.patches * size * 4


@pytest.mark.thin(3)
@pytest.mark.parametrize("after", [1, 4])
def test_a_run_that_goes_on_finds_what_was_kept(kind: Options, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    first = Counting(monkeypatch, stop=after)
    with pytest.raises(KeyboardInterrupt):
        run(first, **kind)
    assert kept_files(kind)
    asked = first.asked
    again = Counting(monkeypatch)
    outcome = run(again, **kind)
    assert asked + again.asked == outcome.plan.spec.lattice.count
    assert not kept_folder(kind).exists()
    assert digest(kind["output"]) == without(kind)


def flip(position: int) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        damaged = bytearray(file.read_bytes())
        damaged[position] ^= 1
        file.write_bytes(damaged)

    return change


def take_another(file: Path) -> None:
    """Put another patch's bytes in the place of a patch."""
    file.write_bytes(max(file.parent.iterdir()).read_bytes())


DAMAGES = {
    "gone": lambda file: file.unlink(),
    "torn": lambda file: file.write_bytes(file.read_bytes()[:-5]),
    "empty": lambda file: file.write_bytes(b""),
    "too long": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "a bit of its voxels": flip(500),
    "a bit of its head": flip(2),
    "a bit of its checksum": flip(6),
    "another patch": take_another,
}


@pytest.mark.thin(4)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_patch_is_computed_again(blocks: Options, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    first = Counting(monkeypatch, stop=5)
    with pytest.raises(KeyboardInterrupt):
        run(first, **blocks)
    asked = first.asked
    files = kept_files(blocks)[:-1]  # the last one is whole, so that it can take the place of the others
    for file in files:
        DAMAGES[damage](file)
    again = Counting(monkeypatch)
    outcome = run(again, **blocks)
    assert outcome.complete, outcome.failures
    assert asked + again.asked == outcome.plan.spec.lattice.count + len(files)
    assert recomputed(outcome.plan, again) == len(files)
    assert digest(blocks["output"]) == without(blocks)


def test_without_its_kept_patches_a_run_that_goes_on_computes_the_frontier_again(
    blocks: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Counting(monkeypatch, stop=5)
    with pytest.raises(KeyboardInterrupt):
        run(first, **blocks)
    shutil.rmtree(kept_folder(blocks))
    again = Counting(monkeypatch)
    outcome = run(again, **blocks)
    done = patches_of(outcome.plan, [ended.region for ended in first.ended])
    left = patches_of(outcome.plan, [ended.region for ended in again.ended])
    assert again.asked == len(left)
    assert recomputed(outcome.plan, again) == len(done & left)
    assert digest(blocks["output"]) == without(blocks)


@pytest.mark.parametrize("choices", [("always", "never"), pytest.param(("never", "always"), marks=pytest.mark.slow)])
def test_keeping_may_change_from_run_to_run(blocks: Options, choices: tuple[str, str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(5), **blocks | {"patch_cache": choices[0]})
    outcome = run(**blocks | {"patch_cache": choices[1]})
    assert outcome.complete
    assert not kept_folder(blocks).exists()
    assert digest(blocks["output"]) == without(blocks)


def test_a_part_first_and_then_the_whole(blocks: Options) -> None:
    part = run(**blocks | {"roi": "0:3,0:10,0:21"})
    assert part.plan.estimates.patches == open_ledger(part.plan).totals().patches
    assert not kept_folder(blocks).exists()
    assert run(**blocks).complete
    assert digest(blocks["output"]) == without(blocks)


def test_a_region_that_fails_leaves_no_patch_and_is_made_later(blocks: Options) -> None:
    chunk = Path(blocks["input"]) / "0" / "c" / "0" / "0" / "0"
    sound = chunk.read_bytes()
    chunk.write_bytes(sound[:-3])
    outcome = run(**blocks)
    assert 0 < outcome.failed < outcome.regions
    assert not kept_folder(blocks).exists()
    chunk.write_bytes(sound)
    again = run(**blocks)
    assert again.complete
    assert open_ledger(again.plan).totals().patches >= again.plan.spec.lattice.count
    assert digest(blocks["output"]) == without(blocks)


def test_skipped_patches_are_neither_kept_nor_counted_twice(
    blocks: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voxels = noise((10, 37, 45))
    voxels[:, :, 12:40] = 9
    blocks["input"] = str(write_input(tmp_path / "flat.zarr", voxels))
    seen = Counting(monkeypatch)
    outcome = run(seen, **blocks)
    totals = open_ledger(outcome.plan).totals()
    assert totals.skipped > 0
    assert totals.patches == outcome.plan.spec.lattice.count
    assert (seen.asked, totals.recomputed) == (totals.patches - totals.skipped, 0)
    assert digest(blocks["output"]) == without(blocks)


def test_cleaning_and_overwriting_remove_kept_patches(blocks: Options) -> None:
    for remove in (lambda: clean_output(plan(make_job(**blocks))), lambda: run(**blocks | {"overwrite": True})):
        with pytest.raises(KeyboardInterrupt):
            run(Interrupting(5), **blocks | {"overwrite": True})
        files = {str(file) for file in kept_files(blocks)}
        assert files
        removed = remove()
        assert not kept_folder(blocks).exists()
        assert not isinstance(removed, Cleaned) or files <= set(removed.removed)
    assert digest(blocks["output"]) == without(blocks)


@pytest.mark.slow
def test_two_processes_share_patches_and_write_the_bytes_of_one(blocks: Options) -> None:
    # Slow enough for both to have begun before one of them is done with everything.
    blocks["model"] += "&seconds=0.05"
    seen = Recording()
    outcome = run(seen, **blocks | {"workers": 2})
    assert outcome.complete, outcome.failures
    assert len({ended.worker for ended in seen.ended}) == 2
    plain = plan(make_job(**blocks | {"output": f"{blocks['output']}.other", "patch_cache": "never"})).estimates
    totals = open_ledger(outcome.plan).totals()
    assert totals.patches - totals.recomputed == outcome.plan.spec.lattice.count
    assert totals.recomputed <= plain.recomputed
    assert not kept_folder(blocks).exists()
    assert digest(blocks["output"]) == without(blocks)


def test_a_full_shelf_ends_the_run_and_names_the_option(blocks: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def result(self) -> None:
            raise OSError("No space left on device")

    monkeypatch.setattr(RegionPatchCache, "_begin", lambda self, *_: self._await(Full()))
    with pytest.raises(StorageFullError) as caught:
        run(**blocks)
    assert "--patch-cache" in caught.value.message


@pytest.mark.s3
def test_patches_are_kept_in_a_bucket(blocks: Options, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = blocks | {"output": f"{bucket}/out.zarr"}
    first = Counting(monkeypatch, stop=5)
    with pytest.raises(KeyboardInterrupt):
        run(first, **remote)
    assert list_keys(f"{bucket}/out.zarr.job", "patches/")
    asked = first.asked
    again = Counting(monkeypatch)
    outcome = run(again, **remote)
    assert outcome.complete, outcome.failures
    assert asked + again.asked == outcome.plan.spec.lattice.count
    assert list_keys(f"{bucket}/out.zarr.job", "patches/") == []
    run(**blocks)
    stored = open_volume(remote["output"]).open().read().result()
    assert (stored == read_levels(blocks["output"])[0]).all()


def test_a_region_done_before_needs_no_patch(blocks: Options) -> None:
    """Patches are kept for regions that this run will still come to, and for no other."""
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(5), **blocks)
    decided = plan(make_job(**blocks))
    done = [index for index, state in enumerate(open_ledger(decided).states) if state == DONE]
    left = [index for index in range(decided.grid.count) if index not in done]
    frontier = patches_of(decided, done) & patches_of(decided, left)
    assert {tuple(map(int, file.name.split("-"))) for file in kept_files(blocks)} == frontier
    sharing = PatchSharing(decided.grid, decided.spec.lattice)
    assert frontier == {
        patch
        for patch in patches_of(decided, done)
        if {DONE} < {int(open_ledger(decided).states[owner]) for owner in sharing.owners(0, patch)}
    }
