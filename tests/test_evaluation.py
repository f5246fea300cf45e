"""Evaluation against models whose likelihood is known exactly."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from cvae_lib.data import ImageSet
from cvae_lib.evaluation import (
    Judge,
    accuracy,
    class_log_likelihoods,
    control_accuracy,
    is_y_used,
    likelihood_by_samples,
    linear_probe,
    log_likelihood,
    mean_and_error,
    posterior_means,
    train_judge,
)
from cvae_lib.model import CVAE, CVAEConfig


@pytest.fixture(autouse=True)
def full_length(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "full")


def scribbles(count: int = 60, classes: int = 3) -> ImageSet:
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(count) % classes
    return ImageSet(
        torch.randint(0, 256, (count, 1, 4, 3), dtype=torch.uint8, generator=generator),
        labels,
        "scribbles",
        classes=classes,
    )


def model(**changes: object) -> CVAE:
    torch.manual_seed(0)
    net = CVAE(CVAEConfig(**{"num_classes": 3, "latent_dim": 1, "hidden": (8,), "image_shape": (1, 4, 3), **changes}))
    with torch.no_grad():
        for parameter in net.decoder.parameters():
            parameter.mul_(2)  # so that z and y matter
        for parameter in net.encoder.parameters():
            parameter.mul_(0.3)  # a proposal near the prior, which importance sampling can trust
    return net.eval()


@torch.no_grad()
def exact_log_likelihood(net: CVAE, x: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
    """Integrate p(x|z,y) N(z; 0, 1) over the one latent on a fine grid, in float64."""
    net = net.double()
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    grid = z[:, None, None].expand(-1, len(x), 1)
    joint = net.likelihood(grid, y).log_prob(x) - 0.5 * z[:, None] ** 2 - 0.5 * math.log(2 * math.pi)
    net.float()
    return joint.logsumexp(0) + math.log(float(z[1] - z[0]))


@pytest.mark.parametrize("num_classes", [0, 3])
def test_importance_sampling_finds_the_integral(num_classes):
    net, images = model(num_classes=num_classes), scribbles()
    x = images.pixels(mode="threshold")
    exact = exact_log_likelihood(net, x, images.labels if num_classes else None)
    estimate = log_likelihood(net, images, samples=8000, pixels="threshold", precision="float32")
    assert (estimate.per_example - exact).abs().max() < 0.05
    assert estimate.mean == pytest.approx(float(exact.mean()), abs=0.01)


def test_a_condition_of_several_parts_is_told_row_by_row():
    """A tuple of label and attributes, one of them unknown, against each image's own likelihood."""
    data = scribbles(30)
    net = model(condition="label+attributes", attributes=("width", "lean"))
    numbers = torch.randn(30, 2)
    numbers[4, 1] = math.nan
    x, y = data.pixels(mode="threshold"), (data.labels, numbers)
    found = log_likelihood(net, data, samples=4000, y=y, pixels="threshold")
    alone = [
        exact_log_likelihood(net.float(), x[i : i + 1].double(), (y[0][i : i + 1], y[1][i : i + 1].double()))
        for i in (0, 4, 29)
    ]
    net.float()
    torch.testing.assert_close(found.per_example[[0, 4, 29]].double(), torch.cat(alone), atol=0.03, rtol=0)
    lost = is_y_used(net, data, samples=50, y=y).likelihood_lost
    assert lost.mean > 0 or lost.standard_error > 0
    with pytest.raises(ValueError, match="one entry per image, 30, not 29"):
        log_likelihood(net, data, y=(data.labels, numbers[:29]))


def test_fewer_samples_give_a_lower_bound():
    net, images = model(), scribbles()
    few, many = (log_likelihood(net, images, samples=k, pixels="threshold").mean for k in (1, 300))
    exact = float(exact_log_likelihood(net, images.pixels(mode="threshold"), images.labels).mean())
    assert few < many < exact + 0.02


@pytest.mark.parametrize("proposal", ["posterior", "prior"])
def test_both_proposals_converge_to_the_integral_along_nested_draws(proposal):
    net, images = model(), scribbles(20)
    exact = exact_log_likelihood(net, images.pixels(mode="threshold"), images.labels)
    counts = [1, 10, 300, 8000]
    settings = {"proposal": proposal, "pixels": "threshold", "precision": "float32"}
    points = likelihood_by_samples(net, images, counts, **settings)
    assert (points[-1].per_example - exact).abs().max() < 0.05
    means = [point.mean for point in points]
    assert means[0] < min(means[1:]) - 0.1
    for k, fewer, more in zip(counts, points, points[1:], strict=False):
        # The sum of the first weights is part of the sum of all: only so if the draws are nested.
        parts = fewer.per_example + math.log(k), more.per_example + math.log(counts[counts.index(k) + 1])
        assert (parts[1] > parts[0]).all()
    assert log_likelihood(net, images, samples=8000, **settings).mean == pytest.approx(means[-1], abs=0.04)


