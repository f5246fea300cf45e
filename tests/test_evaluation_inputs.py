"""What evaluation does with the model and the data it is given: modes, precision, forms of data, refusals."""

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from linear_gaussian import LinearGaussian
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal
from torch.utils.data import DataLoader, Dataset, TensorDataset

from cvae_lib import evaluation
from cvae_lib.data import ImageSet
from cvae_lib.evaluation import log_likelihood, marginal_log_likelihood, mean_and_error
from cvae_lib.likelihoods import GaussianPixels, LogisticPixels
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms
from cvae_lib.priors import StandardNormal

pytestmark = pytest.mark.usefixtures("full_profile")


def model(**changes: object) -> CVAE:
    torch.manual_seed(0)
    return CVAE(CVAEConfig(**{"num_classes": 3, "latent_dim": 2, "hidden": (8,), "event_shape": (1, 4, 3), **changes}))


def scribbles(count: int = 60, shape: tuple[int, ...] = (1, 4, 3)) -> ImageSet:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(count) % 3, "scribbles", classes=3)


# --- the model is left as it was found ------------------------------------------------------------------------


class Drawing(nn.Module):
    """Asks a model for labels, given as numbers."""

    def __init__(self, drawn: CVAE) -> None:
        super().__init__()
        self.drawn = drawn

    def forward(self, asked: torch.Tensor) -> torch.Tensor:
        return self.drawn.draw(asked.long(), generator=torch.Generator().manual_seed(0))


class Scene:
    """A model in the midst of training, with its encoder frozen in evaluation mode, and a classifier likewise."""

    def __init__(self) -> None:
        self.model = model(event_shape=(1, 28, 28), dropout=0.5).train()
        self.model.encoder.eval()
        torch.manual_seed(0)
        self.classifier = evaluation.Classifier(3).train()
        self.classifier.net[1].eval()
        self.features = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(784, 4)).train()
        self.data = scribbles(30, (1, 28, 28))
        self.judged = (self.model, self.classifier, self.features)

    def modes(self) -> list[bool]:
        return [part.training for judged in self.judged for part in judged.modules()]


PIXELS = torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 2

CALLS: dict[str, Callable[[Scene], Any]] = {
    "accuracy": lambda s: evaluation.accuracy(s.classifier, s.data),
    "active_units": lambda s: evaluation.active_units(s.model, s.data),
    "class_log_likelihoods": lambda s: evaluation.class_log_likelihoods(s.model, s.data, samples=2),
    "collapse_report": lambda s: evaluation.collapse_report(s.model, s.data, samples=2),
    "control_accuracy": lambda s: evaluation.control_accuracy(s.model, s.classifier, count=30),
    "control_calibration": lambda s: evaluation.control_calibration(
        Drawing(s.model), nn.Sequential(s.features, nn.AvgPool1d(4), nn.Flatten(0)), torch.arange(30.0) % 3
    ),
    "diversity": lambda s: evaluation.diversity(s.model, s.data, count=30, features=s.features),
    "is_y_used": lambda s: evaluation.is_y_used(s.model, s.data, samples=2),
    "is_z_used": lambda s: evaluation.is_z_used(s.model, s.data),
    "likelihood_by_samples": lambda s: evaluation.likelihood_by_samples(s.model, s.data, [1, 2]),
    "log_likelihood": lambda s: evaluation.log_likelihood(s.model, s.data, samples=2),
    "marginal_log_likelihood": lambda s: evaluation.marginal_log_likelihood(s.model, s.data, samples=2),
    "mean_pairwise_distance": lambda s: evaluation.mean_pairwise_distance(PIXELS, features=s.features),
    "mutual_information": lambda s: evaluation.mutual_information(s.model, s.data),
    "posterior_means": lambda s: evaluation.posterior_means(s.model, s.data),
    "rate_distortion": lambda s: evaluation.rate_distortion(s.model, s.data),
    "relative_diversity": lambda s: evaluation.relative_diversity(PIXELS, LABELS, PIXELS, LABELS, features=s.features),
}
NETWORKS = {"model", "classifier", "features", "draw", "measure"}  # parameters that can be a network


