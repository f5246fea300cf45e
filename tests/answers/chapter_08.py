"""Answers to the exercises of chapter 08."""

import math
from collections import Counter

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

RIGHT, WRONG = {}, {}

RIGHT["8.1"] = [("two digits", (49, 4.95)), ("tensors", (torch.tensor(49.0), torch.tensor([4.9497])))]
WRONG["8.1"] = [
    ("inverse", "upside down", (0.0204, 4.95)),
    ("pixels", "only pixels", (784, 4.95)),
    ("latents", "only latents", (16, 4.95)),
    ("side", "side for pixels", (1.75, 4.95)),
    ("variance", "no root", (49, 24.5)),
    ("no half", "σ² for 2σ²", (49, 7.0)),
    ("beta", "the first again", (49, 49)),
    ("inverse", "upside down in σ", (49, 0.202)),
    ("pixels", "only pixels, in σ", (49, 19.8)),
    ("sums", "a sum of squares", (49, 0.707)),
]


def distortion(logits, x):
    return (F.softplus(logits) - x * logits).flatten(2).sum(2).mean(0)


def rate(m, v, pm, pv):
    return 0.5 * ((v - pv).exp() + (m - pm) ** 2 / pv.exp() - 1 + pv - v).sum(1)


def by_distributions(logits, x, m, v, pm, pv):
    log_p = Independent(Bernoulli(logits=logits), 3).log_prob(x.expand_as(logits))
    return -log_p.mean(0), kl_divergence(Normal(m, (0.5 * v).exp()), Normal(pm, (0.5 * pv).exp())).sum(-1)


def looped(logits, x, m, v, pm, pv):
    first = []
    for b, image in enumerate(x):
        draws = [F.binary_cross_entropy_with_logits(one[b], image, reduction="sum") for one in logits]
        first.append(sum(draws) / len(draws))
    return torch.stack(first), rate(m, v, pm, pv)


def bills(first=distortion, second=rate):
    """Return an answer made of a distortion and a rate."""
    return lambda logits, x, *gaussians: (first(logits, x), second(*gaussians))


def by_probabilities(logits, x, log):
    p = logits.sigmoid()
    return -(x * log(p) + (1 - x) * log(1 - p)).flatten(2).sum(2).mean(0)


def log_p(logits, x):
    return (x * logits - F.softplus(logits)).flatten(2).sum(2)


RIGHT["8.2"] = [
    ("torch.distributions", (by_distributions,)),
    ("a loop over images", (looped,)),
    ("formulas, in float64", (lambda *given: bills()(*(part.double() for part in given)),)),
]
WRONG["8.2"] = [
    ("order", "rate first", (lambda *given: by_distributions(*given)[::-1],)),
    ("one decoding", "mean of logits", (bills(lambda o, x: distortion(o.mean(0, keepdim=True), x)),)),
    ("one decoding", "mean picture", (bills(lambda o, x: -Bernoulli(o.sigmoid().mean(0)).log_prob(x).sum((1, 2, 3))),)),
    ("one draw", "the first", (bills(lambda o, x: -log_p(o, x)[0]),)),
    ("unstable", "a bare logarithm", (bills(lambda o, x: by_probabilities(o, x, torch.log)),)),
    (
        "unstable",
        "clamped, as in PyTorch",
        (bills(lambda o, x: by_probabilities(o, x, lambda p: p.log().clamp(-100))),),
    ),
    ("no half", "no half", (bills(second=lambda *g: 2 * rate(*g)),)),
    ("bound", "log-mean-exp", (bills(lambda o, x: math.log(len(o)) - log_p(o, x).logsumexp(0)),)),
    ("draws summed", "sum over K", (bills(lambda o, x: -log_p(o, x).sum(0)),)),
    ("pixel mean", "mean over pixels", (bills(lambda o, x: distortion(o, x) / x[0].numel()),)),
    ("sign", "log p", (bills(lambda o, x: log_p(o, x).mean(0)),)),
    ("batch", "one number", (bills(lambda o, x: distortion(o, x).mean()),)),
    ("batch", "one rate", (bills(second=lambda *g: rate(*g).mean()),)),
    ("standard", "prior unused", (bills(second=lambda m, v, pm, pv: rate(m, v, 0 * pm, 0 * pv)),)),
    ("exchanged", "KL(p || q)", (bills(second=lambda m, v, pm, pv: rate(pm, pv, m, v)),)),
    ("log std", "exp without half", (bills(second=lambda m, v, pm, pv: rate(m, 2 * v, pm, 2 * pv)),)),
    ("rate mean", "mean over latents", (bills(second=lambda m, v, pm, pv: rate(m, v, pm, pv) / m.shape[1]),)),
]


def read_off(rates, distortions):
    order = rates.argsort()
    return -distortions[order].diff() / rates[order].diff()


