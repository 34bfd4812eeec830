"""Whom a job names is told that its run ended, by real servers and programs, and nothing of that changes the run."""

from __future__ import annotations

import http.server
import json
import shlex
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_jobs import SMALL, Interrupting, digest, noise, run, write_input
from volumetool.cli.main import main

from volumetool import notification
from volumetool.errors import ConfigError, DataError, VolumetoolError
from volumetool.events import Event, Noted
from volumetool.jobs.job import make_job, read_job
from volumetool.jobs.planning.conflicts import resume_command
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.notification import SMTP, check_target, notify, target_name

HIDDEN = "s3cr3t-hook"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for who is told as long as a busy machine needs."""
    monkeypatch.setattr(notification, "SECONDS", 60.0)


class Hook(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted, and answers with the code that the path names, if it names one."""

    def do_POST(self) -> None:
        server: Any = self.server
        server.posted.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        code = int(self.path.rpartition("/")[2]) if self.path[-3:].isdigit() else 200
        self.send_response(code)
        if 300 <= code < 400:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


class Mailbox(socketserver.StreamRequestHandler):
    """Speaks SMTP, as far as a message needs it; asks for no name, and offers no encryption."""

    def handle(self) -> None:
        server: Any = self.server
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline().decode().strip():
            server.said.append(line)
            word = line.split()[0].upper()
            if word == "DATA":
                self.wfile.write(b"354 go on\r\n")
                # Whoever sends puts a dot before a line that begins with one, as one may after a line of a long path is broken.
                lines = [line.removeprefix(b".") for line in iter(self.rfile.readline, b".\r\n")]
                server.mails.append(message_from_bytes(b"".join(lines), policy=default))
            self.wfile.write(b"221 bye\r\n" if word == "QUIT" else b"250 fine\r\n")


@contextmanager
def serving(server: Any) -> Iterator[Any]:
    with server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def hook() -> Iterator[Any]:
    """Serve a webhook."""
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)) as server:
        server.posted = []
        server.url = f"http://127.0.0.1:{server.server_port}/services/{HIDDEN}"
        yield server


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Serve a mail server, and name it in the environment."""
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox)) as server:
        server.mails, server.said = [], []
        monkeypatch.setenv(SMTP, f"smtp://127.0.0.1:{server.server_address[1]}")
        yield server


def job_in(folder: Path) -> dict[str, Any]:
    source = write_input(folder / "in.zarr", noise((8, 24, 24)), chunk=(8, 16, 16))
    return {"input": str(source), "output": str(folder / "out.zarr"), **SMALL, "region": "1,1,1"}


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """Return the options of a job."""
    return job_in(tmp_path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest of the output of that job, of which nobody is told."""
    options = job_in(tmp_path_factory.mktemp("plain"))
    assert run(**options).complete
    return digest(options["output"])


def test_a_webhook_is_told_how_each_run_ended_and_how_far_it_came(job: dict[str, Any], hook: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(after=1), **job, notify=hook.url)
    chunk = tmp_path / "in.zarr/0/c/0/1/1"
    whole = chunk.read_bytes()
    chunk.write_bytes(b"no chunk")
    run(**job | {"output": str(tmp_path / "other.zarr")}, notify=hook.url)
    chunk.write_bytes(whole)
    assert run(**job, notify=hook.url).complete
    told = [record for _, record in hook.posted]
    assert [(each["kind"], each["state"], each["complete"]) for each in told] == [
        ("run", "interrupted", False),
        ("run", "failed", False),
        ("run", "complete", True),
    ]
    assert told[0]["output"] == told[2]["output"] == job["output"]
    assert told[1]["failed"] > 0
    assert told[2]["done"] == told[2]["regions"]


