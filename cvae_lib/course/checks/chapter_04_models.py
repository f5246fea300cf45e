"""Checks of chapter 04's last exercises: who can steer, and a model that listens in every block."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from cvae_lib import data
from cvae_lib.course.checks import _asking
from cvae_lib.course.checks._asking import TRAINED, check_reads_label, cost, latents, obeyed
from cvae_lib.course.checks._autoencoder import method, sees_logits
from cvae_lib.course.checks._probe import Mistakes, Probe, model_copy
from cvae_lib.course.checks._registry import exercise
from cvae_lib.course.checks._verdict import shown

STENCILS = {"last, concatenation", "last, attention"}
DECODERS = {"first, concatenation", "every, addition", "last, FiLM"} | STENCILS


@exercise(
    "4.5",
    "stencil or steering",
    hints={
        "prediction": "Predict first: a list of names, as they stand in `decoders`.",
        "one difference": "That is what changing y does to z alone. Subtract what it does to w.",
        "signs": "The signs do not match: the four corners go +, -, -, +, and a decoder f(z) + g(y) must give 0.",
        "abs first": "You took absolute values before all four were put together. First combine, then `.abs()`.",
        "no abs": "Differences of both signs cancel in the mean. Take the absolute value first.",
        "sum": "You summed over the pixels. The mean does not depend on how large the picture is.",
        "squared": "Those are squares. The absolute value is asked for.",
        "batch": "Return one number for each pair, shape (B,): average over every axis but the first.",
    },
)
def _interaction(probe: Probe, prediction: Any, interaction: Any) -> str:
    named = set(prediction) if isinstance(prediction, Iterable) and not isinstance(prediction, str) else {prediction}
    for trial in probe.trials():
        if not named <= DECODERS:
            trial.fail("prediction", expected="names of decoders", got=shown(prediction))
        b, d, c, side = trial.size(3, 5), trial.size(2, 4), trial.size(3, 5), trial.size(3, 4)
        z, w, a, e = trial.normal(b, d), trial.normal(b, d), trial.normal(b, c), trial.normal(b, c)
        f, g, cross = trial.normal(d, side**2), trial.normal(c, side**2), trial.normal(side**2, d, c)
        for strength in (1.0, 0.0):
            decode = _bilinear(f, g, strength * cross)
            got = trial.ask(interaction, decode=decode, z=z, w=w, a=a, b=e)
            # In a bilinear decoder the four corners leave the cross term of both steps.
            both = strength * torch.einsum("pdc,bd,bc->bp", cross, z - w, a - e).double()
            ends = [decode(z, a), decode(z, e), decode(w, a), decode(w, e)]
            za, ze, wa, we = (part.double().flatten(1) for part in ends)
            mistakes: Mistakes = {
                "one difference": ((za - ze).abs().mean(1), (wa - we).abs().mean(1)),
                "signs": tuple((za + i * ze + j * wa + k * we).abs().mean(1) for i, j, k in _SIGNS),
                "abs first": (
                    ((za - ze).abs() - (wa - we).abs()).abs().mean(1),
                    ((za - ze).abs() - (wa - we).abs()).mean(1),
                    ((za - ze).abs().mean(1) - (wa - we).abs().mean(1)).abs(),
                ),
                "no abs": (both.mean(1), both.mean(1).abs()),
                "sum": both.abs().sum(1),
                "squared": (both.square().mean(1), both.square().mean(1).sqrt()),
                "batch": (both.abs().mean(), both.abs().sum()),
            }
            trial.compare(got, both.abs().mean(1), mistakes)
    if named == STENCILS:
        return "and as you predicted, both shifts in the last block are stencils; FiLM there is not."
    missed, extra = sorted(STENCILS - named), sorted(named - STENCILS)
    wrong = [f"you left out {', '.join(missed)}"] * bool(missed) + [f"you named {', '.join(extra)}"] * bool(extra)
    return f"now see which of the five come out at zero: {' and '.join(wrong)}, and the measurement will not agree."


_SIGNS = ((-1, 1, -1), (1, -1, -1), (1, 1, 1), (-1, -1, -1), (1, -1, 1))


def _bilinear(f: Tensor, g: Tensor, cross: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    side = round(f.shape[1] ** 0.5)

    def decode(z: Tensor, c: Tensor) -> Tensor:
        logits = z @ f + c @ g + torch.einsum("pdc,bd,bc->bp", cross, z, c)
        return logits.view(-1, 1, side, side)

    return decode


@exercise(
    "4.6",
    "a model that listens in every block",
    seconds=60.0,
    hints=_asking.IGNORES_LABEL
    | {
        "untrained": "These images cost it hundreds of nats: it is not trained, or not on them.",
        "stencil": "By your own test of 4.5 the decoder lays a stencil: y does the same to every z. Tell it earlier.",
        "deaf": "It hears y, and yet draws other digits. Were labels and images matched in training, for long enough?",
    },
)
def _listening(probe: Probe, model: Any) -> str:
    trial = probe.trial()
    model = model_copy(model, trial).eval()
    images = data.digits("test").subset(slice(500))
    x, y = images.pixels(None, "stochastic", trial.random), images.labels
    nats = cost(trial, model, x, y)
    sees_logits(trial, model, trial.normal(8, latents(trial, model)), y=torch.arange(8))
    trial.on = "500 test images"
    if not nats < TRAINED:
        trial.fail("untrained", expected="about 130 nats", got=f"{nats:.0f} nats")
    few = torch.arange(8)
    check_reads_label(trial, model, x[few], few)
    decode, z = method(trial, model, "decode"), trial.normal(2, 64, latents(trial, model))
    with torch.no_grad():
        corners = [trial.ask(decode, z=part, y=label) for label in (few.repeat(8), few.repeat(8) + 1) for part in z]
    za, wa, zb, wb = (trial.tensor(corner).flatten(1) for corner in corners)
    steers = float((za - zb - wa + wb).abs().mean() / (za - zb).abs().mean())
    if steers < 1e-3:
        trial.fail(
            "stencil", expected="another effect of y on another z", got=f"{steers:.4f} of y's effect depends on z"
        )
    share = obeyed(trial, model)
    trial.on = "1,000 drawings read by the judge"
    if share < 0.6:
        trial.fail("deaf", expected="more than 0.6 read as asked", got=f"{share:.2f}")
    bent = f"another z changes what y does by {100 * steers:.0f} % of its size"
    return f"{share:.2f} read as asked, -ELBO {nats:.1f} nats; {bent}. A stencil would have 0."
