"""Checks of chapter 04's exercises: layers that read a condition."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvae_lib.conditioning import CrossAttention, FiLM
from cvae_lib.course.checks._generic import GENERIC
from cvae_lib.course.checks._given import drawn
from cvae_lib.course.checks._probe import Mistakes, Probe, Trial
from cvae_lib.course.checks._registry import exercise
from cvae_lib.course.checks._verdict import shown

TITLE = "04 · Where does y go?"


@exercise(
    "4.1",
    "parameters that do nothing, by hand",
    hints={
        "one of two": "That is γ alone, or β alone. FiLM makes both, each as long as the features.",
        "biases": "You counted biases. These layers have none: where c is zero, they do nothing.",
        "square": "That is a matrix from features to features. γ and β are made from the condition, which is shorter.",
        "one head": "That is one head. There are more of them, side by side.",
        "no output": "The output matrix is missing: what the heads found goes back to the features.",
        "once": "Half of them: questions and outputs both have the features at one end, keys and values the condition.",
        "question": "Those are the questions alone. Where the question does not matter, the keys do not either.",
        "key": "Those are the keys alone. Where the keys do not matter, the question does not either.",
        "all": "That is all of them. Value and output still do what addition does: they get gradients.",
    },
)
def _idle(probe: Probe, film: Any, attention: Any, idle: Any) -> None:
    the = drawn("4.1", probe.edition)
    f, c, width = the.features, the.classes, 16 * the.heads
    slot = CrossAttention(f, c, heads=the.heads, head_dim=16)
    nn.init.ones_(slot.output.weight)
    slot(torch.randn(3, f), torch.randn(3, c)).square().sum().backward()
    sizes = {name: float(part.numel()) for name, part in slot.named_parameters()}
    silent = [name for name, part in slot.named_parameters() if not bool(part.grad.abs().max() > 1e-3)]  # type: ignore[union-attr]
    right = float(sum(part.numel() for part in FiLM(f, c).parameters()))
    wrong_film = {"one of two": right / 2, "biases": right + 2 * f, "square": 2.0 * f * f}
    probe.number(film, right, wrong_film, name="film")
    everything = sum(sizes.values())
    mistakes = {
        "one head": everything / the.heads,
        "no output": everything - sizes["output.weight"],
        "once": everything / 2,
        "biases": everything + 3 * width + f,
    }
    probe.number(attention, everything, mistakes, name="attention")
    wrong = {"question": sizes["query.weight"], "key": sizes["key.weight"], "all": everything}
    wrong["one head"] = everything / 2 / the.heads
    probe.number(idle, sum(sizes[name] for name in silent), wrong, name="idle")


@exercise(
    "4.2",
    "FiLM that starts as nothing",
    seconds=30.0,
    hints={
        "instance": GENERIC["instance"],
        "model": "Write it as an `nn.Module`: its weights must be found by an optimiser.",
        "silent": "Before training it returns zeros whatever h is. Without the '1 +', γ = 0 loses the features.",
        "without 1": "Each feature is multiplied by γ(c) alone, which is small at the start. Write 1 + γ(c).",
        "start": "Before training it changes h already. Start the weights that give γ and β at zero.",
        "deaf": "It is the identity, and stays it: no gradient reaches its weights. Are there two zero layers in "
        "a row, or none with weights?",
        "no scale": "It only shifts: whatever c is, a feature is never multiplied. That is addition, (4.2).",
        "no shift": "It only scales: a feature that is 0 stays 0 whatever c is. Where is β(c)?",
        "one for all": "All features get the same γ. Make one for each feature: 2 F numbers from c.",
        "batch": "Every row is modulated in the same way. Each example has a condition of its own.",
        "unknown y": "Where c is zero it is not the identity once it has learned something. Take `bias=False`.",
    },
)
def _film(probe: Probe, film: Any) -> None:
    for trial in probe.trials():
        b, f, c = trial.size(5, 7), trial.size(48, 64), trial.size(6, 9)
        if isinstance(film, nn.Module):
            trial.fail("instance", expected="a class", got=f"a {type(film).__name__} made of one")
        layer = trial.ask(film, features=f, numbers=c)
        if not isinstance(layer, nn.Module):
            trial.fail("model", expected="an nn.Module", got=shown(layer))
        h, told = trial.normal(b, f), trial.normal(b, c)
        start = trial.tensor(trial.ask(layer, h=h, c=told))
        if start.shape != h.shape:
            trial.compare(start, h)
        if not torch.allclose(start, h.double().cpu(), atol=1e-4):
            _misses_identity(trial, layer, h, told)
        _learn(trial, layer, h, told)
        scale, shift = _scale_and_shift(trial, layer, h, told)
        moves = float((scale - 1).abs().max()) > 1e-3, float(shift.abs().max()) > 1e-3
        if not all(moves):
            names = {(False, False): "deaf", (False, True): "no scale", (True, False): "no shift"}
            trial.fail(names[moves], expected="a scale and a shift that training can move")
        if float(scale.std(1).max()) < 1e-4 * float((scale - 1).abs().max()):
            trial.fail("one for all", expected="one scale for each feature", got=scale[0])
        if float(scale.std(0).max()) < 1e-4 * float((scale - 1).abs().max()):
            trial.fail("batch", expected="one scale for each example", got=scale[:, 0])
        nothing = torch.zeros_like(told)
        trial.compare(trial.ask(layer, h=h, c=nothing), h, otherwise="unknown y")
        trial.compare(trial.ask(layer, h=h, c=told), scale * h.double().cpu() + shift, relative=1e-2, absolute=1e-3)


def _scale_and_shift(trial: Trial, layer: nn.Module, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Take a modulation apart by asking it about features that are all 0, and all 1."""
    zero = trial.tensor(trial.ask(layer, h=torch.zeros_like(h), c=c))
    return trial.tensor(trial.ask(layer, h=torch.ones_like(h), c=c)) - zero, zero


