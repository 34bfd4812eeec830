"""Commands that stay: what they warn of, and how they end."""

from __future__ import annotations

import signal
import threading

from volumetool.cli._tables import say, warn


def end_like_ctrl_c() -> None:
    """Make the signal by which service managers end a program end it as tidily: browser and servers too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def stay(host: str, link: str, *, open_browser: bool) -> None:
    """Stay until Ctrl-C.

    Parameters
    ----------
    host : str
        Address that the server listens on; a warning is printed for any but loopback.
    link : str
        Address that a browser opens.
    open_browser : bool
        Open the address in a browser.
    """
    warn_of_host(host)
    say("Ctrl-C ends")
    if open_browser:
        import webbrowser

        webbrowser.open(link)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        say("")


def warn_of_host(host: str) -> None:
    """Warn where others than this machine are listened to."""
    from volumetool.listening.gate import is_loopback

    if not is_loopback(host):
        warn(f"warning: everybody who reaches {host} and has the link can read these volumes, unencrypted")
