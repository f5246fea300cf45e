"""Answers to the exercises of chapter 07."""

import math

import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

RIGHT, WRONG = {}, {}

RIGHT["7.1"] = [("two digits", (0.68, 1.71)), ("tensors", (torch.tensor(0.68), torch.tensor([1.709])))]
WRONG["7.1"] = [
    ("posterior", "σ²/λ", (0.32, 1.71)),
    ("std", "σ for σ²", (0.6, 1.71)),
    ("first", "of the first", (0.84, 1.71)),
    ("weight", "λ - σ²", (1.36, 1.71)),
    ("idle", "negative logarithms too", (0.68, 1.116)),
    ("half", "no half", (0.68, 3.418)),
    ("bits", "log to base 2", (0.68, 2.466)),
    ("std", "σ for σ² in the rate", (0.68, 1.374)),
    ("one latent", "the first alone", (0.68, 0.916)),
]


def by_deviations(mean, y):
    own = torch.stack([mean[y == label].mean(0) for label in y])
    return (mean - mean.mean(0)).square().mean(0), (mean - own).square().mean(0)


def by_rows(y):
    """Return the mean of every image's class, as a product with a matrix of shares."""
    rows = torch.nn.functional.one_hot(y).double()
    return lambda mean: rows @ ((rows.T @ mean.double()) / rows.sum(0)[:, None])


def classwise(function, weighted=True):
    """Return an answer whose second part averages ``function`` of each class."""

    def answer(mean, y):
        labels, counts = y.unique(return_counts=True)
        share = counts / len(y) if weighted else torch.full((len(labels),), 1 / len(labels))
        parts = [function(mean[y == label]) for label in labels]
        return mean.var(0), sum(s * part for s, part in zip(share, parts, strict=True))

    return answer


def by_matrix(mean, y):
    return mean.double().var(0, correction=0), (mean - by_rows(y)(mean)).var(0, correction=0)


def between(mean, y):
    return mean.var(0), torch.stack([mean[y == label].mean(0) for label in y.unique()]).var(0)


def ten_labels(mean, y):
    own = torch.stack([mean[y == label].mean(0) for label in range(10)] + 2 * [0 * mean[0]])
    return mean.var(0), (mean - own[y]).square().mean(0)


RIGHT["7.2"] = [
    ("class by class", (classwise(lambda rows: rows.var(0)),)),
    ("a matrix, in float64", (by_matrix,)),
    ("by deviations", (lambda mean, y: by_deviations(mean, y),)),
]
WRONG["7.2"] = [
    ("axis", "dim=1", (lambda mean, y: (mean.var(1), mean.var(1)),)),
    ("uncentred", "mean square", (lambda mean, y: (mean.square().mean(0), by_matrix(mean, y)[1]),)),
    ("root", "std", (lambda mean, y: (mean.std(0), by_matrix(mean, y)[1].sqrt()),)),
    ("root", "std within", (lambda mean, y: (mean.var(0), by_matrix(mean, y)[1].sqrt()),)),
    ("swapped", "within first", (lambda mean, y: by_matrix(mean, y)[::-1],)),
    ("same", "y not used", (lambda mean, y: (mean.var(0), mean.var(0)),)),
    ("between", "of the class means", (between,)),
    ("between", "what y explains", (lambda mean, y: (mean.var(0), by_rows(y)(mean).var(0)),)),
    ("unweighted", "classes alike", (classwise(lambda rows: rows.var(0), weighted=False),)),
    ("ten", "range(10)", (ten_labels,)),
]


def latent_by_latent(kl, floor):
    total = 0.0
    for column in kl.T:
        mean = column.mean()
        total = total + (mean if mean > floor else floor)
    return total


def straight_through(kl, floor):
    mean = kl.mean(0)
    return (mean + (mean.clamp_min(floor) - mean).detach()).sum()


