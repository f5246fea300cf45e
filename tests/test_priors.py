"""Priors against torch.distributions and quadrature; KLs in closed form, by integration, and sampled."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal, kl_divergence

from cvae_lib.gaussians import LOG_VARIANCE_BOUND
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms, kl_per_latent, log_importance_weights
from cvae_lib.priors import (
    ConditionalGaussian,
    ConditionalMixture,
    StandardNormal,
    VampPrior,
    tempered_sample,
)

PRIORS = ("standard", "gaussian", "mixture", "vamp")


def shaken(module: nn.Module) -> nn.Module:
    """Return the module in float64 with random weights, far from where it starts."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module.double()


class Encode(nn.Module):
    """A stand-in for an encoder: mean and log-variance are plain functions of image and condition."""

    def forward(self, x, c):
        features = x.flatten(1).sum(1, keepdim=True) + (0 if c is None else c @ torch.arange(1.0, 4).to(c)[:, None])
        return torch.cat([features, features.sin()], 1), torch.cat([features.cos(), -features.abs()], 1)


encode = Encode()


def model(name: str, **changes: object) -> CVAE:
    torch.manual_seed(0)
    settings = {
        "num_classes": 3,
        "latent_dim": 2,
        "hidden": (8,),
        "event_shape": (1, 3, 2),
        "prior": name,
        "components": 4,
    }
    return CVAE(CVAEConfig(**{**settings, **changes})).double()


X = (torch.rand(5, 1, 3, 2, generator=torch.Generator().manual_seed(1)) < 0.4).double()
Y = torch.tensor([0, 2, 1, 1, 2])


# --- what they are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [None, torch.eye(3)])
def test_the_conditional_gaussian_starts_at_the_standard_normal(c):
    p = ConditionalGaussian(4, 0 if c is None else 3)(c, 3)
    assert torch.equal(p.base_dist.loc, torch.zeros(3, 4)) and torch.equal(p.base_dist.scale, torch.ones(3, 4))
    z = torch.randn(3, 4)
    torch.testing.assert_close(p.log_prob(z), StandardNormal(4)(c, 3).log_prob(z))


def test_the_conditional_gaussian_moves_with_y_within_bounds():
    module = shaken(ConditionalGaussian(4, 3))
    p = module(torch.eye(3, dtype=torch.float64), 3)
    assert not torch.allclose(p.mean[0], p.mean[1]) and not torch.allclose(p.stddev[0], p.stddev[1])
    module(torch.eye(3, dtype=torch.float64), 3).log_prob(torch.randn(3, 4).double()).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())
    with torch.no_grad():
        module.head.out.bias.fill_(1e6)
    assert module(torch.eye(3, dtype=torch.float64), 3).variance.log().max() <= LOG_VARIANCE_BOUND + 1e-9


def test_the_conditional_mixture_is_the_weighted_sum_of_its_components():
    module = shaken(ConditionalMixture(2, 3, components=4))
    c, z = torch.eye(3, dtype=torch.float64), torch.randn(6, 3, 2, dtype=torch.float64)
    p = module(c, 3)
    raw = module.head(c, 3)
    weights, rest = raw[:, :4].softmax(1), raw[:, 4:].reshape(3, 2, 4, 2)
    mean, scale = rest[:, 0], (5 * torch.tanh(rest[:, 1] / 10)).exp()
    density = sum(weights[:, m] * Normal(mean[:, m], scale[:, m]).log_prob(z).sum(-1).exp() for m in range(4))
    torch.testing.assert_close(p.log_prob(z).exp(), density)
    assert p.event_shape == (2,) and p.batch_shape == (3,)


def test_a_mixture_integrates_to_one():
    p = shaken(ConditionalMixture(1, 0, components=3))(None, 1)
    width = (p.component_distribution.mean.abs() + 12 * p.component_distribution.stddev).max().item()
    grid = torch.linspace(-width, width, 400_001, dtype=torch.float64)[:, None, None]
    assert torch.trapezoid(p.log_prob(grid).exp()[:, 0], grid[:, 0, 0]).item() == pytest.approx(1, abs=1e-6)


def test_the_mixture_starts_near_the_standard_normal_with_components_apart():
    p = ConditionalMixture(64, 3, components=50)(torch.eye(3), 3)
    assert p.mean.abs().mean() < 0.1 and p.variance.mean().item() == pytest.approx(1, abs=0.05)
    assert (p.component_distribution.mean[0, 0] - p.component_distribution.mean[0, 1]).norm() > 1
    torch.testing.assert_close(p.mean[0], p.mean[2])


