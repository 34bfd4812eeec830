"""TorchScript programs, run by torch's own interpreter, which knows no Python.

It is code, so it runs only where it is trusted. Its pickles hold data of the classes that the archive declares, and are read by
C++. But a class may declare how it is set up, which runs at once, and operators may open files. So the archive is looked at
first, too, what is loaded is written anew of what was looked at, and of its operators those run that take no name of a file.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch

from volumetool.models.foreign.archive import open_archive, write_archive
from volumetool.models.foreign.program import LAYOUTS, Forward, digest_of, make_positive, read_whole, unusable
from volumetool.models.foreign.trust import require_trust

LOADED = re.compile(r"code/[\w./]+\.py|(data|constants)(\.pkl|/\d+)|version|byteorder")
"""Entries of an archive that are loaded; the others are notes for other programs."""

RUNS_EARLY = ("__setstate__", "torch.classes", "_hooks__")
"""Words of code that runs without being called, or outside of the interpreter."""

PRIMITIVES = frozenset((
    "Constant", "DictConstruct", "GetAttr", "If", "ImplicitTensorToNum", "ListConstruct", "ListUnpack", "Loop", "NumToTensor",
    "RaiseException", "SetAttr", "TupleConstruct", "TupleIndex", "TupleSlice", "TupleUnpack", "Uninitialized", "data", "device",
    "dtype", "is_cuda", "isinstance", "layout", "max", "min", "shape", "unchecked_cast", "unchecked_unwrap_optional",
))  # fmt: skip
"""Operators of the language that are run."""

WORDS = frozenset(
    ("padding", "mode", "approximate", "rounding_mode", "reduction", "indexing", "equation", "ord", "self", "message", "a", "b")
)
"""Arguments of text that are no names of files."""


HINT = "save the network by torch.jit.save(torch.jit.trace(network.eval(), image), FILE), or as ONNX"


class TorchScriptProgram:
    """A TorchScript program that was read and checked.

    Parameters
    ----------
    content : bytes
        Its archive, of entries that were looked at.
    sha256 : str
        Digest of the file.
    positive : bool
        With positive weights and without biases.
    """

    kind = "TorchScript program"
    layouts = LAYOUTS

    def __init__(self, content: bytes, sha256: str, *, positive: bool = False) -> None:
        self._content, self.sha256, self._made_positive = content, sha256, positive
        self.weight_bytes = len(content)

    def open(self, device: torch.device) -> Forward:
        """Return the program on a device."""
        module = self._load().to(device)

        def forward(x: torch.Tensor) -> torch.Tensor:
            # Otherwise later calls are computed in another way than the first.
            with torch.jit.optimized_execution(should_optimize=False):  # type: ignore[attr-defined]  # torch hides it from mypy
                y: torch.Tensor = module(x.clone())  # a step may change what it gets
            return y

        return forward

    def positive(self) -> Self:
        """Return the same layers with positive weights and without biases."""
        return type(self)(self._content, self.sha256, positive=True)

    def _load(self) -> Any:
        module = _load(self._content)
        if self._made_positive:
            make_positive(module.state_dict().items())
        return module


def read_torchscript(path: Path, content: bytes | None = None, digest: str = "") -> TorchScriptProgram:
    """Read and check a TorchScript archive.

    Parameters
    ----------
    path : Path
        Its file, or the package that holds it.
    content : bytes or None
        The archive; None reads the file.
    digest : str
        SHA-256 that must be trusted; empty means that of the archive.

    Raises
    ------
    ModelError
        ``model.broken``; ``model.untrusted``.
    """
    content = read_whole(path) if content is None else content
    digest = digest or digest_of(content)
    made = _written_anew(path, content)
    require_trust(path, digest)
    try:
        program = TorchScriptProgram(made, digest)
        module = _load(made)
        graph = module.inlined_graph
    except Exception as error:
        raise unusable(path, f"torch does not load it: {str(error).strip()[:300]}") from error
    if any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()):
        raise unusable(path, "it has hooks, which run outside of what was looked at")
    for node in _nodes(graph):
        _check_node(path, node)
    return program


def _written_anew(path: Path, content: bytes) -> bytes:
    """Return an archive of what is loaded of a file, after a look at it."""
    with open_archive(path, content, "TorchScript archive, and a pickle could run code: it is not opened", HINT) as archive:
        names = {entry.partition("/")[2]: entry for entry in archive.namelist()}
        if len(names) < len(archive.namelist()):
            raise unusable(path, "its archive has one name twice")
        if not any(name.startswith("code/") for name in names) or "constants.pkl" not in names:
            raise unusable(
                path, "it holds no code of TorchScript: a pickle (torch.save) could run code, and is not opened", HINT
            )
        kept = {name: archive.read(entry) for name, entry in names.items() if LOADED.fullmatch(name)}
    for name, data in kept.items():
        _check_code(path, name, data)
    return write_archive({f"network/{name}": data for name, data in kept.items()})


def _check_code(path: Path, name: str, data: bytes) -> None:
    early = next((word for word in RUNS_EARLY if word.encode() in data), None)
    if early is not None:
        raise unusable(path, f"{name} has {early!r}, which runs without being called, or outside of the interpreter")


def _load(content: bytes) -> Any:
    """Load an archive on the CPU, in evaluation mode."""
    with warnings.catch_warnings():  # torch would have new programs exported otherwise
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(io.BytesIO(content), map_location="cpu").eval()


def _nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of all branches and loops in it."""
    waiting = [graph]
    while waiting:
        for node in waiting.pop().nodes():
            yield node
            waiting.extend(node.blocks())


def _check_node(path: Path, node: Any) -> None:
    """Refuse an operator that does more than compute."""
    space, _, name = node.kind().partition("::")
    texts = re.findall(r"\bstr[?\[\]]* (\w+)", node.schema()) if space == "aten" else []
    if not (space == "aten" and WORDS.issuperset(texts)) and not (space == "prim" and name in PRIMITIVES):
        raise unusable(path, f"it has the operator {node.kind()}, which may do more than compute")
