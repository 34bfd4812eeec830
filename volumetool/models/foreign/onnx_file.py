"""ONNX networks, computed by onnxruntime.

The file is parsed, all that it names is looked at, and what runs is made of the bytes that were looked at: onnxruntime opens no
file. Operators of the standard alone are run; those of extensions may load libraries.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from volumetool.errors import ConfigError, ModelError
from volumetool.models.foreign.program import LAYOUTS, Forward, digest_of, read_whole, unusable

if TYPE_CHECKING:
    import onnx
    import onnxruntime

MOST_BYTES = 2**31 - 2**20
"""What one message of the format can hold; a network is run from one."""

OWN_DOMAINS = ("", "ai.onnx")
"""Of the operators that are run."""

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Operators whose second input is weights, and whose third is biases."""

NORMS = {
    "BatchNormalization": (1.0, 0.0, 0.0, 1.0),
    "InstanceNormalization": (1.0, 0.0),
    "LayerNormalization": (1.0, 0.0),
    "GroupNormalization": (1.0, 0.0),
}
"""Operators that scale and shift, and the values of what follows their first input with which they do neither."""


class OnnxProgram:
    """An ONNX network that was read and checked.

    Parameters
    ----------
    path : Path
        Its file, for messages.
    model : onnx.ModelProto
        The network with all its weights, of one float32 input whose size is free, and one output.
    sha256 : str
        Digest of the files.
    """

    kind = "ONNX network"

    def __init__(self, path: Path, model: onnx.ModelProto, sha256: str) -> None:
        self._path, self._model, self.sha256 = path, model, sha256
        self.weight_bytes = model.ByteSize()
        axes = _inputs(model.graph)[0].type.tensor_type.shape.dim
        channels = axes[1].dim_value if len(axes) > 1 else 0
        self.layouts = tuple((n, c) for n, c in LAYOUTS if n == len(axes) and channels in (0, c))

    def open(self, device: torch.device) -> Forward:
        """Return the network on a device; it takes as many threads as torch does in the thread that calls it."""
        providers = _providers(device)
        content, (name,) = self._model.SerializeToString(), _inputs(self._model.graph)
        sessions: dict[int, onnxruntime.InferenceSession] = {}
        lock = threading.Lock()

        def forward(x: torch.Tensor) -> torch.Tensor:
            threads = torch.get_num_threads()
            with lock:
                if threads not in sessions:
                    sessions[threads] = self._session(content, threads, providers)
            y = sessions[threads].run(None, {name.name: x.cpu().numpy()})[0]
            return torch.from_numpy(y).to(device)

        return forward

    def positive(self) -> Self:
        """Return a network of the same layers with positive weights and without biases."""
        import onnx.numpy_helper

        made = type(self._model)()
        made.CopyFrom(self._model)
        weights = {tensor.name: tensor for tensor in made.graph.initializer}
        chance = np.random.default_rng(0)
        for node in made.graph.node:
            for place, name in enumerate(node.input[1:], start=1):
                tensor, norm = weights.get(name), NORMS.get(node.op_type, ())
                if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
                    continue
                shape = tuple(tensor.dims)
                if node.op_type in LAYERS and place == 1:
                    values = chance.uniform(0.5, 1.5, shape) / max(1, np.prod(shape[1:]))
                elif node.op_type in LAYERS and place == 2:
                    values = np.zeros(shape)
                elif place <= len(norm):
                    values = np.full(shape, norm[place - 1])
                else:
                    continue
                tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), name))
        return type(self)(self._path, made, self.sha256)

    def _session(self, content: bytes, threads: int, providers: list[str]) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.use_deterministic_compute = True
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other stages need the cores
        options.log_severity_level = 4
        try:
            return onnxruntime.InferenceSession(content, options, providers=providers)
        except Exception as error:
            raise unusable(self._path, f"onnxruntime does not load it: {str(error)[:500]}") from error


