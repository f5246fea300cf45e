"""Panels: every control over its whole range, errors shown, and a still where nothing moves."""

import base64
import itertools
import re
import subprocess
import sys
import time
from typing import Any

import drive_panels
import ipywidgets
import nbformat.v4
import pytest
import running
import torch
from contrast import contrast
from drive_panels import ends, positions
from torch.distributions import Independent, MultivariateNormal, Normal

from cvae_lib import pretrained
from cvae_lib.conditions import LabelCondition, Observed
from cvae_lib.course import figures, panels
from cvae_lib.course.laboratory import LinearGaussian
from cvae_lib.course.panels import Choice, Count, Panel, Slider, Text
from cvae_lib.course.panels.panel import NO_WIDGETS, WIDGET
from cvae_lib.datasets import strokes
from cvae_lib.likelihoods import BernoulliPixels
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.networks import MLPEncoder
from cvae_lib.priors import tempered_sample


@pytest.fixture(scope="module")
def model() -> CVAE:
    return pretrained.load_cvae()


@pytest.fixture
def plane() -> tuple[LinearGaussian, torch.Tensor, torch.Tensor]:
    """A linear-Gaussian laboratory with two latents, one x and one y."""
    laboratory = LinearGaussian(x_dim=4, z_dim=2, y_dim=3).requires_grad_(False)
    y = torch.randn(1, 3, dtype=torch.float64)
    return laboratory, laboratory.sample(y)[0], y


def bound(plane: Any) -> Panel:
    laboratory, x, y = plane
    exact = laboratory.exact_posterior(x, y)
    posterior = MultivariateNormal(exact.mean[0], exact.covariance_matrix[0])
    return panels.bound_panel(
        posterior, lambda q: laboratory.elbo(x, y, q.expand((1,)))[0], laboratory.log_evidence(x, y)[0]
    )


@pytest.fixture(scope="module")
def numbers() -> CVAE:
    """A model of a label and two numbers, untrained: its panel must work before its pictures are any good."""
    torch.manual_seed(3)
    settings = {"condition": "label+attributes", "num_classes": 3, "attributes": ("thickness", "slant")}
    made = CVAE(CVAEConfig(latent_dim=3, hidden=(9,), **settings)).eval()
    made.condition.parts[1].standardise(torch.tensor([[1.0, -0.5], [3.0, 0.5]]))
    return made


@pytest.fixture(scope="module")
def reader() -> CVAE:
    torch.manual_seed(3)
    words = ("a", "seven", "thick", "thin")
    return CVAE(CVAEConfig(latent_dim=3, hidden=(9,), condition="caption", words=words, caption_length=3)).eval()


