"""Chapter 09's figures over three seeds: one model for any mask, and whether its imputations keep their promise.

    python benchmarks/studies/any_mask.py                # writes cvae_lib/course/records/any_mask.json
    python benchmarks/studies/any_mask.py --minutes 3    # starts no training after three minutes; call it again

A finished training is a file in a folder of its own (--kept), so a study that was stopped goes on where it was.
"""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import keeping
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from cvae_lib import data
from cvae_lib.conditions import Observed, ObservedCondition
from cvae_lib.data import Batch, ImageSet
from cvae_lib.environment import at_most, settings
from cvae_lib.gaussians import bounded_log_variance, diagonal_gaussian
from cvae_lib.likelihoods import BernoulliPixels, masked
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.networks import MLP, MLPDecoder, MLPEncoder
from cvae_lib.objective import Terms, elbo_terms
from cvae_lib.training import fit

SEEDS = (0, 1, 2)
STEPS, WIDTH, LATENTS = 1500, 384, 24
SHAPE = (1, 28, 28)
IMAGES, IMPUTATIONS = 3000, 79
LEVELS = (0.5, 0.8, 0.95)
GROUPS = (10, 100)
PROTOCOL = (
    "MNIST, the first 50,000 training images to train on, the last 10,000 held out to correct intervals, the test set"
    f" to judge; dynamic binarisation, of what is observed as well. Three MLPs of two hidden layers of {WIDTH}: "
    f"q(z|x,y), p(z|y), p(x|z), D = {LATENTS}; y, the observed pixels and the mask, is told to the first two; loss "
    f"over the hidden pixels; {STEPS} steps of 256, one-cycle Adam 3e-3, bf16 where the hardware has it; evaluated in "
    "float32. deterministic: one such network from y to the pixels, as many steps. Masks: pixels, each observed at a "
    "rate between 0.05 and 0.95; window, one of 8 to 20 pixels a side hidden; quarters, one to three of the four "
    f"observed; any, all three as often, pooled. cover: of central intervals of the hidden ink, "
    f"{IMAGES} images of each kind, {IMPUTATIONS}"
    " imputations with pixels drawn (means: pixel means, not drawn), randomised ranks, percent; corrected: the level "
    "read off the held-out images; groups: of the ink of 10 and of 100 images together. bias: drawn less true ink, "
    "pixels, with z from the posterior and from the prior; spread: mean standard deviation of the imputed ink"
)


def pixels(count: int) -> Tensor:
    """Return masks that observe each pixel at a rate drawn for the image, (count, 1, 28, 28)."""
    return torch.rand(count, 1, 28, 28) < 0.05 + 0.9 * torch.rand(count, 1, 1, 1)


def window(count: int) -> Tensor:
    """Return masks that hide a window of 8 to 20 pixels a side."""
    size = torch.randint(8, 21, (count, 2))
    start = (torch.rand(count, 2) * (29 - size)).long()
    place = torch.arange(28)
    inside = (place >= start[..., None]) & (place < (start + size)[..., None])  # (count, 2, 28)
    return ~(inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]


def quarters(count: int) -> Tensor:
    """Return masks that observe one, two or three quarters."""
    chosen = torch.randint(1, 15, (count, 1)) >> torch.arange(4) & 1  # (count, 4), neither none nor all
    return chosen.bool().view(count, 1, 2, 2).repeat_interleave(14, 2).repeat_interleave(14, 3)


KINDS: dict[str, Callable[[int], Tensor]] = {"pixels": pixels, "window": window, "quarters": quarters}


def any_mask(count: int) -> Tensor:
    """Return masks of one of the three kinds each."""
    every = torch.stack([kind(count) for kind in KINDS.values()])  # (3, count, 1, 28, 28)
    return every[torch.randint(0, 3, (count,)), torch.arange(count)]


class DeepPrior(nn.Module):
    """A Gaussian p(z|y) whose network is as deep as the encoder's; it starts at the standard normal."""

    def __init__(self, numbers: int, hidden: tuple[int, ...], latents: int) -> None:
        super().__init__()
        self.net = MLP(numbers, hidden, 2 * latents)
        for parameter in self.net.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, c: Tensor, batch: int) -> Distribution:
        """Return p(z|y): event shape (D,), batch shape (B,)."""
        mean, raw = self.net(c, None).chunk(2, dim=1)
        return diagonal_gaussian(mean, bounded_log_variance(raw))


