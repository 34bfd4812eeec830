"""PSSR2's side of `compare_pssr2.py`: trains its ResUNet, restores sections with it, and measures its rate.

It runs in an environment where ``pip install pssr==2.4.0`` was done and volumetool is not; the two sides exchange files alone.

Everything of the training is PSSR2's own and at its defaults (ResUNet of 64 to 1024 channels, its loss of MS-SSIM and L1, AdamW
at 1e-3 falling by 0.7 after each of ten epochs, batches of 16, flips and rotations, float32), but for this:

- Crops have 192 fine pixels instead of 512, because the training volumes are no wider than 250; the window of the loss is the
  one that PSSR2 chooses for them.
- An epoch is a tenth of the CPU time that was granted. Pairs are drawn fresh instead of coming round, and one in 129 serves as
  validation instead of one in ten.
- Memory is channels-last, which changes no result and saves PSSR2 a third of its time.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

BATCH = 16
BATCHES = 8  # between two looks at the clock
EPOCHS = 10
RATE, DECAY = 1e-3, 0.7
SAVE_EVERY = 300.0  # seconds
GRAIN = 16  # four poolings
CHECKPOINT = "checkpoint.pt"
MARGIN = 48  # mirrored coarse pixels around a section

Floats = NDArray[np.float32]


def main() -> None:
    """Do the one thing that was asked for; the answer, if any, is the last line of stdout, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("train", "progress", "restore", "rate"))
    parser.add_argument("folder", type=Path, help="of the pairs and the checkpoint")
    parser.add_argument("--sections", type=Path, help="restore: folder of the sections")
    parser.add_argument("--minutes", type=float, default=40.0, help="CPU time to train in all, over all starts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bfloat16", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.task == "train":
        train(options.folder, 60 * options.minutes)
        return
    if options.task == "restore":
        answer: dict[str, Any] = {"sections": restore(options.folder, options.sections)}
    elif options.task == "rate":
        answer = rate(options.folder, bfloat16=options.bfloat16)
    else:
        state = torch.load(options.folder / CHECKPOINT, weights_only=True)
        answer = {"cpu_seconds": state["spent"], "batches": state["batches"], "batch": BATCH}
    sys.stdout.write(json.dumps(answer) + "\n")


def make_network() -> nn.Module:
    """Make PSSR2's default network, untrained."""
    spec = find_spec("pssr")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("PSSR2 is not installed here: pip install pssr==2.4.0")
    # Its other networks want timm and torchvision, and importing the room of networks would import all of them.
    room = ModuleType("pssr.models")
    room.__path__ = [str(Path(spec.submodule_search_locations[0]) / "models")]
    sys.modules["pssr.models"] = room
    from pssr.models.resunet import ResUNet

    network: nn.Module = ResUNet()
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # stubs lack it


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Pairs that were written beforehand, as PSSR2's training loop wants them: float32 (1, y, x), 0..255, fine one first."""

    extra_hr_files = None  # PSSR2 asks for it

    def __init__(self, folder: Path, places: NDArray[np.int64]) -> None:
        self.fine, self.coarse = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("fine", "coarse"))
        self.places = places % len(self.fine)
        self.val_idx = [len(places) - 1]
        self.crop_res = self.fine.shape[-1]
        self.lr_scale = self.fine.shape[-1] // self.coarse.shape[-1]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        # PSSR2's own choices: every pair is flipped, every other one turned before.
        turn, flip = bool(random.getrandbits(1)), random.choice((0, 1, (0, 1)))  # noqa: S311
        place = self.places[index]
        pair = []
        for image in (self.fine[place], self.coarse[place]):
            turned = np.flip(np.rot90(image) if turn else image, flip)
            pair.append(torch.from_numpy(turned.astype(np.float32))[None])  # (1, y, x)
        return pair[0], pair[1]


def train(folder: Path, budget: float) -> None:
    """Train until the CPU seconds are spent, or go on where an earlier start stopped.

    Parameters
    ----------
    folder : Path
        Holds fine.npy and coarse.npy, uint8 (pairs, y, x); gets checkpoint.pt.
    budget : float
        CPU seconds, all starts together.
    """
    network = make_network()
    from pssr.train import train_paired
    from pssr.util import SSIMLoss

    torch.manual_seed(0)
    random.seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    spent, batches, saved = 0.0, 0, time.monotonic()
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        spent, batches = state["spent"], state["batches"]
        random.seed(batches)
    while spent < budget:
        started = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = RATE * DECAY ** int(EPOCHS * spent / budget)
        places = np.arange(batches * BATCH, (batches + BATCHES) * BATCH + 1)
        losses, _ = train_paired(network, Pairs(folder, places), BATCH, SSIMLoss(), optimizer, epochs=1)
        batches += BATCHES
        spent += time.process_time() - started
        sys.stdout.write(f"{batches} batches, {spent:.0f} of {budget:.0f} CPU s, loss {losses[-1]:.4f}\n")
        sys.stdout.flush()
        if time.monotonic() - saved > SAVE_EVERY or spent >= budget:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "spent": spent, "batches": batches}
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
            saved = time.monotonic()


def restore(folder: Path, sections: Path) -> int:
    """Restore sections, whole and mirrored at their faces, and return how many there were.

    Parameters
    ----------
    folder : Path
        Holds checkpoint.pt.
    sections : Path
        Holds NAME.coarse.npy, uint8 (y, x); each gets NAME.pssr2.npy beside it, uint8 (4 y, 4 x).
    """
    network = _trained(folder)
    places = sorted(sections.glob("*.coarse.npy"))
    for place in places:
        coarse = np.load(place)
        y, x = coarse.shape
        padding = [(MARGIN, MARGIN + -size % GRAIN) for size in coarse.shape]
        mirrored = torch.from_numpy(np.pad(coarse.astype(np.float32), padding, mode="reflect"))
        with torch.inference_mode():
            whole = network(mirrored[None, None])[0, 0]  # (y', x')
        inside = whole[4 * MARGIN : 4 * (MARGIN + y), 4 * MARGIN : 4 * (MARGIN + x)]
        grey = inside.round().clamp(0, 255).to(torch.uint8).numpy()
        np.save(place.with_name(place.name.replace(".coarse.", ".pssr2.")), grey)
    return len(places)


def rate(folder: Path, *, bfloat16: bool) -> dict[str, Any]:
    """Measure how fast the trained network is, alone.

    Parameters
    ----------
    folder : Path
        Holds checkpoint.pt and rate.npy, uint8 (y, x).
    bfloat16 : bool
        Whether to run under autocast.

    Returns
    -------
    dict
        Output megapixels per second, the best of three after one to warm up; parameters of the network.
    """
    network = _trained(folder)
    section = torch.from_numpy(np.load(folder / "rate.npy").astype(np.float32))[None, None]  # (1, 1, y, x)
    seconds = []
    for _ in range(4):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            started = time.perf_counter()
            pixels = network(section).numel()
            seconds.append(time.perf_counter() - started)
    parameters = sum(weights.numel() for weights in network.parameters())
    return {"mpx_per_s": pixels / min(seconds[1:]) / 1e6, "parameters": parameters}


def _trained(folder: Path) -> nn.Module:
    network = make_network()
    network.load_state_dict(torch.load(folder / CHECKPOINT, weights_only=True)["network"])
    return network.eval().requires_grad_(requires_grad=False)


if __name__ == "__main__":
    main()
