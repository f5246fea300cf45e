"""Faults that were found by trying, each an instance of a kind: a wrong answer without a word, an unchecked door.

Every test names the kind that has to stay away; the instance is what once went wrong.
"""

import dataclasses
import hashlib
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import (
    AffineTransform,
    Categorical,
    Cauchy,
    Distribution,
    Gumbel,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
    Uniform,
)

from cvae_lib import CVAE, CVAEConfig, ImageSet, course, data, elbo_terms, environment, fit, importance_weighted_bound
from cvae_lib.course.checks import check
from cvae_lib.likelihoods import BernoulliPixels, CategoricalPixels, GaussianPixels, LogisticPixels
from cvae_lib.networks import ConvolutionalDecoder, ConvolutionalEncoder, MLPDecoder, MLPEncoder
from cvae_lib.priors import ConditionalGaussian, ConditionalMixture, tempered_sample

SMALL = {"num_classes": 3, "latent_dim": 2, "hidden": (8,), "event_shape": (1, 4, 4)}
LIKELIHOODS = ("bernoulli", "gaussian", "gaussian_per_pixel", "logistic", "categorical")
Y = torch.tensor([0, 2, 1])


def model(**changes: object) -> CVAE:
    torch.manual_seed(0)
    return CVAE(CVAEConfig(**{**SMALL, **changes})).eval()


def raises(match: str, call: Callable[[], object]) -> None:
    """Expect a ValueError whose message is one sentence."""
    with pytest.raises(ValueError, match=match) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and ". " not in message.replace("...", ""), message


# --- a default that silently means something else ------------------------------------------------------------------


@pytest.mark.usefixtures("full_profile")
@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_per_pixel", "logistic"])
def test_a_grey_picture_is_learned_as_grey_and_not_as_coin_flips(likelihood):
    grey = ImageSet(torch.full((64, 1, 4, 4), 128, dtype=torch.uint8), torch.zeros(64).long(), "grey")
    net = model(num_classes=0, likelihood=likelihood)
    fit(net, grey, steps=120, batch_size=64, learning_rate=0.05, log_every=1000, device="cpu")
    p = net.likelihood(net.prior(batch=500).sample())
    assert (p.mean - 128 / 255).abs().mean() < 0.01
    assert p.sample().std() < 0.1  # coin flips have 0.5, and a Gaussian of them learns a scale near 0.3


