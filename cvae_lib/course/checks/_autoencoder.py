"""Checks that the VAE of chapter 01 and the conditional VAE of chapter 03 share.

Both have ``encode``, ``decode`` and ``terms``. The first two are the learner's to design, so the reference for
``terms`` is built from them: the rate by ``torch.distributions``, the distortion as an average over the check's draws.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from cvae_lib.course.checks._generic import GENERIC
from cvae_lib.course.checks._probe import Mistakes, Trial
from cvae_lib.course.checks._verdict import shown

DRAWS = 2000

HINTS = {
    "model": "Build it on `nn.Module`, and let `__init__` work without arguments.",
    "instance": GENERIC["instance"],
    "flat": "`decode` does not give its logits the shape of images. Let it end in `.view(-1, 1, 28, 28)`.",
    "no logits": "`decode` gives numbers between 0 and 1, however large its weights and z: those are probabilities. "
    "Return logits, without a sigmoid at the end; `distortion_of` takes it into account.",
    "rectified": "`decode` gives no negative logit, so no pixel can be probably black. Nothing comes after its last "
    "linear layer, no ReLU either.",
    "one loss": "That is one thing, a loss already? `terms` returns two, the distortion and the rate, each for every "
    "image. They are added outside.",
    "order": "The two terms are in the wrong order: return the distortion first, then the rate.",
    "rate sign": "The rate is negative. A KL never is; `terms` returns it as it is, and the loss adds it.",
    "rate mean": "The rate is averaged over the latents. Sum over them, or it is another β.",
    "batch": "Return one number for each image, shape (B,). The mean over the batch comes last, in the loss.",
    "pixel mean": "The distortion is averaged over the pixels: that is β = 784. Sum over them.",
    "distortion sign": "The distortion has the wrong sign: it is minus the log-likelihood.",
    "no sample": "The decoder gets the mean, not a sample. Then nothing in the loss feels how wide the cloud is.",
    "shared": "All images of the batch share one noise. Draw one number for each entry of the mean.",
    "variance": "The sample's noise is scaled by the variance. σ is exp(log_variance / 2).",
    "log variance": "The sample's noise is scaled by log_variance as it is. That is a logarithm; σ is "
    "exp(log_variance / 2).",
    "detached": "No gradient of the distortion reaches the encoder. `.sample()`, `.detach()` and `torch.no_grad()` "
    "cut it off.",
    "distortion": "The distortion is not -log p(x|z) of your own decoder's logits at your own encoder's samples.",
    "rate": "The rate is not the KL from your own encoder's Gaussian to N(0, I).",
}


def built(trial: Trial, maker: Any, **given: Tensor) -> nn.Module:
    """Make a model of the learner's class, with weights large enough to tell mistakes apart on what is given."""
    if isinstance(maker, nn.Module):
        trial.fail("instance", expected="a class", got=f"a {type(maker).__name__} made of one")
    model = trial.ask(maker)
    if not isinstance(model, nn.Module):
        trial.fail("model", expected="an nn.Module", got=shown(model))
    for _ in range(40):
        parts = gaussian(trial, method(trial, model, "encode"), **given)
        if min(float(part.detach().std()) for part in parts) > 0.8:
            break
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.15)
    return model


def method(trial: Trial, model: nn.Module, name: str) -> Callable[..., Any]:
    """Return a method that the learner's model must have."""
    found = getattr(model, name, None)
    if not callable(found):
        trial.fail("no method", expected=f"a model with a method `{name}`", got=f"a {type(model).__name__} without")
    bound: Callable[..., Any] = found
    return bound


def gaussian(trial: Trial, encode: Callable[..., Any], **given: Any) -> tuple[Tensor, Tensor]:
    """Return what the learner's encoder gives, once its shapes are seen to be right."""
    mean, log_variance = trial.pair(encode, **given)
    b = len(next(iter(given.values())))
    for part in (mean, log_variance):
        if not isinstance(part, Tensor) or part.ndim != 2 or len(part) != b:
            trial.fail("shape", expected=f"mean and log-variance of shape ({b}, D) each", got=_shape(part))
        if not part.isfinite().all():
            trial.fail("not finite", got=part)
    if mean.shape != log_variance.shape:
        trial.fail("shape", expected=f"both of shape {tuple(mean.shape)}", got=_shape(log_variance))
    return mean, log_variance


def sees_logits(trial: Trial, model: nn.Module, z: Tensor, **rest: Tensor) -> None:
    """See that what the decoder returns can be logits: far from z = 0 they leave the range from 0 to 1."""
    with torch.no_grad():
        far = trial.tensor(trial.ask(method(trial, model, "decode"), z=100 * z, **rest))
    if far.any() and far.min() >= 0:
        found = f"nothing below {float(far.min()):.3g} or above {float(far.max()):.3g}"
        trial.fail("no logits" if far.max() <= 1 else "rectified", expected="logits of both signs", got=found)


def check_decode(trial: Trial, model: nn.Module, **given: Tensor) -> None:
    """See that the decoder returns logits in the shape of images, before anything is made of them."""
    x, rest = given["x"], {name: value for name, value in given.items() if name != "x"}
    mean, _ = gaussian(trial, method(trial, model, "encode"), **given)
    z = trial.normal(*mean.shape)
    logits = trial.ask(method(trial, model, "decode"), z=z, **rest)
    if not isinstance(logits, Tensor) or logits.shape != x.shape:
        trial.fail("flat", expected=f"logits of shape {tuple(x.shape)}", got=_shape(logits))
    sees_logits(trial, model, z, **rest)


