"""A CVAE made of one's own modules: any event shape, plain ``nn.Module``s, and a sentence for each broken contract."""

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Distribution, Independent, Laplace, Normal, kl_divergence

from cvae_lib import CVAE, elbo_terms, importance_weighted_bound
from cvae_lib.conditions import LabelCondition
from cvae_lib.likelihoods import GaussianPixels
from cvae_lib.model import Output
from cvae_lib.networks import ConvolutionalDecoder, ConvolutionalEncoder, MLPDecoder, MLPEncoder
from cvae_lib.objective import LatentVariableModel
from cvae_lib.priors import ConditionalGaussian, StandardNormal, VampPrior
from cvae_lib.training import fit

B, C, D = 6, 3, 2
SHAPES = [(5,), (3, 48, 48), (7, 2)]


class Encoder(nn.Module):
    """Someone's own: no attribute, no base class of the library."""

    def __init__(self, shape: tuple[int, ...], conditions: int = C) -> None:
        super().__init__()
        self.net = nn.Linear(math.prod(shape) + conditions, 2 * D)

    def forward(self, x, c):
        features = x.flatten(1) if c is None else torch.cat([x.flatten(1), c], 1)
        mean, log_variance = self.net(features).chunk(2, 1)
        return mean, log_variance


class Decoder(nn.Module):
    """Two outputs, as a tuple: where x lies, and how far around it."""

    def __init__(self, shape: tuple[int, ...], conditions: int = C) -> None:
        super().__init__()
        self.shape = shape
        self.loc, self.scale = (nn.Linear(D + conditions, math.prod(shape)) for _ in range(2))

    def forward(self, z, c):
        features = z if c is None else torch.cat([z, c], 1)
        return self.loc(features).unflatten(1, self.shape), self.scale(features).unflatten(1, self.shape)


