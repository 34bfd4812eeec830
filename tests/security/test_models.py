"""S1: a model file made by a stranger runs nothing, costs little, and ends in a named error."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from volumetool.errors import ModelError
from volumetool.models import load_model
from volumetool.models.package import CARD_KEY


class Gadget:
    """Writes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.canary), "w")


def raw(head: object, body: bytes = b"", length: int | None = None) -> bytes:
    """Return the bytes of a safetensors file, whatever its head says."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(start: int, stop: int, shape: tuple[int, ...] = (1,)) -> dict[str, Any]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, stop]}


def reduce_gadget(_: Path, canary: Path) -> bytes:
    return pickle.dumps(Gadget(canary))


def torch_checkpoint(_: Path, canary: Path) -> bytes:
    """Make what `torch.save` makes: a zip archive around a pickle."""
    file = io.BytesIO()
    torch.save({"weights": torch.zeros(2), "more": Gadget(canary)}, file)
    return file.getvalue()


def bypass(_: Path, canary: Path) -> bytes:
    """Make the older format, by which loaders of weights alone were bypassed."""
    file = io.BytesIO()
    torch.save({"more": Gadget(canary)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def oversized_head(*_: Path) -> bytes:
    return raw({}, length=2**62)


def endless_head(*_: Path) -> bytes:
    return raw(b" " * (2**23) + b"{}")


def overlapping(*_: Path) -> bytes:
    return raw({"a": entry(0, 8, (2,)), "b": entry(4, 12, (2,))}, bytes(12))


def outside(*_: Path) -> bytes:
    return raw({"a": entry(0, 2**40, (2**38,))}, bytes(8))


def many_tensors(*_: Path) -> bytes:
    return raw({f"t{n}": entry(4 * n, 4 * n + 4) for n in range(100_000)}, bytes(400_000))


def changed(good: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return a good file with another card."""
    state = load_file(good)
    with good.open("rb") as file:
        head = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    card = json.loads(head["__metadata__"][CARD_KEY])
    change(card)
    place = good.with_name("changed")
    save_file(state, place, {CARD_KEY: json.dumps(card)})
    return place.read_bytes()


def not_finite(good: Path, _: Path) -> bytes:
    state = load_file(good)
    with good.open("rb") as file:
        head = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    state["stem.bias"][0] = float("nan")
    place = good.with_name("nan")
    save_file(state, place, head["__metadata__"])
    return place.read_bytes()


def wrong_shapes(good: Path, _: Path) -> bytes:
    return changed(good, lambda card: card["architecture"].update(width=8))


def huge_network(good: Path, _: Path) -> bytes:
    return changed(good, lambda card: card["architecture"].update(width=2**40))


def deep_network(good: Path, _: Path) -> bytes:
    return changed(good, lambda card: card["architecture"].update(pools=[[1, 1, 1]] * 5000))


def class_path(good: Path, _: Path) -> bytes:
    return changed(good, lambda card: card.update(architecture={"kind": "os.system", "command": "true"}))


def fake(good: Path, _: Path) -> bytes:
    return changed(good, lambda card: card.update(architecture={"kind": "fake", "behaviour": "constant", "seconds": 1e9}))


def nested_card(good: Path, _: Path) -> bytes:
    state = load_file(good)
    place = good.with_name("nested")
    save_file(state, place, {CARD_KEY: "[" * 100_000})
    return place.read_bytes()


HOSTILE = (
    reduce_gadget, torch_checkpoint, bypass, oversized_head, endless_head, overlapping, outside, many_tensors, not_finite,
    wrong_shapes, huge_network, deep_network, class_path, fake, nested_card,
)  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_hostile_model_file_runs_nothing_and_ends_in_a_named_error(
    make: Callable[[Path, Path], bytes], suffix: str, tiny_model: Path, tmp_path: Path
) -> None:
    good, canary, file = tmp_path / "good.safetensors", tmp_path / "canary", tmp_path / f"hostile.{suffix}"
    good.write_bytes(tiny_model.read_bytes())
    file.write_bytes(make(good, canary))
    before = psutil.Process().memory_info().rss
    with pytest.raises(ModelError) as caught:
        load_model(file)
    assert caught.value.code in ("model.broken", "model.no-card")
    assert len(str(caught.value)) < 5000
    assert psutil.Process().memory_info().rss - before < 100 * 2**20
    assert not canary.exists()


def test_the_gadget_of_these_tests_does_run_where_pickles_are_loaded(tmp_path: Path) -> None:
    """In a process of its own, through the standard library's command that shows pickles."""
    file, canary = tmp_path / "gadget", tmp_path / "canary"
    file.write_bytes(reduce_gadget(tmp_path, canary))
    subprocess.run([sys.executable, "-m", "pickle", str(file)], check=True, capture_output=True, cwd=tmp_path)
    assert canary.exists()
