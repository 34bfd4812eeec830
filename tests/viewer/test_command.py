"""`volumetool view` as users call it."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from small_jobs import write_input
from volumetool.cli.main import main

from volumetool.errors import ViewError
from volumetool.jobs.run import RunResult
from volumetool.viewer.browser import find_browser

COMMAND = [sys.executable, "-m", "volumetool.cli.main", "view"]


def test_a_view_listens_on_loopback_alone_and_ends_with_ctrl_c(job: RunResult) -> None:
    environment = {**os.environ, "SSH_CONNECTION": "192.0.2.1 5000 192.0.2.7 22"}
    command = [*COMMAND, job.plan.job.input, job.plan.output, "--progress", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as viewing:
        assert viewing.stdout is not None
        said = json.loads(viewing.stdout.readline())
        listening = [each for each in psutil.Process(viewing.pid).net_connections("inet") if each.status == "LISTEN"]
        assert len(listening) == 2
        assert all(ipaddress.ip_address(each.laddr.ip).is_loopback for each in listening)
        assert all(f"-L {each.laddr.port}:127.0.0.1:{each.laddr.port}" in said["tunnel"] for each in listening)
        page = httpx.get(said["link"], timeout=60)
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html")
        assert httpx.get(said["link"][:-2], timeout=60).status_code == 404
        viewing.send_signal(signal.SIGINT)
        _, errors = viewing.communicate(timeout=120)
    assert viewing.returncode == 0
    assert "Traceback" not in errors
    assert "12 done" in errors


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--url-only"], "config.local-volume"),
        (["--url-only", "--open"], "config.option"),
        (["--neuroglancer", "https://example.org"], "config.option"),
        (["--position", "1,2"], "config.option"),
        (["--position", "1,2,nan"], "config.option"),
        (["--zoom", "0"], "config.option"),
        (["--size", "10,10"], "config.option"),
        (["--host", "192.0.2.1"], "config.address"),
        (["--progress"], "config.no-progress"),
        (["--heat", "seconds"], "config.option"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_listens(
    tmp_path: Path, options: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _in_process([str(_volume(tmp_path)), *options, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_a_picture_without_a_browser_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ViewError, match="apt-get install chromium"):
        find_browser()
    assert _in_process([str(_volume(tmp_path)), "--screenshot", str(tmp_path / "picture.png"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "view.no-browser"
    assert not (tmp_path / "picture.png").exists()


def _volume(folder: Path) -> Path:
    return write_input(folder / "in.zarr", np.full((2, 8, 8), 7, np.uint8))


def _in_process(arguments: list[str]) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(["view", *arguments])
    return ended.value.code
