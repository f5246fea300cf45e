"""Attribute calibration against numpy's least squares, and diversity against distances written out."""

import itertools
import math

import numpy as np
import pytest
import torch

from cvae_lib.data import ImageSet
from cvae_lib.evaluation import (
    calibration,
    control_calibration,
    diversity,
    mean_pairwise_distance,
    relative_diversity,
)
from cvae_lib.model import CVAE, CVAEConfig

pytestmark = pytest.mark.usefixtures("full_profile")


def pair(count=200, slope=0.9, intercept=0.3, noise=0.2, seed=0):
    random = np.random.default_rng(seed)
    asked = random.uniform(1, 5, count)
    return torch.from_numpy(asked), torch.from_numpy(intercept + slope * asked + noise * random.standard_normal(count))


# --- calibration --------------------------------------------------------------------------------------------


def test_the_line_and_its_errors_are_those_of_polyfit():
    asked, measured = pair()
    ours = calibration(asked, measured)
    (slope, intercept), covariance = np.polyfit(asked.numpy(), measured.numpy(), 1, cov=True)
    assert (ours.slope, ours.intercept) == (pytest.approx(slope, rel=1e-10), pytest.approx(intercept, rel=1e-10))
    assert ours.slope_error == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-9)
    assert ours.intercept_error == pytest.approx(math.sqrt(covariance[1, 1]), rel=1e-9)
    assert ours.r_squared == pytest.approx(np.corrcoef(asked.numpy(), measured.numpy())[0, 1] ** 2, rel=1e-10)


def test_the_errors_of_measured_against_asked_are_plain_means():
    asked, measured = pair()
    ours, off = calibration(asked, measured), (measured - asked).numpy()
    assert ours.bias == pytest.approx(off.mean()) and ours.mean_absolute_error == pytest.approx(np.abs(off).mean())
    assert ours.bias_error == pytest.approx(off.std(ddof=1) / math.sqrt(200))
    assert ours.mean_absolute_error_error == pytest.approx(np.abs(off).std(ddof=1) / math.sqrt(200))


def test_the_standard_errors_are_the_spread_over_repetitions():
    runs = [calibration(*pair(count=30, seed=seed)) for seed in range(500)]
    for name in ("slope", "intercept", "bias", "mean_absolute_error"):
        spread = np.std([getattr(run, name) for run in runs])
        promised = np.sqrt(np.mean([getattr(run, f"{name}_error") ** 2 for run in runs]))
        assert promised == pytest.approx(spread, rel=0.15)  # 500 repetitions give the spread to 3 %


def test_perfect_absent_and_backward_control():
    asked = torch.linspace(1, 3, 9)
    perfect = calibration(asked, asked)
    assert perfect.slope == pytest.approx(1) and perfect.r_squared == pytest.approx(1)
    assert perfect.intercept == pytest.approx(0, abs=1e-6) and perfect.mean_absolute_error == 0 == perfect.bias
    absent = calibration(asked, torch.full((9,), 2.5))
    assert absent.slope == 0 == absent.r_squared and absent.bias == pytest.approx(0.5)
    backward = calibration(asked, -asked)
    assert backward.slope == pytest.approx(-1) and backward.r_squared == pytest.approx(1)


def test_order_does_not_matter_and_units_scale():
    asked, measured = pair()
    order = torch.randperm(200)
    ours, shuffled = calibration(asked, measured), calibration(asked[order], measured[order])
    scaled = calibration(10 * asked, 10 * measured)
    for name in ("slope", "slope_error", "r_squared"):
        assert getattr(ours, name) == pytest.approx(getattr(shuffled, name)) == pytest.approx(getattr(scaled, name))
    for name in ("intercept", "bias", "mean_absolute_error", "intercept_error", "bias_error"):
        assert 10 * getattr(ours, name) == pytest.approx(getattr(scaled, name))


@pytest.mark.parametrize(
    ("asked", "measured", "clue"),
    [
        (torch.zeros(4), torch.zeros(5), r"\(4,\) and \(5,\)"),
        (torch.arange(2.0), torch.arange(2.0), "at least 3"),
        (torch.ones(4), torch.rand(4), "Only one value"),
        (torch.arange(4.0), torch.tensor([0.0, math.nan, 1.0, math.inf]), "2 of the 4 measured"),
    ],
)
def test_what_cannot_be_calibrated_is_named(asked, measured, clue, as_users_call):
    with pytest.raises(ValueError, match=clue):
        calibration(asked, measured)