def by_pairs(rates, distortions):
    points = sorted(zip(rates.tolist(), distortions.tolist(), strict=True))
    return torch.tensor([(a[1] - b[1]) / (b[0] - a[0]) for a, b in zip(points, points[1:], strict=False)])


RIGHT["8.3"] = [("argsort", (read_off, 4.0)), ("a list", (by_pairs, 4)), ("a tensor", (read_off, torch.tensor(4.0)))]
WRONG["8.3"] = [
    ("sign", "bare slope", (lambda r, d: -read_off(r, d), 4)),
    ("inverse", "R over D", (lambda r, d: 1 / read_off(r, d), 4)),
    ("unsorted", "as they come", (lambda r, d: -d.diff() / r.diff(), 4)),
    ("backwards", "descending", (lambda r, d: read_off(r, d).flip(0), 4)),
    ("ratio", "D/R", (lambda r, d: d / r, 4)),
    ("positive", "abs", (lambda r, d: read_off(r, d).abs(), 4)),
    ("apart", "two sorts", (lambda r, d: -d.sort(descending=True).values.diff() / r.sort().values.diff(), 4)),
    ("apart", "by distortion", (lambda r, d: -1 / read_off(-d, r), 4)),
    ("culprit", "its neighbour", (read_off, 2.0)),
    ("culprit", "its neighbour above", (read_off, 8.0)),
]


def searched(spread, rate, highest=None, floor=0.0):
    low, high = 0.0, highest or float(spread.max())
    for _ in range(100):
        level = (low + high) / 2
        price = 0.5 * (spread / max(level, 1e-30)).log().clamp(min=floor).sum()
        low, high = (level, high) if price > rate else (low, level)
    return spread.clamp(max=high).sum()


def greedy(spread, rate, pieces=20_000):
    errors = spread.tolist()
    for _ in range(pieces):
        most = max(range(len(errors)), key=errors.__getitem__)
        errors[most] *= math.exp(-2 * rate / pieces)
    return sum(errors)


def counted(spread, rate):
    ordered = spread.double().sort(descending=True).values
    for k in range(len(ordered), 0, -1):
        level = ((ordered[:k].log().sum() - 2 * rate) / k).exp()
        if level <= ordered[k - 1]:
            return k * level + ordered[k:].sum()
    return ordered.sum()


def level_of(spread, rate):
    for k in range(len(spread), 0, -1):
        top = spread.sort(descending=True).values[:k]
        level = ((top.log().sum() - 2 * rate) / k).exp()
        if level <= top[-1]:
            return level
    return spread.max()


def equal(spread, rate):
    return (spread * math.exp(-2 * rate / len(spread))).sum()


def largest(spread, rate):
    return spread.sum() - spread.max() * (1 - math.exp(-2 * rate))


RIGHT["8.4"] = [
    ("bisection", ("falls", searched)),
    ("pieces of rate", ("rises", greedy)),
    ("by counting, in float64", ("stays", counted)),
]
WRONG["8.4"] = [
    ("prediction", "another word", ("less", searched)),
    ("equal shares", "R/n each", ("falls", equal)),
    ("one direction", "the largest", ("falls", largest)),
    ("twice", "no half", ("falls", lambda spread, rate: searched(spread, 2 * rate))),
    ("twice", "no half in the price", ("falls", lambda spread, rate: searched(spread, rate / 2))),
    ("above", "λ - θ", ("falls", lambda spread, rate: (spread - level_of(spread, rate)).clamp(min=0).sum())),
    ("averaged", "mean", ("falls", lambda spread, rate: searched(spread, rate) / len(spread))),
    ("wrong half", "ends exchanged", ("falls", lambda spread, rate: spread.sum() * (rate < 2))),
    ("first", "spread[0]", ("falls", lambda spread, rate: searched(spread, rate, float(spread[0])))),
    ("drowned", "negative rates", ("falls", lambda spread, rate: searched(spread, rate, floor=-math.inf))),
    ("bits", "powers of two", ("falls", lambda spread, rate: searched(spread, rate * math.log(2)))),
    (
        "drowned",
        "one level for all",
        ("falls", lambda spread, rate: len(spread) * ((spread.log().sum() - 2 * rate) / len(spread)).exp()),
    ),
    ("sent only", "above water", ("falls", lambda s, r: level_of(s, r) * (s > level_of(s, r)).sum())),
    ("level", "the level", ("falls", level_of)),
]


def counts(column):
    return torch.tensor(list(Counter(column.tolist()).values())).double()


def entropy_of(column):
    share = counts(column) / len(column)
    return -(share * share.log()).sum()


def shared(a, b, pairs=lambda a, b: a * (int(b.max()) + 1) + b):
    return entropy_of(a) + entropy_of(b) - entropy_of(pairs(a, b))


