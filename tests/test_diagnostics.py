"""Active units, information, use of z and y, collapse report: against linear-Gaussian closed forms."""

import dataclasses
import math

import pytest
import torch
from linear_gaussian import LinearGaussian, matrix, normals
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
from cvae_lib.model import CVAE, CVAEConfig

pytestmark = pytest.mark.usefixtures("full_profile")


def vae(count=2000, a=(1.5, 0.5), s=(0.5, 0.8), decode=None, noise=1.0, seed=0):
    """A VAE with q = N(a u, s^2) latent by latent, and its data."""
    u = normals(count, len(a), seed=seed)
    return LinearGaussian(torch.diag(matrix(*a)), matrix(*s), decode=decode, noise=noise), u


def small(kind=CVAE, **changes):
    torch.manual_seed(0)
    return kind(CVAEConfig(**{"num_classes": 3, "latent_dim": 2, "hidden": (8,), "event_shape": (1, 4, 3), **changes}))


def scribbles(count=60, classes=3):
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (count, 1, 4, 3), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(count) % classes, "scribbles", classes=classes)


def within(estimate, truth, errors=4.0):
    """Say whether an estimate lies within so many of its standard errors of the truth."""
    return abs(estimate.mean - truth) < errors * estimate.standard_error


# --- active units -------------------------------------------------------------------------------------------


def test_active_units_are_the_variances_of_the_posterior_mean():
    net, u = vae(a=(2.0, 0.05, 0.0), s=(1.0, 1.0, 1.0))
    active = active_units(net, u)
    torch.testing.assert_close(active.variances, (u * matrix(2.0, 0.05, 0.0)).var(0).float())
    assert active.count == 1 and active_units(net, u, 0.001).count == 2
    # for Gaussian data the variance of a variance is 2 A^2 / N
    expected = torch.tensor([4.0, 0.0025, 0.0]) * math.sqrt(2 / len(u))
    torch.testing.assert_close(active.errors, expected, rtol=0.1, atol=0)
    assert str(active) == "1 of 3 latents active (variance above 0.01)"


def test_active_units_do_not_depend_on_the_order_or_on_the_batches():
    net, u = vae(count=2300)
    ours, theirs = active_units(net, u), active_units(net, u[torch.randperm(2300)])
    torch.testing.assert_close(ours.variances, theirs.variances, rtol=1e-6, atol=0)


def test_a_posterior_that_only_follows_the_prior_is_not_active():
    u, labels, moving = normals(300, 1), torch.arange(300) % 3, normals(64, 1) * 5
    net = LinearGaussian(matrix([0.0]), matrix(1.0), encode_y=moving, prior_mean=moving)
    assert active_units(net, (u, labels)).variances.max() < 1e-12
    fixed = LinearGaussian(matrix([0.0]), matrix(1.0), encode_y=moving)
    torch.testing.assert_close(active_units(fixed, (u, labels)).variances, moving[labels].var(0).float())


def test_a_latent_that_repeats_the_label_is_active_but_not_within_it():
    u, labels = normals(400, 2), torch.arange(400) % 3
    shift = torch.zeros(64, 2, dtype=torch.float64)
    shift[:3, 0] = matrix(-3.0, 0.0, 3.0)
    net = LinearGaussian(torch.diag(matrix(0.0, 0.9)), matrix(1.0, 1.0), encode_y=shift)
    active = active_units(net, (u, labels))
    expected = sum(0.81 * u[labels == k, 1].var(unbiased=False) * (labels == k).sum() for k in range(3)) / (400 - 3)
    torch.testing.assert_close(active.within_y.double(), torch.stack((0 * expected, expected)), atol=1e-6, rtol=1e-6)
    assert (active.count, active.count_within_y) == (2, 1) and str(active).endswith(
        "1 of them among examples of the same y"
    )
    assert active_units(net, (u[:60], torch.arange(60))).count_within_y is None


# --- mutual information -------------------------------------------------------------------------------------


def gaussian_information(a, s):
    return sum(0.5 * math.log1p((x / y) ** 2) for x, y in zip(a, s, strict=True))


def gaussian_kl(variance, shift=0.0):
    """KL(N(shift, variance) || N(0, 1))."""
    return 0.5 * (variance + shift**2 - 1 - math.log(variance))


