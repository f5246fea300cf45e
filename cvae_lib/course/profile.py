"""The run profile: chapters at full length, or cut short so that tests can run every cell."""

import os
from typing import Literal

from cvae_lib.environment import Settings, settings

Profile = Literal["full", "fast"]

FAST = Settings(steps=30, examples=200, samples=5, dataset=2000, progress=False)


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


def enter() -> None:
    """Set the library's settings to those of the run profile and of the other variables of the course."""
    limits = FAST if profile() == "fast" else Settings()
    settings.steps, settings.examples = limits.steps, limits.examples
    settings.samples, settings.dataset = limits.samples, limits.dataset
    settings.progress = False if os.environ.get("COURSE_UNATTENDED") == "1" else limits.progress
    settings.device = os.environ.get("COURSE_DEVICE") or "cpu"


def capped(value: int, fast: int) -> int:
    """Return ``value`` on the full profile and at most ``fast`` on the fast one."""
    return min(value, fast) if profile() == "fast" else value
