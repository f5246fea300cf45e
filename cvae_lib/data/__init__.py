"""Data in any form that gives (x, y): whole tensors, images, tables, a ``Dataset`` or a ``DataLoader``.

Images of the course come as an ``ImageSet``: MNIST, Fashion-MNIST, CelebA, built-in strokes and faces. A :class:`Table`
makes x of mixed columns, and columns of x. Series are plain tensors.
"""

import os
from pathlib import Path
from typing import Literal

import torch

from cvae_lib.data._celeba import celeba
from cvae_lib.data._columns import Column, ColumnKind, TableColumns
from cvae_lib.data._download import DataUnavailable, Source, ensure_whole, first_line
from cvae_lib.data._examples import (
    Data,
    Examples,
    InMemory,
    TensorSet,
    as_source,
    in_memory,
    in_order,
    map_tensors,
    raw,
    rows_of,
    tensors_in,
    unpacked,
)
from cvae_lib.data._imageset import Batch, Batches, ImageSet, check_split
from cvae_lib.data._loading import Minibatches, fingerprint
from cvae_lib.data._pixels import PixelMode, as_pixels, binarise, check_unit_interval
from cvae_lib.data._series import Weekly, co2, simulated_weekly, sliding, weekly
from cvae_lib.data._table import Table
from cvae_lib.datasets.series import COUNTS, Forks
from cvae_lib.datasets.series import forks as draw_forks
from cvae_lib.environment import at_most, data_root, settings

__all__ = [
    "Batch",
    "Batches",
    "Column",
    "ColumnKind",
    "Data",
    "DataUnavailable",
    "Examples",
    "ImageSet",
    "InMemory",
    "Minibatches",
    "PixelMode",
    "Split",
    "Table",
    "TableColumns",
    "TensorSet",
    "Weekly",
    "as_pixels",
    "as_source",
    "binarise",
    "celeba",
    "check_unit_interval",
    "co2",
    "digits",
    "faces",
    "fashion_mnist",
    "fingerprint",
    "forks",
    "in_memory",
    "in_order",
    "map_tensors",
    "mnist",
    "raw",
    "rows_of",
    "simulated_weekly",
    "sliding",
    "strokes",
    "tensors_in",
    "unpacked",
    "weekly",
]

Split = Literal["train", "test"]

# Roots where digits() has failed in this process, with whether it was allowed to download.
_given_up: set[tuple[Path, bool]] = set()


def mnist(
    split: Split = "train",
    *,
    root: str | Path | None = None,
    device: str | torch.device = "cpu",
    download: bool = True,
) -> ImageSet:
    """Load MNIST: 60,000 training or 10,000 test digits of shape (1, 28, 28), with labels 0 to 9.

    Args:
        split: ``train`` or ``test``.
        root: folder that holds ``MNIST/raw``; None is ``CVAE_DATA``, else the user's cache folder.
        device: where the tensors go.
        download: fetch what is missing or broken (12 MB); ``CVAE_OFFLINE=1`` forbids it.

    Raises:
        DataUnavailable: if the files are not there, whole, and cannot be fetched.
        ValueError: if the split is unknown.

    Source: LeCun, Bottou, Bengio and Haffner 1998, doi:10.1109/5.726791.
    """
    return _from_torchvision("MNIST", "MNIST", split, root, device, download)


def fashion_mnist(
    split: Split = "train",
    *,
    root: str | Path | None = None,
    device: str | torch.device = "cpu",
    download: bool = True,
) -> ImageSet:
    """Load Fashion-MNIST: 60,000 training or 10,000 test garments of shape (1, 28, 28), with labels 0 to 9.

    Args:
        split: ``train`` or ``test``.
        root: folder that holds ``FashionMNIST/raw``; None is ``CVAE_DATA``, else the user's cache folder.
        device: where the tensors go.
        download: fetch what is missing or broken (31 MB); ``CVAE_OFFLINE=1`` forbids it.

    Raises:
        DataUnavailable: if the files are not there, whole, and cannot be fetched.
        ValueError: if the split is unknown.

    Source: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747.
    """
    return _from_torchvision("FashionMNIST", "Fashion-MNIST", split, root, device, download)


