"""Whatever stands in options, names, files and metadata: the program does it, or says by name why not."""

from __future__ import annotations

import contextlib
import json
import re
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tifffile
import yaml
from fuzzing import FAKE, Bench, Chance, Tally, Words, as_json, changed, damaged, harmless, text_of, value_of
from safetensors.torch import load_file, save_file
from small_jobs import noise

from volumetool.jobs.job import Job
from volumetool.models.package import CARD_KEY
from volumetool.sealed import decode, encode

FAST, SLOW = 12, 1430
"""Runs of each kind; the slow ones are 20,020 in all."""

DRY = ["--dry-run", "--model", FAKE, "--memory", "2GiB", "--device", "cpu", "--force-voxel-size"]
OVER = ("input", "output", "cluster", "overwrite")
"""Fields of a job that have no option to try, or whose option reaches out of the folder."""

OPTIONS: dict[str, tuple[Words, Words]] = {
    "info": (["in.zarr"], ["--voxel-size"]),
    "validate": (["in.zarr"], []),
    "convert": (["s.tif", "new.zarr", "--voxel-size", "8,8,8"], ["--voxel-size", "--memory", "--gaps"]),
    "enhance": (
        ["in.zarr", "new.zarr", *DRY],
        [f"--{name.replace('_', '-')}" for name in Job.model_fields if name not in OVER],
    ),
    "crappify": (
        ["in.zarr", "new.zarr", "--scale", "1,2,2", "--dry-run"],
        ["--scale", "--recipe", "--seed", "--level", "--limits", "--blur", "--noise"],
    ),
    "status": (["done.zarr"], []),
    "verify": (["done.zarr"], ["--depth", "--sample", "--seed"]),
    "clean": (["done.zarr"], []),
    "evaluate": (["nowhere.zarr", "in.zarr"], ["--low", "--roi", "--data-range", "--seed", "--sections"]),
    "pyramid": (["nowhere.zarr"], ["--nodata"]),
    "view": (["nowhere.zarr"], ["--voxel-size", "--size", "--position", "--port", "--host", "--layout", "--zoom"]),
    "live": (["nowhere.zarr"], ["--voxel-size", "--model", "--size", "--port", "--level"]),
    "train": (["nowhere.yaml"], ["--output", "--steps", "--device"]),
    "bench": (["nowhere.zarr"], ["--model", "--roi", "--pairs"]),
    "schema": (["job"], []),
    "model": (["show", "model.safetensors"], []),
}
"""Words of a command that works, or fails at once, and options of it."""


def fuzz_options(chance: Chance, _: Bench, tally: Tally) -> None:
    """Give odd values to the options of a command, or to its arguments."""
    command = chance.choice(list(OPTIONS))
    words, options = list(OPTIONS[command][0]), OPTIONS[command][1]
    for _ in range(chance.randint(1, 3)):
        if options and chance.random() < 0.8:
            words += [chance.choice(options), text_of(chance)]
        else:
            odd = text_of(chance)
            words[chance.randrange(len(words))] = "new" + odd if harmless(odd) else "new.zarr"
    tally.run([command, *words, *["--json"][: chance.randint(0, 1)]])


FILES: dict[str, tuple[Words, dict[str, Any]]] = {
    "job": (
        ["enhance", "--config", "new.yaml", "--dry-run"],
        {"input": "in.zarr", "output": "new.zarr", "model": FAKE, "memory": "2GiB", "patch": [1, 16, 16], "roi": "0:1,:,:"},
    ),
    "training": (
        ["train", "new.yaml", "--output", "new", "--dry-run"],
        {
            "name": "small",
            "architecture": {"width": 4, "pools": [[1, 2, 2]]},
            "sources": [{"path": "s.tif", "voxel_size": [8, 8, 8]}],
            "sampling": {"crop": [1, 16, 16]},
            "validation": {"share": 0.25},
            "steps": 4,
            "degradation": {"recipes": ["sem-fast"]},
        },
    ),
    "recipe": (
        ["crappify", "in.zarr", "new.zarr", "--scale", "1,2,2", "--dry-run", "--recipe", "new.yaml"],
        {"name": "r", "description": "d", "steps": [{"kind": "blur", "sigma": 1.0}, {"kind": "reduce", "mode": "mean"}]},
    ),
}
SPELLINGS = (
    "0x1F", "0o17", "017", "190:20:30", "1_000", "yes", "~", ".inf", ".NaN", "2001-12-14t21:59:43.10-05:00", "!!binary aGk=",
    "!!set {a, b}", "!!omap [a: 1]", "? a\n: b", "&a x", "<<: {a: 1}", "!!int 'x'", "!!float 1:2", "!!timestamp x", "=",
    "0x" + "f" * 6000, "!!python/object/apply:os.system ['touch canary']",
)  # fmt: skip
"""Of YAML 1.1, which few expect."""


