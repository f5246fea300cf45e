"""Likelihoods against torch.distributions, sums over every level, quadrature and autograd."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal

from cvae_lib.gaussians import bounded_log_variance
from cvae_lib.likelihoods import (
    BernoulliPixels,
    CategoricalPixels,
    GaussianPixels,
    LogisticPixels,
    masked,
)
from cvae_lib.model import CVAE, CVAEConfig

LIKELIHOODS = ("bernoulli", "gaussian", "gaussian_per_pixel", "real", "logistic", "categorical")
DISCRETE = {"bernoulli": 2, "logistic": 7, "categorical": 7}


def likelihood(name: str, levels: int = 256) -> nn.Module:
    """Return the likelihood that a model with this setting has."""
    return CVAE(CVAEConfig(hidden=(2,), event_shape=(2, 3, 2), likelihood=name, levels=levels)).likelihood_module


def output(module: nn.Module, *lead: int, channels: int = 2, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return a random decoder output for images of 3 by 2 pixels."""
    return torch.randn(*lead, module.channels_per_pixel * channels, 3, 2, dtype=dtype)


def pixels(*shape: int, levels: int = 2, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randint(0, levels, shape).to(dtype) / (levels - 1)


# --- Bernoulli ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 32, 32), (1, 1, 787), (2, 3, 2)])
@pytest.mark.parametrize("size", [0.1, 3.0, 60.0])
def test_bernoulli_is_its_formula_in_value_and_gradient(image, size):
    logits = (size * torch.randn(4, *image, dtype=torch.float64)).requires_grad_()
    log_sigmoid = nn.functional.logsigmoid
    for x in (pixels(4, *image), torch.rand(4, *image, dtype=torch.float64)):
        ours = BernoulliPixels()(logits).log_prob(x)
        expected = (x * log_sigmoid(logits) + (1 - x) * log_sigmoid(-logits)).sum((1, 2, 3))
        torch.testing.assert_close(ours, expected, atol=1e-9, rtol=1e-12)
        ours, expected = (torch.autograd.grad(value.sum(), logits)[0] for value in (ours, expected))
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-12)


