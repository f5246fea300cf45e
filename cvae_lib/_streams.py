"""Independent streams of random numbers, each known by its name: what the built-in data sets are drawn from."""

import random

import torch


def named_generator(name: str, seed: int) -> torch.Generator:
    """Return a generator on the CPU whose numbers depend on the name and the seed alone."""
    # Seeds of the CPU generator count only modulo 2**32, so name and seed are hashed together.
    return torch.Generator().manual_seed(random.Random(f"{name}:{seed}").getrandbits(32))
