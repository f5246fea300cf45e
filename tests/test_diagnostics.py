"""Active units, information, use of z and y, collapse report: against linear-Gaussian closed forms."""

import dataclasses
import math

import pytest
import torch
from linear_gaussian import LinearGaussian, matrix, normals, numbered
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from cvae_lib.conditions import Observed
from cvae_lib.data import ImageSet
from cvae_lib.evaluation import (
    active_units,
    collapse_report,
    is_y_used,
    is_z_used,
    log_likelihood,
    mean_and_error,
    mutual_information,
)
from cvae_lib.evaluation import information as information_module
from cvae_lib.evaluation import terms as terms_module
from cvae_lib.evaluation._examples import examples, ring, ring_estimate
from cvae_lib.model import CVAE, CVAEConfig

GREY = {"pixels": "grey"}


@pytest.fixture(autouse=True)
def full_length(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "full")


def vae(count=2000, a=(1.5, 0.5), s=(0.5, 0.8), decode=None, noise=1.0, seed=0):
    """A VAE with q = N(a u, s^2) latent by latent, and its data."""
    u = normals(count, len(a), seed=seed)
    net = LinearGaussian(u, torch.diag(matrix(*a)), matrix(*s), decode=decode, noise=noise)
    return net, numbered(torch.zeros(count, dtype=torch.int64))


def small(**changes):
    torch.manual_seed(0)
    return CVAE(CVAEConfig(**{"num_classes": 3, "latent_dim": 2, "hidden": (8,), "event_shape": (1, 4, 3), **changes}))


def scribbles(count=60, classes=3):
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (count, 1, 4, 3), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(count) % classes, "scribbles", classes=classes)


def within(estimate, truth, errors=4.0):
    """Say whether an estimate lies within so many of its standard errors of the truth."""
    return abs(estimate.mean - truth) < errors * estimate.standard_error


# --- active units -------------------------------------------------------------------------------------------


def test_active_units_are_the_variances_of_the_posterior_mean():
    net, data = vae(a=(2.0, 0.05, 0.0), s=(1.0, 1.0, 1.0))
    active = active_units(net, data, **GREY)
    torch.testing.assert_close(active.variances, (net.u * matrix(2.0, 0.05, 0.0)).var(0).float())
    assert active.count == 1 and active_units(net, data, 0.001, **GREY).count == 2
    # for Gaussian data the variance of a variance is 2 A^2 / N
    expected = torch.tensor([4.0, 0.0025, 0.0]) * math.sqrt(2 / len(data))
    torch.testing.assert_close(active.errors, expected, rtol=0.1, atol=0)
    assert str(active) == "1 of 3 latents active (variance above 0.01)"


def test_active_units_do_not_depend_on_the_order_or_on_the_batches():
    net, data = vae(count=2300)
    order = torch.randperm(2300)
    ours, theirs = active_units(net, data, **GREY), active_units(net, data.subset(order), **GREY)
    torch.testing.assert_close(ours.variances, theirs.variances, rtol=1e-6, atol=0)


def test_a_posterior_that_only_follows_the_prior_is_not_active():
    u, labels, moving = normals(300, 1), torch.arange(300) % 3, normals(64, 1) * 5
    net = LinearGaussian(u, matrix([0.0]), matrix(1.0), shift=moving, prior_mean=moving)
    assert active_units(net, numbered(labels), **GREY).variances.max() < 1e-12
    fixed = LinearGaussian(u, matrix([0.0]), matrix(1.0), shift=moving)
    torch.testing.assert_close(active_units(fixed, numbered(labels), **GREY).variances, moving[labels].var(0).float())


def test_a_latent_that_repeats_the_label_is_active_but_not_within_it():
    u, labels = normals(400, 2), torch.arange(400) % 3
    shift = torch.zeros(64, 2, dtype=torch.float64)
    shift[:3, 0] = matrix(-3.0, 0.0, 3.0)
    net = LinearGaussian(u, torch.diag(matrix(0.0, 0.9)), matrix(1.0, 1.0), shift=shift)
    active = active_units(net, numbered(labels), **GREY)
    expected = sum(0.81 * u[labels == k, 1].var(unbiased=False) * (labels == k).sum() for k in range(3)) / (400 - 3)
    torch.testing.assert_close(active.within_y.double(), torch.stack((0 * expected, expected)), atol=1e-6, rtol=1e-6)
    assert (active.count, active.count_within_y) == (2, 1) and str(active).endswith(
        "1 of them among images of the same y"
    )
    assert active_units(net, numbered(torch.arange(60)), **GREY).count_within_y is None


