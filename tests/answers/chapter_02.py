"""Answers to the exercises of chapter 02."""

import math

import torch
from torch.distributions import Normal, kl_divergence

RIGHT, WRONG = {}, {}

RIGHT["2.1"] = [("numbers", (0.18, -3.38)), ("tensors", (torch.tensor(0.18), torch.tensor([-3.38])))]
WRONG["2.1"] = [
    ("half", "no 2 below", (0.36, -3.56)),
    ("std", "σ for σ²", (0.09, -3.29)),
    ("unsquared", "shift not squared", (0.6, -3.8)),
    ("bits", "log to base 2", (0.26, -3.46)),
    ("above", "added", (0.18, -3.02)),
    ("log p", "not subtracted", (0.18, -3.2)),
    ("log p", "the gap again", (0.18, 0.18)),
]


def by_precisions(x, y, t):
    precision = 1 + t.w**2 / t.s**2
    return (t.a * y + t.w * (x - t.u * y) / t.s**2) / precision, 1 / precision + 0 * x


def by_gain(x, y, t):  # as in a Kalman filter
    gain = t.w / (t.w**2 + t.s**2)
    return t.a * y + gain * (x - (t.w * t.a + t.u) * y), torch.ones_like(x) - gain * t.w


def by_loop(x, y, t):
    rows = [by_precisions(float(a), float(b), t) for a, b in zip(x, y, strict=True)]
    return torch.tensor([m for m, _ in rows]), torch.tensor([v for _, v in rows])


def changed(function, **numbers):
    """Return ``function`` for a story some of whose numbers are others."""

    def answer(*args):
        *given, t = args
        return function(*given, type(t)(**{**vars(t), **{k: v(t) for k, v in numbers.items()}}))

    return answer


def second(function):
    return lambda x, y, t: (by_precisions(x, y, t)[0], function(by_precisions(x, y, t)[1]) * torch.ones_like(x))


def witnesses(sure=lambda t: 1 + t.w**2 / t.s**2, heard=lambda t: t.w / t.s**2):
    """Return an answer in which what the witnesses say, or how sure they are, may be wrong."""
    return lambda x, y, t: ((t.a * y + heard(t) * (x - t.u * y)) / sure(t), 1 / sure(t) + 0 * x)


def unscaled(x, y, t):
    mean, variance = by_precisions(x, y, t)
    return mean / variance, variance


RIGHT["2.2"] = [
    ("precisions", (by_precisions,)),
    ("a gain", (by_gain,)),
    ("a loop", (by_loop,)),
    ("in float64", (lambda x, y, t: by_gain(x.double(), y.double(), t),)),
]
WRONG["2.2"] = [
    ("prior mean", "y left out of the prior", (changed(by_precisions, a=lambda t: 0.0),)),
    ("decoder", "y left out of the likelihood", (changed(by_precisions, u=lambda t: 0.0),)),
    ("std", "root of the variance", (second(lambda v: v**0.5),)),
    ("precision", "not inverted", (second(lambda v: 1 / v),)),
    ("no prior", "x alone", (lambda x, y, t: ((x - t.u * y) / t.w, t.s**2 / t.w**2 + 0 * x),)),
    ("prior precision", "1 forgotten", (witnesses(sure=lambda t: t.w**2 / t.s**2),)),
    ("prior precision", "1 forgotten in the variance", (second(lambda v: v / (1 - v)),)),
    ("w", "w for w²", (witnesses(sure=lambda t: 1 + t.w / t.s**2),)),
    ("noise", "s for s² in the mean", (witnesses(heard=lambda t: t.w / t.s),)),
    ("noise", "s for s² in the precision", (witnesses(sure=lambda t: 1 + t.w**2 / t.s),)),
    ("w in the mean", "x not weighed by w", (witnesses(heard=lambda t: 1 / t.s**2),)),
    ("mean unscaled", "not divided by the precision", (unscaled,)),
    ("swapped", "variance first", (lambda *a: by_precisions(*a)[::-1],)),
    ("one number", "a float for the variance", (lambda *a: (by_precisions(*a)[0], float(by_precisions(*a)[1][0])),)),
    ("one number", "a tensor without axes", (lambda *a: (by_precisions(*a)[0], by_precisions(*a)[1][0]),)),
    ("noise", "s for s²", (changed(by_precisions, s=lambda t: t.s**0.5),)),
]


