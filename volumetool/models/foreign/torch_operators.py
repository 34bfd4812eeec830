"""Operators of torch that programs of torch.export may call: they compute, and none opens a file or runs code."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

OPERATORS = frozenset((
    "abs", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d", "add", "addcmul", "addmm", "alias", "amax", "amin",
    "arange", "_assert_scalar", "_assert_tensor_metadata", "atan", "avg_pool1d", "avg_pool2d", "avg_pool3d", "baddbmm",
    "batch_norm", "bitwise_and", "bitwise_not", "bitwise_or", "bmm", "cat", "celu", "channel_shuffle", "chunk", "clamp",
    "clamp_max", "clamp_min", "clone", "constant_pad_nd", "contiguous", "conv1d", "conv2d", "conv3d", "conv_transpose1d",
    "conv_transpose2d", "conv_transpose3d", "convolution", "cos", "cumsum", "detach", "div", "dropout", "einsum", "elu", "eq",
    "erf", "exp", "expand", "expm1", "flatten", "flip", "floor", "floor_divide", "full", "full_like", "gather", "ge", "gelu",
    "glu", "group_norm", "gt", "hardsigmoid", "hardswish", "hardtanh", "index", "index_select", "instance_norm", "layer_norm",
    "le", "leaky_relu", "lift_fresh_copy", "linalg_vector_norm", "linear", "log", "log1p", "log_sigmoid", "log_softmax",
    "_log_softmax", "logical_and", "logical_not", "logical_or", "lt", "masked_fill", "matmul", "max", "max_pool1d",
    "max_pool2d", "max_pool2d_with_indices", "max_pool3d", "max_pool3d_with_indices", "maximum", "mean", "min", "minimum",
    "mish", "mm", "movedim", "mul", "narrow", "_native_batch_norm_legit_no_training", "native_group_norm",
    "native_layer_norm", "ne", "neg", "new_full", "new_ones", "new_zeros", "ones", "ones_like", "pad", "permute",
    "pixel_shuffle", "pixel_unshuffle", "pow", "prelu", "reciprocal", "reflection_pad1d", "reflection_pad2d",
    "reflection_pad3d", "relu", "relu6", "remainder", "repeat", "repeat_interleave", "replication_pad2d", "replication_pad3d",
    "reshape", "roll", "rsqrt", "rsub", "scalar_tensor", "scaled_dot_product_attention", "select", "selu", "sigmoid", "sign",
    "silu", "sin", "slice", "softmax", "_softmax", "softplus", "split", "split_with_sizes", "sqrt", "square", "squeeze",
    "stack", "std", "sub", "sum", "sym_numel", "sym_size", "t", "tanh", "tile", "to", "_to_copy", "transpose", "true_divide",
    "type_as", "unbind", "unflatten", "unfold", "_unsafe_view", "unsqueeze", "upsample_bicubic2d", "upsample_bilinear2d",
    "upsample_linear1d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d", "upsample_trilinear3d", "var", "var_mean", "view", "where", "zeros", "zeros_like",
))  # fmt: skip
"""Operators of torch that are run, and those of them that change their first argument (``relu_``)."""

ON_SIZES: dict[str, Callable[..., Any]] = {
    **{f"_operator.{each.__name__}": each for each in (
        operator.add, operator.eq, operator.floordiv, operator.ge, operator.gt, operator.le, operator.lt, operator.mod,
        operator.mul, operator.ne, operator.neg, operator.sub, operator.truediv,
    )},
    **{f"math.{each.__name__}": each for each in (math.ceil, math.floor, math.trunc)},
    "torch.sym_float": float, "torch.sym_int": int, "torch.sym_max": max, "torch.sym_min": min, "torch.sym_not": operator.not_,
}  # fmt: skip
"""Arithmetic on sizes."""


def find_operator(target: str) -> Callable[..., Any] | None:
    """Return an operator by its name in a graph (``torch.ops.aten.relu.default``), or arithmetic on sizes; None for others."""
    if target in ON_SIZES:
        return _on_sizes(ON_SIZES[target])
    space, _, name = target.rpartition("aten.")
    name, _, overload = name.partition(".")
    if space != "torch.ops." or not {name, name.removesuffix("_")} & OPERATORS or "out" in overload or "." in overload:
        return None
    found = getattr(getattr(torch.ops.aten, name), overload, None)
    return found if isinstance(found, torch._ops.OpOverload) else None


def _on_sizes(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return arithmetic on sizes whose numbers stay below 64 bits."""

    def bounded(*given: Any) -> Any:
        if not all(isinstance(each, int | float) for each in given):
            raise TypeError(f"a size is a number, not {given}")
        found = call(*given)
        if abs(found) >= 2**63:
            raise OverflowError(f"a size of {found:g}")
        return found

    return bounded
