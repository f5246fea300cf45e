"""ImageSet, its minibatches and its binarisation; the built-in set; and what digits() does without MNIST."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cvae_lib import data, environment
from cvae_lib.data import ImageSet, as_pixels, binarise

N = 50


@pytest.fixture
def images() -> ImageSet:
    """Fifty images whose label, attribute and mask can all be told from their position."""
    position = torch.arange(N)
    pictures = position.to(torch.uint8)[:, None, None, None].expand(N, 1, 4, 4).clone()
    masks = (position % 2 == 0)[:, None, None, None].expand(N, 1, 4, 4)
    return ImageSet(pictures, position % 10, "toy", {"size": position.float()}, masks)


def _pictures(*shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": _pictures(3, 1, 4, 4, dtype=torch.float32)}, "images must be uint8"),
        ({"images": _pictures(3, 4, 4)}, r"\(n, c, h, w\)"),
        ({"images": _pictures(0, 1, 4, 4), "labels": torch.zeros(0).long()}, "at least one image"),
        ({"labels": torch.zeros(3)}, r"labels\.long\(\)"),
        ({"labels": torch.zeros(2).long()}, r"labels must have shape \(3,\), not \(2,\)"),
        ({"labels": torch.tensor([0, -1, 2])}, "smallest is -1"),
        ({"labels": torch.tensor([0, 1, 5]), "classes": 5}, "below classes=5, and the largest is 5"),
        ({"attributes": {"slant": torch.zeros(4)}}, r"slant must have shape \(3,\)"),
        ({"attributes": {"slant": torch.zeros(3, device="meta")}}, "must be on cpu"),
        ({"masks": _pictures(3, 1, 4, 4)}, "masks must be bool"),
        ({"masks": _pictures(3, 1, 4, 5, dtype=torch.bool)}, r"\(3, 1, 4, 5\)"),
    ],
)
@pytest.mark.usefixtures("as_users_call")
def test_a_set_that_makes_no_sense_is_refused(change: dict[str, object], words: str) -> None:
    whole = {"images": _pictures(3, 1, 4, 4), "labels": torch.zeros(3).long(), "name": "toy"}
    ImageSet(**whole)
    with pytest.raises(ValueError, match=words):
        ImageSet(**{**whole, **change})


def test_a_set_describes_itself(images: ImageSet) -> None:
    assert (len(images), images.num_classes, images.image_shape) == (N, 10, (1, 4, 4))
    assert images.device == torch.device("cpu")
    moved = images.to("cpu")
    assert torch.equal(moved.images, images.images) and torch.equal(moved.masks, images.masks)


@pytest.mark.parametrize(
    "index", [slice(3, 9, 2), [7, 3, 3], torch.tensor([7, 3, 3]), torch.arange(N) % 7 == 0], ids=str
)
def test_a_subset_keeps_everything_together(images: ImageSet, index: slice | list[int] | Tensor) -> None:
    part = images.subset(index)
    expected = torch.arange(N)[index]
    assert torch.equal(part.images[:, 0, 0, 0].long(), expected)
    assert torch.equal(part.labels, expected % 10)
    assert torch.equal(part.attributes["size"], expected.float())
    assert torch.equal(part.masks[:, 0, 0, 0], expected % 2 == 0)


def test_a_subset_knows_the_classes_it_lacks(images: ImageSet) -> None:
    assert images.subset(images.labels < 3).num_classes == 10


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ([0, N], f"between 0 and {N - 1}"),
        ([-1], f"between 0 and {N - 1}"),
        (torch.ones(3, dtype=torch.bool), f"bool of shape \\({N},\\)"),
        (torch.zeros(2, 2).long(), "of shape"),
        ([], "integers"),
        (slice(0, 0), "at least one image"),
        (torch.zeros(N, dtype=torch.bool), "at least one image"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("as_users_call")
def test_a_subset_outside_the_set_is_refused(images: ImageSet, index: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        images.subset(index)


def test_split_gives_consecutive_parts(images: ImageSet) -> None:
    first, second = images.split(30, 15)
    assert first.attributes["size"].tolist() == list(range(30))
    assert second.attributes["size"].tolist() == list(range(30, 45))
    for sizes in ((30, 21), (0, 5), (-1,)):
        with pytest.raises(ValueError, match=f"at most {N}"):
            images.split(*sizes)


def _every_level() -> ImageSet:
    return ImageSet(torch.arange(256).to(torch.uint8).view(1, 1, 16, 16), torch.zeros(1).long(), "levels")


def test_grey_and_threshold_pixels_at_every_level() -> None:
    exact = torch.arange(256, dtype=torch.float64).view(1, 1, 16, 16) / 255
    levels = _every_level()
    assert torch.equal(levels.pixels(), exact.float())
    assert torch.equal(levels.pixels(mode="threshold"), (exact >= 0.5).float())
    assert levels.pixels(torch.tensor([0, 0])).shape == (2, 1, 16, 16)


@pytest.mark.usefixtures("as_users_call")
def test_unknown_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="'grey', 'stochastic' or 'threshold', not 'binary'"):
        _every_level().pixels(mode="binary")


def test_the_probability_of_one_at_every_level_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch draw every 16-bit integer once: the share of ones is then the probability, which nobody could count."""

    def all_of_them(bits: Tensor, *_: object, **__: object) -> Tensor:
        return bits.copy_(torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.int64))

    monkeypatch.setattr(torch.Tensor, "random_", all_of_them)
    share = [binarise(torch.full((2**16,), v, dtype=torch.uint8)).double().mean().item() for v in range(256)]
    assert share[0] == 0 and share[255] == 1
    assert max(abs(p - v / 255) for v, p in enumerate(share)) < 2e-5
    assert all(low < high for low, high in zip(share, share[1:], strict=False))