def _misses_identity(trial: Trial, layer: nn.Module, h: Tensor, c: Tensor) -> None:
    scale, _ = _scale_and_shift(trial, layer, h, c)
    got = trial.ask(layer, h=h, c=c)
    if not scale.any():
        trial.fail("silent", expected=h, got=got)
    trial.fail("without 1" if abs(float(scale.mean())) < 0.5 else "start", expected=h, got=got)


def _learn(trial: Trial, layer: nn.Module, h: Tensor, c: Tensor) -> None:
    """Teach the layer something for a few steps, so that its weights are no longer what they started as."""
    parameters = [part for part in layer.parameters() if part.requires_grad]
    if not parameters:
        return
    target = (trial.normal(*h.shape) * h + trial.normal(*h.shape)).detach()
    optimiser = torch.optim.Adam(parameters, lr=0.05)
    for _ in range(20):
        loss = (trial.ask(layer, h=h, c=c) - target).square().mean()
        if not loss.requires_grad:
            return
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@exercise(
    "4.3",
    "a question to a list",
    hints={
        "axis": "The softmax runs over the examples of the batch. The tokens of one example compete: dim=1.",
        "unscaled": "The scores are not divided by √d. For long questions the softmax then picks one token at once.",
        "width": "The scores are divided by d. It is √d that keeps their spread at 1.",
        "no softmax": "Those are the scores. They must become weights that sum to 1 over the tokens.",
        "uniform": "Every token gets the same weight: that is the mean of the list. The question must play a part.",
        "keys": "You averaged the keys. What is found is made of the values.",
        "order": "Return what was found first, the weights second.",
        "best": "You took the best token only. The others count too, if less, and a choice has no gradient.",
        "unstable": "Right for moderate scores, but `exp` of large ones overflows; `softmax` takes the largest out.",
        "one maximum": "Right while all examples have scores of one size. Take out one maximum per example, `dim=1, "
        "keepdim=True`: with one for all, the scores of the others end at exp(-1000), and 0/0 is no weight.",
    },
)
def _attend(probe: Probe, attend: Any) -> None:
    for trial in probe.trials():
        for apart in (False, True):
            b, n, d, c = trial.size(2, 4), trial.size(5, 7), trial.size(8, 12), trial.size(2, 4)
            q, keys, values = trial.normal(b, d), trial.normal(b, n, d), trial.normal(b, n, c)
            if apart:  # the last question is 1,000 times as loud as the others, and fits a token
                q[-1] = 1000 * keys[-1, 0]
            found, weights = trial.pair(attend, q=q, keys=keys, values=values)
            k, v = (part.double().cpu().numpy() for part in (keys, values))
            scores = (k * q.double().cpu().numpy()[:, None]).sum(2)  # (B, L)
            exact = _weights(scores / d**0.5, 1)
            if trial.tensor(found).shape == (b, n) and trial.tensor(weights).shape == (b, c):
                trial.fail("order", expected=f"shapes {(b, c)} and {(b, n)}", got=f"shapes {(b, n)} and {(b, c)}")
            best = torch.eye(n)[torch.from_numpy(scores).argmax(1)]
            mistakes: Mistakes = {
                "axis": (_weights(scores / d**0.5, 0), _weights(scores, 0)),
                "unscaled": _weights(scores, 1),
                "width": _weights(scores / d, 1),
                "no softmax": (torch.from_numpy(scores / d**0.5), torch.from_numpy(scores)),
                "uniform": torch.full((b, n), 1 / n),
                "best": best,
            }
            kind = "unknown"
            if apart:
                loud = trial.tensor(weights)[-1:]
                kind = "one maximum" if bool(loud.isfinite().all()) else "unstable"
            trial.compare(weights, exact, {} if apart else mistakes, otherwise=kind, not_finite=kind)
            right = torch.from_numpy((exact.numpy()[:, :, None] * v).sum(1))  # (B, C)
            wrong = torch.from_numpy((exact.numpy()[:, :, None] * k).sum(1))
            trial.compare(found, right, {"keys": wrong, "best": torch.from_numpy(v[range(b), scores.argmax(1)])})