# --- mutual information -------------------------------------------------------------------------------------


def gaussian_information(a, s):
    return sum(0.5 * math.log1p((x / y) ** 2) for x, y in zip(a, s, strict=True))


def gaussian_kl(variance, shift=0.0):
    """KL(N(shift, variance) || N(0, 1))."""
    return 0.5 * (variance + shift**2 - 1 - math.log(variance))


def test_information_and_aggregate_kl_of_a_gaussian_channel():
    a, s = (1.5, 0.5), (0.5, 0.8)
    net, data = vae(3000, a, s)
    found = mutual_information(net, data, samples=2, **GREY)
    truth, kl = gaussian_information(a, s), sum(gaussian_kl(x * x + y * y) for x, y in zip(a, s, strict=True))
    assert within(found.lower, truth) and within(found.upper, truth)
    assert found.lower.mean < found.upper.mean < found.lower.mean + 0.02
    assert within(found.aggregate_kl, kl) and within(found.rate, truth + kl)
    assert found.cap == pytest.approx(math.log(3000)) and found.set_sizes == (3000, 3000) and not found.saturated


@pytest.mark.parametrize("samples", [1, 3])
def test_the_rate_is_information_plus_aggregate_kl_image_by_image(samples):
    net, data = vae(200)
    found = mutual_information(net, data, samples=samples, **GREY)
    assert found.rate.mean == pytest.approx(found.lower.mean + found.aggregate_kl.mean, abs=1e-12)
    torch.testing.assert_close(found.rate.per_example, found.lower.per_example + found.aggregate_kl.per_example)


def test_the_sampled_rate_is_the_closed_form_kl():
    net, data = vae(2000)
    x = data.pixels()
    kl = torch.distributions.kl_divergence(net.posterior(x), net.prior(batch=len(x)))
    off = mean_and_error(mutual_information(net, data, samples=20, **GREY).rate.per_example - kl)
    assert within(off, 0.0)


def test_each_image_finds_its_own_figure_though_labels_alternate():
    u = 10.0 * torch.arange(1, 41, dtype=torch.float64)[:, None]
    net = LinearGaussian(u, matrix([1.0]), matrix(1.0), shift=torch.zeros(64, 1, dtype=torch.float64))
    found = mutual_information(net, numbered(torch.arange(40) % 2), samples=50, **GREY)
    torch.testing.assert_close(found.rate.per_example.double(), u[:, 0] ** 2 / 2, rtol=0.2, atol=0)


def test_the_lower_estimate_is_the_information_of_the_images_at_hand():
    """For n posteriors, I(n;z) and KL(mixture || prior) are integrals over one latent."""
    net, data = vae(9, (1.3,), (0.4,))
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    parts = Normal(1.3 * net.u, 0.4).log_prob(z)  # (9, grid)
    mixture = parts.logsumexp(0) - math.log(9)
    information = torch.trapezoid((parts.exp() * (parts - mixture)).mean(0), z)
    kl = torch.trapezoid(mixture.exp() * (mixture - Normal(0.0, 1.0).log_prob(z)), z)
    # these 9 images are all there are, so only the draws of z err, and the runs say by how much
    runs = [mutual_information(net, data, samples=1000, seed=seed, **GREY) for seed in range(40)]
    assert within(mean_and_error(torch.tensor([run.lower.mean for run in runs])), float(information))
    assert within(mean_and_error(torch.tensor([run.aggregate_kl.mean for run in runs])), float(kl))


def test_in_expectation_the_truth_lies_between_the_bounds_and_the_error_is_the_spread():
    truth = gaussian_information((1.5,), (0.3,))
    runs = []
    for seed in range(300):
        net, data = vae(40, (1.5,), (0.3,), seed=seed)
        runs.append(mutual_information(net, data, seed=seed, **GREY))
    lower, upper = (mean_and_error(torch.tensor([getattr(run, n).mean for run in runs])) for n in ("lower", "upper"))
    assert lower.mean + 3 * lower.standard_error < truth < upper.mean - 3 * upper.standard_error
    promised = math.sqrt(sum(run.lower.standard_error**2 for run in runs) / len(runs))
    # 300 runs give their own spread to 4 %; the rest is the second-order part that the docstring names
    assert float(torch.tensor([run.lower.mean for run in runs]).std()) == pytest.approx(promised, rel=0.15)


