"""Every numbered equation of the chapters, checked numerically, and a gate that none is forgotten.

The laboratory is a CVAE of four binary pixels, three labels and one latent: all sixteen images can be enumerated, and
integrals over z are sums on a fine grid, in float64.
"""

import math
import re
from pathlib import Path

import pytest
import torch
from cures import Committed
from lifting import lift
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from cvae_lib import data
from cvae_lib.conditioning import make_conditioning
from cvae_lib.conditions import (
    AttributeCondition,
    CaptionCondition,
    Observed,
    ObservedCondition,
    Vocabulary,
    masked_mean,
)
from cvae_lib.course.laboratory import LinearEncoder, LinearGaussian, full_gaussian
from cvae_lib.datasets import series
from cvae_lib.evaluation import active_units, calibration, crps_gaussian_mixture
from cvae_lib.likelihoods import GaussianPixels
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms, log_importance_weights

ROOT = Path(__file__).resolve().parent.parent
GRID = torch.linspace(-9, 9, 3001, dtype=torch.float64)
STEP = math.log(float(GRID[1] - GRID[0]))
STEP_SIZE = math.exp(STEP)
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
    model = CVAE(CVAEConfig(num_classes=3, latent_dim=1, hidden=(6,), event_shape=(1, 2, 2))).double().eval()
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


@pytest.fixture
def unsteered(tiny) -> CVAE:
    """The same laboratory without a condition."""
    torch.manual_seed(6)
    model = CVAE(CVAEConfig(num_classes=0, latent_dim=1, hidden=(6,), event_shape=(1, 2, 2))).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def exact_marginal(model: CVAE) -> torch.Tensor:
    """Return log p(x) of all sixteen images under a model without a condition."""
    joint = model.likelihood(GRID[:, None, None].expand(-1, 16, 1)).log_prob(EVERY_IMAGE) - 0.5 * GRID[:, None] ** 2
    return joint.logsumexp(0) + STEP - 0.5 * math.log(2 * math.pi)


def test_equation_1_1_averaging_over_the_prior_is_the_integral(unsteered):
    exact = exact_marginal(unsteered).detach().exp()
    assert exact.sum().item() == pytest.approx(1, abs=1e-5)  # all images there are
    z = torch.randn(20_000, 16, 1, dtype=torch.float64)
    values = unsteered.likelihood(z).log_prob(EVERY_IMAGE).exp().detach()
    assert ((values.mean(0) - exact).abs() < 4 * values.std(0) / 20_000**0.5).all()


def test_equation_1_2_the_bound_lies_below_the_likelihood(unsteered):
    elbo = elbo_terms(unsteered, EVERY_IMAGE.repeat(2000, 1, 1, 1)).elbo.detach().view(2000, 16)
    assert (elbo.mean(0) - 4 * elbo.std(0) / 2000**0.5 < exact_marginal(unsteered)).all()


def test_equation_1_3_is_the_kl_of_torch_and_of_a_quadrature():
    mean, log_variance = torch.tensor([0.8, -1.5]).double(), torch.tensor([-2.0, 0.7]).double()
    formula = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum()
    q, p = Normal(mean, (0.5 * log_variance).exp()), Normal(torch.zeros(2).double(), 1)
    torch.testing.assert_close(formula, kl_divergence(q, p).sum())
    grid = torch.linspace(-15, 15, 100_001).double()[:, None]
    integrand = q.log_prob(grid).exp() * (q.log_prob(grid) - p.log_prob(grid))
    torch.testing.assert_close(formula, torch.trapezoid(integrand, grid, dim=0).sum(), atol=1e-8, rtol=0)


def test_equation_1_4_both_estimators_have_the_same_mean():
    mu, sigma = 0.3, 0.8
    grid = torch.linspace(-12, 12, 100_001).double()
    density = Normal(torch.tensor(mu, dtype=torch.float64), sigma).log_prob(grid).exp()
    f, slope = torch.sin(2 * grid) + grid**2, 2 * torch.cos(2 * grid) + 2 * grid
    score = torch.trapezoid(density * f * (grid - mu) / sigma**2, grid)
    path = torch.trapezoid(density * slope, grid)
    # and the derivative of the expectation itself, E[f] = exp(-2 s^2) sin(2 m) + m^2 + s^2
    exact = 2 * math.exp(-2 * sigma**2) * math.cos(2 * mu) + 2 * mu
    assert score.item() == pytest.approx(exact, abs=1e-9) and path.item() == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("pixel, latent", [("mean", "sum"), ("sum", "mean"), ("mean", "mean"), ("sum", "sum")])
def test_equation_1_5_gives_the_beta_whose_gradient_points_the_same_way(unsteered, pixel, latent):
    beta = lift("01_the_vae", "effective_beta")["effective_beta"](pixel, latent, pixels=4, latents=1)
    directions = []
    for scaled in (True, False):
        torch.manual_seed(2)
        terms = elbo_terms(unsteered, EVERY_IMAGE)
        if scaled:
            distortion = -terms.log_likelihood / (4 if pixel == "mean" else 1)
            loss = (distortion + (terms.kl.mean(-1) if latent == "mean" else terms.rate)).mean()
        else:
            loss = terms.loss(beta)
        gradient = torch.autograd.grad(loss, [*unsteered.parameters()])
        directions.append(torch.cat([g.flatten() for g in gradient]))
    cosine = torch.nn.functional.cosine_similarity(*directions, dim=0)
    assert cosine.item() == pytest.approx(1, abs=1e-12)


class Linear:
    """A linear-Gaussian CVAE of random shape in float64: x = Wz + Uy + noise, z = Ay + noise."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        latents, pixels, known = (int(n) for n in torch.randint(1, 5, (3,), generator=generator))

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.A, self.W, self.U = normal(latents, known), normal(pixels, latents), normal(pixels, known)
        self.s, self.y, self.x = 0.5 + float(normal(1).abs()), normal(known), normal(pixels)
        self.one, self.noise = (torch.eye(n, dtype=torch.float64) for n in (latents, pixels))
        self.prior = MultivariateNormal(self.A @ self.y, self.one)
        root = normal(latents, latents)
        self.q = MultivariateNormal(normal(latents), root @ root.T + 0.05 * self.one)
        self.covariance = torch.linalg.inv(self.one + self.W.T @ self.W / self.s**2)
        centre = self.covariance @ (self.W.T @ (self.x - self.U @ self.y) / self.s**2 + self.A @ self.y)
        self.posterior = MultivariateNormal(centre, self.covariance)
        marginal = MultivariateNormal((self.W @ self.A + self.U) @ self.y, self.W @ self.W.T + self.s**2 * self.noise)
        self.log_p = marginal.log_prob(self.x)

    def log_likelihood(self, z: torch.Tensor) -> torch.Tensor:
        return MultivariateNormal(z @ self.W.T + self.U @ self.y, self.s**2 * self.noise).log_prob(self.x)

    def log_weight(self, z: torch.Tensor) -> torch.Tensor:
        return self.log_likelihood(z) + self.prior.log_prob(z) - self.q.log_prob(z)

    def elbo(self) -> torch.Tensor:
        spread = torch.trace(self.W @ self.q.covariance_matrix @ self.W.T) / (2 * self.s**2)
        return self.log_likelihood(self.q.mean) - spread - kl_divergence(self.q, self.prior)


every_laboratory = pytest.mark.parametrize("laboratory", [Linear(seed) for seed in range(20)], ids=range(20))


@every_laboratory
def test_equation_2_1_averaging_over_the_conditional_prior_is_the_likelihood(laboratory):
    values = laboratory.log_likelihood(laboratory.prior.sample((40_000,))).exp()
    assert abs(values.mean() - laboratory.log_p.exp()) < 5 * values.std() / 200 + 1e-12


@every_laboratory
def test_equation_2_2_the_average_log_weight_is_distortion_and_rate_and_a_bound(laboratory):
    weights = laboratory.log_weight(laboratory.q.sample((20_000,)))
    assert abs(weights.mean() - laboratory.elbo()) < 5 * weights.std() / 20_000**0.5
    assert laboratory.elbo() <= laboratory.log_p


@every_laboratory
def test_equation_2_3_the_gap_is_the_kl_to_the_posterior(laboratory):
    gap = kl_divergence(laboratory.q, laboratory.posterior)
    assert abs(laboratory.elbo() + gap - laboratory.log_p) < 1e-10 * max(1, float(gap))


def test_equation_2_4_draws_have_the_moments_of_the_story():
    laboratory = Linear(3)
    z = laboratory.prior.sample((200_000,))
    x = (
        z @ laboratory.W.T
        + laboratory.U @ laboratory.y
        + laboratory.s * torch.randn(200_000, len(laboratory.x)).double()
    )
    covariance = laboratory.W @ laboratory.W.T + laboratory.s**2 * laboratory.noise
    error = (torch.cov(x.T).view_as(covariance) - covariance).abs().max()
    assert error < 0.03 * covariance.abs().max()


@every_laboratory
def test_equation_2_5_and_bayes_rule_agree_at_any_z(laboratory):
    z = laboratory.q.sample()
    by_bayes = laboratory.log_likelihood(z) + laboratory.prior.log_prob(z) - laboratory.posterior.log_prob(z)
    assert abs(by_bayes - laboratory.log_p) < 1e-9 * max(1, float(by_bayes.abs()))


@every_laboratory
def test_equation_2_6_is_where_the_joint_density_is_largest_and_how_it_bends(laboratory):
    def joint(z):
        return laboratory.log_likelihood(z) + laboratory.prior.log_prob(z)

    centre = laboratory.posterior.mean.clone().requires_grad_()
    (slope,) = torch.autograd.grad(joint(centre), centre)
    bend = torch.autograd.functional.hessian(joint, laboratory.posterior.mean)
    assert slope.abs().max() < 1e-9
    torch.testing.assert_close(-torch.linalg.inv(bend), laboratory.covariance, atol=1e-9, rtol=1e-9)


@every_laboratory
def test_equation_2_7_is_the_average_of_the_log_weights(laboratory):
    weights = laboratory.log_weight(laboratory.q.sample((20_000,)))
    assert abs(weights.mean() - laboratory.elbo()) < 5 * weights.std() / 20_000**0.5


@every_laboratory
def test_equation_2_8_the_bound_rises_with_k_and_stays_below(laboratory):
    log_weights = laboratory.log_weight(laboratory.q.sample((512, 64)))  # the same draws serve every K
    means, errors = [], []
    for k in (1, 2, 4, 8, 16, 32, 64):
        grouped = log_weights.view(512, 64 // k, k).logsumexp(-1).mean(-1) - math.log(k)  # (512,)
        means.append(grouped.mean())
        errors.append(grouped.std() / 512**0.5)
    assert all(a <= b + 1e-12 for a, b in zip(means, means[1:], strict=False))  # by concavity, for any draws
    assert all(mean < laboratory.log_p + 3 * error + 1e-12 for mean, error in zip(means, errors, strict=True))


@every_laboratory
def test_equation_2_9_sampled_and_analytic_agree_and_the_sampled_is_silent_at_the_posterior(laboratory):
    z = laboratory.q.sample((20_000,))
    analytic = laboratory.log_likelihood(z) - kl_divergence(laboratory.q, laboratory.prior)
    sampled = laboratory.log_weight(z)
    difference = analytic - sampled
    assert abs(difference.mean()) < 5 * difference.std() / 20_000**0.5
    laboratory.q, own = laboratory.posterior, laboratory.q
    assert laboratory.log_weight(laboratory.q.sample((100,))).std() < 1e-8
    laboratory.q = own


def test_equation_3_1_the_conditional_bound_lies_below(tiny):
    often = EVERY_IMAGE.repeat(2000, 1, 1, 1)
    for label in range(3):
        elbo = elbo_terms(tiny, often, torch.full((32_000,), label)).elbo.detach().view(2000, 16)
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


# --- chapter 04: the layers as the chapter builds them, each against the matrices of its formula --------------------


def of_chapter_04(name: str, *sizes: int) -> torch.nn.Module:
    """Return one of the chapter's layers in float64, every parameter random: none is where it started."""
    layer = lift("04_where_does_y_go", name)[name](*sizes).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(7, 6, dtype=torch.float64)