def test_a_likelihood_says_once_how_stored_images_become_x():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    for likelihood in LIKELIHOODS[1:]:
        assert torch.equal(model(likelihood=likelihood).prepare(levels), levels / 255)
    binary = model()
    assert set(binary.prepare(levels).unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(binary.prepare(levels), binary.prepare(levels)), "drawn anew each time"
    assert torch.equal(model(pixels="grey").prepare(levels), levels / 255)
    assert torch.equal(model(pixels="threshold").prepare(levels), (levels >= 128).float())
    raises("pixels belongs to the bernoulli likelihood", lambda: model(likelihood="gaussian", pixels="threshold"))


def test_settings_that_are_changed_leave_nothing_stale_behind():
    convolutional = dataclasses.replace(CVAEConfig(), network="convolutional")
    fresh = CVAE(CVAEConfig(network="convolutional"))
    assert convolutional == CVAEConfig(network="convolutional") and convolutional.widths == (24, 48)
    assert CVAE(convolutional).num_parameters() == fresh.num_parameters() < 1_000_000
    caption = CVAEConfig(condition="caption", words=("a", "seven"), caption_length=2, hidden=(8,))
    label = CVAE(dataclasses.replace(caption, condition="label"))
    assert label.is_conditional and label.num_classes == label.condition.dim == 10
    assert label.draw([7]).shape == (1, 1, 28, 28)
    assert CVAE(caption).num_classes == 0


def test_half_a_config_is_not_ignored(as_users_call):
    raises(
        "A config says what decoder, prior and likelihood are", lambda: CVAE(CVAEConfig(), likelihood=GaussianPixels())
    )
    raises("Unknown model settings: how", lambda: CVAEConfig.from_dict({"how": "film"}))


# --- a type that stands for more than the code handles -------------------------------------------------------------


def student(t: torch.Tensor) -> torch.Tensor:
    """The distribution function of Student's t with 3 degrees of freedom, in closed form."""
    u = t / math.sqrt(3)
    return 0.5 + (u / (1 + u**2) + u.atan()) / math.pi


def at_least_zero(cdf: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda t: torch.where(t <= 0, 0.0, cdf(t.clamp_min(1e-9)))


N = 20_000
# Distributions of two independent entries, and the distribution function of each entry in closed form.
OWN: dict[str, tuple[Callable[[int], Distribution], Callable[[torch.Tensor], torch.Tensor]]] = {
    "StudentT": (lambda n: Independent(StudentT(3.0, torch.zeros(n, 2)), 1), student),
    "Laplace": (lambda n: Independent(Laplace(torch.ones(n, 2), 2.0), 1), Laplace(1.0, 2.0).cdf),
    "Uniform": (lambda n: Independent(Uniform(torch.zeros(n, 2), 3.0), 1), lambda t: (t / 3).clamp(0, 1)),
    "LogNormal": (
        lambda n: Independent(LogNormal(torch.zeros(n, 2), 1.0), 1),
        at_least_zero(lambda t: Normal(0.0, 1.0).cdf(t.log())),
    ),
    "Gumbel": (lambda n: Independent(Gumbel(torch.zeros(n, 2), 1.0), 1), lambda t: (-(-t).exp()).exp()),
    "Cauchy": (lambda n: Independent(Cauchy(torch.zeros(n, 2), 1.0), 1), Cauchy(0.0, 1.0).cdf),
    "a mixture of StudentT": (
        lambda n: MixtureSameFamily(
            Categorical(torch.tensor([0.3, 0.7]).expand(n, 2)),
            Independent(StudentT(3.0, torch.tensor([[-4.0, -4.0], [4.0, 4.0]]).expand(n, 2, 2)), 1),
        ),
        lambda t: 0.3 * student(t + 4) + 0.7 * student(t - 4),
    ),
    "a flow": (
        lambda n: TransformedDistribution(Independent(Laplace(torch.zeros(n, 2), 1.0), 1), AffineTransform(1.0, 2.0)),
        Laplace(1.0, 2.0).cdf,
    ),
    "a Normal of one's own": (
        lambda n: Independent(Folded(torch.zeros(n, 2), 1.0), 1),
        at_least_zero(lambda t: torch.erf(t / 2**0.5)),
    ),
}


class Folded(Normal):
    """A subclass of Normal that draws in a way of its own: the half normal."""

    def rsample(self, sample_shape=()):
        return super().rsample(torch.Size(sample_shape)).abs()

    def sample(self, sample_shape=()):
        return super().sample(torch.Size(sample_shape)).abs()


class Prior(nn.Module):
    """Somebody's own prior."""

    def __init__(self, make: Callable[[int], Distribution]) -> None:
        super().__init__()
        self.make = make

    def forward(self, c: object, batch: int) -> Distribution:
        return self.make(batch)


class ThroughAndThrough(nn.Module):
    """A decoder that returns z, so that a drawing shows it."""

    reads_condition = False

    def forward(self, z: torch.Tensor, c: object) -> torch.Tensor:
        return z


def showing(make: Callable[[int], Distribution]) -> CVAE:
    """Return a model whose mean of p(x|z) is z."""
    likelihood = GaussianPixels(link="identity", event_dims=1)
    return CVAE(MLPEncoder((2,), (4,), 2), ThroughAndThrough(), prior=Prior(make), likelihood=likelihood)


@pytest.mark.parametrize("name", OWN)
def test_a_prior_of_ones_own_is_drawn_from_and_not_a_gaussian_like_it(name):
    make, cdf = OWN[name]
    net = showing(make)
    probabilities = torch.tensor([0.005, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.995])
    grid = torch.linspace(-200, 200, 400_001)
    at = grid[torch.searchsorted(cdf(grid), probabilities)]  # quantiles, to a thousandth
    for z in (net.draw(count=N), tempered_sample(make(N), generator=torch.Generator().manual_seed(1))):
        assert z.shape == (N, 2)
        for column in z.unbind(1):
            below = (column[:, None] <= at).double().mean(0)  # (quantiles,)
            error = (probabilities * (1 - probabilities) / N).sqrt()
            assert ((below - probabilities).abs() < 4.5 * error + 0.001).all()  # a density is at most 1


def test_a_prior_with_correlations_keeps_them():
    covariance = torch.tensor([[2.0, 1.2], [1.2, 1.0]])
    mean = torch.tensor([1.0, -3.0])
    z = showing(lambda n: MultivariateNormal(mean.expand(n, 2), covariance)).draw(count=N)
    assert ((z.mean(0) - mean) / (covariance.diagonal() / N).sqrt()).abs().max() < 4
    spread = covariance.diagonal()
    error = ((covariance**2 + spread[:, None] * spread) / N).sqrt()
    assert ((torch.cov(z.T) - covariance) / error).abs().max() < 4.5


@pytest.mark.parametrize("name", OWN)
def test_draws_of_an_own_prior_repeat_with_a_generator_and_leave_the_global_stream_alone(name):
    net, before = showing(OWN[name][0]), torch.get_rng_state()

    def drawn(seed: int) -> torch.Tensor:
        return net.draw(count=5, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    assert torch.equal(torch.get_rng_state(), before)
    generator = torch.Generator().manual_seed(1)
    assert not torch.equal(net.draw(count=5, generator=generator), net.draw(count=5, generator=generator))


@pytest.mark.parametrize("name", [*OWN, "MultivariateNormal"])
def test_a_temperature_is_refused_where_there_is_no_standard_deviation_to_scale(name):
    make = OWN[name][0] if name in OWN else lambda n: MultivariateNormal(torch.zeros(n, 2), torch.eye(2))
    raises("A temperature scales Gaussians, and this prior gives", lambda: showing(make).draw(count=3, temperature=0.5))


@pytest.mark.parametrize("prior", ["gaussian", "mixture"])
def test_the_librarys_own_priors_still_obey_a_temperature(prior):
    net = model(prior=prior, components=3)
    y = torch.zeros(4000, dtype=torch.int64)
    wide, narrow = (tempered_sample(net.prior(y), t, torch.Generator().manual_seed(0)) for t in (1.0, 0.25))
    scale = net.prior(y[:1]).component_distribution.stddev[0] if prior == "mixture" else net.prior(y[:1]).stddev
    between = net.prior(y[:1]).component_distribution.mean[0].var(0, correction=0) if prior == "mixture" else 0.0
    for z, t in ((wide, 1.0), (narrow, 0.25)):
        expected = (between + (t * scale).square().mean(0)).sqrt()
        torch.testing.assert_close(z.std(0), expected, atol=0.05, rtol=0)


# --- inputs checked at some doors only -----------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("wrong", ["bytes as floats", "normalised", "NaN"])
def test_pixels_outside_the_unit_interval_are_refused_by_every_objective(likelihood, wrong):
    net, x = model(likelihood=likelihood), torch.rand(3, 1, 4, 4)
    x = {
        "bytes as floats": 255 * x,
        "normalised": (x - 0.1307) / 0.3081,
        "NaN": x.masked_fill(x == x[0, 0, 0, 0], math.nan),
    }[wrong]
    for call in (
        lambda: elbo_terms(net, x, Y),
        lambda: importance_weighted_bound(net, x, Y, 5),
        lambda: net(x, Y).likelihood.log_prob(x),
    ):
        raises(r"(Pixels|Grey levels) must lie in \[0, 1\], but run from .* look for NaN", call)
    mask = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    assert elbo_terms(net, x, Y, mask=mask).log_likelihood.tolist() == [0, 0, 0], "what is hidden may be anything"
    mask[:, :, 1:] = True
    if wrong != "NaN":
        raises(r"must lie in \[0, 1\]", lambda: elbo_terms(net, x, Y, mask=mask))


def test_real_numbers_of_any_size_are_taken_by_the_likelihood_that_is_for_them():
    net, x = model(likelihood="real"), 350 + 10 * torch.randn(3, 1, 4, 4)
    assert elbo_terms(net, x, Y).elbo.isfinite().all()
    raises("uint8 grey levels or floats", lambda: model().prepare(torch.ones(3, 1, 4, 4, dtype=torch.int64)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_images_of_another_precision_are_taken(dtype, likelihood):
    net = model(network="convolutional" if likelihood == "gaussian" else "mlp", likelihood=likelihood)
    grey = (255 * torch.rand(3, 1, 4, 4)).round() / 255
    x = (grey >= 0.5).float() if likelihood == "bernoulli" else grey
    found = []
    for values in (x, x.to(dtype)):
        torch.manual_seed(1)
        found.append(elbo_terms(net, values, Y).elbo.float())
    torch.testing.assert_close(*found, rtol=0.05, atol=0.5)  # bfloat16 keeps three digits of a pixel
    assert net.posterior(x.to(dtype), Y).mean.dtype == torch.float32
    assert net.reconstruct(x.to(dtype), Y).dtype == torch.float32


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("network", ["mlp", "convolutional"])
def test_images_of_two_and_four_channels_are_images(channels, network):
    net = model(event_shape=(channels, 8, 8), network=network, likelihood="gaussian")
    images = ImageSet(torch.randint(0, 256, (6, channels, 8, 8)).byte(), torch.arange(6) % 3, "more")
    history = fit(net, images, steps=2, device="cpu")
    assert math.isfinite(history.loss[-1])
    assert net.draw([0, 1]).shape == (2, channels, 8, 8)


def test_arrays_of_numpy_are_images_and_labels(as_users_call):
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (6, 1, 4, 4), dtype=np.uint8)
    for labels in (np.arange(6) % 3, (np.arange(6) % 3).astype(np.int32), [0, 1, 2, 0, 1, 2]):
        images = ImageSet(pictures, labels, "of numpy")
        assert torch.equal(images.images, torch.from_numpy(pictures)) and images.labels.tolist() == [0, 1, 2, 0, 1, 2]
    more = {"attributes": {"slant": np.zeros(6)}, "masks": pictures > 100}
    assert ImageSet(pictures, labels, "of numpy", **more).subset([1, 2]).attributes["slant"].shape == (2,)
    net = model()
    fit(net, images, steps=2, device="cpu")
    fit(net, (pictures, np.arange(6) % 3), steps=2, device="cpu")
    fit(net, (pictures, torch.arange(6) % 3), steps=2, device="cpu")
    assert torch.equal(net.draw(np.array([0, 2])), net.draw(torch.tensor([0, 2]))) is False  # two draws, both taken
    raises(
        "images must be uint8 of shape .n, c, h, w., not torch.float64",
        lambda: ImageSet(pictures / 255, np.arange(6), "x"),
    )


@pytest.mark.parametrize("y", [2, [2], np.array([2]), np.int64(2), torch.tensor(2), torch.tensor([2])], ids=repr)
def test_a_label_may_be_a_number_a_list_or_an_array(y):
    net = model()

    def drawn(y: object, **how: int) -> torch.Tensor:
        return net.draw(y, generator=torch.Generator().manual_seed(0), **how)

    assert torch.equal(drawn(y), drawn(torch.tensor([2])))
    assert torch.equal(drawn(y, count=4), drawn(torch.tensor([2, 2, 2, 2])))
    many = {"list": [2, 0], "range": range(2, 4), "array": np.array([2, 0])}
    assert [drawn(many[name]).shape[0] for name in ("list", "array")] == [2, 2]
    with pytest.raises(ValueError, match="run from 2 to 3"):
        drawn(many["range"])


def test_attributes_may_be_lists_of_lists():
    net = model(condition="attributes", attributes=("slant", "size"))
    torch.manual_seed(0)
    one = net.draw([[0.1, 0.2], [0.3, math.nan]])
    torch.manual_seed(0)
    torch.testing.assert_close(one, net.draw(torch.tensor([[0.1, 0.2], [0.3, math.nan]])))


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"hidden": 64}, r"hidden must be whole numbers of at least 1, such as \(64, 64\), not 64"),
        ({"hidden": (0,)}, r"hidden must be .* not \(0,\)"),
        ({"hidden": (8, -1)}, r"hidden must be .* not \(8, -1\)"),
        ({"hidden": (8.0,)}, "hidden must be"),
        ({"latent_dim": -1}, "latent_dim must be a whole number of at least 1, not -1"),
        ({"latent_dim": 0}, "latent_dim must be"),
        ({"latent_dim": 2.5}, "latent_dim must be"),
        ({"num_classes": -3}, "num_classes must be a whole number of at least 0, not -3"),
        ({"event_shape": 28}, "event_shape must be"),
        ({"event_shape": (1, 0, 28)}, "event_shape must be"),
        ({"event_shape": ()}, "event_shape must have at least one axis"),
        ({"condition": None}, "condition is a name, such as 'label' or 'none', not None"),
        ({"condition": "attributes", "attributes": "slant"}, "at least one name, and each its own, not 'slant'"),
        ({"condition": "caption", "words": "a seven"}, "not a single string: 'a seven'"),
        ({"components": 0, "prior": "mixture"}, "components must be"),
        ({"levels": 1, "likelihood": "logistic"}, "levels must be a whole number of at least 2"),
        ({"dropout": math.nan}, "dropout is a probability"),
        ({"dropout": 1.0}, "dropout is a probability"),
        ({"condition": "observed", "event_shape": (5,)}, r"an image \(channels, H, W\), not \(5,\)"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_sentence(settings, sentence, as_users_call):
    raises(sentence, lambda: model(**settings))


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: MLPEncoder((1, 4, 4), 64, 2), "hidden must be"),
        (lambda: MLPEncoder((1, 4, 4), (0,), 2), "hidden must be"),
        (lambda: MLPEncoder((1, 4, 4), (8,), -1), "latent_dim must be"),
        (lambda: MLPDecoder(0, (8,), (1, 4, 4)), "latent_dim must be"),
        (lambda: MLPDecoder(2, (8,), 16), "event_shape must be"),
        (lambda: ConvolutionalEncoder((1, 4, 4), 8, 2), "hidden must be"),
        (lambda: ConvolutionalDecoder(-2, (8,), (1, 4, 4)), "latent_dim must be"),
        (lambda: ConvolutionalEncoder((3, 30, 30), (8,), 2), r"divisible by 4, and \(3, 30, 30\) is no such"),
        (lambda: ConditionalGaussian(-1), "latent_dim must be"),
        (lambda: ConditionalMixture(2, hidden=0), "hidden must be"),
        (lambda: BernoulliPixels("gray"), "'grey', 'stochastic' or 'threshold', not 'gray'"),
        (lambda: CategoricalPixels(1), "at least 2 grey levels"),
        (lambda: LogisticPixels(0), "at least 2 grey levels"),
    ],
)
def test_widths_out_of_range_are_refused_by_the_parts_themselves(make, sentence, as_users_call):
    raises(sentence, make)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"y": 2, "count": -1}, "count must be a whole number of at least 1, not -1"),
        ({"y": 2, "count": 0}, "count must be"),
        ({"y": 2, "count": 2.0}, "count must be"),
        ({"y": 2, "count": True}, "count must be"),
        ({"y": 2, "temperature": math.nan}, "temperature must be a finite number of at least 0, not nan"),
        ({"y": 2, "temperature": math.inf}, "temperature must be"),
        ({"y": 2, "temperature": -0.5}, "temperature must be"),
        ({"y": [0, 1], "count": 5}, "y is for 2 examples, but x or z has 5"),
        ({}, "Say how many"),
        ({"count": 3}, "conditional: pass y"),
        ({"y": 3}, r"0\.\.2"),
        ({"y": [0.5]}, "int64"),
        ({"y": "seven"}, "int64 .* not str"),
    ],
)
def test_a_drawing_that_makes_no_sense_is_refused_in_one_sentence(arguments, sentence, as_users_call):
    raises(sentence, lambda: model().draw(**arguments))


