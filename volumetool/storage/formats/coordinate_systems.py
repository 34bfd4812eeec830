"""OME-Zarr 0.6: axes stand in named coordinate systems, and transformations lead from one system to another.

The arrays of an image are placed in one system, by scale and translation alone. From there further transformations may lead to
other systems, such as an atlas. An image is taken as it lies in the first. Where that one counts voxels, it is taken as it lies
in the next system, which must be reached by scale and translation, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from volumetool.errors import InputError
from volumetool.storage.formats.base import Json, broken

STEPS = "coordinateTransformations"
_SYSTEMS = "coordinateSystems"


def has_systems(image: Mapping[str, Any]) -> bool:
    """Return whether an image has coordinate systems."""
    return _SYSTEMS in image


def in_one_system(url: str, image: Mapping[str, Any]) -> tuple[Json, tuple[str, ...]]:
    """Return an image as OME-Zarr 0.5 describes it: axes, and scales and translations of each level.

    Parameters
    ----------
    url : str
        Place of the image, for errors.
    image : mapping
        An object of ``multiscales``.

    Returns
    -------
    dict
        The same object with ``axes`` in place of coordinate systems.
    tuple of str
        What a user should know of the systems that are not gone by.

    Raises
    ------
    InputError
        ``input.unsupported``: it lies where it does by other transformations than scale and translation.
        ``input.broken-metadata``.
    """
    systems = {str(system["name"]): system["axes"] for system in image[_SYSTEMS]}
    reached = {_end(step, "output") for dataset in image["datasets"] for step in dataset[STEPS]}
    if len(reached) != 1 or not reached <= set(systems):
        raise broken(url, f"places its levels in the coordinate systems {sorted(reached)}, of {sorted(systems)}; wanted is one")
    (name,) = reached
    further = [step for step in image.get(STEPS) or [] if _end(step, "input") == name]
    shared: list[Json] = []
    if all(axis.get("type") == "array" for axis in systems[name]) and further:
        name, shared = _end(further[0], "output"), list(_plain(url, further.pop(0)))
        if name not in systems:
            raise broken(url, f"leads to the coordinate system '{name}', which it does not describe")
    datasets = [
        {"path": dataset["path"], STEPS: [plain for step in dataset[STEPS] for plain in _plain(url, step)]}
        for dataset in image["datasets"]
    ]
    others = ", ".join(f"'{_end(step, 'output')}' ({step['type']})" for step in further)
    notes = (f"taken as it lies in '{name}'; not gone by: {others}",) if others else ()
    return {**image, "axes": systems[name], "datasets": datasets, STEPS: shared}, notes


def _plain(url: str, step: Mapping[str, Any]) -> Iterator[Json]:
    """Yield the scales and translations that a transformation is made of, in their order."""
    kind = str(step["type"])
    if kind == "sequence":
        for each in step["transformations"]:
            yield from _plain(url, each)
    elif kind in ("scale", "translation") and kind in step:
        yield {"type": kind, kind: step[kind]}
    elif kind != "identity":
        where = f" to '{_end(step, 'output')}'" if "output" in step else ""
        said = f"in {step['path']}" if "path" in step else str(step.get(kind, ""))[:200]
        raise InputError(
            "input.unsupported",
            f"{url} is placed by the transformation '{kind}'{where} {said}".rstrip()
            + "; a volume has a voxel size and a position along each axis, and nothing else",
            hint="Resample the image into that coordinate system first; or give one of its levels with --voxel-size.",
            where=url,
        )


def _end(step: Mapping[str, Any], end: str) -> str:
    """Return the name of the system at an end of a transformation; drafts of 0.6 had it alone, later it is in an object."""
    named = step[end]
    return str(named.get("name") or named.get("path")) if isinstance(named, dict) else str(named)