@pytest.fixture
def one_hot() -> torch.Tensor:
    return torch.eye(4, dtype=torch.float64)[torch.tensor([0, 3, 1, 1, 2, 0, 3])]


def test_equation_4_1_concatenation_gives_each_class_a_bias_of_its_own(features, one_hot):
    weight, bias = torch.randn(5, 10, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    glued = of_chapter_04("Concatenate", 6, 4)(features, one_hot) @ weight.T + bias
    table = weight[:, 6:].T  # a row for each class
    by_class = torch.stack(
        [weight[:, :6] @ h + bias + table[y] for h, y in zip(features, one_hot.argmax(1), strict=True)]
    )
    torch.testing.assert_close(glued, by_class)


def test_equation_4_2_addition_does_too_and_reaches_the_same_biases(features, one_hot):
    weight, bias = torch.randn(6, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    add, wanted = of_chapter_04("Add", 6, 4), torch.randn(6, 4, dtype=torch.float64)
    out = add(features, one_hot) @ weight.T + bias
    torch.testing.assert_close(out, features @ weight.T + bias + one_hot @ (weight @ add.embed.weight).T)
    add.embed.weight.data = torch.linalg.solve(weight, wanted)  # any W_c of (4.1) is some W E, as W is invertible
    shift = add(features, one_hot) @ weight.T - features @ weight.T
    torch.testing.assert_close(shift, one_hot @ wanted.T)


def test_equation_4_3_modulation_gives_each_class_a_matrix_of_its_own(features, one_hot):
    film, weight = of_chapter_04("Modulate", 6, 4), torch.randn(5, 6, dtype=torch.float64)
    table = film.modulate.weight.T  # (4, 12): gamma and beta of each class
    by_class = []
    for h, y in zip(features, one_hot.argmax(1), strict=True):
        by_class.append(weight @ torch.diag(1 + table[y, :6]) @ h + weight @ table[y, 6:])
    torch.testing.assert_close(film(features, one_hot) @ weight.T, torch.stack(by_class))


def test_equation_4_4_is_torchs_batch_norm_with_a_scale_and_a_shift_for_each_class(features, one_hot):
    layer, plain = of_chapter_04("NormaliseAndModulate", 6, 4), torch.nn.BatchNorm1d(6, affine=False).double()
    for training in (True, True, False):  # two steps move the running averages, then they are used
        layer.train(training), plain.train(training)
        scale, shift = layer.modulate(one_hot).chunk(2, dim=1)
        expected = (layer.gamma + scale) * plain(features) + layer.beta + shift
        torch.testing.assert_close(layer(features, one_hot), expected)


def test_equation_4_5_is_torchs_attention(features):
    attend, tokens = of_chapter_04("Attend", 6, 4, 2, 3), torch.randn(7, 5, 4, dtype=torch.float64)
    q, k, v = (
        layer(rows).unflatten(-1, (2, 3)).transpose(1, 2)  # (B, heads, L, d)
        for layer, rows in ((attend.query, features[:, None]), (attend.key, tokens), (attend.value, tokens))
    )
    found = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)[:, 0]
    torch.testing.assert_close(attend(features, tokens), features + found @ attend.output.weight.T)


def test_equation_4_6_attention_to_one_token_is_addition_and_asks_no_question(features, one_hot):
    attend = of_chapter_04("Attend", 6, 4)
    embedding = attend.output.weight @ attend.value.weight
    out = attend(features, one_hot)
    torch.testing.assert_close(out, features + one_hot @ embedding.T)
    out.square().sum().backward()
    assert attend.query.weight.grad.abs().max() == 0 and attend.key.weight.grad.abs().max() == 0
    assert attend.value.weight.grad.abs().max() > 0


def test_equation_4_7_told_last_a_label_adds_the_same_to_every_drawing():
    config = CVAEConfig(num_classes=3, latent_dim=2, hidden=(6, 6), event_shape=(1, 2, 2), condition_at=(2,))
    model = CVAE(config).double()
    z, y, other = torch.randn(9, 2).double(), torch.full((9,), 0), torch.full((9,), 2)
    difference = (model.likelihood(z, y).base_dist.logits - model.likelihood(z, other).base_dist.logits).flatten(1)
    stencils = model.decoder.net.layers[2].weight[:, -3:]
    torch.testing.assert_close(difference, (stencils[:, 0] - stencils[:, 2]).expand(9, -1))


def test_equation_4_8_an_encoder_alone_steers_nothing():
    config = CVAEConfig(num_classes=3, latent_dim=1, hidden=(6,), event_shape=(1, 2, 2), condition_to="encoder")
    model = CVAE(config).double()
    likelihoods = table(model).detach()
    torch.testing.assert_close(likelihoods[:, :1].expand(-1, 3), likelihoods, atol=0, rtol=0)
    x, means = EVERY_IMAGE, []
    means = [model.posterior(x, torch.full((16,), label)).mean for label in range(3)]
    assert (means[0] - means[1]).abs().max() > 1e-3  # though the encoder does listen


def test_equation_4_9_the_mean_forgets_the_order_and_attention_does_not():
    condition = CaptionCondition(Vocabulary(("three", "seven"), 2), 8).double()
    forth, back = condition(["three seven"]), condition(["seven three"])
    torch.testing.assert_close(masked_mean(forth), masked_mean(back))
    attention = make_conditioning("attention", 6, 8).double()
    torch.nn.init.normal_(attention.output.weight)
    h = 5 * torch.randn(1, 6).double()
    assert (attention(h, forth) - attention(h, back)).abs().max() > 1e-4


def test_equation_4_10_is_the_entropy_of_the_order_of_two_independent_digits():
    entropy = 0.0
    for a in range(10):
        for b in range(10):
            orders = {(a, b), (b, a)}
            entropy += 0.01 * math.log(len(orders))  # both orders of an unequal pair are equally likely
    assert entropy == pytest.approx(0.9 * math.log(2), abs=1e-12)
    assert entropy == pytest.approx(0.624, abs=5e-4)


def test_equation_5_1_tells_a_number_and_whether_it_is_known_and_can_be_undone():
    training = torch.tensor([[1.0, 10.0], [3.0, 20.0], [5.0, math.nan]])
    condition = AttributeCondition(("a", "b")).standardise(training)
    asked = torch.tensor([[2.0, math.nan], [9.0, 12.0]])
    m, s = torch.tensor([3.0, 15.0]), torch.tensor([(8 / 3) ** 0.5, 5.0])
    k = (~asked.isnan()).float()
    expected = torch.cat([k * ((asked - m) / s).nan_to_num(0), k], dim=1)
    torch.testing.assert_close(condition(asked), expected)
    torch.testing.assert_close(condition.decode(condition.encode(asked)), asked, equal_nan=True)


def test_equation_5_2_is_the_least_squares_line_and_its_errors():
    asked = torch.randn(400).double()
    measured = 0.8 * asked + 0.3 + 0.2 * torch.randn(400).double()
    found = calibration(asked.float(), measured.float())
    design = torch.stack([asked, torch.ones(400).double()], dim=1)
    slope, intercept = torch.linalg.lstsq(design, measured[:, None]).solution[:, 0]
    left = (measured - slope * asked - intercept).square().sum()
    assert found.slope == pytest.approx(slope.item(), abs=1e-5)
    assert found.r_squared == pytest.approx(1 - (left / (measured - measured.mean()).square().sum()).item(), abs=1e-5)
    assert found.mean_absolute_error == pytest.approx((measured - asked).abs().mean().item(), abs=1e-5)


def test_equation_5_3_is_the_softmax_over_the_words_alone():
    attend = lift("05_what_can_y_be", "attend")["attend"]
    scores, mask = 3 * torch.randn(20, 6), torch.rand(20, 6) < 0.6
    mask[0] = False
    weights = attend(scores, mask)
    for row in range(20):
        words = mask[row]
        torch.testing.assert_close(weights[row][words], scores[row][words].softmax(0))
        assert (weights[row][~words] == 0).all()
    more = torch.cat([scores, torch.randn(20, 3)], 1), torch.cat([mask, torch.zeros(20, 3, dtype=torch.bool)], 1)
    torch.testing.assert_close(attend(*more)[:, :6], weights)


def test_equation_5_4_the_best_sigma_is_the_size_of_the_errors():
    pixels, x = GaussianPixels(), torch.rand(5, 3, 4, 4)
    output = torch.randn(5, 3, 4, 4)
    best = (x - torch.sigmoid(output)).square().mean().log()
    values = []
    for step in (-0.3, -0.01, 0.0, 0.01, 0.3):
        wanted = best + step
        pixels.raw.data = 10 * torch.atanh(wanted / 10)  # undoes the smooth bound
        deviation = (0.5 * wanted).exp()
        by_hand = Normal(torch.sigmoid(output), deviation).log_prob(x).sum((1, 2, 3))
        torch.testing.assert_close(pixels(output).log_prob(x), by_hand, rtol=1e-4, atol=1e-3)
        values.append(by_hand.double().sum().item())
    assert max(values) == values[2]


def test_equation_5_5_dropping_mixes_four_losses_in_these_shares():
    settings = {"condition": "label+attributes", "num_classes": 3, "attributes": ("a",), "event_shape": (1, 2, 2)}
    model = CVAE(CVAEConfig(latent_dim=2, hidden=(5,), **settings))
    label, number = model.condition.parts
    rows, p = 4000, 0.2
    x, y, a = (torch.rand(rows, 1, 2, 2) < 0.5).float(), torch.randint(0, 3, (rows,)), torch.randn(rows, 1)

    def losses(told):
        torch.manual_seed(1)
        return -elbo_terms(model, x, told).elbo.detach()

    no_label, no_number = torch.full_like(y, -1), torch.full_like(a, math.nan)
    four = torch.stack([losses(told) for told in ((y, a), (y, no_number), (no_label, a), (no_label, no_number))])
    dropped = label.drop(y, p), number.drop(a, p)
    which = 2 * (dropped[0] < 0) + dropped[1][:, 0].isnan()  # 0 both, 1 label, 2 numbers, 3 nothing
    torch.testing.assert_close(losses(dropped), four.gather(0, which[None])[0])
    shares = torch.tensor([(1 - p) ** 2, p * (1 - p), p * (1 - p), p**2])
    found = torch.bincount(which, minlength=4) / rows
    assert ((found - shares).abs() < 4 * (shares * (1 - shares) / rows).sqrt()).all()


CHAPTER_06 = "06_learnable_priors"


def test_equation_6_1_is_the_kl_of_torch_and_of_a_quadrature():
    gaussian_kl = lift(CHAPTER_06, "gaussian_kl")["gaussian_kl"]
    m, v, mu, w = torch.randn(4, 6, dtype=torch.float64)
    q, p = Normal(m, (0.5 * v).exp()), Normal(mu, (0.5 * w).exp())
    torch.testing.assert_close(gaussian_kl(m, v, mu, w), kl_divergence(q, p))
    grid = torch.linspace(-40, 40, 200_001).double()[:, None]
    integrand = q.log_prob(grid).exp() * (q.log_prob(grid) - p.log_prob(grid))
    torch.testing.assert_close(gaussian_kl(m, v, mu, w), torch.trapezoid(integrand, grid, dim=0), atol=1e-7, rtol=0)


@pytest.fixture
def heap() -> Normal:
    """Forty posteriors of one latent in two clusters, no Gaussian together."""
    means = torch.cat([torch.randn(25) * 0.5 + 1.5, torch.randn(15) * 0.3 - 1]).double()
    return Normal(means, 0.2 + 0.5 * torch.rand(40).double())


def test_equation_6_2_splits_the_rate_whatever_the_prior(heap):
    grid = torch.linspace(-25, 25, 100_001).double()
    each = heap.log_prob(grid[:, None])  # (G, N)
    aggregate = each.exp().mean(1)
    log_aggregate = aggregate.clamp_min(1e-300).log()
    information = torch.trapezoid(each.exp() * (each - log_aggregate[:, None]), grid, dim=0).mean()
    for mean, scale in ((0.0, 1.0), (2.0, 3.0), (-1.0, 0.7)):
        p = Normal(torch.tensor(mean).double(), scale)
        mismatch = torch.trapezoid(aggregate * (log_aggregate - p.log_prob(grid)), grid)
        assert mismatch > 0
        torch.testing.assert_close(information + mismatch, kl_divergence(heap, p).mean(), atol=1e-8, rtol=0)


def test_equation_6_3_no_other_gaussian_is_cheaper(heap):
    mu = heap.mean.mean()
    sigma = (heap.variance + (heap.mean - mu) ** 2).mean().sqrt()
    least = kl_divergence(heap, Normal(mu, sigma)).mean()
    for _ in range(200):
        other = Normal(mu + 0.3 * torch.randn(()).double(), sigma * (0.3 * torch.randn(()).double()).exp())
        assert kl_divergence(heap, other).mean() > least
    draws = heap.sample((200_000,))  # the aggregate's own moments
    assert abs(draws.mean() - mu) < 5e-3 and abs(draws.std() - sigma) < 5e-3


def test_equation_6_4_a_fixed_prior_gives_the_same_bound_and_likelihood():
    absorbed = lift(CHAPTER_06, "Absorbed")["Absorbed"]
    torch.manual_seed(4)
    settings = {"num_classes": 3, "latent_dim": 2, "hidden": (6,), "event_shape": (1, 2, 2), "prior": "gaussian"}
    model = CVAE(CVAEConfig(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    x, y = EVERY_IMAGE.float(), torch.arange(16) % 3
    twin = absorbed(model)
    assert (twin.prior(y).mean == 0).all() and (twin.prior(y).stddev == 1).all()
    found = []
    for one in (model, twin):
        torch.manual_seed(0)
        terms = elbo_terms(one, x, y)
        torch.manual_seed(0)
        found.append((terms.rate, terms.log_likelihood, log_importance_weights(one, x, y, 7)))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=1e-4)


def test_equation_6_5_is_a_density_and_torchs_mixture():
    by_hand = lift(CHAPTER_06, "mixture_log_prob")["mixture_log_prob"]
    logits, mean, log_variance = torch.randn(3, 4), 2 * torch.randn(3, 4, 1), torch.randn(3, 4, 1)
    grid = torch.linspace(-30, 30, 20_001)
    for row in range(3):
        part = (logits[row : row + 1], mean[row : row + 1], log_variance[row : row + 1])
        density = by_hand(grid[:, None], *(p.expand(len(grid), *p.shape[1:]) for p in part)).exp()
        assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-4)
        weights = part[0].softmax(1)[0]
        straight = sum(
            weights[j] * Normal(part[1][0, j, 0], (0.5 * part[2][0, j, 0]).exp()).log_prob(grid).exp() for j in range(4)
        )
        torch.testing.assert_close(density, straight, atol=1e-5, rtol=1e-4)


def test_equation_6_6_over_the_whole_data_is_the_aggregate_posterior_which_leaves_no_mismatch(tiny):
    by_hand = lift(CHAPTER_06, "vamp_log_prob")["vamp_log_prob"]
    y = torch.ones(16, dtype=torch.int64)
    q = tiny.posterior(EVERY_IMAGE, y)
    z = GRID[:, None].expand(-1, 1)
    with torch.no_grad():
        prior = by_hand(tiny.posterior, EVERY_IMAGE, z, torch.ones(len(z), dtype=torch.int64))
        each = q.base_dist.log_prob(GRID[:, None, None])[..., 0]  # (G, 16)
        torch.testing.assert_close(prior.exp(), each.exp().mean(1))
        rate = ((each.exp() * (each - prior[:, None])).sum(0) * STEP_SIZE).mean()
        information = ((each.exp() * (each - each.exp().mean(1).log()[:, None])).sum(0) * STEP_SIZE).mean()
    torch.testing.assert_close(rate, information)


def test_equation_6_7_the_leash_costs_what_torch_says_and_nothing_at_the_standard_normal():
    chapter = lift(CHAPTER_06, "gaussian_kl", "leashed")
    settings = {"num_classes": 3, "latent_dim": 2, "hidden": (6,), "event_shape": (1, 2, 2), "prior": "gaussian"}
    model, x, y = CVAE(CVAEConfig(**settings)).eval(), EVERY_IMAGE.float(), torch.arange(16) % 3
    for moved in (False, True):
        if moved:
            torch.nn.init.normal_(model.prior_module.head.out.weight)
        p, standard = model.prior(y), Normal(torch.zeros(2), torch.ones(2))
        bounds = []
        for strength in (0.0, 0.7):
            torch.manual_seed(0)
            bounds.append(chapter["leashed"](model, x, y, strength=strength).elbo)
        away = kl_divergence(p.base_dist, standard).sum(1)
        torch.testing.assert_close(bounds[0] - bounds[1], 0.7 * away, atol=1e-5, rtol=1e-4)
        torch.manual_seed(0)
        torch.testing.assert_close(bounds[0], elbo_terms(model, x, y).elbo)
        assert bool((away > 0.01).any()) == moved


# --- chapter 08 ---------------------------------------------------------------------------------------------


def test_equation_8_1_rate_and_distortion_add_up_to_the_average_log_weight(tiny):
    y = torch.arange(16) % 3
    by_hand = lift("08_rate_distortion", "rate_and_distortion")["rate_and_distortion"]
    with torch.no_grad():
        often = EVERY_IMAGE.repeat(10, 1, 1, 1), y.repeat(10)
        draws = torch.tensor([by_hand(tiny, *often) for _ in range(300)]).double()
        weights = log_importance_weights(tiny, EVERY_IMAGE, y, 3000).view(300, -1).mean(1)
    assert draws[:, 0].std() < 1e-6  # the rate has a closed form
    error = (draws.sum(1).var() + weights.var()).sqrt() / 300**0.5
    assert abs(draws.sum(1).mean() + weights.mean()) < 4 * error


def test_equation_8_2_information_lies_between_entropy_less_distortion_and_rate():
    tight = []
    for seed in range(20):
        torch.manual_seed(seed)
        model = LinearGaussian(3, 2, 0, LinearEncoder(3, 0, 2)).requires_grad_(False)
        root = torch.randn(3, 3).double()
        data = MultivariateNormal(torch.randn(3).double(), root @ root.T + 0.1 * torch.eye(3))
        encode, shift = model.encoder.mean.weight, model.encoder.mean.bias
        noise = torch.diag(model.encoder.log_variance.exp())
        # x and z are jointly Gaussian, so information, aggregate and rate have closed forms.
        aggregate = MultivariateNormal(encode @ data.mean + shift, encode @ data.covariance_matrix @ encode.T + noise)
        information = 0.5 * (torch.logdet(aggregate.covariance_matrix) - torch.logdet(noise))
        prior = full_gaussian(model.prior(batch=1))
        misfit = kl_divergence(aggregate, MultivariateNormal(prior.mean[0], prior.covariance_matrix[0]))
        x = data.sample((200_000,))
        rates = kl_divergence(full_gaussian(model.posterior(x)), prior.expand(torch.Size((len(x),))))
        distortion = -model.elbo(x) - rates
        assert abs(rates.mean() - information - misfit) < 5 * rates.std() / len(x) ** 0.5
        tight.append(float(information - data.entropy() + distortion.mean()))
        assert tight[-1] > -5 * float(distortion.std()) / len(x) ** 0.5
    assert min(tight) < 5  # the bound is not idle


def test_equation_8_3_the_best_of_a_beta_has_slope_minus_beta():
    fill = lift("08_rate_distortion", "water_filling")["water_filling"]
    spread = torch.tensor([4.0, 1.7, 0.6, 0.2]).double()
    levels = torch.logspace(-2, 1, 20_001).double()
    curve = torch.stack([torch.stack(fill(spread, level)) for level in levels[::10]])  # (2001, 2)
    rate, distortion = curve[:, 0], curve[:, 1] / 2
    for beta in (0.1, 0.5, 1.0, 3.0):
        best = int((distortion + beta * rate).argmin())
        slope = (distortion[best + 1] - distortion[best - 1]) / (rate[best + 1] - rate[best - 1])
        assert slope.item() == pytest.approx(-beta, rel=0.01)


def test_equation_8_4_descent_finds_the_water_level():
    space = lift("08_rate_distortion", "water_filling", "linear_terms", "linear_vae")
    for seed, beta in ((0, 0.3), (1, 0.8), (2, 2.0)):
        torch.manual_seed(seed)
        root = torch.randn(6, 6).double()
        covariance = root @ root.T / 2
        rate, distortion = space["linear_vae"](covariance, beta)
        eigenvalues = torch.linalg.eigvalsh(covariance)
        best_rate, best_error = space["water_filling"](eigenvalues, beta)
        assert rate.sum().item() == pytest.approx(best_rate.item(), abs=1e-3)
        assert distortion == pytest.approx(best_error.item() / 2 + 3 * math.log(2 * math.pi), abs=1e-3)
        assert int((rate > 1e-3).sum()) == int((eigenvalues > beta).sum())


def test_equation_8_5_what_y_saves_is_between_nothing_and_its_information():
    fill = lift("08_rate_distortion", "water_filling")["water_filling"]
    for seed in range(30):
        torch.manual_seed(seed)
        loads, root = torch.randn(5, 2).double(), torch.randn(5, 5).double()
        told = root @ root.T / 5
        eigenvalues = [torch.linalg.eigvalsh(covariance) for covariance in (told + loads @ loads.T, told)]
        most = 0.5 * float(eigenvalues[0].log().sum() - eigenvalues[1].log().sum())
        savings = []
        for beta in torch.logspace(-6, 2, 30).double():
            costs = [error / 2 + beta * rate for rate, error in (fill(spread, beta) for spread in eigenvalues)]
            savings.append(float((costs[0] - costs[1]) / beta))
        assert min(savings) > -1e-9 and max(savings) < most + 1e-9
        assert savings[0] == pytest.approx(most, rel=1e-3) or eigenvalues[1][0] < 1e-5


def test_equation_8_6_the_slope_between_two_best_models_lies_between_their_betas():
    fill = lift("08_rate_distortion", "water_filling")["water_filling"]
    spread = torch.tensor([4.0, 1.7, 0.6, 0.2]).double()
    betas = (0.05, 0.1, 0.4, 1.0, 1.5, 3.0)
    points = [(float(rate), float(error) / 2) for rate, error in (fill(spread, beta) for beta in betas)]
    for i in range(len(betas) - 1):
        (rate_2, distortion_2), (rate_1, distortion_1) = points[i : i + 2]
        assert betas[i] <= (distortion_1 - distortion_2) / (rate_2 - rate_1) <= betas[i + 1]


def test_equation_8_7_is_the_best_that_a_decoder_without_z_can_do():
    left_end = lift("08_rate_distortion", "left_end")["left_end"]
    x = (torch.rand(400, 7) < torch.rand(7)).float()
    found = left_end(x.mean(0), x.T @ x / len(x))[0]
    logits = torch.zeros(7, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = (
            torch.nn.functional.binary_cross_entropy_with_logits(logits.expand_as(x), x, reduction="none").sum(1).mean()
        )
        value.backward()
        return value

    optimiser.step(loss)
    assert found == pytest.approx(loss().item(), rel=1e-4)


def test_equation_8_8_silence_is_stable_just_above_the_largest_eigenvalue_and_not_below():
    left_end = lift("08_rate_distortion", "left_end")["left_end"]
    torch.manual_seed(1)
    hidden = torch.randn(3000, 1)
    x = (torch.rand(3000, 8) < torch.sigmoid(1.5 * hidden * torch.randn(8) + torch.randn(8))).double()
    mean, second = x.mean(0), x.T @ x / len(x)
    nothing, eigenvalues = left_end(mean, second)
    critical = float(eigenvalues[0])
    assert 1.5 < critical < 8
    scatter = mean * (1 - mean)
    covariance = second - torch.outer(mean, mean)
    correlation = covariance / torch.outer(scatter, scatter).sqrt()
    direction = torch.linalg.eigh(correlation)[1][:, -1] / scatter.sqrt()
    nodes = torch.linspace(-6, 6, 241).double()
    weights = Normal(0.0, 1.0).log_prob(nodes).exp()
    weights = weights / weights.sum()

    def objective(beta: float, size: float) -> float:
        # The best encoder for a faint linear decoder, and D + beta R with the integral over z done on a grid.
        W = size * direction
        variance = beta / (beta + size**2)
        means = (x - mean) @ W * variance / beta
        z = means[:, None] + variance**0.5 * nodes  # (N, G)
        logits = torch.log(mean / (1 - mean)) + z[..., None] * W  # (N, G, 8)
        pixels = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, x[:, None].expand_as(logits), reduction="none"
        ).sum(-1)
        rate = 0.5 * (means**2 + variance - 1 - math.log(variance))
        return float(((pixels * weights).sum(1) + beta * rate).mean())

    # The intercepts shift a little with z; only the sign of the change against silence is asked for.
    assert objective(0.8 * critical, 0.15) < nothing < objective(1.2 * critical, 0.15)
    # And in the Gaussian model that (8.8) stands for, the rate is that of the water level.
    fill = lift("08_rate_distortion", "water_filling")["water_filling"]
    for beta in (0.5, 1.0, 2.0):
        expected = 0.5 * (eigenvalues / beta).log().clamp(min=0).sum()
        assert fill(eigenvalues, beta)[0].item() == pytest.approx(expected.item())


def test_equation_8_9_is_the_gap_between_the_two_best_tellers():
    gap = lift("08_rate_distortion", "information", "gap")["gap"]
    rho, count = torch.tensor([0.9, 0.5, 0.0]), 100_000
    factor = torch.randn(count)
    codes = rho * factor[:, None] + (1 - rho**2).sqrt() * torch.randn(count, 3)
    # Informations of Gaussians, over the entropy of twenty bins.
    exact = -0.5 * (1 - rho**2).log()
    assert gap(codes, factor).item() == pytest.approx(float(exact[0] - exact[1]) / math.log(20), abs=0.02)


# --- chapter 07 -----------------------------------------------------------------------------------------------------

CHAPTER_07 = "07_posterior_collapse"
needs_07 = pytest.mark.skipif(not (ROOT / f"notebooks/{CHAPTER_07}.ipynb").exists(), reason="not built")


def test_equation_7_1_of_a_deaf_decoder_all_that_is_left_is_minus_the_rate(tiny):
    with torch.no_grad():
        tiny.decoder.net.layers[0].weight[:, 0] = 0  # z's column
    y = torch.full((16,), 2)
    terms = elbo_terms(tiny, EVERY_IMAGE, y)
    kl = kl_divergence(tiny.posterior(EVERY_IMAGE, y), tiny.prior(y))
    assert kl.min() > 0.01
    torch.testing.assert_close(terms.elbo, exact(tiny, 2) - kl, atol=1e-6, rtol=0)


def test_equation_7_2_counts_the_latents_whose_mean_moves():
    images = data.ImageSet((255 * EVERY_IMAGE).byte(), torch.arange(16) % 3, "all", classes=3)
    model = CVAE(CVAEConfig(num_classes=3, latent_dim=6, hidden=(5,), event_shape=(1, 2, 2))).eval()
    with torch.no_grad():
        model.encoder.net.layers[-1].weight[:3] *= 0.01  # three means that hardly move
        model.encoder.net.layers[-1].weight[3:6] *= 10  # and three that do
    means = model.posterior(images.pixels(), images.labels).mean.double()
    by_hand = sum(float((means[:, d] - means[:, d].mean()).square().sum() / 15) > 0.01 for d in range(6))
    assert active_units(model, images).count == by_hand
    assert 0 < by_hand < 6


@pytest.fixture
def masked() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    decoder = lift(CHAPTER_07, "Masked")["Masked"](4, 9, 2, 3).double()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter)
    return decoder, torch.randn(16, 2).double(), torch.randn(16, 3).double()


