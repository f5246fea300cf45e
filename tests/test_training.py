"""Training: it learns, it repeats itself, it is the loop one would write, it stops politely."""

import collections
import copy
import functools
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cvae_lib import training
from cvae_lib.conditions import Observed
from cvae_lib.data import ImageSet
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import Terms, elbo_terms
from cvae_lib.training import History, TrainingDiverged, autocast, fit, load_checkpoint, one_cycle, seeded
from cvae_lib.training._budget import Budget
from cvae_lib.training._distributed import Team
from cvae_lib.training._feed import each
from cvae_lib.training._loop import Loop, Recipe
from cvae_lib.training._numerics import compiled
from cvae_lib.training._progress import Interrupts, Progress
from cvae_lib.training._stopping import measured


@pytest.fixture(autouse=True)
def full_length(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "full")
    monkeypatch.setenv("COURSE_UNATTENDED", "1")


def bars(count: int = 256) -> ImageSet:
    """Images of one bright column each, whose place is the label: a condition that says everything."""
    labels = torch.arange(count) % 4
    images = torch.zeros(count, 1, 6, 4, dtype=torch.uint8)
    images[torch.arange(count), 0, :, labels] = 255
    return ImageSet(images, labels, "bars", classes=4)


def model(**changes: object) -> CVAE:
    torch.manual_seed(0)
    return CVAE(CVAEConfig(**{"num_classes": 4, "latent_dim": 2, "hidden": (32,), "image_shape": (1, 6, 4), **changes}))


def test_a_condition_that_says_everything_leaves_nothing_to_pay():
    """log p(x|y) can reach 0 and the rate should: I(x;z|y) is bounded by H(x|y) = 0."""
    history = fit(model(), bars(), epochs=150, batch_size=64, learning_rate=0.01, precision="float32")
    assert history.loss[-1] < 0.2 < history.loss[0]
    assert history.rate[-1] < 0.05


def test_without_the_condition_the_rate_is_at_least_the_entropy_of_the_label():
    """x is a function of a uniform label, so -log p(x) cannot be below H(x) = ln 4."""
    history = fit(model(num_classes=0), bars(), epochs=150, batch_size=64, learning_rate=0.01, precision="float32")
    independent_pixels = 24 * (0.25 * math.log(4) + 0.75 * math.log(4 / 3))  # what a model without z would pay
    assert math.log(4) - 0.02 < history.loss[-1] < 0.3 * independent_pixels
    assert history.loss[-1] == pytest.approx(history.distortion[-1] + history.rate[-1], abs=1e-4)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_callers_stream_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        history = fit(net := model(), bars(), epochs=2, seed=5, precision="float32")
        runs.append((history.loss, [p.clone() for p in net.parameters()]))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))
    torch.manual_seed(7)
    with seeded(1, torch.device("cpu")):
        torch.rand(10)
    assert torch.equal(torch.rand(3), expected)


def test_the_rate_rises_then_falls_to_nothing():
    values = [one_cycle(step, 100) for step in range(100)]
    assert max(values) == values[9] == 1.0 and values[0] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(values[10:], values[11:], strict=False)) and values[-1] < 1e-3


def test_an_interrupt_keeps_model_and_history(monkeypatch, capsys):
    calls = 0
    original = training.elbo_terms

    def interrupted(*arguments):
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "elbo_terms", interrupted)
    net = model()
    history = fit(net, bars(), epochs=10, batch_size=64, precision="float32")
    assert history.interrupted and len(history) == 1 and not net.training
    assert all(torch.isfinite(p).all() for p in net.parameters())
    assert "usable" in capsys.readouterr().out


def test_a_loss_that_is_no_number_stops_training_with_the_weights_of_before():
    net = model()
    with torch.no_grad():
        net.decoder.net.layers[-1].bias.fill_(math.nan)
    before = net.encoder.net.layers[0].weight.clone()
    with pytest.raises(TrainingDiverged, match="step 0"):
        fit(net, bars(), epochs=1, precision="float32")
    assert torch.equal(net.encoder.net.layers[0].weight, before)


def test_where_nobody_watches_lines_are_printed_and_no_bar(capsys):
    fit(model(), bars(), epochs=20, log_every=10, precision="float32")
    out, err = capsys.readouterr()
    assert [line.split()[1] for line in out.splitlines()] == ["1/20", "10/20", "20/20"]
    assert "%" not in err


def test_a_watcher_gets_a_bar_that_ends_full(monkeypatch, capsys):
    monkeypatch.setattr("cvae_lib.course.someone_watches", lambda: True)
    fit(model(), bars(), epochs=3, precision="float32")
    out, err = capsys.readouterr()
    assert "100%" in out and "3/3" in out and err == ""
    assert re.search(r"loss \d+\.\d", out) and re.search(r"\[\d\d:\d\d<\d\d:\d\d", out)  # and the time left


def test_the_fast_profile_caps_the_steps(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "fast")
    assert fit(model(), bars(), epochs=500, batch_size=16).steps[-1] == 30