@pytest.mark.parametrize("c", [None, torch.eye(3, dtype=torch.float64)[[0, 2, 0, 1, 2]]])
def test_the_vamp_prior_is_the_average_posterior_of_its_pseudo_images(c):
    module = shaken(VampPrior(encode, (1, 3, 2), components=4))
    z = torch.randn(7, 5, 2, dtype=torch.float64)
    p = module(c, 5)
    for b in range(5):
        rows = None if c is None else c[b].expand(4, 3)
        mean, log_variance = encode(torch.sigmoid(module.raw), rows)
        each = Normal(mean, (0.5 * log_variance).exp()).log_prob(z[:, b, None]).sum(-1)  # (7, 4)
        torch.testing.assert_close(p.log_prob(z)[:, b], each.logsumexp(1) - math.log(4))


def test_the_vamp_prior_asks_the_encoder_once_for_each_distinct_condition():
    rows, encoder = [], Encode()
    encoder.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    VampPrior(encoder, (1, 3, 2), components=4)(torch.eye(3)[torch.arange(60) % 3], 60)
    assert rows == [12]


def test_the_vamp_prior_lets_gradients_reach_the_pseudo_images_the_encoder_and_the_condition():
    net = model("vamp")
    net.prior(Y).log_prob(torch.randn(5, 2).double()).sum().backward()
    assert net.prior_module.raw.grad.abs().min() > 0
    assert all(parameter.grad.abs().max() > 0 for parameter in net.encoder.parameters())
    c = torch.randn(2, 3, dtype=torch.float64)[[0, 1, 0]].requires_grad_()
    module = shaken(VampPrior(encode, (1, 3, 2), components=2))
    value = module(c, 3).log_prob(torch.zeros(3, 2).double()).sum()
    value.backward()
    step = 1e-6 * torch.randn(2, 3, dtype=torch.float64)[[0, 1, 0]]  # equal rows stay equal
    ahead = module(c.detach() + step, 3).log_prob(torch.zeros(3, 2).double()).sum()
    assert (ahead - value).item() == pytest.approx(float((c.grad * step).sum()), rel=1e-4)


def test_pseudo_images_can_start_from_real_ones():
    module, images = VampPrior(encode, (1, 3, 2), components=5), X.float()
    module.start_from(images)
    assert (module.pseudo_images - images).abs().max() < 0.021
    module.start_from((255 * images).byte())  # as they are stored
    assert (module.pseudo_images - images).abs().max() < 0.021
    with pytest.raises(ValueError, match=r"\(5, 1, 3, 2\), not \(2, 1, 3, 2\)"):
        module.start_from(images[:2])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], but run from 0 to 255"):
        module.start_from(255 * images)
    with pytest.raises(ValueError, match="choose another|take another"):
        model("vamp", likelihood="real")


# --- KL: closed form, quadrature, sampled -----------------------------------------------------------------------


def test_the_kl_between_factorised_gaussians_is_the_formula_and_the_integral():
    q = Independent(Normal(torch.randn(4, 3).double(), torch.rand(4, 3).double() + 0.3), 1)
    p = shaken(ConditionalGaussian(3, 2))(torch.randn(4, 2).double(), 4)
    mq, sq, mp, sp = q.mean, q.stddev, p.mean, p.stddev
    formula = (sp / sq).log() + (sq**2 + (mq - mp) ** 2) / (2 * sp**2) - 0.5
    torch.testing.assert_close(kl_per_latent(q, p), formula)
    t = torch.linspace(-10, 10, 20_001, dtype=torch.float64)[:, None, None]
    at = mq + sq * t
    integrand = Normal(mq, sq).log_prob(at).exp() * (Normal(mq, sq).log_prob(at) - Normal(mp, sp).log_prob(at)) * sq
    torch.testing.assert_close(kl_per_latent(q, p), torch.trapezoid(integrand, t, dim=0), atol=1e-6, rtol=1e-6)


