"""Training: it learns, it is the loop one would write in plain torch, it takes any data and model, it stops well."""

import collections
import copy
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from bars import LinearGaussian, RaisesAt, bars, in_turn, same, small, weights
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data import TensorDataset as TorchTensors

from cvae_lib import environment
from cvae_lib.conditions import LabelCondition, Observed
from cvae_lib.data import Batch, ImageSet, TensorSet, map_tensors
from cvae_lib.evaluation import log_likelihood
from cvae_lib.likelihoods import BernoulliPixels
from cvae_lib.model import CVAE
from cvae_lib.networks import MLPDecoder, MLPEncoder
from cvae_lib.objective import Constant, Terms, elbo_terms
from cvae_lib.priors import ConditionalGaussian
from cvae_lib.training import History, TrainingDiverged, autocast, fit, one_cycle, seeded

CPU = torch.device("cpu")
USUAL: dict[str, Any] = {"batch_size": 64, "learning_rate": 0.01, "precision": "float32", "device": "cpu"}


@pytest.fixture(autouse=True)
def _at_full_length(full_profile: None) -> None:
    environment.settings.progress = False


# --- it learns ------------------------------------------------------------------------------------------------------


def test_a_condition_that_says_everything_leaves_nothing_to_pay(as_users_call):
    """log p(x|y) can reach 0 and the rate should: I(x;z|y) is bounded by H(x|y) = 0."""
    history = fit(small(), bars(), epochs=150, **USUAL)
    assert history.loss[-1] < 0.2 < history.loss[0]
    assert history.rate[-1] < 0.05


def test_without_the_condition_the_rate_is_at_least_the_entropy_of_the_label(as_users_call):
    """x is a function of a uniform label, so -log p(x) cannot be below H(x) = ln 4."""
    history = fit(small(num_classes=0), bars(), epochs=150, **USUAL)
    independent_pixels = 24 * (0.25 * math.log(4) + 0.75 * math.log(4 / 3))  # what a model without z would pay
    assert math.log(4) - 0.02 < history.loss[-1] < 0.3 * independent_pixels
    assert history.loss[-1] == pytest.approx(history.distortion[-1] + history.rate[-1], abs=1e-4)
    assert history.elbo[-1] == pytest.approx(-history.loss[-1], abs=1e-4)


def test_a_linear_model_ends_at_its_closed_form_likelihood():
    """With y, log p(x|y) = log N(x; W m_y + b, W W' + s^2 I); its own linear encoder can make the bound tight."""
    y = torch.arange(400) % 4
    z = torch.randn(400, 2) + 2 * torch.eye(4)[y, :2]
    x = z @ torch.randn(2, 6) + LinearGaussian.SCALE * torch.randn(400, 6)
    model = LinearGaussian()
    history = fit(model, (x, y), epochs=200, **{**USUAL, "batch_size": 400})
    with torch.no_grad():
        w, b = model.decode.weight, model.decode.bias
        covariance = w @ w.T + LinearGaussian.SCALE**2 * torch.eye(6)
        exact = MultivariateNormal(model.middle(y) @ w.T + b, covariance).log_prob(x).mean()
    assert history.elbo[-1] == pytest.approx(float(exact), abs=0.5)
    assert log_likelihood(model, (x, y), samples=1000).mean == pytest.approx(float(exact), abs=0.02)


# --- it is the loop one would write ---------------------------------------------------------------------------------

Batches = Iterator[tuple[Tensor, Tensor]]


def shuffled(data: ImageSet, batch_size: int, generator: torch.Generator) -> Batches:
    """Go through grey images in a new order."""
    order = torch.randperm(len(data), generator=generator)
    for index in order.split(batch_size):
        yield data.images[index] / 255, data.labels[index]


def by_hand(
    model: Any,
    epochs: int,
    batches: Callable[[torch.Generator], Iterable[tuple[Tensor, Tensor]]],
    optimizer: Callable[..., Any] = lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.99), fused=True),
    rate: Callable[[int, int], float] | None = None,
    scheduler: Callable[[Any, int], Any] | None = None,
    clip: float | None = None,
    ema: float | None = None,
    beta: Callable[[int], float] = lambda step: 1.0,
    each_epoch: int = 4,
) -> tuple[Any, list[float]]:
    """Train in plain torch with seed 3; return the model, or its averaged copy, and the mean loss of each epoch."""
    parameters, losses, step = list(model.parameters()), [], 0
    adam, average = optimizer(parameters), copy.deepcopy(model)
    moved = scheduler(adam, epochs * each_epoch) if scheduler else None
    with seeded(3, CPU) as generator:
        for _ in range(epochs):
            total, count = 0.0, 0
            for x, y in batches(generator):
                if rate:
                    adam.param_groups[0]["lr"] = 0.01 * rate(step, epochs * each_epoch)
                q = model.posterior(x, y)
                z = q.rsample()
                kl = kl_divergence(q, model.prior(y, batch=len(x)))
                loss = (beta(step) * kl - model.likelihood(z, y).log_prob(x)).mean()
                adam.zero_grad()
                loss.backward()
                if clip:
                    nn.utils.clip_grad_norm_(parameters, clip)
                adam.step()
                if moved:
                    moved.step()
                if ema:
                    d = min(ema, (1 + step) / (10 + step))
                    for a, w in zip(average.parameters(), parameters, strict=True):
                        a.data.lerp_(w.data, 1 - d)
                step += 1
                total, count = total + float(loss.detach()) * len(x), count + len(x)
            losses.append(total / count)
    return (average if ema else model), losses


