"""The estimators on a model of which everything is known: the linear-Gaussian CVAE in float64."""

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from cvae_lib.course.laboratory import LinearEncoder, LinearGaussian, full_gaussian
from cvae_lib.evaluation import likelihood_by_samples
from cvae_lib.objective import (
    LatentVariableModel,
    elbo_terms,
    importance_weighted_bound,
    log_importance_weights,
)

SEEDS = range(20)
BATCH = 6


def dimensions(seed: int) -> tuple[int, int, int]:
    """Random X in 1..8, D in 1..5, Y in 0..3; the first seed has no y."""
    generator = torch.Generator().manual_seed(seed)
    x, z, y = (int(torch.randint(1, top, (), generator=generator)) for top in (9, 6, 4))
    return x, z, y if seed else 0


def laboratory(seed: int, encoder: bool = False) -> tuple[LinearGaussian, torch.Tensor, torch.Tensor | None]:
    """Return a random model with some x drawn from it and their y."""
    x_dim, z_dim, y_dim = dimensions(seed)
    torch.manual_seed(seed)
    lab = LinearGaussian(x_dim, z_dim, y_dim, LinearEncoder(x_dim, y_dim, z_dim) if encoder else None)
    y = torch.randn(BATCH, y_dim, dtype=torch.float64) if y_dim else None
    return lab.requires_grad_(False), lab.sample(y, count=None if y_dim else BATCH)[0], y


