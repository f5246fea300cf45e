"""What the chapters build by hand agrees with the library."""

import functools
import importlib.util
import math
import sys
from types import ModuleType

import collapse
import cures
import forecasters
import masked
import pytest
import quadrant_models
import torch
from lifting import ROOT, lift

from cvae_lib import data, evaluation
from cvae_lib.conditioning import CrossAttention, make_conditioning
from cvae_lib.conditions import AttributeCondition, CaptionCondition, Observed, Tokens, Vocabulary
from cvae_lib.course.laboratory import water_filling
from cvae_lib.datasets import series
from cvae_lib.environment import seeded
from cvae_lib.gaussians import diagonal_gaussian
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import Linear, elbo_terms, free_bits, kl_per_latent, log_importance_weights
from cvae_lib.priors import ConditionalGaussian

needs_03 = pytest.mark.skipif(not (ROOT / "notebooks/03_class_conditional_mnist.ipynb").exists(), reason="not built")


@needs_03
@pytest.mark.parametrize("name, classes", [("VAE", 0), ("ConditionalVAE", 10)])
def test_chapter_03s_loss_is_the_librarys(name, classes):
    chapter = lift("03_class_conditional_mnist", "W", "D", "Skip", name)
    by_hand, model = chapter[name](), CVAE(CVAEConfig(num_classes=classes, hidden=(chapter["W"],) * 4))
    mine = [*by_hand.encode.parameters(), *by_hand.decode.parameters()]
    for parameter, other in zip(mine, model.parameters(), strict=True):
        parameter.data.copy_(other.data)
    x, y = (torch.rand(20, 1, 28, 28) < 0.2).float(), torch.arange(20) % 10
    torch.manual_seed(3)
    theirs = elbo_terms(model, x, y if classes else None).loss()
    torch.manual_seed(3)
    ours = by_hand.loss(x.flatten(1), y) if classes else by_hand.loss(x.flatten(1))
    # The library bounds log-variances at 10, which changes small ones in the fifth digit.
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-6)


CHAPTER_04 = {
    "concatenation": "Concatenate",
    "addition": "Add",
    "film": "Modulate",
    "batchnorm": "NormaliseAndModulate",
    "attention": "Attend",
}


def pair_of(how: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return chapter 04's layer and the library's, as they start, for 12 features and 5 numbers."""
    return lift("04_where_does_y_go", CHAPTER_04[how])[CHAPTER_04[how]](12, 5), make_conditioning(how, 12, 5)


def share_weights(mine: torch.nn.Module, theirs: torch.nn.Module) -> None:
    for parameter, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        other.data.copy_(torch.nn.init.normal_(parameter.data, std=0.7))


@pytest.mark.parametrize("how", CHAPTER_04)
def test_chapter_04s_layers_are_the_librarys(how):
    mine, theirs = pair_of(how)
    share_weights(mine, theirs)
    for training in (True, True, False):  # batch norm keeps averages, which two steps move
        mine.train(training), theirs.train(training)
        h, c = 1 + 2 * torch.randn(9, 12), torch.randn(9, 5)
        torch.testing.assert_close(mine(h, c), theirs(h, c))
    if how == "concatenation":
        assert mine.out_features == theirs.out_features


def test_chapter_04s_attention_reads_a_list_as_the_librarys():
    mine, theirs = pair_of("attention")
    share_weights(mine, theirs)
    h, c = torch.randn(9, 12), torch.randn(9, 4, 5)
    torch.testing.assert_close(mine(h, c), theirs(h, Tokens(c, torch.ones(9, 4, dtype=torch.bool))))


@pytest.mark.parametrize("how", ["film", "attention"])
def test_chapter_04s_layers_start_where_the_librarys_do(how):
    h, c = torch.randn(9, 12), torch.randn(9, 5)
    for layer in pair_of(how):
        assert torch.equal(layer(h, c), h)


def test_chapter_04s_two_zero_layers_never_learn_and_one_does():
    film = lift("04_where_does_y_go", "Film")["Film"]
    h, c, wanted = torch.randn(30, 6), torch.eye(3).repeat(10, 1), torch.randn(30, 6)
    for zeros, learns in ((1, True), (2, False)):
        layer = film(6, 3, zeros=zeros)
        assert torch.equal(layer(h, c), h)
        optimiser = torch.optim.Adam(layer.parameters(), lr=0.01)
        for _ in range(20):
            optimiser.zero_grad()
            (layer(h, c) - wanted).square().mean().backward()
            optimiser.step()
        assert bool((layer.outer.weight != 0).any()) == learns


def study_called(name: str) -> ModuleType:
    """Return the script behind a record as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / "studies" / f"{name}.py")
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study() -> ModuleType:
    """Return the script behind chapter 04's record as a module."""
    return study_called("where_y_goes")