SGD = {"optimizer": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9)}
CYCLE = {"scheduler": lambda o, n: OneCycleLR(o, 0.02, total_steps=n)}
ANNEAL = {"scheduler": lambda o, n: CosineAnnealingLR(o, n, eta_min=1e-4)}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {"rate": one_cycle}),
    "cosine": ({"schedule": "cosine"}, {"rate": lambda t, n: 0.5 * (1 + math.cos(math.pi * t / n))}),
    "constant": ({"schedule": "constant"}, {}),
    "clip": ({"schedule": "constant", "clip": 0.5}, {"clip": 0.5}),
    "ema": ({"schedule": "constant", "ema": 0.7}, {"ema": 0.7}),
    "beta": ({"schedule": "constant", "beta": 0.25}, {"beta": lambda t: 0.25}),
    "beta that moves": ({"schedule": "constant", "beta": lambda t: t / 12}, {"beta": lambda t: t / 12}),
    "decays": (
        {"schedule": "constant", "betas": (0.8, 0.9), "weight_decay": 0.1},
        {"optimizer": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.9), weight_decay=0.1, fused=True)},
    ),
    "torch's one cycle": ({"schedule": CYCLE["scheduler"]}, CYCLE),
    "torch's cosine": ({"schedule": ANNEAL["scheduler"]}, ANNEAL),
    "own optimizer": ({"schedule": "constant", **SGD}, SGD),
    "own optimizer and schedule": ({"schedule": ANNEAL["scheduler"], **SGD}, SGD | ANNEAL),
    "objective": ({"schedule": "constant", "objective": lambda m, x, y: elbo_terms(m, x, y)}, {}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_is_what_one_would_write_bit_for_bit(name):
    ours, plain = OPTIONS[name]
    data = bars(200, level=180)
    expected, losses = by_hand(small(), 3, lambda generator: shuffled(data, 64, generator), **plain)
    history = fit(model := small(pixels="grey"), data, epochs=3, seed=3, **USUAL, **ours)
    assert same(model, expected)
    assert history.loss == pytest.approx(losses, abs=1e-5) and history.steps == [4, 8, 12]


def test_a_bound_per_example_counts_as_distortion():
    data = bars(200, level=180)
    expected, losses = by_hand(small(), 3, lambda generator: shuffled(data, 64, generator))
    settings = {"epochs": 3, "seed": 3, "schedule": "constant", "objective": lambda *a: elbo_terms(*a).elbo}
    history = fit(model := small(pixels="grey"), data, **USUAL, **settings)
    assert history.loss == history.distortion == pytest.approx(losses, abs=1e-5) and history.rate == [0, 0, 0]
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)  # the terms are added in another order


def test_the_rate_rises_then_falls_to_nothing():
    values = [one_cycle(step, 100) for step in range(100)]
    assert max(values) == values[9] == 1.0 and values[0] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(values[10:], values[11:], strict=False)) and values[-1] < 1e-3


def test_the_same_seed_gives_the_same_bits_and_leaves_the_callers_stream_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    runs = []
    for caller in (7, 8):
        torch.manual_seed(caller)
        before = torch.get_rng_state()
        history = fit(model := copy.deepcopy(MODEL), bars(), epochs=2, seed=5, validation=bars(40), **USUAL)
        assert torch.equal(torch.get_rng_state(), before)
        runs.append((history, model))
    assert runs[0][0] == runs[1][0] and same(runs[0][1], runs[1][1])
    fit(other := copy.deepcopy(MODEL), bars(), epochs=2, seed=6, **USUAL)
    assert not same(other, runs[0][1])
    torch.manual_seed(7)
    with seeded(1, CPU):
        torch.rand(10)
    assert torch.equal(torch.rand(3), expected)


MODEL = small(dropout=0.2)


def test_a_float64_model_trains_in_float64():
    """As in plain torch, so its noise is float64 too."""
    images = bars(200, level=180)
    x, y = images.images.double() / 255, images.labels
    expected, _ = by_hand(small(pixels="grey").double(), 2, lambda generator: in_order_of(generator, x, y))
    model = small(pixels="grey").double()
    history = fit(model, (x, y), epochs=2, seed=3, schedule="constant", **USUAL)
    assert all(p.dtype == torch.float64 for p in model.parameters()) and math.isfinite(history.loss[-1])
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)
    fit(model, images, epochs=1, ema=0.9, validation=bars(40), **USUAL)
    assert all(p.dtype == torch.float64 for p in model.parameters())


def in_order_of(generator: torch.Generator, x: Tensor, y: Tensor) -> Batches:
    for index in torch.randperm(len(x), generator=generator).split(64):
        yield x[index], y[index]


