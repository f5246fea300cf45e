"""The study of the quadrants: what is observed, what is left, who may look at z; and a rehearsal from end to end."""

import json

import pytest
import quadrants
import torch

from cvae_lib import data
from cvae_lib.evaluation import log_likelihood
from cvae_lib.objective import elbo_terms, log_importance_weights


def digits(count: int = 40) -> data.ImageSet:
    return data.strokes("test", count=count)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_observed_quadrants_are_those_of_the_task(count):
    mask = quadrants.seen(count)
    corners = {
        name: mask[rows, columns]
        for name, rows, columns in (
            ("bottom left", slice(14, 28), slice(14)),
            ("top left", slice(14), slice(14)),
            ("top right", slice(14), slice(14, 28)),
            ("bottom right", slice(14, 28), slice(14, 28)),
        )
    }
    assert [name for name, corner in corners.items() if corner.all()] == list(corners)[:count]
    assert int(mask.sum()) == 196 * count


@pytest.mark.parametrize("count", [1, 2, 3])
def test_observed_and_unobserved_pixels_are_the_whole_image_and_share_none(count):
    some = digits()
    rest, y = quadrants.task(some, count)
    assert rest.image_shape == (1, 1, 784 - 196 * count) and y.shape == (40, 196 * count)
    assert torch.equal(quadrants.whole(rest.pixels(), y, count), some.pixels())
    drawn = rest.pixels().expand(3, -1, -1, -1, -1)  # three completions of each
    assert torch.equal(quadrants.whole(drawn, y, count)[2], some.pixels())


def test_the_deterministic_network_ignores_z_and_its_likelihood_is_exact():
    rest, y = quadrants.task(digits(), 2)
    model = quadrants.built("deterministic", 2, latent_dim=3, hidden=(8,)).eval()
    exact = model.likelihood(torch.zeros(40, 3), y).log_prob(rest.pixels())
    assert torch.equal(model.likelihood(torch.randn(40, 3), y).mean, model.likelihood(torch.randn(40, 3), y).mean)
    terms = elbo_terms(model, rest.pixels(), y)
    torch.testing.assert_close(terms.elbo, exact)
    assert torch.equal(terms.rate, torch.zeros(40))
    found = log_likelihood(model, rest, y=y, samples=1, proposal="prior")
    torch.testing.assert_close(found.per_example, exact, rtol=1e-5, atol=1e-4)


def test_nobody_infers_the_gsnns_z_from_x():
    rest, y = quadrants.task(digits(), 1)
    model = quadrants.built("gsnn", 1, latent_dim=3, hidden=(8,)).eval()
    p, q = model.prior(y), model.posterior(rest.pixels(), y)
    assert torch.equal(p.mean, q.mean) and torch.equal(p.stddev, q.stddev)
    torch.manual_seed(0)
    weights = log_importance_weights(model, rest.pixels(), y, 4, proposal="prior")
    torch.manual_seed(0)
    as_posterior = log_importance_weights(model, rest.pixels(), y, 4)  # p(z|y) / q(z|x,y) is one
    torch.testing.assert_close(weights, as_posterior)


def test_the_study_goes_on_where_it_was_and_writes_its_record(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "mnist", lambda split: data.strokes(split, count=120))
    for name, value in {"QUADRANTS": (2,), "SEEDS": (0,), "SUBSET": 12, "CURVE": 8}.items():
        monkeypatch.setattr(quadrants, name, value)
    monkeypatch.setattr(quadrants, "BASE", {**quadrants.BASE, "latent_dim": 3, "hidden": (8,)})
    arguments = ["--kept", str(tmp_path)]
    assert quadrants.main([*arguments, "--minutes", "0"]) == 0
    assert len(list(tmp_path.glob("*_training-0.json"))) == 1 and "call again" in capsys.readouterr().out
    assert quadrants.main([*arguments, "--backwards"]) == 0
    record = json.loads((tmp_path / "quadrants.json").read_text())
    (run,) = record["runs"]
    for kind in quadrants.KINDS:
        assert run[f"{kind}_2_nll"] > 0 and run[f"{kind}_2_nll_stochastic"] > 0
    found = {name: json.loads((tmp_path / f"{name}_2_likelihood-0.json").read_text()) for name in ("cvae", "gsnn")}
    cvae, gsnn = (torch.tensor(each["per_example"]["log_likelihood"]) for each in found.values())
    assert len(gsnn) == 12 < len(cvae)
    assert run["cvae_2_over_gsnn"] == pytest.approx(float((cvae[:12] - gsnn).mean()), abs=2e-4)
    assert run["cvae_2_over_deterministic_error"] > 0
    assert "wrote quadrants.json" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*-0.json")}
    assert quadrants.main(arguments) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*-0.json")}
