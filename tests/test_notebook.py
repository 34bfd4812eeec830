"""A real notebook: what its cells show while volumetool works, and of what it returns."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_jobs import noise, write_input

NEEDS = ("nbclient", "ipykernel", "ipywidgets")
RUN = """
import nbformat, sys
from nbclient import NotebookClient
book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in sys.argv[2:]])
NotebookClient(book, timeout=300).execute()
nbformat.write(book, sys.argv[1])
"""
CELLS = (
    "import volumetool as vt\noutcome = vt.apply('median', 'in.zarr', 'out.zarr', workers=1)",
    "from volumetool.events import ignore\nvt.apply('median', 'in.zarr', 'out2.zarr', workers=1, observer=ignore).complete",
    "vt.open_volume('out.zarr')",
)


def _shown(book: dict[str, Any], cell: int) -> str:
    """Return what a cell shows, in words; where that is a widget, what the widget shows."""
    widgets = book["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    outputs = []
    for output in book["cells"][cell]["outputs"]:
        link = output.get("data", {}).get("application/vnd.jupyter.widget-view+json")
        outputs += [output] if link is None else widgets[link["model_id"]]["state"]["outputs"]
    text = "".join("".join(output["data"].get("text/html", output["data"]["text/plain"])) for output in outputs)
    return re.sub(r"<[^>]*>", "", text)


@pytest.mark.slow
def test_a_cell_shows_bars_until_all_is_done_and_a_volume_as_a_table(tmp_path: Path, python_with: Callable[..., Path]) -> None:
    write_input(tmp_path / "in.zarr", noise((8, 200, 300)))
    python = python_with(*NEEDS)
    subprocess.run([python, "-c", RUN, "book.ipynb", *CELLS], cwd=tmp_path, env=os.environ, check=True)
    book = json.loads((tmp_path / "book.ipynb").read_text())
    bars = _shown(book, 0)
    assert re.search(r"regions .* 100% 1/1 .*\n.*coarse levels .* 100% ", bars), bars
    assert _shown(book, 1) == "True"
    assert "8 x 200 x 300 voxels" in _shown(book, 2)
