"""Check of chapter 08's last exercise: a model that is made to stand at a rate that was ordered."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from cvae_lib import data
from cvae_lib.course.checks._asking import IGNORES_LABEL, check_reads_label
from cvae_lib.course.checks._autoencoder import gaussian, method
from cvae_lib.course.checks._probe import Probe, Trial, model_copy
from cvae_lib.course.checks._registry import exercise

ORDERED, OFF = 8.0, 0.8  # nats per image, and by how much a model may miss them on images it has not seen


@exercise(
    "8.6",
    "a rate made to order",
    seconds=60.0,
    hints=IGNORES_LABEL
    | {
        "rate": "It does not stand at the rate ordered. While R is above it, β must rise; below it, fall. Average "
        "R over some steps, and do not stop before both have settled.",
        "wasted": "It pays the rate and gets little for it: the distortion is hardly lower than without z. "
        "Is it trained long enough, with distortion + β · rate?",
    },
)
def _ordered(probe: Probe, model: Any) -> str:
    trial = probe.trial()
    model = model_copy(model, trial).eval()
    images = data.digits("test").subset(slice(1000))
    x, y = images.pixels(None, "stochastic", trial.random), images.labels
    few = torch.arange(8)
    check_reads_label(trial, model, x[few], few)
    with torch.no_grad():
        rate, distortion = _bills(trial, model, x, y)
    trial.on = "1,000 test images"
    got = f"rate {rate:.2f}, distortion {distortion:.1f} nats"
    if abs(rate - ORDERED) > OFF:
        trial.fail("rate", expected=f"a rate of {ORDERED:g} nats, give or take {OFF:g}", got=got)
    silent = _silent(x, y)
    if distortion > silent - 2 * ORDERED:
        trial.fail("wasted", expected=f"a distortion well below the {silent:.0f} nats of the labels' means", got=got)
    saved = (silent - distortion) / rate
    return f"{got}; with the label alone {silent:.1f} at the least. A nat of rate saved {saved:.1f} nats of distortion."


def _bills(trial: Trial, model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return rate and distortion per image, from the learner's own encoder and decoder."""
    mean, log_variance = gaussian(trial, method(trial, model, "encode"), x=x, y=y)
    q = Normal(mean, (0.5 * log_variance).exp())
    z = q.mean + q.stddev * trial.normal(*mean.shape)
    logits = trial.ask(method(trial, model, "decode"), z=z, y=y)
    nats = -Bernoulli(logits=logits.reshape(x.shape)).log_prob(x).flatten(1).sum(1)
    return float(kl_divergence(q, Normal(torch.zeros_like(mean), 1.0)).sum(1).mean()), float(nats.mean())


def _silent(x: Tensor, y: Tensor) -> float:
    """Return what images cost when nothing but the label is known: the entropy of each label's mean image."""
    nats = 0.0
    for label in y.unique():
        p = x[y == label].mean(0).double()
        nats += float((torch.special.entr(p) + torch.special.entr(1 - p)).sum()) * float((y == label).double().mean())
    return nats
