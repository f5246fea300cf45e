"""How much z knows of x: mutual information, and how far the aggregate posterior is from the prior."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import Independent, Normal

from cvae_lib.data import Data
from cvae_lib.environment import at_most, evaluation_mode, seeded, settings
from cvae_lib.evaluation._estimate import Estimate, mean_and_error
from cvae_lib.evaluation._examples import Examples, examples
from cvae_lib.objective import LatentVariableModel

ENTRIES_AT_ONCE = 2**21  # entries of a table of densities held at a time: 16 MB


@dataclass(frozen=True)
class Information:
    r"""The rate split in two, :math:`\text{rate} = I(x;z|y) + KL(q(z|y)\,\|\,p(z|y))`; all in nats per example.

    Attributes:
        lower: I(x;z|y) with the example's own posterior in the aggregate; in expectation a lower bound, and at most
            ``cap``.
        upper: I(x;z|y) without it; in expectation an upper bound.
        aggregate_kl: KL(q(z|y) || p(z|y)), with the aggregate of ``lower``; in expectation an upper bound.
        rate: KL(q(z|x,y) || p(z|y)) from the same draws: exactly ``lower`` + ``aggregate_kl``.
        cap: mean of ln B, the most that ``lower`` can be.
        set_sizes: (smallest, largest) number B of posteriors in an aggregate.
    """

    lower: Estimate
    upper: Estimate
    aggregate_kl: Estimate
    rate: Estimate
    cap: float
    set_sizes: tuple[int, int]

    @property
    def saturated(self) -> bool:
        """Whether ``lower`` is within ln 2 of the cap, so that it measures the size of the set: use more data.

        A z's own posterior is most of the aggregate there.
        """
        return self.cap - self.lower.mean < math.log(2)

    def __str__(self) -> str:
        sizes = " to ".join(str(size) for size in sorted(set(self.set_sizes)))
        return (
            f"I(x;z|y) from {self.lower} to {self.upper} nats (cap {self.cap:.2f} from sets of {sizes}"
            f"{', reached: use more data' if self.saturated else ''}), KL(q(z|y) || p(z|y)) {self.aggregate_kl} nats"
        )


def mutual_information(
    model: LatentVariableModel,
    data: Data,
    *,
    samples: int = 1,
    y: Any = None,
    groups: Int64[Tensor, " n"] | None = None,
    seed: int = 0,
) -> Information:
    r"""Estimate I(x;z|y) under q and KL(q(z|y) || p(z|y)) from the aggregate of B posteriors of the same y.

    .. math:: \underbrace{E\log\frac{q(z|x,y)}{p(z|y)}}_{\text{rate}} =
              \underbrace{E\log\frac{q(z|x,y)}{q(z|y)}}_{I(x;z|y)} +
              \underbrace{E\log\frac{q(z|y)}{p(z|y)}}_{KL(q(z|y)\,\|\,p(z|y))},
              \qquad q(z|y) \approx \frac1B \sum_{m:\,y_m = y} q(z|x_m,y)

    with :math:`z \sim q(z|x_n,y_n)`. With n among the m this holds exactly for every draw; the first term can
    never exceed ln B, and its expectation is below I. With n left out (and B - 1 in place of B) it is above:
    the truth lies between ``lower`` and ``upper``. What ``lower`` misses of I, ``aggregate_kl`` has too much.

    The aggregate is over all examples for a VAE, over those of the same label or otherwise equal y for a CVAE; an
    example whose y no other shares is left out. A continuous y has no equals: pass ``groups``, bins of y, and read the
    result as I(x;z|bin), which counts what z knows of y inside a bin, so the finer the better until B is small.
    The standard error is over examples; what the other posteriors of the aggregate add is of second order.

    Time grows with B times N; memory holds N (K + 2) D numbers and 16 MB, computed in float64. The posterior must
    be a factorised Gaussian; the prior may be anything with a density.

    Args:
        model: a CVAE, or any model with the three distributions.
        data: tensors (x, y), an ``ImageSet``, a ``Dataset`` or a ``DataLoader``.
        samples: K, draws of z per example.
        y: (N, ...), or a tuple of such, the condition of each example in place of the data's own.
        groups: (N,), which examples share an aggregate, instead of those of equal y.
        seed: fixes the binarisation, where there is one, and the draws of z.

    Raises:
        ValueError: if no two examples share their y, the posterior is not a factorised Gaussian, ``samples`` is
            below 1, or ``y`` or ``groups`` do not fit.

    Sources: Hoffman and Johnson 2016 (ELBO surgery, NeurIPS workshop) for the split; Poole et al. 2019,
    arXiv:1905.06922, for the two bounds and the cap.
    """
    if samples < 1:
        raise ValueError(f"An expectation over z needs at least 1 sample, not {samples}.")
    with evaluation_mode(model):
        seen = examples(model, data, y=y, groups=groups, seed=seed)
        sets = [members for members in _members(seen.groups) if len(members) > 1]
        if not sets:
            raise ValueError(
                "No two examples share their y, so q(z|y) cannot be estimated; pass groups=, for example bins of y."
            )
        mean, scale, z, log_prior = _posteriors(seen, at_most(samples, settings.samples))
        tables = [_against_aggregate(z[:, own], mean[own], scale[own]) for own in sets]
    density, others = (torch.cat(parts, 1) for parts in zip(*tables, strict=True))  # (K, N) each
    kept = torch.cat(sets)
    sizes = torch.cat([torch.full((len(own),), len(own)) for own in sets]).to(density)
    aggregate = torch.logaddexp(others, density) - sizes.log()
    terms = {
        "lower": density - aggregate,
        "upper": density - (others - (sizes - 1).log()),
        "aggregate_kl": aggregate - log_prior[:, kept],
        "rate": density - log_prior[:, kept],
    }
    order = kept.argsort()  # as the examples lie in the data
    estimates = {name: mean_and_error(term.mean(0)[order].cpu()) for name, term in terms.items()}
    lengths = [len(own) for own in sets]
    return Information(**estimates, cap=float(sizes.log().mean()), set_sizes=(min(lengths), max(lengths)))


def _members(groups: Int64[Tensor, " n"]) -> tuple[Int64[Tensor, " b"], ...]:
    order = groups.argsort(stable=True)
    sizes: list[int] = groups[order].unique_consecutive(return_counts=True)[1].tolist()
    return torch.split(order, sizes)


def _posteriors(seen: Examples, samples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean (N, D), scale (N, D), K draws z (K, N, D) and log p(z|y) (K, N), all in float64."""
    # Apple's GPUs know no float64; the CPU does this part for them.
    place = torch.device("cpu") if seen.device.type == "mps" else seen.device
    parts: list[tuple[Tensor, ...]] = []
    with seeded(seen.seed, seen.device):
        for x, condition, _ in seen.batches(1000):
            q = seen.model.posterior(x, condition)
            if not isinstance(q, Independent) or not isinstance(q.base_dist, Normal):
                kind = type(getattr(q, "base_dist", q)).__name__
                raise ValueError(f"The aggregate is computed for a factorised Normal q(z|x,y), not for a {kind}.")
            z = q.sample(torch.Size((samples,)))  # (K, B, D)
            log_prior = seen.model.prior(condition, batch=len(x)).log_prob(z)
            parts.append(tuple(part.to(place).double() for part in (q.mean, q.stddev, z, log_prior)))
    means, scales, draws, densities = zip(*parts, strict=True)
    return torch.cat(means), torch.cat(scales), torch.cat(draws, 1), torch.cat(densities, 1)


