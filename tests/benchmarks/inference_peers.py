"""The peers of `compare_inference.py`: each prepares itself, imports included, and returns the work that is timed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inference_bioimageio import bioimageio
from inference_chunkflow import DAMPED
from inference_task import Floats, Network, Task, ceil_to, padded
from numpy.typing import NDArray
from torch import Tensor, nn

Work = Callable[[], None]

WINDOWS = 4
"""Per call: what MONAI's tutorials show."""

MONAI_OVERLAP = 0.25
CHUNKFLOW_OVERLAP = (4, 64, 64)
"""In output voxels: the default of `chunkflow inference`."""

PSSR2_TILE, PSSR2_OVERLAP = 128, 32
"""Coarse pixels: its default tile is 512 fine ones, at a scale of 4; its default overlap is 128 fine ones."""

CHUNK = (64, 64, 64)


def monai(task: Task) -> Work:
    """Prepare MONAI's sliding window with Gaussian weights: over a section in 2D, over the volume in 3D."""
    from monai.inferers.utils import sliding_window_inference

    _set_threads(task)
    windows = WINDOWS if task.overlap is None else 1
    overlap: tuple[float, ...] = (MONAI_OVERLAP,) * 3
    if task.overlap is not None:
        overlap = tuple(o / p for o, p in zip(task.overlap, task.patch, strict=True))

    def work() -> None:
        network, voxels = task.network(), task.normalised()
        flat = task.loaded.card.dims == 2
        roi, share = (task.patch[1:], overlap[1:]) if flat else (task.patch, overlap)

        def infer(block: Floats) -> Floats:
            x = torch.from_numpy(block)
            with torch.inference_mode():
                y = sliding_window_inference(
                    x[None] if flat else x[None, None], roi, windows, network, overlap=share, mode="gaussian"
                )
            assert isinstance(y, Tensor)
            found: Floats = (y[0] if flat else y[0, 0]).numpy()
            return found

        result = task.empty(voxels.shape)
        low, span = task.output_range()
        for part in [slice(z, z + 1) for z in range(len(voxels))] if flat else [slice(None)]:
            task.put(result[part], infer(voxels[part]) * span[part] + low[part])
        task.finish(result)

    return work


def chunkflow(task: Task) -> Work:
    """Prepare chunkflow's Inferencer with the defaults of `chunkflow inference`; the whole volume is one of its chunks."""
    from chunkflow.chunk import Chunk  # type: ignore[import-not-found, unused-ignore]
    from chunkflow.flow.divid_conquer.inferencer import Inferencer  # type: ignore[import-not-found, unused-ignore]

    _set_threads(task)

    def work() -> None:
        voxels = task.normalised()
        grain = task.loaded.card.granularity
        depth, height, width = (max(ceil_to(n, g), p) for n, g, p in zip(voxels.shape, grain, task.patch, strict=True))
        large: NDArray[Any] = padded(voxels, (depth, height, width))
        for axis, factor in enumerate(task.scale):
            large = large.repeat(factor, axis=axis)
        overlap = tuple(
            0 if p == 1 else (ceil_to(CHUNKFLOW_OVERLAP[axis], g * f) if task.overlap is None else task.overlap[axis] * f)
            for axis, (p, g, f) in enumerate(zip(task.patch, grain, task.scale, strict=True))
        )
        inferencer = Inferencer(
            str(Path(__file__).with_name("inference_chunkflow.py")),
            str(Path(task.place) / "task.json"),
            input_patch_size=tuple(p * f for p, f in zip(task.patch, task.scale, strict=True)),
            output_patch_overlap=overlap,
            num_output_channels=1,
            framework="universal",
            mask_output_chunk=True,
        )
        found = inferencer(Chunk(large)).array[0]
        result = task.empty(voxels.shape)
        z, y, x = result.shape
        low, span = task.output_range()
        for at in range(z):
            task.put(result[at], np.asarray(found[at, :y, :x]) / DAMPED * span[at] + low[at])
        task.finish(result)

    return work