def test_every_public_function_that_takes_a_network_is_in_the_table():
    functions = {name: getattr(evaluation, name) for name in evaluation.__all__}
    functions = {name: found for name, found in functions.items() if inspect.isfunction(found)}
    assert CALLS.keys() == {n for n, f in functions.items() if NETWORKS & set(inspect.signature(f).parameters)}


@pytest.mark.parametrize("name", CALLS)
def test_modes_gradients_and_random_numbers_are_left_as_they_were(name):
    scene = Scene()
    modes, state = scene.modes(), torch.get_rng_state()
    CALLS[name](scene)
    assert scene.modes() == modes and True in modes and False in modes
    assert torch.is_grad_enabled() and torch.equal(state, torch.get_rng_state())
    assert all(p.requires_grad and p.grad is None for judged in scene.judged for p in judged.parameters())


@pytest.mark.parametrize("name", CALLS)
def test_the_result_is_that_of_evaluation_mode(name):
    """Nothing is dropped out, and batch norm keeps its statistics, whatever the mode the network is found in."""
    scene, calm = Scene(), Scene()
    for judged in calm.judged:
        judged.eval()
    weights = copy.deepcopy(scene.classifier.state_dict())
    first, second = CALLS[name](scene), CALLS[name](calm)
    assert str(first) == str(second)
    torch.testing.assert_close(scene.classifier.state_dict(), weights)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("which", ["the model", "the classifier", "the features"])
def test_modes_are_left_as_they_were_when_a_network_fails(name, which):
    scene = Scene()
    networks = dict(zip(["the model", "the classifier", "the features"], scene.judged, strict=True))
    calls = []

    def fail(*_):
        calls.append(1)
        raise RuntimeError(f"{which} failed")

    for part in networks[which].modules():
        if isinstance(part, nn.Linear):
            part.register_forward_hook(fail)
    modes = scene.modes()
    try:
        CALLS[name](scene)
        assert not calls  # this function has no use for that network
    except RuntimeError as error:
        assert str(error) == f"{which} failed"
    assert scene.modes() == modes and torch.is_grad_enabled()


def test_reading_leaves_a_classifier_in_its_mode():
    scene = Scene()
    modes = scene.modes()
    assert scene.classifier.read(PIXELS).shape == (20,) and scene.modes() == modes


# --- precision ------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """A linear map whose second output is a constant: an encoder with one variance, so that products can be rounded."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, second: torch.Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(weight.shape[1], weight.shape[0])
        self.layer.load_state_dict({"weight": weight, "bias": bias})
        self.second = nn.Parameter(second.float())

    def forward(self, x: torch.Tensor, c: None) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self.layer(x.flatten(1))
        return mean, self.second.expand_as(mean)


class LinearDecoder(Linear):
    """The same with both outputs along the first axis of the event, for a likelihood with two numbers per entry."""

    def forward(self, z: torch.Tensor, c: None) -> torch.Tensor:
        return torch.cat(super().forward(z, c), 1)


def near_350() -> tuple[CVAE, torch.Tensor, torch.Tensor]:
    """Series of 24 numbers near 350, a model whose q is the exact posterior, and log p(x) in closed form."""
    generator = torch.Generator().manual_seed(0)
    noise, columns = 0.5, torch.randn(24, 2, generator=generator).double()
    weight = torch.linalg.qr(columns).Q * torch.tensor([6.0, 3.0])  # at right angles, so the posterior factorises
    x = 350 + torch.randn(200, 2, generator=generator).double() @ weight.T
    x = x + noise * torch.randn(200, 24, generator=generator).double()
    variance = 1 / (1 + weight.square().sum(0) / noise**2)
    gain = variance[:, None] * weight.T / noise**2
    raw = 10 * math.atanh(2 * math.log(noise) / 10) + 3  # a raw 0 stands for a log-variance of about -3
    net = CVAE(
        Linear(gain, -350 * gain.sum(1), variance.log()),
        LinearDecoder(weight, torch.full((24,), 350.0), torch.full((24,), raw)),
        prior=StandardNormal(2),
        likelihood=GaussianPixels("pixel", "identity", event_dims=1),
    )
    covariance = weight @ weight.T + noise**2 * torch.eye(24)
    return net, x, MultivariateNormal(torch.full((24,), 350.0).double(), covariance).log_prob(x)


