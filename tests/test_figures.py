"""Figures: the right pixels in the right place, alt text, and the same bytes twice."""

import io
import math
import re

import matplotlib.image
import pytest
import torch
from torch.distributions import Independent, Normal

from cvae_lib.course import figures
from cvae_lib.course.figures.images import mosaic


def test_a_grid_holds_the_images_row_by_row_dark_on_white():
    images = torch.zeros(3, 1, 4, 5)
    images[2, 0, 1, 3] = 1
    sheet = mosaic(images, columns=2)
    assert sheet.shape == (4 + 2 + 4, 5 + 2 + 5, 3)
    assert (sheet == 0).sum() == 3 and (sheet[6 + 1, 3] == 0).all()


def test_the_bundle_carries_png_and_alt_text():
    picture = figures.digit_grid(torch.rand(4, 1, 28, 28), "Four   squares\n of noise.")
    data, metadata = picture._repr_mimebundle_()
    assert data["text/plain"] == "[figure] Four squares of noise."
    assert metadata["image/png"]["alt"] == "Four squares of noise."
    pixels = matplotlib.image.imread(io.BytesIO(data["image/png"]))
    assert (pixels[0, 0, :3] == 1).all()  # opaque white paper, readable on a dark page
    assert pixels.shape[0] / metadata["image/png"]["height"] == pytest.approx(1.6, rel=0.01)


def test_the_same_figure_gives_the_same_bytes():
    first, second = (figures.curves({"a": [1, 2, 1.5], "b": [2, 1, 0]}, "Two lines.").png() for _ in range(2))
    assert first == second


def test_no_alt_text_no_picture():
    with pytest.raises(ValueError, match="alt text"):
        figures.Picture(figures.new_figure()[0], "  ")


def test_a_colour_grid_holds_the_colours_as_they_are():
    images = torch.rand(3, 3, 4, 5)
    sheet = torch.from_numpy(mosaic(images, columns=3))
    torch.testing.assert_close(sheet[:, 7:12], images[1].permute(1, 2, 0))


def test_draws_that_stray_a_little_are_cut_off():
    ends = mosaic(torch.tensor([-0.3, 1.4]).view(1, 1, 1, 2), columns=1)
    assert ends[0, :, 0].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.zeros(28, 28), r"shape \(N, channels, H, W\)"),
        (torch.zeros(0, 1, 4, 4), "at least one"),
        (torch.zeros(2, 2, 4, 4), r"1 channel \(grey\) or 3 \(colour\), not \(2, 2, 4, 4\)"),
        (torch.zeros(2, 4, 4, 4), r"1 channel \(grey\) or 3 \(colour\), not \(2, 4, 4, 4\)"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), r"not torch.uint8: divide bytes by 255"),
        (torch.full((2, 1, 4, 4), 255.0), "from 255 to 255: divide bytes by 255"),
        (torch.full((2, 1, 4, 4), -1.0), "undo a normalisation"),
        (torch.tensor([0.5, math.nan]).view(1, 1, 1, 2), "look for NaN"),
    ],
)
def test_a_grid_of_something_else_is_refused_in_one_sentence(images, sentence, as_users_call):
    with pytest.raises(ValueError, match=sentence) as refused:
        figures.digit_grid(images, "A digit.")
    assert "\n" not in str(refused.value)


def test_the_confusion_matrix_counts():
    truth, guess = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 2])
    axes = figures.confusion(truth, guess, "Counts.").figure.axes[0]
    found = {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in axes.texts}
    assert found == {(0, 0): "1", (0, 1): "1", (1, 1): "1", (2, 2): "1"}


def test_every_seed_has_a_dot_and_the_live_run_a_diamond():
    panels = {"nats": {"a": [3.0, 1.0, 2.0], "b": [5.0, 4.0, 6.0]}, "control": {"a": [0.5], "b": [0.6]}}
    picture = figures.seed_dots(panels, "Dots.", live={"nats": {"b": 4.5}})
    left, right = picture.figure.axes
    assert [list(line.get_xdata()) for line in left.lines] == [[3.0, 1.0, 2.0], [5.0, 4.0, 6.0], [4.5]]
    assert [set(line.get_ydata()) for line in left.lines] == [{0}, {1}, {1}]
    assert [label.get_text() for label in left.get_yticklabels()] == ["a", "b"]
    assert len(right.lines) == 2  # no run at hand in this panel
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first row on top


