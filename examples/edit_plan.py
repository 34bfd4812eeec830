"""Look at a plan, change it, and run what was changed.

python examples/edit_plan.py volume.zarr edited.zarr
"""

import sys
from dataclasses import replace

import volumetool as vt

if __name__ == "__main__":
    source, output = sys.argv[1:]
    plan = vt.plan(vt.Job(input=source, output=output, model="em-x4"))  # writes nothing
    costs = plan.estimates
    print(f"{costs.patches} patches, {costs.worker_bytes / 2**20:.0f} MiB a worker, {costs.seconds:.0f} s")
    print(f"{plan.grid.count} regions of {plan.grid.size} voxels")

    # Regions of one shard: a kill costs less, and more patches are computed twice. The output has the same bytes.
    edited = plan.model_copy(update={"grid": replace(plan.grid, span=(1, 1, 1))})
    outcome = vt.run(edited)  # runs this very plan
    print(f"{outcome.done} of {outcome.regions} regions done")