@pytest.mark.parametrize(
    "changes, clue",
    [
        ({"epochs": 0}, "epochs"),
        ({"steps": 0, "epochs": None}, "steps"),
        ({"seconds": 0.0, "epochs": None}, "seconds"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.inf}, "learning_rate"),
        ({"schedule": "jagged"}, "one_cycle, cosine, constant.*jagged"),
        ({"clip": 0.0}, "clip"),
        ({"ema": 1.0}, "ema"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"patience": 0}, "patience"),
        ({"patience": 2}, "validation"),
        ({"resume": True}, "checkpoint"),
        ({"checkpoint_every": 3}, "checkpoint"),
        ({"beta": -1.0}, "beta"),
        ({"precision": "float8"}, "precision"),
        ({"pixels": "red"}, "pixels"),
        ({"device": "toaster"}, "toaster"),
        ({"device": None}, "no device 'None'"),
        ({"epochs": 1.5}, "epochs must be a whole number of at least 1, not 1.5"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"epochs": math.nan}, "epochs must be a whole number"),
        ({"epochs": None, "steps": "3"}, "steps must be a whole number.*'3'"),
        ({"epochs": None, "seconds": "a"}, "seconds must be a number"),
        ({"epochs": None, "seconds": math.inf}, "seconds must be above 0 and finite"),
        ({"epochs": 0, "steps": 3}, "epochs must be at least 1"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"batch_size": None}, "batch_size must be a number, not None"),
        ({"learning_rate": "a"}, "learning_rate must be a number, not 'a'"),
        ({"learning_rate": None}, "learning_rate must be a number, not None"),
        ({"schedule": [1]}, r"one_cycle, cosine, constant.*\[1\]"),
        ({"clip": "a"}, "clip must be a number"),
        ({"ema": True}, "ema must be a number"),
        ({"weight_decay": None}, "weight_decay must be at least 0"),
        ({"beta": torch.ones(3)}, "beta must be a number"),
        ({"seed": None}, "seed must be a number"),
        ({"seed": 2**70}, "seed must lie between"),
        ({"log_every": 0}, "log_every"),
        ({"compile": "fast"}, "compile is True, False or a mode .*'fast'"),
        ({"compile": None}, "compile is True, False or a mode"),
        ({"checkpoint": 3}, "checkpoint must be a folder"),
        ({"checkpoint": ""}, "checkpoint must be a folder"),
        ({"checkpoint": "a\0b"}, "checkpoint must be a folder"),
        ({"device": "meta"}, "The meta device holds no numbers, so nothing can be trained there"),
        ({"y": bars().labels.to_sparse()}, "y must be dense, and holds a sparse tensor"),
        ({"y": (bars().labels, torch.eye(len(bars())).to_sparse())}, "y must be dense"),
        ({"objective": "elbo"}, "objective must be a function"),
        ({"validation": bars(40), "criterion": "elbo"}, "criterion must be a function"),
        ({"validation": bars(40).images}, "validation must be a cvae_lib.data.ImageSet, not Tensor"),
        ({"validation": (bars(40), None, None)}, "a pair .images, y., not 3 things"),
    ],
)
def test_bad_arguments_are_named(changes, clue, as_users_call):
    net = model().eval()
    with pytest.raises(ValueError, match=clue):
        fit(net, bars(), **{"epochs": 1, "device": "cpu", **changes})
    assert not net.training, "a model that was ready to draw stays so"


def test_numbers_from_elsewhere_are_the_numbers_they_are(as_users_call):
    """A whole float, numpy's numbers and tensors of one number are what reading settings from a file gives."""
    settings = {"epochs": 2, "batch_size": 64, "learning_rate": 0.5**7, "beta": 0.5, "seed": 3, "precision": "float32"}
    foreign = {"epochs": 2.0, "batch_size": np.int64(64), "learning_rate": np.float32(0.5**7), "seed": np.int32(3)}
    fit(expected := model(), bars(), **settings)
    fit(net := model(), bars(), **settings | foreign | {"beta": torch.tensor(0.5)})
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.parameters(), strict=True))


@pytest.mark.parametrize("name", ["beta", "schedule"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, None, "a", torch.ones(64)], ids=str)
def test_a_schedule_that_gives_no_usable_number_is_named_with_the_step(name, value, as_users_call):
    bad = {
        "beta": lambda step: 1.0 if step < 2 else value,
        "schedule": lambda step, total: 1.0 if step < 2 else value,
    }
    net = model()
    with pytest.raises(ValueError, match=f"{name} must give a finite number.* at step 2 it gave"):
        fit(net, bars(), steps=4, batch_size=64, **{name: bad[name]})
    assert all(torch.isfinite(p).all() for p in net.parameters()) and not net.training


@pytest.mark.parametrize(
    "spoil, clue",
    [
        (lambda terms: None, "Terms or a bound per image, shape .64,., not NoneType"),
        (lambda terms: 1.0, "not float"),
        (tuple, "not tuple"),
        (lambda terms: terms.elbo.mean(), r"shape \(64,\), not \(\); sum over dimensions"),
        (lambda terms: terms.elbo[:3], r"shape \(64,\), not \(3,\)"),
        (lambda terms: terms.elbo[:, None].expand(-1, 3), r"shape \(64,\), not \(64, 3\)"),
    ],
)
def test_an_objective_or_criterion_that_gives_something_else_is_named(spoil, clue, as_users_call):
    """A mean, or a number per pixel, would train and be judged without a word, on another scale than it says."""

    def answer(*arguments):
        return spoil(elbo_terms(*arguments))

    with pytest.raises(ValueError, match=f"objective must give.*{clue}"):
        fit(model(), bars(), steps=1, batch_size=64, objective=answer)
    with pytest.raises(ValueError, match=f"criterion must give.*{clue}"):
        fit(model(), bars(), steps=1, validation=bars(64), criterion=answer)


