"""Answers to the exercises of chapter 05."""

import math

import torch
import torch.nn.functional as F

RIGHT, WRONG = {}, {}

RIGHT["5.1"] = [("two digits", (0.32, 0.47)), ("tensors", (torch.tensor(0.3162), torch.tensor([0.4675])))]
WRONG["5.1"] = [
    ("as is", "p is the share", (0.1, 0.81)),
    ("divided", "by the parts", (0.05, 0.9)),
    ("kept", "1 - p", (0.684, 0.47)),
    ("rest", "all that is told something", (0.316, 0.9)),
    ("one part", "not squared", (0.316, 0.684)),
    ("swapped", "in the wrong order", (0.4675, 0.3162)),
]


def hand(hours, unit=2 * math.pi / 24, flag=1.0):
    known = ~hours.isnan()
    angle = torch.where(known, hours, 0.0) * unit
    return torch.stack([angle.cos(), angle.sin(), flag * torch.ones_like(angle)], 1) * known[:, None]


def by_rows(hours):
    rows = []
    for h in hours.tolist():
        angle = math.tau * h / 24
        rows.append([0.0, 0.0, 0.0] if math.isnan(h) else [math.cos(angle), math.sin(angle), 1.0])
    return torch.tensor(rows)


def multiplied(hours):
    angle = hours * math.pi / 12
    return torch.stack([angle.cos(), angle.sin(), torch.ones_like(angle)], 1) * ~hours.isnan()[:, None]


def inverted(hours):
    columns = hand(hours)
    columns[:, 2] = hours.isnan()
    return columns


RIGHT["5.2"] = [
    ("torch.where", (hand,)),
    ("a loop", (by_rows,)),
    ("nan_to_num at the end", (lambda h: torch.nan_to_num(multiplied(h)),)),
    ("in float64", (lambda h: hand(h.double()),)),
]
WRONG["5.2"] = [
    ("half", "12 hours", (lambda h: hand(h, 2 * math.pi / 12),)),
    ("no turn", "hours / 24", (lambda h: hand(h, 1 / 24),)),
    ("no turn", "half a turn", (lambda h: hand(h, math.pi / 24),)),
    ("radians", "hours as angles", (lambda h: hand(h, 1.0),)),
    ("degrees", "360 for 2π", (lambda h: hand(h, 360 / 24),)),
    ("order", "sine first", (lambda h: hand(h)[:, [1, 0, 2]],)),
    ("nan", "multiplied by the flag", (multiplied,)),
    ("midnight", "0 for unknown", (lambda h: hand(h.nan_to_num()),)),
    (
        "midnight",
        "0 for unknown, but flagged",
        (lambda h: torch.cat([hand(h.nan_to_num())[:, :2], hand(h)[:, 2:]], 1),),
    ),
    ("flag", "1 for unknown", (inverted,)),
    ("flag", "always 1", (lambda h: torch.cat([hand(h)[:, :2], torch.ones(len(h), 1)], 1),)),
    ("no flag", "two columns", (lambda h: hand(h)[:, :2],)),
]


def mask_of(scores, lengths, more=0):
    return torch.arange(scores.shape[-1]) < (lengths + more)[:, None, None]


def filled(scores, mask, low=-1e9):
    return scores.masked_fill(~mask, low).softmax(-1)


def by_caption(scores, lengths):
    rows = []
    for s, n in zip(scores, lengths.tolist(), strict=True):
        rows.append(F.pad(s[:, :n].softmax(-1), (0, s.shape[1] - n)))
    return torch.stack(rows)


def exponentials(scores, lengths, top=lambda scores: scores.amax(-1, keepdim=True)):
    e = (scores - top(scores)).exp() * mask_of(scores, lengths)
    return e / e.sum(-1, keepdim=True).clamp_min(1e-30)


def covered(scores, lengths):
    mask = mask_of(scores, lengths)
    return torch.where(mask, filled(scores, mask, -math.inf), 0.0)


def added(scores, lengths):
    return (scores + mask_of(scores, lengths).log()).softmax(-1)