@needs_07
def test_equation_7_3_the_factors_see_only_what_came_before_and_multiply_to_a_distribution(masked):
    decoder, z, c = masked
    x = EVERY_IMAGE.flatten(1)
    logits = decoder(x, z, c)
    for i in range(4):
        other = x.clone()
        other[:, i] = 1 - other[:, i]
        moved = (decoder(other, z, c) != logits).any(0)
        assert not moved[: i + 1].any() and (i == 3 or moved[i + 1 :].any())
    same = decoder(x, z[:1].expand(16, -1), c[:1].expand(16, -1))
    log_p = torch.nn.functional.logsigmoid(torch.where(x > 0, same, -same)).sum(1)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_equation_7_4_z_tells_no_more_than_y_leaves_open():
    def mutual(joint):  # (x, z) of one y, nats
        outer = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
        return torch.where(joint > 0, joint * (joint / outer).log(), 0).sum()

    for _ in range(200):
        p_x = torch.distributions.Dirichlet(torch.full((6,), 0.5).double()).sample()  # p(x|y)
        q = torch.distributions.Dirichlet(torch.full((6, 8), 0.2).double()).sample()  # q(z|x,y)
        entropy = -torch.special.xlogy(p_x, p_x).sum()
        assert mutual(p_x[:, None] * q) <= entropy + 1e-12
    every_x_its_own = torch.diag(p_x)
    assert mutual(every_x_its_own).item() == pytest.approx(entropy.item(), abs=1e-12)


