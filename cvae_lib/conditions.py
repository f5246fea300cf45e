"""What y is: modules that turn a raw condition into the tensor c that a network reads.

A condition has a width ``dim`` and maps raw y to c of shape (B, dim). "No condition" has width 0.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

MISSING = -1


class NoCondition(nn.Module):
    """No condition at all: c has no entries, and the CVAE becomes the VAE."""

    dim = 0

    def forward(self, y: object = None) -> None:
        """Ignore y, whatever it is."""
        return None


class LabelCondition(nn.Module):
    r"""A class label as a one-hot row, :math:`c_{bk} = 1[y_b = k]`; a missing label is a row of zeros.

    Args:
        num_classes: how many classes there are; labels run from 0 to ``num_classes - 1``.

    Raises:
        ValueError: if ``num_classes`` is below 1.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"A label needs at least 1 class, not {num_classes}.")
        self.dim = num_classes

    def forward(self, y: Int64[Tensor, " b"] | None) -> Float[Tensor, "b c"]:
        """Return the one-hot rows of y, shape (B, num_classes); ``MISSING`` (-1) gives zeros.

        Raises:
            ValueError: if y is None, not an int64 vector, or out of range.
        """
        if y is None:
            raise ValueError(f"This model is conditional: pass y, int64 labels of shape (B,) in 0..{self.dim - 1}.")
        if y.dtype != torch.int64 or y.ndim != 1:
            raise ValueError(f"Labels must be int64 of shape (B,), not {y.dtype} of shape {tuple(y.shape)}.")
        # One comparison serves as encoding, and leaves -1 as a row of zeros without a branch.
        rows = y[:, None] == torch.arange(self.dim, device=y.device)  # (B, num_classes)
        # Asking a GPU for a value would make it wait, so there only the one-hot rows themselves can tell.
        if y.device.type == "cpu" and y.numel() and not (int(y.min()) >= MISSING and int(y.max()) < self.dim):
            raise ValueError(
                f"Labels must lie in 0..{self.dim - 1} (or -1 for missing), "
                f"but run from {int(y.min())} to {int(y.max())}."
            )
        return rows.float()
