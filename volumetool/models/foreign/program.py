"""Programs: networks in files of other software. Which kind a file is, is told by the end of its name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from volumetool.errors import ModelError
from volumetool.machine import usable_memory
from volumetool.models.foreign.trust import CODE, is_code, trust
from volumetool.paths import open_file

Forward = Callable[[Tensor], Tensor]
"""From float32 of shape (1, channels, [z,] y, x) to the like, both on one device. Called by several threads at once."""


class Program(Protocol):
    """A network whose file was read and checked.

    Attributes
    ----------
    kind : str
        What it is, such as ``ONNX network``.
    sha256 : str
        Digest of all that was read.
    weight_bytes : int
        Size of its weights.
    layouts : tuple of (int, int)
        Axes and channels of its input, as far as the file says; else those worth trying.
    """

    kind: str
    sha256: str
    weight_bytes: int
    layouts: tuple[tuple[int, int], ...]

    def open(self, device: torch.device) -> Forward:
        """Return the network on a device."""

    def positive(self) -> Self:
        """Return a network of the same layers, with positive weights and without biases.

        Nothing in it cancels, and no rectifier is shut, so that whatever can reach an output voxel does.
        """


LAYOUTS: tuple[tuple[int, int], ...] = ((5, 1), (4, 1), (4, 3), (4, 5), (4, 7), (4, 9))
"""Axes and channels of inputs: 3D, 2D, and 2D with one to four neighbouring sections on each side as channels."""


def open_program(path: Path) -> Program:
    """Read and check the file of a network.

    Parameters
    ----------
    path : Path
        A file whose name ends like one of `ENDS`.

    Raises
    ------
    ModelError
        ``model.broken``: it is not what its name says, or holds what is not run. ``model.unreadable``: a package is missing.
        ``model.untrusted``: it is code, and nobody trusts it.
    """
    from volumetool.models.foreign.bioimageio import read_package
    from volumetool.models.foreign.onnx_file import read_onnx
    from volumetool.models.foreign.resunet import read_resunet
    from volumetool.models.foreign.torch_export import read_torch_export
    from volumetool.models.foreign.torchscript import read_torchscript

    if is_code(path):
        return read_torchscript(path)
    readers: dict[str, Callable[[Path], Program]] = {
        ".onnx": read_onnx,
        ".pt2": read_torch_export,
        ".pth": read_resunet,
        PACKAGE: read_package,
    }
    return readers[path.suffix.lower()](path)


PACKAGE = ".zip"
"""End of the name of a package of the BioImage Model Zoo."""

ENDS = (".onnx", ".pt2", ".pth", PACKAGE, *CODE)
"""Ends of the names of files that `open_program` reads."""


def make_positive(weights: Iterable[tuple[str, Tensor]]) -> None:
    """Make weights positive, and biases 0, in place; each comes with its name."""
    chance = torch.Generator().manual_seed(0)
    for name, value in weights:
        if not value.is_floating_point():
            continue
        if value.dim() > 1:
            value.copy_((0.5 + torch.rand(value.shape, generator=chance)) / max(1, value[0].numel()))
        else:
            value.fill_(0.0 if name.endswith(("bias", "running_mean")) else 1.0)


def trust_program(path: Path) -> None:
    """Let a program run, as it is now, in this process and in those that it starts."""
    trust(digest_of(read_whole(path)))


def read_whole(path: Path) -> bytes:
    """Return the bytes of a file of which memory holds several copies.

    Raises
    ------
    ModelError
        ``model.broken``.
    """
    try:
        with open_file(path) as file:
            size = path.stat().st_size
            if 4 * size > usable_memory():  # the bytes, the weights made of them, and what is computed
                raise unusable(path, f"it has {size} bytes, more than a quarter of the memory that is free")
            return file.read(size)
    except OSError as error:
        raise unusable(path, f"it cannot be read: {error.strerror or error}") from error


def digest_of(*parts: bytes) -> str:
    """Return the SHA-256 of some bytes, or of the digests of several."""
    if len(parts) == 1:
        return hashlib.sha256(parts[0]).hexdigest()
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def unusable(path: Path, why: str, hint: str = "export the network again, with plain layers") -> ModelError:
    """Return the error that refuses a file.

    Parameters
    ----------
    path : Path
        The file.
    why : str
        What is wrong with it.
    hint : str
        What to do.
    """
    return ModelError("model.broken", f"the network {path} cannot be used: {why}", hint=hint, where=str(path))
