"""The mutual information gap against cases whose answer is known, and the rate-distortion measures."""

import math

import pytest
import torch
from linear_gaussian import LinearGaussian, matrix, normals
from torch.distributions import kl_divergence

from cvae_lib.course.laboratory import water_filling
from cvae_lib.data import strokes
from cvae_lib.evaluation import collapse_report, mutual_information_gap, rate_distortion
from cvae_lib.model import CVAE, CVAEConfig

N = 4000


@pytest.fixture
def factors() -> dict[str, torch.Tensor]:
    """Two real factors and a class, independent."""
    return {"a": torch.randn(N), "b": torch.rand(N), "label": torch.randint(0, 5, (N,))}


def stacked(factors: dict[str, torch.Tensor], *more: torch.Tensor) -> torch.Tensor:
    return torch.stack([*(values.float() for values in factors.values()), *more], dim=1)


def test_one_latent_for_each_factor_scores_one(factors):
    found = mutual_information_gap(stacked(factors, torch.randn(N)), factors)
    # What is missing from 1 is the bias of a table of 20 by 20 counts: 19 * 19 / 2N = 0.045 nats of ln 20.
    assert found.mig > 0.97 and (found.explained > 0.99).all()
    assert torch.equal(found.information.argmax(0), torch.arange(3))


def test_only_the_order_of_a_latent_counts_and_not_its_sign_or_scale(factors):
    codes = stacked(factors, torch.randn(N)).double()
    bent = torch.stack([codes[:, 0].exp(), -(codes[:, 1] ** 3), 100 * codes[:, 2], codes[:, 3] - 7], dim=1)
    assert mutual_information_gap(bent, factors).mig == pytest.approx(mutual_information_gap(codes, factors).mig, 1e-6)


def test_two_latents_that_tell_the_same_score_zero(factors):
    codes = stacked(factors).repeat(1, 2)
    found = mutual_information_gap(codes, factors)
    assert found.gaps.abs().max() == 0 and (found.explained > 0.99).all()


def test_noise_scores_almost_zero(factors):
    found = mutual_information_gap(torch.randn(N, 6), factors)
    assert found.mig < 0.01 and (found.explained < 0.04).all()


def test_a_rotation_of_two_gaussian_factors_spoils_the_score():
    pair = torch.randn(20_000, 2)
    scores = []
    for angle in (0.0, math.pi / 16, math.pi / 8, math.pi / 4):
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        scores.append(mutual_information_gap(pair @ turn, {"a": pair[:, 0], "b": pair[:, 1]}).mig)
    assert scores == sorted(scores, reverse=True) and scores[0] > 0.95 and scores[-1] < 0.02


def test_information_between_gaussians_is_the_closed_form():
    # I = -ln(1 - rho^2) / 2; cutting into 40 bins loses a little, the finite table adds (39 * 39) / 2N.
    a, noise = torch.randn(2, 200_000)
    for rho in (0.3, 0.6, 0.9):
        codes = torch.stack([rho * a + math.sqrt(1 - rho**2) * noise, noise], dim=1)
        found = mutual_information_gap(codes, {"a": a}, bins=40)
        assert found.information[0, 0].item() == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.03)
        assert found.entropies[0].item() == pytest.approx(math.log(40), abs=1e-6)


def test_a_silent_latent_gives_itself_away_in_its_mean_and_not_in_its_draws():
    a = torch.randn(N)
    means = torch.stack([a, 1e-4 * a], dim=1)
    draws = means + torch.randn(N, 2) * torch.tensor([0.05, 1.0])
    assert mutual_information_gap(means, {"a": a}).mig == 0
    assert mutual_information_gap(draws, {"a": a}).mig > 0.6


def test_a_constant_latent_tells_nothing(factors):
    codes = torch.stack([factors["a"], torch.zeros(N)], dim=1)
    found = mutual_information_gap(codes, {"a": factors["a"]})
    assert found.information[1, 0] == 0 and found.mig > 0.99


def test_the_score_prints_every_factor(factors):
    words = str(mutual_information_gap(stacked(factors), factors))
    assert words.startswith("MIG 0.9") and all(name in words for name in factors)


@pytest.mark.usefixtures("as_users_call")
def test_what_cannot_be_scored_is_refused_in_a_sentence():
    codes, a = torch.randn(50, 3), torch.randn(50)
    with pytest.raises(ValueError, match="at least two latents"):
        mutual_information_gap(codes[:, :1], {"a": a})
    with pytest.raises(ValueError, match="at least 2 bins"):
        mutual_information_gap(codes, {"a": a}, bins=1)
    with pytest.raises(ValueError, match="at least one factor"):
        mutual_information_gap(codes, {})
    with pytest.raises(ValueError, match="each of the 50 codes"):
        mutual_information_gap(codes, {"a": a[:20]})
    with pytest.raises(ValueError, match="one value only"):
        mutual_information_gap(codes, {"a": torch.ones(50, dtype=torch.int64)})
    with pytest.raises(ValueError, match="codes are NaN"):
        mutual_information_gap(codes.index_fill(0, torch.tensor([3]), math.nan), {"a": a})