def test_what_cannot_be_trained_is_refused_before_anything_happens(as_users_call):
    frozen = model().requires_grad_(False)
    with pytest.raises(ValueError, match="Every parameter of the model is frozen"):
        fit(frozen, bars(), steps=1)
    with torch.no_grad(), pytest.raises(ValueError, match="Gradients are switched off"):
        fit(model(), bars(), steps=1)
    with pytest.raises(ValueError, match="loss depends on no weight that is trained"):
        fit(model(), bars(), steps=1, objective=lambda *a: elbo_terms(*a).elbo.detach())
    with pytest.raises(ValueError, match="all be float32, or all float64, .*not float16"):
        fit(model().half(), bars(), steps=1)
    mixed = model()
    mixed.decoder.double()
    with pytest.raises(ValueError, match="not float32 and float64"):
        fit(mixed, bars(), steps=1)
    with pytest.raises(ValueError, match="meta device"):
        fit(model().to("meta"), bars(), steps=1)
    with pytest.raises(ValueError, match="must be a cvae_lib.model.CVAE, not OptimizedModule; pass the model itself"):
        fit(torch.compile(model(), backend="eager"), bars(), steps=1)
    with pytest.raises(ValueError, match="must be a cvae_lib.model.CVAE, not Linear"):
        fit(torch.nn.Linear(3, 3), bars(), steps=1)
    with pytest.raises(ValueError, match="data must be a cvae_lib.data.ImageSet, not Tensor"):
        fit(model(), bars().images, steps=1)


def test_a_part_may_be_frozen():
    net = model()
    net.decoder.requires_grad_(False)
    before = copy.deepcopy(net)
    fit(net, bars(), steps=4, batch_size=64, clip=1.0, ema=0.9)
    changed = {name for name, p in net.named_parameters() if not torch.equal(p, before.get_parameter(name))}
    assert changed == {name for name, _ in net.named_parameters() if name.startswith("encoder.")}


def test_data_with_more_classes_than_the_model_are_refused():
    with pytest.raises(ValueError, match="4 classes, the model knows 3"):
        fit(model(num_classes=3), bars(), epochs=1)


def test_autocast_is_bfloat16_only_when_asked():
    cpu = torch.device("cpu")
    with autocast(cpu, "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast(cpu, "float32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


# --- the loop is the loop one would write ---------------------------------------------------------------------------


def by_hand(net: CVAE, epochs: int, factor, clip=None, ema=None, beta=lambda step: 1.0) -> tuple[CVAE, list[float]]:
    """Train in plain torch: Adam, a rate per step, clipping, an averaged copy; return the copy if there is one."""
    data, losses, step = bars(200), [], 0
    adam = torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.9, 0.99), fused=True)
    average = copy.deepcopy(net)
    with seeded(3, torch.device("cpu")) as generator:
        for _ in range(epochs):
            total = 0.0
            for batch in data.batches(64, generator=generator):
                adam.param_groups[0]["lr"] = 0.01 * factor(step, epochs * 4)
                loss = elbo_terms(net, batch.x, batch.y).loss(beta(step))
                adam.zero_grad()
                loss.backward()
                if clip:
                    torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
                adam.step()
                step += 1
                for a, w in zip(average.parameters(), net.parameters(), strict=True):
                    d = min(ema or 0.0, step / (9 + step))
                    a.data = d * a.data + (1 - d) * w.data
                total += float(loss.detach()) * len(batch.x)
            losses.append(total / 200)
    return (average if ema else net), losses


def test_the_default_loop_is_the_plain_one_bit_for_bit():
    expected, losses = by_hand(model(), 3, one_cycle)
    history = fit(net := model(), bars(200), epochs=3, batch_size=64, learning_rate=0.01, precision="float32", seed=3)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.parameters(), strict=True))
    assert history.loss == pytest.approx(losses, abs=1e-5) and history.steps == [4, 8, 12]


