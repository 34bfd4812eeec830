"""Neuroglancer on jobs, inside of pages: who may look at which job, by a login or a shared link, and what is open for that."""

from __future__ import annotations

import json
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from volumetool.geometry import Size
from volumetool.listening.gate import accepted_hosts
from volumetool.portal.accounts import hash_token
from volumetool.portal.queries import Database
from volumetool.portal.settings import PortalSettings, hosts_of
from volumetool.portal.supervisor import OUTPUT, Supervisor
from volumetool.portal.tables import PortalJob
from volumetool.viewer.layers import Layer, make_layers
from volumetool.viewer.server import KeyReader
from volumetool.viewer.state import Look, build_state
from volumetool.viewer.view import reader_of

MOST_OPEN = 32
"""Views whose volumes are open at once; others are opened again when somebody looks."""

MOST = 1000
"""Views whose links are known; the page of a job makes another one where it is not."""

HOURS = 12
"""A link ends after so many hours, if its login lasts so long; the page of the job makes another one."""

LONGEST_STATE = 2**16
"""Bytes of what the client says of its layers, position and zoom."""

MOST_GUESTS = 200
"""Of them by shared links, where each visit of the page makes one: so strangers take no view from those who are logged in."""

_PICTURE = (1000, 560)
"""Pixels that the volumes are fitted into at first."""


@dataclass(frozen=True)
class OpenedJob:
    """The volumes of a job, as they are given out.

    Attributes
    ----------
    layers : list of Layer
        What is shown.
    readers : dict of str to KeyReader
        Readers of its volumes. A growing one gets a new name from time to time, since the client keeps what it has read.
    seen : tuple
        Regions that were done, and whether the volume called itself complete, when it was named.
    """

    layers: list[Layer]
    readers: dict[str, KeyReader]
    seen: tuple[int, bool]


