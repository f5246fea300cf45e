"""Pictures: the right pixels in the right place, alt text, and the same bytes twice."""

import io

import matplotlib.image
import pytest
import torch

from cvae_lib import plots
from cvae_lib.plots.images import mosaic


def test_a_grid_holds_the_images_row_by_row_dark_on_white():
    images = torch.zeros(3, 1, 4, 5)
    images[2, 0, 1, 3] = 1
    sheet = mosaic(images, columns=2)
    assert sheet.shape == (4 + 2 + 4, 5 + 2 + 5, 3)
    assert (sheet == 0).sum() == 3 and (sheet[6 + 1, 3] == 0).all()


def test_the_bundle_carries_png_and_alt_text():
    picture = plots.digit_grid(torch.rand(4, 1, 28, 28), "Four   squares\n of noise.")
    data, metadata = picture._repr_mimebundle_()
    assert data["text/plain"] == "[figure] Four squares of noise."
    assert metadata["image/png"]["alt"] == "Four squares of noise."
    pixels = matplotlib.image.imread(io.BytesIO(data["image/png"]))
    assert (pixels[0, 0, :3] == 1).all()  # opaque white paper, readable on a dark page
    assert pixels.shape[0] / metadata["image/png"]["height"] == pytest.approx(1.6, rel=0.01)


def test_the_same_figure_gives_the_same_bytes():
    first, second = (plots.curves({"a": [1, 2, 1.5], "b": [2, 1, 0]}, "Two lines.").png() for _ in range(2))
    assert first == second


def test_no_alt_text_no_picture():
    with pytest.raises(ValueError, match="alt text"):
        plots.Picture(plots.new_figure()[0], "  ")


def test_a_grid_of_something_else_is_refused(as_users_call):
    with pytest.raises(ValueError, match="shape"):
        plots.digit_grid(torch.zeros(28, 28), "A digit.")


def test_the_confusion_matrix_counts():
    truth, guess = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 2])
    axes = plots.confusion(truth, guess, "Counts.").figure.axes[0]
    found = {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in axes.texts}
    assert found == {(0, 0): "1", (0, 1): "1", (1, 1): "1", (2, 2): "1"}
