"""The panel in napari that previews an enhanced volume and says the command that makes all of it."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from napari.qt.threading import create_worker
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QComboBox,
    QFormLayout,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from volumetool.errors import ViewError, VolumetoolError
from volumetool.geometry import Box
from volumetool.jobs.job import Job
from volumetool.jobs.planning.conflicts import resume_command
from volumetool.models import list_models
from volumetool.napari.image_layers import CHANNEL, VOLUME, LayerData
from volumetool.napari.previews import Previews
from volumetool.processing.operation import filters, operation_name

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer

LONGEST = 1024
"""Voxels along an axis of the largest box that is previewed: of a larger one its middle."""

PAUSE = 300
"""Milliseconds without a movement after which a preview follows the view."""


class PreviewWidget(QWidget):
    """Previews what an operation makes of the box on the screen.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        Its selected layer is previewed, or the topmost volume where no volume is selected.

    Attributes
    ----------
    busy : bool
        Whether a preview is being computed.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer, self._previews, self.busy = napari_viewer, Previews(), False
        self.model = QComboBox()
        self.model.setEditable(True)
        self.model.addItems(["auto", *(card.name for card in list_models()), *filters()])
        self.model.setToolTip("A model, or an operation with its options, such as median:radius=0,1,1")
        self.button, self.follow = QPushButton("Preview"), QCheckBox("Follow the view")
        self.command, self.message = QPlainTextEdit(), QLabel()
        self.command.setReadOnly(True)
        self.command.setMaximumHeight(6 * self.fontMetrics().height())
        self.message.setWordWrap(True)
        copy = QPushButton("Copy")
        column, form = QVBoxLayout(self), QFormLayout()
        column.addLayout(form)
        column.addStretch()
        form.addRow("Model", self.model)
        form.addRow(self.button, self.follow)
        form.addRow(QLabel("The command for the whole volume:"))
        form.addRow(self.command)
        form.addRow(copy)
        form.addRow(self.message)
        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.setInterval(PAUSE)
        self._pause.timeout.connect(self.preview)
        self.button.clicked.connect(self.preview)
        self.follow.toggled.connect(self._look_again)
        self.model.editTextChanged.connect(self._choose)
        copy.clicked.connect(lambda: QApplication.clipboard().setText(self.command.toPlainText()))
        for moved in (napari_viewer.scene.camera.events, napari_viewer.dims.events.point):
            moved.connect(self._look_again)
        for chosen in (napari_viewer.layers.selection.events.active, napari_viewer.layers.events.removed):
            chosen.connect(self._choose)
        self.destroyed.connect(self._previews.close)
        self._choose()

    def preview(self) -> None:
        """Begin to compute the box on the screen in a thread, unless one is at it; its layer is added or replaced."""
        if self.busy:
            self._look_again()
            return
        try:
            layer = self._layer()
            job, box = self._job(layer), box_on_screen(self._viewer, layer)
        except VolumetoolError as error:
            self.message.setText(str(error))
            return
        self.busy = True
        self.message.setText(f"Computing {box} (z, y, x) ...")
        worker = create_worker(self._compute, job, box, layer.metadata[CHANNEL], tuple(layer.contrast_limits))
        worker.returned.connect(lambda found: self._show(layer, box, found))
        worker.errored.connect(lambda error: self.message.setText(f"{type(error).__name__}: {error}"))  # napari tells more
        worker.finished.connect(self._end)
        worker.start()

    def _layer(self) -> Image:
        """Return the layer that is previewed."""
        active = self._viewer.layers.selection.active
        layers = [active, *reversed(self._viewer.layers)]
        found = next((each for each in layers if each is not None and VOLUME in each.metadata), None)
        if found is None:
            raise ViewError("view.no-layer", "no layer is a volume", hint="Open one with volumetool: File > Open Folder.")
        return found

    def _job(self, layer: Image) -> Job:
        url = layer.metadata[VOLUME].url
        output = f"{PurePosixPath(url).name.partition('.')[0]}-enhanced.zarr"
        return Job(input=url, output=output, model=operation_name(self.model.currentText().strip()))

    def _choose(self) -> None:
        """Say the command for the volume and the model."""
        try:
            self.command.setPlainText(resume_command(self._job(self._layer())))
            self.message.clear()
        except VolumetoolError as error:
            self.command.clear()
            self.message.setText(str(error))
            return
        self._look_again()

    def _look_again(self) -> None:
        if self.follow.isChecked():
            self._pause.start()

    def _compute(self, job: Job, box: Box, channel: int, window: tuple[float, float]) -> list[LayerData] | str:
        """Return the layers of the preview, or what is wrong; called in a thread."""
        try:
            return self._previews(job, box, channel, window)
        except VolumetoolError as error:
            return str(error)

    def _show(self, source: Image, box: Box, found: list[LayerData] | str) -> None:
        if isinstance(found, str):
            self.message.setText(found)
            return
        for voxels, options, _ in found:
            name = f"{source.name}: {options.pop('name')}"
            if name in self._viewer.layers:
                layer = self._viewer.layers[name]
                layer.data, layer.scale, layer.translate = voxels, options["scale"], options["translate"]
            else:
                self._viewer.add_image(voxels, name=name, **options)
        if source in self._viewer.layers:
            self._viewer.layers.selection.active = source
        self.message.setText("\n".join([f"Shown is {box} (z, y, x)", *self._previews.notes]))

    def _end(self) -> None:
        self.busy = False


def box_on_screen(viewer: Viewer, layer: Image) -> Box:
    """Return the voxels of the finest level that are on the screen, of more than `LONGEST` along an axis the middle.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Where it is looked at, in two dimensions.
    layer : napari.layers.Image
        One of a volume.

    Raises
    ------
    ViewError
        ``view.no-box``: there are none.
    """
    if viewer.dims.ndisplay != 2:
        raise ViewError("view.no-box", "the view is in 3D", hint="Turn to 2D: the button below the list of layers.")
    shape = layer.metadata[VOLUME].shape
    low, high = np.array(viewer.dims.point), np.array(viewer.dims.point)  # (axes,)
    shown = list(viewer.dims.displayed)
    half = np.array(viewer.canvas.size) / viewer.scene.camera.zoom / 2  # (rows, columns)
    low[shown] = viewer.scene.camera.center[-2:] - half
    high[shown] = viewer.scene.camera.center[-2:] + half
    first, last = (np.floor(np.add(layer.world_to_data(corner), 0.5)).astype(int) for corner in (low, high))  # (z, y, x)
    start, stop = np.clip(first, 0, shape), np.clip(last + 1, 0, shape)
    middle = (start + stop) // 2
    start, stop = np.maximum(start, middle - LONGEST // 2), np.minimum(stop, middle + LONGEST // 2)
    if (start >= stop).any():
        raise ViewError("view.no-box", f"{layer.name} is not on the screen", hint="Move to it: the button of the house.")
    (z0, y0, x0), (z1, y1, x1) = start.tolist(), stop.tolist()
    return Box((z0, y0, x0), (z1, y1, x1))
