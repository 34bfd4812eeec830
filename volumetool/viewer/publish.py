"""A finished volume as others read it: served in another format, of which each chunk is made as it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from volumetool.errors import InputError
from volumetool.geometry import Size
from volumetool.listening.gate import Gate, accepted_hosts, base_url
from volumetool.storage.open import open_volume
from volumetool.storage.pyramid import level_grids
from volumetool.storage.writing.names import PublishedName
from volumetool.viewer.computed import ComputedKeys
from volumetool.viewer.server import Serving, bind, build_app
from volumetool.viewer.view import Listen

_SCHEMES = {"precomputed": "precomputed://", "n5": "n5://"}


@contextmanager
def publish(
    volume: str | os.PathLike[str],
    format: PublishedName,  # noqa: A002
    listen: Listen | None = None,
    *,
    voxel_size: Size | None = None,
) -> Iterator[str]:
    """Serve a volume in another format while the block runs; nothing is written, and no level is made again.

    Parameters
    ----------
    volume : str or path
        Path or URL of a volume that is finished.
    format : str
        The format that its readers know.
    listen : Listen, optional
        Address and port to listen on; on loopback by default.
    voxel_size : tuple of float, optional
        Nanometres, z, y, x, where the metadata do not say it.

    Yields
    ------
    str
        URL of the volume, with a secret part: whoever has it can read the volume, and nothing else.

    Raises
    ------
    InputError
        As `open_volume`; ``input.unfinished``.
    OutputError
        ``output.channels``: the format has no place for them. ``output.levels``: levels that are no divisions by whole factors.
    ConfigError
        ``config.address``.
    """
    source, listen = open_volume(volume, voxel_size=voxel_size), listen or Listen()
    if (status := source.attributes.get("status", "complete")) != "complete":
        raise InputError(
            "input.unfinished",
            f"{source.url} calls itself {status!r}: what writes it was interrupted, or is still at it",
            hint="run the command that began it to its end, or look at it with `volumetool view`",
            where=source.url,
        )
    keys = ComputedKeys(source, level_grids(source), format)
    bound = bind(listen.host, listen.port)
    port = int(bound.getsockname()[1])
    gate = Gate(accepted_hosts(listen.host, port))
    with Serving(build_app({"volume": keys}, gate), bound):
        yield f"{base_url(listen.host, port)}/{gate.token}/volume"


def source_text(url: str, format: PublishedName) -> str:  # noqa: A002
    """Return the URL of a published volume as cloud-volume and Neuroglancer take it."""
    return f"{_SCHEMES.get(format, 'zarr://')}{url}"