@dataclass
class JobView:
    """What one login sees of one job, or one visitor with a shared link.

    Attributes
    ----------
    token : str
        Part of every path of it.
    login : int or None
        The login that it ends with.
    share : int or None
        The shared link that it ends with, in place of a login: it shows the result alone, as the link gives it.
    job : str
        The job.
    origin, page : str
        Where it is served, and the origin of the page that may show it in a frame.
    began : float
        When its link was made, on the clock of this process.
    state : dict or None
        The client's state; None before the volumes were opened.
    generation : str
        Name of that state; one that a client sent begins with the client's own name.
    names : list of str
        Names in it under which the volumes of the layers are served now.
    opened : OpenedJob or None
        The volumes, while they are open.
    """

    token: str = field(repr=False)
    login: int | None
    share: int | None
    job: str
    origin: str
    page: str
    began: float
    state: dict[str, Any] | None = field(default=None, repr=False)
    generation: str = ""
    names: list[str] = field(default_factory=list)
    opened: OpenedJob | None = field(default=None, repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def link(self) -> str:
        """URL of the client's page."""
        return f"{self.origin}/v/{self.token}/"

    def volume(self, name: str) -> str:
        """Return the URL under which a volume is served."""
        return f"{self.origin}/volumes/{self.token}/{name}"

    def take(self, state: dict[str, Any], generation: str, before: str) -> bool:
        """Keep the state that a client is in now; return whether it had seen the last one.

        Parameters
        ----------
        state : dict
            Layers, position, zoom.
        generation : str
            Name of the new state.
        before : str
            Name of the last state that the client had seen.
        """
        with self.lock:
            if before != self.generation:
                return False
            self.state, self.generation = state, generation
            return True


class JobViews:
    """All views that are known; each ends with its login or shared link, with its job, or after `HOURS`.

    Parameters
    ----------
    settings : PortalSettings
        What the operator decided.
    database : Database
        Logins and jobs.
    supervisor : Supervisor
        Knows where jobs are, and how far.
    port : int
        Port on which views are served.
    """

    def __init__(self, settings: PortalSettings, database: Database, supervisor: Supervisor, port: int) -> None:
        self._settings, self._database, self._supervisor, self._port = settings, database, supervisor, port
        self._views: OrderedDict[str, JobView] = OrderedDict()
        self._lock = threading.Lock()
        self.hosts = accepted_hosts(settings.host, port)
        self.origins = frozenset(f"http://{host}" for host in self.hosts)
        if settings.viewer_url is not None:
            self.hosts |= hosts_of(settings.viewer_url)
            self.origins |= {settings.viewer_url}

    def origin(self, page: str) -> str:
        """Return the origin of views for those who came to the origin `page`.

        Browsers send cookies to all ports of a host: so on loopback it is the other name of this machine.
        """
        if self._settings.viewer_url is not None:
            return self._settings.viewer_url
        asked = urlsplit(page).hostname or ""
        names = {
            "localhost": "[::1]" if self._settings.host == "::1" else "127.0.0.1",
            "127.0.0.1": "localhost",
            "::1": "localhost",
        }
        return f"http://{names.get(asked, asked)}:{self._port}"

    def link(self, login: int, job: str, page: str) -> str | None:
        """Return the link to a view of a job, which a login may see; None where nothing of it is written yet.

        Parameters
        ----------
        login : int
            Number of the login.
        job : str
            The job.
        page : str
            Origin of the page that shows it in a frame.
        """
        if not (self._supervisor.folder(job) / OUTPUT / "zarr.json").is_file():
            return None
        with self._lock:
            for name, view in list(self._views.items()):
                if monotonic() - view.began > HOURS * 3600:
                    del self._views[name]
                elif (view.login, view.job, view.page) == (login, job, page):
                    return view.link
            return self._add(JobView(secrets.token_urlsafe(32), login, None, job, self.origin(page), page, monotonic()))

    def guest_link(self, share: int, job: str, page: str) -> str:
        """Return a link of its own to the result of a job, for one visitor with a shared link.

        Parameters
        ----------
        share : int
            Number of the shared link.
        job : str
            The complete job.
        page : str
            Origin of the page that shows it in a frame.
        """
        with self._lock:
            return self._add(JobView(secrets.token_urlsafe(32), None, share, job, self.origin(page), page, monotonic()))

    def _add(self, made: JobView) -> str:
        guests = [name for name, view in self._views.items() if view.share is not None]
        if made.share is not None and len(guests) >= MOST_GUESTS:
            del self._views[guests[0]]
        self._views[hash_token(made.token)] = made
        if len(self._views) > MOST:
            self._views.popitem(last=False)
        return made.link

    def find(self, token: str) -> JobView | None:
        """Return the view of a token, while its login or shared link lasts and gives the job; None otherwise, for ever."""
        name = hash_token(token)
        with self._lock:
            if (view := self._views.get(name)) is None:
                return None
            self._views.move_to_end(name)
        if monotonic() - view.began <= HOURS * 3600 and self._job(view) is not None:
            return view
        with self._lock:
            self._views.pop(name, None)
        return None

    def _job(self, view: JobView) -> PortalJob | None:
        if view.share is not None:
            return self._database.job_of_share(view.share)
        if view.login is None:
            return None
        account = self._database.account_of_login(view.login)
        return None if account is None else self._database.job(view.job, account.sees)

    def open(self, view: JobView) -> OpenedJob:
        """Return the volumes of a view; those of the least recently seen one are let go of.

        Raises
        ------
        VolumetoolError
            They cannot be opened.
        """
        with view.lock:
            if view.opened is None:
                view.opened = self._open(view)
            if view.state is None:
                view.state, view.generation = _first_state(view, view.opened), secrets.token_hex(8)
            opened = view.opened
        with self._lock:
            open_ones = [each for each in self._views.values() if each.opened is not None]
            for each in open_ones[:-MOST_OPEN]:
                each.opened = None  # what is being read of it is read to its end
        return opened

    def _open(self, view: JobView) -> OpenedJob:
        output = str(self._supervisor.folder(view.job) / OUTPUT)
        job = self._database.job(view.job, None)
        raw = None if job is None or view.share is not None else self._raw(job)
        layers = make_layers([output] if raw is None else [raw, output])
        if len(view.names) != len(layers):
            view.names = [str(number) for number in range(len(layers))]
            view.state = None
        readers = {name: reader_of(layer) for name, layer in zip(view.names, layers, strict=True)}
        return OpenedJob(layers, readers, self._seen(view))

    def _raw(self, job: PortalJob) -> str | None:
        """Return a job's input, where it still is what it was planned with, and nobody put a link in its place."""
        place = Path(job.input)
        try:
            return str(place) if place.resolve(strict=True) == place else None
        except (OSError, RuntimeError):
            return None

    def _seen(self, view: JobView) -> tuple[int, bool]:
        status = self._supervisor.status(view.job)
        return (0, False) if status is None else (status.done, status.state == "complete")

    def refresh(self, view: JobView) -> None:
        """Let clients read a growing volume again where more of it is there; what they had chosen stays."""
        opened, seen = self.open(view), self._seen(view)
        if seen == opened.seen:
            return
        with view.lock:
            text = json.dumps(view.state)
            readers = {name: opened.readers[name] for name in view.names}  # stay for what is being read
            for number, layer in enumerate(opened.layers):
                if layer.job is not None:
                    former, fresh = view.names[number], f"{number}.{secrets.token_hex(4)}"
                    readers[fresh] = reader_of(layer)
                    text = text.replace(f"{view.volume(former)}/", f"{view.volume(fresh)}/")
                    view.names[number] = fresh
            view.opened = OpenedJob(opened.layers, readers, seen)
            view.state, view.generation = json.loads(text), secrets.token_hex(8)


def _first_state(view: JobView, opened: OpenedJob) -> dict[str, Any]:
    sources = [layer.source(view.volume(name)) for name, layer in zip(view.names, opened.layers, strict=True)]
    return build_state(opened.layers, sources, Look(position=_front(opened), picture=_PICTURE))


def _front(opened: OpenedJob) -> Size | None:
    """Return a place of a growing volume that is there already, in nm: the middle of the last whole layer of its regions."""
    layer, (done, complete) = opened.layers[-1], opened.seen
    if layer.job is None or complete:
        return None
    grid, level = layer.job.grid, layer.volume.levels[0]
    whole = max(1, done * grid.grid[0] // grid.count)
    begin = (whole - 1) * grid.size[0]
    middle = (begin + min(begin + grid.size[0], layer.shape[0])) // 2
    low, high = layer.corners
    return level.translation[0] + middle * level.voxel_size[0], (low[1] + high[1]) / 2, (low[2] + high[2]) / 2
