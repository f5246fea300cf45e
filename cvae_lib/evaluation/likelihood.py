"""Test log-likelihood by importance sampling, in memory that does not grow with the number of samples."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib import course
from cvae_lib.data import ImageSet, PixelMode
from cvae_lib.model import CVAE
from cvae_lib.objective import LatentVariableModel, log_importance_weights
from cvae_lib.training import Precision, autocast, seeded

ROWS_AT_ONCE = 2000  # decoded images held at a time: about 6 MB in float32, which stays in a CPU's cache


class Estimate(NamedTuple):
    """A mean with its standard error.

    Attributes:
        mean: mean over the examples, nats.
        standard_error: sample standard deviation over the square root of their number, nats.
        per_example: (N,), the values themselves, in the order of the data, for paired comparisons.
    """

    mean: float
    standard_error: float
    per_example: Float[Tensor, " n"]

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.standard_error:.2f}"


def mean_and_error(values: Float[Tensor, " n"]) -> Estimate:
    r"""Return the mean of the values and its standard error, :math:`s / \sqrt N`."""
    values = values.detach().double().cpu()
    error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), error, values.float())


@torch.no_grad()
def _bound(model: LatentVariableModel, x: Tensor, y: Tensor | None, samples: int) -> Float[Tensor, " b"]:
    """Return log-mean-exp over K importance weights, accumulating pieces of K so that memory stays put."""
    at_once = max(1, min(samples, ROWS_AT_ONCE // len(x)))
    total = torch.full((len(x),), -math.inf, device=x.device)
    for done in range(0, samples, at_once):
        weights = log_importance_weights(model, x, y, min(at_once, samples - done))  # (k, B)
        total = torch.logaddexp(total, weights.logsumexp(0))
    return total - math.log(samples)


def log_likelihood(
    model: CVAE,
    data: ImageSet,
    *,
    samples: int = 100,
    pixels: PixelMode = "stochastic",
    precision: Precision = "auto",
    seed: int = 0,
) -> Estimate:
    r"""Estimate the mean of log p(x|y) over the data (log p(x) for a VAE), in nats per image.

    .. math:: \log p(x|y) \approx \log \frac1K \sum_k \frac{p(x|z_k,y)\, p(z_k|y)}{q(z_k|x,y)},
              \quad z_k \sim q(z|x,y)

    a lower bound in expectation, rising to log p(x|y) with K (Burda et al. 2016, arXiv:1509.00519). With
    ``stochastic`` pixels every image is binarised once, in the same way for the same ``seed`` whatever the model,
    so that two models can be compared image by image.

    Args:
        samples: K.
        precision: of the matrix products; sums and logarithms are float32 always.

    Raises:
        ValueError: if ``samples`` is below 1.
    """
    if samples < 1:
        raise ValueError(f"Importance sampling needs at least 1 sample, not {samples}.")
    model.eval()
    device = model.device
    samples, data = course.capped(samples, course.FAST_SAMPLES), _evaluation_set(data).to(device)
    values = []
    # Pixels have a stream of their own: the model's draws must not shift the binarisation.
    stream = torch.Generator(device).manual_seed(seed)
    with seeded(seed, device):
        for batch in data.batches(100, pixels=pixels, shuffle=False, generator=stream):
            with autocast(device, precision):
                values.append(_bound(model, batch.x, batch.y if model.is_conditional else None, samples))
    return mean_and_error(torch.cat(values))


def class_log_likelihoods(
    model: CVAE,
    data: ImageSet,
    *,
    samples: int = 100,
    pixels: PixelMode = "stochastic",
    precision: Precision = "auto",
    seed: int = 0,
) -> Float[Tensor, "n classes"]:
    r"""Estimate log p(x|y) of every image under every label y, shape (N, classes), nats.

    With a uniform p(y) over C classes the row's ``logsumexp(1) - log C`` is log p(x), the marginal, and its softmax
    is p(y|x), the generator as classifier by Bayes' rule. Binarisation as in :func:`log_likelihood`.

    Raises:
        ValueError: if the model is not conditional.
    """
    if not model.is_conditional:
        raise ValueError("Only a conditional model has a likelihood for each label; this one takes no y.")
    model.eval()
    device = model.device
    samples, data = course.capped(samples, course.FAST_SAMPLES), _evaluation_set(data).to(device)
    rows = []
    stream = torch.Generator(device).manual_seed(seed)
    with seeded(seed, device):
        for batch in data.batches(100, pixels=pixels, shuffle=False, generator=stream):
            with autocast(device, precision):
                columns = [
                    _bound(model, batch.x, torch.full_like(batch.y, label), samples)
                    for label in range(model.config.num_classes)
                ]
            rows.append(torch.stack(columns, 1))  # (B, classes)
    return torch.cat(rows).cpu()


def _evaluation_set(data: ImageSet) -> ImageSet:
    return data.subset(slice(course.capped(len(data), course.FAST_IMAGES)))
