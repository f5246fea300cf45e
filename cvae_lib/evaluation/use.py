"""Which parts of a conditional VAE do any work: its latents, its z as a whole, its condition."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cvae_lib import course
from cvae_lib.data import ImageSet, PixelMode
from cvae_lib.evaluation._estimate import Estimate, mean_and_error
from cvae_lib.evaluation._examples import Examples, examples, ring, ring_estimate, rows_of
from cvae_lib.evaluation.likelihood import rows_at_once
from cvae_lib.model import CVAE
from cvae_lib.objective import log_importance_weights
from cvae_lib.training import seeded


@dataclass(frozen=True)
class ActiveUnits:
    """How far each latent's posterior mean moves from one example to another.

    Attributes:
        variances: (D,), variance of the posterior mean over the data, in squared units of z.
        errors: (D,), their standard errors.
        threshold: above which a latent counts as active.
        within_y: (D,), variance among images of the same y, which leaves out what the latent tells of y; None for
            a VAE, or where no two images share their y.
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
        """The number of latents that are active among images of the same y."""
        return None if self.within_y is None else int((self.within_y > self.threshold).sum())

    def __str__(self) -> str:
        inside = "" if self.within_y is None else f", {self.count_within_y} of them among images of the same y"
        return f"{self.count} of {len(self.variances)} latents active (variance above {self.threshold:g}){inside}"


