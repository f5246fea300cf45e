"""Asking a learner's conditional model: does it read y, what does it draw, and what do images cost it?"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cvae_lib import data, pretrained
from cvae_lib.course.checks._autoencoder import gaussian, method, sees_logits
from cvae_lib.course.checks._probe import Trial

TRAINED = 300.0  # nats: a network trained for seconds pays less than half of it for an image, an untrained one 540
ENOUGH = 0.4  # share of drawings read as asked that a small network reaches in seconds; chance is 0.1

# A modulation starts at the identity, so a right model that nobody trained ignores y as a wrong one does.
IGNORES_LABEL = {
    part: f"The {part} does not hear y: another label gives the same {answer}. Is y handed on, and has the model been "
    "trained? A layer that starts at zero, such as `Film`, hears nothing before that."
    for part, answer in (("encoder", "cloud"), ("decoder", "picture"))
}
HINTS = IGNORES_LABEL | {
    "plain": "The label goes in as one plain number, as if 7 lay between 6 and 8. Give it one column per class.",
}


def check_reads_label(trial: Trial, model: nn.Module, x: Tensor, y: Tensor) -> None:
    """See that encoder and decoder each change their answer with the label."""
    encode, decode = method(trial, model, "encode"), method(trial, model, "decode")
    mean, log_variance = gaussian(trial, encode, x=x, y=y)
    other = gaussian(trial, encode, x=x, y=y + 1)
    if torch.equal(mean, other[0]) and torch.equal(log_variance, other[1]):
        trial.fail("encoder")
    z = trial.normal(*mean.shape)
    if torch.equal(trial.ask(decode, z=z, y=y), trial.ask(decode, z=z, y=y + 1)):
        trial.fail("decoder")


def by_columns(trial: Trial, model: nn.Module, x: Tensor, y: Tensor) -> None:
    """See that the label goes into encoder and decoder as more than one number."""
    encode, decode = method(trial, model, "encode"), method(trial, model, "decode")
    z = trial.normal(*gaussian(trial, encode, x=x, y=y)[0].shape)
    for part, given in ((encode, {"x": x}), (decode, {"z": z})):
        seen = [_first_input(trial, model, part, **given, y=label) for label in (y, y + 1)]
        if seen[0] is not None and seen[1] is not None and int(seen[0].ne(seen[1]).any(0).sum()) == 1:
            trial.fail("plain")


def _first_input(trial: Trial, model: nn.Module, part: Any, **given: Tensor) -> Tensor | None:
    """Return what the first linear layer is given when a part of the model runs."""
    inputs: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, handed: inputs.append(handed[0].detach()))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        trial.ask(part, **given)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs[0] if inputs and inputs[0].ndim == 2 else None


def latents(trial: Trial, model: nn.Module) -> int:
    """Return how many latents a learner's model has."""
    images, labels = torch.zeros(2, 1, 28, 28), torch.zeros(2).long()
    return gaussian(trial, method(trial, model, "encode"), x=images, y=labels)[0].shape[1]


def read_as(logits: Tensor) -> Tensor:
    """Return what an independent judge reads in drawings that are given as logits."""
    name = data.digits("test").name.lower()
    return pretrained.load_classifier(f"{name}-classifier").read(logits.sigmoid().reshape(-1, 1, 28, 28))


def drawings(
    trial: Trial, model: nn.Module, label: int | None, count: int, decode: Callable[..., Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Draw from a learner's model, all classes or one label, and return what was asked for and what is read."""
    asked = torch.arange(count) % 10 if label is None else torch.full((count,), label)
    z = torch.randn(count, latents(trial, model), generator=trial.random)
    if decode is None:
        sees_logits(trial, model, z[:20], y=asked[:20])
    with torch.no_grad():
        logits = trial.ask(decode or method(trial, model, "decode"), z=z, y=asked)
    return asked, read_as(logits)


def obeyed(trial: Trial, model: nn.Module, count: int = 1000, decode: Callable[..., Tensor] | None = None) -> float:
    """Return the share of drawings that are read as asked, a tenth of them for each digit."""
    asked, read = drawings(trial, model, None, count, decode)
    return float((asked == read).double().mean())


def cost(trial: Trial, model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return minus the ELBO by the learner's own ``terms``, nats per image."""
    with torch.no_grad():
        distortion, rate = trial.pair(method(trial, model, "terms"), x=x, y=y)
        return float((distortion + rate).mean())
