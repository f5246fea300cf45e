"""Encoders and decoders: networks with a conditioning slot at the entrance of every block.

An encoder reads x and c and returns the mean and log-variance of q(z|x,y); a decoder reads z and c and returns what a
likelihood reads. Both come as MLPs (here) and as convolutional networks. ``reads_condition`` says of each whether it
needs c.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cvae_lib.conditioning import Maker, make_conditioning
from cvae_lib.conditions import Representation
from cvae_lib.data import Column, TableColumns
from cvae_lib.gaussians import bounded_log_variance
from cvae_lib.networks._blocks import (
    Placement,
    check_event,
    check_latents,
    check_whole,
    check_widths,
    conditioned_blocks,
)
from cvae_lib.networks._convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from cvae_lib.networks._recurrent import GRUDecoder, GRUEncoder, NoEncoder, Recurrence

__all__ = [
    "MLP",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "GRUDecoder",
    "GRUEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "NoEncoder",
    "Placement",
    "Recurrence",
    "TableEncoder",
    "bounded_log_variance",
    "check_whole",
    "check_widths",
]


class MLP(nn.Module):
    r"""A multilayer perceptron whose blocks (slot, linear, SiLU) can each read the condition.

    The first block is :math:`h_1 = \mathrm{SiLU}(W_1 [x, c] + b_1)`; later hidden blocks of equal width add to what
    comes in, :math:`h_{i+1} = h_i + \mathrm{SiLU}(W h_i + b)` (He et al. 2016, arXiv:1512.03385).

    Args:
        in_features: width of the input.
        hidden: widths of the hidden layers.
        out_features: width of the output, which has no activation.
        condition_dim: width C of the condition; 0 leaves every slot empty.
        conditioning: the conditioning layer: a name of :data:`cvae_lib.conditioning.CONDITIONINGS`, or a function
            ``(features, condition_dim) -> layer``.
        condition_at: ``first`` block only, ``every`` block, or block numbers: block 0 reads the input, the last gives
            the output.
        dropout: probability of dropping a hidden unit while training.

    Raises:
        ValueError: if a width is no whole number of at least 1, or ``condition_at`` or ``conditioning`` is unknown.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        condition_dim: int = 0,
        conditioning: str | Maker = "concatenation",
        condition_at: Placement = "first",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_widths(hidden=hidden)
        check_whole(in_features=in_features, out_features=out_features)
        widths = [in_features, *hidden]
        chosen = conditioned_blocks(condition_at, len(widths))
        self.slots = nn.ModuleDict()
        self.layers = nn.ModuleList()
        for block, width in enumerate(widths):
            if condition_dim and block in chosen:
                slot = make_conditioning(conditioning, width, condition_dim)
                self.slots[str(block)] = slot
                width = getattr(slot, "out_features", width)  # a layer of one's own may not say, and leave it
            self.layers.append(nn.Linear(width, [*hidden, out_features][block]))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Float[Tensor, "b f"], c: Representation | None) -> Float[Tensor, "b o"]:
        """Return the outputs, shape (B, out_features), of inputs (B, in_features) and c.

        Raises:
            ValueError: if a block reads the condition, and c is missing or of another width or length.
        """
        layers, slots = self.layers, self.slots
        last = len(layers) - 1
        for block, layer in enumerate(layers):
            out = layer(slots[str(block)](h, c) if str(block) in slots else h)
            if block < last:
                out = F.silu(out)
                out = self.dropout(out) if self.dropout.p else out
                # The skip over a hidden block is worth about a nat on MNIST at the same cost.
                out = h + out if block and h.shape == out.shape else out
            h = out
        return h


class MLPEncoder(nn.Module):
    """Read x and a condition; return the mean and log-variance of q(z|x,y), shape (B, D) each.

    Args:
        event_shape: shape of one x, any.
        hidden: widths of the hidden layers.
        latent_dim: D.
        condition_dim: width C of the condition; this and the rest as in :class:`MLP`.
        conditioning: the conditioning layer.
        condition_at: blocks that c enters.
        dropout: probability of dropping a hidden unit while training.

    Raises:
        ValueError: if a width is no whole number of at least 1, or ``condition_at`` or ``conditioning`` is unknown.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        hidden: Sequence[int],
        latent_dim: int,
        *,
        condition_dim: int = 0,
        conditioning: str | Maker = "concatenation",
        condition_at: Placement = "first",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_widths(event_shape=event_shape)
        check_whole(latent_dim=latent_dim)
        self.latent_dim, self.reads_condition = latent_dim, condition_dim > 0
        self.event_shape = tuple(event_shape)
        self.net = MLP(
            math.prod(event_shape),
            hidden,
            2 * latent_dim,
            condition_dim=condition_dim,
            conditioning=conditioning,
            condition_at=condition_at,
            dropout=dropout,
        )

    def forward(
        self, x: Float[Tensor, "b *event"], c: Representation | None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Return (mean, log-variance).

        Raises:
            ValueError: if x has another shape than the encoder was made for, or c another width.
        """
        check_event(x, self.event_shape)
        mean, raw = self.net(x.flatten(1), c).chunk(2, dim=1)
        return mean, bounded_log_variance(raw)