def test_a_set_too_small_saturates_at_its_logarithm_and_says_so():
    net, data = vae(50, (1.0,), (1e-4,))
    found = mutual_information(net, data, **GREY)
    assert found.lower.mean == pytest.approx(math.log(50), abs=0.05) and found.lower.mean <= found.cap + 1e-12
    assert found.saturated and found.upper.mean > gaussian_information((1.0,), (1e-4,))
    assert "cap 3.91 from sets of 50, reached" in str(found)


def test_a_collapsed_posterior_holds_no_information_at_all():
    net, data = vae(100, (0.0, 0.0), (1.0, 1.0))
    found = mutual_information(net, data, **GREY)
    for estimate in (found.lower, found.upper, found.aggregate_kl, found.rate):
        assert estimate.per_example.abs().max() < 1e-6
    assert not found.saturated


def test_aggregates_are_over_images_of_the_same_label():
    count, labels = 2000, torch.arange(2000) % 2
    shift = torch.zeros(64, 1, dtype=torch.float64)
    shift[1] = 6.0
    net = LinearGaussian(normals(count, 1), matrix([0.8]), matrix(0.6), shift=shift)
    found = mutual_information(net, numbered(labels), **GREY)
    given_y = gaussian_information((0.8,), (0.6,))
    assert within(found.lower, given_y) and found.set_sizes == (1000, 1000)
    assert within(found.aggregate_kl, (gaussian_kl(1.0) + gaussian_kl(1.0, 6.0)) / 2)
    # two clouds six deviations apart: without the grouping z tells the label as well, ln 2 more
    everything = mutual_information(net, numbered(labels), groups=torch.zeros(count, dtype=torch.int64), **GREY)
    assert everything.lower.mean == pytest.approx(given_y + math.log(2), abs=0.1)


def test_a_learned_prior_takes_the_aggregate_kl_away():
    shift = normals(64, 1) * 4
    net = LinearGaussian(normals(600, 1), matrix([0.6]), matrix(0.8), shift=shift, prior_mean=shift)
    assert within(mutual_information(net, numbered(torch.arange(600) % 3), **GREY).aggregate_kl, 0.0)


def test_the_prior_may_be_a_mixture():
    class WithMixture(LinearGaussian):
        def prior(self, y=None, batch=None):
            centres = matrix([-2.0], [2.0]).expand(batch, 2, 1)
            parts = Independent(Normal(centres, torch.full_like(centres, 0.7)), 1)
            return MixtureSameFamily(Categorical(torch.ones(batch, 2, dtype=torch.float64)), parts)

    net = WithMixture(normals(3000, 1), matrix([1.0]), matrix(0.5))
    data = numbered(torch.zeros(3000, dtype=torch.int64))
    found = mutual_information(net, data, samples=2, **GREY)
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    aggregate = Normal(0.0, math.sqrt(1.25)).log_prob(z)
    kl = torch.trapezoid(aggregate.exp() * (aggregate - net.prior(batch=len(z)).log_prob(z[:, None])), z)
    assert within(found.aggregate_kl, float(kl))
    assert found.rate.mean == pytest.approx(found.lower.mean + found.aggregate_kl.mean, abs=1e-12)
    assert active_units(net, data, **GREY).count == 1
    assert is_z_used(net, data, **GREY).within_y


def test_the_table_of_densities_against_torch_and_in_any_pieces(monkeypatch):
    z, mean, scale = normals(3, 11, 4), normals(11, 4, seed=1), normals(11, 4, seed=2).exp() / 50
    own, others = information_module._against_aggregate(z, mean, scale)
    table = Independent(Normal(mean, scale), 1).log_prob(z[:, :, None])  # (3, 11, 11)
    torch.testing.assert_close(own, table.diagonal(dim1=1, dim2=2))
    without = table.masked_fill(torch.eye(11, dtype=torch.bool), -math.inf)
    torch.testing.assert_close(others, without.logsumexp(2), rtol=1e-9, atol=0)
    monkeypatch.setattr(information_module, "ENTRIES_AT_ONCE", 25)
    torch.testing.assert_close(information_module._against_aggregate(z, mean, scale)[1], others)
    order = torch.randperm(11)
    shuffled = information_module._against_aggregate(z[:, order], mean[order], scale[order])
    torch.testing.assert_close(shuffled[1], others[:, order])


