"""What a model file says of itself before any of it is loaded: bounded work, whatever it says.

The head of a safetensors file is eight bytes with the length of a JSON text, and that text.
"""

from __future__ import annotations

from pathlib import Path

from volumetool.models.unet import UNetConfig
from volumetool.paths import open_file

MOST_HEAD = 2**22
"""Bytes: thirty times the head of the largest model here. The library takes 100 MB, which is a million tensors."""

_WIDEST = 2**14
_MOST_POOLS = 12
_MOST_SCALE = 2**10
_MOST_CONTEXT = 64


def wrong_head(path: Path) -> str | None:
    """Say what is wrong with the length of a file's head; None where it can be read."""
    with open_file(path) as file:
        head = file.read(8)
    length, most = int.from_bytes(head, "little"), min(MOST_HEAD, path.stat().st_size - 8)
    if len(head) < 8 or not 2 <= length <= most:
        return f"it is not a safetensors file of a model: its head says {length} bytes, at most {max(most, 0)} can be"
    return None


def wrong_architecture(architecture: UNetConfig) -> str | None:
    """Say what is wrong with the network of a file's card; None where it can be built."""
    pools = architecture.pools
    if len(pools) > _MOST_POOLS or architecture.width << len(pools) > _WIDEST:
        return f"its network of width {architecture.width} and {len(pools)} pools is wider than {_WIDEST} channels"
    largest = max(architecture.scale[0] * architecture.scale[1] * architecture.scale[2], *(max(pool) for pool in pools), 1)
    if largest > _MOST_SCALE or architecture.z_context > _MOST_CONTEXT:
        return f"its scale {architecture.scale}, pools {pools} or z_context {architecture.z_context} are beyond any network"
    return None
