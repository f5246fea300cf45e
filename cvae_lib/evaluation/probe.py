"""What can still be read from a representation: a linear probe."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cvae_lib.data import Data
from cvae_lib.environment import at_most, evaluation_mode, settings
from cvae_lib.evaluation._examples import examples
from cvae_lib.objective import LatentVariableModel


def posterior_means(model: LatentVariableModel, data: Data, *, y: Any = None) -> Float[Tensor, "n d"]:
    """Return the mean of q(z|x,y) for every example, shape (N, D), on the CPU.

    x is what the model's ``prepare`` makes of the data; where that would draw binary pixels, their grey levels are
    taken, so that no chance enters.

    Args:
        model: a CVAE, or any model with the three distributions.
        data: tensors (x, y), an ``ImageSet``, a ``Dataset`` or a ``DataLoader``.
        y: (N, ...), or a tuple of such, the condition of each example in place of the data's own.

    Raises:
        ValueError: if the data or ``y`` do not fit the model.
    """
    with evaluation_mode(model):
        seen = examples(model, data, y=y)
        means = [model.posterior(x, condition).mean for x, condition, _ in seen.batches(1000, grey=True)]
        return torch.cat(means).cpu()


def linear_probe(
    train: Float[Tensor, "n d"],
    train_labels: Int64[Tensor, " n"],
    test: Float[Tensor, "m d"],
    test_labels: Int64[Tensor, " m"],
    *,
    steps: int = 50,
) -> float:
    r"""Fit :math:`p(y|z) = \text{softmax}(Wz + b)` on training codes, return its accuracy on test codes, 0 to 1.

    Multinomial logistic regression on standardised entries, by L-BFGS; a linear classifier finds only what the
    representation lays open. Source of the idea: Alain and Bengio 2016, arXiv:1610.01644.

    Args:
        train: N codes to fit on, such as :func:`posterior_means` gives.
        train_labels: their classes, from 0; labels beyond the last code are left out.
        test: M codes to judge by.
        test_labels: likewise.
        steps: L-BFGS iterations, at most.
    """
    train_labels, test_labels = train_labels[: len(train)], test_labels[: len(test)]
    centre, scale = train.mean(0), train.std(0).clamp_min(1e-6)
    train, test = (train - centre) / scale, (test - centre) / scale
    probe = nn.Linear(train.shape[1], int(train_labels.max()) + 1).to(train)  # its device and precision
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    iterations = at_most(steps, settings.steps)
    optimiser = torch.optim.LBFGS(probe.parameters(), max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(probe(train), train_labels)
        loss.backward()
        return loss

    optimiser.step(closure)
    return float((probe(test).argmax(1) == test_labels).float().mean())