@pytest.mark.parametrize("stored", ["bytes", "floats", "half floats"])
def test_the_probability_of_one_by_monte_carlo(stored: str) -> None:
    """Bytes on the CPU are drawn in one way, floats (and bytes on an accelerator) in another."""
    draws, levels = 20_000, torch.arange(256, dtype=torch.uint8)
    levels = levels if stored == "bytes" else levels / 255
    levels = levels.half() if stored == "half floats" else levels
    x = as_pixels(levels.expand(draws, 256), "stochastic")
    assert x.dtype == (torch.float16 if stored == "half floats" else torch.float32)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    p = torch.arange(256, dtype=torch.float64) / 255
    error = (x.double().mean(0) - p).abs()
    assert error[0] == 0 and error[255] == 0
    assert (error[1:255] / (p * (1 - p) / draws).sqrt()[1:255]).max() < 4.5  # 254 levels, 4.5 sigma each


def test_pixels_of_one_draw_are_independent_of_each_other() -> None:
    """Four pixels share a 64-bit draw, so look at neighbours up to eight apart."""
    x = binarise(torch.full((400_000,), 128, dtype=torch.uint8)) - 128 / 255
    for apart in range(1, 9):
        correlation = (x[apart:] * x[:-apart]).mean() / x.var()
        assert abs(correlation) * len(x) ** 0.5 < 4


def test_the_64_bit_draw_has_no_missing_bits() -> None:
    """Nearly black and nearly white pixels hang on the highest bits, at each of a draw's four places."""
    for level, rare in ((1, 1.0), (254, 0.0)):
        x = binarise(torch.full((100_000, 4), level, dtype=torch.uint8))
        share = (x == rare).double().mean(0)
        assert ((share - 1 / 255).abs() < 5 * (1 / 255 / 100_000) ** 0.5).all()


def test_black_stays_black_and_white_stays_white() -> None:
    for ends in (torch.tensor([0, 255], dtype=torch.uint8), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]).half()):
        x = as_pixels(ends.expand(1_000_000, 2), "stochastic")
        assert not x[:, 0].any() and x[:, 1].all()


def test_floats_are_pixels_too_and_other_numbers_are_refused() -> None:
    x = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64)
    assert torch.equal(as_pixels(x), x) and as_pixels(x, "threshold").tolist() == [0, 0, 1, 1]
    for whole in (torch.tensor([0, 255]), torch.tensor([True])):
        with pytest.raises(ValueError, match=r"uint8 grey levels or floats in \[0, 1\], not torch\.(int64|bool)"):
            as_pixels(whole)


@pytest.mark.parametrize("shape", [(1,), (3,), (5,), (2, 1, 3, 3), (0,)], ids=str)
def test_binarise_takes_any_shape(shape: tuple[int, ...]) -> None:
    assert torch.equal(binarise(torch.full(shape, 255, dtype=torch.uint8)), torch.ones(shape))


def test_binarise_takes_a_strided_view() -> None:
    levels = (torch.arange(24).view(2, 12) % 2 * 255).to(torch.uint8).t()
    assert torch.equal(binarise(levels), (levels == 255).float())