def test_information_and_aggregate_kl_of_a_gaussian_channel():
    a, s = (1.5, 0.5), (0.5, 0.8)
    net, data = vae(3000, a, s)
    found = mutual_information(net, data, samples=2)
    truth, kl = gaussian_information(a, s), sum(gaussian_kl(x * x + y * y) for x, y in zip(a, s, strict=True))
    assert within(found.lower, truth) and within(found.upper, truth)
    assert found.lower.mean < found.upper.mean < found.lower.mean + 0.02
    assert within(found.aggregate_kl, kl) and within(found.rate, truth + kl)
    assert found.cap == pytest.approx(math.log(3000)) and found.set_sizes == (3000, 3000) and not found.saturated


@pytest.mark.parametrize("samples", [1, 3])
def test_the_rate_is_information_plus_aggregate_kl_image_by_image(samples):
    net, data = vae(200)
    found = mutual_information(net, data, samples=samples)
    assert found.rate.mean == pytest.approx(found.lower.mean + found.aggregate_kl.mean, abs=1e-12)
    torch.testing.assert_close(found.rate.per_example, found.lower.per_example + found.aggregate_kl.per_example)


def test_the_sampled_rate_is_the_closed_form_kl():
    net, u = vae(2000)
    kl = torch.distributions.kl_divergence(net.posterior(u), net.prior(batch=2000))
    off = mean_and_error(mutual_information(net, u, samples=20).rate.per_example - kl)
    assert within(off, 0.0)


def test_each_image_finds_its_own_figure_though_labels_alternate():
    u = 10.0 * torch.arange(1, 41, dtype=torch.float64)[:, None]
    found = mutual_information(LinearGaussian(matrix([1.0]), matrix(1.0)), (u, torch.arange(40) % 2), samples=50)
    torch.testing.assert_close(found.rate.per_example.double(), u[:, 0] ** 2 / 2, rtol=0.2, atol=0)


def test_the_lower_estimate_is_the_information_of_the_images_at_hand():
    """For n posteriors, I(n;z) and KL(mixture || prior) are integrals over one latent."""
    net, u = vae(9, (1.3,), (0.4,))
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    parts = Normal(1.3 * u, 0.4).log_prob(z)  # (9, grid)
    mixture = parts.logsumexp(0) - math.log(9)
    information = torch.trapezoid((parts.exp() * (parts - mixture)).mean(0), z)
    kl = torch.trapezoid(mixture.exp() * (mixture - Normal(0.0, 1.0).log_prob(z)), z)
    # these 9 images are all there are, so only the draws of z err, and the runs say by how much
    runs = [mutual_information(net, u, samples=1000, seed=seed) for seed in range(40)]
    assert within(mean_and_error(torch.tensor([run.lower.mean for run in runs])), float(information))
    assert within(mean_and_error(torch.tensor([run.aggregate_kl.mean for run in runs])), float(kl))


def test_in_expectation_the_truth_lies_between_the_bounds_and_the_error_is_the_spread():
    truth = gaussian_information((1.5,), (0.3,))
    runs = []
    for seed in range(300):
        net, data = vae(40, (1.5,), (0.3,), seed=seed)
        runs.append(mutual_information(net, data, seed=seed))
    lower, upper = (mean_and_error(torch.tensor([getattr(run, n).mean for run in runs])) for n in ("lower", "upper"))
    assert lower.mean + 3 * lower.standard_error < truth < upper.mean - 3 * upper.standard_error
    promised = math.sqrt(sum(run.lower.standard_error**2 for run in runs) / len(runs))
    # 300 runs give their own spread to 4 %; the rest is the second-order part that the docstring names
    assert float(torch.tensor([run.lower.mean for run in runs]).std()) == pytest.approx(promised, rel=0.15)


def test_a_set_too_small_saturates_at_its_logarithm_and_says_so():
    net, data = vae(50, (1.0,), (1e-4,))
    found = mutual_information(net, data)
    assert found.lower.mean == pytest.approx(math.log(50), abs=0.05) and found.lower.mean <= found.cap + 1e-12
    assert found.saturated and found.upper.mean > gaussian_information((1.0,), (1e-4,))
    assert "cap 3.91 from sets of 50, reached" in str(found)


def test_a_collapsed_posterior_holds_no_information_at_all():
    net, data = vae(100, (0.0, 0.0), (1.0, 1.0))
    found = mutual_information(net, data)
    for estimate in (found.lower, found.upper, found.aggregate_kl, found.rate):
        assert estimate.per_example.abs().max() < 1e-6
    assert not found.saturated


