"""Evaluation against models whose likelihood is known exactly."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from linear_gaussian import LinearGaussian
from torch import nn
from torch.distributions import MultivariateNormal

from cvae_lib.data import ImageSet
from cvae_lib.evaluation import (
    Classifier,
    accuracy,
    class_log_likelihoods,
    control_accuracy,
    is_y_used,
    likelihood_by_samples,
    linear_probe,
    log_likelihood,
    marginal_log_likelihood,
    mean_and_error,
    posterior_means,
    train_classifier,
)
from cvae_lib.model import CVAE, CVAEConfig

pytestmark = pytest.mark.usefixtures("full_profile")


def scribbles(count: int = 60, classes: int = 3) -> ImageSet:
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(count) % classes
    return ImageSet(
        torch.randint(0, 256, (count, 1, 4, 3), dtype=torch.uint8, generator=generator),
        labels,
        "scribbles",
        classes=classes,
    )


def model(kind: type[CVAE] = CVAE, **changes: object) -> CVAE:
    torch.manual_seed(0)
    net = kind(CVAEConfig(**{"num_classes": 3, "latent_dim": 1, "hidden": (8,), "event_shape": (1, 4, 3), **changes}))
    with torch.no_grad():
        for parameter in net.decoder.parameters():
            parameter.mul_(2)  # so that z and y matter
        for parameter in net.encoder.parameters():
            parameter.mul_(0.3)  # a proposal near the prior, which importance sampling can trust
    return net.eval()


@torch.no_grad()
def exact_log_likelihood(
    net: CVAE, x: torch.Tensor, y: torch.Tensor | None, log_prior: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> torch.Tensor:
    """Integrate p(x|z,y) p(z|y), the prior standard normal if not given, over the one latent in float64."""
    net = net.double()
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    grid = z[:, None, None].expand(-1, len(x), 1)
    density = -0.5 * z[:, None] ** 2 - 0.5 * math.log(2 * math.pi) if log_prior is None else log_prior(grid)
    joint = net.likelihood(grid, y).log_prob(x) + density
    net.float()
    return joint.logsumexp(0) + math.log(float(z[1] - z[0]))


@pytest.mark.parametrize("num_classes", [0, 3])
def test_importance_sampling_finds_the_integral(num_classes):
    net, images = model(num_classes=num_classes, pixels="threshold"), scribbles()
    x = images.pixels(mode="threshold")
    exact = exact_log_likelihood(net, x, images.labels if num_classes else None)
    estimate = log_likelihood(net, images, samples=8000)  # in pieces, 33 samples of each image at a time
    assert (estimate.per_example - exact).abs().max() < 0.05
    assert estimate.mean == pytest.approx(float(exact.mean()), abs=0.01)


def test_a_condition_of_several_parts_goes_row_by_row():
    """A tuple of label and attributes, one of them unknown, against each image's own likelihood."""
    data = scribbles(30)
    net = model(condition="label+attributes", attributes=("width", "lean"), pixels="threshold")
    numbers = torch.randn(30, 2)
    numbers[4, 1] = math.nan
    x, y = data.pixels(mode="threshold"), (data.labels, numbers)
    found = log_likelihood(net, data, samples=4000, y=y)
    alone = [
        exact_log_likelihood(net.float(), x[i : i + 1].double(), (y[0][i : i + 1], y[1][i : i + 1].double()))
        for i in (0, 4, 29)
    ]
    net.float()
    torch.testing.assert_close(found.per_example[[0, 4, 29]].double(), torch.cat(alone), atol=0.03, rtol=0)
    lost = is_y_used(net, data, samples=50, y=y).likelihood_lost
    assert lost.mean > 0 or lost.standard_error > 0
    with pytest.raises(ValueError, match="row for each of the 30 examples, and has 29"):
        log_likelihood(net, data, y=(data.labels, numbers[:29]))


def test_fewer_samples_give_a_lower_bound():
    net, images = model(pixels="threshold"), scribbles()
    few, many = (log_likelihood(net, images, samples=k).mean for k in (1, 300))
    exact = float(exact_log_likelihood(net, images.pixels(mode="threshold"), images.labels).mean())
    assert few < many < exact + 0.02


@pytest.mark.parametrize("proposal", ["posterior", "prior"])
def test_both_proposals_converge_to_the_integral_along_nested_draws(proposal):
    net, images = model(pixels="threshold"), scribbles(20)
    exact = exact_log_likelihood(net, images.pixels(mode="threshold"), images.labels)
    counts = [1, 10, 300, 8000]
    points = likelihood_by_samples(net, images, counts, proposal=proposal)
    assert (points[-1].per_example - exact).abs().max() < 0.05
    means = [point.mean for point in points]
    assert means[0] < min(means[1:]) - 0.1
    for k, fewer, more in zip(counts, points, points[1:], strict=False):
        # The sum of the first weights is part of the sum of all: only so if the draws are nested.
        parts = fewer.per_example + math.log(k), more.per_example + math.log(counts[counts.index(k) + 1])
        assert (parts[1] > parts[0]).all()
    again = log_likelihood(net, images, samples=8000, proposal=proposal)
    assert again.mean == pytest.approx(means[-1], abs=0.04)