def seen(batch: Batch) -> Observed:
    """Return what is observed of a batch, under new masks."""
    return Observed(batch.x, any_mask(len(batch.x)).to(batch.x.device))


def hidden_only(model: CVAE, x: Tensor, y: Observed) -> Terms:
    """Return the terms of the bound on log p of the hidden pixels."""
    return elbo_terms(model, x, y, mask=~y.mask)


def without_z(model: CVAE, x: Tensor, y: Observed) -> Tensor:
    """Return log p of the hidden pixels under the same decoder with its z at zero: a deterministic network."""
    zero = torch.zeros(len(x), 1, device=x.device)
    value: Tensor = masked(model.likelihood(zero, y), ~y.mask).log_prob(x)
    return value


def any_mask_model() -> CVAE:
    """Return the CVAE, untrained."""
    condition, hidden = ObservedCondition(SHAPE, flat=True), (WIDTH, WIDTH)
    encoder = MLPEncoder(SHAPE, hidden, LATENTS, condition_dim=condition.dim)
    decoder = MLPDecoder(LATENTS, hidden, SHAPE)
    prior = DeepPrior(condition.dim, hidden, LATENTS)
    return CVAE(encoder, decoder, condition=condition, prior=prior, likelihood=BernoulliPixels())


def deterministic_model() -> CVAE:
    """Return the network whose z is never used, untrained."""
    return CVAE(CVAEConfig(condition="observed", latent_dim=1, hidden=(WIDTH, WIDTH), condition_to="decoder"))


def ink(x: Tensor, hidden: Tensor) -> Tensor:
    """Return how many pixels are inked where hidden, shape (..., B)."""
    return (x * hidden).flatten(-3).sum(-1)


def ranks(draws: Tensor, truth: Tensor) -> Tensor:
    """Return where the truth lies among the draws, (N,), uniform on (0, 1) if it is one more draw; ties at random."""
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    return (below + (equal + 1) * torch.rand(truth.shape)) / (len(draws) + 1)


def coverage(u: Tensor, level: float) -> float:
    """Return the percentage of truths inside the central interval of that level."""
    return 100 * float(((2 * u - 1).abs() <= level).double().mean())


@torch.no_grad()
def imputed(model: CVAE, images: ImageSet, kind: Callable[[int], Tensor], seed: int) -> dict[str, Tensor]:
    """Return the hidden ink of IMAGES random images: the truth, and that of imputations with means and with draws."""
    torch.manual_seed(1000 + seed)
    count, times = at_most(min(IMAGES, len(images)), settings.examples), at_most(IMPUTATIONS, settings.samples)
    x = images.pixels(torch.randperm(len(images))[:count], "stochastic")
    y = Observed(x, kind(count))
    prior, hidden = model.prior(y), ~y.mask
    found: dict[str, list[Tensor]] = {"means": [], "draws": []}
    for _ in range(times):
        mean = model.likelihood(prior.sample(), y).mean
        found["means"].append(ink(mean, hidden))
        found["draws"].append(ink(torch.bernoulli(mean), hidden))
    posterior = model.posterior(torch.where(hidden, x, 0), y)
    rebuilt = ink(model.likelihood(posterior.sample(), y).mean, hidden)
    return {"truth": ink(x, hidden), "rebuilt": rebuilt, **{name: torch.stack(rows) for name, rows in found.items()}}


def pooled(found: Iterable[list[dict[str, Tensor]]]) -> list[dict[str, Tensor]]:
    """Put the images of all kinds of mask together in one random order, set by set."""
    both = []
    for parts in zip(*found, strict=True):
        joined = {name: torch.cat([part[name] for part in parts], -1) for name in parts[0]}
        order = torch.randperm(len(joined["truth"]))
        both.append({name: values[..., order] for name, values in joined.items()})
    return both


