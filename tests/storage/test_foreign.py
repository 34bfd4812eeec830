"""A file that is no volume is called what it is, with what to do."""

from __future__ import annotations

import errno
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from volumetool.errors import InputError
from volumetool.storage.open import open_volume

VOXELS = np.zeros((16, 18), np.uint8)


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zarr.json", "{}")


BEGINS = {
    "v.ims": (b"", "named like HDF5", "write it anew"),
    "v.dm4": (b"\0\0\0\4", "named like DigitalMicrograph", "write it anew"),
    "v.czi": (b"", "named like CZI", "write it anew"),
    "v.lif": (b"p\0\0\0", "LIF", "bioformats2raw"),
    "v.nd2": (b"\xda\xce\xbe\x0a", "ND2", "bioformats2raw"),
    "v.vsi": (b"II*\0", "VSI", "bioformats2raw"),
    "v.oir": (b"OLYMPUSRAWFORMAT", "OIR", "bioformats2raw"),
    "v.j2k": (b"\xff\x4f", "JPEG 2000", "TIFF"),
    "v.mhd": (b"NDims = 3", "MetaImage", "TIFF"),
    "header.wkw": (b"WKW\0", "webKnossos", "OME-Zarr"),
    "v.npy": (b"", "named like NumPy", "write it anew"),
    "v.nrrd": (b"", "named like NRRD", "write it anew"),
    "v.map.gz": (b"\x1f\x8b\x08", "gzip", "`gunzip -k v.map.gz`, then give v.map"),
    "v.rec.xz": (b"\xfd7zXZ\0", "xz", "`unxz -k v.rec.xz`"),
    "v.xml": (b"<?xml version='1.0'?><SpimData/>", "BigDataViewer", "N5"),
    "v.st": (b"", "named like MRC", "write it anew"),
    "v.mrc.bz2": (b"BZh9", "bzip2", "`bunzip2 -k v.mrc.bz2`, then give v.mrc"),
    "m.onnx": (b"\x08\x07", "model", "--model"),
    "job.yaml": (b"input: x", "YAML", "--config"),
    "data.bin": (b"??", "a file", "folder"),
}


@pytest.mark.parametrize("name", BEGINS)
def test_a_file_is_called_what_its_first_bytes_or_its_name_say(tmp_path: Path, name: str) -> None:
    content, kind, to_do = BEGINS[name]
    (tmp_path / name).write_bytes(content)
    _expect(tmp_path / name, kind, to_do)


def _expect(path: Path, kind: str, to_do: str) -> None:
    with pytest.raises(InputError, match=kind) as caught:
        open_volume(path)
    assert caught.value.code == "input.not-a-volume"
    assert to_do in caught.value.hint


def test_images_under_other_names_are_called_what_they_are(tmp_path: Path) -> None:
    for name, form in (("png", "PNG"), ("jpg", "JPEG")):
        Image.fromarray(VOXELS).save(tmp_path / name, form)
        _expect(tmp_path / name, form, f"must end in .{name}")
    tifffile.imwrite(tmp_path / "stack.dat", VOXELS)
    _expect(tmp_path / "stack.dat", "TIFF", "must end in .tif")


def test_archives_are_called_what_they_are(tmp_path: Path) -> None:
    _zip(tmp_path / "archive")
    _expect(tmp_path / "archive", "zip", ".zip or .ozx")


def test_real_files_of_other_software_are_known(data: Path) -> None:
    folder = data / "format-fixtures"
    for name, kind in (
        ("mrc/emd_3197.map.gz", "gzip"),
        ("mobie_bdv_n5_segmentation.xml", "BigDataViewer"),
    ):
        with pytest.raises(InputError, match=kind):
            open_volume(folder / name)


def test_a_folder_without_anything_known_names_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(json.dumps({}))
    _expect(tmp_path, "notes.txt", "own directory")


@pytest.mark.parametrize("name", ["v.h5", "v.h5/raw", "v.mrc", "v.tif"])
def test_a_file_that_is_closed_to_the_user_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    file = tmp_path / Path(name).parts[0]
    file.write_bytes(bytes(2000))

    def refuse(path: Any, *_: Any, **__: Any) -> int:  # the super-user may read any file
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(InputError, match="Permission denied") as caught:
            open_volume(tmp_path / name)
    assert caught.value.code == "input.unreadable"
