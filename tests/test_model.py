"""Conditions, conditioning, networks, priors, model and objective, against closed forms and plain torch."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from cvae_lib.conditioning import CONDITIONINGS, make_conditioning
from cvae_lib.conditions import MISSING, LabelCondition, NoCondition
from cvae_lib.gaussians import LOG_VARIANCE_BOUND, bounded_log_variance
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.networks import MLP
from cvae_lib.objective import Terms, elbo_terms, kl_per_latent, log_importance_weights
from cvae_lib.priors import StandardNormal

SMALL = {"latent_dim": 3, "hidden": (16,), "event_shape": (1, 6, 5)}


def small(**changes: object) -> CVAE:
    torch.manual_seed(0)
    return CVAE(CVAEConfig(**{**SMALL, "num_classes": 4, **changes})).eval()


def images(count: int = 7) -> torch.Tensor:
    return (torch.rand(count, 1, 6, 5, generator=torch.Generator().manual_seed(1)) < 0.3).float()


def test_one_hot_is_torchs_own():
    y = torch.tensor([0, 3, 1])
    assert torch.equal(LabelCondition(4)(y), nn.functional.one_hot(y, 4).float())


def test_a_missing_label_is_a_row_of_zeros():
    assert torch.equal(LabelCondition(3)(torch.tensor([MISSING, 2])), torch.tensor([[0.0, 0, 0], [0, 0, 1]]))


@pytest.mark.parametrize(
    "y, clue",
    [
        (torch.tensor([0, 4]), "0..3"),
        (torch.tensor([-2]), "-2"),
        (torch.tensor([0.0, 1.0]), "int64"),
        (torch.tensor([[1]]), "shape"),
        (None, "pass y"),
    ],
)
def test_bad_labels_are_named(y, clue, as_users_call):
    with pytest.raises(ValueError, match=clue):
        LabelCondition(4)(y)


def test_no_condition_has_no_width():
    assert NoCondition().dim == 0 and NoCondition()(None) is None


@pytest.mark.parametrize("name", CONDITIONINGS)
@pytest.mark.parametrize("space", [(), (3, 2)])
def test_changing_y_changes_the_output(name, space):
    torch.manual_seed(0)
    layer = make_conditioning(name, 5, 4)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    h, c = torch.randn(2, 5, *space), torch.eye(4)[:2]
    out = layer(h, c)
    assert out.shape == (2, layer.out_features, *space)
    assert not torch.allclose(out, layer(h, c.flip(0)))


def test_film_starts_as_the_identity_and_is_the_formula():
    layer, h, c = make_conditioning("film", 5, 4), torch.randn(3, 5, 2, 2), torch.randn(3, 4)
    assert torch.equal(layer(h, c), h)
    nn.init.normal_(layer.modulate.weight)
    gamma, beta = (c @ layer.modulate.weight.T).split(5, dim=1)
    expected = torch.einsum("bf,bfhw->bfhw", 1 + gamma, h) + beta[..., None, None]
    torch.testing.assert_close(layer(h, c), expected)


def test_addition_of_a_one_hot_row_is_concatenation_followed_by_a_linear_layer():
    h, c = torch.randn(3, 5), torch.eye(4)[[0, 2, 2]]
    add, linear = make_conditioning("addition", 5, 4), nn.Linear(9, 5, bias=False)
    linear.weight.data = torch.cat([torch.eye(5), add.embed.weight.data], dim=1)
    torch.testing.assert_close(add(h, c), linear(make_conditioning("concatenation", 5, 4)(h, c)))


def test_an_unknown_conditioning_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'glue'.*film"):
        make_conditioning("glue", 2, 2)


def test_an_mlp_is_the_chain_of_its_layers():
    net = MLP(3, (4,), 2, condition_dim=2)
    h, c = torch.randn(5, 3), torch.randn(5, 2)
    first, second = net.layers
    expected = nn.functional.silu(torch.cat([h, c], 1) @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(net(h, c), expected)


def test_hidden_blocks_of_equal_width_are_skipped_over():
    net, h = MLP(3, (4, 4), 2), torch.randn(5, 3)
    first, second, last = net.layers
    one = nn.functional.silu(first(h))
    torch.testing.assert_close(net(h, None), last(one + nn.functional.silu(second(one))))


def test_condition_at_decides_how_many_blocks_read_the_condition():
    assert len(MLP(3, (4, 4), 2, condition_dim=2, condition_at="first").slots) == 1
    assert len(MLP(3, (4, 4), 2, condition_dim=2, condition_at="every").slots) == 3
    assert len(MLP(3, (4, 4), 2, condition_dim=0, condition_at="every").slots) == 0
    with pytest.raises(ValueError, match="nowhere"):
        MLP(3, (4,), 2, condition_at="nowhere")


def test_log_variances_are_bounded_without_a_dead_gradient():
    raw = torch.tensor([-1e3, -30.0, -0.01, 0.0, 0.01, 30.0], dtype=torch.float64, requires_grad=True)
    bounded = bounded_log_variance(raw)
    assert bounded.abs().max() <= LOG_VARIANCE_BOUND
    torch.testing.assert_close(bounded[2:5], raw[2:5], atol=1e-8, rtol=1e-5)
    bounded[1:].sum().backward()
    assert (raw.grad[1:] > 0).all()
    assert torch.autograd.gradcheck(bounded_log_variance, torch.randn(4, dtype=torch.float64, requires_grad=True))


def test_the_standard_normal_prior_is_torchs_normal():
    p, z = StandardNormal(3)(None, 5), torch.randn(5, 3)
    torch.testing.assert_close(p.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(1))


def test_kl_per_latent_agrees_with_the_formula_in_float64():
    y = torch.arange(7) % 4
    q = small().posterior(images(), y)
    mean, variance = q.base_dist.loc.double(), q.base_dist.scale.double() ** 2
    expected = 0.5 * (mean**2 + variance - 1 - variance.log())
    torch.testing.assert_close(kl_per_latent(q, small().prior(y)).double(), expected, atol=1e-6, rtol=1e-5)


def test_the_elbo_is_the_mean_of_its_importance_weights():
    """E[log w] over q is the ELBO: two different routes to one number, one of them without a closed-form KL."""
    model, x, y = small(), images(), torch.arange(7) % 4
    torch.manual_seed(0)
    weights = log_importance_weights(model, x, y, 4000)  # (K, B)
    torch.manual_seed(1)
    elbo = torch.stack([elbo_terms(model, x, y).elbo for _ in range(1000)]).mean(0)
    error = (weights.std(0) / 4000**0.5 + 0.05).max()
    assert (weights.mean(0) - elbo).abs().max() < 4 * error


def test_terms_are_summed_over_dimensions_and_averaged_over_the_batch():
    terms = Terms(torch.tensor([-3.0, -5.0]), torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    assert terms.loss().item() == pytest.approx((3 + 3 + 5 + 1) / 2)
    assert terms.loss(beta=2).item() == pytest.approx((3 + 6 + 5 + 2) / 2)
    assert torch.equal(terms.elbo, torch.tensor([-6.0, -6.0]))


def test_the_loss_grows_with_the_number_of_pixels_not_with_the_batch():
    model, y = small(), torch.zeros(14, dtype=torch.int64)
    x = images(7).repeat(2, 1, 1, 1)
    many = [elbo_terms(model, x, y).loss() for _ in range(300)]
    few = [elbo_terms(model, x[:7], y[:7]).loss() for _ in range(300)]
    assert torch.stack(many).mean().item() == pytest.approx(torch.stack(few).mean().item(), rel=0.02)
    assert torch.stack(few).mean().item() == pytest.approx(30 * math.log(2), rel=0.2)  # 30 pixels, untrained


def test_without_a_condition_the_model_is_the_vae():
    model = small(num_classes=0)
    assert not model.is_conditional
    assert model.posterior(images()).base_dist.loc.shape == (7, 3)
    assert model.draw(count=2).shape == (2, 1, 6, 5)
    with pytest.raises(ValueError, match="how many"):
        model.prior()


def test_several_latents_per_image_meet_the_right_label():
    model, y, z = small(), torch.tensor([0, 1, 2]), torch.randn(4, 3, 3)
    together = model.likelihood(z, y).mean  # (4, 3, 1, 6, 5)
    for k in range(4):
        for b in range(3):
            torch.testing.assert_close(together[k, b], model.likelihood(z[k, b : b + 1], y[b : b + 1]).mean[0])


def test_the_bernoulli_likelihood_is_binary_cross_entropy():
    model, x, y = small(), images(3), torch.tensor([0, 1, 2])
    z = torch.randn(3, 3)
    logits = model.decoder(z, model.condition(y))
    expected = -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3))
    torch.testing.assert_close(model.likelihood(z, y).log_prob(x), expected)


def test_drawing_is_seeded_and_temperature_narrows_it():
    model, y = small(), torch.zeros(400, dtype=torch.int64)

    def draw(**keywords):
        return model.draw(y, generator=torch.Generator().manual_seed(3), **keywords)

    assert torch.equal(draw(), draw())
    assert draw(temperature=0.3).std(0).mean() < draw().std(0).mean()
    torch.testing.assert_close(draw(temperature=0.0)[0], draw(temperature=0.0)[1])


def test_images_of_another_shape_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"\(B, 1, 6, 5\), not \(2, 1, 8, 8\)"):
        small().posterior(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))


def test_settings_survive_json_and_unknown_ones_are_named():
    import json

    config = CVAEConfig(num_classes=3, hidden=(5, 6))
    assert CVAEConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    with pytest.raises(ValueError, match="colour"):
        CVAEConfig.from_dict({"colour": 1})


def test_kl_divergence_of_the_pair_integrates_numerically():
    q, p = Normal(0.7, 0.4), Normal(-0.2, 1.3)
    grid = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = q.log_prob(grid).exp()
    integral = torch.trapezoid(density * (q.log_prob(grid) - p.log_prob(grid)), grid)
    assert float(kl_divergence(q, p)) == pytest.approx(float(integral), abs=1e-6)
