"""Looking at a volume while it is enhanced: the live volume beside the raw one, served and shown on a page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from volumetool.geometry import AxisLattice, Lattice
from volumetool.jobs.job import Job
from volumetool.listening.gate import Gate, accepted_hosts, base_url
from volumetool.live_view.cancel import dropping
from volumetool.live_view.factory import STEPS_AHEAD, Opened, open_live
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.io.kvstore import is_local
from volumetool.storage.volume import Level, Volume
from volumetool.viewer.contrast import sampled_window
from volumetool.viewer.layers import Layer
from volumetool.viewer.ngff_compat import is_computed, read_from_afar, readable, trimmed
from volumetool.viewer.page import Page
from volumetool.viewer.server import KeyReader, Serving, bind, build_app
from volumetool.viewer.state import DEFAULT_PICTURE, Look, build_state
from volumetool.viewer.view import Listen, tunnel_command

FIRST_LOOK = 512
"""Input voxels across the first view: near enough that what is shown is enhanced."""

LIVE, RAW, SHOWN = "live", "raw", "shown"
"""Names in the server's paths: of the live volume for any program, of the raw one, and of the live one as the page reads it."""


@dataclass(frozen=True)
class Live:
    """A live volume that is being shown.

    Attributes
    ----------
    link : str
        Address that a browser opens.
    url : str
        The live volume itself, for any program that reads OME-Zarr over HTTP.
    ports : tuple of int
        Ports of the page and of the volumes.
    opened : Opened
        The live volume that is served.
    page : Page
        The client's page.
    """

    link: str = field(repr=False)  # whoever has it may look
    url: str = field(repr=False)
    ports: tuple[int, int]
    opened: Opened = field(repr=False)
    page: Page = field(repr=False)

    @property
    def tunnel(self) -> str | None:
        """The command that makes the link work at the other end of an SSH connection; None where this is no such end."""
        return tunnel_command(self.ports, os.environ.get("SSH_CONNECTION")) if self.page.is_private else None


@contextmanager
def live(
    job: Job, listen: Listen | None = None, *, into: bool = False, ahead: int = STEPS_AHEAD, look: Look | None = None
) -> Iterator[Live]:
    """Show a volume beside its enhanced self, which is computed where one looks, while the block runs.

    Parameters
    ----------
    job : Job
        Job that describes the volume. Without `into` its output is not looked at.
    listen : Listen, optional
        Address and port to listen on; on loopback by default.
    into : bool
        Fill the job's output; see :func:`open_live`.
    ahead : int
        Sections to compute ahead of somebody who scrolls.
    look : Look, optional
        Position and zoom; by default the middle of the volume, near enough to be enhanced.

    Raises
    ------
    VolumetoolError
        As :func:`open_live`, and ``config.address``.
    """
    listen = listen or Listen()
    with ExitStack() as stack:
        # A port that is taken is told before anything is planned.
        page = stack.enter_context(Page(listen.host, listen.port))
        bound = stack.enter_context(bind(listen.host, listen.port + 1 if listen.port else 0))
        port = int(bound.getsockname()[1])
        opened = stack.enter_context(open_live(job, into=into, ahead=ahead))
        gate = Gate(accepted_hosts(listen.host, port), frozenset({page.origin}))
        base = f"{base_url(listen.host, port)}/{gate.token}"
        volume, url = opened.basis.volume, f"{base}/{LIVE}"
        readers: dict[str, KeyReader] = {LIVE: opened.keys}
        if is_local(volume.url) or is_computed(volume):
            readers[RAW] = readable(volume)
        layers = _layers(opened, url)
        readers[SHOWN] = trimmed(opened.keys, describe_live(opened, url))
        sources = [layers[0].source(f"{base}/{RAW}" if RAW in readers else None)]
        sources += [layer.source(f"{base}/{SHOWN}") for layer in layers[1:]]
        stack.enter_context(Serving(dropping(build_app(readers, gate)), bound))
        near = first_look(volume.levels[opened.basis.job.level], opened.basis.spec.lattice)
        asked = look or near
        asked = replace(asked, position=asked.position or near.position, zoom=asked.zoom or near.zoom)
        page.show(build_state(layers, sources, asked))
        yield Live(page.link, url, (page.port, port), opened, page)


def _layers(opened: Opened, url: str) -> list[Layer]:
    """Return the raw layer and the live one, with one contrast, so that they can be compared; of several channels one each."""
    basis, spec = opened.basis, opened.basis.spec
    window = basis.window or sampled_window(basis.volume)
    name = PurePosixPath(basis.volume.url).name
    raw = Layer(name, basis.volume, window=window, read_as=read_from_afar(basis.volume))
    live = Layer(f"{name} enhanced", describe_live(opened, url), window=window)
    channels = [
        replace(live, name=f"{name}: {output.name}", channel=number, window=spec.window(number))
        for number, output in enumerate(() if spec.trust else spec.outputs)
    ]
    return [raw, *(channels or [live])]


def describe_live(opened: Opened, url: str) -> Volume:
    """Return what `open_volume` would find at the URL of a live volume."""
    layout = opened.layout.volume
    levels = tuple(
        Level(level.name, level.grid.shape, level.grid.voxel_size, level.grid.translation, level.grid.chunk, None)
        for level in opened.layout.levels
    )
    written = WRITTEN["ome-zarr-0.5"]
    axes = written.axes(layout.channels)
    return Volume(url, written.name, written.driver, axes, opened.basis.dtype, layout.channels, levels)


def first_look(level: Level, lattice: Lattice) -> Look:
    """Return a look at the middle of a volume that is near enough to be enhanced.

    It is moved to the next border of two patches: around one a view needs two patches along an axis, elsewhere often three.

    Parameters
    ----------
    level : Level
        Level of the input that is enhanced.
    lattice : Lattice
        Lattice of the patches.
    """
    if max(level.shape[1:]) <= FIRST_LOOK:
        return Look()
    z, y, x = (
        at + size * where
        for at, size, where in zip(
            level.translation,
            level.voxel_size,
            (level.shape[0] // 2, *(_next_border(line) - 0.5 for line in lattice.axes[1:])),
            strict=True,
        )
    )
    return Look(position=(z, y, x), zoom=level.voxel_size[2] * FIRST_LOOK / (DEFAULT_PICTURE[0] / 2))


def _next_border(line: AxisLattice) -> float:
    """Return where, next to the middle of an axis, one patch takes over from another: in voxels from the axis's face."""
    middle, first = line.size / 2, line.overlap / 2 - line.margin  # patches meet every stride, counted from `first`
    if line.count == 1 or line.size <= FIRST_LOOK:
        return middle
    border = round((middle - first) / line.stride) * line.stride + first
    return min(max(border, FIRST_LOOK / 2), line.size - FIRST_LOOK / 2)  # the view does not reach past a face