@pytest.fixture(scope="module")
def curves() -> tuple[dict[str, list[panels.Stop]], torch.Tensor]:
    """Three stops of one model and two of another, with four pictures each."""
    images = torch.rand(3, 5, 4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    places = [(0.1, 47.0, 71.0), (1.0, 22.0, 82.0), (10.0, 4.0, 146.0), (0.1, 43.0, 69.0), (10.0, 3.0, 120.0)]
    stops = [panels.Stop(*place, images[0, i], images[1, i]) for i, place in enumerate(places)]
    return {"VAE": stops[:3], "CVAE": stops[3:]}, images[2, 0]


def drive(panel: Panel) -> list[figures.Picture]:
    """Draw with each control alone over its whole range, and with all of them at their ends at once."""
    asked = [panel.start() | {name: value} for name, control in panel.controls.items() for value in positions(control)]
    asked += [
        dict(zip(panel.controls, values, strict=True))
        for values in itertools.product(*map(ends, panel.controls.values()))
    ]
    pictures = [panel.draw(**values) for values in asked]
    assert len({picture.alt for picture in pictures}) > sum(len(positions(c)) for c in panel.controls.values()) / 2
    return pictures


def nats(picture: figures.Picture) -> dict[str, float]:
    """Read log p, gap and ELBO off a picture of the bound."""
    words = [text.get_text() for text in picture.figure.axes[1].texts]
    return {name: float(value) for name, value in zip(words[::2], words[1::2], strict=True)}


@pytest.fixture(scope="module")
def patcher() -> CVAE:
    """A model that is told an observed part, untrained."""
    torch.manual_seed(3)
    return CVAE(CVAEConfig(condition="observed", latent_dim=3, hidden=(9,), prior="gaussian")).eval()


def completions(patcher: CVAE) -> Panel:
    return panels.completion_panel(patcher, torch.rand(2, 1, 28, 28), ["a 7", "a 2"])


def trainings() -> list[dict[str, Any]]:
    """Return made-up recorded trainings, of two latents and three looks, for every setting."""
    return [
        {
            "seed": 0,
            "beta": beta,
            "floor": floor,
            "schedule": schedule,
            "step": [0, 50, 100],
            "kl": [[3.0, 1.0], [0.5, 0.2], [1 / beta, floor]],
            "information": [0.1, 0.4, 1.0],
            "active": [2, 1, 1],
            "distortion": [100.0, 60.0, 50.0],
        }
        for beta, floor, schedule in itertools.product((1.0, 0.5), (0.0, 0.25), ("none", "linear"))
    ]


# --- each panel over the whole range ------------------------------------------------------------------------


def test_the_drawing_panel_draws_wherever_its_controls_are(model):
    panel = panels.draw_panel(model)
    for picture in drive(panel):
        large, small = (axes.images[0].get_array() for axes in picture.figure.axes)
        assert large.shape == (28, 28, 3) and small.shape == (58, 148, 3)
        assert large.min() < 0.3 and large.max() == pytest.approx(1, abs=0.05)  # ink on paper


def test_the_blending_panel_draws_wherever_its_controls_are(model):
    for picture in drive(panels.blend_panel(model)):
        sheets = [axes.images[0].get_array() for axes in picture.figure.axes]
        assert [sheet.shape for sheet in sheets] == [(28, 28, 3)] * 3
        assert all(sheet.min() < 0.5 for sheet in sheets)


def test_the_attribute_panel_draws_wherever_its_controls_are(numbers):
    for picture in drive(panels.attribute_panel(numbers, label=2, measure=strokes.measure)):
        large, small = (axes.images[0].get_array() for axes in picture.figure.axes)
        assert large.shape == (28, 28, 3) and small.shape == (58, 148, 3)
        assert "measured" in picture.alt


def test_the_caption_panel_draws_whatever_can_be_read(reader):
    for picture in drive(panels.caption_panel(reader, ["a thin seven", "seven"])):
        large, small = (axes.images[0].get_array() for axes in picture.figure.axes)
        assert large.shape == (28, 28, 3) and small.shape == (58, 148, 3)


def posteriors() -> dict[object, Normal]:
    return {digit: Normal(torch.randn(60) + digit - 7, 0.1 + 0.4 * torch.rand(60)) for digit in (7, 8)}


def test_the_prior_panel_never_shows_a_rate_below_the_information():
    panel = panels.prior_panel(posteriors())
    for picture in drive(panel):
        words = [text.get_text() for text in picture.figure.axes[1].texts]
        shown = {name: float(value) for name, value in zip(words[::2], words[1::2], strict=True)}
        assert shown["mismatch"] >= 0
        assert shown["rate"] == pytest.approx(shown["information"] + shown["mismatch"], abs=0.0151)  # three roundings


def test_the_rate_splits_as_a_quadrature_says_and_the_best_gaussian_is_best():
    q = posteriors()[7]
    wide = Normal(q.mean.double(), q.stddev.double())
    grid = torch.linspace(-12, 12, 60_001).double()
    each = wide.log_prob(grid[:, None])
    aggregate = each.exp().mean(1)
    for mean, scale in ((0.0, 1.0), (1.0, 0.5)):
        parts = panels.split_rate(q, Normal(torch.tensor(mean), torch.tensor(scale)))
        p = Normal(torch.tensor(mean).double(), scale)
        mismatch = torch.trapezoid(aggregate * (aggregate.clamp_min(1e-300).log() - p.log_prob(grid)), grid)
        assert parts["mismatch"] == pytest.approx(float(mismatch), abs=2e-3)
    best = panels.best_gaussian(q)
    least = panels.split_rate(q, best)["rate"]
    assert all(
        panels.split_rate(q, Normal(best.mean + shift, best.stddev * factor))["rate"] > least
        for shift in (-0.1, 0.1)
        for factor in (0.9, 1.1)
    )


def test_one_posterior_alone_holds_no_information_and_can_be_matched():
    q = Normal(torch.tensor([0.7]), torch.tensor([0.3]))
    parts = panels.split_rate(q, panels.best_gaussian(q))
    assert parts == pytest.approx({"rate": 0, "information": 0, "mismatch": 0}, abs=1e-4)


def test_a_prior_panel_of_something_else_is_refused():
    with pytest.raises(ValueError, match="at least one condition"):
        panels.prior_panel({})
    with pytest.raises(ValueError, match="posteriors of shape"):
        panels.prior_sheet(Normal(torch.zeros(3, 2), torch.ones(3, 2)))
    with pytest.raises(ValueError, match="above 0"):
        panels.draw_prior(posteriors()[7], 0.0, 0.0, 1.0)


def test_the_training_panel_shows_the_look_that_was_asked_for():
    panel = panels.training_panel(trainings())
    for picture in drive(panel):
        curve, columns = picture.figure.axes
        run, step = (
            re.search(r"beta ([\d.]+), free bits ([\d.]+)", picture.alt),
            re.search(r"At step (\d+)", picture.alt),
        )
        assert run and step
        heights = [bar.get_height() for bar in columns.patches]
        asked = {0: [3.0, 1.0], 50: [0.5, 0.2], 100: [1 / float(run[1]), float(run[2])]}[int(step[1])]
        assert heights == asked
        assert int(step[1]) == 0 or max(heights) <= columns.get_ylim()[1]
        assert f"rate {sum(asked):.2f}" in picture.alt
        assert [line.get_xdata()[-1] for line in curve.lines[1::4]] == [int(step[1])] * 2  # played up to there
    between = panel.draw(beta=0.5, floor=0.25, schedule="linear", step=99.0)
    assert "At step 50" in between.alt


def test_the_still_of_the_trainings_names_where_each_of_them_ends():
    still = panels.training_sheet(trainings())
    assert len(still.figure.axes) == 4
    assert "free bits 0.25, annealing linear: 1.2 at beta 1 and 2.2 at beta 0.5" in still.alt


def test_trainings_that_were_not_recorded_are_refused():
    with pytest.raises(ValueError, match="every combination"):
        panels.training_panel(trainings()[:-1])
    with pytest.raises(ValueError, match="No training was recorded with beta 2"):
        panels.draw_training(trainings(), 2.0, 0.0, "none", 0)


def test_the_bound_panel_never_shows_a_bound_above_the_ceiling(plane):
    panel = bound(plane)
    for picture in drive(panel):
        shown = nats(picture)
        assert shown["ELBO"] <= shown["log p(x|y)"]
        assert shown["ELBO"] + shown["gap"] == pytest.approx(shown["log p(x|y)"], abs=0.0151)  # three roundings
        bottom, top = picture.figure.axes[1].get_ylim()
        assert bottom < shown["ELBO"] + 0.005 and shown["log p(x|y)"] < top  # the column has room for it
        window = picture.figure.axes[0]
        for line in window.lines:
            x, y = line.get_data()
            assert window.get_xlim()[0] <= min(x) and max(x) <= window.get_xlim()[1]
            assert window.get_ylim()[0] <= min(y) and max(y) <= window.get_ylim()[1]
    exact = nats(panel.draw(shift_1=0.0, shift_2=0.0, scale=1.0))
    assert exact["gap"] == 0 and exact["ELBO"] == exact["log p(x|y)"]


def test_the_still_of_the_bound_touches_the_ceiling_at_the_posterior_alone(plane):
    panel = bound(plane)
    for axes, touching in zip(panel.still.figure.axes, (0.0, 1.0), strict=True):
        ceiling, *curves = axes.lines
        for curve in curves:
            x, elbo = curve.get_data()
            assert x[elbo.argmax()] == pytest.approx(touching, abs=1e-6)
            assert elbo.max() == pytest.approx(ceiling.get_ydata()[0], abs=1e-9)


def test_driving_sees_a_setting_that_fails_and_a_control_that_does_nothing():
    controls = {"at": Slider("how far", 0.0, 1.0, 0.1, 0.5), "step": Count("again")}
    with pytest.raises(AssertionError, match="ValueError at {'at': 0.6"):
        drive_panels.drive(Panel(shouting, controls, picture("A still.")))
    deaf = Panel(lambda at, step: picture(f"Only {at:.1f} counts."), controls, picture("A still."))
    with pytest.raises(AssertionError, match=r"\['step'\] never change the picture"):
        drive_panels.drive(deaf)
    counting = Panel(lambda at, step: picture(f"{at:.1f} and {step}."), controls, picture("A still."))
    assert drive_panels.drive(counting) == 11 + 3 + 4


def test_every_kind_of_panel_stands_in_a_chapter_and_is_driven_there(root):
    sources = [path.read_text(encoding="utf-8") for path in sorted((root / "authoring" / "notebooks").glob("*.py"))]
    kinds = {name for name in panels.__all__ if name.endswith("_panel")}
    assert kinds - set(re.findall(r"panels\.(\w+_panel)\(", "".join(sources))) == set()


def test_the_trading_panels_line_touches_the_curve_at_its_mark_and_cuts_it_nowhere(curves):
    stops, images = curves
    for picture in drive(panels.trading_panel(stops, images, "VAE")):
        plane, sheet = picture.figure.axes
        *lines, tangent, mark = plane.lines
        assert [len(line.get_xdata()) for line in lines] == [3, 2]
        (left, right), (high, low) = tangent.get_data()
        slope = (high - low) / (right - left)
        (rate,), (distortion,) = mark.get_data()
        name = "CVAE" if "curve of CVAE" in picture.alt else "VAE"
        assert (rate, distortion) in [(stop.rate, stop.distortion) for stop in stops[name]]
        heights = [stop.distortion - (high - slope * (stop.rate - left)) for stop in stops[name]]
        assert min(heights) == pytest.approx(0, abs=1e-6)  # no stop below the line, and one on it
        assert high - slope * (rate - left) == pytest.approx(distortion)
        assert f"slope -{slope:.3g} " in picture.alt
        assert sheet.images[0].get_array().shape == (3 * 30 - 2, 4 * 30 - 2, 3)  # real, rebuilt, drawn; four of each


def test_the_trading_panel_shows_the_pictures_of_the_model_it_touches(curves):
    stops, images = curves
    for log_beta, place in ((-1.0, 0), (0.0, 1), (1.0, 2)):  # by the slopes between them, 0.44 and 3.6
        sheet = panels.draw_stop(stops, images, "VAE", log_beta).figure.axes[1].images[0].get_array()
        first = 1 - torch.as_tensor(sheet[30:58, :28, 0].filled())
        torch.testing.assert_close(first, stops["VAE"][place].rebuilt[0, 0])


def test_the_trading_panel_is_about_as_quick_as_a_plain_chart(curves):
    panel = panels.trading_panel(*curves, "VAE")
    taken = []
    for log_beta in (-1.0, 0.0, 1.0):
        start = time.process_time()
        panel.draw(curve="CVAE", log_beta=log_beta).png()
        taken.append(time.process_time() - start)
    start = time.process_time()
    slow = figures.curves({"a": [1.0, 2.0]}, "A chart with ticks and a layout engine.")
    slow.png()
    assert min(taken) < 2 * (time.process_time() - start)  # about as quick as the simplest chart of the course


# --- what is behind them ------------------------------------------------------------------------------------


class Ramp(CVAE):
    """A model whose picture is linear in z, so that its Jacobian is known."""

    def likelihood(self, z: torch.Tensor, y: Any = None) -> Independent:
        mean = (z @ self.ramp).unflatten(-1, (1, 2, 3))
        return Independent(Normal(mean, 1.0), 3)


def test_styles_are_the_singular_vectors_of_a_linear_decoder():
    model = Ramp(CVAEConfig(num_classes=2, latent_dim=4, hidden=(5,), event_shape=(1, 2, 3)))
    model.ramp = torch.randn(4, 6)
    left, _, _ = torch.linalg.svd(model.ramp)
    found = panels.style_directions(model, 3)
    torch.testing.assert_close((found @ left[:, :3]).abs(), torch.eye(3), atol=1e-4, rtol=0)
    assert ((found @ model.ramp).sum(1) > 0).all()  # towards more ink
    assert len(panels.style_directions(model, 9)) == 4


def test_the_first_style_changes_the_picture_more_than_chance_does(model):
    found = panels.style_directions(model)
    torch.testing.assert_close(found @ found.T, torch.eye(3), atol=1e-4, rtol=0)
    y, z = torch.arange(10).repeat(20), torch.randn(200, 32)

    def change(direction: torch.Tensor) -> float:
        with torch.no_grad():
            moved, still = (model.likelihood(place, y).mean for place in (z + direction, z))
        return float((moved - still).square().sum((1, 2, 3)).mean())

    chance = max(change(torch.nn.functional.normalize(torch.randn(32), dim=0)) for _ in range(20))
    first, second, third = (change(direction) for direction in found)
    assert first > second > third and first > 1.5 * chance


def test_style_1_of_the_bundled_model_leans_every_digit_the_same_way(model):
    first = panels.style_directions(model)[:1]
    z, y = torch.randn(20, 1, 32), torch.arange(10)
    slants = []
    for style in (-2.0, 2.0):
        moved = panels.with_style(z.flatten(0, 1), torch.zeros(20, 32), first, torch.full((20, 1), style))
        with torch.no_grad():
            images = model.likelihood(moved[:, None].expand(-1, 10, -1), y).mean  # (20, 10, 1, 28, 28)
        slants.append(strokes.measure(images.flatten(0, 1)).slant.unflatten(0, (20, 10)).mean(0))
    assert (slants[0] > 0.1).all() and (slants[1] < -0.05).all()


def test_a_style_sets_its_own_coordinates_and_nothing_else():
    directions = torch.linalg.qr(torch.randn(6, 2).double()).Q.T
    z, centre, style = torch.randn(1, 6).double(), torch.randn(1, 6).double(), torch.randn(5, 2).double()
    moved = panels.with_style(z, centre, directions, style)
    torch.testing.assert_close((moved - centre) @ directions.T, style)
    beside = torch.eye(6).double() - directions.T @ directions
    torch.testing.assert_close(moved @ beside, (z @ beside).expand(5, -1))


@pytest.mark.parametrize("condition", ["label", "embedding"])
@pytest.mark.parametrize("prior", ["standard", "gaussian", "mixture"])
def test_a_blend_starts_and_ends_with_what_the_model_draws(condition, prior):
    model = CVAE(CVAEConfig(num_classes=4, latent_dim=3, hidden=(9,), condition=condition, prior=prior)).eval()
    ends = torch.tensor([0.0, 1.0])
    heard: list[torch.Tensor] = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    images = panels.blended(model, (1, 3), ends, ends, seed=5)
    with torch.no_grad():
        expected = model.likelihood(heard[0], torch.tensor([1, 3])).mean
    torch.testing.assert_close(images, expected)
    torch.testing.assert_close(heard[0], panels.styles.drawn_latents(model, torch.tensor([1, 3]), 5).detach())


def test_halfway_the_decoder_reads_half_of_each_label_and_a_latent_as_far_out_as_any(model):
    heard: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = model.decoder.register_forward_pre_hook(lambda _, inputs: heard.append(inputs))
    half = torch.tensor([0.5])
    for seed in range(200):
        panels.blended(model, (5, 6), half, half, seed)
    hook.remove()
    expected = torch.zeros(1, 10)
    expected[0, [5, 6]] = 0.5
    assert all(torch.equal(c, expected) for _, c in heard)
    # 200 * 32 squares of standard normals: their mean has a standard deviation of 0.018. A straight line gives 0.5.
    assert torch.cat([z for z, _ in heard]).square().mean().item() == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize(
    "settings", [{"num_classes": 0}, {"condition": "attributes", "attributes": ("slant",)}, {"condition_to": "encoder"}]
)
@pytest.mark.parametrize("panel", [panels.draw_panel, panels.blend_panel])
def test_a_model_that_takes_no_order_is_refused(settings, panel):
    with pytest.raises(ValueError, match="decoder reads something else"):
        panel(CVAE(CVAEConfig(**settings)))


class Own(torch.nn.Module):
    """A decoder of somebody's own, from z and the one-hot label to the logits of 2 x 3 pixels."""

    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(7, 6)

    def forward(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([z, c], 1)).view(-1, 1, 2, 3)


def test_a_model_composed_of_ones_own_modules_is_drawn_too():
    encoder = MLPEncoder((1, 2, 3), (8,), 4, condition_dim=3)
    model = CVAE(encoder, Own(), condition=LabelCondition(3), likelihood=BernoulliPixels()).eval()
    assert model.config is None
    for panel in (panels.draw_panel(model, digit=2), panels.blend_panel(model, 0, 2)):
        pictures = {picture.png() for picture in (panel.draw(**panel.start() | {"seed": seed}) for seed in (0, 1))}
        assert len(pictures) == 2


def test_values_that_mean_nothing_are_refused_in_a_sentence(model, plane):
    directions = panels.style_directions(model)
    with pytest.raises(ValueError, match="0 to 9, and 12 is not"):
        panels.draw_digit(model, directions, 12, [0, 0, 0])
    with pytest.raises(ValueError, match="3 numbers"):
        panels.draw_digit(model, directions, 1, [0.0])
    with pytest.raises(ValueError, match="not 3 and 10"):
        panels.blend_digits(model, 3, 10, 0.5, 0.5)
    with pytest.raises(ValueError, match="above 0, not 0"):
        bound(plane).draw(shift_1=0.0, shift_2=0.0, scale=0.0)
    with pytest.raises(ValueError, match="2 entries"):
        panels.bound_panel(MultivariateNormal(torch.zeros(3), torch.eye(3)), lambda q: q.mean.sum(), 0.0)


def test_the_decoder_hears_what_the_attribute_sliders_say(numbers):
    heard: list[torch.Tensor] = []
    hook = numbers.decoder.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[1]))
    panels.draw_attributes(numbers, {"thickness": 4.0, "slant": 0.25}, label=1)
    hook.remove()
    # standardised by mean 2 and 0, standard deviation 1 and 0.5, with both flags up, behind the one-hot label
    torch.testing.assert_close(heard[0], torch.tensor([[0.0, 1, 0, 2, 0.5, 1, 1]]).expand(11, -1))