def test_panels_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match="same models"):
        figures.seed_dots({"one": {"a": [1.0]}, "two": {"b": [1.0]}}, "Dots.")
    with pytest.raises(ValueError, match="at least one panel"):
        figures.seed_dots({}, "Dots.")


def test_what_was_measured_stands_over_what_was_asked():
    asked, measured = torch.tensor([1.0, 1.0, 2.0, 2.0]), torch.tensor([1.0, 3.0, 2.0, 2.0])
    picture = figures.asked_and_measured({"a": (asked, measured), "b": (asked, asked)}, "Two panels of dots.")
    dots, ideal = picture.figure.axes[0].lines
    assert dots.get_xydata().tolist() == [[1, 1], [1, 3], [2, 2], [2, 2]]
    assert ideal.get_xydata().tolist() == [[1, 1], [2, 2]]
    means = figures.asked_and_measured(
        {"a": (asked, measured)}, "Averages with their spread.", averages=True, ranges={"a": (1.2, 1.8)}
    )
    (axes,) = means.figure.axes
    assert axes.lines[0].get_xydata().tolist() == [[1, 2], [2, 2]]
    assert [patch.get_x() for patch in axes.patches] == [1.2]
    with pytest.raises(ValueError, match="at least one"):
        figures.asked_and_measured({}, "Nothing.")


def test_a_word_map_writes_its_numbers_where_they_belong():
    table = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    picture = figures.word_maps({"one": table, "two": 1 - table}, ["a", "seven"], ["x", "y", "z"], "Two tables.")
    first, second = picture.figure.axes
    found = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in first.texts}
    assert found[0, 1] == "0.75" and found[1, 0] == "1.00" and len(found) == 6
    assert second.texts[0].get_text() == "0.75"
    assert [label.get_text() for label in first.get_xticklabels()] == ["a", "seven"]
    with pytest.raises(ValueError, match="3 rows and 1 columns"):
        figures.word_maps({"one": table}, ["a"], ["x", "y", "z"], "A table that does not fit.")


def test_a_prior_map_has_its_dots_and_the_contours_of_its_prior():
    draws = 0.5 * torch.randn(50, 2) + 1
    standard = Independent(Normal(torch.zeros(1, 2), torch.ones(1, 2)), 1)
    picture = figures.prior_maps({"a": (draws, standard), "b": (draws, standard)}, "Maps.", reach=4)
    assert [axes.get_title() for axes in picture.figure.axes] == ["a", "b"]
    axes = picture.figure.axes[0]
    assert axes.lines[0].get_xydata() == pytest.approx(draws.numpy())
    (contours,) = (artist for artist in axes.collections if hasattr(artist, "levels"))
    for level, path in zip(contours.levels, contours.get_paths(), strict=True):
        radii = torch.from_numpy(path.vertices).norm(dim=1)  # exp(-r^2 / 2) is the level
        torch.testing.assert_close(radii, torch.full_like(radii, math.sqrt(-2 * math.log(level))), atol=0.02, rtol=0)
    with pytest.raises(ValueError, match="at least one panel"):
        figures.prior_maps({}, "Nothing.")


def test_the_plane_draws_curves_dots_and_lines_of_the_slope_asked_for():
    curves = {"a": [(47.0, 71.0), (22.0, 82.0), (4.0, 146.0)], "b": [(43.0, 69.0), (3.0, 120.0)]}
    picture = figures.rate_distortion_plane(
        curves, "Two falling curves.", dots={"b": [(10.0, 100.0)]}, labels={"a": ["x"]}, tangents=[(22, 82, 3.0, "t")]
    )
    (axes,) = picture.figure.axes
    first, second, dot, tangent = axes.lines
    assert [tuple(point) for point in first.get_xydata()] == curves["a"]
    assert [tuple(point) for point in second.get_xydata()] == curves["b"]
    assert tuple(dot.get_xydata()[0]) == (10, 100) and dot.get_color() == second.get_color()
    (left, right), (high, low) = tangent.get_data()
    assert (high - low) / (right - left) == pytest.approx(3) and high - 3 * (22 - left) == pytest.approx(82)
    assert [text.get_text() for text in axes.texts] == ["x"]
    assert axes.get_xlim() == (left, right)


