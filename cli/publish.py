"""``volumetool publish``: a finished volume, served in a format that other software reads."""

from __future__ import annotations

from typing import Annotated

import typer
from volumetool.cli._json import print_json
from volumetool.cli._options import Json, VoxelSize, given_size
from volumetool.cli._serve import end_like_ctrl_c, stay
from volumetool.cli._tables import say

from volumetool.storage.writing.names import PublishedName


def publish(
    volume: Annotated[str, typer.Argument(help="Finished volume: path or URL.")],
    format: Annotated[PublishedName, typer.Option("--as", help="The format that its readers know.")],  # noqa: A002
    voxel_size: VoxelSize = None,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback is for this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
    as_json: Json = False,
) -> None:
    """Serve a volume in another format, each chunk made as it is asked for; Ctrl-C ends.

    Nothing is written. To have that format on disk: `volumetool convert VOLUME NEW --format FORMAT`.
    """
    from volumetool.viewer.publish import publish as serve
    from volumetool.viewer.publish import source_text
    from volumetool.viewer.view import Listen

    end_like_ctrl_c()
    with serve(volume, format, Listen(host, port), voxel_size=given_size(voxel_size)) as url:
        source = source_text(url, format)
        if as_json:
            print_json("publication", {"url": url, "source": source, "format": format})
        else:
            say(url)
            say(f"for cloud-volume and Neuroglancer: {source}")
        stay(host, url, open_browser=False)
