"""Programs of ``torch.export`` (``.pt2``), computed step by step from their graph.

torch's own loader unpickles, evaluates sizes as Python and makes functions of texts. Nothing of it is used: the graph is JSON,
the weights are plain bytes, and of the steps those run that ``torch_operators.py`` lists.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from volumetool.models.foreign.archive import Archive, open_archive
from volumetool.models.foreign.program import LAYOUTS, Forward, digest_of, make_positive, read_whole, unusable
from volumetool.models.foreign.torch_operators import find_operator

SCHEMA = 8
"""Version of the graph's form that is read."""

MOST_GRAPH = 2**26
"""Bytes of JSON that are parsed; a network of a thousand layers has some 3 MB."""

DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
POSITIONAL = 1
"""Number of the kind of arguments that are given by place."""

STRIDED = 7
"""Number of the one layout of tensors that is known."""

HERE = object()
"""Stands for the device on which a program was opened, whatever device it was exported on."""

HINT = "export it by torch.export.save(torch.export.export(network.eval(), (image,), dynamic_shapes=...), FILE), or as ONNX"


@dataclass(frozen=True)
class Value:
    """The result of an earlier step, a weight, or the image.

    Parameters
    ----------
    name : str
        Its name in the graph.
    """

    name: str


@dataclass(frozen=True)
class GraphCall:
    """One call of a graph.

    Parameters
    ----------
    call : callable
        An operator of torch, or arithmetic on sizes.
    positional, named : sequence, dict
        Arguments: numbers, texts, `Value`, or lists of these.
    results : tuple
        Names of the results: each a text, a list of texts, or None for one that is not kept.
    last : tuple of str
        Names that no later step needs.
    """

    call: Callable[..., Any]
    positional: Sequence[Any]
    named: dict[str, Any]
    results: tuple[Any, ...]
    last: tuple[str, ...] = ()


class TorchExportProgram:
    """A program of torch.export that was read and checked.

    Parameters
    ----------
    steps : sequence of GraphCall
        Its calls, in order.
    ends : (str, str)
        Names of the image and of the output.
    weights : dict of str to (str, Tensor)
        By the name in the graph: its name in the network, and the tensor.
    layouts : tuple of (int, int)
        Axes and channels of the image.
    sha256 : str
        Digest of the file.
    """

    kind = "torch.export program"

    def __init__(
        self,
        steps: Sequence[GraphCall],
        ends: tuple[str, str],
        weights: dict[str, tuple[str, Tensor]],
        layouts: tuple[tuple[int, int], ...],
        sha256: str,
    ) -> None:
        self._steps, self._ends, self._weights = steps, ends, weights
        self.layouts, self.sha256 = layouts, sha256
        self.weight_bytes = sum(tensor.nbytes for _, tensor in weights.values())

    def open(self, device: torch.device) -> Forward:
        """Return the program on a device."""
        weights = {name: tensor.to(device) for name, (_, tensor) in self._weights.items()}
        first, last = self._ends

        def forward(x: Tensor) -> Tensor:
            values: dict[str, Any] = {**weights, first: x.clone()}  # a step may change what it gets
            for step in self._steps:
                given = [_filled(each, values, device) for each in step.positional]
                named = {name: _filled(each, values, device) for name, each in step.named.items()}
                _keep(step.results, step.call(*given, **named), values)
                for name in step.last:
                    del values[name]
            y: Tensor = values[last]
            return y

        return forward

    def positive(self) -> Self:
        """Return the same layers with positive weights and without biases."""
        weights = {name: (own, tensor.clone()) for name, (own, tensor) in self._weights.items()}
        make_positive(weights.values())
        return type(self)(self._steps, self._ends, weights, self.layouts, self.sha256)


def read_torch_export(path: Path, content: bytes | None = None) -> TorchExportProgram:
    """Read and check a program of torch.export; nothing of it runs meanwhile.

    Parameters
    ----------
    path : Path
        Its file.
    content : bytes or None
        What the file holds; None reads it.

    Raises
    ------
    ModelError
        ``model.broken``.
    """
    content = read_whole(path) if content is None else content
    try:
        with open_archive(path, content, "archive of torch.export", HINT) as archive:
            return _Reader(path, archive).program(digest_of(content))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"[:200]
        raise unusable(path, f"it is not written as torch {torch.__version__} writes programs ({why})", HINT) from error