def test_chapter_04s_pairs_are_those_of_its_study(study):
    mine = lift("04_where_does_y_go", "WORDS", "two_digits", "SideBySide")
    digits = data.strokes("test").subset(slice(50))
    (pairs, words), (theirs, their_words) = mine["two_digits"](digits, seed=3), study.two_digits(digits, 3)
    assert torch.equal(pairs.pixels(), theirs.pixels()) and torch.equal(words, their_words)
    assert torch.equal(pairs.labels, 10 * (words[:, 0] - 1) + words[:, 1] - 1)
    assert mine["WORDS"] == study.WORDS
    assert torch.equal(mine["SideBySide"]()(words), study.SideBySide()(words))


needs_05 = pytest.mark.skipif(not (ROOT / "notebooks/05_what_can_y_be.ipynb").exists(), reason="not built")
CHAPTER_05 = "05_what_can_y_be"


@needs_05
def test_chapter_05s_numbers_are_the_librarys():
    training = 3 + 2 * torch.randn(200, 3)
    mine = lift(CHAPTER_05, "Numbers")["Numbers"](training)
    theirs = AttributeCondition(("a", "b", "c")).standardise(training)
    asked = torch.randn(50, 3)
    asked[torch.rand(50, 3) < 0.3] = math.nan
    torch.testing.assert_close(mine(asked), theirs(asked))


@needs_05
def test_chapter_05s_words_and_their_weights_are_the_librarys():
    lifted = lift(CHAPTER_05, "Words", "attend")
    mine, theirs = lifted["Words"](7, 4, 6), CaptionCondition(Vocabulary(tuple("abcdefg"), 4), 6)
    theirs.load_state_dict(mine.state_dict())
    ids = torch.tensor([[3, 1, 0, 0], [7, 2, 2, 5], [0, 0, 0, 0]])
    values, mask = mine(ids)
    torch.testing.assert_close(values, theirs(ids).values)
    assert torch.equal(mask, theirs(ids).mask)
    slot, h = CrossAttention(5, 6, heads=1, head_dim=8), torch.randn(3, 5)
    scores = torch.einsum("bd,bld->bl", slot.query(h), slot.key(values)) / 8**0.5
    torch.testing.assert_close(lifted["attend"](scores, mask), slot.attend(h, theirs(ids))[1][:, 0])


@needs_05
def test_chapter_05s_parts_are_a_condition_that_can_be_missing():
    parts = lift(CHAPTER_05, "Parts")["Parts"]()
    y = torch.randint(0, 4, (3, 32, 32))
    assert parts(y).shape == (3, parts.dim)
    c = parts(y).unflatten(1, (4, 32, 32))
    assert torch.equal(c.argmax(1), y) and (c.sum(1) == 1).all()
    hidden = parts(parts.drop(y, 1.0))
    assert (hidden == 0).all()


needs_06 = pytest.mark.skipif(not (ROOT / "notebooks/06_learnable_priors.ipynb").exists(), reason="not built")
CHAPTER_06 = "06_learnable_priors"


@needs_06
def test_chapter_06s_kl_is_the_librarys():
    by_hand = lift(CHAPTER_06, "gaussian_kl")["gaussian_kl"]
    m, v, mu, w = torch.randn(4, 7, 3)
    q, p = (diagonal_gaussian(mean, log_variance) for mean, log_variance in ((m, v), (mu, w)))
    torch.testing.assert_close(by_hand(m, v, mu, w), kl_per_latent(q, p))


