"""Checks of chapter 05's last exercises: a condition that was measured badly, and one that is exaggerated."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

from cvae_lib import data
from cvae_lib.course.checks._asking import ENOUGH, cost, latents, obeyed
from cvae_lib.course.checks._autoencoder import gaussian, method
from cvae_lib.course.checks._probe import Mistakes, Probe, Trial, model_copy
from cvae_lib.course.checks._registry import exercise


@exercise(
    "5.5",
    "timid, or badly taught",
    seconds=30.0,
    hints={
        "prediction": "Predict first: one number, the slope you expect with one reading.",
        "pair": "Two slopes are asked for: with one reading, and with the mean of four.",
        "one": "A slope of 1: did you compare the request with what the ruler reads of what came, or divide by "
        "the spread of the answers? Compare with the *true* slant, and divide by the spread of what was asked.",
        "correlation": "That is the correlation. The slope divides by the spread of what was asked alone, (5.2).",
        "not better": "Four readings gave no more than one. Average them, for the stock and for the request.",
        "summed": "The four readings were added, not averaged: then one unit asked is a quarter of a unit.",
        "exchanged": "The two slopes are in the wrong order: first with one reading, then with four.",
    },
)
def _timid(probe: Probe, prediction: Any, slopes: Any) -> str:
    trial = probe.trial()
    guess = trial.tensor(prediction)
    if guess.numel() != 1 or not guess.isfinite().all():
        trial.fail("prediction", expected="one number", got=guess)
    if not isinstance(slopes, tuple | list | Tensor | np.ndarray) or len(slopes) != 2:
        trial.fail("pair", expected="two slopes", got=slopes)
    one, four = (float(trial.tensor(slope)) for slope in slopes)
    # The slope of truth on reading is the share of a reading's variance that is truth.
    spread = float(data.strokes("train", count=4000).attributes["slant"].var())
    exact = [spread / (spread + spread / readings) for readings in (1, 4)]
    trial.on, got = "4,000 slants and a ruler whose error is as large as their spread", f"{one:.2f} and {four:.2f}"
    wanted = "two slopes between 0 and 1"

    def near(a: float, b: float) -> bool:
        return abs(one - a) < 0.06 and abs(four - b) < 0.06

    if not near(*exact):
        known = {
            "one": (1.0, 1.0),
            "correlation": (exact[0] ** 0.5, exact[1] ** 0.5),
            "not better": (exact[0], exact[0]),
            "summed": (exact[0], exact[1] / 4),
            "exchanged": (exact[1], exact[0]),
        }
        found = [name for name, pair in known.items() if near(*pair)]
        trial.fail(found[0] if found else "unknown", expected=wanted, got=got)
    said = "as you predicted" if abs(float(guess) - exact[0]) <= 0.05 else f"you predicted {float(guess):.2f}"
    return (
        f"{got}; {said}. Nothing here is timid: half of what a reading deviates by is error, and averages out. With "
        "four readings it is a fifth. A model that learned from such readings would look just as timid."
    )


@exercise(
    "5.6",
    "exaggerate",
    seconds=60.0,
    hints={
        "probabilities": "You mixed probabilities, which leaves the range from 0 to 1. Mix logits.",
        "means": "Right, after a sigmoid. Return logits; whoever draws takes the sigmoid.",
        "other scale": "Your weight counts from 1: 0 gives the told answer. Here 0 is not told, and 1 is told.",
        "reversed": "The difference has the wrong sign: it leads away from what was asked.",
        "class zero": "For 'nothing' you told it the label 0, and that is a digit. Unknown is -1.",
        "never hidden": "It has never met -1: without a label images cost it far more. Hide some in training.",
        "deaf": "Asked for a digit, it draws others. Was it trained with most of its labels in place?",
        "weight": "This weight helps too little. Above 1 it exaggerates; try several, but not hundreds.",
    },
)
def _guided(probe: Probe, model: Any, guided: Any, weight: Any) -> str:
    trial = probe.trial()
    model = model_copy(model, trial).eval()
    _check_mix(trial, model, guided)
    images = data.digits("test").subset(slice(500))
    x = images.pixels(None, "stochastic", trial.random)
    costs = [cost(trial, model, x, label) for label in (images.labels, torch.full_like(images.labels, -1))]
    told = obeyed(trial, model)
    trial.on, measured = "1,000 drawings read by the judge", f"{told:.2f} without guidance"
    if told < ENOUGH:
        trial.fail("deaf", expected=f"more than {ENOUGH} read as asked", got=measured)
    if costs[1] > costs[0] + 30:
        bounds = f"-ELBO {costs[1]:.0f} nats without a label, {costs[0]:.0f} with"
        trial.fail("never hidden", expected="at most 30 nats more without the label", got=bounds)
    w = float(trial.tensor(weight))

    def drawing(strength: float) -> Any:
        return lambda z, y: guided(model, z, y, strength)

    share = obeyed(trial, model, decode=drawing(w))
    trial.on, measured = "1,000 drawings read by the judge", f"{share:.2f} with weight {w:g}, {told:.2f} without"
    if share < told + 0.4 * (1 - told):
        trial.fail("weight", expected="two fifths of the failures gone", got=measured)
    dearer = _distortion(trial, model, x, images.labels, drawing(w)) - _distortion(trial, model, x, images.labels)
    return f"{measured}. Its price: real images cost {dearer:.1f} nats more, at the z of their own encoder."


def _check_mix(trial: Trial, model: nn.Module, guided: Any) -> None:
    z, y = trial.normal(6, latents(trial, model)), torch.tensor([1, 2, 3, 5, 7, 9])
    decode = method(trial, model, "decode")
    with torch.no_grad():
        known = trial.tensor(trial.ask(decode, z=z, y=y))
        nothing = trial.tensor(trial.ask(decode, z=z, y=torch.full_like(y, -1)))
        zero = trial.tensor(trial.ask(decode, z=z, y=torch.zeros_like(y)))
        for w in (2.5, 0.0, 1.0):
            got = trial.ask(guided, model=model, z=z, y=y, weight=w)
            exact = (1 - w) * nothing + w * known
            mixed = (1 - w) * nothing.sigmoid() + w * known.sigmoid()
            mistakes: Mistakes = {
                "probabilities": (mixed, mixed.clamp(0, 1), mixed.logit(), mixed.clamp(1e-6, 1 - 1e-6).logit()),
                "means": exact.sigmoid(),
                "other scale": (1 + w) * known - w * nothing,
                "reversed": (known + w * (nothing - known), nothing + w * (nothing - known)),
                "class zero": (1 - w) * zero + w * known,
            }
            trial.compare(got, exact, mistakes, absolute=1e-3)


def _distortion(trial: Trial, model: nn.Module, x: Tensor, y: Tensor, decode: Any = None) -> float:
    """Return what images cost a decoder at the mean of their own posterior, nats per image."""
    with torch.no_grad():
        mean, _ = gaussian(trial, method(trial, model, "encode"), x=x, y=y)
        logits = trial.ask(decode or method(trial, model, "decode"), z=mean, y=y)
    nats: Tensor = -Bernoulli(logits=logits.reshape(x.shape)).log_prob(x).flatten(1).sum(1)
    return float(nats.mean())
