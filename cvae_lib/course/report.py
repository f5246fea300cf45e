"""The environment report: what this machine has for the course, and what to do where something falls short."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from cvae_lib.course.profile import profile
from cvae_lib.environment import data_root, has_native_bf16, pick_device


@dataclass(frozen=True)
class Finding:
    """One line of the environment report.

    Attributes:
        what: was looked at.
        found: what was found.
        advice: what to do about it; empty if nothing needs doing.
    """

    what: str
    found: str
    advice: str = ""

    @property
    def fine(self) -> bool:
        """Whether nothing needs doing."""
        return not self.advice


@dataclass(frozen=True)
class Report:
    """The environment report; prints as an aligned table, in a notebook too.

    Attributes:
        findings: its lines.
    """

    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        width = max(len(finding.what) for finding in self.findings)
        lines = []
        for finding in self.findings:
            lines.append(f"{'ok' if finding.fine else '!!'}  {finding.what:<{width}}  {finding.found}")
            if finding.advice:
                lines.append(f"    {'':<{width}}  -> {finding.advice}")
        return "\n".join(lines)

    __repr__ = __str__


def _python() -> Finding:
    version = platform.python_version()
    advice = "" if sys.version_info >= (3, 11) else "Install Python 3.11 or newer and make the environment again."
    return Finding("Python", version, advice)


def _device() -> Finding:
    try:
        device = pick_device()
    except ValueError as error:
        return Finding("device", "none", f"COURSE_DEVICE names a device that is not here. {error}")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    speed = "native bfloat16" if has_native_bf16(device) else "float32"
    return Finding("device", f"{name}, {speed}")


def _data(folder: str | Path | None) -> Finding:
    try:
        root = data_root(folder)
    except ValueError as error:
        return Finding("MNIST", "not on disk", str(error))
    raw = root / "MNIST" / "raw"
    stems = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    # os.path's answers are False where looking is forbidden, those of pathlib an exception.
    if all(any(os.path.isfile(raw / f"{stem}{end}") for end in ("", ".gz")) for stem in stems):
        return Finding("MNIST", "found on disk")
    there = next((place for place in (root, *root.parents) if os.path.exists(place)), root)
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        advice = "Name a folder that can be written in CVAE_DATA; until then the built-in strokes stand in."
        return Finding("MNIST", "not on disk, and its folder cannot be written", advice)
    free = shutil.disk_usage(there).free / 2**20
    if free < 100:
        return Finding("MNIST", "not on disk", f"Free some space: it needs 70 MB and {free:.0f} MB are left.")
    return Finding(
        "MNIST",
        "not on disk; it is downloaded once when first asked for (11 MB), "
        "and without a network the built-in strokes stand in",
    )


def _widgets() -> Finding:
    if importlib.util.find_spec("ipywidgets") is None:
        return Finding("widgets", "ipywidgets is missing", "Run `pip install ipywidgets` and restart the kernel.")
    return Finding("widgets", f"ipywidgets {importlib.metadata.version('ipywidgets')}")


def report(root: str | Path | None = None) -> Report:
    """Look at Python, torch, the device, cores, data and widgets, and say what to do where one falls short."""
    cores = os.cpu_count() or 1
    return Report(
        (
            _python(),
            Finding("torch", torch.__version__),
            _device(),
            Finding("cores", f"{cores}, of which torch uses {torch.get_num_threads()}"),
            _data(root),
            _widgets(),
            Finding("profile", profile()),
        )
    )
