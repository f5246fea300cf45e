"""Checks of chapter 06's last exercises: a prior fitted afterwards, and a model whose prior has learned."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from cvae_lib import data, pretrained
from cvae_lib.course.checks import _asking
from cvae_lib.course.checks._asking import check_reads_label, cost, obeyed
from cvae_lib.course.checks._autoencoder import gaussian, method
from cvae_lib.course.checks._probe import Mistakes, Probe, Trial, model_copy
from cvae_lib.course.checks._registry import exercise


@exercise(
    "6.4",
    "a prior made afterwards",
    seconds=30.0,
    hints={
        "prediction": "Predict first: one number, the share of the rate that a prior for each label saves.",
        "three": "Three rates are asked for: fixed, one Gaussian for all, and one for each label.",
        "order": "The three are in another order: fixed, one Gaussian for all, one for each label.",
        "forgets": "A Gaussian for each label cost as much as one for all: is y used when it is fitted, or when the "
        "rate is taken?",
        "inside": "A prior as wide as an average cloud only. By (6.3) the spread of the centres belongs to it too.",
        "between": "A prior as wide as the centres are spread. By (6.3) the clouds' own variance belongs to it too.",
        "swapped": "That is KL(p ‖ q). The rate is KL(q ‖ p): the prior's variance stands in the denominator.",
        "mean": "You averaged over the latents. Nats add up: sum over them, then average over the images.",
        "deviation": "The spread was taken around the wrong centre: each image's distance is to the mean of its own "
        "label.",
    },
)
def _afterwards(probe: Probe, prediction: Any, rates: Any) -> str:
    trial = probe.trial()
    guess = trial.tensor(prediction)
    if guess.numel() != 1 or not 0 <= float(guess) <= 1:
        trial.fail("prediction", expected="one number between 0 and 1", got=guess)
    if not isinstance(rates, tuple | list | Tensor | np.ndarray) or len(rates) != 3:
        trial.fail("three", expected="three rates", got=rates)
    values = [trial.tensor(rate) for rate in rates]
    if any(value.numel() != 1 for value in values):
        trial.fail("three", expected="three numbers", got=values)
    got = torch.stack([value.reshape(()) for value in values])
    q, y = _bundled_posteriors()
    exact, mistakes = _rates(q, y)
    trial.on = f"{len(y):,} test images, the bundled model"
    trial.compare(got, exact, mistakes, relative=1e-4, absolute=0.01)
    saved = 1 - float(exact[2] / exact[0])
    said = "as you predicted" if abs(float(guess) - saved) <= 0.03 else f"you predicted {float(guess):.2f}"
    told = f"{float(got[0]):.2f}, {float(got[1]):.2f} and {float(got[2]):.2f} nats. A Gaussian for each label saves "
    told += f"{saved:.3f} of the rate; {said}."
    if saved > 0.1:
        return told  # other images than the model was trained on
    return (
        f"{told} This model was trained towards N(0, I), and has filled it: hardly any of its rate is a mismatch "
        "that a Gaussian could mend. The rest is information, or a shape no Gaussian has."
    )


def _bundled_posteriors() -> tuple[Normal, Tensor]:
    """Return q(z|x, y) of the bundled model for the images that the exercise names."""
    images = data.digits("test").subset(slice(2000))
    model = pretrained.load_cvae()
    with torch.no_grad():
        q = model.posterior(images.pixels(mode="threshold"), images.labels)
    return Normal(q.mean.double(), q.stddev.double()), images.labels


def _rates(q: Normal, y: Tensor) -> tuple[Tensor, Mistakes]:
    """Return the three mean rates, and what known mistakes make of them."""
    member = torch.nn.functional.one_hot(y, 10).double()  # (N, 10)
    member = member[:, member.any(0)]

    def pooled(of: Tensor) -> tuple[Normal, Normal, Normal]:
        """Return the moments' Gaussian, and those of clouds and centres alone; ``of`` sorts the images, (N, K)."""
        share = of / of.sum(0)
        mean = share.T @ q.mean  # (K, D)
        inside, between = share.T @ q.variance, (share.T @ q.mean.square() - mean.square()).clamp_min(1e-12)
        return tuple(Normal(of @ mean, (of @ part).sqrt()) for part in (inside + between, inside, between))  # type: ignore[return-value]

    whole, each = pooled(torch.ones_like(member[:, :1])), pooled(member)
    unit = Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))

    def mean_rates(one: Normal, per_label: Normal, swapped: bool = False) -> Tensor:
        pairs = [(p, q) if swapped else (q, p) for p in (unit, one, per_label)]
        return torch.stack([kl_divergence(*pair).sum(1).mean() for pair in pairs])

    exact = mean_rates(whole[0], each[0])
    # Around the wrong centre: the spread of all images, at the mean of each label.
    astray = mean_rates(whole[0], Normal(each[0].mean, whole[0].stddev))
    return exact, {
        "order": tuple(exact[list(order)] for order in ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))),
        "forgets": exact[[0, 1, 1]],
        "inside": (mean_rates(whole[1], each[1]), mean_rates(whole[0], each[1])),
        "between": (mean_rates(whole[2], each[2]), mean_rates(whole[0], each[2])),
        "swapped": (
            mean_rates(whole[0], each[0], swapped=True),
            torch.cat([exact[:1], mean_rates(whole[0], each[0], swapped=True)[1:]]),
        ),
        "mean": exact / q.mean.shape[1],
        "deviation": astray,
    }


