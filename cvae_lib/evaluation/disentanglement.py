"""Disentanglement: does each known factor of the data have a latent of its own?"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Disentanglement:
    """The information of each latent about each factor, and the gap between the best latent and the second best.

    Attributes:
        names: of the K factors.
        information: (D, K), I(z_d; v_k), nats.
        entropies: (K,), H(v_k), nats: the most that a latent can have.
        gaps: (K,), the gap of each factor as a share of its entropy, from 0 to 1.
    """

    names: tuple[str, ...]
    information: Float[Tensor, "d k"]
    entropies: Float[Tensor, " k"]
    gaps: Float[Tensor, " k"]

    @property
    def mig(self) -> float:
        """The mutual information gap: the mean of the gaps over the factors."""
        return float(self.gaps.mean())

    @property
    def explained(self) -> Float[Tensor, " k"]:
        """The information of the best latent about each factor, as a share of the factor's entropy: (K,)."""
        return self.information.max(0).values / self.entropies

    def __str__(self) -> str:
        each = ", ".join(
            f"{name} {gap:.2f} (best latent tells {share:.2f})"
            for name, gap, share in zip(self.names, self.gaps.tolist(), self.explained.tolist(), strict=True)
        )
        return f"MIG {self.mig:.3f}: {each}"


def mutual_information_gap(
    codes: Float[Tensor, "n d"], factors: dict[str, Shaped[Tensor, " n"]], *, bins: int = 20
) -> Disentanglement:
    r"""Score how far the information about each factor sits in one latent and no other.

    .. math:: \text{MIG} = \frac1K \sum_k \frac{1}{H(v_k)} \Big(I(z_{d_k}; v_k) - \max_{d \ne d_k} I(z_d; v_k)\Big),
              \qquad d_k = \arg\max_d I(z_d; v_k)

    It is 1 if every factor can be read off one latent exactly and the others are independent of it, and 0 if two
    latents have equal information, or none has any. Latents and real factors are cut into ``bins`` equally filled bins,
    so that only their order counts, and information is that of the table of counts, which for independent columns
    comes out near :math:`(b_z - 1)(b_v - 1) / 2N` instead of 0: take N far above the cells of a table. Whole-numbered
    factors are classes and stay as they are.

    Pass draws from q(z|x), not its means: the mean of an inactive latent still moves a little with the data, and
    equally filled bins do not see how little that is.

    Args:
        codes: one row of latents for each example, D of at least 2.
        factors: name -> the true value for each example.
        bins: how many, at least 2.

    Raises:
        ValueError: if there are fewer than two latents or bins, there is no factor, a factor has another length than
            the codes or does not vary, or a number is not finite.

    Source: Chen, Li, Grosse and Duvenaud 2018, arXiv:1802.04942; with binned latents in Locatello et al. 2019,
    arXiv:1811.12359.
    """
    if codes.ndim != 2 or codes.shape[1] < 2:
        raise ValueError(f"A gap needs codes of shape (N, D) with at least two latents, not {tuple(codes.shape)}.")
    if bins < 2:
        raise ValueError(f"A table needs at least 2 bins, not {bins}.")
    if not factors:
        raise ValueError("There must be at least one factor to look for.")
    _finite("codes", codes)
    latents = [binned(column, bins) for column in codes.detach().cpu().T]
    table, entropies = [], []
    for name, values in factors.items():
        if values.shape != (len(codes),):
            raise ValueError(f"The factor {name} needs one value for each of the {len(codes)} codes.")
        _finite(name, values)
        classes = binned(values.detach().cpu(), bins)
        entropies.append(_entropy(torch.bincount(classes)))
        if entropies[-1] <= 0:
            raise ValueError(f"The factor {name} has one value only, so no latent can have information about it.")
        table.append([_information(latent, classes) for latent in latents])
    information, total = torch.tensor(table).T, torch.tensor(entropies)  # (D, K), (K,)
    best = information.topk(2, dim=0).values
    return Disentanglement(tuple(factors), information, total, (best[0] - best[1]) / total)


def binned(values: Shaped[Tensor, " n"], bins: int) -> Int64[Tensor, " n"]:
    """Return the number of each value's bin: equally filled bins for real numbers, whole numbers as they are."""
    if not values.is_floating_point():
        return values.long() - int(values.min())
    edges = torch.quantile(values.double(), torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1])
    return torch.searchsorted(edges, values.double().contiguous())


def _finite(name: str, values: Tensor) -> None:
    if values.is_floating_point() and not bool(values.isfinite().all()):
        raise ValueError(f"Some values of {name} are NaN or infinite; leave those examples out.")


def _entropy(counts: Tensor) -> float:
    shares = counts[counts > 0].double() / counts.sum()
    return float(-(shares * shares.log()).sum())


def _information(first: Int64[Tensor, " n"], second: Int64[Tensor, " n"]) -> float:
    """Return H(a) + H(b) - H(a, b) of two columns of classes, nats; rounding never makes it negative."""
    joint = torch.bincount(first * (int(second.max()) + 1) + second)
    return max(_entropy(torch.bincount(first)) + _entropy(torch.bincount(second)) - _entropy(joint), 0.0)
