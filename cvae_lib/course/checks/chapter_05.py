"""Checks of chapter 05's exercises: conditions that go round, have padding, or are hidden."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvae_lib.course.checks._given import drawn
from cvae_lib.course.checks._probe import Mistakes, Probe, Trial
from cvae_lib.course.checks._registry import exercise

TITLE = "05 · What can y be?"


@exercise(
    "5.1",
    "how often nobody is told, by hand",
    hints={
        "as is": "That is the share that shall come with nothing told. It takes several coins at once to get there.",
        "divided": "You divided the share by the number of parts. Independent chances multiply.",
        "kept": "That is the chance of keeping a part. p is the chance of dropping it.",
        "rest": "That is every image that is told something. Everything is told only where no part is dropped.",
        "one part": "That is the chance that one part is kept. All of them must be.",
        "swapped": "The two answers are in the wrong order: first p, then the share told everything.",
    },
)
def _nobody(probe: Probe, p: Any, everything: Any) -> None:
    the = drawn("5.1", probe.edition)
    # The chance is found by bisection on the whole table of coins, not by taking a root.
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _table(middle, the.parts)[-1] < the.share else (low, middle)
    whole = _table(low, the.parts)[0]
    mistakes = {"as is": the.share, "divided": the.share / the.parts, "kept": 1 - low, "swapped": whole}
    probe.number(p, low, mistakes, name="p")
    probe.number(everything, whole, {"rest": 1 - the.share, "one part": 1 - low, "swapped": low}, name="everything")


def _table(p: float, parts: int) -> Any:
    """Return the chances that 0, 1, ... of the parts are dropped, coin by coin."""
    chances = np.ones(1)
    for _ in range(parts):
        chances = np.convolve(chances, [1 - p, p])
    return chances


@exercise(
    "5.2",
    "an hour is no number",
    hints={
        "half": "Your hand goes round twice a day, so 3:00 and 15:00 are the same. A whole day is one turn.",
        "no turn": "24 hours are not one turn: the angle is 2π · hours / 24.",
        "radians": "The hours went in as angles. Turn hours into an angle first: 24 of them are 2π.",
        "degrees": "`cos` and `sin` take radians, and these are degrees.",
        "order": "Cosine first, then sine, then the flag.",
        "nan": "An unknown hour gives NaN, which spreads to every weight in one step. It should be three zeros.",
        "midnight": "An unknown hour came out as midnight, hour 0. It should be no hour: three zeros.",
        "flag": "The flag is the wrong way round: 1 where the hour is known, 0 where not.",
        "no flag": "The flag is missing: the third column, 1 where the hour is known.",
    },
)
def _clock(probe: Probe, clock: Any) -> None:
    for trial in probe.trials():
        b = trial.size(6, 9)
        hours = torch.tensor([trial.uniform(0.5, 23.5) for _ in range(b)]).to(trial.device, trial.dtype)
        hours[trial.size(2, b - 1)] = math.nan
        got = trial.tensor(trial.ask(clock, hours=hours))
        exact, known = _hand(hours, 24 / (2 * math.pi)), ~hours.cpu().isnan()
        if got.ndim != 2 or len(got) != b:
            trial.compare(got, exact)
        right, flag = exact[known], torch.tensor([0.0, 0.0, 1.0])
        mistakes: Mistakes = {
            "half": _hand(hours, 12 / (2 * math.pi))[known],
            "no turn": (_hand(hours, 24)[known], _hand(hours, 24 / math.pi)[known]),
            "radians": _hand(hours, 1.0)[known],
            "degrees": _hand(hours, 24 / 360)[known],
            "order": right[:, [1, 0, 2]],
            "flag": right - flag,
            "no flag": right[:, :2],
        }
        trial.compare(got[known], right, mistakes)
        missing = got[~known][0]
        if not missing.isfinite().all():
            trial.fail("nan", expected=torch.zeros(3), got=missing)
        midnight = bool((missing[:2] - torch.tensor([1.0, 0.0])).abs().max() < 1e-3)
        trial.compare(
            missing, torch.zeros(3), otherwise="midnight" if midnight else "flag" if missing[2] else "unknown"
        )


def _hand(hours: Tensor, unit: float) -> Tensor:
    """Return the tip of a hand as a complex exponential, and the flag."""
    known = ~hours.cpu().isnan()
    tip = np.exp(1j * hours.double().cpu().nan_to_num().numpy() / unit)
    return torch.from_numpy(np.stack([tip.real, tip.imag, np.ones_like(tip.real)], 1)) * known[:, None]


@exercise(
    "5.3",
    "captions of different lengths",
    hints={
        "no mask": "Padding gets a share of the attention: the lengths are not used. The same caption would then draw "
        "something else in a batch with a longer one.",
        "zeroed": "Padding has the score 0, and e⁰ is 1: it still gets a share. Its score must be very low, not zero.",
        "leaks": "Padding gets nothing, but what it would have got is lost: the weights of the words do not sum to 1.",
        "inverted": "The mask is the wrong way round: the words get nothing and the padding everything.",
        "one more": "One place too many: a caption of n words has the places 0 to n - 1.",
        "axis": "The softmax runs over heads, or captions. The words of one caption compete: the last axis.",
        "unstable": "Right for moderate scores, but `exp` of large ones overflows. Take the largest out first, as "
        "`softmax` does.",
        "one maximum": "Right while all captions have scores of one size. Take out one maximum per caption and head, "
        "the last axis with `keepdim=True`: with one for all, nothing is left of the others.",
        "nan": "A caption without a word gives 0/0, NaN. Use a very low number in place of -inf, and multiply.",
        "padding": "A caption without a word spreads its weight over padding. All its weights must be zero.",
        "gradient": "The weights are right, but the gradient is NaN where a caption has no word: it comes from "
        "a -inf that is only covered up afterwards.",
    },
)
def _word_weights(probe: Probe, word_weights: Any) -> None:
    for trial in probe.trials():
        b, heads, n = trial.size(4, 6), trial.size(2, 3), trial.size(5, 7)
        lengths = torch.tensor([n, 2] + [trial.size(1, n - 1) for _ in range(b - 3)] + [0]).to(trial.device)
        scores = (1.5 + 2 * trial.normal(b, heads, n)).requires_grad_()
        got = trial.ask(word_weights, scores=scores, lengths=lengths)
        array, counts = scores.detach().double().cpu().numpy(), lengths.tolist()
        exact = _by_captions(array, counts)
        full = torch.from_numpy(array).softmax(-1)
        mask = torch.arange(n) < lengths.cpu()[:, None, None]
        low = torch.from_numpy(array).masked_fill(~mask, -1e9)
        mistakes: Mistakes = {
            "no mask": full,
            "zeroed": (
                (mask * torch.from_numpy(array)).softmax(-1),
                (mask * torch.from_numpy(array)).softmax(-1) * mask,
            ),
            "leaks": full * mask,
            "inverted": (_by_captions(array[..., ::-1], [n - m for m in counts]).flip(-1),),
            "one more": (_by_captions(array, [min(m + 1, n) for m in counts]),),
            "axis": tuple(torch.nan_to_num(low.softmax(axis)) * mask for axis in (0, 1)),
        }
        words = slice(0, b - 1)
        value = trial.tensor(got)
        if value.shape != exact.shape:
            trial.compare(value, exact)
        trial.compare(
            value[words],
            exact[words],
            {name: _rows(wrong, words) for name, wrong in mistakes.items()},
            not_finite="nan",
        )
        _apart(trial, word_weights, scores, lengths)
        if not value[-1].isfinite().all():
            trial.fail("nan", expected=exact[-1], got=value[-1])
        trial.compare(value[-1], exact[-1], otherwise="padding")
        weighed = (got * trial.normal(b, heads, n)).sum()
        (slope,) = torch.autograd.grad(weighed, scores) if weighed.requires_grad else (torch.zeros(1),)
        if not slope.isfinite().all():
            trial.fail("gradient", expected="a gradient without NaN", got=slope[-1])


def _apart(trial: Trial, word_weights: Any, scores: Tensor, lengths: Tensor) -> None:
    """Look at captions of which the first has moderate scores and the others have very large ones."""
    on, loud = trial.on, scores.detach() + 900 * (torch.arange(len(scores), device=trial.device) > 0)[:, None, None]
    value = trial.tensor(trial.ask(word_weights, scores=loud, lengths=lengths))
    words = slice(0, len(scores) - 1)
    exact = _by_captions(loud.double().cpu().numpy(), lengths.tolist())
    first = bool(torch.allclose(value[0], exact[0], rtol=1e-3, atol=1e-4))
    kind = "unstable" if first else "one maximum"
    trial.compare(value[words], exact[words], otherwise=kind, not_finite=kind)
    trial.on = on


def _rows(wrong: Tensor | tuple[Tensor, ...], rows: slice) -> tuple[Tensor, ...]:
    return tuple(each[rows] for each in (wrong if isinstance(wrong, tuple) else (wrong,)))


def _by_captions(scores: Any, lengths: list[int]) -> Tensor:
    """Return the weights one caption at a time, each cut to its words."""
    weights = np.zeros_like(scores)
    for row, words in enumerate(lengths):
        if words:
            e = np.exp(scores[row, :, :words] - scores[row, :, :words].max(1, keepdims=True))
            weights[row, :, :words] = e / e.sum(1, keepdims=True)
    return torch.from_numpy(weights)


@exercise(
    "5.4",
    "not told",
    hints={
        "one coin": "Label and numbers are always hidden together, so neither is ever met alone. Toss a coin for each.",
        "whole batch": "The whole batch is hidden, or nothing of it. Toss a coin for each image.",
        "kept": "That many are kept, not hidden: p is the chance of hiding. `rand < p` is true with chance p.",
        "zero label": "Hidden labels became a class. Unknown is -1.",
        "zero numbers": "Hidden numbers became 0, which is a number like any other. Unknown is NaN.",
        "entries": "Single numbers are hidden. Here a coin hides all numbers of an image.",
        "label only": "The numbers are never hidden.",
        "numbers only": "The labels are never hidden.",
        "seeded": "The same images are hidden in every call: their labels would never be learned. Do not fix the seed.",
        "share": "The share that is hidden is not p.",
        "changed": "What is not hidden must come back as it was.",
    },
)
def _hide(probe: Probe, hide: Any) -> None:
    trial, b = probe.trial(), 4000
    p = trial.uniform(0.15, 0.35)
    y = torch.randint(10, (b,), generator=trial.random)
    a = trial.normal(b, trial.size(2, 3))
    told, numbers = trial.pair(hide, y=y, a=a, p=p)
    told, numbers = trial.tensor(told), trial.tensor(numbers)
    trial.on = f"{b} images with {a.shape[1]} numbers each, p = {p:.2f}"
    for value, before in ((told, y), (numbers, a)):
        if value.shape != before.shape:
            trial.fail("shape", expected=f"shape {tuple(before.shape)}", got=f"shape {tuple(value.shape)}")
    again = trial.tensor(trial.pair(hide, y=y, a=a, p=p)[0])
    trial.on = f"{b} images with {a.shape[1]} numbers each, p = {p:.2f}"
    label, entries = told != y, ~((numbers - a).abs() < 1e-6)
    if label.any() and not (told[label] == -1).all():
        trial.fail("zero label" if len(told[label].unique()) == 1 else "changed", expected="-1", got=told[label][:3])
    if entries.any() and not numbers[entries].isnan().all():
        zeros = bool((numbers[entries] == 0).all())
        trial.fail("zero numbers" if zeros else "changed", expected="NaN", got=numbers[entries][:3])
    rows = entries.any(1)
    if bool((rows != entries.all(1)).any()):
        trial.fail("entries", expected="rows of numbers, or rows of NaN", got=numbers[rows][0])
    shares = [float(part.double().mean()) for part in (label, rows)]
    got = f"{shares[0]:.3f} of the labels, {shares[1]:.3f} of the numbers"
    both = [abs(share - p) > 6 * math.sqrt(p * (1 - p) / b) for share in shares]
    if all(both) and all(share in (0.0, 1.0) for share in shares):
        _all_or_nothing(trial, hide, y, a, got)
    if 0 in shares and max(shares) > 0:
        trial.fail("label only" if shares[0] else "numbers only", expected=f"{p:.3f} of each", got=got)
    if any(both):
        kept = all(abs(share - (1 - p)) < 6 * math.sqrt(p * (1 - p) / b) for share in shares)
        trial.fail("kept" if kept else "share", expected=f"{p:.3f} of each", got=got)
    if torch.equal(again, told):
        trial.fail("seeded")
    joint = float((label & rows).double().mean())
    if abs(joint - p * p) > 6 * math.sqrt(p * p * (1 - p * p) / b):
        trial.fail("one coin", expected=f"both hidden in {p * p:.3f} of the images", got=f"in {joint:.3f}")


def _all_or_nothing(trial: Trial, hide: Any, y: Tensor, a: Tensor, got: str) -> None:
    """Tell a coin for the whole batch from a share that is never, or always, hidden."""
    on = trial.on
    calls = [bool((trial.tensor(trial.pair(hide, y=y, a=a, p=0.5)[0]) == -1).all()) for _ in range(30)]
    trial.on = on
    trial.fail("whole batch" if len(set(calls)) == 2 else "share", expected="some images of the batch", got=got)
