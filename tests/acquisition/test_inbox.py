"""What is still being written is never read."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from arriving import sections, write_section

from volumetool.acquisition.image_source import TiffFolder
from volumetool.events import Event, SectionRefused
from volumetool.storage.images.names import may_hold_a_section

SETTLE = 1.0


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Inbox:
    """An inbox with its clock and what it reported."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.time, self.reports = folder, Time(), list[tuple[str, str]]()
        self.box = TiffFolder(folder, SETTLE, self._note, self.time)

    def _note(self, event: Event) -> None:
        assert isinstance(event, SectionRefused)
        self.reports.append((event.name, event.reason))

    def after(self, seconds: float) -> list[int]:
        """Look, wait, look again, and take what is whole."""
        self.box.look()
        self.time.now += seconds
        self.box.look()
        taken = []
        while (section := self.box.take()) is not None:
            taken.append(section.number)
        return taken


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


def encoded(compression: str | None, *, index_first: bool) -> bytes:
    """Return a TIFF file; libtiff and many microscopes write the index of strips behind them, tifffile in front."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, sections(1)[0], compression=compression, rowsperstrip=8)
    data = stream.getvalue()
    return data if index_first else _index_behind(data)


def _index_behind(data: bytes) -> bytes:
    """Move the first index of a little-endian TIFF to its end: the header tells of it once all else is there."""
    start = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[start : start + 2], "little")
    index = data[start : start + 2 + 12 * entries + 4]
    end = len(data) + len(data) % 2
    return data[:4] + end.to_bytes(4, "little") + data[8:].ljust(end - 8, b"\0") + index


@pytest.mark.parametrize("index", ["in front", "behind"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_that_is_written_slowly_is_taken_once_it_is_whole(inbox: Inbox, compression: str | None, index: str) -> None:
    """Even where the writer pauses for longer than a file must stand still: half a file is no TIFF."""
    data = encoded(compression, index_first=index == "in front")
    file = inbox.folder / "s_1.tif"
    for stop in np.linspace(0, len(data) - 8, 12).astype(int):
        file.write_bytes(data[:stop])
        assert inbox.after(3 * SETTLE) == []
    file.write_bytes(data)
    assert inbox.after(0.5 * SETTLE) == []
    assert inbox.after(0.6 * SETTLE) == [1]
    assert inbox.after(3 * SETTLE) == []


def test_a_file_of_full_length_is_not_taken_while_it_changes(inbox: Inbox) -> None:
    """A writer that reserves the whole file first: only its time of change tells."""
    data = encoded(None, index_first=True)
    file = inbox.folder / "s_1.tif"
    for number, stop in enumerate((2000, 3000, 4000), start=1):
        file.write_bytes(data[:stop].ljust(len(data), b"\0"))
        os.utime(file, ns=(number, number))
        assert inbox.after(0.9 * SETTLE) == []
    file.write_bytes(data)
    assert inbox.after(SETTLE) == [1]


def test_a_file_that_changes_while_it_is_read_is_read_again(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_section(inbox.folder, 1, sections(1)[0])
    read = TiffFolder._read

    def meddled(self: TiffFolder, name: str) -> object:
        section = read(self, name)
        os.utime(file, ns=(7, 7))
        return section

    monkeypatch.setattr(TiffFolder, "_read", meddled)
    assert inbox.after(SETTLE) == []
    monkeypatch.undo()
    assert inbox.after(SETTLE) == [1]


def test_a_damaged_file_is_told_once_and_taken_when_it_is_replaced(inbox: Inbox) -> None:
    (inbox.folder / "s_1.tif").write_bytes(b"II*\0 what comes here is no TIFF")
    for _ in range(3):
        assert inbox.after(2 * SETTLE) == []
    assert [name for name, _ in inbox.reports] == ["s_1.tif"]
    write_section(inbox.folder, 1, sections(1)[0], "s_{}.tif")
    assert inbox.after(2 * SETTLE) == [1]


def test_a_file_that_is_changed_after_it_was_taken_is_told(inbox: Inbox) -> None:
    file = write_section(inbox.folder, 1, sections(1)[0])
    assert inbox.after(SETTLE) == [1]
    os.utime(file, ns=(7, 7))
    inbox.box.look([str(file)])
    assert inbox.after(2 * SETTLE) == []
    assert [name for name, _ in inbox.reports] == ["scan_1.tif"]


def test_sections_come_by_number(inbox: Inbox) -> None:
    for number in (10, 9, 100, 8):
        write_section(inbox.folder, number, sections(1)[0])
    assert inbox.after(SETTLE) == [8, 9, 10, 100]


def test_a_stack_and_a_name_without_number_are_told_and_left(inbox: Inbox) -> None:
    tifffile.imwrite(inbox.folder / "s_1.tif", sections(3), photometric="minisblack")
    tifffile.imwrite(inbox.folder / "overview.tif", sections(1)[0])
    assert inbox.after(SETTLE) == []
    assert {name: why.split(";")[0] for name, why in inbox.reports} == {
        "s_1.tif": "it has 3 pages",
        "overview.tif": "its name holds no number",
    }


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("s_1.tif", True),
        ("s_1.TIFF", True),
        ("s_1.ome.tif", True),
        (".s_1.tif", False),
        ("~s_1.tif", False),
        ("s_1.tif.part", False),
        ("s_1.tmp", False),
        ("s_1.tmp.tif", False),
        ("s_1.PART.tif", False),
        ("s_1.png", False),
    ],
)
def test_names_that_programs_give_while_they_write_are_left_alone(name: str, holds: bool) -> None:  # noqa: FBT001
    assert may_hold_a_section(name) == holds


def test_the_number_in_which_names_differ_counts(inbox: Inbox) -> None:
    write_section(inbox.folder, 7, sections(1)[0], "run2_s{}_30kV.tif")
    assert inbox.after(2 * SETTLE) == []  # which of its three numbers?
    write_section(inbox.folder, 8, sections(1)[0], "run2_s{}_30kV.tif")
    assert inbox.after(2 * SETTLE) == [7, 8]
    write_section(inbox.folder, 9, sections(1)[0], "run2_s{}_30kV.tif")
    assert inbox.after(2 * SETTLE) == [9]