class OfTuples(nn.Module):
    """p(x|z,y) of the two outputs: independent Laplace entries."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, output):
        loc, log_scale = output
        return Independent(Laplace(loc, (0.1 * log_scale).exp()), self.dims)


def own(shape: tuple[int, ...] = (5,), conditional: bool = True, **parts: object) -> CVAE:
    torch.manual_seed(0)
    conditions = C if conditional else 0
    given = {
        "condition": LabelCondition(C) if conditional else None,
        "prior": StandardNormal(D),
        "likelihood": OfTuples(len(shape)),
    }
    encoder = parts.pop("encoder", None) or Encoder(shape, conditions)
    decoder = parts.pop("decoder", None) or Decoder(shape, conditions)
    return CVAE(encoder, decoder, **{**given, **parts}).double()


def data(shape: tuple[int, ...] = (5,)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, *shape, generator=generator, dtype=torch.float64), torch.arange(B) % C


# --- what works -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("conditional", [True, False], ids=["cvae", "vae"])
def test_modules_of_ones_own_make_a_model_of_any_event_shape(shape, conditional):
    model, (x, y) = own(shape, conditional), data(shape)
    y = y if conditional else None
    assert isinstance(model, LatentVariableModel) and model.config is None
    assert model.is_conditional == conditional and model.num_classes == (C if conditional else 0)
    torch.manual_seed(3)
    terms = elbo_terms(model, x, y)
    torch.manual_seed(3)  # and by hand, in plain torch
    c = nn.functional.one_hot(y, C).double() if conditional else None
    mean, log_variance = model.encoder(x, c)
    z = mean + (0.5 * log_variance).exp() * torch.randn(B, D, dtype=torch.float64)
    loc, log_scale = model.decoder(z, c)
    expected = Laplace(loc, (0.1 * log_scale).exp()).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(terms.log_likelihood, expected)
    torch.testing.assert_close(terms.kl, 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance))
    assert importance_weighted_bound(model, x, y, 4).shape == (B,)
    assert model.draw(y, count=None if conditional else B).shape == x.shape == model.reconstruct(x, y).shape
    assert model.draw(y, count=None if conditional else B, sample=True).shape == x.shape


def test_several_latents_per_example_reach_each_part_of_the_output():
    model, y = own(), torch.tensor([0, 1, 2])
    z = torch.randn(4, 3, D, dtype=torch.float64)
    together = model.likelihood(z, y)
    assert (together.batch_shape, together.event_shape) == ((4, 3), (5,))
    alone = model.likelihood(z[2, 1:2], y[1:2])
    torch.testing.assert_close(together.mean[2, 1], alone.mean[0])
    torch.testing.assert_close(together.stddev[2, 1], alone.stddev[0])


def test_a_call_of_the_model_gives_the_terms_of_the_objective():
    model, (x, y) = own(prior=ConditionalGaussian(D, C)), data()
    torch.manual_seed(5)
    terms = elbo_terms(model, x, y)
    torch.manual_seed(5)
    out = model(x, y)
    assert isinstance(out, Output) and out.z.shape == (B, D)
    torch.testing.assert_close(out.likelihood.log_prob(x), terms.log_likelihood)
    torch.testing.assert_close(kl_divergence(out.posterior, out.prior), terms.rate)


def test_a_wrapper_that_has_the_call_alone_is_a_model_to_the_objective():
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *args):
            return self.module(*args)

    model, (x, y) = own(), data()
    torch.manual_seed(5)
    terms = elbo_terms(model, x, y)
    torch.manual_seed(5)
    for inside, outside in zip(terms, elbo_terms(Wrapper(model), x, y), strict=True):
        assert torch.equal(inside, outside)
    with pytest.raises(ValueError, match="pass the model inside it"):
        elbo_terms(Wrapper(model), x, y, samples=2)


def test_hooks_fire_on_every_module_of_a_call():
    model, (x, y) = own(prior=ConditionalGaussian(D, C)), data()
    seen = []
    for name in ("", "condition", "encoder", "decoder", "prior_module", "likelihood_module"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
    out = model(x, y)
    assert set(seen) == {"", "condition", "encoder", "decoder", "prior_module", "likelihood_module"}
    assert seen[-1] == "" and isinstance(out, Output)


@pytest.mark.usefixtures("full_profile")
def test_what_is_composed_is_trained():
    """x lies around y, with noise of a known size: draws follow y, and no ELBO is above what noise leaves possible."""
    y = torch.arange(600) % C
    x = y[:, None] + 0.3 * torch.randn(600, 5)
    model = own(likelihood=GaussianPixels("pixel", "identity", event_dims=1), decoder=Concatenated((5,))).float()
    before = elbo_terms(model, x, y, samples=20).elbo.mean().item()
    fit(model, (x, y), steps=60, learning_rate=0.05, batch_size=600, device="cpu")
    drawn = model.draw(torch.arange(3000) % C, sample=True).unflatten(0, (1000, C)).mean((0, 2))
    assert (drawn.diff() > 0.1).all()
    best = -5 * float(Normal(0.0, 0.3).entropy())
    after = elbo_terms(model, x, y, samples=20).elbo.mean().item()
    assert before + 20 < after < best + 0.3  # of 3000 numbers the mean is known to 0.04


class Concatenated(Decoder):
    """Both outputs in one tensor, as the library's likelihoods read them."""

    def forward(self, z, c):
        return torch.cat(super().forward(z, c), 1)


@pytest.mark.parametrize("size", [(48, 48), (20, 28)], ids=str)
def test_the_librarys_networks_compose_for_colour_images_of_other_sizes(size):
    torch.manual_seed(0)
    shape = (3, *size)
    model = CVAE(
        ConvolutionalEncoder(shape, (8, 12), D, condition_dim=C, conditioning="film"),
        ConvolutionalDecoder(D, (12, 8), shape, condition_dim=C, conditioning="film"),
        condition=LabelCondition(C),
        likelihood=GaussianPixels(),
    )
    x, y = (255 * torch.rand(B, *shape)).byte(), torch.arange(B) % C
    terms = elbo_terms(model, model.prepare(x), y)
    terms.loss().backward()
    assert terms.kl.shape == (B, D) and all(p.grad is not None for p in model.parameters())
    assert model.draw(y).shape == (B, *shape)


def test_a_network_may_say_that_it_reads_no_condition():
    class Deaf(Decoder):
        reads_condition = False

        def forward(self, z, c):
            assert c is None
            return super().forward(z, c)

    model, (x, y) = own(decoder=Deaf((5,), 0)), data()
    assert model.likelihood(torch.zeros(B, D)).mean.shape == x.shape  # needs no y
    assert elbo_terms(model, x, y).elbo.shape == (B,)


