"""Any damage to what a job wrote is found, and nothing is found where nothing is damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from small_jobs import SMALL, attributes, digest, noise, run, shard_files, tree, write_input

from volumetool.errors import ConfigError, OutputError
from volumetool.jobs.job_dir import COARSE
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.jobs.verification.repair import mark_for_recompute
from volumetool.jobs.verification.verify import Extent, Report, make_extent, verify, verify_output
from volumetool.storage.io.chunk_keys import VOLUME_METADATA
from volumetool.storage.writing.names import DEFAULT, WrittenName

Random = np.random.Generator
Break = Callable[[Path, Random], None]


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in get_args(WrittenName) if name != DEFAULT]
every_format = pytest.mark.parametrize("finished", [DEFAULT, *OTHERS], indirect=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Give the options of a job that is done: whoever changes its output puts it right again."""
    folder, name = tmp_path_factory.mktemp("finished"), getattr(request, "param", DEFAULT)
    write_input(folder / "in.zarr", noise((10, 37, 45)))
    place = folder / ("out.zarr" if name == DEFAULT else "out")
    options = {"input": str(folder / "in.zarr"), "output": str(place), "format": name, **SMALL}
    if name != DEFAULT:
        options["chunk"] = options.pop("shard")
    assert run(**options).complete
    return options