@needs_06
def test_chapter_06s_moving_prior_is_the_librarys_and_starts_where_it_does():
    mine, theirs = lift(CHAPTER_06, "MovingPrior")["MovingPrior"](3, 5), ConditionalGaussian(3, 5)
    c = torch.randn(9, 5)
    for random in (False, True):
        if random:
            torch.nn.init.normal_(mine.out.weight, std=3), torch.nn.init.normal_(mine.out.bias)
            theirs.head.load_state_dict(mine.state_dict())
        mean, log_variance = mine(c)
        p = theirs(c, 9)
        torch.testing.assert_close(mean, p.mean)
        torch.testing.assert_close((0.5 * log_variance).exp(), p.stddev)
        assert (log_variance.abs() <= 10).all() and bool((p.stddev == 1).all()) != random


@needs_06
def test_chapter_06s_mixture_and_vampprior_are_the_librarys():
    chapter = lift(CHAPTER_06, "mixture_log_prob", "vamp_log_prob")
    settings = {"num_classes": 3, "latent_dim": 2, "hidden": (6,), "event_shape": (1, 3, 3), "components": 4}
    y, z = torch.randint(0, 3, (9,)), torch.randn(9, 2)
    mixture, vamp = (CVAE(CVAEConfig(prior=name, **settings)).eval() for name in ("mixture", "vamp"))
    with torch.no_grad():
        for parameter in (*mixture.parameters(), *vamp.parameters()):
            parameter.normal_()
        p = mixture.prior(y)
        parts = p.component_distribution
        mine = chapter["mixture_log_prob"](z, p.mixture_distribution.logits, parts.mean, parts.variance.log())
        torch.testing.assert_close(mine, p.log_prob(z), atol=1e-4, rtol=1e-4)
        mine = chapter["vamp_log_prob"](vamp.posterior, vamp.prior_module.pseudo_images, z, y)
        torch.testing.assert_close(mine, vamp.prior(y).log_prob(z), atol=1e-4, rtol=1e-4)


@needs_06
def test_chapter_06s_quadrant_and_leash_are_those_of_its_study():
    study = study_called("learned_prior")
    chapter = lift(CHAPTER_06, "Quadrant", "without_quadrant", "gaussian_kl", "leashed")
    digits = data.strokes("test", count=20)
    (mine, y), (theirs, own) = chapter["without_quadrant"](digits), study.quadrant(digits)
    assert torch.equal(mine.images, theirs.images) and torch.equal(y, own) and mine.image_shape == (1, 28, 28)
    assert (mine.images[:, :, 14:, :14] == 0).all()
    torch.testing.assert_close(y.view(-1, 1, 14, 14), digits.pixels()[:, :, 14:, :14])
    torch.testing.assert_close(mine.pixels()[:, :, :14], digits.pixels()[:, :, :14])
    model = CVAE(CVAEConfig(prior="gaussian", latent_dim=3, hidden=(5,)), condition=chapter["Quadrant"]())
    torch.nn.init.normal_(model.prior_module.head.out.weight)
    bounds = []
    for leashed in (chapter["leashed"], study.leashed):
        torch.manual_seed(0)
        bound = leashed(model, mine.pixels(), y, strength=0.5)
        bounds.append(bound if isinstance(bound, torch.Tensor) else bound.elbo)
    torch.testing.assert_close(*bounds)


CHAPTER_08 = "08_rate_distortion"
needs_08 = pytest.mark.skipif(not (ROOT / f"notebooks/{CHAPTER_08}.ipynb").exists(), reason="not built")


@needs_08
@pytest.mark.parametrize("classes", [0, 10])
def test_chapter_08s_rate_and_distortion_are_the_librarys(classes):
    by_hand = lift(CHAPTER_08, "rate_and_distortion")["rate_and_distortion"]
    model = CVAE(CVAEConfig(num_classes=classes, latent_dim=3, hidden=(9,), pixels="threshold")).eval()
    images = data.strokes("test", count=50)
    found = evaluation.rate_distortion(model, images, seed=4)
    y = images.labels if classes else None
    with torch.no_grad(), seeded(4, torch.device("cpu")):
        rate, distortion = by_hand(model, images.pixels(mode="threshold"), y)
    assert rate == pytest.approx(found.rate.mean, rel=1e-4)
    assert distortion == pytest.approx(found.distortion.mean, rel=1e-5)


@needs_08
@pytest.mark.parametrize("level", [0.05, 0.9, 3.0, 50.0])
def test_chapter_08s_water_is_the_librarys(level):
    by_hand = lift(CHAPTER_08, "water_filling")["water_filling"]
    spread = torch.rand(7).double() * 5 + 0.01
    for mine, theirs in zip(by_hand(spread, level), water_filling(spread, level), strict=True):
        torch.testing.assert_close(mine, theirs)