class TableEncoder(nn.Module):
    """Read the rows of a table and a condition; return the mean and log-variance of q(z|x,y), shape (B, D) each.

    An MLP reads real columns standardised, counts as log(1 + n) standardised, categories one-hot. Its decoder is
    ``MLPDecoder(latent_dim, hidden, (likelihood.outputs,))`` with a :class:`cvae_lib.likelihoods.TableLikelihood`.

    Args:
        columns: those of :class:`cvae_lib.data.Table`, in the order of x.
        hidden: widths of the hidden layers.
        latent_dim: D.
        condition_dim: width C of the condition; this and the rest as in :class:`MLP`.
        conditioning: the conditioning layer.
        condition_at: blocks that c enters.
        dropout: probability of dropping a hidden unit while training.

    Raises:
        ValueError: if there is no column, or ``condition_at`` or ``conditioning`` is unknown.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        hidden: Sequence[int],
        latent_dim: int,
        *,
        condition_dim: int = 0,
        conditioning: str | Maker = "concatenation",
        condition_at: Placement = "first",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.table = TableColumns(columns)
        self.latent_dim, self.reads_condition = latent_dim, condition_dim > 0
        self.mlp = MLPEncoder(
            (len(self.table.real) + len(self.table.count) + sum(self.table.sizes),),
            hidden,
            latent_dim,
            condition_dim=condition_dim,
            conditioning=conditioning,
            condition_at=condition_at,
            dropout=dropout,
        )

    def features(self, x: Float[Tensor, "b f"]) -> Float[Tensor, "b g"]:
        """Return rows as the MLP reads them: numbers standardised, categories one-hot.

        Raises:
            ValueError: if x has another width, or (but on a GPU) naming column and row of what is no entry of it.
        """
        table = self.table
        table.check(x)
        numbers = torch.cat([x[:, table.real], x[:, table.count].log1p()], 1)
        places = torch.cat([table.real, table.count])
        codes = zip(x[:, table.category].unbind(1), table.sizes, strict=True)
        one_hot = [(code[:, None] == torch.arange(size, device=x.device)).to(x.dtype) for code, size in codes]
        return torch.cat([(numbers - table.mean[places]) / table.std[places], *one_hot], 1)

    def forward(
        self, x: Float[Tensor, "b f"], c: Representation | None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Return (mean, log-variance).

        Raises:
            ValueError: as :meth:`features` does, or if c has another width.
        """
        mean, log_variance = self.mlp(self.features(x), c)
        return mean, log_variance


class MLPDecoder(nn.Module):
    """Read a latent and a condition; return the numbers of a likelihood (logits), shape (B, *event_shape).

    Args:
        latent_dim: D.
        hidden: widths of the hidden layers.
        event_shape: shape of what is returned for one z, any.
        condition_dim: width C of the condition; this and the rest as in :class:`MLP`.
        conditioning: the conditioning layer.
        condition_at: blocks that c enters.
        dropout: probability of dropping a hidden unit while training.

    Raises:
        ValueError: if a width is no whole number of at least 1, or ``condition_at`` or ``conditioning`` is unknown.
    """

    def __init__(
        self,
        latent_dim: int,
        hidden: Sequence[int],
        event_shape: Sequence[int],
        *,
        condition_dim: int = 0,
        conditioning: str | Maker = "concatenation",
        condition_at: Placement = "first",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_widths(event_shape=event_shape)
        check_whole(latent_dim=latent_dim)
        self.latent_dim, self.reads_condition = latent_dim, condition_dim > 0
        self.event_shape = tuple(event_shape)
        self.net = MLP(
            latent_dim,
            hidden,
            math.prod(event_shape),
            condition_dim=condition_dim,
            conditioning=conditioning,
            condition_at=condition_at,
            dropout=dropout,
        )

    def forward(self, z: Float[Tensor, "b d"], c: Representation | None) -> Float[Tensor, "b *event"]:
        """Return the logits.

        Raises:
            ValueError: if z or c has another width than the decoder was made for.
        """
        check_latents(z, self.latent_dim)
        logits: Tensor = self.net(z, c).unflatten(1, self.event_shape)
        return logits
