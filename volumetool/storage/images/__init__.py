"""Stacks of images: one TIFF file with many pages, or a folder with one file per section: TIFF, PNG, JPEG or BMP.

Voxels are not read before they are asked for, and never more than the sections asked for. Every page that a file has is a
section, or the file is refused with what stands there.
"""

from __future__ import annotations

import os
from pathlib import Path

from volumetool.errors import InputError
from volumetool.paths import absolute_path
from volumetool.storage.formats.base import Format, FoundLevel, ParsedMetadata
from volumetool.storage.formats.voxel_sizes import contradiction, together
from volumetool.storage.images.file import stack_in
from volumetool.storage.images.folder import Gaps, open_folder, section_files
from volumetool.storage.images.names import SINGLE, is_tiff, single_kind
from volumetool.storage.images.pages import read_pages
from volumetool.storage.images.single_images import read_single
from volumetool.storage.images.stack import ImageStack
from volumetool.storage.io.arrays import SPACE
from volumetool.storage.io.kvstore import is_local

__all__ = ["IMAGES", "Gaps", "ImageStack", "find_images", "open_images"]


def open_images(path: str | os.PathLike[str], *, gaps: Gaps = "refuse") -> ImageStack:
    """Open a multi-page TIFF, an image of one section, or a folder of sections.

    The files of a folder are sorted by the number in which their names differ: section_9 comes before section_10.

    Parameters
    ----------
    path : str or path
        A local TIFF, BigTIFF or OME-TIFF file, one of PNG, JPEG or BMP, or a folder that holds one such file per section. An
        OME-TIFF file may name others in its folder that hold further sections.
    gaps : str
        What becomes of missing numbers between the sections of a folder: ``refuse``, ``keep`` (blank sections) or ``close``.

    Raises
    ------
    InputError
        ``input.not-found``, ``input.not-images`` (none of these), ``input.slice-shape`` (sections of different size or
        dtype), ``input.axes`` (colour, channels, several stacks), ``input.photometric`` (palettes), ``input.dtype``,
        ``input.unreadable`` (damaged or cut off), ``input.incomplete`` (fewer sections than the metadata say),
        ``input.hidden-pages``, ``input.broken-metadata``; of folders also ``input.section-names`` and
        ``input.missing-sections``.
    """
    place = absolute_path(path)
    if not place.exists():
        raise InputError("input.not-found", f"nothing to read at {place}", hint="Check the spelling.", where=str(place))
    files = section_files(place) if place.is_dir() else [place]
    if not files or not all(is_tiff(file) or single_kind(file) for file in files):
        raise _not_images(place)
    if len(files) > 1:
        return open_folder(place, files, gaps)
    return stack_in(place, files[0], [read_single(files[0])] if single_kind(files[0]) else read_pages(files[0]))


def find_images(url: str, gaps: Gaps = "refuse") -> ParsedMetadata | None:
    """Describe the stack of images, or the folder of sections, at a place; None where there is none.

    Raises
    ------
    InputError
        As `open_images`.
    """
    if not is_local(url):
        return None
    place = absolute_path(url)
    if not (place.is_file() and (is_tiff(place) or single_kind(place))) and not (place.is_dir() and section_files(place)):
        return None
    stack = open_images(place, gaps=gaps)
    size = together(stack.stated)
    z, y, x = (0.0 - at * length for at, length in zip(stack.origin, size.scale, strict=True))
    level = FoundLevel("", size.scale, (z, y, x))
    said = {"first_section": stack.first, "blank_sections": list(stack.blank), "notes": list(stack.notes)}
    conflict = contradiction(stack.stated)
    name = next((single_kind(file) for file in stack.files if single_kind(file)), "tiff")
    return ParsedMetadata(url, name, "virtual_chunked", SPACE, (level,), size.unit, {"volumetool": said}, stack, conflict)


IMAGES = Format("images (TIFF, PNG, JPEG, BMP)", find_images, (".tif", ".tiff", *SINGLE))


def _not_images(place: Path) -> InputError:
    names = sorted(entry.name for entry in place.iterdir())[:5] if place.is_dir() else [place.name]
    return InputError(
        "input.not-images",
        f"{place} holds {', '.join(names) or 'nothing'}; wanted is a TIFF, PNG, JPEG or BMP file, or a folder of sections",
        hint="Other images must be converted to TIFF first.",
        where=str(place),
    )
