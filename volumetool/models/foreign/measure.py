"""What a network says nothing of, measured: its scale, the grid that it depends on, and how far it looks.

Everything is asked of the network itself, on noise of a fixed seed and on the CPU, by comparing bits: an output voxel that
stays the same to the last bit, whatever is done to half of the input, does not look there.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from typing import Literal

import psutil
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from volumetool.errors import ModelError
from volumetool.geometry import ramp
from volumetool.models.card import ZYX, OperationCard
from volumetool.models.foreign.program import Forward, Program

RULES = 3
"""Raised whenever a change of the code measures something else."""

SIDES = {2: (32, 48, 64, 96, 128, 80, 112, 192, 256, 512), 3: (16, 24, 32, 48, 64, 96, 128)}
"""Sides of images that are tried first."""

THIN = (16, 24, 32, 48)
"""Sides of an image across the axis along which it is measured: what looks at every voxel from every voxel must end, too."""

LONGEST = {2: 512, 3: 256}
"""Longest axis that is tried, in voxels."""

GRAINS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 15, 16, 18, 20, 24, 28, 32, 48, 64)
"""Grids that are looked for, in voxels."""

EQUAL = 1e-4
"""Difference, in standard deviations of the output, below which two shifted images are the same."""

SECONDS, SECONDS_BESIDE_HALO = 600.0, 60.0
"""How long it may take to measure how far a network looks, without and with a user who says so."""

SEAM_SIDE = 128
"""Voxels of the strips that are joined, across the axis along which they are."""

STRONG = 100.0
"""Standard deviations of the noise that is put on half of an image of values between 0 and 1."""


class Measured(BaseModel):
    """What was found out about a network. Lengths are input voxels along z, y, x.

    Parameters
    ----------
    dims : {2, 3}
        Sections or blocks.
    scale : tuple of int
        Output voxels per input voxel.
    z_context : int
        Neighbouring sections on each side that it takes as channels.
    channels : int
        Channels of its output.
    granularity : tuple of int
        Grid on which its input begins and ends.
    receptive_field : tuple of int
        Farthest input voxel, on one side, that can change an output voxel; 0 along an axis along which it looks everywhere.
    whole : tuple of bool
        Along which axes every output voxel looks at the whole image, or farther than half of `LONGEST`.
    said : bool
        The receptive field is what the user said, because to measure it took too long.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dims: Literal[2, 3]
    scale: ZYX
    z_context: int
    channels: int
    granularity: ZYX
    receptive_field: ZYX
    whole: tuple[bool, bool, bool]
    said: bool = False


def measure(program: Program, halo: ZYX | None = None) -> Measured:
    """Measure a network; the same file gives the same result.

    Parameters
    ----------
    program : Program
        The network.
    halo : tuple of int, optional
        How far it looks, as the user says: what counts where to measure it takes too long.

    Raises
    ------
    ModelError
        ``model.geometry``: it takes no image of one channel, its output is no whole multiple of its input, or it gives
        something else each time. ``model.slow``: to measure how far it looks took longer than `SECONDS`.
    """
    look = _Look(program, until=math.inf if halo else time.monotonic() + SECONDS)
    grids = [look.grids(axis) for axis in range(look.dims)]
    look.make_thin()
    if halo:
        look.until = time.monotonic() + SECONDS_BESIDE_HALO
    said = False
    try:
        fields: list[int | None] = [look.field(axis, grid[0]) for axis, grid in enumerate(grids)]
    except ModelError as error:
        if halo is None or error.code != "model.slow":
            raise
        said, fields = True, list[int | None](halo[3 - look.dims :])
    look.until = math.inf  # what follows is a few dozen images
    # Of what looks at everything no shifted image is alike.
    grain = [grid[0] if fields[axis] is None else look.grain(axis, grid) for axis, grid in enumerate(grids)]
    for axis, grid in enumerate(grids):
        if fields[axis] is not None and grain[axis] != grid[0] and not said:
            fields[axis] = look.field(axis, grain[axis])
    flat = 3 - look.dims
    context = (look.shape[0] - 1) // 2
    return Measured(
        dims=3 if look.dims == 3 else 2,
        scale=_triple([1] * flat + look.scale),
        z_context=context,
        channels=look.channels,
        granularity=_triple([1] * flat + grain),
        receptive_field=_triple([context] * flat + [field or 0 for field in fields]),
        whole=(look.dims == 3 and fields[0] is None, fields[-2] is None, fields[-1] is None),
        said=said,
    )


