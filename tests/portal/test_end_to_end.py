"""From the first link to the last log-out in a browser, on real sections, with a server that is killed in between."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tensorstore as ts
import tifffile
import yaml
from browsing import PASSWORD, settings_of
from letterbox import Letterbox
from numpy.typing import NDArray
from PIL import Image
from ports import lasting_ports
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from waiting import arrive, press, wait

from volumetool.jobs.records.ledger import Ledger, Record
from volumetool.portal.web import COOKIE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.usefixtures("chromium"),
    pytest.mark.xdist_group("browser"),
    pytest.mark.timeout(3600),
]

PATIENCE = 900
OPTIONS = {"model": "em-x4", "voxel_size": "30,16,16"}
REGIONS = 4
"""Regions of the stack of 8 bits, whose sections are the more of: one shard holds 64."""

PIXELS = 4
"""Pixels that a voxel of the result has on the screen, along either axis."""


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
        return wait(self.browser, until, PATIENCE)

    def arrives(self, title: str) -> None:
        arrive(self.browser, title, PATIENCE)

    def fill(self, **fields: str) -> None:
        for name, text in fields.items():
            field = self.browser.find_element(By.NAME, name)
            if field.tag_name == "select":
                field.find_element(By.XPATH, f"option[text()='{text}']").click()
            else:
                field.clear()
                field.send_keys(text)

    def press(self, text: str) -> None:
        press(self.browser, text)

    @property
    def path(self) -> str:
        return self.browser.current_url.removeprefix(self.url)

    def join(self, link: str, name: str) -> None:
        self.browser.get(link)
        self.fill(name=name, password=PASSWORD)
        self.press("Make the account")
        self.arrives("Jobs")

    def upload(self, file: Path) -> str:
        """Send a file by the page; return the path of the upload, which has been looked at."""
        self.browser.get(f"{self.url}/uploads")
        self.browser.find_element(By.NAME, "file").send_keys(str(file))
        self.browser.find_element(By.NAME, "voxel_size").send_keys(OPTIONS["voxel_size"])
        self.press("Upload")
        self.arrives(file.name)
        self.wait(lambda shown: shown.find_element(By.ID, "upload").text == "ready")
        return self.path

    def plan(self, upload: str) -> str:
        """Plan a job on an upload; return its path."""
        self.browser.get(self.url + upload)
        self.press("New job on it")
        self.arrives("New job")
        assert self.browser.find_element(By.NAME, "voxel_size").get_attribute("value") == OPTIONS["voxel_size"]
        self.fill(model=OPTIONS["model"])
        self.press("Plan")
        self.arrives("Job .*")
        return self.path

    def told(self, job: str) -> dict[str, Any]:
        """Return what the page's own script is told of a job."""
        ask = f"fetch('/api{job}').then(each => each.json()).then(arguments[0])"
        found: dict[str, Any] = self.browser.execute_async_script(ask)
        return found

    def download(self, text: str, folder: Path) -> Path:
        """Press the text that begins a download; return the file that has come whole."""
        folder.mkdir()
        given = {"behavior": "allow", "downloadPath": str(folder)}
        self.browser.execute_cdp_cmd("Browser.setDownloadBehavior", given)
        self.press(text)

        def whole(_: object) -> Path | None:
            there = list(folder.iterdir())
            return (
                there[0] if len(there) == 1 and there[0].suffix != ".crdownload" and not there[0].name.startswith(".") else None
            )

        found: Path = self.wait(whole)
        return found


def sections(data: Path, folder: Path) -> dict[str, Path]:
    """Write a real stack of 8 bits, of several regions, and one of 16."""
    eight = tifffile.imread(part(data, "fib25-fibsem/fib25_train1.tif"))[:, 90:162, 90:162]
    sixteen = tifffile.imread(part(data, "emdiffuse-noisy-u16/brain_4w_03_noisy_u16.tif"))
    stacks = {"eight": eight, "sixteen": np.stack([sixteen[at : at + 64, at : at + 64] for at in (200, 500)])}
    assert [stack.dtype for stack in stacks.values()] == [np.uint8, np.uint16]
    for name, stack in stacks.items():
        tifffile.imwrite(folder / f"{name}.tif", stack, photometric="minisblack")
    return {name: folder / f"{name}.tif" for name in stacks}


def part(data: Path, name: str) -> Path:
    if not (data / name).is_file():
        pytest.skip(f"the test data lack {name}")
    return data / name


