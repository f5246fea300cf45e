"""The forking series against simulation and textbook formulas, series as data, and the weekly record."""

import importlib.util
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from cvae_lib import data, evaluation
from cvae_lib.conditions import Observed, ObservedCondition
from cvae_lib.datasets import series
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.training import fit


def reference(windows):
    """The conditional Gaussian of the swing by block inversion of the precision: (mean (N, T), covariance (T, T))."""
    precision = torch.linalg.inv(series.covariance(series.WINDOW + series.HORIZON))
    ahead, cross = precision[series.WINDOW :, series.WINDOW :], precision[series.WINDOW :, : series.WINDOW]
    spread = torch.linalg.inv(ahead)
    return -(windows.double() @ cross.T @ spread.T), spread


# --- the law ------------------------------------------------------------------------------------------------


def test_the_swing_is_the_autoregression_it_says():
    first, second = 2 * series.DAMPING * math.cos(2 * math.pi / series.PERIOD), -(series.DAMPING**2)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(400, 4000, generator=generator, dtype=torch.float64)
    states = [torch.zeros(4000).double()] * 2
    for step in noise:
        states.append(first * states[-1] + second * states[-2] + step)
    late = torch.stack(states[-40:])  # (40, 4000), settled
    lags = torch.stack([(late[0] * late[lag]).mean() for lag in range(10)])
    torch.testing.assert_close(lags / late.square().mean(), series.covariance(10)[0], atol=0.05, rtol=0)
    # each new value is explained by the two before it, exactly, but for noise that is independent of all others
    K = series.covariance(20)
    weights = torch.linalg.solve(K[:19, :19], K[19, :19])
    torch.testing.assert_close(weights[-2:], torch.tensor([second, first]).double())
    assert weights[:-2].abs().max() < 1e-8


def test_the_law_is_the_conditional_gaussian_on_either_branch():
    windows = series.forks("test", 50).windows.double()
    law = series.law(windows)
    middle, spread = reference(windows)
    torch.testing.assert_close(law.middle, middle)
    torch.testing.assert_close(law.covariance, spread)
    torch.testing.assert_close(law.scale, spread.diagonal().sqrt())
    futures = series.forks("test", 50).futures.double()
    parts = [MultivariateNormal(middle + sign * law.branch, spread).log_prob(futures).exp() for sign in (1, -1)]
    expected = (law.chance * parts[0] + (1 - law.chance) * parts[1]).log()
    torch.testing.assert_close(law.log_prob(futures), expected)
    torch.testing.assert_close(law.log_prob(futures.expand(2, -1, -1)), expected.expand(2, -1))
    torch.testing.assert_close((law.weights[..., None] * law.means).sum(1), law.mean)


def test_the_coin_heeds_the_last_steps_and_bets_against_them():
    """Against the spread that the mean of the last eight steps has in the windows themselves."""
    windows = series.forks("train", 20_000).windows.double()
    level = windows[:, -8:].mean(1)
    expected = torch.sigmoid(-1.5 * level / level.std())  # the spread is known to half a per cent
    torch.testing.assert_close(series.chance(windows), expected, atol=0.01, rtol=0)
    up = series.forks("train", 20_000).up
    assert float(level[up].mean()) < -0.3 * float(level.std()) < 0 < float(level[~up].mean())


def test_what_comes_is_what_the_law_says():
    found = series.forks("train", 20_000)
    law = series.law(found.windows)
    assert abs(float((found.up.float() - law.chance).mean())) < 0.012  # four standard errors
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        group = (law.chance >= low) & (law.chance < low + 0.2)
        assert abs(float((found.up[group].float() - law.chance[group]).mean())) < 0.03
    side = torch.where(found.up, 1.0, -1.0)[:, None]
    rest = (found.futures - law.middle - side * law.branch).double()
    torch.testing.assert_close(rest.T @ rest / len(rest), law.covariance.double(), atol=0.02, rtol=0)
    assert float((rest * found.windows.double()[:, -12:]).mean().abs()) < 0.01
    assert law.branch[:3].abs().max() == 0 and float(law.branch[-1]) == pytest.approx(series.HEIGHT)
    assert float(law.scale.max()) * 3 < float(law.branch[-1]) + 0.2  # two humps, apart


