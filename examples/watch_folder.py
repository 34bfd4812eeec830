"""Enhance sections as a microscope writes them; a thread plays the microscope.

python examples/watch_folder.py arriving
"""

import sys
import threading
import time
from pathlib import Path

import tifffile

import volumetool as vt
from volumetool.acquisition.config import WatchConfig
from volumetool.acquisition.watch import watch
from volumetool.training.data.phantom import phantom

SECTIONS = 4


def acquire(incoming: Path) -> None:
    """Write one section after the other, as a microscope does."""
    for number, section in enumerate(phantom((SECTIONS, 64, 64))):
        tifffile.imwrite(incoming / "writing.part", section)  # names that end in .part are not read
        (incoming / "writing.part").rename(incoming / f"section_{number:04}.tif")
        time.sleep(0.1)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    incoming, output = folder / "incoming", folder / "enhanced.zarr"
    incoming.mkdir(parents=True)
    threading.Thread(target=acquire, args=(incoming,)).start()
    job = vt.Job(input=incoming, output=output, model="em-x4", voxel_size=(50, 32, 32))
    watched = watch(job, WatchConfig(count=SECTIONS), print)
    print(watched)
    print(vt.open_volume(output).shape)
