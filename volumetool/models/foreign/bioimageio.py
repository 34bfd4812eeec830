"""Packages of the BioImage Model Zoo, versions 0.4 and 0.5 of its specification: a zip file with a description and weights.

Nothing is unpacked onto a disk, nothing is fetched, and no code of a package runs: of its weights ONNX files are taken, else
TorchScript programs, which are code and want trust.
"""

from __future__ import annotations

import contextlib
import io
import math
import stat
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray

from volumetool.models.card import Normalisation
from volumetool.models.foreign.archive import Archive, open_archive, write_archive
from volumetool.models.foreign.description import DESCRIPTIONS, HINT, Stored, Tensors, check_name, read_description
from volumetool.models.foreign.onnx_file import read_onnx
from volumetool.models.foreign.processing_steps import Pointwise, Processing, UnknownStepError, after_network, before_network
from volumetool.models.foreign.program import LAYOUTS, Forward, Program, digest_of, read_whole, unusable
from volumetool.models.foreign.torchscript import read_torchscript

WEIGHTS = ("onnx", "torchscript")
"""Formats of weights that are run, the safer one first."""

LARGEST_TEXT = 2**18
"""Bytes of a description."""

NO_DESCRIPTION = f"it has no {DESCRIPTIONS[0]} at its top, so it is no package of the BioImage Model Zoo"
NO_STEP = "run the network alone, from its ONNX file, with --set normalise=..."


@dataclass(frozen=True)
class Declared:
    """What a package declares of its network.

    Parameters
    ----------
    normalisation : Normalisation
        What is fitted to the volume before the network.
    before : list of callable
        Steps on the patches that follow it.
    after : sequence of Processing
        Steps on the output, for `after_network`.
    least : tuple of int
        Least sizes of its images along z, y, x.
    test : (bytes, bytes) or None
        Its test tensors, input and output, as NumPy files.
    """

    normalisation: Normalisation
    before: list[Pointwise]
    after: Sequence[Processing]
    least: tuple[int, int, int]
    test: tuple[bytes, bytes] | None