def test_images_whose_y_nobody_shares_are_left_out_or_named(as_users_call):
    net = LinearGaussian(normals(5, 1), matrix([1.0]), matrix(1.0), shift=normals(64, 1))
    assert mutual_information(net, numbered(torch.tensor([0, 0, 1, 2, 2])), **GREY).lower.per_example.shape == (4,)
    with pytest.raises(ValueError, match=r"No two images share their y.*groups="):
        mutual_information(net, numbered(torch.arange(5)), **GREY)
    with pytest.raises(ValueError, match="one entry per image, 5, not 4"):
        mutual_information(net, numbered(torch.arange(5)), groups=torch.zeros(4, dtype=torch.int64), **GREY)
    with pytest.raises(ValueError, match="at least 1 sample, not 0"):
        mutual_information(net, numbered(torch.arange(5)), samples=0)
    with pytest.raises(ValueError, match="takes no y"):
        mutual_information(vae(5)[0], numbered(torch.arange(5)), y=torch.arange(5))


# --- rings --------------------------------------------------------------------------------------------------


def test_a_partner_is_another_of_the_same_group_and_everyone_is_one():
    groups = torch.tensor([2, 0, 0, 2, 7, 2, 0, 1, 1])
    partner = ring(groups, seed=3)
    assert torch.equal(groups[partner], groups) and sorted(partner.tolist()) == list(range(9))
    assert [n for n in range(9) if partner[n] == n] == [4]
    assert not torch.equal(ring(torch.zeros(50, dtype=torch.int64), 0), ring(torch.zeros(50, dtype=torch.int64), 1))


@pytest.mark.parametrize("size", [2, 3, 40])
def test_the_error_around_rings_allows_for_what_neighbours_share(size):
    """Swapping loses f(w_n) - g(w_n, w_n'); over many repetitions its mean spreads as the error says."""
    groups = torch.arange(120) // size
    means, errors, naive = [], [], []
    for seed in range(800):
        w, partner = normals(120, seed=seed), ring(groups, seed)
        lost = w * w[partner] + 2 * w + 2 * w[partner]
        estimate = ring_estimate(lost, partner)
        means.append(estimate.mean)
        errors.append(estimate.standard_error**2)
        naive.append(float(lost.var()) / 120)
    spread = float(torch.tensor(means).std())  # known to 2.5 % from 800 repetitions
    assert math.sqrt(sum(errors) / 800) == pytest.approx(spread, rel=0.1)
    assert math.sqrt(sum(naive) / 800) < 0.8 * spread


def test_loners_count_for_nothing():
    estimate = ring_estimate(torch.tensor([1.0, 2.0, 100.0]), torch.tensor([1, 0, 2]))
    assert estimate.mean == 1.5 and torch.equal(estimate.per_example, torch.tensor([1.0, 2.0]))


# --- is z used ----------------------------------------------------------------------------------------------


def test_what_another_z_costs_and_changes_in_closed_form():
    """1-d: the loss is W a Var(u) / t^2, and |W| E|z - z'| = 2 |W| / sqrt(pi)."""
    net, data = vae(4000, (0.7,), (0.5,), decode=matrix([1.2]), noise=0.9)
    used = is_z_used(net, data, **GREY)
    assert within(used.likelihood_lost, 1.2 * 0.7 / 0.81)
    assert within(used.output_change, 1.2 * 2 / math.sqrt(math.pi))
    assert used.within_y and f"costs {used.likelihood_lost} nats" in str(used)