def test_asking_and_measuring_goes_through_draw_in_pieces():
    sizes = []

    def draw(values):
        sizes.append(len(values))
        return (0.5 * values + 1)[:, None, None, None].expand(-1, 1, 2, 2)

    ours = control_calibration(draw, lambda x: x.mean((1, 2, 3)), torch.linspace(0, 4, 25), batch_size=10)
    assert sizes == [10, 10, 5]
    assert (ours.slope, ours.intercept) == (pytest.approx(0.5, abs=1e-5), pytest.approx(1, abs=1e-5))
    assert str(ours).startswith("slope 0.500 ± 0.000, intercept 1.000 ± 0.000, R² 1.000") and "25 drawings" in str(ours)
    with pytest.raises(ValueError, match="10 numbers for 10 drawings"):
        control_calibration(draw, lambda x: x, torch.linspace(0, 4, 25), batch_size=10)


def test_the_fast_profile_keeps_the_range_asked_for(fast_profile):
    ours = control_calibration(lambda a: a, lambda a: a, torch.linspace(-3, 3, 1000))
    assert len(ours.asked) == 200 and (ours.asked.min(), ours.asked.max()) == (-3, 3)


# --- diversity ----------------------------------------------------------------------------------------------


def test_the_mean_distance_and_its_jackknife_are_the_definitions():
    points = torch.rand(9, 1, 3, 2, dtype=torch.float64)
    ours = mean_pairwise_distance(points)

    def mean(rows):
        return np.mean([np.linalg.norm(a - b) for a, b in itertools.combinations(rows, 2)])

    rows = points.flatten(1).numpy()
    assert ours.mean == pytest.approx(mean(rows), rel=1e-12)
    left_out = np.array([mean(np.delete(rows, i, 0)) for i in range(9)])
    assert ours.standard_error == pytest.approx(math.sqrt(8 / 9 * ((left_out - left_out.mean()) ** 2).sum()), rel=1e-9)
    assert ours.per_example.shape == (9,)


def test_distances_between_gaussians_and_the_spread_of_their_mean():
    """|x - x'| of standard normals has mean 2 / sqrt(pi); over repetitions it spreads as the error says."""
    runs = [mean_pairwise_distance(torch.randn(30, 1)) for _ in range(400)]
    means = np.array([run.mean for run in runs])
    assert means.mean() == pytest.approx(2 / math.sqrt(math.pi), abs=4 * means.std() / 20)
    assert np.sqrt(np.mean([run.standard_error**2 for run in runs])) == pytest.approx(means.std(), rel=0.15)


def test_distances_of_many_points_which_go_in_pieces_do_not_depend_on_their_order():
    points = torch.rand(2500, 3, dtype=torch.float64)
    whole = float(torch.pdist(points).mean())
    assert mean_pairwise_distance(points).mean == pytest.approx(whole, rel=1e-10)
    assert mean_pairwise_distance(points[torch.randperm(2500)]).mean == pytest.approx(whole, rel=1e-10)


def test_equal_points_are_at_distance_zero_exactly():
    assert mean_pairwise_distance(torch.rand(1, 784).expand(60, 784)).mean == 0


def test_features_replace_pixels():
    points = torch.rand(20, 1, 4, 4)
    brightness = mean_pairwise_distance(points, features=lambda x: x.mean((1, 2, 3))[:, None])
    assert brightness.mean == pytest.approx(mean_pairwise_distance(points.mean((1, 2, 3))[:, None]).mean, rel=1e-6)
    with pytest.raises(ValueError, match="NaN"):
        mean_pairwise_distance(points, features=lambda x: x.flatten(1) * math.nan)
    with pytest.raises(ValueError, match="at least 2"):
        mean_pairwise_distance(points[:1])


def test_drawings_half_as_wide_are_half_as_diverse_whatever_separates_the_conditions():
    labels = torch.arange(900) % 3
    centre = 50.0 * labels[:, None]
    real, drawn = centre + torch.randn(900, 2), centre + 0.5 * torch.randn(900, 2)
    ours = relative_diversity(drawn, labels, real, labels)
    assert ours.ratio == pytest.approx(0.5, abs=4 * ours.standard_error) and ours.standard_error < 0.02
    assert ours.conditions.tolist() == [0, 1, 2]
    torch.testing.assert_close(ours.per_condition, ours.drawn / ours.real)
    same = relative_diversity(real, labels, real, labels)
    assert same.ratio == 1 and relative_diversity(centre.expand(-1, 2), labels, real, labels).ratio == 0


