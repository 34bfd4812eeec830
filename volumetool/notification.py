"""Notifications: telling somebody that a run has ended, by mail, by a webhook or by a command.

What is told never changes the run: where it cannot be delivered that is a warning. Addresses of webhooks often are secrets, so
they are stored nowhere, and messages name their host alone.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import smtplib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.utils import formatdate
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote, urlsplit

from volumetool.redaction import printable, redact
from volumetool.version import __version__

SMTP = "VOLUMETOOL_SMTP"
"""Environment variable: the mail server, ``smtp://USER:PASSWORD@HOST:PORT`` or ``smtps://...``; else sendmail is asked."""

SECONDS = 5.0
"""For a connection, and for each answer. A scheduler that has told a run to stop gives ten in all."""

LONGEST = 7.0
"""For the whole of a notification."""

COMMAND = "exec:"
MAIL = "mailto:"

_ADDRESS = re.compile(r"[^\s@,;:<>\"()\[\]\\]{1,64}@[A-Za-z0-9.-]{1,255}")
_PROGRAMS = "/usr/sbin:/usr/lib"


def is_address(text: str) -> bool:
    """Return whether a text is an address of mail."""
    return _ADDRESS.fullmatch(text) is not None


def check_target(text: str) -> str:
    """Return where to tell that a run has ended, if it is such a place.

    Parameters
    ----------
    text : str
        ``mailto:ADDRESS``, a URL with the scheme https or http, or ``exec:COMMAND``.

    Raises
    ------
    ValueError
        It is none of these.
    """
    if text.startswith(MAIL) and _ADDRESS.fullmatch(text.removeprefix(MAIL)):
        return text
    if text.startswith(COMMAND) and _words(text):
        return text
    if text.startswith(("http://", "https://")) and not re.search(r"[\x00-\x20\x7f]", text):
        parts = urlsplit(text)
        if parts.hostname and parts.port != 0 and not parts.username:
            return text
    raise ValueError(f"{target_name(text)!r} is nobody to tell; write mailto:ME@EXAMPLE.ORG, https://HOST/PATH or exec:COMMAND")


def target_name(target: str) -> str:
    """Return a target as messages and logs may name it: of a webhook the host, of a command the program."""
    if target.startswith(COMMAND):
        program, more, _ = target.partition(" ")
        return f"{program}{' ...' if more else ''}"
    scheme, found, rest = target.partition("://")
    host = re.split(r"[/?#]", rest)[0].rpartition("@")[2]
    return f"{scheme}://{host}/..." if found else target


def notify(target: str, record: dict[str, Any]) -> str | None:
    """Tell that a run has ended; return why that was not possible, None where it was.

    Parameters
    ----------
    target : str
        As :func:`check_target` takes it. A webhook gets the record by POST, a command as its standard input.
    record : dict of JSON values
        What is told: ``kind``, ``state``, ``output`` and whatever else is known.
    """
    shown = {name: _shown(value) for name, value in record.items()}
    failed = ["it took too long"]

    def tell() -> None:
        try:
            _deliver(target, shown)
            failed.clear()
        except subprocess.CalledProcessError as error:  # its text holds the whole command, which may be a secret
            failed[:] = [f"the program ends with {error.returncode}"]
        except subprocess.TimeoutExpired:
            pass
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            failed[:] = [printable(redact(str(error).replace(target, target_name(target)))) or type(error).__name__]

    telling = threading.Thread(target=tell, daemon=True, name="volumetool-notification")
    telling.start()
    telling.join(LONGEST)
    why = list(failed)
    return f"{target_name(target)} was not told that the run ended: {why[0]}" if why else None


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shown(each) for name, each in value.items()}
    return printable(redact(value)) if isinstance(value, str) else value


def _deliver(target: str, record: dict[str, Any]) -> None:
    text = json.dumps(record, allow_nan=False)
    if target.startswith(MAIL):
        _mail(target.removeprefix(MAIL), record)
    elif target.startswith(COMMAND):
        subprocess.run(_words(target), input=text, text=True, timeout=SECONDS, check=True, capture_output=True)  # noqa: S603
    else:
        _post(target, text.encode())


