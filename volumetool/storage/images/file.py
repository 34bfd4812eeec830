"""The sections of one TIFF file: every page that it has, in the order that its own metadata say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import prod
from pathlib import Path, PurePath

from volumetool.errors import InputError
from volumetool.storage.formats.voxel_sizes import StatedSize
from volumetool.storage.images.descriptions import (
    Ome,
    TextBlock,
    imagej_depth,
    imagej_origin,
    imagej_size,
    ome_size,
    ome_uuid,
    read_imagej,
    read_ome,
    wrong_axes,
)
from volumetool.storage.images.microscopes import stated_by_resolution
from volumetool.storage.images.pages import TiffPage, kind, read_pages, require_alike
from volumetool.storage.images.stack import ImageStack, Plane, stack_of
from volumetool.units import in_words, runs_of

# What tifffile calls the axis along which plain pages follow each other; ImageJ often calls sections time points.
_SECTION_AXES = set("ZIQT")


def stack_in(place: Path, file: Path, pages: list[TiffPage]) -> ImageStack:
    """Return the stack that the pages of a file make up.

    Parameters
    ----------
    place : Path
        What was asked for: the file, or the folder that holds nothing else.
    file : Path
        Path of the file.
    pages : list of TiffPage
        From `read_pages`.

    Raises
    ------
    InputError
        As `open_images`.
    """
    if pages[0].is_ome:
        return _open_ome(place, file, pages)
    kept, note = without_copies(pages)
    require_alike(file, kept)
    promised = [_shaped_depth(file, page) for page in kept]
    origin = (0.0, 0.0, 0.0)
    if pages[0].imagej:
        metadata = read_imagej(pages[0].imagej)
        promised[0], origin = imagej_depth(str(file), metadata), imagej_origin(metadata)
    planes = tuple(_planes(file, kept, promised))
    stack = stack_of(place, planes, kept[0], stated_sizes((file.name, page) for page in kept))
    return replace(stack, notes=stack.notes + note, origin=origin)


def without_copies(pages: list[TiffPage]) -> tuple[list[TiffPage], tuple[str, ...]]:
    """Leave out the pages that the file marks as smaller copies.

    Returns
    -------
    list of TiffPage
        The other pages, in their order.
    tuple of str
        A note for the user; empty if there are no copies.
    """
    largest = max(page.bytes for page in pages)
    copies = [page.number for page in pages if page.reduced and page.bytes < largest]
    kept = [page for page in pages if page.number not in set(copies)]
    return kept, (f"left out, as the file calls them smaller copies: pages {in_words(runs_of(copies))}",) if copies else ()


def _planes(file: Path, pages: list[TiffPage], promised: list[int | None]) -> Iterator[Plane]:
    """Yield the sections of pages, some of which say how many sections begin with them.

    Raises
    ------
    InputError
        ``input.incomplete``: the file holds fewer than it says. ``input.axes``: several stacks.
    """
    starts = [n for n, count in enumerate(promised) if n == 0 or count is not None]
    stacks = [pages[n].number for n in starts if (promised[n] or 1) > 1]
    if len(stacks) > 1:
        raise InputError(
            "input.axes",
            f"{file} holds {len(stacks)} stacks, which begin at pages {in_words(runs_of(stacks))}; wanted is one",
            hint="Save each of them as a file of its own.",
            where=str(file),
        )
    for start, stop in zip(starts, [*starts[1:], len(pages)], strict=True):
        page, wanted = pages[start], promised[start] or 1
        if stop - start >= wanted:
            yield from (Plane(str(file), each.offset) for each in pages[start:stop])
            continue
        stored = 0 if page.start is None or stop - start > 1 else (file.stat().st_size - page.start) // page.bytes
        if stored < wanted:
            raise incomplete(str(file), f"says that it holds {wanted} sections; there are {max(stored, stop - start)}")
        yield from (Plane(str(file), page.offset, number) for number in range(wanted))


def _shaped_depth(file: Path, page: TiffPage) -> int | None:
    """Return how many sections tifffile wrote with a page; None where the page says nothing of it."""
    if not page.description.startswith('{"shape":'):
        return None
    try:
        said = json.loads(page.description)
        shape, axes = [int(n) for n in said["shape"]], str(said.get("axes", ""))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if tuple(shape[-2:]) != page.shape:  # cropped since by a program that left the text as it was
        return None
    names = axes[:-2] if len(axes) == len(shape) else "Q" * (len(shape) - 2)
    long = {name: n for name, n in zip(names, shape, strict=False) if n > 1}
    if sum(n > 1 for n in shape[:-2]) > 1 or set(long) - _SECTION_AXES:
        raise wrong_axes(str(file), dict(zip(names, shape, strict=False)))
    return prod(shape[:-2])


def _open_ome(place: Path, file: Path, pages: list[TiffPage]) -> ImageStack:
    ome = read_ome(str(file), pages[0].description)
    listed = {file: pages}
    sections: dict[int, tuple[Path, TiffPage]] = {}
    for block in ome.blocks:
        source = _source(file, ome, block)
        if source not in listed:
            listed[source] = _pages_beside(file, source, block)
        for z, page in _sections(file, ome, block, listed[source]):
            if z in sections:
                raise incomplete(str(file), f"says twice where section {z} is")
            sections[z] = source, page
    if missing := ome.depth - len(sections):
        raise incomplete(str(file), f"says that it holds {ome.depth} sections, and of {missing} of them not where they are")
    _require_all_used(listed, {(source, page.number) for source, page in sections.values()})
    ordered = [sections[z] for z in range(ome.depth)]
    for source in listed:
        require_alike(source, [page for where, page in ordered if where == source])
    for source, page in ordered:
        if (found := kind(page.shape, page.dtype)) != (wanted := kind(ordered[0][1].shape, ordered[0][1].dtype)):
            raise InputError(
                "input.slice-shape",
                f"{source.name} holds sections of {found}, {ordered[0][0].name} of {wanted} (y, x, dtype)",
                hint="All sections must have one size and dtype.",
                where=str(source),
            )
    planes = [Plane(str(source), page.offset) for source, page in ordered]
    every = ((source.name, page) for source, found in listed.items() for page in found)
    return stack_of(place, planes, ordered[0][1], stated_sizes(every))


def stated_sizes(pages: Iterable[tuple[str, TiffPage]]) -> tuple[StatedSize, ...]:
    """Return all that texts and microscopes, otherwise resolution tags, state of voxel sizes; equal ones once.

    Parameters
    ----------
    pages : iterable of tuple
        Name of the file, and page.
    """
    texts: dict[object, StatedSize] = {}
    tags: dict[object, StatedSize] = {}
    for name, page in pages:
        where = f"{name}, page {page.number}"
        found = [*_by_text(name, page), *page.stated]
        for known, sizes in ((texts, found), (tags, stated_by_resolution(page.per_unit, page.unit))):
            for size in sizes:
                known.setdefault((size.scale, str(size.unit)), replace(size, where=f"{size.where} in {where}"))
    return tuple((texts or tags).values())


def _by_text(name: str, page: TiffPage) -> Iterator[StatedSize]:
    size = ome_size(name, page.description) if page.is_ome else None
    if page.imagej:
        size = imagej_size(read_imagej(page.imagej), page.per_unit)
    if size is not None:
        yield size


def _source(file: Path, ome: Ome, block: TextBlock) -> Path:
    """Return the file that holds a block: this one, or one beside it."""
    if block.file is None or block.file == file.name or (block.uuid is not None and block.uuid == ome.uuid):
        return file
    other = file.parent / block.file
    if PurePath(block.file).name != block.file or "\\" in block.file or other.resolve().parent != file.parent.resolve():
        raise incomplete(str(file), f"has sections in {block.file}, and only files in its own folder are opened")
    if not other.is_file():
        raise incomplete(str(file), f"has sections in {block.file}, which is not in its folder")
    return other


def _pages_beside(file: Path, other: Path, block: TextBlock) -> list[TiffPage]:
    pages = read_pages(other)
    if block.uuid is not None and pages[0].is_ome and ome_uuid(str(other), pages[0].description) != block.uuid:
        raise incomplete(str(file), f"has sections in {other.name}, and the file of this name there is another one")
    return pages


def _sections(file: Path, ome: Ome, block: TextBlock, pages: list[TiffPage]) -> Iterator[tuple[int, TiffPage]]:
    count = ome.depth - block.first if block.count is None else block.count
    if not 0 <= block.first <= block.first + count <= ome.depth or block.page < 0:
        raise incomplete(str(file), f"speaks of sections {block.first} to {block.first + count - 1} of {ome.depth}")
    if block.page + count > len(pages):
        name = block.file or file.name
        wanted = f"{count} of its {ome.depth} sections from page {block.page + 1} of {name} on"
        raise incomplete(str(file), f"has {wanted}, which has {len(pages)} pages")
    yield from ((block.first + n, pages[block.page + n]) for n in range(count))


def _require_all_used(listed: dict[Path, list[TiffPage]], used: set[tuple[Path, int]]) -> None:
    for source, pages in listed.items():
        kept, _ = without_copies(pages)
        if left := [page.number for page in kept if (source, page.number) not in used]:
            raise incomplete(str(source), f"has pages {in_words(runs_of(left))}, of which the OME metadata say nothing")


def incomplete(file: str, what: str) -> InputError:
    """Return the error for a file that does not hold what its own metadata say."""
    return InputError(
        "input.incomplete",
        f"{file} {what}",
        hint="Copy all files of the acquisition again, with their names; or save the stack anew, without these metadata.",
        where=file,
    )
