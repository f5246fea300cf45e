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

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUNNER = ROOT / "tests" / "run_cells.py"
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
    printed = run([sys.executable, str(RUNNER), str(chapter)], tmp_path, environment)
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    if re.search(r"\b(digits|mnist)\(", code):
        assert "strokes" in printed.lower()
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


def test_a_chapter_alone_in_an_empty_folder_fetches_the_library(published: Path, tmp_path: Path) -> None:
    """Colab: torch and Jupyter are there, the library is not, and the notebook is all there is."""
    if not CHAPTERS:
        pytest.skip("no chapter is built yet")
    python = colab(tmp_path / "colab")
    environment = cut_off(tmp_path / "machine") | {
        "CVAE_LIB_SOURCE": str(published),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
    }
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copy(CHAPTERS[0], folder)
    where = [str(python), "-c", "import importlib.util as u; print(u.find_spec('cvae_lib'))"]
    assert run(where, folder, environment).strip() == "None"

    unset = {key: value for key, value in environment.items() if key != "CVAE_LIB_SOURCE"}
    cells = [str(python), str(RUNNER), str(folder / CHAPTERS[0].name)]
    alone = subprocess.run([*cells, "1"], cwd=folder, env=unset, capture_output=True, text=True)
    if "git+https" not in CHAPTERS[0].read_text(encoding="utf-8"):
        assert alone.returncode == 1 and "CVAE_LIB_SOURCE" in alone.stdout + alone.stderr

    run(cells, folder, environment)
    assert str(tmp_path / "colab") in run(where, folder, environment)


def colab(folder: Path) -> Path:
    """Make an environment that sees this one's packages but not its editable install; returns its Python."""
    venv.create(folder, with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    # A line in a .pth file adds that folder, without the .pth files in it: the editable install stays behind.
    (Path(paths["purelib"]) / "outer.pth").write_text(sysconfig.get_paths()["purelib"])
    return Path(paths["scripts"]) / "python"