def test_what_no_objective_can_use_is_refused_in_one_sentence(as_users_call):
    net, x = model(), torch.rand(3, 1, 4, 4)
    raises("x must be a tensor, not ndarray; torch.as_tensor", lambda: net.posterior(x.numpy(), Y))
    raises("The encoder expects floats, not torch.uint8", lambda: elbo_terms(net, (255 * x).byte(), Y))
    raises(r"x of shape \(B, 1, 4, 4\), not \(1, 4, 4\)", lambda: net.posterior(x[0], Y[:1]))
    raises("a whole number of them, not 2.5", lambda: elbo_terms(net, x, Y, samples=2.5))
    raises("At least 1 sample", lambda: importance_weighted_bound(net, x, Y, -1))
    raises("y is for 2 examples, but x or z has 3", lambda: elbo_terms(net, x, [0, 1]))
    assert elbo_terms(net, x, [0, 2, 1]).elbo.shape == elbo_terms(net, x, Y.numpy()).elbo.shape == (3,)


def test_settings_may_be_lists_and_are_the_same_settings(as_users_call):
    config = CVAEConfig(event_shape=[1, 4, 4], hidden=[8], condition_at=[0])
    assert config == CVAEConfig(event_shape=(1, 4, 4), hidden=(8,), condition_at=(0,)) and hash(config)
    assert CVAE(config).draw(3).shape == (1, 1, 4, 4)