def test_the_title_tells_the_mean_of_what_was_measured(numbers):
    seen = []

    def ruler(images):
        seen.append(len(images))
        return strokes.Measures(*(torch.arange(len(images)) + offset for offset in (0.0, 1.0, 2.0)))

    picture = panels.draw_attributes(numbers, {"thickness": 2.0, "slant": 0.0}, measure=ruler)
    assert seen == [11]  # the one drawn large and the ten beside it, whose mean is 5 and 6
    assert picture.figure.axes[1].get_title() == "measured: thickness 5.00, slant 6.00"
    assert "thickness 2.00 (measured 5.00)" in picture.alt


def test_faces_are_asked_for_without_a_label():
    settings = {"condition": "attributes", "attributes": ("smile",), "event_shape": (3, 32, 32)}
    panel = panels.attribute_panel(CVAE(CVAEConfig(latent_dim=2, hidden=(5,), **settings)), limits={"smile": (-1, 1)})
    assert list(panel.controls) == ["smile", "seed"]
    assert (panel.controls["smile"].low, panel.controls["smile"].high) == (-1, 1)
    assert panel.draw(**panel.start()).figure.axes[0].images[0].get_array().shape == (32, 32, 3)


def test_a_caption_that_cannot_be_read_is_answered_in_the_panel(reader):
    panel = panels.caption_panel(reader, ["a thin seven"])
    panel.live()
    panel.inputs["caption"].value = "a thin sevne"
    assert "did you mean &#x27;seven&#x27;?" in panel.message.value and "a thin seven" in alt(panel)
    panel.inputs["caption"].value = "a thick seven"
    assert panel.message.value == "" and "a thick seven" in alt(panel)
    panel.inputs["caption"].value = " "
    assert "at least one word" in panel.message.value


