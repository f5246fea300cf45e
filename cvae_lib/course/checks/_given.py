"""The numbers that exercises worked out by hand are about: those of the course, or others for each class.

An edition is a number. Edition 0 is the course as published, with worked answers beside it. Any other edition draws
its own numbers, always the same ones, so that a class's marks do not depend on who has read the published answers.
Nothing but Python's own library is imported here: the build reads this file before there is anything else.
"""

import math
import random
from collections.abc import Callable, Mapping
from types import SimpleNamespace

# What may be drawn is spread so that a known mistake never gives the right answer, or that of another mistake.
PUBLISHED: Mapping[str, dict[str, float]] = {
    "1.1": {"mean": 1, "std": 3},
    "1.5": {"side": 64, "weight": 0.00025},
    "2.1": {"centre": 1, "shift": 0.3, "std": 0.5, "log_p": -3.2},
    "3.1": {"sure": 0.9},
    "4.1": {"features": 128, "classes": 10, "heads": 4},
    "5.1": {"parts": 2, "share": 0.1},
    "6.1": {"centre": 1, "half": 1.5, "std": 0.5},
    "7.1": {"top": 4, "std": 0.8},
    "8.1": {"side": 28, "latents": 16},
}
CHOICES: Mapping[str, dict[str, tuple[float, ...]]] = {
    "1.1": {"mean": (1.5, 2, 2.5), "std": (2, 4, 5, 6)},
    "1.5": {"side": (32, 48, 96, 128), "weight": (0.0001, 0.0002, 0.0005)},
    "2.1": {"centre": (-1, 0, 2), "shift": (0.6, 0.9), "std": (0.4, 0.6, 0.8), "log_p": (-2.6, -4.1, -5.3)},
    "3.1": {"sure": (0.7, 0.75, 0.85, 0.95)},
    "4.1": {"features": (96, 160, 192, 256), "classes": (6, 12, 15, 20), "heads": (3, 5, 6)},
    "5.1": {"parts": (2, 3), "share": (0.02, 0.04, 0.05, 0.08)},
    "6.1": {"centre": (-1, 0.5, 2), "half": (1.25, 1.75, 2.25), "std": (0.3, 0.45, 0.6)},
    "7.1": {"top": (6, 9, 10), "std": (0.85, 0.9, 1.1)},
    "8.1": {"side": (14, 32, 48, 96), "latents": (8, 10, 20)},
}
# What the text needs besides.
DERIVED: Mapping[str, Mapping[str, Callable[[SimpleNamespace], object]]] = {
    "1.1": {"variance": lambda the: the.std**2, "log_variance": lambda the: f"{2 * math.log(the.std):.3f}"},
    "1.5": {"values": lambda the: f"{3 * the.side**2:,}".replace(",", "{,}")},
    "2.1": {"guess": lambda the: the.centre + the.shift},
    "3.1": {"unsure": lambda the: 1 - the.sure, "doubt": lambda the: f"{_doubt(the.sure):.3f}"},
    "4.1": {"width": lambda the: 16 * the.heads},
    "5.1": {"percent": lambda the: 100 * the.share},
    "6.1": {"first": lambda the: the.centre - the.half, "second": lambda the: the.centre + the.half},
    "7.1": {"spectrum": lambda the: ", ".join(f"{the.top / 2**i:g}" for i in range(5))},
    "8.1": {},
}


def _doubt(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def drawn(number: str, edition: int = 0) -> SimpleNamespace:
    """Return the numbers of an exercise in an edition, by name."""
    draw = random.Random(f"{number}, edition {edition}")
    chosen = {name: draw.choice(choices) for name, choices in CHOICES[number].items()}
    return SimpleNamespace(**(chosen if edition else PUBLISHED[number]))


def written(number: str, edition: int = 0) -> dict[str, str]:
    """Return those numbers, and what the text derives from them, as they are written down."""
    the = drawn(number, edition)
    everything = vars(the) | {name: derive(the) for name, derive in DERIVED[number].items()}
    return {name: value if isinstance(value, str) else f"{value:g}" for name, value in everything.items()}