def test_a_vae_takes_no_y():
    vae = model(num_classes=0)
    raises("takes no y", lambda: vae.draw(3))
    raises("takes no y", lambda: vae.draw(torch.tensor([1, 2]), count=2))
    assert vae.draw(count=2).shape == (2, 1, 4, 4)


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
@pytest.mark.parametrize(
    "network, prior, likelihood",
    [
        ("mlp", "standard", "bernoulli"),
        ("mlp", "gaussian", "categorical"),
        ("mlp", "mixture", "logistic"),
        ("convolutional", "vamp", "gaussian"),
    ],
)
def test_a_model_of_another_precision_scores_draws_and_learns(cast, network, prior, likelihood):
    net = model(network=network, prior=prior, likelihood=likelihood, components=3, levels=8)
    whole, x = net.double(), (torch.rand(3, 1, 4, 4) > 0.5).double()
    torch.manual_seed(1)
    exact = elbo_terms(whole, x, Y, samples=50).elbo
    net = getattr(net, cast)()
    torch.manual_seed(1)
    terms = elbo_terms(net, net.prepare((255 * x).byte()), Y, samples=50)
    assert terms.elbo.dtype == (torch.float64 if cast == "double" else torch.float32)
    # bfloat16 has three digits; samples of different precisions are other samples
    torch.testing.assert_close(terms.elbo.double(), exact, rtol=0.1, atol=1.5)
    terms.loss().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.draw([0, 1]).isfinite().all() and net(x, Y).z.isfinite().all()


