"""Whether other software loads what `volumetool model export` writes: bioimageio.core, onnxruntime, torch.

Each has a Python environment of its own, made once in the cache folder; a table of largest differences is printed. pytest does
not collect this file. It needs the network the first time, a Python of at least 3.11, and 3 GB of disk. To run it::

    python tests/compatibility/exports.py --python python3.12
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from readers import environment

import volumetool as vt

READERS = {
    "bioimageio.core": ("bioimageio.core==0.11.0", "pydantic==2.12.5", "onnxruntime==1.32.0"),
    "onnxruntime": ("onnxruntime==1.32.0", "numpy"),
    "torch": ("torch==2.13.0", "numpy"),
}
ENDS = {"bioimageio.core": "zip", "onnxruntime": "onnx", "torch": "pt2"}

SCRIPTS = {
    "bioimageio.core": """
from bioimageio.core import load_model_description, predict, test_model
from bioimageio.spec import ValidationContext
import numpy as np, sys
with ValidationContext(perform_io_checks=True):
    model = load_model_description(sys.argv[1])
summary = test_model(model)
assert summary.status == "passed", summary.display()  # with the steps before the network
found = predict(model=model, inputs={"image": np.load(sys.argv[2])}, skip_preprocessing=True)
np.save(sys.argv[3], found.members["enhanced"].data.data)
""",
    "onnxruntime": """
import numpy as np, onnxruntime, sys
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
np.save(sys.argv[3], session.run(None, {"image": np.load(sys.argv[2])})[0])
""",
    "torch": """
import numpy as np, sys, torch
program = torch.export.load(sys.argv[1]).module()
np.save(sys.argv[3], program(torch.from_numpy(np.load(sys.argv[2]))).detach().numpy())
""",
}


def main() -> None:
    """Export every built-in model, let each program compute it, print the largest differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="python3.12", help="of which the environments are made")
    options = parser.parse_args()
    lines = [f"| model | {' | '.join(READERS)} |", "|---" * (len(READERS) + 1) + "|"]
    for card in vt.list_models():
        with tempfile.TemporaryDirectory() as folder:
            cells = [f"{difference(card.name, reader, Path(folder), options.python):.1e}" for reader in READERS]
        lines.append(f"| {card.name} | {' | '.join(cells)} |")
    sys.stdout.write("\n".join([*lines, ""]))


def difference(name: str, reader: str, folder: Path, python: str) -> float:
    """Return by how much a program's output differs from ours, for an image of noise."""
    model, file = vt.load_model(name), folder / f"model.{ENDS[reader]}"
    places = {"zip": "bioimageio", "onnx": "onnx", "pt2": "torch_export"}
    vt.export_model(name, **{places[ENDS[reader]]: file})
    card = model.card
    sides = [grain * -(-max(64, 4 * far) // grain) for grain, far in zip(card.granularity, card.receptive_field, strict=True)]
    channels = 1 if card.dims == 3 else 2 * card.z_context + 1
    image = np.random.default_rng(0).random((1, channels, *sides[3 - card.dims :]), np.float32)
    np.save(folder / "in.npy", image)
    program = environment(reader, READERS[reader], python)
    subprocess.run([program, "-c", SCRIPTS[reader], file, folder / "in.npy", folder / "out.npy"], check=True, timeout=1200)
    with torch.inference_mode():
        wanted = model.network()(torch.from_numpy(image)).numpy()
    # bioimageio.core mirrors an image at its faces, and cuts the halo off afterwards.
    edges = [
        far * scale if reader == "bioimageio.core" else 0 for far, scale in zip(card.receptive_field, card.scale, strict=True)
    ]
    inner = tuple(slice(far, size - far) for far, size in zip(edges[3 - card.dims :], wanted.shape[2:], strict=True))
    return float(np.abs(np.load(folder / "out.npy") - wanted)[(..., *inner)].max())


if __name__ == "__main__":
    main()
