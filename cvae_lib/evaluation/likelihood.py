"""Test log-likelihood by importance sampling, in memory that does not grow with the number of samples."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib.data import Data
from cvae_lib.environment import Precision, at_most, evaluation_mode, seeded, settings
from cvae_lib.evaluation._estimate import Estimate, mean_and_error
from cvae_lib.evaluation._examples import examples
from cvae_lib.objective import LatentVariableModel, Proposal, log_importance_weights

ROWS_AT_ONCE = 2000  # decoded examples held at a time: about 6 MB in float32, which stays in a CPU's cache
NUMBERS_AT_ONCE = 2**24  # fewer of them where the decoder gives more numbers than this in all, at 64 MB in float32


def rows_at_once(model: LatentVariableModel, x: Tensor) -> int:
    """Return how many decoded examples are held at a time; 256 numbers for each pixel leave room for few."""
    kinds = int(getattr(getattr(model, "likelihood_module", None), "channels_per_pixel", 1))
    return max(1, min(ROWS_AT_ONCE, NUMBERS_AT_ONCE // max(1, kinds * x[0].numel())))


def _bounds(
    model: LatentVariableModel, x: Tensor, y: Any, counts: Sequence[int], proposal: Proposal
) -> Float[Tensor, "b counts"]:
    """Return log-mean-exp over the first K weights for each K of the rising counts, in memory that stays put."""
    total = torch.full((len(x),), -math.inf, dtype=torch.float32, device=x.device)  # float64 once weights are
    columns, done, room = [], 0, rows_at_once(model, x) // len(x)
    for count in counts:
        while done < count:
            at_once = max(1, min(count - done, room))
            weights = log_importance_weights(model, x, y, at_once, proposal=proposal)  # (k, B)
            total = torch.logaddexp(total, weights.logsumexp(0))
            done += at_once
        columns.append(total - math.log(count))
    return torch.stack(columns, 1)


def log_likelihood(
    model: LatentVariableModel,
    data: Data,
    *,
    samples: int = 100,
    y: Any = None,
    proposal: Proposal = "posterior",
    precision: Precision = "float32",
    seed: int = 0,
) -> Estimate:
    r"""Estimate the mean of log p(x|y) over the data (log p(x) for a VAE), in nats per example.

    .. math:: \log p(x|y) \approx \log \frac1K \sum_k \frac{p(x|z_k,y)\, p(z_k|y)}{q(z_k|x,y)},
              \quad z_k \sim q(z|x,y)

    a lower bound in expectation, rising to log p(x|y) with K (Burda et al. 2016, arXiv:1509.00519). Where the
    likelihood draws binary pixels, every image is binarised once, in the same way for the same ``seed`` whatever the
    model, so that two models can be compared image by image.

    Args:
        model: a CVAE, or any model with the three distributions.
        data: tensors (x, y), an ``ImageSet``, a ``Dataset`` or a ``DataLoader``.
        samples: K.
        y: (N, ...), or a tuple of such, the condition of each example in place of the data's own.
        proposal: where the z come from. ``prior`` is plain Monte Carlo, :math:`\log \frac1K \sum_k p(x|z_k,y)` with
            :math:`z_k \sim p(z|y)`: it needs no encoder, and far more samples.
        precision: of the matrix products: ``float32``, ``bf16``, or ``auto``, bf16 where the hardware has it. Sharp
            likelihoods and large numbers need float32: rounded products can put the estimate below the ELBO.
        seed: fixes the binarisation and the draws of z.

    Raises:
        ValueError: if ``samples`` is below 1, or ``y`` does not fit the data or the model.
    """
    return likelihood_by_samples(model, data, [samples], y=y, proposal=proposal, precision=precision, seed=seed)[0]


def likelihood_by_samples(
    model: LatentVariableModel,
    data: Data,
    counts: Sequence[int],
    *,
    y: Any = None,
    proposal: Proposal = "posterior",
    precision: Precision = "float32",
    seed: int = 0,
) -> list[Estimate]:
    r"""Estimate the mean of log p(x|y) with each of several numbers of samples, to see it converge.

    .. math:: \hat L_K = \log \frac1K \sum_{k=1}^K w_k, \qquad E \hat L_1 \le E \hat L_{10} \le \dots \le \log p(x|y)

    The draws are nested: ten samples are the first ten of a hundred. Arguments as in :func:`log_likelihood`.

    Args:
        counts: the numbers of samples K, rising.

    Returns:
        One estimate for each of the counts.

    Raises:
        ValueError: if the counts are none, below 1 or not rising, or ``y`` does not fit the data or the model.
    """
    if not counts or min(counts) < 1:
        raise ValueError(f"Importance sampling needs at least 1 sample, not {list(counts) or 'none'}.")
    if sorted(set(counts)) != list(counts):
        raise ValueError(f"The numbers of samples must rise, and {list(counts)} do not.")
    columns = _columns(model, data, [None], y, counts, proposal, precision, seed)
    return [mean_and_error(column) for column in columns[:, 0].unbind(1)]


def class_log_likelihoods(
    model: LatentVariableModel,
    data: Data,
    *,
    samples: int = 100,
    precision: Precision = "float32",
    seed: int = 0,
) -> Float[Tensor, "n classes"]:
    r"""Estimate log p(x|y) of every example under every label y, shape (N, classes), nats.

    With a uniform p(y) over C classes the row's ``logsumexp(1) - log C`` is log p(x), the marginal, and its softmax
    is p(y|x), the generator as classifier by Bayes' rule. The labels of the data are not read. Other arguments as in
    :func:`log_likelihood`.

    Args:
        model: one that says, as a CVAE does, how many labels y can be: ``num_classes``.

    Raises:
        ValueError: if the model is not conditional on a label, or ``samples`` is below 1.
    """
    if not getattr(model, "is_conditional", True):
        raise ValueError("Only a conditional model has a likelihood for each label; this one takes no y.")
    classes = int(getattr(model, "num_classes", 0))
    if not classes:
        raise ValueError("This model's condition is no label, so there are no labels to go through.")
    if samples < 1:
        raise ValueError(f"Importance sampling needs at least 1 sample, not {samples}.")
    return _columns(model, data, list(range(classes)), None, [samples], "posterior", precision, seed)[..., 0]


def marginal_log_likelihood(
    model: LatentVariableModel,
    data: Data,
    *,
    samples: int = 100,
    frequencies: Float[Tensor, " classes"] | None = None,
    precision: Precision = "float32",
    seed: int = 0,
) -> Estimate:
    r"""Estimate the mean of log p(x) over the data by summing over every label, in nats per example.

    .. math:: \log p(x) = \log \sum_y p(y)\, p(x|y), \qquad
              p(x|y) \approx \frac1K \sum_k \frac{p(x|z_k,y)\, p(z_k|y)}{q(z_k|x,y)}

    The labels of the data are not read. Other arguments as in :func:`class_log_likelihoods`.

    Args:
        samples: K, for each label.
        frequencies: p(y), (classes,), summing to 1; uniform if not given.

    Raises:
        ValueError: if the model is not conditional on a label, ``samples`` is below 1, or the frequencies are none.

    Source of the estimate of each p(x|y): Burda et al. 2016, arXiv:1509.00519.
    """
    table = class_log_likelihoods(model, data, samples=samples, precision=precision, seed=seed).double()
    classes = table.shape[1]
    p = torch.full((classes,), 1 / classes) if frequencies is None else frequencies.detach().cpu()
    if p.shape != (classes,) or not bool((p >= 0).all()) or not math.isclose(float(p.sum()), 1, rel_tol=1e-4):
        raise ValueError(
            f"frequencies must be {classes} numbers of at least 0 that sum to 1; divide them by their sum."
        )
    return mean_and_error((table + p.double().log()).logsumexp(1))


def _columns(
    model: LatentVariableModel,
    data: Data,
    labels: Sequence[int | None],
    y: Any,
    counts: Sequence[int],
    proposal: Proposal,
    precision: Precision,
    seed: int,
) -> Float[Tensor, "n columns counts"]:
    """Bound log p(x|y) once for each label and number of samples; None stands for the example's own condition."""
    counts = [at_most(count, settings.samples) for count in counts]
    rows = []
    with evaluation_mode(model, precision=precision):
        seen = examples(model, data, y=y, seed=seed, reads_y=None in labels)
        with seeded(seed, seen.device):
            for x, own, _ in seen.batches(100):
                given = [own if label is None else torch.full((len(x),), label, device=x.device) for label in labels]
                rows.append(torch.stack([_bounds(model, x, each, counts, proposal) for each in given], 1))
    return torch.cat(rows).cpu()