def test_only_what_z_tells_beyond_y_counts():
    """z that carries the label alone: swapping within the label costs nothing, across labels a lot."""
    labels = torch.arange(400) % 2
    shift = torch.zeros(64, 1, dtype=torch.float64)
    shift[1] = 5.0
    u = shift[labels] + 0.5 * normals(400, 1)
    net = LinearGaussian(u, matrix([0.0]), matrix(0.1), shift=shift, decode=matrix([1.0]))
    data = numbered(labels)
    assert within(is_z_used(net, data, **GREY).likelihood_lost, 0.0)
    everyone = is_z_used(net, data, groups=torch.zeros(400, dtype=torch.int64), **GREY)
    assert everyone.likelihood_lost.mean == pytest.approx(25 / 4, rel=0.2)  # half the images get the wrong cloud


def test_a_deaf_decoder_loses_exactly_nothing():
    net, data = vae(300, (1.0,), (0.2,))
    used = is_z_used(net, data, **GREY)
    assert used.output_change.per_example.abs().max() == 0 and used.likelihood_lost.per_example.abs().max() == 0


def test_without_shared_y_partners_come_from_everywhere():
    net = LinearGaussian(normals(30, 1), matrix([1.0]), matrix(0.1), shift=normals(64, 1), decode=matrix([1.0]))
    used = is_z_used(net, numbered(torch.arange(30)), **GREY)
    assert not used.within_y and len(used.likelihood_lost.per_example) == 30
    assert "with the same y" not in str(used)


def test_the_error_of_the_swapped_z_is_its_spread():
    means, errors = [], []
    for seed in range(300):
        net, data = vae(60, (0.7,), (0.5,), decode=matrix([1.2]), noise=0.9, seed=seed)
        lost = is_z_used(net, data, seed=seed, **GREY).likelihood_lost
        means.append(lost.mean)
        errors.append(lost.standard_error**2)
    # 300 runs give the spread to 4 %
    assert math.sqrt(sum(errors) / 300) == pytest.approx(float(torch.tensor(means).std()), rel=0.15)


# --- is y used ----------------------------------------------------------------------------------------------


def exact_pair(count=600, told=1.0):
    """A model whose encoder is the exact posterior for every (u, y), and log p(u|y) in closed form."""
    w, noise, v = matrix([1.0], [0.5]), 0.7, told * normals(64, 2, seed=4)
    labels = torch.arange(count) % 4
    u = normals(count, 1, seed=5) @ w.T + noise * normals(count, 2, seed=6) + v[labels]
    precision = 1 + float(w.T @ w) / noise**2
    gain = w.T / noise**2 / precision
    net = LinearGaussian(u, gain, matrix(precision**-0.5), shift=-v @ gain.T, decode=w, noise=noise, told=v)
    covariance = w @ w.T + noise**2 * torch.eye(2, dtype=torch.float64)
    return net, numbered(labels), lambda y: MultivariateNormal(v[y], covariance).log_prob(u)


@pytest.mark.parametrize("samples", [1, 7])
def test_the_loss_from_a_shuffled_y_is_exact_with_the_exact_posterior(samples):
    net, data, exact = exact_pair()
    used = is_y_used(net, data, samples=samples, **GREY)
    swapped = data.labels[ring(torch.zeros(600, dtype=torch.int64), seed=0)]
    torch.testing.assert_close(used.true.per_example, exact(data.labels).float())
    torch.testing.assert_close(used.shuffled.per_example, exact(swapped).float())
    assert used.likelihood_lost.mean == pytest.approx(float((exact(data.labels) - exact(swapped)).mean()), abs=1e-9)
    assert used.changed == float((swapped != data.labels).double().mean())
    # over all partners, not these: the mean over labels drawn from the data's own
    everyone = torch.stack([exact(torch.full_like(data.labels, label)) for label in range(4)])
    assert within(used.likelihood_lost, float((exact(data.labels) - everyone.mean(0)).mean()))


def test_a_model_deaf_to_y_loses_exactly_nothing():
    net, data, _ = exact_pair(told=0.0)
    used = is_y_used(net, data, samples=3, **GREY)
    assert used.likelihood_lost.per_example.abs().max() == 0 and used.changed > 0.5


def test_the_true_likelihood_is_that_of_log_likelihood():
    net, data = small().eval(), scribbles()
    ours = is_y_used(net, data, samples=400, pixels="threshold").true
    theirs = log_likelihood(net, data, samples=400, pixels="threshold", precision="float32")
    assert (ours.per_example - theirs.per_example).abs().max() < 0.2 and ours.mean == pytest.approx(
        theirs.mean, abs=0.02
    )


