"""Pictures of a page, by a browser that nobody sees."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from volumetool.errors import ViewError
from volumetool.paths import replace_file
from volumetool.viewer.page import Page
from volumetool.viewer.state import Picture

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_POLL_SECONDS = 0.5
_LABEL_PIXELS = 14

_Area = tuple[float, float, float, float]
"""Left, top, width and height, in pixels."""

PATIENCE_SECONDS = 120.0
"""How long all chunks of a view may take: the software renderer of a busy machine is slow, and so are far stores."""


def find_browser() -> str:
    """Return the path of a chromium.

    Raises
    ------
    ViewError
        ``view.no-browser``: none is on the PATH.
    """
    for name in NAMES:
        if found := shutil.which(name):
            return found
    raise ViewError(
        "view.no-browser",
        f"a screenshot needs one of {', '.join(NAMES)}, and none is on the PATH",
        hint="install one (Debian, Ubuntu: apt-get install chromium), or open the link in a browser of yours",
    )


def browser_flags() -> list[str]:
    """Return what makes chromium draw WebGL without window or GPU, and talk to nobody but the page."""
    flags = [
        "--headless=new",
        "--use-gl=angle",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--no-first-run",
        "--no-default-browser-check",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-breakpad",
        "--disable-dev-shm-usage",
        "--mute-audio",
    ]
    # Chromium refuses to run as root with its sandbox; root in a container has another one around it.
    return [*flags, "--no-sandbox"] if os.geteuid() == 0 else flags


_WATCH = """
exec 3<&0
(trap '' TERM; read -r _ <&3; kill -KILL $$; kill -TERM 0; rm -rf -- "$0"; kill -KILL 0) &
exec "$@" 3<&- </dev/null
"""
"""A shell that becomes the browser. Beside it waits another for the end of a pipe that only this process holds open. When
this process ends, even by SIGKILL, the browser ends with all its children, and its profile is deleted."""


@contextmanager
def browsing(link: str, picture: Picture) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a browser without window that shows a link; it and its profile are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="volumetool-", ignore_cleanup_errors=True) as profile:
        size = f"--window-size={picture[0]},{picture[1]}"
        command = [find_browser(), *browser_flags(), size, f"--user-data-dir={profile}", link]
        watched, quiet = ["/bin/sh", "-c", _WATCH, profile, *command], subprocess.DEVNULL
        # In a session of its own, so that its children end with it.
        with subprocess.Popen(  # noqa: S603
            watched,
            stdin=subprocess.PIPE,
            stdout=quiet,
            stderr=quiet,
            start_new_session=True,
            # What it leaves in its TMPDIR goes with the profile. The path is a relative one because chromium ends at once where
            # that of its socket has more than 107 bytes.
            cwd=profile,
            env={**os.environ, "TMPDIR": "."},
        ) as browser:
            try:
                yield browser
            finally:
                os.killpg(browser.pid, signal.SIGKILL)


def take_picture(page: Page, file: Path, picture: Picture, patience: float = PATIENCE_SECONDS) -> None:
    """Write what a page shows as PNG, once every chunk of it is drawn, with the layers of each panel in its corner.

    Parameters
    ----------
    page : Page
        Page to show.
    file : Path
        The picture; replaced if it exists.
    picture : tuple of int
        Width and height, in pixels.
    patience : float
        Longest time to wait, in seconds.

    Raises
    ------
    ViewError
        ``view.no-browser``, ``view.browser-ended``, ``view.incomplete``.
    OutputError
        ``output.full``, ``output.unwritable``.
    """
    with browsing(page.link, picture) as browser:
        png = capture(page, browser, picture, patience)
    replace_file(file, name_panels(png, page.state.to_json()))


def capture(page: Page, browser: subprocess.Popen[bytes], picture: Picture, patience: float = PATIENCE_SECONDS) -> bytes:
    """Return what a browser shows of a page as PNG, once every chunk of it is drawn.

    Asks until the picture has its size: the first may be of a page that is being laid out.

    Parameters
    ----------
    page : Page
        Page that is shown. It loses its controls.
    browser : process
        Browser that shows the page, from :func:`browsing`.
    picture : tuple of int
        Width and height, in pixels.
    patience : float
        Longest time to wait, in seconds.

    Raises
    ------
    ViewError
        ``view.browser-ended``, ``view.incomplete``.
    """
    with page.config_state.txn() as config:
        config.show_ui_controls = False
        config.show_panel_borders = False
        config.viewer_size = list(picture)
    left = patience
    while True:
        done = threading.Event()
        replies: list[Any] = []
        counts: list[Any] = []

        def keep(reply: Any, done: threading.Event = done, replies: list[Any] = replies) -> None:
            replies.append(reply.screenshot)
            done.set()

        page.async_screenshot(keep, statistics_callback=counts.append)
        while not done.wait(_POLL_SECONDS):
            left -= _POLL_SECONDS
            if browser.poll() is not None:
                raise ViewError(
                    "view.browser-ended",
                    f"{find_browser()} ended with code {browser.returncode} before the page was drawn",
                    hint="see what it says when it is started by hand with --headless=new; it may lack memory",
                )
            if left <= 0:
                raise _incomplete(patience, counts)
        if (replies[0].width, replies[0].height) == picture:
            return bytes(replies[0].image)


def name_panels(png: bytes, state: dict[str, Any]) -> bytes:
    """Write into each panel of a picture, upper left, which visible layers it shows, and of four panels which plane.

    Parameters
    ----------
    png : bytes
        The picture, as PNG.
    state : dict
        State of the page that was drawn.
    """
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(_LABEL_PIXELS)
    shown = [layer["name"] for layer in state["layers"] if layer.get("visible", True)]
    for text, left, top in _corners(state["layout"], shown, (0.0, 0.0, *picture.size)):
        place = left + _LABEL_PIXELS / 2, top + _LABEL_PIXELS / 3
        pen.rectangle(pen.textbbox(place, text, font), fill="black", outline="black", width=3)
        pen.text(place, text, fill="white", font=font)
    named = io.BytesIO()
    picture.save(named, "PNG", optimize=True)
    return named.getvalue()


def _corners(layout: Any, shown: list[str], area: _Area) -> Iterator[tuple[str, float, float]]:
    """Yield the text of each panel with its upper left corner: panels of a row or column have equal shares of it."""
    left, top, width, height = area
    if isinstance(layout, dict) and "children" in layout:
        count, across = len(layout["children"]), layout["type"] == "row"
        for number, child in enumerate(layout["children"]):
            if across:
                part = (left + number * width / count, top, width / count, height)
            else:
                part = (left, top + number * height / count, width, height / count)
            yield from _corners(child, shown, part)
        return
    names, planes = (shown, layout) if isinstance(layout, str) else (layout["layers"], layout["layout"])
    text = ", ".join(name for name in names if name in shown)
    if planes == "4panel":
        for number, plane in enumerate(("xy", "xz", "3D", "yz")):
            yield f"{text}: {plane}", left + number % 2 * width / 2, top + number // 2 * height / 2
    else:
        yield text, left, top


def _incomplete(patience: float, counts: list[Any]) -> ViewError:
    seen = "the page did not answer"
    if counts:
        total = counts[-1].total
        seen = f"{total.visible_chunks_gpu_memory} of {total.visible_chunks_total} chunks are there"
    return ViewError(
        "view.incomplete",
        f"the page is not complete after {patience:.0f} s: {seen}",
        hint="open the link in a browser: the layers that fail say why",
    )
