"""Every error that volumetool raises on purpose, as one tree.

::

    VolumetoolError                exit code
      InputError        input.*    2   the volume to read: missing, not a volume, no voxel size, axes, dtype
      OutputError       output.*   2   the volume to write: exists, lies inside the input, is damaged
        StorageFullError  output.full  5   no room where the output goes; what was finished is kept
      ConfigError       config.*   2   an option or configuration file says something that cannot be
      ModelError        model.*    2   a model: unknown, broken file, does not fit the volume
      FingerprintError  job.*      2   the output belongs to a job with other settings
      ResourceError     resource.* 2   the plan does not fit the memory, disk or devices at hand
      DataError         data.*     1   stored bytes that cannot be read or are not what was written
      NumericsError     numerics.* 1   a network that makes NaN, or a worker that computes other bytes
      LedgerError       ledger.*   1   the job's folder: not to be reached, damaged, or it contradicts the output
      ClusterError      cluster.*  1   workers cannot be started or reached, or die one after the other
        ClusterLostError           75  the scheduler or all workers went during a run, and none came back: start it again
      DeviceError       device.*   75  a device that is lost to this process: start it again
      ViewError         view.*     1   a picture cannot be taken: no browser, or a page that is never complete
      NotConformant     validate.* 4   a volume that breaks its format's rules

A code names one cause for ever: codes are added, never changed. A message says what clashed, both values, and what to do
next.
"""

from __future__ import annotations

from typing import ClassVar

from volumetool.redaction import printable, redact

_LONGEST = 20_000
"""Characters of a message: what it quotes may have been made to be long."""


class VolumetoolError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    code : str
        Stable, machine-readable name of the cause, such as ``"input.no-voxel-size"``.
    message : str
        What clashed, with both values.
    hint : str
        What to do next; printed on a line of its own.
    where : str, optional
        The volume, chunk, region or file that the error is about.
    detail : str, optional
        More, for programs and bug reports: told with ``--json`` alone.

    Texts lose what must not be repeated: secrets in URLs, and control characters.

    Attributes
    ----------
    exit_code : int
        Exit code of the command line.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, message: str, *, hint: str = "", where: str | None = None, detail: str = "") -> None:
        message, hint, detail = (printable(redact(text[:_LONGEST])) for text in (message, hint, detail))
        where = None if where is None else printable(redact(where[:_LONGEST]))
        super().__init__(code, message, hint, where)
        self.code = code
        self.message = message
        self.hint = hint
        self.where = where
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments would be lost by the default pickling, and errors travel from workers to the driver.
        return _rebuild, (type(self), self.code, self.message, self.hint, self.where, self.detail)

    def as_dict(self) -> dict[str, str]:
        """Return the error as plain strings, for ``--json`` and for the ledger."""
        fields = {name: getattr(self, name) for name in ("code", "message", "hint", "where", "detail")}
        return {name: value for name, value in fields.items() if value}


def _rebuild(
    kind: type[VolumetoolError], code: str, message: str, hint: str, where: str | None, detail: str
) -> VolumetoolError:
    return kind(code, message, hint=hint, where=where, detail=detail)


class InputError(VolumetoolError):
    """The volume to read is missing, is not a volume, or lacks what the job needs."""

    exit_code = 2


class OutputError(VolumetoolError):
    """The volume to write exists already, or cannot be where it was asked to be."""

    exit_code = 2


class StorageFullError(OutputError):
    """There is no room left where the output goes: the run ends, and goes on once there is."""

    exit_code = 5


class ConfigError(VolumetoolError):
    """An option or configuration file says something that cannot be."""

    exit_code = 2


class ModelError(VolumetoolError):
    """A model is unknown, its file is broken, or it does not fit the volume."""

    exit_code = 2


class FingerprintError(VolumetoolError):
    """The output belongs to a job with other settings."""

    exit_code = 2


class ResourceError(VolumetoolError):
    """The plan does not fit the memory, disk or devices at hand."""

    exit_code = 2


class DataError(VolumetoolError):
    """Stored bytes cannot be read, or are not what was written."""


class NumericsError(VolumetoolError):
    """A network made NaN or infinity, or a worker computes other bytes than the plan."""


class LedgerError(VolumetoolError):
    """The records of a job are damaged or contradict each other."""


class ClusterError(VolumetoolError):
    """Workers cannot be started or reached, or die one after the other."""


class ClusterLostError(ClusterError):
    """The scheduler or all workers are gone, and did not come back while the run waited: start it again."""

    exit_code = 75


class DeviceError(VolumetoolError):
    """The device is lost to this process; a new one may find it well."""

    exit_code = 75


class ViewError(VolumetoolError):
    """A picture cannot be taken: there is no browser, or its page is never complete."""


class NotConformant(VolumetoolError):  # noqa: N818  (it names a verdict of `validate`, not a failure of the program)
    """A volume breaks the rules of its format."""

    exit_code = 4
