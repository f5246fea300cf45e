"""Several processes under ``torchrun``: who takes which rows of a batch, and how they agree."""

import contextlib
import functools
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from cvae_lib import course
from cvae_lib.training._checkpoint import differences


@dataclass(frozen=True)
class Share:
    """The rows of a global batch that one process computes, and their weight in its loss.

    Attributes:
        start, stop: the rows; always at least one, since a network cannot do with none.
        total: B, the rows of the global batch.
        weight: :math:`n W / B` for n true rows of one of W processes, 0 if the row is a stand-in. The mean over
            processes of weight times mean loss is then the mean over all rows, however they are dealt out.
    """

    start: int
    stop: int
    total: int
    weight: float

    @property
    def rows(self) -> slice:
        """The rows as a slice."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Team:
    """The processes that train together; alone, everything here does nothing.

    Attributes:
        rank: which of them this is; 0 prints and writes.
        size: how many there are.
        device: where this one computes.
    """

    rank: int
    size: int
    device: torch.device

    def share(self, total: int) -> Share:
        """Return this process's rows of a batch of ``total``: as even as can be, in order of rank."""
        start, stop = self.rank * total // self.size, (self.rank + 1) * total // self.size
        if start == stop:
            return Share(0, 1, total, 0.0)
        return Share(start, stop, total, (stop - start) * self.size / total)

    def largest(self, values: Tensor) -> Tensor:
        """Return the elementwise largest over the processes; changes ``values``."""
        if self.size > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def any(self, said: bool) -> bool:
        """Return whether one of the processes says yes."""
        return bool(self.largest(torch.tensor(float(said), device=self.device)))

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over the processes; changes ``values``."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def agreed(self, number: float) -> float:
        """Return the first process's number in all of them, so that all decide alike."""
        if self.size == 1:
            return number
        told = torch.tensor(number, dtype=torch.float64, device=self.device)
        dist.broadcast(told, src=0)
        return float(told)

    def agree(self, settings: dict[str, Any]) -> None:
        """Let all processes compare their settings with the first one's, before they wait for each other in vain.

        Raises:
            ValueError: in all of them, if one differs.
        """
        if self.size == 1:
            return
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, json.dumps(settings))
        for rank, theirs in enumerate(told):
            if other := differences(json.loads(told[0]), json.loads(theirs)):
                raise ValueError(
                    f"Every process must call fit with the same model, data and settings, and process {rank} has "
                    f"{other}."
                )

    def align(self, model: nn.Module) -> None:
        """Give every process the first one's parameters and buffers."""
        if self.size > 1:
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor.detach(), src=0)

    def wrap(self, measure: Callable[..., Any], model: nn.Module) -> Callable[..., Any]:
        """Return ``measure(model, ...)`` as a function of the rest, with gradients averaged over the processes."""
        if self.size == 1:
            return functools.partial(measure, model)
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Parameters that a model does not use in its loss are allowed, as they are with one process.
        return nn.parallel.DistributedDataParallel(_Measure(measure, model), device_ids=ids, static_graph=True)


class _Measure(nn.Module):
    """A module whose forward computes the loss, which is what DistributedDataParallel wraps."""

    def __init__(self, measure: Callable[..., Any], model: nn.Module) -> None:
        super().__init__()
        self.measure, self.model = measure, model

    def forward(self, *batch: Any) -> Any:
        return self.measure(self.model, *batch)


_GROUPS = itertools.count()

# How gloo and nccl say that nobody answers any more.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process", "gloo")


@contextlib.contextmanager
def alone(us: Team) -> Iterator[None]:
    """Say in one sentence that another process is gone: why it went, only its own message tells.

    Raises:
        RuntimeError: if that happens inside the block.
    """
    try:
        yield
    except RuntimeError as error:
        if us.size == 1 or not (isinstance(error, dist.DistError) or any(sign in str(error) for sign in _LOST)):
            raise
        raise RuntimeError(
            f"Process {us.rank} has stopped because another of the {us.size} processes is gone; "
            "the message of that one names the cause, and the model here is usable."
        ) from None


