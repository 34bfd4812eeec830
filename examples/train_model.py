"""Train a small model on a phantom: seconds on a CPU, and good for nothing but to show how it is done.

python examples/train_model.py small
"""

import sys
from pathlib import Path

import tifffile

import volumetool as vt
from volumetool.training.config import make_config
from volumetool.training.data.phantom import phantom
from volumetool.training.train import train

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / "fine.tif", phantom((64, 64, 64)))
    config = make_config(
        {  # the same keys as in a training file; `volumetool schema train` describes them
            "name": "small",
            "architecture": {"dims": 2, "scale": [1, 2, 2], "width": 4, "pools": [[1, 2, 2]]},
            "sources": [{"path": str(folder / "fine.tif"), "voxel_size": [8, 8, 8], "planes": "all"}],
            "degradation": {"recipes": ["sem-fast"]},
            "sampling": {"crop": [1, 16, 16], "acquisitions": 2, "crops": 2},
            "validation": {"share": 0.25, "gap": 4, "batches": 1},
            "steps": 8,
            "threads": 1,
            "card": {"stride": [1, 32, 32]},
        }
    )
    path = train(config, folder)  # run again: goes on from its last checkpoint
    card = vt.load_model(path).card
    print(path, card.scale, card.provenance.recipe)