@needs_07
def test_equation_7_5_the_catalogue_leaves_open_the_logarithm_of_its_hands():
    lifted = lift(CHAPTER_07, "catalogue", "halved", "left_open")
    images, _ = lifted["catalogue"](3)
    assert lifted["left_open"](images) == pytest.approx(math.log(3), abs=1e-5)
    x, entropy = images.pixels(mode="threshold").flatten(1), 0.0
    for label in range(90):
        _, counts = x[images.labels == label].unique(dim=0, return_counts=True)
        entropy += torch.distributions.Categorical(counts.double()).entropy().item() / 90
    assert entropy == pytest.approx(math.log(3), abs=1e-12)
    twice = data.ImageSet(images.images[:10].repeat(2, 1, 1, 1), images.labels[:10].repeat(2), "twice", classes=10)
    assert lifted["left_open"](twice) == pytest.approx(0, abs=1e-6)  # two hands that draw alike leave nothing open


@needs_07
def test_equation_7_6_stops_at_the_logarithm_of_b():
    information = lift(CHAPTER_07, "information")["information"]
    for size in (2, 10, 50):
        mean, std = 2 * torch.randn(size, 3), 0.1 + torch.rand(size, 3)
        assert information(mean, std, mean + std * torch.randn(size, 3)) <= math.log(size) + 1e-5
        apart = 1000 * torch.arange(size)[:, None].float().expand(-1, 3)
        assert information(apart, std, apart).item() == pytest.approx(math.log(size), abs=1e-5)