def joint(lab: LinearGaussian, y: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean (B, D + X) and covariance of (z, x) given y, by pushing N(0, I) through one matrix."""
    d, x_dim = lab.z_dim, lab.x_dim
    s, r = (0.5 * lab.prior_log_variance).exp(), (0.5 * lab.log_noise).exp()
    push = torch.zeros(d + x_dim, d + x_dim, dtype=torch.float64)  # (z, x) = push (eps_z, eps_x) + mean
    push[:d, :d], push[d:, :d], push[d:, d:] = torch.diag(s), lab.weight @ torch.diag(s), torch.diag(r)
    y = torch.zeros(BATCH, 0, dtype=torch.float64) if y is None else y
    z_mean = lab.prior_mean + torch.einsum("by,dy->bd", y, lab.z_from_y)
    x_mean = torch.einsum("bd,xd->bx", z_mean, lab.weight) + torch.einsum("by,xy->bx", y, lab.x_from_y) + lab.bias
    return torch.cat([z_mean, x_mean], 1), push @ push.T


def random_gaussian(seed: int, dim: int, full: bool) -> torch.distributions.Distribution:
    generator = torch.Generator().manual_seed(1000 + seed)
    mean = torch.randn(BATCH, dim, dtype=torch.float64, generator=generator)
    factor = torch.randn(BATCH, dim, dim, dtype=torch.float64, generator=generator)
    if not full:
        return Independent(Normal(mean, factor[:, 0].abs() + 0.1), 1)
    return MultivariateNormal(mean, factor @ factor.mT + 0.1 * torch.eye(dim, dtype=torch.float64))


@pytest.mark.parametrize("seed", SEEDS)
def test_evidence_and_posterior_are_those_of_the_joint_gaussian(seed):
    lab, x, y = laboratory(seed)
    mean, covariance = joint(lab, y)
    d = lab.z_dim
    of_x = MultivariateNormal(mean[:, d:], covariance[d:, d:])
    torch.testing.assert_close(lab.log_evidence(x, y), of_x.log_prob(x), atol=1e-9, rtol=0)
    gain = covariance[:d, d:] @ torch.linalg.inv(covariance[d:, d:])
    posterior = lab.exact_posterior(x, y)
    torch.testing.assert_close(posterior.mean, mean[:, :d] + (x - mean[:, d:]) @ gain.T, atol=1e-9, rtol=0)
    left = covariance[:d, :d] - gain @ covariance[d:, :d]
    torch.testing.assert_close(posterior.covariance_matrix, left.expand(BATCH, d, d), atol=1e-9, rtol=0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.usefixtures("full_profile")
def test_importance_sampling_from_the_exact_posterior_is_exact(seed):
    lab, x, y = laboratory(seed)
    truth = lab.log_evidence(x, y)
    for samples in (1, 7):
        weights = log_importance_weights(lab, x, y, samples)  # every single weight is p(x|y)
        assert (weights - truth).abs().max() < 1e-9
        assert (importance_weighted_bound(lab, x, y, samples) - truth).abs().max() < 1e-9
    for estimate in likelihood_by_samples(lab, (x, y), [10, 5000]):  # which adds the weights up in pieces
        assert abs(estimate.mean - float(truth.mean())) < 1e-9
        torch.testing.assert_close(estimate.per_example, truth.float())


@pytest.mark.parametrize("seed", SEEDS[:5])
def test_the_mean_of_weights_at_draws_of_the_prior_is_the_evidence(seed):
    lab, x, y = laboratory(seed)
    lab.log_noise += 2  # so much noise that no single draw decides, and a standard error describes the mean
    truth = lab.log_evidence(x, y).exp()
    weights = log_importance_weights(lab, x, y, 20_000, proposal="prior").exp()  # (K, B)
    z_score = (weights.mean(0) - truth) / (weights.std(0) / math.sqrt(20_000))
    assert z_score.abs().max() < 4
    assert (weights.std(0) > 0.01 * truth).all()  # nobody looked at x, so they differ


def test_climbing_on_the_monte_carlo_likelihood_needs_no_encoder():
    """With many draws its gradient is that of the evidence in closed form, in decoder and prior."""
    lab, x, y = laboratory(3)
    lab.log_noise += 2
    lab.encoder = None
    lab.requires_grad_(True)
    parameters = [lab.weight, lab.bias, lab.prior_mean, lab.prior_log_variance]
    bound = importance_weighted_bound(lab, x, y, 100_000, proposal="prior").sum()
    for ours, true in zip(
        torch.autograd.grad(bound, parameters),
        torch.autograd.grad(lab.log_evidence(x, y).sum(), parameters),
        strict=True,
    ):
        assert (ours - true).norm() < 0.03 * true.norm()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("full", [False, True])
def test_evidence_is_the_bound_plus_the_gap(seed, full):
    lab, x, y = laboratory(seed)
    q = random_gaussian(seed, lab.z_dim, full)
    gap = kl_divergence(full_gaussian(q), lab.exact_posterior(x, y))
    assert (lab.log_evidence(x, y) - lab.elbo(x, y, q) - gap).abs().max() < 1e-9
    torch.testing.assert_close(lab.gap(x, y, q), gap)
    assert (gap > 0).all()


@pytest.mark.parametrize("seed", SEEDS[:5])
def test_the_closed_bound_is_what_the_objective_estimates(seed):
    lab, x, y = laboratory(seed, encoder=True)
    terms = [elbo_terms(lab, x, y, samples=500) for _ in range(40)]
    elbo = torch.stack([each.elbo for each in terms])  # (40, B)
    z_score = (elbo.mean(0) - lab.elbo(x, y)) / (elbo.std(0) / math.sqrt(40))
    assert z_score.abs().max() < 4
    prior, q = lab.prior(y, batch=BATCH), lab.posterior(x, y)
    torch.testing.assert_close(terms[0].kl, kl_divergence(q.base_dist, prior.base_dist))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bound_rises_with_the_number_of_samples_and_stays_below(seed):
    """Independent draws for every K, so that nothing but the truth makes the means come out in order."""
    lab, x, y = laboratory(seed)
    x, y = x[:1].expand(1000, -1), None if y is None else y[:1].expand(1000, -1)
    truth = float(lab.log_evidence(x, y)[0])
    # A random q, but wider than the posterior: of a narrower one the weights have tails no standard error describes.
    exact = lab.exact_posterior(x[:1], y if y is None else y[:1])
    centre = exact.mean + 0.5 * exact.stddev * torch.randn(lab.z_dim, dtype=torch.float64)
    scale = exact.stddev * (1.1 + 0.5 * torch.rand(lab.z_dim, dtype=torch.float64))
    lab.encoder = lambda x, y: Independent(Normal(centre.expand(len(x), -1), scale.expand(len(x), -1)), 1)
    bounds = torch.stack([importance_weighted_bound(lab, x, y, k) for k in (1, 2, 4, 8, 16, 32)])  # (6, 1000)
    mean, error = bounds.mean(1), bounds.std(1) / math.sqrt(1000)
    assert (mean < truth + 3 * error).all()
    assert (mean[1:] - mean[:-1] > -3 * (error[1:] ** 2 + error[:-1] ** 2).sqrt()).all()
    assert mean[-1] - mean[0] > 3 * (error[0] ** 2 + error[-1] ** 2).sqrt()
    assert mean[0] == pytest.approx(float(lab.elbo(x[:1], y if y is None else y[:1])[0]), abs=4 * float(error[0]))


def test_climbing_on_q_reaches_the_diagonal_optimum():
    """The best factorised q has the posterior's mean and its precision's diagonal (Bishop 2006, 10.1.2)."""
    lab, x, y = laboratory(3)
    exact = lab.exact_posterior(x, y)
    mean = torch.zeros(BATCH, lab.z_dim, dtype=torch.float64, requires_grad=True)
    log_variance = torch.zeros_like(mean, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [mean, log_variance], max_iter=300, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = -lab.elbo(x, y, Independent(Normal(mean, (0.5 * log_variance).exp()), 1)).sum()
        value.backward()
        return value

    optimiser.step(loss)
    torch.testing.assert_close(mean.detach(), exact.mean, atol=1e-5, rtol=0)
    best = 1 / torch.linalg.inv(exact.covariance_matrix).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(log_variance.detach().exp(), best, atol=1e-5, rtol=1e-4)


def test_learning_the_decoder_finds_the_principal_subspace():
    """Maximum likelihood of the linear VAE is pPCA, known from eigenvalues (Tipping and Bishop 1999)."""
    torch.manual_seed(0)
    data = torch.randn(500, 5, dtype=torch.float64) @ torch.diag(
        torch.tensor([3.0, 2, 1, 0.5, 0.5], dtype=torch.float64)
    )
    lab = LinearGaussian(5, 2, shared_noise=True)
    for fixed in (lab.prior_mean, lab.prior_log_variance):
        fixed.requires_grad_(False).zero_()
    optimiser = torch.optim.LBFGS(lab.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = -lab.log_evidence(data).mean()
        value.backward()
        return value

    optimiser.step(loss)
    values, vectors = torch.linalg.eigh(torch.cov(data.T, correction=0))
    noise = values[:3].mean()
    best = -0.5 * (5 * math.log(2 * math.pi) + values[3:].log().sum() + 3 * noise.log() + 5)
    assert lab.log_evidence(data).mean().item() == pytest.approx(float(best), abs=1e-6)
    assert lab.log_noise.exp().item() == pytest.approx(float(noise), rel=1e-3)
    basis = torch.linalg.qr(lab.weight.detach()).Q
    assert torch.linalg.svdvals(basis.T @ vectors[:, 3:]).min() > 1 - 1e-5


def test_drawing_from_the_model_has_its_mean_and_covariance():
    torch.manual_seed(1)
    lab = LinearGaussian(3, 2).requires_grad_(False)
    x, z = lab.sample(count=40_000)
    mean, covariance = joint(lab, None)
    both = torch.cat([z, x], 1)
    spread = covariance.diagonal()
    assert ((both.mean(0) - mean[0]) / (spread / 40_000).sqrt()).abs().max() < 4
    bound = 4 * ((covariance**2 + spread[:, None] * spread) / 40_000).sqrt()
    assert ((torch.cov(both.T) - covariance).abs() < bound).all()


def test_the_laboratory_is_a_model_and_says_what_it_needs(as_users_call):
    lab, x, y = laboratory(2)
    assert isinstance(lab, LatentVariableModel) and lab.is_conditional and not LinearGaussian(2, 1).is_conditional
    with pytest.raises(ValueError, match="pass y"):
        lab.posterior(x)
    with pytest.raises(ValueError, match="real numbers of shape"):
        lab.prior(y[:, :0])
    with pytest.raises(ValueError, match="how many"):
        LinearGaussian(2, 1).prior()
    with pytest.raises(ValueError, match="at least 1 entry"):
        LinearGaussian(0, 1)
    with pytest.raises(TypeError, match="Gaussians"):
        lab.elbo(x, y, torch.distributions.Laplace(x, x.exp()))
