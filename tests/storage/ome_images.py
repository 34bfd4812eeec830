"""OME-Zarr images as other software might write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from volumetool.storage.volume import Volume

Json = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """An OME-Zarr image as other software might write it: one array per shape, holding its own voxel numbers."""

    axes: str = "zyx"
    unit: str | None = "nanometer"
    version: str = "0.5"
    shapes: Sequence[tuple[int, ...]] = ((4, 6, 8), (2, 3, 4))
    scale: tuple[float, ...] = (30.0, 8.0, 4.0)
    extra: Json = field(default_factory=dict)
    dtype: str = "uint8"

    def multiscale(self) -> Json:
        datasets = []
        for level in range(len(self.shapes)):
            size = [s * 2**level if axis in "zyx" else 1.0 for axis, s in zip(self.axes, self.scale, strict=True)]
            shift = [(s - t) / 2 for s, t in zip(size, self.scale, strict=True)]
            steps = [{"type": "scale", "scale": size}, {"type": "translation", "translation": shift}]
            datasets.append({"path": str(level), "coordinateTransformations": steps})
        kinds = {"c": {"type": "channel"}, "t": {"type": "time"}}
        space = {"type": "space"} | ({"unit": self.unit} if self.unit else {})
        axes = [{"name": axis, **kinds.get(axis, space)} for axis in self.axes]
        version = {"version": "0.4"} if self.version == "0.4" else {}
        return {"axes": axes, "datasets": datasets, **version, **self.extra}

    def write(self, url: Path) -> np.ndarray[Any, Any]:
        for level, shape in enumerate(self.shapes):
            self._array(url / str(level), shape)
        self.describe(url, {"multiscales": [self.multiscale()]})
        first = self.shapes[0]
        return np.arange(np.prod(first)).reshape(first).astype(self.dtype)

    def describe(self, url: Path, ome: Json) -> None:
        url.mkdir(parents=True, exist_ok=True)
        if self.version == "0.4":
            (url / ".zgroup").write_text('{"zarr_format": 2}')
            (url / ".zattrs").write_text(json.dumps(ome))
        else:
            group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": self.version, **ome}}}
            (url / "zarr.json").write_text(json.dumps(group))

    def _array(self, url: Path, shape: tuple[int, ...]) -> None:
        driver = "zarr" if self.version == "0.4" else "zarr3"
        names = {} if driver == "zarr" else {"metadata": {"dimension_names": list(self.axes)}}
        kvstore = {"driver": "file", "path": str(url)}
        spec = {
            "driver": driver,
            "kvstore": kvstore,
            "dtype": self.dtype,
            "schema": {"domain": {"shape": shape}},
            **names,
        }
        array = ts.open(spec, create=True).result()
        array.write(np.arange(np.prod(shape)).reshape(shape).astype(self.dtype)).result()


def read_voxels(volume: Volume, **which: int) -> np.ndarray[Any, Any]:
    voxels: np.ndarray[Any, Any] = volume.open(**which).read().result()
    return voxels
