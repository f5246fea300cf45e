"""Objectives: free bits, schedules, many samples, masks, and the gradients of the importance-weighted bound."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from cvae_lib.course.laboratory import LinearEncoder, LinearGaussian
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import (
    Constant,
    Cyclical,
    LatentVariableModel,
    Linear,
    Terms,
    elbo_terms,
    free_bits,
    importance_weighted_bound,
    log_importance_weights,
)


def model(**changes: object) -> CVAE:
    torch.manual_seed(0)
    settings = {"num_classes": 3, "latent_dim": 2, "hidden": (8,), "event_shape": (1, 3, 2)}
    return CVAE(CVAEConfig(**{**settings, **changes})).double()


X = (torch.rand(5, 1, 3, 2, generator=torch.Generator().manual_seed(1)) < 0.4).double()
Y = torch.tensor([0, 2, 1, 1, 2])


# --- free bits --------------------------------------------------------------------------------------------------


def test_free_bits_floor_the_batch_mean_of_each_latent():
    kl = torch.tensor([[0.0, 1.0, 4.0], [0.2, 3.0, 0.0]])  # means 0.1, 2, 2
    assert free_bits(kl, 0.5).item() == pytest.approx(0.5 + 2 + 2)
    assert free_bits(kl, 3.0).item() == pytest.approx(9)
    assert free_bits(kl, 0.0).item() == pytest.approx(4.1)
    assert free_bits(kl, 3.0, groups=1).item() == pytest.approx(4.1)  # one floor for all of them together
    pairs = torch.cat([kl, kl[:, :1]], 1)  # means 0.1, 2 | 2, 0.1
    assert free_bits(pairs, 2.5, groups=2).item() == pytest.approx(2.5 + 2.5)
    assert free_bits(pairs, 2.0, groups=2).item() == pytest.approx(2.1 + 2.1)


def test_a_group_is_made_of_neighbours():
    kl = torch.tensor([[0.1, 0.2, 3.0, 4.0, 0.3, 0.4]])
    assert free_bits(kl, 1.0, groups=3).item() == pytest.approx(1 + 7 + 1)
    assert free_bits(kl, 1.0, groups=2).item() == pytest.approx(3.3 + 4.7)


def test_free_bits_leave_no_gradient_below_the_floor_and_all_of_it_above():
    kl = torch.tensor([[0.0, 1.0, 4.0], [0.2, 3.0, 0.0]], requires_grad=True)
    free_bits(kl, 0.5).backward()
    torch.testing.assert_close(kl.grad, torch.tensor([[0, 0.5, 0.5], [0, 0.5, 0.5]]))


def test_a_busy_latent_does_not_pay_for_a_silent_one():
    """The known mistake, a floor under the mean over latents, would push on the silent one as well."""
    kl = torch.tensor([[10.0, 0.1]], requires_grad=True)
    Terms(torch.zeros(1), kl).loss(floor=1.0).backward()
    torch.testing.assert_close(kl.grad, torch.tensor([[1.0, 0.0]]))


def test_the_loss_with_a_floor_is_the_loss_where_the_floor_is_not_reached():
    terms = Terms(torch.tensor([-3.0, -5.0]), torch.tensor([[1.0, 2.0], [0.5, 1.0]]))
    assert terms.loss(0.7, floor=0.1).item() == pytest.approx(terms.loss(0.7).item())
    assert terms.loss(2.0, floor=5.0, groups=1).item() == pytest.approx(2 * 5 + 4)
    assert terms.loss(1.0, groups=2).item() == pytest.approx(terms.loss().item())


def test_free_bits_hold_the_encoder_of_a_collapsed_model_free():
    """All KL under the floor: only the likelihood moves the encoder, so beta no longer matters to it."""
    net = model()
    gradients = []
    for beta in (1.0, 5.0):
        torch.manual_seed(3)
        net.zero_grad()
        elbo_terms(net, X, Y).loss(beta, floor=50.0).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in net.encoder.parameters()]))
    assert torch.equal(*gradients) and gradients[0].abs().max() > 0


@pytest.mark.parametrize(
    "floor, groups, clue", [(-0.1, None, "0 nats"), (math.nan, None, "0 nats"), (1, 2, "2 equal"), (1, 0, "0 equal")]
)
def test_impossible_free_bits_are_named(floor, groups, clue):
    with pytest.raises(ValueError, match=clue):
        free_bits(torch.ones(2, 3), floor, groups)


# --- schedules -----------------------------------------------------------------------------------------------------


def test_a_constant_is_constant():
    assert {Constant(0.3)(step) for step in range(100)} == {0.3}


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_a_linear_schedule_rises_evenly_and_reaches_its_end_exactly(steps):
    values = [Linear(steps)(step) for step in range(steps + 3)]
    assert values[0] == 0 and values[steps:] == [1.0] * 3
    assert all(b - a == pytest.approx(1 / steps) for a, b in zip(values[:steps], values[1 : steps + 1], strict=True))
    assert Linear(10, start=0.2, end=4)(5) == pytest.approx(2.1)


@pytest.mark.parametrize("rise", [0.01, 0.3, 0.5, 0.9, 1.0])
def test_every_cycle_starts_low_ends_high_and_never_falls_between(rise):
    for steps in (2, 3, 7, 10, 40, 97, 1000):
        for cycles in (1, 2, 3, 4, 7):
            if steps < 2 * cycles:
                continue
            values = [Cyclical(steps, cycles, rise)(step) for step in range(steps)]
            starts = [step for step in range(steps) if step == 0 or values[step] < values[step - 1]]
            assert len(starts) == cycles and all(values[step] == 0 for step in starts)
            assert all(values[step - 1] == 1 for step in [*starts[1:], steps])
            assert all(0 <= value <= 1 for value in values)
            lengths = [b - a for a, b in zip(starts, [*starts[1:], steps], strict=True)]
            assert max(lengths) - min(lengths) <= 1
            assert Cyclical(steps, cycles, rise)(steps) == 1 == Cyclical(steps, cycles, rise)(10 * steps)


def test_the_cyclical_schedule_is_the_papers():
    """Fu et al. 2019, equation 6: beta = min(1, tau / R) at tau = (t mod T/M) / (T/M)."""
    schedule = Cyclical(800, cycles=4, rise=0.5)
    for step in range(800):
        tau = (step % 200) / 200
        assert schedule(step) == pytest.approx(min(1, tau / 0.5))


def test_impossible_schedules_are_named():
    with pytest.raises(ValueError, match="at least 1 step"):
        Linear(0)
    with pytest.raises(ValueError, match="at least 2 steps each"):
        Cyclical(7, cycles=4)
    with pytest.raises(ValueError, match="rise of 0"):
        Cyclical(100, rise=0)
    for make in (lambda: Constant(-1), lambda: Linear(5, end=-0.5), lambda: Cyclical(50, start=-2)):
        with pytest.raises(ValueError, match="at least 0, not -"):
            make()


# --- samples, masks, modes -------------------------------------------------------------------------------------------


def laboratory(rows: int) -> tuple[LinearGaussian, torch.Tensor, torch.Tensor]:
    """Return a small conditional laboratory with one (x, y), repeated."""
    torch.manual_seed(4)
    lab = LinearGaussian(4, 2, 1).requires_grad_(False)
    y = torch.randn(1, 1, dtype=torch.float64)
    return lab, lab.sample(y)[0].expand(rows, -1), y.expand(rows, -1)


def wide(lab: LinearGaussian, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each example its own q, a little off and wider than the truth; return its location and log-scale, leaves."""
    exact = lab.exact_posterior(x, y)
    loc = (exact.mean + 0.3 * exact.stddev).detach().clone().requires_grad_()
    log_scale = (exact.stddev.log() + 0.25).detach().clone().requires_grad_()
    lab.encoder = lambda x, y: Independent(Normal(loc, log_scale.exp()), 1)
    return loc, log_scale