def test_the_sign_and_the_order_of_the_kl_are_right():
    narrow, wide = (Independent(Normal(torch.zeros(1, 1), torch.full((1, 1), s)), 1) for s in (0.1, 1.0))
    assert kl_per_latent(narrow, wide).item() == pytest.approx(math.log(10) + 0.005 - 0.5, abs=1e-6)
    assert kl_per_latent(wide, narrow).item() == pytest.approx(-math.log(10) + 50 - 0.5, rel=1e-6)


def test_the_kl_to_a_mixture_is_sampled_without_bias():
    """One latent, so that the integral is a sum on a grid."""
    p = shaken(ConditionalMixture(1, 3, components=3))(torch.eye(3, dtype=torch.float64), 3)
    q = Independent(Normal(torch.tensor([[0.5], [-1], [2]]).double(), torch.tensor([[0.4], [1], [2]]).double()), 1)
    at = q.mean + q.stddev * torch.linspace(-10, 10, 20_001, dtype=torch.float64)[:, None, None]
    integrand = q.log_prob(at).exp() * (q.log_prob(at) - p.log_prob(at))  # (grid, 3)
    exact = torch.trapezoid(integrand, at[..., 0], dim=0)
    singles = torch.stack([kl_per_latent(q, p, q.rsample()) for _ in range(4000)])  # (4000, 3, 1)
    z_score = (singles.mean(0)[:, 0] - exact) / (singles.std(0)[:, 0] / math.sqrt(4000))
    assert z_score.abs().max() < 4 and (exact > 0).all()
    many = kl_per_latent(q, p, q.rsample((4000,)))
    assert many.shape == (3, 1)
    assert ((many[:, 0] - exact) / (singles.std(0)[:, 0] / math.sqrt(4000))).abs().max() < 4


def test_the_sampled_kl_has_the_closed_forms_gradient_in_expectation():
    """A mixture of one component is a Gaussian, whose closed form gives the truth."""
    p = shaken(ConditionalMixture(2, 0, components=1))(None, 1)
    single = Independent(Normal(p.component_distribution.mean[:, 0], p.component_distribution.stddev[:, 0]), 1)
    loc = torch.tensor([[0.3, -0.7]]).double().requires_grad_()
    log_scale = torch.tensor([[-0.2, 0.4]]).double().requires_grad_()

    def gradient(closed: bool) -> torch.Tensor:
        q = Independent(Normal(loc, log_scale.exp()), 1)
        kl = kl_per_latent(q, single) if closed else kl_per_latent(q, p, q.rsample())
        return torch.cat(torch.autograd.grad(kl.sum(), (loc, log_scale), retain_graph=True), 1)

    draws = torch.stack([gradient(closed=False) for _ in range(2000)])
    z_score = (draws.mean(0) - gradient(closed=True)) / (draws.std(0) / math.sqrt(2000))
    assert z_score.abs().max() < 4


def test_which_kl_is_taken_follows_the_pair():
    q = Independent(Normal(torch.zeros(3, 2), torch.ones(3, 2)), 1)
    full = MultivariateNormal(torch.ones(3, 2), torch.eye(2) * 2)
    torch.testing.assert_close(kl_per_latent(full, full), torch.zeros(3, 1))
    laplace = Independent(Laplace(torch.zeros(3, 2), torch.ones(3, 2)), 1)
    torch.testing.assert_close(kl_per_latent(laplace, q), kl_divergence(laplace.base_dist, q.base_dist))
    # No closed form for this order: sampled, and still one number per latent, because both factorise.
    z = q.rsample((3000,))
    sampled = kl_per_latent(q, laplace, z)
    exact = -0.5 * math.log(2 * math.pi * math.e) + math.log(2) + math.sqrt(2 / math.pi)
    assert sampled.shape == (3, 2) and (sampled - exact).abs().max() < 0.06
    torch.testing.assert_close(kl_per_latent(q, full, z).sum(1), (q.log_prob(z) - full.log_prob(z)).mean(0))
    with pytest.raises(ValueError, match="pass z drawn from q"):
        kl_per_latent(q, full)


