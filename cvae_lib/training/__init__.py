"""Training: one loop for every device and any number of processes, that can be stopped and taken up again."""

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from cvae_lib._streams import seeded
from cvae_lib.data import ImageSet, PixelMode
from cvae_lib.model import CVAE
from cvae_lib.objective import elbo_terms
from cvae_lib.training._budget import SCHEDULES, Budget, Schedule, constant, cosine, one_cycle, schedule_called
from cvae_lib.training._checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from cvae_lib.training._distributed import team
from cvae_lib.training._feed import Conditions, Epochs, Feed
from cvae_lib.training._history import History
from cvae_lib.training._keeping import Keeper, called
from cvae_lib.training._loop import Loop, Recipe, TrainingDiverged
from cvae_lib.training._numerics import Precision, autocast, compiled
from cvae_lib.training._progress import Interrupts, Progress
from cvae_lib.training._stopping import Objective, Watch

__all__ = [
    "SCHEDULES",
    "CheckpointError",
    "History",
    "Precision",
    "TrainingDiverged",
    "autocast",
    "constant",
    "cosine",
    "fit",
    "load_checkpoint",
    "one_cycle",
    "save_checkpoint",
    "seeded",
]


def fit(
    model: CVAE,
    data: ImageSet,
    *,
    y: Conditions = None,
    epochs: int | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    schedule: str | Schedule = "one_cycle",
    beta: float | Callable[[int], float] = 1.0,
    objective: Objective | None = None,
    weight_decay: float = 0.0,
    clip: float | None = None,
    ema: float | None = None,
    validation: ImageSet | tuple[ImageSet, Conditions] | None = None,
    patience: int | None = None,
    criterion: Objective | None = None,
    pixels: PixelMode = "stochastic",
    precision: Precision = "auto",
    compile: bool | str = False,
    device: str | torch.device = "auto",
    seed: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    log_every: int | None = None,
) -> History:
    r"""Minimise :math:`-\frac1B\sum_b (E_q[\log p(x_b|z,y_b)] - \beta\,KL_b)` with Adam, in nats per image.

    The model is moved to ``device`` and stays there. An interrupt (Ctrl-C, or Stop in a notebook) ends training
    after the step at hand (several processes on GPUs take up to 50 more) and keeps the model and the history so far.
    On the fast profile only the first few steps are taken.

    Under ``torchrun`` the same call trains in several processes (gloo, or nccl on CUDA). Each computes its share of
    every batch of ``batch_size`` and draws the noise of the whole batch, so that the result is that of one process,
    but for rounding; the first one prints and writes. Layers and objectives that mix images (batch normalisation,
    free bits) see the share only.

    Args:
        model: the CVAE or VAE.
        data: training images.
        y: what the model is told: the labels of ``data`` if None; a tensor of shape (n, ...), or a tuple or dictionary
            of such, one row per image; or a function of the batch, drawing from torch's global random stream.
        epochs: passes over the data, 40 if no budget is given. This, ``steps`` and ``seconds`` exclude each other.
        steps: optimiser steps.
        seconds: time; the schedule follows the clock, so such a run cannot be repeated to the bit.
        batch_size: images per step, over all processes.
        learning_rate: the peak of the schedule.
        schedule: ``one_cycle``, ``cosine``, ``constant``, or a function ``(step, total) -> factor``.
        beta: weight of the rate, a number or a function of the step.
        objective: ``(model, x, y)`` to :class:`~cvae_lib.objective.Terms`, or to a bound per image, shape (B,), which
            then counts as distortion; the ELBO if None.
        weight_decay: factor of the squared weights, in Adam's gradient.
        clip: largest L2 norm of the whole gradient, longer ones are shortened to it.
        ema: decay of a moving average of the weights, such as 0.999: :math:`\bar w \leftarrow d\bar w + (1-d) w` with
            :math:`d = \min(\text{ema}, (1+t)/(10+t))` after step t. The model ends with the average.
        validation: images, or (images, y), whose ELBO is measured after each epoch, with the average if there is one,
            always with the same pixels and latent noise.
        patience: stop after so many epochs without a better validation; the model ends with the best weights.
        criterion: what validation measures instead of the ELBO, in the form of ``objective``.
        pixels: ``stochastic`` (a new binarisation each time), ``grey`` or ``threshold``.
        precision: ``auto`` (bf16 where the hardware has it), ``float32`` or ``bf16``.
        compile: True, or a mode of ``torch.compile``; its random numbers are others. Says so where there is no
            compiler, or several processes, and does without.
        device: ``auto`` is what ``COURSE_DEVICE`` says, else CUDA, then MPS, then CPU.
        seed: fixes order, pixels and latent noise; the caller's random stream is left alone.
        checkpoint: a folder for the whole state of the run, see :func:`load_checkpoint`. Every process must see it.
        checkpoint_every: steps from one checkpoint to the next; every epoch if None, and always at the end.
        resume: go on from the checkpoint in the folder, if there is one; on the CPU in float32 this gives the very bits
            of a run that was never stopped. A budget may have grown; the schedule then follows the new one.
        log_every: print a line every so many epochs where nobody watches; about eight lines by default.

    Returns:
        What was measured, epoch by epoch.

    Raises:
        ValueError: if a number is out of range, or the data do not fit the model or are not finite.
        TrainingDiverged: if the loss is not finite; names the step, and the model keeps its last good weights. On CUDA
            this comes at the end of the epoch, and the steps from the bad one on have changed nothing.
        CheckpointError: if the checkpoint cannot be resumed, or the last one not be written.
        torch.OutOfMemoryError: if a batch does not fit into the device's memory.

    Sources: Kingma and Welling 2013, arXiv:1312.6114; Kingma and Ba 2014, arXiv:1412.6980; averaged weights: Polyak and
    Juditsky 1992; fixed seeds for validation as common random numbers.
    """
    _check(batch_size, learning_rate, beta, weight_decay, clip, ema, patience, checkpoint_every)
    if patience is not None and validation is None:
        raise ValueError("patience needs a validation set to judge by: pass validation=...")
    if criterion is not None and validation is None:
        raise ValueError("criterion needs a validation set to judge: pass validation=...")
    if checkpoint is None and (resume or checkpoint_every is not None):
        raise ValueError("resume and checkpoint_every need a folder: pass checkpoint=...")
    budget = Budget(epochs, steps, seconds, math.ceil(len(data) / batch_size))
    rate, weight = schedule_called(schedule), beta if callable(beta) else lambda step: beta
    recipe = Recipe(learning_rate, rate, weight, weight_decay, clip, ema, precision)
    settings = {
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "schedule": called(schedule),
        "beta": called(beta),
        "objective": called(objective),
        "weight_decay": weight_decay,
        "clip": clip,
        "ema": ema,
        "patience": patience,
        "criterion": called(criterion),
        "pixels": pixels,
        "seed": seed,
        "data": [data.name, len(data)],
    }
    keeper = None if checkpoint is None else Keeper(checkpoint, checkpoint_every, settings)
    with (
        team(device) as us,
        Progress(budget, log_every, silent=us.rank > 0) as progress,
        Interrupts() as interrupts,
        seeded(seed, us.device) as generator,
        _short_of_memory(us.device, batch_size),
    ):
        model.to(us.device).train()
        feed = Epochs(model, data, y, batch_size=batch_size, pixels=pixels, generator=generator, team=us)
        watch = None
        if validation is not None:
            judged = Feed(model, *(validation if isinstance(validation, tuple) else (validation, None)))
            watch = Watch(judged, patience, pixels, precision, seed, criterion)
        if compile and us.size > 1:
            # The noise of the whole batch is drawn by a mode that the compiler does not see through.
            progress.say("torch.compile is not used with several processes; training runs uncompiled.")
            compile = False
        kind = str(model.config)
        terms = us.wrap(compiled(objective or elbo_terms, compile, us.device, progress.say, kind), model)
        loop = Loop(model, terms, feed, recipe, budget, us, watch, progress, interrupts)
        if keeper is not None:
            keeper.begin(loop, resume)
        _run(loop, keeper)
    return loop.history