def test_y_use_needs_a_y_and_a_sample():
    with pytest.raises(ValueError, match="takes none"):
        is_y_used(*vae(5))
    with pytest.raises(ValueError, match="at least 1 sample"):
        is_y_used(small(), scribbles(), samples=0)
    with pytest.raises(ValueError, match="at least two"):
        is_y_used(small(), scribbles(1))


def test_y_may_be_something_else_than_the_label():
    net, data = small(), scribbles()
    other = (data.labels + 1) % 3
    elsewhere = is_y_used(net, dataclasses.replace(data, labels=other), samples=5)
    assert is_y_used(net, data, y=other, samples=5).true.mean == pytest.approx(elsewhere.true.mean)
    pairs = torch.stack((torch.arange(60) % 2, torch.arange(60) % 3), 1)
    assert examples(net, data, y=pairs).groups.unique().numel() == 6


# --- the report ---------------------------------------------------------------------------------------------


def test_a_collapsed_model_is_called_collapsed():
    net, data = vae(300, (0.0, 0.0), (1.0, 1.0), decode=matrix([1.0, 0.0], [0.0, 1.0]))
    report = collapse_report(net, data, **GREY)
    assert report.latent_verdict == "collapsed" and report.condition_verdict == "none"
    assert report.active.count == 0 and report.rate.mean == pytest.approx(0, abs=1e-6)
    for symptom in ("no latent is active", "z tells nothing about x", "as well with the z of another image"):
        assert symptom in report.verdict
    assert report.verdict.endswith("there is no y.")


def test_idle_latents_are_a_partial_collapse_and_none_is_alive():
    net, data = vae(300, (0.9, 0.0), (0.4, 1.0), decode=matrix([1.0, 0.0], [0.0, 1.0]), noise=0.5)
    report = collapse_report(net, data, **GREY)
    assert report.verdict == "z is partly collapsed (1 of 2 latents idle); there is no y."
    kl = 0.5 * (0.81 * net.u[:, 0].square().mean() + 0.16 - 1 - math.log(0.16))
    torch.testing.assert_close(report.kl_per_latent, torch.tensor([float(kl), 0.0]))
    assert report.rate.mean == pytest.approx(float(kl), rel=1e-5)
    net, data = vae(300, (0.9, 0.9), (0.4, 0.4), decode=matrix([1.0, 0.0], [0.0, 1.0]), noise=0.5)
    assert collapse_report(net, data, **GREY).verdict == "z is alive; there is no y."


def test_an_encoder_that_nobody_listens_to_is_a_collapse_too():
    net, data = vae(300, (0.9,), (0.4,))
    report = collapse_report(net, data, **GREY)
    assert report.symptoms == ("the decoder does as well with the z of another image",)
    assert report.latent_verdict == "collapsed" and report.active.count == 1


def test_y_is_used_or_ignored():
    net, data, _ = exact_pair()
    assert collapse_report(net, data, **GREY).verdict == "z is alive; y is used."
    net, data, _ = exact_pair(told=0.0)
    assert collapse_report(net, data, **GREY).condition_verdict == "ignored"


def test_a_loss_within_its_own_noise_decides_nothing():
    net, data, _ = exact_pair()
    report = collapse_report(net, data, **GREY)
    lost = report.y_used.likelihood_lost
    for mean, error, verdict in ((0.5, 0.3, "ignored"), (0.5, 0.2, "used"), (0.05, 0.0, "ignored")):
        doubtful = dataclasses.replace(report.y_used, likelihood_lost=lost._replace(mean=mean, standard_error=error))
        assert dataclasses.replace(report, y_used=doubtful).condition_verdict == verdict


def test_the_report_is_an_aligned_table():
    net, data, _ = exact_pair()
    *rows, verdict = str(collapse_report(net, data, **GREY)).splitlines()
    assert len(rows) == 10 and verdict.startswith("z is")
    ends = {row.index("±") for row in rows if "±" in row and row.endswith("nats")}
    assert len(ends) <= 2  # figures end in one column; the errors behind them have four or five characters
    assert all(len(row) <= 110 for row in rows)


