"""What can still be read from a representation: a linear probe."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cvae_lib import course
from cvae_lib.data import ImageSet
from cvae_lib.model import CVAE


@torch.no_grad()
def posterior_means(model: CVAE, data: ImageSet) -> Float[Tensor, "n d"]:
    """Return the mean of q(z|x,y) for every image, from its grey levels, shape (N, D), on the CPU.

    y is the label, so the model is a VAE or one told labels; the fast profile takes the first 200 images only.

    Raises:
        ValueError: if images or labels do not fit the model.
    """
    model.eval()
    data = data.subset(slice(course.capped(len(data), course.FAST_IMAGES))).to(model.device)
    means = [
        model.posterior(batch.x, batch.y if model.is_conditional else None).mean
        for batch in data.batches(1000, pixels="grey", shuffle=False)
    ]
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

    Multinomial logistic regression on standardised entries, by L-BFGS; a linear reader finds only what the
    representation lays open. Source of the idea: Alain and Bengio 2016, arXiv:1610.01644.

    Args:
        train: N codes to fit on, such as :func:`posterior_means` gives.
        train_labels: their classes, from 0; labels beyond the last code are left out.
        test: M codes to judge by.
        test_labels: likewise.
        steps: L-BFGS iterations; at most 10 on the fast profile.
    """
    train_labels, test_labels = train_labels[: len(train)], test_labels[: len(test)]
    centre, scale = train.mean(0), train.std(0).clamp_min(1e-6)
    train, test = (train - centre) / scale, (test - centre) / scale
    reader = nn.Linear(train.shape[1], int(train_labels.max()) + 1).to(train)  # its device and precision
    nn.init.zeros_(reader.weight)
    nn.init.zeros_(reader.bias)
    optimiser = torch.optim.LBFGS(reader.parameters(), max_iter=course.capped(steps, 10), line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(reader(train), train_labels)
        loss.backward()
        return loss

    optimiser.step(closure)
    return float((reader(test).argmax(1) == test_labels).float().mean())
