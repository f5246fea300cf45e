"""What the benchmark compares: both sides of a race compute the same thing, and a ratio is what it says."""

import bench
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from cvae_lib import CVAE, CVAEConfig, data, log_likelihood


def test_the_plain_loops_loss_is_minus_the_elbo():
    model, x = bench.ExampleVAE(), torch.rand(6, 784)
    h = torch.nn.functional.silu(model.hidden(x))
    q = Normal(model.mean(h), (0.5 * model.log_variance(h)).exp())
    torch.manual_seed(0)
    z = q.rsample()
    torch.manual_seed(0)
    p = Bernoulli(logits=model.out(torch.nn.functional.silu(model.unfold(z))), validate_args=False)
    elbo = p.log_prob(x).sum(1) - kl_divergence(q, Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(model.loss(x), -elbo.mean())


def test_both_likelihoods_are_estimates_of_the_same_number():
    model = CVAE(CVAEConfig(latent_dim=2, hidden=(8,))).eval()
    black_and_white = data.strokes("test", count=200)
    levels = (black_and_white.images > 127).byte() * 255  # so that every binarisation is the same
    images = data.ImageSet(levels, black_and_white.labels, "strokes", classes=10)
    plain = bench.plain_log_likelihood(model, images, 5)
    ours = log_likelihood(model, images, samples=5).per_example
    gap = plain[: len(ours)] - ours
    assert len(ours) == 200 and abs(float(gap.mean())) < 4 * float(gap.std()) / 200**0.5


def test_ratios_compare_times_of_the_same_round():
    times = {"plain": [2.0, 4.0, 2.0, 2.0, 6.0], "ours": [1.0, 1.0, 2.0, 0.5, 2.0]}
    plain, ours = bench.ratios(times, "plain", 10, "images")
    assert (plain["images_per_second"], ours["images_per_second"]) == (5, 10)
    names = ("slowest_ratio", "fastest_ratio", "median_ratio")
    assert [plain[name] for name in names] == [1, 1, 1] and [ours[name] for name in names] == [1, 4, 3]


def test_contestants_take_turns_after_a_round_that_does_not_count():
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    times = bench.race(contestants, torch.device("cpu"), rounds=3)
    assert "".join(calls) == "abababab" and {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_a_table_has_a_line_for_each_row_under_its_keys():
    printed = bench.table([{"what": "a", "n": 1}, {"what": "longer", "n": 22}])
    assert [line.split() for line in printed.splitlines()] == [["what", "n"], ["a", "1"], ["longer", "22"]]
