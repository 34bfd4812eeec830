"""volumetool's `enhance` beside the tools that users would pick instead: same volume, same weights, same cores, disk to disk.

Each peer lives in an environment of its own, given as a Python interpreter. pytest does not collect this file. To run it::

    python -m venv MONAI && MONAI/bin/pip install monai==1.6.1 tensorstore safetensors pydantic
    python -m venv CHUNKFLOW && CHUNKFLOW/bin/pip install --no-deps chunkflow==1.2.0
    CHUNKFLOW/bin/pip install cloud-volume connected-components-3d h5py scipy tifffile tqdm torch
    CHUNKFLOW/bin/pip install tensorstore safetensors pydantic
    python -m venv PSSR && PSSR/bin/pip install pssr==2.4.0 tensorstore safetensors pydantic
    python -m venv BIO && BIO/bin/pip install bioimageio.core==0.11.0 torch tensorstore safetensors pydantic
    python tests/benchmarks/compare_inference.py VOLUME --sections 24 --rounds 3 --json figures.json \
        --peer monai=MONAI/bin/python --peer chunkflow=CHUNKFLOW/bin/python --peer dask=python \
        --peer pssr2=PSSR/bin/python --peer bioimageio=BIO/bin/python

Every peer runs twice a round: *as its users run it*, in float32, with the model card's patch where it has no default of its
own; and *as ours*, given our precision, patch, overlap and threads, as the plan has them.

    ours
        `volumetool enhance` at its defaults, with planning and section statistics.
    monai
        `sliding_window_inference`, section by section in 2D: 4 windows a call and overlap 0.25, as its tutorials have it, but
        mode "gaussian"; as ours: one window a call.
    chunkflow
        Its `Inferencer`, framework "universal", with the defaults of `chunkflow inference` (overlap 4, 64, 64 of its voxels,
        bump weights). Its patches do not grow, so the volume is enlarged by repetition first and the network takes every n-th
        voxel; it is mirrored to the size of a patch where it is smaller.
    dask
        `from_zarr`, `map_overlap` with blocks whose halo is half the overlap, `to_zarr`, means by `coarsen`; as ours: as many
        threads of dask as we have calls side by side.
    pssr2
        `SlidingDataset`, `predict_images`, `reassemble_sheets` in tiles of 128 with overlap 32, from TIFF files. It drops what
        no whole tile covers, so sections are mirrored to whole tiles; its one grey range is the mean of the sections' ranges.
        2D alone. It cuts grey values down to whole numbers, which is up to 1 of its seam error.
    bioimageio
        The prediction pipeline of bioimageio.core with blocks of the card's patch and a halo of half the overlap, section by
        section in 2D.

In the peers' favour: section statistics are handed to them, the empty output is made for them, and convolutions find weights
and voxels laid out as they like them. None but dask writes OME-Zarr or a pyramid itself: their users would add that, and here
it is tensorstore that writes our layout with our codecs, all levels at once; none reads back what it wrote. dask writes plain
chunks without shards. Imports are not counted; loading the weights is.

Programs run in turns, each round in the opposite order of the one before; ratios are taken within a round. Peak memory is that
of the process with all its children. The PSNR is that of 8-bit level 0 against ours.

The seam error is the difference to the network on the whole section (in 3D: volume) at once, in grey levels, over all
voxels that no face can reach; everything runs in float32 for it, patches and overlaps stay what they are.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tensorstore as ts
from inference_seams import seam_error, whole
from inference_task import Task
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from volumetool.benchmark.demo import write_volume
from volumetool.evaluation.scores.metrics import psnr
from volumetool.jobs.api import plan
from volumetool.jobs.job import make_job
from volumetool.jobs.plan import Plan
from volumetool.models import Model, load_model
from volumetool.processing.statistics import fit_statistics
from volumetool.storage.create import create_volume
from volumetool.storage.open import open_volume

AS_OURS = ", as ours"
LOOK_EVERY = 0.05  # seconds


@dataclass(frozen=True)
class Way:
    """One way to run one program.

    Attributes
    ----------
    peer, python : str
        Name of the program, and the interpreter that has it.
    as_ours : bool
        Whether it is given our precision, patch, overlap and threads.
    """

    peer: str
    python: str
    as_ours: bool = False

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return self.peer + AS_OURS * self.as_ours


def main() -> None:
    """Compare, print tables, and write the figures as JSON."""
    options = _options()
    peers = [pair.split("=", 1) for pair in options.peer]
    ways = [Way("ours", sys.executable), *(Way(name, python, given) for name, python in peers for given in (False, True))]
    model = load_model(options.model)
    with tempfile.TemporaryDirectory(prefix="compare-inference-", dir=options.scratch) as folder:
        place = Path(folder)
        voxels, size = _voxels(options, model)
        write_volume(place / "input.zarr", voxels, size)
        made = plan(make_job(input=str(place / "input.zarr"), output=str(place / "out.zarr"), model=options.model))
        seams = take_seams(options, ways, place, model)
        rounds, likeness = take_rounds(options, ways, place, made)
    lattice = made.spec.lattice
    given = {"precision": made.spec.precision, "patch": lattice.patch, "threads": made.threads, "streams": made.streams}
    figures = {"input": list(voxels.shape), "given": given, "rounds": rounds, "psnr": likeness, "seams": seams}
    figures["ways"] = summarise(rounds)
    show(figures)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume", help="input volume of 8 bit, for example an OME-Zarr of coarse EM")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--model", default="em-x4")
    parser.add_argument("--sections", type=int, default=24, help="take so many sections from the volume's beginning")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seam-sections", type=int, default=3, help="2D: sections on which the seam error is measured")
    parser.add_argument("--scratch", default=None, help="folder on the disk to write to; emptied again")
    parser.add_argument("--json", default=None, help="file for the figures")
    return parser.parse_args()


def _voxels(options: argparse.Namespace, model: Model) -> tuple[NDArray[np.uint8], tuple[float, float, float]]:
    volume = open_volume(options.volume)
    voxels = np.asarray(volume.open()[: options.sections].read().result())
    if voxels.dtype != np.uint8 or model.card.z_context:
        raise SystemExit("the peers are given volumes of 8 bit, and models without z context")
    return voxels, volume.levels[0].voxel_size


def say(line: str) -> None:
    """Say something on stderr."""
    Console(stderr=True).print(line, highlight=False)


def take_rounds(
    options: argparse.Namespace, ways: list[Way], place: Path, made: Plan
) -> tuple[list[dict[str, dict[str, float]]], dict[str, float]]:
    """Run all in turns; return each round's figures by way, and the PSNR of each result against ours, in dB."""
    table = fit_statistics(open_volume(str(place / "input.zarr")), 0, _percentiles(options.model))
    rounds: list[dict[str, dict[str, float]]] = []
    results: dict[str, NDArray[Any]] = {}
    for number in range(options.rounds):
        found = {}
        for way in ways if number % 2 == 0 else ways[::-1]:
            with _room(place) as room:
                task = _task(room, way, made, (tuple(table.low[0].tolist()), tuple(table.high[0].tolist())))
                if way.peer != "ours":
                    create_volume(task.output, made.layout, {})
                found[way.name] = run(way, task)
                say(f"{way.name}: {found[way.name]['seconds']:.2f} s, {found[way.name]['peak_mib']:.0f} MiB")
                if number == 0:
                    results[way.name] = np.asarray(open_array(task.output))
        rounds.append(found)
    return rounds, {name: psnr(each, results["ours"]) for name, each in results.items() if name != "ours"}