def test_a_caption_is_read_when_enter_is_pressed_and_not_at_every_letter(reader):
    panel = panels.caption_panel(reader, ["a thin seven"])
    panel.live()
    assert panel.inputs["caption"].continuous_update is False


def test_rows_of_a_caption_sheet_share_their_latents(reader):
    heard: list[tuple[torch.Tensor, ...]] = []
    hook = reader.decoder.register_forward_pre_hook(lambda _, inputs: heard.append(inputs))
    panels.caption_sheet(reader, ["a seven", "thin seven"], count=4)
    hook.remove()
    z, c = heard[0]
    assert torch.equal(z[:4], z[4:]) and len(z[:4].unique(dim=0)) == 4
    assert c.mask.sum(1).tolist() == [2] * 8 and torch.equal(c.values[0], c.values[3])


@pytest.mark.parametrize("settings", [{}, {"condition": "label+embedding"}, {"condition": "caption", "words": ("a",)}])
def test_a_model_that_is_told_no_attributes_is_refused(settings):
    with pytest.raises(ValueError, match="reads no such y"):
        panels.attribute_panel(CVAE(CVAEConfig(**settings)))


def test_requests_the_new_panels_cannot_draw_are_refused_in_a_sentence(numbers, reader, model):
    with pytest.raises(ValueError, match="thickness, slant, not for slant"):
        panels.draw_attributes(numbers, {"slant": 0.0})
    with pytest.raises(ValueError, match="0 to 2, and 3 is not"):
        panels.draw_attributes(numbers, {"thickness": 2.0, "slant": 0.0}, label=3)
    with pytest.raises(ValueError, match="in words"):
        panels.caption_panel(model, ["a seven"])
    with pytest.raises(ValueError, match="at least one caption"):
        panels.caption_panel(reader, [])
    with pytest.raises(ValueError, match="label"):
        Text(" ")