def _words(target: str) -> list[str]:
    return shlex.split(target.removeprefix(COMMAND))


def _post(url: str, data: bytes) -> None:
    import requests  # it takes its time

    headers = {"Content-Type": "application/json", "User-Agent": f"volumetool/{__version__}"}
    try:  # a public host that leads to a private one is not followed
        with requests.post(url, data, headers=headers, timeout=SECONDS, allow_redirects=False, stream=True) as answer:
            if answer.status_code < 300:
                return
            why = f"the server answers {answer.status_code} {answer.reason}"
    except requests.RequestException as error:
        why = type(error).__name__  # its text holds the path, which may be a secret
    raise ValueError(why)


def _mail(address: str, record: dict[str, Any]) -> None:
    user = unquote(urlsplit(os.environ.get(SMTP, "")).username or "")
    subject = f"volumetool: {record.get('state')}: {record.get('output')}"
    text = "".join(f"{name}: {value}\n" for name, value in record.items())
    send_mail(user if _ADDRESS.fullmatch(user) else address, address, subject, text)


def send_mail(sender: str, address: str, subject: str, text: str, server: str | None = None) -> None:
    """Send a mail.

    Parameters
    ----------
    sender, address : str
        From whom, and to whom.
    subject, text : str
        What it says.
    server : str, optional
        As :func:`connect_to_mail` takes it.

    Raises
    ------
    OSError, ValueError
        As of :func:`connect_to_mail`; or the server refuses the mail.
    """
    message = EmailMessage()
    message["From"] = sender
    message["To"] = address
    message["Date"] = formatdate(localtime=True)
    message["Subject"] = " ".join(subject.split())
    message.set_content(text)
    with connect_to_mail(server) as connection:
        if connection is None:
            _hand_to_sendmail(message)
        else:
            connection.send_message(message)


@contextmanager
def connect_to_mail(server: str | None = None) -> Iterator[smtplib.SMTP | None]:
    """Yield a connection to a mail server, logged in there; None where sendmail takes the mail.

    Parameters
    ----------
    server : str, optional
        ``smtp://USER:PASSWORD@HOST:PORT`` or ``smtps://...``; without it ``VOLUMETOOL_SMTP`` names one, or sendmail is asked.

    Raises
    ------
    OSError, ValueError
        There is none, it cannot be reached, or it offers no encryption; messages hold no password.
    """
    named = urlsplit(server or os.environ.get(SMTP, ""))
    if not named.scheme:
        _sendmail()
        yield None
        return
    if named.scheme not in ("smtp", "smtps") or not named.hostname:
        raise ValueError(f"{SMTP} names no mail server; write smtp://USER:PASSWORD@HOST:PORT, or smtps://")
    with _connect(named.scheme, named.hostname, named.port or 0) as connection:
        if named.username:
            connection.login(unquote(named.username), unquote(named.password or ""))
        yield connection


def _connect(scheme: str, host: str, port: int) -> smtplib.SMTP:
    """Return a connection to a mail server, encrypted wherever another machine could listen and the server can."""
    if scheme == "smtps":
        return smtplib.SMTP_SSL(host, port, timeout=SECONDS, context=ssl.create_default_context())
    connection = smtplib.SMTP(host, port, timeout=SECONDS)
    connection.ehlo()
    if connection.has_extn("starttls"):
        connection.starttls(context=ssl.create_default_context())
    elif not _is_here(host):
        connection.close()
        raise ValueError(f"{host} offers no encryption; a mail server of another machine needs it (smtps://, or STARTTLS)")
    return connection


def _is_here(host: str) -> bool:
    return all(ip_address(str(found[4][0]).partition("%")[0]).is_loopback for found in socket.getaddrinfo(host, None))


def _sendmail() -> str:
    program = shutil.which("sendmail") or shutil.which("sendmail", path=_PROGRAMS)
    if program is None:
        raise ValueError(f"there is no sendmail here; {SMTP} names a mail server, such as smtps://USER:PASSWORD@HOST")
    return program


def _hand_to_sendmail(message: EmailMessage) -> None:
    given = message.as_bytes()
    subprocess.run([_sendmail(), "-t", "-i"], input=given, timeout=SECONDS, check=True, capture_output=True)  # noqa: S603
