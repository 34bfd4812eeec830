"""Degrade a fine volume, enhance it, and score the result beside linear enlargement.

python examples/evaluate_model.py truth.zarr scored
"""

import sys
from pathlib import Path

import volumetool as vt
from volumetool.degradation.recipes import load_recipe
from volumetool.degradation.volume import Crappification, crappify_volume, plan_crappification
from volumetool.evaluation.evaluate import EvaluationRequest, evaluate
from volumetool.evaluation.scores.align import Volumes

if __name__ == "__main__":
    truth, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(exist_ok=True)
    low, restored = str(folder / "low.zarr"), str(folder / "restored.zarr")
    asked = Crappification(truth, low, load_recipe("sem-fast"), scale=(1, 4, 4), seed=1)
    crappify_volume(plan_crappification(asked))
    vt.enhance(low, restored, model="em-x4")
    volumes = Volumes(vt.open_volume(restored), vt.open_volume(truth), low=vt.open_volume(low))
    found = evaluate(EvaluationRequest(volumes, sections=2))
    for row in found.rows:
        print(f"{row.name:20} {row.scores.psnr:6.2f} dB  SSIM {row.scores.ssim:.3f}")
