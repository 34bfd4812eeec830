"""Starts the portal: database, supervisor, and the server of its pages."""

from __future__ import annotations

import fcntl
import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TextIO

from volumetool.errors import ConfigError
from volumetool.listening.gate import base_url
from volumetool.listening.newcomers import CROWD
from volumetool.portal.accounts import invite
from volumetool.portal.facility.mail import Mailer
from volumetool.portal.job_views import JobViews
from volumetool.portal.pages.routes import build_portal
from volumetool.portal.queries import Database
from volumetool.portal.settings import PortalSettings, make_folder
from volumetool.portal.supervisor import Supervisor
from volumetool.portal.view_server import build_view_server
from volumetool.portal.web import make_portal
from volumetool.viewer.server import Serving, bind

DESCRIPTORS = 16_384
"""Open files and connections that a portal may have, as far as the system lets it."""

SWITCH_SECONDS = 0.0005
"""Longest turn of a thread while others wait for theirs: a page asks the database often, and lets go of its turn each time."""


@dataclass(frozen=True)
class Served:
    """A portal that is being served.

    Attributes
    ----------
    url : str
        Where its pages are.
    invitation : str or None
        Link by which the first administrator makes an account; None where there is one.
    """

    url: str
    invitation: str | None


@contextmanager
def serve(settings: PortalSettings) -> Iterator[Served]:
    """Serve the portal while the block runs. Jobs outlive it, and are found again.

    Raises
    ------
    ConfigError
        ``config.folder``, ``config.database``, ``config.address``; ``config.running``: another portal uses the folder.
    """
    make_folder(settings)
    sys.setswitchinterval(SWITCH_SECONDS)
    _make_room_for_connections()
    with alone(settings):
        database = Database(settings)
        supervisor = Supervisor(database, settings)
        bound = bind(settings.host, settings.port)
        port = int(bound.getsockname()[1])
        url = settings.url or base_url(settings.host, port)
        with ExitStack() as stack:
            stack.enter_context(supervisor)
            stack.enter_context(Mailer(database, settings, url))
            views = None
            if settings.has_viewer:
                beside = bind(settings.host, settings.viewer_port)
                views = JobViews(settings, database, supervisor, int(beside.getsockname()[1]))
                stack.enter_context(Serving(build_view_server(views), beside))
            portal = make_portal(settings, database, supervisor, port, views)
            stack.enter_context(portal.intake)
            stack.enter_context(Serving(build_portal(portal), bound, CROWD))
            yield Served(url, None if database.has_admin() else f"{url}/join/{_invite_first(database)}")
        database.engine.dispose()


def _make_room_for_connections() -> None:
    """Let this process have more descriptors than systems give at first: a browser opens six connections, and keeps them."""
    given, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if most == resource.RLIM_INFINITY else min(DESCRIPTORS, most)
    if given != resource.RLIM_INFINITY and given < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _invite_first(database: Database) -> str:
    """Return the token for the first administrator; links that former starts printed end."""
    database.withdraw_invitations()
    return invite(database, "admin")


@contextmanager
def alone(settings: PortalSettings) -> Iterator[TextIO]:
    """Hold the lock of the portal's folder: two supervisors of one queue would start jobs twice.

    Raises
    ------
    ConfigError
        ``config.running``.
    """
    with (settings.data / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                "config.running",
                f"another portal uses {settings.data}",
                hint="stop that one, or give this one another `data`",
            ) from error
        yield lock
