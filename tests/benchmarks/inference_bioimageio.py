"""bioimageio.core's side of `compare_inference.py`: the model description it wants, and its prediction block by block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inference_task import Network, Task, ceil_to, padded
from numpy.typing import NDArray


def make_network(task: str) -> Network:
    """Make the network that a description names by this file: bioimageio.core loads the weights into it."""
    return Task.load(Path(task)).network()


def bioimageio(task: Task) -> Callable[[], None]:
    """Prepare the pipeline: blocks of the patch whose halo is half the overlap; the description itself is not timed."""
    from bioimageio.core import (  # type: ignore[import-not-found, unused-ignore]
        Sample,
        Tensor,
        create_prediction_pipeline,
    )

    if task.threads is not None:
        torch.set_num_threads(task.threads)
    card = task.loaded.card
    flat = card.dims == 2
    names = "yx" if flat else "zyx"
    overlap = task.overlap or card.overlap
    halo = [ceil_to(-(-o // 2), g) for o, g in zip(overlap, card.granularity, strict=True)]
    model = _describe(task, dict(zip("zyx", halo, strict=True)), names)

    def work() -> None:
        voxels = task.normalised()
        depth, height, width = (ceil_to(n, g) for n, g in zip(voxels.shape, card.granularity, strict=True))
        full = padded(voxels, (depth, height, width))
        block = {name: min(p, n) for name, p, n in zip("zyx", task.patch, full.shape, strict=True) if name in names}
        result = task.empty(voxels.shape)
        _, y, x = result.shape
        low, span = task.output_range()
        with create_prediction_pipeline(model, devices=["cpu"]) as pipeline:
            for z in range(depth) if flat else (slice(None),):
                array = full[z][None, None]
                sample = Sample(members={"x": Tensor(array, dims=("batch", "channel", *names))}, stat={}, id=str(z))
                blocks = {"x": {"batch": 1, "channel": 1, **block}}
                answer = pipeline.predict_sample_with_fixed_blocking(sample, blocks)
                found: NDArray[Any] = np.asarray(answer.members["y"].data)[0, 0]
                part = found[..., :y, :x] if flat else found[: len(result), :y, :x]
                task.put(result[z], part * span[z] + low[z])
        task.finish(result)

    return work


def _describe(task: Task, halo: dict[str, int], names: str) -> Any:
    from bioimageio.spec import ValidationContext  # type: ignore[import-not-found, unused-ignore]
    from bioimageio.spec.model import v0_5 as spec  # type: ignore[import-not-found, unused-ignore]

    place = Path(task.place)
    weights, note = place / "weights.pt", place / "task.json"
    torch.save(task.network().state_dict(), weights)
    card = task.loaded.card
    ends: list[Any] = [spec.BatchAxis(), spec.ChannelAxis(channel_names=["grey"])]
    inputs, outputs = list(ends), list(ends)
    grains, factors = (dict(zip("zyx", each, strict=True)) for each in (card.granularity, card.scale))
    for name in names:
        least = ceil_to(4 * halo[name] + 1, grains[name])
        inputs.append(spec.SpaceInputAxis(id=name, size=spec.ParameterizedSize(min=least, step=grains[name])))
        size = spec.SizeReference(tensor_id="x", axis_id=name)
        outputs.append(
            spec.SpaceOutputAxisWithHalo(id=name, size=size, scale=1 / factors[name], halo=halo[name] * factors[name])
        )
    grey = spec.IntervalOrRatioDataDescr(type="float32")
    with ValidationContext(perform_io_checks=False):
        file = spec.FileDescr(source=str(weights))  # stands for the test tensors, too: nothing opens them
        return spec.ModelDescr(
            name=card.name,
            description=card.name,
            authors=[spec.Author(name="nobody")],
            cite=[spec.CiteEntry(text="none", url="https://example.com")],
            license="CC-BY-4.0",
            inputs=[spec.InputTensorDescr(id="x", axes=inputs, test_tensor=file, data=grey)],
            outputs=[spec.OutputTensorDescr(id="y", axes=outputs, test_tensor=file, data=grey)],
            weights=spec.WeightsDescr(
                pytorch_state_dict=spec.PytorchStateDictWeightsDescr(
                    source=str(weights),
                    pytorch_version=torch.__version__.split("+")[0],
                    architecture=spec.ArchitectureFromLibraryDescr(
                        callable="make_network", import_from="inference_bioimageio", kwargs={"task": str(note)}
                    ),
                )
            ),
        )
