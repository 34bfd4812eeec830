"""Datasets of HDF5 files: which one is meant, and what its writers note of axes, voxel size and position.

A dataset is named by a path into the file, ``FILE.h5/volumes/raw``, as one in an N5 container is. Axes are as h5py shows them,
slowest first. Known are Imaris, BigDataViewer, ilastik, MATLAB, Velox, and what CREMI and funlib write; the last two know no
unit but nm.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from volumetool.errors import InputError
from volumetool.geometry.box import Size
from volumetool.storage.formats.base import FoundLevel, ParsedMetadata, are_axes, broken, scale_zyx, wrong_axes, zyx
from volumetool.storage.formats.hdf5.file import datasets_in, find_object, opened, refuse_outside
from volumetool.storage.formats.hdf5.reader import check_filters, reader_of
from volumetool.storage.formats.n5.bdv_xml import BdvSetup, find_setup
from volumetool.storage.formats.reader import open_reader
from volumetool.storage.formats.voxel_sizes import (
    UNKNOWN,
    StatedSize,
    contradiction,
    daisy_axes,
    of_space,
    read_offset,
    stated_by_daisy,
)
from volumetool.storage.io.arrays import SPACE
from volumetool.storage.io.limits import check_array
from volumetool.units import nanometres_per

_IMARIS = re.compile(r"/DataSet/ResolutionLevel (?P<level>[0-9]+)/TimePoint [0-9]+/Channel [0-9]+/Data")
_BDV = re.compile(r"/t[0-9]+/s(?P<setup>[0-9]+)/(?P<level>[0-9]+)/cells")
_ATTRIBUTES = ("axistags", "axis_names", "element_size_um", "resolution", "voxel_size", "units", "offset")
_ELEMENT, _MICROMETRE = "element_size_um", 1e3
_MATLAB = "MATLAB_class"
"""Attribute of an array of MATLAB's, which has rows, columns and sections, the first being the fastest."""

_VELOX = re.compile(r"/Data/Image/[0-9a-f]+/Data")
"""Images of Velox (.emd) have rows, columns and frames."""

_SHOWN = 20
"""Datasets that a message lists."""


def describe(path: Path, inside: str) -> ParsedMetadata:
    """Describe a dataset, or the only volume in a group.

    Parameters
    ----------
    path : Path
        The file.
    inside : str
        Path of the dataset or group; empty for the whole file.

    Raises
    ------
    InputError
        ``input.not-found``: no such dataset. ``input.not-a-volume``: several volumes, or none. ``input.unreadable``: the file
        is damaged, locked or was not closed. ``input.unsupported``: the voxels lie in other files, or are packed by an
        unknown filter. ``input.dtype``, ``input.axes``, ``input.broken-metadata``, ``input.too-large``, ``input.empty``.
    """
    with opened(path) as file:
        dataset = _choose(file, inside)
        refuse_outside(dataset)
        _check_type(dataset)
        check_filters(dataset)
        return _of_dataset(path, dataset)


def _choose(file: h5py.File, path: str) -> h5py.Dataset:
    """Return the dataset at a path of a file, or the only volume below it."""
    found = find_object(file, path)
    if isinstance(found, h5py.Dataset):
        return found
    volumes = _volumes(file["/"] if found is None else found)
    if found is not None and len(volumes) == 1:
        return volumes[0]
    shown = [f"{each.name} ({' x '.join(map(str, each.shape))}, {each.dtype})" for each in volumes[:_SHOWN]]
    listed = ", ".join(shown + ["..."] * (len(volumes) > _SHOWN)) or "no dataset of two or more dimensions"
    place = f"{file.filename}/{path}".rstrip("/")
    example = f"Give one of them, such as {file.filename}{volumes[0].name}." if volumes else "Give another file."
    if found is None:
        raise InputError(
            "input.not-found", f"{file.filename} holds nothing at {path}, but {listed}", hint=example, where=file.filename
        )
    raise InputError("input.not-a-volume", f"{place} holds {listed}: not one volume", hint=example, where=place)


def _volumes(group: h5py.Group) -> list[h5py.Dataset]:
    """Return the datasets that may be meant: of three dimensions or more, else of two; coarser levels of others are none."""
    found = []
    for dataset in datasets_in(group):
        level = _IMARIS.fullmatch(dataset.name) or _BDV.fullmatch(dataset.name)
        is_finest = level is None or int(level["level"]) == 0
        if is_finest and _holds_numbers(dataset) and dataset.ndim > 1:
            found.append(dataset)
    return [each for each in found if each.ndim > 2] or found


def _holds_numbers(dataset: h5py.Dataset) -> bool:
    return dataset.id.get_type().get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT)


def _check_type(dataset: h5py.Dataset) -> None:
    """Refuse what NumPy has no type for, such as 12 bits in 16 of which the first 4 mean nothing."""
    if not _holds_numbers(dataset) or not h5py.h5t.py_create(dataset.dtype).equal(dataset.id.get_type()):
        raise InputError(
            "input.dtype",
            f"{dataset.file.filename}{dataset.name} holds no integers or floats as NumPy knows them",
            hint="Write it as uint8, int8, uint16, int16 or float32 first.",
            where=dataset.file.filename,
        )