def test_more_samples_keep_the_bound_and_lower_its_variance():
    rows = 40_000
    lab, x, y = laboratory(rows)
    wide(lab, x, y)
    one, eight = (elbo_terms(lab, x, y, samples=k).elbo.detach() for k in (1, 8))
    exact = lab.elbo(x[:1].expand(rows, -1), y)[0].detach()
    for each in (one, eight):
        assert abs(each.mean() - exact) < 4 * each.std() / math.sqrt(rows)
    # A variance is known to a share of sqrt((kurtosis - 1) / n), for eight samples to about sqrt(2 / n).
    kurtosis = ((one - one.mean()) / one.std()).pow(4).mean()
    assert (one.var() / eight.var()).item() == pytest.approx(8, rel=4 * ((kurtosis + 1) / rows).sqrt().item())


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
def test_a_sampled_kl_is_averaged_over_all_the_samples(prior):
    """Without a closed form the ELBO of K draws is the mean of their K log-weights, to rounding."""
    net = model(prior=prior, components=3)
    torch.manual_seed(0)
    elbo = elbo_terms(net, X, Y, samples=6).elbo
    torch.manual_seed(0)
    torch.testing.assert_close(elbo, log_importance_weights(net, X, Y, 6).mean(0))


def test_masked_bounds_are_those_of_the_observed_entries():
    """The laboratory without two entries of x is another laboratory; its posterior makes every weight exact."""
    lab, x, y = laboratory(3)
    kept = torch.tensor([0, 3])
    part = LinearGaussian(2, 2, 1).requires_grad_(False)
    for name, value in lab.named_parameters():
        getattr(part, name).copy_(value[kept] if name in ("weight", "x_from_y", "bias", "log_noise") else value)
    seen = []

    def encoder(x, y):
        seen.append(x)
        return part.exact_posterior(x[:, kept], y)

    lab.encoder = encoder
    mask = torch.zeros(4).bool().index_fill(0, kept, True).expand(3, -1)
    hidden = torch.where(mask, x, math.nan)
    truth = part.log_evidence(x[:, kept], y)
    assert (log_importance_weights(lab, hidden, y, 5, mask=mask) - truth).abs().max() < 1e-9
    for gradient in ("plain", "doubly"):
        value = importance_weighted_bound(lab, hidden, y, 5, gradient=gradient, mask=mask)
        assert (value - truth).abs().max() < 1e-9
    assert (elbo_terms(lab, hidden, y, mask=mask).elbo - truth).abs().max() < 1e-9
    assert all(torch.equal(x[:, 1:3], torch.zeros(3, 2).double()) for x in seen)


