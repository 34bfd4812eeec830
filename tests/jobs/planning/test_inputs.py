"""The input is what finished regions read, or the run says which of them it is not for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
from small_jobs import SMALL, Interrupting, Recording, digest, noise, read_levels, replicated, run, tree, write_input

from volumetool.errors import DataError, FingerprintError, OutputError, ResourceError
from volumetool.jobs.job import make_job
from volumetool.jobs.job_dir import JobDir
from volumetool.jobs.planning import cost
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.records.input_digest import RegionInput
from volumetool.jobs.status import job_status
from volumetool.processing.columns import input_windows
from volumetool.processing.patch_cache import PatchStore, kept_shape
from volumetool.storage.create import VolumeLayout, create_volume
from volumetool.storage.io.chunks import stored_chunks
from volumetool.storage.io.kvstore import kvstore_spec
from volumetool.storage.open import open_volume

Options = dict[str, Any]
SHAPE, CHUNK = (10, 37, 45), (4, 16, 16)


def write_raw(path: Path, voxels: np.ndarray[Any, Any], driver: str = "zarr", compression: Any = None) -> Path:
    """Write a bare array; without compression an edited byte is an edited voxel."""
    spec: dict[str, Any] = {"driver": driver, "kvstore": f"file://{path}/"}
    if driver == "n5":
        spec["metadata"] = {"blockSize": CHUNK[::-1], "dataType": "uint8", "dimensions": voxels.shape[::-1]}
        spec["metadata"]["compression"] = compression or {"type": "raw"}
        voxels = voxels.transpose()
    else:
        spec["metadata"] = {"chunks": CHUNK, "dtype": "|u1", "shape": voxels.shape, "compressor": compression}
        spec["metadata"]["dimension_separator"] = "."
    ts.open(spec, create=True).result().write(voxels).result()
    return path


def chunk_files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith((".z", "attr", "zarr")))


@pytest.fixture
def raw(tmp_path: Path) -> Options:
    """Give the options of a small job on an uncompressed input."""
    source = write_raw(tmp_path / "raw.zarr", noise(SHAPE))
    return {"input": str(source), "output": str(tmp_path / "out.zarr"), "voxel_size": "8,32,32", **SMALL}


def edit(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 0x55
    file.write_bytes(content)


def refused(**options: Any) -> set[int]:
    """Run a job that must be refused for its input; return the regions that the refusal names."""
    with pytest.raises(FingerprintError) as caught:
        run(**options)
    assert caught.value.code == "job.input-changed"
    return {int(line.split()[1]) for line in caught.value.message.splitlines() if line.startswith("  region ")}


def test_touched_files_are_compared_by_content_once(raw: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run(**raw)
    asked: list[int] = []
    content = RegionInput.content

    def counting(self: RegionInput, *given: Any) -> int:
        asked.append(1)
        return content(self, *given)

    monkeypatch.setattr(RegionInput, "content", counting)
    run(**raw)
    assert not asked
    for file in chunk_files(Path(raw["input"])):
        os.utime(file, (1, 1))
    assert run(**raw).complete
    assert len(asked) == outcome.regions
    assert run(**raw).complete
    assert len(asked) == outcome.regions


@pytest.mark.parametrize("number", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_an_edit_is_refused_with_its_regions_which_alone_are_made_again(raw: Options, tmp_path: Path, number: int) -> None:
    """Content of the same size: seen by its time, and in strict mode even when the time was put back."""
    run(**raw)
    random = np.random.default_rng(number)
    files = chunk_files(Path(raw["input"]))
    for count in range(number):
        file = files[random.integers(len(files))]
        times = file.stat()
        edit(file, 0)  # the first voxel of a chunk is never beyond the volume
        hidden = count % 2 == 0
        if hidden:
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
            assert run(**raw).complete
        strict = {"input_check": "strict"} if hidden else {}
        before = tree(Path(raw["output"]))
        named = refused(**raw | strict)
        assert named
        assert tree(Path(raw["output"])) == before
        again = Recording()
        outcome = run(again, **raw | strict | {"recompute_changed": True})
        assert outcome.complete
        made = {ended.region for ended in again.ended}
        assert named <= made < set(range(outcome.regions))
        np.testing.assert_array_equal(read_levels(raw["output"])[0], replicated(read_levels_of(raw), (1, 4, 4)))
    fresh = raw | {"output": str(tmp_path / "fresh.zarr")}
    assert run(**fresh).complete
    assert digest(fresh["output"]) == digest(raw["output"])


def read_levels_of(options: Options) -> np.ndarray[Any, Any]:
    return np.asarray(open_volume(options["input"], voxel_size=(8.0, 32.0, 32.0)).open(0).read().result())


def test_metadata_alone_see_no_edit(raw: Options) -> None:
    run(**raw)
    edit(chunk_files(Path(raw["input"]))[0], 0)
    assert run(**raw | {"input_check": "metadata"}).complete
    assert refused(**raw)


def test_a_chunk_that_came_to_be_missing_is_an_edit(raw: Options) -> None:
    run(**raw)
    chunk_files(Path(raw["input"]))[0].unlink()
    assert refused(**raw)


def test_an_edit_between_two_halves_reaches_no_kept_patch(raw: Options, tmp_path: Path) -> None:
    """A patch that was kept before is not taken for the patch of another input."""
    halves = raw | {"patch_cache": "always", "region": "1,1,1"}
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(5), **halves)
    for file in chunk_files(Path(raw["input"])):
        edit(file, 5)
    assert run(**halves | {"recompute_changed": True}).complete
    fresh = raw | {"output": str(tmp_path / "fresh.zarr")}
    run(**fresh)
    assert digest(fresh["output"]) == digest(raw["output"])


def test_a_kept_patch_knows_its_input(raw: Options) -> None:
    shelf = PatchStore(ts.KvStore.open("memory://").result(), "probe", "fingerprint", run(**raw).plan.sharing)
    output, patch = np.ones(kept_shape(shelf.sharing.lattice), np.float32), np.ones((1, 16, 16), np.float32)
    stored = shelf.encode("key", patch, output)
    assert shelf.decode("key", patch, stored) is not None
    patch[0, 3, 3] = 2
    assert shelf.decode("key", patch, stored) is None


def test_an_edit_of_the_mask_is_seen(options: Options, tmp_path: Path) -> None:
    mask = write_raw(tmp_path / "mask.zarr", np.ones(SHAPE, np.uint8))
    masked = options | {"mask": str(mask), "model": "fake:constant?value=3&patch=1,16,16&overlap=0,4,4&trim=0,1,1"}
    assert run(**masked).complete
    file = chunk_files(mask)[0]
    file.write_bytes(bytes(file.stat().st_size))
    assert refused(**masked)
    assert run(**masked | {"recompute_changed": True}).complete
    assert (read_levels(options["output"])[0] != 3).any()


def test_levels_that_are_added_in_place_change_nothing(tmp_path: Path) -> None:
    voxels = noise((10, 64, 64))
    source = write_input(tmp_path / "in.zarr", voxels, levels=1)
    options = SMALL | {"input": str(source), "output": str(tmp_path / "out.zarr")}
    run(**options)
    more = write_input(tmp_path / "more.zarr", voxels, levels=2)
    shutil.copytree(more / "1", source / "1")
    shutil.copy(more / "zarr.json", source / "zarr.json")
    assert len(open_volume(source).levels) == 2
    outcome = run(**options)
    assert (outcome.complete, outcome.ran) == (True, 0)


def test_what_is_not_stored_is_filled_and_told_of(raw: Options) -> None:
    """Writers leave chunks of nothing but the fill value out: by default that is what a missing chunk means."""
    chunk_files(Path(raw["input"]))[0].unlink()
    outcome = run(**raw)
    assert outcome.complete
    assert (read_levels(raw["output"])[0][:4, :64, :64] == 0).all()
    assert job_status(outcome.plan).absent > 0


def test_what_is_not_stored_fails_its_regions_where_that_was_asked_for(raw: Options) -> None:
    lost = chunk_files(Path(raw["input"]))[0]
    content = lost.read_bytes()
    lost.unlink()
    strict = raw | {"missing": "fail"}
    outcome = run(**strict)
    assert (outcome.complete, outcome.exit_code) == (False, 3)
    assert 0 < outcome.failed < outcome.regions == outcome.failed + outcome.done
    for record in outcome.failures:
        assert record.error["code"] == "data.missing"
        assert str(lost) in record.error["message"]
    lost.write_bytes(content)
    assert run(**strict).complete


@pytest.mark.parametrize("region", [pytest.param("1,1,1", marks=pytest.mark.slow), "1,1,2"])
def test_what_is_not_stored_is_skipped_as_voxels_without_data(raw: Options, region: str) -> None:
    """Exactly the voxels of the missing chunk become the fill value, on level 0; no coarse voxel mixes them in."""
    chunk_files(Path(raw["input"]))[0].unlink()
    outcome = run(**raw | {"missing": "skip", "fill": 7, "region": region})
    assert outcome.complete
    levels = read_levels(raw["output"])
    gone = np.zeros(levels[0].shape, bool)
    gone[:4, :64, :64] = True
    assert (levels[0][gone] == 7).all()
    assert (levels[0][~gone] != 7).all()
    want = replicated(read_levels_of(raw), (1, 4, 4))
    valued = ~gone & (want != 7)
    np.testing.assert_array_equal(levels[0][valued], want[valued])
    assert (levels[1][:2, :16, :16] == 7).all()


def test_zeros_that_are_stored_later_are_another_input_than_what_was_skipped(raw: Options) -> None:
    """The voxels that are read are the same."""
    chunk = chunk_files(Path(raw["input"]))[0]
    zeros = bytes(chunk.stat().st_size)
    chunk.unlink()
    skipping = raw | {"missing": "skip", "fill": 7}
    assert run(**skipping).complete
    chunk.write_bytes(zeros)
    assert 0 in refused(**skipping)


CODECS: dict[str, tuple[str, Any]] = {
    "blosc-lz4": ("zarr", {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}),
    "blosc-zstd": ("zarr", {"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 1}),
    "gzip": ("zarr", {"id": "gzip", "level": 5}),
    "zstd": ("zarr", {"id": "zstd", "level": 3}),
    "raw": ("zarr", None),
    "n5-gzip": ("n5", {"type": "gzip", "level": 5}),
    "n5-blosc": ("n5", {"type": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}),
}


def mutate(file: Path, random: np.random.Generator) -> None:
    """Flip bits, mostly of the header, or cut a file short."""
    content = bytearray(file.read_bytes())
    if random.random() < 0.5:
        content = content[: random.integers(len(content))]
    else:
        for _ in range(random.integers(1, 5)):
            reach = len(content) if random.random() < 0.5 else min(len(content), 32)
            content[random.integers(reach)] ^= 1 << int(random.integers(8))
    file.write_bytes(content)


@pytest.mark.parametrize("number", [8, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("codec", CODECS)
def test_reading_a_damaged_chunk_gives_voxels_or_an_error_with_its_name(tmp_path: Path, codec: str, number: int) -> None:
    driver, compression = CODECS[codec]
    source = write_raw(tmp_path / f"in.{driver}", noise(SHAPE), driver, compression)
    options = SMALL | {"input": str(source), "output": str(tmp_path / "out.zarr"), "voxel_size": "8,32,32"}
    decided = plan(make_job(**options))
    read = RegionInput(decided.job, open_volume(source, voxel_size=(8.0, 32.0, 32.0)), None, (1, 1, 1))
    spec, file, random = decided.spec, chunk_files(source)[0], np.random.default_rng(number)
    sound, region = file.read_bytes(), decided.grid.region(0)
    state = read.state(0, list(input_windows(spec, region)))
    errors: list[DataError] = []
    for _ in range(number):
        mutate(file, random)
        try:
            read.content(spec, region, state)
        except DataError as error:
            errors.append(error)
        file.write_bytes(sound)
    assert len(errors) >= number // 3  # every cut at least
    # A damaged length may ask for more memory than any chunk has.
    assert {error.code for error in errors} - {"data.oversized"} == {"data.unreadable"}
    assert all(str(file) in error.message for error in errors)


@pytest.mark.thin(3)
@pytest.mark.parametrize("number", [1, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("codec", CODECS)
def test_a_damaged_chunk_never_ends_the_driver_and_is_named(tmp_path: Path, codec: str, number: int) -> None:
    """Whatever is left of a chunk: its regions fail with its name, or the decoder found nothing wrong; all others go on."""
    driver, compression = CODECS[codec]
    source = write_raw(tmp_path / f"in.{driver}", noise(SHAPE), driver, compression)
    options = SMALL | {"input": str(source), "output": str(tmp_path / "out.zarr"), "voxel_size": "8,32,32"}
    random, files = np.random.default_rng(number), chunk_files(source)
    for _ in range(number):
        file = files[random.integers(len(files))]
        sound = file.read_bytes()
        mutate(file, random)
        outcome = run(**options | {"overwrite": True})
        assert outcome.done + outcome.failed == outcome.regions
        assert outcome.done > 0
        for record in outcome.failures:
            assert record.error["code"] in ("data.unreadable", "data.oversized")
            assert str(file) in record.error["message"], record.error
        file.write_bytes(sound)
    assert run(**options | {"overwrite": True}).complete


@pytest.mark.parametrize("driver", ["zarr", "n5", "zarr3", "zarr3-v2"])
def test_chunks_are_named_as_the_format_spells_them(tmp_path: Path, driver: str) -> None:
    """Every stored file is some chunk's, and only what was stored has a state; a deleted one covers exactly its voxels."""
    voxels = noise(SHAPE)
    if driver.startswith("zarr3"):
        encoding = {"name": "v2"} if driver == "zarr3-v2" else {"name": "default"}
        grid = {"name": "regular", "configuration": {"chunk_shape": CHUNK}}
        metadata = {"shape": SHAPE, "data_type": "uint8", "chunk_grid": grid, "chunk_key_encoding": encoding}
        spec = {"driver": "zarr3", "kvstore": f"file://{tmp_path}/in/", "metadata": metadata}
        ts.open(spec, create=True).result().write(voxels).result()
    else:
        write_raw(tmp_path / "in", voxels, driver)
    volume = open_volume(tmp_path / "in", voxel_size=(1.0, 1.0, 1.0))
    chunks = stored_chunks(volume, 0, 0)
    whole = type(chunks.box((0, 0, 0))).whole(SHAPE)
    places = list(chunks.places(whole))
    assert {tmp_path / "in" / chunks.key(place) for place in places} == set(chunk_files(tmp_path / "in"))
    assert None not in list(chunks.states(places))
    lost = places[5]
    (tmp_path / "in" / chunks.key(lost)).unlink()
    gone = np.asarray(volume.open(0).read().result()) != voxels
    absent = chunks.never_stored(whole, volume.open(strict=True))
    assert absent == {lost}
    np.testing.assert_array_equal(chunks.absent(whole, absent), gone)
    listed = chunks.listed()
    assert listed is not None
    assert {tuple(place) for place in np.argwhere(~listed).tolist()} == {lost}


