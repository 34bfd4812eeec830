"""HDF5 files as they are found: opened with errors that say what to do, and searched without leaving the file.

A file may link to other files, hold datasets whose voxels lie in others, and link in circles. Nothing outside is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from volumetool.errors import InputError
from volumetool.paths import check_regular

_MOST_OBJECTS = 100_000
_MOST_LINKS = 64

_UNOPENED = {
    "truncated file": ("was cut off", "Copy it again, or have the program that writes it close it."),
    "unable to lock file": (
        "is locked by a program that writes it",
        "Close it there first. On a file system without locks, set HDF5_USE_FILE_LOCKING=FALSE.",
    ),
    "already open for write": (
        "was not closed by the program that writes it",
        "Close it there first. If that program has ended, `h5clear --status FILE` marks the file as closed.",
    ),
}


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading.

    Raises
    ------
    InputError
        ``input.unreadable``: it is cut off, not closed, locked or damaged.
    """
    check_regular(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        text = str(error).strip("'\"")
        what, hint = next(
            (said for words, said in _UNOPENED.items() if words in text), (f"is damaged: {text}", "Copy it again.")
        )
        raise InputError("input.unreadable", f"{path} {what}", hint=hint, where=str(path)) from error


def find_object(file: h5py.File, path: str) -> h5py.Group | h5py.Dataset | None:
    """Return what lies at a path of a file; None if nothing does.

    Raises
    ------
    InputError
        ``input.unsupported``: a link on the way leads to another file. ``input.broken-metadata``: links lead in a circle.
    """
    place: h5py.Group | h5py.Dataset = file["/"]
    parts, links = path.split("/")[::-1], 0
    while parts:
        if (name := parts.pop()) in ("", "."):
            continue
        link = place.get(name, getlink=True) if isinstance(place, h5py.Group) else None
        if isinstance(link, h5py.ExternalLink):
            raise _outside(f"{file.filename}/{path}", "is a link to another file", [f"{link.filename}/{link.path.strip('/')}"])
        if isinstance(link, h5py.SoftLink):
            if (links := links + 1) > _MOST_LINKS:
                raise InputError(
                    "input.broken-metadata",
                    f"{file.filename}/{path} is reached by more than {_MOST_LINKS} links: they lead in a circle",
                    hint="Give the path of the dataset itself.",
                    where=file.filename,
                )
            place = file["/"] if link.path.startswith("/") else place
            parts += link.path.split("/")[::-1]
        elif link is None:
            return None
        else:
            place = place[name]
    return place


def datasets_in(group: h5py.Group) -> Iterator[h5py.Dataset]:
    """Yield all datasets below a group, each once; links are left out.

    Raises
    ------
    InputError
        ``input.too-large``: there are too many objects to look at.
    """
    seen, waiting = {h5py.h5o.get_info(group.id).addr}, [group]
    while waiting:
        place = waiting.pop()
        below = []
        for name in place:
            if not isinstance(place.get(name, getlink=True), h5py.HardLink):
                continue
            found = place[name]
            if (address := h5py.h5o.get_info(found.id).addr) in seen:
                continue
            seen.add(address)
            if len(seen) > _MOST_OBJECTS:
                raise InputError(
                    "input.too-large",
                    f"{group.file.filename} holds more than {_MOST_OBJECTS} groups and datasets",
                    hint="Name the dataset: FILE/PATH/OF/THE/DATASET.",
                    where=group.file.filename,
                )
            if isinstance(found, h5py.Group):
                below.append(found)
            elif isinstance(found, h5py.Dataset):
                yield found
        waiting += reversed(below)


def refuse_outside(dataset: h5py.Dataset) -> None:
    """Refuse a dataset whose voxels do not lie in its file.

    Raises
    ------
    InputError
        ``input.unsupported``: it is virtual, or has external storage.
    """
    made, place = dataset.id.get_create_plist(), f"{dataset.file.filename}{dataset.name}"
    if made.get_layout() == h5py.h5d.VIRTUAL:
        names = [made.get_virtual_filename(number) for number in range(min(made.get_virtual_count(), _MOST_LINKS))]
        raise _outside(place, "is virtual: it is made of other datasets", names)
    if count := made.get_external_count():
        names = [made.get_external(number)[0].decode(errors="replace") for number in range(min(count, _MOST_LINKS))]
        raise _outside(place, "keeps its voxels outside of the file", names)


def _outside(place: str, what: str, files: list[str]) -> InputError:
    return InputError(
        "input.unsupported",
        f"{place} {what} ({', '.join(dict.fromkeys(files)) or 'none'}); nothing outside of a file is opened for it",
        hint="Give the file that holds the voxels, or copy them into one file (`h5py`, or `h5repack -l CONTI`).",
        where=place,
    )
