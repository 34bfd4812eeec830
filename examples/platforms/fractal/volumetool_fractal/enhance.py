"""A task of Fractal: enhances one image of the list, and adds what it wrote."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import volumetool as vt


def enhance(*, zarr_url: str, model: str = "auto", suffix: str = "_enhanced") -> dict[str, Any]:
    """Enhance an OME-Zarr image; run again, it goes on where it stopped.

    Parameters
    ----------
    zarr_url : str
        Path of the image.
    model : str
        A model of ``volumetool model list``, or ``auto``.
    suffix : str
        Of the new image's name.
    """
    output = f"{zarr_url.rstrip('/')}{suffix}"
    result = vt.enhance(zarr_url, output, model=model)
    if not result.complete:
        raise RuntimeError(f"{output} is not complete: run the task again, and see volumetool status {output}")
    return {"image_list_updates": [{"zarr_url": output, "origin": zarr_url, "attributes": {"model": model}}]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--args-json", type=Path, required=True)
    parser.add_argument("--out-json", type=Path, required=True)
    given = parser.parse_args()
    given.out_json.write_text(json.dumps(enhance(**json.loads(given.args_json.read_text()))))
