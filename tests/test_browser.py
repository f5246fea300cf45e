"""Panels in a real browser: JupyterLab in headless Chromium runs chapters, and a moved control moves the picture.

The checkout is not touched: notebooks are copied, and Lab, its kernels and the browser keep to folders of their own.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chromium
import nbformat
import pytest
from chromium import PATIENCE, complaints
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = ("00_start_here", "02_the_conditional_elbo", "05_what_can_y_be")
# Takes the observer away: controls still move, but nobody hears of it.
DEAF = "from cvae_lib.course.panels import Panel\n\nPanel.refresh = lambda panel, change=None: None"

SETTINGS = {
    "apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false"},
    "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight stay in the page
}


def wait_for(what: str, condition: Callable[[], Any]) -> Any:
    """Return what `condition` gives as soon as it is true; fail the test when patience ends."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.1)
    pytest.fail(f"waited {PATIENCE} s in vain for {what}")


class Lab:
    """A JupyterLab of our own, with every folder it writes to below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.files, self.log, self.token = folder / "files", folder / "lab.log", secrets.token_hex(16)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        homes = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR")
        self.environment = os.environ | {name: str(folder / name.lower()) for name in homes}
        self.environment |= {"COURSE_PROFILE": "fast", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        for place in (self.files, *(folder / name.lower() for name in homes)):
            place.mkdir(parents=True)
        for name, values in SETTINGS.items():
            path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        self.options = [
            "--no-browser",
            "--allow-root",
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={self.port}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={self.files}",
            f"--IdentityProvider.token={self.token}",
            f"--LabApp.user_settings_dir={folder / 'settings'}",
            f"--LabApp.workspaces_dir={folder / 'workspaces'}",
            "--LabApp.expose_app_in_browser=True",
            "--LanguageServerManager.autodetect=False",
            "--ServerApp.terminals_enabled=False",
        ]

    def __enter__(self) -> "Lab":
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *self.options],
                env=self.environment,
                cwd=self.files,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()  # it shuts its kernels down before it goes
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def is_up(self) -> bool:
        """Whether it answers; a Lab that died fails the test with its log."""
        if self.process.poll() is not None:
            pytest.fail(f"JupyterLab ended: {self.log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/status?token={self.token}", timeout=5).close()
        except (urllib.error.URLError, OSError):
            return False
        return True

    def address(self, name: str) -> str:
        """Where the notebook called `name` opens, in a workspace without history."""
        return f"http://127.0.0.1:{self.port}/lab/tree/{name}.ipynb?reset&token={self.token}"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab with copies of the chapters, and of one whose panels hear nothing."""
    missing = [chapter for chapter in CHAPTERS if not (ROOT / "notebooks" / f"{chapter}.ipynb").exists()]
    if missing:
        pytest.skip(f"not built yet: {', '.join(missing)}")
    with Lab(tmp_path_factory.mktemp("lab")) as ours:
        for chapter in CHAPTERS:
            notebook = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)
            for cell in notebook.cells:  # a picture that is there after the run was made by the run
                if cell.cell_type == "code":
                    cell.outputs, cell.execution_count = [], None
            nbformat.write(notebook, ours.files / f"{chapter}.ipynb")
        deaf = nbformat.read(ours.files / f"{CHAPTERS[0]}.ipynb", as_version=4)
        deaf.cells.insert(1, nbformat.v4.new_code_cell(DEAF))
        nbformat.write(deaf, ours.files / "deaf.ipynb")
        yield ours


@pytest.fixture(scope="module")
def browser(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium with a profile of its own; it starts while Lab does."""
    driver = chromium.start(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


IS_IDLE = """
const panel = window.jupyterapp && window.jupyterapp.shell.currentWidget;
const session = panel && panel.sessionContext;
return !!(session && session.isReady && session.session.kernel && session.session.kernel.status === 'idle');
"""
RUN_ALL = """
const done = arguments[arguments.length - 1];
window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => done('run'), error => done(String(error)));
"""
OUTPUTS = """
const cells = window.jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells;
return JSON.stringify(cells.filter(cell => cell.cell_type === 'code'));
"""
# One call for all, since element handles go stale as soon as a picture is replaced.
SOURCES = "return [...document.querySelectorAll('.cvae-panel img')].map(image => image.src)"
ALERTS = "return [...document.querySelectorAll('.cvae-panel [role=alert]')].map(alert => alert.textContent)"


def run_all(driver: Any, lab: Lab, name: str) -> list[str]:
    """Open a notebook, run it, see that nothing went wrong, and return the pictures its panels show."""
    wait_for("JupyterLab to answer", lab.is_up)
    driver.get(lab.address(name))
    wait_for("the kernel", lambda: driver.execute_script(IS_IDLE))
    assert driver.execute_async_script(RUN_ALL) == "run"
    cells = json.loads(driver.execute_script(OUTPUTS))
    assert all(cell["execution_count"] for cell in cells), "a cell was not run"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [output["traceback"] for output in outputs if output["output_type"] == "error"] == []
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
    return list(wait_for("a panel with a picture", lambda: driver.execute_script(SOURCES)))


def moved(driver: Any, before: list[str], seconds: float = PATIENCE) -> bool:
    """Whether a panel's picture becomes another within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if driver.execute_script(SOURCES) != before:
            return True
        time.sleep(0.02)
    return False


def press(driver: Any) -> None:
    """Move the first slider of the page's panel one step, by keyboard."""
    handle = driver.find_element(By.CSS_SELECTOR, ".cvae-panel .noUi-handle")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", handle)
    driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)


def drag(driver: Any) -> None:
    """Drag the last slider of the page's panel, by mouse."""
    handle = driver.find_elements(By.CSS_SELECTOR, ".cvae-panel .noUi-handle")[-1]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", handle)
    ActionChains(driver, duration=50).click_and_hold(handle).move_by_offset(-40, 0).release().perform()


def values(driver: Any) -> list[str]:
    """Return what the sliders of the page say they are at."""
    script = (
        "return [...document.querySelectorAll('.cvae-panel .noUi-handle')].map(h => h.getAttribute('aria-valuenow'))"
    )
    return list(driver.execute_script(script))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_moved_control_moves_the_picture(browser: Any, lab: Lab, chapter: str) -> None:
    before = run_all(browser, lab, chapter)
    for move in (press, drag):
        stood = values(browser)
        move(browser)
        assert moved(browser, before), f"{move.__name__} left the picture as it was"
        assert values(browser) != stood
        before = browser.execute_script(SOURCES)
    assert browser.execute_script(ALERTS) == []
    assert complaints(browser) == []


def test_with_the_observer_removed_the_same_check_sees_nothing_move(browser: Any, lab: Lab) -> None:
    before = run_all(browser, lab, "deaf")
    for move in (press, drag):
        stood = values(browser)
        move(browser)
        assert not moved(browser, before, seconds=2)
        assert values(browser) != stood  # the control itself did move
    browser.execute_script("console.error('seen')")
    assert "seen" in " ".join(complaints(browser))  # and an error in the page would not go unnoticed
