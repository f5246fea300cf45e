"""Products in which every core keeps its own rows of each weight, so that weights do not travel between cores.

The usual product lets every core read all of a weight; when the optimiser then writes it, each core must first take
back what the other had fetched. Where two cores share no cache, as on many rented machines, that makes Adam five times
as slow as it is by itself. With rows of its own, a core multiplies them, makes their gradient and updates them.
Measured for two cores, see ``benchmarks/TUNING.md``.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

LEAST = 256  # rows of the largest layer for each core: measured with two cores, and not for a dozen thin slices


class LinearByRows(torch.autograd.Function):
    r"""The linear layer :math:`y = x W^\top + b`, its rows of W in as many blocks as there are cores.

    Each product is one batched product over the blocks, and a core takes a block of it. The same blocks are used for
    :math:`y_c = x W_c^\top`, for :math:`\partial W_c = g_c^\top x` and for :math:`\partial x = \sum_c g_c W_c`.
    """

    generate_vmap_rule = True  # an objective of one's own may map over draws

    @staticmethod
    def forward(x: Float[Tensor, "b i"], weight: Float[Tensor, "o i"], blocks: int) -> Float[Tensor, "b o"]:
        """Return y without b; stored feature by feature, as the blocks come."""
        y: Tensor = torch.bmm(weight.unflatten(0, (blocks, -1)), x.mT.expand(blocks, -1, -1))  # (c, o / c, b)
        return y.flatten(0, 1).mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the gradients need."""
        ctx.save_for_backward(*inputs[:2])
        ctx.blocks = inputs[2]

    @staticmethod
    def backward(ctx: Any, g: Float[Tensor, "b o"]) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients with respect to x and to the weight, where anybody asks for them."""
        x, weight = ctx.saved_tensors
        own = g.mT.unflatten(0, (ctx.blocks, -1))  # (c, o / c, b)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = torch.bmm(own.mT, weight.unflatten(0, (ctx.blocks, -1))).sum(0)
        if ctx.needs_input_grad[1]:
            of_weight = torch.bmm(own, x.expand(ctx.blocks, -1, -1)).flatten(0, 1)
        return of_x, of_weight, None


class ByRows(TorchFunctionMode):
    """While it is entered, linear layers on the CPU multiply by rows, in float32 and float64; nothing else changes.

    In bfloat16 the products read a copy of the weights in any case, and nothing was gained.

    Args:
        blocks: as many as there are cores.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call ``func``, or multiply by rows in its place."""
        kwargs = kwargs or {}
        if func is F.linear:
            return self._linear(*args, **kwargs)
        return func(*args, **kwargs)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        fits = x.ndim == 2 and weight.ndim == 2 and weight.shape[0] % self.blocks == 0
        is_whole = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
        if not (fits and is_whole and x.device.type == "cpu"):
            return F.linear(x, weight, bias)
        y: Tensor = LinearByRows.apply(x, weight, self.blocks)
        return y if bias is None else y + bias


def blocks_for(model: torch.nn.Module) -> int:
    """Return into how many blocks of rows this model's weights are worth cutting here; 1 for none."""
    cores = torch.get_num_threads()
    rows = max((layer.weight.shape[0] for layer in model.modules() if isinstance(layer, torch.nn.Linear)), default=0)
    return cores if rows >= LEAST * cores else 1


def by_rows(function: Callable[..., Any], blocks: int) -> Callable[..., Any]:
    """Return ``function`` with its linear layers cut by rows; the same function if there is but one block."""
    if blocks == 1:
        return function

    def split(*args: Any) -> Any:
        with ByRows(blocks):
            return function(*args)

    return split
