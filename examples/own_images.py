"""Pictures of your own: a folder with a folder of images for each class, whose name becomes y.

    python examples/own_images.py pictures/        # pictures/cat/1.png, pictures/dog/7.jpg, ...

Draws a row of new pictures for each class into ``drawn.png``, and keeps the model in ``model/``.
"""

import argparse
from pathlib import Path

import torch
from torch.utils.data import DataLoader, random_split
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.utils import save_image

from cvae_lib import CVAE, CVAEConfig, fit, save_checkpoint

arguments = argparse.ArgumentParser()
arguments.add_argument("folder", type=Path)
arguments.add_argument("--side", type=int, default=64, help="pixels, divisible by 4")
arguments.add_argument("--epochs", type=int, default=40)
arguments.add_argument("--workers", type=int, default=2)
arguments.add_argument("--output", type=Path, default=Path("."))


def main() -> None:
    given = arguments.parse_args()
    # Bytes are all right: the likelihood makes pixels in [0, 1] of them.
    steps = [v2.PILToTensor(), v2.Resize(given.side), v2.CenterCrop(given.side), v2.RandomHorizontalFlip()]
    pictures = ImageFolder(str(given.folder), v2.Compose(steps))
    training, validation = random_split(pictures, [0.9, 0.1], torch.Generator().manual_seed(0))
    config = CVAEConfig(
        num_classes=len(pictures.classes),
        event_shape=(3, given.side, given.side),
        network="convolutional",
        hidden=(32, 64),
        latent_dim=64,
        likelihood="gaussian",
    )
    model = CVAE.from_config(config)
    loader = DataLoader(training, batch_size=64, shuffle=True, num_workers=given.workers)
    history = fit(model, loader, epochs=given.epochs, validation=validation, patience=5)
    save_checkpoint(given.output / "model", model, history)

    y = torch.arange(len(pictures.classes)).repeat_interleave(8)  # eight of each
    save_image(model.draw(y, temperature=0.8), given.output / "drawn.png", nrow=8)
    print(f"A row each for {', '.join(pictures.classes)} is in {given.output / 'drawn.png'}.")


if __name__ == "__main__":
    main()
