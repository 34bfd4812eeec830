"""What every built-in model gains on which tissue, and from which likeness of neighbouring sections a model gains by them.

pytest does not collect this file. To run it::

    python tests/benchmarks/tissues.py DATA             # gains over linear enlargement, by tissue
    python tests/benchmarks/tissues.py DATA --write     # the same, and written into the models' cards, which `model list` reads
    python tests/benchmarks/tissues.py DATA --neighbours ONE SEVERAL    # a model that uses neighbouring sections over one that
        does not, by likeness of the sections

Raw PSNR in dB, 8 bit, data range 255, mean over the recipes pssr-em, pssr2-poisson and sem-fast. Scored are four sections in
the middle of eight, 320 x 320 voxels or 128 x 128 of the input; of em-iso2 and em-z4, which need cubes, eight of 32. No model
has seen them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import cast

import numpy as np
import tifffile
import torch
from rich.console import Console
from rich.table import Table

from volumetool.degradation import RECIPES, Crappifier
from volumetool.evaluation.scores.metrics import score
from volumetool.evaluation.scores.resample import enlarge
from volumetool.geometry import Box
from volumetool.models import VALIDATION, Metric, Model, UNet, list_models, load_model, save_model
from volumetool.processing.survey import Evidence, Survey
from volumetool.training.restore import restore_volume

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
SHOWN = ("pssr-em", "pssr2-poisson", "sem-fast")
SIDE, MOST_COARSE = 320, 128
FIB = "fib25-fibsem/fib25_val_z0-199_y0-339.tif"


@dataclass(frozen=True)
class Tissue:
    """Sections of one kind: name, file, first section, sections from one to the next, corner in plane, sections there are."""

    name: str
    file: str
    first: int = 0
    step: int = 1
    corner: int = 0
    count: int = 8

    def load(self, data: Path, count: int | None = None) -> Bytes:
        """Load sections: uint8 (z, y, x)."""
        pages = range(self.first, self.first + (count or self.count) * self.step, self.step)
        inside = slice(self.corner, self.corner + SIDE)
        stack: Bytes = np.atleast_3d(np.stack([tifffile.imread(data / self.file, key=page)[inside, inside] for page in pages]))
        return stack[:, : stack.shape[1] // 16 * 16, : stack.shape[2] // 16 * 16]


TISSUES = (
    Tissue("fly brain, FIB-SEM, sections 8 nm apart", FIB, 80),
    Tissue("fly brain, FIB-SEM, sections 32 nm apart", FIB, 80, 4),
    Tissue("fly nerve cord, ssTEM, 50 nm", "isbi2012-sstem/isbi2012_train.tif", 8),
    Tissue("mouse cortex, ATUM-SEM, 30 nm", "kasthuri15-atum-sem/kasthuri15_s0001-0060.tif", 20, 1, 200),
    Tissue("mouse brain, SBEM", "cdeep3m-sbem/cdeep3m_sbem_z020-037.tif", 4, 1, 200),
    Tissue("fly brain, TEM tiles", "temca-fly-tiles/tiles_col0060-0061_row0140-0141_level1.tif", 0, 1, 200, 4),
    Tissue("mussel larva, SEM tiles", "vemstitch-mussel-sem/mussel_tiles.tif", 0, 1, 600, 4),
    Tissue("eight tissues, single patches", "cem500k-patches/cem500k_examples.tif"),
)
SINGLE = TISSUES[5:]
"""Tiles and patches that are no neighbours of each other."""

SPACINGS = (
    *(Tissue(f"FIB-25, {8 * step} nm", FIB, 100 - 4 * step, step) for step in (1, 2, 3, 4, 5, 6, 8)),
    Tissue("Kasthuri, 30 nm", TISSUES[3].file, 20, 1, 200),
    Tissue("Kasthuri, 60 nm", TISSUES[3].file, 20, 2, 200),
    Tissue("CDeep3M SBEM", TISSUES[4].file, 4, 1, 200),
    Tissue("ISBI 2012, 50 nm", TISSUES[2].file, 8),
)


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with fib25-fibsem/ and so on")
    parser.add_argument("--neighbours", nargs=2, metavar=("ONE", "SEVERAL"), help="built-in names or model files")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=160)
    if options.neighbours:
        console.print(by_likeness(options.data, *map(load_model, options.neighbours)))
        return
    table = Table("model", "tissue", "linear", "net", "gain")
    for card in list_models():
        model = load_model(card.name)
        seen = {Path(source["path"]).name for source in card.provenance.training["sources"]}
        unseen = [tissue for tissue in TISSUES if Path(tissue.file).name not in seen]
        rows = [row for tissue in unseen for row in metrics_of(options.data, model, tissue)]
        for linear, net in zip(rows[::2], rows[1::2], strict=True):
            table.add_row(card.name, net.dataset, f"{linear.psnr:.2f}", f"{net.psnr:.2f}", f"{net.psnr - linear.psnr:+.2f}")
        if options.write:
            write(model, rows)
    console.print(table)


def metrics_of(data: Path, model: Model, tissue: Tissue) -> Iterator[Metric]:
    """Yield linear enlargement's and the model's figures; none where the model needs a cube and the tissue is none."""
    solid = model.card.dims == 3
    if solid and tissue is not TISSUES[0]:
        return
    side = MOST_COARSE * max(model.card.scale[1:])
    fine = tissue.load(data, 32 if solid else None)[:, :side, :side]
    core = slice(12, 20) if solid else slice(0, len(fine)) if tissue in SINGLE else slice(2, 6)
    alone = tissue in SINGLE
    found = np.mean([scores(model, fine, RECIPES[name], core, alone=alone) for name in SHOWN], axis=0)  # (2, psnr and ssim)
    told = f"{', '.join(SHOWN)} at their own noise, mean over {core.stop - core.start} sections, 8 bit, data range 255"
    for method, (psnr, ssim) in zip(("linear", "net"), found, strict=True):
        yield Metric(dataset=tissue.name, protocol=told, method=method, psnr=round(psnr, 2), ssim=round(ssim, 3))


def scores(model: Model, fine: Bytes, recipe: Crappifier, core: slice, *, alone: bool = False) -> list[tuple[float, float]]:
    """Return PSNR and SSIM of linear enlargement and of the model."""
    coarse = degrade(fine, recipe, model.card.scale)
    network = cast("UNet", model.network())

    def restore(sections: Bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return restore_volume(network, sections, model.card.normalisation)

    ours = np.concatenate([restore(each[None]) for each in coarse]) if alone else restore(coarse)
    found = []
    for image in (enlarge(coarse, model.card.scale, "linear"), ours):
        each = [score(r, t, data_range=255) for r, t in zip(image[core], fine[core], strict=True)]
        found.append((float(np.mean([s.psnr for s in each])), float(np.mean([s.ssim for s in each]))))
    return found


def degrade(fine: Bytes, recipe: Crappifier, scale: tuple[int, int, int]) -> Bytes:
    """Crappify sections: uint8 (z, y, x) to uint8 (z // fz, y // fy, x // fx)."""
    unit = recipe.apply(fine.astype(np.float32) / np.float32(255), scale=scale, seed=5)
    coarse: Bytes = np.rint(unit * 255).astype(np.uint8)
    return coarse


def write(model: Model, rows: list[Metric]) -> None:
    """Put the figures into the card, in place of former ones; the weights stay as they are."""
    kept = [row for row in model.card.provenance.metrics if row.dataset == VALIDATION]
    provenance = model.card.provenance.model_copy(update={"metrics": (*kept, *rows)})
    with resources.as_file(resources.files("volumetool.models.builtin") / f"{model.card.name}.safetensors") as path:
        save_model(path, model.network(), model.card.model_copy(update={"provenance": provenance}))
    if load_model(model.card.name).weights_sha256 != model.weights_sha256:
        raise SystemExit(f"the weights of {model.card.name} are others now")


def by_likeness(data: Path, plain: Model, context: Model) -> Table:
    """Compare a model that uses neighbouring sections and one that does not, at several noises and shifts of the sections."""
    table = Table("sections", "shifted by up to", "as they lie", "after the best shift", "gain, dB")
    for tissue in SPACINGS:
        for shift in (0, 1, 3):
            fine = shifted(tissue.load(data), 4 * shift)
            found: list[Evidence] = []
            gains: list[float] = []
            for name, noise in (*((name, 1.0) for name in SHOWN), *((name, n) for name in SHOWN[:2] for n in (0.5, 2.0))):
                recipe = RECIPES[name].varied(noise=noise)
                found.append(evidence_of(degrade(fine, recipe, plain.card.scale)))
                both = [scores(model, fine, recipe, slice(2, 6))[1][0] for model in (plain, context)]
                gains.append(both[1] - both[0])
            table.add_row(
                tissue.name,
                f"{shift} voxels",
                span([each.neighbours or 0 for each in found], "{:.2f}".format),
                span([each.aligned or 0 for each in found], "{:.2f}".format),
                span(gains, "{:+.2f}".format),
            )
    return table


def shifted(fine: Bytes, most: int) -> Bytes:
    """Shift each section at random against the others."""
    rng = np.random.default_rng(0)
    return np.stack([np.roll(section, rng.integers(-most, most + 1, 2), (0, 1)) for section in fine])


def evidence_of(coarse: Bytes) -> Evidence:
    """Survey all pairs of neighbouring sections."""
    survey = Survey(Box.whole(coarse.shape), len(coarse))
    for z in range(len(coarse) - 1):
        survey.add(0, Box((z, 0, 0), (z + 2, *coarse.shape[1:])), coarse[z : z + 2])
    assert survey.evidence is not None
    return survey.evidence


def span(values: list[float], show: Callable[[float], str]) -> str:
    """Write the least and the largest value."""
    return f"{show(min(values))} to {show(max(values))}"


if __name__ == "__main__":
    main()