def test_aggregates_are_over_images_of_the_same_label():
    count, labels = 2000, torch.arange(2000) % 2
    shift = torch.zeros(64, 1, dtype=torch.float64)
    shift[1] = 6.0
    net, data = LinearGaussian(matrix([0.8]), matrix(0.6), encode_y=shift), (normals(count, 1), labels)
    found = mutual_information(net, data)
    given_y = gaussian_information((0.8,), (0.6,))
    assert within(found.lower, given_y) and found.set_sizes == (1000, 1000)
    assert within(found.aggregate_kl, (gaussian_kl(1.0) + gaussian_kl(1.0, 6.0)) / 2)
    # two clouds six deviations apart: without the grouping z tells the label as well, ln 2 more
    everything = mutual_information(net, data, groups=torch.zeros(count, dtype=torch.int64))
    assert everything.lower.mean == pytest.approx(given_y + math.log(2), abs=0.1)


def test_a_learned_prior_takes_the_aggregate_kl_away():
    shift = normals(64, 1) * 4
    net = LinearGaussian(matrix([0.6]), matrix(0.8), encode_y=shift, prior_mean=shift)
    assert within(mutual_information(net, (normals(600, 1), torch.arange(600) % 3)).aggregate_kl, 0.0)


def test_the_prior_may_be_a_mixture():
    class WithMixture(LinearGaussian):
        def prior(self, y=None, batch=None):
            centres = matrix([-2.0], [2.0]).expand(batch, 2, 1)
            parts = Independent(Normal(centres, torch.full_like(centres, 0.7)), 1)
            return MixtureSameFamily(Categorical(torch.ones(batch, 2, dtype=torch.float64)), parts)

    net, u = WithMixture(matrix([1.0]), matrix(0.5)), normals(3000, 1)
    found = mutual_information(net, u, samples=2)
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    aggregate = Normal(0.0, math.sqrt(1.25)).log_prob(z)
    kl = torch.trapezoid(aggregate.exp() * (aggregate - net.prior(batch=len(z)).log_prob(z[:, None])), z)
    assert within(found.aggregate_kl, float(kl))
    assert found.rate.mean == pytest.approx(found.lower.mean + found.aggregate_kl.mean, abs=1e-12)
    assert active_units(net, u).count == 1
    assert is_z_used(net, u).within_y


class _Noting(Independent):
    """A prior that notes the z it is asked about."""

    def log_prob(self, value):
        self.asked.append(value)
        return super().log_prob(value)


def test_both_bounds_are_the_definitions_at_the_z_that_were_drawn():
    """Against the whole table of densities by torch; 2,000 posteriors at 3 draws each are more than go at once."""

    class Uneven(LinearGaussian):
        def posterior(self, x, y=None):
            return Independent(Normal(x, 0.02 + x.square() / 9), 1)

        def prior(self, y=None, batch=None):
            noting = _Noting(Normal(torch.zeros(batch, 2).double(), 1.0), 1)
            noting.asked = self.asked
            return noting

    net, u = Uneven(matrix([0.0, 0.0]), matrix(1.0)), normals(2000, 2)
    net.asked = []
    found = mutual_information(net, u, samples=3)
    z, q = torch.cat(net.asked, 1), net.posterior(u)  # (3, N, 2)
    own = q.log_prob(z)
    table = torch.stack([q.log_prob(draw[:, None]) for draw in z])  # (3, N, N): entry n, m is log q(z_n|x_m)
    lower = (own - table.logsumexp(2) + math.log(2000)).mean(0)
    others = table.masked_fill(torch.eye(2000, dtype=torch.bool), -math.inf).logsumexp(2)
    upper = (own - others + math.log(1999)).mean(0)
    rate = (own - Independent(Normal(torch.zeros(2).double(), 1.0), 1).log_prob(z)).mean(0)
    for ours, theirs in ((found.lower, lower), (found.upper, upper), (found.rate, rate)):
        torch.testing.assert_close(ours.per_example, theirs.float(), rtol=1e-5, atol=1e-5)


