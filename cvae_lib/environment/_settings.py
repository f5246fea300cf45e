"""Limits that hold for every call in this process; none by default."""

import sys
from dataclasses import dataclass


@dataclass
class Settings:
    """What a program around the library may say once for all its calls, by setting ``environment.settings``.

    A limit makes every call do less, so that a long script can be tried from end to end in seconds; its results then
    mean little. None is no limit.

    Attributes:
        steps: optimiser steps of one training.
        examples: examples that one evaluation or validation looks at, and drawings it makes.
        samples: draws of z per example, K.
        dataset: examples of a built-in data set.
        device: what ``auto`` stands for; None is CUDA, then MPS, then CPU.
        progress: whether training shows a live bar; None shows one where a person watches.
    """

    steps: int | None = None
    examples: int | None = None
    samples: int | None = None
    dataset: int | None = None
    device: str | None = None
    progress: bool | None = None


settings = Settings()


def at_most(value: int, limit: int | None) -> int:
    """Return ``value``, or the limit where there is one and it is smaller."""
    return value if limit is None else min(value, limit)


def shows_progress() -> bool:
    """Say whether a live progress bar makes sense: in a terminal, or in a notebook that somebody watches."""
    if settings.progress is not None:
        return settings.progress
    return sys.stdout.isatty() or "ipykernel" in sys.modules
