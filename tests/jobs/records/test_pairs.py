"""A job's folder and its output belong together: beside another job's output nothing is believed and nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_jobs import Interrupting, attributes, digest, noise, run, tree, write_input

from volumetool.errors import LedgerError, VolumetoolError
from volumetool.events import RegionEnded
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.jobs.verification.verify import verify_output
from volumetool.viewer.contrast import job_of

Options = dict[str, Any]
OTHER = {"equalise_sections": True}


def interrupted(options: Options, after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(after), **options)


def swap_folders(first: str, second: str) -> None:
    """Put the folder of each of two jobs beside the other one's output."""
    Path(f"{first}.job").rename(f"{first}.kept")
    Path(f"{second}.job").rename(f"{first}.job")
    Path(f"{first}.kept").rename(f"{second}.job")


def test_a_folder_beside_the_output_of_another_job_is_refused_with_both_names(options: Options, tmp_path: Path) -> None:
    other = options | OTHER | {"output": str(tmp_path / "other.zarr")}
    interrupted(options, 3)
    interrupted(other, 7)
    swap_folders(options["output"], other["output"])
    before = tree(tmp_path)
    fingerprints = {attributes(each["output"])["fingerprint"][:12] for each in (options, other)}
    for asked in (options, options | OTHER, other, options | {"crop": True, "roi": "0:3,0:9,0:9"}):
        with pytest.raises(LedgerError) as caught:
            run(**asked)
        assert caught.value.code == "ledger.other-output"
        assert all(name in caught.value.message for name in fingerprints)
    for look in (stored_plan, job_of):
        with pytest.raises(LedgerError, match="was made by"):
            look(options["output"])
    plan, report = verify_output(options["output"])
    assert (plan, report.ok) == (None, False)  # nothing that a repair could write over
    assert tree(tmp_path) == before
    swap_folders(options["output"], other["output"])
    for each in (options, other):
        assert run(**each).complete


def test_a_folder_that_was_swapped_while_the_job_runs_is_seen_at_the_end(options: Options, tmp_path: Path) -> None:
    other = options | OTHER | {"output": str(tmp_path / "other.zarr")}
    assert run(**other).complete

    class Swapping(Interrupting):
        def after_region(self, _: RegionEnded) -> None:
            if len(self.ended) == self.after:
                shutil.rmtree(options["output"])
                shutil.copytree(other["output"], options["output"])

    with pytest.raises(LedgerError) as caught:
        run(Swapping(3), **options)
    assert caught.value.code == "ledger.other-output"
    assert attributes(options["output"])["fingerprint"] == attributes(other["output"])["fingerprint"]


def test_a_volume_that_no_job_made_is_not_gone_on_with(options: Options) -> None:
    interrupted(options, 3)
    output = Path(options["output"])
    shutil.rmtree(output)
    write_input(output, noise((8, 20, 20)))
    before = digest(output)
    for asked in (options, options | {"overwrite": True}):
        with pytest.raises(VolumetoolError) as caught:
            run(**asked)
        assert caught.value.code in {"ledger.other-output", "output.foreign"}
    assert digest(output) == before


def test_a_pair_that_was_moved_or_copied_together_goes_on(options: Options, tmp_path: Path) -> None:
    interrupted(options, 3)
    there = tmp_path / "elsewhere"
    there.mkdir()
    for suffix in ("", ".job"):
        shutil.copytree(f"{options['output']}{suffix}", there / f"renamed.zarr{suffix}")
    outcome = run(**options | {"output": str(there / "renamed.zarr")})
    assert (outcome.complete, outcome.ran) == (True, outcome.regions - 3)


def test_metadata_that_are_damaged_are_no_other_job(options: Options) -> None:
    """They are named as damaged, and can be repaired."""
    assert run(**options).complete
    file = Path(options["output"]) / "zarr.json"
    content = json.loads(file.read_text())
    content["attributes"]["volumetool"]["fingerprint"] = "0" * 64
    file.write_text(json.dumps(content))
    plan, report = verify_output(options["output"])
    assert plan is not None
    assert [damage.place for damage in report.damaged if damage.kind == "metadata"] == [str(file)]
