"""``volumetool live``: enhancement where one looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from volumetool.cli._job_options import given, job_options
from volumetool.cli._json import print_json
from volumetool.cli._options import Json
from volumetool.cli._serve import end_like_ctrl_c, stay
from volumetool.cli._tables import say, warn
from volumetool.cli._view_options import (
    PictureSize,
    Position,
    Screenshot,
    Zoom,
    as_picture,
    as_position,
    as_zoom,
    take_picture,
)

if TYPE_CHECKING:
    from volumetool.acquisition.config import WatchConfig
    from volumetool.live_view.show import Live

RUN, REACH = "How it runs", "Who reaches it"
WATCH = "Sections that arrive (--watch)"


@job_options(without=("How it runs",), rare=("ahead", "size", "zoom", "position", "first", "fit_on", "settle", "host", "port"))
def live(
    input: Annotated[str, typer.Argument(help="Volume: OME-Zarr, N5, precomputed or Zarr. With --watch a folder.")],  # noqa: A002
    into: Annotated[
        str | None,
        typer.Option(metavar="OUTPUT", help="Fill the output of a job meanwhile, what is looked at first; `enhance` goes on."),
    ] = None,
    position: Position = None,
    zoom: Zoom = None,
    screenshot: Screenshot = None,
    size: PictureSize = "1600,800",
    ahead: Annotated[
        int, typer.Option(min=0, help="Sections to compute ahead while somebody scrolls.", rich_help_panel=RUN)
    ] = 4,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="INPUT is a folder where TIFF sections appear: each is enhanced as it lands, into --into "
            "or INPUT-enhanced.zarr.",
            rich_help_panel=WATCH,
        ),
    ] = False,
    count: Annotated[
        int | None, typer.Option(min=1, help="Sections in all; with the last the volume is finished.", rich_help_panel=WATCH)
    ] = None,
    idle: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds without a new section after which it is finished.", rich_help_panel=WATCH),
    ] = None,
    first: Annotated[
        int | None, typer.Option(min=0, help="Number of the first section, in its name.", rich_help_panel=WATCH)
    ] = None,
    fit_on: Annotated[
        int | None,
        typer.Option(min=1, help="Sections whose median statistics hold for all; 3 without it.", rich_help_panel=WATCH),
    ] = None,
    settle: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds for which a file must stand still; 0.3 without it.", rich_help_panel=WATCH),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open a browser.", rich_help_panel=REACH)] = False,
    host: Annotated[
        str, typer.Option(help="Address to listen on; loopback is for this machine alone.", rich_help_panel=REACH)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65534, help="Of the page; volumes are served on the next one.", rich_help_panel=REACH)
    ] = 0,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Show a volume beside its enhanced self, computed where one looks; Ctrl-C ends."""
    from volumetool.acquisition.watch import default_output
    from volumetool.jobs.job import make_job
    from volumetool.live_view.show import live as show
    from volumetool.viewer.state import Look
    from volumetool.viewer.view import Listen

    end_like_ctrl_c()
    arrivals = {"count": count, "idle": idle, "first": first, "fit_on": fit_on, "settle": settle}
    output = into or (default_output(input) if watch else "")
    job = make_job(input=input, output=output, **given(options))
    look = Look(position=as_position(position), zoom=as_zoom(zoom), picture=as_picture(size))
    listen = Listen(host, port)
    if watch:
        from volumetool.cli._acquisition import run_watch

        _refuse_with_watch(screenshot=screenshot, position=position, zoom=zoom)
        run_watch(job, _asked(arrivals), listen, open_browser=open_browser, as_json=as_json)
    _refuse_without_watch(arrivals)
    with show(job, listen, into=into is not None, ahead=ahead, look=look) as shown:
        if screenshot is not None:
            take_picture(shown.page, screenshot, look, as_json=as_json)
            return
        _tell(shown, into, as_json=as_json)
        stay(host, shown.link, open_browser=open_browser)


def _asked(arrivals: dict[str, Any]) -> WatchConfig:
    from volumetool.acquisition.config import WatchConfig

    return WatchConfig(**{name: value for name, value in arrivals.items() if value is not None})


def _refuse_with_watch(**looks: Any) -> None:
    from volumetool.errors import ConfigError

    for name, value in looks.items():
        if value is not None:
            raise ConfigError(
                "config.option",
                f"--{name} chooses a view, and the page of --watch follows the newest section",
                hint=f"leave --{name} away; `volumetool view` shows the volume as you ask, also while it grows",
            )


def _refuse_without_watch(arrivals: dict[str, Any]) -> None:
    from volumetool.errors import ConfigError

    for name, value in arrivals.items():
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError("config.option", f"{option} is about sections that arrive", hint="add --watch, or leave it away")


def _tell(shown: Live, into: str | None, *, as_json: bool) -> None:
    for note in shown.opened.notes:
        warn(f"warning: {note}")
    say(shown.link)
    say(f"for other programs, as OME-Zarr: {shown.url}")
    if shown.tunnel:
        say(f"from your own machine, first: {shown.tunnel}")
    if into is not None:
        say(f"what is computed goes into {into}; `volumetool status {into}` says how far it is")
    if as_json:
        facts = {"link": shown.link, "url": shown.url, "fingerprint": shown.opened.basis.spec.fingerprint}
        print_json("live", facts | ({"tunnel": shown.tunnel} if shown.tunnel else {}))
