"""Minibatches of anything that gives (x, y), in a new order each epoch, for one process or several."""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate
from torch.utils.data.distributed import DistributedSampler

from cvae_lib.data._examples import Data, Examples, TensorSet, as_source, raw, rows_of, tensors_in, unpacked
from cvae_lib.data._imageset import ImageSet


class Minibatches:
    """The shuffled minibatches of a data set, gone through once an epoch.

    Args:
        data: tensors (x, y), an ``ImageSet``, a ``Dataset`` or a ``DataLoader``; a stream (``IterableDataset``) gives
            each process its own share by itself.
        batch_size: examples per batch, in this process; a ``DataLoader`` has its own.
        device: where data in memory are kept, as a whole.
        generator: source of the order, on that device; torch's global stream if None.
        rank: number of this process.
        size: how many processes share an epoch.

    Attributes:
        data: the set or loader that is gone through.

    Raises:
        ValueError: if the data are none, or a loader in one of several processes has no ``DistributedSampler``.
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        device: torch.device,
        generator: torch.Generator | None = None,
        *,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        self.batch_size, self.generator, self.rank, self.size = batch_size, generator, rank, size
        self.device = device
        self.data: Any = as_source(data)
        if isinstance(self.data, ImageSet | TensorSet):
            self.data = self.data.to(device)
        elif isinstance(self.data, IterableDataset):
            self.data = DataLoader(self.data, batch_size)
        is_map = isinstance(self.data, DataLoader) and not isinstance(self.data.dataset, IterableDataset)
        if size > 1 and is_map and not isinstance(self.data.sampler, DistributedSampler):
            raise ValueError("Under torchrun a DataLoader needs a DistributedSampler; or pass the Dataset itself.")

    @property
    def is_in_memory(self) -> bool:
        """Whether the examples are whole tensors, with a place of their own."""
        return isinstance(self.data, ImageSet | TensorSet)

    def __len__(self) -> int:
        """Count the batches of an epoch; a TypeError for a stream, whose length nobody knows."""
        is_loader = isinstance(self.data, DataLoader)
        return len(self.data) if is_loader else len(self._sizes(-(-len(self.data) // self.size)))

    def _sizes(self, count: int) -> list[int]:
        """Return the sizes of the batches; a single leftover joins the one before, since batch norm needs two."""
        whole, rest = divmod(count, self.batch_size)
        sizes = [self.batch_size] * whole + ([rest] if rest else [])
        return [*sizes[:-2], sizes[-2] + 1] if len(sizes) > 1 and rest == 1 else sizes

    def epoch(self, number: int) -> Iterator[Examples]:
        """Yield the batches of an epoch, counted from 0, as they are stored."""
        if isinstance(self.data, DataLoader):
            if isinstance(self.data.sampler, DistributedSampler):
                self.data.sampler.set_epoch(number)
            for batch in self.data:
                yield Examples(*unpacked(batch), None)
            return
        order = torch.randperm(len(self.data), generator=self.generator, device=self.device)
        if self.size > 1:  # as DistributedSampler does: filled up, so that every process takes as many steps
            order = torch.cat([order, order[: -len(order) % self.size]])[self.rank :: self.size]
        for index in order.split(self._sizes(len(order))):
            if self.is_in_memory:
                x, y = raw(self.data)
                yield Examples(x.index_select(0, index), rows_of(y, index), index)
            else:
                yield Examples(*unpacked(default_collate([self.data[place] for place in index.tolist()])), index)


def fingerprint(data: Any, y: Any = None) -> str:
    """Return what tells these data from others of the same length: a checksum of x and y, where they are in memory."""
    if not isinstance(data, ImageSet | TensorSet):
        return type(getattr(data, "dataset", data)).__name__
    x, own = raw(data)
    digest = hashlib.sha256()
    for values in [x, *tensors_in(own if y is None else y)]:
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