class _Broken(nn.Module):
    def forward(self, *_):
        raise RuntimeError("the network failed")


@pytest.mark.parametrize("name", ["standard", "gaussian", "mixture", "vamp"])
def test_plain_monte_carlo_needs_no_encoder_and_finds_the_integral_under_every_prior(name):
    net, images = model(prior=name, components=3, pixels="threshold"), scribbles(20)
    with torch.no_grad():
        for parameter in net.prior_module.parameters():
            parameter.mul_(2).add_(0.1 * torch.randn_like(parameter))
    x, y = images.pixels(mode="threshold"), images.labels
    assert net.prior(y).stddev.max() < 3  # so that the grid holds it all
    exact = exact_log_likelihood(net, x, y, lambda z: net.prior(y).log_prob(z))
    other = log_likelihood(net, images, samples=50)
    net.encoder = _Broken()
    found = likelihood_by_samples(net, images, [20, 8000], proposal="prior")[1]
    assert (found.per_example - exact).abs().max() < 0.1 and found.mean == pytest.approx(float(exact.mean()), abs=0.02)
    alone = log_likelihood(net, images, samples=8000, proposal="prior")
    assert (alone.per_example - exact).abs().max() < 0.1 and alone.mean != other.mean


@pytest.mark.parametrize("seed", range(20))
def test_with_the_exact_posterior_the_published_numbers_are_the_closed_form(seed):
    """A linear-Gaussian CVAE whose latents do not mix, so that its posterior is factorised: no weight differs."""
    torch.manual_seed(seed)
    d = int(torch.randint(1, 5, ()))
    p = d + int(torch.randint(0, 4, ()))
    size, noise = 0.3 + torch.rand(d).double(), 0.5 + float(torch.rand(()))
    weight = torch.linalg.qr(torch.randn(p, d, dtype=torch.float64)).Q * size
    decode_y, centre = torch.randn(64, p, dtype=torch.float64), torch.randn(64, d, dtype=torch.float64)
    labels, u = torch.randint(0, 64, (30,)), 2 * torch.randn(30, p, dtype=torch.float64)
    precision = 1 + size**2 / noise**2
    encode = weight.T / noise**2 / precision[:, None]
    net = LinearGaussian(
        encode,
        precision**-0.5,
        decode=weight,
        noise=noise,
        encode_y=centre / precision - decode_y @ encode.T,
        prior_mean=centre,
        decode_y=decode_y,
    )
    covariance = weight @ weight.T + noise**2 * torch.eye(p, dtype=torch.float64)
    exact = MultivariateNormal(decode_y + centre @ weight.T, covariance).log_prob(
        u[:, None]
    )  # (30, 64), under every label
    own = float(exact[torch.arange(30), labels].mean())
    for found in likelihood_by_samples(net, (u, labels), [1, 7, 150]):
        assert abs(found.mean - own) < 1e-9
    assert abs(log_likelihood(net, (u, labels), samples=3).mean - own) < 1e-9
    whole = marginal_log_likelihood(net, u, samples=2)  # which needs no labels
    assert abs(whole.mean - float(exact.logsumexp(1).mean() - math.log(64))) < 1e-9


@pytest.mark.parametrize("counts, message", [([], "not none"), ([0, 5], r"not \[0, 5\]"), ([5, 2], "must rise")])
def test_numbers_of_samples_that_make_no_curve_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        likelihood_by_samples(model(), scribbles(), counts)


class _Counting(CVAE):
    """Notes for how many z its decoder is asked at once."""

    def likelihood(self, z, y=None):
        self.rows.append(z.shape[:-1].numel())
        return super().likelihood(z, y)


def test_no_more_is_decoded_at_once_however_many_samples():
    """Memory does not grow with K: 60 images go 33 samples at a time, 1,980 rows of at most 2,000."""
    net, images = model(_Counting), scribbles()
    net.rows = []
    log_likelihood(net, images, samples=1000)
    class_log_likelihoods(net, images, samples=70)
    assert max(net.rows) == 1980
    net.rows.clear()
    is_y_used(net, images, samples=500)
    assert max(net.rows) == 2000


def test_fewer_are_decoded_at_once_where_each_pixel_has_many_numbers():
    """At most 2^24 numbers, 64 MB: 83 rows of 28 x 28 pixels with 256 levels, so 80 of 4 images."""
    net = model(_Counting, event_shape=(1, 28, 28), likelihood="categorical")
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    net.rows = []
    log_likelihood(net, (images, torch.arange(4) % 3), samples=50)
    assert max(net.rows) == 80 and sum(net.rows) == 200


def test_the_seed_fixes_the_draws():
    net, images = model(pixels="grey"), scribbles()
    one, again, other = (log_likelihood(net, images, samples=2, seed=seed).mean for seed in (3, 3, 4))
    assert one == again != other


def test_binarisation_is_shared_by_models_and_follows_the_seed():
    seen = []
    for net, seed in ((model(), 0), (model(hidden=(9,), num_classes=0), 0), (model(), 1)):
        handle = net.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        log_likelihood(net, scribbles(), samples=7, seed=seed)
        handle.remove()
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert set(seen[0].unique().tolist()) == {0.0, 1.0}