def test_what_is_hidden_does_not_count_for_draws_of_the_prior_either():
    """The same draws of z in the laboratory without the hidden entries, whose likelihood is that of the others."""
    lab, x, y = laboratory(3)
    kept, mask = torch.tensor([0, 3]), torch.tensor([True, False, False, True]).expand(3, -1)
    torch.manual_seed(0)
    found = log_importance_weights(lab, torch.where(mask, x, math.nan), y, 5, mask=mask, proposal="prior")
    torch.manual_seed(0)
    p = lab.likelihood(lab.prior(y, batch=3).rsample((5,)), y).base_dist
    expected = Normal(p.loc[..., kept], p.scale[..., kept]).log_prob(x[:, kept]).sum(-1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("network", ["mlp", "convolutional"])
@pytest.mark.parametrize("mask_channels", [1, 3])
def test_masked_images_of_several_channels_in_both_networks(network, mask_channels):
    """By hand: the encoder reads zeros where nothing is seen, and the pixels seen are added up."""
    torch.manual_seed(0)
    config = CVAEConfig(num_classes=3, latent_dim=2, hidden=(8,), event_shape=(3, 28, 28), network=network)
    net = CVAE(config).double()
    x = (torch.rand(5, 3, 28, 28) < 0.4).double()
    mask = torch.rand(5, mask_channels, 28, 28) < 0.5
    hidden = torch.where(mask, x, math.nan)
    torch.manual_seed(1)
    weights = log_importance_weights(net, hidden, Y, 4, mask=mask)
    torch.manual_seed(1)
    terms = elbo_terms(net, hidden, Y, samples=4, mask=mask)
    torch.manual_seed(1)
    q = net.posterior(x * mask, Y)
    z = q.rsample((4,))
    log_p = (net.likelihood(z, Y).base_dist.log_prob(x) * mask).sum((-3, -2, -1))
    torch.testing.assert_close(weights, log_p + net.prior(Y).log_prob(z) - q.log_prob(z))
    torch.testing.assert_close(terms.log_likelihood, log_p.mean(0))
    terms.loss().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_a_full_mask_changes_nothing_and_a_wrong_one_is_named():
    net = model()
    values = []
    for mask in (None, torch.ones(5, 1, 3, 2).bool(), torch.ones(5, 1, 1, 1)):
        torch.manual_seed(0)
        values.append(elbo_terms(net, X, Y, mask=mask).elbo)
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], values[2])
    for shape in ((5, 1, 4, 4), (2, 5, 1, 3, 2)):
        with pytest.raises(ValueError, match="does not go with x"):
            elbo_terms(net, X, Y, mask=torch.ones(shape))


