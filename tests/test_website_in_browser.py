"""The static site in headless Chromium, opened from its folder: nothing is fetched, search works, a phone suffices."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chromium
import pytest
from chromium import complaints
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

CHAPTERS = ("00_start_here", "02_the_conditional_elbo", "05_what_can_y_be")
LAPTOP, PHONE = (1366, 900), (360, 740)


@pytest.fixture
def site(course_site: Path) -> str:
    """The address of the course's site."""
    return course_site.as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    driver = chromium.start(tmp_path_factory.mktemp("profile"), log_network=True)
    yield driver
    driver.quit()


def seen_as(driver: Any, size: tuple[int, int], colours: str = "light") -> None:
    """Give the page a size and a preference for light or dark."""
    screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    scheme = [{"name": "prefers-color-scheme", "value": colours}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})


def soon(condition: Callable[[], Any]) -> Any:
    """Return what `condition` gives as soon as it is true."""
    end = time.monotonic() + chromium.PATIENCE
    while not (result := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return result


def requested(driver: Any) -> set[str]:
    """Return the addresses that were asked for since the last look, but for those inside the page or the browser."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    return {address for address in sent if not address.startswith(("data:", "chrome:"))}


@pytest.mark.parametrize("page", ["index", *(f"notebooks/{chapter}" for chapter in CHAPTERS)])
def test_a_page_asks_for_nothing_outside_its_folder(browser: Any, site: str, page: str) -> None:
    requested(browser)
    browser.get(f"{site}/{page}.html")
    browser.find_element(By.ID, "query").send_keys("p")
    soon(lambda: browser.find_elements(By.CSS_SELECTOR, "#results li"))
    asked = requested(browser)
    assert f"{site}/{page}.html" in asked and f"{site}/search-index.js" in asked  # the log does see requests
    assert {address for address in asked if not address.startswith(f"{site}/")} == set()
    assert complaints(browser) == []


def test_searching_leads_to_the_place_by_keyboard_alone(browser: Any, site: str) -> None:
    seen_as(browser, LAPTOP)
    browser.get(f"{site}/notebooks/00_start_here.html")
    query = browser.find_element(By.ID, "query")
    query.send_keys("tighter boun")
    first = soon(lambda: browser.find_elements(By.CSS_SELECTOR, "#results a"))[0]
    assert "More samples, tighter bound" in first.text
    query.send_keys(Keys.ENTER)
    soon(lambda: browser.execute_script("return document.activeElement.closest('#results') !== null"))
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    soon(lambda: "02_the_conditional_elbo" in browser.current_url)
    heading = "document.getElementById(decodeURIComponent(location.hash.slice(1)))"
    assert browser.execute_script(f"return {heading}.textContent").strip() == "More samples, tighter bound"
    assert 0 <= browser.execute_script(f"return {heading}.getBoundingClientRect().top") < 300


def test_what_is_not_there_is_not_found_and_said_so(browser: Any, site: str) -> None:
    browser.get(f"{site}/index.html")
    browser.find_element(By.ID, "query").send_keys("zebra(")
    soon(lambda: browser.find_element(By.ID, "count").text == "Nothing found.")
    assert browser.find_elements(By.CSS_SELECTOR, "#results li") == [] == complaints(browser)


@pytest.mark.parametrize(
    "page", ["index", "CLASSROOM", "exercises/02_the_conditional_elbo", *(f"notebooks/{c}" for c in CHAPTERS)]
)
def test_a_page_fits_a_phone_and_its_menu_opens(browser: Any, site: str, page: str) -> None:
    seen_as(browser, PHONE)
    browser.get(f"{site}/{page}.html")
    # Wide things scroll by themselves. An element counts as too wide if nothing around it scrolls.
    wide = """
    const scrolls = (e) => e && (/auto|scroll|hidden/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
    return [...document.querySelectorAll('main *, header *')]
      .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e.parentElement) && !e.closest('.skip'))
      .map(e => e.outerHTML.slice(0, 200));
    """
    assert browser.execute_script(wide) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
    menu, sidebar = (browser.find_element(By.ID, each) for each in ("menu", "sidebar"))
    assert menu.is_displayed() and not sidebar.is_displayed()
    menu.send_keys(Keys.ENTER)
    assert sidebar.is_displayed() and menu.get_attribute("aria-expanded") == "true"


def test_colours_follow_the_readers_preference(browser: Any, site: str) -> None:
    grounds = {}
    for colours in ("light", "dark"):
        seen_as(browser, LAPTOP, colours)
        browser.get(f"{site}/notebooks/{CHAPTERS[0]}.html")
        grounds[colours] = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert grounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 29)"}


def test_equations_are_drawn_as_such(browser: Any, site: str) -> None:
    seen_as(browser, LAPTOP)
    browser.get(f"{site}/notebooks/02_the_conditional_elbo.html")
    heights = browser.execute_script(
        "return [...document.querySelectorAll('.equation math')].map(e => e.getBoundingClientRect().height)"
    )
    assert len(heights) > 5 and min(heights) > 15
    stacked = (
        "const f = document.querySelector('mfrac'); const [n, d] = [...f.children].map(e => e.getBoundingClientRect());"
    )
    assert browser.execute_script(f"{stacked} return n.bottom <= d.top + 1")  # a numerator above its denominator