def dask(task: Task) -> Work:
    """Prepare dask's `map_overlap`: blocks with a halo of half the patches' overlap, its threads, its Zarr files."""
    import dask as root
    import dask.array as da

    _set_threads(task, task.streams or 1)
    options: dict[str, Any] = {} if task.streams is None else {"num_workers": task.streams}

    def work() -> None:
        network = task.network()
        card = task.loaded.card
        depth = tuple(-(-o // 2 // g) * g for o, g in zip(task.overlap or card.overlap, card.granularity, strict=True))
        block = tuple(p - 2 * d for p, d in zip(task.patch, depth, strict=True))
        low, span = (da.from_array(each, chunks=-1) for each in task.range())
        voxels = da.from_zarr(f"{task.source}/0").rechunk(block)
        normalised = (voxels.astype(np.float32) - low) / span
        chunks = tuple(tuple(n * f for n in sizes) for sizes, f in zip(normalised.chunks, task.scale, strict=True))
        found = da.map_overlap(
            lambda each: _inside(network, each, depth, task),
            normalised,
            depth=depth,
            boundary="reflect",
            trim=False,
            dtype=np.float32,
            chunks=chunks,
            meta=np.empty((0, 0, 0), np.float32),
        )
        low, span = (da.from_array(each, chunks=-1) for each in task.output_range())
        grey = found * span + low
        with root.config.set(**options):
            if task.result:
                task.finish(grey.compute())
                return
            _store_levels(grey.round().clip(0, 255).astype(np.uint8), task)

    return work


def _inside(network: Network, block: Floats, depth: tuple[int, ...], task: Task) -> Floats:
    """Enhance a block with its halo, and cut the halo off."""
    grain = task.loaded.card.granularity
    z, y, x = (ceil_to(n, g) for n, g in zip(block.shape, grain, strict=True))
    found = network.enhance(padded(block, (z, y, x)))
    return found[tuple(slice(d * f, (n - d) * f) for d, n, f in zip(depth, block.shape, task.scale, strict=True))].copy()


def _store_levels(voxels: Any, task: Task) -> None:
    import dask.array as da

    for number, factor in enumerate(task.factors):
        if number:
            finer = da.from_zarr(f"{task.output}/{number - 1}")
            axes = {axis: min(f, n) for axis, (f, n) in enumerate(zip(factor, finer.shape, strict=True))}
            mean = da.coarsen(np.mean, finer, axes, trim_excess=True)
            voxels = mean.round().astype(np.uint8)
        voxels.rechunk(CHUNK).to_zarr(f"{task.output}/{number}", overwrite=True)


class Grey(nn.Module):
    """The network from grey levels to grey levels, which is what PSSR2 hands to one.

    Parameters
    ----------
    network : Network
        On 0..1.
    low, high : float
        Grey values that become 0 and 1: the means over the sections, because PSSR2 does not say which one it hands over.
    """

    def __init__(self, network: Network, low: float, high: float) -> None:
        super().__init__()
        self.network, self.low, self.span = network, low, high - low

    def forward(self, x: Tensor) -> Tensor:
        """Enhance (b, 1, y, x)."""
        found: Tensor = self.network((x - self.low) / self.span) * self.span + self.low
        return found


def pssr2(task: Task) -> Work:
    """Prepare PSSR2's sliding tiles: sections as TIFF files, predicted tile by tile, and put together again."""
    import tifffile
    from pssr.data import SlidingDataset  # type: ignore[import-not-found, unused-ignore]
    from pssr.predict import predict_images  # type: ignore[import-not-found, unused-ignore]
    from pssr.util import reassemble_sheets  # type: ignore[import-not-found, unused-ignore]

    if task.loaded.card.dims != 2:
        raise SystemExit("PSSR2 has no 3D networks")
    _set_threads(task)
    sheets, joined = (Path(task.place) / name for name in ("sheets", "joined"))
    tile, overlap = (PSSR2_TILE, PSSR2_OVERLAP) if task.overlap is None else (max(task.patch), max(task.overlap))

    def work() -> None:
        low, high = float(np.mean(task.low)), float(np.mean(task.high))
        network = Grey(task.network(), low, high)
        voxels = task.raw()
        depth, height, width = voxels.shape
        step = tile - overlap
        full = [tile + ceil_to(max(0, n - tile), step) for n in (height, width)]  # it drops what no whole tile covers
        sheets.mkdir()
        for z, section in enumerate(padded(voxels, (depth, full[0], full[1]))):
            tifffile.imwrite(sheets / f"{z:05}.tif", section)
        data = SlidingDataset(str(sheets), hr_res=tile, lr_scale=-1, overlap=overlap, val_split=1)
        found = predict_images(network, data, "cpu", out_dir=None)
        reassemble_sheets(found, str(sheets), task.scale[1], overlap=overlap, out_dir=str(joined))
        result = task.empty(voxels.shape)
        _, y, x = result.shape
        for z in range(depth):
            result[z] = tifffile.imread(joined / f"{z:05}.tif").reshape(full[0] * task.scale[1], -1)[:y, :x]
        task.finish(result)

    return work


def _set_threads(task: Task, calls: int = 1) -> None:
    """Share our threads among the calls of the network that a peer makes side by side; its own default stays."""
    if task.threads is not None:
        torch.set_num_threads(max(1, task.threads // calls))


PEERS: dict[str, Callable[[Task], Work]] = {
    "bioimageio": bioimageio,
    "chunkflow": chunkflow,
    "dask": dask,
    "monai": monai,
    "pssr2": pssr2,
}
