"""Odd values of every kind, and what becomes of the program that meets them."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import re
import shutil
import string
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tifffile
from small_jobs import SMALL, noise, write_input
from small_jobs import run as run_job
from small_views import write_n5, write_precomputed, write_zarr2
from volumetool.cli.main import main

Chance = random.Random
Words = list[str]

FAKE = "fake:identity?patch=1,16,16&overlap=0,4,4&trim=0,1,1"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

MOST_SECONDS, MOST_BYTES = 10.0, 2**29
"""Of one run of the program: 256 MiB of unpacked chunks, and what planning takes. A machine that is busy gives these seconds
within a longer time; several cores give more of them."""

MOST_WAITED = 120.0
"""Seconds by the clock, whatever the machine does beside."""

TEXTS = (
    "", " ", "0", "-1", "1,2", "1,2,3", "-1,-1,-1", "nan,nan,nan", "inf,1,1", "1e999,1,1", "0:1,0:1,0:1", ":,:,:",
    "5:1,0:1,0:1", "0:-1,0:1,0:1", "a:b,c:d,e:f", "0x10", "0b1", "1:30", "190:20:30.15", "1_000", ".5", "5.", "1e400",
    "9" * 30, "9" * 5000, "9" * 400 + "GiB", "-8GiB", "0.0.0GiB", "8GiBs", "\u0663", "\u00b2", "\u202e", "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07", "\u009b31m", "\x00", "a\nb", "a\tb", "\ud800", "\U0001f600" * 100, "e\u0301", "x" * 300, "x" * 5000,
    "/" * 5000, "a/" * 3000, "../" * 50, "~", "~nobody/x", "~/x", "-", "--", "--help", "-n", "%00", "%2e%2e/", "%zz",
    "file:///", "file://host/x", "file:", "file:%00", "s3://", "s3://b/../x", "gs://b/k?x=1", "http://", "http://[",
    "http://[::1", "http://127.0.0.1:1/x", "http://127.0.0.1:99999/x", "https://u:p@h/x", "ftp://x/y", "a::b", "zip://x::y",
    "\\\\host\\share", "C:\\x", "/dev/null", "/proc/self/mem", "/proc/self/fd", "/", ".", "..", "...", "con", "*", "?", "[",
    "{}", "${HOME}", "$(touch canary)", "`touch canary`", "; touch canary", "'", '"', "os.system", "true", "null", "None",
    "NaN", "Infinity", "<a>", "&lt;", "em-x4", "em-x44", "auto", "fake:", "tcp://", "tcp://x", "local", "cuda",
    "tcp://127.0.0.1:1", "2001-99-99", "2001-01-01", "!!python/name:os.system", "[bold red]x[/]", "[/]",
)  # fmt: skip
"""What is not expected in an option, a name or a field."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 255, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 2**70, -(2**70), 10**400,
    0.5, -0.5, 1e-320, 1e308, float("nan"), float("inf"), float("-inf"), [], [[]], {}, [None], [0], [1], [1, 1], [1, 1, 1],
    [0, 0, 0], [2, 2, 2], [-1, -1, -1], [2**26] * 3, [2**40] * 3, [1, 1, 1, 1], [1] * 40, [1.5] * 3, ["a"] * 3,
    {"a": {"b": {}}}, [{}], {"name": "bytes"}, {"name": "x" * 300}, list(range(3000)), {f"k{n}": n for n in range(300)},
    [[[[[[[[[[1]]]]]]]]]],
)  # fmt: skip


def text_of(chance: Chance) -> str:
    """Return an odd text: one of the table, or of characters drawn by chance."""
    if chance.random() < 0.7:
        return chance.choice(TEXTS)
    letters = chance.choice([string.printable, string.digits + ",:.-", "".join(map(chr, range(1, 0x250))), "ab/.~%:"])
    return "".join(chance.choices(letters, k=chance.randint(1, 40)))


def value_of(chance: Chance) -> Any:
    """Return an odd value of JSON or YAML."""
    return text_of(chance) if chance.random() < 0.35 else copy.deepcopy(chance.choice(VALUES))