# --- the panel itself ---------------------------------------------------------------------------------------


def picture(words: str) -> figures.Picture:
    return figures.Picture(figures.new_figure(1, 1)[0], words)


def shouting(at: float, step: int) -> figures.Picture:
    if at > 0.6:
        raise ValueError("Too far <out>: come back.\nDetails nobody asked for.")
    return picture(f"The picture at {at:.1f} after {step} presses.")


@pytest.fixture
def panel() -> Panel:
    controls = {"at": Slider("how far", 0.0, 1.0, 0.1, 0.5), "step": Count("again")}
    return Panel(shouting, controls, picture("A still that says what moving would show."))


def alt(panel: Panel) -> str:
    found = re.search(r'<img alt="([^"]*)" src="data:image/png;base64,[^"]+"', panel.picture.value)
    assert found
    return found[1]


def test_the_picture_follows_a_slider_and_a_button(panel):
    panel.live()
    assert alt(panel) == "The picture at 0.5 after 0 presses."
    panel.inputs["at"].value = 0.2
    assert alt(panel) == "The picture at 0.2 after 0 presses."
    panel.inputs["step"].click()
    panel.inputs["step"].click()
    assert alt(panel) == "The picture at 0.2 after 2 presses."


def test_an_error_is_a_sentence_in_the_panel_until_the_next_picture(panel):
    panel.live()
    panel.inputs["at"].value = 0.9
    assert 'role="alert"' in panel.message.value
    assert "Too far &lt;out&gt;: come back.</p>" in panel.message.value  # one line, and no markup of its own
    assert isinstance(panel.error, ValueError)
    assert alt(panel) == "The picture at 0.5 after 0 presses."
    panel.inputs["at"].value = 0.1
    assert panel.message.value == "" and panel.error is None
    assert alt(panel) == "The picture at 0.1 after 0 presses."


