"""Takes in the files that accounts send: bytes to the disk as they come, a look at what is whole, an end for what is not."""

from __future__ import annotations

import errno
import logging
import os
import queue
import secrets
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from volumetool.errors import InputError, VolumetoolError
from volumetool.paths import sync_folder
from volumetool.portal.problems import in_words
from volumetool.portal.queries import LOOKED_AT, RECEIVING, REFUSED, USABLE, Database, now
from volumetool.portal.settings import PortalSettings
from volumetool.portal.supervisor import LONGEST_REASON, Supervisor, preview_command
from volumetool.portal.tables import Upload
from volumetool.portal.transfer.inspection import inspect, kind_of

_log = logging.getLogger(__name__)

PART = "part"
"""Name of a file whose bytes still come."""

SPARE = 2**30
"""Bytes of the disk that uploads leave to the portal itself."""

_SYNCED = 2**26
"""After so many bytes what came is brought to the disk: the end of a request waits for no more."""

_LOOK_SECONDS = 600.0

_SIDE = 96
"""Side of the crops that are shown of a single section, in voxels: they are there in 0.6 of the time of the usual ones."""


class Overtaken(Exception):  # noqa: N818  (no fault of the program)
    """A later request goes on with the upload."""


class DiskFull(Exception):  # noqa: N818
    """The disk has no room for what comes."""


@dataclass
class _Turn:
    """Whose turn it is to write an upload: that of the last request for it."""

    number: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Arrival:
    """The bytes of one request, which are written as they come.

    Parameters
    ----------
    file : Path
        What they are added to.
    turn : _Turn
        A later request takes it over: a connection that is cut may look open from here for minutes.

    Raises
    ------
    Overtaken
        The file is not there any more.
    """

    def __init__(self, file: Path, turn: _Turn) -> None:
        self._turn, self._folder, self._unsynced = turn, file.parent, 0
        with turn.lock:
            turn.number += 1
            self._mine = turn.number
            try:
                self._file: BinaryIO = open(os.open(file, os.O_WRONLY | os.O_APPEND), "ab", buffering=0)  # noqa: PTH123, SIM115  (`close` closes it)
            except FileNotFoundError:  # whole, or removed, since it was looked up: no other file takes its place
                raise Overtaken from None
            os.fsync(self._file.fileno())
            self.began = self.size = self._file.seek(0, os.SEEK_END)

    def write(self, data: bytes) -> None:
        """Add bytes.

        Raises
        ------
        Overtaken, DiskFull
        """
        with self._turn.lock:
            self._require_turn()
            if not has_room(self._folder, len(data)):
                raise DiskFull
            left = memoryview(data)
            try:
                while left:
                    left = left[self._file.write(left) :]
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise DiskFull from error
                raise
            finally:
                self.size = os.fstat(self._file.fileno()).st_size
            self._unsynced += len(data)
            if self._unsynced >= _SYNCED:
                os.fsync(self._file.fileno())
                self._unsynced = 0

    def take_back(self) -> None:
        """Forget the bytes of this request: they are not those that were sent."""
        with self._turn.lock, suppress(Overtaken):
            self._require_turn()
            self._file.truncate(self.began)
            self.size = self.began

    def close(self) -> None:
        """Bring what came to the disk."""
        with self._turn.lock, self._file:
            os.fsync(self._file.fileno())

    def _require_turn(self) -> None:
        if self._turn.number != self._mine:
            raise Overtaken


def has_room(folder: Path, length: int) -> bool:
    """Return whether the disk of a folder has room for bytes of uploads."""
    return shutil.disk_usage(folder).free - SPARE >= length


def voxel_size_of(upload: Upload) -> str:
    """Return the voxel size of an upload as options take it: what somebody said, else what its file says, else nothing."""
    told = upload.facts.get("voxel_size")
    return upload.voxel_size or (",".join(f"{size:g}" for size in told) if told else "")


