"""A job whose folder was lost is taken up again from its output: what is right is kept, what is not is computed again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import (
    SMALL,
    SMALL_3D,
    Interrupting,
    Recording,
    assert_means,
    attributes,
    digest,
    noise,
    run,
    shard_files,
    tree,
    write_input,
)
from volumetool.cli.main import main

from volumetool.errors import VolumetoolError
from volumetool.jobs.records.plan_file import open_ledger, stored_plan
from volumetool.jobs.records.shard_digests import region_keys
from volumetool.jobs.verification.adopt import adopt
from volumetool.jobs.verification.verify import Extent, Report, verify_output

Options = dict[str, Any]
Flip = Callable[[Path, int], None]


def lose_folder(options: Options) -> None:
    shutil.rmtree(f"{options['output']}.job")


def adopted(options: Options, **asked: Any) -> Report:
    return adopt(options["output"], **asked)


def refused(options: Options, **asked: Any) -> str:
    with pytest.raises(VolumetoolError) as caught:
        adopted(options, **asked)
    assert caught.value.hint
    return caught.value.code


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"nodata": "nan", "dtype": "float32"}, marks=pytest.mark.slow),
        {"nodata": 7, "invert": True, "dtype": "float32", "roi": "2:9,3:30,5:40", "crop": True},
    ],
)
def test_a_whole_output_is_adopted_and_no_region_runs_again(options: Options, more: Options) -> None:
    options |= more
    run(**options)
    before = digest(options["output"])
    lose_folder(options)
    assert adopted(options).regions == stored_plan(options["output"]).grid.count
    assert attributes(options["output"])["status"] == "unfinished"  # nothing is known of the coarse levels
    outcome = run(**options)
    assert (outcome.complete, outcome.ran) == (True, 0)
    assert digest(options["output"]) == before
    assert verify_output(options["output"])[1].ok


def test_an_output_of_a_table_is_adopted_with_that_table(options: Options, tiny_model: Path, tmp_path: Path) -> None:
    options |= {"model": str(tiny_model)}
    run(**options)
    *fitted, last = Path(f"{options['output']}.job", "sections.csv").read_text().splitlines()
    given = tmp_path / "given.csv"
    given.write_text("\n".join([*fitted, ",".join([*last.split(",")[:3], "99.0", *last.split(",")[4:]])]) + "\n")
    options |= {"statistics": str(given)}
    run(**options | {"overwrite": True})
    before = digest(options["output"])
    lose_folder(options)
    with pytest.raises(VolumetoolError) as caught:
        adopted(options)
    assert (caught.value.code, "--statistics" in (caught.value.hint or "")) == ("job.fingerprint", True)
    assert adopted(options, statistics=str(given)).regions == stored_plan(options["output"]).grid.count
    assert run(**options).ran == 0
    assert digest(options["output"]) == before


def test_a_growing_output_is_not_adopted_and_the_reason_is_named(options: Options) -> None:
    run(**options)
    lose_folder(options)
    root = Path(options["output"], "zarr.json")
    group = json.loads(root.read_text())
    group["attributes"]["volumetool"] = {"steps": 3, "status": "growing"}
    root.write_text(json.dumps(group))
    with pytest.raises(VolumetoolError, match="live --watch") as caught:
        adopted(options)
    assert caught.value.code == "output.no-job"


def test_of_an_unfinished_output_the_rest_runs(options: Options) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(5), **options)
    lose_folder(options)
    first, report = shard_files(Path(options["output"]) / "0"), adopted(options)
    plan = stored_plan(options["output"])
    kept = [key for record in open_ledger(plan).latest() for key in region_keys(plan, plan.grid.region(record.region))[0][1]]
    assert 0.9 * len(first) <= len(kept) <= len(first)  # regions are cut anew, and as finely as that takes
    part = run(**options | {"roi": "0:1,0:1,0:1"})
    assert (part.ran, part.exit_code) == (0, 0)
    assert_means(options["output"])  # also the levels that no region owns
    outcome = run(**options)
    assert (outcome.complete, outcome.ran) == (True, outcome.regions - report.regions)
    after = digest(options["output"])
    assert run(**options | {"output": options["output"] + ".straight"}).complete
    assert digest(options["output"] + ".straight") == after


@pytest.mark.thin(3)
@pytest.mark.parametrize("harm", ["flipped", "cut", "deleted", "swapped", "metadata"])
def test_what_is_damaged_is_not_adopted_and_made_again(options: Options, change: Flip, harm: str) -> None:
    del options["batch"]  # of a job without a finished region, another batch than that of its plan makes another plan
    run(**options)
    before = digest(options["output"])
    lose_folder(options)
    first, *_, last = shard_files(Path(options["output"]) / "0")
    if harm == "flipped":
        change(first, first.stat().st_size // 2)
    elif harm == "cut":
        first.write_bytes(first.read_bytes()[:-9])
    elif harm == "deleted":
        first.unlink()
    elif harm == "swapped":
        content = first.read_bytes()
        first.write_bytes(last.read_bytes())
        last.write_bytes(content)
    else:
        (Path(options["output"]) / "0" / "zarr.json").write_text("{")
    report, again = adopted(options, extent=Extent(seed=1)), Recording()
    regions = stored_plan(options["output"]).grid.count
    assert report.regions == (regions - {"swapped": 2, "metadata": 0}.get(harm, 1))
    assert run(again, **options).complete
    assert len(again.ended) == regions - report.regions
    assert digest(options["output"]) == before
    assert verify_output(options["output"])[1].ok


def test_an_input_of_other_voxels_is_noticed_by_the_sample_and_nothing_is_adopted(options: Options, volume: Path) -> None:
    run(**options)
    lose_folder(options)
    before = tree(Path(options["output"]))
    shutil.rmtree(volume)
    write_input(volume, noise((10, 37, 45), seed=1))
    assert refused(options) == "data.other-voxels"
    assert tree(Path(options["output"])) == before
    assert not Path(f"{options['output']}.job").exists()


def test_once_the_sample_has_a_region_of_other_voxels_all_regions_must_be_computed(tmp_path: Path) -> None:
    """Two of six channels of the input, each a region, were changed since: no checksum of the output tells."""
    source = write_input(tmp_path / "in.zarr", noise((6, 4, 20, 20)))
    options = SMALL | {"input": str(source), "output": str(tmp_path / "out.zarr")}
    run(**options)
    lose_folder(options)
    edited = write_input(tmp_path / "edited.zarr", noise((6, 4, 20, 20), seed=1))
    for channel in ("0/c/0", "0/c/3"):
        shutil.copytree(edited / channel, source / channel, dirs_exist_ok=True)
    assert refused(options, extent=Extent(recompute=5)) == "data.other-voxels"
    assert adopted(options, extent=Extent(recompute=6)).regions == 4
    outcome = run(**options)
    assert (outcome.complete, outcome.ran) == (True, 2)
    assert run(**options | {"output": str(tmp_path / "straight.zarr")}).complete
    assert digest(tmp_path / "straight.zarr") == digest(options["output"])


def test_an_input_of_other_metadata_is_refused(options: Options, volume: Path) -> None:
    run(**options)
    lose_folder(options)
    shutil.rmtree(volume)
    write_input(volume, noise((10, 37, 44)))
    assert refused(options) == "job.fingerprint"


def test_an_input_that_moved_is_given(options: Options, volume: Path, tmp_path: Path) -> None:
    run(**options)
    lose_folder(options)
    volume.rename(tmp_path / "moved.zarr")
    assert refused(options) == "input.not-found"
    assert adopted(options, source=str(tmp_path / "moved.zarr")).regions == stored_plan(options["output"]).grid.count


def test_what_names_no_job_or_has_its_folder_is_not_adopted(options: Options, volume: Path) -> None:
    run(**options)
    assert refused(options) == "config.adopt"
    assert refused({"output": str(volume)}) == "output.no-job"
    assert refused({"output": str(volume.parent / "nowhere.zarr")}) == "output.no-job"
    assert not Path(f"{volume}.job").exists()
    lose_folder(options)
    with pytest.raises(VolumetoolError, match=r"whose folder .* is lost") as caught:
        run(**options)
    assert "--adopt" in caught.value.hint


@pytest.mark.parametrize(("after", "code"), [pytest.param(None, 0, marks=pytest.mark.slow), (5, 3)])
def test_the_command_tells_what_to_type_next(
    options: Options, capsys: pytest.CaptureFixture[str], after: int | None, code: int
) -> None:
    if after is None:
        run(**options)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(Interrupting(after), **options)
    lose_folder(options)
    with pytest.raises(SystemExit) as ended:
        main(["verify", options["output"], "--adopt", "--json"])
    said = capsys.readouterr()
    assert ended.value.code == code
    report = json.loads(said.out)
    assert 0 < report["adopted"] <= report["of"]
    assert f"volumetool enhance {options['input']} {options['output']}" in said.err


def test_a_model_that_blends_in_three_dimensions_is_adopted_too(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.zarr", np.maximum(noise((10, 20, 24)), 1))
    options = SMALL_3D | {"input": str(source), "output": str(tmp_path / "out.zarr")}
    run(**options)
    lose_folder(options)
    assert adopted(options).regions == stored_plan(options["output"]).grid.count
    outcome = run(**options)
    assert (outcome.complete, outcome.ran) == (True, 0)
