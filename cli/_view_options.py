"""Options of commands that show something: where one looks, and pictures instead of a page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from volumetool.cli._json import print_json
from volumetool.cli._options import local_path
from volumetool.cli._tables import say

from volumetool.errors import ConfigError

if TYPE_CHECKING:
    from volumetool.viewer.page import Page
    from volumetool.viewer.state import Look

LOOK = "How it looks"

Position = Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Centre of the view, in nm.", rich_help_panel=LOOK)]
Zoom = Annotated[float | None, typer.Option(metavar="NM", help="Nanometres per pixel.", rich_help_panel=LOOK)]
Screenshot = Annotated[
    Path | None, typer.Option(parser=local_path, help="Write a picture instead (PNG; needs chromium).", rich_help_panel=LOOK)
]
PictureSize = Annotated[str, typer.Option(metavar="W,H", help="Of the picture, in pixels.", rich_help_panel=LOOK)]


def take_picture(page: Page, file: Path, look: Look, *, as_json: bool) -> None:
    """Write what a page shows once all of it is drawn, and say so.

    Parameters
    ----------
    page : Page
        The page to draw.
    file : Path
        The PNG to write.
    look : Look
        How it looks, with the size of the picture.
    as_json : bool
        Also print the file and its size as JSON.
    """
    from volumetool.viewer.browser import take_picture as draw

    draw(page, file, look.picture)
    if as_json:
        print_json("picture", {"screenshot": str(file), "width": look.picture[0], "height": look.picture[1]})
    say(f"{file}: {look.picture[0]} x {look.picture[1]} pixels")


def as_position(text: str | None) -> tuple[float, float, float] | None:
    """Return the position that ``--position`` gives, along z, y, x in nanometres; None where it is not given."""
    if text is None:
        return None
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError:
        z = y = x = math.nan
    if not math.isfinite(z + y + x):
        raise ConfigError("config.option", f"--position {text!r} is not three numbers", hint="write --position z,y,x, in nm")
    return z, y, x


def as_zoom(zoom: float | None) -> float | None:
    """Return the zoom that ``--zoom`` gives, in nanometres per pixel; None where it is not given."""
    if zoom is not None and not 0 < zoom < math.inf:
        raise ConfigError("config.option", f"--zoom {zoom} is not above 0", hint="give nanometres per pixel, such as --zoom 8")
    return zoom


def as_picture(text: str) -> tuple[int, int]:
    """Return the width and height that ``--size`` gives, in pixels, 64 to 4096 each."""
    try:
        width, height = (int(part) for part in text.split(","))
    except ValueError:
        width = height = 0
    if min(width, height) < 64 or max(width, height) > 4096:
        raise ConfigError(
            "config.option", f"--size {text!r} is not two numbers from 64 to 4096", hint="write --size width,height, in pixels"
        )
    return width, height
