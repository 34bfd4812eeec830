"""Degrade a fine volume, enhance it, and score the result beside linear enlargement.

python examples/evaluate_model.py truth.zarr scored
"""

import sys
from pathlib import Path

import volumetool as vt

if __name__ == "__main__":
    truth, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(exist_ok=True)
    low, restored = str(folder / "low.zarr"), str(folder / "restored.zarr")
    vt.crappify(truth, low, recipe="sem-fast", scale=(1, 4, 4), seed=1)
    vt.enhance(low, restored, model="em-x4")
    found = vt.evaluate(restored, truth, low=low, sections=2)
    for row in found.rows:
        print(f"{row.name:20} {row.scores.psnr:6.2f} dB  SSIM {row.scores.ssim:.3f}")