def harmless(text: str) -> bool:
    """Say whether a text, taken for a place to write to, stays inside the folder."""
    return not text.startswith(("/", "file:", "~", "s3:", "gs:", "\\\\")) and ".." not in text


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything inside a document."""
    inside = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, value in inside:
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(chance: Chance, document: Any) -> Any:
    """Return a document of JSON with no to three changes."""
    document = json.loads(json.dumps(document))
    for _ in range(chance.choice([0, 1, 1, 1, 1, 2, 3])):
        if not (known := list(places(document))):
            return document
        *path, last = chance.choice(known)
        inside = document
        for key in path:
            inside = inside[key]
        _change(chance, inside, last)
    return document


def _change(chance: Chance, inside: Any, key: Any) -> None:
    act = chance.random()
    if act < 0.15:
        del inside[key]
    elif act < 0.25 and isinstance(inside, dict):
        inside[text_of(chance).encode(errors="ignore").decode()] = inside.pop(key)
    elif act < 0.3 and isinstance(inside, list):
        inside.extend([inside[key]] * chance.choice([1, 3, 40, 5000]))
    elif act < 0.35 and isinstance(inside, dict):
        inside.update({f"u{n}": n for n in range(chance.choice([1, 30, 20_000]))})
    elif act < 0.45 and isinstance(inside[key], int | float) and not isinstance(inside[key], bool):
        inside[key] = inside[key] * chance.choice([0, -1, 2, 10, 1000, 0.1, 2**20])
    else:
        inside[key] = value_of(chance)


def damaged(chance: Chance, content: bytes) -> bytes:
    """Return bytes with a few of them changed, cut off, doubled or put in."""
    content = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        place = chance.randrange(len(content) + 1)
        act = chance.random()
        if act < 0.5 and place < len(content):
            content[place] = chance.randrange(256)
        elif act < 0.65:
            content[place : place + chance.randint(1, 8)] = b""
        elif act < 0.8:
            content[place:place] = chance.randbytes(chance.randint(1, 8))
        elif act < 0.9:
            content[place:place] = content[place : place + 64]
        else:
            del content[place:]
    return bytes(content)


def as_json(chance: Chance, document: Any) -> bytes:
    """Return the text of a document: changed, damaged, or nested beyond measure."""
    if chance.random() < 0.02:
        return b"[" * 100_000 + b"]" * 100_000
    text = json.dumps(changed(chance, document)).encode("utf-8", "surrogatepass")
    return damaged(chance, text) if chance.random() < 0.15 else text


class Bench:
    """A folder with one small thing of every kind.

    Parameters
    ----------
    folder : Path
        An empty one, in which the programs run.
    tiny_model : Path
        A model file.
    """

    def __init__(self, folder: Path, tiny_model: Path) -> None:
        self.folder, size = folder, (8.0, 32.0, 32.0)
        write_input(folder / "in.zarr", noise((3, 20, 24)), levels=2)
        shutil.copy(tiny_model, folder / "model.safetensors")
        tifffile.imwrite(folder / "s.tif", noise((3, 20, 24)), photometric="minisblack")
        run_job(**SMALL | {"input": str(folder / "in.zarr"), "output": str(folder / "done.zarr"), "model": FAKE})
        write_n5(folder / "in.n5", noise((3, 20, 24)), size)
        write_precomputed(folder / "in.pre", noise((3, 20, 24)), size)
        write_zarr2(folder / "in.zarr2", noise((3, 20, 24)))
        _write_ome_04(folder / "ome04.zarr")
        names = ("in.zarr", "in.n5", "in.pre", "in.zarr2", "ome04.zarr", "done.zarr.job")
        self._pristine = {name: _files(folder / name) for name in names}

    def renew(self, name: str) -> Path:
        """Put one of the folders back as it was."""
        shutil.rmtree(self.folder / name)
        for key, content in self._pristine[name].items():
            (self.folder / name / key).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name / key).write_bytes(content)
        return self.folder / name

    def sweep(self) -> None:
        """Remove what programs wrote."""
        for left in self.folder.glob("new*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _write_ome_04(path: Path) -> None:
    write_zarr2(path / "0", noise((3, 20, 24)))
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    steps = [{"type": "scale", "scale": [8.0, 32.0, 32.0]}, {"type": "translation", "translation": [0.0, 1.0, 1.0]}]
    image = {"version": "0.4", "name": "a", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs").write_text(json.dumps({"multiscales": [image]}))


@dataclass
class Tally:
    """What became of runs of the program.

    Attributes
    ----------
    outcomes : Counter
        ``ok`` or an error's code, with how often.
    bugs : list of str
        Runs without a named error, or that broke another promise: what was wrong, the words, and what was said.
    slowest : float
        Seconds of the slowest run: by the clock or of the processor, whichever are fewer.
    most_bytes : int
        By which memory grew in one run, where the system tells.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    bugs: list[str] = field(default_factory=list)
    slowest: float = 0.0
    most_bytes: int = 0

    def run(self, words: Words) -> None:
        """Run the program in this process, and count how it ended."""
        started, busy, before = time.monotonic(), time.process_time(), _peak_anew()
        try:
            code, said = _run(words)
        except BaseException:  # noqa: BLE001  (the program lets nothing out)
            code, said = 1, f"error [internal]: {traceback.format_exc()}"
        waited, grown = time.monotonic() - started, _peak() - before
        seconds = min(waited, time.process_time() - busy)
        found = re.search(r"error \[([a-z0-9.-]+)\]", said)
        name = found[1] if found else "ok" if code == 0 else "usage" if "Usage:" in said else f"exit {code}"
        self.outcomes[name] += 1
        self.slowest, self.most_bytes = max(self.slowest, seconds), max(self.most_bytes, grown)
        wrong = {
            "internal": name == "internal",
            "traceback": "Traceback" in said,
            "unsaid": name.startswith("exit") and code not in (3, 4),
            f"{seconds:.0f} s": seconds > MOST_SECONDS,
            f"{waited:.0f} s of waiting": waited > MOST_WAITED,
            f"{grown >> 20} MiB": grown > MOST_BYTES,
            "control characters": CONTROL.search(said) is not None,
        }
        if any(wrong.values()):
            self.bugs.append(f"{[what for what, is_so in wrong.items() if is_so]} {words!r:.400}: {said[-600:]!r}")


def _run(words: Words) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(words)
        except SystemExit as ended:
            return int(ended.code or 0), said.getvalue()
    return 0, said.getvalue()


def _peak_anew() -> int:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
        return 1024 * int(found[1]) if found else 0
    return 0