def strokes(
    split: Split = "train",
    *,
    count: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> ImageSet:
    """Draw the built-in digits: no file, no network, and every image comes with the truth about it.

    Args:
        split: ``train`` (60,000) or ``test`` (10,000); the two share no image.
        count: how many images, if not all.
        seed: same seed, same images.
        device: where they are drawn.

    Returns:
        A set with the attributes thickness, slant, size, x, y and brightness, and with ink masks.

    Raises:
        ValueError: if the split is unknown.
    """
    from cvae_lib.datasets.strokes import strokes as draw

    check_split(split)
    truth = draw(split, count=count, seed=seed, device=device)._asdict()
    images, labels, masks = (truth.pop(name) for name in ("images", "labels", "masks"))
    return ImageSet(images, labels, "strokes", attributes=truth, masks=masks, classes=10)


def faces(
    split: Split = "train",
    *,
    count: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> ImageSet:
    """Draw the built-in faces: colour pictures of shape (3, 32, 32) whose attributes are known.

    Args:
        split: ``train`` (20,000) or ``test`` (2,000); the two share no image.
        count: how many images, if not all.
        seed: same seed, same images.
        device: where they go.

    Returns:
        A set with the attributes hair, skin, smile, glasses and age; the label says who wears glasses.

    Raises:
        ValueError: if the split is unknown or the count below 1.
    """
    from cvae_lib.datasets.faces import NAMES
    from cvae_lib.datasets.faces import faces as draw

    check_split(split)
    whole = {"train": 20_000, "test": 2_000}[split] if count is None else count
    drawn = draw(split, count=at_most(whole, settings.dataset), seed=seed)
    attributes = {name: getattr(drawn, name) for name in NAMES}
    return ImageSet(drawn.images, drawn.glasses.long(), "faces", attributes=attributes, classes=2).to(device)


def forks(
    split: Split = "train", *, count: int | None = None, seed: int = 0, device: str | torch.device = "cpu"
) -> Forks:
    """Draw the built-in series that forks: windows, futures, which branch came; see :mod:`cvae_lib.datasets.series`.

    Args:
        split: ``train`` (20,000) or ``test`` (5,000); the two share no random numbers.
        count: how many windows, if not all.
        seed: same seed, same series.
        device: where they go.

    Raises:
        ValueError: if the split is unknown or the count below 1.
    """
    check_split(split)
    whole = COUNTS[split] if count is None else count
    return draw_forks(split, at_most(whole, settings.examples), seed, device)


def digits(
    split: Split = "train",
    *,
    root: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> ImageSet:
    """Load MNIST or, where it cannot be had, the built-in strokes, which one printed line then announces.

    A process that has failed once for a root neither waits for the network nor prints a second time.

    Args:
        split: ``train`` or ``test``.
        root: see :func:`mnist`.
        device: where the tensors go.

    Raises:
        ValueError: if the split is unknown.
    """
    attempt = (data_root(root), os.environ.get("CVAE_OFFLINE") != "1")
    tried = attempt in _given_up
    try:
        whole = mnist(split, root=root, device=device, download=not tried)
        return whole.subset(slice(at_most(len(whole), settings.dataset)))
    except DataUnavailable as error:
        if not tried:
            print(f"No MNIST; using the built-in strokes. {error.cause}; to change that, {error.remedy}.")
        _given_up.add(attempt)
        check_split(split)
        from cvae_lib.datasets.strokes import COUNTS as WHOLE

        return strokes(split, count=at_most(WHOLE[split], settings.dataset), device=device)


def _from_torchvision(
    kind: Literal["MNIST", "FashionMNIST"],
    name: str,
    split: Split,
    root: str | Path | None,
    device: str | torch.device,
    download: bool,
) -> ImageSet:
    """Load a set through torchvision's class ``kind``, once every file is known to be whole."""
    check_split(split)
    folder = data_root(root)
    try:
        from torchvision import datasets  # slow, and only needed here
    except Exception as error:  # a torchvision that does not fit its torch fails in ways of its own, and twice
        remedy = "install a pair that fits with pip install --upgrade torch torchvision"
        raise DataUnavailable(f"torchvision cannot be imported ({first_line(error)})", remedy) from error
    reader = datasets.MNIST if kind == "MNIST" else datasets.FashionMNIST
    source = Source(name, folder / kind / "raw", reader.mirrors, reader.resources)
    refusal = None if download else "download=False forbids fetching it"
    if os.environ.get("CVAE_OFFLINE") == "1":
        refusal = "CVAE_OFFLINE=1 forbids fetching it"
    ensure_whole(source, refusal)
    try:
        raw = reader(folder, train=split == "train", download=False)
        images = ImageSet(raw.data.unsqueeze(1), raw.targets.long(), name, classes=10)
    except Exception as error:
        cause = f"{name} cannot be read from {source.folder.parent} ({first_line(error)})"
        raise DataUnavailable(cause, "delete that folder and load the set again") from error
    return images.to(device)