def test_from_the_first_link_to_the_last_log_out(
    browser: webdriver.Chrome,
    stranger: webdriver.Chrome,
    letterbox: tuple[Letterbox, dict[str, str]],
    data: Path,
    tmp_path: Path,
) -> None:
    config, (box, mail) = tmp_path / "portal.yaml", letterbox
    port, viewer_port = lasting_ports(2)
    settings = settings_of(tmp_path, port=port, viewer_port=viewer_port, mail=mail)
    config.write_text(yaml.safe_dump(json.loads(json.dumps(settings, default=str))))
    files = sections(data, tmp_path)
    for each in (browser, stranger):
        size = {"width": 1280, "height": 1800, "deviceScaleFactor": 1, "mobile": False}
        each.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        each.set_script_timeout(PATIENCE)
    with ExitStack() as stack:
        first, served = serve(config, stack)
        somebody = Person(browser, served["url"])
        somebody.join(served["invitation"], "ada")
        invite(somebody)
        give_address(somebody, box)
        uploads = {name: somebody.upload(file) for name, file in files.items()}
        for name, facts in (("eight", "250 x 72 x 72 (z, y, x), uint8"), ("sixteen", "2 x 64 x 64 (z, y, x), uint16")):
            browser.get(somebody.url + uploads[name])
            assert facts in browser.find_element(By.TAG_NAME, "main").text
            look_at_preview(somebody)
        jobs = {name: somebody.plan(upload) for name, upload in uploads.items()}
        outputs = {name: tmp_path / "portal/jobs" / job.rpartition("/")[2] / "output.zarr" for name, job in jobs.items()}
        for job in jobs.values():
            browser.get(somebody.url + job)
            somebody.press("Start")
            somebody.wait(lambda shown: shown.find_element(By.ID, "state").text != "planned")  # the form has arrived
        done = kill_between_regions(first, outputs["eight"])
        _, again = serve(config, stack)
        assert again == {**served, "invitation": None}
        for name, job in jobs.items():
            browser.get(somebody.url + job)  # the same login
            somebody.wait(lambda shown: shown.find_element(By.ID, "state").text == "complete")  # its script has followed it
            see(somebody, outputs[name], browser.find_element(By.ID, "look-frame").get_attribute("src"))
            compare(somebody, files[name], outputs[name], tmp_path / name)
        after = records(outputs["eight"])
        assert [record for record in after if record.region in {each.region for each in done}] == done  # none was done again
        assert sorted(record.region for record in after) == list(range(REGIONS))
        somebody.wait(lambda _: len(box.mails) == 1 + len(jobs))
        told = {(found["To"], found["Subject"]) for found in box.mails[1:]}
        assert told == {
            ("kim@example.org", f"volumetool: job {output.parent.name[:8]} is complete") for output in outputs.values()
        }
        guest = visit_by_link(somebody, stranger, jobs["eight"], outputs["eight"], tmp_path)
        leave(somebody, jobs["eight"], guest)


def invite(somebody: Person) -> None:
    """Invite a user as an administrator, log out, and join as that user."""
    somebody.press("People")
    somebody.arrives("People")
    somebody.press("Invite somebody")
    link = somebody.wait(lambda shown: re.search(r"http://[^<]+/join/[\w-]+", shown.page_source))
    somebody.press("Log out")
    somebody.arrives("Log in")
    somebody.join(link[0], "kim")


def give_address(somebody: Person, box: Letterbox) -> None:
    """Ask for mail, and open the link that comes by it."""
    somebody.press("kim")
    somebody.arrives("kim")
    somebody.fill(mail="kim@example.org")
    somebody.press("Send a link")
    somebody.wait(lambda shown: box.mails and "A link was sent" in shown.page_source)
    link = re.search(r"http://\S+/account/mail/[\w-]+", box.mails[0].get_content())
    assert link is not None
    somebody.browser.get(link[0])
    somebody.press("Confirm")
    somebody.wait(lambda shown: shown.find_element(By.NAME, "mail").get_attribute("value") == "kim@example.org")


def look_at_preview(somebody: Person) -> None:
    """Look at the preview of an upload, which is made by itself, and move its divider."""
    browser = somebody.browser
    somebody.wait(lambda shown: shown.find_elements(By.XPATH, "//a[text()='Look at the preview']"))
    somebody.press("Look at the preview")
    somebody.wait(lambda shown: shown.find_elements(By.ID, "cut"))
    before = browser.get_screenshot_as_png()
    browser.find_element(By.ID, "cut").send_keys(Keys.HOME)
    somebody.wait(lambda shown: shown.get_screenshot_as_png() != before)