def test_a_continuous_y_leaves_the_information_out_unless_grouped():
    net = LinearGaussian(normals(40, 1), matrix([0.9]), matrix(0.4), shift=normals(64, 1), decode=matrix([1.0]))
    data = numbered(torch.arange(40))
    report = collapse_report(net, data, samples=2, **GREY)
    assert report.information is None and "unknown" in str(report) and "any y" in str(report)
    grouped = collapse_report(net, data, samples=2, groups=torch.arange(40) // 10, **GREY)
    assert grouped.information.set_sizes == (10, 10) and "same y" in str(grouped)


def test_a_y_of_several_parts_is_reported_on_too():
    data, kinds = scribbles(), torch.tensor([[0.5], [1.0]])
    y = (data.labels, kinds[torch.arange(60) % 2])
    net = small(condition="label+attributes", attributes=("width",))
    report = collapse_report(net, data, y=y, samples=3)
    assert report.information.set_sizes == (10, 10) and report.z_used.within_y and report.y_used.changed > 0.5
    assert report.information.lower.mean == mutual_information(net, data, y=y).lower.mean


def test_examples_of_which_the_same_is_unknown_have_the_same_y():
    data, numbers = scribbles(300), torch.stack((torch.arange(300) % 5, torch.arange(300) % 2), 1).float()
    numbers[torch.arange(300) % 3 == 0, 1] = math.nan
    net = small(condition="attributes", attributes=("a", "b"))
    groups = examples(net, data, y=numbers).groups
    told = [tuple(row) for row in numbers.nan_to_num(-1).tolist()]
    assert len(set(told)) == 15 == groups.unique().numel() == len(set(zip(told, groups.tolist(), strict=True)))


def test_what_is_hidden_makes_no_two_y_different():
    data, mask = scribbles(40), torch.zeros(40, 1, 4, 3).bool()
    mask[:, :, 0] = True
    image = torch.rand(40, 1, 4, 3)
    image[:, :, 0] = (torch.arange(40) % 4)[:, None, None]  # four kinds of top row
    image[7, 0, 2, 1] = math.nan
    groups = examples(small(condition="observed"), data, y=Observed(image, mask)).groups
    assert groups.unique().numel() == 4 and torch.equal(groups[:4], groups[36:])


def test_a_rate_that_does_not_split_by_latent_is_shown_whole(monkeypatch):
    original = terms_module.elbo_terms
    monkeypatch.setattr(
        terms_module,
        "elbo_terms",
        lambda *a: original(*a)._replace(kl=original(*a).kl.sum(1, keepdim=True)),
    )
    report = collapse_report(*vae(50), **GREY)
    assert report.kl_per_latent is None and "largest first" not in str(report)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [0, 3])
def test_the_report_of_a_network_follows_its_dtype_and_leaves_the_callers_randomness_alone(dtype, classes):
    net, data = small(num_classes=classes).to(dtype), scribbles()
    state = torch.get_rng_state()
    first, second = collapse_report(net, data), collapse_report(net, data)
    assert torch.equal(state, torch.get_rng_state()) and str(first) == str(second)
    assert first.rate.mean == pytest.approx(first.information.rate.mean, abs=0.2)
    assert first.distortion.mean == pytest.approx(12 * math.log(2), rel=0.2)  # 12 pixels, untrained


def test_the_fast_profile_looks_at_fewer_images_and_samples(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "fast")
    rows = []
    original = CVAE.likelihood
    monkeypatch.setattr(CVAE, "likelihood", lambda self, z, y=None: rows.append(z.shape) or original(self, z, y))
    used = is_y_used(small(), scribbles(600), samples=100)
    assert len(used.true.per_example) == 200 and max(shape[0] for shape in rows) == 5
    report = collapse_report(small(), scribbles(600), y=torch.zeros(600, dtype=torch.int64))
    assert len(report.rate.per_example) == len(report.information.rate.per_example) == 200
    assert len(report.z_used.output_change.per_example) == 200 and report.information.set_sizes == (200, 200)


def test_no_more_rows_are_decoded_at_once_than_the_limit(monkeypatch):
    rows = []
    original = CVAE.likelihood
    monkeypatch.setattr(
        CVAE, "likelihood", lambda self, z, y=None: rows.append(z.shape[:-1].numel()) or original(self, z, y)
    )
    net, data = small(), scribbles(3000)
    is_z_used(net, data)
    is_y_used(net, data, samples=50)
    assert max(rows) == 2000
