"""Checks of chapter 07's exercises: latents that fall silent, what is said of them, and what keeps them awake."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from cvae_lib.course.checks._given import drawn
from cvae_lib.course.checks._probe import Mistakes, Probe
from cvae_lib.course.checks._registry import exercise

TITLE = "07 · Posterior collapse"


@exercise(
    "7.1",
    "who is worth its rate, by hand",
    hints={
        "posterior": "That is σ²/λ, the variance of the posterior itself. What its mean moves by is the rest, up to 1.",
        "std": "You took σ for σ². The noise is given by its standard deviation, and (7.8) wants the variance.",
        "first": "That is the first latent's. The second is asked for.",
        "weight": "λ - σ² is the square of the decoder's weight, (7.7). The means have the variance 1 - σ²/λ.",
        "idle": "Silent latents brought something negative into the sum. Their rate is 0: they stay at the prior.",
        "half": "Twice too much: (7.8) has a half in front of the logarithm.",
        "bits": "Right in bits. The course counts in nats.",
        "one latent": "That is the first latent's rate alone. Add those of all that are active.",
    },
)
def _worth(probe: Probe, moves: Any, rate: Any) -> None:
    the = drawn("7.1", probe.edition)
    spectrum, noise = the.top / 2.0 ** np.arange(5), the.std**2
    # Not by (7.8): each direction's own posterior by precisions, and KL averaged over where its mean lies.
    weight = np.sqrt(np.maximum(spectrum - noise, 0.0))
    variance = 1 / (1 + weight**2 / noise)
    moved = (variance * weight / noise) ** 2 * (weight**2 + noise)
    nats = [_mean_kl(float(v), float(a)) for v, a in zip(variance, moved, strict=True)]
    ratios = spectrum / noise
    mistakes = {
        "posterior": 1 / ratios[1],
        "std": 1 - the.std / spectrum[1],
        "first": 1 - 1 / ratios[0],
        "weight": spectrum[1] - noise,
    }
    probe.number(moves, float(moved[1]), mistakes)
    exact = sum(nats)
    wrong = {
        "idle": 0.5 * float(np.log(ratios).sum()),
        "half": 2 * exact,
        "bits": exact / math.log(2),
        "std": 0.5 * float(np.log(np.maximum(spectrum / the.std, 1.0)).sum()),
        "one latent": nats[0],
    }
    probe.number(rate, exact, wrong)


def _mean_kl(variance: float, moved: float) -> float:
    """Return the mean of KL(N(m, v) || N(0, 1)) over m of a given variance; it is quadratic in m, so two points do."""
    ends = [kl_divergence(Normal(m, variance**0.5), Normal(0.0, 1.0)) for m in (moved**0.5, -(moved**0.5))]
    return float(sum(ends)) / 2


@exercise(
    "7.2",
    "what moves, and what merely repeats y",
    hints={
        "axis": "The variance is taken over the latents. A latent's mean moves from image to image: dim=0.",
        "uncentred": "That is the mean square. A mean of 3 for every image says nothing: take it off first.",
        "root": "Those are standard deviations. The 0.01 of (7.2) is meant for variances.",
        "swapped": "The two are in the wrong order: first among all images, then among images of the same y.",
        "same": "Both are the variance among all images. For the second take from each mean that of its own y.",
        "between": "That is how far the classes lie apart, what y alone explains. The rest is asked for.",
        "unweighted": "Every class counts the same in your average. Every image should: some labels are rarer.",
        "ten": "You went through ten labels, and there are more: go through `y.unique()`.",
    },
)
def _moves(probe: Probe, movement: Any) -> None:
    for trial in probe.trials():
        n, d, kinds = 6000, trial.size(3, 5), 12  # more labels than digits, and each often enough to forgive n - 1
        y = torch.cat([torch.full((share,), label) for label, share in enumerate([2400, 1200] + 10 * [240])])
        y = y[torch.randperm(n, generator=trial.random)].to(trial.device)
        widths = trial.uniform(0.5, 0.8) * torch.tensor([0.5, 1.0] + 10 * [2.5]).to(trial.device, trial.dtype)
        mean = (1 + 2 * trial.normal(kinds, d))[y] + widths[y][:, None] * trial.normal(n, d)
        m, labels = mean.double().cpu().numpy(), y.cpu().numpy()
        inside = [m[labels == label] for label in range(kinds)]
        total = torch.from_numpy(m.var(0))
        within = torch.from_numpy(np.sum([((rows - rows.mean(0)) ** 2).sum(0) for rows in inside], 0) / n)
        averages = np.stack([rows.mean(0) for rows in inside])
        ten = [((rows - (label < 10) * rows.mean(0)) ** 2).sum(0) for label, rows in enumerate(inside)]
        first, second = (trial.tensor(part) for part in trial.pair(movement, mean=mean, y=y))
        mistakes: Mistakes = {
            "axis": (torch.from_numpy(m.var(1)), torch.from_numpy(m.var(1, ddof=1))),
            "uncentred": torch.from_numpy((m**2).mean(0)),
            "root": total.sqrt(),
            "swapped": within,
        }
        trial.compare(first, total, mistakes, relative=5e-3)
        wrong: Mistakes = {
            "root": within.sqrt(),
            "same": total,
            "between": (
                total - within,
                torch.from_numpy(averages.var(0)),
                torch.from_numpy(averages.var(0, ddof=1)),
            ),
            "unweighted": torch.from_numpy(np.mean([rows.var(0) for rows in inside], 0)),
            "ten": (torch.from_numpy(np.sum(ten, 0) / n), torch.from_numpy(np.sum(ten[:10], 0) / n)),
        }
        trial.compare(second, within, wrong, relative=5e-3)


@exercise(
    "7.3",
    "free bits",
    hints={
        "after": "The floor lies under the sum, or the mean, of all latents, or nowhere: one busy latent pays for the "
        "silence of the rest. Each latent has a floor of its own.",
        "each image": "The floor lies under every image. It belongs under the batch's mean: an image may say less.",
        "latents averaged": "You averaged over the latents. Sum them, or it is another β.",
        "batch summed": "You summed over the batch before the floor came. Average first: λ is in nats per image.",
        "ceiling": "That is a ceiling: latents may not say more than λ. Which of min and max is a floor?",
        "excess": "That is what lies above the floor. The gradient is the same, but it is no rate any more: too low "
        "by λ for each latent.",
        "added": "You added the floor to every latent. It only counts for those that lie below it.",
        "dropped": "Latents below the floor are charged nothing. They are charged the floor itself.",
        "axis": "You averaged over the latents of an image. It is the batch that is averaged: dim=0.",
        "gradient": "The value is right, the gradient is not. Latents below the floor get none, the others theirs.",
    },
)
def _floor(probe: Probe, free_rate: Any) -> None:
    for trial in probe.trials():
        b, d, floor = trial.size(30, 50), trial.size(5, 8), trial.uniform(0.3, 0.6)
        scale = torch.tensor([0.02, 0.2, 1.0, 2.0] + [trial.uniform(0.05, 2.0) for _ in range(d - 4)])
        kl = (trial.normal(b, d).square() * scale.to(trial.device, trial.dtype)).requires_grad_()
        got = trial.ask(free_rate, kl=kl, floor=floor)
        k = kl.detach().double().cpu().numpy()
        means = [float(np.mean(k[:, latent])) for latent in range(d)]
        total, whole = sum(means), torch.from_numpy(k)
        mistakes: Mistakes = {
            "after": _values(total, max(floor, total), max(d * floor, total), max(floor, total / d))
            + _values(d * max(floor, total / d), float(np.maximum(k.sum(1), floor).mean()))
            + _values(float(np.maximum(k.sum(1), d * floor).mean()), total / d),
            "each image": (whole.clamp_min(floor).sum(1).mean(), whole.clamp_min(floor).sum(1)),
            "latents averaged": _values(sum(max(m, floor) for m in means) / d),
            "batch summed": _values(sum(max(m * b, floor) for m in means)),
            "ceiling": _values(sum(min(m, floor) for m in means)),
            "excess": _values(sum(max(m - floor, 0.0) for m in means)),
            "added": _values(total + d * floor),
            "dropped": _values(sum(m for m in means if m > floor)),
            "axis": (whole.mean(1).clamp_min(floor).sum(), whole.mean(1).clamp_min(floor).mean()),
        }
        trial.compare(got, torch.tensor(sum(max(m, floor) for m in means)), mistakes)
        wanted = torch.tensor([[float(m > floor) / b for m in means]]).expand(b, d)
        slope = torch.zeros(b, d)
        if isinstance(got, Tensor) and got.requires_grad:
            slope = torch.autograd.grad(got, kl)[0]
        trial.compare(slope, wanted, otherwise="gradient", absolute=1e-6)


def _values(*numbers: float) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(number, dtype=torch.float64) for number in numbers)


@exercise(
    "7.4",
    "a weight that comes and goes",
    hints={
        "never 1": "It never gets to 1: the rise takes the whole cycle, and one step before the end it starts again. "
        "Then you never train on the bound. It should be at 1 after `rise` steps, and stay.",
        "one rise": "It rises once. Every cycle starts again from 0: look at the step within the cycle.",
        "falls again": "After the last cycle it falls back to 0. Whoever trains on, trains an autoencoder: stay at 1.",
        "above": "It climbs above 1. From `rise` on the weight is 1.",
        "downhill": "It goes from 1 to 0. At first the rate should be cheap.",
        "early": "One step too early. The first step of a cycle has weight 0, and step `rise` the first 1.",
        "whole": "It jumps from 0 to 1, and should rise in a line. `//` throws the fraction away.",
        "length": "Your cycle has another length. Each takes steps / cycles steps: a rise, then a plateau at 1.",
        "last": "Only step number `steps` is off. Steps count from 0, so it is the first one after the last cycle.",
    },
)
def _cycles(probe: Probe, weight: Any) -> None:
    for trial in probe.trials():
        cycles, rise = trial.size(2, 4), trial.size(4, 7)
        n = rise + trial.size(3, 6)
        steps = n * cycles
        given = {"steps": steps, "cycles": cycles, "rise": rise}
        got = torch.stack([trial.tensor(trial.ask(weight, step=s, **given)).reshape(()) for s in range(steps + n)])
        trial.on = f"steps 0, 1, ..., with steps = {steps}, cycles = {cycles}, rise = {rise}"
        # The curve is drawn through its corners, with nothing computed from the step.
        corners = [(n * c + at, height) for c in range(cycles) for at, height in ((0, 0), (rise, 1), (n - 1, 1))]
        s = np.arange(steps + n)
        right = np.interp(s, [at for at, _ in corners], [height for _, height in corners])
        t = s % n

        def ways(curve: Any, over: Any = s >= steps) -> tuple[Tensor, ...]:
            return torch.from_numpy(curve * 1.0), torch.from_numpy(np.where(over, 1.0, curve))

        mistakes: Mistakes = {
            "never 1": ways(t / n),
            "one rise": (*ways(np.minimum(1, s / rise)), *ways(np.minimum(1, s / steps)), *ways(s / steps)),
            "falls again": (torch.from_numpy(np.minimum(1, t / rise)), torch.from_numpy(np.where(s < steps, right, 0))),
            "above": ways(t / rise),
            "downhill": (*ways(1 - right), *ways(1 - np.minimum(1, t / rise))),
            "early": (*ways(np.minimum(1, (t + 1) / rise)), *ways(np.minimum(1, t / (rise - 1)))),
            "whole": ways(np.minimum(1, t // rise)),
            "length": (*ways(s % rise / rise), *ways(np.minimum(1, s % cycles / rise))),
            "last": torch.from_numpy(np.where(s == steps, 0.0, right)),
        }
        trial.compare(got, torch.from_numpy(right), mistakes)


@exercise(
    "7.5",
    "a number with a ceiling",
    seconds=20.0,
    hints={
        "prediction": "Predict first: one number, the nats you expect from 100 images.",
        "no B": "The 1/B inside the logarithm is missing. Without it the result cannot be above 0.",
        "axis": "The sum runs over the z's. It is one z under the posteriors of all images: `table[n, m]`, over m.",
        "prior": "The denominator is the prior. That gives the rate: what is paid, not what is said.",
        "left out": "You left the image's own posterior out of the average. (7.6) has it in, and hence its ceiling.",
        "latents": "You mixed each latent by itself and added up. Those of one posterior belong together: sum their "
        "log-densities first.",
        "mean of logs": "You averaged log-densities. It is densities that are averaged, and then the logarithm.",
        "bits": "Right in bits. The course counts in nats.",
        "each": "Return one number: the mean over the images.",
        "width": "`Normal` takes a standard deviation, and `std` is one: no square, no root.",
    },
)
def _ceiling(probe: Probe, prediction: Any, information: Any) -> str:
    guess = probe.trial().tensor(prediction)
    if guess.numel() != 1 or not guess.isfinite().all():
        probe.trial().fail("prediction", expected="one number", got=guess)
    for trial in probe.trials():
        b, d = trial.size(12, 18), trial.size(2, 4)
        mean, std = 1.5 * trial.normal(b, d), 0.6 + 0.3 * trial.normal(b, d).sigmoid()
        z = mean + std * trial.normal(b, d)
        got = trial.ask(information, mean=mean, std=std, z=z)
        m, s, at = (part.double().cpu() for part in (mean, std, z))
        aggregate = MixtureSameFamily(Categorical(torch.ones(b).double()), Independent(Normal(m, s), 1))
        own = Independent(Normal(m, s), 1).log_prob(at)
        said = own - aggregate.log_prob(at)
        table = Independent(Normal(m, s), 1).log_prob(at[:, None])  # (B, B), z_n under the posterior of x_m
        others = table.masked_fill(torch.eye(b).bool(), -math.inf).logsumexp(1) - math.log(b - 1)
        single = Normal(m, s).log_prob(at[:, None])  # (B, B, D)
        apart = (Normal(m, s).log_prob(at) - single.logsumexp(1) + math.log(b)).sum(1)
        mistakes: Mistakes = {
            "no B": said.mean() - math.log(b),
            "axis": (own - table.logsumexp(0)).mean() + math.log(b),
            "prior": (
                (own - Normal(0.0, 1.0).log_prob(at).sum(1)).mean(),
                kl_divergence(Normal(m, s), Normal(0.0, 1.0)).sum(1).mean(),
            ),
            "left out": ((own - others).mean(), (own - others).mean() + math.log(b / (b - 1))),
            "latents": apart.mean(),
            "mean of logs": (own - table.mean(1)).mean(),
            "bits": said.mean() / math.log(2),
            "each": (said, said.sum()),
            "width": tuple(_estimate(m, wide, at) for wide in (s.square(), s.sqrt())),
        }
        trial.compare(got, said.mean(), mistakes)
    near = abs(float(guess) - math.log(100)) <= 0.15
    said_so = "As you predicted" if near else f"You predicted {float(guess):.2f}, and 100 images give 4.61"
    return f"{said_so}: ln 100, whatever z knows. A number that equals ln B is the size of the set."


def _estimate(mean: Tensor, std: Tensor, z: Tensor) -> Tensor:
    """Return (7.6) of posteriors of another width than those that z was drawn from."""
    table = Independent(Normal(mean, std), 1).log_prob(z[:, None])
    nats: Tensor = (table.diagonal() - table.logsumexp(1)).mean() + math.log(len(z))
    return nats
