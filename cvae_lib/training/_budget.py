"""How far a run has come, and the learning rate there."""

import math
import time
from collections.abc import Callable

from cvae_lib import course
from cvae_lib.training._arguments import positive, whole

Schedule = Callable[[int, int], float]
TICKS = 10_000  # a budget in seconds is cut into so many, since its number of steps is not known


def one_cycle(step: int, total: int, warm_up: float = 0.1) -> float:
    r"""Return the factor on the peak learning rate: a linear rise over the first tenth, then a cosine down to 0.

    .. math:: f(t) = (t + 1) / R \ \text{ for } t < R, \qquad
              f(t) = \tfrac12\Big(1 + \cos \pi \tfrac{t - R}{T - R}\Big) \ \text{ from } R \text{ on}

    Source: Smith and Topin 2018, arXiv:1708.07120.

    Args:
        step: t, steps done.
        total: T, steps in all.
        warm_up: R as a share of T; R is at least one step.
    """
    rise = max(1, round(warm_up * total))
    if step < rise:
        return (step + 1) / rise
    return cosine(step - rise, total - rise)


def cosine(step: int, total: int) -> float:
    r"""Return the factor :math:`\frac12(1 + \cos(\pi t / T))`, from 1 at the first step down to 0 after the last.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983.
    """
    return 0.5 * (1 + math.cos(math.pi * step / max(1, total)))


def constant(step: int, total: int) -> float:
    """Return 1: the learning rate stays as it is given."""
    return 1.0


SCHEDULES: dict[str, Schedule] = {"one_cycle": one_cycle, "cosine": cosine, "constant": constant}


def schedule_called(name: str | Schedule) -> Schedule:
    """Return the schedule of that name; a function ``(step, total) -> factor`` is its own.

    Raises:
        ValueError: if the name is unknown.
    """
    if callable(name):
        return name
    if not isinstance(name, str) or name not in SCHEDULES:
        raise ValueError(f"schedule is one of {', '.join(SCHEDULES)}, or a function, not {name!r}.")
    return SCHEDULES[name]


class Budget:
    """How long to train: in epochs, steps or seconds, exactly one of them; 40 epochs if none is given.

    Attributes:
        steps: optimiser steps in all; None for a budget in seconds, where nobody knows.
        seconds: seconds in all, those before a resume included; None for the others.

    Raises:
        ValueError: if there are two budgets, or one is not positive.
    """

    def __init__(self, epochs: int | None, steps: int | None, seconds: float | None, per_epoch: int) -> None:
        epochs, steps, seconds = whole("epochs", epochs), whole("steps", steps), positive("seconds", seconds)
        budgets = {"epochs": epochs, "steps": steps, "seconds": seconds}
        given = {name: value for name, value in budgets.items() if value is not None}
        if len(given) > 1:
            raise ValueError(
                f"Give one budget, not {len(given)}: {' and '.join(f'{k}={v}' for k, v in given.items())}."
            )
        self.per_epoch = per_epoch
        self.seconds = seconds
        # On the fast profile every budget ends after a few steps.
        self.cap: float = course.capped(2**62, course.FAST_STEPS)
        self.steps = None
        if seconds is None:
            self.steps = min(steps or (epochs or 40) * per_epoch, int(self.cap))
        self.before = 0.0  # seconds spent before a resume
        self.started = time.monotonic()

    @property
    def epochs(self) -> int | None:
        """Epochs begun by the end; None where nobody knows."""
        return None if self.steps is None else math.ceil(self.steps / self.per_epoch)

    def elapsed(self) -> float:
        """Return the seconds spent, those before a resume included."""
        return self.before + time.monotonic() - self.started

    def place(self, step: int, elapsed: float | None = None) -> tuple[int, int]:
        """Return how far the run is and where it ends, in the unit of a schedule: steps, or ticks of the clock."""
        if self.steps is not None:
            return step, self.steps
        if step >= self.cap:
            return TICKS, TICKS
        assert self.seconds is not None
        share = (self.elapsed() if elapsed is None else elapsed) / self.seconds
        return min(TICKS, int(TICKS * share)), TICKS