def test_weights_carry_gradients_only_when_asked():
    net = model()
    assert log_importance_weights(net, X, Y, 4).requires_grad
    with torch.no_grad():
        weights = log_importance_weights(net, X, Y, 4)
        bound = importance_weighted_bound(net, X, Y, 4, gradient="doubly")
    assert weights.shape == (4, 5) and not weights.requires_grad and not bound.requires_grad
    assert isinstance(net, LatentVariableModel)


@pytest.mark.parametrize("call", [elbo_terms, log_importance_weights, importance_weighted_bound])
def test_no_samples_is_refused(call):
    with pytest.raises(ValueError, match="At least 1 sample"):
        call(model(), X, Y, samples=0)


def test_an_unknown_gradient_is_named(as_users_call):
    with pytest.raises(ValueError, match="'plain' or 'doubly', not 'triply'"):
        importance_weighted_bound(model(), X, Y, 2, gradient="triply")


def test_an_unknown_proposal_is_named(as_users_call):
    with pytest.raises(ValueError, match="'posterior' or 'prior', not 'guess'"):
        log_importance_weights(model(), X, Y, 2, proposal="guess")


def test_a_prior_that_would_not_learn_from_its_draws_is_refused():
    net = model(prior="mixture")
    with pytest.raises(ValueError, match="Draws of this prior have no gradient"):
        importance_weighted_bound(net, X, Y, 2, proposal="prior")
    with torch.no_grad():
        assert importance_weighted_bound(net, X, Y, 2, proposal="prior").shape == (5,)


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["standard", "gaussian", "mixture", "vamp"])
def test_bounds_pass_gradcheck(prior):
    """The noise is fixed, so that value and gradient are functions of the weights alone."""
    net = model(prior=prior, components=2, hidden=(3,))
    names, values = zip(*net.named_parameters(), strict=True)
    from torch.func import functional_call

    class Bounds(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self):
            torch.manual_seed(0)
            return elbo_terms(self.net, X, Y).loss(0.5), importance_weighted_bound(self.net, X, Y, 3)

    def bounds(*values):
        return functional_call(Bounds(), {f"net.{name}": value for name, value in zip(names, values, strict=True)}, ())

    assert torch.autograd.gradcheck(bounds, values, fast_mode=True)


def gradients(samples: int, kind: str, rows: int) -> torch.Tensor:
    """Return independent draws of the gradient on q's four numbers, (rows, 4): each row has its own q and noise."""
    lab, x, y = laboratory(rows)
    leaves = wide(lab, x, y)
    torch.manual_seed(samples)
    bound = importance_weighted_bound(lab, x, y, samples, gradient=kind)
    return torch.cat(torch.autograd.grad(bound.sum(), leaves), 1)


@pytest.mark.parametrize("samples", [1, 2, 5, 20])
def test_the_doubly_reparameterised_gradient_is_unbiased_and_quieter(samples):
    plain, doubly = (gradients(samples, kind, 20_000) for kind in ("plain", "doubly"))
    z_score = (plain.mean(0) - doubly.mean(0)) / ((plain.var(0) + doubly.var(0)) / 20_000).sqrt()
    assert z_score.abs().max() < 4
    assert (doubly.var(0) < plain.var(0)).all()