OPTIONS = {
    "cosine": ({"schedule": "cosine"}, {"factor": lambda t, n: 0.5 + 0.5 * math.cos(math.pi * t / n)}),
    "constant": ({"schedule": "constant"}, {"factor": lambda t, n: 1.0}),
    "own": ({"schedule": lambda t, n: 1 - t / n}, {"factor": lambda t, n: 1 - t / n}),
    "clip": ({"clip": 0.5}, {"clip": 0.5}),
    "ema": ({"ema": 0.7}, {"ema": 0.7}),
    "beta": ({"beta": lambda t: t / 12}, {"beta": lambda t: t / 12}),
    "objective": ({"objective": lambda m, x, y: elbo_terms(m, x, y)}, {}),
    "bound": ({"objective": lambda m, x, y: elbo_terms(m, x, y).elbo}, {}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_is_what_one_would_write(name):
    ours, plain = OPTIONS[name]
    expected, _ = by_hand(model(), 3, **{"factor": one_cycle, **plain})
    settings = {"epochs": 3, "batch_size": 64, "learning_rate": 0.01, "precision": "float32", "seed": 3}
    history = fit(net := model(), bars(200), **settings, **ours)
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert history.rate[-1] == 0 if name == "bound" else history.rate[-1] > 0


def test_a_float64_model_trains_in_float64():
    net = model().double()
    history = fit(net, bars(200), epochs=2, ema=0.9, validation=bars(40), precision="float32")
    assert all(p.dtype == torch.float64 for p in net.parameters()) and math.isfinite(history.validation[-1])


def test_float32_is_float32_inside_the_callers_autocast():
    settings = {"epochs": 1, "validation": bars(40), "precision": "float32"}
    expected = fit(model(), bars(200), **settings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fit(model(), bars(200), **settings) == expected
        assert torch.is_autocast_enabled("cpu")


# --- how long -------------------------------------------------------------------------------------------------------


def test_a_budget_in_steps_may_end_inside_an_epoch():
    history = fit(model(), bars(200), steps=6, batch_size=64)
    assert history.steps == [4, 6] and len(history) == 2


def test_a_budget_in_seconds_follows_the_clock_and_so_does_its_schedule(monkeypatch):
    """The clock here moves 1/8 s per step of training, so 2.5 s are 20 steps, and the rate knows where it is."""
    now, seen = 100.0, []

    def terms(*arguments):
        nonlocal now
        now += 0.125
        return elbo_terms(*arguments)

    def schedule(place, total):
        seen.append(place / total)
        return 1.0

    monkeypatch.setattr("cvae_lib.training._budget.time.monotonic", lambda: now)
    history = fit(model(), bars(200), seconds=2.5, batch_size=64, objective=terms, schedule=schedule)
    assert history.steps[-1] == 20 and history.seconds[-1] == 2.5
    assert seen == pytest.approx([step / 20 for step in range(20)], abs=2e-4)


def test_the_fast_profile_caps_every_budget(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "fast")
    assert fit(model(), bars(), seconds=1e6, batch_size=16).steps[-1] == 30
    assert fit(model(), bars(), steps=10**6, batch_size=16).steps[-1] == 30


@pytest.mark.parametrize("budget", [{"epochs": 2, "steps": 3}, {"steps": 3, "seconds": 1.0}])
def test_two_budgets_are_one_too_many(budget):
    with pytest.raises(ValueError, match=" and ".join(f"{name}={value}" for name, value in budget.items())):
        fit(model(), bars(), **budget)


# --- early stopping -------------------------------------------------------------------------------------------------


def test_validation_is_minus_the_elbo_and_always_the_same_number():
    """Grey pixels leave only the latent noise, whose mean over many draws must agree within four standard errors."""
    history = fit(net := model(), bars(200), epochs=2, validation=bars(400), pixels="grey", precision="float32")
    again = fit(model(), bars(200), epochs=2, validation=bars(400), pixels="grey", precision="float32")
    assert history.validation == again.validation and len(history.validation) == 2
    x, y = bars(400).pixels(), bars(400).labels
    with torch.no_grad():
        draws = torch.stack([-elbo_terms(net, x, y).elbo.mean() for _ in range(200)])
    assert abs(history.validation[-1] - draws.mean()) < 4 * draws.std() * (1 + 200**-0.5)


@pytest.mark.parametrize("form", ["bound", "terms"])
def test_validation_can_be_any_criterion_of_the_validation_set(form):
    """Here one that knows its images: what they hold in all, which no ELBO is."""

    def criterion(net, x, y):
        ink = x.flatten(1).sum(1)
        return ink if form == "bound" else Terms(3 * ink, 2 * ink[:, None])

    history = fit(model(), bars(200), epochs=2, validation=bars(40), criterion=criterion, pixels="grey")
    ink = float(bars(40).pixels().flatten(1).sum(1).mean())
    assert history.validation == pytest.approx([-ink, -ink], rel=1e-6)
    with pytest.raises(ValueError, match="criterion needs a validation set"):
        fit(model(), bars(200), epochs=1, criterion=criterion)


def test_judging_does_not_disturb_training():
    settings = {"epochs": 3, "batch_size": 64, "precision": "float32"}
    fit(one := model(dropout=0.2), bars(200), **settings)
    fit(other := model(dropout=0.2), bars(200), validation=bars(40), **settings)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_patience_ends_the_run_and_brings_the_best_weights_back(monkeypatch):
    values, states = iter([5.0, 4.0, 3.0, 3.5, 3.0, 9.0, 1.0]), []

    def judge(net, *_):
        states.append([p.clone() for p in net.parameters()])
        return next(values)

    monkeypatch.setattr("cvae_lib.training._stopping.mean_loss", judge)
    history = fit(net := model(), bars(200), epochs=50, validation=bars(40), patience=3)
    assert history.validation == [5.0, 4.0, 3.0, 3.5, 3.0, 9.0] and history.best_epoch == 3
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), states[2], strict=True))
    assert not torch.equal(states[2][0], states[5][0])


