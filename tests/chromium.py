"""Headless Chromium for tests, with a profile of its own; skips the module that asks where there is none."""

import shutil
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
PATIENCE = 120  # seconds; only a hang meets it

try:
    from selenium import webdriver
except ModuleNotFoundError:
    pytest.skip("selenium is not installed: pip install -e '.[test]'", allow_module_level=True)
if not (BROWSER and DRIVER):
    pytest.skip(
        "there is no Chromium with its driver here: apt install chromium chromium-driver", allow_module_level=True
    )


def start(profile: Path, log_network: bool = False) -> Any:
    """Return a driver; quit() ends it. What the page asks the network for is in its log "performance", if wanted."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    flags = ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1400,1000")
    for flag in (*flags, "no-first-run", "disable-background-networking", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"} | ({"performance": "ALL"} if log_network else {}))
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    driver.set_script_timeout(PATIENCE)
    return driver


def complaints(driver: Any) -> list[str]:
    """Return the errors in the page's console since the last look."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