def test_the_columns_of_the_class_table_are_exact_under_every_label():
    net, images = model(pixels="threshold"), scribbles(20)
    table = class_log_likelihoods(net, images, samples=20_000)
    x = images.pixels(mode="threshold")
    for label in range(3):
        exact = exact_log_likelihood(net, x, torch.full((len(x),), label))
        assert (table[:, label] - exact).abs().max() < 0.05
    with pytest.raises(ValueError, match="takes no y"):
        class_log_likelihoods(model(num_classes=0), images)


def test_summing_over_the_labels_gives_the_likelihood_without_them():
    net, images = model(pixels="threshold"), scribbles()
    x, share = images.pixels(mode="threshold"), torch.tensor([0.7, 0.3, 0.0])
    exact = torch.stack([exact_log_likelihood(net, x, torch.full((len(x),), label)) for label in range(3)], 1)
    for frequencies, weights in ((None, torch.full((3,), 1 / 3)), (share, share)):
        found = marginal_log_likelihood(net, images, frequencies=frequencies, samples=3000)
        truth = (exact.exp() * weights).sum(1).log()
        assert (found.per_example - truth).abs().max() < 0.05 and found.mean == pytest.approx(
            float(truth.mean()), abs=0.01
        )
        assert found.standard_error == pytest.approx(float(truth.std()) / math.sqrt(60), rel=0.02)


def test_what_is_no_distribution_over_the_labels_is_refused(as_users_call):
    for wrong in (torch.ones(3), torch.tensor([1.5, -0.5, 0.0]), torch.ones(2) / 2, torch.full((3,), math.nan)):
        with pytest.raises(ValueError, match="3 numbers of at least 0 that sum to 1"):
            marginal_log_likelihood(model(), scribbles(), samples=1, frequencies=wrong)
    with pytest.raises(ValueError, match="takes no y"):
        marginal_log_likelihood(model(num_classes=0), scribbles())


def test_mean_and_standard_error_are_the_textbooks():
    estimate = mean_and_error(torch.tensor([1.0, 2.0, 6.0]))
    assert estimate.mean == 3 and estimate.standard_error == pytest.approx(math.sqrt(7 / 3))
    assert str(estimate) == "3.00 ± 1.53"


def test_no_samples_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        log_likelihood(model(), scribbles(), samples=0)


class _Oracle(Classifier):
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


def test_a_classifier_learns_to_tell_where_the_ink_is():
    labels = torch.arange(400) % 2
    images = torch.zeros(400, 1, 28, 28, dtype=torch.uint8)
    images[labels == 0, :, 4:12, 8:20] = 220
    images[labels == 1, :, 16:24, 8:20] = 220
    data = ImageSet(images, labels, "halves", classes=2)
    trained = train_classifier(data, epochs=4, batch_size=50)
    assert accuracy(trained, data) > 0.97 and not trained.training
    some, floats = data.subset(slice(100)), images[:100] / 255  # the same images, and so the same weights
    one, other = (train_classifier(form, epochs=1, batch_size=50) for form in (some, (floats, labels[:100])))
    torch.testing.assert_close(one.state_dict(), other.state_dict())
    with pytest.raises(ValueError, match="needs a label"):
        train_classifier(images)
    with pytest.raises(ValueError, match=r"images of shape \(1, 28, 28\), and those of .* are \(1, 14, 28\)"):
        train_classifier(dataclasses.replace(data, images=data.images[:, :, ::2]))


def test_a_linear_probe_reads_what_is_linear_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 3, generator=generator)
    linear = (z @ torch.tensor([1.0, -2.0, 0.5]) > 0).long()
    product = (z[:, 0] * z[:, 1] > 0).long()
    assert linear_probe(z[:1000], linear[:1000], z[1000:], linear[1000:]) > 0.97
    assert linear_probe(z[:1000], product[:1000], z[1000:], product[1000:]) < 0.6
    assert linear_probe(z[:1000].double(), linear[:1000], z[1000:].double(), linear[1000:]) > 0.97


def test_posterior_means_are_the_encoders_for_grey_levels():
    net, images = model(), scribbles()
    y = nn.functional.one_hot(images.labels, 3).float()
    expected = net.encoder(images.pixels(), y)[0].detach()
    torch.testing.assert_close(posterior_means(net, images), expected)
    other = net.encoder(images.pixels(), y.flip(0))[0].detach()
    torch.testing.assert_close(posterior_means(net, images, y=images.labels.flip(0)), other)


def test_posterior_means_of_a_model_of_black_and_white_are_for_black_and_white():
    net, images = model(pixels="threshold", num_classes=0), scribbles()
    expected = net.encoder(images.pixels(mode="threshold"), None)[0].detach()
    torch.testing.assert_close(posterior_means(net, images), expected)


def test_the_fast_profile_looks_at_fewer_images(fast_profile):
    assert len(log_likelihood(model(), scribbles(600), samples=100).per_example) == 200
