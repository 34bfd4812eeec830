"""A browser never outlives who started it, however that ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PATIENCE = 120

BROWSE = """
from volumetool.viewer.browser import browsing
with browsing("about:blank", (400, 300)) as browser:
    print(browser.pid, flush=True)
    input()
"""

FAKE = """#!/bin/sh
for last; do :; done
touch "$(echo "$*" | sed 's/.*--user-data-dir=\\([^ ]*\\).*/\\1/')/used"
sleep 1000 &
wait
"""
"""Stands for a browser: it has a child, and writes into its profile."""


@pytest.fixture
def fake(tmp_path: Path) -> dict[str, str]:
    """Give an environment whose chromium is a script."""
    browser = tmp_path / "bin" / "chromium"
    browser.parent.mkdir()
    browser.write_text(FAKE)
    browser.chmod(0o755)
    return {"PATH": f"{browser.parent}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}


def started(environment: dict[str, str], child: str, count: int) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Start a process that shows a page; return it, and its browser with all children once so many of a name are there."""
    process = subprocess.Popen(
        [sys.executable, "-c", BROWSE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    browser = psutil.Process(int(process.stdout.readline()))
    until = time.monotonic() + PATIENCE
    while [name_of(each) for each in browser.children(recursive=True)].count(child) < count:
        assert alive(browser)
        assert time.monotonic() < until
        time.sleep(0.05)
    return process, [browser, *browser.children(recursive=True)]


def name_of(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def all_gone(family: list[psutil.Process]) -> bool:
    until = time.monotonic() + PATIENCE
    while (left := [each for each in family if alive(each)]) and time.monotonic() < until:
        time.sleep(0.05)
    return not left


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.thin(3)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None], ids=["killed", "told to end", "in order"])
def test_a_browser_ends_with_who_started_it(fake: dict[str, str], tmp_path: Path, end: signal.Signals | None) -> None:
    process, family = started(fake, "sleep", 1)
    assert len(family) == 3  # the browser, its child, and the one that watches
    with process:
        assert list(tmp_path.glob("volumetool-*/used"))
        if end is None:
            process.communicate("")
        else:
            process.send_signal(end)
        process.wait(PATIENCE)
    assert all_gone(family)
    until = time.monotonic() + PATIENCE
    while list(tmp_path.glob("volumetool-*")) and time.monotonic() < until:
        time.sleep(0.05)
    assert not list(tmp_path.glob("volumetool-*"))


@pytest.mark.browser
@pytest.mark.usefixtures("chromium")
@pytest.mark.xdist_group("browser")
def test_a_real_browser_is_gone_after_its_user_was_killed(tmp_path: Path) -> None:
    """Also where temporary files have a path that is too long for a socket in it."""
    folder = tmp_path / ("x" * 80)
    folder.mkdir()
    process, family = started({"TMPDIR": str(folder)}, "chromium", 2)
    with process:
        until = time.monotonic() + PATIENCE
        while not list(folder.glob("volumetool-*/SingletonSocket")):  # from there on it is at work
            assert time.monotonic() < until
            time.sleep(0.05)
        process.kill()
    assert all_gone(family)
    until = time.monotonic() + PATIENCE
    while list(folder.iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not list(folder.iterdir())