def _of_dataset(path: Path, dataset: h5py.Dataset) -> ParsedMetadata:
    shape, dtype = dataset.shape, dataset.dtype.newbyteorder("=")
    axes: tuple[str, ...] = SPACE
    conflict = ""
    if _IMARIS.fullmatch(dataset.name):
        shape, level, unit = _of_imaris(dataset)
    elif (bdv := _BDV.fullmatch(dataset.name)) is not None:
        dtype = np.dtype(np.uint16) if dtype == np.int16 else dtype
        level, unit = _of_bdv(path, dataset, bdv)
    else:
        own = {name: _plain(dataset.attrs[name]) for name in _ATTRIBUTES if name in dataset.attrs}
        axes = _axes(dataset, own)
        stated = list(_stated(own, axes))
        size = stated[0] if stated else UNKNOWN
        offset = read_offset(axes, own["offset"]) if stated and "offset" in own else (0.0, 0.0, 0.0)
        level, unit, conflict = FoundLevel("", size.scale, offset), size.unit, contradiction(stated)
    reader = reader_of(dataset, shape, dtype)
    place = f"{path}{dataset.name}"
    check_array(place, open_reader(reader))
    return ParsedMetadata(place, "hdf5", "virtual_chunked", axes, (level,), unit, reader=reader, conflict=conflict)


def _axes(dataset: h5py.Dataset, own: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the dimensions: as ilastik, funlib or HDF5 itself names them, else as their writer orders them."""
    if "axistags" in own:
        names = [axis["key"] for axis in json.loads(own["axistags"])["axes"]]
    elif _MATLAB in dataset.attrs:
        names = [*"czxy"][-dataset.ndim :]
    elif _VELOX.fullmatch(dataset.name):
        names = [*"yxz"]
    else:
        labels = [dimension.label for dimension in dataset.dims]
        names = daisy_axes(own) or (labels if all(labels) else [*"czyx"][-dataset.ndim :])
    axes = tuple(name.lower() for name in names)
    if len(axes) != dataset.ndim or not are_axes(axes):
        place = f"{dataset.file.filename}{dataset.name}"
        raise wrong_axes(place, axes if len(axes) == dataset.ndim else f"of an array of {dataset.ndim} dimensions")
    return axes


def _stated(own: Mapping[str, Any], axes: tuple[str, ...]) -> Iterator[StatedSize]:
    """Yield what ilastik and Fiji, CREMI and funlib say of the voxel size."""
    if isinstance(sizes := own.get(_ELEMENT), list):
        yield StatedSize(_ELEMENT, scale_zyx(of_space(axes, sizes), sizes), (_MICROMETRE,) * 3)
    yield from stated_by_daisy(own, axes)


def _of_imaris(dataset: h5py.Dataset) -> tuple[tuple[int, ...], FoundLevel, Size | None]:
    """Return shape, voxel size and position of an Imaris dataset, whose chunks are filled up with zeros."""
    image, size = find_object(dataset.file, "DataSetInfo/Image"), dataset.parent.attrs
    if not isinstance(image, h5py.Group):
        raise broken(dataset.file.filename, "has no DataSetInfo/Image, which says where the voxels of an Imaris file lie")
    shape = tuple(int(_text(size[f"ImageSize{axis}"])) for axis in "ZYX")
    if any(not 0 < n <= stored for n, stored in zip(shape, dataset.shape, strict=True)):
        raise broken(dataset.file.filename, f"says that {dataset.name} has {shape} voxels; stored are {dataset.shape}")
    first, last = ([float(_text(image.attrs[f"Ext{end}{axis}"])) for axis in (2, 1, 0)] for end in ("Min", "Max"))
    scale = zyx(dict(zip(SPACE, ((b - a) / n for a, b, n in zip(first, last, shape, strict=True)), strict=True)))
    centre = zyx(dict(zip(SPACE, (a + n / 2 for a, n in zip(first, scale, strict=True)), strict=True)))
    unit = nanometres_per(_text(image.attrs.get("Unit", "")))
    return shape, FoundLevel("", scale, centre), None if unit is None else (unit, unit, unit)


def _of_bdv(path: Path, dataset: h5py.Dataset, match: re.Match[str]) -> tuple[FoundLevel, Size | None]:
    """Return voxel size and position of a level of BigDataViewer; the XML beside the file says how large voxels are."""
    factors = find_object(dataset.file, f"s{match['setup']}/resolutions")
    if not isinstance(factors, h5py.Dataset):
        raise broken(dataset.file.filename, f"has no s{match['setup']}/resolutions, which says how coarse each level is")
    refuse_outside(factors)
    check_filters(factors)
    level = int(match["level"])
    rows = reader_of(factors, factors.shape, factors.dtype).read_box((slice(level, level + 1), slice(0, 3)))
    by = [float(n) for n in rows[0, ::-1]]  # stored x, y, z
    setup = find_setup(f"{path}/setup{int(match['setup'])}") or BdvSetup(UNKNOWN, (0.0, 0.0, 0.0))
    size = setup.size.scale
    scale = zyx(dict(zip(SPACE, (a * n for a, n in zip(size, by, strict=True)), strict=True)))
    placed = zip(scale, size, setup.shift, strict=True)
    shift = zyx(dict(zip(SPACE, ((a - b) / 2 + at * b for a, b, at in placed), strict=True)))
    return FoundLevel("", scale, shift), setup.size.unit


def _plain(value: Any) -> Any:
    """Return an attribute as JSON has it."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.decode() if isinstance(value, bytes) else value


def _text(value: Any) -> str:
    """Return an attribute as text; Imaris writes single letters."""
    plain = _plain(value)
    return "".join(plain) if isinstance(plain, list) else str(plain)