def pieces(x, y, m, v, t):
    fit = -0.5 * math.log(2 * math.pi * t.s**2) - ((x - t.w * m - t.u * y) ** 2 + t.w**2 * v) / (2 * t.s**2)
    return fit, 0.5 * (v + (m - t.a * y) ** 2 - 1 - v.log())


def bound(x, y, m, v, t):
    fit, kl = pieces(x, y, m, v, t)
    return fit - kl


def by_the_gap(x, y, m, v, t):
    mean, variance = by_gain(x, y, t)
    log_p = Normal((t.w * t.a + t.u) * y, (t.w**2 + t.s**2) ** 0.5).log_prob(x)
    return log_p - kl_divergence(Normal(m, v.sqrt()), Normal(mean, variance.sqrt()))


def by_distributions(x, y, m, v, t):
    q, prior = Normal(m, v**0.5), Normal(t.a * y, 1.0)
    at_mean = Normal(t.w * m + t.u * y, t.s).log_prob(x)
    return at_mean - t.w**2 * v / (2 * t.s**2) - kl_divergence(q, prior)


def swapped(x, y, m, v, t):
    return pieces(x, y, m, v, t)[0] - kl_divergence(Normal(t.a * y, 1.0), Normal(m, v**0.5))


def standard_prior(x, y, m, v, t):
    return pieces(x, y, m, v, t)[0] - 0.5 * (v + m**2 - 1 - v.log())


RIGHT["2.3"] = [
    ("closed form", (bound,)),
    ("log p minus the gap", (by_the_gap,)),
    ("torch.distributions", (by_distributions,)),
    ("in float64", (lambda x, y, m, v, t: bound(x.double(), y.double(), m.double(), v.double(), t),)),
]
WRONG["2.3"] = [
    ("spread", "the mean only", (lambda x, y, m, v, t: bound(x, y, m, v, t) + t.w**2 * v / (2 * t.s**2),)),
    ("kl sign", "KL added", (lambda *a: sum(pieces(*a)),)),
    ("prior", "y left out of the prior", (standard_prior,)),
    ("swapped", "prior and posterior", (swapped,)),
    ("std", "variance for σ", (lambda x, y, m, v, t: bound(x, y, m, v**2, t),)),
    ("constant", "2π dropped", (lambda x, y, m, v, t: bound(x, y, m, v, t) + 0.5 * math.log(2 * math.pi * t.s**2),)),
    (
        "decoder",
        "y left out of the likelihood",
        (lambda x, y, m, v, t: changed(pieces, u=lambda _: 0.0)(x, y, m, v, t)[0] - pieces(x, y, m, v, t)[1],),
    ),
    ("no kl", "fit only", (lambda *a: pieces(*a)[0],)),
    ("sign", "the loss", (lambda *a: -bound(*a),)),
    ("noise", "s² as the scale", (changed(bound, s=lambda t: t.s**2),)),
]


def shifted(log_w):
    top = log_w.max(dim=1, keepdim=True).values
    return top[:, 0] + (log_w - top).exp().mean(1).log()


def added_up(log_w):
    total = log_w[:, 0]
    for k in range(1, log_w.shape[1]):
        total = torch.logaddexp(total, log_w[:, k])
    return total - math.log(log_w.shape[1])


