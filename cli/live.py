"""``volumetool live``: enhancement where one looks."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from volumetool.cli.looking import (
    LOOK,
    PictureSize,
    Position,
    Screenshot,
    Zoom,
    as_picture,
    as_position,
    as_zoom,
    take_picture,
)
from volumetool.cli.options import Json, VoxelSize
from volumetool.cli.staying import end_like_ctrl_c, stay

if TYPE_CHECKING:
    from volumetool.viewing.live.show import Live

RUN, REACH = "How it runs", "Who reaches it"


def live(
    input: Annotated[str, typer.Argument(help="Volume to read: OME-Zarr, N5 or Zarr; path or URL.")],  # noqa: A002
    model: Annotated[str | None, typer.Option(help="Built-in name or model file; auto takes the built-in that fits.")] = None,
    into: Annotated[
        str | None,
        typer.Option(metavar="OUTPUT", help="Fill the output of a job meanwhile, what is looked at first; `enhance` goes on."),
    ] = None,
    level: Annotated[int | None, typer.Option(help="Level of the input; 0 is the finest.", rich_help_panel=LOOK)] = None,
    voxel_size: VoxelSize = None,
    nodata: Annotated[
        float | None, typer.Option(help="Input value of voxels without data; nan for NaN.", rich_help_panel=LOOK)
    ] = None,
    precision: Annotated[str | None, typer.Option(help="auto, bfloat16 or float32.", rich_help_panel=LOOK)] = None,
    sections: Annotated[str | None, typer.Option(help="CSV of section statistics to use.", rich_help_panel=LOOK)] = None,
    invert: Annotated[
        bool, typer.Option("--invert", help="The volume's polarity is opposite to the model's.", rich_help_panel=LOOK)
    ] = False,
    force_voxel_size: Annotated[
        bool,
        typer.Option(
            "--force-voxel-size", help="Go on though the model was trained on other voxel sizes.", rich_help_panel=LOOK
        ),
    ] = False,
    position: Position = None,
    zoom: Zoom = None,
    screenshot: Screenshot = None,
    size: PictureSize = "1600,800",
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", rich_help_panel=RUN)] = None,
    memory: Annotated[str | None, typer.Option(help="To use, such as 8GiB.", rich_help_panel=RUN)] = None,
    ahead: Annotated[
        int, typer.Option(min=0, help="Sections to compute ahead while somebody scrolls.", rich_help_panel=RUN)
    ] = 4,
    open_browser: Annotated[bool, typer.Option("--open", help="Open a browser.", rich_help_panel=REACH)] = False,
    host: Annotated[
        str, typer.Option(help="Address to listen on; loopback is for this machine alone.", rich_help_panel=REACH)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65534, help="Of the page; volumes are served on the next one.", rich_help_panel=REACH)
    ] = 0,
    as_json: Json = False,
) -> None:
    """Show a volume beside its enhanced self, computed where one looks; Ctrl-C ends."""
    import logging

    from volumetool.jobs.job import make_job
    from volumetool.viewing.live.basis import nowhere
    from volumetool.viewing.live.show import live as show
    from volumetool.viewing.state import Look
    from volumetool.viewing.view import Listen

    end_like_ctrl_c()
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    job = make_job(
        input=input,
        output=into or nowhere(),
        model=model,
        level=level,
        voxel_size=voxel_size,
        nodata=nodata,
        precision=precision,
        sections=sections,
        invert=invert or None,
        force_voxel_size=force_voxel_size or None,
        device=device,
        memory=memory,
    )
    look = Look(position=as_position(position), zoom=as_zoom(zoom), picture=as_picture(size))
    with show(job, Listen(host, port), into=into is not None, ahead=ahead, look=look) as shown:
        if screenshot is not None:
            take_picture(shown.page, screenshot, look, as_json=as_json)
            return
        _tell(shown, into, as_json=as_json)
        stay(host, shown.link, open_browser=open_browser)


def _tell(shown: Live, into: str | None, *, as_json: bool) -> None:
    for note in shown.opened.notes:
        print(f"warning: {note}", file=sys.stderr)
    print(shown.link, file=sys.stderr)
    print(f"for other programs, as OME-Zarr: {shown.url}", file=sys.stderr)
    if shown.tunnel:
        print(f"from your own machine, first: {shown.tunnel}", file=sys.stderr)
    if into is not None:
        print(f"what is computed goes into {into}; `volumetool status {into}` says how far it is", file=sys.stderr)
    if as_json:
        facts = {"link": shown.link, "url": shown.url, "fingerprint": shown.opened.basis.terms.fingerprint}
        print(json.dumps(facts | ({"tunnel": shown.tunnel} if shown.tunnel else {})), flush=True)
