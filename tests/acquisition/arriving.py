"""What the tests of watches share: sections that arrive, and a batch job to compare with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from small_jobs import Voxels, noise, run, shard_files

from volumetool.acquisition.config import SessionResult, WatchConfig
from volumetool.acquisition.watch import raw_place, watch
from volumetool.errors import VolumetoolError
from volumetool.events import Event, SectionsReached
from volumetool.jobs.job import Job, make_job
from volumetool.jobs.job_dir import JobDir

FLAT: dict[str, Any] = {
    "model": "fake:position?patch=1,16,16&overlap=0,4,4&trim=0,1,1",
    "chunk": "2,8,8",
    "shard": "8,64,64",
    "memory": "4GiB",
    "device": "cpu",
    "voxel_size": "8,32,32",
}
"""A 2D job whose network betrays patches that lie elsewhere."""

CONTEXT: dict[str, Any] = FLAT | {"model": "fake:box?z_context=2&radius=2&patch=1,16,16&overlap=0,8,8&trim=0,2,2"}
"""A 2D job whose network looks at two sections on each side."""

DEEP: dict[str, Any] = FLAT | {
    "model": "fake:position?dims=3&scale=2,2,2&patch=4,16,16&overlap=2,4,4&trim=0,1,1",
    "shard": "8,32,32",
}
"""A 3D job."""

QUICK = WatchConfig(settle=0.0)


def write_section(folder: Path, number: int, voxels: Voxels, name: str = "scan_{}.tif") -> Path:
    """Write a section as a microscope does that writes under another name first."""
    file = folder / name.format(number)
    part = file.with_suffix(".part")
    tifffile.imwrite(part, voxels)
    return part.rename(file)


def sections(count: int, shape: tuple[int, int] = (37, 45)) -> Voxels:
    """Return noise."""
    return noise((count, *shape))


def job_of(folder: Path, **options: Any) -> Job:
    """Return the job of a watched folder."""
    return make_job(input=str(folder), output=str(folder.parent / "out.zarr"), **{**FLAT, **options})


class Told:
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event)

    def numbers(self, state: str) -> list[int]:
        """Return the sections that reached a state, in order."""
        reached = [event for event in self.events if isinstance(event, SectionsReached) and event.state == state]
        return [number for event in reached for number in event.sections]

    def texts(self, kind: type[Event]) -> list[str]:
        """Return the texts of a type of events."""
        return [str(event) for event in self.events if isinstance(event, kind)]


def ticking(*steps: Any, patience: float = 200.0) -> Iterator[Sequence[str]]:
    """Wake a watch again and again; before each of the first times do one of the steps."""
    deadline = time.monotonic() + patience
    for step in steps:
        step()
        yield ["something"]
    while time.monotonic() < deadline:
        time.sleep(0.01)
        yield ["something"]
    raise TimeoutError("the watch did not end")


def finish(job: Job, told: Told | None = None, asked: WatchConfig = QUICK, *steps: Any) -> SessionResult:
    """Watch a folder to its end."""
    return watch(job, asked, told or Told(), ticking(*steps))


def assert_batch(job: Job, **options: Any) -> None:
    """Every stored byte and all metadata are those of the batch job on the raw volume, with the watch's statistics."""
    raw, output = raw_place(job.input, job.output), Path(job.output)
    batch = output.parent / "batch.zarr"
    given = {name: value for name, value in {**FLAT, **options}.items() if name != "voxel_size"}
    table = Path(JobDir(job.output).url) / "sections.csv"
    assert run(input=raw, output=str(batch), statistics=str(table), **given).complete
    ours, theirs = (
        {str(file.relative_to(root)): file.read_bytes() for file in [*shard_files(root), *root.rglob("zarr.json")]}
        for root in (output, batch)
    )
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def enlarged(voxels: Voxels) -> Voxels:
    """Return what the identity network makes of sections."""
    return np.repeat(np.repeat(voxels, 4, axis=-2), 4, axis=-1)


COUNT = 7


def drop(folder: Path, *numbers: int, first: int = 1, count: int = COUNT) -> None:
    """Let some of a volume's sections land."""
    voxels = sections(count)
    for number in numbers:
        write_section(folder, number, voxels[number - first])


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(VolumetoolError) as error:
        call()
    return error.value.code