RIGHT["2.4"] = [
    ("logsumexp", (lambda w: torch.logsumexp(w, -1) - math.log(w.size(1)),)),
    ("largest out first", (shifted,)),
    ("one after the other", (added_up,)),
    ("in float64", (lambda w: (w.double() - math.log(w.size(1))).logsumexp(1),)),
]
WRONG["2.4"] = [
    ("mean of logs", "log inside", (lambda w: w.mean(1),)),
    ("log k", "sum for mean", (lambda w: w.logsumexp(1),)),
    ("divided", "logsumexp / K", (lambda w: w.logsumexp(1) / w.size(1),)),
    ("axis", "dim=0", (lambda w: w.logsumexp(0) - math.log(len(w)),)),
    ("batch", "averaged", (lambda w: (w.logsumexp(1) - math.log(w.size(1))).mean(),)),
    ("unstable", "exp, mean, log", (lambda w: w.exp().mean(1).log(),)),
    ("one maximum", "the largest of all images", (lambda w: w.max() + (w - w.max()).exp().mean(1).log(),)),
]

RIGHT["2.5"] = [
    ("right guess", ("narrower", 0.4359)),
    ("wrong guess", ("wider", torch.tensor(0.436))),
    ("one for each latent", ("the same", torch.tensor([0.4359, 0.4358]))),
]
WRONG["2.5"] = [
    ("prediction", "no guess", ("thin", 0.436)),
    ("marginal", "each latent's own width", ("narrower", 1.0)),
    ("variance", "squared", ("narrower", 0.19)),
    ("log", "no exp", ("narrower", -0.83)),
    ("unfinished", "stopped early", ("narrower", 0.47)),
    ("unfinished", "two widths", ("narrower", torch.tensor([0.4, 0.5]))),
]


def joint(x, y, z, t):
    return Normal(t.w * z + t.u * y, t.s).log_prob(x) + Normal(t.a * y, 1.0).log_prob(z)


def estimate(x, y, mean, log_std, eps, t, q_mean, q_log_std, z=None):
    z = mean + log_std.exp() * eps if z is None else z
    return joint(x, y, z, t) - Normal(q_mean, q_log_std.exp()).log_prob(z)


def listening(log_q):
    """Return an answer with an undetached q, whose density at z is ``log_q(q, z)``."""

    def answer(x, y, mean, log_std, eps, t):
        z = mean + log_std.exp() * eps
        return joint(x, y, z, t) - log_q(Normal(mean, log_std.exp()), z)

    return answer


def quiet(x, y, mean, log_std, eps, t):
    return estimate(x, y, mean, log_std, eps, t, mean.detach(), log_std.detach())


def by_formula(x, y, mean, log_std, eps, t):
    z, m, ls = mean + log_std.exp() * eps, mean.detach(), log_std.detach()
    half = 0.5 * math.log(2 * math.pi)
    likelihood = -0.5 * ((x - t.w * z - t.u * y) / t.s) ** 2 - math.log(t.s) - half
    prior = -0.5 * (z - t.a * y) ** 2 - half
    return likelihood + prior + 0.5 * ((z - m) * (-ls).exp()) ** 2 + ls + half


RIGHT["2.6"] = [("torch.distributions", (quiet,)), ("by formula", (by_formula,))]
WRONG["2.6"] = [
    ("score", "nothing held", (lambda x, y, m, ls, e, t: estimate(x, y, m, ls, e, t, m, ls),)),
    ("score", "only the mean held", (lambda x, y, m, ls, e, t: estimate(x, y, m, ls, e, t, m.detach(), ls),)),
    (
        "path",
        "z detached",
        (lambda x, y, m, ls, e, t: estimate(x, y, m, ls, e, t, m, ls, (m + ls.exp() * e).detach()),),
    ),
    ("too much", "z detached inside log q", (listening(lambda q, z: q.log_prob(z.detach())),)),
    ("too much", "all of log q detached", (listening(lambda q, z: q.log_prob(z).detach()),)),
    ("everything", "all detached", (lambda *a: quiet(*a).detach(),)),
    ("value", "no log q", (lambda x, y, m, ls, e, t: quiet(x, y, m, ls, e, t) - 0.5 * e**2,)),
    ("constant", "2π dropped", (lambda *a: quiet(*a) + 0.5 * math.log(2 * math.pi),)),
]
