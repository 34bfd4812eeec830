"""Names of the formats that are written; `volumetool.storage.formats.registry` says how."""

from __future__ import annotations

from typing import Final, Literal

WrittenName = Literal["ome-zarr-0.5", "ome-zarr-0.5-unsharded", "ome-zarr-0.4", "n5", "precomputed"]
"""What ``--format`` takes."""

DEFAULT: Final = "ome-zarr-0.5"
"""What is written where neither the format is asked for nor the name of the output says one."""
