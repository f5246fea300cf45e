"""Judging forecasts given as samples: proper scores, and whether intervals hold what they promise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib.environment import at_most, settings
from cvae_lib.evaluation._estimate import Estimate, mean_and_error

DISTANCES_AT_ONCE = 2**21


def _must_fit(samples: Tensor, obs: Tensor, least: int = 2) -> None:
    if samples.ndim != obs.ndim + 1 or samples.shape[1:] != obs.shape or obs.ndim < 1 or not obs.numel():
        raise ValueError(
            f"Forecasts need samples (M, N) or (M, N, T) and observations (N) or (N, T), not "
            f"{tuple(samples.shape)} and {tuple(obs.shape)}."
        )
    if len(samples) < least:
        raise ValueError(f"A forecast needs at least {least} samples, not {len(samples)}.")
    for what, values in (("samples", samples), ("observations", obs)):
        if not bool(values.isfinite().all()):
            raise ValueError(f"The {what} hold NaN or infinity; a score of them means nothing.")


def crps(samples: Float[Tensor, "m n *t"], obs: Float[Tensor, "n *t"], *, fair: bool = True) -> Float[Tensor, "n *t"]:
    r"""Return the continuous ranked probability score of each observation, in its unit; smaller is better.

    .. math:: CRPS = \frac1M \sum_i |x_i - y| - \frac{1}{2M(M-1)} \sum_{i,j} |x_i - x_j|
              = \frac1M \sum_i |x_i - y| - \frac{1}{M(M-1)} \sum_i (2i - M - 1)\, x_{(i)}

    by sorting, in :math:`O(M \log M)`. It is unbiased for :math:`E|X-y| - \frac12 E|X-X'|` whatever M ("fair"), so
    it can be below zero for one observation. For one number with a standard error:
    ``mean_and_error(crps(samples, obs))``, after ``.mean(1)`` over the times of a series, which are not independent.

    Args:
        samples: M draws from each forecast.
        obs: what came.
        fair: divide the second sum by M(M-1); else by M², the exact score of the M samples taken as the forecast.

    Raises:
        ValueError: if shapes do not fit, there are fewer than 2 samples, or a value is not finite.

    Sources: Gneiting and Raftery 2007 (Journal of the American Statistical Association 102); Ferro 2014
    (Quarterly Journal of the Royal Meteorological Society 140) for "fair".
    """
    _must_fit(samples, obs)
    m = len(samples)
    # Both sums only see differences, and around the observation these lose no digits.
    off = (samples - obs).sort(0).values
    rank = torch.arange(1 - m, m, 2, device=off.device, dtype=off.dtype) / (m * (m - 1 if fair else m))
    score: Tensor = off.abs().mean(0) - torch.tensordot(rank, off, 1)
    return score


def crps_gaussian(
    mean: Float[Tensor, "*n"], scale: Float[Tensor, "*n"], obs: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    r"""Return the CRPS of a Gaussian forecast in closed form, in the unit of the observation.

    .. math:: CRPS = \sigma \Big[ u\,(2\Phi(u) - 1) + 2\varphi(u) - \tfrac{1}{\sqrt\pi} \Big], \quad
              u = \frac{y - \mu}{\sigma}

    Raises:
        ValueError: if a scale is not above 0.

    Sources: Gneiting, Raftery, Westveld and Goldman 2005 (Monthly Weather Review 133); Gneiting and Raftery 2007.
    """
    if not bool((scale > 0).all()):
        raise ValueError("The scale of a Gaussian forecast must be above 0 everywhere.")
    return _distance(obs - mean, scale) - scale / math.sqrt(math.pi)


def crps_gaussian_mixture(
    weights: Float[Tensor, "*#n #k"],
    means: Float[Tensor, "*#n #k"],
    scales: Float[Tensor, "*#n #k"],
    obs: Float[Tensor, "*#n"],
) -> Float[Tensor, "..."]:
    r"""Return the CRPS of a forecast that is a mixture of K Gaussians, in closed form, in the unit of the observation.

    .. math:: CRPS = \sum_i w_i A(y - \mu_i, \sigma_i) - \tfrac12 \sum_{i,j} w_i w_j
              A\Big(\mu_i - \mu_j, \sqrt{\sigma_i^2 + \sigma_j^2}\Big), \quad
              A(m, s) = E|m + s\epsilon| = m\,(2\Phi(m/s) - 1) + 2 s\,\varphi(m/s)

    Weights, means and scales broadcast.

    Raises:
        ValueError: if a scale is not above 0, or weights are below 0 or do not sum to 1.

    Source: Grimit, Gneiting, Berrocal and Johnson 2006 (Quarterly Journal of the Royal Meteorological Society 132).
    """
    if not bool((scales > 0).all()):
        raise ValueError("The scales of a mixture's Gaussians must be above 0 everywhere.")
    whole = weights.expand(torch.broadcast_shapes(weights.shape, means.shape, scales.shape)).sum(-1)
    if not bool((weights >= 0).all()) or not bool(((whole - 1).abs() < 1e-3).all()):
        raise ValueError("The weights of a mixture must be at least 0 and sum to 1; divide them by their sum.")
    first = (weights * _distance(obs[..., None] - means, scales)).sum(-1)
    apart = means[..., :, None] - means[..., None, :]
    both = (scales.square()[..., :, None] + scales.square()[..., None, :]).sqrt()
    pairs = weights[..., :, None] * weights[..., None, :] * _distance(apart, both)
    return first - pairs.sum((-2, -1)) / 2


def _distance(mean: Tensor, scale: Tensor) -> Tensor:
    """Return the mean distance of a Gaussian from 0."""
    u = mean / scale
    density = torch.exp(-u.square() / 2) / math.sqrt(2 * math.pi)
    return mean * torch.erf(u / math.sqrt(2)) + 2 * scale * density


def energy_score(
    samples: Float[Tensor, "m n t"], obs: Float[Tensor, "n t"], *, fair: bool = True
) -> Float[Tensor, "n"]:
    r"""Return the energy score of each series: the CRPS of a vector, which also sees how its entries move together.

    .. math:: ES = \frac1M \sum_i \|x_i - y\|_2 - \frac{1}{2M(M-1)} \sum_{i,j} \|x_i - x_j\|_2

    in the unit of the observation; smaller is better, and T = 1 gives the CRPS. Distances are held a block at a
    time, so memory does not grow with N or M². ``fair`` as in :func:`crps`.

    Raises:
        ValueError: if shapes do not fit, there are fewer than 2 samples, or a value is not finite.

    Source: Gneiting and Raftery 2007.
    """
    if samples.ndim != 3:
        raise ValueError(f"The energy score is for series: samples (M, N, T), not {tuple(samples.shape)}.")
    _must_fit(samples, obs)
    m = len(samples)
    series = max(1, DISTANCES_AT_ONCE // (m * max(m, obs.shape[1])))
    scores = []
    for part, truth in zip(samples.transpose(0, 1).split(series), obs.split(series), strict=True):  # (n, M, T), (n, T)
        pairs = sum(
            torch.cdist(rows, part, compute_mode="donot_use_mm_for_euclid_dist").sum((1, 2))
            for rows in part.split(max(1, DISTANCES_AT_ONCE // m), dim=1)
        )
        scores.append((part - truth[:, None]).norm(dim=2).mean(1) - pairs / (2 * m * (m - 1 if fair else m)))
    return torch.cat(scores)


class Coverage(NamedTuple):
    """How often a central interval held the observation, and how wide it was.

    Attributes:
        level: the share asked for, for example 0.8.
        nominal: the share promised: ``level``, or (M-1)/(M+1) where M samples reach no further.
        share: of the observations inside.
        standard_error: of that share, Wilson.
        width: mean width (sharpness), in the unit of the observation; narrower is better at the right coverage.
        width_error: its standard error.
    """

    level: float
    nominal: float
    share: float
    standard_error: float
    width: float
    width_error: float

    def __str__(self) -> str:
        note = "" if self.nominal == self.level else f" (so few samples reach {self.nominal:.1%})"
        return (
            f"{self.level:.0%} interval: {self.share:.1%} ± {self.standard_error:.1%} inside, "
            f"width {self.width:.3g} ± {self.width_error:.2g}{note}"
        )


def interval_coverage(
    samples: Float[Tensor, "m n *t"], obs: Float[Tensor, "n *t"], levels: Sequence[float] = (0.5, 0.8, 0.95)
) -> tuple[Coverage, ...]:
    r"""Return coverage and width of the central intervals of the samples, one :class:`Coverage` for each level.

    The interval of level l runs between the quantiles :math:`(1 \mp l)/2`, read at rank :math:`p(M+1)` of the sorted
    samples, since an observation from the same distribution lies below the k-th of M samples with probability
    :math:`k/(M+1)`: a right forecast keeps its promise at any M (other conventions cover too little at small M).

    .. math:: SE = \frac{\sqrt{\hat p(1-\hat p)/n + 1/(4n^2)}}{1 + 1/n}

    is half the width of Wilson's interval at one standard deviation, above zero also at 0 and 100 %. For series
    n is the number of observations that independent ones would have given the same spread between series,
    :math:`\hat p(1-\hat p) / SE_{\text{series}}^2`, between N and NT: times of one series are not independent.

    Args:
        levels: between 0 and 1.

    Raises:
        ValueError: if a level is not between 0 and 1, or as :func:`crps` does.

    Sources: Wilson 1927 (Journal of the American Statistical Association 22); Gneiting, Balabdaoui and Raftery 2007
    (Journal of the Royal Statistical Society B 69) for sharpness subject to calibration.
    """
    _must_fit(samples, obs)
    for level in levels:
        if not 0 < level < 1:
            raise ValueError(f"A level must lie between 0 and 1, not {level}; write 80 % as 0.8.")
    ordered = samples.detach().sort(0).values
    return tuple(_coverage(ordered, obs, level) for level in levels)


def _quantile(ordered: Tensor, p: float) -> Tensor:
    rank = min(max(p * (len(ordered) + 1) - 1, 0.0), len(ordered) - 1.0)  # counted from 0
    low = min(int(rank), len(ordered) - 2)
    return torch.lerp(ordered[low], ordered[low + 1], rank - low)


def _coverage(ordered: Tensor, obs: Tensor, level: float) -> Coverage:
    low, high = (_quantile(ordered, (1 + sign * level) / 2) for sign in (-1, 1))
    inside = ((low <= obs) & (obs <= high)).cpu().double().reshape(len(obs), -1)  # (N, T)
    share, count = float(inside.mean()), float(inside.numel())
    if inside.shape[1] > 1 and len(obs) > 1:
        between = float(inside.mean(1).var()) / len(obs)
        count = min(count, max(share * (1 - share) / between, len(obs))) if between else float(len(obs))
    error = math.sqrt(share * (1 - share) / count + 1 / (4 * count**2)) / (1 + 1 / count)
    width = mean_and_error((high - low).reshape(len(obs), -1).mean(1))
    m = len(ordered)
    return Coverage(level, min(level, (m - 1) / (m + 1)), share, error, width.mean, width.standard_error)


@dataclass(frozen=True)
class ForecastReport:
    """Scores and coverage of forecasts, as one table.

    Attributes:
        crps: mean over observations, in their unit; standard error over series.
        energy: mean energy score over series; None where an observation is a single number.
        coverage: of the central intervals.
    """

    crps: Estimate
    energy: Estimate | None
    coverage: tuple[Coverage, ...]

    def __str__(self) -> str:
        scores = [("CRPS", self.crps), ("energy score", self.energy)]
        lines = [f"{name:<12}  {s.mean:.4g} ± {s.standard_error:.2g}" for name, s in scores if s is not None]
        return "\n".join([*lines, *(str(interval) for interval in self.coverage)])


def forecast_report(
    samples: Float[Tensor, "m n *t"], obs: Float[Tensor, "n *t"], levels: Sequence[float] = (0.5, 0.8, 0.95)
) -> ForecastReport:
    """Return fair CRPS, fair energy score (for series) and coverage with sharpness, each with a standard error.

    The times of one series count as one observation where a standard error is made. Under a limit on examples only
    that many samples are looked at. Shapes, units, errors and sources as in :func:`crps`, :func:`energy_score` and
    :func:`interval_coverage`.
    """
    samples = samples[: at_most(len(samples), settings.examples)]
    scores = crps(samples, obs)
    return ForecastReport(
        mean_and_error(scores.reshape(len(obs), -1).mean(1)),
        mean_and_error(energy_score(samples, obs)) if samples.ndim == 3 else None,
        interval_coverage(samples, obs, levels),
    )