def test_the_error_of_the_ratio_is_its_spread():
    labels = torch.arange(60) % 2
    runs = [relative_diversity(0.7 * torch.randn(60, 2), labels, torch.randn(60, 2), labels) for _ in range(300)]
    spread = np.std([run.ratio for run in runs])  # to 4 %
    assert np.sqrt(np.mean([run.standard_error**2 for run in runs])) == pytest.approx(spread, rel=0.15)


def test_what_cannot_be_compared_is_named(as_users_call):
    points, labels = torch.rand(8, 2), torch.arange(8) // 4
    with pytest.raises(ValueError, match="Condition 1 has 4 drawings and 0 real"):
        relative_diversity(points, labels, points, torch.zeros(8, dtype=torch.int64))
    with pytest.raises(ValueError, match="condition 0 are all the same"):
        relative_diversity(points, labels, torch.ones(8, 2), labels)
    with pytest.raises(ValueError, match="Every drawing"):
        relative_diversity(points, labels[:3], points, labels)


class _Painter(CVAE):
    """Paints label y with even noise of width (y + 1) / 4."""

    def draw(self, y=None, *, count=None, temperature=1.0, generator=None):
        noise = torch.rand(len(y), 1, 4, 3, generator=generator)
        return noise * temperature * (y[:, None, None, None] + 1) / 4


def test_a_models_diversity_label_by_label():
    painter = _Painter(CVAEConfig(num_classes=2, latent_dim=1, hidden=(2,), event_shape=(1, 4, 3)))
    images = torch.randint(0, 256, (1000, 1, 4, 3), dtype=torch.uint8)
    data = ImageSet(images, torch.arange(1000) % 2, "noise", classes=2)
    ours = diversity(painter, data, count=801)
    torch.testing.assert_close(ours.per_condition, torch.tensor([0.25, 0.5]), rtol=0.03, atol=0)
    assert str(ours).endswith(f"least for 0 at {float(ours.per_condition[0]):.3f}")
    assert diversity(painter, data, count=800, temperature=0.5).ratio == pytest.approx(ours.ratio / 2, rel=0.01)
    with pytest.raises(ValueError, match="too few"):
        diversity(painter, data, count=5)
    with pytest.raises(ValueError, match="relative_diversity"):
        diversity(_Painter(CVAEConfig(num_classes=0, hidden=(2,))), data)
    with pytest.raises(ValueError, match="needs a label"):
        diversity(painter, images)
    assert diversity(painter, (images, data.labels), count=801).ratio == ours.ratio


def test_the_fast_profile_draws_fewer(fast_profile):
    class Counting(_Painter):
        drawn = 0

        def draw(self, y=None, **settings):
            self.drawn += len(y)
            return super().draw(y, **settings)

    painter = Counting(CVAEConfig(num_classes=2, latent_dim=1, hidden=(2,), event_shape=(1, 4, 3)))
    images = torch.randint(0, 256, (1000, 1, 4, 3), dtype=torch.uint8)
    diversity(painter, ImageSet(images, torch.arange(1000) % 2, "noise", classes=2))
    assert painter.drawn == 200


@pytest.mark.parametrize(("pixels", "mode"), [("stochastic", "grey"), ("grey", "grey"), ("threshold", "threshold")])
def test_drawn_means_are_compared_with_grey_levels_unless_the_model_knows_black_and_white_only(pixels, mode):
    painter = _Painter(CVAEConfig(num_classes=2, latent_dim=1, hidden=(2,), event_shape=(1, 4, 3), pixels=pixels))
    images = torch.randint(0, 256, (80, 1, 4, 3), dtype=torch.uint8)
    data = ImageSet(images, torch.arange(80) % 2, "noise", classes=2)
    real = [mean_pairwise_distance(data.pixels(mode=mode)[data.labels == label]).mean for label in (0, 1)]
    torch.testing.assert_close(diversity(painter, data, count=80).real, torch.tensor(real))