def test_float32_is_float32_inside_the_callers_autocast():
    settings = {"epochs": 1, "validation": bars(40), **USUAL}
    expected = fit(small(), bars(200), **settings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fit(small(), bars(200), **settings) == expected
        assert torch.is_autocast_enabled("cpu")


def test_autocast_is_bfloat16_only_when_asked():
    for precision, dtype in (("bf16", torch.bfloat16), ("float32", torch.float32)):
        with autocast(CPU, precision):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


# --- any data -------------------------------------------------------------------------------------------------------


class Pairs(Dataset):
    """A data set of one's own, that knows nothing of this library."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.x[place], int(self.y[place])


class Stream(IterableDataset):
    """Examples without end, and without a length."""

    def __init__(self, x: Tensor, y: Tensor, end: int | None = None) -> None:
        self.x, self.y, self.end = x, y, end

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        place = 0
        while self.end is None or place < self.end:
            yield self.x[place % len(self.x)], self.y[place % len(self.x)]
            place += 1


def pairs(count: int = 200) -> tuple[Tensor, Tensor]:
    images = bars(count, level=180)
    return images.images / 255, images.labels


IN_MEMORY = {
    "tensors": lambda x, y: (x, y),
    "numpy": lambda x, y: (x.numpy(), y.numpy()),
    "numpy in float64": lambda x, y: (x.numpy().astype("float64"), y.numpy()),
    "set of tensors": lambda x, y: TensorSet(x, y, "bars"),
    "grey levels": lambda x, y: ((255 * x).round().byte(), y),
    "data set of one's own": lambda x, y: Pairs(x, y),
}


@pytest.mark.parametrize("form", IN_MEMORY)
def test_any_form_of_the_same_data_trains_the_same(form):
    fit(expected := small(pixels="grey"), bars(200, level=180), epochs=2, validation=bars(40), **USUAL)
    data = IN_MEMORY[form](*pairs())
    history = fit(model := small(pixels="grey"), data, epochs=2, validation=data, patience=9, **USUAL)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert len(history.validation) == 2


LOADED = {
    "loader": lambda x, y: DataLoader(TorchTensors(x, y), batch_size=64),
    "loader of one's own set": lambda x, y: DataLoader(Pairs(x, y), batch_size=64),
    "batches made by oneself": lambda x, y: DataLoader(list(in_turn((x, y), 64)), batch_size=None),
    "stream": lambda x, y: Stream(x, y, end=200),
    "loader of a stream": lambda x, y: DataLoader(Stream(x, y, end=200), batch_size=64),
}


@pytest.mark.parametrize("form", LOADED)
def test_a_loader_is_read_as_it_comes(form):
    x, y = pairs()
    # Not the batches alone: a loader asks torch's global stream for a seed before each epoch.
    loop = LOADED["loader of a stream" if form == "stream" else form]
    expected, losses = by_hand(small(), 2, lambda _: loop(x, y))
    history = fit(model := small(pixels="grey"), LOADED[form](x, y), steps=8, seed=3, schedule="constant", **USUAL)
    assert same(model, expected) and history.loss == pytest.approx(losses, abs=1e-5)
    assert history.steps == [4, 8]


def test_a_data_set_of_ones_own_is_shuffled_anew_each_epoch():
    x, y = pairs(100)
    seen: list[Tensor] = []

    def objective(model: Any, x: Tensor, y: Tensor) -> Terms:
        seen.append(y)
        return elbo_terms(model, x, y)

    fit(small(), Pairs(x, torch.arange(100) % 4), epochs=2, objective=objective, validation=Pairs(x, y), **USUAL)
    first, second = torch.cat(seen[:2]), torch.cat(seen[2:])
    assert torch.equal(first.sort().values, second.sort().values) and len(first) == 100
    assert not torch.equal(first, second)


def test_a_stream_needs_a_budget_in_steps():
    x, y = pairs()
    with pytest.raises(ValueError, match=r"a stream, whose length nobody knows: pass steps=\.\.\."):
        fit(small(), Stream(x, y), epochs=1, **USUAL)
    assert fit(small(), Stream(x, y), steps=5, **USUAL).steps == [5]


def test_data_that_give_nothing_are_refused():
    x, y = pairs(20)
    with pytest.raises(ValueError, match="gives no batch; drop_last"):
        fit(small(), DataLoader(TorchTensors(x, y), batch_size=64, drop_last=True), epochs=1, **USUAL)
    with pytest.raises(ValueError, match="gives no batch"):
        fit(small(), Stream(x, y, end=0), steps=3, **USUAL)


@pytest.mark.parametrize(
    "data, clue",
    [
        ("bars", r"data must be tensors \(x, y\), an ImageSet, a Dataset or a DataLoader, not str"),
        ((torch.zeros(3, 2), "labels"), "y must be a tensor, or an array that makes one, not str"),
        ((torch.zeros(3, 2), torch.zeros(4)), "y must have a row for each of the 3 examples, and has 4"),
        ((torch.zeros(3), torch.zeros(3)), r"x must have a row for each example, shape \(n, ...\), not \(3,\)"),
        (torch.zeros(0, 2), "x must have a row for each example"),
        (DataLoader([{"x": torch.zeros(2)}]), r"must give x, or a pair \(x, y\), of tensors, not dict"),
        (DataLoader(TorchTensors(torch.zeros(8, 1, 6, 4))), "the data give no y"),
    ],
)
def test_data_that_are_none_are_named(data, clue, as_users_call):
    with pytest.raises(ValueError, match=clue):
        fit(small(), data, steps=1, **USUAL)


@pytest.mark.parametrize("data", [lambda: bars(257), lambda: Pairs(*pairs(257))], ids=["images", "data set"])
def test_a_last_batch_of_one_example_does_not_stop_batch_norm(data):
    model = small(conditioning="batchnorm", condition_at="every")
    history = fit(model, data(), epochs=2, **USUAL | {"batch_size": 256})
    assert history.steps == [1, 2] and math.isfinite(history.loss[-1])


# --- any x, any model -----------------------------------------------------------------------------------------------

EVENTS = {
    "vectors": ({"event_shape": (5,), "likelihood": "real"}, (5,)),
    "series": ({"event_shape": (12,), "likelihood": "real", "prior": "gaussian"}, (12,)),
    "colours": (
        {"event_shape": (3, 48, 48), "likelihood": "gaussian", "network": "convolutional", "hidden": (4, 8)},
        (3, 48, 48),
    ),
    "grey levels": ({"event_shape": (2, 7, 3), "likelihood": "logistic"}, (2, 7, 3)),
}


@pytest.mark.parametrize("kind", EVENTS)
def test_x_may_have_any_shape(kind):
    settings, shape = EVENTS[kind]
    x, y = torch.rand(40, *shape), torch.arange(40) % 4
    model = small(**settings)
    history = fit(model, (x, y), epochs=4, validation=(x, y), **USUAL | {"batch_size": 20})
    assert history.loss[-1] < history.loss[0] and math.isfinite(history.validation[-1])
    assert model.draw([1, 2, 3]).shape == (3, *shape)
    with pytest.raises(ValueError, match=rf"takes x of shape {re.escape(str(shape))}.*are \(9,\)"):
        fit(model, (torch.rand(40, 9), y), epochs=1, **USUAL)


def composed() -> CVAE:
    torch.manual_seed(0)
    return CVAE(
        MLPEncoder((1, 6, 4), (16,), 2, condition_dim=4),
        MLPDecoder(2, (16,), (1, 6, 4), condition_dim=4),
        condition=LabelCondition(4),
        prior=ConditionalGaussian(2, 4),
        likelihood=BernoulliPixels("grey"),
    )


def test_a_model_composed_of_modules_trains_as_one_made_from_settings():
    settings = {"hidden": (16,), "prior": "gaussian", "pixels": "grey"}
    data = bars(200, level=180)
    from_settings = small(**settings)
    parts = composed()
    parts.load_state_dict(from_settings.state_dict())
    history = fit(parts, data, epochs=2, **USUAL)
    assert fit(from_settings, data, epochs=2, **USUAL) == history and same(parts, from_settings)


class Lonely(nn.Module):
    """A VAE of one's own: no y, and not a word about conditions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(6, 2), nn.Linear(2, 6)

    def posterior(self, x: Tensor, y: Any = None) -> Independent:
        assert y is None
        return Independent(Normal(self.encoder(x), 1.0), 1)

    def prior(self, y: Any = None, batch: int | None = None) -> Independent:
        return Independent(Normal(torch.zeros(batch or 1, 2), 1.0), 1)

    def likelihood(self, z: Tensor, y: Any = None) -> Independent:
        return Independent(Normal(self.decoder(z), 1.0), 1)


@pytest.mark.parametrize("form", ["tensor", "loader"])
def test_a_vae_of_ones_own_class_trains_on_x_alone(form):
    x = torch.randn(100, 6)
    data = x if form == "tensor" else DataLoader(TorchTensors(x), batch_size=50)
    history = fit(Lonely(), data, epochs=20, **USUAL | {"batch_size": 50})
    assert history.loss[-1] < history.loss[0]


def test_a_model_of_ones_own_class_gets_grey_levels_as_pixels():
    class Seen(LinearGaussian):
        def posterior(self, x: Tensor, y: Any = None) -> Independent:
            assert x.dtype == torch.float32 and float(x.max()) == pytest.approx(180 / 255)
            return super().posterior(x.flatten(1), y)

        def likelihood(self, z: Tensor, y: Any = None) -> Independent:
            return Independent(Normal(self.decode(z).unflatten(-1, (1, 6, 4)), 1.0), 3)

    history = fit(Seen(24), bars(100, level=180), epochs=5, **USUAL)
    assert history.loss[-1] < history.loss[0]


def test_a_part_may_be_frozen():
    model = small()
    model.decoder.requires_grad_(False)
    before = copy.deepcopy(model)
    fit(model, bars(), steps=4, clip=1.0, ema=0.9, weight_decay=0.1, **USUAL)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before.get_parameter(name))}
    assert changed == {name for name, _ in model.named_parameters() if name.startswith("encoder.")}


