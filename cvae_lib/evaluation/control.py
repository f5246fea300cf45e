"""Does a model draw what it is asked for? An independent classifier reads its drawings."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cvae_lib.data import Data, ImageSet, Minibatches, as_pixels, in_memory
from cvae_lib.environment import at_most, evaluation_mode, pick_device, seeded, settings
from cvae_lib.evaluation._examples import device_of, labelled
from cvae_lib.model import CVAE
from cvae_lib.training import one_cycle


class Classifier(nn.Module):
    """A small convolutional classifier of 28x28 grey images, which shares nothing with the models it judges.

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

    def read(self, x: Float[Tensor, "b 1 28 28"]) -> Int64[Tensor, " b"]:
        """Return the most probable class of each image, in evaluation mode."""
        device = device_of(self)
        with evaluation_mode(self):
            return torch.cat([self(part.to(device)).argmax(1) for part in x.split(1000)]).to(x.device)


def train_classifier(
    data: Data,
    *,
    epochs: int = 3,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> Classifier:
    """Train a classifier on labelled images, half of each batch grey and half binarised, shifted by up to two pixels.

    Generated images are grey means or binary draws, so it must know both. It is trained by cross-entropy with AdamW and
    a one-cycle schedule, on ``device``, where it stays, in evaluation mode.

    Args:
        data: labelled images of shape (1, 28, 28), grey levels or floats in [0, 1].
        epochs: passes over them.
        batch_size: images per step.
        learning_rate: the peak of the schedule.
        device: ``auto`` is CUDA, then MPS, then CPU.
        seed: fixes weights, order, pixels and shifts; the caller's random stream is left alone.

    Raises:
        ValueError: if the images have another shape or no labels, or there is no such device.
    """
    source = in_memory(data)
    _, labels = labelled(source)
    if source.event_shape != (1, 28, 28):
        raise ValueError(
            f"The classifier takes images of shape (1, 28, 28), and those of {source.name} are {source.event_shape}."
        )
    device = pick_device(device)
    with seeded(seed, device) as generator:
        classes = source.num_classes if isinstance(source, ImageSet) else int(labels.max()) + 1
        classifier = Classifier(classes).to(device).train()
        batches = Minibatches(source, batch_size, device, generator)
        total = at_most(epochs * len(batches), settings.steps)
        optimiser = torch.optim.AdamW(classifier.parameters(), lr=learning_rate, weight_decay=0.01)
        step = 0
        while step < total:
            for batch in batches.epoch(step // len(batches)):
                grey = as_pixels(batch.x)
                binary = torch.rand(grey.shape, generator=generator, device=device) < grey
                is_grey = torch.arange(len(grey), device=device)[:, None, None, None] % 2 == 0
                x = torch.where(is_grey, grey, binary.to(grey.dtype))
                dx, dy = torch.randint(-2, 3, (2,), generator=torch.Generator().manual_seed(seed + step)).tolist()
                optimiser.param_groups[0]["lr"] = learning_rate * one_cycle(step, total)
                loss = nn.functional.cross_entropy(classifier(x.roll((dy, dx), dims=(2, 3))), batch.y)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                step += 1
                if step >= total:
                    break
    return classifier.eval()


def accuracy(classifier: Classifier, data: Data) -> float:
    """Return the share of the images, as grey levels, whose class is read as labelled.

    Raises:
        ValueError: if the data have no labels.
    """
    x, labels = labelled(data)
    return float((classifier.read(as_pixels(x)) == labels).float().mean())


@dataclass(frozen=True)
class Control:
    """How often a model draws what it was asked for.

    Attributes:
        accuracy: share of all drawings that were read as asked.
        standard_error: of that share, binomial.
        per_class: (classes,), the share for each class asked.
        images: (N, 1, 28, 28), the drawings.
        asked: (N,), the labels asked for.
        read: (N,), the labels that the classifier read.
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
    model: CVAE, classifier: Classifier, *, count: int = 2000, temperature: float = 1.0, seed: int = 0
) -> Control:
    r"""Ask for every class equally often, draw from the prior, and let the classifier read the drawings.

    .. math:: \text{accuracy} = \frac1N \sum_n 1[\text{read}(\hat x_n) = y_n],
              \quad \hat x_n = E[x|z_n,y_n],\ z_n \sim p(z|y_n)

    Args:
        model: one that can ``draw`` and says how many labels there are, ``num_classes``, as a CVAE does.
        classifier: one that knows the same classes.
        count: N; rounded down to a multiple of the number of classes.
        temperature: factor on the prior's standard deviation.
        seed: fixes the drawings.

    Raises:
        ValueError: if the model takes no label, or knows other classes than the classifier, or ``count`` is too small.
    """
    classes = model.num_classes
    if classes != classifier.classes:
        raise ValueError(
            f"The model draws {classes} classes and the classifier reads {classifier.classes}; they must agree."
        )
    each = at_most(count, settings.examples) // classes
    if each < 1:
        raise ValueError(f"{count} drawings are too few for {classes} classes.")
    asked = torch.arange(classes, device=device_of(model)).repeat_interleave(each)
    generator = torch.Generator().manual_seed(seed)
    with evaluation_mode(model):
        drawings = [model.draw(part, temperature=temperature, generator=generator) for part in asked.split(1000)]
        images = torch.cat(drawings)
        read = classifier.read(images)
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