class Intake:
    """The uploads of a portal, each in a folder of its own whose names are the portal's.

    Parameters
    ----------
    database : Database
        Knows whose they are.
    settings : PortalSettings
        Where they are, and for how long.
    supervisor : Supervisor
        Makes their previews.
    """

    def __init__(self, database: Database, settings: PortalSettings, supervisor: Supervisor) -> None:
        self._database, self._settings, self._supervisor = database, settings, supervisor
        self._turns: dict[str, _Turn] = {}
        self._whole: queue.Queue[str | None] = queue.Queue()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="volumetool-intake", daemon=True)

    def __enter__(self) -> Intake:
        for upload in self._database.uploads_in(LOOKED_AT):
            self._whole.put(upload)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending.set()
        self._whole.put(None)
        self._thread.join()

    def folder(self, upload: str) -> Path:
        """Return the folder of an upload."""
        return self._settings.data / "uploads" / upload

    def place(self, upload: Upload) -> Path:
        """Return the file of an upload, whole or not."""
        return self.folder(upload.id) / (upload.file or PART)

    def preview(self, upload: Upload) -> Path:
        """Return the file of the page that shows what models make of an upload, whether it is there or not."""
        return self.folder(upload.id) / f"preview-{voxel_size_of(upload)}.html"

    def has_room(self, length: int) -> bool:
        """Return whether the disk has room for a file."""
        return has_room(self._settings.data, length)

    def begin(self, upload: Upload) -> int | str | None:
        """Begin an upload; return why not: the bytes that its account lacks for it, or a sentence."""
        upload.id, upload.state, upload.touched, upload.facts = secrets.token_hex(8), RECEIVING, now(), {}
        if (refused := self._database.add_upload(upload)) is not None:
            return refused
        folder = self.folder(upload.id)
        folder.mkdir(mode=0o700, parents=True)
        (folder / PART).touch(mode=0o600)
        sync_folder(folder)
        self._supervisor.get_ready()  # for the preview
        return None

    def length(self, upload: Upload) -> int:
        """Return how many bytes of an upload are on the disk; who still sends to it is overtaken."""
        if upload.state != RECEIVING:
            return upload.length
        arrival = self.take(upload)
        arrival.close()
        if arrival.size == upload.length:
            self.received(upload, arrival.size)  # the portal was killed between the last byte and the note of it
        return arrival.size

    def take(self, upload: Upload) -> Arrival:
        """Return what the bytes of a request are written to; who still sends to it is overtaken."""
        return Arrival(self.place(upload), self._turns.setdefault(upload.id, _Turn()))

    def received(self, upload: Upload, size: int) -> None:
        """Note that bytes came; what is whole is looked at."""
        if size < upload.length:
            self._database.change_upload(upload.id, (RECEIVING,), touched=now())
        elif self._database.change_upload(upload.id, (RECEIVING,), touched=now(), state=LOOKED_AT):
            self._turns.pop(upload.id, None)
            self._whole.put(upload.id)

    def remove(self, upload: Upload) -> bool:
        """Forget an upload and delete its file; return False, and keep it, where a job that waits or runs reads it."""
        if not self._database.remove_upload(upload.id, str(self.place(upload))):
            return False
        if (turn := self._turns.pop(upload.id, None)) is not None:
            with turn.lock:
                turn.number += 1  # who still sends writes to the disk no more
        with suppress(FileNotFoundError):
            shutil.rmtree(self.folder(upload.id))
        return True

    def draw(self, upload: Upload) -> None:
        """Have the preview of an upload made."""
        if size := voxel_size_of(upload):
            page = self.preview(upload)
            options: dict[str, Any] = {"voxel_size": size}
            if upload.facts["shape"][0] == 1:
                options["side"] = _SIDE
            command = preview_command(options, str(self.place(upload)), page)
            self._supervisor.draw_page(page, command, upload.account_id)

    def _work(self) -> None:
        while True:
            with suppress(queue.Empty):
                if (upload := self._whole.get(timeout=_LOOK_SECONDS)) is None or self._ending.is_set():
                    return  # what waits is looked at after the next start
                self._try_to(partial(self.look, upload))
            self._try_to(self.end_old_ones)

    def _try_to(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001  (a full disk or a locked database passes)
            _log.exception("uploads could not be looked after")

    def look(self, number: str) -> None:
        """Look at an upload that is whole: what it is, or why it is refused. What is refused is deleted."""
        upload = self._database.upload(number, None)
        if upload is None or upload.state != LOOKED_AT:
            return
        folder = self.folder(number)
        try:
            facts = inspect(self._named(folder))
        except VolumetoolError as error:
            reason = in_words(error.message, error.hint)
            for file in folder.iterdir():
                reason = reason.replace(str(file), upload.name)
                file.unlink()
            self._database.change_upload(number, (LOOKED_AT,), state=REFUSED, reason=reason[:LONGEST_REASON], touched=now())
            return
        named = self._named(folder).name
        self._database.change_upload(number, (LOOKED_AT,), state=USABLE, facts=facts, file=named, touched=now())
        if (found := self._database.upload(number, None)) is not None:
            self.draw(found)

    def _named(self, folder: Path) -> Path:
        """Return the file of an upload under the name of its kind, which its first bytes tell."""
        for file in folder.glob("volume.*"):
            return file  # a portal that was killed has named it before
        kind = kind_of(folder / PART)
        if kind is None:
            raise InputError(
                "input.not-a-volume",
                f"{folder / PART} is no TIFF, MRC or PNG file by its first bytes",
                hint="Save it as one of these. Volumes in other formats are named by path, in folders that the operator opens.",
            )
        named = folder / f"volume.{kind}"
        (folder / PART).rename(named)
        sync_folder(folder)
        return named

    def end_old_ones(self) -> None:
        """Delete uploads that nobody went on with."""
        for number in self._database.ended_uploads():
            if (upload := self._database.upload(number, None)) is not None:
                self.remove(upload)
                self._database.note("-", "upload ended", f"{number} {upload.name}", "")
