"""Test log-likelihood by importance sampling, in memory that does not grow with the number of samples."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib import course
from cvae_lib.data import ImageSet, PixelMode
from cvae_lib.evaluation._estimate import Estimate, mean_and_error
from cvae_lib.evaluation._examples import examples
from cvae_lib.model import CVAE
from cvae_lib.objective import LatentVariableModel, log_importance_weights
from cvae_lib.training import Precision, autocast, seeded

ROWS_AT_ONCE = 2000  # decoded images held at a time: about 6 MB in float32, which stays in a CPU's cache


@torch.no_grad()
def _bound(model: LatentVariableModel, x: Tensor, y: Any, samples: int) -> Float[Tensor, " b"]:
    """Return log-mean-exp over K importance weights, accumulating pieces of K so that memory stays put."""
    at_once = max(1, min(samples, ROWS_AT_ONCE // len(x)))
    total = x.new_full((len(x),), -math.inf)
    for done in range(0, samples, at_once):
        weights = log_importance_weights(model, x, y, min(at_once, samples - done))  # (k, B)
        total = torch.logaddexp(total, weights.logsumexp(0))
    return total - math.log(samples)


def log_likelihood(
    model: CVAE,
    data: ImageSet,
    *,
    samples: int = 100,
    y: Any = None,
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
        y: (N, ...), or a tuple of such, the condition of each image where it is not the label.
        precision: of the matrix products; sums and logarithms are float32 at least.

    Raises:
        ValueError: if ``samples`` is below 1, or ``y`` does not fit the data or the model.
    """
    columns = _columns(model, data, [None], y, samples, pixels, precision, seed)
    return mean_and_error(columns[:, 0])


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
        ValueError: if the model is not conditional on a label, or ``samples`` is below 1.
    """
    if not model.is_conditional:
        raise ValueError("Only a conditional model has a likelihood for each label; this one takes no y.")
    if not model.config.num_classes:
        raise ValueError("This model's condition is no label, so there are no labels to go through.")
    return _columns(model, data, list(range(model.config.num_classes)), None, samples, pixels, precision, seed)


def _columns(
    model: CVAE,
    data: ImageSet,
    labels: list[int | None],
    y: Any,
    samples: int,
    pixels: PixelMode,
    precision: Precision,
    seed: int,
) -> Float[Tensor, "n columns"]:
    """Bound log p(x|y) once for each label; None stands for the example's own condition."""
    if samples < 1:
        raise ValueError(f"Importance sampling needs at least 1 sample, not {samples}.")
    samples = course.capped(samples, course.FAST_SAMPLES)
    seen = examples(model, data, y=y, pixels=pixels, seed=seed)
    rows = []
    with seeded(seed, model.device):
        for x, own, _ in seen.batches(100):
            with autocast(model.device, precision):
                told = [own if label is None else torch.full((len(x),), label, device=x.device) for label in labels]
                rows.append(torch.stack([_bound(model, x, given, samples) for given in told], 1))  # (B, columns)
    return torch.cat(rows).cpu()