@pytest.mark.s3
def test_objects_have_a_state_too(bucket: str) -> None:
    voxels = noise((4, 16, 16))
    metadata = {"chunks": (4, 8, 8), "dtype": "|u1", "shape": (4, 16, 16)}
    spec = {"driver": "zarr", "kvstore": kvstore_spec(f"{bucket}/in.zarr"), "metadata": metadata}
    array = ts.open(spec, create=True).result()
    array[:, :, :8].write(voxels[:, :, :8]).result()
    volume = open_volume(f"{bucket}/in.zarr", voxel_size=(1.0, 1.0, 1.0))
    chunks = stored_chunks(volume, 0, 0)
    places = [(0, 0, 0), (0, 1, 0), (0, 0, 1)]
    first = list(chunks.states(places))
    assert [state is None for state in first] == [False, False, True]
    array[0, 0, 0].write(int(voxels[0, 0, 0]) ^ 1).result()
    second = list(chunks.states(places))
    assert (second[0] != first[0], second[1] == first[1]) == (True, True)


def test_a_job_that_goes_on_looks_at_memory_and_disk_again(raw: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    run(**raw | {"roi": "0:4,0:9,0:9"})
    with pytest.raises(ResourceError) as caught:
        plan(make_job(**raw | {"memory": "1KiB"}))
    assert caught.value.code == "resource.memory"
    monkeypatch.setattr(cost, "free_bytes", lambda _output: 10)
    with pytest.raises(ResourceError) as caught:
        plan(make_job(**raw))
    assert caught.value.code == "resource.disk"
    monkeypatch.undo()
    run(**raw)
    monkeypatch.setattr(cost, "free_bytes", lambda _output: 10)
    assert run(**raw).complete  # nothing is left to write


@pytest.mark.thin(4)
@pytest.mark.parametrize("plan_is", ["sound", "damaged", "foreign"])
@pytest.mark.parametrize("output_is", ["foreign volume", "files", "nothing", "own"])
def test_overwriting_deletes_nothing_that_no_job_made(options: Options, tmp_path: Path, plan_is: str, output_is: str) -> None:
    """A plan beside the output is no proof: the output itself must say that this job made it."""
    run(**options)
    output, file = Path(options["output"]), Path(JobDir(options["output"]).url) / "plan.json"
    if plan_is != "sound":
        text = file.read_text()
        file.write_text(text[:-500] if plan_is == "damaged" else '{"plans": "of somebody else"}')
    if output_is != "own":
        shutil.rmtree(output)
    if output_is == "foreign volume":
        create_volume(str(output), VolumeLayout("uint8", one_level()), {"made": "by hand"})
    elif output_is == "files":
        output.mkdir()
        (output / "notes.txt").write_text("precious")
    before = tree(tmp_path)
    may = output_is == "own" or (plan_is == "sound" and output_is == "nothing")
    if may:
        assert run(**options | {"overwrite": True}).complete
        return
    with pytest.raises(OutputError) as caught:
        run(**options | {"overwrite": True})
    assert caught.value.code == "output.foreign"
    assert tree(tmp_path) == before


def one_level() -> Any:
    from volumetool.geometry import plan_levels

    return plan_levels((8, 8, 8), (8.0, 8.0, 8.0), (0.0, 0.0, 0.0), (8, 8, 8), (8, 8, 8))[:1]