def records(output: Path) -> list[Record]:
    """Return what the ledger of a job holds, in the order of writing."""
    return list(Ledger(f"{output}.job", REGIONS).records())


def kill_between_regions(server: subprocess.Popen[str], output: Path) -> list[Record]:
    """Kill the server and its job, as a machine that fails, once some regions are done and not all; return their records."""
    for _ in range(20 * PATIENCE):
        if Path(f"{output}.job", "ledger").is_dir() and records(output):
            break
        time.sleep(0.05)
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    assert any(str(output) in each.cmdline() for each in family)
    for each in family:
        each.kill()
    psutil.wait_procs(family)
    done = records(output)
    assert 0 < len(done) < REGIONS
    return done


def stored(output: Path) -> NDArray[Any]:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{output}/0"}}
    return np.asarray(ts.open(spec, open=True, read=True).result().read().result())


def see(somebody: Person, output: Path, link: str | None) -> None:
    """Look at a section of the result in Neuroglancer inside of the page: every voxel is as many pixels of its grey."""
    browser, voxels = somebody.browser, stored(output)
    section, (rows, columns) = len(voxels) // 2, voxels.shape[1:]
    low, high = int(voxels.min()), int(voxels.max())
    parts = re.fullmatch(r"(.*)/v/(.*)/", link or "")
    assert parts is not None
    origin, token = parts.groups()

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


def compare(somebody: Person, file: Path, output: Path, folder: Path) -> None:
    """Download a result, and compare every chunk of it, and a box, with what the command line writes of the same file."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    own, folder = folder / "own.zarr", folder / "downloads"
    own.parent.mkdir()
    command = [sys.executable, "-m", "volumetool", "enhance", *options, str(file), str(own)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = {str(path.relative_to(own)): path.read_bytes() for path in own.rglob("*") if path.is_file()}
    with zipfile.ZipFile(somebody.download("The whole volume", folder)) as came:
        assert set(came.namelist()) == set(wanted)
        for name, content in wanted.items():
            if not name.endswith("zarr.json"):  # which says when and of which file it was made
                assert came.read(name) == (output / name).read_bytes() == content, name
    somebody.fill(box="0:2,16:80,8:")
    cut = somebody.download("Download the box", folder.with_name("box"))
    assert np.array_equal(tifffile.imread(cut), stored(own)[0:2, 16:80, 8:])


def visit_by_link(owner: Person, browser: webdriver.Chrome, job: str, output: Path, folder: Path) -> str:
    """Share a result, and see and take it as somebody who has nothing but the link; return the link of Neuroglancer."""
    owner.browser.get(owner.url + job)
    owner.press("Make a link")
    link = owner.wait(lambda shown: re.search(r"http://[^<]+/shared/[\w-]+", shown.page_source))
    somebody = Person(browser, owner.url)
    browser.get(owner.url + job)
    somebody.arrives("Log in")
    browser.get(link[0])
    somebody.arrives("A shared volume")
    view = str(browser.find_element(By.ID, "look-frame").get_attribute("src"))
    see(somebody, output, view)
    with zipfile.ZipFile(somebody.download("The whole volume", folder / "taken")) as came:
        assert all(came.read(name) == (output / name).read_bytes() for name in came.namelist() if name != "zarr.json")
        assert str(output.parents[2]) in (output / "zarr.json").read_text()
        assert str(output.parents[2]) not in came.read("zarr.json").decode()
    owner.press("End it now")
    owner.wait(lambda shown: not shown.find_elements(By.XPATH, "//button[text()='End it now']"))
    assert httpx.get(view, timeout=PATIENCE).status_code == 404
    browser.refresh()
    somebody.arrives("This did not work")
    return view


def leave(somebody: Person, job: str, other: str) -> None:
    """Log out: neither the cookie nor a link of this login opens anything any more."""
    somebody.browser.get(somebody.url + job)
    link = somebody.told(job)["view"]
    assert link != other
    cookie = somebody.browser.get_cookie(COOKIE)
    assert cookie is not None
    asked = [f"{somebody.url}/api{job}", f"{somebody.url}{job}/volume.zip", link]

    def answers() -> list[int]:
        return [httpx.get(each, cookies={COOKIE: cookie["value"]}, timeout=PATIENCE).status_code for each in asked]

    assert answers() == [200, 200, 200]
    somebody.press("Log out")
    somebody.arrives("Log in")
    assert answers() == [401, 303, 404]
    assert somebody.browser.get_cookie(COOKIE) is None