def test_one_sample_has_the_elbos_gradient_in_closed_form():
    lab, x, y = laboratory(1)
    leaves = wide(lab, x, y)
    exact = torch.cat(torch.autograd.grad(lab.elbo(x, y).sum(), leaves), 1)
    for kind in ("plain", "doubly"):
        draws = gradients(1, kind, 20_000)
        assert ((draws.mean(0) - exact) / (draws.std(0) / math.sqrt(20_000))).abs().max() < 4


def test_the_signal_of_the_plain_gradient_drowns_with_k_and_the_doubly_reparameterised_does_not():
    """Plain: as 1/sqrt(K), Rainforth et al. 2018, arXiv:1802.04537; the other: as sqrt(K), Tucker et al. 2018."""
    ratio = {}
    for kind in ("plain", "doubly"):
        for samples in (4, 64):
            draws = gradients(samples, kind, 10_000)[:, :2]  # on the mean
            ratio[kind, samples] = (draws.mean(0).norm() / draws.var(0).sum().sqrt()).item()
    assert ratio["plain", 64] < 0.6 * ratio["plain", 4]  # theory: 0.25
    assert ratio["doubly", 64] > 1.5 * ratio["doubly", 4]  # theory: 4


def test_without_an_encoder_there_is_one_gradient_only():
    found = []
    for kind in ("plain", "doubly"):
        lab, x, y = laboratory(6)
        lab.encoder = None
        lab.requires_grad_(True)
        own = [parameter for parameter in lab.parameters()]
        torch.manual_seed(2)
        bound = importance_weighted_bound(lab, x, y, 7, gradient=kind, proposal="prior")
        found.append(torch.autograd.grad(bound.sum(), own))
    for plain, doubly in zip(*found, strict=True):
        assert torch.equal(plain, doubly) and plain.abs().max() > 0


def test_what_does_not_pass_through_z_has_the_same_gradient_either_way():
    """Decoder and prior: same noise, same gradient, to rounding."""
    torch.manual_seed(1)
    lab = LinearGaussian(4, 2, 1, LinearEncoder(4, 1, 2))
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    own = [parameter for name, parameter in lab.named_parameters() if not name.startswith("encoder")]
    encoders = list(lab.encoder.parameters())
    found = []
    for kind in ("plain", "doubly"):
        torch.manual_seed(2)
        bound = importance_weighted_bound(lab, x, y, 7, gradient=kind)
        found.append(torch.autograd.grad(bound.sum(), [*own, *encoders]))
    for plain, doubly in zip(*(each[: len(own)] for each in found), strict=True):
        torch.testing.assert_close(plain, doubly)
    assert not torch.allclose(found[0][-1], found[1][-1])


@pytest.mark.parametrize("prior", ["standard", "gaussian", "mixture", "vamp"])
def test_the_doubly_reparameterised_gradient_is_the_papers_formula(prior):
    """Sum over k of share^2 times dlog w/dz times dz/dphi, put together by hand for a CVAE.

    A VampPrior is made of the encoder: what reaches it so, and not through z, has the plain weight.
    """
    net, samples = model(prior=prior, components=2), 3
    encoder = list(net.encoder.parameters())
    torch.manual_seed(5)
    ours = torch.autograd.grad(importance_weighted_bound(net, X, Y, samples, gradient="doubly").sum(), encoder)
    torch.manual_seed(5)
    q = net.posterior(X, Y)
    z = q.rsample((samples,))
    free = z.detach().requires_grad_()
    frozen = Independent(Normal(q.mean.detach(), q.stddev.detach()), 1)
    log_w = net.likelihood(free, Y).log_prob(X) + net.prior(Y).log_prob(free) - frozen.log_prob(free)  # (K, B)
    share = log_w.detach().softmax(0)
    (slope,) = torch.autograd.grad(log_w.sum(), free)  # (K, B, D)
    direct = (share * net.prior(Y).log_prob(z.detach())).sum()
    by_hand = torch.autograd.grad((share[..., None] ** 2 * slope * z).sum() + direct, encoder)
    for left, right in zip(ours, by_hand, strict=True):
        torch.testing.assert_close(left, right)