def read_onnx(
    path: Path, content: bytes | None = None, *, axes: str = "", beside: Callable[[str], bytes] | None = None
) -> OnnxProgram:
    """Read and check an ONNX file, with the weights that lie in files beside it.

    Parameters
    ----------
    path : Path
        The file, or the package that holds it.
    content : bytes or None
        What the file holds; None reads it.
    axes : str
        Axes of its image, such as ``byxc``; empty means ``bcyx`` or ``bczyx``.
    beside : callable or None
        Returns what a file beside it holds, by its name; None reads files of its folder.

    Raises
    ------
    ModelError
        ``model.broken``, ``model.unreadable``.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401  (asked for here, before a job is planned)
    except ImportError as error:
        raise ModelError(
            "model.unreadable",
            f"{path} is an ONNX network, which is run with the packages onnx and onnxruntime: {error}",
            hint="pip install 'volumetool[onnx]'",
            where=str(path),
        ) from error
    content = read_whole(path) if content is None else content
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:
        raise unusable(path, f"it is no ONNX file: {str(error)[:200]}") from error
    _check_operators(path, model)
    outside = _take_in_weights(path, model, beside or (lambda name: read_whole(_beside(path, name))))
    if model.ByteSize() > MOST_BYTES:
        raise unusable(path, f"it has {model.ByteSize()} bytes with its weights, at most {MOST_BYTES} are run")
    _check_ends(path, model.graph, axes)
    return OnnxProgram(path, model, digest_of(content, *outside))


def _messages(message: Any) -> Iterator[Any]:
    """Yield a message and all messages in it; numbers and texts are not looked at."""
    waiting = [message]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend(value if hasattr(value, "add") else [value])


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    for domain, name in sorted(own):
        # The runtime has operators of its own in these, and would run one of them instead of the file's function.
        if domain.startswith(("com.microsoft", "ai.onnx", "org.pytorch")):
            raise unusable(path, f"it has a function {domain}.{name}, whose name belongs to the runtime")
    for message in _messages(model):
        if message.DESCRIPTOR.name != "NodeProto" or (message.domain, message.op_type) in own:
            continue
        if message.domain not in OWN_DOMAINS:
            raise unusable(
                path, f"it has an operator of an extension, {message.domain}.{message.op_type}; no library is loaded for it"
            )


def _take_in_weights(path: Path, model: onnx.ModelProto, beside: Callable[[str], bytes]) -> list[bytes]:
    """Put weights that lie in other files into the model, and return the content of those files."""
    import onnx

    read: dict[str, bytes] = {}
    for tensor in _messages(model):
        if tensor.DESCRIPTOR.name != "TensorProto" or tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        said = {entry.key: entry.value for entry in tensor.external_data}
        name = said.get("location", "")
        if name not in read:
            read[name] = beside(name)
        try:
            start, length = int(said.get("offset", 0)), int(said.get("length", len(read[name])))
        except ValueError as error:
            raise unusable(path, f"the place of the weights {tensor.name} is no number") from error
        if min(start, length) < 0 or start + length > len(read[name]):
            raise unusable(path, f"the weights {tensor.name} lie behind the end of {name}")
        tensor.raw_data = read[name][start : start + length]
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT
    return [read[name] for name in sorted(read)]


def _beside(path: Path, name: str) -> Path:
    """Return the file of a name in the folder of another; refuse one that leads out of it."""
    parts = PurePosixPath(name).parts
    file = path.parent / name
    inside = parts and not PurePosixPath(name).is_absolute() and ".." not in parts and "\\" not in name and "\0" not in name
    with contextlib.suppress(OSError, ValueError):
        if inside and file.resolve().is_relative_to(path.parent.resolve()):
            return file
    raise unusable(
        path, f"its weights lie at {name!r}, outside of its folder", hint="put all files of the network into one folder"
    )


def _inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return what a caller gives: older files list the weights among the inputs, too."""
    weights = {tensor.name for tensor in graph.initializer}
    return [each for each in graph.input if each.name not in weights]


def _check_ends(path: Path, graph: onnx.GraphProto, layout: str) -> None:
    """Refuse what is no network from one image to another, and free the size of the image."""
    import onnx

    inputs = _inputs(graph)
    if len(inputs) != 1 or len(graph.output) != 1:
        raise unusable(path, f"it has {len(inputs)} inputs and {len(graph.output)} outputs; run is what has one of each")
    for end in (inputs[0], graph.output[0]):
        if end.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise unusable(path, f"{end.name} is not float32")
    axes = inputs[0].type.tensor_type.shape.dim
    if layout:
        if len(axes) != len(layout):
            raise unusable(path, f"its input has {len(axes)} axes, its package says {layout}")
    else:
        _check_layout(path, len(axes), axes[1].dim_value if len(axes) > 1 else 0)
    for number, axis in enumerate(axes):
        if number != (layout or "bc").find("c"):
            axis.dim_param = f"size_{number}"
    graph.output[0].type.tensor_type.ClearField("shape")
    graph.ClearField("value_info")


def _check_layout(path: Path, rank: int, channels: int) -> None:
    if rank not in (4, 5):
        raise unusable(path, f"its input has {rank} axes; an image has 4 (n, c, y, x) or 5 (n, c, z, y, x)")
    if channels and (rank, channels) not in LAYOUTS:
        raise unusable(
            path, f"its input has {channels} channels in {rank - 2}D; it is given one, or in 2D with neighbours 3, 5, 7 or 9"
        )


def _providers(device: torch.device) -> list[str]:
    import onnxruntime

    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise ConfigError(
            "config.device",
            "the onnxruntime that is installed computes on CPUs alone, and the job runs on a GPU",
            hint="take --device cpu, or install onnxruntime-gpu in its place",
        )
    return ["CUDAExecutionProvider"]
