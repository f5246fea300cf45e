"""The drawn faces, and the ruler that reads their attributes back."""

import math

import pytest
import torch

from cvae_lib import data, evaluation
from cvae_lib.datasets import faces
from cvae_lib.datasets.faces import NAMES, Faces


@pytest.fixture(scope="module")
def held_out() -> Faces:
    return faces.faces("test", 1000)


def test_same_seed_same_bytes_and_a_short_run_begins_a_long_one():
    long, again, short = (
        faces.faces("train", 300, seed=3),
        faces.faces("train", 300, seed=3),
        faces.faces("train", 77, 3),
    )
    for a, b, c in zip(long, again, short, strict=True):
        assert torch.equal(a, b) and torch.equal(a[:77], c)


def test_other_seeds_and_the_other_split_are_other_faces():
    first = faces.faces("train", 50).skin
    assert not torch.equal(first, faces.faces("train", 50, seed=1).skin)
    assert not torch.equal(first, faces.faces("test", 50).skin)


def test_attributes_are_uniform_and_independent_and_a_third_wears_glasses(held_out):
    table = torch.stack([getattr(held_out, name) for name in NAMES])  # (5, 1000)
    correlations = torch.corrcoef(table) - torch.eye(5)
    assert correlations.abs().max() < 4 / math.sqrt(1000)
    assert held_out.glasses.mean().item() == pytest.approx(1 / 3, abs=0.06)
    assert set(held_out.glasses.tolist()) == {0.0, 1.0}
    for name in ("hair", "skin", "age"):
        assert getattr(held_out, name).sort().values.sub(torch.linspace(0, 1, 1000)).abs().max() < 0.06
    assert held_out.smile.min() < -0.95 and held_out.smile.max() > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_the_ruler_reads_what_was_drawn_on_faces_it_never_saw(held_out, name):
    found = evaluation.calibration(getattr(held_out, name), getattr(faces.measure(held_out.images), name))
    assert found.slope == pytest.approx(1, abs=0.05)
    assert found.r_squared > 0.95
    assert abs(found.bias) < 0.03


@pytest.mark.parametrize("name", NAMES)
def test_one_attribute_moves_its_own_measure_and_hardly_another(name):
    low, high = faces.LIMITS[name]
    before, after = (
        torch.stack(list(faces.measure(faces.draw(200, seed=1, **{name: value}).images))) for value in (low, high)
    )
    moved = (after - before).mean(1)
    column = NAMES.index(name)
    assert moved[column].item() == pytest.approx(high - low, rel=0.06)
    assert (moved.abs()[[i for i in range(5) if i != column]] < 0.06).all()


def test_the_ruler_takes_bytes_and_floats_alike(held_out):
    as_bytes, as_floats = faces.measure(held_out.images[:50]), faces.measure(held_out.images[:50].float() / 255)
    for a, b in zip(as_bytes, as_floats, strict=True):
        torch.testing.assert_close(a, b)


def test_an_attribute_that_is_given_leaves_the_rest_of_the_face():
    plain, glasses = faces.draw(20, seed=4, glasses=0), faces.draw(20, seed=4, glasses=1)
    assert torch.equal(plain.skin, glasses.skin) and torch.equal(plain.hair, glasses.hair)
    changed = (plain.images != glasses.images).any(1)  # (20, 32, 32)
    assert changed.any() and not changed[:, 22:].any() and not changed[:, :12].any()


def test_parts_lie_where_the_colours_are(held_out):
    x, parts = held_out.images.float() / 255, held_out.parts
    light, dark = held_out.hair < 0.2, held_out.hair > 0.8
    levels = [x.mean(1)[who][parts[who] == 1].mean() for who in (light, dark)]
    assert levels[0] > levels[1] + 0.3
    blue, red = x[:, 2], x[:, 0]
    assert ((blue - red)[parts == 0] > -0.1).float().mean() > 0.99 > 0.3 > (blue > red)[parts == 2].float().mean()
    shares = torch.bincount(parts.flatten(), minlength=4) / parts.numel()
    assert (shares > 0.02).all() and shares.sum() == pytest.approx(1)


@pytest.mark.usefixtures("as_users_call")
def test_what_cannot_be_drawn_or_measured_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="'train' or 'test'"):
        faces.faces("all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        faces.faces("train", 0)
    with pytest.raises(ValueError, match="no attribute 'beard'"):
        faces.draw(2, beard=1)
    with pytest.raises(ValueError, match="smile must lie from -1 to 1"):
        faces.draw(2, smile=2)
    with pytest.raises(ValueError, match=r"one per face \(2\)"):
        faces.draw(2, smile=torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(n, 3, 32, 32\)"):
        faces.measure(torch.zeros(2, 1, 28, 28))
    with pytest.raises(ValueError, match="lie in"):
        faces.measure(torch.full((2, 3, 32, 32), 1.5))
    with pytest.raises(ValueError, match="uint8"):
        faces.measure(torch.zeros(2, 3, 32, 32, dtype=torch.int64))


def test_the_set_carries_the_attributes_and_labels_the_glasses():
    images = data.faces("test", count=30)
    assert images.image_shape == (3, 32, 32) and images.num_classes == 2
    drawn = faces.faces("test", 30)
    assert torch.equal(images.images, drawn.images) and torch.equal(images.labels, drawn.glasses.long())
    assert list(images.attributes) == list(NAMES)
    for name in NAMES:
        assert torch.equal(images.attributes[name], getattr(drawn, name))