def sharp_logistic() -> tuple[CVAE, torch.Tensor, torch.Tensor]:
    """Images of 8x8 entries under a logistic narrower than a grey level, one latent, and log p(x) by integration."""
    generator = torch.Generator().manual_seed(0)
    weight = 1.2 * torch.rand(64, 1, generator=generator).double() - 0.6
    clean = 0.5 + (3 * torch.rand(60, 1, generator=generator).double() - 1.5) @ weight.T / 2
    x = (255 * (clean + 0.003 * torch.randn(60, 64, generator=generator))).round() / 255
    gain = (2 * weight / weight.square().sum()).T  # least squares
    log_scale = -6.5
    raw = 10 * math.atanh(2 * (log_scale + 3) / 10)
    precision = 1 + float((weight / 2).square().sum()) / (3 * math.exp(2 * log_scale))  # Fisher's is 1 / 3s^2
    net = CVAE(
        Linear(gain, -0.5 * gain.sum(1), torch.full((1,), math.log(1.5 / precision))),  # rather wide than narrow
        LinearDecoder(weight, torch.zeros(64), torch.full((64,), raw)),
        prior=StandardNormal(1),
        likelihood=LogisticPixels(event_dims=1),
    )
    wide = copy.deepcopy(net).double()
    with torch.no_grad():
        q = wide.posterior(x)
        steps = torch.linspace(-15, 15, 1501).double()[:, None, None]
        z = q.mean + steps * q.stddev  # (1501, 60, 1)
        joint = wide.likelihood(z).log_prob(x) + wide.prior(batch=60).log_prob(z)
        return net, x, joint.logsumexp(0) + (0.02 * q.stddev[:, 0]).log()


@pytest.mark.parametrize("make", [near_350, sharp_logistic])
def test_a_likelihood_that_needs_its_digits_is_that_of_float64_and_not_below_the_elbo(make):
    net, x, exact = make()
    found = log_likelihood(net, x, samples=300)
    double = log_likelihood(copy.deepcopy(net).double(), x, samples=300)
    assert double.mean == pytest.approx(float(exact.mean()), abs=0.02)  # the estimator is right
    assert found.mean == pytest.approx(float(exact.mean()), abs=0.02)  # and float32 loses nothing
    with torch.no_grad():
        elbo = mean_and_error(elbo_terms(copy.deepcopy(net).double(), x, samples=100).elbo)
    assert found.mean > elbo.mean - 0.02
    with torch.autocast("cpu", dtype=torch.bfloat16):  # a caller's own does not reach inside
        assert log_likelihood(net, x, samples=300).mean == found.mean
    assert log_likelihood(net, x, samples=300, precision="bf16").mean < elbo.mean - 0.2  # what this is about


def test_the_precision_of_every_likelihood_can_be_chosen():
    net, images = model(), scribbles()
    for estimate in (log_likelihood, marginal_log_likelihood):
        fine, coarse = (estimate(net, images, samples=5, precision=p).mean for p in ("float32", "bf16"))
        assert estimate(net, images, samples=5).mean == fine != coarse


@pytest.mark.usefixtures("as_users_call")
def test_an_unknown_precision_is_named():
    with pytest.raises(ValueError, match="'auto', 'float32' or 'bf16', not 'half'"):
        log_likelihood(model(), scribbles(), samples=5, precision="half")


# --- data in every form ---------------------------------------------------------------------------------------


