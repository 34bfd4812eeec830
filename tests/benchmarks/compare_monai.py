"""volumetool against MONAI's sliding window: same volume, same weights, from disk to disk.

MONAI is what many people would reach for: read the volume, call ``sliding_window_inference``, write the result. It is no
dependency of volumetool, and pytest does not collect this file. To run it::

    pip install monai==1.6.1
    python tests/benchmarks/compare_monai.py VOLUME --sections 24 --rounds 5 --json figures.json

Planning costs the same for any volume, so a short one says little about the speed; ``--only monai-bf16 --sections 200`` leaves
out the slow one.

What is compared
    ours
        ``volumetool enhance`` at its defaults, planning included.
    monai-bf16
        Normalised with the same section statistics; each section by ``sliding_window_inference`` with the model card's
        patch, overlap 0.25, mode "gaussian", under autocast, so in our precision; turned back and rounded; written to the
        same OME-Zarr layout with the same codecs, all levels at once, by tensorstore; pyramid by ``tensorstore.downsample``.
    monai-float32
        The same in float32, as its documentation shows it.

MONAI gets its best of 1, 4 and 8 windows per call, found beforehand, inference mode, and channels-last memory. Every run is a
process of its own; imports are not counted, loading the weights is. The three run in turns, each round in the opposite order
of the one before; ratios are taken within a round, and medians over the rounds. Peak memory is the process's largest resident
size.

The seam error compares with the network in float32 on the whole section, mirrored beyond its faces by the receptive field.
It is the largest difference, and its 99.99th percentile, in grey levels before rounding, over all voxels that lie within the
receptive field of a border of a patch, and not within that of a face; both run in float32.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from volumetool.enhancement.statistics import Statistics, fit_statistics
from volumetool.geometry import AxisLattice, Lattice, mirror_index, plan_levels, upscaled
from volumetool.jobs.api import enhance
from volumetool.jobs.demo import write_volume
from volumetool.models import Model, load_model
from volumetool.store.create import VolumeLayout, create_volume, open_for_writing
from volumetool.store.open import open_volume

OVERLAP = 0.25
BATCHES = (1, 4, 8)
METHODS = ("ours", "monai-bf16", "monai-float32")
PERCENTILE = 99.99

Floats = NDArray[np.float32]
Inferer = Callable[[Floats], Floats]


def main() -> None:
    """Compare, print a table, and write the figures as JSON."""
    options = _options()
    if options.child:
        _child(options)
        return
    with tempfile.TemporaryDirectory(prefix="compare-monai-", dir=options.scratch) as folder:
        source = Path(folder) / "input.zarr"
        volume = open_volume(options.volume)
        voxels = np.asarray(volume.open()[: options.sections].read().result())
        write_volume(source, voxels, volume.levels[0].voxel_size)
        batches = _spawn("tune", source, Path(folder), options.model)
        print_error(f"windows per call that suit MONAI best: {batches}")
        methods = METHODS if options.only is None else ("ours", options.only)
        rounds = []
        for number in range(options.rounds):
            order = methods if number % 2 == 0 else methods[::-1]
            rounds.append({name: _run(name, source, Path(folder), options.model, batches) for name in order})
        seams = _spawn("seams", source, Path(folder), options.model, sections=options.seam_sections)
    figures = _figures(rounds, voxels.shape, batches, seams)
    _print(figures)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume", help="input volume, for example an OME-Zarr of coarse EM")
    parser.add_argument("--model", default="em-x4")
    parser.add_argument("--sections", type=int, default=24, help="take so many sections from the volume's beginning")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=None, choices=METHODS[1:], help="leave the other way of MONAI out")
    parser.add_argument("--seam-sections", type=int, default=3, help="sections on which the seam error is measured")
    parser.add_argument("--scratch", default=None, help="folder on the disk to write to; emptied again")
    parser.add_argument("--json", default=None, help="file for the figures")
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--output", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=1, help=argparse.SUPPRESS)
    return parser.parse_args()


def print_error(line: str) -> None:
    """Say something on stderr."""
    Console(stderr=True).print(line, highlight=False)


# The parent: rounds of child processes, and what they amount to.


def _run(method: str, source: Path, folder: Path, model: str, batches: dict[str, int]) -> dict[str, float]:
    found = _spawn(method, source, folder, model, batch=batches.get(method, 1))
    print_error(f"{method}: {found['seconds']:.2f} s")
    return found


def _spawn(child: str, source: Path, folder: Path, model: str, *, batch: int = 1, sections: int = 1) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        command = [sys.executable, __file__, str(source), "--child", child, "--model", model, "--output", f"{place}/out.zarr"]
        command += ["--batch", str(batch), "--seam-sections", str(sections)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _figures(
    rounds: list[dict[str, dict[str, float]]], shape: tuple[int, ...], batches: dict[str, int], seams: dict[str, Any]
) -> dict[str, Any]:
    methods = {}
    for method in rounds[0]:
        ratios = [found[method]["seconds"] / found["ours"]["seconds"] for found in rounds]
        methods[method] = {
            "seconds": statistics.median(found[method]["seconds"] for found in rounds),
            "mvox_per_s": statistics.median(found[method]["voxels"] / found[method]["seconds"] / 1e6 for found in rounds),
            "peak_mib": statistics.median(found[method]["peak_mib"] for found in rounds),
            "ours_is_faster_by": statistics.median(ratios),
            "from": min(ratios),
            "to": max(ratios),
        }
    return {"input": list(shape), "rounds": rounds, "batches": batches, "methods": methods, "seams": seams}


def _print(figures: dict[str, Any]) -> None:
    speed = Table(title=f"input {figures['input']}, medians of {len(figures['rounds'])} rounds", title_justify="left")
    for column in ("", "seconds", "Mvox/s of output", "peak MiB", "time / ours"):
        speed.add_column(column)
    for method, row in figures["methods"].items():
        ratio = f"{row['ours_is_faster_by']:.2f} ({row['from']:.2f} to {row['to']:.2f})"
        speed.add_row(method, f"{row['seconds']:.2f}", f"{row['mvox_per_s']:.2f}", f"{row['peak_mib']:.0f}", ratio)
    seams = Table(title="seam error in grey levels, float32", title_justify="left")
    for column in ("", "largest", f"{PERCENTILE}th percentile", "voxels"):
        seams.add_column(column)
    for method, row in figures["seams"].items():
        seams.add_row(method, f"{row['largest']:.3f}", f"{row['percentile']:.4f}", str(row["voxels"]))
    console = Console()
    console.print(speed)
    console.print(seams)


# The children: each is one run of one method.


def _child(options: argparse.Namespace) -> None:
    answers: dict[str, Callable[[], dict[str, Any]]] = {
        "ours": lambda: _timed(options, lambda: _ours(options)),
        "monai-bf16": lambda: _timed(options, lambda: _theirs(options, bfloat16=True)),
        "monai-float32": lambda: _timed(options, lambda: _theirs(options, bfloat16=False)),
        "tune": lambda: _tune(options),
        "seams": lambda: _seams(options),
    }
    sys.stdout.write(json.dumps(answers[options.child]()) + "\n")


def _timed(options: argparse.Namespace, run: Callable[[], None]) -> dict[str, Any]:
    if options.child != "ours":
        import_module("monai.inferers")  # imports are not counted
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mib": peak, "voxels": int(np.prod(open_volume(options.output).levels[0].shape))}


def _ours(options: argparse.Namespace) -> None:
    outcome = enhance(options.volume, options.output, model=options.model)
    if not outcome.complete:
        raise SystemExit("the job is not complete")


def _theirs(options: argparse.Namespace, *, bfloat16: bool) -> None:
    volume, model = open_volume(options.volume), load_model(options.model)
    voxels = np.asarray(volume.open().read().result())
    table = _statistics(options.volume, model)
    infer = _monai(model, options.batch, bfloat16=bfloat16)
    depth, height, width = voxels.shape
    _, y, x = model.card.scale
    result = np.empty((depth, height * y, width * x), voxels.dtype)
    limits = np.iinfo(voxels.dtype)
    for z in range(depth):
        grey = _section(voxels[z], table, z, infer)
        result[z] = np.clip(np.rint(grey, out=grey), limits.min, limits.max, out=grey)
    size, origin = upscaled(volume.levels[0].voxel_size, volume.levels[0].translation, model.card.scale)
    shape = (depth, height * y, width * x)
    _write(options.output, VolumeLayout(voxels.dtype.name, plan_levels(shape, size, origin)), result)


def _write(output: str, layout: VolumeLayout, voxels: NDArray[Any]) -> None:
    create_volume(output, layout, {})
    writes = []
    for number, level in enumerate(layout.levels):
        if number:
            voxels = ts.downsample(ts.array(voxels), list(level.factor), method="mean").read().result()
        target = open_for_writing(output, layout, number)
        writes.append(target.write(voxels, can_reference_source_data_indefinitely=True))
    for write in writes:
        write.result()


def _tune(options: argparse.Namespace) -> dict[str, int]:
    model = load_model(options.model)
    section = np.asarray(open_volume(options.volume).open()[0].read().result())
    table = _statistics(options.volume, model)
    best = {}
    for method in METHODS[1:]:
        seconds: dict[int, list[float]] = {batch: [] for batch in BATCHES}
        for repeat in range(4):
            for batch in BATCHES:
                infer = _monai(model, batch, bfloat16=method == "monai-bf16")
                started = time.perf_counter()
                _section(section, table, 0, infer)
                if repeat:  # the first one warms up
                    seconds[batch].append(time.perf_counter() - started)
        best[method] = min(BATCHES, key=lambda batch: min(seconds[batch]))
    return best


def _statistics(url: str, model: Model) -> Statistics:
    normalisation = model.card.normalisation
    return fit_statistics(open_volume(url), 0, (normalisation.low, normalisation.high))


def _section(section: NDArray[Any], table: Statistics, z: int, infer: Inferer) -> Floats:
    """Return one enhanced section in grey levels, not rounded."""
    low, span = np.float32(table.low[0, z]), np.float32(table.high[0, z] - table.low[0, z])
    grey = infer((section.astype(np.float32) - low) / span)
    grey *= span
    grey += low
    return grey


def _network(model: Model) -> nn.Module:
    return model.network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # stubs lack it


def _monai(model: Model, batch: int, *, bfloat16: bool) -> Inferer:
    """Return MONAI's sliding window over one normalised section."""
    from monai.inferers import sliding_window_inference

    network, roi = _network(model), model.card.patch[1:]

    def infer(section: Floats) -> Floats:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            x = torch.from_numpy(section)[None, None]  # (1, 1, y, x)
            y = sliding_window_inference(x, roi, batch, network, overlap=OVERLAP, mode="gaussian")
        assert isinstance(y, torch.Tensor)
        found: Floats = y[0, 0].float().numpy()
        return found

    return infer


