"""Checks of chapter 06's exercises: what a prior costs, and priors that move or have many humps."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from cvae_lib.course.checks._given import drawn
from cvae_lib.course.checks._probe import Mistakes, Probe, Trial
from cvae_lib.course.checks._registry import exercise
from cvae_lib.course.checks._verdict import shown

TITLE = "06 · Learnable priors"


@exercise(
    "6.1",
    "one prior for two images, by hand",
    hints={
        "variance": "That is the variance of the best prior. Its standard deviation is asked for.",
        "inside": "That is as wide as each cloud alone. The prior must cover both, and they lie apart.",
        "between": "That is how far the centres lie from the middle. Each cloud has a width of its own besides.",
        "added": "Standard deviations do not add up; variances do.",
        "unbiased": "The squared distances are averaged over the two images, by (6.3), not divided by 2 - 1.",
        "swapped": "That is KL(p ‖ q). The rate has the posterior's width in the numerator: KL(q ‖ p), (6.1).",
        "bits": "Those are bits. Take the natural logarithm for nats.",
        "twice": "Twice too much: either the ½ is missing, or the two images are added. Their average is asked for.",
        "one image": "That is one of the two images. The other costs something else: average both.",
        "centre": "You put the middle of the two centres into the square. Square each centre first, then average.",
    },
)
def _two_images(probe: Probe, sigma: Any, best: Any, standard: Any) -> None:
    the = drawn("6.1", probe.edition)
    s, h, unit = the.std, the.half, Normal(0.0, 1.0)
    q = Normal(torch.tensor([the.centre - h, the.centre + h], dtype=torch.float64), s)

    def moved(width: float) -> Normal:
        return Normal(torch.tensor(float(the.centre), dtype=torch.float64), width)

    # The best width is searched for, with the rate of torch.distributions, and not taken from (6.3).
    low, high = 0.01, 20.0
    for _ in range(60):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if kl_divergence(q, moved(a)).mean() < kl_divergence(q, moved(b)).mean() else (a, high)
    width = {"variance": low**2, "inside": s, "between": h, "added": s + h, "unbiased": math.sqrt(s**2 + 2 * h**2)}
    probe.number(sigma, low, width)
    p = moved(low)
    nats = float(kl_divergence(q, p).mean())
    wrong: dict[str, float | tuple[float, ...]] = {
        "swapped": float(kl_divergence(p, q).mean()),
        "bits": nats / math.log(2),
        "twice": 2 * nats,
    }
    probe.number(best, nats, wrong)
    each = kl_divergence(q, unit)
    nats = float(each.mean())
    wrong = {
        "swapped": float(kl_divergence(unit, q).mean()),
        "bits": nats / math.log(2),
        "twice": 2 * nats,
        "one image": (float(each[0]), float(each[1])),
        "centre": float(kl_divergence(moved(s), unit)),
    }
    probe.number(standard, nats, wrong)


@exercise(
    "6.2",
    "a prior that can be trusted",
    seconds=30.0,
    hints={
        "model": "Write it as an `nn.Module`: its weights must be found by an optimiser.",
        "width": "The second thing is a standard deviation, or a variance: before training it is 1. Return its "
        "logarithm, which is 0.",
        "start": "Before training it is not the standard normal for every c. Start the last layer at zero: weight and "
        "bias.",
        "deaf": "It is the standard normal and stays it: no gradient reaches its weights, or there are none.",
        "forgets": "It learns, but says the same whatever c is: the condition does not reach it. Are there two zero "
        "layers in a row?",
        "batch": "Every row gets the same prior, made of the whole batch. Each example has a condition of its own.",
        "no width": "Only the mean moves. The log-variance must come from c as well: 2 D numbers.",
        "one width": "All latents share one width. Make one for each: D log-variances.",
        "runaway": "Its log-variance has no bound: far from the start a standard deviation is zero or infinite. "
        "Send it through something like 10 tanh(r / 10).",
        "loose": "Its bound is too far away: e to that is no variance of a latent. Stay within -10 and 10.",
        "tight": "Its bound is too close: a prior may have to be a hundred times narrower than 1: "
        "a log-variance of -9.",
        "clamped": "At the bound the gradient is exactly zero, so nothing can lead it back. Bend it smoothly: tanh.",
    },
)
def _moving_prior(probe: Probe, prior: Any) -> None:
    for trial in probe.trials():
        b, d, numbers = trial.size(5, 7), trial.size(3, 5), trial.size(6, 9)
        layer = trial.ask(prior, latents=d, numbers=numbers)
        if not isinstance(layer, nn.Module):
            trial.fail("model", expected="an nn.Module", got=shown(layer))
        c = trial.normal(b, numbers)
        _check_start(trial, layer, c, d)
        _learn(trial, layer, c, d)
        mean, w = (trial.tensor(part) for part in trial.pair(layer, c=c))
        if not mean.any() and not w.any():
            trial.fail("deaf", expected="a prior that training can move")
        other = [trial.tensor(part) for part in trial.pair(layer, c=c.flip(0))]
        if torch.allclose(mean, other[0]) and torch.allclose(w, other[1]):
            same = float(trial.tensor(trial.pair(layer, c=-c)[0]).sub(mean).abs().max()) < 1e-6
            trial.fail("forgets" if same else "batch", expected="another prior for another c", got=mean[:, 0])
        if not float(w.abs().max()) > 1e-3 or float(w.std(0).max()) < 1e-6:
            trial.fail("no width", expected="a log-variance that depends on c", got=w)
        if float((w - w[:, :1]).abs().max()) < 1e-6:
            trial.fail("one width", expected="one log-variance for each latent", got=w[0])
        _check_bound(trial, layer, c)


def _check_start(trial: Trial, layer: nn.Module, c: Tensor, d: int) -> None:
    mean, w = trial.pair(layer, c=c)
    zeros = torch.zeros(len(c), d)
    for part in (mean, w):
        if trial.tensor(part).shape != zeros.shape:
            trial.compare(part, zeros)
    if torch.allclose(trial.tensor(w), torch.ones_like(zeros).double()):
        trial.fail("width", expected=zeros, got=w)
    trial.compare(mean, zeros, otherwise="start")
    trial.compare(w, zeros, otherwise="start")


def _learn(trial: Trial, layer: nn.Module, c: Tensor, d: int, steps: int = 25) -> None:
    """Pull the prior towards some Gaussians for a few steps, so that its weights are no longer what they started as."""
    parameters = [part for part in layer.parameters() if part.requires_grad]
    if not parameters:
        return
    goal = trial.normal(2, len(c), d)
    optimiser = torch.optim.Adam(parameters, lr=0.03)
    for _ in range(steps):
        mean, w = trial.pair(layer, c=c)
        loss = (mean - goal[0]).square().mean() + (w - goal[1]).square().mean()
        if not loss.requires_grad:
            return
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _check_bound(trial: Trial, layer: nn.Module, c: Tensor) -> None:
    """Let all weights grow, and see where the log-variance ends, and whether it could return from there."""
    weights = [(part, part.detach().clone()) for part in layer.parameters()]

    def grown(step: int) -> Tensor:
        """Return the log-variance with every weight 2^(step/4) times as large."""
        with torch.no_grad():
            for part, before in weights:
                part.copy_(before * 2 ** (step / 4))
        w: Tensor = trial.pair(layer, c=c)[1]
        return w

    sizes = [float(grown(step).detach().abs().max()) for step in range(61)]
    trial.on, top = "the same conditions, after its weights have grown", sizes[-1]
    if not math.isfinite(top) or top > 1000:
        trial.fail("runaway", expected="|log-variance| at most 10", got=f"{top:.3g}")
    if top > 10.5:
        trial.fail("loose", expected="|log-variance| at most 10", got=f"{top:.3g}")
    if top < 9:
        trial.fail("tight", expected="a log-variance of -9 in reach", got=f"|log-variance| at most {top:.3g}")
    # A little further than where the bound is first felt: a smooth one still has a slope there.
    w = grown(1 + next(step for step, size in enumerate(sizes) if size > 0.9 * top))
    chosen = w.flatten()[w.abs().argmax()]
    slopes = torch.autograd.grad(chosen, [part for part, _ in weights], allow_unused=True)
    trial.on = "the same conditions, after its weights have grown"
    if not any(slope is not None and bool(slope.any()) for slope in slopes):
        trial.fail("clamped", expected="a gradient at the bound", got="none")


@exercise(
    "6.3",
    "the density of many clouds",
    hints={
        "underflow": "Right where densities are moderate. In many dimensions they are too small for a number, and the "
        "logarithm of 0 is no use: stay with logarithms, and add by `logsumexp`.",
        "sum": "The densities are added, not averaged: subtract log N, the number of clouds.",
        "mean of logs": "That is the mean of the logarithms, which lies lower. Take the logarithm of the mean.",
        "best": "That is the closest cloud alone. The others count too.",
        "one by one": "Each z met one cloud only. Every z meets all of them: give one of the two a new axis.",
        "axis": "You added over the z, and have one number for each cloud. Add over the clouds.",
        "constant": "½ log 2π is missing, once for each latent. It cancels in a ratio, but this is a density.",
        "normaliser": "The clouds' widths are missing from the front: each log-density has -½ log-variance.",
        "log std": "You took the log-variance for the logarithm of σ. The variance is exp(log_variance) itself.",
        "half": "The ½ before the squares is missing.",
        "latents mean": "You averaged over the latents. Log-densities add up.",
        "latents first": "You mixed each latent for itself, and added afterwards. A cloud is one thing: sum over the "
        "latents first, then average over the clouds.",
        "sign": "Right size, wrong sign: the log-density itself is asked for.",
    },
)
def _aggregate(probe: Probe, aggregate_log_prob: Any) -> None:
    for trial in probe.trials():
        for d, apart in ((trial.size(2, 4), 1.0), (300, 3.0)):
            b, n = trial.size(3, 5), trial.size(6, 9)
            z, mean, w = apart * trial.normal(b, d), trial.normal(n, d), trial.normal(n, d)
            got = trial.ask(aggregate_log_prob, z=z, mean=mean, log_variance=w)
            z, mean, w = (part.double().cpu() for part in (z, mean, w))
            clouds = Independent(Normal(mean, (0.5 * w).exp()), 1)
            exact = MixtureSameFamily(Categorical(torch.ones(n).double()), clouds).log_prob(z)  # (B,)
            kind = "unknown" if apart == 1 else "underflow"
            mistakes = _misreadings(z, mean, w, exact) if apart == 1 else {}
            trial.compare(got, exact, mistakes, otherwise=kind, not_finite=kind)


def _misreadings(z: Tensor, mean: Tensor, w: Tensor, exact: Tensor) -> Mistakes:
    """Return what known mistakes would make of it: z (B, D), mean and log-variance (N, D)."""
    n, d = mean.shape

    def density(square: float = 0.5, front: float = 1.0, power: float = 1.0, constant: float = 1.0) -> Tensor:
        far = (z[:, None] - mean) ** 2 / (power * w).exp()
        return -square * far - 0.5 * front * w - 0.5 * constant * math.log(2 * math.pi)  # (B, N, D)

    def mixed(each: Tensor) -> Tensor:
        return each.sum(2).logsumexp(1) - math.log(n)

    right = density()
    few = min(len(z), n)
    return {
        "sum": exact + math.log(n),
        "mean of logs": right.sum(2).mean(1),
        "best": (right.sum(2).amax(1), right.sum(2).amax(1) - math.log(n)),
        "one by one": right.sum(2)[range(few), range(few)],
        "axis": (
            right.sum(2).logsumexp(0) - math.log(len(z)),
            right.sum(2).logsumexp(0) - math.log(n),
            right.sum(2).logsumexp(0),
        ),
        "constant": mixed(density(constant=0.0)),
        "normaliser": (mixed(density(front=0.0)), mixed(density(front=0.0, constant=0.0))),
        "log std": (mixed(density(power=2.0)), mixed(density(power=2.0, front=2.0))),
        "half": mixed(density(square=1.0)),
        "latents mean": (right.mean(2).logsumexp(1) - math.log(n), exact / d),
        "latents first": (right.logsumexp(1) - math.log(n)).sum(1),
        "sign": -exact,
    }
