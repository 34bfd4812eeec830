"""A browser takes the cookie, sends the forms, and runs the script under the policy of the pages."""

from __future__ import annotations

import pytest
from browsing import PASSWORD, House
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("chromium"), pytest.mark.xdist_group("browser")]


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
    problems = [entry["message"] for entry in browser.get_log("browser")]
    assert problems == []