class _Reader:
    """An archive that is being read."""

    def __init__(self, path: Path, archive: Archive) -> None:
        self._path, self._archive = path, archive
        models = [name for name in archive.namelist() if name.partition("/")[2].startswith("models/")]
        if len(models) != 1 or not models[0].endswith(".json"):
            raise unusable(path, f"it holds {len(models)} exported graphs; run is what has one", HINT)
        self._root, _, file = models[0].partition("/")
        self._name = file.removeprefix("models/").removesuffix(".json")
        self._model = self._json(models[0])

    def program(self, sha256: str) -> TorchExportProgram:
        """Return the program, after a look at all of it."""
        found = self._model["schema_version"]["major"]
        if found != SCHEMA:
            raise unusable(self._path, f"it is written in form {found} of torch.export; form {SCHEMA} is read", HINT)
        graph, signature = self._model["graph_module"]["graph"], self._model["graph_module"]["signature"]
        weights, first = self._inputs(signature["input_specs"])
        if len(signature["output_specs"]) != 1 or [*signature["output_specs"][0]] != ["user_output"]:
            raise unusable(self._path, "it has several outputs, or changes its weights; run is what gives one image", HINT)
        last = signature["output_specs"][0]["user_output"]["arg"]["as_tensor"]["name"]
        layouts = self._layouts(graph["tensor_values"][first])
        steps = _with_ends([self._step(node, weights) for node in graph["nodes"]], {first, *weights}, last)
        return TorchExportProgram(steps, (first, last), weights, layouts, sha256)

    def _json(self, name: str) -> Any:
        if self._archive.getinfo(name).file_size > MOST_GRAPH:
            raise unusable(self._path, f"{name} is longer than {MOST_GRAPH} bytes")
        return json.loads(self._archive.read(name))

    def _inputs(self, specs: list[dict[str, Any]]) -> tuple[dict[str, tuple[str, Tensor]], str]:
        """Return the weights by their names in the graph, and the name of the image."""
        stored = {**self._tensors("weights"), **self._tensors("constants")}
        weights, images = {}, []
        for spec in specs:
            ((kind, said),) = spec.items()
            name = f"{kind}_name"
            if kind == "user_input":
                images.append(said["arg"]["as_tensor"]["name"])
            elif kind in ("parameter", "buffer", "tensor_constant"):
                weights[said["arg"]["name"]] = (said[name], stored[said[name]])
            else:
                raise unusable(self._path, f"it is given a {kind}; run is what takes one image", HINT)
        if len(images) != 1:
            raise unusable(self._path, f"it takes {len(images)} images; run is what takes one", HINT)
        return weights, images[0]

    def _tensors(self, kind: str) -> dict[str, Tensor]:
        """Return the tensors of a folder of the archive by their names in the network."""
        place = f"{self._root}/data/{kind}/"
        config = self._json(f"{place}{self._name}_{kind}_config.json")["config"]
        made: dict[str, Tensor] = {}
        for name, said in config.items():
            if said["use_pickle"] or said["tensor_meta"] is None:
                raise unusable(self._path, f"{name} is a pickle, which could run code", HINT)
            meta = said["tensor_meta"]
            flat = torch.frombuffer(bytearray(self._archive.read(place + said["path_name"])), dtype=DTYPES[meta["dtype"]])
            size, stride = ([each["as_int"] for each in meta[which]] for which in ("sizes", "strides"))
            if math.prod(size) > flat.numel():
                raise unusable(self._path, f"the weights {name} are more than the file has")
            made[name] = flat.as_strided(size, stride, meta["storage_offset"]["as_int"]).clone()
        return made

    def _layouts(self, meta: dict[str, Any]) -> tuple[tuple[int, int], ...]:
        """Return what images it takes, and refuse one whose sizes are fixed: patches have another."""
        sizes = meta["sizes"]
        if meta["dtype"] != 7 or len(sizes) not in (4, 5):
            raise unusable(self._path, "its input is no image of float32 (n, c, y, x) or (n, c, z, y, x)", HINT)
        if not all("as_expr" in each for each in sizes[2:]):
            raise unusable(
                self._path, "it takes images of one size alone", "export it with dynamic_shapes for the axes of images"
            )
        channels = sizes[1].get("as_int", 0)
        layouts = tuple((n, c) for n, c in LAYOUTS if n == len(sizes) and channels in (0, c))
        if not layouts:
            raise unusable(
                self._path, f"its input has {channels} channels in {len(sizes) - 2}D; it is given one, or in 2D 3 to 9"
            )
        return layouts

    def _step(self, node: dict[str, Any], weights: dict[str, Any]) -> GraphCall:
        target, given = node["target"], [(each["name"], _argument(each["arg"]), each["kind"]) for each in node["inputs"]]
        call, positional = find_operator(target), [each for _, each, kind in given if kind == POSITIONAL]
        if call is None:
            raise unusable(self._path, f"it has the step {target[:100]}, which is not among those that are run", HINT)
        if target.split(".")[-2].endswith("_") and positional[0].name in weights:
            raise unusable(self._path, f"{target} changes its weights", HINT)
        named = {name: each for name, each, kind in given if kind != POSITIONAL}
        return GraphCall(call, positional, named, tuple(_result(each) for each in node["outputs"]))


