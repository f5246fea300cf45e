"""Streams of random numbers: those with a name, from which data sets are drawn, and torch's own, seeded for a while."""

import contextlib
import random
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import Distribution

# Two streams begun at one seed would give the pixels and the latents the same numbers, and noise that follows the
# pixels is information.
NOISE = 1_000_003


def named_generator(name: str, seed: int) -> torch.Generator:
    """Return a generator on the CPU whose numbers depend on the name and the seed alone."""
    # Seeds of the CPU generator count only modulo 2**32, so name and seed are hashed together.
    return torch.Generator("cpu").manual_seed(random.Random(f"{name}:{seed}").getrandbits(32))


@contextlib.contextmanager
def seeded(seed: int, device: torch.device, rank: int = 0) -> Iterator[torch.Generator]:
    """Make torch's randomness follow ``seed`` inside the block, and leave the caller's streams as they were after it.

    That of the CPU and that of ``device`` follow it; those of other devices are not touched. The generator it gives is
    a stream apart, begun at ``seed`` itself, for order and pixels.

    Args:
        seed: any whole number that :func:`torch.manual_seed` takes.
        device: where the generator is to draw.
        rank: number of this process where several train together; each has noise of its own.
    """
    own = device.type in ("cuda", "mps")
    with torch.random.fork_rng([device] if own else [], device_type=device.type if own else "cuda"):
        seed_streams(seed + NOISE * (1 + rank), device)
        yield torch.Generator(device).manual_seed(seed)


def seed_streams(seed: int, device: torch.device) -> None:
    """Seed the global streams of the CPU and of ``device``; torch's own function seeds those of all devices."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def sample_from(p: Distribution, generator: torch.Generator | None = None) -> Tensor:
    """Draw from any distribution with a generator, though torch's distributions know global streams only.

    Args:
        p: what is drawn from.
        generator: seeds the global streams while p draws; None leaves them as they are.
    """
    if generator is None:
        return p.sample()
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    with seeded(seed, _device_of(p) or generator.device):
        return p.sample()


def _device_of(p: Distribution) -> torch.device | None:
    """Return where a distribution draws: the device of the first tensor that it, or one it is made of, holds."""
    for value in vars(p).values():
        found = value.device if isinstance(value, Tensor) else None
        if isinstance(value, Distribution):
            found = _device_of(value)
        if found is not None:
            return found
    return None
