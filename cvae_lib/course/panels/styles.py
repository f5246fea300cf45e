"""Directions of z that matter to the eye: those along which the decoder's picture changes most."""

import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib.model import CVAE
from cvae_lib.priors import tempered_sample


def label_count(model: CVAE) -> int:
    """Return how many labels the model can be asked for.

    Raises:
        ValueError: if its decoder reads no label, or more than that.
    """
    if model.num_classes < 1 or not decoder_reads_condition(model):
        raise ValueError("This panel asks a model for a digit, and this one's decoder reads something else, if any.")
    return model.num_classes


def decoder_reads_condition(model: CVAE) -> bool:
    """Say whether what is asked for reaches the decoder; one that does not say is taken to read it."""
    return bool(getattr(model.decoder, "reads_condition", True))


@torch.no_grad()
def style_directions(
    model: CVAE, count: int = 3, *, per_label: int = 8, step: float = 0.5, seed: int = 0
) -> Float[Tensor, "s d"]:
    r"""Return orthonormal directions of z, the ones that change the picture most first.

    .. math:: V^T \Lambda V = E_{y, z \sim p(z|y)}\big[J^T J\big], \qquad J = \partial\, E[x|z,y] / \partial z

    The Jacobian J is taken by central differences, as wide as a slider's step. Each direction points to where there is
    more ink, on average. Source: active subspaces, Constantine, Dow and Wang 2014, arXiv:1304.2070.

    Args:
        count: how many; fewer if z has fewer entries.
        per_label: latents drawn for each label.
        step: half the width of the difference, in units of z.

    Raises:
        ValueError: if the model cannot be asked for a label.
    """
    labels = label_count(model)
    y = torch.arange(labels, device=model.device).repeat(per_label)  # (B,)
    z = drawn_latents(model, y, seed)  # (B, D)
    moves = step * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)[:, None]  # (D, 1, D)
    change = model.likelihood(z + moves, y).mean - model.likelihood(z - moves, y).mean  # (D, B, channels, H, W)
    change = change.flatten(2)  # (D, B, pixels)
    _, vectors = torch.linalg.eigh(torch.einsum("ibp,jbp->ij", change, change).cpu().double())  # ascending
    directions = vectors.flip(1).T[:count].to(change)  # (S, D)
    ink = directions @ change.sum((1, 2))  # (S,)
    oriented: Tensor = directions * torch.where(ink < 0, -1.0, 1.0).to(directions)[:, None]
    return oriented


def drawn_latents(model: CVAE, y: Tensor, seed: int) -> Float[Tensor, "b d"]:
    """Return one z from p(z|y) for each label, always the same for the same seed."""
    return tempered_sample(model.prior(y), generator=torch.Generator().manual_seed(seed))


def with_style(
    z: Float[Tensor, "b d"], centre: Float[Tensor, "b d"], directions: Float[Tensor, "s d"], style: Float[Tensor, "r s"]
) -> Float[Tensor, "r d"]:
    r"""Return z moved so that its coordinates along the directions are those of ``style``, counted from the centre.

    .. math:: z' = z + \sum_i \big(s_i - v_i^T (z - c)\big)\, v_i

    Everything at right angles to the directions stays. One z and one centre may serve many styles.
    """
    wanted = style - (z - centre) @ directions.T  # (R, S)
    return z + wanted @ directions
