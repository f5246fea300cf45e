"""A convolutional encoder and decoder for images of any size divisible by 4, made of residual blocks with a slot for c.

They work at a half and a quarter of the image's side, where two CPU cores can follow. Source of the block, normalise,
activate, convolve around a skip: He et al. 2016, arXiv:1603.05027; with the slot behind the first normalisation, as in
Dhariwal and Nichol 2021, arXiv:2105.05233.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cvae_lib.conditioning import ConditionalBatchNorm, Maker, make_conditioning
from cvae_lib.conditions import Representation
from cvae_lib.gaussians import bounded_log_variance
from cvae_lib.networks._blocks import (
    Placement,
    check_event,
    check_latents,
    check_whole,
    check_widths,
    conditioned_blocks,
)


def _group_norm(features: int) -> nn.GroupNorm:
    """Normalise groups of at least four features, at most eight groups: smaller ones would erase what c tells."""
    groups = next(g for g in (8, 4, 2, 1) if features % g == 0 and (features >= 4 * g or g == 1))
    return nn.GroupNorm(groups, features)


def _smallest_map(image_shape: Sequence[int], hidden: Sequence[int]) -> tuple[int, int]:
    """Return height and width of the smallest feature map."""
    check_widths(image_shape=image_shape, hidden=hidden)
    if len(image_shape) != 3 or image_shape[1] % 4 or image_shape[2] % 4:
        raise ValueError(
            "The convolutional network halves height and width twice, so both must be divisible by 4, and "
            f"{tuple(image_shape)} is no such (channels, H, W); pad or scale the images, or take an MLP."
        )
    if not hidden:
        raise ValueError("The convolutional network needs at least one width in hidden.")
    return image_shape[1] // 4, image_shape[2] // 4


class ResidualBlock(nn.Module):
    r"""Add to the features what two convolutions make of them and of the condition.

    .. math:: h' = S h + \text{conv}_2(\sigma(\text{norm}(R\,\text{conv}_1(\sigma(\text{slot}(\text{norm}(h), c))))))

    R halves or doubles the side or leaves it, S is R with a 1x1 convolution where the widths differ, and sigma is SiLU.
    Conditional batch norm is a normalisation itself, and takes the place of the first one.

    Args:
        scale: factor R on the side: 0.5, 1 or 2.
        slot: the conditioning layer, or None.
        norm: ``group`` or ``none``.
    """

    def __init__(
        self, features: int, out_features: int, scale: float, slot: nn.Module | None, norm: str, dropout: float
    ) -> None:
        super().__init__()
        group = norm == "group"
        self.norm = _group_norm(features) if group and not isinstance(slot, ConditionalBatchNorm) else nn.Identity()
        self.slot = slot
        self.scale = scale
        self.enter = nn.Conv2d(getattr(slot, "out_features", features), out_features, 3, padding=1)
        self.inner_norm = _group_norm(out_features) if group else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.leave = nn.Conv2d(out_features, out_features, 3, padding=1)
        self.skip = nn.Conv2d(features, out_features, 1) if features != out_features else nn.Identity()

    def _resized(self, h: Tensor) -> Tensor:
        if self.scale < 1:
            return F.avg_pool2d(h, 2)
        return F.interpolate(h, scale_factor=2.0) if self.scale > 1 else h

    def forward(self, h: Float[Tensor, "b f h w"], c: Representation | None) -> Float[Tensor, "b g v u"]:
        """Return the block's features, on a map of ``scale`` times the side."""
        inner = self.norm(h)
        if self.slot is not None:
            inner = self.slot(inner, c)
        inner = F.silu(inner)
        # The first convolution sees the smaller map, whichever side of it that is: a quarter of the work.
        inner = self.enter(self._resized(inner)) if self.scale < 1 else self._resized(self.enter(inner))
        inner = self.leave(self.dropout(F.silu(self.inner_norm(inner))))
        out: Tensor = self._resized(self.skip(h)) + inner
        return out


class _Blocks(nn.Module):
    """Residual blocks in a row, with the condition entering at their entrances."""

    def __init__(
        self,
        widths: Sequence[int],
        scales: Sequence[float],
        folds: Sequence[int],
        *,
        condition_dim: int,
        condition_is_image: bool,
        conditioning: str | Maker,
        condition_at: Placement,
        norm: str,
        dropout: float,
    ) -> None:
        super().__init__()
        if norm not in ("group", "none"):
            raise ValueError(f"The norm of a convolutional network is 'group' or 'none', not {norm!r}.")
        chosen = conditioned_blocks(condition_at, len(scales))
        self.folds = tuple(folds)
        self.blocks = nn.ModuleList()
        for block, (scale, fold) in enumerate(zip(scales, folds, strict=True)):
            width = condition_dim * (fold**2 if condition_is_image else 1)
            slot = make_conditioning(conditioning, widths[block], width) if condition_dim and block in chosen else None
            self.blocks.append(ResidualBlock(widths[block], widths[block + 1], scale, slot, norm, dropout))

    def forward(self, h: Float[Tensor, "b f h w"], c: Representation | None) -> Float[Tensor, "b g v u"]:
        for block, fold in zip(self.blocks, self.folds, strict=True):
            # An image c comes to the smaller map with each square of pixels as channels: smaller, and nothing lost.
            folded = F.pixel_unshuffle(c, fold) if isinstance(c, Tensor) and c.ndim == 4 else c
            h = block(h, folded)
        return h