# --- in the model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("num_classes", [0, 3])
def test_a_model_with_it_trains_scores_and_draws(name, num_classes):
    net = model(name, num_classes=num_classes)
    y = Y if num_classes else None
    terms = elbo_terms(net, X, y)
    assert terms.kl.shape == ((5, 2) if name in ("standard", "gaussian") else (5, 1)) and terms.rate.shape == (5,)
    terms.loss().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters())
    assert log_importance_weights(net, X, y, 3).dtype == torch.float64
    drawn = net.draw(y, count=None if num_classes else 5, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (5, 1, 3, 2)
    assert CVAEConfig.from_dict(net.config.as_dict()) == net.config
    model(name, num_classes=num_classes).load_state_dict(net.state_dict())


@pytest.mark.parametrize("name", PRIORS)
def test_the_weights_average_to_the_likelihood_under_every_prior(name):
    """log p(x|y) by a grid over the one latent, against importance sampling with the encoder as proposal."""
    net = model(name, latent_dim=1).requires_grad_(False)
    for parameter in net.prior_module.parameters():
        parameter.normal_(0, 0.5)
    net.encoder.net.layers[-1].bias[1] = 1.5  # a proposal wider than the truth, whose weights have no heavy tail
    grid = torch.linspace(-9, 9, 3001, dtype=torch.float64)[:, None, None].expand(-1, 5, 1)
    joint = net.likelihood(grid, Y).log_prob(X) + net.prior(Y).log_prob(grid)
    exact = joint.logsumexp(0) + math.log(18 / 3000)
    weights = log_importance_weights(net, X, Y, 20_000)
    estimate = weights.logsumexp(0) - math.log(20_000)
    error = (weights - estimate).exp().std(0) / math.sqrt(20_000)
    assert ((estimate - exact).abs() < 4 * error).all() and error.max() < 0.02


def test_half_precision_and_the_meta_device_are_followed():
    for name in PRIORS:
        net = model(name).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert net.prior(Y).log_prob(torch.zeros(5, 2)).dtype == torch.float32
        if name != "vamp":  # which rows are distinct cannot be told without their values
            assert net.to("meta").prior(Y.to("meta")).log_prob(torch.zeros(5, 2, device="meta")).shape == (5,)


def test_the_default_model_has_the_parameters_it_always_had():
    names = [key for key, _ in CVAE(CVAEConfig(hidden=(4,))).named_parameters()]
    assert names == [
        f"{part}.net.layers.{layer}.{kind}"
        for part in ("encoder", "decoder")
        for layer in (0, 1)
        for kind in ("weight", "bias")
    ]


def test_tempered_draws_of_a_gaussian_prior_have_its_own_mean_and_scale():
    p = shaken(ConditionalGaussian(2, 0))(None, 20_000)
    assert ((p.stddev[0] - 1).abs() > 0.1).all()
    for temperature in (1.0, 0.5):
        z = tempered_sample(p, temperature, torch.Generator().manual_seed(1))
        spread = temperature * p.stddev[0]
        assert ((z.mean(0) - p.mean[0]) / (spread / math.sqrt(20_000))).abs().max() < 4
        assert (z.std(0) / spread - 1).abs().max() < 4 / math.sqrt(40_000)


def test_tempered_draws_have_the_mixtures_moments_and_temperature_narrows_the_components():
    p = shaken(ConditionalMixture(2, 0, components=3))(None, 20_000)
    one = tempered_sample(p, generator=torch.Generator().manual_seed(1))
    assert ((one.mean(0) - p.mean[0]) / (p.variance[0] / 20_000).sqrt()).abs().max() < 4
    assert torch.equal(one, tempered_sample(p, generator=torch.Generator().manual_seed(1)))
    frozen = tempered_sample(p, temperature=0)
    found, counts = torch.unique(frozen, dim=0, return_counts=True)
    centres = p.component_distribution.mean[0]
    assert all((centres == row).all(1).any() for row in found)
    weights = p.mixture_distribution.probs[0]
    order = [int((centres == row).all(1).nonzero()) for row in found]
    error = (weights * (1 - weights) / 20_000).sqrt()
    assert ((counts / 20_000 - weights[order]) / error[order]).abs().max() < 4


def test_mistakes_are_named(as_users_call):
    with pytest.raises(ValueError, match=r"'normal'.*vamp"):
        model("normal")
    with pytest.raises(ValueError, match="at least 1 component"):
        ConditionalMixture(2, components=0)
    with pytest.raises(ValueError, match="at least 1 pseudo-image"):
        VampPrior(encode, (1, 3, 2), components=0)
    for c in (None, torch.zeros(2, 4), torch.zeros(3, 3)):
        with pytest.raises(ValueError, match=r"condition as \(2, 3\)"):
            ConditionalGaussian(2, 3)(c, 2)
