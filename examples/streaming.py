"""More data than memory holds: shards are read one by one in worker processes, and each picture is changed at random.

Here a shard is drawn on the spot; with data of your own, ``shard`` reads a file.

    python examples/streaming.py
    torchrun --nproc_per_node=2 examples/streaming.py        # two processes, half of the shards for each
"""

import argparse
import os
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchvision.transforms import v2

from cvae_lib import CVAE, CVAEConfig, ImageSet, fit, log_likelihood
from cvae_lib.data import strokes

arguments = argparse.ArgumentParser()
arguments.add_argument("--steps", type=int, default=2000)
arguments.add_argument("--shards", type=int, default=100)
arguments.add_argument("--workers", type=int, default=2)


def shard(number: int) -> ImageSet:
    """Return 1,000 pictures (bytes) and their labels: one part of a large set."""
    return strokes(count=1000, seed=number)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """The pictures of all shards: each process, and each worker of it, reads shards of its own."""

    augment = v2.RandomAffine(degrees=10, translate=(0.05, 0.05), scale=(0.9, 1.1))

    def __init__(self, shards: int) -> None:
        self.shards = shards
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        place, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(self.shards)[self.rank * workers + place :: self.size * workers]:
            pictures = shard(number)
            for row in torch.randperm(len(pictures)).tolist():
                yield self.augment(pictures.images[row]), pictures.labels[row]


if __name__ == "__main__":
    given = arguments.parse_args()
    model = CVAE.from_config(CVAEConfig(num_classes=10, event_shape=(1, 28, 28)))
    loader = DataLoader(Stream(given.shards), batch_size=256, num_workers=given.workers)
    fit(model, loader, steps=given.steps)  # a stream has no length, so its budget is in steps
    held_out = strokes("test", count=1000)
    print("log p(x|y) of pictures it has not seen, nats:", log_likelihood(model, held_out, samples=50))
