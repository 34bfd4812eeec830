"""Mail of the portal: owners are told how their jobs ended, at addresses that they have confirmed."""

from __future__ import annotations

import logging
import re
import secrets
import threading
from datetime import timedelta
from types import TracebackType

from volumetool.errors import ConfigError
from volumetool.notification import is_address, send_mail
from volumetool.portal.accounts import hash_token
from volumetool.portal.queries import COMPLETE, Database, now
from volumetool.portal.settings import PortalSettings
from volumetool.portal.tables import Account, PortalJob
from volumetool.redaction import printable, redact
from volumetool.units import show_duration

_log = logging.getLogger(__name__)

POLL_SECONDS, AGAIN_SECONDS = 2.0, 60.0
"""Between two looks at the database; and after a mail that the server did not take."""

LONGEST = timedelta(days=1)
"""After so long it is no news any more how a job ended."""


class Mailer:
    """Tells owners how their jobs ended: from a thread of its own, so that a slow mail server holds up nothing.

    What has to be told stands in the database. A portal that is killed tells it after its next start; killed in the very moment
    between the mail and its note of it, it tells it twice.

    Parameters
    ----------
    database : Database
        Jobs and addresses.
    settings : PortalSettings
        The mail server.
    url : str
        Where the portal's pages are.
    """

    def __init__(self, database: Database, settings: PortalSettings, url: str) -> None:
        self._database = database
        self._settings = settings
        self._url = url
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="volumetool-mail", daemon=True)

    def __enter__(self) -> Mailer:
        if self._settings.mail is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while not self._ending.is_set():
            try:
                self.turn()
                self._ending.wait(POLL_SECONDS)
            except Exception as error:  # noqa: BLE001  (whatever a mail server does, the next owner is told)
                _log.warning("mail could not be sent: %s; this is tried again", redact(str(error)))
                self._ending.wait(AGAIN_SECONDS)

    def turn(self) -> None:
        """Tell the owners of all jobs that have ended and of which nobody was told.

        Raises
        ------
        OSError, ValueError
            The mail server does not take a mail; jobs after that one wait.
        """
        for job, account in self._database.untold():
            if account.mail is not None and not account.disabled and job.ended is not None and now() - job.ended < LONGEST:
                send(self._settings, account.mail, *self._text(job))
                _log.info("%s was told that job %s is %s", account.name, job.id, job.state)
            self._database.change(job.id, (job.state,), untold=False)

    def _text(self, job: PortalJob) -> tuple[str, str]:
        """Return subject and text; what a volume is called stands in the text alone."""
        took = (
            "" if job.began is None or job.ended is None else f" after {show_duration((job.ended - job.began).total_seconds())}"
        )
        lines = [f"Your job {job.id[:8]} is {job.state}{took}.", "", f"Volume: {printable(job.volume)}"]
        lines += ["", printable(job.reason)] if job.reason else []
        lines += ["", f"{'Its result' if job.state == COMPLETE else 'Its page'}: {self._url}/jobs/{job.id}", ""]
        return f"volumetool: job {job.id[:8]} is {job.state}", "\n".join(lines)


def send(settings: PortalSettings, address: str, subject: str, text: str) -> None:
    """Send a mail of the portal.

    Parameters
    ----------
    settings : PortalSettings
        The mail server.
    address : str
        To whom.
    subject, text : str
        What it says.

    Raises
    ------
    OSError, ValueError
        It cannot be sent.
    """
    assert settings.mail is not None  # noqa: S101  (callers have looked)
    send_mail(settings.mail.sender, address, subject, text, settings.mail.server)


def ask_to_confirm(database: Database, settings: PortalSettings, account: Account, address: str, url: str) -> None:
    """Send an address the link by which it becomes an account's.

    Parameters
    ----------
    database : Database
        Keeps what is asked.
    settings : PortalSettings
        The mail server.
    account : Account
        Whose address it will be.
    address : str
        What somebody typed.
    url : str
        Where the portal's pages are.

    Raises
    ------
    ConfigError
        ``config.mail``: it is no address, or no mail can be sent there.
    """
    if not is_address(address) or re.search(r"[^\x21-\x7e]", address) or len(address) > 254:  # RFC 5321
        raise ConfigError("config.mail", f"{address!r} is no address of mail", hint="write NAME@HOST")
    token = secrets.token_urlsafe(32)
    database.change_account(account.name, mail_asked=address, mail_token=hash_token(token))
    text = (
        f"{account.name} of {url} wants to be told here how jobs end.\n\nIf this is you, log in there and confirm it:\n"
        f"{url}/account/mail/{token}\n\nIf not, do nothing: no other mail will come.\n"
    )
    try:
        send(settings, address, "volumetool: is this your address?", text)
    except (OSError, ValueError) as error:
        _log.warning("mail could not be sent: %s", redact(str(error)))
        raise ConfigError(
            "config.mail", "no mail could be sent there", hint="look at the address, or ask the operator"
        ) from error