def fuzz_yaml(chance: Chance, _: Bench, tally: Tally) -> None:
    """Read an odd job file, training or recipe."""
    kind = chance.choice(["job", *FILES])
    words, document = FILES[kind]
    more = [chance.choice([*Job.model_fields, "no_such"]) for _ in range(chance.randint(0, 2))] if kind == "job" else []
    text = yaml.safe_dump(
        changed(chance, document | {name: value_of(chance) for name in more}), allow_unicode=chance.random() < 0.5
    )
    if chance.random() < 0.3:
        odd = chance.choice(SPELLINGS)
        text = re.sub(r": [^\n]+", lambda found: f": {odd}" if chance.random() < 0.3 else found[0], text)
    content = text.encode("utf-8", "surrogatepass")
    Path("new.yaml").write_bytes(damaged(chance, content) if chance.random() < 0.2 else content)
    tally.run(words)


def fuzz_names(chance: Chance, _: Bench, tally: Tally) -> None:
    """Give a volume, a picture, a model or a job file an odd name."""
    what = chance.choice(["in.zarr", "s.tif", "model.safetensors", "new.yaml"])
    name = text_of(chance)[:200].replace("/", "_").replace("\0", "_") or "x"
    if name in (".", "..") or not harmless(name):
        name = "x" + name.replace(".", "")
    Path("new.yaml").write_text(yaml.safe_dump({"input": "in.zarr", "output": "new" + name, "model": FAKE}))
    Path("new").mkdir(exist_ok=True)
    with contextlib.suppress(OSError, UnicodeError):
        Path("new", name).symlink_to(Path("..", what))
    given = chance.choice([f"new/{name}", name, f"new/{name}/", f"./new//{name}"])
    output = chance.choice(["new.zarr", f"new{name}"])
    volume = [["info", given], ["validate", given], ["enhance", given, output, *DRY], ["status", given], ["verify", given]]
    model = [["model", "show", given], ["enhance", "in.zarr", output, *DRY, "--model", given]]
    file = [["enhance", "--config", given, "--dry-run"], ["train", given, "--output", output]]
    picture = [["convert", given, output, "--voxel-size", "8,8,8"]]
    tally.run(chance.choice({"in.zarr": volume, "s.tif": picture, "model.safetensors": model, "new.yaml": file}[what]))


def fuzz_csv(chance: Chance, _: Bench, tally: Tally) -> None:
    """Give an odd table of section statistics."""
    rows: list[list[Any]] = [["channel", "z", "low", "high"], *([0, z, 10.0 * z, 200.0] for z in range(3))]
    if chance.random() < 0.4:
        rows[chance.randrange(4)][chance.randrange(4)] = text_of(chance)
    comma, end = chance.choice([",", ",", ",", ";", "\t"]), chance.choice(["\n", "\r\n", "\r"])
    content = end.join(comma.join(map(str, row)) for row in rows).encode("utf-8", "surrogatepass")
    kinds: list[Callable[[], bytes]] = [
        *[lambda: content] * 6,
        lambda: damaged(chance, content),
        lambda: chance.randbytes(chance.randint(0, 3000)),
        lambda: content.decode(errors="replace").encode("utf-16"),
        lambda: content + b"\n0,0," + b"9" * 200_000,
        lambda: content + b'\n"' + b"x" * 200_000,
        lambda: b",".join([b"x"] * 100_000),
        lambda: content * 500,
        lambda: b"\xef\xbb\xbf" + content,
        lambda: b"",
    ]
    Path("new.csv").write_bytes(chance.choice(kinds)())
    tally.run(["enhance", "in.zarr", "new.zarr", *DRY, "--statistics", "new.csv"])


