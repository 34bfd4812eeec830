"""``volumetool view``: volumes in Neuroglancer; and ``volumetool publish``: one of them for other software."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from volumetool.cli._json import print_json
from volumetool.cli._options import Json, VoxelSize, given_size
from volumetool.cli._serve import end_like_ctrl_c, stay
from volumetool.cli._tables import say
from volumetool.cli._view_options import (
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

from volumetool.errors import ConfigError
from volumetool.storage.writing.names import PublishedName

if TYPE_CHECKING:
    from volumetool.viewer.progress import Heat
    from volumetool.viewer.view import Listen, View

REACH = "Who reaches it"


class Layout(StrEnum):
    """Panels."""

    SIDE_BY_SIDE = "side-by-side"
    OVERLAY = "overlay"
    FOUR = "4panel"


class HeatMap(StrEnum):
    """What a heat map shows of each region."""

    SECONDS = "seconds"
    CONSISTENCY = "consistency"


def view(
    volumes: Annotated[
        list[str], typer.Argument(help="Volumes: OME-Zarr, N5, Zarr or precomputed; paths or URLs.", metavar="VOLUME...")
    ],
    layout: Annotated[Layout, typer.Option(help="Panels.", rich_help_panel=LOOK)] = Layout.SIDE_BY_SIDE,
    progress: Annotated[
        bool, typer.Option("--progress", help="Lay the regions of a running job over its output.", rich_help_panel=LOOK)
    ] = False,
    heat: Annotated[
        HeatMap | None,
        typer.Option(help="With --progress: a heat map of the regions, in a panel of its own.", rich_help_panel=LOOK),
    ] = None,
    trust: Annotated[
        str | None,
        typer.Option(metavar="VOLUME", help="What `enhance --trust` wrote, in colours over the output.", rich_help_panel=LOOK),
    ] = None,
    position: Position = None,
    zoom: Zoom = None,
    voxel_size: VoxelSize = None,
    screenshot: Screenshot = None,
    size: PictureSize = "1600,800",
    open_browser: Annotated[bool, typer.Option("--open", help="Open a browser.", rich_help_panel=REACH)] = False,
    url_only: Annotated[
        bool, typer.Option("--url-only", help="Print a link to a hosted Neuroglancer; public URLs only.", rich_help_panel=REACH)
    ] = False,
    neuroglancer: Annotated[
        str | None, typer.Option(metavar="URL", help="The hosted Neuroglancer of --url-only.", rich_help_panel=REACH)
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; loopback is for this machine alone.", rich_help_panel=REACH)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65534, help="Of the page; volumes are served on the next one.", rich_help_panel=REACH)
    ] = 0,
    as_json: Json = False,
) -> None:
    """Show volumes in Neuroglancer, raw beside enhanced; Ctrl-C ends."""
    from volumetool.viewer.state import Look
    from volumetool.viewer.view import HOSTED, Listen, hosted_link
    from volumetool.viewer.view import view as show

    look = Look(layout.value, as_position(position), as_zoom(zoom), as_picture(size))
    voxels = given_size(voxel_size)
    if url_only:
        given = {"screenshot": screenshot is not None, "trust": trust is not None}
        _refuse_with_url_only(progress=progress, open_browser=open_browser, **given)
        _print_link(hosted_link(volumes, look, neuroglancer or HOSTED, voxels), as_json=as_json)
        return
    if neuroglancer is not None:
        raise ConfigError(
            "config.option", f"--neuroglancer {neuroglancer} is for --url-only", hint="give both, or leave it away"
        )
    if heat is not None and not progress:
        raise ConfigError("config.option", f"--heat {heat.value} is for --progress", hint="give both, or leave it away")
    end_like_ctrl_c()
    followed: bool | Heat = progress if heat is None else heat.value
    with show(volumes, look, Listen(host, port), progress=followed, voxel_size=voxels, trust=trust) as shown:
        if screenshot is not None:
            with shown.still():
                take_picture(shown.page, screenshot, look, as_json=as_json)
                _tell_sections(shown)
                _tell_progress(shown)
        else:
            _stay(shown, Listen(host, port), open_browser=open_browser, as_json=as_json)


def _stay(shown: View, listen: Listen, *, open_browser: bool, as_json: bool) -> None:
    _tell_sections(shown)
    _tell_progress(shown)
    _print_link(shown.link, shown.tunnel, as_json=as_json)  # last: whoever has it may end this at once
    stay(listen.host, shown.link, open_browser=open_browser)


def _tell_sections(shown: View) -> None:
    """Print which sections of a job's input are bad, for each output that is shown."""
    from volumetool.jobs.planning.report import describe_sections

    jobs = {layer.job.output: layer.job for layer in shown.layers if layer.job is not None}
    for job in jobs.values():
        for line in describe_sections(job.first):
            say(f"sections of {job.job.input}: {line}")


def _tell_progress(shown: View) -> None:
    if shown.overlay is None:
        return
    counts = ", ".join(f"{count} {name}" for name, count in shown.overlay.counts().items() if count)
    say(f"regions: {counts}")
    for name, (low, high) in shown.overlay.ranges().items():
        say(f"heat map of {name}: {low:.3g} (dark) to {high:.3g} (bright)")


def _print_link(link: str, tunnel: str | None = None, *, as_json: bool) -> None:
    if as_json:
        print_json("view", {"link": link} | ({"tunnel": tunnel} if tunnel else {}))
        return
    say(link)
    if tunnel:
        say(f"from your own machine, first: {tunnel}")


def _refuse_with_url_only(**given: bool) -> None:
    if names := [f"--{'open' if name == 'open_browser' else name}" for name, value in given.items() if value]:
        raise ConfigError(
            "config.option", f"--url-only prints a link and ends; {names[0]} needs a view that stays", hint="leave one away"
        )


def publish(
    volume: Annotated[str, typer.Argument(help="Finished volume: path or URL.")],
    format: Annotated[PublishedName, typer.Option("--as", help="The format that its readers know.")],  # noqa: A002
    voxel_size: VoxelSize = None,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback is for this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
    as_json: Json = False,
) -> None:
    """Serve a volume in another format, each chunk made as it is asked for; Ctrl-C ends.

    Nothing is written. To have that format on disk: `volumetool convert VOLUME NEW --format FORMAT`.
    """
    from volumetool.viewer.publish import publish as serve
    from volumetool.viewer.publish import source_text
    from volumetool.viewer.view import Listen

    end_like_ctrl_c()
    with serve(volume, format, Listen(host, port), voxel_size=given_size(voxel_size)) as url:
        source = source_text(url, format)
        if as_json:
            print_json("publication", {"url": url, "source": source, "format": format})
        else:
            say(url)
            say(f"for cloud-volume and Neuroglancer: {source}")
        stay(host, url, open_browser=False)
