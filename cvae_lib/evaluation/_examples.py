"""Examples as a model sees them: pixels with a condition, who shares it with whom, and partners to swap with."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cvae_lib import course
from cvae_lib.conditions import Observed
from cvae_lib.data import ImageSet, PixelMode
from cvae_lib.evaluation._estimate import Estimate
from cvae_lib.model import CVAE
from cvae_lib.training._feed import each, tensors_in

# Added to the seed of who is paired with whom, which must not follow the pixels or the model's draws.
PARTNERS = 2_000_003


@dataclass(frozen=True)
class Examples:
    """Data for one model: the same pixels in the same order at every pass.

    Attributes:
        model: in evaluation mode.
        data: on the model's device, shortened on the fast profile.
        y: the condition of each example, on the model's device: (N, ...), or a tuple of such; None for a VAE.
        groups: (N,), on the CPU; equal numbers for equal conditions, NaN being equal to NaN, all zero for a VAE.
        pixels: how grey levels become pixels.
        seed: of the binarisation.
    """

    model: CVAE
    data: ImageSet
    y: Any
    groups: Int64[Tensor, " n"]
    pixels: PixelMode
    seed: int

    def __len__(self) -> int:
        return len(self.data)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Any, Tensor]]:
        """Go through (x, y, index) in the order of the data, x in the model's dtype."""
        # A stream of their own: what the model draws must not shift the pixels.
        stream = torch.Generator(self.data.device).manual_seed(self.seed)
        dtype = next(self.model.parameters()).dtype
        for batch in self.data.batches(size, pixels=self.pixels, shuffle=False, generator=stream):
            yield batch.x.to(dtype), rows_of(self.y, batch.index), batch.index


def rows_of(y: Any, index: Tensor) -> Any:
    """Return y for the examples at ``index``, tensor by tensor where y is made of several."""
    return each(y, lambda values: values[index])


def examples(
    model: CVAE,
    data: ImageSet,
    *,
    y: Any = None,
    groups: Int64[Tensor, " n"] | None = None,
    pixels: PixelMode = "stochastic",
    seed: int = 0,
) -> Examples:
    """Pair the data with the conditions the model reads: the labels, or ``y`` where it is something else.

    Raises:
        ValueError: if ``y`` or ``groups`` have not one entry per image, or a VAE is given a ``y``.
    """
    for what, given in (("y", y), ("groups", groups)):
        for values in tensors_in(given):
            if len(values) != len(data):
                raise ValueError(f"{what} needs one entry per image, {len(data)}, not {len(values)}.")
    if y is not None and not model.is_conditional:
        raise ValueError("This model takes no y; leave it out.")
    model.eval()
    count = course.capped(len(data), course.FAST_IMAGES)
    data = data.subset(slice(count)).to(model.device)
    if model.is_conditional:
        y = data.labels if y is None else each(y, lambda values: values[:count].to(model.device))
    if groups is not None:
        groups = groups[:count].cpu()
    elif y is None:
        groups = torch.zeros(count, dtype=torch.int64)
    else:
        # What stands where nothing is observed is no part of y.
        told = Observed(y.image.masked_fill(~y.mask, 0), y.mask) if isinstance(y, Observed) else y
        table = torch.cat([values.cpu().reshape(count, -1).double() for values in tensors_in(told)], dim=1)
        if bool((unknown := table.isnan()).any()):
            # NaN equals nothing, itself neither, and sorting by it puts equal rows apart.
            table = torch.cat([table.masked_fill(unknown, 0), unknown.to(table.dtype)], dim=1)
        groups = table.unique(dim=0, return_inverse=True)[1]
    return Examples(model, data, y, groups, pixels, seed)


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
