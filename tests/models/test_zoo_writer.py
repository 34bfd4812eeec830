"""Packages that bioimageio.spec writes, the zoo's own software: imported, and run on their own test tensors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo_packages as zoo
from test_bioimageio import unet
from torch import nn

from volumetool.jobs.reproduction import check_model
from volumetool.processing.operations.imported import import_model

WANTED = ("bioimageio.spec==0.5.14.3", "pydantic==2.12.5")
SCRIPT = """
import pathlib, sys
from bioimageio.spec import InvalidDescr, load_description, save_bioimageio_package
for folder in map(pathlib.Path, sys.argv[1:]):
    found = load_description(folder / "rdf.yaml", format_version="latest")
    if isinstance(found, InvalidDescr):
        sys.exit(found.validation_summary.format())
    save_bioimageio_package(found, output_path=folder.with_suffix(".zip"))
"""
Array = np.ndarray[Any, np.dtype[np.float32]]
Steps = Callable[[Array], Array]


def same(values: Array) -> Array:
    return values


def standard(values: Array) -> Array:
    return (values - values.mean()) / (values.std() + 1e-6)


def sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))


def twice() -> nn.Module:
    return nn.Sequential(unet(), nn.Upsample(scale_factor=2)).eval()


STANDARD = [{"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"]}}]
LINEAR = [{"id": "scale_linear", "kwargs": {"gain": 0.5, "offset": 1.0}}]
PACKAGES: dict[str, tuple[str, Callable[[], nn.Module], dict[str, Any], Steps, Steps]] = {
    "plain": ("bcyx", unet, {}, same, same),
    "normalised": ("bcyx", unet, {"before": STANDARD, "after": [{"id": "sigmoid"}]}, standard, sigmoid),
    "larger": ("bcyx", twice, {"scale": 2}, same, same),
    "block": ("bczyx", lambda: unet(3), {"size": {"min": 16, "step": 8}}, same, same),
    "turned": ("byxc", unet, {}, same, same),
    "linear": ("bcyx", unet, {"before": LINEAR, "after": LINEAR}, lambda v: 0.5 * v + 1, lambda v: 0.5 * v + 1),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of the packages; they are written in an environment of its own, for which pip fetches the software."""
    folder = tmp_path_factory.mktemp("zoo")
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    fetched = subprocess.run([python, "-m", "pip", "install", "-q", *WANTED], check=False, capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"pip cannot fetch {' '.join(WANTED)}: {fetched.stderr.strip().splitlines()[-1]}")
    for name, (letters, make, more, before, after) in PACKAGES.items():
        network, sizes = make(), {"b": 1, "c": 1, "z": 16, "y": 32, "x": 48}
        image = np.random.default_rng(1).random([sizes[letter] for letter in letters], np.float32)
        with torch.inference_mode():
            made = after(zoo.Turned(network, letters)(torch.from_numpy(before(image))).numpy())
        files = {
            "in.npy": zoo.npy(image),
            "out.npy": zoo.npy(made.astype(np.float32)),
            "w.onnx": zoo.onnx_bytes(network, letters),
        }
        zoo.write_package(folder / name, zoo.version_05(letters, **more), files)
        described = json.loads((folder / name / "rdf.yaml").read_text())
        for stored in (
            *(each["test_tensor"] for each in described["inputs"] + described["outputs"]),
            described["weights"]["onnx"],
        ):
            stored["sha256"] = zoo.sha256(files[stored["source"]])
        described["config"] = {"bioimageio": {"reproducibility_tolerance": [{"absolute_tolerance": 1e-5}]}}
        (folder / name / "rdf.yaml").write_text(json.dumps(described))
    saved = subprocess.run(
        [python, "-c", SCRIPT, *(folder / name for name in PACKAGES)], check=False, capture_output=True, text=True
    )
    assert saved.returncode == 0, saved.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_of_the_zoos_own_software_is_imported_and_gives_its_test_output(
    name: str, written: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VOLUMETOOL_MODELS", str(tmp_path))
    import_model(written / f"{name}.zip")
    found = check_model(name)
    assert found.ok, found
