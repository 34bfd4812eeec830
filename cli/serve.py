"""``volumetool serve``: the web platform of a lab."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated

import typer
from volumetool.cli._json import print_json
from volumetool.cli._options import Json, local_path
from volumetool.cli._serve import end_like_ctrl_c
from volumetool.cli._tables import say

from volumetool.errors import ConfigError


def serve(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=local_path, help="Settings, YAML; `volumetool schema portal`.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", parser=local_path, help="Folder of the database, of results and logs.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; loopback by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = None,
    as_json: Json = False,
) -> None:
    """Serve the web platform: accounts, jobs on volumes that they may read, and how far these are. Ctrl-C ends.

    Jobs are processes of their own: they go on meanwhile, and are found again at the next start.
    """
    try:
        import alembic  # noqa: F401
        import argon2  # noqa: F401
        import sqlalchemy  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "config.extra", f"the portal needs {error.name}, which is not installed", hint="pip install 'volumetool[portal]'"
        ) from error
    from volumetool.portal.serve import serve as serve_portal
    from volumetool.portal.settings import read_settings

    end_like_ctrl_c()
    with serve_portal(read_settings(config, data=data, host=host, port=port)) as served:
        if as_json:
            print_json("portal", {"url": served.url, "invitation": served.invitation})
        else:
            say(served.url)
            if served.invitation:
                say(f"Make the first account, once, at {served.invitation}")
            say("Ctrl-C ends")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            say("")
