"""From the first link to the last log-out in a browser, on real sections, with a server that is killed in between."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tensorstore as ts
import tifffile
import yaml
from browsing import PASSWORD, settings_of
from numpy.typing import NDArray
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.usefixtures("chromium"),
    pytest.mark.xdist_group("browser"),
    pytest.mark.timeout(3600),
]

PATIENCE = 900
OPTIONS = {"model": "em-x4", "voxel_size": "30,16,16"}
PIXELS = 4
"""Pixels that a voxel of the result has on the screen, along either axis."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def serve(config: Path, stack: ExitStack) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Start the real server; it is ended with the test."""
    command = [sys.executable, "-m", "volumetool", "serve", "--config", str(config), "--json"]
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    stack.callback(process.kill)
    assert process.stdout is not None
    told: dict[str, Any] = json.loads(process.stdout.readline())
    return process, told


@dataclass
class Person:
    """Somebody in front of a browser."""

    browser: webdriver.Chrome
    url: str

    def wait(self, until: Any) -> Any:
        return WebDriverWait(self.browser, PATIENCE, 0.5, [NoSuchElementException, StaleElementReferenceException]).until(until)

    def arrives(self, title: str) -> None:
        self.wait(lambda shown: re.fullmatch(f"{title} - volumetool", shown.title))

    def fill(self, **fields: str) -> None:
        for name, text in fields.items():
            field = self.browser.find_element(By.NAME, name)
            if field.tag_name == "select":
                field.find_element(By.XPATH, f"option[text()='{text}']").click()
            else:
                field.clear()
                field.send_keys(text)

    def press(self, text: str) -> None:
        self.browser.find_element(By.XPATH, f"//button[starts-with(text(), '{text}')] | //a[text()='{text}']").click()

    def join(self, link: str, name: str) -> None:
        self.browser.get(link)
        self.fill(name=name, password=PASSWORD)
        self.press("Make the account")
        self.arrives("Jobs")

    def plan(self, volume: Path) -> str:
        """Plan a job; return its path."""
        self.browser.get(f"{self.url}/new")
        self.fill(input=str(volume), **OPTIONS)
        self.press("Plan")
        self.arrives("Job .*")
        return self.browser.current_url.removeprefix(self.url)

    def told(self, job: str) -> dict[str, Any]:
        """Return what the page's own script is told of a job."""
        ask = f"fetch('/api{job}').then(each => each.json()).then(arguments[0])"
        found: dict[str, Any] = self.browser.execute_async_script(ask)
        return found


def sections(data: Path, folder: Path) -> dict[str, Path]:
    """Write a real stack of 8 bits and one of 16."""
    eight = tifffile.imread(data / "kasthuri15-atum-sem" / "kasthuri15_s0001-0060.tif")[:4, 300:428, 300:428]
    sixteen = tifffile.imread(data / "emdiffuse-noisy-u16" / "brain_4w_03_noisy_u16.tif")
    stacks = {"eight": eight, "sixteen": np.stack([sixteen[at : at + 64, at : at + 64] for at in (200, 500)])}
    for name, stack in stacks.items():
        tifffile.imwrite(folder / f"{name}.tif", stack, photometric="minisblack")
    return {name: folder / f"{name}.tif" for name in stacks}


