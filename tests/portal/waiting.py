"""Waiting for a page: while it is being left, its elements are gone, and those of the next one are not there yet."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait

T = TypeVar("T")


def wait(browser: WebDriver, until: Callable[[WebDriver], T], seconds: float = 120) -> T:
    """Ask again until the answer is true; return it."""
    found: T = WebDriverWait(browser, seconds, 0.5, [NoSuchElementException, StaleElementReferenceException]).until(until)
    return found


def arrive(browser: WebDriver, title: str, seconds: float = 120) -> None:
    """Wait until the page of this title, a regular expression, is shown."""
    wait(browser, lambda shown: re.fullmatch(f"{title} - volumetool", shown.title), seconds)


def press(browser: WebDriver, text: str, keys: str | None = None) -> None:
    """Press the button or link whose text begins so, with the mouse or with these keys."""

    def pressed(shown: WebDriver) -> bool:
        found = shown.find_element(By.XPATH, f"//button[starts-with(text(), '{text}')] | //a[text()='{text}']")
        found.click() if keys is None else found.send_keys(keys)
        return True

    wait(browser, pressed)
