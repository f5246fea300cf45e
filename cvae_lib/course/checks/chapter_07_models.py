"""Check of chapter 07's last exercise: a conditional model of one's own whose z fell silent, and its cure."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from cvae_lib import data
from cvae_lib.course.checks._asking import IGNORES_LABEL
from cvae_lib.course.checks._autoencoder import gaussian, method
from cvae_lib.course.checks._probe import Probe, Trial, model_copy
from cvae_lib.course.checks._registry import exercise

MORE, DEARER = 0.5, 2.0  # nats of information that a cure brings back, and what an image may cost for it


@exercise(
    "7.6",
    "a cure for your own model",
    seconds=60.0,
    hints=IGNORES_LABEL
    | {
        "prior": "The prior is the same for every label. Give each label a mean and a log-variance of its own.",
        "unmoved": "The prior of every label is still N(0, I), as it may have begun: nothing has trained it. The KL in "
        "`terms` has to be to this prior, and the loss has to charge it.",
        "looks nowhere": "The decoder does not look back: earlier pixels change no logit. Add `look_back` to them, or "
        "the model has no reason to fall silent.",
        "peeks": "A logit depends on its own pixel, or on a later one: nothing is left to predict. Give `look_back` "
        "the picture, and the rest of the decoder only z and y.",
        "per latent": "Return the KL per latent, shape (B, D). A floor under each latent needs them one by one.",
        "standard": "That is the KL to N(0, I). Yours is to the learned prior of each image's label.",
        "exchanged": "Posterior and prior are exchanged: it is KL(q || p), averaged where the encoder is.",
        "distortion": "The distortion is not -log p(x|z,y), summed over the pixels, at your own encoder's draws.",
        "untrained": "These images cost it far more than need be: it is not trained, or not on them.",
        "paid in vain": "Its rate is paid in vain: the z of another image of that label does as well. A floor under "
        "the rate alone can do that; try a weight that rises.",
        "silent": "It says hardly more than the one without a cure. A higher floor, or a longer rise of the weight?",
        "price": "It talks, but an image costs more than before. Did the weight of the rate reach 1, and stay there?",
    },
)
def _cured(probe: Probe, plain: Any, cured: Any) -> str:
    trial = probe.trial()
    before, after = (model_copy(model, trial).eval() for model in (plain, cured))
    x, y = _small_images(trial)
    for model in (before, after):
        _check_parts(trial, model, x[:6], y[:6])
        _check_terms(trial, model, x[:3], y[:3])
    with torch.no_grad():
        told = [_said(trial, model, x, y) for model in (before, after)]
        costs = [_cost(trial, model, x, y) for model in (before, after)]
        swapped = _lost(trial, after, x, y)
    trial.on = "1,000 test images at half size"
    got = f"{told[1]:.2f} nats said at {costs[1]:.1f} an image with the cure, {told[0]:.2f} at {costs[0]:.1f} without"
    empty = float(Bernoulli(logits=x.mean(0).clamp(1e-3, 1 - 1e-3).logit()).log_prob(x).flatten(1).sum(1).mean().neg())
    if costs[0] > 0.9 * empty:
        trial.fail("untrained", expected="much less than a picture of means costs", got=got)
    if told[1] < told[0] + MORE:
        trial.fail("silent", expected=f"at least {MORE:g} nats more than without", got=got)
    if swapped < 0.5:
        trial.fail("paid in vain", expected="another z to cost half a nat at least", got=f"{swapped:.2f} nats")
    if costs[1] > costs[0] + DEARER:
        trial.fail("price", expected=f"at most {DEARER:g} nats more than without", got=got)
    return f"{got}. Another image's z of the same label costs {swapped:.1f} nats."


def _small_images(trial: Trial) -> tuple[Tensor, Tensor]:
    """Return test images at half size as zeros and ones, and their labels."""
    images = data.digits("test").subset(slice(1000))
    grey = F.avg_pool2d(images.images.float() / 255, 2)
    return torch.bernoulli(grey, generator=trial.random), images.labels


def _clouds(trial: Trial, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Normal, Normal]:
    """Return q(z|x,y) and p(z|y) of a learner's model."""
    pairs = (
        gaussian(trial, method(trial, model, "encode"), x=x, y=y),
        gaussian(trial, method(trial, model, "prior"), y=y),
    )
    q, p = (Normal(mean, (0.5 * log_variance).exp()) for mean, log_variance in pairs)
    return q, p


def _logits(trial: Trial, model: nn.Module, z: Tensor, y: Tensor, x: Tensor) -> Tensor:
    got = trial.ask(method(trial, model, "decode"), z=z, y=y, x=x)
    if not isinstance(got, Tensor) or got.shape != x.shape:
        trial.compare(got, torch.zeros(x.shape))
    logits: Tensor = got
    return logits


