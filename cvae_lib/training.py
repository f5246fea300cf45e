"""Training: one loop."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from cvae_lib import course
from cvae_lib.data import ImageSet, PixelMode
from cvae_lib.model import CVAE
from cvae_lib.objective import elbo_terms

Precision = Literal["auto", "float32", "bf16"]


class TrainingDiverged(RuntimeError):
    """The loss stopped being a number; the model keeps the weights from before that step."""


@dataclass
class History:
    """What training measured: for each epoch the mean over its images, in nats per image.

    Attributes:
        loss: the objective.
        distortion: -log p(x|z,y).
        rate: KL(q(z|x,y) || p(z|y)).
        steps: optimiser steps taken so far, at the end of each epoch.
        interrupted: whether a person stopped the run before its end.
    """

    loss: list[float] = field(default_factory=list)
    distortion: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    interrupted: bool = False

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def elbo(self) -> list[float]:
        """The bound per epoch, nats per image (training set, dropout on)."""
        return [-(d + r) for d, r in zip(self.distortion, self.rate, strict=True)]


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Return the context for a forward pass: bfloat16 products, or plain float32.

    ``auto`` is bfloat16 only where the hardware multiplies it natively.

    Raises:
        ValueError: if the precision is unknown.
    """
    if precision not in ("auto", "float32", "bf16"):
        raise ValueError(f"precision is 'auto', 'float32' or 'bf16', not {precision!r}.")
    wanted = precision == "bf16" or (precision == "auto" and course.has_native_bf16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else contextlib.nullcontext()


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[torch.Generator]:
    """Make torch's randomness follow ``seed`` inside the block, and leave the caller's stream as it was after it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield torch.Generator(device).manual_seed(seed)


def one_cycle(step: int, total: int, warm_up: float = 0.1) -> float:
    """Return the factor on the peak learning rate: a linear rise over the first tenth, then a cosine down to 0.

    Source: Smith and Topin 2018, arXiv:1708.07120.
    """
    rise = max(1, round(warm_up * total))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def fit(
    model: CVAE,
    data: ImageSet,
    *,
    epochs: int = 40,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    beta: float = 1.0,
    weight_decay: float = 0.0,
    pixels: PixelMode = "stochastic",
    precision: Precision = "auto",
    device: str | torch.device = "auto",
    seed: int = 0,
    log_every: int | None = None,
) -> History:
    r"""Minimise :math:`-\frac1B\sum_b (E_q[\log p(x_b|z,y_b)] - \beta\,KL_b)` with Adam and a one-cycle rate.

    The model is moved to ``device`` and stays there. An interrupt (Ctrl-C, or Stop in a notebook) ends training
    early and keeps the model and the history so far. On the fast profile only the first few steps are taken.

    Args:
        model: the CVAE or VAE; labels of ``data`` are its y if it is conditional.
        data: training images.
        epochs: passes over the data.
        learning_rate: the peak of the cycle.
        beta: weight of the rate.
        pixels: ``stochastic`` (a new binarisation each time), ``grey`` or ``threshold``.
        precision: ``auto``, ``float32`` or ``bf16``.
        seed: fixes order, binarisation and latent noise; the caller's random stream is left alone.
        log_every: print a line every so many epochs where nobody watches; about eight lines by default.

    Raises:
        ValueError: if a number is out of range or the data do not fit the model.
        TrainingDiverged: if the loss is not finite; names the step.
    """
    if epochs < 1 or batch_size < 1 or learning_rate <= 0 or beta < 0:
        raise ValueError(
            f"epochs and batch_size must be at least 1, learning_rate above 0 and beta at least 0, not "
            f"{epochs}, {batch_size}, {learning_rate} and {beta}."
        )
    if model.is_conditional and data.num_classes > model.config.num_classes:
        raise ValueError(f"The data have {data.num_classes} classes, the model knows {model.config.num_classes}.")
    device = course.pick_device(device)
    model.to(device).train()
    data = data.to(device)
    optimiser = torch.optim.Adam(
        model.parameters(), lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99), fused=device.type != "mps"
    )
    per_epoch = math.ceil(len(data) / batch_size)
    total = course.capped(epochs * per_epoch, course.FAST_STEPS)
    history = History()
    report = _Progress(total, per_epoch, log_every or max(1, epochs // 8))
    with seeded(seed, device) as generator, report:
        try:
            _run(
                model,
                data,
                optimiser,
                history,
                report,
                generator,
                total=total,
                batch_size=batch_size,
                peak=learning_rate,
                beta=beta,
                pixels=pixels,
                precision=precision,
            )
        except KeyboardInterrupt:
            history.interrupted = True
            print(f"Stopped by hand after {len(history)} full epochs; the model and its history are usable.")
    model.eval()
    return history


def _run(
    model: CVAE,
    data: ImageSet,
    optimiser: torch.optim.Adam,
    history: History,
    report: "_Progress",
    generator: torch.Generator,
    *,
    total: int,
    batch_size: int,
    peak: float,
    beta: float,
    pixels: PixelMode,
    precision: Precision,
) -> None:
    device = model.device
    step = 0
    while step < total:
        # Sums stay on the device: asking for a number at every step would make a GPU wait for it.
        sums = torch.zeros(3, device=device)
        seen = 0
        for batch in data.batches(batch_size, pixels=pixels, generator=generator):
            for group in optimiser.param_groups:
                group["lr"] = peak * one_cycle(step, total)
            with autocast(device, precision):
                terms = elbo_terms(model, batch.x, batch.y if model.is_conditional else None)
            loss = terms.loss(beta)
            if device.type == "cpu":
                _must_be_finite(loss, step)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                sums += torch.stack([loss, -terms.log_likelihood.mean(), terms.rate.mean()]) * len(batch.x)
            seen += len(batch.x)
            step += 1
            report.step(step, history)
            if step >= total:
                break
        _must_be_finite(sums[0], step - 1)
        loss_mean, distortion, rate = (sums / seen).tolist()
        history.loss.append(loss_mean)
        history.distortion.append(distortion)
        history.rate.append(rate)
        history.steps.append(step)
        report.epoch(history)


def _must_be_finite(loss: Tensor, step: int) -> None:
    if not torch.isfinite(loss):
        raise TrainingDiverged(
            f"The loss became {loss.item()} at step {step}; try a smaller learning_rate, and look "
            f"for NaN in the data. The weights are those from before that step."
        )


class _Progress:
    """A live bar for somebody who watches, a line every few epochs for everybody else."""

    def __init__(self, total: int, per_epoch: int, every: int) -> None:
        self.epochs = math.ceil(total / per_epoch)
        self.every = every
        self.last = time.monotonic()
        self.bar = tqdm(total=total, unit="step", leave=True) if course.someone_watches() else None

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, step: int, history: History) -> None:
        if self.bar is not None:
            self.bar.update(step - self.bar.n)

    def epoch(self, history: History) -> None:
        done = len(history)
        line = f"loss {history.loss[-1]:.2f} = distortion {history.distortion[-1]:.2f} + rate {history.rate[-1]:.2f}"
        if self.bar is not None:
            self.bar.set_postfix_str(f"epoch {done}/{self.epochs}, {line}")
        elif done == 1 or done % self.every == 0 or done == self.epochs:
            print(f"epoch {done:>3}/{self.epochs}  {line}", flush=True)