def spectrum() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a covariance of 6 entries with its eigenvalues, largest first, and eigenvectors."""
    vectors = torch.linalg.qr(torch.randn(6, 6).double()).Q
    values = torch.tensor([4.0, 2.5, 1.5, 0.6, 0.3, 0.2]).double()
    return vectors @ torch.diag(values) @ vectors.T, values, vectors


def stationary(values, vectors, noise, latents):
    """Return the decoder and encoder of (7.7) for a given noise; a direction below it gets a silent latent."""
    kept = values[:latents]
    alive = kept > noise
    weight = vectors[:, :latents] * (kept - noise).clamp_min(0).sqrt()
    variance = torch.where(alive, noise / kept, 1.0)
    return weight, weight.T / torch.where(alive, kept, 1.0)[:, None], variance


@needs_07
def test_equation_7_7_is_where_the_bound_of_the_linear_vae_touches_its_evidence():
    linear_terms = lift(CHAPTER_07, "linear_terms")["linear_terms"]
    C, values, vectors = spectrum()
    noise = values[2:].mean()
    weight, encoder, variance = stationary(values, vectors, noise, 2)
    parts = [weight, torch.zeros(6, 0).double(), noise.log(), encoder, variance.log()]
    parts = [part.clone().requires_grad_() for part in parts]
    distortion, rate = linear_terms(C, *parts)
    (distortion + rate.sum()).backward()
    assert all(part.grad.abs().max() < 1e-12 for part in parts if part.numel())
    model = weight @ weight.T + noise * torch.eye(6).double()
    evidence = -0.5 * (6 * math.log(2 * math.pi) + torch.logdet(model) + torch.linalg.solve(model, C).trace())
    assert -(distortion + rate.sum()).item() == pytest.approx(evidence.item(), abs=1e-12)
    lifted = lift(CHAPTER_07, "evidence")["evidence"](values, 2)
    assert lifted.item() == pytest.approx(evidence.item(), abs=1e-12)


@needs_07
def test_equation_7_8_a_latent_is_active_where_its_eigenvalue_exceeds_the_noise():
    linear_terms = lift(CHAPTER_07, "linear_terms")["linear_terms"]
    C, values, vectors = spectrum()
    noise = torch.tensor(1.0).double()  # between the third and the fourth
    weight, encoder, variance = stationary(values, vectors, noise, 5)
    parts = [part.clone().requires_grad_() for part in (weight, encoder, variance.log())]
    distortion, rate = linear_terms(C, parts[0], torch.zeros(6, 0).double(), noise.log(), *parts[1:])
    (distortion + rate.sum()).backward()
    assert all(part.grad.abs().max() < 1e-12 for part in parts)
    torch.testing.assert_close(rate[:3], 0.5 * (values[:3] / noise).log())
    torch.testing.assert_close((encoder @ C @ encoder.T).diagonal()[:3], 1 - noise / values[:3])
    assert rate[3:].abs().max() < 1e-12
    # Waking latent i at a stationary point where all are silent pays if and only if its eigenvalue exceeds the noise.
    for i, value in enumerate(values):
        small = 1e-3 * vectors[:, i : i + 1]
        model = small @ small.T + noise * torch.eye(6).double()
        evidence = [-torch.logdet(m) - torch.linalg.solve(m, C).trace() for m in (model, noise * torch.eye(6).double())]
        assert bool(evidence[0] > evidence[1]) == bool(value > noise)


@needs_07
def test_equation_7_9_the_linear_cvae_is_a_regression_and_the_pca_of_what_it_leaves():
    linear_terms = lift(CHAPTER_07, "linear_terms")["linear_terms"]
    root = torch.randn(9, 9).double()
    C = root @ root.T / 9  # of [x, y], with 6 entries of x and 3 of y
    regression = C[:6, 6:] @ torch.linalg.inv(C[6:, 6:])
    values, vectors = torch.linalg.eigh(C[:6, :6] - regression @ C[6:, :6])
    values, vectors = values.flip(0), vectors.flip(1)
    noise = values[2:].mean()
    weight, encoder, variance = stationary(values, vectors, noise, 2)
    reads = torch.cat([encoder, -encoder @ regression], 1)
    parts = [part.clone().requires_grad_() for part in (weight, regression, noise.log(), reads, variance.log())]
    distortion, rate = linear_terms(C, *parts)
    (distortion + rate.sum()).backward()
    assert all(part.grad.abs().max() < 1e-10 for part in parts)
    model = weight @ weight.T + noise * torch.eye(6).double()
    error = (vectors * values) @ vectors.T
    evidence = -0.5 * (6 * math.log(2 * math.pi) + torch.logdet(model) + torch.linalg.solve(model, error).trace())
    assert -(distortion + rate.sum()).item() == pytest.approx(evidence.item(), abs=1e-10)


@needs_07
def test_equation_7_10_silence_below_the_floor_saves_nothing():
    floor_under = lift(CHAPTER_07, "floor_under")["floor_under"]
    kl = torch.tensor([[0.1, 0.6], [0.2, 0.8]], requires_grad=True)
    charged = floor_under(kl, 0.25)
    charged.backward()
    assert charged.item() == pytest.approx(0.25 + 0.7)
    torch.testing.assert_close(kl.grad, torch.tensor([[0.0, 0.5], [0.0, 0.5]]))


@needs_07
def test_equation_7_11_both_encoders_keep_their_promise():
    normed = lift(CHAPTER_07, "Normed")["Normed"]

    class Silent(torch.nn.Module):  # an encoder that would rather say nothing
        def forward(self, x, c):
            return 1e-2 * x[:, :3], torch.zeros(len(x), 3)

    mean, log_variance = normed(Silent(), 3).train()(torch.randn(64, 5), None)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    assert (kl.mean(0) > 0.25 - 0.05).all()  # the small constant in batch norm costs 10% at so small a variance
    committed = Committed(Silent())
    assert 0.5 * (committed.most - 1 - math.log(committed.most)) == pytest.approx(0.25, abs=1e-5)
    means, variances = torch.meshgrid(
        torch.linspace(-2, 2, 41), torch.linspace(1e-3, committed.most, 200), indexing="ij"
    )
    assert (0.5 * (means.square() + variances - 1 - variances.log())).min().item() > 0.25 - 1e-5
    _, bounded = committed(torch.randn(64, 5), None)
    assert (bounded.exp() < committed.most).all()


# --- chapter 09 ---------------------------------------------------------------------------------------------

CHAPTER_09 = "09_filling_in_and_translating"
needs_09 = pytest.mark.skipif(not (ROOT / f"notebooks/{CHAPTER_09}.ipynb").exists(), reason="not built")


@needs_09
def test_equation_9_1_one_answer_pays_entropy_and_total_correlation():
    bill = lift(CHAPTER_09, "bill_of_one_answer")["bill_of_one_answer"]
    joint = torch.rand(2, 2, 2).double() ** 3
    joint /= joint.sum()
    alone = [joint.sum([a for a in range(3) if a != axis]) for axis in range(3)]
    independent = torch.einsum("a,b,c->abc", *alone)
    correlation = (joint * (joint / independent).log()).sum()  # a KL, by its definition
    paid, entropy = bill(joint)
    torch.testing.assert_close(paid, entropy + correlation)
    # And no other probabilities are cheaper: the cost is convex in the logits and its slope at the means is zero.
    logits = torch.stack([torch.logit(p[1]) for p in alone]).requires_grad_()
    values = torch.cartesian_prod(*[torch.arange(2).double()] * 3)  # (8, 3)
    cost = -(joint.flatten()[:, None] * Bernoulli(logits=logits).log_prob(values)).sum()
    torch.testing.assert_close(cost.detach(), paid)
    assert torch.autograd.grad(cost, logits)[0].abs().max() < 1e-12


@needs_09
@pytest.mark.parametrize(("number", "name"), [(2, "prior_monte_carlo"), (3, "importance_weights")])
def test_equation_9_2_and_9_3_average_to_the_likelihood_and_their_logarithms_lie_below(number, name, tiny):
    weigh = lift(CHAPTER_09, name, "log_mean")
    y = torch.arange(16) % 3
    truth = table(tiny)[torch.arange(16), y].detach()
    with torch.no_grad():
        weights = weigh[name](tiny, EVERY_IMAGE, y, 40_000)  # (K, B)
    ratio = (weights - truth).exp()
    assert ((ratio.mean(0) - 1).abs() < 5 * ratio.std(0) / 200).all()
    low = weights.view(8000, 5, 16).logsumexp(1) - math.log(5)  # K = 5, eight thousand times
    assert ((low.mean(0) - truth) < 5 * low.std(0) / 8000**0.5).all() and (low.mean(0) < truth).any()
    torch.testing.assert_close(weigh["log_mean"](weights[:5]), low[0])


@needs_09
def test_equation_9_3_with_one_sample_is_the_elbo(tiny):
    weights = lift(CHAPTER_09, "importance_weights")["importance_weights"]
    y = torch.arange(16) % 3
    with torch.no_grad():
        found, elbo = weights(tiny, EVERY_IMAGE, y, 20_000), elbo_terms(tiny, EVERY_IMAGE, y, samples=20_000).elbo
    assert ((found.mean(0) - elbo).abs() < 5 * found.std(0) / 100).all()


@needs_09
def test_equation_9_4_the_shortfall_is_chi_squared_over_2k_and_that_at_least_e_to_the_kl(tiny):
    y = torch.zeros(16, dtype=torch.int64)
    truth = exact(tiny, 0).detach()
    z = GRID[:, None, None].expand(-1, 16, 1)
    prior = -0.5 * GRID**2 - 0.5 * math.log(2 * math.pi) + STEP  # log of the mass of each step
    weights = tiny.likelihood(z, y).log_prob(EVERY_IMAGE).detach() - truth  # (G, 16), log of w / p
    mass = prior.exp()[:, None]
    variance = (mass * (weights.exp() - 1) ** 2).sum(0)
    posterior = (prior[:, None] + weights).exp()
    assert posterior.sum(0).allclose(torch.ones(16).double(), atol=1e-5)
    torch.testing.assert_close(variance, (posterior**2 / mass).sum(0) - 1, atol=1e-4, rtol=1e-4)
    kl = (posterior * weights).sum(0)
    assert (variance > kl.exp() - 1 - 1e-6).all()
    draws = lift(CHAPTER_09, "prior_monte_carlo")["prior_monte_carlo"](tiny, EVERY_IMAGE, y, 100_000).detach()
    count = 200
    low = draws.view(500, count, 16).logsumexp(1) - math.log(count) - truth
    short, error = -low.mean(0), low.std(0) / 500**0.5
    assert ((short - variance / (2 * count)).abs() < 5 * error + (variance / count) ** 2).all()


def test_equation_9_5_no_average_over_z_beats_the_mean_logits(tiny):
    y = torch.arange(16) % 3
    for spread in (0.1, 1.0, 3.0):
        z = spread * torch.randn(500, 16, 1, dtype=torch.float64)
        whole = tiny.likelihood(z, y)
        average = whole.log_prob(EVERY_IMAGE).mean(0)
        logits = whole.base_dist.logits.mean(0)
        one = Bernoulli(logits=logits).log_prob(EVERY_IMAGE).flatten(1).sum(1)
        assert (average <= one + 1e-12).all() and (average < one - 1e-3 * spread**2).any()


def test_equation_9_6_no_probability_is_cheaper_than_the_grey_level_itself():
    grey, p = torch.meshgrid(
        torch.linspace(0, 1, 51).double(), torch.linspace(0.001, 0.999, 999).double(), indexing="ij"
    )
    entropy = -torch.xlogy(grey, grey) - torch.xlogy(1 - grey, 1 - grey)
    cost = -Bernoulli(p, validate_args=False).log_prob(grey)
    assert (cost >= entropy - 1e-12).all() and (cost.min(1).values - entropy[:, 0]).abs().max() < 2e-3
    # Nor does a mixture of models help: a logarithm of an average of likelihoods is at most that of the largest.
    mixture = (Bernoulli(p, validate_args=False).log_prob(grey)).logsumexp(1) - math.log(999)
    assert (-mixture >= entropy[:, 0] - 1e-12).all()


@pytest.fixture
def patcher() -> CVAE:
    """A model of four binary pixels that is told some of them and where."""
    torch.manual_seed(8)
    settings = {"condition": "observed", "event_shape": (1, 2, 2), "condition_to": "encoder"}
    model = CVAE(CVAEConfig(latent_dim=1, hidden=(6,), prior="gaussian", **settings)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


@needs_09
def test_equation_9_7_bounds_the_hidden_pixels_and_the_observed_are_left_out(patcher):
    bound = lift(CHAPTER_09, "hidden_bound")["hidden_bound"]
    mask = torch.tensor([[True, False], [False, True]]).expand(16, 1, 2, 2)
    y = Observed(EVERY_IMAGE, mask)
    with torch.no_grad():
        p = patcher.prior(y)
        z = p.mean + p.stddev * GRID[:, None, None]  # (G, 16, 1)
        each = patcher.likelihood(z, y).base_dist.log_prob(EVERY_IMAGE)  # (G, 16, 1, 2, 2)
        inside = (each * ~mask).flatten(2).sum(2) - 0.5 * GRID[:, None] ** 2 - 0.5 * math.log(2 * math.pi)
        truth = inside.logsumexp(0) + STEP
        often = Observed(*(part.repeat(1000, 1, 1, 1) for part in y))
        found = bound(patcher, often.image, often).view(1000, 16)
    assert (found.mean(0) < truth + 4 * found.std(0) / 1000**0.5).all() and (found.mean(0) < truth - 1e-3).any()
    for corner in range(4):  # given what is observed, the four ways to fill in the rest exhaust what there is
        same = (EVERY_IMAGE[:, 0, 0, 0] == corner // 2) & (EVERY_IMAGE[:, 0, 1, 1] == corner % 2)
        assert truth[same].exp().sum().item() == pytest.approx(1, abs=1e-5)


@needs_09
@pytest.mark.parametrize("draws", [9, 79])
def test_equation_9_8_the_rank_of_one_more_draw_is_uniform_ties_or_not(draws):
    chapter = lift(CHAPTER_09, "ranks", "coverage")
    rate = 5 * torch.rand(20_000)
    for sample in (lambda shape: torch.poisson(rate.expand(shape)), lambda shape: rate * torch.randn(shape)):
        u = chapter["ranks"](sample((draws, 20_000)), sample((20_000,)))
        assert u.min() > 0 and u.max() < 1
        for level in (0.1, 0.5, 0.8, 0.95):
            error = 100 * (level * (1 - level) / 20_000) ** 0.5
            assert abs(chapter["coverage"](u, level) - 100 * level) < 4.5 * error
    narrow = chapter["ranks"](0.5 * torch.randn(draws, 20_000), torch.randn(20_000))
    assert chapter["coverage"](narrow, 0.8) < 60


def test_equation_9_9_the_spread_of_a_sum_has_two_parts(tiny):
    y = torch.full((16,), 1)
    z = torch.randn(200_000, 1, 1, dtype=torch.float64)
    with torch.no_grad():
        p = tiny.likelihood(z, y[:1]).mean[:, 0]  # (K, 1, 2, 2)
        drawn = torch.bernoulli(p).flatten(1).sum(1)
    between, within = p.flatten(1).sum(1).var(), (p * (1 - p)).flatten(1).sum(1).mean()
    assert between > 0.01 and within > 0.1
    assert abs(drawn.var() - between - within) < 5 * drawn.var() * (2 / 200_000) ** 0.5


def test_equation_9_10_the_slope_by_a_pixels_bias_is_the_ink_that_is_missing(patcher):
    mask = torch.rand(16, 1, 2, 2) < 0.5
    y = Observed(EVERY_IMAGE, mask)
    torch.manual_seed(1)
    loss = -elbo_terms(patcher, EVERY_IMAGE, y, mask=~mask).log_likelihood.sum()
    bias = patcher.decoder.net.layers[-1].bias
    slope = torch.autograd.grad(loss, bias)[0]
    torch.manual_seed(1)
    z = patcher.posterior(torch.where(mask, 0, EVERY_IMAGE), y).rsample()
    missing = ((EVERY_IMAGE - patcher.likelihood(z, y).mean) * ~mask).sum(0).flatten()
    torch.testing.assert_close(slope, -missing)


@needs_09
def test_equation_9_11_pooled_intervals_hold_the_truth_as_often_as_they_say():
    pooled = lift(CHAPTER_09, "pooled")["pooled"]
    estimates, variances = torch.randn(6).double(), torch.rand(6).double()
    mean, total = pooled(estimates, variances)
    torch.testing.assert_close(mean, estimates.sum() / 6)
    torch.testing.assert_close(total, variances.mean() + 7 / 6 * ((estimates - mean) ** 2).sum() / 5)
    # A normal mean of which 60 of 100 values are missing at random, imputed properly: the mean is drawn as well.
    inside, alone = 0, 0
    for _ in range(600):
        seen = torch.randn(40).double()
        centre = seen.mean() + torch.randn(20, 1).double() / 40**0.5
        whole = torch.cat([seen.expand(20, -1), centre + torch.randn(20, 60).double()], 1)
        mean, total = pooled(whole.mean(1), torch.full((20,), 1 / 100).double())
        inside += bool(mean.abs() < 1.96 * total.sqrt())
        alone += bool(whole[0].mean().abs() < 1.96 * 0.1)
    assert abs(inside / 600 - 0.95) < 0.035 and alone / 600 < 0.85


# --- chapter 10: forecasting ----------------------------------------------------------------------------------

CHAPTER_10 = "10_forecasting"
needs_10 = pytest.mark.skipif(
    not (ROOT / "notebooks" / f"{CHAPTER_10}.ipynb").exists(), reason=f"{CHAPTER_10} is not built yet"
)


def forked(count: int) -> tuple[series.Law, torch.Tensor, torch.Tensor]:
    """Return the law of some windows, the windows and their futures, in float64."""
    found = series.forks("test", count)
    return series.law(found.windows.double()), found.windows.double(), found.futures.double()


def integral_of_squares(cdf, x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Return the integral of (F(u) - 1[u >= x])², cut at x, where it jumps."""
    total = torch.zeros(()).double()
    for start, end, step in ((low, float(x), 0.0), (float(x), high, 1.0)):
        grid = torch.linspace(start, end, 20_001).double()
        total = total + torch.trapezoid((cdf(grid) - step) ** 2, grid)
    return total


