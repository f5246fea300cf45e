"""Gates that run chapters where less is there: no network and no data, or no library (as on Colab)."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import hosting
import pytest

ROOT = Path(__file__).resolve().parent.parent
RUNNER = ROOT / "tests" / "run_cells.py"
DRIVER = ROOT / "tests" / "drive_panels.py"
PLACES = "5"  # of each control; benchmarks/panels.py, which times them, drives every value
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# Python reads this file at its start: whatever then opens a socket to elsewhere is refused.
REFUSE = """
import socket

def refuse(self, address, *rest):
    raise OSError(101, "Network is unreachable")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda *request, **more: refuse(None, None)
"""


def cut_off(folder: Path) -> dict[str, str]:
    """Return the environment of a machine with no network and no data; its folders are below `folder`."""
    (folder / "refuse").mkdir(parents=True)
    (folder / "refuse" / "sitecustomize.py").write_text(REFUSE)
    ours = ("CVAE_", "COURSE_", "PYTHON")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    for variable in ("CVAE_DATA", "XDG_CACHE_HOME", "IPYTHONDIR", "MPLCONFIGDIR"):
        kept[variable] = str(folder / variable.lower())
        Path(kept[variable]).mkdir()
    return kept | {
        "PYTHONPATH": str(folder / "refuse"),
        "COURSE_PROFILE": "fast",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
    }


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Run a command in `folder` and return what it printed; a command that fails, fails the test."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def test_the_network_is_really_cut_off(tmp_path: Path) -> None:
    ask = "import urllib.request as u\ntry: u.urlopen('http://localhost')\nexcept OSError as e: print(e)"
    assert "unreachable" in run([sys.executable, "-c", ask], tmp_path, cut_off(tmp_path / "machine"))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_offline_without_data_a_chapter_runs_on_strokes_and_says_so(chapter: Path, tmp_path: Path) -> None:
    environment = cut_off(tmp_path / "machine")
    environment["PYTHONPATH"] += os.pathsep + str(ROOT)
    # On the way, the chapter's panels are driven: they are what it leaves behind.
    printed = run([sys.executable, str(DRIVER), str(chapter), PLACES], tmp_path, environment)
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    if re.search(r"\b(digits|mnist)\(", code):
        assert "strokes" in printed.lower()
    assert len(re.findall(r"^driven: ", printed, re.M)) >= len(re.findall(r"\bpanels\.\w+_panel\(", code))
    assert not any(Path(environment["CVAE_DATA"]).rglob("*idx*")), "a data file was left behind"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git would publish, so that building a wheel leaves the checkout as it is."""
    listing = subprocess.run(
        [
            "git",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "--",
            "cvae_lib",
            "pyproject.toml",
            "README.md",
            "LICENSE",
        ],
        cwd=ROOT,
        capture_output=True,
    )
    if listing.returncode:
        pytest.skip("this is no git checkout, so nothing says what is published")
    copy = tmp_path_factory.mktemp("published")
    for line in filter(None, listing.stdout.decode().split("\0")):
        (copy / line).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / line, copy / line)
    return copy


@pytest.fixture(scope="module")
def elsewhere(published: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, str]]:
    """Colab: torch and Jupyter are there, the library is not; returns its Python, an empty folder, the environment."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "empty").mkdir()
    environment = cut_off(folder / "machine") | {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    return colab(folder / "colab"), folder / "empty", environment


WHERE = "import importlib.util as u; found = u.find_spec('{}'); print(found and found.origin)"
NOWHERE = {
    "": "is missing, and this copy does not know its address",
    "/no/such/folder": "is not to be had from '/no/such/folder'",
    "empty": "is not to be had from 'empty'",
}


@pytest.mark.parametrize("source", NOWHERE, ids=["none", "no folder", "a folder of something else"])
def test_a_wrong_source_gets_one_message_with_the_way_out(source: str, elsewhere: Any, tmp_path: Path) -> None:
    python, _, environment = elsewhere
    cell = hosting.INSTALL.replace("@ADDRESS@", "")
    (tmp_path / "empty").mkdir()
    notebook = {"cells": [{"cell_type": "code", "source": cell, "metadata": {}}]}
    (tmp_path / "chapter.ipynb").write_text(json.dumps(notebook))
    command = [str(python), str(RUNNER), "chapter.ipynb"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment | {"CVAE_LIB_SOURCE": source}, capture_output=True, text=True
    )
    assert done.returncode == 1
    said = [line for line in done.stdout.splitlines() if re.match(r"\x1b?.*ModuleNotFoundError.*: cvae_lib ", line)]
    assert len(said) == 1 and NOWHERE[source] in said[0] and "in CVAE_LIB_SOURCE." in said[0], done.stdout
    assert ("pip says: ERROR" in said[0]) == bool(source)
    assert "During handling" not in done.stdout and "CalledProcessError" not in done.stdout


def test_a_chapter_alone_in_an_empty_folder_fetches_the_library(published: Path, elsewhere: Any) -> None:
    if not CHAPTERS:
        pytest.skip("no chapter is built yet")
    python, folder, environment = elsewhere
    environment = environment | {"CVAE_LIB_SOURCE": str(published)}
    before = {name: run([str(python), "-c", WHERE.format(name)], folder, environment) for name in ("cvae_lib", "torch")}
    assert before["cvae_lib"].strip() == "None" and "torch" in before["torch"]
    shutil.copy(CHAPTERS[0], folder)
    run([str(python), str(RUNNER), str(folder / CHAPTERS[0].name)], folder, environment)
    ours = python.parent.parent  # /colab/bin/python
    assert str(ours) in run([str(python), "-c", WHERE.format("cvae_lib")], folder, environment)
    assert run([str(python), "-c", WHERE.format("torch")], folder, environment) == before["torch"]
    added = {path.name.split("-")[0] for path in ours.rglob("*.dist-info")}
    assert added == {"cvae_lib"}, "more was installed than the library"


def test_chapters_stay_on_the_cpu_unless_told_otherwise(tmp_path: Path) -> None:
    script = tmp_path / "cell.py"
    asks = "import torch\ntorch.cuda.is_available = lambda: True\n"
    asks += "from cvae_lib import course, environment\nprint(environment.pick_device(), course.profile())"
    script.write_text(f"{hosting.INSTALL.replace('@ADDRESS@', '')}\n{asks}")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("COURSE_")}
    free = kept | {"PYTHONPATH": str(ROOT)}
    for told, found in (
        ({}, "cpu full"),
        ({"COURSE_DEVICE": "auto"}, "cuda full"),
        ({"COURSE_PROFILE": "fast"}, "cpu fast"),
    ):
        assert run([sys.executable, str(script)], tmp_path, free | told).strip() == found


def test_the_library_alone_heeds_no_variable_of_the_course(tmp_path: Path) -> None:
    ask = "import torch\ntorch.cuda.is_available = lambda: True\n"
    ask += "from cvae_lib import environment, training\nprint(environment.pick_device(), environment.settings.steps)"
    told = os.environ | {"PYTHONPATH": str(ROOT), "COURSE_PROFILE": "fast", "COURSE_DEVICE": "cpu"}
    assert run([sys.executable, "-c", ask], tmp_path, told).strip() == "cuda None"


def colab(folder: Path) -> Path:
    """Make an environment that sees this one's packages but not its editable install; returns its Python."""
    venv.create(folder, with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    # A line in a .pth file adds that folder, without the .pth files in it: the editable install stays behind.
    (Path(paths["purelib"]) / "outer.pth").write_text(sysconfig.get_paths()["purelib"])
    return Path(paths["scripts"]) / "python"
