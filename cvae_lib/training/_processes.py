"""Several processes under ``torchrun``, as torch's DistributedDataParallel has them."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from cvae_lib.environment import pick_device

_GROUPS = itertools.count()


class Processes(NamedTuple):
    """The process group of a training; alone, everything here does nothing.

    Attributes:
        rank: which process this is; 0 prints and writes.
        size: how many there are.
        device: where this one computes.
    """

    rank: int
    size: int
    device: torch.device

    def align(self, tensors: list[Tensor]) -> None:
        """Give every process the first one's tensors: batch norm's running means are of its own examples."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def first(self, value: float) -> float:
        """Return the first process's number, so that all decide alike."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, 0)
        return values[0]

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over the processes; changes ``values``."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


@contextlib.contextmanager
def process_group(device: str | torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun has started, or a group that is there already; else be one process alone.

    nccl on CUDA, where each process takes the device of its local rank; gloo elsewhere.

    Raises:
        ValueError: if there is no such device, or one without numbers.
    """
    chosen = pick_device(device)
    if chosen.type == "meta":
        raise ValueError("The meta device holds no numbers, so nothing can be trained there; pass device='cpu'.")
    ready = dist.is_available() and dist.is_initialized()
    # Not WORLD_SIZE alone: a batch system may set it around a notebook, which would then wait for others for ever.
    launched = dist.is_available() and dist.is_torchelastic_launched()
    if not (ready or launched):
        yield Processes(0, 1, chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
        torch.cuda.set_device(chosen)
    if not ready:
        # What a group that is gone has written stays in torchrun's store, so every group gets a prefix of its own.
        store, rank, size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
        store = dist.PrefixStore(f"cvae_lib/{next(_GROUPS)}", store)  # type: ignore[attr-defined]
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        if not ready:
            dist.destroy_process_group()