def test_with_an_average_it_is_the_average_that_is_judged(monkeypatch):
    judged = []
    monkeypatch.setattr("cvae_lib.training._stopping.mean_loss", lambda net, *_: judged.append(net) or 1.0)
    fit(net := model(), bars(200), epochs=2, validation=bars(40), ema=0.9)
    assert judged[1] is not net
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), judged[1].parameters(), strict=True))


# --- what y is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "y",
    [
        (bars().labels + 1) % 4,
        lambda batch: (batch.y + 1) % 4,
        lambda batch: ((bars().labels + 1) % 4)[batch.index],
    ],
    ids=["tensor", "function", "by index"],
)
def test_y_can_be_given(y):
    relabelled = ImageSet(bars().images, (bars().labels + 1) % 4, "bars", classes=4)
    fit(expected := model(), relabelled, epochs=1, batch_size=64)
    fit(net := model(), bars(), epochs=1, batch_size=64, y=y)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.parameters(), strict=True))


def test_y_may_be_made_of_several_tensors():
    Pair = collections.namedtuple("Pair", "name label")
    y = Pair({"noise": torch.rand(256, 3)}, [bars().labels])
    seen = []

    def terms(net, x, y):
        seen.append(y)
        return elbo_terms(net, x, y.label[0])

    fit(model(), bars(), steps=2, batch_size=100, y=y, objective=terms)
    assert seen[0].name["noise"].shape == (100, 3) and isinstance(seen[0], Pair)


@pytest.mark.parametrize(
    "y, clue",
    [
        (torch.tensor(3), "each of the 256 images, and has no rows"),
        (bars().labels.tolist(), "a tensor with a row for each image.*not list"),
        ("labels", "a tensor with a row for each image.*not str"),
        (lambda batch: batch.y + 1, "0..3"),
        (torch.zeros(7, dtype=torch.int64), "each of the 256 images, and has 7"),
        (torch.full((256, 2), 0.5).index_fill(0, torch.tensor(9), math.nan), "not finite in row 9"),
        (lambda batch: None, "conditional: pass y"),
        (torch.full((256,), 4), "0..3"),
        (torch.zeros(256), "int64"),
    ],
)
def test_a_y_that_does_not_fit_is_named(y, clue, as_users_call):
    with pytest.raises(ValueError, match=clue):
        fit(model(), bars(), steps=1, y=y)


def test_nan_is_a_y_that_is_not_known_where_the_condition_says_so(as_users_call):
    """As good as the same y from a function of the batch; what a condition does not read is a fault, by its row."""
    numbers = torch.rand(256, 2, generator=torch.Generator().manual_seed(0))
    numbers[3, 1], numbers[7] = math.nan, math.nan
    torn = Observed(torch.full((256, 1, 6, 4), math.nan), torch.zeros(256, 1, 6, 4).bool())
    torn.image[:, :, 2], torn.mask[:, :, 2] = 0.5, True
    told = {"condition": "attributes", "attributes": ("a", "b")}, {"condition": "observed"}
    for settings, y in zip(told, (numbers, torn), strict=True):
        fit(net := model(**settings), bars(), steps=3, y=y, validation=(bars(), y))
        fit(other := model(**settings), bars(), steps=3, y=lambda batch, y=y: each(y, lambda part: part[batch.index]))
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    numbers[9, 0] = math.inf
    with pytest.raises(ValueError, match="row 9 is infinite"):
        fit(model(**told[0]), bars(), steps=1, y=numbers)
    torn.image[11, 0, 2, 0] = math.nan
    with pytest.raises(ValueError, match="not finite in row 11"):
        fit(model(**told[1]), bars(), steps=1, y=torn)
    with pytest.raises(ValueError, match="not finite in row 3"):
        fit(model(condition="none"), bars(), steps=1, y=numbers)


# --- faults ---------------------------------------------------------------------------------------------------------


def test_images_of_another_size_are_refused_before_anything_happens():
    other = ImageSet(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64), "squares")
    for settings in ({"data": other}, {"data": bars(), "validation": other}):
        with pytest.raises(ValueError, match=r"\(1, 6, 4\).*squares.*|\(1, 6, 4\).*\(1, 8, 8\)"):
            fit(model(), steps=1, **settings)


@pytest.mark.parametrize("value, kind", [(math.nan, "NaN or infinite"), (math.inf, "NaN or inf"), (3.0, "outside")])
@pytest.mark.parametrize("when", [1, 3])
def test_bad_pixels_are_called_a_fault_of_the_data(value, kind, when, monkeypatch):
    """Out of range is looked for in the first batch; what is no number is found whenever it comes."""
    original, calls, positions = ImageSet.pixels, 0, []

    def pixels(self, index, *arguments):
        nonlocal calls
        calls += 1
        x = original(self, index, *arguments)
        if calls == when:
            positions.append(int(index[5]))
            x[5, 0, 0, 0] = value
        return x

    monkeypatch.setattr(ImageSet, "pixels", pixels)
    net = model()
    if value == 3.0 and when == 3:
        fit(net, bars(), steps=4, batch_size=64)
        return
    with pytest.raises(ValueError, match=f"step {when - 1} has pixels.*{kind}.*data are at fault") as caught:
        fit(net, bars(), steps=4, batch_size=64)
    assert f"image {positions[0]} of bars" in str(caught.value)
    assert all(torch.isfinite(p).all() for p in net.parameters()) and not net.training