def test_examples_whose_y_nobody_shares_are_left_out_or_named(as_users_call):
    net, u = LinearGaussian(matrix([1.0]), matrix(1.0), encode_y=normals(64, 1)), normals(5, 1)
    assert mutual_information(net, (u, torch.tensor([0, 0, 1, 2, 2]))).lower.per_example.shape == (4,)
    with pytest.raises(ValueError, match=r"No two examples share their y.*groups="):
        mutual_information(net, (u, torch.arange(5)))
    with pytest.raises(ValueError, match="one entry per example, 5, not 4"):
        mutual_information(net, u, groups=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least 1 sample, not 0"):
        mutual_information(net, u, samples=0)
    with pytest.raises(ValueError, match="takes no y"):
        mutual_information(small(num_classes=0), scribbles(5), y=torch.arange(5))


# --- partners -----------------------------------------------------------------------------------------------


def partners(groups, seed=0):
    """Return with whom each example swaps its z, read from what the swap costs, (u_n - u_m)^2 / 2; -1 for nobody."""
    u = 3.0 ** torch.arange(len(groups)).double()[:, None]  # so that every difference is another
    net = LinearGaussian(matrix([1.0]), matrix(1e-12), decode=matrix([1.0]))  # z is u
    lost = is_z_used(net, u, groups=groups, seed=seed).likelihood_lost.per_example.double()
    costs = (u - u.T).square() / 2
    alone = torch.tensor([int((groups == group).sum()) == 1 for group in groups])
    found = torch.full((len(groups),), -1)
    found[~alone] = (costs[~alone] / lost[:, None] - 1).abs().argmin(1)
    torch.testing.assert_close(costs[torch.arange(len(u)), found][~alone], lost, rtol=1e-5, atol=0)
    return found


def test_a_partner_is_another_of_the_same_group_and_everyone_is_one():
    groups = torch.tensor([2, 0, 0, 2, 7, 2, 0, 1, 1])
    partner = partners(groups, seed=3)
    assert partner[4] == -1  # a loner is left out
    kept = torch.tensor([0, 1, 2, 3, 5, 6, 7, 8])
    assert torch.equal(groups[partner[kept]], groups[kept]) and sorted(partner[kept].tolist()) == kept.tolist()
    assert (partner[kept] != kept).all()
    assert not torch.equal(partners(torch.zeros(20).long(), 0), partners(torch.zeros(20).long(), 1))


@pytest.mark.parametrize("size", [2, 3, 60])
def test_the_error_of_the_swapped_z_is_its_spread(size):
    """Neighbours share a z, which a plain standard error does not see; pairs and triples share more than circles."""
    means, errors, plain = [], [], []
    for seed in range(400):
        net, u = vae(60, (0.7,), (0.1,), decode=matrix([1.2]), noise=0.9, seed=seed)
        lost = is_z_used(net, 1 + u, groups=torch.arange(60) // size, seed=seed).likelihood_lost
        means.append(lost.mean)
        errors.append(lost.standard_error**2)
        plain.append(float(lost.per_example.var()) / 60)
    spread = float(torch.tensor(means).std())  # 400 runs give it to 3.5 %
    assert math.sqrt(sum(errors) / 400) == pytest.approx(spread, rel=0.15)
    assert math.sqrt(sum(plain) / 400) < 0.85 * spread  # which would not have passed the line above


# --- is z used ----------------------------------------------------------------------------------------------


def test_what_another_z_costs_and_changes_in_closed_form():
    """1-d: the loss is W a Var(u) / t^2, and |W| E|z - z'| = 2 |W| / sqrt(pi)."""
    net, data = vae(4000, (0.7,), (0.5,), decode=matrix([1.2]), noise=0.9)
    used = is_z_used(net, data)
    assert within(used.likelihood_lost, 1.2 * 0.7 / 0.81)
    assert within(used.output_change, 1.2 * 2 / math.sqrt(math.pi))
    assert used.within_y and f"costs {used.likelihood_lost} nats" in str(used)


def test_only_what_z_tells_beyond_y_counts():
    """z that carries the label alone: swapping within the label costs nothing, across labels a lot."""
    labels = torch.arange(400) % 2
    shift = torch.zeros(64, 1, dtype=torch.float64)
    shift[1] = 5.0
    u = shift[labels] + 0.5 * normals(400, 1)
    net, data = LinearGaussian(matrix([0.0]), matrix(0.1), encode_y=shift, decode=matrix([1.0])), (u, labels)
    assert within(is_z_used(net, data).likelihood_lost, 0.0)
    everyone = is_z_used(net, data, groups=torch.zeros(400, dtype=torch.int64))
    assert everyone.likelihood_lost.mean == pytest.approx(25 / 4, rel=0.2)  # half the images get the wrong cloud


def test_a_decoder_that_ignores_z_loses_exactly_nothing():
    net, data = vae(300, (1.0,), (0.2,))
    used = is_z_used(net, data)
    assert used.output_change.per_example.abs().max() == 0 and used.likelihood_lost.per_example.abs().max() == 0


def test_without_shared_y_partners_come_from_everywhere():
    net = LinearGaussian(matrix([1.0]), matrix(0.1), encode_y=normals(64, 1), decode=matrix([1.0]))
    used = is_z_used(net, (normals(30, 1), torch.arange(30)))
    assert not used.within_y and len(used.likelihood_lost.per_example) == 30
    assert "with the same y" not in str(used)


# --- is y used ----------------------------------------------------------------------------------------------


def exact_pair(count=600, strength=1.0):
    """A model whose encoder is the exact posterior for every (u, y), and log p(u|y) in closed form."""
    w, noise, v = matrix([1.0], [0.5]), 0.7, strength * normals(64, 2, seed=4)
    labels = torch.arange(count) % 4
    u = normals(count, 1, seed=5) @ w.T + noise * normals(count, 2, seed=6) + v[labels]
    precision = 1 + float(w.T @ w) / noise**2
    gain = w.T / noise**2 / precision
    net = LinearGaussian(gain, matrix(precision**-0.5), encode_y=-v @ gain.T, decode=w, noise=noise, decode_y=v)
    covariance = w @ w.T + noise**2 * torch.eye(2, dtype=torch.float64)
    return net, (u, labels), lambda y: MultivariateNormal(v[y], covariance).log_prob(u)


@pytest.mark.parametrize("samples", [1, 7])
def test_the_loss_from_a_shuffled_y_is_exact_with_the_exact_posterior(samples):
    net, data, exact = exact_pair()
    labels = data[1]
    used = is_y_used(net, data, samples=samples)
    torch.testing.assert_close(used.true.per_example, exact(labels).float())
    every = torch.stack([exact(torch.full_like(labels, label)) for label in range(4)])  # (4, 600)
    swapped = (every - used.shuffled.per_example).abs().argmin(0)  # the y that each was given, read from its figure
    torch.testing.assert_close(used.shuffled.per_example, exact(swapped).float())
    assert swapped.bincount().tolist() == [150] * 4  # everybody's y was given to somebody
    assert used.likelihood_lost.mean == pytest.approx(float((exact(labels) - exact(swapped)).mean()), abs=1e-9)
    assert used.changed == float((swapped != labels).double().mean()) and 0.6 < used.changed < 0.9
    # over all partners, not these: the mean over labels drawn from the data's own
    assert within(used.likelihood_lost, float((exact(labels) - every.mean(0)).mean()))


def test_a_model_that_ignores_y_loses_exactly_nothing():
    net, data, _ = exact_pair(strength=0.0)
    used = is_y_used(net, data, samples=3)
    assert used.likelihood_lost.per_example.abs().max() == 0 and used.changed > 0.5


def test_the_true_likelihood_is_that_of_log_likelihood():
    net, data = small(pixels="threshold"), scribbles()
    ours = is_y_used(net, data, samples=400).true
    theirs = log_likelihood(net, data, samples=400)
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
    pairs = torch.stack((torch.arange(60) % 2, torch.arange(60) % 3), 1).float()
    of_pairs = small(condition="attributes", attributes=("a", "b"))
    assert mutual_information(of_pairs, data, y=pairs).set_sizes == (10, 10)  # six kinds of pairs


# --- the report ---------------------------------------------------------------------------------------------


def test_a_collapsed_model_is_called_collapsed():
    net, data = vae(300, (0.0, 0.0), (1.0, 1.0), decode=matrix([1.0, 0.0], [0.0, 1.0]))
    report = collapse_report(net, data)
    assert report.latent_verdict == "collapsed" and report.condition_verdict == "none"
    assert report.active.count == 0 and report.rate.mean == pytest.approx(0, abs=1e-6)
    for symptom in ("no latent is active", "z tells nothing about x", "as well with the z of another example"):
        assert symptom in report.verdict
    assert report.verdict.endswith("there is no y.")


def test_idle_latents_are_a_partial_collapse_and_none_is_alive():
    net, u = vae(300, (0.9, 0.0), (0.4, 1.0), decode=matrix([1.0, 0.0], [0.0, 1.0]), noise=0.5)
    report = collapse_report(net, u)
    assert report.verdict == "z is partly collapsed (1 of 2 latents idle); there is no y."
    kl = 0.5 * (0.81 * u[:, 0].square().mean() + 0.16 - 1 - math.log(0.16))
    torch.testing.assert_close(report.kl_per_latent, torch.tensor([float(kl), 0.0]))
    assert report.rate.mean == pytest.approx(float(kl), rel=1e-5)
    net, data = vae(300, (0.9, 0.9), (0.4, 0.4), decode=matrix([1.0, 0.0], [0.0, 1.0]), noise=0.5)
    assert collapse_report(net, data).verdict == "z is alive; there is no y."


def test_an_encoder_whose_z_the_decoder_ignores_is_a_collapse_too():
    net, data = vae(300, (0.9,), (0.4,))
    report = collapse_report(net, data)
    assert report.symptoms == ("the decoder does as well with the z of another example",)
    assert report.latent_verdict == "collapsed" and report.active.count == 1


def test_y_is_used_or_ignored():
    net, data, _ = exact_pair()
    assert collapse_report(net, data).verdict == "z is alive; y is used."
    net, data, _ = exact_pair(strength=0.0)
    assert collapse_report(net, data).condition_verdict == "ignored"


def test_a_loss_within_its_own_noise_decides_nothing():
    net, data, _ = exact_pair()
    report = collapse_report(net, data)
    lost = report.y_used.likelihood_lost
    for mean, error, verdict in ((0.5, 0.3, "ignored"), (0.5, 0.2, "used"), (0.05, 0.0, "ignored")):
        doubtful = dataclasses.replace(report.y_used, likelihood_lost=lost._replace(mean=mean, standard_error=error))
        assert dataclasses.replace(report, y_used=doubtful).condition_verdict == verdict


def test_the_report_is_an_aligned_table():
    net, data, _ = exact_pair()
    *rows, verdict = str(collapse_report(net, data)).splitlines()
    assert len(rows) == 10 and verdict.startswith("z is")
    ends = {row.index("±") for row in rows if "±" in row and row.endswith("nats")}
    assert len(ends) <= 2  # figures end in one column; the errors behind them have four or five characters
    assert all(len(row) <= 110 for row in rows)


def test_a_continuous_y_leaves_the_information_out_unless_grouped():
    net = LinearGaussian(matrix([0.9]), matrix(0.4), encode_y=normals(64, 1), decode=matrix([1.0]))
    data = normals(40, 1), torch.arange(40)
    report = collapse_report(net, data, samples=2)
    assert report.information is None and "unknown" in str(report) and "any y" in str(report)
    grouped = collapse_report(net, data, samples=2, groups=torch.arange(40) // 10)
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
    assert len({tuple(row) for row in numbers.nan_to_num(-1).tolist()}) == 15
    found = mutual_information(net, data, y=numbers)
    assert found.set_sizes == (20, 20) and len(found.lower.per_example) == 300  # so there are 15 sets
    assert mutual_information(net, data, y=numbers, groups=torch.zeros(300).long()).set_sizes == (300, 300)


def test_what_is_hidden_makes_no_two_y_different():
    data, mask = scribbles(40), torch.zeros(40, 1, 4, 3).bool()
    mask[:, :, 0] = True
    image = torch.rand(40, 1, 4, 3)
    image[:, :, 0] = (torch.arange(40) % 4)[:, None, None]  # four kinds of top row
    image[7, 0, 2, 1] = math.nan
    found = mutual_information(small(condition="observed"), data, y=Observed(image, mask))
    assert found.set_sizes == (10, 10) and len(found.lower.per_example) == 40


def test_a_rate_that_does_not_split_by_latent_is_shown_whole():
    report = collapse_report(small(prior="mixture"), scribbles(), samples=2)  # the components tie the latents
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


class _Counting(CVAE):
    """Notes the shapes of the z its decoder is asked about."""

    def likelihood(self, z, y=None):
        self.shapes.append(z.shape)
        return super().likelihood(z, y)


def test_the_fast_profile_looks_at_fewer_images_and_samples(fast_profile):
    net = small(_Counting)
    net.shapes = []
    used = is_y_used(net, scribbles(600), samples=100)
    assert len(used.true.per_example) == 200 and max(shape[0] for shape in net.shapes) == 5
    report = collapse_report(small(), scribbles(600), y=torch.zeros(600, dtype=torch.int64))
    assert len(report.rate.per_example) == len(report.information.rate.per_example) == 200
    assert len(report.z_used.output_change.per_example) == 200 and report.information.set_sizes == (200, 200)


def test_no_more_rows_are_decoded_at_once_than_the_limit():
    net, data = small(_Counting), scribbles(3000)
    net.shapes = []
    is_z_used(net, data)
    is_y_used(net, data, samples=50)
    assert max(shape[:-1].numel() for shape in net.shapes) == 2000