def fuzz_cards(chance: Chance, bench: Bench, tally: Tally) -> None:
    """Change the card of a model file, or the file's head."""
    good = bench.folder / "model.safetensors"
    content = good.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    head = json.loads(content[8 : 8 + length])
    if chance.random() < 0.25:
        text = as_json(chance, head)
        Path("new.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    else:
        card = json.loads(head["__metadata__"][CARD_KEY])
        figures = {"dataset": "d", "protocol": "p", "method": "net", "psnr": 1.0, "ssim": 0.5}
        card |= {
            "provenance": {"data": ["a"], "metrics": [figures]},
            "voxel_size": {"smallest": [1, 1, 1], "largest": [99, 99, 99]},
        }
        save_file(load_file(good), "new.safetensors", {CARD_KEY: as_json(chance, card).decode("utf-8", "replace")})
    command = ["enhance", "in.zarr", "new.zarr", *DRY, "--model", "new.safetensors"]
    tally.run(chance.choice([command, ["model", "show", "new.safetensors"]]))


METADATA = {
    "zarr2": ("in.zarr2", [".zarray"]),
    "zarr3": ("in.zarr", ["0/zarr.json", "1/zarr.json"]),
    "ome-zarr-0.5": ("in.zarr", ["zarr.json"]),
    "ome-zarr-0.4": ("ome04.zarr", [".zattrs", ".zgroup", "0/.zarray"]),
    "n5": ("in.n5", ["attributes.json"]),
    "precomputed": ("in.pre", ["info"]),
}


def fuzz_metadata(kind: str) -> Callable[[Chance, Bench, Tally], None]:
    """Return what changes the metadata of volumes in a format."""
    name, keys = METADATA[kind]

    def fuzz(chance: Chance, bench: Bench, tally: Tally) -> None:
        key = bench.folder / name / chance.choice(keys)
        key.write_bytes(as_json(chance, json.loads(key.read_bytes())))
        size = ["--voxel-size", "8,32,32"] if kind == "zarr2" or chance.random() < 0.3 else []
        commands = [
            ["info", name, *size],
            ["enhance", name, "new.zarr", *DRY, *size],
            ["convert", name, "new.zarr", "--dry-run", *size],
            ["validate", name],
            ["status", name],
            ["enhance", "done.zarr", "new.zarr", *DRY, "--mask", name],
        ]
        tally.run(chance.choice(commands))
        bench.renew(name)

    return fuzz


def fuzz_chunks(chance: Chance, bench: Bench, tally: Tally) -> None:
    """Damage stored chunks."""
    name = chance.choice(["in.zarr", "in.n5", "in.pre", "in.zarr2", "ome04.zarr"])
    files = [file for file in (bench.folder / name).rglob("*") if file.is_file() and re.fullmatch(r"[\d._-]+", file.name)]
    for file in chance.sample(files, min(3, len(files))):
        file.write_bytes(damaged(chance, file.read_bytes()))
    tally.run(["convert", name, "new.zarr", "--voxel-size", "8,32,32"])
    bench.renew(name)


PICTURES: list[dict[str, Any]] = [
    {},
    {"compression": "zlib"},
    {"bigtiff": True},
    {"tile": (16, 16)},
    {"rowsperstrip": 4},
    {"predictor": 2, "compression": "zlib"},
    {"imagej": True, "photometric": None},
]


def fuzz_tiff(chance: Chance, _: Bench, tally: Tally) -> None:
    """Damage the heads of a picture, its content, or what it says of itself in XML."""
    xml = {"description": ome_xml(chance), "metadata": None} if chance.random() < 0.4 else {}
    options = {"photometric": "minisblack"} | (xml or chance.choice(PICTURES))
    tifffile.imwrite("new.tif", noise((3, 20, 24)), **options)
    act = chance.random()
    if act < 0.4:
        content = Path("new.tif").read_bytes()
        cut = chance.choice([0, 8])
        Path("new.tif").write_bytes(content[:cut] + damaged(chance, content[cut:]))
    elif act < 0.7:
        with contextlib.suppress(Exception), tifffile.TiffFile("new.tif", mode="r+b") as file:
            tags = list(file.pages[chance.randrange(len(file.pages))].tags)
            for tag in chance.sample(tags, min(2, len(tags))):
                tag.overwrite(chance.choice([0, 1, 2, 3, 255, 2**16 - 1, 2**31, 2**32 - 1]))
    tally.run(["convert", "new.tif", "new.zarr", "--voxel-size", "8,8,8"])


INNER = (
    "",
    '<TiffData IFD="0" PlaneCount="3"/>',
    '<TiffData IFD="99" FirstZ="5"/>',
    '<TiffData IFD="x"/>',
    '<TiffData><UUID FileName="/etc/passwd">urn:uuid:1</UUID></TiffData>',
    "<TiffData/>" * 5000,
    "<a>" * 3000,
    "&l9;",
    "&xxe;",
)


def ome_xml(chance: Chance) -> str:
    """Return odd OME-XML for three sections of 20 x 24."""
    sizes: dict[str, Any] = {"SizeX": 24, "SizeY": 20, "SizeZ": 3, "SizeC": 1, "SizeT": 1}
    for _ in range(chance.randint(0, 2)):
        sizes[chance.choice(list(sizes))] = chance.choice(
            [0, -1, 1, 4, 2**20, 2 * 10**9, 2**31, 2**63, 10**30, "x", "", "1e9", "NaN"]
        )
    stated = " ".join(f'{name}="{value}"' for name, value in sizes.items())
    order = chance.choice(["XYZCT", "XYZCT", "XYCZT", "XY", "ZYX", ""])
    dtype = chance.choice(["uint8", "uint8", "uint16", "bit", "complex", "x"])
    unit = text_of(chance) if chance.random() < 0.2 else "8"
    inner = chance.choice(INNER)
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "ha"}">' for n in range(10))
    declared = f'<!DOCTYPE OME [{entities}<!ENTITY xxe SYSTEM "file:///etc/passwd">]>' if chance.random() < 0.2 else ""
    pixels = f'ID="Pixels:0" DimensionOrder="{order}" Type="{dtype}" {stated} PhysicalSizeX="{unit}"'
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    image = f'<Image ID="Image:0"><Pixels {pixels}>{inner}</Pixels></Image>'
    text = f'<?xml version="1.0"?>{declared}<OME xmlns="{schema}">{image}</OME>'
    return text.encode("ascii", "replace").decode()


