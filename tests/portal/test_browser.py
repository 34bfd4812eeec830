"""A browser takes the cookie, sends the forms, and runs the script under the policy of the pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from browsing import PASSWORD, House
from selenium import webdriver
from selenium.webdriver.common.by import By
from waiting import arrive, press, wait

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("chromium"), pytest.mark.xdist_group("browser")]


def test_somebody_joins_and_starts_a_job_by_keyboard_and_mouse(house: House, browser: webdriver.Chrome) -> None:
    browser.get(house.url + house.admin.invite())
    browser.find_element(By.NAME, "name").send_keys("paula")
    browser.find_element(By.NAME, "password").send_keys(PASSWORD + "\n")
    arrive(browser, "Jobs")
    job = house.plan("paula", state="queued")
    browser.get(f"{house.url}/jobs/{job}")
    wait(browser, lambda shown: shown.find_element(By.ID, "state").text == "queued")
    assert house.database.change(job, ("queued",), state="cancelled", reason="stopped by its owner")
    wait(browser, lambda shown: shown.find_element(By.ID, "reason").text == "stopped by its owner")  # the script has seen it
    press(browser, "Log out", "\n")
    arrive(browser, "Log in")
    problems = [entry["message"] for entry in browser.get_log("browser")]
    assert problems == []


@pytest.mark.slow
def test_a_file_is_uploaded_by_keyboard_and_its_page_says_what_it_is(
    house: House, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    file = tmp_path / "tissue.tif"
    tifffile.imwrite(file, np.zeros((3, 20, 24), np.uint8), photometric="minisblack")
    browser.get(house.url + house.admin.invite())
    browser.find_element(By.NAME, "name").send_keys("ursula")
    browser.find_element(By.NAME, "password").send_keys(PASSWORD + "\n")
    arrive(browser, "Jobs")
    browser.get(f"{house.url}/uploads")
    browser.find_element(By.NAME, "file").send_keys(str(file))
    press(browser, "Upload", "\n")
    wait(browser, lambda shown: shown.title == "tissue.tif - volumetool" and "not said by the file" in shown.page_source)
    assert "3 x 20 x 24 (z, y, x), uint8" in browser.page_source
    assert [entry["message"] for entry in browser.get_log("browser") if "favicon" not in entry["message"]] == []
