"""Grey levels as pixels in [0, 1]: as they are, cut at one half, or drawn as 0 and 1."""

from typing import Literal

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from cvae_lib.environment import is_cheap_to_inspect

PixelMode = Literal["grey", "stochastic", "threshold"]


def binarise(levels: UInt8[Tensor, "*shape"], generator: torch.Generator | None = None) -> Float[Tensor, "*shape"]:
    r"""Draw every pixel as 0 or 1, with its grey level as the probability of 1: p = v / 255.

    On the CPU a pixel is 1 where a uniform 16-bit integer u in {0, ..., 65535} is below 257 v, so that
    P(x = 1) = 257 v / 65536 = (v / 255)(1 - 2^{-16}), at most 1.6e-5 below v / 255; the top value of u counts
    as the one below it, which makes white exactly 1. Black is exactly 0. Four such integers come out of one
    64-bit draw, which is 3 times as fast as a float for each pixel. Other devices compare u < v / 255 for a
    float u in [0, 1).

    Args:
        levels: grey levels v, 0 to 255, of any shape.
        generator: where the draws come from, on the device of ``levels``; None is torch's global one.

    Returns:
        float32 zeros and ones, of the same shape and on the same device.

    Source: Salakhutdinov and Murray 2008; dynamic binarisation as in Burda et al. 2016, arXiv:1509.00519.
    """
    if levels.device.type != "cpu":
        return _coins(levels.float().div_(255), generator)
    count = levels.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64, device="cpu").random_(-(2**63), None, generator=generator)
    u16 = bits.view(torch.int16)[:count].view(levels.shape).clamp_(max=32766)
    # int16 begins at -32768, so both sides are shifted by that; 257 v wraps around, the shift wraps it back.
    threshold = levels.to(torch.int16).mul_(257).add_(-32768)
    ones = torch.empty(levels.shape, dtype=torch.float32, device="cpu")
    return torch.lt(u16, threshold, out=ones)  # straight to float: casting bools is slow


def _coins(p: Float[Tensor, "*shape"], generator: torch.Generator | None) -> Float[Tensor, "*shape"]:
    """Return 1 with probability p and 0 otherwise: never at p = 0, always at p = 1."""
    digits = torch.float64 if p.dtype == torch.float64 else torch.float32  # half precision has too few for a uniform
    return (torch.rand(p.shape, generator=generator, device=p.device, dtype=digits) < p).to(p.dtype)


def check_unit_interval(x: Tensor) -> None:
    """Raise ValueError if a pixel lies outside [0, 1] or is NaN, where looking costs nothing."""
    if is_cheap_to_inspect(x):
        low, high = x.aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"Pixels must lie in [0, 1], but run from {float(low):g} to {float(high):g}: divide bytes by 255, undo "
                "a normalisation, or look for NaN; for other numbers take GaussianPixels(link='identity')."
            )


def as_pixels(
    x: Shaped[Tensor, "*shape"], mode: PixelMode = "grey", generator: torch.Generator | None = None
) -> Float[Tensor, "*shape"]:
    """Return grey levels (uint8, 0 to 255) or floats in [0, 1] as float pixels in [0, 1].

    Args:
        x: of any shape.
        mode: ``grey`` leaves the value as it is, v / 255; ``stochastic`` draws 0 or 1 with that probability, afresh at
            every call; ``threshold`` is 1 from 0.5 on.
        generator: where stochastic pixels come from, on the device of x; None is torch's global one.

    Raises:
        ValueError: if the mode is unknown, x holds other whole numbers than uint8, or floats that are to be binarised
            lie outside [0, 1] (on the CPU, and not while compiling).
    """
    if mode not in ("grey", "stochastic", "threshold"):
        raise ValueError(f"pixels must be 'grey', 'stochastic' or 'threshold', not {mode!r}.")
    if x.dtype == torch.uint8:
        if mode == "stochastic":
            return binarise(x, generator)
        # The top bit says v >= 128.
        return x.float().div_(255) if mode == "grey" else x.bitwise_right_shift(7).float()
    if not x.is_floating_point():
        raise ValueError(f"Pixels are uint8 grey levels or floats in [0, 1], not {x.dtype}.")
    if mode != "grey":  # a likelihood looks at grey ones; once binary they would all pass
        check_unit_interval(x)
    if mode == "stochastic":
        return _coins(x, generator)
    return x if mode == "grey" else (x >= 0.5).to(x.dtype)
