"""Looking at a volume that grows: raw beside enhanced, served by key; the page follows the newest section."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any

from volumetool.errors import VolumetoolError
from volumetool.events import Event, SectionsReached, WatchStarted
from volumetool.listening.gate import Gate, accepted_hosts, base_url
from volumetool.storage.open import open_volume
from volumetool.viewer.contrast import sampled_window
from volumetool.viewer.layers import Layer
from volumetool.viewer.ngff_compat import readable
from volumetool.viewer.page import Page
from volumetool.viewer.server import KeyReader, Serving, bind, build_app
from volumetool.viewer.state import Look, build_state, finest
from volumetool.viewer.view import Listen, tunnel_command

FRESH_SECONDS = 1.0
"""The page reads all that is in sight again for every new section, but not more often."""

Window = tuple[float, float]


class WatchPage:
    """A page with the raw volume and the enhanced one, while the block runs; an `Observer` of the watch.

    Parameters
    ----------
    raw, output : str
        The two volumes. They need not be there yet: the page is empty until the first section is enhanced.
    listen : Listen
        Address and port to listen on.

    Raises
    ------
    ConfigError
        ``config.address``.
    """

    def __init__(self, raw: str, output: str, listen: Listen) -> None:
        self._volumes = {"raw": raw, "enhanced": output}
        self._readers: dict[str, KeyReader] = {}
        self._window: Window | None = None
        self._shown: float | None = None  # where along z the page was put last
        self._newest, self._times, self._at = 0, 0, -FRESH_SECONDS
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._over = False
        with ExitStack() as stack:
            self.page = stack.enter_context(Page(listen.host, listen.port))
            bound = stack.enter_context(bind(listen.host, listen.port + 1 if listen.port else 0))
            port = int(bound.getsockname()[1])
            gate = Gate(accepted_hosts(listen.host, port), frozenset({self.page.origin}))
            self._base = f"{base_url(listen.host, port)}/{gate.token}"
            self.ports = (self.page.port, port)
            stack.enter_context(Serving(build_app(self._readers, gate), bound))
            self._stack = stack.pop_all()

    @property
    def link(self) -> str:
        """URL that a browser opens."""
        return self.page.link

    @property
    def tunnel(self) -> str | None:
        """The command that makes the link work at the other end of an SSH connection; None where this is no such end."""
        return tunnel_command(self.ports, os.environ.get("SSH_CONNECTION"))

    def __call__(self, event: Event) -> None:
        """Show what is new, within a second."""
        with self._lock:
            if isinstance(event, WatchStarted):
                self._window = event.window
            z = event.z if isinstance(event, WatchStarted | SectionsReached) else None
            if z is None or self._over:
                return
            self._newest = z
            if self._timer is None:
                self._timer = threading.Timer(max(0.0, self._at + FRESH_SECONDS - time.monotonic()), self._refresh)
                self._timer.daemon = True
                self._timer.start()

    def _refresh(self) -> None:
        with self._lock:
            self._timer, self._at = None, time.monotonic()
            if self._over:
                return
            try:
                layers = [self._layer(kind, place) for kind, place in self._volumes.items()]
            except VolumetoolError:  # between growing and finished; the next section shows it
                return
            self._times += 1
            sources = [self._serve(layer, kind) for layer, kind in zip(layers, self._volumes, strict=True)]
            z = self._newest * layers[0].voxel_size[0] / finest(layers)[0]
            if self._shown is None:
                state = build_state(layers, sources, Look())
                state["position"][2] = z
                self.page.show(state)
            else:
                self._move(dict(zip((layer.name for layer in layers), sources, strict=True)), self._shown, z)
            self._shown = z

    def _layer(self, kind: str, place: str) -> Layer:
        volume = open_volume(place)
        name = PurePosixPath(volume.url).name
        if self._window is None and kind == "raw":
            self._window = sampled_window(volume)
        return Layer(name, volume, window=self._window)

    def _serve(self, layer: Layer, kind: str) -> dict[str, Any]:
        """Serve a volume under a new name: the page keeps what it has read under an old one, and what was not there."""
        name = f"{kind}.{self._times}"
        self._readers[name] = readable(layer.volume)
        self._readers.pop(f"{kind}.{self._times - 2}", None)
        return layer.source(f"{self._base}/{name}")

    def _move(self, sources: dict[str, dict[str, Any]], before: float, z: float) -> None:
        """Let the page read the volumes again, and go to the newest section if nobody has gone elsewhere."""

        def change(state: Any) -> None:
            for shown in state.layers:
                if shown.name in sources:  # the user may have removed it
                    shown.layer.source[0].url = sources[shown.name]["url"]
            position = list(state.position)
            if len(position) == 3 and abs(position[2] - before) < 1:
                position[2] = z
                state.position = position

        self.page.retry_txn(change)

    def __enter__(self) -> WatchPage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._over = True
            if self._timer is not None:
                self._timer.cancel()
        self._stack.close()