def tables(codes, factors, **how):
    told = torch.stack([torch.stack([shared(z, v, **how) for v in factors.T]) for z in codes.T])  # (D, K)
    return told, torch.stack([entropy_of(v) for v in factors.T])


def score(made, **how):
    """Return an answer that is ``made(told, entropy)``."""
    return lambda codes, factors: made(*tables(codes, factors, **how))


def difference(told, axis=0):
    best = told.topk(2, axis).values
    return best.select(axis, 0) - best.select(axis, 1)


def from_joint(codes, factors):
    gaps = []
    for v in factors.T:
        rows = F.one_hot(v).double()
        told = []
        for z in codes.T:
            joint = F.one_hot(z).double().T @ rows / len(v)
            apart = joint.sum(1, keepdim=True) * joint.sum(0)
            told.append(float(torch.where(joint > 0, joint * (joint / apart).log(), 0.0).sum()))
        first, second, *_ = sorted(told, reverse=True)
        gaps.append((first - second) / float(torch.special.entr(rows.mean(0)).sum()))
    return sum(gaps) / len(gaps)


def by_latent_entropy(codes, factors):
    told, _ = tables(codes, factors)
    own = torch.stack([entropy_of(z) for z in codes.T])
    return (difference(told) / own[told.argmax(0)]).mean()


def by_bins(codes, factors):
    told, _ = tables(codes, factors)
    return (difference(told) / (factors.max(0).values + 1.0).double().log()).mean()


RIGHT["8.5"] = [
    ("entropies", (score(lambda told, entropy: (difference(told) / entropy).mean()),)),
    ("a joint table", (from_joint,)),
    ("in bits", (score(lambda told, entropy: (difference(told / math.log(2)) / (entropy / math.log(2))).mean()),)),
]
WRONG["8.5"] = [
    ("no entropy", "bare gap", (score(lambda told, entropy: difference(told).mean()),)),
    ("latent entropy", "of z", (by_latent_entropy,)),
    ("log bins", "ln of values", (by_bins,)),
    ("latent entropy", "what the best knows", (score(lambda told, _: (difference(told) / told.max(0).values).mean()),)),
    ("pooled", "sums", (score(lambda told, entropy: difference(told).sum() / entropy.sum()),)),
    ("pairs", "a + b", (score(lambda told, entropy: (difference(told) / entropy).mean(), pairs=torch.add),)),
    ("axis", "over factors", (score(lambda told, entropy: difference(told, 1).mean()),)),
    ("no gap", "the best", (score(lambda told, entropy: (told.max(0).values / entropy).mean()),)),
    (
        "worst",
        "the worst off",
        (score(lambda told, entropy: ((told.max(0).values - told.min(0).values) / entropy).mean()),),
    ),
    ("worst", "the mean off", (score(lambda told, entropy: ((told.max(0).values - told.mean(0)) / entropy).mean()),)),
    ("summed", "sum", (score(lambda told, entropy: (difference(told) / entropy).sum()),)),
    ("each", "no mean", (score(lambda told, entropy: difference(told) / entropy),)),
]


class Pieces(nn.Module):
    """A model made of another's parts, some of them changed, with terms that go with them."""

    def __init__(self, model, **changed):
        super().__init__()
        self.model = model
        self.encode, self.decode = model.encode, model.decode
        for name, part in changed.items():
            setattr(self, name, part)

    def terms(self, x, y):
        mean, log_variance = self.encode(x, y)
        q = Normal(mean, (0.5 * log_variance).exp())
        nats = -Bernoulli(logits=self.decode(q.rsample(), y)).log_prob(x).flatten(1).sum(1)
        return nats, kl_divergence(q, Normal(torch.zeros_like(mean), 1.0)).sum(1)


def wrong_dials(model):
    """Return rows for 8.6: models that stand at another rate, waste theirs, or do not hear y."""
    encode, decode = model.encode, model.decode

    def louder(x, y):
        mean, log_variance = encode(x, y)
        return mean, log_variance - 1.5

    rows = [
        ("encoder", "y left out", Pieces(model, encode=lambda x, y: encode(x, 0 * y))),
        ("decoder", "y left out", Pieces(model, decode=lambda z, y: decode(z, 0 * y))),
        ("rate", "says more", Pieces(model, encode=louder)),
        ("rate", "says nothing", Pieces(model, encode=lambda x, y: tuple(0.01 * part for part in encode(x, y)))),
        ("wasted", "a poor decoder", Pieces(model, decode=lambda z, y: 0.3 * decode(z, y))),
        ("wasted", "z not decoded", Pieces(model, decode=lambda z, y: decode(0 * z, y))),
    ]
    return [("8.6", mistake, how, (answer,)) for mistake, how, answer in rows]
