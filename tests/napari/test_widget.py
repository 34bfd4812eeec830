"""The panel in napari, without a screen: what it previews, what it says, and that napari finds it."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from small_jobs import noise, write_input

import volumetool as vt

GUIDE = Path(__file__).parents[2] / "examples" / "napari.md"
NEEDS = ("napari[pyqt6]==0.9.2", "npe2==0.10.0")
WARNINGS = "default\nerror:::volumetool.napari.widget"
"""Those of napari are its own."""

MEDIAN = "median:radius=0,1,1"


@pytest.mark.slow
def test_the_plugin_works_in_an_environment_with_napari(python_with: Callable[..., Path]) -> None:
    """The manifest, and the other tests of this file."""
    python = python_with(*NEEDS)
    for words in (
        ("npe2", "validate", "volumetool"),
        ("pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-o", f"filterwarnings={WARNINGS}", __file__),
    ):
        quiet = os.environ | {"QT_QPA_PLATFORM": "offscreen"}
        done = subprocess.run([python, "-m", *words], env=quiet, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "skipped" not in done.stdout


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Give a volume of two levels."""
    return write_input(tmp_path / "raw.zarr", noise((5, 64, 96)), levels=2)


@pytest.fixture
def viewer(volume: Path) -> Iterator[Any]:
    """Give a viewer that shows section 2 of the volume, 31 x 47 voxels of it."""
    components = pytest.importorskip("napari.components", reason="napari is not installed; a slow test installs it")
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from npe2 import PluginManager
    from qtpy.QtWidgets import QApplication

    PluginManager.instance().discover()
    application = QApplication.instance() or QApplication([])
    shown = components.ViewerModel()
    shown.open(str(volume), plugin="volumetool")
    size = shown.layers[0].scale[1]
    shown.canvas.size = (300, 460)
    shown.scene.camera.zoom = 10 / size  # pixels per nm
    shown.scene.camera.center = (0, 24 * size, 40 * size)
    shown.dims.set_point(0, 2 * shown.layers[0].scale[0])
    yield shown
    application.processEvents()


def wait(widget: Any, text: str = "") -> None:
    """Let a preview end, that of a text if one is given."""
    from qtpy.QtWidgets import QApplication

    for _ in range(12_000):
        QApplication.processEvents()
        if not widget.busy and text in widget.message.text():
            return
        time.sleep(0.01)
    raise TimeoutError(widget.message.text())


@pytest.fixture
def widget(viewer: Any) -> Any:
    """Give the panel beside the viewer."""
    from volumetool.napari.widget import PreviewWidget

    made = PreviewWidget(viewer)
    made.model.setCurrentText(MEDIAN)
    return made


def test_napari_opens_a_volume_as_a_layer_of_all_levels(viewer: Any, volume: Path) -> None:
    (layer,) = viewer.layers
    opened = vt.open_volume(volume)
    assert layer.multiscale
    assert [tuple(shape) for shape in layer.level_shapes] == [level.shape for level in opened.levels]
    assert tuple(layer.scale) == opened.voxel_size
    assert {str(unit) for unit in layer.units} == {"nanometer"}
    assert layer.source.reader_plugin == "volumetool"


def test_the_preview_of_the_screen_is_what_the_command_writes(widget: Any, viewer: Any, volume: Path, tmp_path: Path) -> None:
    widget.preview()
    wait(widget)
    assert widget.message.text() == "Shown is 2:3,9:40,17:64 (z, y, x)"
    raw, shown = viewer.layers
    assert viewer.layers.selection.active is raw
    assert shown.name == "raw.zarr: median"
    assert tuple(shown.contrast_limits) == tuple(raw.contrast_limits)
    words = shlex.split(widget.command.toPlainText())
    assert words == ["volumetool", "enhance", str(volume), "raw-enhanced.zarr", f"--model={MEDIAN}"]
    run = subprocess.run([sys.executable, "-m", "volumetool", *words[1:], "--workers=1"], cwd=tmp_path, check=False)
    assert run.returncode == 0
    output = vt.open_volume(tmp_path / "raw-enhanced.zarr")
    assert np.array_equal(shown.data, output[2:3, 9:40, 17:64])
    assert np.allclose(shown.world_to_data(np.multiply(output.voxel_size, (2, 9, 17))), 0)


def test_what_is_wrong_is_said_in_the_panel_and_the_next_preview_is_right(widget: Any, viewer: Any) -> None:
    for model, said in (("nothing", "there is no model 'nothing'"), ("median:radios=1", "did you mean radius")):
        widget.model.setCurrentText(model)
        widget.preview()
        wait(widget)
        assert said in widget.message.text()
        assert len(viewer.layers) == 1
    widget.model.setCurrentText(MEDIAN)
    viewer.dims.ndisplay = 3
    widget.preview()
    assert "the view is in 3D" in widget.message.text()
    viewer.dims.ndisplay = 2
    viewer.scene.camera.center = (0, 1e6, 1e6)
    widget.preview()
    assert "raw.zarr is not on the screen" in widget.message.text()
    viewer.layers.clear()
    assert "no layer is a volume" in widget.message.text()
    assert widget.command.toPlainText() == ""


def test_a_preview_follows_the_view_and_takes_the_middle_of_what_is_too_large(
    widget: Any, viewer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("volumetool.napari.widget.LONGEST", 16)
    widget.follow.setChecked(True)
    viewer.dims.set_point(0, 3 * viewer.layers[0].scale[0])
    wait(widget, "Shown is 3:4,16:32,32:48 (z, y, x)")
    assert [tuple(layer.data.shape) for layer in viewer.layers[1:]] == [(1, 16, 16)]


def test_the_lines_of_the_guide_add_a_volume_that_knows_no_voxel_size(
    viewer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zarr.create_array(tmp_path / "bare.zarr", shape=(3, 8, 16), dtype="uint8")
    lines = re.search(r"```text\n(import volumetool.*?)```", GUIDE.read_text(), re.DOTALL)
    assert lines is not None
    (tmp_path / "lines.py").write_text(lines[1])
    monkeypatch.chdir(tmp_path)
    runpy.run_path("lines.py", init_globals={"viewer": viewer})
    assert viewer.layers[-1].data.shape == (3, 8, 16)
    assert tuple(viewer.layers[-1].scale) == (30, 8, 8)