def test_binarisation_is_fresh_each_time_and_repeats_with_a_seed(images: ImageSet) -> None:
    grey = ImageSet(torch.full_like(images.images, 128), images.labels, "grey")
    assert not torch.equal(grey.pixels(mode="stochastic"), grey.pixels(mode="stochastic"))
    first, second = (grey.pixels(None, "stochastic", torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(first, grey.pixels(mode="stochastic"))


def test_batches_visit_every_image_once_and_keep_it_with_its_label(images: ImageSet) -> None:
    batches = images.batches(16, pixels="grey")
    seen = list(batches)
    assert [len(batch.y) for batch in seen] == [16, 16, 16, 2] and len(batches) == 4
    index = torch.cat([batch.index for batch in seen])
    assert index.sort().values.tolist() == list(range(N)) and index.tolist() != list(range(N))
    for batch in seen:
        assert torch.equal(batch.x, images.images[batch.index].float() / 255)
        assert torch.equal(batch.y, images.labels[batch.index])


def test_batches_come_in_a_new_order_each_time(images: ImageSet) -> None:
    batches = images.batches(N, generator=torch.Generator().manual_seed(3))
    orders = [next(iter(batches)).index for _ in range(2)]
    assert not torch.equal(*orders)
    again = images.batches(N, generator=torch.Generator().manual_seed(3))
    assert torch.equal(orders[0], next(iter(again)).index)


def test_batches_in_order_and_without_the_rest(images: ImageSet) -> None:
    batches = images.batches(16, shuffle=False, drop_last=True)
    assert len(batches) == len(list(batches)) == 3
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(48))
    assert len(images.batches(25, drop_last=True)) == len(images.batches(25)) == 2


def test_batches_that_cannot_be_are_refused(images: ImageSet) -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        images.batches(0)
    with pytest.raises(ValueError, match=f"leaves nothing of {N} images"):
        images.batches(N + 1, drop_last=True)


def test_the_built_in_set_comes_with_the_truth_about_it() -> None:
    built_in = data.strokes("test", count=40, seed=2)
    assert (len(built_in), built_in.num_classes, built_in.image_shape) == (40, 10, (1, 28, 28))
    assert set(built_in.attributes) == {"thickness", "slant", "size", "x", "y", "brightness"}
    assert built_in.masks is not None and built_in.masks.any()
    grey, ink = built_in.pixels().flatten(1), built_in.masks.flatten(1)
    inside, outside = (grey * ink).sum(1) / ink.sum(1), (grey * ~ink).sum(1) / (~ink).sum(1)
    assert (inside > 3 * outside).all()
    assert torch.equal(built_in.images, data.strokes("test", count=40, seed=2).images)
    assert not torch.equal(built_in.images, data.strokes("train", count=40, seed=2).images)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, an empty data folder in which nobody has looked before, and few strokes."""
    monkeypatch.setenv("CVAE_OFFLINE", "1")
    monkeypatch.setenv("CVAE_DATA", str(tmp_path))
    monkeypatch.setattr(environment.settings, "dataset", 20)
    return tmp_path


def test_digits_falls_back_in_exactly_one_line(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.digits("train").name == "strokes" and len(data.digits("train")) == 20
    printed = capsys.readouterr()
    assert printed.err == "" and printed.out.count("\n") == 1 and printed.out.endswith("\n")
    for words in ("built-in strokes", str(alone), "is missing", "CVAE_OFFLINE=1", "CVAE_DATA"):
        assert words in printed.out
    assert data.digits("test").name == "strokes"
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("as_users_call")
def test_an_unknown_split_is_refused() -> None:
    for load in (data.mnist, data.fashion_mnist, data.strokes, data.digits):
        with pytest.raises(ValueError, match="must be 'train' or 'test', not 'valid'"):
            load("valid")


@pytest.mark.skipif("CVAE_DATA" not in os.environ, reason="CVAE_DATA does not say where MNIST lies")
@pytest.mark.usefixtures("full_profile")
def test_real_mnist_is_the_published_one(capsys: pytest.CaptureFixture[str]) -> None:
    train, test = data.digits("train"), data.mnist("test", download=False)
    assert train.name == "MNIST" and capsys.readouterr().out == ""
    assert (len(train), len(test), train.image_shape) == (60_000, 10_000, (1, 28, 28))
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert abs(train.images.double().mean() / 255 - 0.1307) < 5e-5  # the mean everybody normalises with
