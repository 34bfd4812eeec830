"""Pages as people use them who do not see, do not use a mouse, prefer the dark, or hold a phone."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import PASSWORD, House, Visitor, settings_of
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.expected_conditions import alert_is_present
from small_jobs import SMALL, noise, run, write_input
from waiting import arrive, wait

from volumetool.portal.queries import COMPLETE, FAILED, Database
from volumetool.portal.serve import serve
from volumetool.portal.settings import PortalSettings
from volumetool.portal.supervisor import Supervisor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.usefixtures("chromium"),
    pytest.mark.xdist_group("browser"),
]

AXE = "axe-core@4.11.1"
WIDTHS = {"phone": 360, "desktop": 1280}


@pytest.fixture
def still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cheap_hashes: None) -> Iterator[House]:  # noqa: ARG001
    """Serve a portal in whose queue nothing moves by itself, so that each button stays where it is."""
    monkeypatch.setattr(Supervisor, "turn", lambda _: None)
    settings = PortalSettings(**settings_of(tmp_path, quota=5000))
    with serve(settings) as served:
        admin = Visitor(served.url).join(served.invitation or "", "ada")
        yield House(served.url, tmp_path, Database(settings), admin)


@pytest.fixture
def axe(tmp_path: Path) -> str:
    """Take axe-core from the registry of npm."""
    done = subprocess.run(["npm", "pack", "--silent", AXE], cwd=tmp_path, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm has no {AXE} for us: {done.stderr[-300:]}")
    with tarfile.open(tmp_path / done.stdout.split()[-1]) as packed:
        script = packed.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


def log_in(browser: webdriver.Chrome, house: House) -> None:
    browser.get(f"{house.url}/login")
    browser.find_element(By.NAME, "name").send_keys("ada")
    browser.find_element(By.NAME, "password").send_keys(PASSWORD + Keys.ENTER)
    arrive(browser, "Jobs")


def pages(house: House) -> dict[str, str]:
    """Return a path for every page, with something on it."""
    write_input(house.folder / "lab" / "raw.zarr", noise((4, 16, 16)))
    done = house.plan("ada", state=COMPLETE, input=str(house.folder / "lab" / "raw.zarr"))
    output = house.folder / "portal" / "jobs" / done / "output.zarr"
    output.parent.mkdir(parents=True)
    assert run(**{**SMALL, "input": str(house.folder / "lab" / "raw.zarr"), "output": str(output)}).complete
    (output.parent / "log.txt").write_text("22:46:51 1 of 1 regions to run\n" * 40)
    failed = house.plan("ada", state=FAILED, reason="The disk is full.\nMake room.", input="/lab/" + "long-name" * 20)
    found = {"login": "/login", "join": house.admin.invite(), "jobs": "/", "new": "/new", "account": "/account"}
    found |= {"people": "/people", "nothing": "/nothing", "planned": f"/jobs/{house.plan('ada')}"}
    return found | {
        "queued": f"/jobs/{house.plan('ada', state='queued')}",
        "failed": f"/jobs/{failed}",
        "done": f"/jobs/{done}",
    }


def test_axe_finds_nothing_serious_and_no_page_is_wider_than_a_phone(
    still: House, browser: webdriver.Chrome, axe: str, tmp_path: Path
) -> None:
    found: dict[str, Any] = {}
    for name, path in pages(still).items():
        if name == "jobs":
            log_in(browser, still)
        for scheme in ("light", "dark"):
            browser.execute_cdp_cmd(
                "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            )
            for device, width in WIDTHS.items():
                size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
                browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                browser.get(still.url + path)
                browser.execute_script(axe)
                told = browser.execute_async_script(
                    "axe.run(document, {iframes: false, resultTypes: ['violations', 'passes']}).then(arguments[0])"
                )
                where = f"{name}, {scheme}, {device}"
                serious = [each for each in told["violations"] if each["impact"] in ("serious", "critical")]
                found |= {f"{where}: {each['id']}": [node["target"] for node in each["nodes"]] for each in serious}
                if (wide := browser.execute_script("return document.documentElement.scrollWidth")) > width:
                    found[f"{where}: {wide} pixels wide"] = []
                assert len(told["passes"]) > 5  # it has looked
                picture(browser, tmp_path / f"{name}-{scheme}-{device}.png", width)
    assert found == {}


def picture(browser: webdriver.Chrome, file: Path, width: int) -> None:
    """Keep a picture of a whole page, for whoever wants to look."""
    height = browser.execute_script("return document.documentElement.scrollHeight")
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.save_screenshot(str(file))


_REACHABLE = """
return [...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, summary, iframe, [tabindex='0']")]
  .filter(each => each.checkVisibility()).length"""

_AT_THE_TOP = """
const top = document.createElement("span");
top.tabIndex = -1;
document.body.prepend(top);
top.focus();
"""
"""Puts the focus before everything: pages of forms begin in their first field."""

_FOCUSED = """
const each = document.activeElement, style = getComputedStyle(each);
if (each === document.body || each.dataset.seen) return null;
each.dataset.seen = "1";
return [each.tagName, parseFloat(style.outlineWidth), style.outlineStyle, each.textContent.trim() || each.name || each.title]"""


def test_tab_comes_to_everything_on_every_page_and_shows_where_it_is(still: House, browser: webdriver.Chrome) -> None:
    for name, path in pages(still).items():
        if name == "jobs":
            log_in(browser, still)
        browser.get(still.url + path)
        browser.execute_script(_AT_THE_TOP + "document.getElementById('look-frame')?.remove()")
        wanted, seen = browser.execute_script(_REACHABLE), []
        for _ in range(wanted + 1):
            ActionChains(browser).send_keys(Keys.TAB).perform()
            if (focused := browser.execute_script(_FOCUSED)) is not None:
                seen.append(focused)
        assert len(seen) == wanted, (name, seen)
        assert seen[0][3] == "Skip to the content", name
        assert all(width >= 2 and style == "solid" for _, width, style, _ in seen), (name, seen)


@pytest.fixture
def press(browser: webdriver.Chrome) -> Callable[..., None]:
    """Return what comes to a button or link by Tab alone, and presses Enter."""

    def press(text: str, *typed: str) -> None:
        browser.execute_script(_AT_THE_TOP)
        for _ in range(80):
            ActionChains(browser).send_keys(Keys.TAB).perform()
            focused = browser.switch_to.active_element
            if focused.accessible_name.startswith(text):
                break
        else:
            pytest.fail(f"Tab does not come to {text}")
        for each in typed:
            ActionChains(browser).send_keys(each, Keys.TAB).perform()
        if not typed:
            ActionChains(browser).send_keys(Keys.ENTER).perform()

    return press


def test_every_action_works_by_keyboard(still: House, browser: webdriver.Chrome, press: Callable[..., None]) -> None:
    browser.get(still.url + still.admin.invite())
    press("Name", "kim", PASSWORD)
    press("Make the account")
    arrive(browser, "Jobs")
    job = still.plan("kim")

    def state_is(wanted: str) -> None:
        wait(browser, lambda shown: shown.find_element(By.ID, "state").text == wanted)

    browser.get(f"{still.url}/jobs/{job}")
    press("Start")
    state_is("queued")
    press("Stop")
    state_is("cancelled")
    press("Delete")
    wait(browser, alert_is_present()).accept()
    arrive(browser, "Jobs")
    assert still.database.job(job, None) is None
    press("New job")
    arrive(browser, "New job")
    press("Volume", "/no/such.tif")
    press("Plan")
    wait(browser, lambda shown: "There is no such volume" in shown.page_source)
    press("Log out")
    arrive(browser, "Log in")
    press("Name", "ada", PASSWORD)
    press("Log in")
    arrive(browser, "Jobs")
    press("People")
    arrive(browser, "People")
    press("Invite somebody")
    wait(browser, lambda shown: "/join/" in shown.page_source)
    press("Disable kim")
    wait(browser, lambda shown: "Enable<" in shown.page_source)
    assert still.database.account("kim") is None
    press("ada")
    arrive(browser, "ada")
    press("End the login")
    wait(browser, lambda shown: shown.page_source.count("End<span") == 0)