def caption_model() -> CVAE:
    return model(condition="caption", words=("one", "two"), caption_length=3, condition_width=4, how="attention")


@pytest.mark.parametrize(
    "net, y, clue",
    [
        (model, torch.full((256,), 4), "0..3"),
        (lambda: model(condition="embedding"), torch.full((256,), -2), "0..3"),
        (caption_model, torch.full((256, 3), 3), "1..2"),
        (
            lambda: model(condition="label+attributes", attributes=("a",)),
            (torch.full((256,), 4), torch.rand(256, 1)),
            "0..3",
        ),
    ],
    ids=["label", "embedding", "caption", "composite"],
)
@pytest.mark.parametrize("form", ["tensor", "function", "validation"])
def test_y_out_of_range_is_found_where_a_step_cannot_ask(net, y, clue, form, monkeypatch, as_users_call):
    """A compiled step, and one on a GPU, takes such a label for a missing one: it is looked for before."""
    net, steps = net(), 0

    def told(batch):
        return tuple(part[batch.index] for part in y) if isinstance(y, tuple) else y[batch.index]

    def pure(*arguments):
        nonlocal steps
        steps += 1
        return elbo_terms(*arguments)

    monkeypatch.setattr(training, "elbo_terms", pure)
    good = tuple(part % 2 for part in y) if isinstance(y, tuple) else y % 2
    settings = (
        {"y": good, "validation": (bars(), y)} if form == "validation" else {"y": told if form == "function" else y}
    )
    with pytest.raises(ValueError, match=clue):
        fit(net, bars(), epochs=1, **settings)
    assert steps == 0


def test_gaps_in_y_are_data_where_the_condition_reads_them():
    """NaN is an attribute that is not known, and a pixel not observed may hold anything; elsewhere it is a fault."""
    attributes = torch.rand(256, 2)
    known = attributes.clone().masked_fill_(torch.rand(256, 2) < 0.3, math.nan)
    net = model(condition="attributes", attributes=("a", "b"))
    history = fit(net, bars(), epochs=1, y=known)
    hidden = fit(model(condition="attributes", attributes=("a", "b")), bars(), epochs=1, y=lambda b: known[b.index])
    assert history == hidden
    with pytest.raises(ValueError, match="finite, or NaN where not known"):
        fit(net, bars(), epochs=1, y=attributes.masked_fill(attributes > 0.9, math.inf))
    image, mask = bars().pixels(), torch.rand(256, 1, 6, 4) < 0.5
    painter = model(condition="observed")
    fit(painter, bars(), epochs=1, y=Observed(image.masked_fill(~mask, math.nan), mask))
    mask[7], image[7] = True, math.nan
    with pytest.raises(ValueError, match="observed part is not finite in row 7"):
        fit(painter, bars(), epochs=1, y=Observed(image, mask))
    with pytest.raises(ValueError, match="told 'observed', not labels: pass y"):
        fit(painter, bars(), epochs=1)


def spoilt(step: int, spoil):
    """An objective whose terms are spoilt at one step."""
    calls = 0

    def terms(*arguments):
        nonlocal calls
        calls += 1
        found = elbo_terms(*arguments)
        return spoil(found) if calls == step + 1 else found

    return terms


@pytest.mark.parametrize("asks", [True, False], ids=["asked each step", "asked each epoch"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("step", [0, 6])
def test_a_bad_loss_names_its_step_and_keeps_the_weights_of_before(asks, bad, step, monkeypatch):
    """On a GPU nobody looks until the epoch ends, and the steps from the bad one on are switched off there."""
    monkeypatch.setattr("cvae_lib.training._loop.asks", lambda device: asks)
    terms = spoilt(step, lambda found: found._replace(log_likelihood=found.log_likelihood - bad))
    settings = {"batch_size": 64, "precision": "float32", "schedule": "constant"}
    fit(expected := model(), bars(), steps=max(step, 1), **settings)
    net = model()
    with pytest.raises(TrainingDiverged, match=f"at step {step},.*from before that step") as caught:
        fit(net, bars(), epochs=3, objective=terms, **settings)
    assert len(caught.value.history) == step // 4
    expected = expected if step else model()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.parameters(), strict=True))


def test_switching_steps_off_on_the_device_changes_nothing_else(monkeypatch):
    settings = {"epochs": 2, "batch_size": 64, "precision": "float32", "clip": 1.0}
    fit(expected := model(), bars(), **settings)
    monkeypatch.setattr("cvae_lib.training._loop.asks", lambda device: False)
    fit(net := model(), bars(), **settings)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.parameters(), strict=True))


def test_a_bad_gradient_of_a_good_loss_brings_back_weights_that_are_finite():
    terms = spoilt(5, lambda found: found._replace(log_likelihood=SpoiltGradient.apply(found.log_likelihood)))
    fit(expected := model(), bars(), steps=4, batch_size=64, schedule="constant")
    net = model()
    with pytest.raises(TrainingDiverged, match="at step 6,.*from the start of epoch 2"):
        fit(net, bars(), epochs=3, batch_size=64, objective=terms, schedule="constant", ema=None)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.parameters(), strict=True))
    terms = spoilt(5, lambda found: found._replace(log_likelihood=SpoiltGradient.apply(found.log_likelihood)))
    with pytest.raises(TrainingDiverged, match="gradient became nan at step 5,.*before that step"):
        fit(model(), bars(), epochs=3, batch_size=64, objective=terms, clip=1.0)