@needs_08
def test_chapter_08s_gap_is_the_librarys():
    by_hand = lift(CHAPTER_08, "information", "gap")["gap"]
    codes, factor = torch.randn(3000, 4), torch.rand(3000)
    codes[:, 1] += 8 * factor
    codes[:, 2] += 2 * factor
    theirs = evaluation.mutual_information_gap(codes, {"factor": factor})
    assert by_hand(codes, factor).item() == pytest.approx(theirs.mig, abs=1e-3)
    assert theirs.mig > 0.1


@needs_08
def test_chapter_08s_models_are_those_of_its_study():
    study = study_called("rate_distortion")
    space = lift(CHAPTER_08, "betas", "recorded", "FACTORS", "factor_betas")
    assert space["recorded"] == study.BETAS and set(space["betas"]) <= set(study.BETAS)
    assert space["FACTORS"] == study.FACTORS and space["factor_betas"] == study.FACTOR_BETAS
    source = (ROOT / "authoring" / "notebooks" / f"{CHAPTER_08}.py").read_text(encoding="utf-8")
    assert f"steps={study.STEPS}" in source and f"steps={study.FACTOR_STEPS}" in source
    assert study.rising(30, 940) == Linear(564, 1.0, 30.0) and study.rising(0.3, 940) == 0.3


CHAPTER_07 = "07_posterior_collapse"
needs_07 = pytest.mark.skipif(not (ROOT / f"notebooks/{CHAPTER_07}.ipynb").exists(), reason="not built")


@needs_07
def test_chapter_07s_symptoms_are_the_librarys():
    symptoms = lift(CHAPTER_07, "symptoms")["symptoms"]
    images = data.strokes("test", count=60)
    model = CVAE(CVAEConfig(latent_dim=5, hidden=(16,))).eval()
    with torch.no_grad():
        model.encoder.net.layers[-1].weight[:2] *= 10  # two means that move
        model.encoder.net.layers[-1].weight[2:] *= 0.01  # and three that hardly do
        model.decoder.net.layers[0].weight *= 4
    found = symptoms(model, images, images.labels, torch.arange(60).roll(1))
    x = images.pixels(mode="stochastic", generator=torch.Generator().manual_seed(0))
    assert found["KL, nats"] == pytest.approx(elbo_terms(model, x, images.labels).rate.mean().item(), rel=1e-4)
    count = evaluation.active_units(model, images).count
    assert found["active latents"] == count and 0 < count < 5
    assert found["lost with another z, nats"] > 0
    model.decoder.net.layers[0].weight.data[:, :5] = 0  # a decoder that is deaf to z
    deaf = symptoms(model, images, images.labels, torch.arange(60).roll(1))
    assert deaf["lost with another z, nats"] == pytest.approx(0, abs=1e-4)


@needs_07
def test_chapter_07s_partners_share_their_y_and_are_somebody_elses():
    y = torch.randint(0, 2, (40, 3))
    y[0] = 7  # a loner
    partner = lift(CHAPTER_07, "partners")["partners"](y)
    assert torch.equal(y[partner], y) and partner[0] == 0
    assert torch.equal(partner.sort().values, torch.arange(40))
    assert ((partner != torch.arange(40)) | ((y[:, None] == y).all(2).sum(1) == 1)).all()


@needs_07
def test_chapter_07s_floor_and_information_are_the_librarys(full_profile):
    mine = lift(CHAPTER_07, "floor_under", "information")
    kl = torch.rand(20, 6)
    torch.testing.assert_close(mine["floor_under"](kl, 0.5), free_bits(kl, 0.5))
    model = CVAE(CVAEConfig(num_classes=0, latent_dim=4, hidden=(16,), pixels="threshold")).eval()
    images = data.strokes("test", count=30)
    with torch.no_grad():
        model.encoder.net.layers[-1].weight *= 20  # posteriors that can be told apart
        q = model.posterior(images.pixels(mode="threshold"))
        often = torch.stack([mine["information"](q.mean, q.stddev, q.sample()) for _ in range(400)])
    found = evaluation.mutual_information(model, images, samples=400).lower.mean
    assert 0.5 < found < math.log(30)
    assert abs(float(often.mean()) - found) < 5 * float(often.std()) * (2 / 400) ** 0.5  # both from 400 draws of z