@pytest.fixture
def copy(finished: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Give a copy of the finished job to break."""
    for suffix in ("", ".job"):
        shutil.copytree(f"{finished['output']}{suffix}", tmp_path / f"out.zarr{suffix}")
    return finished | {"output": str(tmp_path / "out.zarr")}


def kinds_of_files(output: str) -> dict[str, list[Path]]:
    """Return everything that a job relies on, by kind; an empty segment of the ledger holds nothing to be damaged."""
    job = Path(f"{output}.job")
    return {
        "shards": shard_files(output),
        "metadata": sorted(file for file in Path(output).rglob("*") if file.name in VOLUME_METADATA),
        "records": [*(file for file in sorted((job / "ledger").iterdir()) if file.stat().st_size), job / COARSE],
        "plan": [job / "plan.json", job / "sections.csv"],
    }


def flip(file: Path, random: Random) -> None:
    content = bytearray(file.read_bytes())
    content[random.integers(len(content))] ^= 1 << int(random.integers(8))
    file.write_bytes(content)


def cut(file: Path, random: Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: random.integers(len(content))])


def delete(file: Path, random: Random) -> None:  # noqa: ARG001
    file.unlink()


def report_of(output: str, extent: Extent) -> Report:
    return verify_output(output, extent)[1]


def find_all(output: str, extent: Extent, how: Break, number: int) -> None:
    random = np.random.default_rng(number)
    for _ in range(number):
        kinds = kinds_of_files(output)
        files = kinds[str(random.choice(list(kinds)))]
        file = files[random.integers(len(files))]
        if how is delete and file.name == "plan.json":
            continue  # without it there is no job to verify, and that is what the user is told
        sound = file.read_bytes()
        how(file, random)
        damaged = b"" if not file.exists() else file.read_bytes()
        try:
            report = report_of(output, extent)
            assert not report.ok, (file, len(sound), damaged[:200])
            assert all(damage.detail for damage in report.damaged)
        finally:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(sound)
    assert report_of(output, extent).ok


@every_format
@pytest.mark.parametrize("level", ["stored", "full"])
@pytest.mark.parametrize(
    ("how", "number"),
    [
        (flip, 15),
        (cut, 15),
        (delete, 10),
        pytest.param(flip, 1000, marks=pytest.mark.slow),
        pytest.param(cut, 1000, marks=pytest.mark.slow),
        pytest.param(delete, 200, marks=pytest.mark.slow),
    ],
)
def test_every_damage_to_shards_metadata_and_records_is_found(
    finished: dict[str, Any], level: str, how: Break, number: int
) -> None:
    find_all(finished["output"], make_extent(level, None, 0, None), how, number)


@every_format
@pytest.mark.parametrize("level", ["stored", "full"])
@pytest.mark.parametrize("number", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_swapped_files_are_found(finished: dict[str, Any], level: str, number: int) -> None:
    random, files = np.random.default_rng(number), shard_files(finished["output"])
    found = 0
    while found < number:
        first, second = (files[n] for n in random.choice(len(files), 2, replace=False))
        contents = first.read_bytes(), second.read_bytes()
        if contents[0] == contents[1]:
            continue
        first.write_bytes(contents[1])
        second.write_bytes(contents[0])
        report = report_of(finished["output"], make_extent(level, None, 0, None))
        first.write_bytes(contents[0])
        second.write_bytes(contents[1])
        assert not report.ok, (first, second)
        found += 1


@every_format
@pytest.mark.parametrize("number", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_nothing_is_found_where_nothing_is_damaged(finished: dict[str, Any], number: int) -> None:
    before = tree(Path(finished["output"]).parent)
    for count in range(number):
        level = ("structure", "stored", "full")[count % 3]
        report = report_of(finished["output"], make_extent(level, None, int(count == 0), None))
        assert report.damaged == []
        assert (report.regions, report.shards > 0) == (stored_plan(finished["output"]).grid.count, True)
    assert tree(Path(finished["output"]).parent) == before


def test_the_parts_of_a_sample_find_together_what_the_whole_finds(copy: dict[str, Any]) -> None:
    """Each damaged shard is found by exactly one part; the structure alone sees none of them."""
    random = np.random.default_rng(4)
    for file in shard_files(copy["output"]):
        content = bytearray(file.read_bytes())
        content[random.integers(len(content))] ^= 1
        file.write_bytes(content)
    assert report_of(copy["output"], make_extent("structure", None, 0, None)).ok
    whole = report_of(copy["output"], make_extent("stored", None, 0, None)).damaged
    assert len(whole) == len(shard_files(copy["output"]))
    parts = [report_of(copy["output"], make_extent("stored", f"{part}/3", 0, None)).damaged for part in (1, 2, 3)]
    assert all(0 < len(part) < len(whole) for part in parts)
    assert sorted(str(entry) for part in parts for entry in part) == sorted(map(str, whole))


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "x/y", "0%", "-5%", "nan%", ""])
def test_a_sample_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no part of a whole"):
        make_extent("stored", text, 0, None)


def test_a_share_is_one_part_of_as_many_as_make_it() -> None:
    extent = make_extent("stored", "5%", 0, None)
    assert extent.parts == 20
    assert 1 <= extent.part <= 20


def test_the_structure_sees_shards_that_no_record_names_and_files_that_are_no_shards(copy: dict[str, Any]) -> None:
    level = Path(copy["output"]) / "0"
    odd = level / "c" / "0" / "0" / "99"
    odd.write_bytes(b"no shard")
    (damage,) = report_of(copy["output"], make_extent("structure", None, 0, None)).damaged
    assert damage.as_dict() == {"kind": "stranger", "level": 0, "place": str(odd), "detail": "is no shard of this level"}
    assert str(damage) == f"stranger, level 0, {odd}: is no shard of this level"
    plan, report = verify_output(copy["output"])
    assert plan is not None
    mark_for_recompute(plan, report)
    assert not odd.exists()
    run(**copy)
    assert report_of(copy["output"], Extent()).ok


def test_a_region_that_was_recorded_wrongly_is_found_by_computing_it_again(copy: dict[str, Any]) -> None:
    """Record and shards agree, and are both wrong: only the input tells. What was done by another input is found so."""
    other = write_input(Path(copy["output"]).parent / "in.zarr", noise((10, 37, 45), seed=1))
    plan = stored_plan(copy["output"])
    plan = plan.model_copy(update={"job": plan.job.model_copy(update={"input": str(other)})})
    assert verify(plan).ok
    report = verify(plan, extent=Extent(recompute=3, seed=5))
    assert {damage.region for damage in report.damaged} == set(report.recomputed)
    assert len(report.recomputed) == 3
    assert verify(stored_plan(copy["output"]), extent=Extent("structure", recompute=3, seed=5)).ok


@pytest.mark.parametrize(
    "which",
    ["group", "record", *(pytest.param(slow, marks=pytest.mark.slow) for slow in ("array", "coarse record", "group deleted"))],
)
def test_what_is_repaired_is_as_before_and_nothing_else_is_made_again(copy: dict[str, Any], which: str) -> None:
    before, job = digest(copy["output"]), Path(f"{copy['output']}.job")
    file = {
        "group": Path(copy["output"]) / "zarr.json",
        "group deleted": Path(copy["output"]) / "zarr.json",
        "array": Path(copy["output"]) / "1" / "zarr.json",
        "record": next(file for file in sorted((job / "ledger").iterdir()) if file.stat().st_size),
        "coarse record": job / COARSE,
    }[which]
    if which == "group deleted":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[12] ^= 1
        file.write_bytes(content)
    plan, report = verify_output(copy["output"])
    assert plan is not None
    assert mark_for_recompute(plan, report) == 0
    outcome = run(**copy)
    assert (outcome.complete, outcome.ran) == (True, 1 if which == "record" else 0)
    assert digest(copy["output"]) == before
    assert report_of(copy["output"], Extent()).damaged == []
    assert attributes(copy["output"])["status"] == "complete"


@pytest.mark.thin(2)
@pytest.mark.parametrize("how", ["deleted", "emptied"])
@pytest.mark.parametrize("which", ["zarr.json", "0/zarr.json", "4/zarr.json"])
def test_lost_metadata_cost_no_finished_region(copy: dict[str, Any], which: str, how: str) -> None:
    """A run deletes nothing and says so; what was lost beside the metadata is made again after a repair, and nothing else."""
    before, output, ledger = digest(copy["output"]), Path(copy["output"]), Path(f"{copy['output']}.job") / "ledger"
    shard_files(output / "0")[-1].unlink()
    if how == "deleted":
        (output / which).unlink()
    else:
        (output / which).write_bytes(b"")
    left = tree(output) | tree(ledger)
    with pytest.raises(OutputError, match=f"lost {which}, but 12 of 12 regions are recorded as done") as caught:
        run(**copy)
    assert (caught.value.code, tree(output) | tree(ledger)) == ("output.damaged", left)
    assert f"volumetool verify {output} --repair" in caught.value.hint
    plan, report = verify_output(copy["output"], Extent("structure"))
    assert plan is not None
    assert mark_for_recompute(plan, report) == 1
    outcome = run(**copy)
    assert (outcome.complete, outcome.ran) == (True, 1)
    assert digest(copy["output"]) == before
    assert report_of(copy["output"], Extent()).damaged == []


def test_damaged_records_are_counted_and_placed(copy: dict[str, Any]) -> None:
    segment, *others = [file for file in sorted((Path(f"{copy['output']}.job") / "ledger").iterdir()) if file.stat().st_size]
    lines = b"".join(file.read_bytes() for file in (segment, *others)).splitlines(keepends=True)
    for file in others:
        file.unlink()
    segment.write_bytes(b"".join([lines[0], b"x" + lines[1][1:], lines[2], b"y" + lines[3][1:], *lines[4:]]))
    report = report_of(copy["output"], Extent("structure"))
    damage, lost = [damage for damage in report.damaged if damage.kind == "record"]
    assert damage.detail.startswith("2 damaged records")
    assert "regions have no record" in lost.detail
    assert f"ledger/{segment.name}, line 2; ledger/{segment.name}, line 4" in damage.place


def test_a_note_beside_the_metadata_is_no_damage(copy: dict[str, Any]) -> None:
    import json

    file = Path(copy["output"]) / "zarr.json"
    group = json.loads(file.read_text())
    group["attributes"]["omero"] = {"channels": []}
    file.write_text(json.dumps(group))
    assert report_of(copy["output"], Extent("structure")).damaged == []