def open_array(output: str) -> NDArray[Any]:
    """Read level 0 of an output, whoever wrote it."""
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{output}/0"}}
    voxels: NDArray[Any] = ts.open(spec).result().read().result()
    return voxels


def take_seams(options: argparse.Namespace, ways: list[Way], place: Path, model: Model) -> dict[str, dict[str, float]]:
    """Return the seam error of every way, all in float32, with one grey range for all sections."""
    voxels, size = _voxels(options, model)
    if model.card.dims == 2:
        voxels = voxels[: options.seam_sections]
    else:  # the network on all of it at once has to fit into memory
        voxels = voxels[tuple(slice(0, 3 * patch // 2) for patch in model.card.patch)]
    source = place / "seams.zarr"
    write_volume(source, voxels, size)
    patch = ",".join(map(str, model.card.patch))  # asked for by name, or one might cover a short axis: no seam to look at
    made = plan(make_job(input=str(source), output=str(place / "out.zarr"), model=options.model, patch=patch))
    low, high = (float(np.percentile(voxels, percent)) for percent in _percentiles(options.model))
    truth = whole(model, voxels, low, high)
    errors = {}
    for way in [replace(ways[0], peer="ours-exact"), *ways]:
        with _room(place) as room:
            task = _task(room, way, made, ((low,) * len(voxels), (high,) * len(voxels)))
            task = replace(task, precision="float32", result=str(room / "result.npy"))
            run(way, task)
            errors[way.name] = seam_error(model, np.load(room / "result.npy"), truth)
        say(f"{way.name}: seams of {errors[way.name]['largest']:.2g} grey levels at most")
    return errors


def _percentiles(model: str) -> tuple[float, float]:
    normalisation = load_model(model).card.normalisation
    return normalisation.low, normalisation.high


@contextmanager
def _room(place: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def _task(room: Path, way: Way, made: Plan, grey: tuple[tuple[float, ...], tuple[float, ...]]) -> Task:
    lattice, card = made.spec.lattice, load_model(made.model_spec).card
    overlap = (lattice.z.overlap, lattice.y.overlap, lattice.x.overlap)
    return Task(
        peer=way.peer,
        place=str(room),
        source=made.job.input,
        output=str(room / "out.zarr"),
        factors=tuple(level.factor for level in made.spec.levels),
        model=made.model_spec,
        low=grey[0],
        high=grey[1],
        precision=made.spec.precision if way.as_ours else "float32",
        patch=lattice.patch if way.as_ours else card.patch,
        overlap=overlap if way.as_ours else None,
        threads=made.threads * made.workers if way.as_ours else None,
        streams=made.streams * made.workers if way.as_ours else None,
        result=None,
    )


def run(way: Way, task: Task) -> dict[str, float]:
    """Run one program once; return its seconds, and the memory of its processes in MiB at its peak."""
    note = Path(task.place) / "task.json"
    note.write_text(json.dumps(asdict(task)))
    here = Path(__file__)
    environment = {**os.environ, "PYTHONPATH": str(here.parents[2])}
    command = [way.python, str(here.with_name("inference_process.py")), str(note)]
    with (Path(task.place) / "said").open("w+") as out, (Path(task.place) / "complained").open("w+") as log:
        process = psutil.Popen(command, stdout=out, stderr=log, env=environment, cwd=task.place)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory(process))
            time.sleep(LOOK_EVERY)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{way.name} failed:\n{log.read()}")
        out.seek(0)
        answer: dict[str, float] = json.loads(out.read().splitlines()[-1])
    return {"seconds": answer["seconds"], "peak_mib": max(answer["peak_mib"], peak / 2**20)}


def _memory(process: psutil.Process) -> int:
    total = 0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += each.memory_info().rss
    return total


def summarise(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return medians over the rounds, and ratios to ours taken within a round."""
    ways = {}
    for name in rounds[0]:
        ratios = [found[name]["seconds"] / found["ours"]["seconds"] for found in rounds]
        ways[name] = {
            "seconds": statistics.median(found[name]["seconds"] for found in rounds),
            "peak_mib": statistics.median(found[name]["peak_mib"] for found in rounds),
            "times_ours": statistics.median(ratios),
            "from": min(ratios),
            "to": max(ratios),
        }
    return ways


def show(figures: dict[str, Any]) -> None:
    """Print the figures as a table."""
    given = figures["given"]
    title = f"input {figures['input']}, {len(figures['rounds'])} rounds; as ours: {given}"
    table = Table(title=title, title_justify="left")
    for column in ("", "seconds", "time in times of ours", "peak MiB", "PSNR against ours, dB", "largest seam, grey levels"):
        table.add_column(column)
    for name, seam in figures["seams"].items():
        way, near = figures["ways"].get(name), figures["psnr"].get(name)
        cells = ["", "", ""]
        if way:
            ratio = f"{way['times_ours']:.2f} ({way['from']:.2f} to {way['to']:.2f})"
            cells = [f"{way['seconds']:.1f}", ratio, f"{way['peak_mib']:.0f}"]
        table.add_row(name, *cells, f"{near:.1f}" if near else "", f"{seam['largest']:.2g}")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
