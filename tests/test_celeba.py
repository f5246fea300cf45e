"""CelebA where a reader has it: read from torchvision's layout, and one sentence where it is not there."""

from pathlib import Path

import pytest
import torch

from cvae_lib import data

PIL = pytest.importorskip("PIL.Image")
datasets = pytest.importorskip("torchvision.datasets")
# The course's names by the annotators' own; -1 where theirs says the opposite, as "Young" does of age.
COURSE_NAMES = {
    "hair": ("Black_Hair", 1),
    "skin": ("Pale_Skin", -1),
    "smile": ("Smiling", 1),
    "glasses": ("Eyeglasses", 1),
    "age": ("Young", -1),
}
NAMES = ["Bald", "Black_Hair", "Eyeglasses", "Pale_Skin", "Smiling", "Young"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six pictures in torchvision's layout, four to train on; their checksums are not those of the real lists."""
    base = tmp_path / "celeba"
    (base / "img_align_celeba").mkdir(parents=True)
    lines, splits, others = [], [], []
    for number in range(6):
        name = f"{number + 1:06}.jpg"
        picture = PIL.new("RGB", (178, 218), (40 * number, 100, 200))
        picture.paste((0, 255, 0), (0, 0, 178, 30))  # above the crop
        picture.save(base / "img_align_celeba" / name, quality=95)
        values = ["1" if (number >> bit) & 1 else "-1" for bit in range(6)]
        lines.append(f"{name} {' '.join(values)}")
        splits.append(f"{name} {0 if number < 4 else 2}")
        others.append(f"{name} 1 1 1 1")
    (base / "list_attr_celeba.txt").write_text("6\n" + " ".join(NAMES) + "\n" + "\n".join(lines) + "\n")
    (base / "list_eval_partition.txt").write_text("\n".join(splits) + "\n")
    (base / "identity_CelebA.txt").write_text("\n".join(f"{i + 1:06}.jpg {i}" for i in range(6)) + "\n")
    for file in ("list_bbox_celeba.txt", "list_landmarks_align_celeba.txt"):
        (base / file).write_text("6\na b c d\n" + "\n".join(others) + "\n")
    monkeypatch.setattr(datasets.CelebA, "_check_integrity", lambda self: True)
    return tmp_path


def test_pictures_are_cropped_and_scaled_and_attributes_carry_the_courses_names(folder):
    images = data.celeba("train", root=folder)
    assert images.images.shape == (4, 3, 32, 32) and images.name == "CelebA"
    found = images.pixels().mean((2, 3))  # (4, 3): nothing of the green strip is left
    wanted = torch.tensor([[40 * number, 100, 200] for number in range(4)]) / 255
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)
    bits = torch.tensor(
        [[(number >> NAMES.index(theirs)) & 1 for number in range(4)] for theirs, _ in COURSE_NAMES.values()]
    )
    assert list(images.attributes) == list(COURSE_NAMES)
    for (name, (_, sign)), row in zip(COURSE_NAMES.items(), bits, strict=True):
        assert torch.equal(images.attributes[name], (row if sign > 0 else 1 - row).float())
    assert torch.equal(images.labels, images.attributes["glasses"].long())


def test_the_split_and_the_count_are_obeyed(folder):
    assert len(data.celeba("train", root=folder, count=3)) == 3
    rest = data.celeba("test", root=folder)
    assert len(rest) == 2 and rest.pixels()[0, 0].mean().item() == pytest.approx(160 / 255, abs=0.02)


def test_where_it_is_not_there_one_sentence_names_the_way_out(tmp_path):
    with pytest.raises(data.DataUnavailable) as caught:
        data.celeba(root=tmp_path)
    message = str(caught.value)
    assert "CelebA" in message and message.endswith("or use the built-in faces().") and "\n" not in message


@pytest.mark.usefixtures("as_users_call")
def test_requests_that_mean_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'train' or 'test'"):
        data.celeba("valid", root=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        data.celeba(root=tmp_path, count=0)