def test_equation_10_1_is_the_density_the_series_are_drawn_from():
    law, windows, futures = forked(20)
    whole = series.covariance(series.WINDOW + series.HORIZON)
    joint = MultivariateNormal(torch.zeros(len(whole)).double(), whole)
    past = MultivariateNormal(torch.zeros(series.WINDOW).double(), whole[: series.WINDOW, : series.WINDOW])
    # p(x|y) = p(x, y) / p(y), with the branch that was added taken away again
    parts = [
        weight.log() + joint.log_prob(torch.cat([windows, futures - sign * law.branch], 1)) - past.log_prob(windows)
        for sign, weight in ((1, law.chance), (-1, 1 - law.chance))
    ]
    torch.testing.assert_close(law.log_prob(futures), torch.logaddexp(*parts), atol=1e-6, rtol=0)


@needs_10
def test_equation_10_2_both_forms_of_the_crps_are_the_integral():
    law, _, futures = forked(3)
    crps_of_law = lift(CHAPTER_10, "distance", "crps_of_law")["crps_of_law"]
    found = crps_of_law(law, futures)
    draws = law.sample(4000, torch.Generator().manual_seed(0))
    half = draws[:2000], draws[2000:]
    for n in range(3):
        for t in (0, 5, 11):
            parts = [(w, Normal(m, law.scale[t])) for w, m in zip(law.weights[n], law.means[n, :, t], strict=True)]
            exact = integral_of_squares(
                lambda u, parts=parts: sum(weight * normal.cdf(u) for weight, normal in parts), futures[n, t], -30, 30
            )
            assert float(found[n, t]) == pytest.approx(float(exact), abs=1e-6)
            pairs = (draws[:, n, t] - futures[n, t]).abs().mean() - 0.5 * (half[0] - half[1])[:, n, t].abs().mean()
            assert float(pairs) == pytest.approx(float(exact), abs=0.08)