class Seam(BaseModel):
    """How much cutting a network into patches shows.

    Parameters
    ----------
    largest : float
        Largest difference between two patches, joined, and one pass over both, in shares of the output's range.
    bytes_per_voxel : float
        Memory that computing took at most, per voxel of a patch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    largest: float
    bytes_per_voxel: float


def measure_seam(program: Program, card: OperationCard) -> Seam:
    """Join two patches of noise along each axis, and compare them with one pass."""
    forward, largest = program.open(torch.device("cpu")), 0.0
    for axis in [axis for axis in range(3 - card.dims, 3) if card.overlap[axis]]:
        overlap, trim, scale, stride = card.overlap[axis], card.trim[axis], card.scale[axis], card.stride[axis]
        narrow = [min(n, -(-SEAM_SIDE // grain) * grain) for n, grain in zip(card.patch, card.granularity, strict=True)]
        try:
            whole, first, second = _passes(forward, card, axis, narrow)
        except Exception:  # noqa: BLE001  (whatever a network says about a size that it does not take)
            whole, first, second = _passes(forward, card, axis, [*card.patch])
        a, b = first[..., stride * scale :], second[..., : overlap * scale]  # where both are
        weights = torch.zeros(overlap * scale)
        weights[(overlap - trim) * scale :] = 1
        weights[trim * scale : (overlap - trim) * scale] = torch.from_numpy(ramp((overlap - 2 * trim) * scale))
        joined, right = a + weights * (b - a), whole[..., stride * scale : (stride + overlap) * scale]
        largest = max(largest, float((joined - right).abs().max()) / max(float(whole.max() - whole.min()), 1e-12))
    return Seam(largest=largest, bytes_per_voxel=_bytes_per_voxel(program, card))


def _passes(forward: Forward, card: OperationCard, axis: int, sides: list[int]) -> list[Tensor]:
    """Return outputs for two patches, of given sides across an axis, together and each alone; the axis is the last."""
    patch, both, along = card.patch[axis], card.patch[axis] + card.stride[axis], axis + card.dims - 1
    shape = (1 if card.dims == 3 else 2 * card.z_context + 1, *sides[3 - card.dims : axis], both, *sides[axis + 1 :])
    strip = torch.rand((1, *shape), generator=torch.Generator().manual_seed(2))
    parts = ((0, both), (0, patch), (card.stride[axis], patch))
    with torch.inference_mode():
        return [forward(strip.narrow(along, start, size)).transpose(along, -1) for start, size in parts]


def _bytes_per_voxel(program: Program, card: OperationCard) -> float:
    """Return the memory that this process gained while a patch was computed, in bytes per voxel of the patch.

    Memory that is held back from what was computed before is given back first, or it would be used unseen.
    """
    patch = torch.rand((1, 1 if card.dims == 3 else 2 * card.z_context + 1, *card.patch[3 - card.dims :]))
    forward, process, done = program.open(torch.device("cpu")), psutil.Process(), threading.Event()
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
    before = most = process.memory_info().rss

    def look() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        with torch.inference_mode():
            output = forward(patch)
    finally:
        done.set()
        watcher.join()
    least = output.nbytes + patch.nbytes  # a patch may be computed between two looks
    return max(most - before, process.memory_info().rss - before, least) / math.prod(card.patch)


def _triple(values: list[int]) -> ZYX:
    z, y, x = values
    return z, y, x


class _Look:
    """A network that is being measured.

    Attributes
    ----------
    dims : int
        Axes of its images.
    side : list of int
        A size that it takes, along each axis.
    whole_side : list of int
        A size that is a multiple of every grid that it may depend on.
    scale : list of int
        Output voxels per input voxel, along each axis.
    until : float
        When to give up, by `time.monotonic`.
    """

    def __init__(self, program: Program, until: float) -> None:
        self.until, self._farther = until, dict[int, int]()
        cpu = torch.device("cpu")
        self._name = program.kind
        self._forward, self._positive = program.open(cpu), program.positive().open(cpu)
        self._why = ""
        for axes, channels in program.layouts:
            self.dims, self.shape = axes - 2, (channels,)
            for side in SIDES[self.dims]:
                self.side, self.scale = [side] * self.dims, [1] * self.dims
                first = self.output(self.side)
                if first is not None and self._find_scale(first):
                    self.channels = first.shape[0]
                    self._check_same(first)
                    return
        raise self._refused(f"it takes no image of the sizes and channels that were tried; the last answer: {self._why}")

    def output(self, sides: list[int]) -> Tensor | None:
        """Return the output for noise of a size, (c, [z,] y, x); None where the network does not take it."""
        return self._run(self._forward, self.noise(sides))

    def noise(self, sides: list[int]) -> Tensor:
        """Return noise between 0 and 1 of shape (c, [z,] y, x)."""
        return torch.rand((*self.shape, *sides), generator=torch.Generator().manual_seed(1))

    def _too_slow(self) -> ModelError:
        """Return the error that says what is known once the time is up."""
        far = "".join(f", looks at least {n} voxels far along {'zyx'[axis - self.dims]}" for axis, n in self._farther.items())
        why = f"to measure how far the {self._name} looks took longer than {SECONDS:.0f} s; till then: it is {self.dims}D{far}"
        hint = "say how far it looks: --set halo=Z,Y,X, in voxels; more than needed costs time, less leaves seams"
        return ModelError("model.slow", why, hint=hint)

    def _run(self, forward: Forward, image: Tensor) -> Tensor | None:
        if time.monotonic() > self.until:
            raise self._too_slow()
        try:
            with torch.inference_mode():
                output: object = forward(image.unsqueeze(0))
                if isinstance(output, Tensor) and output.dtype == torch.float32 and output.dim():
                    return output[0]
                kind = str(output.dtype) if isinstance(output, Tensor) else type(output).__name__
                self._why = f"an output of {kind}; wanted is one image of float32"
                return None
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever a network says about a size that it does not take)
            self._why = str(error).strip().partition("\n")[0][:300]
            return None

    def _find_scale(self, first: Tensor) -> bool:
        """Find the scale; it must be whole, and the same for an image of twice the size."""
        if first.dim() != self.dims + 1:
            self._why = f"an output of shape {tuple(first.shape)}"
            return False
        ratios = [out / side for out, side in zip(first.shape[1:], self.side, strict=True)]
        self.scale = [max(1, math.floor(ratio)) for ratio in ratios]
        if any(ratio != scale for ratio, scale in zip(ratios, self.scale, strict=True)):
            self._why = f"for {tuple(self.side)} voxels an output of {tuple(first.shape[1:])}, which is no whole multiple"
            return False
        return all(self._takes(axis, 2 * side) for axis, side in enumerate(self.side))

    def _takes(self, axis: int, size: int) -> bool:
        """Return whether images of a size along an axis come back as so many times the voxels."""
        sides = [*self.side]
        sides[axis] = size
        found = self.output(sides)
        wanted = tuple(side * scale for side, scale in zip(sides, self.scale, strict=True))
        if found is not None and tuple(found.shape[1:]) != wanted:
            self._why = f"for {tuple(sides)} voxels an output of {tuple(found.shape[1:])}"
        return found is not None and tuple(found.shape[1:]) == wanted

    def _check_same(self, first: Tensor) -> None:
        again = self.output(self.side)
        if again is None or not torch.equal(first, again):
            raise self._refused("it gives another output each time", "export it in evaluation mode, without dropout or noise")
        if not torch.isfinite(first).all():
            raise self._refused("it makes NaN or infinity of noise between 0 and 1")

    def _refused(self, why: str, hint: str = "") -> ModelError:
        more = "networks run that make of an image of one channel one of a whole multiple of its size: pad convolutions, and "
        return ModelError("model.geometry", f"the {self._name}: {why}", hint=hint or more + "export with free sizes of images")

    def grids(self, axis: int) -> list[int]:
        """Return the grids along an axis on which the network takes images."""
        whole = {grain: -(-self.side[axis] // grain) * grain for grain in GRAINS}
        taken = [grain for grain, size in whole.items() if self._takes(axis, size) and self._takes(axis, size + grain)]
        if not taken:
            raise self._refused(f"along {'zyx'[axis - self.dims]} it takes no grid of sizes of up to {GRAINS[-1]} voxels")
        return taken

    def make_thin(self) -> None:
        """Take smaller images from now on, where the network does."""
        self.whole_side, wide = [*self.side], [*self.side]
        for thin in THIN:
            self.side = [thin] * self.dims
            if all(self._takes(axis, thin) for axis in range(self.dims)):
                return
        self.side = wide

    def grain(self, axis: int, taken: list[int]) -> int:
        """Return the least of some grids with which the network moves."""
        length = self.whole_side[axis]
        while length <= LONGEST[self.dims] // 2:
            length *= 2
            for grain in taken:
                if self._unlike(axis, length, grain) < EQUAL:
                    return grain
        unlike = [self._unlike(axis, length, grain) for grain in taken]  # of one that looks at everything none is alike
        return next(grain for grain, found in zip(taken, unlike, strict=True) if found <= 2 * min(unlike))

    def _unlike(self, axis: int, length: int, step: int) -> float:
        """Return by how much the middle of the output changes, in standard deviations, beside moving with the image."""
        sides, length = [*self.side], -(-max(length, 4 * step) // step) * step
        sides[axis] = length + step
        strip, scale = self.noise(sides), self.scale[axis]
        here = self._run(self._forward, strip.narrow(axis + 1, 0, length))
        there = self._run(self._forward, strip.narrow(axis + 1, step, length))
        if here is None or there is None:
            return math.inf
        start, count = scale * (length // 2 - step), scale * step
        a, b = here.narrow(axis + 1, start + count, count), there.narrow(axis + 1, start, count)
        return float((a - b).abs().max() / max(float(here.std()), 1e-12))

    def field(self, axis: int, grain: int) -> int | None:
        """Return how far the network looks along an axis; None if it looks at everything."""
        length = self.whole_side[axis]
        while length <= LONGEST[self.dims]:
            found = self._field_within(axis, grain, length)
            if found is not None:
                return found
            self._farther[axis] = length // 2 - grain
            length *= 2
        return None

    def _field_within(self, axis: int, grain: int, length: int) -> int | None:
        """Return how far the network looks, None if that is out of an image of so many voxels."""
        phases = range(grain) if grain <= 8 else sorted({0, 1, grain // 2 - 1, grain // 2, grain - 2, grain - 1})
        length = -(-length // grain) * grain
        farthest, middle = 0, length // 2 // grain * grain
        sides = [*self.side]
        sides[axis] = length
        for forward, base, noise in ((self._forward, self.noise(sides), STRONG), (self._positive, None, 1.0)):
            still = torch.zeros((*self.shape, *sides)) if base is None else base
            other = still + noise * self.noise(sides)
            before = self._run(forward, still)
            for phase in phases:
                for forwards in (True, False):
                    reach = self._reach(forward, (still, other, before), axis, middle + phase, forwards=forwards)
                    if reach is None or reach >= middle - grain:
                        return None
                    farthest = max(farthest, reach)
        return farthest

    def _reach(
        self, forward: Forward, images: tuple[Tensor, Tensor, Tensor | None], axis: int, cut: int, *, forwards: bool
    ) -> int | None:
        """Return how far what changes behind (or before) a cut changes the output on the other side of it."""
        still, other, before = images
        size = still.shape[axis + 1]
        parts = [(still, 0, cut), (other, cut, size - cut)] if forwards else [(other, 0, cut), (still, cut, size - cut)]
        after = self._run(forward, torch.cat([part.narrow(axis + 1, start, count) for part, start, count in parts], axis + 1))
        if before is None or after is None:
            return None
        # Bits are compared: a NaN is the same as itself.
        changed = (before.view(torch.int32) != after.view(torch.int32)).transpose(0, axis + 1).flatten(1).any(1)
        places = changed.nonzero().flatten() // self.scale[axis]
        if not len(places):
            return 0
        return max(0, cut - int(places.min()) if forwards else int(places.max()) - (cut - 1))
