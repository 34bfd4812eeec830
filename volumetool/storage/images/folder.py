"""The sections of a folder: one file each, in the order of their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from volumetool.errors import InputError
from volumetool.storage.images.descriptions import ome_depth
from volumetool.storage.images.file import incomplete, stack_in, stated_sizes, without_copies
from volumetool.storage.images.names import Pattern, is_temporary, is_tiff, numbered, shared_pattern, single_kind
from volumetool.storage.images.pages import TiffPage, kind, read_pages
from volumetool.storage.images.single_images import read_single
from volumetool.storage.images.stack import ImageStack, Plane, stack_of
from volumetool.storage.io.limits import LONGEST_AXIS
from volumetool.units import in_words

Gaps = Literal["refuse", "keep", "close"]
"""What becomes of numbers that are missing between sections: an error, blank sections, or neighbours that touch."""

_MOST_NAMES = 5


def section_files(folder: Path) -> list[Path]:
    """Return what in a folder has the name of an image and is not hidden; dangling links and half files too.

    Where there are TIFF files, other images beside them are pictures of something else.

    Raises
    ------
    InputError
        ``input.section-names``: several kinds of images, none of them TIFF.
    """
    seen = sorted(entry for entry in folder.iterdir() if entry.name[0] not in ".~")
    if tiffs := [entry for entry in seen if is_tiff(entry)]:
        return tiffs
    images = [entry for entry in seen if single_kind(entry)]
    if len(kinds := sorted({single_kind(entry).upper() for entry in images})) > 1:
        raise _names(folder, f"end like those of {' and '.join(kinds)}", "Keep one kind of images in the folder.")
    return images


def open_folder(folder: Path, files: Sequence[Path], gaps: Gaps) -> ImageStack:
    """Open the sections of a folder.

    Parameters
    ----------
    folder : Path
        The folder that the files lie in.
    files : sequence of Path
        Its image files, from :func:`section_files`; at least one.
    gaps : {"refuse", "keep", "close"}
        What becomes of numbers that are missing between sections: an error, blank sections in their places, or nothing.

    Raises
    ------
    InputError
        As `open_images`.
    """
    by_number = _by_number(folder, files)
    numbers = sorted(by_number)
    missing = [] if gaps == "close" else [(a + 1, b - 1) for a, b in pairwise(numbers) if b > a + 1]
    if missing and (gaps == "refuse" or numbers[-1] - numbers[0] >= LONGEST_AXIS):
        raise _gap(folder, numbers, missing)
    pages = {number: _page(file, len(files)) for number, file in by_number.items()}
    first = by_number[numbers[0]]
    for number, file in by_number.items():
        _require_equal(first, pages[numbers[0]], file, pages[number])
    places = range(numbers[0], numbers[-1] + 1) if gaps == "keep" else numbers
    planes = [Plane(str(by_number[n]), pages[n].offset) if n in by_number else None for n in places]
    notes = [f"blank, as their numbers are missing: {in_words(missing)}"] if missing else []
    stack = stack_of(folder, planes, pages[numbers[0]], stated_sizes((by_number[n].name, page) for n, page in pages.items()))
    return replace(stack, first=numbers[0], notes=stack.notes + tuple(notes), rows=max(page.rows for page in pages.values()))


def _by_number(folder: Path, files: Sequence[Path]) -> dict[int, Path]:
    """Return the files by the number in which their names differ.

    Raises
    ------
    InputError
        ``input.section-names``: names that do not agree in all else, hold no number, or twice the same.
    """
    if writing := [file.name for file in files if is_temporary(file.name)]:
        raise _names(
            folder, f"tell that they are being written: {_some(writing)}", "Wait for their last names, or delete them."
        )
    pattern = shared_pattern(file.name for file in files)
    found = {file: numbered(file.name, pattern) for file in files}
    odd = [file.name for file, reading in found.items() if reading is None or reading[0] != pattern]
    if pattern is None or odd:
        raise _unlike(folder, files, odd, pattern)
    by_number: dict[int, Path] = {}
    for file, reading in found.items():
        assert reading is not None  # noqa: S101  (looked at above)
        if (other := by_number.setdefault(reading[1], file)) != file:
            raise _names(folder, f"have the number {reading[1]} twice: {other.name} and {file.name}", "Keep one of them.")
    return by_number


def _unlike(folder: Path, files: Sequence[Path], odd: list[str], pattern: Pattern | None) -> InputError:
    if pattern is None or len(odd) == len(files):
        return _names(
            folder,
            f"have no number in which they differ while all else agrees: {_some([file.name for file in files])}",
            "Number the sections, and nothing else: section_0001.tif, section_0002.tif.",
        )
    like = f"{len(files) - len(odd)} are named {pattern}"
    return _names(
        folder,
        f"do not belong together: {like}, {len(odd)} are not: {_some(odd)}",
        "Copies, tiles and other detectors are no sections of the stack: move them to a folder of their own.",
    )


def _gap(folder: Path, numbers: list[int], missing: list[tuple[int, int]]) -> InputError:
    count = sum(last - first + 1 for first, last in missing)
    return InputError(
        "input.missing-sections",
        f"the sections of {folder} are numbered {numbers[0]} to {numbers[-1]}, and {count} of them "
        f"{'is' if count == 1 else 'are'} missing: {in_words(missing)}",
        hint="Copy them there; or --gaps keep: blank sections in their places, or --gaps close: without them, "
        "where the numbers count otherwise than one by one.",
        where=str(folder),
    )


def _names(folder: Path, what: str, hint: str) -> InputError:
    return InputError("input.section-names", f"the names of the sections in {folder} {what}", hint=hint, where=str(folder))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(sorted(names)[:_MOST_NAMES]) + more


def _page(file: Path, files: int) -> TiffPage:
    """Return the one section of a file.

    Raises
    ------
    InputError
        ``input.axes``: it holds more. ``input.incomplete``: it knows of more files than there are in the folder.
    """
    if single_kind(file):
        return read_single(file)
    pages, _ = without_copies(read_pages(file))
    count = len(pages) if pages[0].is_ome else stack_in(file, file, pages).shape[0]
    if count != 1:
        raise InputError(
            "input.axes",
            f"{file} has {count} pages of shape {pages[0].shape}; in a folder, each file is one greyscale section",
            hint="Keep only single sections in the folder, or give one multi-page file by its own name.",
            where=str(file),
        )
    depth = ome_depth(str(file), pages[0].description) if pages[0].is_ome else 1
    if depth > files:
        raise incomplete(str(file), f"says that it is one of {depth} sections; the folder has {files}")
    return pages[0]


def _require_equal(first: Path, wanted: TiffPage, file: Path, found: TiffPage) -> None:
    if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        here, there = kind(found.shape, found.dtype), kind(wanted.shape, wanted.dtype)
        raise InputError(
            "input.slice-shape",
            f"{file.name} is {here}, but {first.name} is {there} (y, x, dtype)",
            hint="All sections must have one size and dtype: crop or pad this one, or move it out of the folder.",
            where=str(file),
        )