@needs_10
def test_equation_10_3_the_distance_of_a_gaussian_from_zero():
    distance = lift(CHAPTER_10, "distance")["distance"]
    for m, s in ((0.0, 1.0), (0.7, 0.3), (-2.0, 1.5)):
        normal = Normal(torch.tensor(m).double(), s)
        total = 0.0  # in two parts, for the corner at zero
        for low, high in ((-20.0, 0.0), (0.0, 20.0)):
            grid = torch.linspace(low, high, 40_001).double()
            total += float(torch.trapezoid(grid.abs() * normal.log_prob(grid).exp(), grid))
        assert float(distance(normal.mean, torch.tensor(s).double())) == pytest.approx(total, abs=1e-6)


@needs_10
def test_equation_10_4_is_right_on_average_whatever_m():
    crps_by_hand = lift(CHAPTER_10, "crps_by_hand")["crps_by_hand"]
    x = torch.zeros(1).double()
    truth = float(crps_gaussian_mixture(torch.ones(1, 1).double(), torch.ones(1, 1).double(), x[:, None] + 2, x)[0])
    for count in (2, 5):
        many = 1 + 2 * torch.randn(count, 40_000, 1, generator=torch.Generator().manual_seed(count)).double()
        fair, all_pairs = (crps_by_hand(many, x.expand(40_000, 1), fair) for fair in (True, False))
        assert float(fair.mean()) == pytest.approx(truth, abs=4 * float(fair.std()) / 200)
        spread = 2 * 2 / math.sqrt(math.pi)  # E|X - X'| of a normal of scale 2
        assert float((all_pairs - fair).mean()) == pytest.approx(spread / (2 * count), rel=0.03)


