"""What dask preloads into schedulers, workers and nannies of this machine: it closes their sockets to strangers."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Nanny, Scheduler

from volumetool.jobs.plan import Plan
from volumetool.listening.gate import LOOPBACK, Gate, accepted_hosts
from volumetool.listening.of_tornado import bound_newcomers, close_to_strangers

DASHBOARD = "volumetool.dashboard"
"""Where dask's configuration holds the secret part of the dashboard's paths; without one there is no dashboard."""

ALLOWED_FAILURES = 100
"""Dask's own count of dead workers per task also blames tasks that only waited there; attempts are counted elsewhere."""

_MAX_BODY = 2**20


def dashboard_token(plan: Plan) -> str | None:
    """Return the token of the dashboard that a plan asks for, or None."""
    return secrets.token_urlsafe() if plan.job.dashboard else None


def closing(token: str | None = None) -> dict[str, Any]:
    """Return dask's configuration under which nodes that begin close their sockets.

    Parameters
    ----------
    token : str, optional
        Token of the scheduler's dashboard; without one it has none.
    """
    preload = {f"distributed.{node}.preload": [__name__] for node in ("scheduler", "worker", "nanny")}
    link = {"distributed.dashboard.link": f"http://{{host}}:{{port}}{_prefix(token)}/status"} if token else {}
    return {**preload, **link, DASHBOARD: token}


@contextmanager
def settings(folder: Path, token: str | None) -> Iterator[None]:
    """Let schedulers that begin here be closed, keep their files in a folder, and not give regions up because workers died.

    Parameters
    ----------
    folder : Path
        Folder for the temporary files of schedulers and workers.
    token : str, optional
        Token of the dashboard; without one there is none.
    """
    lenient = {"distributed.scheduler.allowed-failures": ALLOWED_FAILURES}
    with dask.config.set({**lenient, **closing(token), "temporary-directory": str(folder)}):
        yield


def on_loopback(token: str | None) -> dict[str, Any]:
    """Return the arguments of a local cluster whose sockets are on loopback, with a dashboard if there is a token for it."""
    scheduler = {"dashboard": token is not None, "http_prefix": _prefix(token)}
    return {"host": LOOPBACK, "dashboard_address": f"{LOOPBACK}:0", "scheduler_kwargs": scheduler}


def _prefix(token: str | None) -> str:
    return f"/dashboard/{token}" if token else "/"


async def dask_setup(node: Any) -> None:
    """Bound who waits at a node's sockets, and close the web server that each node has: to all, or to all but a link."""
    # A stranger's handshake that fails is no news.
    logging.getLogger("distributed.comm.tcp").setLevel(logging.ERROR)
    for listener in node.listeners:
        bound_newcomers(listener.tcp_server)
    if isinstance(node, Nanny):
        return
    web, token = node.http_server, dask.config.get(DASHBOARD, None)
    if token is None or not isinstance(node, Scheduler):
        web.stop()
        del node.services["dashboard"]
    else:
        hosts = accepted_hosts(LOOPBACK, web.port)
        gate = Gate(hosts, frozenset(f"http://{each}" for each in hosts), token)
        close_to_strangers(web, gate, tokens=True, max_body=_MAX_BODY)