@pytest.mark.parametrize("counts, message", [([], "not none"), ([0, 5], r"not \[0, 5\]"), ([5, 2], "must rise")])
def test_numbers_of_samples_that_make_no_curve_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        likelihood_by_samples(model(), scribbles(), counts)


def test_splitting_the_samples_changes_nothing_but_memory(monkeypatch):
    from cvae_lib.evaluation import likelihood

    net, images = model(), scribbles()
    whole = log_likelihood(net, images, samples=500, pixels="threshold").mean
    monkeypatch.setattr(likelihood, "ROWS_AT_ONCE", 100)
    assert log_likelihood(net, images, samples=500, pixels="threshold").mean == pytest.approx(whole, abs=0.02)


def test_binarisation_is_shared_by_models_and_follows_the_seed(monkeypatch):
    seen = []
    original = CVAE.posterior

    def noting(self, x, y=None):
        seen.append(x)
        return original(self, x, y)

    monkeypatch.setattr(CVAE, "posterior", noting)
    for net, seed in ((model(), 0), (model(hidden=(9,), num_classes=0), 0), (model(), 1)):
        log_likelihood(net, scribbles(), samples=7, seed=seed)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


def test_the_columns_of_the_class_table_are_exact_under_every_label():
    net, images = model(), scribbles()
    table = class_log_likelihoods(net, images, samples=20_000, pixels="threshold", precision="float32")
    x = images.pixels(mode="threshold")
    for label in range(3):
        exact = exact_log_likelihood(net, x, torch.full((len(x),), label))
        assert (table[:, label] - exact).abs().max() < 0.05
    with pytest.raises(ValueError, match="takes no y"):
        class_log_likelihoods(model(num_classes=0), images)


def test_mean_and_standard_error_are_the_textbooks():
    estimate = mean_and_error(torch.tensor([1.0, 2.0, 6.0]))
    assert estimate.mean == 3 and estimate.standard_error == pytest.approx(math.sqrt(7 / 3))
    assert str(estimate) == "3.00 ± 1.53"


def test_no_samples_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        log_likelihood(model(), scribbles(), samples=0)


class _Oracle(Judge):
    """Reads the class a painted image carries in its first pixel."""

    def read(self, x):
        return (x[:, 0, 0, 0] * 100).round().long()


class _Painter(CVAE):
    """Draws what is asked, except that it draws 9 for 3 every time."""

    def draw(self, y=None, **_):
        image = torch.zeros(len(y), 1, 28, 28)
        image[:, 0, 0, 0] = torch.where(y == 3, 9, y) / 100
        return image


def test_control_accuracy_counts_what_was_read_as_asked():
    control = control_accuracy(_Painter(CVAEConfig(hidden=(4,), latent_dim=2)), _Oracle(), count=205)
    assert len(control.asked) == 200 and control.accuracy == pytest.approx(0.9)
    assert control.per_class[3] == 0 and control.per_class.sum() == 9
    assert control.standard_error == pytest.approx(math.sqrt(0.09 / 200))
    assert "worst class 3" in str(control)
    with pytest.raises(ValueError, match="must agree"):
        control_accuracy(_Painter(CVAEConfig(num_classes=4, hidden=(4,))), _Oracle())
    with pytest.raises(ValueError, match="too few"):
        control_accuracy(_Painter(CVAEConfig(hidden=(4,))), _Oracle(), count=5)


def test_a_judge_learns_to_tell_where_the_ink_is():
    labels = torch.arange(400) % 2
    images = torch.zeros(400, 1, 28, 28, dtype=torch.uint8)
    images[labels == 0, :, 4:12, 8:20] = 220
    images[labels == 1, :, 16:24, 8:20] = 220
    data = ImageSet(images, labels, "halves", classes=2)
    assert accuracy(train_judge(data, epochs=4, batch_size=50), data) > 0.97
    with pytest.raises(ValueError, match=r"images of shape \(1, 28, 28\), and those of .* are \(1, 14, 28\)"):
        train_judge(dataclasses.replace(data, images=data.images[:, :, ::2]))


def test_a_linear_probe_reads_what_is_linear_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 3, generator=generator)
    linear = (z @ torch.tensor([1.0, -2.0, 0.5]) > 0).long()
    product = (z[:, 0] * z[:, 1] > 0).long()
    assert linear_probe(z[:1000], linear[:1000], z[1000:], linear[1000:]) > 0.97
    assert linear_probe(z[:1000], product[:1000], z[1000:], product[1000:]) < 0.6
    assert linear_probe(z[:1000].double(), linear[:1000], z[1000:].double(), linear[1000:]) > 0.97


def test_posterior_means_are_the_encoders():
    net, images = model(), scribbles()
    expected = net.encoder(images.pixels(), nn.functional.one_hot(images.labels, 3).float())[0]
    torch.testing.assert_close(posterior_means(net, images), expected.detach())


def test_the_fast_profile_looks_at_fewer_images(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "fast")
    assert len(log_likelihood(model(), scribbles(600), samples=100).per_example) == 200