# --- tensors made without device or dtype --------------------------------------------------------------------------


def test_another_default_device_changes_nothing_for_a_model_that_is_on_the_cpu():
    net, x = model(prior="mixture", likelihood="logistic"), torch.rand(3, 1, 4, 4)
    with torch.device("meta"):
        assert elbo_terms(net, x, Y).elbo.isfinite().all()
        assert importance_weighted_bound(net, x, Y, 3).isfinite().all()
        assert net.draw([0, 1]).isfinite().all() and net.draw(2, sample=True).isfinite().all()
        assert model().condition is not None
        images = data.strokes("test", count=8)
        assert next(iter(images.batches(4))).x.sum() > 0
        assert data.faces("test", count=4).images.sum() > 0
        assert data.forks("test", count=4).windows.isfinite().all()


def test_another_default_dtype_changes_nothing_for_a_model_in_float32():
    script = """
import torch
from test_never_silently_wrong import digest
from cvae_lib import CVAE, CVAEConfig, data, elbo_terms, pretrained
torch.manual_seed(0)
settings = {"num_classes": 3, "latent_dim": 2, "hidden": (8,), "event_shape": (1, 4, 4)}
net = CVAE(CVAEConfig(**settings, prior="mixture", likelihood="logistic"))
torch.set_default_dtype(torch.float64)
x, y = torch.rand(3, 1, 4, 4, dtype=torch.float32), torch.tensor([0, 1, 2])
assert elbo_terms(net, x, y).elbo.dtype == torch.float32
assert net.draw([0, 1]).dtype == net.draw(2, sample=True).dtype == torch.float32
assert net.prepare((255 * x).byte()).dtype == torch.float32
bundled, classifier = pretrained.load_cvae(), pretrained.load_classifier()
for part in (bundled, classifier):
    assert {tensor.dtype for tensor in part.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
assert classifier(bundled.draw(7)).dtype == torch.float32
for images in data.strokes("test", count=10), data.faces("test", count=5):
    print(digest(images))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [digest(data.strokes("test", count=10)), digest(data.faces("test", count=5))]


def digest(images: ImageSet) -> str:
    """Return a checksum of the images, and of what is known about them."""
    values = [images.images, *images.attributes.values()]
    return hashlib.sha256(b"".join(value.contiguous().numpy().tobytes() for value in values)).hexdigest()


# --- private or newer names of torch -------------------------------------------------------------------------------


def test_a_torch_without_the_private_names_is_a_torch_without_the_feature(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert environment.has_native_bf16(torch.device("cpu")) is False
    assert math.isfinite(fit(model(), (torch.rand(6, 1, 4, 4), torch.arange(6) % 3), steps=2, device="cpu").loss[-1])
    assert "Python" in str(course.report())


# --- a fallback that foresees too few exceptions -------------------------------------------------------------------


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and a user id that no list of users knows, as in containers and batch jobs."""

    def unknown(_: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    pwd = pytest.importorskip("pwd")
    for name in ("HOME", "XDG_CACHE_HOME", "CVAE_DATA", "COURSE_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("nobody")
def test_a_user_without_a_home_can_work(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("CVAE_OFFLINE", "1")
    monkeypatch.setattr(environment.settings, "dataset", 20)
    assert environment.cache_folder() == environment.data_root() == tmp_path / "cvae_lib"
    assert data.digits("test").name == "strokes"
    assert "built-in strokes" in capsys.readouterr().out
    assert str(course.report())
    check("1.1", None)
    assert "1.1" in capsys.readouterr().out, "the verdict is printed whether or not it can be kept"


@pytest.mark.usefixtures("nobody")
def test_a_home_that_is_asked_for_and_does_not_exist_is_named(monkeypatch):
    monkeypatch.setenv("CVAE_DATA", "~/data")
    raises("no home folder.*CVAE_DATA", environment.data_root)
    raises("no home folder", lambda: environment.data_root("~/data"))


BROKEN = {
    "OSError": "raise OSError('libcudart.so.13: cannot open shared object file')",
    "TypeError": "raise TypeError('register_fake() got an unexpected keyword argument')",
    "RuntimeError": "raise RuntimeError('operator torchvision::nms does not exist')",
    "AttributeError": "raise AttributeError('partially initialized module has no attribute extension')",
    "ImportError": "raise ImportError('cannot import name _C')",
    "SyntaxError": "this is no Python",
    "first one, then another": (
        "import sys\n"
        "calls = sys.__dict__.setdefault('_times_torchvision_failed', [])\n"
        "calls.append(1)\n"
        "raise RuntimeError('operator does not exist') if len(calls) == 1 else AttributeError('partially initialized')"
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_torchvision_that_cannot_be_imported_is_a_data_set_that_cannot_be_had(how, monkeypatch, tmp_path, capsys):
    package = tmp_path / "packages" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(BROKEN[how])
    monkeypatch.syspath_prepend(package.parent)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(environment.settings, "dataset", 20)
    root = tmp_path / "data"
    for split in ("train", "test", "train"):
        assert data.digits(split, root=root).name == "strokes"
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and "torchvision cannot be imported" in printed and "pip install" in printed
    for load in (data.mnist, data.fashion_mnist):
        with pytest.raises(data.DataUnavailable, match="torchvision cannot be imported"):
            load(root=root)
    with pytest.raises(data.DataUnavailable, match=r"use the built-in faces\(\)"):
        data.celeba(root=root)
    assert not Path(root).exists(), "nothing is begun that cannot be finished"