def test_an_error_that_ends_a_run_is_told_with_its_code(
    job: dict[str, Any], hook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise DataError("data.failing", "https://user:password@h.example/ is gone")

    monkeypatch.setattr("volumetool.jobs.run._run", fail)
    with pytest.raises(DataError):
        run(**job, notify=hook.url)
    ((_, record),) = hook.posted
    assert (record["state"], record["error"]["code"]) == ("failed", "data.failing")
    assert "password" not in json.dumps(record)


def test_a_mail_says_how_the_run_ended(job: dict[str, Any], mailbox: Any) -> None:
    assert run(**job, notify="mailto:lab@example.org").complete
    (mail,) = mailbox.mails
    assert (mail["To"], " ".join(mail["Subject"].split())) == ("lab@example.org", f"volumetool: complete: {job['output']}")
    assert f"output: {job['output']}" in mail.get_content()


def test_no_name_of_an_output_adds_a_header_to_a_mail(mailbox: Any) -> None:
    assert notify("mailto:lab@example.org", {"state": "complete", "output": "out\r\nBcc: all@example.org\r\n\r\n.zarr"}) is None
    (mail,) = mailbox.mails
    assert mail["Bcc"] is None
    assert not [line for line in mailbox.said if "all@example.org" in line]


def test_a_password_is_not_sent_to_another_machine_without_encryption(mailbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notification, "_is_here", lambda _: False)
    monkeypatch.setenv(SMTP, f"smtp://me:{HIDDEN}@127.0.0.1:{mailbox.server_address[1]}")
    why = notify("mailto:lab@example.org", {"state": "complete", "output": "out.zarr"})
    assert why is not None
    assert "encryption" in why
    assert not [line for line in mailbox.said if line.upper().startswith("AUTH")]


def test_a_command_gets_the_record_on_its_stdin_and_no_shell_reads_it(tmp_path: Path) -> None:
    program = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read() + sys.argv[2])"
    words = [sys.executable, "-c", program, str(tmp_path / "told"), "$(touch no)"]
    assert notify(f"exec:{shlex.join(words)}", {"kind": "run", "state": "complete", "output": "a;b"}) is None
    record, _, rest = (tmp_path / "told").read_text().partition("}")
    assert json.loads(record + "}")["output"] == "a;b"
    assert rest == "$(touch no)"


@pytest.mark.parametrize("program", ["import sys; sys.exit(3)", "import time; time.sleep(9)"])
def test_a_command_that_fails_is_named_without_its_arguments(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notification, "SECONDS", 0.3)
    why = notify(f"exec:{shlex.join([sys.executable, '-c', program, HIDDEN])}", {"state": "complete"})
    assert why is not None
    assert HIDDEN not in why
    assert why.endswith(("the program ends with 3", "it took too long"))


@pytest.mark.parametrize("target", ["/500", "/302", "nobody", "exec:false", "mailto:me@example.org"])
def test_a_notification_that_fails_is_a_warning_that_names_no_secret_and_changes_nothing(
    target: str, job: dict[str, Any], plain: str, hook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SMTP, f"smtp://me:{HIDDEN}@127.0.0.1:1")
    where = {"nobody": f"http://127.0.0.1:1/{HIDDEN}"}.get(target, hook.url + target if target[0] == "/" else target)
    said: list[Event] = []
    outcome = run(said.append, **job, notify=where)
    assert (outcome.exit_code, outcome.complete) == (0, True)
    (warning,) = [event for event in said if isinstance(event, Noted)]
    assert "was not told" in str(warning)
    assert HIDDEN not in str(warning)
    assert [path for path, _ in hook.posted if "elsewhere" in path] == []
    assert digest(job["output"]) == plain


def test_whom_to_tell_is_written_nowhere(
    job: dict[str, Any], hook: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--{name}={value}" for name, value in job.items() if name not in ("input", "output")]
    with pytest.raises(SystemExit) as ended:
        main(["enhance", job["input"], job["output"], *words, "--notify", hook.url, "-vv", f"--log-file={tmp_path / 'log'}"])
    assert ended.value.code == 0
    assert len(hook.posted) == 1
    said = capsys.readouterr()
    assert HIDDEN not in said.out + said.err + (tmp_path / "log").read_text()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and HIDDEN.encode() in path.read_bytes()] == []
    assert stored_plan(job["output"]).job.notify is None
    assert "notify" not in resume_command(make_job(**job, notify=hook.url))
    assert HIDDEN not in repr(make_job(**job, notify=hook.url))


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("exec:curl https://example.org", "config.notify"),
        ("http://127.0.0.1:8000/hook", "config.private-host"),
        ("https://10.0.0.7/hook", "config.private-host"),
        ("https://203.0.113.7/hook?token=1", "input.url-secret"),
    ],
)
def test_a_job_file_names_no_command_no_private_host_and_no_secret_and_the_user_may(
    target: str, code: str, tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"input": "a", "output": "b", "notify": target}))
    with pytest.raises(VolumetoolError) as caught:
        read_job(tmp_path / "job.yaml")
    assert caught.value.code == code
    assert read_job(tmp_path / "job.yaml", notify=target).notify == target


@pytest.mark.parametrize(
    "text", ["me", "mailto:", "mailto:a@b\r\nBcc: c@d", "ftp://h/x", "https://", "exec:", "file:///etc/x", "exec:'"]
)
def test_what_is_nobody_to_tell_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="notify"):
        make_job(input="a", output="b", notify=text)


def test_names_of_targets_hold_no_path_and_no_argument() -> None:
    assert target_name(check_target(f"https://hooks.example.org/{HIDDEN}?key={HIDDEN}")) == "https://hooks.example.org/..."
    assert target_name(check_target(f"exec:notify --token {HIDDEN}")) == "exec:notify ..."