def _argument(said: dict[str, Any]) -> Any:
    """Return an argument of a step."""
    ((kind, value),) = said.items()
    if kind in SIMPLE:
        return SIMPLE[kind](value)
    if kind in LISTS:
        return [SIMPLE[LISTS[kind]](each) for each in value]
    if kind == "as_optional_tensors":
        return [_argument(each) for each in value]
    raise ValueError(f"an argument of kind {kind}")


def _symbol(said: dict[str, Any]) -> Any:
    ((kind, value),) = said.items()
    return Value(value) if kind == "as_name" else SIMPLE[kind](value)


def _strided(number: int) -> torch.layout:
    if number != STRIDED:
        raise ValueError(f"layout {number}")
    return torch.strided


SIMPLE: dict[str, Callable[[Any], Any]] = {
    "as_bool": bool,
    "as_device": lambda _: HERE,
    "as_float": float,
    "as_int": int,
    "as_layout": _strided,
    "as_memory_format": MEMORY_FORMATS.__getitem__,
    "as_none": lambda _: None,
    "as_scalar_type": DTYPES.__getitem__,
    "as_string": str,
    "as_sym_bool": _symbol,
    "as_sym_float": _symbol,
    "as_sym_int": _symbol,
    "as_tensor": lambda said: Value(said["name"]),
}
LISTS = {f"{kind}s": kind for kind in SIMPLE}


def _result(said: dict[str, Any]) -> Any:
    """Return the name, or the names, that a result of a step gets."""
    found = _argument(said)
    return [each.name for each in found] if isinstance(found, list) else found and found.name


def _with_ends(steps: Sequence[GraphCall], known: set[str], last: str) -> list[GraphCall]:
    """Return steps that know which values no later one needs; refuse a graph in which one needs a value before it is made."""
    made = [{*known}, *(_flat(step.results) for step in steps)]
    needs = [_needs([*step.positional, *step.named.values()]) for step in steps]
    there: set[str] = set()
    for new, wanted in zip(made, [*needs, {last}], strict=True):
        there |= new
        if not wanted <= there:
            raise ValueError(f"{sorted(wanted - there)[0]} is used before it is made")
    ended: list[GraphCall] = []
    later = {last, *known}
    for step, new, wanted in zip(reversed(steps), reversed(made), reversed(needs), strict=False):
        ended.append(replace(step, last=tuple((wanted | new) - later)))
        later |= wanted
    return ended[::-1]


def _flat(results: Sequence[Any]) -> set[str]:
    return {name for each in results for name in (each if isinstance(each, list) else [each]) if name is not None}


def _needs(given: Sequence[Any]) -> set[str]:
    flat = [each for one in given for each in (one if isinstance(one, list) else [one])]
    return {each.name for each in flat if isinstance(each, Value)}


def _filled(given: Any, values: dict[str, Any], device: torch.device) -> Any:
    """Return an argument with what its names stand for."""
    if isinstance(given, list):
        return [_filled(each, values, device) for each in given]
    return values[given.name] if isinstance(given, Value) else device if given is HERE else given


def _keep(names: Sequence[Any], found: Any, values: dict[str, Any]) -> None:
    """Put the results of a step among the values."""
    several = found if len(names) > 1 else [found] * len(names)  # an assertion gives nothing
    for name, one in zip(names, several, strict=True):
        if name is not None:
            values.update(zip(name, one, strict=True) if isinstance(name, list) else [(name, one)])
