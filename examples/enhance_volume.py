"""Enhance a volume from Python, and verify what was written.

python examples/enhance_volume.py volume.zarr by-script.zarr
"""

import sys

import volumetool as vt

if __name__ == "__main__":
    source, output = sys.argv[1:]
    try:
        outcome = vt.enhance(source, output, model="em-x4", observer=print)  # run again: goes on where it stopped
    except vt.VolumetoolError as error:
        sys.exit(f"{error.code}: {error}")  # codes are stable; examples/troubleshooting.md lists them
    for record in outcome.failures:
        print(f"region {record.region} failed: {record.error}")
    report = vt.verify(outcome.plan)  # reads every stored shard again
    print(outcome, report.damaged or "nothing is damaged")
    enhanced = vt.open_volume(output)
    print(enhanced.shape, enhanced.voxel_size)  # voxels and nm; z, y, x
