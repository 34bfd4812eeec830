"""Networks without weights whose right answer is known, for testing a pipeline from end to end.

Each betrays another mistake: `identity` a shifted or wrongly enlarged voxel, `constant` a weight that does not sum to one,
`box` a missing halo (it has a receptive field, and pads with zeros at the edge of its tile as the U-Net does), `position` a
wrong lattice, patch order or crop (its output depends on where in the patch a voxel lies). On top of that a fake may go wrong
on purpose, see `volumetool.testing.faults`.

`open_operation` knows them only where `register_fakes` was called.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from volumetool.errors import ModelError
from volumetool.models import Model, ModelCard, Normalisation, UNetConfig
from volumetool.models.card import ZYX
from volumetool.processing.operation import OPERATIONS
from volumetool.processing.operations.filter import read_options
from volumetool.processing.operations.network import NetworkOperation, NetworkOptions, split_name
from volumetool.testing.faults import Fault, Trouble

RAMP: tuple[float, ...] = (0.5, 0.125, 0.25)
"""Grey values that `position` adds per output voxel along z, y, x: powers of two, so that every value is exact in float32."""

_HINT = "for example fake:box?dims=2&scale=1,4,4&radius=2&patch=1,32,32&overlap=0,8,8&trim=0,2,2"


class FakeConfig(Fault):
    """A network that computes something simple, and may fail; the fields of `Fault` say how.

    Parameters
    ----------
    behaviour : {"identity", "constant", "box", "position"}
        ``identity`` repeats each input voxel, ``constant`` gives `value` everywhere, ``box`` gives the mean over a
        window, repeated, ``position`` the identity plus a ramp (`RAMP`) that starts again in each patch.
    dims : {2, 3}
        2 works section by section, 3 on blocks.
    scale : tuple of int
        Output voxels per input voxel along z, y, x.
    z_context : int
        2D only: neighbouring sections on each side that come along as channels; the box averages over them too.
    value : float
        Output of ``constant``, in grey values of the volume.
    seconds : float
        Least time of a call in seconds, as of a slow device.
    radius : int
        The box covers 2 * radius + 1 voxels along each axis of the network.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    behaviour: Literal["identity", "constant", "box", "position"]
    dims: Literal[2, 3] = 2
    scale: tuple[int, int, int] = (1, 4, 4)
    z_context: int = Field(0, ge=0)
    value: float = Field(100.0, allow_inf_nan=False)
    radius: int = Field(2, ge=0)
    seconds: float = Field(0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> FakeConfig:
        if min(self.scale) < 1 or (self.dims == 2 and self.scale[0] != 1):
            raise ValueError(f"scale must be 1 or more, and 1 along z in 2D, not {self.scale}")
        if self.dims == 3 and self.z_context:
            raise ValueError(f"z_context belongs to 2D networks: {self.z_context}")
        return self

    @property
    def gate(self) -> bool:
        """It weighs no sections, where a real configuration may say so."""
        return False

    @property
    def pools(self) -> tuple[tuple[int, int, int], ...]:
        """Return nothing: a fake works on one level."""
        return ()

    @property
    def granularity(self) -> tuple[int, int, int]:
        """A fake takes patches of any size."""
        return 1, 1, 1

    @property
    def receptive_field(self) -> tuple[int, int, int]:
        """Farthest input voxel that changes an output voxel, along z, y, x."""
        if self.behaviour != "box":
            return 0, 0, 0
        return (self.z_context if self.dims == 2 else self.radius), self.radius, self.radius


class Fake(nn.Module):
    """A network of known answer, called like the U-Net.

    Parameters
    ----------
    config : FakeConfig
        What the network computes.
    """

    def __init__(self, config: FakeConfig) -> None:
        super().__init__()
        self.config = config
        self.first = 3 - config.dims  # of a (z, y, x) triple, the first axis that this network has
        self.trouble = Trouble(config)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the known answer.

        Parameters
        ----------
        x : Tensor
            float32 (b, n, y, x) or (b, 1, z, y, x), grey values of the volume.

        Returns
        -------
        Tensor
            float32 (b, 1, y*fy, x*fx) or (b, 1, z*fz, y*fy, x*fx).
        """
        time.sleep(self.config.seconds)
        self.trouble.before(x)
        context = self.config.z_context
        section = centre = x[:, context : context + 1]  # (b, 1, z, y, x)
        if self.config.behaviour == "box":
            centre = self._box(x)
        if self.config.behaviour == "constant":
            centre = torch.full_like(centre, self.config.value)
        centre = self.trouble.after(section, centre)
        for axis, factor in enumerate(self.config.scale[self.first :], start=2):
            centre = centre.repeat_interleave(factor, dim=axis)  # one axis grows by its factor
        return centre + self._ramp(centre) if self.config.behaviour == "position" else centre

    def _box(self, x: Tensor) -> Tensor:
        # Sums of whole grey values are exact in float32 whatever their order, so the one division rounds alike in any tile.
        radius, dims = self.config.radius, self.config.dims
        pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
        sums = pool(x, 2 * radius + 1, stride=1, padding=radius, divisor_override=1).sum(1, keepdim=True)
        return sums / float(x.shape[1] * (2 * radius + 1) ** dims)

    def _ramp(self, like: Tensor) -> Tensor:
        ramp = torch.zeros_like(like[:1])
        for axis, step in enumerate(RAMP[self.first :], start=2):
            shape = [1] * like.ndim
            shape[axis] = like.shape[axis]
            ramp = ramp + step * torch.arange(like.shape[axis], dtype=like.dtype, device=like.device).reshape(shape)
        return ramp


@dataclass(frozen=True, eq=False)
class FakeModel(Model):
    """A model of known answer.

    Its card has the U-Net of one channel that takes and gives patches of the same shapes.

    Parameters
    ----------
    card, spec, state
        As of `Model`; there are no weights, so the hash is that of the spec.
    config : FakeConfig
        What the network computes.
    """

    config: FakeConfig

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights_sha256", hashlib.sha256(self.spec.encode()).hexdigest())

    def network(self) -> nn.Module:
        """Return a fresh network."""
        return Fake(self.config).eval()


def fake_model(
    config: FakeConfig, *, patch: ZYX | None = None, overlap: ZYX | None = None, trim: ZYX | None = None
) -> FakeModel:
    """Make a model of known answer.

    Parameters
    ----------
    config : FakeConfig
        What the network computes.
    patch, overlap, trim : tuple of int, optional
        The lattice, input voxels along z, y, x. By default patches of 32 that share 8, of which 2 are trimmed on either
        side; in 2D no more than one section.

    Returns
    -------
    FakeModel
        Its `spec` makes the same model again.
    """
    deep = config.dims == 3
    patch = patch or (32 if deep else 1, 32, 32)
    overlap = overlap or (8 if deep else 0, 8, 8)
    if trim is None:
        z, y, x = (min(2, shared // 2) for shared in overlap)
        trim = z, y, x
    card = ModelCard(
        name=f"fake-{config.behaviour}",
        description="A network without weights whose right answer is known; for tests.",
        licence="BSD-3-Clause",
        dims=config.dims,
        scale=config.scale,
        z_context=config.z_context,
        patch=patch,
        overlap=overlap,
        trim=trim,
        granularity=config.granularity,
        receptive_field=config.receptive_field,
        normalisation=Normalisation(kind="none"),
        precision_safe=("float32",),
        architecture=UNetConfig(dims=config.dims, scale=config.scale, z_context=config.z_context, width=1, pools=()),
    )
    faults = config.model_dump(include=set(Fault.model_fields), exclude_defaults=True)
    shape = config.model_dump(exclude={"behaviour", *Fault.model_fields})
    options = shape | faults | {"patch": patch, "overlap": overlap, "trim": trim}
    plain = {name: ",".join(map(str, v)) if isinstance(v, tuple) else v for name, v in options.items()}
    return FakeModel(card, f"fake:{config.behaviour}?{urlencode(plain, safe=',')}", {}, config)


def load_fake(spec: str) -> FakeModel:
    """Make the model of a name: ``fake:BEHAVIOUR?OPTION=VALUE&...``, with the fields of `FakeConfig` and patch, overlap, trim.

    Raises
    ------
    ModelError
        ``model.fake``.
    """
    behaviour, _, query = spec.removeprefix("fake:").partition("?")
    try:
        options: dict[str, Any] = dict(parse_qsl(query, strict_parsing=True)) if query else {}
        triples = {name: _triple(options.pop(name)) for name in ("scale", "patch", "overlap", "trim") if name in options}
        shape = {"scale": triples.pop("scale")} if "scale" in triples else {}
        dims = {"dims": int(options.pop("dims"))} if "dims" in options else {}
        config = FakeConfig.model_validate({"behaviour": behaviour, **options, **shape, **dims})
        return fake_model(config, **triples)
    except ValueError as error:  # pydantic's ValidationError is one too
        raise ModelError("model.fake", f"{spec} does not describe a fake model: {error}", hint=_HINT, where=spec) from error


def register_fakes() -> None:
    """Let jobs take ``fake:...`` as their model in this process."""
    OPERATIONS["fake"] = _open_fake


def _open_fake(spec: str) -> NetworkOperation:
    model, said = split_name(spec)
    return NetworkOperation(load_fake(model), read_options(model, NetworkOptions, said))


def _triple(text: str) -> ZYX:
    parts = [int(part) for part in text.split(",")]
    if len(parts) != 3:
        raise ValueError(f"{text!r} is not three whole numbers z,y,x")
    return parts[0], parts[1], parts[2]