def _weights(scores: Any, axis: int) -> Tensor:
    """Return a softmax, in float64 after the largest score has been taken out."""
    e = np.exp(scores - scores.max(axis, keepdims=True))
    return torch.from_numpy(e / e.sum(axis, keepdims=True))


@exercise(
    "4.4",
    "a norm that keeps to itself",
    hints={
        "batch": "The mean is taken over the batch. That is batch norm, and what all examples share is subtracted.",
        "everything": "One mean for the whole tensor: examples are still mixed. Take one for each row, dim=1.",
        "unbiased": "Nearly: the variance divides by F - 1, as `var` and `std` do unless told `unbiased=False`.",
        "variance": "You divided by the variance. Divide by its square root.",
        "without 1": "Multiplied by γ alone: with γ = 0, nothing told, the features vanish. Write 1 + γ.",
        "before": "You modulated first and normalised last. Then most of what γ and β said is normalised away.",
        "not centred": "The mean of the features is not subtracted.",
        "eps": "An example whose features are all equal has variance 0. Add the 1e-5 under the root.",
    },
)
def _told_norm(probe: Probe, told_norm: Any) -> None:
    for trial in probe.trials():
        b, f = trial.size(3, 5), trial.size(4, 6)
        h, gamma, beta = 2 * trial.normal(b, f) + 1, trial.normal(b, f), trial.normal(b, f)
        got = trial.ask(told_norm, h=h, gamma=gamma, beta=beta)
        x, g, s = (part.double().cpu() for part in (h, gamma, beta))

        def normal(v: Tensor, axis: Any = 1, correction: int = 0) -> Tensor:
            spread = (v.var(axis, correction=correction, keepdim=True) + 1e-5).sqrt()
            return (v - v.mean(axis, keepdim=True)) / spread

        exact = (1 + g) * F.layer_norm(x, (f,)) + s
        mistakes: Mistakes = {
            "batch": tuple((1 + g) * normal(x, 0, ddof) + s for ddof in (0, 1)),
            "everything": tuple((1 + g) * normal(x, (0, 1), ddof) + s for ddof in (0, 1)),
            "unbiased": (1 + g) * normal(x, 1, 1) + s,
            "variance": (1 + g) * (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5) + s,
            "without 1": g * F.layer_norm(x, (f,)) + s,
            "before": F.layer_norm((1 + g) * x + s, (f,)),
            "not centred": tuple(
                (1 + g) * x / (scale + 1e-5).sqrt() + s
                for scale in (x.var(1, correction=0, keepdim=True), x.square().mean(1, keepdim=True))
            ),
        }
        trial.compare(got, exact, mistakes)
        flat = torch.ones(b, f, dtype=trial.dtype, device=trial.device) * trial.normal(b, 1)
        trial.compare(
            trial.ask(told_norm, h=flat, gamma=gamma, beta=beta), s, otherwise="eps", not_finite="eps", absolute=0.02
        )
