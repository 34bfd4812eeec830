"""The loop learns, repeats itself, says where it is, and a killed training goes on as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from small import Told, small_options, small_training
from torch import nn
from torch.nn import functional

from volumetool.errors import DataError, FingerprintError
from volumetool.events import Event, StepTrained
from volumetool.models import UNetConfig, load_model, save_model
from volumetool.models.unet import UNet
from volumetool.training.checkpoint import NAME, read_checkpoint
from volumetool.training.config import OptimiserConfig, TrainConfig, make_config
from volumetool.training.data.pairs import Sampler
from volumetool.training.data.sources import open_sources
from volumetool.training.fit import begin_network, fit, learning_rate


def train(folder: Path, config: TrainConfig, told: Told | None = None) -> dict[str, torch.Tensor]:
    """Train, and return everything that the last checkpoint holds."""
    folder.mkdir(exist_ok=True)
    fit(config, folder, told or Told(), lambda *_: None)
    return load_file(folder / NAME)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_moment_of_training_beats_enlarging(tmp_path: Path) -> None:
    config = small_training(
        tmp_path,
        steps=80,
        optimiser={"ema": 0.9, "learning_rate": 1e-2},
        degradation={"recipes": ["pssr-em"], "noise": [1.5, 2.0]},
        augmentation={"grain": [0, 0]},
        sampling={"crop": [1, 16, 16], "acquisitions": 4, "crops": 2},
    )
    told = Told()
    train(tmp_path / "run", config, told)
    assert told.steps == list(range(1, 81))
    last = told.points[-1]
    assert last.step == 80
    assert last.psnr > last.enlarged + 0.2


def test_the_same_seed_trains_the_same_network_and_another_another(tmp_path: Path) -> None:
    first, again, other = (
        train(tmp_path / name, small_training(tmp_path, steps=3, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert same(first, again)
    assert not same(first, other)


def test_bfloat16_trains_float32_weights(tmp_path: Path) -> None:
    weights = train(tmp_path / "run", small_training(tmp_path, steps=2, precision="bfloat16"))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())


def test_an_expected_error_beside_it_does_not_change_what_is_learnt(tmp_path: Path) -> None:
    architecture = {"width": 4, "pools": [[1, 2, 2]], "z_context": 1, "gate": True}
    plain, both = (
        train(tmp_path / name, small_training(tmp_path, steps=5, architecture=architecture | more))
        for name, more in (("plain", {}), ("both", {"expected_error": True}))
    )
    assert all(torch.equal(both[name], tensor) for name, tensor in plain.items())
    first = load_file(tmp_path / "both" / NAME)["network/error_head.3.bias"]
    assert not torch.equal(first, torch.full_like(first, -3.0))


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    config = small_training(tmp_path, steps=8, checkpoint_minutes=0)
    whole = train(tmp_path / "whole", config)

    class Stops(Told):
        def __call__(self, event: Event) -> None:
            super().__call__(event)
            if isinstance(event, StepTrained) and event.step in (3, 6) and len(self.steps) > 1:
                signal.raise_signal(signal.SIGINT)

    (tmp_path / "parts").mkdir()
    told = Stops()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(config, tmp_path / "parts", told, lambda *_: None)
    parts = train(tmp_path / "parts", config, told)
    assert told.steps == list(range(1, 9))  # no step was done twice
    assert same(whole, parts)


def test_another_training_is_not_gone_on_with(tmp_path: Path) -> None:
    train(tmp_path / "run", small_training(tmp_path))
    with pytest.raises(FingerprintError, match=r"seed: was 0, is 7"):
        train(tmp_path / "run", small_training(tmp_path, seed=7))


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    train(tmp_path / "run", small_training(tmp_path))
    path = tmp_path / "run" / NAME
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read"):
        train(tmp_path / "run", small_training(tmp_path))


def test_fine_tuning_begins_where_the_shapes_fit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    card = load_model("em-x4").card
    path = tmp_path / "start.safetensors"
    save_model(path, load_model("em-x4").network(), card)
    deeper = UNetConfig(scale=(1, 2, 2), z_context=1, width=32)
    network = begin_network(small_training(tmp_path, architecture=deeper.model_dump(), start=str(path)))
    old, new = load_model(path).state, network.state_dict()
    assert torch.equal(new["bottom.first.weight"], old["bottom.first.weight"])
    assert torch.equal(new["stem.weight"], old["stem.weight"][:, 3:6])  # the section itself, and its nearest neighbours
    assert new["head.weight"].shape != old["head.weight"].shape


def test_a_wider_network_begins_as_the_same_function_and_learns_from_what_is_new(tmp_path: Path) -> None:
    model = load_model("em-x4")
    wide = model.card.architecture.model_copy(update={"width": 48})
    network = begin_network(small_training(tmp_path, architecture=wide.model_dump(), start="em-x4"))
    x = torch.rand(1, wide.channels, 16, 16, generator=torch.Generator().manual_seed(0))
    before, after = model.network().forward_with_error(x), network.forward_with_error(x)
    for old, new in zip(before, after, strict=True):
        assert torch.allclose(old, new, atol=1e-5)
    network(x).mean().backward()
    heard = network.head.weight.grad
    assert heard is not None
    assert bool(heard[:, 32:].abs().amin(dim=(1, 2, 3)).all())  # training begins to listen to what is new


def test_a_blind_spot_learns_from_noise_alone(tmp_path: Path) -> None:
    architecture = {"width": 8, "pools": [[1, 2, 2]], "scale": [1, 1, 1]}
    config = small_training(tmp_path, architecture=architecture, blind_spot={}, loss={"kind": "mse"})
    told = Told()
    weights = train(tmp_path / "run", config, told)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())
    assert told.points


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
def test_the_learning_rate_rises_to_its_peak_and_falls(schedule: Any) -> None:
    config = OptimiserConfig(learning_rate=1.0, schedule=schedule)
    rates = [learning_rate(config, step, 200) for step in range(200)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 0.02


def run_and_kill(folder: Path, file: Path, at: int | None) -> int:
    """Run the training as a user does, and kill it without warning once its checkpoint has reached a step."""
    command = [sys.executable, "-m", "volumetool.cli.main", "train", str(file), "--output", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while at is not None and process.poll() is None:
        facts, _ = read_checkpoint(folder)
        if facts is not None and facts["step"] >= at:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    process.communicate()
    return process.returncode


@pytest.mark.parametrize("kills", [pytest.param((7,), id="once"), pytest.param((3, 11, 12, 20, 31), id="5-times")])
@pytest.mark.slow
def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(kills: tuple[int, ...], tmp_path: Path) -> None:
    options = small_options(tmp_path, steps=40, checkpoint_minutes=0)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(options))
    for at in kills:
        assert run_and_kill(tmp_path / "killed", tmp_path / "train.yaml", at) == -signal.SIGKILL
    assert run_and_kill(tmp_path / "killed", tmp_path / "train.yaml", None) == 0
    whole = train(tmp_path / "whole", make_config(options))
    assert same(load_file(tmp_path / "killed" / NAME), whole)
    network = load_model(tmp_path / "killed" / "small.safetensors").network()
    assert isinstance(network, UNet)
    assert all(torch.equal(tensor, whole[f"mean/{name}"]) for name, tensor in network.state_dict().items())


@pytest.mark.slow
def test_two_devices_descend_along_the_mean_of_their_gradients_and_listen_on_loopback_alone(tmp_path: Path) -> None:
    """Two processes on the CPU stand for two GPUs; each draws crops of its own."""
    options = small_options(tmp_path, steps=1, loss={"kind": "l1"}, precision="float32") | {"devices": 2}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(options))
    command = [sys.executable, "-m", "volumetool.cli.main", "train", str(tmp_path / "train.yaml"), "-o", str(tmp_path / "two")]
    listening: set[str] = set()
    with subprocess.Popen(command) as running:
        while running.poll() is None:
            listening |= addresses(psutil.Process(running.pid))
            time.sleep(0.02)
    assert running.returncode == 0
    assert listening <= {"127.0.0.1", "::1"}
    assert listening, "no process was ever seen to listen"

    config = make_config(options)
    torch.manual_seed(config.seed)
    network = begin_network(config)
    sampler = Sampler(open_sources(config), config)
    for rank in (0, 1):
        coarse, fine = map(torch.from_numpy, sampler.draw("training", 0, rank))
        (functional.l1_loss(network(coarse), fine) / 2).backward()
    nn.utils.clip_grad_norm_(network.parameters(), config.optimiser.clip)
    rate = learning_rate(config.optimiser, 0, 1)
    torch.optim.AdamW(network.parameters(), rate, weight_decay=config.optimiser.weight_decay).step()
    two = load_file(tmp_path / "two" / NAME)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(two[f"network/{name}"], tensor, rtol=1e-3, atol=rate / 100)


def addresses(process: psutil.Process) -> set[str]:
    """Return the addresses on which a process and its children listen."""
    found: set[str] = set()
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            found |= {c.laddr.ip for c in each.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return found