# The seam error.


def _seams(options: argparse.Namespace) -> dict[str, Any]:
    model = load_model(options.model)
    count = options.seam_sections
    voxels = np.asarray(open_volume(options.volume).open()[:count].read().result())
    table = _statistics(options.volume, model)
    job = {"model": options.model, "precision": "float32", "dtype": "float32", "roi": f"0:{count},:,:", "crop": True}
    outcome = enhance(options.volume, options.output, **job)
    ours = np.asarray(open_volume(options.output).open().read().result())
    monai = _monai(model, 1, bfloat16=False)
    whole = _whole(model)
    borders = {"ours": _our_borders(outcome.plan.terms.lattice), "monai": _their_borders(voxels.shape, model)}
    differences: dict[str, list[Floats]] = {name: [] for name in borders}
    for z in range(count):
        truth = _section(voxels[z], table, z, whole)
        for name, result in (("ours", ours[z]), ("monai", _section(voxels[z], table, z, monai))):
            near = _near(borders[name], voxels.shape[1:], model)
            differences[name].append(np.abs(result - truth)[near])
    return {name: _summary(np.concatenate(parts)) for name, parts in differences.items()}


def _whole(model: Model) -> Inferer:
    """Return the network on a whole section, mirrored by the receptive field."""
    network = _network(model)
    grain, reach = model.card.granularity[1], model.card.receptive_field[1]
    margin = -(-reach // grain) * grain
    _, fy, fx = model.card.scale

    def infer(section: Floats) -> Floats:
        height, width = section.shape
        rows = mirror_index(-margin, -(-height // grain) * grain + margin, height)
        columns = mirror_index(-margin, -(-width // grain) * grain + margin, width)
        with torch.inference_mode():
            y = network(torch.from_numpy(section[np.ix_(rows, columns)])[None, None])
        found: Floats = y[0, 0].numpy()[margin * fy :, margin * fx :][: height * fy, : width * fx].copy()
        return found

    return infer


def _our_borders(lattice: Lattice) -> tuple[list[int], list[int]]:
    def ends(line: AxisLattice) -> list[int]:
        return [end for n in range(line.count) for end in (line.start(n), line.start(n) + line.patch)]

    return ends(lattice.y), ends(lattice.x)


def _their_borders(shape: tuple[int, ...], model: Model) -> tuple[list[int], list[int]]:
    def ends(size: int, roi: int) -> list[int]:
        step = int(roi * (1 - OVERLAP))
        starts = {min(start, size - roi) for start in range(0, size - roi + step, step)}
        return sorted(end for start in starts for end in (start, start + roi))

    return ends(shape[1], model.card.patch[1]), ends(shape[2], model.card.patch[2])


def _near(borders: tuple[list[int], list[int]], shape: tuple[int, ...], model: Model) -> NDArray[np.bool_]:
    """Return the output voxels within the receptive field of a border, and not within that of a face."""
    lines = []
    for ends, size, reach, factor in zip(borders, shape, model.card.receptive_field[1:], model.card.scale[1:], strict=True):
        near, inside = np.zeros(size, bool), np.zeros(size, bool)
        inside[reach : size - reach] = True
        for end in ends:
            near[max(0, end - reach) : max(0, end + reach)] = True
        lines.append((np.repeat(near, factor), np.repeat(inside, factor)))
    (near_y, inside_y), (near_x, inside_x) = lines
    near_any: NDArray[np.bool_] = (near_y[:, None] | near_x[None]) & (inside_y[:, None] & inside_x[None])
    return near_any


def _summary(differences: Floats) -> dict[str, float]:
    return {
        "largest": float(differences.max()),
        "percentile": float(np.percentile(differences, PERCENTILE)),
        "voxels": int(differences.size),
    }


if __name__ == "__main__":
    main()