RIGHT["7.3"] = [
    ("clamp", (lambda kl, floor: kl.mean(0).clamp(min=floor).sum(),)),
    ("maximum", (lambda kl, floor: torch.maximum(kl.mean(0), torch.full_like(kl[0], floor)).sum(),)),
    ("relu", (lambda kl, floor: (torch.relu(kl.mean(0) - floor) + floor).sum(),)),
    ("a loop", (latent_by_latent,)),
    ("in float64", (lambda kl, floor: kl.double().mean(0).clamp_min(floor).sum(),)),
]
WRONG["7.3"] = [
    ("after", "a floor under the sum", (lambda kl, floor: kl.sum(1).mean().clamp_min(floor),)),
    ("after", "D floors under the sum", (lambda kl, floor: kl.sum(1).mean().clamp_min(floor * kl.shape[1]),)),
    ("after", "under the mean of all", (lambda kl, floor: kl.mean().clamp_min(floor),)),
    ("after", "under each image's sum", (lambda kl, floor: kl.sum(1).clamp_min(kl.shape[1] * floor).mean(),)),
    ("each image", "before the mean over the batch", (lambda kl, floor: kl.clamp_min(floor).sum(1).mean(),)),
    ("latents averaged", "mean for sum", (lambda kl, floor: kl.mean(0).clamp_min(floor).mean(),)),
    ("batch summed", "sum over the batch", (lambda kl, floor: kl.sum(0).clamp_min(floor).sum(),)),
    ("ceiling", "min for max", (lambda kl, floor: kl.mean(0).clamp_max(floor).sum(),)),
    ("excess", "above the floor", (lambda kl, floor: (kl.mean(0) - floor).relu().sum(),)),
    ("added", "plus the floor", (lambda kl, floor: (kl.mean(0) + floor).sum(),)),
    ("dropped", "nothing below", (lambda kl, floor: (kl.mean(0) * (kl.mean(0) > floor)).sum(),)),
    ("axis", "dim=1", (lambda kl, floor: kl.mean(1).clamp_min(floor).sum(),)),
    ("gradient", "detached", (lambda kl, floor: kl.detach().mean(0).clamp_min(floor).sum(),)),
    ("gradient", "straight through", (straight_through,)),
]


