"""The built-in digits and the ruler that measures any digit."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cvae_lib.datasets.strokes import COUNTS, Strokes, draw, measure, strokes

ATTRIBUTES = ("thickness", "slant", "size", "x", "y", "brightness")


@pytest.fixture(scope="module")
def held_out() -> Strokes:
    return strokes("test", 5000)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack((a, b)).double())[0, 1])


def pen_line(width: float, slant: float, level: float = 1.0) -> Tensor:
    """A slanted line with round ends, from its exact distance on a grid eight times finer, averaged down."""
    steps = (torch.arange(28 * 8, dtype=torch.float64) + 0.5) / 8 - 0.5
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    x, y = x - 13.3, y - 13.6
    along = torch.tensor([slant * 8, -8.0], dtype=torch.float64)  # half the line, 16 pixels tall
    t = ((x * along[0] + y * along[1]) / along.square().sum()).clamp(-1, 1)
    inside = torch.hypot(x - t * along[0], y - t * along[1]) <= width / 2
    return level * F.avg_pool2d(inside.float()[None, None], 8)


# The dataset


def test_classes_are_balanced_in_every_prefix() -> None:
    labels = strokes("train", 1000).labels
    assert torch.bincount(labels).tolist() == [100] * 10
    assert torch.bincount(labels[:10]).tolist() == [1] * 10
    assert labels[:100].tolist() != labels[100:200].tolist()


def test_default_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert COUNTS == {"train": 60_000, "test": 10_000}
    monkeypatch.setitem(COUNTS, "train", 30)  # the whole would take most of a minute
    assert len(strokes("train").labels) == 30


def test_same_seed_same_bytes_and_a_short_run_begins_a_long_one() -> None:
    long, again, short = (
        strokes("train", 300, seed=3),
        strokes("train", 300, seed=3),
        strokes("train", 77, seed=3),
    )
    for a, b, c in zip(long, again, short, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a[:77], c)


def test_threads_do_not_change_bytes_and_come_back() -> None:
    one = strokes("train", 200).images
    torch.set_num_threads(2)
    try:
        assert torch.equal(strokes("train", 200).images, one)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_splits_and_seeds_share_nothing() -> None:
    runs = [strokes(split, 500, seed=seed) for split in ("train", "test") for seed in (0, 1, 2**32)]
    pictures = torch.cat([run.images.flatten(1) for run in runs])
    assert len(pictures.unique(dim=0)) == len(pictures)
    for i, a in enumerate(runs):
        for b in runs[:i]:
            assert abs(correlation(a.thickness, b.thickness)) < 0.2


def test_attributes_are_independent_of_each_other_and_of_the_class(held_out: Strokes) -> None:
    facts = torch.stack([getattr(held_out, name) for name in ("thickness", "slant", "size", "brightness")])
    assert (torch.corrcoef(facts) - torch.eye(4)).abs().max() < 0.06  # four standard errors
    for fact in facts:
        means = torch.stack([fact[held_out.labels == digit].mean() for digit in range(10)])
        assert (means - fact.mean()).abs().max() < 4.5 * fact.std() / math.sqrt(500)


def test_no_ink_touches_the_edge(held_out: Strokes) -> None:
    frame = torch.ones(28, 28, dtype=torch.bool)
    frame[1:-1, 1:-1] = False
    assert held_out.images[:, 0, frame].max() == 0


def test_two_digits_of_a_class_are_never_alike(held_out: Strokes) -> None:
    """Even the most similar of 100 upright hands of equal size and pen differ in a twentieth of their ink."""
    for digit in range(10):
        same = draw([digit] * 100, slant=0.0, size=20.0, thickness=2.5, brightness=1.0, noise=0.0)
        ink = same.images.flatten(1).float()
        gap = torch.cdist(ink, ink, p=1) / ink.sum(1)
        assert gap.fill_diagonal_(9).min() > 0.05, digit


# Drawing what is asked


def test_given_attributes_are_obeyed_and_the_rest_stays() -> None:
    labels = torch.arange(10).repeat(3)
    plain, thick = draw(labels, seed=5), draw(labels, seed=5, thickness=4.0)
    assert torch.equal(thick.thickness, torch.full((30,), 4.0))
    for name in ("slant", "size", "brightness"):
        assert torch.equal(getattr(plain, name), getattr(thick, name))
    heavy, light = (draw(labels, seed=5, thickness=w).masks.sum((1, 2, 3)) for w in (4.0, 2.0))
    assert (heavy > light).all()
    each = torch.linspace(-0.3, 0.5, 30)
    assert torch.equal(draw(labels, slant=each).slant, each)


def test_brightness_is_the_level_of_full_ink() -> None:
    images = draw([0, 3, 8], thickness=4.0, brightness=0.6, noise=0.0).images
    assert images.amax((1, 2, 3)).tolist() == [153] * 3


def test_size_is_the_height_of_the_ink(held_out: Strokes) -> None:
    rows = held_out.masks.any(3).flatten(1).sum(1)
    assert (rows - held_out.size).abs().max() < 1.6
    assert abs(float((rows - held_out.size).mean())) < 0.3


def test_position_is_the_centre_of_mass() -> None:
    clean = draw(torch.arange(10).repeat(20), brightness=1.0, noise=0.0)
    for image, x, y in zip(clean.images[:, 0], clean.x, clean.y, strict=True):
        weight = image.double() / image.double().sum()
        row, column = (weight * torch.stack(torch.meshgrid(*[torch.arange(28.0)] * 2, indexing="ij"))).sum((1, 2))
        assert column - 13.5 == pytest.approx(float(x), abs=0.01)
        assert row - 13.5 == pytest.approx(float(y), abs=0.01)
    assert clean.x.std() > 0.5 and clean.y.std() > 0.5


def test_masks_are_the_half_covered_pixels() -> None:
    clean = draw(torch.arange(10), brightness=1.0, noise=0.0)
    assert torch.equal(clean.masks, clean.images >= 128)
    grainy = draw(torch.arange(10), brightness=1.0, noise=0.3)
    assert torch.equal(grainy.masks, clean.masks)
    assert not torch.equal(grainy.images, clean.images)


@pytest.mark.parametrize("slant", [-0.4, 0.0, 0.5])
def test_slant_is_true_of_the_ink_itself(slant: float) -> None:
    """By the moments of a thin pen's ink, which a pen's own width pulls a little towards upright."""
    thin = draw(torch.arange(10).repeat(20), thickness=1.0, noise=0.0, brightness=1.0, slant=slant)
    weight = thin.images[:, 0].double() / thin.images.double().sum((1, 2, 3))[:, None, None]
    y, x = torch.meshgrid(*[torch.arange(28, dtype=torch.float64)] * 2, indexing="ij")
    x, y = (axis - (weight * axis).sum((1, 2))[:, None, None] for axis in (x, y))
    found = -(weight * x * y).sum((1, 2)) / (weight * y * y).sum((1, 2))
    assert float(found.mean()) == pytest.approx(slant, abs=0.01)
    assert (found - slant).abs().max() < 0.08


def test_every_digit_is_written_without_lifting_the_pen_for_good() -> None:
    """The ink is one piece, whatever curves and corners it is made of: a flood from any pixel of it fills it."""
    ink = draw(torch.arange(10).repeat(20), thickness=2.5, noise=0.0, brightness=1.0).masks
    first = ink.flatten(1).byte().argmax(1)
    flood = F.one_hot(first, 28 * 28).bool().view_as(ink)
    for _ in range(200):
        flood = (F.max_pool2d(flood.float(), 3, 1, 1) > 0) & ink
    assert torch.equal(flood, ink)


# The ruler


@pytest.mark.parametrize("name", ["thickness", "slant", "brightness"])
def test_measures_follow_the_truth(held_out: Strokes, name: str) -> None:
    found, truth = getattr(measure(held_out.images), name), getattr(held_out, name)
    assert correlation(found, truth) >= 0.95
    slope = float(torch.cov(torch.stack((found, truth)))[0, 1] / truth.var())
    assert 0.9 < slope < 1.12
    assert abs(float((found - truth).mean())) < 0.05
    for digit in range(10):
        of = held_out.labels == digit
        assert correlation(found[of], truth[of]) >= 0.95, digit


@pytest.mark.parametrize("width", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("slant", [-0.4, 0.0, 0.7])
def test_measures_of_an_exact_line(width: float, slant: float) -> None:
    found = measure(pen_line(width, slant, level=0.7))
    assert found.thickness.item() == pytest.approx(width, abs=0.25)
    assert found.brightness.item() == pytest.approx(0.7, abs=0.03)
    # a round pen adds (w/4)^2 or so to both moments, which pulls the slant a little towards upright
    assert found.slant.item() == pytest.approx(slant, abs=0.01 + 0.06 * abs(slant))


def test_measures_read_holes_and_pieces_right() -> None:
    """Two rings and two lines of one width: the Euler numbers -0, 1 and 2 must not show in the thickness."""
    steps = torch.arange(28.0)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    ring = (2.0 - (torch.hypot(x - 13.5, y - 13.5) - 8).abs()).clamp(0, 1)
    bar = lambda at: (2.0 - (x - at).abs()).clamp(0, 1) * ((y > 4) & (y < 24))  # noqa: E731
    shapes = torch.stack((ring, bar(9), bar(9) + bar(18)))[:, None]
    thickness = measure(shapes).thickness
    assert thickness.max() - thickness.min() < 0.2
    assert thickness.mean().item() == pytest.approx(3.0, abs=0.3)


def test_measures_hardly_notice_scale_place_and_blur(held_out: Strokes) -> None:
    images = held_out.images[:500].float() / 255
    before = measure(images)
    moved = measure(images.roll((1, -1), (2, 3)))
    dimmed = measure(images / 2)
    soft = measure(F.avg_pool2d(images, 3, 1, 1, count_include_pad=False) / 3 + images * 2 / 3)
    for name in ("thickness", "slant"):
        value = getattr(before, name)
        assert torch.allclose(getattr(moved, name), value, atol=5e-3)
        assert torch.allclose(getattr(dimmed, name), value, atol=5e-3)
        assert correlation(getattr(soft, name), value) > 0.985
    assert torch.allclose(dimmed.brightness, before.brightness / 2, atol=1e-4)


def test_bytes_and_floats_measure_the_same(held_out: Strokes) -> None:
    images = held_out.images[:50]
    for a, b, c in zip(measure(images), measure(images / 255), measure((images / 255).double()), strict=True):
        assert torch.equal(a, b)
        assert torch.allclose(a, c)


def test_blank_and_odd_pictures_measure_finite_values() -> None:
    blank, faint, dot, row, full = torch.zeros(5, 1, 28, 28).unbind()
    faint, dot, row, full = faint + 0.01, dot.clone(), row.clone(), full + 1
    dot[0, 3, 4] = 1
    row[0, 9] = 1
    found = measure(torch.stack((blank, faint, dot, row, full)))
    for values in found:
        assert values.isfinite().all()
        assert values[:2].tolist() == [0, 0]
    assert found.slant[2:].abs().max() < 1e-4
    assert measure(torch.zeros(0, 1, 28, 28)).slant.shape == (0,)


# Bad input: one clear sentence


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([10], "from 0 to 9; these run from 10 to 10"),
        ([-1, 3], "from 0 to 9; these run from -1 to 3"),
        ([1.5], "whole numbers"),
        ([True], "whole numbers"),
        (["seven"], "whole numbers"),
        (None, "whole numbers"),
        ([], "Labels must"),
        (7, "at least one digit"),
        ([[1]], "at least one digit"),
    ],
)
def test_bad_labels(as_users_call: None, labels: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        draw(labels)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"thickness": 0.0}, "thickness must lie from 0.5 to 6"),
        ({"thickness": float("nan")}, "thickness must lie"),
        ({"slant": 2.0}, "slant must lie from -1 to 1"),
        ({"size": torch.tensor([20.0, float("nan")])}, "size must lie"),
        ({"brightness": 1.5}, "brightness must lie"),
        ({"slant": torch.zeros(3)}, r"one per label \(2\)"),
        ({"noise": -0.1}, "noise must be a number from 0 to 1"),
    ],
)
def test_bad_attributes(as_users_call: None, asked: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        draw([1, 2], **asked)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(28, 28), r"shape \(n, 1, 28, 28\), not \(28, 28\)"),
        (torch.zeros(2, 3, 28, 28), "shape"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.int64), "not torch.int64"),
        (torch.full((1, 1, 28, 28), 255.0), r"lie in \[0, 1\]"),
        (torch.full((1, 1, 28, 28), -0.1), r"lie in \[0, 1\]"),
        (torch.full((1, 1, 28, 28), float("nan")), "without NaN"),
    ],
)
def test_bad_images(as_users_call: None, images: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        measure(images)


def test_bad_split_and_count(as_users_call: None) -> None:
    with pytest.raises(ValueError, match="no split 'valid'"):
        strokes("valid")  # type: ignore[arg-type]
    for count in (0, -3, 2.5, True):
        with pytest.raises(ValueError, match="at least 1"):
            strokes("train", count)  # type: ignore[arg-type]