def fuzz_records(chance: Chance, bench: Bench, tally: Tally) -> None:
    """Change the plan, the table or the ledger of a finished job."""
    place = bench.folder / "done.zarr.job"
    file = chance.choice(sorted(file for file in place.rglob("*") if file.is_file() and file.stat().st_size))
    content = file.read_bytes()
    if file.name == "plan.json" and chance.random() < 0.8:
        content = as_json(chance, decode(content))
        with suppress(ValueError):  # sealed, so that more than the checksum is asked
            content = encode(dict(json.loads(content)))
    else:
        content = damaged(chance, content)
    file.write_bytes(content)
    tally.run([chance.choice(["status", "verify", "clean", "status"]), "done.zarr"])
    bench.renew("done.zarr.job")


KINDS: dict[str, Callable[[Chance, Bench, Tally], None]] = {
    "options": fuzz_options,
    "yaml": fuzz_yaml,
    "names": fuzz_names,
    "csv": fuzz_csv,
    "cards": fuzz_cards,
    **{kind: fuzz_metadata(kind) for kind in METADATA},
    "chunks": fuzz_chunks,
    "tiff": fuzz_tiff,
    "records": fuzz_records,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Bench:
    """Give a folder with one small thing of every kind, deep enough that ``..`` leads nowhere else."""
    folder = tmp_path_factory.mktemp("fuzz") / "a" / "b" / "c" / "d"
    folder.mkdir(parents=True)
    return Bench(folder, tiny_model)


@pytest.fixture
def bench(made: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Make that folder the current one and the home, and let no request leave the machine."""
    monkeypatch.chdir(made.folder)
    monkeypatch.setenv("HOME", str(made.folder))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    monkeypatch.setenv("GCE_METADATA_ROOT", "127.0.0.1:9")
    return made


def run(kind: str, numbers: range, bench: Bench) -> Tally:
    """Run cases of a kind."""
    tally = Tally()
    for number in numbers:
        KINDS[kind](Chance(f"{kind} {number}"), bench, tally)
        bench.sweep()
    return tally


@pytest.mark.parametrize("kind", KINDS)
def test_odd_input_is_taken_or_refused_by_name(kind: str, bench: Bench) -> None:
    """No internal error, no traceback, no control character, no hang, no memory beyond the bound."""
    tally = run(kind, range(FAST), bench)
    assert not tally.bugs
    assert tally.outcomes.total() == FAST
    assert not list(bench.folder.rglob("canary"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_thousand_odd_inputs_are_taken_or_refused_by_name(
    kind: str, bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    """``--junitxml=FILE -o junit_family=xunit1`` keeps the counts; a live log would take the program's stderr away."""
    tally = run(kind, range(FAST, FAST + SLOW), bench)
    counts = dict(tally.outcomes.most_common())
    record_property(kind, f"at most {tally.slowest:.1f} s and {tally.most_bytes >> 20} MiB; {counts}")
    assert not tally.bugs
    assert not list(bench.folder.rglob("canary"))


def test_bugs_are_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of another kind, escapes that are printed, and memory that grows."""
    held: list[bytes] = []

    def broken(*_: object, **__: object) -> None:
        sys.stderr.write("\x1b[31m")
        held.append(b"x" * (2**29 + 2**27))
        raise ZeroDivisionError

    monkeypatch.setattr("volumetool.storage.open.open_volume", broken)
    tally = Tally()
    tally.run(["info", str(bench.folder / "in.zarr")])
    assert tally.outcomes == {"internal": 1}
    (bug,) = tally.bugs
    assert "'internal'" in bug
    assert "'control characters'" in bug
    assert "MiB'" in bug or not Path("/proc/self/clear_refs").exists()