class ConvolutionalEncoder(nn.Module):
    """Read an image and a condition; return the mean and log-variance of q(z|x,y), shape (B, D) each.

    A strided convolution to half the side, then a block for each width in ``hidden``; the first halves the side again.
    An image c (B, C, H, W) enters with each square of pixels folded into channels (Shi et al. 2016, arXiv:1609.05158).

    Args:
        image_shape: (channels, H, W), with H and W divisible by 4.
        hidden: features of the blocks.
        latent_dim: D.
        condition_dim: width C of the condition; 0 leaves every slot empty.
        condition_is_image: whether c is an image, as large as x.
        conditioning: the conditioning layer: a name of :data:`cvae_lib.conditioning.CONDITIONINGS`, or a function
            ``(features, condition_dim) -> layer``.
        condition_at: ``first`` block only, ``every`` block, or block numbers from 0.
        norm: ``group`` (Wu and He 2018, arXiv:1803.08494) or ``none``.
        dropout: probability of dropping a hidden unit while training.

    Raises:
        ValueError: if the images have another size, ``hidden`` is empty, a width is no whole number of at least 1, or
            a name is unknown.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden: Sequence[int],
        latent_dim: int,
        *,
        condition_dim: int = 0,
        condition_is_image: bool = False,
        conditioning: str | Maker = "concatenation",
        condition_at: Placement = "first",
        norm: str = "group",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        height, width = _smallest_map(image_shape, hidden)
        check_whole(latent_dim=latent_dim)
        self.latent_dim, self.reads_condition = latent_dim, condition_dim > 0
        self.event_shape = tuple(image_shape)
        rest = len(hidden) - 1
        self.stem = nn.Conv2d(image_shape[0], hidden[0], 4, stride=2, padding=1)  # (B, F, H/2, W/2)
        self.blocks = _Blocks(
            [hidden[0], *hidden],
            [0.5, *[1.0] * rest],
            [2, *[4] * rest],
            condition_dim=condition_dim,
            condition_is_image=condition_is_image,
            conditioning=conditioning,
            condition_at=condition_at,
            norm=norm,
            dropout=dropout,
        )
        self.norm = _group_norm(hidden[-1]) if norm == "group" else nn.Identity()
        self.head = nn.Linear(hidden[-1] * height * width, 2 * latent_dim)

    def forward(
        self, x: Float[Tensor, "b ch h w"], c: Representation | None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Return (mean, log-variance).

        Raises:
            ValueError: if the images have another shape than the encoder was made for, or c another width.
        """
        check_event(x, self.event_shape)
        h = self.blocks(self.stem(x), c)  # (B, F, H/4, W/4)
        mean, raw = self.head(F.silu(self.norm(h)).flatten(1)).chunk(2, dim=1)
        return mean, bounded_log_variance(raw)


class ConvolutionalDecoder(nn.Module):
    """Read a latent and a condition; return image-shaped parameters (logits), shape (B, channels, H, W).

    The encoder's mirror: a linear layer to a map of a quarter of the side, a block for each width in ``hidden``, the
    last of which doubles the side, and a transposed convolution to the pixels. Arguments and errors as in
    :class:`ConvolutionalEncoder`.
    """

    def __init__(
        self,
        latent_dim: int,
        hidden: Sequence[int],
        image_shape: Sequence[int],
        *,
        condition_dim: int = 0,
        condition_is_image: bool = False,
        conditioning: str | Maker = "concatenation",
        condition_at: Placement = "first",
        norm: str = "group",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        height, width = _smallest_map(image_shape, hidden)
        check_whole(latent_dim=latent_dim)
        self.latent_dim, self.reads_condition = latent_dim, condition_dim > 0
        self.start = (hidden[0], height, width)
        rest = len(hidden) - 1
        self.stem = nn.Linear(latent_dim, hidden[0] * height * width)
        self.blocks = _Blocks(
            [hidden[0], *hidden],
            [*[1.0] * rest, 2.0],
            [4] * len(hidden),
            condition_dim=condition_dim,
            condition_is_image=condition_is_image,
            conditioning=conditioning,
            condition_at=condition_at,
            norm=norm,
            dropout=dropout,
        )
        self.norm = _group_norm(hidden[-1]) if norm == "group" else nn.Identity()
        self.head = nn.ConvTranspose2d(hidden[-1], image_shape[0], 4, stride=2, padding=1)

    def forward(self, z: Float[Tensor, "b d"], c: Representation | None) -> Float[Tensor, "b ch h w"]:
        """Return the logits.

        Raises:
            ValueError: if z or c has another width than the decoder was made for.
        """
        check_latents(z, self.latent_dim)
        h = self.blocks(self.stem(z).unflatten(1, self.start), c)  # (B, F, H/2, W/2)
        logits: Tensor = self.head(F.silu(self.norm(h)))
        return logits
