"""Whether ResUNets that PSSR2 saves are the same networks here: PSSR2 2.4.0 computes an image, and volumetool from its weights.

PSSR2 has a Python environment of its own, made once in the cache folder. The largest difference of each network is printed, in
grey values of 8 bit. pytest does not collect this file. It needs the network the first time, and 3 GB of disk. To run it::

    python tests/compatibility/pssr2.py --python python3.12
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

from volumetool.models.foreign.program import open_program

NETWORKS = {
    "as it is": "ResUNet()",
    "five sections, twice as large": "ResUNet(channels=[5, 1], hidden=[8, 16, 32], scale=2)",
    "one level": "ResUNet(hidden=[16], scale=1, depth=0)",
}

SCRIPT = """
import importlib.util, numpy as np, pathlib, sys, torch, types
folder = pathlib.Path(importlib.util.find_spec("pssr").origin).parent
room = types.ModuleType("pssr.models")  # the package itself also imports SwinIR, which wants timm and torchvision
room.__path__ = [str(folder / "models")]
sys.modules["pssr.models"] = room
from pssr.models.resunet import ResUNet
torch.manual_seed(0)
network = eval(sys.argv[1]).train()
channels = network.norm.num_features
with torch.no_grad():
    for _ in range(3):  # moments of batches that are not those of noise
        network(255 * torch.rand(2, channels, 64, 64))
    image = 255 * torch.rand(1, channels, 64, 96)
    np.save(sys.argv[3], image.numpy())
    np.save(sys.argv[4], network.eval()(image).numpy())
torch.save(network.state_dict(), sys.argv[2])
"""


def main() -> None:
    """Let PSSR2 save and compute each network, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="python3.12", help="of which the environment is made")
    options = parser.parse_args()
    python = environment("pssr2", ("pssr==2.4.0", "torch==2.13.0"), options.python)
    for name, made in NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            weights, image, output = (Path(folder) / file for file in ("resunet.pth", "image.npy", "output.npy"))
            subprocess.run([python, "-c", SCRIPT, made, weights, image, output], check=True)
            with torch.inference_mode():
                ours = 255 * open_program(weights).open(torch.device("cpu"))(torch.from_numpy(np.load(image)) / 255)
            difference = float(np.abs(ours.numpy() - np.load(output)).max())
        sys.stdout.write(f"{name}: {difference:.2g}\n")
        assert difference < 1e-2, name


if __name__ == "__main__":
    main()
