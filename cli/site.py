"""``volumetool doctor``: what a machine gives to a job."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from volumetool.cli._json import print_json
from volumetool.cli._options import Json
from volumetool.cli._tables import print_lines, say


def doctor(
    output: Annotated[str | None, typer.Argument(metavar="OUTPUT", help="Where a job would write.")] = None,
    as_json: Json = False,
) -> None:
    """Say what this machine gives to a job, what that means, and what is missing; exit code 1 if no job can run."""
    from volumetool.sites.doctor import examine

    found = examine(output)
    if as_json:
        print_json("examination", found.as_dict())
    else:
        for finding in found.findings:
            state = "" if finding.state == "fine" else f"{finding.state}: "
            print_lines([(finding.name, f"{state}{finding.found}")], sys.stdout)
            print_lines([("", f"-> {finding.means}")] if finding.means else [], sys.stdout)
    say("a job can run here" if found.ok else "no job can run here: see what is missing")
    raise typer.Exit(0 if found.ok else 1)
