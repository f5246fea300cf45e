"""Every numbered equation of the chapters, checked numerically, and a gate that none is forgotten.

The laboratory is a CVAE of four binary pixels, three labels and one latent: all sixteen images can be enumerated, and
integrals over z are sums on a fine grid, in float64.
"""

import math
import re
from pathlib import Path

import pytest
import torch

from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms, log_importance_weights

ROOT = Path(__file__).resolve().parent.parent
GRID = torch.linspace(-9, 9, 3001, dtype=torch.float64)
STEP = math.log(float(GRID[1] - GRID[0]))
EVERY_IMAGE = torch.tensor(
    [[[[a, b], [c, d]]] for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1)], dtype=torch.float64
)  # (16, 1, 2, 2)


def test_every_numbered_equation_has_a_test_that_names_it():
    tests = {name for name in globals() if name.startswith("test_equation_")}
    for source in sorted((ROOT / "authoring" / "notebooks").glob("*.py")):
        for chapter, number in re.findall(r"\\tag\{(\d+)\.(\d+)\}", source.read_text(encoding="utf-8")):
            prefix = f"test_equation_{chapter}_{number}_"
            assert any(name.startswith(prefix) for name in tests), f"{source.name}: ({chapter}.{number}) has no test"


@pytest.fixture
def tiny() -> CVAE:
    torch.manual_seed(5)
    model = CVAE(CVAEConfig(num_classes=3, latent_dim=1, hidden=(6,), image_shape=(1, 2, 2))).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def exact(model: CVAE, label: int) -> torch.Tensor:
    """Return log p(x|y) of all sixteen images by summing over the grid of z, shape (16,)."""
    z = GRID[:, None, None].expand(-1, 16, 1)
    joint = model.likelihood(z, torch.full((16,), label)).log_prob(EVERY_IMAGE) - 0.5 * GRID[:, None] ** 2
    return joint.logsumexp(0) + STEP - 0.5 * math.log(2 * math.pi)


def table(model: CVAE) -> torch.Tensor:
    return torch.stack([exact(model, label) for label in range(3)], dim=1)  # (16, 3)


def test_equation_3_1_the_conditional_bound_lies_below(tiny):
    for label in range(3):
        y = torch.full((16,), label)
        elbo = torch.stack([elbo_terms(tiny, EVERY_IMAGE, y).elbo.detach() for _ in range(2000)])
        assert (elbo.mean(0) - 4 * elbo.std(0) / 2000**0.5 < exact(tiny, label)).all()


def test_equation_3_2_and_bayes_agree_for_every_image_and_label(tiny):
    log_xy = table(tiny).detach() - math.log(3)  # log p(x,y), (16, 3)
    log_x, log_y = log_xy.logsumexp(1, keepdim=True), log_xy.logsumexp(0, keepdim=True)
    left = (log_xy - log_y) - log_x
    right = (log_xy - log_x) - log_y
    torch.testing.assert_close(left, right, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_y, torch.full((1, 3), -math.log(3), dtype=torch.float64), atol=2e-6, rtol=0)


def test_equation_3_3_a_label_is_worth_its_entropy_at_most(tiny):
    log_xy = table(tiny).detach() - math.log(3)
    p, log_x = log_xy.exp(), log_xy.logsumexp(1, keepdim=True)
    worth = (p * (log_xy + math.log(3) - log_x)).sum()  # E[log p(x|y) - log p(x)]
    doubt = -(p * (log_xy - log_x)).sum()  # H(y|x)
    assert worth.item() == pytest.approx(math.log(3) - doubt.item(), abs=1e-5)
    assert 0 < worth.item() < math.log(3)


def test_equation_3_4_the_weights_average_to_the_likelihood(tiny):
    y = torch.full((16,), 1)
    weights = log_importance_weights(tiny, EVERY_IMAGE, y, 40_000)
    estimate = weights.logsumexp(0) - math.log(40_000)
    relative_error = (weights - estimate).exp().std(0) / 200
    assert ((estimate - exact(tiny, 1)).abs() < 4 * relative_error + 1e-3).all()


def test_equation_3_5_the_marginal_sums_to_one_over_all_images(tiny):
    marginal = table(tiny).detach().logsumexp(1) - math.log(3)
    assert marginal.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_equation_3_6_is_the_softmax_of_the_table(tiny):
    likelihoods = table(tiny).detach()
    joint = likelihoods.exp() / 3
    torch.testing.assert_close(likelihoods.softmax(1), joint / joint.sum(1, keepdim=True), atol=1e-12, rtol=0)
