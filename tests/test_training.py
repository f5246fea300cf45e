"""Training: it learns, it repeats itself, it stops politely."""

import math

import pytest
import torch

from cvae_lib import training
from cvae_lib.data import ImageSet
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.training import TrainingDiverged, autocast, fit, one_cycle, seeded


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
    assert "100%" in err and "3/3" in err and out == ""


def test_the_fast_profile_caps_the_steps(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "fast")
    assert fit(model(), bars(), epochs=500, batch_size=16).steps[-1] == 30


@pytest.mark.parametrize(
    "changes, clue",
    [
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"beta": -1.0}, "beta"),
        ({"precision": "float8"}, "precision"),
        ({"pixels": "red"}, "pixels"),
        ({"device": "toaster"}, "toaster"),
    ],
)
def test_bad_arguments_are_named(changes, clue, as_users_call):
    with pytest.raises(ValueError, match=clue):
        fit(model(), bars(), **{"epochs": 1, "device": "cpu", **changes})


def test_data_with_more_classes_than_the_model_are_refused():
    with pytest.raises(ValueError, match="4 classes, the model knows 3"):
        fit(model(num_classes=3), bars(), epochs=1)


def test_autocast_is_bfloat16_only_when_asked():
    cpu = torch.device("cpu")
    with autocast(cpu, "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast(cpu, "float32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