class SpoiltGradient(torch.autograd.Function):
    """A number whose gradient is none."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, g):
        return g * math.nan


@pytest.mark.parametrize("asks", [True, False], ids=["asked each step", "asked each epoch"])
def test_a_bad_gradient_in_the_last_step_of_an_epoch_does_not_become_the_last_good_weights(asks, monkeypatch, tmp_path):
    """Its loss is good, and no further step of the epoch notices; nothing of it may be kept, judged or saved."""
    monkeypatch.setattr("cvae_lib.training._loop.asks", lambda device: asks)
    settings = {"batch_size": 64, "schedule": "constant", "precision": "float32"}
    fit(expected := model(), bars(), steps=4, **settings)
    terms = spoilt(7, lambda found: found._replace(log_likelihood=SpoiltGradient.apply(found.log_likelihood)))
    net = model()
    with pytest.raises(TrainingDiverged, match="weight became NaN or infinite at step 7,.*start of epoch 2") as caught:
        fit(net, bars(), epochs=3, objective=terms, validation=bars(40), checkpoint=tmp_path, **settings)
    saved, history = load_checkpoint(tmp_path)
    assert len(caught.value.history) == len(history) == 1
    for kept in (net, saved):
        assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), expected.parameters(), strict=True))


def test_a_bad_gradient_in_the_midst_of_an_epoch_is_not_saved(tmp_path):
    terms = spoilt(5, lambda found: found._replace(log_likelihood=SpoiltGradient.apply(found.log_likelihood)))
    with pytest.raises(TrainingDiverged, match="step 6"):
        fit(model(), bars(), epochs=3, batch_size=64, objective=terms, checkpoint=tmp_path, checkpoint_every=1)
    assert all(torch.isfinite(p).all() for p in load_checkpoint(tmp_path)[0].parameters())


def test_a_run_that_diverges_ends_with_the_best_weights_and_says_so():
    terms = spoilt(9, lambda found: found._replace(log_likelihood=found.log_likelihood * math.nan))
    settings = {"batch_size": 64, "schedule": "constant", "precision": "float32"}
    fit(expected := model(), bars(), steps=4, **settings)
    worse = iter([1.0, 2.0])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TrainingDiverged, match="step 9,.* epoch 1, the best"):
        patch.setattr("cvae_lib.training._stopping.mean_loss", lambda *_: next(worse))
        fit(net := model(), bars(), epochs=3, objective=terms, validation=bars(40), patience=5, **settings)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.parameters(), strict=True))


def test_weights_that_were_bad_before_are_named_as_the_cause():
    net = model()
    with torch.no_grad():
        net.decoder.net.layers[-1].bias[3] = math.inf
    with pytest.raises(TrainingDiverged, match="because the weights had been so.*decoder.net.layers.1.bias holds NaN"):
        fit(net, bars(), epochs=1, precision="float32")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("patience", [None, 5])
def test_a_validation_that_is_no_number_stops_with_the_best_weights(value, patience, monkeypatch):
    values = iter([3.0, 4.0, value])
    monkeypatch.setattr("cvae_lib.training._stopping.mean_loss", lambda *_: next(values))
    which = "epoch 1, the best" if patience else "that step"
    settings = {"batch_size": 64, "schedule": "constant", "precision": "float32"}
    with pytest.raises(
        TrainingDiverged, match=f"validation became {value} after epoch 3, .*weights of {which}"
    ) as caught:
        fit(net := model(), bars(), epochs=5, validation=bars(40), patience=patience, **settings)
    assert caught.value.history.validation == [3.0, 4.0]
    fit(expected := model(), bars(), epochs=1 if patience else 3, **settings)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.parameters(), strict=True))


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_too_little_memory_is_one_sentence_with_a_batch_size_to_try(error):
    net = model()
    with pytest.raises(torch.cuda.OutOfMemoryError, match="batch_size=64; try batch_size=32") as caught:
        fit(net, bars(), steps=4, batch_size=64, objective=StopsAt(elbo_terms, 3, error))
    assert caught.value.__suppress_context__ and not net.training


def test_another_runtime_error_is_passed_on():
    with pytest.raises(RuntimeError, match="something else"):
        fit(model(), bars(), steps=4, objective=StopsAt(elbo_terms, 1, RuntimeError("something else")))


class StopsAt:
    """A function that does as it did before, but raises at its n-th call."""

    def __init__(self, original, call: int, error: BaseException) -> None:
        self.original, self.call, self.calls, self.error = original, call, 0, error

    def __get__(self, owner, kind=None):
        return self if owner is None else functools.partial(self, owner)

    def __call__(self, *arguments, **keywords):
        self.calls += 1
        if self.calls == self.call:
            raise self.error
        return self.original(*arguments, **keywords)


@pytest.mark.parametrize(
    "name, call",
    [
        ("cvae_lib.data.ImageSet.pixels", 6),
        ("cvae_lib.model.CVAE.posterior", 6),
        ("cvae_lib.objective.Terms.loss", 6),
        ("torch.Tensor.backward", 6),
        ("torch.nn.utils.clip_grad_norm_", 6),
        ("torch.optim.Adam.step", 6),
        ("torch.optim.adam._fused_adam", 6),
        ("cvae_lib.training._loop.get_ema_multi_avg_fn", 6),
        ("cvae_lib.training._stopping.mean_loss", 2),
        ("cvae_lib.training._progress.Progress.epoch", 2),
    ],
)
def test_an_interrupt_from_inside_any_part_leaves_everything_usable(name, call, monkeypatch, capsys):
    import importlib

    module, _, attribute = name.rpartition(".")
    try:
        holder = importlib.import_module(module)
    except ImportError:
        module, _, owner = module.rpartition(".")
        holder = getattr(importlib.import_module(module), owner)
    monkeypatch.setattr(holder, attribute, StopsAt(getattr(holder, attribute), call, KeyboardInterrupt()))
    net = model()
    history = fit(net, bars(), epochs=3, batch_size=64, clip=1.0, ema=0.9, validation=bars(40), precision="float32")
    assert history.interrupted and not net.training and "usable" in capsys.readouterr().out
    assert len(history.loss) == len(history.validation) == len(history.steps) == len(history.elbo)
    assert all(torch.isfinite(p).all() and p.grad is None for p in net.parameters())
    assert torch.is_grad_enabled() and net.draw(torch.tensor([1])).isfinite().all()


# --- compiling, other devices ---------------------------------------------------------------------------------------


def test_compiled_training_computes_the_same(monkeypatch, as_users_call):
    """Through the tracer, without the C++ compiler, which takes half a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    settings = {"epochs": 2, "batch_size": 64, "precision": "float32"}
    fit(expected := model(num_classes=0), bars(200), **settings)
    fit(net := model(num_classes=0), bars(200), compile=True, **settings)
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_the_tenth_architecture_is_compiled_as_the_first_was(monkeypatch):
    """The compiler gives a piece of code up after eight versions, and says so only in a log."""
    from torch._dynamo.utils import counters

    def loss(net, x):
        return net(x).sum()

    def tried(kind):
        torch._dynamo.reset()
        counters.clear()
        for width in range(3, 13):
            compiled(loss, True, torch.device("cpu"), kind=kind(width))(
                nn.Sequential(*[nn.SiLU()] * width), torch.ones(2)
            )
        return counters["frames"]["ok"] == counters["frames"]["total"] >= 10

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    assert tried(str) and not tried(lambda width: "all of one kind")


