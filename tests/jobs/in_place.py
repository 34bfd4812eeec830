"""What changes a volume in place, small: what is there before, the command, and a look at what a kill leaves."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tifffile
from small_jobs import SMALL, noise, run, write_input

from volumetool.acquisition.config import WatchConfig
from volumetool.acquisition.watch import watch
from volumetool.jobs.execution.clean import STRAY_SECONDS, clean_output
from volumetool.jobs.job import Job, make_job
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.jobs.verification.repair import mark_for_recompute
from volumetool.jobs.verification.verify import verify
from volumetool.live_view.factory import open_live
from volumetool.storage.conversion import plan_conversion
from volumetool.storage.convert_volume import convert_volume
from volumetool.storage.create import write_attributes
from volumetool.storage.pyramid import build_pyramid
from volumetool.training.data.crappification import Crappification, crappify_volume, plan_crappification

SHAPE = (10, 37, 45)
COUNT = 5
Task = Callable[[Path], None]


def _job(work: Path, **more: Any) -> dict[str, Any]:
    return {"input": str(work / "in.zarr"), "output": str(work / "out.zarr"), **SMALL, **more}


def _finished(work: Path) -> None:
    write_input(work / "in.zarr", noise(SHAPE))
    run(**_job(work))


def _edited(work: Path) -> None:
    _finished(work)
    shutil.rmtree(work / "in.zarr")
    write_input(work / "in.zarr", noise(SHAPE, seed=1))


def _damaged(work: Path) -> None:
    _finished(work)
    for shard in sorted((work / "out.zarr").rglob("c/*/*/0")):
        shard.write_bytes(shard.read_bytes()[:-5] + b"other")


def _repair(work: Path) -> None:
    plan = stored_plan(str(work / "out.zarr"))
    report = verify(plan)
    if report.damaged:
        mark_for_recompute(plan, report)
    run(**_job(work))


def _other_levels(work: Path) -> None:
    """Levels that are no means, in a volume that calls itself complete."""
    write_input(work / "out.zarr", noise((16, 80, 80)), levels=4, chunk=(2, 8, 8))
    write_attributes(str(work / "out.zarr"), {"status": "complete"})


def _one_level(work: Path) -> None:
    write_input(work / "out.zarr", noise((16, 80, 80)), chunk=(2, 8, 8))


def _nothing(work: Path) -> None:
    write_input(work / "in.zarr", noise(SHAPE))


def _crappify(work: Path, seed: int = 1) -> None:
    asked = Crappification(input=work / "in.zarr", output=work / "out.zarr", recipe="sem-fast", scale=(1, 2, 2), seed=seed)
    crappify_volume(plan_crappification(asked), overwrite=True)


def _crappified(work: Path) -> None:
    write_input(work / "in.zarr", noise((6, 300, 300)))
    _crappify(work, seed=0)


def _converted(work: Path) -> None:
    tifffile.imwrite(work / "stack.tif", noise((21, 150, 170)))
    _convert(work)
    tifffile.imwrite(work / "stack.tif", noise((21, 150, 170), seed=1))


def _convert(work: Path) -> None:
    plan = plan_conversion(str(work / "stack.tif"), str(work / "out.zarr"), voxel_size=(30.0, 8.0, 8.0))
    convert_volume(plan, overwrite=True)


def _littered(work: Path) -> None:
    """Leave what killed runs leave: kept patches, and temporary files of shards."""
    _finished(work)
    for number in range(200):
        folder = work / ("out.zarr/0" if number % 2 else "out.zarr.job/patches")
        (folder / f"{number}").mkdir(parents=True)
        stray = folder / f"{number}/0.__lock"
        stray.write_bytes(b"half a shard")
        os.utime(stray, (0, time.time() - 2 * STRAY_SECONDS))


def _sections(work: Path) -> None:
    (work / "sections").mkdir()
    for number, section in enumerate(noise((COUNT, 37, 45))):
        tifffile.imwrite(work / "sections" / f"scan_{number}.tif", section)


def _watch(work: Path) -> None:
    job = _job(work, input=str(work / "sections"), voxel_size="8,32,32")
    ticks = (["something"] for _ in iter(lambda: time.sleep(0.01), 0))
    assert watch(make_job(**job), WatchConfig(count=COUNT, settle=0.0, fit_on=2), lambda _: None, ticks).complete


def _live(work: Path) -> None:
    job: Job = make_job(**_job(work))
    with open_live(job, into=True):
        while status(work) != "complete":
            time.sleep(0.01)


def _clean(work: Path) -> None:
    assert not clean_output(stored_plan(str(work / "out.zarr"))).left
    assert not list(work.rglob("*.__lock"))


COMMANDS: dict[str, tuple[Task, Task]] = {
    "pyramid": (_other_levels, lambda work: build_pyramid(str(work / "out.zarr"))),
    "pyramid of one level": (_one_level, lambda work: build_pyramid(str(work / "out.zarr"))),
    "verify --repair": (_damaged, _repair),
    "enhance --recompute-changed": (_edited, lambda work: run(**_job(work, recompute_changed=True))),
    "enhance --overwrite": (_finished, lambda work: run(**_job(work, invert=True, overwrite=True))),
    "enhance --roi": (_nothing, lambda work: run(**_job(work, roi="0:2,:,:"))),
    "live --into": (_nothing, _live),
    "convert --overwrite": (_converted, _convert),
    "crappify": (_crappified, _crappify),
    "clean": (_littered, _clean),
    "live --watch": (_sections, _watch),
}
"""What there is before, and the command."""


def prepare(command: str, folder: str) -> None:
    """Make what is there before in `folder/work`, and a copy of it in `folder/before`."""
    work = Path(folder, "work")
    work.mkdir()
    COMMANDS[command][0](work)
    shutil.copytree(work, Path(folder, "before"))


def go(command: str, folder: str) -> None:
    """Run the command."""
    COMMANDS[command][1](Path(folder, "work"))


def status(work: Path) -> str | None:
    """Return what the volume says of itself."""
    group = work / "out.zarr" / "zarr.json"
    return json.loads(group.read_text())["attributes"]["volumetool"].get("status") if group.exists() else None


def shards(place: Path) -> dict[str, str]:
    """Return the SHA-256 of every shard of the levels that the metadata of the volume at a place name."""
    group = place / "out.zarr" / "zarr.json"
    if not group.exists():
        return {}
    (image,) = json.loads(group.read_text())["attributes"]["ome"]["multiscales"]
    levels = [place / "out.zarr" / dataset["path"] for dataset in image["datasets"]]
    files = (file for level in levels for file in level.rglob("c/**/*") if file.is_file() and file.suffix != ".__lock")
    return {str(file.relative_to(place)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