def test_alt_text_cannot_break_out_of_its_place(panel):
    panel.draw = lambda at, step: picture('A "quoted" <b> & more.')
    panel.live()
    panel.refresh()
    assert alt(panel) == "A &quot;quoted&quot; &lt;b&gt; &amp; more."


def test_the_bundle_moves_where_it_can_and_the_build_keeps_the_still(panel):
    data, metadata = panel._repr_mimebundle_()
    assert data[WIDGET]["model_id"] == panel.live().model_id
    assert panel._repr_mimebundle_()[0][WIDGET] == data[WIDGET]  # shown twice, it is one panel
    data["image/png"] = base64.b64encode(data["image/png"]).decode()  # as a kernel sends it
    cell = nbformat.v4.new_code_cell("panel", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("execute_result", data, metadata=metadata, execution_count=1)]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    running._clean(notebook)
    assert running.problems(notebook) == []
    (output,) = cell.outputs
    assert set(output.data) == {"image/png", "text/plain"}
    assert output.metadata["image/png"]["alt"] == "A still that says what moving would show."
    assert output.data["text/plain"] == f"[figure] {panel.still.alt}" == repr(panel)


def test_without_ipywidgets_the_still_is_shown_and_the_way_out_named(panel, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    data, metadata = panel._repr_mimebundle_()
    assert set(data) == {"image/png", "text/plain"} and metadata["image/png"]["alt"] == panel.still.alt
    assert capsys.readouterr().out.strip() == NO_WIDGETS


@pytest.mark.parametrize(
    "which", ["draw", "blend", "bound", "attributes", "caption", "trading", "training", "completion"]
)
def test_every_control_says_what_it_is_and_every_still_what_moving_shows(
    which, model, plane, numbers, reader, curves, patcher
):
    panel = {
        "draw": lambda: panels.draw_panel(model),
        "blend": lambda: panels.blend_panel(model),
        "bound": lambda: bound(plane),
        "attributes": lambda: panels.attribute_panel(numbers),
        "caption": lambda: panels.caption_panel(reader, ["a thin seven", "seven"]),
        "trading": lambda: panels.trading_panel(*curves, "VAE"),
        "training": lambda: panels.training_panel(trainings()),
        "completion": lambda: completions(patcher),
    }[which]()
    panel.live()
    for name, control in panel.controls.items():
        assert panel.inputs[name].description == control.label != ""
        assert panel.inputs[name].value == control.start
    moved = "box" if which == "caption" else "slider"
    assert moved in panel.still.alt and "panel" in panel.still.alt


@pytest.mark.parametrize("page", ["#ffffff", "#111111"], ids=["light", "dark"])
def test_the_handle_of_a_slider_stands_out_from_jupyterlabs_page(page):
    handle = Slider("how far", 0.0, 1.0, 0.1, 0.5).widget(ipywidgets.Layout()).style.handle_color
    assert contrast(handle, page) >= 3  # what the guidelines ask of the parts of a control


def test_the_completion_panel_keeps_what_is_seen_and_draws_the_rest(patcher):
    image = torch.rand(1, 28, 28)
    drive(completions(patcher))
    for seen in panels.SEEN:
        shares = [panels.observed_part(seen, share, (28, 28)) for share in (0.0, 0.1, 0.3, 0.7, 1.0)]
        assert all((less <= more).all() for less, more in itertools.pairwise(shares))
        assert not shares[0].any() and shares[-1].all()
        for share, mask in zip((0.1, 0.3, 0.7), shares[1:4], strict=True):
            assert float(mask.float().mean()) == pytest.approx(share, abs=0.04)
            images = panels.completed(patcher, image, mask, 4, seed=1)
            assert torch.equal(images[:, mask], image[mask].expand(4, -1))
            y = Observed(image.expand(4, -1, -1, -1), mask.expand(4, -1, -1, -1))
            z = tempered_sample(patcher.prior(y), generator=torch.Generator().manual_seed(1))
            torch.testing.assert_close(images[:, ~mask], patcher.likelihood(z, y).mean[:, ~mask])
            assert images[:, ~mask].std(0).max() > 0
            other = panels.completed(patcher, torch.where(mask, image, 1 - image), mask, 4, seed=1)
            assert torch.equal(images, other)  # what is hidden is never read
    grey = panels.shown(image[None], shares[0][None])
    assert grey.unique().numel() == 1 and torch.equal(panels.shown(image[None], shares[-1][None]), image[None])


def test_completions_that_cannot_be_drawn_are_refused(patcher, model):
    images = torch.rand(2, 1, 28, 28)
    with pytest.raises(ValueError, match="one name for each of its 2 images"):
        panels.completion_panel(patcher, images, ["a 7", "a 7"])
    with pytest.raises(ValueError, match="read an observed part"):
        panels.draw_completions(model, images[0], panels.SEEN[0], 0.5)
    for seen, share in (("sideways", 0.5), (panels.SEEN[1], 1.5)):
        with pytest.raises(ValueError, match="a share lies in"):
            panels.observed_part(seen, share, (28, 28))


def test_curves_that_cannot_be_walked_are_refused(curves):
    stops, images = curves
    with pytest.raises(ValueError, match="at least one stop"):
        panels.trading_panel({"VAE": []}, images, "VAE")
    with pytest.raises(ValueError, match="no curve 'GAN'; there are VAE, CVAE"):
        panels.trading_panel(stops, images, "GAN")
    with pytest.raises(ValueError, match="needs 4 reconstructions"):
        panels.draw_stop({"VAE": [stops["VAE"][0]._replace(drawn=images[:2])]}, images, "VAE", 0.0)


def test_controls_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="label"):
        Count(" ")
    with pytest.raises(ValueError, match="low <= start <= high"):
        Slider("x", 0, 1, 0.1, 2)
    with pytest.raises(ValueError, match="step above 0"):
        Slider("x", 0, 1, 0, 0.5)
    with pytest.raises(ValueError, match="not among its options"):
        Choice("x", [1, 2], 3)


def test_what_the_controls_start_with_must_be_drawn():
    with pytest.raises(ValueError, match="Too far"):
        Panel(shouting, {"at": Slider("how far", 0, 1, 0.1, 1.0), "step": Count("again")}, picture("A still."))


def test_importing_the_panels_does_not_import_ipywidgets(root):
    script = "import sys, cvae_lib.course.panels; print('ipywidgets' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], cwd=root, text=True).strip() == "False"
