"""Learning rates: the library's three schedules, as torch's own ``LambdaLR``."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

Schedule = str | Callable[[Optimizer, int], LRScheduler]  # a name, or from optimiser and steps in all to a scheduler


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


SCHEDULES = {"one_cycle": one_cycle, "cosine": cosine, "constant": constant}


def make_scheduler(schedule: Schedule, optimizer: Optimizer, total: int) -> LRScheduler:
    """Return what moves the learning rate after every step.

    Raises:
        ValueError: if the name is unknown.
    """
    if callable(schedule):
        return schedule(optimizer, total)
    if schedule not in SCHEDULES:
        raise ValueError(
            f"schedule is one of {', '.join(SCHEDULES)}, or a function (optimizer, steps) -> scheduler, not "
            f"{schedule!r}."
        )
    factor = SCHEDULES[schedule]
    return LambdaLR(optimizer, lambda step: factor(step, total))
