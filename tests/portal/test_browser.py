"""A browser takes the cookie, sends the forms, and runs the script under the policy of the pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from browsing import PASSWORD, House
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from volumetool.viewer.browser import browser_flags, find_browser

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("chromium"), pytest.mark.xdist_group("browser")]


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("chromedriver is not on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = find_browser()
    for flag in browser_flags():
        options.add_argument(flag)
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as found:
        yield found


def test_somebody_joins_and_starts_a_job_by_keyboard_and_mouse(house: House, browser: webdriver.Chrome) -> None:
    browser.get(house.url + house.admin.invite())
    browser.find_element(By.NAME, "name").send_keys("paula")
    browser.find_element(By.NAME, "password").send_keys(PASSWORD + "\n")
    wait = WebDriverWait(browser, 60)
    wait.until(lambda shown: shown.title == "Jobs - volumetool")
    job = house.plan("paula", state="queued")
    browser.get(f"{house.url}/jobs/{job}")
    state = browser.find_element(By.ID, "state").text
    house.database.change(job, ("queued", "running", "failed"), state="cancelled", reason="stopped by its owner")
    wait.until(lambda shown: shown.find_element(By.ID, "reason").text == "stopped by its owner")  # the script has seen it
    assert state in ("queued", "running", "failed")
    browser.find_element(By.XPATH, "//button[text()='Log out']").send_keys("\n")
    wait.until(lambda shown: shown.title == "Log in - volumetool")
    problems = [entry["message"] for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
    assert problems == []
