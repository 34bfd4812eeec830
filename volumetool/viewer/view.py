"""Looking at volumes: the page, and the server that gives it the volumes on this machine's disks."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volumetool.errors import ConfigError
from volumetool.geometry import Size, fused_count
from volumetool.jobs.execution.finalize import is_marked_complete
from volumetool.listening.gate import LOOPBACK, Gate, accepted_hosts, base_url
from volumetool.paths import ZarrNode
from volumetool.storage.formats.npy import AnyArray, AnyVolume
from volumetool.viewer.layers import Layer, make_layers
from volumetool.viewer.ngff_compat import readable
from volumetool.viewer.server import KeyReader, Serving, bind, build_app
from volumetool.viewer.state import Look, build_state, draw, finest, with_overlay
from volumetool.viewer.trust import trust_layers

if TYPE_CHECKING:
    from volumetool.viewer.page import Page
    from volumetool.viewer.progress import Heat, Overlay, Ranges

HOSTED = "https://neuroglancer-demo.appspot.com/"


@dataclass(frozen=True)
class Listen:
    """The sockets to listen on.

    Attributes
    ----------
    host : str
        An address of this machine; loopback is for this machine alone.
    port : int
        Port of the page; volumes are served on the next one. 0 chooses free ones.
    """

    host: str = LOOPBACK
    port: int = 0


@dataclass
class View:
    """Volumes that are being shown.

    Attributes
    ----------
    page : Page
        The client's page.
    layers : list of Layer
        Layers that are shown.
    ports : tuple of int
        Ports of the page and of the volumes.
    overlay : Overlay, optional
        The progress of a job.
    """

    page: Page = field(repr=False)  # whoever has its link may look
    layers: list[Layer] = field(repr=False)
    ports: tuple[int, ...]
    overlay: Overlay | None = field(default=None, repr=False)

    @property
    def link(self) -> str:
        """URL that a browser opens."""
        return self.page.link

    @property
    def tunnel(self) -> str | None:
        """The command that makes the link work at the other end of an SSH connection; None where this is no such end."""
        return tunnel_command(self.ports, os.environ.get("SSH_CONNECTION")) if self.page.is_private else None

    def take_picture(self, file: Path, look: Look) -> None:
        """Write what is shown as PNG, of the look's size, once every chunk is drawn.

        Raises
        ------
        ViewError
            ``view.no-browser``, ``view.browser-ended``, ``view.incomplete``.
        """
        from volumetool.viewer.browser import take_picture

        with self.still():
            take_picture(self.page, file, look.picture)

    def still(self) -> AbstractContextManager[None]:
        """Return a block in which the page does not follow a job."""
        return nullcontext() if self.overlay is None else self.overlay.held()


@contextmanager
def view(
    volumes: AnyVolume | Sequence[AnyVolume],
    look: Look | None = None,
    listen: Listen | None = None,
    *,
    progress: bool | Heat = False,
    voxel_size: Size | None = None,
    trust: str | os.PathLike[str] | None = None,
) -> Iterator[View]:
    """Show volumes in Neuroglancer while the block runs.

    Parameters
    ----------
    volumes : str, path, array, Volume or sequence of these
        What :func:`volumetool.open_volume` takes, or what it has returned. What is on this machine's disks is served key by
        key; URLs are read by the browser itself.
    look : Look, optional
        Panels, position, zoom.
    listen : Listen, optional
        Address and port to listen on; on loopback by default.
    progress : bool, "seconds" or "consistency"
        Lay the states of a job's regions over its output, and follow the job. A heat map by name gets a panel of its own.
    voxel_size : tuple of float, optional
        Nanometres, z, y, x, of volumes whose metadata do not say it, and of arrays.
    trust : str or path, optional
        Trust volume of one of them, which is laid over it in colours.

    Raises
    ------
    VolumetoolError
        ``input.*`` as :func:`volumetool.open_volume`, ``input.unviewable``, ``config.address``, ``config.no-progress``,
        ``config.option`` as :func:`trust_layers`.
    """
    from volumetool.viewer.page import Page

    look, listen = look or Look(), listen or Listen()
    layers = make_layers([volumes] if isinstance(volumes, str | os.PathLike | ZarrNode | AnyArray) else volumes, voxel_size)
    followed = _with_job(layers) if progress else None
    over, above = ("", []) if trust is None else trust_layers(trust, layers)
    every = [*layers, *above]
    readers: dict[str, KeyReader] = {str(n): reader_of(each) for n, each in enumerate(every) if each.is_local}
    with ExitStack() as stack:
        page = stack.enter_context(Page(listen.host, listen.port))
        bound = stack.enter_context(bind(listen.host, listen.port + 1 if listen.port else 0))
        port = int(bound.getsockname()[1])
        gate = Gate(accepted_hosts(listen.host, port), frozenset({page.origin}))
        base = f"{base_url(listen.host, port)}/{gate.token}"
        sources = [layer.source(f"{base}/{n}" if str(n) in readers else None) for n, layer in enumerate(every)]
        state = build_state(layers, sources[: len(layers)], look)
        state = with_overlay(state, over, [draw(*each) for each in zip(above, sources[len(layers) :], strict=True)])
        overlay = None
        if followed is not None:
            refreshed = _Refreshed(page, layers[followed], str(followed), readers, base)
            overlay = _overlay(layers[followed], refreshed, None if isinstance(progress, bool) else progress)
            refreshed.ranges = overlay.ranges()
            state = with_overlay(state, layers[followed].name, overlay.layers(), overlay.shown)
            if look.position is None and (front := overlay.front()) is not None:
                state["position"][2] = front / finest(layers)[0]
            stack.enter_context(overlay)
        stack.enter_context(Serving(build_app(readers, gate), bound))
        page.show(state)
        yield View(page, every, (page.port, port) if readers else (page.port,), overlay)


def reader_of(layer: Layer) -> KeyReader:
    """Return the reader of a layer's keys; the coarse levels of a volume that is being written are left out."""
    if layer.job is None or is_marked_complete(layer.job):
        return readable(layer.volume)
    return readable(layer.volume, fused_count(layer.job.spec.levels))