@needs_07
def test_chapter_07s_world_is_that_of_its_study():
    mine = lift(CHAPTER_07, "Order", "catalogue", "halved", "orders")
    (images, hand), (theirs, their_hand) = mine["catalogue"](2), collapse.catalogue(2)
    assert torch.equal(images.images, theirs.images) and torch.equal(images.labels, theirs.labels)
    assert torch.equal(hand, their_hand) and images.num_classes == theirs.num_classes == 90
    y = torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(4))
    order, same = mine["Order"](3, 2, 4), cures.Order(3, 2, 4)
    hidden = order.drop(y, 0.5)
    for some in (y, hidden):
        assert torch.equal(order(some), same(some))
    assert (order(hidden)[hidden[:, 0] < 0] == 0).all() and (order(y).sum(1) == 3).all()
    digits = data.strokes("test", count=200)
    assert torch.equal(mine["halved"](digits).images, collapse.halved(digits).images)
    (asked, edges), (theirs, _) = mine["orders"](digits), collapse.orders(digits)
    assert torch.equal(asked, theirs) and (asked[:, 1:].T.flatten().bincount() == 80).all()
    assert torch.equal(mine["orders"](digits, edges)[0], asked)


@needs_07
@pytest.mark.parametrize("name", ["Masked", "Skipping"])
def test_chapter_07s_painter_is_that_of_its_study(name):
    lifted = lift(CHAPTER_07, "Masked", "Skipping", "paint", "PixelByPixel", "Painter")
    mine, theirs = lifted[name](196, 40, 3, 5), getattr(masked, name)(196, 40, 3, 5)
    theirs.load_state_dict(mine.state_dict())
    x, z, c = (torch.rand(6, 196) < 0.3).float(), torch.randn(2, 6, 3), torch.randn(6, 5)
    torch.testing.assert_close(mine(x, z, c), theirs(x, z, c))
    coins = torch.rand(2, 6, 196)
    drawn = lifted["paint"](mine, z, c, coins)
    assert torch.equal(drawn, theirs.paint(z, c, coins))
    for row in range(2):  # what was drawn pixel by pixel is what one pass over the finished picture says
        chances = torch.sigmoid(mine(drawn[row], z[row], c))
        assert ((coins[row] < chances) == drawn[row].bool()).float().mean() > 0.999
    shape = (1, 14, 14)
    ours, other = lifted["PixelByPixel"](mine, z, c, shape), masked.PixelByPixel(theirs, z, c, shape)
    torch.testing.assert_close(ours.log_prob(x.view(6, *shape)), other.log_prob(x.view(6, *shape)))
    assert torch.equal(ours.mean, other.mean)


@needs_07
def test_chapter_07s_batch_norm_is_that_of_its_study():
    encoder = CVAE(CVAEConfig(num_classes=0, latent_dim=8, hidden=(9,))).encoder
    mine, theirs = lift(CHAPTER_07, "Normed")["Normed"](encoder, 8), cures.Normed(encoder)
    x = torch.rand(12, 1, 28, 28)
    for training in (True, False):
        mine.train(training), theirs.train(training)
        for ours, other in zip(mine(x, None), theirs(x, None), strict=True):
            torch.testing.assert_close(ours, other)


CHAPTER_09 = "09_filling_in_and_translating"
needs_09 = pytest.mark.skipif(not (ROOT / f"notebooks/{CHAPTER_09}.ipynb").exists(), reason="not built")


@needs_09
@pytest.mark.parametrize(("name", "proposal"), [("prior_monte_carlo", "prior"), ("importance_weights", "posterior")])
def test_chapter_09s_weights_are_the_librarys(name, proposal):
    weigh = lift(CHAPTER_09, name)[name]
    model = CVAE(CVAEConfig(latent_dim=3, hidden=(9,), prior="mixture", components=4)).eval()
    images = data.strokes("test", count=6)
    x = images.pixels()
    found = []
    for weights in (weigh, functools.partial(log_importance_weights, proposal=proposal)):
        torch.manual_seed(0)
        with torch.no_grad():
            found.append(weights(model, x, images.labels, samples=7))
    torch.testing.assert_close(*found)