HINTS: Mapping[str, str] = _asking.IGNORES_LABEL | {
    "untrained": "These images cost it hundreds of nats: it is not trained, or not on them.",
    "swapped": "The rate in `terms` is KL(p ‖ q): prior and posterior are swapped.",
    "standard": "The rate in `terms` goes to N(0, I), not to your own prior: then nothing teaches the prior.",
    "rate": "The rate in `terms` is not KL(q ‖ p), (6.1), of your own encoder and your own prior, summed over "
    "the latents.",
    "cut off": "No gradient of the rate reaches the prior: `detach`, or `torch.no_grad()`, stands in between. It stays "
    "as it started.",
    "still": "The prior is N(0, I) for every label: it is not in the optimiser, or was not trained.",
    "forgets": "The prior has moved, but to one place for all labels: it does not hear y.",
    "runaway": "The prior's log-variance has left the range from -10 to 10: give it the bound of 6.2.",
    "deaf": "Drawn from its own prior, other digits come than were asked for. Were labels and images matched, for "
    "long enough?",
}


@exercise("6.5", "your own CVAE with a learned prior", seconds=60.0, hints=HINTS)
def _own(probe: Probe, model: Any) -> str:
    trial = probe.trial()
    model = model_copy(model, trial).eval()
    images = data.digits("test").subset(slice(500))
    x, y = images.pixels(None, "stochastic", trial.random), images.labels
    _check_rate(trial, model, x[:50], y[:50])
    labels = torch.arange(10)
    p, _ = _prior(trial, model, labels)
    if float(p.scale.log().abs().max()) > 5.3:
        trial.fail("runaway", expected="log-variances from -10 to 10", got=2 * p.scale.log())
    nats = cost(trial, model, x, y)
    trial.on = "500 test images"
    if not nats < 400:  # a picture of grey costs 543, and a model told wrongly is not untrained
        trial.fail("untrained", expected="about 130 nats", got=f"{nats:.0f} nats")
    if max(float(p.mean.abs().max()), float(p.scale.log().abs().max())) < 1e-4:
        trial.fail("still", expected="a prior that has moved", got=p.mean[0])
    if max(float(part.std(0).max()) for part in (p.mean, p.scale)) < 1e-4:
        trial.fail("forgets", expected="another prior for another label", got=p.mean[:, 0])
    check_reads_label(trial, model, x[:8], torch.arange(8))
    own = obeyed(trial, model, decode=_from_prior(trial, model))
    trial.on = "1,000 drawings read by the judge"
    if own < 0.7:
        trial.fail("deaf", expected="more than 0.7 read as asked", got=f"{own:.2f}")
    habit = obeyed(trial, model)
    return f"{own:.2f} read as asked with z from its own prior, {habit:.2f} with z from N(0, I); -ELBO {nats:.1f} nats."


def _prior(trial: Trial, model: nn.Module, y: Tensor) -> tuple[Normal, tuple[Tensor, Tensor]]:
    """Return the learner's p(z|y) without, and what it is made of with, a gradient."""
    mean, w = gaussian(trial, method(trial, model, "prior"), y=y)
    return Normal(mean.detach().double(), (0.5 * w.detach().double()).exp()), (mean, w)


def _from_prior(trial: Trial, model: nn.Module) -> Any:
    decode = method(trial, model, "decode")

    def drawing(noise: Tensor, y: Tensor) -> Any:
        p, _ = _prior(trial, model, y)
        return decode((p.mean + p.scale * noise).to(noise.dtype), y)

    return drawing


def _check_rate(trial: Trial, model: nn.Module, x: Tensor, y: Tensor) -> None:
    mean, w = gaussian(trial, method(trial, model, "encode"), x=x, y=y)
    q = Normal(mean.detach().double(), (0.5 * w.detach().double()).exp())
    p, parts = _prior(trial, model, y)
    _, rate = trial.pair(method(trial, model, "terms"), x=x, y=y)
    unit = Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))
    exact = kl_divergence(q, p).sum(1)
    mistakes: Mistakes = {"swapped": kl_divergence(p, q).sum(1), "standard": kl_divergence(q, unit).sum(1)}
    trial.compare(rate, exact, mistakes, otherwise="rate", relative=5e-3, absolute=1e-2)
    _check_taught(trial, model, rate, parts)


def _check_taught(trial: Trial, model: nn.Module, rate: Tensor, parts: tuple[Tensor, Tensor]) -> None:
    """See that the rate has a gradient on what the prior is made of."""
    weights = [part for part in model.parameters() if part.requires_grad]
    total = parts[0].sum() + parts[1].sum()
    mine = torch.autograd.grad(total, weights, allow_unused=True) if total.requires_grad else []
    taught = torch.autograd.grad(rate.sum(), weights, allow_unused=True) if rate.requires_grad else []
    reached = [t is not None and bool(t.any()) for m, t in zip(mine, taught, strict=False) if m is not None]
    if not any(reached):
        trial.fail("cut off", expected="a gradient of the rate on the prior's weights", got="none")
