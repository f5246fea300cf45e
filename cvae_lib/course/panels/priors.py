"""Move a Gaussian prior over a heap of posteriors, and watch the rate: what it can save, and what it cannot."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from cvae_lib.course.figures import Picture, prior_meter, prior_stills
from cvae_lib.course.panels.panel import Choice, Control, Panel, Slider

MEAN = (-3.0, 3.0)
SCALE = (0.2, 4.0)
GRID = 800


def best_gaussian(posteriors: Normal) -> Normal:
    r"""Return the Gaussian with the smallest mean KL from the posteriors, that of the same mean and variance:

    .. math:: \mu = \frac1N \sum_n m_n, \qquad \sigma^2 = \frac1N \sum_n \big(s_n^2 + (m_n - \mu)^2\big)
    """
    mean = posteriors.mean.mean()
    return Normal(mean, (posteriors.variance + (posteriors.mean - mean).square()).mean().sqrt())


def split_rate(posteriors: Normal, prior: Normal) -> dict[str, float]:
    r"""Return the mean rate and its two parts, in nats, the aggregate :math:`q(z) = \frac1N \sum_n q_n(z)`:

    .. math:: \frac1N \sum_n KL(q_n \,\|\, p) = \frac1N \sum_n KL(q_n \,\|\, q) + KL(q \,\|\, p)

    Args:
        posteriors: batch shape (N,).
        prior: batch shape ().

    Returns:
        ``rate``, ``information`` (which no prior changes) and ``mismatch``.

    Sources: Hoffman and Johnson 2016 (NeurIPS workshop).
    """
    rate = float(kl_divergence(posteriors, prior).mean())
    best = best_gaussian(posteriors)
    grid, step = _grid(posteriors, 8.0)
    each = posteriors.log_prob(grid[:, None]).double().exp()  # (G, N)
    aggregate = each.mean(1)
    # The average of q_n log(q_n / q) needs no prior; the Gaussian entropies are known without a grid.
    entropy = -float((aggregate * aggregate.clamp_min(1e-300).log()).sum() * step)
    information = max(0.0, entropy - float(posteriors.entropy().mean()))
    information = min(information, float(kl_divergence(posteriors, best).mean()))  # a grid's rounding, no more
    return {"rate": rate, "information": information, "mismatch": rate - information}


def _grid(posteriors: Normal, deviations: float) -> tuple[Float[Tensor, " g"], float]:
    low = float((posteriors.mean - deviations * posteriors.stddev).min())
    high = float((posteriors.mean + deviations * posteriors.stddev).max())
    finest = float(posteriors.stddev.min())
    count = min(20 * GRID, max(GRID, int(8 * (high - low) / finest)))
    return torch.linspace(low, high, count), (high - low) / (count - 1)


def draw_prior(posteriors: Normal, mean: float, scale: float, ceiling: float, name: object = "") -> Picture:
    """Draw a Gaussian prior over the posteriors of one condition, and what it costs.

    Args:
        posteriors: batch shape (N,), of one latent.
        mean, scale: of the prior.
        ceiling: nats at the top of the column.
        name: of the condition, for the alt text.

    Raises:
        ValueError: if the posteriors are no vector, or the scale is not above 0.
    """
    prior = _prior(posteriors, mean, scale)
    nats = split_rate(posteriors, prior)
    alt = (
        f"The aggregate posterior of condition {name} as a grey hill and a prior of mean {mean:.2f} and standard "
        f"deviation {scale:.2f} over it. Rate {nats['rate']:.2f} nats, of which information {nats['information']:.2f} "
        f"and mismatch {nats['mismatch']:.2f}."
    )
    return prior_meter(torch.linspace(-6, 6, 241), posteriors, prior, nats, ceiling, alt)


def _prior(posteriors: Normal, mean: float, scale: float) -> Normal:
    if posteriors.mean.ndim != 1:
        raise ValueError(f"The panel shows one latent: posteriors of shape (N,), not {tuple(posteriors.mean.shape)}.")
    if scale <= 0:
        raise ValueError(f"A prior's standard deviation must be above 0, not {scale}.")
    return Normal(posteriors.mean.new_tensor(mean), posteriors.mean.new_tensor(scale))


def prior_sheet(posteriors: Normal, name: object = "") -> Picture:
    """Show one condition's aggregate under three priors: the standard one, the best Gaussian, and one too narrow.

    Raises:
        ValueError: if the posteriors are no vector.
    """
    best = best_gaussian(posteriors)
    priors = [
        _prior(posteriors, 0.0, 1.0),
        best,
        _prior(posteriors, float(best.mean), max(SCALE[0], 0.4 * float(best.stddev))),
    ]
    nats = [split_rate(posteriors, prior) for prior in priors]
    names = ("standard normal", "best Gaussian", "too narrow")
    titles = [
        f"{title}\n{part['information']:.2f} + {part['mismatch']:.2f} = {part['rate']:.2f} nats"
        for title, part in zip(names, nats, strict=True)
    ]
    said = "; ".join(
        f"{title}, mean {float(prior.mean):.2f} and scale {float(prior.stddev):.2f}: mismatch {part['mismatch']:.2f}"
        for title, prior, part in zip(names, priors, nats, strict=True)
    )
    alt = (
        f"The aggregate posterior of condition {name} as a grey hill, three times, each with another prior over it. "
        f"The information is {nats[0]['information']:.2f} nats under each. {said}."
    )
    return prior_stills(torch.linspace(-6, 6, 241), posteriors, priors, titles, alt)


def prior_panel(posteriors: Mapping[object, Normal]) -> Panel:
    """Return a panel that moves a Gaussian prior over the posteriors of one condition, the rate split beside it.

    Args:
        posteriors: condition -> Normal of batch shape (N,), the posteriors of one latent for its images.

    Raises:
        ValueError: if there is no condition, or its posteriors are no vector.
    """
    if not posteriors:
        raise ValueError("There must be at least one condition with posteriors to show.")
    first = next(iter(posteriors))
    ceiling = 1.5 * max(split_rate(q, _prior(q, 0.0, 1.0))["rate"] for q in posteriors.values())
    controls: dict[str, Control] = {
        "y": Choice("condition y", list(posteriors), first),
        "mean": Slider("prior's mean", *MEAN, step=0.1, start=0.0),
        "scale": Slider("prior's scale", *SCALE, step=0.1, start=1.0),
    }

    def draw(y: object, mean: float, scale: float) -> Picture:
        return draw_prior(posteriors[y], mean, scale, ceiling, y)

    return Panel(draw, controls, prior_sheet(posteriors[first], first))