@needs_09
@pytest.mark.parametrize("quadrants", [1, 2, 3])
def test_chapter_09s_task_is_that_of_its_study(quadrants):
    study, mine = study_called("quadrants"), lift(CHAPTER_09, "observed_pixels", "task", "whole", "Pixels")
    assert torch.equal(mine["observed_pixels"](quadrants), study.seen(quadrants))
    digits = data.strokes("test", count=20)
    (x, y), (rest, own) = mine["task"](digits, quadrants), study.task(digits, quadrants)
    assert torch.equal(x.images, rest.images) and torch.equal(y, own)
    assert torch.equal(mine["whole"](x.pixels(), y, quadrants), digits.pixels())
    assert mine["Pixels"](196).dim == quadrant_models.Pixels(196).dim == 196


@needs_09
def test_chapter_09s_masks_and_models_are_those_of_its_study():
    study = study_called("any_mask")
    mine = lift(
        CHAPTER_09, "here_and_there", "all_but_a_window", "quarters", "KINDS", "any_mask", "DeepPrior",
        "any_mask_model", "seen", "hidden_terms", "hidden_bound", "plan",
    )  # fmt: skip
    for name, kind in {**study.KINDS, "any": study.any_mask}.items():
        drawn = []
        for masks in (kind, {**mine["KINDS"], "any": mine["any_mask"]}[name]):
            torch.manual_seed(3)
            drawn.append(masks(50))
        assert torch.equal(*drawn) and drawn[0].shape == (50, 1, 28, 28) and drawn[0].dtype == torch.bool
        assert drawn[0].flatten(1).any(1).all() and (~drawn[0]).flatten(1).any(1).all()
    ours = mine["any_mask_model"]().eval()
    torch.manual_seed(0)
    theirs = study.any_mask_model().eval()
    assert ours.num_parameters() == theirs.num_parameters()
    assert mine["plan"]["steps"] == study.STEPS and mine["plan"]["learning_rate"] == 3e-3
    with torch.no_grad():
        for parameter in ours.prior_module.parameters():
            parameter.normal_(std=0.1)
    theirs.load_state_dict(ours.state_dict())
    x = data.strokes("test", count=30).pixels(mode="threshold")
    y = Observed(x, mine["any_mask"](30))
    bounds = []
    for model, terms in ((ours, mine["hidden_terms"]), (theirs, study.hidden_only)):
        torch.manual_seed(4)
        bounds.append(terms(model, x, y).elbo)
    torch.testing.assert_close(*bounds)
    with torch.no_grad():
        often = torch.stack([mine["hidden_bound"](ours, x, y) for _ in range(200)])
        other = torch.stack([mine["hidden_terms"](ours, x, y).elbo for _ in range(200)])
    off = (often.mean(0) - other.mean(0)).abs()
    assert (off < 5 * ((often.var(0) + other.var(0)) / 200).sqrt()).all()


@needs_09
def test_chapter_09s_ranks_cover_what_the_librarys_intervals_cover():
    mine, study = lift(CHAPTER_09, "ink", "ranks", "coverage"), study_called("any_mask")
    draws, truth = 0.7 * torch.randn(39, 4000), torch.randn(4000)
    u = mine["ranks"](draws, truth)
    for interval in evaluation.interval_coverage(draws, truth):  # with 39 draws its ends are draws, at all three levels
        assert mine["coverage"](u, interval.level) == pytest.approx(100 * interval.share, abs=0.051)
    torch.manual_seed(0)
    first = mine["ranks"](draws.round(), truth.round())
    torch.manual_seed(0)
    assert torch.equal(first, study.ranks(draws.round(), truth.round()))
    assert mine["coverage"](first, 0.8) == study.coverage(first, 0.8)
    x, hidden = torch.rand(3, 5, 1, 28, 28), torch.rand(5, 1, 28, 28) < 0.5
    assert torch.equal(mine["ink"](x, hidden), study.ink(x, hidden))


@needs_09
def test_chapter_09s_views_of_an_image():
    views = lift(CHAPTER_09, "outline", "thumbnail", "Drawing")
    x = torch.zeros(1, 1, 28, 28)
    x[..., 4:12, 8:16] = 1
    outline = views["outline"](x)
    assert outline.sum() == 28 and (outline[..., 5:11, 9:15] == 0).all() and (outline <= x).all()
    x[..., :3, :3] = 1  # ink at the border of the picture has its outline there too
    assert views["outline"](x)[..., :3, :3].sum() == 8
    assert torch.equal(views["thumbnail"](x)[0, 0, 1:3, 2:4], torch.ones(2, 2))
    told = views["Drawing"]()(views["thumbnail"](x))
    assert told.shape == (1, 1, 28, 28) and torch.equal(views["thumbnail"](told), views["thumbnail"](x))