def test_draws_of_the_law_have_its_moments():
    law = series.law(series.forks("test", 3).windows)
    draws = law.sample(40_000, torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(draws.mean(0), law.mean.double(), atol=0.06, rtol=0)
    centred = draws - law.mean.double()
    for n in range(3):
        share = float(law.chance[n])
        expected = law.covariance + 4 * share * (1 - share) * torch.outer(law.branch, law.branch)
        torch.testing.assert_close(centred[:, n].T @ centred[:, n] / 40_000, expected.double(), atol=0.12, rtol=0)


def test_hidden_values_are_drawn_from_their_conditional_gaussian():
    windows = series.forks("test", 2).windows
    mask = torch.rand(2, series.WINDOW) < 0.6
    mask[:, -4:] = False
    torn = windows.masked_fill(~mask, math.nan)
    draws = series.filled(torn, mask, 20_000, torch.Generator().manual_seed(0)).double()
    assert torch.equal(draws[:, mask], windows[mask].double().expand(20_000, -1))
    K = series.covariance(series.WINDOW)
    for n in range(2):
        seen, gone = mask[n], ~mask[n]
        gain = torch.linalg.solve(K[seen][:, seen], K[seen][:, gone]).T
        mean, spread = gain @ windows[n, seen].double(), K[gone][:, gone] - gain @ K[seen][:, gone]
        torch.testing.assert_close(draws[:, n, gone].mean(0), mean, atol=0.04, rtol=0)
        torch.testing.assert_close(draws[:, n, gone].T.cov(), spread, atol=0.05, rtol=0)


def test_the_first_series_are_the_same_whatever_the_count_and_no_split_shares_any():
    few, many = series.forks("train", 5), series.forks("train", 50)
    for a, b in zip(few, many, strict=True):
        torch.testing.assert_close(a, b[:5])
    assert not torch.equal(few.windows, series.forks("test", 5).windows)
    assert not torch.equal(few.windows, series.forks("train", 5, seed=1).windows)
    assert len(data.forks("test", count=7).windows) == 7 and len(data.forks("train").windows) == 200  # fast profile


def test_series_that_cannot_be_are_refused(as_users_call):
    with pytest.raises(ValueError, match="no split 'validation'"):
        series.forks("validation")
    with pytest.raises(ValueError, match="at least 1, not 0"):
        series.forks("train", 0)
    with pytest.raises(ValueError, match=r"shape \(N, 24\), not \(3, 23\)"):
        series.law(torch.zeros(3, 23))
    with pytest.raises(ValueError, match=r"shape \(N, 24\)"):
        series.filled(torch.zeros(3, 9), torch.ones(3, 9).bool(), 2)


# --- series as data ------------------------------------------------------------------------------------------


@pytest.fixture
def model() -> CVAE:
    config = CVAEConfig(event_shape=(12,), latent_dim=2, hidden=(16,), likelihood="real", prior="mixture")
    return CVAE(config, condition=ObservedCondition((1, 1, 24), flat=True))


def known(windows):
    return Observed(windows[:, None, None], torch.ones_like(windows).bool()[:, None, None])


def test_the_loop_and_the_evaluations_take_series(model):
    found = series.forks("train", 600)
    futures = 10 * found.futures  # far outside [0, 1]
    y = known(found.windows)
    history = fit(model, (futures, y), steps=25, log_every=100, device="cpu")
    assert history.loss[-1] < history.loss[0]
    assert model.draw(known(found.windows[:3])).shape == (3, 12)
    assert evaluation.log_likelihood(model, (futures, y), samples=3).mean < 0


def test_a_series_of_nan_is_named_before_it_does_harm(model):
    found = series.forks("train", 8)
    found.futures[3, 5] = math.nan
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="3"):  # the row
        fit(model, (found.futures, known(found.windows)), steps=2, device="cpu")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- the weekly record --------------------------------------------------------------------------------------


def test_the_record_is_that_of_mauna_loa():
    pytest.importorskip("statsmodels", reason="the record comes with statsmodels")
    record = data.co2()
    assert len(record.values) == len(record.years) == 2284 and int(record.values.isnan().sum()) == 59
    assert float(record.values[0]) == pytest.approx(316.1) and record.unit == "ppm"
    assert float(record.years[0]) == pytest.approx(1958.24, abs=0.01)
    assert float(record.years[-1]) == pytest.approx(2001.99, abs=0.01)  # 29 December 2001
    assert 310 < float(record.values.nanmean()) < 350


def test_without_statsmodels_a_record_is_simulated_and_said_to_be(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(data.DataUnavailable, match="not installed"):
        data.co2()
    record = data.weekly()
    assert "No CO2 record; using a simulated one." in (said := capsys.readouterr().out) and "pip install" in said
    assert record.name == "simulated record" and len(record.values) == 2284
    assert 20 < int(record.values.isnan().sum()) < 100


def test_a_broken_record_is_said_to_be(monkeypatch, tmp_path):
    class Found:
        submodule_search_locations = [str(tmp_path)]

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: Found())
    with pytest.raises(data.DataUnavailable, match="cannot be read"):
        data.co2()
    (tmp_path / "datasets" / "co2").mkdir(parents=True)
    (tmp_path / "datasets" / "co2" / "co2.csv").write_text("date,other\n1,2\n")
    with pytest.raises(data.DataUnavailable, match="cannot be read"):
        data.co2()


def test_windows_slide_by_one_and_keep_their_holes():
    values = torch.arange(10.0)
    values[3] = math.nan
    windows, futures, mask = data.sliding(values, 4, 2)
    assert windows.shape == (5, 4) and futures.shape == (5, 2)
    assert windows[1].tolist()[:2] == [1, 2] and futures[4].tolist() == [8, 9]
    assert torch.equal(mask.sum(1), torch.tensor([3, 3, 3, 3, 4]))
    assert torch.equal(mask.int().argmin(1)[:4], torch.tensor([3, 2, 1, 0]))  # where the hole is
    with pytest.raises(ValueError, match="holds no window of 9 with a future of 2"):
        data.sliding(values, 9, 2)
    with pytest.raises(ValueError, match="at least 1 week"):
        data.simulated_weekly(0)
