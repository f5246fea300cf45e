"""Does a model draw what it is asked for? An independent classifier reads its drawings."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cvae_lib import course
from cvae_lib.data import ImageSet
from cvae_lib.model import CVAE
from cvae_lib.training import one_cycle, seeded


class Judge(nn.Module):
    """A small convolutional classifier of 28x28 grey images, independent of every generator in the course.

    Args:
        classes: how many there are to tell apart.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.classes = classes
        self.net = nn.Sequential(
            nn.Conv2d(1, 24, 5, stride=2, padding=2),
            nn.BatchNorm2d(24),
            nn.ReLU(),  # (B, 24, 14, 14)
            nn.Conv2d(24, 48, 3, stride=2, padding=1),
            nn.BatchNorm2d(48),
            nn.ReLU(),  # (B, 48, 7, 7)
            nn.Conv2d(48, 96, 3, padding=1),
            nn.BatchNorm2d(96),
            nn.ReLU(),
            nn.Flatten(),  # (B, 4704)
            nn.Dropout(0.3),
            nn.Linear(96 * 7 * 7, classes),
        )

    def forward(self, x: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b classes"]:
        """Return the logits of the classes for images in [0, 1]."""
        logits: Tensor = self.net(x)
        return logits

    @torch.no_grad()
    def read(self, x: Float[Tensor, "b 1 28 28"]) -> Int64[Tensor, " b"]:
        """Return the most probable class of each image."""
        self.eval()
        device = next(self.parameters()).device
        return torch.cat([self(part.to(device)).argmax(1) for part in x.split(1000)]).to(x.device)


def train_judge(
    data: ImageSet,
    *,
    epochs: int = 3,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> Judge:
    """Train a judge on labelled images, half of each batch grey and half binarised, shifted by up to two pixels.

    Generated images are grey means or binary draws, so the judge must know both. It is trained by cross-entropy with
    AdamW and a one-cycle schedule, on ``device``, where it stays.

    Args:
        data: labelled images of shape (1, 28, 28).
        epochs: passes over them; the fast profile takes a few steps only.
        batch_size: images per step.
        learning_rate: the peak of the schedule.
        device: ``auto`` is CUDA, then MPS, then CPU.
        seed: fixes weights, order, pixels and shifts; the caller's random stream is left alone.

    Raises:
        ValueError: if the images have another shape, or there is no such device.
    """
    if data.image_shape != (1, 28, 28):
        raise ValueError(f"A judge reads images of shape (1, 28, 28), and those of {data.name} are {data.image_shape}.")
    device = course.pick_device(device)
    data = data.to(device)
    with seeded(seed, device) as generator:
        judge = Judge(data.num_classes).to(device).train()
        total = course.capped(epochs * math.ceil(len(data) / batch_size), course.FAST_STEPS)
        optimiser = torch.optim.AdamW(judge.parameters(), lr=learning_rate, weight_decay=0.01)
        step = 0
        while step < total:
            for batch in data.batches(batch_size, pixels="grey", generator=generator):
                binary = torch.rand(batch.x.shape, generator=generator, device=device) < batch.x
                x = torch.where(
                    torch.arange(len(batch.x), device=device)[:, None, None, None] % 2 == 0,
                    batch.x,
                    binary.to(batch.x.dtype),
                )
                dx, dy = torch.randint(-2, 3, (2,), generator=torch.Generator().manual_seed(seed + step)).tolist()
                optimiser.param_groups[0]["lr"] = learning_rate * one_cycle(step, total)
                loss = nn.functional.cross_entropy(judge(x.roll((dy, dx), dims=(2, 3))), batch.y)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                step += 1
                if step >= total:
                    break
    return judge.eval()


def accuracy(judge: Judge, data: ImageSet) -> float:
    """Return the share of the images, as grey levels, whose class the judge reads as labelled."""
    return float((judge.read(data.pixels(mode="grey")) == data.labels).float().mean())


@dataclass(frozen=True)
class Control:
    """How often a model draws what it was asked for.

    Attributes:
        accuracy: share of all drawings that were read as asked.
        standard_error: of that share, binomial.
        per_class: (classes,), the share for each class asked.
        images: (N, 1, 28, 28), the drawings.
        asked: (N,), the labels asked for.
        read: (N,), the labels the judge read.
    """

    accuracy: float
    standard_error: float
    per_class: Float[Tensor, " classes"]
    images: Float[Tensor, "n 1 28 28"]
    asked: Int64[Tensor, " n"]
    read: Int64[Tensor, " n"]

    def __str__(self) -> str:
        worst = int(self.per_class.argmin())
        return (
            f"{self.accuracy:.3f} ± {self.standard_error:.3f} of {len(self.asked)} drawings read as asked; "
            f"worst class {worst} at {float(self.per_class[worst]):.3f}"
        )


def control_accuracy(
    model: CVAE, judge: Judge, *, count: int = 2000, temperature: float = 1.0, seed: int = 0
) -> Control:
    r"""Ask for every class equally often, draw from the prior, and let the judge read the drawings.

    .. math:: \text{accuracy} = \frac1N \sum_n 1[\text{judge}(\hat x_n) = y_n],
              \quad \hat x_n = E[x|z_n,y_n],\ z_n \sim p(z|y_n)

    Args:
        count: N; rounded down to a multiple of the number of classes.

    Raises:
        ValueError: if the model takes no label, or knows other classes than the judge, or ``count`` is too small.
    """
    classes = model.config.num_classes
    if classes != judge.classes:
        raise ValueError(f"The model draws {classes} classes and the judge reads {judge.classes}; they must agree.")
    each = course.capped(count, course.FAST_IMAGES) // classes
    if each < 1:
        raise ValueError(f"{count} drawings are too few for {classes} classes.")
    model.eval()
    asked = torch.arange(classes, device=model.device).repeat_interleave(each)
    images = torch.cat(
        [
            model.draw(part, temperature=temperature, generator=generator)
            for generator in [torch.Generator().manual_seed(seed)]
            for part in asked.split(1000)
        ]
    )
    read = judge.read(images)
    right = (read == asked).float()
    share = float(right.mean())
    return Control(
        share,
        math.sqrt(share * (1 - share) / len(asked)),
        right.view(classes, each).mean(1).cpu(),
        images.cpu(),
        asked.cpu(),
        read.cpu(),
    )
