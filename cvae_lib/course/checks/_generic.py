"""Mistakes of no exercise in particular, and the hint for each."""

from types import MappingProxyType

from torch import Tensor

GENERIC = MappingProxyType(
    {
        "nothing": "Your function gives back nothing. Does it end in `return`?",
        "kind": "That is no number or tensor.",
        "two things": "Two things are asked for, in one `return a, b`.",
        "one number": "One number is asked for. Is a sum or an average missing, or did you hand in more than one?",
        "no method": "Your model lacks that method, or calls it something else.",
        "no model": "That is not a model. Hand in the trained `nn.Module` itself.",
        "instance": "That is a model, already made. Hand in its class, without brackets: the check makes its own.",
        "no logits": "`decode` gives numbers between 0 and 1, however far out z lies: those are probabilities. Return "
        "logits; take the sigmoid only to look at them.",
        "rectified": "`decode` gives no negative logit, so no pixel can be probably black. Is there a ReLU at its end?",
        "shape": "The shape is not the one asked for. Is a size written down that should come from the input?",
        "axis lost": "An axis is gone that should have stayed. Which one should be summed over, and which not?",
        "axis left": "An axis is left over. Should it be summed over? Or did a column meet a row? (B, 1) + (B,) is "
        "(B, B).",
        "axis of one": "An axis of length 1 is too many, or missing. `a[:, None]` and `keepdim=True` make one, and "
        "`a[:, 0]` takes it away.",
        "not finite": "There are infinities or NaNs in it. Which step takes a logarithm of zero, or overflows?",
        "in place": "Your function changed its own input, as functions that end in `_` do. Work on a new tensor.",
        "by hand": "No known mistake gives this number. Open the first folded hint, and write every term down.",
        "unknown": "No known mistake looks like this. Work through the input above by hand, and compare term by term.",
    }
)


def misshapen(value: Tensor, expected: Tensor) -> str:
    """Say in which way a shape is not the one asked for."""
    if [size for size in value.shape if size != 1] == [size for size in expected.shape if size != 1]:
        return "axis of one"
    if value.ndim != expected.ndim:
        return "axis lost" if value.ndim < expected.ndim else "axis left"
    return "shape"
