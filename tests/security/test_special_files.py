"""Pipes, sockets and devices are never read: each read of one could last for ever."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from small_jobs import noise, write_input
from small_views import write_n5, write_precomputed, write_zarr2

import volumetool as vt
from volumetool.configuration import read_options
from volumetool.degradation import load_recipe
from volumetool.errors import VolumetoolError
from volumetool.evaluation.blind_rating import KEY, read_ratings
from volumetool.geometry import Box
from volumetool.jobs.planning.inputs import read_table
from volumetool.models import load_model
from volumetool.storage.open import open_volume
from volumetool.storage.voxels import read_voxels

SIZE = (30.0, 8.0, 4.0)
SHARDED = {"chunk": (2, 4, 8), "shard": (4, 8, 8)}


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS: dict[str, Callable[[Path], None]] = {"pipe": _pipe, "socket": _socket, "device": _device}


def _replaced(path: Path, kind: str) -> Path:
    path.unlink(missing_ok=True)
    KINDS[kind](path)
    return path


def _volumes(folder: Path) -> dict[str, Path]:
    voxels = noise((6, 10, 14))
    made = {"zarr.json": write_input(folder / "ome.zarr", voxels, voxel_size=SIZE, chunk=(2, 4, 8))}
    made[".zarray"] = write_zarr2(folder / "bare.zarr", voxels)
    made["attributes.json"] = write_n5(folder / "v.n5", voxels, SIZE)
    made["info"] = write_precomputed(folder / "pre", voxels, SIZE)
    return made


def _refused(read: Callable[[], object], kind: str) -> None:
    with pytest.raises(VolumetoolError, match=f"is a {kind}"):
        read()


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_of_every_format(tmp_path: Path, kind: str) -> None:
    for key, path in _volumes(tmp_path).items():
        _replaced(path / key, kind)
        _refused(lambda path=path: open_volume(path, voxel_size=SIZE), kind)
    group = write_input(tmp_path / "levels.zarr", noise((6, 10, 14)), voxel_size=SIZE)
    volume = open_volume(group)
    _replaced(group / "0" / "zarr.json", kind)
    _refused(volume.open, kind)
    _refused(lambda: open_volume(group), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_every_format(tmp_path: Path, kind: str) -> None:
    for path in _volumes(tmp_path).values():
        array = open_volume(path, voxel_size=SIZE).open()
        box = Box((0, 0, 0), (2, 4, 8))
        metadata = {"zarr.json", ".zarray", "attributes.json", "info"}
        for file in [each for each in path.rglob("*") if each.is_file() and each.name not in metadata]:
            _replaced(file, kind)
        _refused(lambda array=array, box=box: read_voxels(array, box, "input"), kind)


def test_shards_of_a_precomputed_volume(tmp_path: Path) -> None:
    import tensorstore as ts

    sharding = {"@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 0, "minishard_bits": 0, "shard_bits": 1}
    scale = {"resolution": [4, 8, 30], "encoding": "raw", "chunk_size": [8, 4, 2], "sharding": {**sharding, "hash": "identity"}}
    kvstore = {"driver": "file", "path": f"{tmp_path}/v/"}
    spec = {"driver": "neuroglancer_precomputed", "kvstore": kvstore, "scale_metadata": scale}
    voxels = noise((6, 10, 14))
    ts.open(spec, create=True, dtype="uint8", shape=(14, 10, 6, 1)).result().write(voxels.T[..., None]).result()
    array = open_volume(tmp_path / "v").open()
    for shard in list((tmp_path / "v").rglob("*.shard")):
        _replaced(shard, "pipe")
    _refused(lambda: read_voxels(array, Box.whole((6, 10, 14)), "input"), "pipe")


def test_a_job_names_the_pipe_among_its_input(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.zarr", noise((6, 10, 14)), voxel_size=SIZE)
    chunk = next(file for file in sorted((source / "0").rglob("*")) if file.is_file() and file.name != "zarr.json")
    options = {"model": "fake:identity?patch=1,16,16", "workers": 1, "statistics": str(tmp_path / "s.csv")}
    outcome = vt.enhance(source, tmp_path / "first.zarr", model=options["model"], workers=1)
    shutil.copy(tmp_path / "first.zarr.job" / "sections.csv", tmp_path / "s.csv")
    assert outcome.complete
    _replaced(chunk, "pipe")
    outcome = vt.enhance(source, tmp_path / "out.zarr", **options)
    assert not outcome.complete
    assert "is a pipe" in str(outcome.failures[0].error)


@pytest.mark.parametrize("kind", KINDS)
def test_every_other_file_that_a_user_names(tmp_path: Path, kind: str) -> None:
    yaml, table = _replaced(tmp_path / "job.yaml", kind), _replaced(tmp_path / "sections.csv", kind)
    _refused(lambda: read_options(yaml), kind)
    _refused(lambda: load_recipe(yaml), kind)
    _refused(lambda: read_table(str(table)), kind)
    _refused(lambda: read_ratings(_replaced(tmp_path / KEY, kind).parent, [table]), kind)
    image = _replaced(tmp_path / "stack.tif", kind)
    for read in (lambda: vt.convert(image, tmp_path / "o.zarr", voxel_size=SIZE), lambda: open_volume(image)):
        _refused(read, kind)
    _refused(lambda: load_model(_replaced(tmp_path / "m.safetensors", kind)), kind)


def test_a_pipe_among_sections_is_no_section(tmp_path: Path) -> None:
    for number in (1, 2):
        tifffile.imwrite(tmp_path / f"s_{number}.tif", np.full((8, 9), number, np.uint8), photometric="minisblack")
    os.mkfifo(tmp_path / "s_3.tif")
    with pytest.raises(VolumetoolError, match=r"s_3|pipe"):
        vt.convert(tmp_path, tmp_path.parent / "o.zarr", voxel_size=SIZE)
