"""Bundled checkpoints: what they claim holds, and a damaged one is refused."""

import json
import shutil

import pytest
import torch

from cvae_lib import data, pretrained
from cvae_lib.evaluation import accuracy
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.pretrained import CheckpointError


@pytest.fixture
def stored(tmp_path):
    torch.manual_seed(0)
    model = CVAE(CVAEConfig(num_classes=2, latent_dim=2, hidden=(3,)))
    pretrained.round_to_half(model)
    pretrained.save(model, "tiny", {"what": "a tiny CVAE"}, tmp_path)
    return model, tmp_path


def test_what_is_saved_comes_back_to_the_bit(stored):
    model, folder = stored
    again = pretrained.load_cvae("tiny", folder=folder)
    assert again.config == model.config and not again.training
    for ours, theirs in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("damage", [lambda b: b[:-10], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""])
def test_damaged_weights_are_refused(stored, damage):
    (path,) = stored[1].glob("tiny.*.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="checksum"):
        pretrained.load_cvae("tiny", folder=stored[1])


def test_missing_or_foreign_checkpoints_are_named(stored):
    folder = stored[1]
    with pytest.raises(CheckpointError, match=r"'nobody'; there are tiny"):
        pretrained.card("nobody", folder)
    with pytest.raises(CheckpointError, match="holds a CVAE, not a Classifier"):
        pretrained.load_classifier("tiny", folder=folder)
    next(folder.glob("tiny.*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        pretrained.load_cvae("tiny", folder=folder)
    (folder / "tiny.json").write_text("{")
    with pytest.raises(CheckpointError, match="JSON"):
        pretrained.card("tiny", folder)


def test_bundled_checkpoints_are_small_and_carded():
    names = pretrained.available()
    assert {"mnist-cvae", "mnist-classifier", "strokes-classifier"} <= set(names)
    sizes = {name: next(pretrained.WEIGHTS.glob(f"{name}.*.safetensors")).stat().st_size for name in names}
    assert sizes["mnist-cvae"] <= 3 * 2**20 and sum(sizes.values()) <= 15 * 2**20
    for name in names:
        card = pretrained.card(name)
        assert card["weights"]["bytes"] == sizes[name]
        assert card["data"]["licence"] and card["measured"]["protocol"] and len(card["weights"]["sha256"]) == 64


def test_two_hundred_drawings_of_each_digit_are_read_as_asked():
    judge, model = pretrained.load_classifier(), pretrained.load_cvae()
    shares = []
    for digit in range(10):
        drawn = model.draw(torch.full((200,), digit), generator=torch.Generator().manual_seed(100 + digit))
        shares.append(float((judge.read(drawn) == digit).float().mean()))
    assert sum(shares) / 10 >= 0.98 and min(shares) >= 0.95, shares


def test_the_strokes_judge_reads_strokes():
    assert accuracy(pretrained.load_classifier("strokes-classifier"), data.strokes("test", count=1000)) > 0.97


def test_the_mnist_judge_reads_mnist():
    try:
        test = data.mnist("test", download=False)
    except data.DataUnavailable:
        pytest.skip("MNIST is not on this machine")
    claimed = pretrained.card("mnist-classifier")["measured"]["accuracy"]
    measured = accuracy(pretrained.load_classifier(), test)
    assert measured > 0.985 and measured == pytest.approx(claimed, abs=0.001)


def test_the_card_of_another_place_can_be_read(tmp_path):
    for path in pretrained.WEIGHTS.glob("mnist-cvae.*"):
        shutil.copy(path, tmp_path)
    assert json.loads((tmp_path / "mnist-cvae.json").read_text()) == pretrained.card("mnist-cvae", tmp_path)
    assert pretrained.load_cvae(folder=tmp_path).num_parameters() > 1e6


def test_weights_of_one_name_do_not_go_when_a_longer_name_is_saved(stored):
    model, folder = stored
    pretrained.save(model, "tiny-2", {"what": "another"}, folder)
    pretrained.save(model, "tiny", {"what": "the first again"}, folder)
    assert pretrained.load_cvae("tiny-2", folder=folder).config == model.config
