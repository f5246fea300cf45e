"""Where the course is published, and what notebooks need there: links, a GPU on Colab, and the library."""

import tomllib
from pathlib import Path
from typing import Any

INSTALL = """
# Colab starts without the course library. This fetches it, and leaves the torch that is there alone.
import importlib.util
import os
import subprocess
import sys

os.environ.setdefault("COURSE_DEVICE", "cpu")  # chapters are sized for two cores, and keep all tensors in one place
if importlib.util.find_spec("cvae_lib") is None:
    source = os.environ.get("CVAE_LIB_SOURCE", "@ADDRESS@")
    small = [name for name in ("jaxtyping", "safetensors", "tqdm") if importlib.util.find_spec(name) is None]
    pip, said = [sys.executable, "-m", "pip", "install", "--quiet"], ""
    for wanted in filter(None, (small, source and ["--no-deps", source])):
        done = subprocess.run([*pip, *wanted], capture_output=True, text=True)
        if done.returncode:
            said = " pip says: " + next((line for line in done.stderr.splitlines() if "ERROR" in line), "nothing")
    importlib.invalidate_caches()
    if said or importlib.util.find_spec("cvae_lib") is None:
        tried = f"is not to be had from {source!r}" if source else "is missing, and this copy does not know its address"
        raise ModuleNotFoundError(f"cvae_lib {tried}: name its folder or address in CVAE_LIB_SOURCE.{said}")
""".strip()


def settings(root: Path) -> dict[str, Any]:
    """Read [tool.course] of pyproject.toml: where the course is published, if it is, and what wants a GPU on Colab."""
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["course"]
    return {"gpu": []} | table


def colab(root: Path, name: str) -> dict[str, Any]:
    """Return the metadata by which Colab gives the notebook called `name` a GPU, if the settings name it."""
    wanted = name in settings(root)["gpu"]
    return {"accelerator": "GPU", "colab": {"gpuType": "T4"}} if wanted else {}


def install(root: Path) -> str:
    """Return the cell that fetches the library where it is missing, from the address in the settings."""
    course = settings(root)
    address = f"git+https://github.com/{course['repository']}@{course['ref']}" if course["repository"] else ""
    return INSTALL.replace("@ADDRESS@", address)


def badges(root: Path, name: str) -> str:
    """Link to Binder and Colab, or say in words when the links will appear."""
    course = settings(root)
    if name.startswith("classroom/"):
        return ""
    if not course["repository"]:
        return "*Links to Binder and Colab appear here once `pyproject.toml` says where the course lives.*"
    binder = f"https://mybinder.org/v2/gh/{course['repository']}/{course['ref']}?urlpath=lab/tree/{name}"
    colab = f"https://colab.research.google.com/github/{course['repository']}/blob/{course['ref']}/{name}"
    return (
        f"[![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder}) "
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})"
    )