@contextlib.contextmanager
def team(device: str | torch.device) -> Iterator[Team]:
    """Find the other processes, if ``torchrun`` started some, and this one's device.

    A process group that is there already is used and left alone; otherwise one is made for as long as the block
    lasts: nccl on CUDA, gloo elsewhere.

    Raises:
        ValueError: if there is no such device, none for each process, or one without numbers.
    """
    several = dist.is_available() and int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
    ready = dist.is_available() and dist.is_initialized()
    chosen = course.pick_device(device)
    if not (several or ready):
        if chosen.type == "meta":
            raise ValueError("The meta device holds no numbers, so nothing can be trained there; pass device='cpu'.")
        yield Team(0, 1, chosen)
        return
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"Several processes train on CPUs or CUDA devices, not on {chosen.type!r}; pass device='cpu'.")
    if chosen.type == "cuda":
        _take(chosen)
        chosen = torch.device("cuda", torch.cuda.current_device())
    if not ready:
        # The keys of a group that is gone stay in torchrun's store, so every group gets a prefix of its own.
        store, rank, size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
        store = dist.PrefixStore(f"cvae_lib/{next(_GROUPS)}", store)  # type: ignore[attr-defined]
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield Team(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        if not ready:
            dist.destroy_process_group()


def _take(device: torch.device) -> None:
    """Make a CUDA device this process's own: the one named, else the one of its rank, else the one it has chosen."""
    place = os.environ.get("LOCAL_RANK") if device.index is None else str(device.index)
    if place is None:
        return
    if int(place) >= (count := torch.cuda.device_count()):
        raise ValueError(
            f"Process {place} of this machine has no CUDA device of its own, for there are {count}; "
            "start fewer processes, or pass device='cpu'."
        )
    torch.cuda.set_device(int(place))


# What draws numbers element by element.
_DRAWS = {
    *(torch.normal, torch.bernoulli, torch.rand, torch.randn, torch.randint, torch.rand_like, torch.randn_like),
    *(torch.dropout, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d),
}
_DRAWS_IN_PLACE = {Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.exponential_}


class GlobalDraws(TorchFunctionMode):
    """Draw as one process would: numbers for the whole batch, of which this process keeps its rows.

    Every process has the same random state and draws the same numbers, so together they see the noise that one
    process would have seen. The price is that each draws all of it: for a batch of B images of P pixels with D
    latents, B (P + D) numbers instead of its share, small beside the matrix products.

    The batch axis of a draw is its first axis of n entries, n being this process's rows (the second of three, if
    that has as many), else the leading axis if that is a multiple of n (several samples for each image, flattened).
    A draw without such an axis is made as it is. Noise that a composite function draws inside (dropout in attention)
    is not seen here: the gradient stays unbiased, but the numbers are not those of one process.
    """

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share
        self.count = share.stop - share.start

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS_IN_PLACE:
            big = self._widened(args[0])
            func(big, *map(self._widened, args[1:]), **{k: self._widened(v) for k, v in kwargs.items()})
            return args[0].copy_(self._narrowed(big, args[0].shape))
        if func not in _DRAWS:
            return func(*args, **kwargs)
        if func in (torch.rand, torch.randn) and args and isinstance(args[0], int):
            args = (args,)  # randn(2, 3) is randn((2, 3))
        shape = next(
            value.shape if isinstance(value, Tensor) else torch.Size(value)
            for value in (*args, *kwargs.values())
            if isinstance(value, Tensor | tuple | list)
        )
        big = func(*map(self._widened, args), **{key: self._widened(value) for key, value in kwargs.items()})
        return self._narrowed(big, shape)

    def _seen(self, shape: torch.Size) -> tuple[tuple[int, ...], int] | None:
        """Return the shape in which the batch is an axis of its own, and that axis; None if there is none."""
        if self.count in shape:
            axis = list(shape).index(self.count)
            # (K, B, D) with K = B: in this library three axes are samples, images, latents.
            return tuple(shape), 1 if len(shape) == 3 and shape[1] == self.count else axis
        if shape and self.count > 1 and shape[0] % self.count == 0:
            return (shape[0] // self.count, self.count, *shape[1:]), 1
        return None

    def _widened(self, value: Any) -> Any:
        """Return a tensor or a shape with the whole batch's rows; rows of other processes are zero."""
        if not isinstance(value, Tensor | tuple | list):
            return value
        seen = self._seen(value.shape if isinstance(value, Tensor) else torch.Size(value))
        if seen is None:
            return value
        shape, axis = seen
        whole = (*shape[:axis], self.share.total, *shape[axis + 1 :])
        if not isinstance(value, Tensor):
            return (math.prod(whole[: axis + 1]), *whole[axis + 1 :]) if len(shape) > len(value) else whole
        big = value.new_zeros(whole)
        big.narrow(axis, self.share.start, self.count).copy_(value.reshape(shape))
        return big.flatten(0, 1) if len(shape) > value.ndim else big

    def _narrowed(self, big: Tensor, shape: torch.Size) -> Tensor:
        """Return this process's rows of what was drawn, in the shape that was asked for."""
        seen = self._seen(shape)
        if seen is None:
            return big
        split, axis = seen
        if len(split) > len(shape):
            big = big.unflatten(0, (split[0], self.share.total))
        return big.narrow(axis, self.share.start, self.count).reshape(shape)