def check_terms(trial: Trial, model: nn.Module, **given: Tensor) -> None:
    """Compare both terms with references built from the learner's own encoder and decoder."""
    mean, log_variance = gaussian(trial, method(trial, model, "encode"), **given)
    terms = trial.ask(method(trial, model, "terms"), **given)
    if not isinstance(terms, tuple | list):
        trial.fail("one loss", expected="two things: return distortion, rate", got=_shape(terms))
    distortion, rate = trial.two(terms)
    prior = Normal(torch.zeros_like(mean).double(), torch.ones_like(mean).double())
    exact = kl_divergence(Normal(mean.double(), (0.5 * log_variance.double()).exp()), prior).sum(1).detach()  # (B,)
    first = trial.tensor(distortion)
    if first.shape == exact.shape and torch.allclose(first, exact, rtol=1e-3):
        trial.fail("order", expected="(distortion, rate)", got="(rate, distortion)")
    b, d = mean.shape
    if first.numel() == 1 and b > 1:
        trial.fail("batch", expected=f"two terms of shape ({b},)", got=_shape(distortion))
    mistakes: Mistakes = {"rate sign": -exact, "rate mean": exact / d, "batch": (exact.sum(), exact.mean())}
    trial.compare(rate, exact, mistakes, otherwise="rate")
    _check_gradient(trial, model, distortion, mean, log_variance)
    _check_distortion(trial, model, given)


def _check_gradient(trial: Trial, model: nn.Module, distortion: Any, mean: Tensor, log_variance: Tensor) -> None:
    if not isinstance(distortion, Tensor) or not distortion.requires_grad:
        trial.fail("detached")
    weights = list(model.parameters())
    ours = torch.autograd.grad(mean.sum() + log_variance.sum(), weights, allow_unused=True)
    theirs = torch.autograd.grad(distortion.sum(), weights, allow_unused=True, retain_graph=True)
    encoder = [their for our, their in zip(ours, theirs, strict=True) if our is not None]
    if not any(slope is not None and bool(slope.any()) for slope in encoder):
        trial.fail("detached")


def _check_distortion(trial: Trial, model: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Look at one image many times: its distortions must have the distribution that a fresh sample each time gives."""
    # Not every image tells σ from σ²: take the one that does it best.
    many = max(
        (_repeated(given, row, DRAWS) for row in range(len(given["x"]))), key=lambda row: _tells(trial, model, row)
    )
    mean, right, squared, logarithmic = _distortions(trial, model, many)
    candidates = {
        "distortion sign": -right,
        "pixel mean": right / many["x"][0].numel(),
        "variance": squared,
        "log variance": logarithmic,
    }
    got, _ = trial.pair(method(trial, model, "terms"), **many)
    values = trial.tensor(got)
    if values.shape != right.shape:
        trial.fail("batch", expected=f"shape {tuple(right.shape)}", got=_shape(got))
    if float(values.std()) < 1e-3 * float(right.std()) and not _agree(values, candidates["pixel mean"]):
        trial.fail("no sample" if torch.allclose(values, mean, rtol=1e-3) else "shared", got=values, expected=right)
    if _agree(values, right):
        return
    known = [name for name, wrong in candidates.items() if _agree(values, wrong)]
    mistake = min(known, key=lambda name: _distance(values, candidates[name]), default="distortion")
    trial.fail(mistake, expected=f"{float(right.mean()):.4g} on average", got=f"{float(values.mean()):.4g} on average")


def _distance(a: Tensor, b: Tensor) -> float:
    """Return how far apart the means and the spreads of two sets of draws are, in about their standard errors."""
    error = math.sqrt(float(a.var() + b.var()) / len(a))
    return abs(float(a.mean() - b.mean())) / error + 30 * abs(math.log(float(a.std() / b.std())))


def _repeated(given: Mapping[str, Tensor], row: int, times: int) -> dict[str, Tensor]:
    """Return one image, and its label if there is one, as a batch of copies."""
    return {name: value[row : row + 1].expand(times, *value.shape[1:]).contiguous() for name, value in given.items()}


def _distortions(trial: Trial, model: nn.Module, many: Mapping[str, Tensor]) -> list[Tensor]:
    """Return distortions by the learner's own encoder and decoder: at the mean, at samples, with σ² or log σ² for σ."""
    x, rest = many["x"], {name: value for name, value in many.items() if name != "x"}
    mean, log_variance = (part.detach() for part in gaussian(trial, method(trial, model, "encode"), **many))
    noise = trial.normal(*mean.shape)

    def distortions(z: Tensor) -> Tensor:
        logits = trial.ask(method(trial, model, "decode"), z=z, **rest)
        if not logits.isfinite().all():
            trial.fail("not finite", got=logits)
        flat = logits.detach().double().reshape(len(x), -1)
        log_p: Tensor = Bernoulli(logits=flat).log_prob(x.double().flatten(1)).sum(1)
        return -log_p

    scales = 0.0 * mean, (0.5 * log_variance).exp(), log_variance.exp(), log_variance
    return [distortions(mean + scale * noise) for scale in scales]


def _tells(trial: Trial, model: nn.Module, many: Mapping[str, Tensor]) -> float:
    """Return how many spreads lie between an image's average distortions with σ, with σ² and with log σ² for σ."""
    few = {name: value[:200] for name, value in many.items()}
    _, *three = _distortions(trial, model, few)
    pairs = itertools.combinations(three, 2)
    return min(abs(float(a.mean() - b.mean())) / (float(a.std() + b.std()) + 1e-9) for a, b in pairs)


def _agree(a: Tensor, b: Tensor) -> bool:
    """Say whether two sets of draws have the same mean, within six standard errors, and about the same spread."""
    error = math.sqrt(float(a.var() + b.var()) / len(a))
    close = abs(float(a.mean() - b.mean())) <= 6 * error + 1e-4 * abs(float(b.mean()))
    return close and 0.8 <= float(a.std() / b.std()) <= 1.25


def _shape(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)