def weight(step, steps, cycles, rise):
    if step >= steps:
        return 1.0
    return min(1.0, step % (steps // cycles) / rise)


def within(curve):
    """Return an answer that is ``curve(t, n, rise)`` in every cycle, and 1 after the last."""

    def answer(step, steps, cycles, rise):
        n = steps // cycles
        return curve(step % n, n, rise) if step < steps else 1.0

    return answer


def listed(step, steps, cycles, rise):
    cycle = torch.cat([torch.arange(rise) / rise, torch.ones(steps // cycles - rise)])
    return torch.cat([cycle.repeat(cycles), torch.ones(step + 1)])[step]


RIGHT["7.4"] = [
    ("a remainder", (weight,)),
    ("a list", (listed,)),
    (
        "whole numbers",
        (lambda step, steps, cycles, rise: int(step >= steps) or min(1, step % (steps // cycles) / rise),),
    ),
]
WRONG["7.4"] = [
    ("never 1", "the whole cycle rises", (within(lambda t, n, rise: t / n),)),
    ("never 1", "for ever", (lambda step, steps, cycles, rise: step % (steps // cycles) / (steps // cycles),)),
    ("one rise", "no cycles", (lambda step, steps, cycles, rise: min(1.0, step / rise),)),
    ("one rise", "over all steps", (lambda step, steps, cycles, rise: min(1.0, step / steps),)),
    ("falls again", "no end", (lambda step, steps, cycles, rise: min(1.0, step % (steps // cycles) / rise),)),
    ("above", "no min", (within(lambda t, n, rise: t / rise),)),
    ("downhill", "from 1 to 0", (within(lambda t, n, rise: 1 - min(1.0, t / rise)),)),
    ("early", "counted from 1", (within(lambda t, n, rise: min(1.0, (t + 1) / rise)),)),
    ("early", "rise - 1", (within(lambda t, n, rise: min(1.0, t / (rise - 1))),)),
    ("falls again", "nothing after", (lambda step, steps, *rest: weight(step, steps, *rest) * (step < steps),)),
    ("length", "no plateau", (lambda step, steps, cycles, rise: step % rise / rise if step < steps else 1.0,)),
    ("length", "step % cycles", (lambda step, steps, cycles, rise: min(1, step % cycles / rise),)),
    ("last", "> for >=", (lambda step, steps, *rest: weight(step, steps, *rest) * (step != steps),)),
    ("whole", "whole division", (within(lambda t, n, rise: min(1, t // rise)),)),
]


def table(mean, std, z):
    return Normal(mean, std).log_prob(z[:, None]).sum(2)  # (B, B): z_n under the posterior of x_m


def estimate(mean, std, z):
    found = table(mean, std, z)
    return (found.diagonal() - found.logsumexp(1)).mean() + math.log(len(z))


def by_mixture(mean, std, z):
    own = Independent(Normal(mean, std), 1)
    mixture = MixtureSameFamily(Categorical(torch.ones(len(mean))), own)
    return (own.log_prob(z) - mixture.log_prob(z)).mean()


def looped(mean, std, z):
    total = 0.0
    for n, place in enumerate(z):
        logs = (-0.5 * ((place - mean) / std) ** 2 - std.log()).sum(1)  # 2π cancels
        total += logs[n] - (logs.exp().mean()).log()
    return total / len(z)


def apart(mean, std, z):
    return sum(estimate(*(part[:, d : d + 1] for part in (mean, std, z))) for d in range(z.shape[1]))


def left_out(mean, std, z):
    found = table(mean, std, z)
    others = found.masked_fill(torch.eye(len(z)).bool(), -math.inf).logsumexp(1) - math.log(len(z) - 1)
    return (found.diagonal() - others).mean()


def against(denominator):
    return lambda mean, std, z: (table(mean, std, z).diagonal() - denominator(table(mean, std, z), z)).mean()


GUESS = 4.6
RIGHT["7.5"] = [
    ("a table", (GUESS, estimate)),
    ("torch.distributions, another guess", (torch.tensor(12.9), by_mixture)),
    ("a loop", (GUESS, looped)),
    ("in float64", (GUESS, lambda *given: estimate(*(part.double() for part in given)))),
]
WRONG["7.5"] = [
    ("prediction", "no number", (float("nan"), estimate)),
    ("no B", "no 1/B", (GUESS, against(lambda t, z: t.logsumexp(1)))),
    ("axis", "dim=0", (GUESS, against(lambda t, z: t.logsumexp(0) - math.log(len(z))))),
    ("prior", "the rate", (GUESS, against(lambda t, z: Normal(0.0, 1.0).log_prob(z).sum(1)))),
    ("left out", "without its own", (GUESS, left_out)),
    ("latents", "one at a time", (GUESS, apart)),
    ("mean of logs", "no exponential", (GUESS, against(lambda t, z: t.mean(1)))),
    ("bits", "base 2", (GUESS, lambda *given: estimate(*given) / math.log(2))),
    ("width", "a variance", (GUESS, lambda mean, std, z: estimate(mean, std**2, z))),
    ("prior", "closed form", (GUESS, lambda m, s, z: kl_divergence(Normal(m, s), Normal(0.0, 1.0)).sum(1).mean())),
    (
        "each",
        "no mean",
        (GUESS, lambda m, s, z: table(m, s, z).diagonal() - table(m, s, z).logsumexp(1) + math.log(len(z))),
    ),
]


class Pieces(nn.Module):
    """A model made of another's parts, some of them changed, with terms that go with them."""

    def __init__(self, model, **changed):
        super().__init__()
        self.model = model
        self.encode, self.prior, self.decode = model.encode, model.prior, model.decode
        for name, part in changed.items():
            setattr(self, name, part)

    def clouds(self, x, y):
        return [Normal(mean, (0.5 * log).exp()) for mean, log in (self.encode(x, y), self.prior(y))]

    def terms(self, x, y):
        q, p = self.clouds(x, y)
        logits = self.decode(q.rsample(), y, x)
        return -Bernoulli(logits=logits).log_prob(x).flatten(1).sum(1), kl_divergence(q, p)


class Exchanged(Pieces):
    def terms(self, x, y):
        q, p = self.clouds(x, y)
        return super().terms(x, y)[0], kl_divergence(p, q)


class Standard(Pieces):
    def terms(self, x, y):
        q, _ = self.clouds(x, y)
        return super().terms(x, y)[0], kl_divergence(q, Normal(torch.zeros_like(q.mean), 1.0))


class Summed(Pieces):
    def terms(self, x, y):
        distortion, kl = super().terms(x, y)
        return distortion, kl.sum(1)


class Averaged(Pieces):
    def terms(self, x, y):
        distortion, kl = super().terms(x, y)
        return distortion / 196, kl


def wrong_cures(plain, cured):
    """Return rows for 7.6: models whose parts do not hear y, terms that are off, and cures that are none."""
    encode, prior, decode = cured.encode, cured.prior, cured.decode

    def louder(x, y):
        mean, log_variance = encode(x, y)
        return 8 * mean, log_variance

    rows = [
        ("encoder", "y left out", (plain, Pieces(cured, encode=lambda x, y: encode(x, 0 * y)))),
        ("prior", "one for all", (plain, Pieces(cured, prior=lambda y: prior(0 * y)))),
        ("unmoved", "never trained", (plain, Pieces(cured, prior=lambda y: tuple(0 * part for part in prior(y))))),
        ("looks nowhere", "no look_back", (plain, Pieces(cured, decode=lambda z, y, x: decode(z, y, 0 * x)))),
        ("decoder", "y left out", (plain, Pieces(cured, decode=lambda z, y, x: decode(z, 0 * y, x)))),
        ("peeks", "its own pixel", (plain, Pieces(cured, decode=lambda z, y, x: decode(z, y, x) + x))),
        ("per latent", "summed", (plain, Summed(cured))),
        ("standard", "N(0, I)", (plain, Standard(cured))),
        ("exchanged", "KL(p || q)", (plain, Exchanged(cured))),
        ("distortion", "mean over pixels", (plain, Averaged(cured))),
        ("untrained", "next to no logits", (Pieces(plain, decode=lambda z, y, x: 0.1 * plain.decode(z, y, x)), cured)),
        ("paid in vain", "z not decoded", (plain, Pieces(cured, decode=lambda z, y, x: decode(0 * z, y, x)))),
        ("silent", "no cure", (plain, plain)),
        (
            "price",
            "rate without end",
            (plain, Pieces(cured, encode=louder, decode=lambda z, y, x: decode(z / 8, y, x))),
        ),
    ]
    return [("7.6", mistake, how, answers) for mistake, how, answers in rows]
