"""Forecast scores against closed forms, integrals and double loops in float64."""

import math

import pytest
import torch
from torch.distributions import Normal

from cvae_lib.evaluation import (
    crps,
    crps_gaussian,
    crps_gaussian_mixture,
    energy_score,
    forecast_report,
    interval_coverage,
    mean_and_error,
)


def doubles(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def looped(samples, obs, fair):
    """The score of one observation by its definition: samples (M, T), obs (T)."""
    m = len(samples)
    first = sum(float((x - obs).norm()) for x in samples) / m
    pairs = sum(float((x - other).norm()) for x in samples for other in samples)
    return first - pairs / (2 * m * (m - 1 if fair else m))


# --- CRPS ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fair", [True, False])
@pytest.mark.parametrize("m", [2, 3, 8])
def test_crps_is_the_double_loop(m, fair):
    samples, obs = doubles(m, 4, 3), doubles(4, 3, seed=1)
    samples[0] = samples[1]  # ties
    ours = crps(samples, obs, fair=fair)
    for n in range(4):
        for t in range(3):
            expected = looped(samples[:, n, t, None], obs[n, t, None], fair)
            assert float(ours[n, t]) == pytest.approx(expected, rel=1e-12, abs=1e-14)
    torch.testing.assert_close(crps(samples[:, :, 0], obs[:, 0], fair=fair), ours[:, 0])


def test_crps_of_the_samples_themselves_is_the_integral_of_the_squared_difference():
    """Unfair is the exact score of the empirical distribution: int (F(x) - 1[x >= y])^2 dx."""
    samples, obs = doubles(6, 1), doubles(1, seed=1)
    grid = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    steps = (samples <= grid).double().mean(0) - (obs <= grid).double()
    assert float(crps(samples, obs, fair=False)) == pytest.approx(float(torch.trapezoid(steps**2, grid)), abs=1e-4)


def test_the_closed_form_of_a_gaussian_is_the_integral():
    mean, scale, obs = doubles(5), doubles(5, seed=1).exp(), 2 * doubles(5, seed=2)
    ours = crps_gaussian(mean, scale, obs)
    for i in range(5):
        # the integrand jumps at the observation, so it is integrated up to it and from it
        total = 0.0
        for low, high, above in (
            (mean[i] - 12 * scale[i] - 9, obs[i], 0.0),
            (obs[i], mean[i] + 12 * scale[i] + 9, 1.0),
        ):
            grid = torch.linspace(float(low), float(high), 100_001, dtype=torch.float64)
            total += float(torch.trapezoid((Normal(mean[i], scale[i]).cdf(grid) - above) ** 2, grid))
        assert float(ours[i]) == pytest.approx(total, rel=1e-7)
    with pytest.raises(ValueError, match="above 0"):
        crps_gaussian(mean, 0 * scale, obs)


@pytest.mark.parametrize("m", [2, 10])
def test_fair_crps_is_unbiased_at_any_number_of_samples_and_unfair_is_not(m):
    obs = torch.full((40_000,), 0.7, dtype=torch.float64)
    samples = 1.5 * doubles(m, 40_000) + 0.2
    truth = float(crps_gaussian(torch.tensor(0.2).double(), torch.tensor(1.5).double(), torch.tensor(0.7).double()))
    fair = mean_and_error(crps(samples, obs))
    assert abs(fair.mean - truth) < 4 * fair.standard_error
    assert mean_and_error(crps(samples, obs, fair=False)).mean - truth > 10 * fair.standard_error


def test_crps_keeps_its_digits_far_from_zero_and_does_not_see_order():
    samples, obs = doubles(50, 20), doubles(20, seed=1)
    exact = crps(samples, obs)
    torch.testing.assert_close(crps(samples[torch.randperm(50)], obs), exact)
    # float32 near a million holds 1/16; shifted values are multiples of that, so they are exact
    coarse, truth = (16 * samples).round() / 16, (16 * obs).round() / 16
    shifted = crps((coarse + 1e6).float(), (truth + 1e6).float())
    torch.testing.assert_close(shifted.double(), crps(coarse, truth), rtol=1e-5, atol=1e-6)


def test_crps_scales_with_the_unit_and_prefers_the_truth():
    obs = doubles(5000, seed=3)
    right, wide, off = doubles(20, 5000), 3 * doubles(20, 5000), doubles(20, 5000) + 1
    score = crps(right, obs)
    torch.testing.assert_close(crps(7 * right, 7 * obs), 7 * score)
    for worse in (wide, off):
        gain = mean_and_error(crps(worse, obs) - score)
        assert gain.mean > 5 * gain.standard_error


# --- energy score -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fair", [True, False])
def test_the_energy_score_is_the_double_loop(fair):
    samples, obs = doubles(5, 3, 4), doubles(3, 4, seed=1)
    ours = energy_score(samples, obs, fair=fair)
    for n in range(3):
        assert float(ours[n]) == pytest.approx(looped(samples[:, n], obs[n], fair), rel=1e-12)


@pytest.mark.parametrize("fair", [True, False])
def test_the_energy_score_of_one_number_is_the_crps(fair):
    samples, obs = doubles(30, 6, 1), doubles(6, 1, seed=1)
    torch.testing.assert_close(energy_score(samples, obs, fair=fair), crps(samples, obs, fair=fair)[:, 0])


@pytest.mark.parametrize(("m", "n"), [(12, 7), (700, 9), (2500, 2)])
def test_the_energy_score_is_the_same_in_pieces_and_in_any_order(m, n):
    """Few samples go at once, 700 series by series in groups of four, 2,500 in parts of one series."""
    samples, obs = doubles(m, n, 4), doubles(n, 4, seed=1)
    pairs = torch.stack([torch.pdist(samples[:, series]).mean() / 2 for series in range(n)])
    whole = (samples - obs).norm(dim=2).mean(0) - pairs
    torch.testing.assert_close(energy_score(samples[torch.randperm(m)], obs), whole)


def test_the_energy_score_sees_what_the_crps_of_each_entry_cannot():
    """Right margins with the wrong correlation: equal CRPS, larger energy score."""
    common = doubles(4000, 1, seed=1)
    obs = 0.95 * common + math.sqrt(1 - 0.95**2) * doubles(4000, 2, seed=2)
    shared = doubles(20, 4000, 1, seed=3)
    right = 0.95 * shared + math.sqrt(1 - 0.95**2) * doubles(20, 4000, 2, seed=4)
    independent = doubles(20, 4000, 2, seed=5)
    margins = mean_and_error((crps(independent, obs) - crps(right, obs)).mean(1))
    assert abs(margins.mean) < 4 * margins.standard_error
    joint = mean_and_error(energy_score(independent, obs) - energy_score(right, obs))
    assert joint.mean > 5 * joint.standard_error


def test_energy_score_is_unbiased_for_the_gaussian_closed_form():
    """E|X - X'| of two T-dimensional standard normals is 2 Gamma((T+1)/2) / Gamma(T/2), and so is E|X - Y|."""
    t = 5
    distance = 2 * math.gamma((t + 1) / 2) / math.gamma(t / 2)
    score = mean_and_error(energy_score(doubles(6, 20_000, t), doubles(20_000, t, seed=1)))
    assert abs(score.mean - distance / 2) < 4 * score.standard_error


# --- coverage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [9, 39, 99])
def test_a_right_forecast_keeps_its_promise_at_any_number_of_samples(m):
    samples, obs = torch.rand(m, 20_000, dtype=torch.float64), torch.rand(20_000, dtype=torch.float64)
    for interval in interval_coverage(samples, obs):
        assert abs(interval.share - interval.nominal) < 4 * interval.standard_error
        assert interval.nominal == min(interval.level, (m - 1) / (m + 1))
        # both quantiles of even samples lie at p in expectation, so the width is the level
        assert abs(interval.width - interval.nominal) < 4 * interval.width_error


def test_too_few_samples_for_a_level_say_how_far_they_reach():
    wide = interval_coverage(doubles(9, 50), doubles(50, seed=1))[-1]
    assert wide.level == 0.95 and wide.nominal == 0.8 and "so few samples reach 80.0%" in str(wide)
    samples = doubles(9, 50)
    assert wide.width == pytest.approx(float((samples.amax(0) - samples.amin(0)).mean()))


def test_quantiles_are_read_at_rank_p_times_m_plus_one():
    samples = torch.arange(1.0, 10.0, dtype=torch.float64)[:, None].expand(9, 4)  # rank k holds k
    inside = interval_coverage(samples, torch.tensor([2.49, 2.51, 7.49, 7.51], dtype=torch.float64), [0.5])[0]
    assert inside.width == pytest.approx(5.0) and inside.share == 0.5  # from 2.5 to 7.5


def test_the_error_of_a_share_is_wilsons():
    """Half of Wilson's interval at one deviation, from solving |p - share| = sqrt(p (1 - p) / n) for p."""
    samples = torch.arange(1.0, 10.0, dtype=torch.float64)[:, None].expand(9, 40)
    for hits in (0, 13, 40):
        obs = torch.full((40,), 50.0, dtype=torch.float64)
        obs[:hits] = 5.0
        found = interval_coverage(samples, obs, [0.5])[0]
        n, share = 40, hits / 40
        ends = torch.tensor([1 + 1 / n, -(2 * share + 1 / n), share**2], dtype=torch.float64)
        root = math.sqrt(float(ends[1] ** 2 - 4 * ends[0] * ends[2])) / float(ends[0])  # distance of the two ends
        assert found.share == share and found.standard_error == pytest.approx(root / 2, rel=1e-12) and root > 0


def test_times_of_one_series_do_not_count_as_many():
    """Errors shared by a whole series: the share spreads over repetitions as its error says."""
    shares, errors = [], []
    for seed in range(300):
        level = doubles(40, 1, seed=seed)
        obs = level + 0.1 * doubles(40, 25, seed=1000 + seed)
        found = interval_coverage(doubles(39, 40, 25, seed=2000 + seed), obs, [0.5])[0]
        shares.append(found.share)
        errors.append(found.standard_error**2)
    spread, promised = float(torch.tensor(shares).std()), math.sqrt(sum(errors) / 300)
    assert promised == pytest.approx(spread, rel=0.15)  # 300 repetitions give the spread to 4 %
    assert promised > 3 * math.sqrt(0.25 / 1000)


def wilson(share: float, n: float) -> float:
    """Return half of Wilson's interval at one deviation."""
    return math.sqrt(share * (1 - share) / n + 1 / (4 * n * n)) / (1 + 1 / n)


def covered(inside: torch.Tensor) -> float:
    """Return the error of the share of entries (N, T) that lie inside."""
    samples = torch.arange(1.0, 10.0, dtype=torch.float64)[:, None, None].expand(9, *inside.shape)
    found = interval_coverage(samples, torch.where(inside, 5.0, 50.0).double(), [0.5])[0]
    assert found.share == float(inside.double().mean())
    return found.standard_error


def test_series_inside_or_outside_as_a_whole_count_once_and_balanced_ones_never_more_than_all_times():
    whole = torch.arange(40)[:, None].expand(40, 25) % 2 == 0
    assert covered(whole) == pytest.approx(wilson(0.5, 40), rel=1e-9)
    balanced = torch.arange(4).expand(40, 4) % 2 == 0  # two of four in each series ...
    balanced = balanced.clone()
    balanced[0, 1] = True  # ... but in one: the spread between series says less than a coin's
    assert covered(balanced) == pytest.approx(wilson(81 / 160, 160), rel=1e-9)


def test_independent_times_do_count_as_many():
    found = interval_coverage(doubles(39, 200, 25), doubles(200, 25, seed=1), [0.5])[0]
    assert found.standard_error == pytest.approx(math.sqrt(0.25 / 5000), rel=0.3)


# --- the report and what is refused -------------------------------------------------------------------------


def test_the_report_is_the_scores_with_their_errors():
    samples, obs = doubles(50, 30, 4), doubles(30, 4, seed=1)
    report = forecast_report(samples, obs)
    assert report.crps.mean == pytest.approx(float(crps(samples, obs).mean()))
    assert report.crps.standard_error == pytest.approx(float(crps(samples, obs).mean(1).std()) / math.sqrt(30))
    assert report.energy.mean == pytest.approx(float(energy_score(samples, obs).mean()))
    assert report.coverage == interval_coverage(samples, obs)
    lines = str(report).splitlines()
    assert [line.split()[0] for line in lines] == ["CRPS", "energy", "50%", "80%", "95%"]
    assert forecast_report(samples, obs, [0.6]).coverage == interval_coverage(samples, obs, [0.6])
    single = forecast_report(samples[:, :, 0], obs[:, 0])
    assert single.energy is None and len(str(single).splitlines()) == 4


@pytest.mark.parametrize("profile, seen", [("fast_profile", 200), ("full_profile", 250)])
def test_a_report_looks_at_all_samples_but_on_the_fast_profile(profile, seen, request):
    request.getfixturevalue(profile)
    samples, obs = doubles(250, 5, 2), doubles(5, 2, seed=1)
    assert forecast_report(samples, obs).crps.mean == pytest.approx(float(crps(samples[:seen], obs).mean()))


@pytest.mark.parametrize("score", [crps, energy_score, interval_coverage])
def test_samples_that_do_not_fit_are_refused_in_one_sentence(score, as_users_call):
    with pytest.raises(ValueError, match=r"\(5, 3, 4\) and \(4, 3\)"):
        score(doubles(5, 3, 4), doubles(4, 3))
    with pytest.raises(ValueError, match="at least 2 samples, not 1"):
        score(doubles(1, 3, 4), doubles(3, 4))
    with pytest.raises(ValueError, match="observations hold NaN"):
        score(doubles(5, 3, 4), doubles(3, 4) * math.nan)
    with pytest.raises(ValueError, match="samples hold NaN"):
        score(doubles(5, 3, 4) / 0.0, doubles(3, 4))


def test_levels_are_shares():
    with pytest.raises(ValueError, match="80 % as 0.8"):
        interval_coverage(doubles(5, 3), doubles(3), [80])


def test_the_energy_score_is_for_series(as_users_call):
    with pytest.raises(ValueError, match="for series"):
        energy_score(doubles(5, 3), doubles(3))


def test_scores_keep_the_dtype():
    samples, obs = doubles(5, 3, 4), doubles(3, 4)
    for score in (crps, energy_score):
        assert score(samples, obs).dtype == torch.float64 and score(samples.float(), obs.float()).dtype == torch.float32


def test_where_every_series_agrees_each_counts_once():
    samples, obs = doubles(39, 30, 25), torch.zeros(30, 25, dtype=torch.float64)
    found = interval_coverage(samples - samples.mean(0), obs, [0.95])[0]
    assert found.share == 1 and found.standard_error == pytest.approx(1 / 60 / (1 + 1 / 30))


# --- a mixture's CRPS in closed form --------------------------------------------------------------------------


def test_the_closed_form_of_a_mixture_is_the_integral():
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    means, scales, obs = 2 * doubles(4, 3), doubles(4, 3, seed=1).exp(), 3 * doubles(4, seed=2)
    ours = crps_gaussian_mixture(weights, means, scales, obs)
    for i in range(4):
        total = 0.0
        for low, high, above in ((-90.0, float(obs[i]), 0.0), (float(obs[i]), 90.0, 1.0)):
            grid = torch.linspace(low, high, 400_001, dtype=torch.float64)
            cdf = (weights * Normal(means[i], scales[i]).cdf(grid[:, None])).sum(1)
            total += float(torch.trapezoid((cdf - above) ** 2, grid))
        assert float(ours[i]) == pytest.approx(total, abs=1e-6)


def test_a_mixture_of_one_is_a_gaussian_and_its_draws_score_alike():
    mean, scale, obs = doubles(5), doubles(5, seed=1).exp(), doubles(5, seed=2)
    one = crps_gaussian_mixture(torch.ones(5, 1).double(), mean[:, None], scale[:, None], obs)
    torch.testing.assert_close(one, crps_gaussian(mean, scale, obs))
    pairs = torch.tensor([[0.25, 0.75]]).double(), torch.tensor([[-2.0, 1.0]]).double(), torch.ones(1, 2).double()
    side = torch.where(torch.rand(20_000, 1) < 0.25, -2.0, 1.0).double()
    draws = side + torch.randn(20_000, 1).double()
    exact = crps_gaussian_mixture(*pairs, torch.zeros(1).double())
    torch.testing.assert_close(crps(draws, torch.zeros(1).double()), exact, atol=0.03, rtol=0)


def test_weights_that_are_no_shares_are_refused():
    means, scales, obs = doubles(5, 3), doubles(5, 3, seed=1).exp(), doubles(5)
    for weights in (torch.tensor([0.5, 0.5, 0.5]), torch.tensor([1.5, -0.5, 0.0]), torch.tensor([math.nan, 0.5, 0.5])):
        with pytest.raises(ValueError, match="at least 0 and sum to 1"):
            crps_gaussian_mixture(weights.double(), means, scales, obs)
    even = crps_gaussian_mixture(torch.full((1,), 1 / 3).double(), means, scales, obs)  # one weight for all three
    torch.testing.assert_close(even, crps_gaussian_mixture(torch.full((3,), 1 / 3).double(), means, scales, obs))


def test_a_mixture_without_width_is_refused():
    with pytest.raises(ValueError, match="above 0 everywhere"):
        crps_gaussian_mixture(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1))
