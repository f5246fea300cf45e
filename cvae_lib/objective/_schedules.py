"""Schedules for beta, the weight of the rate: small callables from the step to a number."""

from collections.abc import Callable
from dataclasses import dataclass

BetaSchedule = Callable[[int], float]


@dataclass(frozen=True)
class Constant:
    r"""The same weight at every step, :math:`\beta(t) = b`.

    Source: Higgins et al. 2017 (ICLR), for weights other than 1.

    Args:
        beta: b, at least 0.

    Raises:
        ValueError: if b is negative.
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        _must_not_be_negative(self.beta)

    def __call__(self, step: int) -> float:
        """Return beta at a step, counted from 0."""
        return self.beta


@dataclass(frozen=True)
class Linear:
    r"""A straight rise, :math:`\beta(t) = a + (b - a) \min(1, t / T)`, which is at b from step T on.

    Source: Bowman et al. 2016, arXiv:1511.06349; Sønderby et al. 2016, arXiv:1602.02282.

    Args:
        steps: T, at least 1.
        start: a.
        end: b.

    Raises:
        ValueError: if T is below 1 or a weight is negative.
    """

    steps: int
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"A rise takes at least 1 step, not {self.steps}.")
        _must_not_be_negative(self.start, self.end)

    def __call__(self, step: int) -> float:
        """Return beta at a step, counted from 0."""
        return _between(self.start, self.end, step, self.steps)


@dataclass(frozen=True)
class Cyclical:
    r"""A rise that starts again M times: in each cycle linear over the first share R of its steps, then flat.

    .. math:: \beta(t) = a + (b - a) \min(1, \tau / (R\,n)), \quad \tau \text{ steps into a cycle of } n

    The last step of every cycle is at b whatever the rounding, and so is every step after the last cycle.
    Source: Fu et al. 2019, arXiv:1903.10145.

    Args:
        steps: T, of all cycles together, at least two for each.
        cycles: M.
        rise: R, between 0 and 1.
        start: a.
        end: b.

    Raises:
        ValueError: if the numbers leave no cycle room to rise, or a weight is negative.
    """

    steps: int
    cycles: int = 4
    rise: float = 0.5
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.cycles < 1 or self.steps < 2 * self.cycles or not 0 < self.rise <= 1:
            raise ValueError(
                f"Cycles need at least 2 steps each and a rise in (0, 1], not {self.cycles} cycles in "
                f"{self.steps} steps with a rise of {self.rise}."
            )
        _must_not_be_negative(self.start, self.end)

    def __call__(self, step: int) -> float:
        """Return beta at a step, counted from 0."""
        if step >= self.steps:
            return self.end
        cycle = step * self.cycles // self.steps  # in whole numbers, so that rounding moves no boundary
        first, last = (-(-(self.steps * c) // self.cycles) for c in (cycle, cycle + 1))
        length = last - first
        return _between(self.start, self.end, step - first, min(max(1, round(self.rise * length)), length - 1))


def _between(start: float, end: float, step: int, steps: int) -> float:
    """Return the point of a straight line, exactly ``end`` from its last step on."""
    return end if step >= steps else start + (end - start) * max(step, 0) / steps


def _must_not_be_negative(*weights: float) -> None:
    if not all(weight >= 0 for weight in weights):
        raise ValueError(f"The weight of the rate must be at least 0, not {min(weights)}.")
