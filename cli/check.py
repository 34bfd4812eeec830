"""``volumetool status``, ``verify``, ``attest``, ``clean`` and ``validate``: what is there, and whether it is right."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from volumetool.cli._json import print_json
from volumetool.cli._options import AllowHost, Json, Report, local_path, write_report
from volumetool.cli._progress import observing
from volumetool.cli._tables import say, warn

if TYPE_CHECKING:
    from volumetool.jobs.status import Status
    from volumetool.jobs.verification.verify import Report as Findings

WATCH_SECONDS = 5.0
"""Between two looks of ``status --watch``."""

CLEAR = "\033[H\033[2J"
"""Empties a terminal."""

Output = Annotated[str, typer.Argument(help="OUTPUT of `volumetool enhance`.")]


def status(
    output: Output,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every few seconds, until the job is complete.")] = False,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Return how far a job is, what failed and why, and what to type next."""
    from volumetool.jobs.inspection import status as look

    while True:
        began = time.monotonic()
        found = look(output)
        if watch and sys.stdout.isatty() and not as_json:
            print(CLEAR, end="")
        _print_status(found, as_json=as_json)
        if not watch or found.state == "complete":
            break
        time.sleep(max(WATCH_SECONDS, 2 * (time.monotonic() - began)))  # a ledger of millions takes its time
    if report is not None:
        write_report(output, report)


def _print_status(found: Status, *, as_json: bool) -> None:
    if as_json:
        print_json("job", asdict(found))
        return
    from volumetool.cli._tables import NAMES, print_lines

    from volumetool.jobs.status import describe_status

    print_lines(describe_status(found), sys.stdout)
    say(f"{'next':<{NAMES}}{found.next_command}", sys.stdout)  # in one piece, to be copied


def verify(
    output: Output,
    depth: Annotated[
        Literal["structure", "stored", "full"],
        typer.Option(
            help="structure (metadata, records, which shards are there), stored (their bytes, too) or full (their voxels, too)."
        ),
    ] = "full",
    sample: Annotated[
        str | None, typer.Option(metavar="N/T", help="Read one of T parts, such as 2/7, or a share, such as 5%.")
    ] = None,
    recompute: Annotated[
        int, typer.Option(metavar="K", min=0, help="Compute so many regions again and compare them bit for bit.")
    ] = 0,
    seed: Annotated[int | None, typer.Option(help="Chooses the regions to compute again.")] = None,
    adopt: Annotated[
        bool,
        typer.Option("--adopt", help="The job's folder is lost: make a new one, from what is stored and right, for `enhance`."),
    ] = False,
    source: Annotated[
        str | None, typer.Option("--input", metavar="VOLUME", help="With --adopt: where the input is now, if it was moved.")
    ] = None,
    statistics: Annotated[
        str | None, typer.Option(metavar="FILE", help="With --adopt: the table of section statistics that `enhance` was given.")
    ] = None,
    allow_host: AllowHost = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mark what is damaged, so that `enhance` makes it again.")] = False,
    as_json: Json = False,
) -> None:
    """Compare what is stored with the ledger, as deeply as asked for; nothing is changed without --repair or --adopt."""
    from volumetool.jobs.inspection import verify as compare

    asked: dict[str, Any] = {"depth": depth, "sample": sample, "recompute": recompute, "seed": seed, "adopt": adopt}
    asked |= {"source": source, "statistics": statistics, "allow_host": tuple(allow_host or ()), "repair": repair}
    with observing() as observer:
        report = compare(output, observer=observer, **asked)
    if as_json:
        print_json("verification", report.as_dict())
    if report.of is not None:
        _tell_adopted(output, report)
    for damage in report.damaged:
        warn(f"damaged: {damage}")
    verdict = (
        "all as recorded" if report.ok else f"{len(report.damaged)} damages; {report.marked} regions marked for the next run"
    )
    say(f"{report.regions} regions and {report.shards} coarse shards, {report.extent.told}: {verdict}")
    raise typer.Exit(0 if report.ok else 4)


def attest(
    output: Output,
    depth: Annotated[
        Literal["structure", "stored", "full"], typer.Option(help="How deeply bytes are verified, as for `volumetool verify`.")
    ] = "stored",
    sample: Annotated[
        str | None, typer.Option(metavar="N/T", help="Read one of T parts of the regions, such as 2/7, or a share, such as 5%.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(parser=local_path, help="JSON file to write, with a page beside it; else both go into the job's folder."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check records, bytes, and voxels beside those of the input; write what was found, and end with 4 where a check fails."""
    from volumetool.evaluation.attestation.api import attest as look

    with observing() as observer:
        found = look(output, report=report, observer=observer, depth=depth, sample=sample)
    if as_json:
        print_json("attestation", found.as_dict())
    else:
        from volumetool.cli._tables import print_facts

        print_facts(
            {"checks": [{name: check.as_dict()[name] for name in ("name", "state", "found")} for check in found.checks]}
        )
    for check in found.checks:
        if check.state == "failed":
            warn(f"failed: {check.name}: {check.found}; it passes with {check.limit}")
    say(f"wrote {found.report}, and {found.page} for people")
    raise typer.Exit(0 if found.ok else 4)


def _tell_adopted(output: str, report: Findings) -> NoReturn:
    from volumetool.jobs.planning.conflicts import resume_command
    from volumetool.jobs.records.plan_file import stored_plan

    told = f"{report.regions} of {report.of} regions adopted, {len(report.recomputed)} computed again to see"
    say(f"{told}. Next, for the rest and the coarse levels: {resume_command(stored_plan(output).job)}")
    raise typer.Exit(0 if report.regions == report.of else 3)


def clean(output: Output, as_json: Json = False) -> None:
    """Remove what killed writers left behind: temporary files that belong to no shard."""
    from volumetool.jobs.inspection import clean as remove

    with observing() as observer:
        cleaned = remove(output, observer=observer)
    if as_json:
        print_json("leftovers", asdict(cleaned))
    say(f"removed {len(cleaned.removed)} leftover files")
    if cleaned.left:
        left = f"left {len(cleaned.left)} temporary files, such as {cleaned.left[0]}"
        why = "younger than a minute, another user's, or not to be removed"
        say(f"{left}: {why}. Clean again later, as that user, or remove them yourself.")


def validate(
    volume: Annotated[str, typer.Argument(help="Volume: path or URL.")],
    viewer: Annotated[
        Literal["neuroglancer", "napari", "fiji", "mobie", "webknossos", "cloud-volume"] | None,
        typer.Option(help="Ask whether this viewer opens it, in its place."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Return whether a volume is conformant, so that viewers show it in the right place, or whether one viewer opens it."""
    from volumetool.storage.open import open_volume
    from volumetool.viewer.support import validate as look

    found = look(volume, viewer=viewer)
    if as_json:
        print_json("validation", found.as_dict())
    for finding in found.findings:
        warn(f"{finding.code} at {finding.path or '/'}: {finding.message}")
    for hint in dict.fromkeys(finding.hint for finding in found.findings if finding.hint):
        warn(hint)
    if not found.ok:
        say(f"{volume}: {len(found.findings)} findings")
    else:
        say(f"{volume}: {f'{viewer} opens it, in its place' if viewer else f'conformant {open_volume(volume).format}'}")
    raise typer.Exit(0 if found.ok else 4)
