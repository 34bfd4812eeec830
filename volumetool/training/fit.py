"""The training loop: draw pairs, descend, keep a running mean of the weights, survive being killed."""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor, nn

from volumetool.errors import ConfigError, NumericsError, ResourceError
from volumetool.events import CurvePoint, Observer, StepTrained
from volumetool.machine import usable_cores
from volumetool.models import load_model
from volumetool.models.section_gate import enlarge_linear
from volumetool.models.unet import UNet
from volumetool.scratch import scratch_folder
from volumetool.training.blind_spot import blind_spot_loss, mask_batch
from volumetool.training.checkpoint import TrainingState, load_checkpoint, read_checkpoint, save_checkpoint
from volumetool.training.config import OptimiserConfig, TrainConfig
from volumetool.training.data.pairs import Sampler
from volumetool.training.data.sources import open_sources
from volumetool.training.losses import expected_error_loss, make_loss, minus_psnr
from volumetool.training.processes import OneMachine

_POINTS = 80  # along a training: enough for a curve
_PICTURE_SECONDS = 120.0
_VALIDATION = 1_000_003  # key of the validation batches, beyond any number of devices


def fit(config: TrainConfig, folder: Path, observer: Observer, on_picture: Callable[[TrainingState, Sampler], None]) -> None:
    """Train, from the checkpoint in the folder if there is one, to the last step; the last checkpoint holds the result.

    Parameters
    ----------
    config : TrainConfig
        Configuration of the training.
    folder : Path
        Folder that keeps the checkpoint.
    observer : Observer
        Is called with `StepTrained` after every step and with `CurvePoint` for every point of the curves. With several devices
        it is sent to the process of the first one, so it must pickle.
    on_picture : callable
        Draws curves and previews. It is called every other minute and at the end, on the first device.

    Raises
    ------
    FingerprintError
        The folder holds another training.
    ConfigError, InputError
        A source cannot be used.
    """
    accelerator = {"auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(config.device, config.device)
    if accelerator == "cuda" and torch.cuda.device_count() < config.devices:
        raise ResourceError(
            "resource.device",
            f"{config.devices} GPUs were asked for, {torch.cuda.device_count()} are here",
            hint="take --device cpu, or fewer --devices",
        )
    Sampler(open_sources(config), config)  # what cannot be used is said here, not in a process of its own
    with scratch_folder("meeting") as meeting:
        strategy = OneMachine(meeting / "processes") if config.devices > 1 else "auto"
        # Otherwise it takes a job of SLURM for one that srun started, and wants as many tasks as devices.
        fabric = Fabric(accelerator=accelerator, devices=config.devices, strategy=strategy, plugins=LightningEnvironment())
        fabric.launch(partial(_fit, config=config, folder=folder, observer=observer, on_picture=on_picture))


def _fit(
    fabric: Fabric, config: TrainConfig, folder: Path, observer: Observer, on_picture: Callable[[TrainingState, Sampler], None]
) -> None:
    facts, _ = read_checkpoint(folder)
    threads = facts["threads"] if facts else config.threads or min(torch.get_num_threads(), usable_cores())
    with ExitStack() as stack:
        stack.enter_context(_reproducible(threads, fabric.device))
        torch.manual_seed(config.seed)
        state = _begin(config, fabric.device)
        load_checkpoint(folder, state, config)
        network, optimizer = fabric.setup(state.network, state.optimizer)
        network.mark_forward_method("forward_with_error")
        sampler = Sampler(open_sources(config), config)
        first = fabric.global_rank == 0
        validation = _validation(sampler) if first else []
        every = max(1, config.steps // _POINTS)
        saved = drawn = time.monotonic()
        began = saved - state.seconds
        stop = stack.enter_context(_stoppable())
        for coarse, fine in _batches(sampler, state.step, fabric.global_rank):
            loss = _descend(fabric, network, optimizer, (coarse, fine), config, state.step)
            state.step += 1
            _follow(state, config.optimiser.ema)
            if not first:
                continue
            if not math.isfinite(loss):
                raise NumericsError(
                    "numerics.loss", f"the loss of step {state.step} is {loss}", hint="take a smaller optimiser.learning_rate"
                )
            state.losses.append(loss)
            state.seconds = time.monotonic() - began
            observer(StepTrained(state.step, config.steps, loss))
            last = state.step == config.steps
            if last or state.step % every == 0:
                state.history.append(_measure(state, validation, fabric.device))
                state.losses.clear()
                observer(state.history[-1])
            if last or stop.is_set() or time.monotonic() - saved > 60 * config.checkpoint_minutes:
                save_checkpoint(folder, state, config, threads)
                saved = time.monotonic()
            if stop.is_set():
                raise KeyboardInterrupt
            if state.history and (last or time.monotonic() - drawn > _PICTURE_SECONDS):
                on_picture(state, sampler)
                drawn = time.monotonic()


def begin_network(config: TrainConfig) -> UNet:
    """Make the network to train, with the weights of the model it starts from wherever their shape fits.

    A wider network of otherwise the same architecture begins as the same function: new channels read the old ones, and no old
    one reads a new one yet. (Net2Net, Chen et al. 2016, copies channels instead, and needs noise to tell the copies apart.)
    """
    network = UNet(config.architecture)
    if config.start is not None:
        model = load_model(config.start)
        wider = model.card.architecture.model_copy(update={"width": config.architecture.width}) == config.architecture
        mine = network.state_dict()
        begun = {name: _fitting(name, model.state.get(name), fresh, wider=wider) for name, fresh in mine.items()}
        if all(begun[name] is mine[name] for name in mine):
            raise ConfigError(
                "config.start", f"nothing of {config.start} fits this architecture", hint="take its dims and width, or no start"
            )
        network.load_state_dict(begun)
    return network


def _fitting(name: str, old: Any, fresh: Tensor, *, wider: bool) -> Tensor:
    if old is None:
        return fresh
    if old.shape == fresh.shape:
        return old  # type: ignore[no-any-return]
    if wider and all(o <= f for o, f in zip(old.shape, fresh.shape, strict=True)):
        grown = fresh.clone()
        grown[: old.shape[0]] = 0
        grown[tuple(slice(n) for n in old.shape)] = old
        return grown
    if name == "stem.weight" and old.shape[2:] == fresh.shape[2:] and old.shape[0] == fresh.shape[0]:
        grown = fresh * 0.1  # neighbouring sections that are new join quietly
        here, there = fresh.shape[1] // 2, old.shape[1] // 2  # the section in the middle
        near = min(here, there)
        grown[:, here - near : here + near + 1] = old[:, there - near : there + near + 1]
        return grown
    return fresh


def _begin(config: TrainConfig, device: torch.device) -> TrainingState:
    network = begin_network(config).to(device).train()
    mean = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
    options = config.optimiser
    optimizer = torch.optim.AdamW(network.parameters(), options.learning_rate, weight_decay=options.weight_decay)
    return TrainingState(network, mean, optimizer)


def _descend(fabric: Fabric, network: Any, optimizer: Any, batch: tuple[Any, Any], config: TrainConfig, step: int) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config.optimiser, step, config.steps)
    coarse, fine = (torch.from_numpy(part).to(fabric.device) for part in batch)
    scored: Tensor | None = None
    log_error: Tensor | None = None
    if config.blind_spot is not None:
        key = np.random.SeedSequence([config.seed, step, fabric.global_rank]).generate_state(1)[0]
        coarse, scored = mask_batch(coarse, torch.Generator().manual_seed(int(key)), config.blind_spot)
    with torch.autocast(fabric.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        if config.architecture.expected_error:
            restored, log_error = network.forward_with_error(coarse)
        else:
            restored = network(coarse)  # (b, 1, [z*fz,] y*fy, x*fx)
    if scored is None:
        loss = make_loss(config.loss)(restored, fine)
    else:
        loss = blind_spot_loss(restored, fine, scored, config.blind_spot)
    optimizer.zero_grad(set_to_none=True)
    # Both outputs share no weights that learn, and are clipped apart: the first is what it would be without the second.
    fabric.backward(loss if log_error is None else loss + expected_error_loss(log_error, restored, fine))
    for weights in _apart(network):
        nn.utils.clip_grad_norm_(weights, config.optimiser.clip)
    optimizer.step()
    return float(loss.detach())


def _apart(network: Any) -> Iterator[list[nn.Parameter]]:
    named = dict(network.named_parameters())
    for sure in (False, True):
        if weights := [parameter for name, parameter in named.items() if ("error_head." in name) == sure]:
            yield weights


def _follow(state: TrainingState, decay: float) -> None:
    # Shorter at first, or the untrained weights would weigh on it for thousands of steps.
    share = max(1 - decay, 9 / (9 + state.step))
    means = [parameter.data for parameter in state.mean.parameters()]
    torch._foreach_lerp_(means, [parameter.data for parameter in state.network.parameters()], share)


def learning_rate(config: OptimiserConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step: it rises to its peak and falls along a cosine.

    Parameters
    ----------
    config : OptimiserConfig
        Peak of the rate, and the schedule that shapes the rise and the fall.
    step : int
        Step, counted from 0.
    steps : int
        Steps of the whole training.
    """
    rise = max(1, round(steps * (0.05 if config.schedule == "cosine" else 0.3)))
    low, end = (1 / 25, 1e-4) if config.schedule == "one-cycle" else (0.0, 0.01)
    if step < rise:
        share = (step + 1) / rise
        if config.schedule == "one-cycle":
            share = low + (1 - low) * (1 - math.cos(math.pi * share)) / 2
        return config.learning_rate * share
    done = (step - rise) / max(1, steps - rise)
    return config.learning_rate * (end + (1 - end) * (1 + math.cos(math.pi * done)) / 2)


def _batches(sampler: Sampler, start: int, rank: int) -> Iterator[tuple[Any, Any]]:
    """Yield the batches of all steps to come, drawn ahead in threads of their own."""
    steps, workers = sampler.config.steps, sampler.config.workers
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[tuple[Any, Any]]] = deque()
        for step in range(start, steps + workers):
            if step < steps:
                ahead.append(pool.submit(sampler.draw, "training", step, rank))
            if len(ahead) > workers or step >= steps:
                if not ahead:
                    return
                yield ahead.popleft().result()


def _validation(sampler: Sampler) -> list[tuple[Any, Any]]:
    if not any(source.parts["validation"] for source in sampler.sources):
        return []
    count = sampler.config.validation.batches
    return [sampler.draw("validation", number, _VALIDATION) for number in range(count)]


@torch.no_grad()
def _measure(state: TrainingState, validation: list[tuple[Any, Any]], device: torch.device) -> CurvePoint:
    ours, enlarged = [], []
    for batch in validation:
        coarse, fine = (torch.from_numpy(part).to(device) for part in batch)
        ours.append(-float(minus_psnr(state.mean(coarse), fine)))
        z_context = state.mean.config.z_context
        centre = coarse[:, z_context : z_context + 1]
        enlarged.append(-float(minus_psnr(enlarge_linear(centre, state.mean.factors), fine)))
    return CurvePoint(
        step=state.step,
        loss=float(np.mean(state.losses)),
        psnr=float(np.mean(ours)) if ours else None,
        enlarged=float(np.mean(enlarged)) if enlarged else None,
        seconds=round(state.seconds, 1),
    )


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Turn an interrupt into a flag, so that the step under way ends before the checkpoint is written."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _reproducible(threads: int, device: torch.device) -> Iterator[None]:
    """Compute the same bytes in every run: fixed threads, and on a CPU deterministic algorithms."""
    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(device.type == "cpu")
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict)
