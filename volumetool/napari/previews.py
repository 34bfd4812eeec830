"""What a job would write where one looks: the voxels of the live volume, without a server."""

from __future__ import annotations

from contextlib import ExitStack

from volumetool.geometry import Box
from volumetool.jobs.job import Job
from volumetool.live_view.factory import Opened, open_live
from volumetool.napari.image_layers import LayerData, placed


class Previews:
    """Computes boxes of the output of a job, whose network and patches it keeps as long as the job is the same."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._opened: tuple[Job, Opened] | None = None

    def __call__(self, job: Job, box: Box, channel: int, window: tuple[float, float]) -> list[LayerData]:
        """Return what becomes of a box, one layer for each output channel.

        Parameters
        ----------
        job : Job
            Its output is not looked at.
        box : Box
            In voxels of the input, inside it.
        channel : int
            Index on the c axis of the input.
        window : tuple of float
            Black and white of the input, for outputs that are grey values as it is.

        Raises
        ------
        VolumetoolError
            As :func:`volumetool.live_view.factory.open_live`, and what is wrong with the input.
        """
        opened = self._open(job)
        spec, finest = opened.basis.spec, opened.layout.levels[0].grid
        made = spec.lattice.made_of(box).intersection(Box.whole(finest.shape))
        z, y, x = (at + size * start for at, size, start in zip(finest.translation, finest.voxel_size, made.start, strict=True))
        names = [output.name for output in spec.outputs] or [opened.basis.provenance["model"]["name"]]
        grey = spec.restores and not spec.outputs
        return [
            (
                opened.read(made, number),
                {"name": name, "contrast_limits": window if grey else spec.window(number)}
                | placed(finest.voxel_size, (z, y, x)),
                "image",
            )
            for number, name in zip(spec.output_channels(channel), names, strict=True)
        ]

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings about the last job."""
        return () if self._opened is None else self._opened[1].notes

    def close(self) -> None:
        """Let the network go."""
        self._opened = None
        self._stack.close()

    def _open(self, job: Job) -> Opened:
        if self._opened is None or self._opened[0] != job:
            self.close()
            self._opened = job, self._stack.enter_context(open_live(job, ahead=0))
        return self._opened[1]