def _check_parts(trial: Trial, model: nn.Module, x: Tensor, y: Tensor) -> None:
    """See that every part reads y, and that logits depend on earlier pixels, not on their own or a later one."""
    (q, p), (other, another) = (_clouds(trial, model, x, label) for label in (y, (y + 1) % 10))
    if torch.equal(q.mean, other.mean) and torch.equal(q.stddev, other.stddev):
        trial.fail("encoder")
    if torch.equal(p.mean, another.mean) and torch.equal(p.stddev, another.stddev):
        trial.fail("prior" if p.mean.any() or p.stddev.ne(1).any() else "unmoved")
    z = trial.normal(*q.mean.shape)
    if torch.equal(_logits(trial, model, z, y, x), _logits(trial, model, z, (y + 1) % 10, x)):
        trial.fail("decoder")
    at = trial.size(60, 130)
    seen = x.clone().requires_grad_()
    logits = _logits(trial, model, z, y, seen).flatten(1)
    weights = trial.normal(at + 1)
    slope = None
    if logits.requires_grad:
        (slope,) = torch.autograd.grad((logits[:, : at + 1] * weights).sum(), seen, allow_unused=True)
    if slope is not None and bool((slope.flatten(1)[:, at:] != 0).any()):
        trial.fail("peeks")
    if slope is None or not slope.any():
        trial.fail("looks nowhere")


def _check_terms(trial: Trial, model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Compare both terms with references from the learner's own encoder, prior and decoder."""
    terms = method(trial, model, "terms")
    q, p = _clouds(trial, model, x, y)
    many, labels = x.repeat_interleave(300, 0), y.repeat_interleave(300)
    with torch.no_grad():
        distortion, kl = trial.pair(terms, x=many, y=labels)
        z = q.mean.repeat_interleave(300, 0) + q.stddev.repeat_interleave(300, 0) * trial.normal(900, q.mean.shape[1])
        mine = -Bernoulli(logits=_logits(trial, model, z, labels, many)).log_prob(many).flatten(1).sum(1)
        kl = trial.tensor(kl)
        if kl.shape == (900,):
            trial.fail("per latent", expected=f"shape (B, {q.mean.shape[1]})", got="shape (B,)")
        whole = [kl_divergence(a, b).repeat_interleave(300, 0) for a, b in ((q, p), (q, _standard(q)), (p, q))]
        trial.compare(kl, whole[0], {"standard": whole[1], "exchanged": whole[2]})
        got = trial.tensor(distortion)
        if got.shape != (900,):
            trial.compare(got, mine)
        pairs = zip(got.view(3, 300), mine.double().view(3, 300), strict=True)
        if not all(trial.average(a, b.mean(), slack=float(6 * b.std() / 300**0.5) + 1e-3) for a, b in pairs):
            trial.fail("distortion", expected=mine.view(3, 300).mean(1), got=got.view(3, 300).mean(1))


def _standard(q: Normal) -> Normal:
    return Normal(torch.zeros_like(q.mean), torch.ones_like(q.stddev))


def _cost(trial: Trial, model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return minus the ELBO, nats per image, from the learner's own parts."""
    q, p = _clouds(trial, model, x, y)
    z = q.mean + q.stddev * trial.normal(*q.mean.shape)
    nats = kl_divergence(q, p).sum(1) - Bernoulli(logits=_logits(trial, model, z, y, x)).log_prob(x).flatten(1).sum(1)
    return float(nats.mean())


def _said(trial: Trial, model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return what z says of x among images of the same y, a lower bound, nats per image."""
    q, _ = _clouds(trial, model, x, y)
    z, nats = q.mean + q.stddev * trial.normal(*q.mean.shape), 0.0
    for label in y.unique():
        rows = y == label
        own = Independent(Normal(q.mean[rows], q.stddev[rows]), 1)
        mixture = MixtureSameFamily(Categorical(torch.ones(int(rows.sum()))), own)
        nats += float((own.log_prob(z[rows]) - mixture.log_prob(z[rows])).sum())
    return nats / len(x)


def _lost(trial: Trial, model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return what likelihood the z of another image of the same label costs, nats per image."""
    q, _ = _clouds(trial, model, x, y)
    z = q.mean + q.stddev * trial.normal(*q.mean.shape)
    order = y.argsort(stable=True)
    partner = torch.empty_like(order).scatter(0, order, order.roll(1))  # of another label in ten cases only
    prices = [
        Bernoulli(logits=_logits(trial, model, each, y, x)).log_prob(x).flatten(1).sum(1) for each in (z, z[partner])
    ]
    return float((prices[0] - prices[1]).mean())