def test_from_the_first_link_to_the_last_log_out(browser: webdriver.Chrome, data: Path, tmp_path: Path) -> None:
    config = tmp_path / "portal.yaml"
    settings = settings_of(tmp_path, port=free_port(), viewer_port=free_port())
    config.write_text(yaml.safe_dump(json.loads(json.dumps(settings, default=str))))
    volumes = sections(data, tmp_path / "lab")
    with ExitStack() as stack:
        first, served = serve(config, stack)
        somebody = Person(browser, served["url"])
        size = {"width": 1280, "height": 1800, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.set_script_timeout(PATIENCE)
        somebody.join(served["invitation"], "ada")
        invite(somebody)
        jobs = {name: somebody.plan(volume) for name, volume in volumes.items()}
        browser.get(somebody.url + jobs["eight"])
        look_at_preview(somebody)
        for job in jobs.values():
            browser.get(somebody.url + job)
            somebody.press("Start")
            somebody.wait(lambda shown: shown.find_element(By.ID, "state").text != "planned")  # the form has arrived
        browser.get(somebody.url + jobs["eight"])
        somebody.wait(lambda _: somebody.told(jobs["eight"])["state"] == "running")
        first.kill()  # in the middle of a job, and with another one in the queue
        first.wait()
        assert (tmp_path / "portal" / "jobs" / jobs["eight"].rpartition("/")[2] / "log.txt").exists()
        _, again = serve(config, stack)
        assert again == {**served, "invitation": None}
        for name, job in jobs.items():
            browser.get(somebody.url + job)  # the same login
            somebody.wait(lambda shown: shown.find_element(By.ID, "state").text == "complete")  # its script has followed it
            output = tmp_path / "portal" / "jobs" / job.rpartition("/")[2] / "output.zarr"
            see(somebody, output, job)
            compare(volumes[name], output, tmp_path / f"{name}.zarr")
        link = somebody.told(jobs["eight"])["view"]
        assert httpx.get(link, timeout=PATIENCE).status_code == 200
        somebody.press("Log out")
        somebody.arrives("Log in")
        assert httpx.get(link, timeout=PATIENCE).status_code == 404


def invite(somebody: Person) -> None:
    """Invite a user as an administrator, log out, and join as that user."""
    somebody.press("People")
    somebody.arrives("People")
    somebody.press("Invite somebody")
    link = somebody.wait(lambda shown: re.search(r"http://[^<]+/join/[\w-]+", shown.page_source))
    somebody.press("Log out")
    somebody.arrives("Log in")
    somebody.join(link[0], "kim")


def look_at_preview(somebody: Person) -> None:
    """Have the preview made, and move its divider."""
    browser, job = somebody.browser, somebody.browser.current_url
    somebody.press("Make it")
    somebody.wait(lambda shown: shown.find_elements(By.XPATH, "//a[text()='Look at it']"))
    somebody.press("Look at it")
    somebody.wait(lambda shown: shown.find_elements(By.ID, "cut"))
    before = browser.get_screenshot_as_png()
    browser.find_element(By.ID, "cut").send_keys(Keys.HOME)
    somebody.wait(lambda shown: shown.get_screenshot_as_png() != before)
    browser.get(job)


def stored(output: Path) -> NDArray[Any]:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{output}/0"}}
    return np.asarray(ts.open(spec, open=True, read=True).result().read().result())


def see(somebody: Person, output: Path, job: str) -> None:
    """Look at a section of the result in Neuroglancer inside of the page: every voxel is as many pixels of its grey."""
    browser, voxels = somebody.browser, stored(output)
    section, (rows, columns) = len(voxels) // 2, voxels.shape[1:]
    low, high = int(voxels.min()), int(voxels.max())
    link = somebody.told(job)["view"]
    assert browser.find_element(By.ID, "look-frame").get_attribute("src") == link
    origin, token = re.fullmatch(r"(.*)/v/(.*)/", link).groups()  # type: ignore[union-attr]

    def closer() -> bool:
        """Choose one panel, and a zoom; return whether nobody else moved meanwhile."""
        with httpx.stream("GET", f"{origin}/events/{token}?c=test&gc=&gs=", timeout=PATIENCE) as events:
            now = json.loads(next(line for line in events.iter_lines() if line).removeprefix("data: "))
        layer = next(each for each in now["s"]["layers"] if each["name"] == "output.zarr")
        layer["shaderControls"] = {"normalized": {"range": [low, high]}}
        shown = {"layers": [layer], "layout": "xy", "showScaleBar": False, "showAxisLines": False}
        # In steps of the finest voxel, whose first begins at the corner of the volume, half an input voxel before 0.
        middle = [columns / 2 - 2, rows / 2 - 2, section]
        state = (
            now["s"] | shown | {"position": middle, "crossSectionScale": 1 / PIXELS, "crossSectionBackgroundColor": "#000000"}
        )
        sent = {"s": state, "g": 1, "pg": now["g"], "c": f"test{section}"}
        return httpx.post(f"{origin}/state/{token}", json=sent, timeout=PATIENCE).status_code == 200

    somebody.wait(lambda _: closer())
    greys = np.rint((voxels[section].astype(float) - low) / (high - low) * 255).astype(int)
    wanted = np.kron(greys, np.ones((PIXELS, PIXELS), int))
    browser.execute_script("document.getElementById('look-frame').scrollIntoView({block: 'center'})")
    somebody.wait(lambda _: is_seen(browser, wanted))


def is_seen(browser: webdriver.Chrome, wanted: NDArray[Any]) -> bool:
    """Return whether the middle of the panel shows the middle of what is wanted, within a grey level, and no other place."""
    frame = browser.find_element(By.ID, "look-frame")
    outer = browser.execute_script("const b = arguments[0].getBoundingClientRect(); return [b.top, b.left]", frame)
    browser.switch_to.frame(frame)
    try:
        panels = browser.find_elements(By.CLASS_NAME, "neuroglancer-rendered-data-panel")
        if len(panels) != 1:
            return False
        ask = "const b = arguments[0].getBoundingClientRect(); return [b.top + b.height / 2, b.left + b.width / 2]"
        within = browser.execute_script(ask, panels[0])
    finally:
        browser.switch_to.default_content()
    with Image.open(io.BytesIO(browser.get_screenshot_as_png())) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    y, x = (round(a + b) + 1 for a, b in zip(outer, within, strict=True))  # the frame's border has a pixel
    half = 60
    part = pixels[y - half : y + half, x - half : x + half]
    if part.shape[:2] != (2 * half, 2 * half) or (part != part[..., :1]).any():
        return False
    # Where the middle of a panel is that of a pixel, pixels at the rim of a voxel are as near to the next one.
    inner = np.tile(np.pad(np.ones((PIXELS - 2, PIXELS - 2), bool), 1), [side // PIXELS for side in wanted.shape])
    middle = [side // 2 for side in wanted.shape]
    for down in range(-2, 3):
        for right in range(-2, 3):
            top, left = middle[0] + down - half, middle[1] + right - half
            there = slice(top, top + 2 * half), slice(left, left + 2 * half)
            if np.abs(wanted[there] - part[..., 0])[inner[there]].max() <= 1:
                return True
    return False


def compare(volume: Path, output: Path, own: Path) -> None:
    """Compare every chunk of a result with what the command line writes of the same volume."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    command = [sys.executable, "-m", "volumetool", "enhance", *options, str(volume), str(own)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = [
        {path.relative_to(each) for path in each.rglob("*") if path.is_file() and path.name != "zarr.json"}
        for each in (output, own)
    ]
    assert names[0] == names[1] != set()
    for name in names[0]:
        assert (output / name).read_bytes() == (own / name).read_bytes(), name
    shutil.rmtree(own)