# --- chapter 10: forecasting ----------------------------------------------------------------------------------

CHAPTER_10 = "10_forecasting"
needs_10 = pytest.mark.skipif(
    not (ROOT / "notebooks" / f"{CHAPTER_10}.ipynb").exists(), reason=f"{CHAPTER_10} is not built yet"
)


@needs_10
def test_chapter_10s_scores_are_the_librarys():
    names = ("distance", "crps_of_law", "crps_by_hand", "energy_by_hand", "share_inside")
    mine = lift(CHAPTER_10, *names)
    found = series.forks("test", 40)
    law, x = series.law(found.windows), found.futures
    draws = law.sample(199, torch.Generator().manual_seed(0))
    exact = evaluation.crps_gaussian_mixture(law.weights[:, None], law.means.mT, law.scale[:, None], x)
    torch.testing.assert_close(mine["crps_of_law"](law, x), exact)
    for fair in (True, False):
        torch.testing.assert_close(mine["crps_by_hand"](draws, x, fair), evaluation.crps(draws, x, fair=fair))
    torch.testing.assert_close(mine["energy_by_hand"](draws, x), evaluation.energy_score(draws, x))
    for interval in evaluation.interval_coverage(draws, x):
        assert mine["share_inside"](draws, x, interval.level) == pytest.approx(interval.share)


@needs_10
def test_chapter_10s_quantiles_are_those_of_its_study():
    mine = lift(CHAPTER_10, "levels", "pinball", "from_quantiles")
    torch.testing.assert_close(mine["levels"], forecasters.LEVELS)
    out, x = torch.randn(5, 3 * 39), torch.randn(5, 3)
    torch.testing.assert_close(mine["pinball"](out, x), forecasters.pinball(out, x))
    normal = torch.distributions.Normal(torch.tensor(1.0), 2.0)
    table = normal.icdf(mine["levels"]).expand(2, 3, 39)[..., torch.randperm(39)]  # crossed
    draws = mine["from_quantiles"](table.flatten(1), 20_000)  # (20000, 2, 3)
    for level in (0.1, 0.5, 0.9):
        share = (draws <= normal.icdf(torch.tensor(level))).float().mean((0, 1))
        torch.testing.assert_close(share, torch.full((3,), level), atol=0.015, rtol=0)
    assert float((draws[:, 0, 0] * draws[:, 0, 1]).mean()) == pytest.approx(1.0, abs=0.1)  # steps drawn independently


@needs_10
def test_chapter_10s_almanac_is_that_of_its_study():
    last_year, cut = (lift(CHAPTER_10, "last_year", "Cut")[name] for name in ("last_year", "Cut"))
    windows = torch.randn(6, forecasters.WEEKLY_WINDOW)
    windows -= windows[:, -1:].clone()
    mask = torch.rand(windows.shape) < 0.8
    mask[:, 0] = mask[:, -1] = True
    parts = windows, mask, torch.zeros(6, forecasters.WEEKLY_HORIZON)
    torch.testing.assert_close(last_year(cut(*parts)), forecasters.last_year(forecasters.Part(*parts)))
    clear = torch.ones_like(mask)
    steady = torch.arange(56.0).expand(2, -1) - 55  # a straight line goes on
    ahead = last_year(cut(steady, clear[:2], parts[2][:2]))
    torch.testing.assert_close(ahead, torch.arange(1.0, 27).expand(2, -1))


@needs_10
def test_chapter_10_reads_windows_as_its_study_does():
    mine = lift(CHAPTER_10, "seen", "told")
    windows, mask = torch.randn(4, 24), torch.rand(4, 24) < 0.5
    part = forecasters.Part(windows, mask, torch.zeros(4, 12))
    torch.testing.assert_close(mine["seen"](windows, mask), part.flat())
    theirs, ours = part.told(), mine["told"](windows, mask)
    assert torch.equal(ours.image, theirs.image) and torch.equal(ours.mask, theirs.mask)