@needs_10
def test_equation_10_5_prefers_the_law_to_its_shuffled_draws_and_is_crps_in_one_dimension():
    lifted = lift(CHAPTER_10, "energy_by_hand", "crps_by_hand")
    energy_by_hand, crps_by_hand = lifted["energy_by_hand"], lifted["crps_by_hand"]
    draws, x = torch.randn(30, 5, 1).double(), torch.randn(5, 1).double()
    torch.testing.assert_close(energy_by_hand(draws, x), crps_by_hand(draws, x)[:, 0])
    law, _, futures = forked(300)
    true = law.sample(60, torch.Generator().manual_seed(0))
    order = torch.rand(true.shape, generator=torch.Generator().manual_seed(1)).argsort(0)
    worse = energy_by_hand(true.gather(0, order), futures) - energy_by_hand(true, futures)
    assert float(worse.mean()) > 4 * float(worse.std()) / 300**0.5


@needs_10
@pytest.mark.parametrize("count", [9, 19, 199])
def test_equation_10_6_a_right_forecast_keeps_its_promise(count):
    draws = torch.randn(count, 20_000, generator=torch.Generator().manual_seed(0)).sort(0).values
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    for k in (1, count // 3, count):
        share = float((x <= draws[k - 1]).float().mean())
        assert share == pytest.approx(k / (count + 1), abs=0.015)
    if count == 199:
        share_inside = lift(CHAPTER_10, "share_inside")["share_inside"]
        assert share_inside(draws[..., None], x[:, None], 0.8) == pytest.approx(0.8, abs=0.012)


def test_equation_10_7_the_square_asks_for_the_mean():
    law, _, _ = forked(4)
    draws = law.sample(60_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.mean(0), law.mean, atol=0.05, rtol=0)
    variance = law.scale**2 + 4 * (law.chance * (1 - law.chance))[:, None] * law.branch**2
    for away in (0.0, 0.7, -2.0):
        found = (draws - law.mean - away).square().mean(0)
        torch.testing.assert_close(found, variance + away**2, atol=0.4, rtol=0.05)


@needs_10
def test_equation_10_8_the_pinball_over_all_levels_is_half_the_crps():
    normal, x = Normal(torch.tensor(0.5).double(), 1.5), torch.tensor(1.7).double()
    tau = (torch.arange(200_000).double() + 0.5) / 200_000
    off = x - normal.icdf(tau)
    pinball = 2 * torch.maximum(tau * off, (tau - 1) * off).mean()
    one = torch.ones(1).double()
    exact = crps_gaussian_mixture(one, one * 0.5, one * 1.5, x)
    assert float(pinball) == pytest.approx(float(exact), abs=1e-4)
    lifted = lift(CHAPTER_10, "levels", "pinball")
    values = torch.randn(7, 2, 1)
    out = torch.full((1, 2, 39), 0.0, requires_grad=True)  # the quantiles of 7 numbers, by descent
    for _ in range(4000):
        loss = lifted["pinball"](out.expand(7, -1, -1).flatten(1), values[..., 0])
        (slope,) = torch.autograd.grad(loss, out)
        out = (out - 2 * slope).detach().requires_grad_()
    middle = values[:, :, 0].median(0).values
    torch.testing.assert_close(out[0, :, 19], middle, atol=0.05, rtol=0)  # the level 1/2


@needs_10
def test_equation_10_9_draws_twice():
    lifted = lift(CHAPTER_10, "told", "paths")
    config = CVAEConfig(event_shape=(3,), latent_dim=2, hidden=(8,), prior="mixture", likelihood="real")
    model = CVAE(config, condition=ObservedCondition((1, 1, 4), flat=True)).eval()
    y = lifted["told"](torch.randn(2, 4), torch.tensor([[True, True, False, True]] * 2))
    draws = lifted["paths"](model, y, 40_000).double()  # (40000, 2, 3)
    z = model.prior(y).sample((20_000,))
    x = model.likelihood(z, y)
    mean, inner = x.mean.double(), x.variance.double()
    torch.testing.assert_close(draws.mean(0), mean.mean(0).detach(), atol=0.02, rtol=0)
    torch.testing.assert_close(draws.var(0), (inner.mean(0) + mean.var(0)).detach(), atol=0.02, rtol=0)


def test_equation_10_10_is_the_average_over_what_may_be_hidden():
    windows = series.forks("test", 2).windows
    mask = torch.ones(2, series.WINDOW).bool()
    mask[:, -3:] = False
    filled = series.filled(windows, mask, 30_000, torch.Generator().manual_seed(0))
    laws = series.law(filled.flatten(0, 1))
    chance = laws.chance.view(-1, 2).mean(0)
    K = series.covariance(series.WINDOW)
    for n in range(2):  # the chance by quadrature over the one number the coin reads, a Gaussian given what is seen
        weights = torch.zeros(series.WINDOW).double()
        weights[-series.LOOK :] = 1 / series.LOOK
        seen = mask[n]
        gain = torch.linalg.solve(K[seen][:, seen], K[seen] @ weights)
        mean = gain @ windows[n, seen].double()
        variance = weights @ K @ weights - gain @ K[seen] @ weights
        own = series.covariance(series.LOOK).mean().sqrt()
        grid = mean + variance.sqrt() * torch.linspace(-8, 8, 2001).double()
        density = Normal(mean, variance.sqrt()).log_prob(grid).exp()
        exact = torch.trapezoid(density * torch.sigmoid(-series.TILT * grid / own), grid)
        assert float(chance[n]) == pytest.approx(float(exact), abs=0.006)
