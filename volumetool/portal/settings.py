"""What an operator decides: where the portal keeps its data, who reaches it, and what its accounts may read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from sqlalchemy import URL

from volumetool.configuration import Bytes, Positive, explain, read_options
from volumetool.errors import ConfigError
from volumetool.listening.gate import LOOPBACK, is_loopback
from volumetool.paths import absolute_path
from volumetool.portal.access.institution import Institution
from volumetool.redaction import redact
from volumetool.sites.site import read_site

EVERYBODY = "everybody"
"""In the accounts of a root: all of them."""


def _folder(place: object) -> object:
    if isinstance(place, str) and "://" in place:
        raise ValueError(f"{redact(place)} is a URL; name a folder of this machine")
    return absolute_path(place) if isinstance(place, str | Path) else place


Folder = Annotated[Path, BeforeValidator(_folder)]


class Root(BaseModel):
    """A folder of volumes, and the accounts that may read it.

    Attributes
    ----------
    path : Path
        Folder; volumes in it and below it may be named.
    accounts : tuple of str
        Names of accounts, or ``everybody``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: Folder
    accounts: tuple[str, ...] = Field(min_length=1)

    def is_open_to(self, name: str) -> bool:
        """Return whether an account may read it."""
        return EVERYBODY in self.accounts or name in self.accounts