RIGHT["5.3"] = [
    ("masked_fill", (lambda s, n: filled(s, mask_of(s, n)) * mask_of(s, n),)),
    ("exponentials", (exponentials,)),
    ("caption by caption", (by_caption,)),
    ("masked_fill with -inf, chosen afterwards", (covered,)),
    ("in float64", (lambda s, n: exponentials(s.double(), n),)),
]
WRONG["5.3"] = [
    ("no mask", "plain softmax", (lambda s, n: s.softmax(-1),)),
    ("zeroed", "scores times mask", (lambda s, n: (s * mask_of(s, n)).softmax(-1),)),
    ("leaks", "masked afterwards", (lambda s, n: s.softmax(-1) * mask_of(s, n),)),
    ("inverted", "~ left out", (lambda s, n: s.masked_fill(mask_of(s, n), -1e9).softmax(-1) * ~mask_of(s, n),)),
    ("one more", "<= for <", (lambda s, n: filled(s, mask_of(s, n, 1)) * mask_of(s, n, 1),)),
    (
        "axis",
        "softmax over the heads",
        (lambda s, n: s.masked_fill(~mask_of(s, n), -1e9).softmax(1) * mask_of(s, n),),
    ),
    (
        "axis",
        "softmax over the captions",
        (lambda s, n: s.masked_fill(~mask_of(s, n), -1e9).softmax(0) * mask_of(s, n),),
    ),
    ("unstable", "exp and sum", (lambda s, n: exponentials(s, n, lambda scores: 0.0),)),
    ("one maximum", "the largest of all", (lambda s, n: exponentials(s, n, torch.max),)),
    ("nan", "-inf", (lambda s, n: filled(s, mask_of(s, n), -math.inf),)),
    ("padding", "not multiplied", (lambda s, n: filled(s, mask_of(s, n)),)),
    ("gradient", "-inf added, covered up", (lambda s, n: torch.where(mask_of(s, n), added(s, n), 0.0),)),
    ("gradient", "-inf added, nan_to_num", (lambda s, n: added(s, n).nan_to_num(),)),
]


def coins(y, p):
    return torch.rand(len(y)) < p


def where(y, a, p):
    return torch.where(coins(y, p), -1, y), torch.where(coins(y, p)[:, None], math.nan, a)


def copies(y, a, p):
    y, a = y.clone(), a.clone()
    y[torch.bernoulli(torch.full((len(y),), p)).bool()] = -1
    a[torch.bernoulli(torch.full((len(y),), p)).bool()] = math.nan
    return y, a


def image_by_image(y, a, p):
    hidden = [(-1 if torch.rand(()) < p else int(label)) for label in y]
    rows = [row * math.nan if torch.rand(()) < p else row for row in a]
    return torch.tensor(hidden), torch.stack(rows)


def one_coin(y, a, p):
    hidden = coins(y, p)
    return y.masked_fill(hidden, -1), a.masked_fill(hidden[:, None], math.nan)


def always_the_same(y, a, p):
    torch.manual_seed(0)
    return where(y, a, p)


def whole_batch(y, a, p):
    return (y.new_full(y.shape, -1) if torch.rand(()) < p else y), (a * math.nan if torch.rand(()) < p else a)


def hide_entries(y, a, p):
    return where(y, a, p)[0], a.masked_fill(torch.rand_like(a) < p, math.nan)


RIGHT["5.4"] = [("where", (where,)), ("copies", (copies,)), ("image by image", (image_by_image,))]
WRONG["5.4"] = [
    ("one coin", "one row of coins", (one_coin,)),
    ("whole batch", "two coins", (whole_batch,)),
    ("kept", "p to keep", (lambda y, a, p: where(y, a, 1 - p),)),
    ("zero label", "0 for unknown", (lambda y, a, p: (y.masked_fill(coins(y, p), 0), where(y, a, p)[1]),)),
    ("zero label", "10 for unknown", (lambda y, a, p: (y.masked_fill(coins(y, p), 10), where(y, a, p)[1]),)),
    ("zero numbers", "0 for unknown", (lambda y, a, p: (where(y, a, p)[0], a * ~coins(y, p)[:, None]),)),
    ("entries", "a coin for each number", (hide_entries,)),
    ("label only", "numbers forgotten", (lambda y, a, p: (where(y, a, p)[0], a),)),
    ("numbers only", "labels forgotten", (lambda y, a, p: (y, where(y, a, p)[1]),)),
    ("seeded", "manual_seed inside", (always_the_same,)),
    ("share", "half", (lambda y, a, p: where(y, a, 0.5),)),
    ("share", "all", (lambda y, a, p: where(y, a, 1.1),)),
    ("changed", "labels shifted", (lambda y, a, p: (where(y, a, p)[0] + 1, a),)),
    ("changed", "numbers scaled", (lambda y, a, p: (where(y, a, p)[0], 2 * where(y, a, p)[1]),)),
]

RIGHT["5.5"] = [
    ("right guess", (0.5, (0.51, 0.79))),
    ("wrong guess, a tensor", (1.0, torch.tensor([0.48, 0.82]))),
]
WRONG["5.5"] = [
    ("prediction", "no guess", (torch.tensor([0.5, 0.8]), (0.5, 0.8))),
    ("pair", "one number", (0.5, 0.5)),
    ("one", "what the ruler reads", (0.5, (1.0, 0.99))),
    ("correlation", "r", (0.5, (0.71, 0.9))),
    ("not better", "one reading twice", (0.5, (0.5, 0.49))),
    ("summed", "not divided", (0.5, (0.5, 0.2))),
    ("exchanged", "four first", (0.5, (0.8, 0.5))),
]
