"""``volumetool bench``: the share of this machine that a job turns into output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from volumetool.cli._json import print_json
from volumetool.cli._options import ForceVoxelSize, Json, VoxelSize, local_path, numbers
from volumetool.cli._progress import observing
from volumetool.cli._tables import say, warn

from volumetool.processing.device.gpus import DeviceName

if TYPE_CHECKING:
    from volumetool.benchmark.result import BenchResult


def bench(
    input: Annotated[str | None, typer.Argument(help="Volume to measure with; without it one is made.")] = None,  # noqa: A002
    model: Annotated[str, typer.Option(help="Built-in name or model file.")] = "em-x4",
    pairs: Annotated[int, typer.Option(help="Floors and jobs, run in turns.")] = 5,
    size: Annotated[str, typer.Option(metavar="Z,Y,X", help="Voxels of the volume that is made.")] = "64,512,512",
    roi: Annotated[str | None, typer.Option(metavar="Z0:Z1,Y0:Y1,X0:X1", help="Only this box, in input voxels.")] = None,
    scratch: Annotated[
        Path | None, typer.Option(parser=local_path, help="Folder on the disk to measure; emptied again.")
    ] = None,
    voxel_size: VoxelSize = None,
    force_voxel_size: ForceVoxelSize = False,
    workers: Annotated[int | None, typer.Option(help="Processes of the job.")] = None,
    device: Annotated[DeviceName, typer.Option(help="Where the network runs.")] = "auto",
    precision: Annotated[Literal["auto", "bfloat16", "float32"], typer.Option(help="Of the network.")] = "auto",
    batch: Annotated[int | None, typer.Option(help="Patches per call of the network.")] = None,
    history: Annotated[
        Path | None, typer.Option(parser=local_path, help="File that keeps a line a run; in your cache folder by default.")
    ] = None,
    curves: Annotated[
        bool, typer.Option("--curves", help="Measure network, codecs and disk instead; say which patch would be fastest.")
    ] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Say how the last run like this one did.")] = False,
    as_json: Json = False,
) -> None:
    """Measure what a job reaches of what network and disk alone would.

    The floor is the network on each patch once, plus compressing and writing each byte of the output once. The job is the
    real one, from disk to disk; planning is not counted, and the process is warm. Both use all cores, and run in turns.
    """
    from volumetool.benchmark.bench import bench as measure
    from volumetool.benchmark.history import default_history, describe_run, remember

    if curves:
        _curves(model, device, scratch, as_json=as_json)
        return
    z, y, x = (int(n) for n in numbers(size, "--size") or ())
    options: dict[str, Any] = {"model": model, "roi": roi, "workers": workers, "device": device, "precision": precision}
    options |= {"batch": batch, "voxel_size": voxel_size, "force_voxel_size": force_voxel_size}
    with observing() as observer:
        result = measure(input, pairs=pairs, size=(z, y, x), scratch=scratch, observer=observer, **options)
    for note in result.notes:
        warn(f"warning: {note}")
    run = describe_run(result)
    before = remember(history or default_history(), run)
    if as_json:
        print_json("benchmark", {**run, "before": before} if compare else run)
    else:
        _print(result)
        if compare:
            _print_comparison(run, before)
    if result.void:
        warn("void: a job took less than its floor, so the two did not meet the same conditions")
        raise typer.Exit(1)


def _curves(model: str, device: DeviceName, scratch: Path | None, *, as_json: bool) -> None:
    from dataclasses import asdict

    from volumetool.cli._tables import print_facts

    from volumetool.benchmark.profile import measure_curves
    from volumetool.machine import usable_cores
    from volumetool.processing.operation import open_operation

    found = measure_curves(open_operation(model), device, usable_cores(), scratch)
    usual, best = found.liked
    gain = best.mvox_per_s / usual.mvox_per_s - 1
    if as_json:
        liked = {"patch": best.patch, "gain": gain}
        print_json("curves", {**asdict(found), "liked": liked})
        return
    patch = ",".join(map(str, best.patch))
    print_facts(
        {
            "model": found.model,
            "network": [
                {
                    "precision": rate.precision,
                    "calls x patches": f"{rate.streams} x {rate.batch}",
                    "patch": rate.patch,
                    "patches/s": f"{rate.patches_per_s:.2f}",
                    "new Mvox/s of output": f"{rate.mvox_per_s:.2f}",
                }
                for rate in found.network
            ],
            "codecs": [
                {
                    "codec": rate.name,
                    "stored": f"{rate.stored:.0%}",
                    "write MB/s": f"{rate.write_mb_per_s:.0f}",
                    "read MB/s": f"{rate.read_mb_per_s:.0f}",
                }
                for rate in found.codecs
            ],
            "disk": f"{found.disk_write_mb_per_s:.0f} MB/s written and synced, {found.disk_read_mb_per_s:.0f} MB/s read",
            "patch": "the card's is the fastest here"
            if best.patch == usual.patch
            else f"--patch {patch} would be {gain:.0%} faster than the card's; its voxels differ where patches meet",
        }
    )


def _print(result: BenchResult) -> None:
    from volumetool.cli._tables import print_facts

    facts = result.as_dict()
    seconds, ratio, rates = facts["seconds"], facts["ratio"], facts["rates"]
    rows = [
        {
            "pair": str(number),
            "network s": f"{pair.network:.2f}",
            "write s": f"{pair.write:.2f}",
            "floor s": f"{pair.floor:.2f}",
            "job s": f"{pair.job:.2f}",
            "in network s": f"{pair.job_network:.2f}",
            "job / floor": f"{pair.ratio:.3f}",
        }
        for number, pair in enumerate(result.pairs, start=1)
    ]
    print_facts(
        {
            "model": f"{result.model}, {result.precision}, {result.device}",
            "job": f"{result.workers} workers of {result.threads} threads",
            "calls": f"{result.streams} side by side, of {result.batch} patches",
            "input": result.input_shape,
            "output": result.output_shape,
            "network": f"{rates['network_mvox_per_s']:.2f} Mvox/s of output, {rates['network_patches_per_s']:.1f} patches/s",
            "arithmetic": f"{rates['network_tflop_per_s']:.3f} TFLOP/s in the network, of {rates['product_tflop_per_s']:.3f} "
            "in a product of large matrices"
            if result.operations
            else None,
            "write": f"{rates['write_mb_per_s']:.0f} MB/s of voxels, all levels, compressed and synced",
            "pairs": rows,
            "job / floor": f"{ratio['median']:.3f} median, {ratio['min']:.3f} to {ratio['max']:.3f}",
            "share": f"{result.share:.3f} of the floor's speed",
            "end to end": f"{rates['job_mvox_per_s']:.2f} Mvox/s of output",
            "the job's time": f"{seconds['job']:.2f} s, {seconds['job_network']:.2f} s of its workers in the network",
            "busy": _bars(result.stages, seconds["job"] * result.workers),
            "twice": f"{result.computed - result.patches} of {result.computed} patches computed more than once",
        }
    )


def _print_comparison(run: dict[str, Any], before: dict[str, Any] | None) -> None:
    from datetime import datetime

    if before is None:
        say("compared      there is no earlier run like this one in the history", sys.stdout)
        return
    when = datetime.fromtimestamp(before["time"]).astimezone().strftime("%Y-%m-%d %H:%M")
    say(f"compared with {when}, volumetool {before['version']}: now in times of then", sys.stdout)
    rows = {name: (rate, before["rates"][name]) for name, rate in run["rates"].items() if name in before["rates"]} | {
        "share": (run["share"], before["share"])
    }
    for name, (now, then) in rows.items():
        say(f"  {name:<24}{now:>9.3g}{then:>9.3g}{now / then if then else float('nan'):>8.2f}x", sys.stdout)


def _bars(stages: dict[str, float], whole: float) -> str:
    """Return a bar a stage: how much of the job's time it had something to do."""
    shares = [(stage, seconds / whole) for stage, seconds in stages.items()]
    return "\n" + "\n".join(f"  {stage:<8} {'#' * round(40 * share):<40} {share:6.1%}" for stage, share in shares)