@pytest.mark.parametrize("network", ["mlp", "convolutional"])
def test_a_conditioning_layer_of_ones_own_need_not_say_how_wide_it_is(network):
    class Shift(nn.Module):
        def __init__(self, features: int, condition_dim: int) -> None:
            super().__init__()
            self.by = nn.Linear(condition_dim, features, bias=False)

        def forward(self, h, c):
            return h + self.by(c).reshape(len(c), -1, *[1] * (h.ndim - 2))

    settings = {"condition_dim": C, "conditioning": Shift, "condition_at": "every"}
    torch.manual_seed(0)
    if network == "mlp":
        net, z = MLPDecoder(D, (8, 8), (1, 8, 8), **settings), torch.randn(B, D)
    else:
        net, z = ConvolutionalDecoder(D, (8, 8), (1, 8, 8), **settings), torch.randn(B, D)
    one, other = (net(z, torch.eye(C)[torch.arange(B).roll(k) % C]) for k in (0, 1))
    assert one.shape == (B, 1, 8, 8) and not torch.allclose(one, other)
    same = net(z, torch.zeros(B, C))  # nothing known: what a network without y does
    plain = type(net)(D, (8, 8), (1, 8, 8))
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if ".by." not in k})
    torch.testing.assert_close(same, plain(z, None))


# --- what is copied and stored ----------------------------------------------------------------------------------


def vamp() -> CVAE:
    encoder = Encoder((5,))
    return own(encoder=encoder, prior=VampPrior(encoder, (5,), components=4))


def test_a_vamp_prior_stores_the_encoder_once():
    model = vamp()
    names = list(model.state_dict())
    assert [name for name in names if "prior" in name] == ["prior_module.raw"]
    assert sum(name.endswith("net.weight") for name in names) == 1
    assert model.num_parameters() == sum(value.numel() for value in model.state_dict().values())
    again = vamp()
    again.load_state_dict(model.state_dict())
    y, z = torch.arange(C), torch.randn(C, D, dtype=torch.float64)
    assert torch.equal(again.prior(y).log_prob(z), model.prior(y).log_prob(z))


@pytest.mark.parametrize("how", ["deepcopy", "torch.save"])
def test_a_copied_models_vamp_prior_reads_the_copied_encoder(how):
    model, y, z = vamp(), torch.arange(C), torch.randn(C, D, dtype=torch.float64)
    if how == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        torch.save(model, whole := io.BytesIO())
        whole.seek(0)
        twin = torch.load(whole, weights_only=False)
    before = model.prior(y).log_prob(z)
    assert torch.equal(twin.prior(y).log_prob(z), before)
    with torch.no_grad():
        twin.encoder.net.bias += 1
    assert torch.equal(model.prior(y).log_prob(z), before), "the original's prior must not follow the copy"
    assert not torch.allclose(twin.prior(y).log_prob(z), before), "the copy's prior must"


# --- broken contracts, each with one sentence ---------------------------------------------------------------------


