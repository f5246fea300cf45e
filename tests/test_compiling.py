"""A compiled step is one graph, whatever the model, and computes what the plain one does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from one_graph import WAYS
from torch.distributions import Normal, kl_divergence

from cvae_lib import data
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms
from cvae_lib.gaussians import gaussian_kl
from cvae_lib.training import fit

ROOT = Path(__file__).parents[1]


def test_a_compiled_step_is_one_graph_and_computes_the_same():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "one_graph.py")], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert dict(line.split(": ", 1) for line in done.stdout.splitlines()) == dict.fromkeys(WAYS, "same")


def test_the_kl_of_gaussians_is_torchs_to_the_last_bit():
    found = []
    for way in (gaussian_kl, kl_divergence):
        generator = torch.Generator().manual_seed(1)
        inputs = [torch.randn(50, 3, generator=generator, requires_grad=True) for _ in range(4)]
        kl = way(Normal(inputs[0], inputs[1].exp()), Normal(inputs[2], inputs[3].exp()))
        found.append([kl, *torch.autograd.grad(kl.sum(), inputs)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def state():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


@pytest.mark.parametrize("how", [False, True])
@pytest.mark.parametrize("before", [(False, False, True), (True, True, False), (True, False, True)])
def test_a_compiled_step_adds_up_in_one_order_and_leaves_torch_as_it_was(monkeypatch, how, before):
    # Threads would add the gradient of an embedding up as they come by, and a resumed run would have other bits.
    monkeypatch.setattr(torch, "compile", lambda function, **settings: function)
    seen, first = [], state()

    def objective(model, x, y):
        seen.append(state())
        if len(seen) == 3:
            raise RuntimeError("a mistake in an objective")
        return elbo_terms(model, x, y)

    try:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]
        with pytest.raises(RuntimeError, match="a mistake in an objective"):
            fit(
                CVAE(CVAEConfig(hidden=(8,))),
                data.strokes(count=60),
                objective=objective,
                compile=how,
                device="cpu",
                steps=4,
            )
        assert state() == before
    finally:
        torch.use_deterministic_algorithms(first[0], warn_only=first[1])
        torch.utils.deterministic.fill_uninitialized_memory = first[2]
    assert seen == [(True, before[1] if before[0] else True, before[0] and before[2]) if how else before] * 3