def everything(model: CVAE, data: Any) -> list[Tensor]:
    """Train, judge and draw; return all numbers that come of it."""
    history = fit(model, data, epochs=2, ema=0.9, validation=data, beta=0.5, clip=1.0, **USUAL)
    estimate = log_likelihood(model, data, samples=3)
    drawn = model.draw(1, count=3, temperature=0.7, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    sampled = model.draw([1, 2], sample=True)
    numbers = [*history.loss, *history.validation, estimate.mean, estimate.standard_error]
    return [*weights(model), drawn, sampled, torch.tensor(numbers, dtype=torch.float64, device="cpu")]


@pytest.mark.parametrize("default", ["dtype", "device"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"prior": "mixture", "likelihood": "gaussian"},
        {"prior": "gaussian", "likelihood": "logistic", "levels": 4},
        {"condition": "embedding", "prior": "vamp", "likelihood": "categorical", "levels": 4},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "plain",
)
def test_the_callers_default_dtype_and_device_change_nothing(default, settings):
    """Chapters set float64 for a while, and a notebook may set CUDA; on meta any tensor made anywhere would show."""
    data = bars(100)
    expected = everything(small(**settings), data)
    model = small(**settings)
    try:
        if default == "dtype":
            torch.set_default_dtype(torch.float64)
        else:
            torch.set_default_device("meta")
        found = everything(model, data)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, clue",
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, not 0"),
        ({"epochs": 1.5}, "epochs must be a whole number of at least 1, not 1.5"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"epochs": None, "steps": 0}, "steps must be a whole number"),
        ({"epochs": None, "steps": "3"}, "steps must be a whole number.*'3'"),
        ({"epochs": 2, "steps": 3}, "one budget, not two: epochs=2 and steps=3"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"batch_size": None}, "batch_size must be a whole number of at least 1, not None"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0"),
        ({"learning_rate": math.inf}, "learning_rate must be a finite number above 0, not inf"),
        ({"learning_rate": "a"}, "learning_rate must be a finite number above 0, not 'a'"),
        ({"betas": (0.9, 1.0)}, "beta"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"schedule": "jagged"}, "one_cycle, cosine, constant.*jagged"),
        ({"clip": 0.0}, "clip must be a finite number above 0"),
        ({"ema": 1.0}, "ema must lie between 0 and 1"),
        ({"patience": 0, "validation": bars(40)}, "patience must be a whole number"),
        ({"patience": 2}, "need a validation set"),
        ({"criterion": elbo_terms}, "need a validation set"),
        ({"resume": True}, "resume needs a folder: pass checkpoint"),
        ({"beta": -1.0}, "beta must be a finite number of at least 0, and at step 0 it is -1.0"),
        ({"beta": "a"}, "beta must be a finite number"),
        ({"beta": torch.ones(3)}, "beta must be a finite number"),
        ({"precision": "float8"}, "precision is 'auto', 'float32' or 'bf16', not 'float8'"),
        ({"device": "toaster"}, "no device 'toaster'"),
        ({"device": "meta"}, "The meta device holds no numbers, so nothing can be trained there"),
        ({"log_every": 0}, "log_every must be a whole number"),
        ({"validation": "bars"}, "validation must be tensors"),
        ({"validation": (torch.zeros(5, 1, 8, 8), torch.zeros(5).long())}, r"\(1, 6, 4\).*\(1, 8, 8\)"),
        ({"y": bars().labels.to_sparse()}, "y must be dense, and holds a sparse tensor"),
        ({"y": (bars().labels, torch.eye(len(bars())).to_sparse())}, "y must be dense"),
    ],
)
def test_bad_arguments_are_named_before_anything_changes(changes, clue, as_users_call):
    model = small().eval()
    before = weights(model)
    with pytest.raises(ValueError, match=clue) as caught:
        fit(model, bars(), **{"epochs": 1, "device": "cpu", **changes})
    assert same(model, before) and not model.training, "a model that was ready to draw stays so"
    assert "\n" not in str(caught.value)


def test_numbers_from_elsewhere_are_the_numbers_they_are(as_users_call):
    """numpy's numbers, and tensors of one, are what comes out of a calculation or a file of settings."""
    settings = {"epochs": 2, "batch_size": 64, "learning_rate": 0.5**7, "beta": 0.5, "precision": "float32"}
    foreign = {"batch_size": np.int64(64), "learning_rate": np.float32(0.5**7), "beta": torch.tensor(0.5)}
    fit(expected := small(), bars(), **settings)
    fit(model := small(), bars(), **settings | foreign)
    assert same(model, expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, None, "a", torch.ones(64)], ids=str)
def test_a_beta_that_becomes_no_usable_number_is_named_with_the_step(value, as_users_call):
    model = small()
    with pytest.raises(ValueError, match="beta must be a finite number of at least 0, and at step 2 it is"):
        fit(model, bars(), steps=4, beta=lambda step: 1.0 if step < 2 else value, **USUAL)
    assert all(torch.isfinite(p).all() for p in model.parameters()) and not model.training