class _Refreshed:
    """Makes the page read a growing volume again: under another name, since it keeps what it has read and what was not there.

    Called when regions were finished; heat maps get their new ranges, unless the user has chosen one.
    """

    def __init__(self, page: Page, layer: Layer, name: str, readers: dict[str, KeyReader], base: str) -> None:
        self._page, self._layer, self._name, self._readers, self._base = page, layer, name, readers, base
        self._times = 0
        self.ranges: Ranges = {}

    def __call__(self, ranges: Ranges) -> None:
        url = self._fresh() if self._name in self._readers else None
        before, self.ranges = self.ranges, ranges

        def change(state: Any) -> None:
            for shown in state.layers:
                if shown.name == self._layer.name and url is not None:  # the user may have removed it
                    shown.layer.source[0].url = url
                control = shown.layer.shader_controls.get("normalized") if shown.name in ranges else None
                if control is not None and tuple(control.range) == before[shown.name]:
                    control.range = list(ranges[shown.name])

        self._page.retry_txn(change)

    def _fresh(self) -> str:
        """Serve the volume under another name; return its URL for the client."""
        self._times += 1
        fresh = f"{self._name}.{self._times}"
        self._readers[fresh] = self._readers[self._name]
        self._readers.pop(f"{self._name}.{self._times - 2}", None)
        url: str = self._layer.source(f"{self._base}/{fresh}")["url"]
        return url


def _with_job(layers: Sequence[Layer]) -> int:
    for number, layer in enumerate(layers):
        if layer.job is not None:
            return number
    raise ConfigError(
        "config.no-progress",
        f"--progress was asked for, and no job wrote {' or '.join(layer.name for layer in layers)}",
        hint="give the OUTPUT of `volumetool enhance`; its job's folder stands beside it",
    )


def _overlay(layer: Layer, on_finished: _Refreshed, heat: Heat | None) -> Overlay:
    from volumetool.viewer.progress import Overlay

    assert layer.job is not None  # noqa: S101  (_with_job has looked)
    return Overlay(layer, layer.job, on_finished, heat)


def tunnel_command(ports: Sequence[int], connection: str | None) -> str | None:
    """Return the SSH command for the user's own machine, from the environment's SSH_CONNECTION; None without one."""
    if not connection:
        return None
    forwards = " ".join(f"-L {port}:{LOOPBACK}:{port}" for port in ports)
    here = connection.split()[2:3] or [socket.gethostname()]
    return f"ssh -N {forwards} {getpass.getuser()}@{here[0]}"


def hosted_link(volumes: Sequence[str], look: Look | None = None, hosted: str = HOSTED, voxel_size: Size | None = None) -> str:
    """Return a link to a hosted Neuroglancer that shows public volumes; everything is in the link.

    Parameters
    ----------
    volumes : sequence of str
        URLs that everybody who gets the link can read.
    look : Look, optional
        Panels, position, zoom.
    hosted : str
        URL of the client.
    voxel_size : tuple of float, optional
        Nanometres, z, y, x, of volumes whose metadata do not say it.

    Raises
    ------
    ConfigError
        ``config.local-volume``: a volume is on this machine's disks.
    """
    import neuroglancer

    layers = make_layers(volumes, voxel_size)
    if local := [layer.volume.url for layer in layers if layer.is_local]:
        raise ConfigError(
            "config.local-volume",
            f"--url-only makes a link for others, and {local[0]} is on this machine's disks",
            hint="copy it to a public bucket and give its URL, or leave --url-only away",
        )
    state = build_state(layers, [layer.source(None) for layer in layers], look or Look())
    link: str = neuroglancer.to_url(state, prefix=hosted)
    return link