def _cross_entropy(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((-3, -2, -1))


@pytest.mark.parametrize("size", [0.1, 3.0, 60.0])
def test_bernoulli_in_float32_is_as_close_to_the_truth_as_torchs_own(size):
    logits, x = size * torch.randn(64, 1, 28, 28), torch.rand(64, 1, 28, 28)
    truth = _cross_entropy(logits.double(), x.double())
    ours, theirs = (
        (value - truth).abs().max() for value in (BernoulliPixels()(logits).log_prob(x), _cross_entropy(logits, x))
    )
    assert ours < 2 * theirs + 1e-7 * truth.abs().max()


def test_bernoulli_takes_several_draws_of_z_and_passes_gradcheck():
    logits, x = torch.randn(3, 4, 1, 3, 2, dtype=torch.float64, requires_grad=True), pixels(4, 1, 3, 2)
    together = BernoulliPixels()(logits).log_prob(x)
    assert together.shape == (3, 4)
    torch.testing.assert_close(together[2, 1], _cross_entropy(logits[2, 1], x[1]))

    def value(logits):
        return BernoulliPixels()(logits).log_prob(x)

    assert torch.autograd.gradcheck(value, logits) and torch.autograd.gradgradcheck(value, logits)
    per_example = torch.func.vmap(torch.func.grad(lambda logits, x: BernoulliPixels()(logits).log_prob(x)))(
        logits[0], x
    )
    torch.testing.assert_close(per_example, x - torch.sigmoid(logits[0]))


def test_bernoulli_takes_more_images_than_parameters_and_a_gradient_for_the_image():
    logits, x = torch.randn(4, 1, 3, 2, dtype=torch.float64), torch.rand(5, 4, 1, 3, 2, dtype=torch.float64)
    assert BernoulliPixels()(logits).log_prob(x).shape == (5, 4)  # more images than parameters
    image = x[0].clone().requires_grad_()
    BernoulliPixels()(logits).log_prob(image).sum().backward()
    torch.testing.assert_close(image.grad, logits)  # a gradient for the image
    half = BernoulliPixels()(logits.bfloat16())
    assert half.log_prob(x[0].float()).dtype == torch.float32
    assert math.isnan(BernoulliPixels()(logits * math.nan).log_prob(x[0])[0])


# --- vectors ------------------------------------------------------------------------------------------------------


def test_vectors_are_torchs_distributions_with_one_axis_per_event():
    torch.manual_seed(3)
    out, x = torch.randn(5, 4, 14, dtype=torch.float64), torch.rand(4, 7, dtype=torch.float64)
    for scale, first in (("global", out[..., :7]), ("pixel", out)):
        for link in ("sigmoid", "identity"):
            module = GaussianPixels(scale, link, event_dims=1).double()
            mean = out[..., :7].sigmoid() if link == "sigmoid" else out[..., :7]
            log_variance = 10 * torch.tanh((out[..., 7:] * (scale == "pixel") - 3) / 10)
            expected = Independent(Normal(mean, (0.5 * log_variance).exp().expand_as(mean)), 1)
            p = module(first)
            assert (p.batch_shape, p.event_shape) == ((5, 4), (7,))
            torch.testing.assert_close(p.log_prob(x), expected.log_prob(x))
            torch.testing.assert_close(p.mean, expected.mean)
    p = BernoulliPixels(event_dims=1)(out)
    torch.testing.assert_close(
        p.log_prob((out > 0).double()[0]), Independent(Bernoulli(logits=out), 1).log_prob((out > 0).double()[0])
    )
    p, levels = CategoricalPixels(7, event_dims=1)(out), pixels(4, 2, levels=7)
    logits = out.unflatten(-1, (7, 2)).mT  # (5, 4, 2, 7)
    torch.testing.assert_close(p.log_prob(levels), Categorical(logits=logits).log_prob((6 * levels).round()).sum(-1))
    out[..., 7:] += 6  # wide enough that a difference of two sigmoids has its digits
    p, loc, scale = (
        LogisticPixels(7, event_dims=1)(out),
        (1 + out[..., :7]) / 2,
        (5 * (out[..., 7:] / 10).tanh() - 3).exp(),
    )
    k = torch.randint(1, 6, (4, 7)).double()  # inner levels, whose bins have two ends
    inside = torch.sigmoid(((k + 0.5) / 6 - loc) / scale) - torch.sigmoid(((k - 0.5) / 6 - loc) / scale)
    torch.testing.assert_close(p.log_prob(k / 6), inside.log().sum(-1))


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("event_shape", [(5,), (2, 5)], ids=str)
def test_a_model_of_vectors_or_matrices_scores_and_draws(name, event_shape):
    config = CVAEConfig(num_classes=3, latent_dim=2, hidden=(8,), event_shape=event_shape, likelihood=name, levels=5)
    model, x, y = CVAE(config).double(), pixels(4, *event_shape).double(), torch.tensor([0, 1, 2, 0])
    assert model.likelihood(torch.randn(3, 4, 2).double(), y).log_prob(x).shape == (3, 4)
    assert model.draw(y).shape == model.draw(y, sample=True).shape == (4, *event_shape)


# --- the others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["sigmoid", "identity"])
def test_gaussian_pixels_are_torchs_normal(link):
    module = GaussianPixels("pixel", link).double()
    out, x = output(module, 4), torch.rand(4, 2, 3, 2, dtype=torch.float64)
    mean, raw = out[:, :2], out[:, 2:]
    mean = torch.sigmoid(mean) if link == "sigmoid" else mean
    scale = (0.5 * 10 * torch.tanh((raw - 3) / 10)).exp()
    torch.testing.assert_close(module(out).log_prob(x), Normal(mean, scale).log_prob(x).sum((1, 2, 3)))
    shared = GaussianPixels("global", link).double()
    scale = (0.5 * bounded_log_variance(shared.raw)).exp()
    torch.testing.assert_close(shared(out[:, :2]).log_prob(x), Normal(mean, scale).log_prob(x).sum((1, 2, 3)))


def test_the_global_scale_learns_the_size_of_the_errors():
    module, x = GaussianPixels(link="identity").double(), 0.05 * torch.randn(50, 1, 8, 8, dtype=torch.float64)
    optimiser = torch.optim.LBFGS(module.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = -module(torch.zeros_like(x)).log_prob(x).mean()
        value.backward()
        return value

    optimiser.step(loss)
    learned = module(torch.zeros_like(x)).base_dist.scale.mean().item()
    assert learned == pytest.approx(x.square().mean().sqrt().item(), rel=1e-4)


@pytest.mark.parametrize("levels", [2, 3, 256])
@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_the_discretised_logistic_sums_to_one_over_its_levels(levels, dtype, bound):
    module = LogisticPixels(levels)
    raw = torch.tensor([-30.0, -3, 0, 2, 30], dtype=dtype)
    loc = torch.tensor([-20.0, -1.01, -1, -0.3, 0, 0.9999, 1, 15], dtype=dtype)
    out = torch.stack(torch.meshgrid(loc, raw, indexing="ij"))[:, None].flatten(0, 1)  # (2, 8, 5): means, scales
    grid = torch.linspace(0, 1, levels, dtype=dtype)[:, None, None, None].expand(-1, 1, 8, 5)
    each = module(out).base_dist.log_prob(grid)  # (levels, 1, 8, 5)
    assert torch.isfinite(each).all() and (each <= 0).all()
    assert (each.logsumexp(0)).abs().max() < bound


def test_each_bin_is_the_logistic_integrated_over_it():
    """Against the difference of two sigmoids, which is accurate in float64 where bins are not far off."""
    levels, out = 256, torch.randn(2, 6, 5, dtype=torch.float64)
    base = LogisticPixels(levels)(out).base_dist
    k = torch.randint(0, levels, (1, 6, 5)).double()
    k[0, 0, :3] = torch.tensor([0.0, 255.0, 1.0])
    upper = torch.where(k == 255, math.inf, (k + 0.5) / 255)
    lower = torch.where(k == 0, -math.inf, (k - 0.5) / 255)
    loc, scale = (1 + out[:1]) / 2, (5 * torch.tanh(out[1:] / 10) - 3).exp()
    expected = torch.sigmoid((upper - loc) / scale) - torch.sigmoid((lower - loc) / scale)
    torch.testing.assert_close(base.log_prob(k / 255).exp(), expected, atol=1e-12, rtol=1e-9)
    # and against the density, by the trapezoid rule over one bin
    t = torch.linspace(99.5, 100.5, 2001, dtype=torch.float64)[:, None, None, None] / 255
    density = torch.sigmoid((t - loc) / scale) * torch.sigmoid(-(t - loc) / scale) / scale
    hundred = base.log_prob(torch.full((1, 6, 5), 100 / 255, dtype=torch.float64)).exp()
    torch.testing.assert_close(torch.trapezoid(density, t, dim=0), hundred, atol=1e-12, rtol=1e-5)


def test_categorical_pixels_are_torchs_categorical():
    module = CategoricalPixels(7)
    out, x = output(module, 5, 4), pixels(4, 2, 3, 2, levels=7)
    logits = torch.stack([out[:, :, 2 * level : 2 * level + 2] for level in range(7)], -1)  # (5, 4, 2, 3, 2, 7)
    expected = Categorical(logits=logits).log_prob((x * 6).round().long().expand(5, 4, 2, 3, 2)).sum((2, 3, 4))
    torch.testing.assert_close(module(out).log_prob(x), expected)


@pytest.mark.parametrize("name", DISCRETE)
def test_means_and_draws_belong_to_the_probabilities(name):
    levels = DISCRETE[name]
    module = likelihood(name, levels)
    p = module(output(module, 2, channels=1))
    grid = (torch.arange(levels).double() / (levels - 1))[:, None, None, None, None].expand(-1, 2, 1, 3, 2)
    table = p.base_dist.log_prob(grid).exp()  # (levels, 2, 1, 3, 2)
    torch.testing.assert_close(table.sum(0), torch.ones(2, 1, 3, 2, dtype=torch.float64))
    torch.testing.assert_close(p.mean, (table * grid).sum(0))
    draws = p.sample((20_000,))
    assert draws.shape == (20_000, 2, 1, 3, 2)
    share = (draws[None] == grid[:, None]).double().mean(1)  # (levels, 2, 1, 3, 2): every draw is on a level
    torch.testing.assert_close(share.sum(0), torch.ones(2, 1, 3, 2, dtype=torch.float64))
    assert ((share - table) / (table * (1 - table) / 20_000).sqrt()).abs().max() < 4.5  # 84 frequencies


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_autocast_rounds_neither_means_nor_log_probabilities(name):
    module = likelihood(name)
    out, x = output(module, 2, dtype=torch.float32), pixels(2, 2, 3, 2, levels=2).float()
    exact = module.double()(out.double())
    module.float()
    with torch.autocast("cpu", torch.bfloat16):
        p = module(out)
        mean, log_p = p.mean, p.log_prob(x)
    torch.testing.assert_close(mean, exact.mean, check_dtype=False, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(log_p, exact.log_prob(x.double()), check_dtype=False, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradients_are_right_and_devices_and_dtypes_are_followed(name):
    module = likelihood(name, 5).double()
    x = pixels(2, 2, 3, 2, levels=DISCRETE.get(name, 5) if name != "logistic" else 5)
    out = output(module, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda out: module(out).log_prob(x), out)
    p = module.to("meta")(torch.empty(3, 2, 2 * module.channels_per_pixel, 3, 2, device="meta"))
    assert p.log_prob(x.to("meta")).shape == (3, 2) and p.mean.device.type == "meta"
    half = likelihood(name, 5)(output(module, 2, dtype=torch.bfloat16))
    assert half.log_prob(x.float()).dtype == torch.float32


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_model_with_it_scores_draws_and_rebuilds(name):
    torch.manual_seed(0)
    config = CVAEConfig(num_classes=3, latent_dim=2, hidden=(8,), event_shape=(2, 3, 2), likelihood=name, levels=5)
    model, y = CVAE(config).double(), torch.tensor([0, 2])
    x = pixels(2, 2, 3, 2, levels=2)
    p = model.likelihood(torch.randn(4, 2, 2, dtype=torch.float64), y)
    assert p.log_prob(x).shape == (4, 2) and p.log_prob(x).dtype == torch.float64
    assert model.draw(y).shape == (2, 2, 3, 2) == model.reconstruct(x, y).shape
    if name != "real":
        assert model.draw(y).min() >= 0 and model.draw(y).max() <= 1
    model.likelihood(torch.randn(2, 2, dtype=torch.float64), y).log_prob(x).sum().backward()
    untouched = [key for key, value in model.named_parameters() if value.grad is None]
    assert all(key.startswith("encoder") for key in untouched)


# --- masks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("shape", [(4, 1, 3, 2), (4, 2, 3, 2)])
def test_a_mask_keeps_the_observed_factors_and_nothing_else(name, shape):
    module = likelihood(name, 5).double()
    p, x, mask = module(output(module, 6, 4)), pixels(4, 2, 3, 2, levels=2), torch.rand(shape) < 0.5
    each = p.base_dist.log_prob(x)  # (6, 4, 2, 3, 2)
    expected = torch.stack([(each[k] * mask).sum((1, 2, 3)) for k in range(6)])
    torch.testing.assert_close(masked(p, mask).log_prob(x), expected)
    torch.testing.assert_close(masked(p, mask.double()).log_prob(x), expected)
    torch.testing.assert_close(masked(p, torch.ones(shape).bool()).log_prob(x), p.log_prob(x))
    assert torch.equal(masked(p, mask).mean, p.mean)
    together = masked(p, mask).log_prob(x) + masked(p, ~mask).log_prob(x)
    torch.testing.assert_close(together, p.log_prob(x))


def test_hidden_entries_may_be_nan_and_get_no_gradient():
    logits = torch.randn(2, 1, 3, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1.0, 0], [0, 1], [1, 1]]).bool().expand(2, 1, 3, 2)
    x = torch.where(mask, pixels(2, 1, 3, 2), math.nan)
    value = masked(BernoulliPixels()(logits), mask).log_prob(x)
    value.sum().backward()
    torch.testing.assert_close(logits.grad, torch.where(mask, x - torch.sigmoid(logits), 0).detach())


def test_observing_part_is_summing_over_the_rest():
    """With two binary pixels the marginal of one can be added up."""
    p = BernoulliPixels()(torch.randn(1, 1, 1, 2, dtype=torch.float64))
    mask = torch.tensor([True, False]).view(1, 1, 1, 2)
    images = torch.tensor([[1.0, 0], [1, 1]], dtype=torch.float64).view(2, 1, 1, 1, 2)
    torch.testing.assert_close(masked(p, mask).log_prob(images[0]), p.log_prob(images).logsumexp(0))


# --- mistakes ------------------------------------------------------------------------------------------------------


def test_mistakes_are_named(as_users_call):
    with pytest.raises(ValueError, match=r"'gauss'.*bernoulli"):
        likelihood("gauss")
    with pytest.raises(ValueError, match="'grey', 'stochastic' or 'threshold', not 'binary'"):
        BernoulliPixels("binary")
    with pytest.raises(ValueError, match="multiple of 2"):
        LogisticPixels()(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="'global' or 'pixel'"):
        GaussianPixels("none")
    for name in ("logistic", "categorical"):
        module = likelihood(name, 4)
        with pytest.raises(ValueError, match="at least 2"):
            likelihood(name, 1)
        for bad in (255.0, -0.1, math.nan):
            with pytest.raises(ValueError, match=r"in \[0, 1\]"):
                module(output(module, 1, channels=1)).log_prob(torch.full((1, 1, 3, 2), bad))
    with pytest.raises(ValueError, match=r"mask of shape \(2, 1, 5, 5\)"):
        masked(BernoulliPixels()(torch.zeros(2, 1, 3, 2)), torch.ones(2, 1, 5, 5))