def judged(held: dict[str, Tensor], test: dict[str, Tensor]) -> dict[str, float]:
    """Return coverage in percent, on the test images, on the held-out ones, and corrected; and what is off."""
    figures: dict[str, float] = {}
    draws, truth = test["draws"], test["truth"]
    u, before = ranks(draws, truth), ranks(held["draws"], held["truth"])
    for level in LEVELS:
        name = f"{100 * level:.0f}"
        figures[f"cover_{name}"] = coverage(u, level)
        figures[f"held_cover_{name}"] = coverage(before, level)
        figures[f"means_cover_{name}"] = coverage(ranks(test["means"], truth), level)
        asked = float((2 * before - 1).abs().quantile(level))
        figures[f"corrected_cover_{name}"] = coverage(u, asked)
        for size in GROUPS:
            if len(truth) >= size:
                together = [
                    part[..., : len(truth) // size * size].unflatten(-1, (-1, size)).sum(-1) for part in (draws, truth)
                ]
                figures[f"groups_{size}_cover_{name}"] = coverage(ranks(*together), level)
    for where, found in (("", test), ("held_", held)):
        figures[f"{where}bias"] = float((found["draws"].mean(0) - found["truth"]).mean())
        figures[f"{where}bias_posterior"] = float((found["rebuilt"] - found["truth"]).mean())
    figures["spread"] = float(draws.std(0).mean())
    figures["off"] = float((draws.mean(0) - truth).square().mean().sqrt())
    return figures


def measured(seed: int) -> dict[str, float]:
    """Train the CVAE with one seed and judge its imputations."""
    whole = data.mnist("train")
    train, held = whole.subset(slice(50_000)), whole.subset(slice(50_000, None))
    test = data.mnist("test")
    torch.manual_seed(seed)
    model = any_mask_model()
    fit(model, train, y=seen, objective=hidden_only, steps=STEPS, learning_rate=3e-3, seed=seed, log_every=100)
    model.to("cpu").eval()
    found = {name: [imputed(model, images, kind, seed) for images in (held, test)] for name, kind in KINDS.items()}
    figures: dict[str, float] = {}
    for name, (before, after) in {**found, "any": pooled(found.values())}.items():
        figures |= keeping.named(name, judged(before, after))
    for name, kind in {**KINDS, "any": any_mask}.items():
        torch.manual_seed(2000 + seed)
        x = test.pixels(torch.arange(at_most(len(test), settings.examples)), "stochastic")
        y = Observed(x, kind(len(x)))
        with torch.no_grad():
            terms = hidden_only(model, x, y)
        figures |= {f"{name}_elbo": -float(terms.elbo.mean()), f"{name}_rate": float(terms.rate.mean())}
    return figures


def deterministic(seed: int) -> dict[str, float]:
    """Train the network without z with one seed, and judge intervals made by drawing its pixels independently."""
    train, test = data.mnist("train").subset(slice(50_000)), data.mnist("test")
    torch.manual_seed(seed)
    model = deterministic_model()
    fit(model, train, y=seen, objective=without_z, steps=STEPS, learning_rate=3e-3, seed=seed, log_every=100)
    model.to("cpu").eval()
    figures, every = {}, []
    for name, kind in KINDS.items():
        torch.manual_seed(1000 + seed)
        x = test.pixels(torch.randperm(len(test))[: at_most(IMAGES, settings.examples)], "stochastic")
        y = Observed(x, kind(len(x)))
        with torch.no_grad():
            mean = model.likelihood(torch.zeros(len(x), 1), y).mean
            figures[f"{name}_nll"] = -float(without_z(model, x, y).mean())
        times = at_most(IMPUTATIONS, settings.samples)
        drawn = torch.stack([ink(torch.bernoulli(mean), ~y.mask) for _ in range(times)])
        every.append(ranks(drawn, ink(x, ~y.mask)))
        figures |= {f"{name}_cover_{100 * level:.0f}": coverage(every[-1], level) for level in LEVELS}
    figures["any_nll"] = sum(figures[f"{name}_nll"] for name in KINDS) / len(KINDS)
    return figures | {f"any_cover_{100 * level:.0f}": coverage(torch.cat(every), level) for level in LEVELS}


PIECES: dict[str, Callable[[int], dict[str, float]]] = {"cvae": measured, "deterministic": deterministic}


def trained(kept: Path) -> Iterator[str]:
    """Do what is not done yet, piece by piece, saying how far it is."""
    for seed in SEEDS:
        for name, piece in PIECES.items():
            if keeping.once(keeping.place(kept, name, seed), functools.partial(piece, seed)):
                yield f"{name}, seed {seed}: done"


def main(arguments: list[str] | None = None) -> int:
    """Do what is not done yet, and write the record when nothing is missing; returns 0."""
    options = keeping.arguments("any_mask", "09").parse_args(arguments)
    if keeping.all_done(trained(options.kept), options.minutes) or not keeping.lacking(options.kept, PIECES, SEEDS):
        runs = [keeping.joined(options.kept, PIECES, seed) for seed in SEEDS]
        keeping.record("any_mask", PROTOCOL, runs, options.kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
