"""Which parts of a conditional VAE do any work: its latents, its z as a whole, its condition."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cvae_lib.data import Data, rows_of
from cvae_lib.environment import at_most, evaluation_mode, seeded, settings
from cvae_lib.evaluation._estimate import Estimate, mean_and_error
from cvae_lib.evaluation._examples import Examples, examples
from cvae_lib.evaluation._partners import ring, ring_estimate
from cvae_lib.evaluation.likelihood import rows_at_once
from cvae_lib.objective import LatentVariableModel, log_importance_weights


@dataclass(frozen=True)
class ActiveUnits:
    """How far each latent's posterior mean moves from one example to another.

    Attributes:
        variances: (D,), variance of the posterior mean over the data, in squared units of z.
        errors: (D,), their standard errors.
        threshold: above which a latent counts as active.
        within_y: (D,), variance among examples of the same y, which leaves out what the latent knows of y; None for
            a VAE, or where no two examples share their y.
    """

    variances: Float[Tensor, " d"]
    errors: Float[Tensor, " d"]
    threshold: float
    within_y: Float[Tensor, " d"] | None = None

    @property
    def count(self) -> int:
        """The number of active latents."""
        return int((self.variances > self.threshold).sum())

    @property
    def count_within_y(self) -> int | None:
        """The number of latents that are active among examples of the same y."""
        return None if self.within_y is None else int((self.within_y > self.threshold).sum())

    def __str__(self) -> str:
        inside = "" if self.within_y is None else f", {self.count_within_y} of them among examples of the same y"
        return f"{self.count} of {len(self.variances)} latents active (variance above {self.threshold:g}){inside}"


def active_units(
    model: LatentVariableModel,
    data: Data,
    threshold: float = 0.01,
    *,
    y: Any = None,
    seed: int = 0,
) -> ActiveUnits:
    r"""Count the latents whose posterior mean moves with the data.

    .. math:: A_d = \operatorname{Var}_{x,y}\big(E_q[z_d|x,y] - E_p[z_d|y]\big), \qquad
              d \text{ is active if } A_d > \text{threshold}

    Under a fixed prior the second term is a constant and this is the definition of Burda et al.; where the prior
    moves with y, following it carries no information about x and does not count. Under a fixed prior a latent can
    still be active only because it repeats y; ``within_y`` is the variance around the mean of each y (pooled), without
    that.
    The standard error of a variance is :math:`\sqrt{(m_4 - A^2)/N}` with the fourth central moment :math:`m_4`.

    Args:
        model: a CVAE, or any model with the three distributions, whose means are known.
        data: tensors (x, y), an ``ImageSet``, a ``Dataset`` or a ``DataLoader``.
        threshold: in squared units of z.
        y: (N, ...), or a tuple of such, the condition of each example in place of the data's own.
        seed: fixes the binarisation, where there is one.

    Raises:
        ValueError: if there are fewer than two examples, or ``y`` does not fit.

    Source: Burda, Grosse and Salakhutdinov 2016, arXiv:1509.00519.
    """
    moves = []
    with evaluation_mode(model):
        seen = examples(model, data, y=y, seed=seed)
        if len(seen) < 2:
            raise ValueError("A variance over the data needs at least two examples.")
        for x, condition, _ in seen.batches(1000):
            move = model.posterior(x, condition).mean - model.prior(condition, batch=len(x)).mean
            moves.append(move.cpu().double())
    centred = torch.cat(moves)
    centred -= centred.mean(0)
    variances = centred.square().sum(0) / (len(seen) - 1)
    errors = ((centred**4).mean(0) - variances**2).clamp(min=0).div(len(seen)).sqrt()
    return ActiveUnits(variances.float(), errors.float(), threshold, _pooled(centred, seen))


def _pooled(moves: Float[Tensor, "n d"], seen: Examples) -> Float[Tensor, " d"] | None:
    """Return the variance around the means of the groups, if there are groups."""
    _, member, sizes = seen.groups.unique(return_inverse=True, return_counts=True)
    if seen.y is None or len(sizes) == len(moves):
        return None
    means = torch.zeros(len(sizes), moves.shape[1], dtype=moves.dtype).index_add_(0, member, moves) / sizes[:, None]
    pooled: Tensor = (moves - means[member]).square().sum(0) / (len(moves) - len(sizes))
    return pooled.float()


@dataclass(frozen=True)
class ZUse:
    """What z does to the output.

    Attributes:
        output_change: mean absolute change of an entry of the mean of p(x|z,y) as z is drawn anew from the prior, in
            the unit of x: for pixels a share of white; NaN where p(x|z,y) has no mean.
        likelihood_lost: log p(x|z,y) lost when z comes from another example, nats per example.
        within_y: whether that other example had the same y; if not, what z knows of y is counted too.
    """

    output_change: Estimate
    likelihood_lost: Estimate
    within_y: bool

    def __str__(self) -> str:
        change, lost = self.output_change, self.likelihood_lost
        return (
            f"another z from the prior changes an entry of x by {change.mean:.4f} ± {change.standard_error:.4f}; "
            f"z of another example{' with the same y' if self.within_y else ''} costs {lost} nats"
        )


def is_z_used(
    model: LatentVariableModel,
    data: Data,
    *,
    y: Any = None,
    groups: Int64[Tensor, " n"] | None = None,
    seed: int = 0,
) -> ZUse:
    r"""Measure what z does to the output: draw it anew, and swap it between examples.

    .. math:: \text{change} = E_{y}\, E_{z,z' \sim p(z|y)}\, \tfrac1P \sum_p \big|E[x_p|z,y] - E[x_p|z',y]\big|,
       \qquad
       \text{lost} = E\big[\log p(x_n|z_n,y_n) - \log p(x_n|z_{n'},y_n)\big]

    with :math:`z_n \sim q(z|x_n,y_n)` and n' a random partner of n with the same y, so that only what z knows beyond y
    counts. Both are zero for a decoder that ignores z; the second is zero too where q(z|x,y) does not depend on x.
    Differences are paired, example by example, and their standard error allows for shared z. An example whose y no
    other shares is left out; where no two examples share theirs (a continuous y), partners come from all the data and
    ``within_y`` is false: then pass ``groups``, or read the figure as z's part in x and y together.

    Args:
        model: a CVAE, or any model with the three distributions.
        data: tensors (x, y), an ``ImageSet``, a ``Dataset`` or a ``DataLoader``.
        y: (N, ...), or a tuple of such, the condition of each example in place of the data's own.
        groups: (N,), examples to swap among, instead of those of equal y; bins of a continuous y for example.
        seed: fixes the binarisation, where there is one, the draws of z, and who is whose partner.

    Raises:
        ValueError: if there are fewer than two examples, or ``y`` or ``groups`` do not fit.
    """
    latents, changes, lost = [], [], []
    with evaluation_mode(model):
        seen = examples(model, data, y=y, groups=groups, seed=seed)
        if len(seen) < 2:
            raise ValueError("Swapping z between examples needs at least two of them.")
        shared = seen.groups.unique().numel() < len(seen)
        partner = ring(seen.groups if shared else torch.zeros_like(seen.groups), seed)
        size = max(1, rows_at_once(model, seen.data.x) // 2)
        with seeded(seed, seen.device):
            for x, condition, _ in seen.batches(size):
                latents.append(model.posterior(x, condition).sample())
                pair = model.prior(condition, batch=len(x)).sample(torch.Size((2,)))  # (2, B, D)
                try:
                    means = model.likelihood(pair, condition).mean
                except NotImplementedError:  # tokens and tables have none
                    means = x.new_full((2, len(x), 1), math.nan)
                changes.append((means[0] - means[1]).abs().flatten(1).mean(1).cpu())
            z = torch.cat(latents)  # (N, D)
            for x, condition, index in seen.batches(size):
                pair = torch.stack((z[index], z[partner.to(index.device)[index]]))  # (2, B, D)
                own, other = model.likelihood(pair, condition).log_prob(x)
                lost.append((own - other).cpu())
    return ZUse(mean_and_error(torch.cat(changes)), ring_estimate(torch.cat(lost), partner), shared)


@dataclass(frozen=True)
class YUse:
    """What the condition does to the likelihood.

    Attributes:
        likelihood_lost: log p(x|y) lost when y comes from another example, nats per example.
        true: log p(x|y) with the example's own y, nats per example.
        shuffled: the same with the other example's y.
        changed: share of the examples whose y the shuffling did change; the others lose nothing.
    """

    likelihood_lost: Estimate
    true: Estimate
    shuffled: Estimate
    changed: float

    def __str__(self) -> str:
        return f"y of another example costs {self.likelihood_lost} nats ({self.true} -> {self.shuffled})"


def is_y_used(
    model: LatentVariableModel,
    data: Data,
    *,
    samples: int = 20,
    y: Any = None,
    seed: int = 0,
) -> YUse:
    r"""Measure the log-likelihood lost when every example is given the y of another.

    .. math:: \text{lost} = E\big[\log p(x_n|y_n) - \log p(x_n|y_{n'})\big]

    with n' a random partner of n among all examples, so y' follows the data's p(y) whatever x is; some y' equal y
    (one in ten for ten balanced labels). Encoder, prior and decoder are all given y'. Both likelihoods are the
    K-sample bound with the same noise, and the difference is paired: a model that ignores y loses exactly 0. The
    encoder never saw wrong pairs, so its bound is looser there and ``lost`` is rather too large; more ``samples``
    shrink that, and 1 gives the loss in ELBO (with a sampled KL).

    Args:
        model: a CVAE, or any model with the three distributions.
        data: tensors (x, y), an ``ImageSet``, a ``Dataset`` or a ``DataLoader``.
        samples: K.
        y: (N, ...), or a tuple of such, the condition of each example in place of the data's own.
        seed: fixes the binarisation, where there is one, the draws of z, and who is whose partner.

    Raises:
        ValueError: if the model takes no y, there are fewer than two examples, or ``samples`` is below 1.

    Source of the bound: Burda et al. 2016, arXiv:1509.00519.
    """
    if samples < 1:
        raise ValueError(f"Importance sampling needs at least 1 sample, not {samples}.")
    samples = at_most(samples, settings.samples)
    bounds = []
    with evaluation_mode(model):
        seen = examples(model, data, y=y, seed=seed)
        if seen.y is None:
            raise ValueError("Only a conditional model can use a y; this one takes none.")
        if len(seen) < 2:
            raise ValueError("Swapping y between examples needs at least two of them.")
        partner = ring(torch.zeros_like(seen.groups), seed)
        swapped = rows_of(seen.y, partner.to(seen.device))
        size = max(1, rows_at_once(model, seen.data.x) // samples)
        for number, (x, condition, index) in enumerate(seen.batches(size)):
            pair = []
            for given in (condition, rows_of(swapped, index)):
                with seeded(seed + number, seen.device):
                    pair.append(log_importance_weights(model, x, given, samples).logsumexp(0) - math.log(samples))
            bounds.append(torch.stack(pair).cpu())
    true, shuffled = torch.cat(bounds, 1)
    changed = float((seen.groups != seen.groups[partner]).double().mean())
    return YUse(ring_estimate(true - shuffled, partner), mean_and_error(true), mean_and_error(shuffled), changed)