class Pairs(Dataset):
    """Images with labels, one by one."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[index], self.labels[index]


@pytest.mark.usefixtures("as_users_call")
def test_the_same_data_in_any_form_give_the_same_likelihood():
    net, data = model(pixels="grey"), scribbles()
    x, y = data.images, data.labels
    expected = log_likelihood(net, data, samples=3).per_example
    arrays = x.numpy(), y.numpy()
    floats = x.double() / 255, y  # in float64, which the model is not
    for same in ((x, y), arrays, floats, Pairs(x, y), DataLoader(TensorDataset(x, y), batch_size=7)):
        found = log_likelihood(net, same, samples=3).per_example
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(log_likelihood(net, x, y=y, samples=3).per_example, expected)
    assert not torch.equal(log_likelihood(net, data, y=(y + 1) % 3, samples=3).per_example, expected)
    plain = model(num_classes=0, pixels="grey")
    assert log_likelihood(plain, x, samples=3).mean == log_likelihood(plain, (x, y), samples=3).mean


def test_a_report_on_a_shuffling_loader_has_all_its_figures_in_one_order():
    u = torch.arange(3.0, 23.0).double()[:, None]
    loader = DataLoader(TensorDataset(u), batch_size=7, shuffle=True)
    report = evaluation.collapse_report(LinearGaussian(torch.ones(1, 1).double(), torch.ones(1).double() / 10), loader)
    rates = report.rate.per_example
    assert not torch.equal(rates, rates.sort().values)  # the rate is (u^2 + 0.01 - 1) / 2 + ln 10, so it was shuffled
    torch.testing.assert_close(report.information.rate.per_example, rates, atol=0, rtol=0.2)


def test_a_model_with_three_methods_and_nothing_else_can_be_judged():
    class Plain(LinearGaussian):
        def posterior(self, x, y=None):
            assert x.is_floating_point() and x.min() >= 0 and x.max() <= 1  # bytes become pixels
            return super().posterior(x.double().flatten(1), y)

        def likelihood(self, z, y=None):
            flat = super().likelihood(z, y).base_dist
            return Independent(Normal(flat.loc.unflatten(-1, (1, 4, 3)), 1.0), 3)

    net = Plain(0.1 * torch.ones(2, 12).double(), torch.ones(2).double(), decode=torch.ones(12, 2).double())
    report = evaluation.collapse_report(net, scribbles(), samples=2)
    assert report.condition_verdict == "ignored" and report.active.count == 2  # the labels were read
    x = scribbles().pixels().double()
    assert log_likelihood(net, x, samples=2).mean == log_likelihood(net, scribbles().images, samples=2).mean


@pytest.mark.usefixtures("as_users_call")
def test_data_and_models_that_do_not_fit_are_refused_in_a_sentence():
    net, x, labels = model(), scribbles().images, scribbles().labels
    with pytest.raises(ValueError, match="the data give no y"):
        log_likelihood(net, x)
    with pytest.raises(ValueError, match="takes no y"):
        log_likelihood(model(num_classes=0), x, y=labels)
    for likelihood in ("bernoulli", "gaussian", "logistic", "categorical"):
        with pytest.raises(ValueError, match=r"lie in \[0, 1\].*divide bytes by 255"):
            log_likelihood(model(likelihood=likelihood, levels=256), (x.float(), labels), samples=1)
    with pytest.raises(ValueError, match="posterior, prior and likelihood, and DataParallel lacks one"):
        log_likelihood(nn.DataParallel(net), scribbles())
    with pytest.raises(ValueError, match="an ImageSet, a Dataset or a DataLoader, not str"):
        log_likelihood(net, "images")
    with pytest.raises(ValueError, match="factorised Normal.*MultivariateNormal"):
        evaluation.mutual_information(_Full(torch.ones(1, 12).double(), torch.ones(1).double()), x.double().flatten(1))


class _Full(LinearGaussian):
    def posterior(self, x, y=None):
        return MultivariateNormal(torch.zeros(len(x), 1).double(), torch.eye(1).double())
