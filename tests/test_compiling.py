"""A compiled run computes what the plain one does, and is not compiled anew from step to step."""

import functools
from typing import Any

import pytest
import torch
from bars import bars, small
from torch._dynamo.testing import CompileCounter
from torch.distributions import Normal, kl_divergence

from cvae_lib import environment
from cvae_lib.gaussians import gaussian_kl
from cvae_lib.training import fit

USUAL: dict[str, Any] = {"epochs": 3, "batch_size": 64, "precision": "float32", "device": "cpu", "learning_rate": 0.01}


@pytest.fixture(autouse=True)
def counter(monkeypatch: pytest.MonkeyPatch, full_profile: None, as_users_call: None) -> CompileCounter:
    """Go through the tracer alone, without the C++ compiler, which takes half a minute; count what it compiles."""
    environment.settings.progress = False
    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    return counter


@pytest.mark.parametrize(
    "changes, settings",
    [
        ({"conditioning": "film", "prior": "gaussian", "likelihood": "gaussian"}, {"clip": 1.0, "ema": 0.9}),
        ({"prior": "mixture", "dropout": 0.1}, {"beta": 0.5}),
    ],
    ids=["film", "mixture"],
)
def test_compiled_training_computes_the_same(changes, settings, counter):
    data, held = bars(256), bars(40)
    history = fit(expected := small(**changes), data, validation=held, **USUAL, **settings)
    assert counter.frame_count == 0
    compiled = fit(model := small(**changes), data, validation=held, compile=True, **USUAL, **settings)
    assert counter.frame_count > 0
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert compiled.loss == pytest.approx(history.loss, rel=1e-4)
    assert compiled.validation == pytest.approx(history.validation, rel=1e-4)


def test_a_beta_that_moves_is_not_compiled_in_anew_each_step(counter):
    """With the number itself in the graph, twelve steps would be twelve graphs."""
    fit(small(), bars(), compile=True, **{**USUAL, "epochs": 1, "beta": 0.5})
    once = counter.frame_count
    settings = {**USUAL, "beta": lambda step: min(1.0, step / 8)}
    fit(expected := small(), bars(), **settings)
    fit(model := small(), bars(), compile=True, **settings)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert 0 < once <= counter.frame_count <= 2 * once, "below 1 and at 1, each once"


def test_the_kl_of_gaussians_is_torchs_to_the_last_bit():
    found = []
    for way in (gaussian_kl, kl_divergence):
        generator = torch.Generator().manual_seed(1)
        inputs = [torch.randn(50, 3, generator=generator, requires_grad=True) for _ in range(4)]
        kl = way(Normal(inputs[0], inputs[1].exp()), Normal(inputs[2], inputs[3].exp()))
        found.append([kl, *torch.autograd.grad(kl.sum(), inputs)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)
