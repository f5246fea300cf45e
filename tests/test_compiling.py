"""A compiled step is one graph, whatever the model, and computes what the plain one does."""

import subprocess
import sys
from pathlib import Path

import torch
from one_graph import WAYS
from torch.distributions import Normal, kl_divergence

from cvae_lib.priors._gaussians import gaussian_kl

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