def test_the_plane_enlarges_a_corner_and_names_its_points_only_there():
    curves = {"a": [(10.0, 71.0), (0.5, 182.0), (0.1, 200.0)], "far": [(5.0, 60.0)]}
    picture = figures.rate_distortion_plane(
        curves,
        "A curve and a point.",
        dots={"a": [(0.5, 182.0)]},
        labels={"a": ["x", "y", "z"]},
        dots_name="trained here",
        inset=((0.0, 1.0), (150.0, 210.0)),
    )
    (axes,) = picture.figure.axes
    (corner,) = axes.child_axes
    assert [text.get_text() for text in axes.texts] == ["x", "", ""]
    assert [text.get_text() for text in corner.texts] == ["x", "y", "z"]
    assert corner.get_xlim() == (0, 1) and corner.get_ylim() == (150, 210)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "far", "trained here"]
    assert axes.lines[0].get_linestyle() == "-" and axes.lines[-1].get_linestyle() == "None"  # one point: no line


def test_the_plane_refuses_what_it_cannot_place():
    with pytest.raises(ValueError, match="at least one curve"):
        figures.rate_distortion_plane({}, "Nothing.")
    with pytest.raises(ValueError, match="name curves that are there"):
        figures.rate_distortion_plane({"a": [(1.0, 2.0)]}, "One.", dots={"b": [(1.0, 2.0)]})


# --- colours that everyone can tell apart -------------------------------------------------------------------

# How a colour looks to those who lack one kind of cone: Machado, Oliveira and Fernandes 2009, severity 1, linear RGB.
BLINDNESS = {
    "none": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
TO_XYZ = torch.tensor([[0.41246, 0.35758, 0.18044], [0.21267, 0.71515, 0.07218], [0.01933, 0.11919, 0.95030]])
NEUTRAL = {"black", "white", "#888888", "#cccccc", "#8a5a00"}  # the last is dark orange, for lettering


def nearest(colours: tuple[str, ...], blindness: str) -> float:
    """Return the least distance between two of the colours as they are seen, in CIELAB; below 10 they are confused."""
    rgb = torch.tensor([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in colours])
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = (linear @ torch.tensor(BLINDNESS[blindness]).T).clamp(0, 1)
    ratio = seen @ TO_XYZ.T / TO_XYZ.sum(1)
    root = torch.where(ratio > 216 / 24389, ratio.clamp(1e-9) ** (1 / 3), (24389 / 27 * ratio + 16) / 116)
    lab = torch.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], 1)
    return float(torch.pdist(lab).min())


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_the_palette_is_told_apart_with_every_colour_blindness(blindness):
    assert nearest(figures.COLOURS, blindness) > 15


def test_the_measure_of_colours_knows_a_palette_that_is_not():
    usual = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2")  # matplotlib's own
    assert nearest(usual, "none") > 15 and nearest(usual, "protan") < 10 and nearest(usual, "deutan") < 10


def test_lines_differ_by_more_than_colour():
    assert len(set(figures.MARKERS)) == len(figures.MARKERS) >= len(figures.COLOURS)


def test_no_figure_has_a_colour_of_its_own(root):
    files = [*(root / "cvae_lib").rglob("*.py"), *(root / "authoring" / "notebooks").glob("*.py")]
    for path in files:
        text = path.read_text(encoding="utf-8")
        named = set(re.findall(r'\b(?:face|edge)?colou?rs?="([^"{]+)"', text))
        assert named <= NEUTRAL | set(figures.COLOURS), path.name
        assert set(re.findall(r'\bcmap="([^"]+)"', text)) <= {"Blues"}, path.name  # light to dark, also in grey


def test_priors_straight_from_a_model_that_trains_are_drawn():
    posteriors = Normal(torch.zeros(4, requires_grad=True), torch.ones(4, requires_grad=True))
    prior = Normal(torch.zeros((), requires_grad=True), torch.ones(()))
    picture = figures.prior_stills(torch.linspace(-2, 2, 9), posteriors, [prior], ["one"], "A hill.")
    heights = picture.figure.axes[0].lines[-1].get_ydata()
    assert heights == pytest.approx(Normal(0.0, 1.0).log_prob(torch.linspace(-2, 2, 9)).exp().numpy())