def test_without_a_compiler_it_says_so_and_goes_on(monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("\nNo working C++ compiler found\nin a long traceback")

    monkeypatch.setattr(torch, "compile", broken)
    history = fit(model(), bars(200), epochs=1, compile="reduce-overhead")
    first = capsys.readouterr().out.splitlines()[0]
    assert "No working C++ compiler found), so training runs uncompiled." in first and len(history) == 1


def test_a_step_on_a_gpu_never_waits_for_a_number(monkeypatch, as_users_call):
    """The meta device has shapes but no numbers: whoever asks for one there gets an error instead of a wait."""
    monkeypatch.setattr("cvae_lib.training._loop.asks", lambda device: False)
    device = torch.device("meta")
    net = model(dropout=0.1).to(device).train()
    recipe = Recipe(0.01, one_cycle, lambda step: 1.0, 0.0, 1.0, 0.9, "float32")
    epochs = SimpleNamespace(dtype=torch.float32, data=SimpleNamespace(name="nothing"))
    alone, budget = Team(0, 1, device), Budget(1, None, None, 10)
    measure = alone.wrap(measured(elbo_terms), net)
    loop = Loop(net, measure, epochs, recipe, budget, alone, None, Progress(budget, None, True), Interrupts())
    loop.optimiser = torch.optim.SGD(net.parameters(), lr=0.1)  # Adam on meta counts its steps with numbers
    loop.step = 1
    x, y = torch.zeros(8, 1, 6, 4, device=device), torch.zeros(8, dtype=torch.int64, device=device)
    loop._train(x, y, alone.share(8), None)
    assert loop.sums.device == device and all(p.grad is not None for p in net.parameters())
    monkeypatch.setattr("cvae_lib.training._loop.asks", lambda device: True)
    loop.asks = True
    with pytest.raises((RuntimeError, NotImplementedError)):
        loop._train(x, y, alone.share(8), None)


# --- history --------------------------------------------------------------------------------------------------------


def test_a_history_survives_json_to_the_last_digit():
    history = fit(model(), bars(), epochs=2, validation=bars(40), patience=1)
    again = History.from_json(history.to_json())
    assert again == history and again.seconds == history.seconds and 0 < again.seconds[0] <= again.seconds[1]


@pytest.mark.parametrize("text, clue", [("{", "JSON"), ("[1]", "list"), ('{"colour": 1}', "colour")])
def test_what_is_no_history_is_refused(text, clue):
    with pytest.raises(ValueError, match=f"no history.*{clue}"):
        History.from_json(text)