@pytest.mark.parametrize(
    "spoil, clue",
    [
        (lambda terms: None, "Terms or a bound per example, shape .64,., not NoneType"),
        (lambda terms: 1.0, "not float"),
        (tuple, "not tuple"),
        (lambda terms: terms.elbo.mean(), r"shape \(64,\), not \(\); sum over dimensions"),
        (lambda terms: terms.elbo[:3], r"shape \(64,\), not \(3,\)"),
        (lambda terms: terms.elbo[:, None].expand(-1, 3), r"shape \(64,\), not \(64, 3\)"),
    ],
)
def test_an_objective_or_criterion_that_gives_something_else_is_named(spoil, clue, as_users_call):
    """A mean, or a number per pixel, would train and be judged without a word, on another scale than it says."""

    def answer(*arguments: Any) -> Any:
        return spoil(elbo_terms(*arguments))

    with pytest.raises(ValueError, match=f"objective must give.*{clue}"):
        fit(small(), bars(), steps=1, objective=answer, **USUAL)
    with pytest.raises(ValueError, match=f"criterion must give.*{clue}"):
        fit(small(), bars(), steps=1, validation=bars(64), criterion=answer, **USUAL)


def mixed() -> CVAE:
    model = small()
    model.decoder.double()
    return model


@pytest.mark.parametrize(
    "make, clue",
    [
        (lambda: small().requires_grad_(False), "Every parameter of the model is frozen"),
        (lambda: small().half(), "all be float32, or all float64, .*not float16"),
        (mixed, "not float32 and float64"),
        (lambda: small().to("meta"), "meta device"),
        (lambda: torch.compile(small(), backend="eager"), "not OptimizedModule; one that is compiled or wrapped"),
        (lambda: nn.DataParallel(small()), "not DataParallel; one that is compiled or wrapped"),
        (lambda: nn.Linear(3, 3), "methods posterior, prior and likelihood, not Linear"),
        (lambda: "model", "not str"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_happens(make, clue, as_users_call):
    with pytest.raises(ValueError, match=clue):
        fit(make(), bars(), steps=1, **USUAL)


def test_a_loss_that_no_weight_can_follow_is_refused(as_users_call):
    with torch.no_grad(), pytest.raises(ValueError, match="Gradients are switched off"):
        fit(small(), bars(), steps=1, **USUAL)
    with pytest.raises(ValueError, match="loss depends on no weight that is trained"):
        fit(small(), bars(), steps=1, objective=lambda *a: elbo_terms(*a).elbo.detach(), **USUAL)


# --- what y is ------------------------------------------------------------------------------------------------------

SHIFTED = (bars().labels + 1) % 4


@pytest.mark.parametrize(
    "y",
    [SHIFTED, SHIFTED.numpy(), lambda batch: (batch.y + 1) % 4, lambda batch: SHIFTED[batch.index]],
    ids=["tensor", "numpy", "function", "by index"],
)
def test_y_can_be_given(y):
    fit(expected := small(), ImageSet(bars().images, SHIFTED, "bars", classes=4), epochs=1, **USUAL)
    fit(model := small(), bars(), epochs=1, y=y, validation=(bars(), SHIFTED), **USUAL)
    assert same(model, expected)


def test_a_function_of_the_batch_gets_what_a_loader_gives():
    x, y = pairs()
    seen: list[Batch] = []

    def told(batch: Batch) -> Tensor:
        seen.append(batch)
        return batch.y % 2

    fit(small(), DataLoader(TorchTensors(x, y), batch_size=64), steps=2, y=told, **USUAL)
    assert [len(batch.x) for batch in seen] == [64, 64] and seen[0].index is None
    with pytest.raises(ValueError, match="brings its own y"):
        fit(small(), DataLoader(TorchTensors(x, y), batch_size=64), steps=2, y=y, **USUAL)


def test_y_may_be_made_of_several_tensors():
    Pair = collections.namedtuple("Pair", "name label")
    y = Pair({"noise": torch.rand(256, 3)}, [bars().labels])
    seen = []

    def terms(model: Any, x: Tensor, y: Any) -> Terms:
        seen.append(y)
        return elbo_terms(model, x, y.label[0])

    fit(small(), bars(), steps=2, y=y, objective=terms, **USUAL | {"batch_size": 100})
    assert seen[0].name["noise"].shape == (100, 3) and isinstance(seen[0], Pair)


@pytest.mark.parametrize(
    "y, clue",
    [
        (torch.tensor(3), "each of the 256 examples, and has no rows"),
        ("labels", "y must be a tensor"),
        (lambda batch: batch.y + 1, "0..3"),
        (torch.zeros(7, dtype=torch.int64), "each of the 256 examples, and has 7"),
        (torch.full((256, 2), 0.5).index_fill(0, torch.tensor(9), math.nan), "Labels must be int64"),
        (lambda batch: None, "conditional, and the data give no y|conditional: pass y"),
        (torch.full((256,), 4), "0..3"),
        (torch.zeros(256), "int64"),
    ],
)
def test_a_y_that_does_not_fit_is_named(y, clue, as_users_call):
    with pytest.raises(ValueError, match=clue):
        fit(small(), bars(), steps=1, y=y, **USUAL)


def test_a_vae_is_given_no_y(as_users_call):
    with pytest.raises(ValueError, match="takes no y"):
        fit(small(num_classes=0), bars(), steps=1, y=bars().labels, **USUAL)


def test_data_with_more_classes_than_the_model_are_refused():
    with pytest.raises(ValueError, match="4 classes, the model knows 3"):
        fit(small(num_classes=3), bars(), epochs=1, **USUAL)


def captions() -> CVAE:
    settings = {"condition": "caption", "words": ("one", "two"), "caption_length": 3, "conditioning": "attention"}
    return small(**settings, condition_width=4)


@pytest.mark.parametrize(
    "make, y, clue",
    [
        (small, torch.full((256,), 4), "0..3"),
        (lambda: small(condition="embedding"), torch.full((256,), -2), "0..3"),
        (captions, torch.full((256, 3), 3), "1..2"),
        (
            lambda: small(condition="label+attributes", attributes=("a",)),
            (torch.full((256,), 4), torch.rand(256, 1)),
            "0..3",
        ),
    ],
    ids=["label", "embedding", "caption", "composite"],
)
@pytest.mark.parametrize("form", ["tensor", "validation"])
def test_y_out_of_range_is_found_before_the_first_step(make, y, clue, form, as_users_call):
    """A compiled step, and one on a GPU, takes such a label for a missing one: it is looked for before."""
    good = map_tensors(lambda part: part % 2, y)
    settings = {"y": good, "validation": (bars(), y)} if form == "validation" else {"y": y}
    model = make()
    before = weights(model)
    with pytest.raises(ValueError, match=clue):
        fit(model, bars(), epochs=1, **settings, **USUAL)
    assert same(model, before)


def test_nan_is_a_y_that_is_not_known_where_the_condition_says_so(as_users_call):
    """As good as the same y from a function of the batch; what a condition does not read is a fault, by its row."""
    numbers = torch.rand(256, 2, generator=torch.Generator().manual_seed(0))
    numbers[3, 1], numbers[7] = math.nan, math.nan
    torn = Observed(torch.full((256, 1, 6, 4), math.nan), torch.zeros(256, 1, 6, 4).bool())
    torn.image[:, :, 2], torn.mask[:, :, 2] = 0.5, True
    kinds = {"condition": "attributes", "attributes": ("a", "b")}, {"condition": "observed"}
    for settings, y in zip(kinds, (numbers, torn), strict=True):
        fit(one := small(**settings), bars(), steps=3, y=y, validation=(bars(), y), **USUAL)

        def told(batch: Batch, y: Any = y) -> Any:
            return map_tensors(lambda part: part[batch.index], y)

        fit(other := small(**settings), bars(), steps=3, y=told, **USUAL)
        assert same(one, other)
    numbers[9, 0] = math.inf
    with pytest.raises(ValueError, match="row 9 is infinite|infinite in row 9|finite, or NaN"):
        fit(small(**kinds[0]), bars(), steps=1, y=numbers, **USUAL)
    torn.image[11, 0, 2, 0] = math.nan
    with pytest.raises(ValueError, match="not finite in row 11"):
        fit(small(**kinds[1]), bars(), steps=1, y=torn, **USUAL)
    with pytest.raises(ValueError, match="reads no labels: pass y"):
        fit(small(**kinds[1]), bars(), steps=1, **USUAL)


# --- how long, and early stopping -----------------------------------------------------------------------------------


def test_a_budget_in_steps_may_end_inside_an_epoch():
    history = fit(small(), bars(200), steps=6, **USUAL)
    assert history.steps == [4, 6] and len(history) == 2


def test_a_limit_on_steps_caps_every_budget():
    environment.settings.steps = 30
    assert fit(small(), bars(), epochs=500, **USUAL).steps[-1] == 30
    assert fit(small(), bars(), steps=10**6, **USUAL).steps[-1] == 30


def test_validation_is_minus_the_elbo_and_always_the_same_number():
    """Grey pixels leave only the latent noise, whose mean over many draws must agree within four standard errors."""
    data = bars(400, level=180)
    settings = {"epochs": 2, "validation": data, **USUAL}
    history = fit(model := small(pixels="grey"), bars(200), **settings)
    assert history.validation == fit(small(pixels="grey"), bars(200), **settings).validation
    x, y = data.pixels(), data.labels
    with torch.no_grad():
        draws = torch.stack([-elbo_terms(model, x, y).elbo.mean() for _ in range(200)])
    assert abs(history.validation[-1] - draws.mean()) < 4 * draws.std() * (1 + 200**-0.5)


def test_equal_weights_are_judged_by_the_same_random_numbers():
    """Binary pixels and latents are drawn anew for each judgement, and come out the same each time."""
    model = small(dropout=0.5)
    model.encoder.requires_grad_(False)
    model.decoder.requires_grad_(False)
    model.idle = nn.Parameter(torch.zeros(()))
    idle = lambda m, x, y: elbo_terms(m, x, y).elbo + 0 * m.idle  # noqa: E731
    history = fit(model, bars(level=128), epochs=3, validation=bars(300, level=128), objective=idle, **USUAL)
    assert len(set(history.validation)) == 1 and len(set(history.loss)) == 3


@pytest.mark.parametrize("form", ["bound", "terms"])
def test_validation_can_be_any_criterion_of_the_validation_set(form):
    """Here one that knows its images: what they hold in all, which no ELBO is."""

    def criterion(model: Any, x: Tensor, y: Tensor) -> Tensor | Terms:
        ink = x.flatten(1).sum(1)
        return ink if form == "bound" else Terms(3 * ink, 2 * ink[:, None])

    history = fit(small(pixels="grey"), bars(200), epochs=2, validation=bars(40), criterion=criterion, **USUAL)
    ink = float(bars(40).pixels().flatten(1).sum(1).mean())
    assert history.validation == pytest.approx([-ink, -ink], rel=1e-6)


def test_judging_and_watching_do_not_disturb_training():
    """Nor do a callback's drawings, or the mode in which it leaves the model."""
    settings = {"epochs": 3, **USUAL}
    fit(one := small(dropout=0.2), bars(200), **settings)
    seen: list[tuple[int, Tensor]] = []

    def watch(model: CVAE, history: History) -> None:
        seen.append((len(history), model.eval().draw(1, count=2)))

    fit(other := small(dropout=0.2), bars(200), validation=bars(40), callback=watch, **settings)
    assert same(one, other) and [epoch for epoch, _ in seen] == [1, 2, 3]
    assert not torch.equal(seen[0][1], seen[2][1])


def judged(values: Iterable[float]) -> Callable[..., Tensor]:
    """Return a criterion that comes out at these numbers, one after the other."""
    left = iter(values)
    return lambda model, x, y: torch.full((len(x),), -next(left), dtype=torch.float64)


def test_patience_ends_the_run_and_brings_the_best_weights_back():
    values, states = [5.0, 4.0, 3.0, 3.5, 3.0, 9.0, 1.0], []
    settings = {"validation": bars(40), "patience": 3, "criterion": judged(values)}
    history = fit(
        model := small(), bars(200), epochs=50, callback=lambda m, _: states.append(weights(m)), **settings, **USUAL
    )
    assert history.validation == values[:6] and history.best_epoch == 3
    assert same(model, states[2]) and not same(states[2], states[5]) and not model.training


def test_without_patience_the_last_weights_stay():
    states: list[list[Tensor]] = []
    settings = {"validation": bars(40), "criterion": judged([1.0, 2.0, 3.0])}
    history = fit(
        model := small(), bars(200), epochs=3, callback=lambda m, _: states.append(weights(m)), **settings, **USUAL
    )
    assert history.validation == [1.0, 2.0, 3.0] and history.best_epoch is None and same(model, states[-1])


def test_a_validation_that_is_no_number_is_never_the_best():
    states: list[list[Tensor]] = []
    settings = {"validation": bars(40), "patience": 2, "criterion": judged([math.nan, 4.0, math.nan, -math.inf, 1.0])}
    history = fit(
        model := small(), bars(200), epochs=9, callback=lambda m, _: states.append(weights(m)), **settings, **USUAL
    )
    assert history.best_epoch == 2 and len(history) == 4 and same(model, states[1])


def test_with_an_average_it_is_the_average_that_is_judged_and_kept():
    seen = []
    settings = {"validation": bars(40), "criterion": lambda m, x, y: seen.append(weights(m)) or -x.sum((1, 2, 3))}
    live: list[list[Tensor]] = []
    fit(model := small(), bars(), epochs=2, ema=0.9, callback=lambda m, _: live.append(weights(m)), **settings, **USUAL)
    assert same(model, seen[1]) and not same(seen[1], live[1])


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, kind", [(math.nan, "NaN or infinite"), (math.inf, "NaN or infinite"), (3.0, "not in .0, 1.")]
)
def test_bad_pixels_are_called_a_fault_of_the_data(value, kind):
    x, y = pairs(256)
    x[17, 0, 3, 2] = value
    order = torch.randperm(256, generator=torch.Generator().manual_seed(5))
    step = int((order == 17).nonzero()) // 64
    model = small(pixels="grey")
    with pytest.raises(ValueError, match=f"step {step} has x that is {kind}.*example 17 of the data, so the data are"):
        fit(model, (x, y), epochs=1, seed=5, **USUAL)
    assert all(torch.isfinite(p).all() for p in model.parameters()) and not model.training
    with pytest.raises(ValueError, match=f"step 0 has x that is {kind}.*example 17 of the batch"):
        fit(small(pixels="grey"), DataLoader(TorchTensors(x, y), batch_size=64), epochs=1, **USUAL)


def test_numbers_that_are_no_pixels_are_taken_by_a_likelihood_of_numbers():
    x, y = 9 * torch.randn(100, 1, 6, 4), torch.arange(100) % 4
    assert math.isfinite(fit(small(likelihood="real"), (x, y), epochs=1, **USUAL).loss[0])
    x[41] = math.nan
    with pytest.raises(ValueError, match="NaN or infinite, first in example 41"):
        fit(small(likelihood="real"), (x, y), epochs=1, **USUAL)
    with pytest.raises(ValueError, match="NaN or infinite, first in example 41"):
        fit(LinearGaussian(24), (x.flatten(1), y), epochs=1, **USUAL)


class SpoiltGradient(torch.autograd.Function):
    """A number whose gradient is none."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, g: Tensor) -> Tensor:
        return g * math.nan


def spoilt(step: int, spoil: Callable[[Tensor], Tensor]) -> Callable[..., Terms]:
    """Return the ELBO, whose log-likelihood is spoilt at one step."""
    calls = 0

    def terms(*arguments: Any) -> Terms:
        nonlocal calls
        calls += 1
        found = elbo_terms(*arguments)
        return found._replace(log_likelihood=spoil(found.log_likelihood)) if calls == step + 1 else found

    return terms


SPOILT = {"nan": lambda ll: ll * math.nan, "inf": lambda ll: ll - math.inf, "gradient": SpoiltGradient.apply}


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("step", [0, 5, 7])
def test_a_loss_that_is_no_number_brings_back_the_weights_from_before_the_epoch(kind, step, ema):
    """Also those of the average: finding 7, where it went on moving. Step 7 is the last one of the second epoch."""
    settings = {"schedule": "constant", "ema": ema, **USUAL}
    expected = small()
    if step > 3:
        fit(expected, bars(), steps=4, **settings)
    model = small()
    with pytest.raises(TrainingDiverged, match=r"smaller learning_rate, or clip=1\.0") as caught:
        fit(model, bars(), epochs=3, objective=spoilt(step, SPOILT[kind]), **settings)
    assert same(model, expected) and not model.training and all(p.grad is None for p in model.parameters())
    assert len(caught.value.history) == step // 4
    assert f"before epoch {step // 4 + 1}" in str(caught.value)
    if kind != "gradient":
        assert f"The loss became {'nan' if kind == 'nan' else 'inf'} at step {step}" in str(caught.value)


def test_a_run_that_diverges_ends_with_the_best_weights():
    settings = {"schedule": "constant", **USUAL}
    fit(expected := small(), bars(), steps=4, **settings)
    stop = {"validation": bars(40), "patience": 5, "criterion": judged([1.0, 2.0])}
    with pytest.raises(TrainingDiverged, match="step 9.*weights from before epoch 3"):
        fit(model := small(), bars(), epochs=3, objective=spoilt(9, SPOILT["nan"]), **stop, **settings)
    assert same(model, expected)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=lambda error: str(error)[:12],
)
def test_too_little_memory_is_one_sentence_with_a_batch_size_to_try(error):
    model = small()
    with pytest.raises(torch.cuda.OutOfMemoryError, match="batch_size=64; try batch_size=32") as caught:
        fit(model, bars(), steps=4, objective=RaisesAt(elbo_terms, 3, error), **USUAL)
    assert caught.value.__suppress_context__ and not model.training
    loader = DataLoader(TorchTensors(*pairs()), batch_size=50)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="batch_size=50; try batch_size=25"):
        fit(model, loader, steps=4, objective=RaisesAt(elbo_terms, 3, error), **USUAL)


def test_another_runtime_error_is_passed_on():
    with pytest.raises(RuntimeError, match="something else"):
        fit(small(), bars(), steps=4, objective=RaisesAt(elbo_terms, 1, RuntimeError("something else")), **USUAL)


# --- interrupts -----------------------------------------------------------------------------------------------------


class StopsSGD(torch.optim.SGD):
    """An optimiser that is interrupted in its sixth step."""

    def step(self, closure: Any = None) -> Any:
        self.taken = getattr(self, "taken", 0) + 1
        if self.taken == 6:
            raise KeyboardInterrupt
        return super().step(closure)


def nothing(*_: object) -> None:
    """Do nothing."""


INTERRUPTED = {
    "objective": ({"objective": RaisesAt(elbo_terms, 6)}, 1),
    "condition": ({"y": RaisesAt(lambda batch: batch.y, 6)}, 1),
    "beta": ({"beta": RaisesAt(lambda step: 1.0, 6)}, 1),
    "optimizer": ({"optimizer": lambda p: StopsSGD(p, 1e-3)}, 1),
    "validation": ({"criterion": RaisesAt(elbo_terms, 2)}, 1),
    "callback": ({"callback": RaisesAt(nothing, 2)}, 2),
}


@pytest.mark.parametrize("where", INTERRUPTED)
def test_an_interrupt_from_inside_any_part_leaves_everything_usable(where, capsys):
    changes, epochs = INTERRUPTED[where]
    model = small()
    settings = {"clip": 1.0, "ema": 0.9, "validation": bars(40), **USUAL}
    history = fit(model, bars(), epochs=3, **settings, **changes)
    assert history.interrupted and not model.training and "usable" in capsys.readouterr().out
    lists = history.loss, history.distortion, history.rate, history.steps, history.seconds, history.validation
    assert {len(values) for values in lists} == {epochs} and len(history.elbo) == epochs
    assert all(torch.isfinite(p).all() and p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled() and model.draw([1]).isfinite().all()


SCRIPT = """
import json, signal, sys, time
from bars import bars, small
from cvae_lib.training import fit

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background ignores it
model = small()
settings = {"batch_size": 64, "precision": "float32", "device": "cpu", "schedule": "constant", "log_every": 1}
history = fit(model, bars(), epochs=10**6, callback=lambda *_: time.sleep(0.01), checkpoint=sys.argv[1], **settings)
finite = all(bool(p.isfinite().all()) for p in model.parameters()) and bool(model.draw([1, 2]).isfinite().all())
print(json.dumps([history.interrupted, len(history), history.steps[-1], finite, model.training]))
"""


def test_ctrl_c_leaves_a_usable_model_and_a_run_that_can_be_resumed(tmp_path, root):
    """A real signal in a process of its own; the run then goes on here as if it had never been stopped."""
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    timer = threading.Timer(300, process.kill)
    timer.start()
    try:
        said = ""
        while "epoch   3" not in said:
            assert (line := process.stdout.readline()), said
            said += line
        process.send_signal(signal.SIGINT)
        said += process.communicate()[0]
    finally:
        timer.cancel()
        process.kill()
    assert process.returncode == 0, said
    interrupted, epochs, steps, finite, training = json.loads(said.splitlines()[-1])
    assert interrupted and epochs >= 3 and steps == 4 * epochs and finite and not training
    assert f"Stopped by hand after {epochs} full epochs" in said and "can be resumed from" in said
    settings = {**USUAL, "learning_rate": 2e-3, "schedule": "constant", "epochs": epochs + 2}
    whole = fit(expected := small(), bars(), **settings)
    assert fit(model := small(), bars(), checkpoint=tmp_path / "run", resume=True, **settings) == whole
    assert same(model, expected)


# --- what a run says ------------------------------------------------------------------------------------------------


def test_where_nobody_watches_lines_are_printed_and_no_bar(capsys):
    fit(small(), bars(), epochs=20, log_every=10, **USUAL)
    out, err = capsys.readouterr()
    assert [line.split()[1] for line in out.splitlines()] == ["1/20", "10/20", "20/20"]
    assert "%" not in err


def test_a_watcher_gets_a_bar_that_ends_full(capsys):
    environment.settings.progress = True
    fit(small(), bars(), epochs=3, validation=bars(40), **USUAL)
    out, err = capsys.readouterr()
    assert "100%" in out and "12/12" in out and "epoch 3/3" in out and err == ""
    assert re.search(r"loss \d+\.\d", out) and re.search(r"\[\d\d:\d\d<\d\d:\d\d", out)  # and the time left


@pytest.mark.parametrize("beta", [0, 0.001, 1 / 3, 0.5, 1, 1.0, 4, 1000.0])
def test_the_sum_in_the_log_comes_out_whatever_beta_is(beta, capsys):
    fit(small(), bars(), epochs=3, log_every=1, beta=beta, **USUAL)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for line in lines:
        pattern = r"loss (\S+) = distortion (\S+) \+ (?:(\S+) x )?rate (\S+)"
        loss, distortion, weight, rate = re.search(pattern, line).groups()
        assert float(weight or 1) == pytest.approx(beta, rel=1e-4)
        assert float(loss) == pytest.approx(float(distortion) + float(weight or 1) * float(rate), abs=0.0151), line


def test_a_beta_that_moves_is_called_beta(capsys):
    """Its epoch's loss is a mean over steps of different betas, and no number would be right."""
    fit(small(), bars(), epochs=1, beta=Constant(0.5), **USUAL)
    assert "+ beta x rate" in capsys.readouterr().out


# --- history --------------------------------------------------------------------------------------------------------


def test_a_history_survives_json_to_the_last_digit():
    history = fit(small(), bars(), epochs=2, validation=bars(40), patience=1, **USUAL)
    again = History.from_json(history.to_json())
    assert again == history and again.seconds == history.seconds and 0 < again.seconds[0] <= again.seconds[1]


@pytest.mark.parametrize("text, clue", [("{", "JSON"), ("[1]", "list"), ('{"colour": 1}', "colour")])
def test_what_is_no_history_is_refused(text, clue):
    with pytest.raises(ValueError, match=f"no history.*{clue}"):
        History.from_json(text)


def test_data_on_another_scale_are_told_what_to_do_not_blamed_on_one_example(as_users_call):
    x = 255 * torch.rand(20, 1, 6, 4)
    with pytest.raises(ValueError, match=r"No x in the batch of step 0 .* in \[0, 1\]: divide bytes by 255"):
        fit(small(likelihood="gaussian"), (x, bars().labels[:20]), steps=1)


def test_labels_may_be_a_list_and_an_optimiser_is_made_by_a_function(as_users_call):
    images = bars()
    fit(small(), (images.images[:8], images.labels[:8].tolist()), steps=1)
    model = small()
    with pytest.raises(ValueError, match="optimizer makes one of the parameters"):
        fit(model, images, steps=1, optimizer=torch.optim.SGD(model.parameters(), 0.1))