class Mail(BaseModel):
    """How the portal sends mail.

    Attributes
    ----------
    sender : str
        Address that its mails come from.
    server : str or None
        ``smtp://USER:PASSWORD@HOST:PORT`` or ``smtps://...``; without it ``VOLUMETOOL_SMTP`` names one, or sendmail is asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    sender: str = Field(pattern=r"^[^\s@]+@[^\s@]+$")
    server: str | None = Field(None, pattern=r"^smtps?://[^\s/]+/?$", repr=False)


_USUAL = {"https": ":443", "http": ":80"}
"""Ports that browsers leave out of hosts and origins."""


def _normal(url: object) -> object:
    """Return a URL as browsers send its origin: small letters, no port where it is that of its scheme, no slash at the end."""
    if not isinstance(url, str):
        return url
    parts = urlsplit(url.strip())
    return parts._replace(netloc=parts.netloc.lower().removesuffix(_USUAL.get(parts.scheme, ""))).geturl().rstrip("/")


Origin = Annotated[str, BeforeValidator(_normal)]


def hosts_of(url: str) -> frozenset[str]:
    """Return the Host headers of requests to an origin: with its usual port written out, too, as some proxies do it."""
    parts = urlsplit(url)
    return frozenset({parts.netloc, parts.netloc if parts.port else parts.netloc + _USUAL[parts.scheme]})


def _check_origin(name: str, url: str) -> None:
    parts = urlsplit(url)
    local = parts.scheme == "http" and is_loopback(parts.hostname or "")
    if not parts.hostname or parts.path.strip("/") or parts.query or not (parts.scheme == "https" or local):
        raise ValueError(f"{name} {url!r} is not https://HOST or https://HOST:PORT")


class PortalSettings(BaseModel):
    """The settings of ``portal.yaml``; each has a default that serves one lab on one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Folder = Field(
        Path("volumetool-portal"), description="Folder of the database, of outputs and logs.", validate_default=True
    )
    host: str = Field(LOOPBACK, description="Address to listen on; loopback is for this machine, or for a proxy on it.")
    port: int = Field(8850, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    url: Origin | None = Field(None, description="How browsers reach it through a proxy, such as https://em.example.org.")
    viewer_port: int = Field(0, ge=0, le=65535, description="Port of Neuroglancer, beside the pages; 0 takes a free one.")
    viewer_url: Origin | None = Field(
        None, description="How browsers reach that port through a proxy: another host name, https://em-view.example.org."
    )
    database: str | None = Field(None, description="URL of SQLAlchemy; a file of SQLite in `data` by default.")
    roots: tuple[Root, ...] = Field((), description="Folders whose volumes accounts may name, and which accounts.")
    running: Positive = Field(1, description="Jobs that run at once.")
    memory: Bytes | None = Field(
        None,
        description="Bytes of memory that each process of a job, plan or page may have; 3/4 of what is free by default.",
    )
    quota: Bytes = Field(2**40, description="Bytes of outputs and uploads that an account may have.")
    upload_limit: Bytes = Field(2**32, description="Bytes of a file that is uploaded.")
    upload_days: Positive = Field(7, description="An upload that nobody goes on with is deleted after so many days.")
    box_limit: Bytes = Field(2**28, description="Bytes of voxels of a box that is downloaded as TIFF.")
    idle_minutes: Positive = Field(120, description="A login ends after so many minutes without a request.")
    login_hours: Positive = Field(72, description="A login ends after so many hours.")
    metrics: Folder | None = Field(None, description="File with the token that Prometheus shows for /metrics.")
    mail: Mail | None = Field(None, description="Mail server, for owners whose jobs have ended.")
    slurm: dict[str, Any] | None = Field(None, description="Jobs run at a SLURM site: options of `volumetool slurm`.")
    invitation_days: Positive = Field(7, description="An invitation ends after so many days.")
    token_days: Positive = Field(366, description="A program's token ends after so many days at most.")
    passwords: bool = Field(True, description="Whether accounts may have passwords; without, the institution's login is left.")
    oidc: Institution | None = Field(None, description="The institution whose login is taken (OpenID Connect).")

    @model_validator(mode="after")
    def _some_way_in(self) -> PortalSettings:
        if not self.passwords and self.oidc is None:
            raise ValueError("passwords are off, and there is no oidc: nobody could log in; set one of them")
        return self

    @model_validator(mode="after")
    def _reached_safely(self) -> PortalSettings:
        if self.url is None:
            if not is_loopback(self.host):
                raise ValueError(
                    f"host {self.host} is reached by others, and there is no url: give `url: https://...` of the proxy that "
                    "encrypts, or leave `host` at loopback"
                )
            return self
        _check_origin("url", self.url)
        return self

    @field_validator("slurm")
    @classmethod
    def _a_site(cls, told: dict[str, Any] | None) -> dict[str, Any] | None:
        if told is not None:
            name, sites = told.get("site", "generic"), told.get("sites")
            options = {field: value for field, value in told.items() if field not in ("site", "sites")}
            try:
                read_site(name, None if sites is None else absolute_path(sites), **options)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return told

    @model_validator(mode="after")
    def _viewed_safely(self) -> PortalSettings:
        if self.viewer_port and self.viewer_port == self.port:
            raise ValueError(f"port and viewer_port are both {self.port}: Neuroglancer has a port of its own")
        if self.viewer_url is None:
            return self
        if self.url is None:
            raise ValueError(f"viewer_url {self.viewer_url!r} needs a `url` beside it, that of the pages")
        _check_origin("viewer_url", self.viewer_url)
        if urlsplit(self.viewer_url).hostname == urlsplit(self.url).hostname:
            raise ValueError(
                f"viewer_url {self.viewer_url!r} has the host name of url {self.url!r}: browsers send the cookie of a login to "
                "all ports of a host, so give Neuroglancer another name"
            )
        return self

    @property
    def has_viewer(self) -> bool:
        """Whether Neuroglancer is served: on loopback always, behind a proxy where it has an address."""
        return self.url is None or self.viewer_url is not None

    @property
    def database_url(self) -> str | URL:
        """URL of the database as SQLAlchemy takes it."""
        return self.database or URL.create("sqlite", database=str(self.data / "portal.sqlite"))


def read_settings(file: Path | None, **given: object) -> PortalSettings:
    """Return the settings of a YAML file, with what was given beside it in their place.

    Raises
    ------
    ConfigError
        ``config.file``, ``config.option``.
    """
    told = {} if file is None else read_options(file)
    try:
        return PortalSettings(**(told | {name: value for name, value in given.items() if value is not None}))
    except ValidationError as error:
        where = "" if file is None else f"{file}: "
        raise ConfigError(
            "config.option", f"{where}{explain(error, PortalSettings)}", hint="examples/portal.md lists the settings"
        ) from error


def make_folder(settings: PortalSettings) -> None:
    """Create the portal's folder, for its own user alone.

    Raises
    ------
    ConfigError
        ``config.folder``: it cannot be made, or others may write into it.
    """
    try:
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = settings.data.stat().st_mode & 0o077
    except OSError as error:
        raise ConfigError(
            "config.folder", f"the portal's folder {settings.data} cannot be made: {error}", hint="choose another `data`"
        ) from error
    if mode:
        raise ConfigError(
            "config.folder",
            f"the portal's folder {settings.data} is open to others (mode {mode:03o} beyond its user)",
            hint=f"chmod 700 {settings.data}, or choose another `data`: it holds accounts and their results",
        )
