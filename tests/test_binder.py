"""Binder: what environment.yml asks for, and that repo2docker makes an image description of it."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
CONDA_NAMES = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base"}  # without CUDA, and without a window system
TOOL = shutil.which("jupyter-repo2docker") or shutil.which("jupyter-repo2docker", path=str(Path(sys.executable).parent))


@pytest.fixture
def environment() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8")))


def test_conda_installs_what_the_package_asks_for_with_the_same_floors(environment: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = set()
    for requirement in project["dependencies"] + project["optional-dependencies"]["lab"]:
        name, floor = requirement.split(">=")
        wanted.add(f"{CONDA_NAMES.get(name, name)}>={floor}")
    plain = {entry for entry in environment["dependencies"] if isinstance(entry, str)}
    assert wanted <= plain
    beside = {entry.split(">=")[0].split("=")[0] for entry in plain - wanted}
    assert beside == {"python", "pip", "setuptools"}, "an environment that grows no longer fits into Binder's 2 GB"


def test_torch_comes_from_conda_forge_and_never_from_pip(environment: dict[str, Any]) -> None:
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-e ."]


def test_repo2docker_describes_the_image() -> None:
    if TOOL is None:
        pytest.skip("repo2docker is not installed: pip install jupyter-repo2docker")
    done = subprocess.run([TOOL, "--no-build", "--debug", "."], cwd=ROOT, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-2000:]
    assert "Building conda environment for python=3.12" in said and "environment.yml" in said
