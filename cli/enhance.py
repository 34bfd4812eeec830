"""``volumetool enhance``: the main job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from volumetool.cli.options import AllowHost, Json, VoxelSize, local_path
from volumetool.cli.progress import watching
from volumetool.cli.tables import say

if TYPE_CHECKING:
    from volumetool.jobs.job import Job
    from volumetool.jobs.plan import Plan
    from volumetool.jobs.run import Outcome

INPUT, LOOK, OUT, RUN = "What to enhance", "How it looks", "The output", "How it runs"


def enhance(
    ctx: typer.Context,
    input: Annotated[str | None, typer.Argument(help="Volume to read: OME-Zarr, N5, precomputed or Zarr; path or URL.")] = None,  # noqa: A002
    output: Annotated[str | None, typer.Argument(help="OME-Zarr volume to write. The same command again goes on.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", parser=local_path, help="Job file, YAML; options given beside it win.")
    ] = None,
    allow_host: AllowHost = None,
    model: Annotated[str | None, typer.Option(help="Built-in name or model file; auto: one that adds no sections.")] = None,
    level: Annotated[int | None, typer.Option(help="Level of the input; 0 is the finest.", rich_help_panel=INPUT)] = None,
    voxel_size: VoxelSize = None,
    roi: Annotated[
        str | None,
        typer.Option(metavar="Z0:Z1,Y0:Y1,X0:X1", help="Compute only this box, in input voxels.", rich_help_panel=INPUT),
    ] = None,
    crop: Annotated[bool, typer.Option("--crop", help="Make the box the whole output.", rich_help_panel=INPUT)] = False,
    mask: Annotated[
        str | None, typer.Option(help="Volume that is 0 where nothing needs enhancing.", rich_help_panel=INPUT)
    ] = None,
    missing: Annotated[
        str | None,
        typer.Option(
            help="Input chunks that are not stored: fill (the array's fill value), fail, or skip (voxels without data).",
            rich_help_panel=INPUT,
        ),
    ] = None,
    nodata: Annotated[
        float | None, typer.Option(help="Input value of voxels without data; nan for NaN.", rich_help_panel=INPUT)
    ] = None,
    force_voxel_size: Annotated[
        bool,
        typer.Option(
            "--force-voxel-size",
            help="Go on with a voxel size that is doubted.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    patch: Annotated[
        str | None,
        typer.Option(
            metavar="Z,Y,X",
            help="Longest patch; by default the model's, or a little more for a short axis.",
            rich_help_panel=LOOK,
        ),
    ] = None,
    overlap: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="Overlap instead of the model's.", rich_help_panel=LOOK)
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="As if the network saw each section at once; slower.", rich_help_panel=LOOK)
    ] = False,
    precision: Annotated[str | None, typer.Option(help="auto, bfloat16 or float32.", rich_help_panel=LOOK)] = None,
    sections: Annotated[str | None, typer.Option(help="CSV of section statistics to use.", rich_help_panel=LOOK)] = None,
    seed: Annotated[int | None, typer.Option(help="Moves the sample for the statistics.", rich_help_panel=LOOK)] = None,
    flatten: Annotated[
        bool, typer.Option("--flatten", help="Keep the evened contrast of sections.", rich_help_panel=LOOK)
    ] = False,
    invert: Annotated[
        bool, typer.Option("--invert", help="The volume's polarity is opposite to the model's.", rich_help_panel=LOOK)
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(help="uint8, int8, uint16, int16 or float32; the input's without it.", rich_help_panel=OUT)
    ] = None,
    fill: Annotated[float | None, typer.Option(help="Output value of voxels without data.", rich_help_panel=OUT)] = None,
    chunk: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="Chunk of the output, in voxels.", rich_help_panel=OUT)
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="Shard of the output, in voxels.", rich_help_panel=OUT)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete what an earlier job left there.", rich_help_panel=OUT)
    ] = False,
    accept_failed: Annotated[
        bool, typer.Option("--accept-failed", help="Finish with holes where regions failed.", rich_help_panel=OUT)
    ] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", rich_help_panel=RUN)] = None,
    workers: Annotated[int | None, typer.Option(help="Processes, or GPUs.", rich_help_panel=RUN)] = None,
    cluster: Annotated[
        str | None, typer.Option(help="local, cuda, or tcp://host:port of a dask scheduler.", rich_help_panel=RUN)
    ] = None,
    memory: Annotated[str | None, typer.Option(help="For all workers together, such as 8GiB.", rich_help_panel=RUN)] = None,
    region: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Shards per region.", rich_help_panel=RUN)] = None,
    keep_patches: Annotated[
        str | None,
        typer.Option(help="auto, always or never: patches that several regions need, on disk.", rich_help_panel=RUN),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Patches per call of the network.", rich_help_panel=RUN)] = None,
    patience: Annotated[
        float | None, typer.Option(help="Seconds without a sign of life after which a region hangs.", rich_help_panel=RUN)
    ] = None,
    retry_quarantined: Annotated[
        bool,
        typer.Option("--retry-quarantined", help="Try regions again that ended or hung workers.", rich_help_panel=RUN),
    ] = False,
    input_check: Annotated[
        str | None,
        typer.Option(
            help="Is the input still what finished regions read? metadata, stored (chunk sizes and times too) or strict (all "
            "voxels).",
            rich_help_panel=RUN,
        ),
    ] = None,
    recompute_changed: Annotated[
        bool,
        typer.Option("--recompute-changed", help="Make regions again whose input was changed.", rich_help_panel=RUN),
    ] = False,
    allow_mixed_numerics: Annotated[
        bool,
        typer.Option("--allow-mixed-numerics", help="Let workers compute other bytes than the first.", rich_help_panel=RUN),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Print the plan; write nothing.", rich_help_panel=RUN)
    ] = False,
    log_format: Annotated[str, typer.Option(help="auto or json.", rich_help_panel=RUN)] = "auto",
    as_json: Json = False,
) -> None:
    """Enhance a volume. Run the same command again to go on after an interruption.

    SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 stop it like Ctrl-C, with exit code 75: start me again.
    """
    from volumetool.jobs.planning import plan_with_statistics
    from volumetool.jobs.run import run

    job = _job(ctx.params, config, allow_host or [])
    plan, statistics = plan_with_statistics(job)
    if dry_run:
        _print_plan(plan, as_json=as_json)
        return
    _begin(plan)
    with watching("json" if log_format == "json" else "auto") as watcher:
        try:
            outcome = run(plan, statistics, watcher)
        except KeyboardInterrupt:
            say("\ninterrupted; what was finished is kept. Run the same command to go on.")
            raise
    _print_outcome(outcome, as_json=as_json)
    raise typer.Exit(outcome.exit_code)


def _job(params: dict[str, Any], config: Path | None, allow_hosts: list[str]) -> Job:
    from volumetool.errors import ConfigError
    from volumetool.jobs.job import Job, make_job, read_job

    options = {
        name: value for name, value in params.items() if name in Job.model_fields and value is not None and value is not False
    }
    if config is not None:
        return read_job(config, allow_hosts, **options)
    if "input" not in options or "output" not in options:
        raise ConfigError(
            "config.option", "INPUT and OUTPUT are needed", hint="volumetool enhance INPUT OUTPUT, or --config job.yaml"
        )
    return make_job(**options)


def _begin(plan: Plan) -> None:
    """Say what begins: the model and why, what it makes of what, what is done already, and what to beware of."""
    from volumetool.jobs.describe import describe_box, describe_start
    from volumetool.jobs.folder import open_ledger

    lines = [describe_start(plan, 0 if plan.job.overwrite else open_ledger(plan).done)]
    lines += [f"box: {box}"] if (box := describe_box(plan)) else []
    say("\n".join([*lines, *(f"warning: {note}" for note in plan.notes)]))


def _print_plan(plan: Plan, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(plan.model_dump(mode="json")))
        return
    from volumetool.cli.tables import print_lines

    from volumetool.jobs.describe import describe_plan

    print_lines(describe_plan(plan))


def _print_outcome(outcome: Outcome, *, as_json: bool) -> None:
    job = outcome.plan.job
    if as_json:
        facts = {name: getattr(outcome, name) for name in ("complete", "done", "failed", "regions", "ran")}
        print(json.dumps({**facts, "output": job.output, "fingerprint": outcome.plan.fingerprint}))
    for record in outcome.failures:
        box = outcome.plan.grid.region(record.region).box
        say(f"region {record.region} ({box}) failed: {record.error.get('message')}")
        if record.error.get("hint"):
            say(f"  {record.error['hint']}")
    if outcome.complete:
        say(f"complete: {job.output}, {outcome.done} regions. Next: volumetool verify {job.output}")
        return
    words = f"{outcome.done} of {outcome.regions} regions done, {outcome.failed} failed."
    more = "Run the same command to go on." if outcome.exit_code else "The box is done; without --roi the rest follows."
    say(f"{words} {more}")