@torch.no_grad()
def active_units(
    model: CVAE,
    data: ImageSet,
    threshold: float = 0.01,
    *,
    y: Any = None,
    pixels: PixelMode = "stochastic",
    seed: int = 0,
) -> ActiveUnits:
    r"""Count the latents whose posterior mean moves with the data.

    .. math:: A_d = \operatorname{Var}_{x,y}\big(E_q[z_d|x,y] - E_p[z_d|y]\big), \qquad
              d \text{ is active if } A_d > \text{threshold}

    Under a fixed prior the second term is a constant and this is the definition of Burda et al.; where the prior
    moves with y, following it tells nothing about x and does not count. Under a fixed prior a latent can still be
    active only because it repeats y; ``within_y`` is the variance around the mean of each y (pooled), without that.
    The standard error of a variance is :math:`\sqrt{(m_4 - A^2)/N}` with the fourth central moment :math:`m_4`.

    Args:
        threshold: in squared units of z.
        y: (N, ...), or a tuple of such, the condition of each image where it is not the label.

    Raises:
        ValueError: if there are fewer than two images, or ``y`` does not fit.

    Source: Burda, Grosse and Salakhutdinov 2016, arXiv:1509.00519.
    """
    seen = examples(model, data, y=y, pixels=pixels, seed=seed)
    if len(seen) < 2:
        raise ValueError("A variance over the data needs at least two images.")
    moves = []
    for x, condition, _ in seen.batches(1000):
        moves.append((model.posterior(x, condition).mean - model.prior(condition, batch=len(x)).mean).cpu().double())
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
        output_change: mean absolute change of a pixel's mean as z is drawn anew from the prior, 0 to 1.
        likelihood_lost: log p(x|z,y) lost when z comes from another image, nats per image.
        within_y: whether that other image had the same y; if not, what z knows of y is counted too.
    """

    output_change: Estimate
    likelihood_lost: Estimate
    within_y: bool

    def __str__(self) -> str:
        change, lost = self.output_change, self.likelihood_lost
        return (
            f"another z from the prior changes a pixel by {change.mean:.4f} ± {change.standard_error:.4f}; "
            f"z of another image{' with the same y' if self.within_y else ''} costs {lost} nats"
        )


@torch.no_grad()
def is_z_used(
    model: CVAE,
    data: ImageSet,
    *,
    y: Any = None,
    groups: Int64[Tensor, " n"] | None = None,
    pixels: PixelMode = "stochastic",
    seed: int = 0,
) -> ZUse:
    r"""Measure what z does to the output: draw it anew, and swap it between images.

    .. math:: \text{change} = E_{y}\, E_{z,z' \sim p(z|y)}\, \tfrac1P \sum_p \big|E[x_p|z,y] - E[x_p|z',y]\big|,
       \qquad
       \text{lost} = E\big[\log p(x_n|z_n,y_n) - \log p(x_n|z_{n'},y_n)\big]

    with :math:`z_n \sim q(z|x_n,y_n)` and n' a random partner of n with the same y, so that only what z tells
    beyond y counts. Both are zero for a decoder that is deaf to z; the second is zero too where q(z|x,y) does not
    depend on x. Differences are paired, image by image, and their standard error allows for shared z. An image
    whose y nobody shares is left out; where no two images share theirs (a continuous y), partners come from all
    the data and ``within_y`` is false: then pass ``groups``, or read the figure as z's part in x and y together.

    Args:
        y: (N, ...), or a tuple of such, the condition of each image where it is not the label.
        groups: (N,), images to swap among, instead of those of equal y; bins of a continuous y for example.

    Raises:
        ValueError: if there are fewer than two images, or ``y`` or ``groups`` do not fit.
    """
    seen = examples(model, data, y=y, groups=groups, pixels=pixels, seed=seed)
    if len(seen) < 2:
        raise ValueError("Swapping z between images needs at least two images.")
    shared = seen.groups.unique().numel() < len(seen)
    partner = ring(seen.groups if shared else torch.zeros_like(seen.groups), seed)
    size = max(1, rows_at_once(model, seen.data.images) // 2)
    latents, changes, lost = [], [], []
    with seeded(seed, model.device):
        for x, condition, _ in seen.batches(size):
            latents.append(model.posterior(x, condition).sample())
            means = model.likelihood(model.prior(condition, batch=len(x)).sample((2,)), condition).mean
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
        likelihood_lost: log p(x|y) lost when y comes from another image, nats per image.
        true: log p(x|y) with the image's own y, nats per image.
        shuffled: the same with the other image's y.
        changed: share of the images whose y the shuffling did change; the others lose nothing.
    """

    likelihood_lost: Estimate
    true: Estimate
    shuffled: Estimate
    changed: float

    def __str__(self) -> str:
        return f"y of another image costs {self.likelihood_lost} nats ({self.true} -> {self.shuffled})"


@torch.no_grad()
def is_y_used(
    model: CVAE,
    data: ImageSet,
    *,
    samples: int = 20,
    y: Any = None,
    pixels: PixelMode = "stochastic",
    seed: int = 0,
) -> YUse:
    r"""Measure the log-likelihood lost when every image is given the y of another.

    .. math:: \text{lost} = E\big[\log p(x_n|y_n) - \log p(x_n|y_{n'})\big]

    with n' a random partner of n among all images, so y' follows the data's p(y) whatever x is; some y' equal y
    (one in ten for ten balanced labels). Encoder, prior and decoder all hear y'. Both likelihoods are the K-sample
    bound with the same noise, and the difference is paired: a model deaf to y loses exactly 0. The encoder never
    saw wrong pairs, so its bound is looser there and ``lost`` is rather too large; more ``samples`` shrink that,
    and 1 gives the loss in ELBO (with a sampled KL).

    Args:
        samples: K.
        y: (N, ...), or a tuple of such, the condition of each image where it is not the label.

    Raises:
        ValueError: if the model takes no y, there are fewer than two images, or ``samples`` is below 1.

    Source of the bound: Burda et al. 2016, arXiv:1509.00519.
    """
    if not model.is_conditional:
        raise ValueError("Only a conditional model can use a y; this one takes none.")
    if samples < 1:
        raise ValueError(f"Importance sampling needs at least 1 sample, not {samples}.")
    seen = examples(model, data, y=y, pixels=pixels, seed=seed)
    if len(seen) < 2:
        raise ValueError("Swapping y between images needs at least two images.")
    assert seen.y is not None  # the model is conditional
    samples = course.capped(samples, course.FAST_SAMPLES)
    partner = ring(torch.zeros_like(seen.groups), seed)
    swapped = rows_of(seen.y, partner.to(model.device))
    bounds = []
    size = max(1, rows_at_once(model, seen.data.images) // samples)
    for number, (x, condition, index) in enumerate(seen.batches(size)):
        pair = []
        for told in (condition, rows_of(swapped, index)):
            with seeded(seed + number, model.device):
                pair.append(log_importance_weights(model, x, told, samples).logsumexp(0) - math.log(samples))
        bounds.append(torch.stack(pair).cpu())
    true, shuffled = torch.cat(bounds, 1)
    changed = float((seen.groups != seen.groups[partner]).double().mean())
    return YUse(ring_estimate(true - shuffled, partner), mean_and_error(true), mean_and_error(shuffled), changed)
