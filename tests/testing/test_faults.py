"""A fake goes wrong exactly where and as often as it was told to."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path

import pytest
import torch

from volumetool.testing import Fake, FakeConfig, fake_model
from volumetool.testing.fakes import load_fake
from volumetool.testing.faults import STICKY

BAD = 7.0

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["volumetool.testing.fakes"])  # torch is imported once for all of them


def network(**fields: object) -> torch.nn.Module:
    return Fake(FakeConfig.model_validate({"behaviour": "identity", "at": BAD, **fields})).eval()


def patches(bad: bool) -> torch.Tensor:  # noqa: FBT001
    x = torch.ones(2, 1, 4, 4)
    if bad:
        x[1, 0, 2, 3] = BAD
    return x


@pytest.mark.parametrize(("fault", "check"), [("nan", torch.isnan), ("inf", torch.isinf)])
def test_what_is_not_finite_stands_where_the_value_stood(fault: str, check: object) -> None:
    out = network(fault=fault)(patches(bad=True))
    assert callable(check)
    assert check(out).sum() == 16
    assert check(out[1, 0, 8:12, 12:16]).all()
    assert not check(network(fault=fault)(patches(bad=False))).any()


def test_an_error_comes_as_often_as_asked_over_all_networks(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="on purpose"):
            network(fault="error", times=2, tally=str(tmp_path))(patches(bad=True))
    assert network(fault="error", times=2, tally=str(tmp_path))(patches(bad=True)).shape == (2, 1, 16, 16)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0", "1"]


def test_memory_has_room_for_small_calls_alone_and_the_room_may_change() -> None:
    model = network(fault="memory", room=(8, 100, 31))
    for wanted in (False, True, False):
        if wanted:
            model(patches(bad=False))
        else:
            with pytest.raises(torch.OutOfMemoryError, match="32 voxels"):
                model(patches(bad=False))
    model(patches(bad=False)[:1])


def _in_process(fault: str, tally: str) -> None:
    made = network(fault=fault, tally=tally)
    if fault != "sticky":
        made(patches(bad=True))
        return
    for bad in (True, False):
        with pytest.raises(RuntimeError, match=STICKY):
            made(patches(bad=bad))
    with pytest.raises(RuntimeError, match=STICKY):
        network()(patches(bad=False))


@pytest.mark.parametrize(
    ("fault", "ends"), [("segfault", -signal.SIGSEGV), ("kill", -signal.SIGKILL), ("sticky", 0), ("hang", None)]
)
def test_a_process_ends_or_stays_as_the_fault_says(tmp_path: Path, fault: str, ends: int | None) -> None:
    process = PROCESSES.Process(target=_in_process, args=(fault, str(tmp_path)), daemon=True)
    process.start()
    if ends is None:
        while not any(tmp_path.iterdir()) and process.is_alive():
            process.join(0.05)
    process.join(0.3 if ends is None else None)
    assert process.exitcode == ends
    process.kill()
    process.join()


def test_a_fault_is_part_of_the_models_name() -> None:
    made = fake_model(FakeConfig(behaviour="box", fault="memory", room=(5, 9), times=3, tally="counted"))
    assert load_fake(made.spec).card == made.card
    assert "fault" not in fake_model(FakeConfig(behaviour="box")).spec


def test_room_belongs_to_memory() -> None:
    for fields in ({"fault": "memory"}, {"fault": "nan", "room": (4,)}):
        with pytest.raises(ValueError, match="room"):
            FakeConfig.model_validate({"behaviour": "identity", **fields})
