"""What would happen on a GPU, seen without one: tensors with a device and no numbers, and tests for who has one.

Inside the mode every operation checks that its tensors lie on one device, and whoever asks for a number, for which a
GPU would have to be waited for, gets an error.
"""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from bars import bars, small
from torch.utils.data import DataLoader, TensorDataset

from cvae_lib.conditions import Observed
from cvae_lib.course.panels import completed, observed_part
from cvae_lib.data import binarise
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms, importance_weighted_bound
from cvae_lib.training import fit, seeded

B = 5
CONVOLUTIONAL = {"network": "convolutional", "hidden": (4, 8)}
SETTINGS = {
    "vae": {"num_classes": 0},
    "label": {},
    "embedding": {"condition": "embedding"},
    "attributes": {"condition": "attributes", "attributes": ("a", "b"), "conditioning": "addition"},
    "several": {"condition": "label+attributes", "attributes": ("a", "b"), "conditioning": "film"},
    "caption": {"condition": "caption", "words": ("big", "two"), "caption_length": 3, "conditioning": "attention"},
    "observed": {"condition": "observed"},
    "convolutional": {**CONVOLUTIONAL, "conditioning": "batchnorm", "condition_at": "every"},
    "image": {**CONVOLUTIONAL, "condition": "observed", "conditioning": "attention"},
    "gaussian prior": {"prior": "gaussian"},
    "mixture": {"prior": "mixture"},
    "pseudo-images": {"prior": "vamp", "num_classes": 0},
    "gaussian": {"likelihood": "gaussian"},
    "logistic": {"likelihood": "logistic", "levels": 4},
    "categorical": {"likelihood": "categorical", "levels": 4},
}


@pytest.fixture
def on_gpu() -> Iterator[torch.device]:
    """Make every new tensor one of a CUDA device, whether there is one or not."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.device("cuda"):
        yield torch.device("cuda")


@contextlib.contextmanager
def rounded(precision: torch.dtype) -> Iterator[None]:
    """Multiply in this precision; ``torch.autocast`` itself switches off where there is no GPU."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", precision == torch.bfloat16)
    try:
        assert torch.mm(torch.zeros(2, 2), torch.zeros(2, 2)).dtype == precision
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)


def y_for(config: CVAEConfig) -> object:
    labels, attributes = torch.zeros(B, dtype=torch.int64), torch.zeros(B, 2)
    parts = {
        "attributes": attributes,
        "label+attributes": (labels, attributes),
        "caption": torch.ones(B, 3, dtype=torch.int64),
        "observed": Observed(torch.zeros(B, 1, 28, 28), torch.ones(B, 1, 28, 28, dtype=torch.bool)),
    }
    return parts.get(config.condition, labels if config.num_classes else None)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SETTINGS)
def test_objectives_stay_on_the_gpu_and_never_ask_it_for_a_number(name, precision, on_gpu):
    config = CVAEConfig(**{"latent_dim": 3, "hidden": (8,), "dropout": 0.1, **SETTINGS[name]})
    net, x, y = CVAE(config).train(), torch.zeros(B, 1, 28, 28), y_for(config)
    seen = torch.ones(B, 1, 28, 28, dtype=torch.bool)
    with rounded(precision):
        terms = elbo_terms(net, x, y)
        bounds = [
            *(terms.loss(0.5), terms.loss(1.0, floor=0.1), elbo_terms(net, x, y, samples=2, mask=seen).loss()),
            importance_weighted_bound(net, x, y, 3, gradient="doubly").mean(),
        ]
        assert net.reconstruct(x, y).device.type == "cuda"
    for bound in bounds:
        assert bound.device.type == "cuda" and bound.dtype == torch.float32


def test_one_who_asks_is_caught(on_gpu):
    with pytest.raises(Exception, match="item|_local_scalar_dense"):
        float(torch.zeros(3).sum())
    with pytest.raises(RuntimeError, match="device"):
        torch.zeros(3) + torch.zeros(3, device="cpu")


def test_pixels_are_drawn_where_the_images_are(on_gpu):
    x = binarise(torch.zeros(B, 1, 4, 4, dtype=torch.uint8))
    assert x.device.type == "cuda" and x.dtype == torch.float32


def test_an_image_is_completed_wherever_it_and_its_mask_are(on_gpu):
    net = CVAE(CVAEConfig(latent_dim=3, hidden=(8,), condition="observed"))
    with torch.device("cpu"):
        image, mask = torch.zeros(1, 28, 28), observed_part("from the left", 0.3, (28, 28))
        assert completed(net, image, mask, 2).device.type == "cuda"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.usefixtures("full_profile")
@pytest.mark.parametrize("form", ["images", "tensors", "data set", "loader"])
def test_training_on_a_gpu_takes_data_from_anywhere_and_goes_on_from_a_checkpoint(form, tmp_path):
    images = bars(200)
    tensors = TensorDataset(images.images, images.labels)
    forms = {"images": images, "tensors": tensors.tensors, "data set": tensors, "loader": DataLoader(tensors, 64)}
    settings = {"batch_size": 64, "device": "cuda", "schedule": "constant", "ema": 0.9, "validation": bars(40)}
    fit(small(), forms[form], epochs=2, checkpoint=tmp_path, **settings)
    model = small()
    history = fit(model, forms[form], epochs=4, checkpoint=tmp_path, resume=True, **settings)
    assert history.steps == [4, 8, 12, 16] and history.loss[-1] < history.loss[0]
    assert model.draw([1, 2]).device.type == "cuda"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_block_of_seeded_numbers_leaves_the_streams_of_every_device_alone(device):
    before = torch.get_rng_state(), torch.cuda.get_rng_state()
    with seeded(3, torch.device(device)) as generator:
        drawn = torch.rand(4, device=device), torch.rand(4, device=device, generator=generator)
    assert torch.equal(torch.get_rng_state(), before[0]) and torch.equal(torch.cuda.get_rng_state(), before[1])
    with seeded(3, torch.device(device)) as generator:
        again = torch.rand(4, device=device), torch.rand(4, device=device, generator=generator)
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