class Returns(nn.Module):
    """A module that returns what it is told."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def raises(match: str, call) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and ". " not in message.replace("...", "")


@pytest.mark.parametrize(
    "encoder, sentence",
    [
        (lambda x, c: x.new_zeros(len(x), D), r"must return \(mean, log_variance\), not Tensor"),
        (lambda x, c: [x.new_zeros(len(x), D)] * 3, r"\(mean, log_variance\), not list"),
        (lambda x, c: (x.new_zeros(1, D), x.new_zeros(1, D)), r"shape \(B, D\) for B = 6, not \(1, 2\) and \(1, 2\)"),
        (lambda x, c: (x.new_zeros(len(x), D), x.new_zeros(len(x), 1)), r"not \(6, 2\) and \(6, 1\)"),
        (lambda x, c: (x.new_zeros(len(x)), x.new_zeros(len(x))), r"not \(6,\) and \(6,\)"),
    ],
)
def test_an_encoder_that_breaks_its_contract_is_named(encoder, sentence, as_users_call):
    model, (x, y) = own(encoder=Returns(encoder)), data()
    raises(sentence, lambda: model.posterior(x, y))
    raises(sentence, lambda: model(x, y))


@pytest.mark.parametrize(
    "decoder, sentence",
    [
        (lambda z, c: (z.new_zeros(1, 5), z.new_zeros(1, 5)), r"a row for each of 6 z, not shape \(1, 5\), \(1, 5\)"),
        (lambda z, c: (z.new_zeros(len(z), 5), z.new_zeros(())), r"not shape \(6, 5\), \(\)"),
    ],
)
def test_a_decoder_that_breaks_its_contract_is_named(decoder, sentence, as_users_call):
    model, (x, y) = own(decoder=Returns(decoder)), data()
    raises(sentence, lambda: model(x, y))


@pytest.mark.parametrize(
    "prior, sentence",
    [
        (lambda c, batch: torch.zeros(batch, D), "must return a torch Distribution, not Tensor"),
        (
            lambda c, batch: Normal(torch.zeros(batch, D), 1.0),
            r"batch shape \(6,\) and event shape \(D,\).* not \(6, 2\)",
        ),
        (lambda c, batch: Independent(Normal(torch.zeros(D), 1.0), 1), r"not \(\) and \(2,\)"),
        (
            lambda c, batch: Independent(Normal(torch.zeros(batch, 1), 1.0), 1),
            r"\(2,\) and \(1,\); they must be the same",
        ),
    ],
)
def test_a_prior_that_breaks_its_contract_is_named(prior, sentence, as_users_call):
    model, (x, y) = own(prior=Returns(prior)), data()
    raises(sentence, lambda: elbo_terms(model, x, y))
    raises(sentence, lambda: importance_weighted_bound(model, x, y, 3))


@pytest.mark.parametrize(
    "likelihood, sentence",
    [
        (lambda out: out[0], "must return a torch Distribution over x, not Tensor"),
        (
            lambda out: Normal(out[0], 1.0),
            r"of batch shape \(.*6,?\), that of z.*one whole x.* not of batch shape \(.*6, 5\)",
        ),
        (
            lambda out: Independent(Normal(out[0], 1.0), 2),
            r"of batch shape \(.*6,?\), that of z.* not of batch shape \((1,)?\)",
        ),
        (lambda out: Independent(Normal(out[0][..., :1], 1.0), 1), r"event .* \(1,\) and one x \(5,\)"),
    ],
)
def test_a_likelihood_whose_event_is_not_one_whole_x_is_named(likelihood, sentence, as_users_call):
    model, (x, y) = own(likelihood=Returns(likelihood)), data()
    raises(sentence, lambda: elbo_terms(model, x, y))
    raises(sentence, lambda: importance_weighted_bound(model, x, y))


def test_as_many_entries_as_examples_do_not_hide_the_mistake(as_users_call):
    """log p of shape (B, F) with F = B looks like B examples under K = B draws."""

    class Bare:
        """Three distributions, not a CVAE; the last one forgets to add up over the entries of x."""

        def posterior(self, x: torch.Tensor, y: object = None) -> Distribution:
            return Independent(Normal(torch.zeros(len(x), D), 1.0), 1)

        prior = lambda self, y=None, batch=None: self.posterior(torch.zeros(batch, 1))  # noqa: E731

        def likelihood(self, z: torch.Tensor, y: object = None) -> Distribution:
            return Bernoulli(logits=torch.zeros(*z.shape[:-1], 4))

    raises("one whole x", lambda: elbo_terms(Bare(), torch.ones(4, 4)))


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: CVAE(Encoder((5,))), "made of modules"),
        (lambda: CVAE(Encoder((5,)), Decoder((5,))), "Say what p.x.z,y. is: likelihood="),
        (lambda: CVAE(Encoder((5,)), Decoder((5,)), likelihood=OfTuples(1)), r"prior=StandardNormal\(latent_dim\)"),
        (lambda: own(condition="label"), "subclass of cvae_lib.conditions.Condition, and str is not"),
        (lambda: own(prior=lambda c, batch: None), "A prior is a module .* function is none"),
        (lambda: own(likelihood=Bernoulli), "Say what p.x.z,y. is"),
    ],
)
def test_a_part_that_is_missing_or_none_is_named_at_once(make, sentence, as_users_call):
    raises(sentence, make)


def test_a_condition_that_no_part_reads_is_refused():
    networks = MLPEncoder((5,), (4,), 2), MLPDecoder(2, (4,), (5,))
    with pytest.raises(ValueError, match="Nothing in this model reads the condition.*condition_dim=3"):
        CVAE(*networks, condition=LabelCondition(3), likelihood=GaussianPixels(link="identity", event_dims=1))
    model = CVAE(  # a prior that moves with y is enough
        *networks,
        condition=LabelCondition(3),
        prior=ConditionalGaussian(2, 3),
        likelihood=GaussianPixels(link="identity", event_dims=1),
    )
    assert model.draw([0, 1, 2]).shape == (3, 5)
