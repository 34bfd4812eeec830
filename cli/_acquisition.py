"""``volumetool live FOLDER --watch``: sections that arrive are enhanced as they land."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import typer
from volumetool.cli._json import print_json
from volumetool.cli._progress import event_facts, observing
from volumetool.cli._serve import warn_of_host
from volumetool.cli._tables import say, warn

from volumetool.events import Event
from volumetool.units import show_sections

if TYPE_CHECKING:
    from volumetool.acquisition.config import SessionResult, WatchConfig
    from volumetool.acquisition.show import WatchPage
    from volumetool.jobs.job import Job
    from volumetool.viewer.view import Listen


def run_watch(job: Job, asked: WatchConfig, listen: Listen, *, open_browser: bool, as_json: bool) -> None:
    """Watch a folder until its volume is finished, with a page to look at meanwhile.

    Parameters
    ----------
    job : Job
        Job of the watch; its input is the folder.
    asked : WatchConfig
        How sections are counted, and when the watch ends.
    listen : Listen
        Address and port to listen on.
    open_browser : bool
        Open the page in a browser.
    as_json : bool
        Print events as lines of JSON.
    """
    from volumetool.acquisition.show import WatchPage
    from volumetool.acquisition.watch import raw_place, watch

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # half a file is no news
    raw = raw_place(job.input, job.output)
    with ExitStack() as stack:
        shown = stack.enter_context(observing())
        page = stack.enter_context(WatchPage(raw, job.output, listen))

        def tell(event: Event) -> None:
            shown(event)
            if as_json:
                print_json("event", event_facts(event))
            page(event)

        _greet(page, job, raw, as_json=as_json)
        if asked.count is None and asked.idle is None:
            say("--count N or --idle SECONDS would say when the volume is whole")
        warn_of_host(listen.host)
        if open_browser:
            import webbrowser

            webbrowser.open(page.link)
        try:
            watched = watch(job, asked, tell)
        except KeyboardInterrupt:
            say("\nwhat was enhanced is kept. Run the same command to go on.")
            raise
    tell_end(watched, job, raw, as_json=as_json)
    raise typer.Exit(0 if watched.complete else 3)


def _greet(page: WatchPage, job: Job, raw: str, *, as_json: bool) -> None:
    say(page.link)
    if page.tunnel:
        say(f"from your own machine, first: {page.tunnel}")
    say(f"watching {job.input}: raw sections go into {raw}, enhanced ones into {job.output}")
    say("Ctrl-C stops; the same command goes on")
    if as_json:
        facts: dict[str, Any] = {"link": page.link, "raw": raw, "output": job.output}
        print_json("watch", facts | ({"tunnel": page.tunnel} if page.tunnel else {}))


def tell_end(watched: SessionResult, job: Job, raw: str, *, as_json: bool) -> None:
    """Tell how a watch ended, and what to type next."""
    if as_json:
        facts = {"complete": watched.complete, "enhanced": watched.enhanced}
        print_json("watched", {**facts, "missing": watched.missing, "failed": watched.failed, "output": job.output})
    if watched.complete:
        say(f"complete: {job.output}, {watched.enhanced} sections. Next: volumetool view {raw} {job.output}")
        return
    say(f"{watched.enhanced} sections are enhanced, and the volume is not whole:")
    for what, numbers in (("never came", watched.missing), ("could not be enhanced", watched.failed)):
        if numbers:
            warn(f"  {show_sections(numbers)} {what}")
    say("Run the same command to go on.")
