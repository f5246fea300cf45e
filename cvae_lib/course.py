"""The course's surroundings: run profile, devices, where data lives, and a report on this machine.

Nothing here imports another part of the library, so every part may ask.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

Profile = Literal["full", "fast"]

FAST_STEPS = 30
FAST_IMAGES = 200
FAST_SAMPLES = 5
FAST_DATASET = 2000


def profile() -> Profile:
    """Return the run profile: ``fast`` (smoke tests) if ``COURSE_PROFILE=fast``, else ``full``.

    Raises:
        ValueError: if ``COURSE_PROFILE`` is set to anything else.
    """
    value = os.environ.get("COURSE_PROFILE", "full")
    if value == "full":
        return "full"
    if value == "fast":
        return "fast"
    raise ValueError(f"COURSE_PROFILE must be 'full' or 'fast', not {value!r}.")


def capped(value: int, fast: int) -> int:
    """Return ``value`` on the full profile and at most ``fast`` on the fast one."""
    return min(value, fast) if profile() == "fast" else value


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device called ``name``; ``auto`` is what ``COURSE_DEVICE`` says, else CUDA, then MPS, then CPU.

    The chapters set ``COURSE_DEVICE=cpu`` unless it is set: they are sized for two cores, and their own cells put every
    tensor there.

    Raises:
        ValueError: if the name is unknown or this machine has no such device.
    """
    if isinstance(name, str) and name == "auto":
        name = os.environ.get("COURSE_DEVICE") or "auto"
    if isinstance(name, str) and name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"There is no device {str(name)!r} here; use 'auto' or 'cpu'.") from error
    return device


def has_native_bf16(device: torch.device) -> bool:
    """Say whether ``device`` multiplies bfloat16 matrices in hardware, so that autocast pays."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder for datasets: the argument, else ``CVAE_DATA``, else the user's cache folder."""
    if root is not None:
        return Path(root).expanduser()
    if os.environ.get("CVAE_DATA"):
        return Path(os.environ["CVAE_DATA"]).expanduser()
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local"))
    elif sys.platform == "darwin":
        cache = Path("~/Library/Caches")
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return cache.expanduser() / "cvae_lib"


def someone_watches() -> bool:
    """Say whether a person sees the output as it comes: a terminal, or a live notebook.

    Builds and tests set ``COURSE_UNATTENDED=1``; the fast profile counts as unattended as well.
    """
    if os.environ.get("COURSE_UNATTENDED") == "1" or profile() == "fast":
        return False
    return sys.stdout.isatty() or "ipykernel" in sys.modules


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
    device = pick_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    speed = "native bfloat16" if has_native_bf16(device) else "float32"
    return Finding("device", f"{name}, {speed}")


def _data(root: Path) -> Finding:
    raw = root / "MNIST" / "raw"
    stems = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    present = [any((raw / f"{stem}{end}").is_file() for end in ("", ".gz")) for stem in stems]
    if all(present):
        return Finding("MNIST", "found on disk")
    free = shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free / 2**20
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
            _data(data_root(root)),
            _widgets(),
            Finding("profile", profile()),
        )
    )
