"""CelebA at 32x32, where a reader has it on disk: the real counterpart of the drawn faces."""

from pathlib import Path
from typing import Any, Literal

import torch

from cvae_lib.data._download import DataUnavailable, first_line
from cvae_lib.data._imageset import ImageSet, check_split
from cvae_lib.environment import at_most, data_root, settings

SIDE, CROP = 32, 140
# The course's names for faces, by the annotators' own; -1 where theirs says the opposite.
COURSE_NAMES = {
    "hair": ("Black_Hair", 1),
    "skin": ("Pale_Skin", -1),
    "smile": ("Smiling", 1),
    "glasses": ("Eyeglasses", 1),
    "age": ("Young", -1),
}


def celeba(
    split: Literal["train", "test"] = "train",
    *,
    root: str | Path | None = None,
    count: int = 20_000,
    device: str | torch.device = "cpu",
) -> ImageSet:
    """Load the first faces of CelebA, cropped and scaled to (3, 32, 32); it is never downloaded.

    Args:
        split: ``train`` or ``test``.
        root: folder that holds ``celeba/img_align_celeba`` and its lists; None is ``CVAE_DATA``, else the user's cache.
        count: how many images to read; a thousand take some seconds.
        device: where the tensors go.

    Returns:
        A set with the attributes hair, skin, smile, glasses and age, each 0 or 1 and crude beside those of
        :func:`cvae_lib.data.faces` (black hair or not, pale or not, young or not); the label says who wears glasses.

    Raises:
        DataUnavailable: if it is not on disk in torchvision's layout, or cannot be read.
        ValueError: if the split is unknown or the count below 1.

    Source: Liu, Luo, Wang and Tang 2015, arXiv:1411.7766; its licence allows research only.
    """
    check_split(split)
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}.")
    folder = data_root(root)
    try:
        from torchvision import datasets, transforms  # slow, and only needed here

        raw = datasets.CelebA(
            folder,
            split=split,
            target_type="attr",
            transform=transforms.Compose(
                [transforms.CenterCrop(CROP), transforms.Resize(SIDE, antialias=True), transforms.PILToTensor()]
            ),
            download=False,
        )
        return _read(raw, at_most(min(count, len(raw)), settings.dataset)).to(device)
    except Exception as error:  # torchvision raises whatever its parts raise
        cause = f"CelebA cannot be read from {folder / 'celeba'} ({first_line(error)})"
        raise DataUnavailable(cause, "put it there as torchvision lays it out", "faces()") from error


def _read(raw: Any, count: int) -> ImageSet:
    columns = [raw.attr_names.index(theirs) for theirs, _ in COURSE_NAMES.values()]
    signs = torch.tensor([sign for _, sign in COURSE_NAMES.values()])
    images, rows = zip(*(raw[index] for index in range(count)), strict=True)
    found = torch.stack(rows)[:, columns].float()  # (n, 5), 0 or 1
    found = torch.where(signs > 0, found, 1 - found)
    attributes = dict(zip(COURSE_NAMES, found.T.contiguous(), strict=True))
    return ImageSet(torch.stack(images), attributes["glasses"].long(), "CelebA", attributes=attributes, classes=2)