# --- rate and distortion ------------------------------------------------------------------------------------


def test_rate_and_distortion_are_the_closed_forms_of_a_linear_model():
    u, scale = normals(150, 2), torch.tensor([0.5, 2.0], dtype=torch.float64)
    encode, decode = matrix((1, 0.5), (0.2, -1)), matrix((0.7, 0.1), (-0.4, 0.8))
    found = rate_distortion(LinearGaussian(encode, scale, decode=decode, noise=0.9), u)
    mean = u @ encode.T
    rate = 0.5 * (mean**2 + scale**2 - 1 - 2 * scale.log()).sum(1).mean()
    off = (u - mean @ decode.T).square().sum(1).mean() + (decode**2 @ scale**2).sum()
    distortion = off / (2 * 0.81) + 2 * math.log(0.9 * math.sqrt(2 * math.pi))
    assert found.rate.mean == pytest.approx(float(rate), rel=1e-5)
    assert abs(found.distortion.mean - float(distortion)) < 4 * found.distortion.standard_error
    assert found.total.mean == pytest.approx(found.rate.mean + found.distortion.mean, rel=1e-5)
    assert found.kl_per_latent.sum().item() == pytest.approx(found.rate.mean, rel=1e-5)
    assert found.loss(3.0) == pytest.approx(found.distortion.mean + 3 * found.rate.mean)


def test_the_collapse_report_has_the_same_rate_and_distortion():
    model = CVAE(CVAEConfig(num_classes=10, latent_dim=3, hidden=(9,)))
    images = strokes("test", count=60)
    report, found = collapse_report(model, images), rate_distortion(model, images)
    assert report.rate.mean == found.rate.mean and report.distortion.mean == found.distortion.mean
    assert torch.equal(report.kl_per_latent, found.kl_per_latent)
    assert "together" in str(found)


# --- the curve that is known --------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.1, 0.7, 1.5, 4.0, 20.0])
def test_water_filling_is_the_test_channel_of_each_direction(level):
    variances = torch.tensor([8.0, 3.0, 1.0, 0.4], dtype=torch.float64)
    rate, error = water_filling(variances, level)
    expected_rate = expected_error = 0.0
    for variance in variances.tolist():
        # Forward test channel: keep the share k = 1 - level / variance, add noise of variance k * level.
        keep = max(0.0, 1 - level / variance)
        if keep:
            noise = keep * level
            joint = torch.tensor([[variance, keep * variance], [keep * variance, keep**2 * variance + noise]])
            expected_rate += 0.5 * math.log(joint[0, 0] * joint[1, 1] / torch.linalg.det(joint))
        expected_error += (1 - keep) ** 2 * variance + keep * level * bool(keep)
    assert rate.item() == pytest.approx(expected_rate, abs=1e-6)
    assert error.item() == pytest.approx(expected_error, abs=1e-6)


def test_the_slope_of_the_curve_is_minus_one_over_twice_the_level():
    variances = torch.tensor([8.0, 3.0, 1.0, 0.4], dtype=torch.float64)
    level = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    slopes = [torch.autograd.grad(value, level)[0] for value in water_filling(variances, level)]
    assert (slopes[0] / slopes[1]).item() == pytest.approx(-1 / (2 * 0.9))


def test_no_gaussian_channel_beats_the_curve():
    variances = torch.tensor([5.0, 2.0, 0.5], dtype=torch.float64)
    source = torch.distributions.MultivariateNormal(torch.zeros(3).double(), torch.diag(variances))
    for seed in range(200):
        mix, noise = normals(2, 3, seed=seed), 0.05 + normals(2, seed=1000 + seed) ** 2
        cover = mix @ torch.diag(variances) @ mix.T + torch.diag(noise)
        cross = torch.diag(variances) @ mix.T
        error = variances.sum() - torch.trace(cross @ torch.linalg.solve(cover, cross.T))
        joint = torch.cat([torch.cat([torch.diag(variances), cross], 1), torch.cat([cross.T, cover], 1)])
        prior = torch.distributions.MultivariateNormal(torch.zeros(2).double(), cover)
        apart = torch.block_diag(source.covariance_matrix, prior.covariance_matrix)
        zero = torch.zeros(5).double()
        told = kl_divergence(
            torch.distributions.MultivariateNormal(zero, joint), torch.distributions.MultivariateNormal(zero, apart)
        )
        level = torch.logspace(-3, 1, 4001, dtype=torch.float64)
        rates, errors = zip(*(water_filling(variances, float(theta)) for theta in level[::40]), strict=True)
        cheaper = torch.stack(rates)[torch.stack(errors) >= error]
        assert told >= cheaper.max() - 1e-9


@pytest.mark.usefixtures("as_users_call")
def test_water_needs_a_level_and_variances_above_zero():
    for variances, level in ((torch.tensor([1.0, 0.0]), 1.0), (torch.tensor([1.0]), 0.0)):
        with pytest.raises(ValueError, match="above 0"):
            water_filling(variances, level)