def _against_aggregate(
    z: Float[Tensor, "k b d"], mean: Float[Tensor, "b d"], scale: Float[Tensor, "b d"]
) -> tuple[Float[Tensor, "k b"], Float[Tensor, "k b"]]:
    r"""Return log q(z_n|x_n) and :math:`\log \sum_{m \ne n} q(z_n|x_m)`, a few rows of the table at a time."""
    weight = scale**-2
    # log q(z|x_m) is linear in (z^2, z, 1), so the whole table is a product of two matrices.
    constant = -(mean.square() * weight + 2 * scale.log() + math.log(2 * math.pi)).sum(1) / 2
    rows = z.flatten(0, 1)  # (K * B, D)
    number = torch.arange(len(mean), device=z.device).repeat(len(z))[:, None]  # (K * B, 1): whose z the row is
    # Made beforehand: small results between large tables keep the C library from using their memory again.
    own, others = rows.new_empty(2, len(rows))
    at_once = max(1, ENTRIES_AT_ONCE // len(mean))
    for start in range(0, len(rows), at_once):
        part = slice(start, start + at_once)
        here, column = rows[part], number[part]
        table = here @ (mean * weight).T - here.square() @ (weight / 2).T + constant  # (rows, B)
        own[part] = table.gather(1, column)[:, 0]
        others[part] = table.scatter_(1, column, -math.inf).logsumexp(1)
    return own.view(len(z), -1), others.view(len(z), -1)
