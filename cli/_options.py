"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from volumetool.errors import ConfigError
from volumetool.paths import absolute_path


def local_path(text: str | Path) -> Path:
    """Read a local path, however it is spelled."""
    return absolute_path(text)


Reduction = Annotated[
    Literal["mean", "mode"] | None,
    typer.Option(
        help="How a level is made: mean, or mode, the most frequent value, for labels; by default as the volume says."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print data as JSON on stdout, the rest on stderr.")]
Report = Annotated[
    Path | None, typer.Option(parser=local_path, metavar="FILE", help="HTML file to write: the job on one page, with pictures.")
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST", help="Host that the configuration may name although it is not public; may be repeated."),
]
VoxelSize = Annotated[
    str | None,
    typer.Option("--voxel-size", metavar="Z,Y,X", help="Voxel size in nm: given to, or correcting, the input's metadata."),
]


ForceVoxelSize = Annotated[
    bool, typer.Option("--force-voxel-size", help="The voxel size is in nm, and in the order z, y, x, whatever it looks like.")
]


def write_report(output: str, path: Path) -> None:
    """Write the report of a job, and say so."""
    from volumetool.cli._tables import say

    from volumetool.evaluation.job_report import write_job_report

    write_job_report(output, path)
    say(f"report: {path}")


def given_size(text: str | None) -> tuple[float, float, float] | None:
    """Read a voxel size for looking at a volume, and warn of one that is likely in another unit or order."""
    from volumetool.cli._tables import warn

    from volumetool.units import check_given_size

    size = numbers(text, "--voxel-size")
    try:
        check_given_size(size)
    except ConfigError as error:
        warn(f"warning: {error.message}")
    return size


def numbers(text: str | None, option: str) -> tuple[float, float, float] | None:
    """Return the three numbers, above 0, of a text such as ``8,32,32``; None for None.

    Raises
    ------
    ConfigError
        ``config.option``: not three numbers above 0.
    """
    if text is None:
        return None
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError:
        z = y = x = 0.0
    if min(z, y, x) <= 0:
        raise ConfigError(
            "config.option", f"{option} {text!r} is not three numbers above 0", hint=f"write {option} z,y,x, such as 8,32,32"
        )
    return z, y, x
