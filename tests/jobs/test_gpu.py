"""On a real GPU: `python -m pytest -m gpu`. The figures come from `volumetool bench --device cuda`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_jobs import SMALL_3D, digest, noise, read_levels, run, write_input

from volumetool.models import load_model
from volumetool.processing.device.arrays import to_host
from volumetool.processing.engine import Engine, probe_patches
from volumetool.processing.operations.network import NetworkOperation
from volumetool.processing.spec import Numerics

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]

REAL: dict[str, Any] = {"model": "em-x4", "patch": "1,64,64", "overlap": "0,24,24", "shard": "4,128,128", "chunk": "2,32,32"}


@pytest.mark.parametrize("name", ["em-x4", "em-iso2"])
def test_a_gpu_computes_what_a_cpu_does(name: str) -> None:
    """float32 nearly the same values, bfloat16 within what a grey level of 255 shows."""
    model = load_model(name)
    patches = probe_patches(model.card.z_context, (model.card.patch[0], 64, 64), 2)
    on_cpu = Engine(NetworkOperation(model), Numerics("float32", 2, pad=False), "cpu").predict(patches)
    for precision, tolerance in (("float32", 5e-3), ("bfloat16", 1 / 255)):
        on_gpu = Engine(NetworkOperation(model), Numerics(precision, 2, pad=False), "cuda").predict(patches)
        for one, other in zip(on_cpu, on_gpu, strict=True):
            assert np.percentile(np.abs(np.asarray(one) - to_host(other)), 99.9) <= tolerance


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["em-x4", "em-iso2"])
def test_a_network_is_recorded_and_gives_the_same_bytes(name: str, precision: str, caplog: pytest.LogCaptureFixture) -> None:
    """A whole batch is replayed, a short one never; no recording is given up."""
    model = load_model(name)
    patches = probe_patches(model.card.z_context, (model.card.patch[0], 64, 64), 3)
    numerics = Numerics(precision, 2, pad=False)
    engine, plain = Engine(NetworkOperation(model), numerics, "cuda"), Engine(NetworkOperation(model), numerics, "cuda")
    plain._recorded = None
    for _ in range(3):
        for one, other in zip(engine.predict(patches), plain.predict(patches), strict=True):
            np.testing.assert_array_equal(to_host(one), to_host(other))
    assert engine._function.recorded is not None
    ((shape, replay),) = engine._function.recorded._replays.items()
    assert shape[0] == 2
    assert replay is not engine._function.network
    assert caplog.text == ""


@pytest.mark.parametrize("options", [REAL, SMALL_3D], ids=["network", "3D fake"])
def test_the_cut_is_invisible_on_a_gpu(options: dict[str, Any], tmp_path: Path) -> None:
    source = str(write_input(tmp_path / "in.zarr", noise((6, 70, 90))))
    seen = set()
    for number, more in enumerate(({"region": "1,1,1"}, {"region": "1,4,4"}, {"region": "1,2,1", "patch_cache": "always"})):
        output = tmp_path / f"{number}.zarr"
        assert run(input=source, output=str(output), **options | {"device": "cuda", "memory": "4GiB"} | more).complete
        seen.add(digest(output))
    assert len(seen) == 1


def test_blending_on_a_gpu_gives_the_bytes_of_a_cpu(tmp_path: Path) -> None:
    """The fake's values are exact on both, so that only blending, means and rounding could differ."""
    source = str(write_input(tmp_path / "in.zarr", noise((10, 37, 45))))
    for device in ("cpu", "cuda"):
        assert run(input=source, output=str(tmp_path / f"{device}.zarr"), **SMALL_3D | {"device": device}).complete
    for one, other in zip(read_levels(tmp_path / "cpu.zarr"), read_levels(tmp_path / "cuda.zarr"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_worker_per_gpu_writes_the_bytes_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("dask_cuda")
    source = str(write_input(tmp_path / "in.zarr", noise((6, 70, 90))))
    for cluster in ("local", "cuda"):
        options = REAL | {"device": "cuda", "memory": "4GiB", "region": "1,1,1", "cluster": cluster}
        assert run(input=source, output=str(tmp_path / f"{cluster}.zarr"), **options).complete
    assert digest(tmp_path / "local.zarr") == digest(tmp_path / "cuda.zarr")