class BioImageProgram:
    """The network of a package, without the steps around it.

    Parameters
    ----------
    network : Program
        Its weights, which take images with the axes of the package.
    axes : (str, str)
        Axes of its input and of its output, as letters.
    sizes : dict of str to (int, int)
        Least size and step of each axis of its input; a step of 0 says that the size is an example.
    declared : Declared
        What stands around it.
    layout : (int, int)
        Axes and channels of its input.
    sha256 : str
        Digest of the package.
    """

    def __init__(
        self,
        network: Program,
        axes: tuple[str, str],
        sizes: dict[str, tuple[int, int]],
        declared: Declared,
        *,
        layout: tuple[int, int],
        sha256: str,
    ) -> None:
        self._network, self._axes, self._sizes, self.declared = network, axes, sizes, declared
        self.kind, self.sha256 = f"{network.kind} of a BioImage.IO package", sha256
        self.weight_bytes, self.layouts = network.weight_bytes, cast("tuple[tuple[int, int], ...]", (layout,))

    def open(self, device: torch.device) -> Forward:
        """Return the network on a device; it takes images as other programs do, whatever the axes of the package."""
        forward = self._network.open(device)
        usual = "bc" + "zyx"[-(self.layouts[0][0] - 2) :]

        def call(x: torch.Tensor) -> torch.Tensor:
            for letter, size in zip(usual, x.shape, strict=True):
                least, step = self._sizes.get(letter, (1, 0))
                if letter in "zyx" and step and (size < least or (size - least) % step):
                    raise ValueError(f"its package says that sizes along {letter} are {least} and multiples of {step} more")
            return _from_usual(forward(_to_axes(x, usual, self._axes[0])), usual, self._axes[1])

        return call

    def test_tensors(self, path: Path) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Return what the network is tested on and what it should make of that, (1, c, [z,] y, x) each; None without a test."""
        if self.declared.test is None:
            return None
        given, made = (read_tensor(path, content) for content in self.declared.test)
        for array, axes in zip((given, made), self._axes, strict=True):
            if array.ndim != len(axes) or array.dtype.kind not in "biuf":
                raise unusable(path, f"a test tensor has shape {array.shape} of {array.dtype}, and axes {axes}", HINT)
        usual = "bc" + "zyx"[-(self.layouts[0][0] - 2) :]
        first, last = (
            _from_usual(torch.from_numpy(array), usual, axes).numpy()
            for array, axes in zip((given, made), self._axes, strict=True)
        )
        return first, last

    def positive(self) -> Self:
        """Return a network of the same layers, with positive weights and without biases."""
        made = copy(self)
        made._network = self._network.positive()
        return made


def _to_axes(x: torch.Tensor, usual: str, axes: str) -> torch.Tensor:
    for number, letter in reversed([*enumerate(usual)]):
        if letter not in axes:
            x = x.select(number, 0)
    kept = [letter for letter in usual if letter in axes]
    return x.permute([kept.index(letter) for letter in axes]).contiguous()


def _from_usual(y: torch.Tensor, usual: str, axes: str) -> torch.Tensor:
    y = y.permute([axes.index(letter) for letter in usual if letter in axes])
    for number, letter in enumerate(usual):
        if letter not in axes:
            y = y.unsqueeze(number)
    return y.contiguous()


def read_package(path: Path) -> BioImageProgram:
    """Read and check a package.

    Raises
    ------
    ModelError
        ``model.broken``; ``model.untrusted``: its network is a program of TorchScript, and nobody trusts it.
    """
    content = read_whole(path)
    with open_archive(path, content, "zip file that can be read", HINT) as archive:
        return _Package(path, archive, digest_of(content)).program()


class _Package:
    """A package that is being read."""

    def __init__(self, path: Path, archive: Archive, sha256: str) -> None:
        check_package(path, archive)
        self._path, self._archive, self._sha256 = path, archive, sha256
        names = [name for name in DESCRIPTIONS if name in archive.namelist()]
        if not names:
            raise unusable(path, NO_DESCRIPTION, HINT)
        if archive.getinfo(names[0]).file_size > LARGEST_TEXT:
            raise unusable(path, f"its {names[0]} has more than {LARGEST_TEXT} bytes", HINT)
        self._said = read_description(path, archive.read(names[0]))

    def program(self) -> BioImageProgram:
        """Return the network with all that stands around it."""
        said, path = self._said, self._path
        if len(said.inputs) != 1 or len(said.outputs) != 1:
            raise unusable(
                path, f"it has {len(said.inputs)} inputs and {len(said.outputs)} outputs; run is what has one of each", HINT
            )
        (given,), (made,) = said.inputs, said.outputs
        dims = _dims(path, given.letters, made.letters)
        sizes, layout = given.sizes(), _layout(path, given, dims)
        try:
            normalisation, before = before_network(given.steps, dims)
            after_network(made.steps, dims, restored=True)
        except UnknownStepError as error:
            raise unusable(path, f"its step {error}", NO_STEP) from error
        least = [sizes[letter][0] if letter in sizes and sizes[letter][1] else 1 for letter in "zyx"]
        declared = Declared(normalisation, before, made.steps, (least[0], least[1], least[2]), self._test())
        axes = given.letters, made.letters
        return BioImageProgram(self._network(axes[0]), axes, sizes, declared, layout=layout, sha256=self._sha256)

    def _network(self, axes: str) -> Program:
        """Return the network of the safest weights."""
        weights = {name: stored for name, stored in self._said.weights.items() if stored is not None}
        if "onnx" in weights:
            folder = PurePosixPath(weights["onnx"].source).parent
            content = self._read(weights["onnx"])
            return read_onnx(self._path, content, axes=axes, beside=lambda name: self._read(Stored(source=str(folder / name))))
        if "torchscript" in weights:
            return read_torchscript(self._path, self._read(weights["torchscript"]), self._sha256)
        raise unusable(
            self._path,
            f"it has weights as {', '.join(sorted(weights)) or 'nothing'}; run are {' and '.join(WEIGHTS)}. Python code of a "
            "package, which pytorch_state_dict needs, is never run",
            "`bioimageio add-weights` of the package bioimageio.core adds ONNX to a package",
        )

    def _test(self) -> tuple[bytes, bytes] | None:
        tests = self._said.tests
        return (self._read(tests[0]), self._read(tests[1])) if len(tests) == 2 else None

    def _read(self, stored: Stored) -> bytes:
        """Return a file of the package, if it is the one that is meant."""
        check_name(self._path, stored.source)
        name = str(PurePosixPath(stored.source))
        if name not in self._archive.namelist():
            raise unusable(self._path, f"its file {name[:200]} is missing", HINT)
        content = self._archive.read(name)
        if stored.sha256 is not None and digest_of(content) != stored.sha256:
            raise unusable(self._path, f"its file {name[:200]} is not the one that was described: another SHA-256", HINT)
        return content


def check_package(path: Path, archive: Archive) -> None:
    """Refuse an archive with entries that lead out of it.

    Raises
    ------
    ModelError
        ``model.broken``.
    """
    for entry in archive.infolist():
        check_name(path, entry.filename)
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise unusable(path, f"its entry {entry.filename!r} is a link", HINT)


def pack(path: Path, read: Callable[[str], bytes]) -> bytes:
    """Return a package of the files that are needed to run and to test it, always the same bytes of the same files.

    Parameters
    ----------
    path : Path
        Where they come from, for messages.
    read : callable
        Returns what a file of the package holds by its name; raises KeyError where it is missing.

    Raises
    ------
    ModelError
        ``model.broken``.
    """
    entries: dict[str, bytes] = {}
    for name in DESCRIPTIONS:
        with contextlib.suppress(KeyError):
            entries[DESCRIPTIONS[0]] = read(name)
            break
    if not entries:
        raise unusable(path, NO_DESCRIPTION, HINT)
    for name in read_description(path, entries[DESCRIPTIONS[0]]).files(WEIGHTS):
        check_name(path, name)
        try:
            entries[str(PurePosixPath(name))] = read(name)
        except KeyError as error:
            raise unusable(path, f"its file {name[:200]} is missing", HINT) from error
    return write_archive(entries)


def _dims(path: Path, given: str, made: str) -> Literal[2, 3]:
    """Return whether a network takes sections or blocks."""
    for axes in (given, made):
        if "?" in axes or not {"y", "x"} <= set(axes) or len(set(axes)) < len(axes):
            raise unusable(path, f"it has axes that are not those of an image, {axes}; an image has b, c, z, y, x", HINT)
    if ("z" in given) != ("z" in made):
        raise unusable(path, f"it makes axes {made} of {given}; run is what keeps the axes of space", HINT)
    return 3 if "z" in given else 2


def _layout(path: Path, given: Tensors, dims: int) -> tuple[int, int]:
    """Return axes and channels of images; channels are sections only where the package says so."""
    channels = given.sizes().get("c", (1, 0))[0]
    if channels != 1 and not (given.sections and (dims + 2, channels) in LAYOUTS):
        raise unusable(
            path,
            f"its images have {channels} channels, and a volume gives one",
            f"where they are neighbouring sections, call them section_1 to section_{channels} in its channel_names",
        )
    return dims + 2, channels


def read_tensor(path: Path, content: bytes) -> NDArray[Any]:
    """Return the array of a NumPy file; nothing is unpickled, and no more is taken than the file has.

    Raises
    ------
    ModelError
        ``model.broken``.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        shape, _, dtype = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version](file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content) - file.tell():
            raise ValueError(f"{shape} of {dtype} in {len(content)} bytes")
        file.seek(0)
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, KeyError, EOFError, OverflowError, SyntaxError, MemoryError, RecursionError) as error:
        raise unusable(path, f"a test tensor is no NumPy file that can be read ({str(error)[:200]})", HINT) from error
    return array
