"""Within-condition diversity: do drawings of one condition differ as much as real examples of it do?"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from cvae_lib.data import Data
from cvae_lib.environment import at_most, evaluation_mode, settings
from cvae_lib.evaluation._estimate import Estimate
from cvae_lib.evaluation._examples import device_of, labelled, prepared_in_grey
from cvae_lib.model import CVAE

DISTANCES_AT_ONCE = 2**20

Features = Callable[[Tensor], Tensor]


def mean_pairwise_distance(points: Shaped[Tensor, "n *shape"], *, features: Features | None = None) -> Estimate:
    r"""Return the mean Euclidean distance between two different points, with its jackknife standard error.

    .. math:: \bar d = \frac{1}{n(n-1)} \sum_{i \ne j} \|f_i - f_j\|_2, \qquad
              SE^2 = \frac{4(n-1)}{n(n-2)^2} \sum_i (d_i - \bar d)^2, \quad
              d_i = \frac{1}{n-1} \sum_{j \ne i} \|f_i - f_j\|_2

    ``per_example`` holds the :math:`d_i`. Each point is in n - 1 pairs, so pairs are not independent and their own
    spread would make the error far too small. Distances are held a few rows at a time, so memory grows with n only.

    Args:
        points: (n, ...); for pixels the unit is one white pixel.
        features: from (b, ...) points to (b, F) features, where pixels are not what should be compared; a module is in
            evaluation mode meanwhile.

    Raises:
        ValueError: if there are fewer than 2 points, or a feature is NaN or infinite.

    Source: Efron and Stein 1981 for the jackknife of such a mean.
    """
    count = len(points)
    if count < 2:
        raise ValueError(f"A distance between points needs at least 2 of them, not {count}.")
    with evaluation_mode(features):
        rows = points if features is None else torch.cat([features(part) for part in points.split(500)])
    rows = rows.detach().flatten(1)
    if not rows.is_floating_point() or rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    if not bool(rows.isfinite().all()):
        raise ValueError("A point or feature is NaN or infinite; distances to it mean nothing.")
    # Not by a product of matrices: its rounding makes equal points differ.
    parts = [
        torch.cdist(part, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
        for part in rows.split(max(1, DISTANCES_AT_ONCE // count))
    ]
    each = torch.cat(parts).cpu().double() / (count - 1)
    mean = each.mean()
    error = math.nan
    if count > 2:
        error = math.sqrt(4 * (count - 1) / (count * (count - 2) ** 2) * float((each - mean).square().sum()))
    return Estimate(float(mean), error, each.float())


@dataclass(frozen=True)
class Diversity:
    """How far apart drawings of one condition lie, relative to real examples of it.

    Attributes:
        ratio: mean over the conditions of drawn over real distance; 1 is as varied as the data, 0 all alike.
        standard_error: of the ratio.
        conditions: (C,), the conditions compared.
        per_condition: (C,), the ratio for each.
        drawn: (C,), mean distance between two drawings, in the unit of :func:`mean_pairwise_distance`.
        real: (C,), mean distance between two real examples.
    """

    ratio: float
    standard_error: float
    conditions: Int64[Tensor, " c"]
    per_condition: Float[Tensor, " c"]
    drawn: Float[Tensor, " c"]
    real: Float[Tensor, " c"]

    def __str__(self) -> str:
        least = int(self.per_condition.argmin())
        return (
            f"drawings differ {self.ratio:.3f} ± {self.standard_error:.3f} times as much as real examples of the same "
            f"condition; least for {int(self.conditions[least])} at {float(self.per_condition[least]):.3f}"
        )


def relative_diversity(
    drawn: Shaped[Tensor, "n *shape"],
    asked: Int64[Tensor, " n"],
    real: Shaped[Tensor, "m *shape"],
    labels: Int64[Tensor, " m"],
    *,
    features: Features | None = None,
) -> Diversity:
    r"""Compare the mean distance between drawings of the same condition with that between real examples of it.

    .. math:: \text{ratio} = \frac1C \sum_c r_c, \quad r_c = \frac{\bar d_c^{\,\text{drawn}}}{\bar d_c^{\,\text{real}}},
       \quad SE^2 = \frac{1}{C^2} \sum_c r_c^2 \left[\Big(\frac{SE_c^{\text{drawn}}}{\bar d_c^{\,\text{drawn}}}\Big)^2
       + \Big(\frac{SE_c^{\text{real}}}{\bar d_c^{\,\text{real}}}\Big)^2\right]

    (delta method). Compare like with like: binary draws with binarised data, or pixel means with grey data; means
    are smoother than data and lie a little closer together even for a perfect model.

    Args:
        asked: (n,), a number for the condition of each drawing: a label, or the bin of a value.
        labels: (m,), the same for each real example.
        features: see :func:`mean_pairwise_distance`.

    Raises:
        ValueError: if lengths do not match, a condition asked for has fewer than 3 drawings or 3 real examples, or
            the real examples of a condition are all the same.
    """
    if len(drawn) != len(asked) or len(real) != len(labels):
        raise ValueError("Every drawing needs its condition in asked, and every real example its own in labels.")
    conditions = asked.unique()
    ratios, spreads, squares = [], [], 0.0
    for condition in conditions.tolist():
        fake, true = drawn[asked == condition], real[labels == condition]
        if len(fake) < 3 or len(true) < 3:
            raise ValueError(
                f"Condition {condition} has {len(fake)} drawings and {len(true)} real examples; both need at least 3."
            )
        ours, theirs = (mean_pairwise_distance(points, features=features) for points in (fake, true))
        if theirs.mean == 0:
            raise ValueError(f"The real examples of condition {condition} are all the same; there is no ratio to them.")
        ratio = ours.mean / theirs.mean
        squares += (ours.standard_error**2 + (ratio * theirs.standard_error) ** 2) / theirs.mean**2
        ratios.append(ratio)
        spreads.append((ours.mean, theirs.mean))
    within, without = torch.tensor(spreads).T
    mean, error = sum(ratios) / len(ratios), math.sqrt(squares) / len(ratios)
    return Diversity(mean, error, conditions.cpu(), torch.tensor(ratios), within, without)


def diversity(
    model: CVAE,
    data: Data,
    *,
    count: int = 1000,
    temperature: float = 1.0,
    features: Features | None = None,
    seed: int = 0,
) -> Diversity:
    """Draw every label equally often from the prior, and compare the drawings' diversity with that of the data.

    Means of p(x|z,y) against x as the model takes it, or its grey levels where the model draws binary pixels; at most
    as many real examples of a label as drawings. The measure is that of :func:`relative_diversity`.

    Args:
        model: one that can ``draw`` and says how many labels there are, ``num_classes``, as a CVAE does.
        data: tensors (x, labels), an ``ImageSet``, a ``Dataset`` or a ``DataLoader``.
        count: drawings in all; rounded down to a multiple of the number of classes.
        temperature: factor on the prior's standard deviation.
        features: see :func:`mean_pairwise_distance`.
        seed: fixes the drawings.

    Raises:
        ValueError: if the model takes no label, the data have none, ``count`` gives fewer than 3 drawings a label, or a
            label has fewer than 3 examples.
    """
    classes = model.num_classes
    each = at_most(count, settings.examples) // max(1, classes)
    if classes < 1:
        raise ValueError("Diversity within a label needs a model that takes one; for others use relative_diversity.")
    if each < 3:
        raise ValueError(f"{count} drawings are too few for {classes} classes; at least 3 of each are needed.")
    x, labels = labelled(data)
    chosen = torch.cat([(labels == label).nonzero()[:each, 0] for label in range(classes)])
    generator = torch.Generator().manual_seed(seed)
    asked = torch.arange(classes).repeat_interleave(each)
    device = device_of(model)
    with evaluation_mode(model):
        drawn = torch.cat(
            [
                model.draw(part.to(device), temperature=temperature, generator=generator).cpu()
                for part in asked.split(1000)
            ]
        )
        real = prepared_in_grey(model, x[chosen].to(device)).cpu()
    return relative_diversity(drawn, asked, real.to(drawn.dtype), labels[chosen].cpu(), features=features)
