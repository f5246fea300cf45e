"""Partners to swap a z or a y with, and what the swap cost with an error that allows for what partners share."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cvae_lib.evaluation._estimate import Estimate

# Added to the seed of who is paired with whom, which must not follow the pixels or the model's draws.
PARTNERS = 2_000_003


def ring(groups: Int64[Tensor, " n"], seed: int) -> Int64[Tensor, " n"]:
    """Give each example a partner of its own group, by a random circle through every group; a loner is its own."""
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed + PARTNERS))
    order = order[groups[order].argsort(stable=True)]  # group after group, in random order within
    _, counts = groups[order].unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    following = torch.arange(1, len(groups) + 1)
    following[ends - 1] = ends - counts  # the last of a circle meets its first
    partner = torch.empty_like(order)
    partner[order] = order[following]
    return partner


def ring_estimate(lost: Float[Tensor, " n"], partner: Int64[Tensor, " n"]) -> Estimate:
    r"""Return the mean of what swapping with the partner cost, leaving loners out, and its standard error.

    Example n and its partner n' share a z or a y, so neighbours on the circle are not independent:

    .. math:: SE^2 = \frac{1}{N(N-1)} \sum_n \big(c_n^2 + 2\, c_n c_{n'}\big), \quad c = \text{lost} - \text{mean}

    the variance of a mean of 1-dependent terms. A circle of two has one pair of neighbours, not two.
    """
    lost = lost.detach().cpu().double()
    kept = partner != torch.arange(len(partner))
    count = int(kept.sum())
    mean = lost[kept].mean()
    centred = torch.where(kept, lost - mean, 0)
    pairs = torch.where(partner[partner] == torch.arange(len(partner)), 1, 2)
    plain = float(centred.square().sum())
    squares = plain + float((pairs * centred * centred[partner]).sum())
    # In a small sample the sum can come out at zero or below, which no variance is.
    error = math.sqrt((squares if squares > 0 else plain) / (count * (count - 1))) if count > 1 else math.nan
    return Estimate(float(mean), error, lost[kept].float())