def _run(loop: Loop, keeper: Keeper | None) -> None:
    """Run the loop to its end, or to an interrupt, and leave the model usable in any case."""
    history = loop.history
    try:
        if keeper is None:
            loop.run(lambda: None, lambda is_last: None)
        else:
            loop.run(lambda: keeper.after_step(loop), lambda is_last: keeper.after_epoch(loop, is_last))
        loop.team.align(loop.model)
    except KeyboardInterrupt:
        if keeper is not None and loop.is_between_steps:
            keeper.save(loop, together=loop.is_interrupted)
        history.trim()
        history.interrupted = True
        where = "" if keeper is None else f" What is in {keeper.folder} can be resumed."
        loop.progress.say(
            f"Stopped by hand after {len(history)} full epochs; the model and its history are usable.{where}"
        )
    finally:
        loop.finish()
    if keeper is not None and keeper.failure is not None:
        raise keeper.failure


@contextlib.contextmanager
def _short_of_memory(device: torch.device, batch_size: int) -> Iterator[None]:
    """Say in one sentence that a batch does not fit into memory."""
    try:
        yield
    except RuntimeError as error:
        signs = ("out of memory", "can't allocate memory", "not enough memory")
        if not isinstance(error, torch.cuda.OutOfMemoryError) and not any(sign in str(error) for sign in signs):
            raise
        raise torch.cuda.OutOfMemoryError(
            f"The memory of {device} does not hold a step with batch_size={batch_size}; "
            f"try batch_size={max(1, batch_size // 2)}."
        ) from None


def _check(
    batch_size: int,
    learning_rate: float,
    beta: float | Callable[[int], float],
    weight_decay: float,
    clip: float | None,
    ema: float | None,
    patience: int | None,
    checkpoint_every: int | None,
) -> None:
    for name, count in (("batch_size", batch_size), ("patience", patience), ("checkpoint_every", checkpoint_every)):
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}.")
    for name, size in (("learning_rate", learning_rate), ("clip", clip)):
        if size is not None and not 0 < size < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, not {size}.")
    for name, size in (("weight_decay", weight_decay), ("beta", 0.0 if callable(beta) else beta)):
        if not 0 <= size < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, not {size}.")
    if ema is not None and not 0 < ema < 1:
        raise ValueError(f"ema must lie between 0 and 1, such as 0.999, not be {ema}.")
