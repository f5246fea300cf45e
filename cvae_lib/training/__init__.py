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
from cvae_lib.training import _arguments as arguments
from cvae_lib.training._budget import SCHEDULES, Budget, Schedule, constant, cosine, one_cycle, schedule_called
from cvae_lib.training._checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from cvae_lib.training._distributed import alone, team
from cvae_lib.training._feed import Conditions, Epochs, Feed
from cvae_lib.training._history import History
from cvae_lib.training._keeping import Keeper, called, contents
from cvae_lib.training._loop import Loop, Recipe, TrainingDiverged
from cvae_lib.training._numerics import Precision, autocast, compiled, repeatable
from cvae_lib.training._progress import Interrupts, Progress
from cvae_lib.training._rows import blocks_for
from cvae_lib.training._stopping import Objective, Watch, measured, with_tensor_beta

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
            of such, one row per image, NaN only where the model's condition takes it for "not known"; or a function of
            the batch, drawing from torch's global random stream.
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
        compile: True, or a mode of ``torch.compile``; its random numbers are others, and on a CPU each core keeps its
            rows of the weights. Says so where there is no compiler, or several processes, and does without.
        device: ``auto`` is what ``COURSE_DEVICE`` says, else CUDA, then MPS, then CPU.
        seed: fixes order, pixels and latent noise; the caller's random stream is left alone.
        checkpoint: a folder for the whole state of the run, see :func:`load_checkpoint`. Every process must see it.
        checkpoint_every: steps from one checkpoint to the next; every epoch if None, and always at the end.
        resume: go on from the checkpoint in the folder, if there is one; on the CPU in float32, with as many threads,
            this gives the very bits of a run that was never stopped. Data and settings must be the same, functions
            are known by their names; a budget may have grown, and the schedule then follows the new one.
        log_every: print a line every so many epochs where nobody watches; about eight lines by default.

    Returns:
        What was measured, epoch by epoch.

    Raises:
        ValueError: if an argument is no number or out of range, a function gives something else than it should, the
            data do not fit the model or are not finite, or nothing in the model can be trained.
        TrainingDiverged: if loss or validation is not finite; names the step, and the model keeps good weights. On CUDA
            a bad loss is told at the end of the epoch, and the steps from the bad one on have changed nothing.
        CheckpointError: if the checkpoint cannot be resumed, nothing be written there, or not the last one.
        RuntimeError: if another of several processes is gone; its own message says why.
        torch.OutOfMemoryError: if a batch does not fit into the device's memory.

    Sources: Kingma and Welling 2013, arXiv:1312.6114; Kingma and Ba 2014, arXiv:1412.6980; averaged weights: Polyak and
    Juditsky 1992; fixed seeds for validation as common random numbers.
    """
    arguments.check_model(model)
    arguments.check_images("data", data)
    batch_size = arguments.whole("batch_size", arguments.given("batch_size", batch_size))
    learning_rate = arguments.positive("learning_rate", arguments.given("learning_rate", learning_rate))
    weight_decay = arguments.weight("weight_decay", weight_decay)
    clip, ema = arguments.positive("clip", clip), arguments.decay(ema)
    patience, log_every = arguments.whole("patience", patience), arguments.whole("log_every", log_every)
    checkpoint_every, seed = arguments.whole("checkpoint_every", checkpoint_every), arguments.seed_of(seed)
    arguments.check_function("objective", objective, "(model, x, y)")
    arguments.check_function("criterion", criterion, "(model, x, y)")
    if patience is not None and validation is None:
        raise ValueError("patience needs a validation set to judge by: pass validation=...")
    if criterion is not None and validation is None:
        raise ValueError("criterion needs a validation set to judge: pass validation=...")
    if checkpoint is None and (resume or checkpoint_every is not None):
        raise ValueError("resume and checkpoint_every need a folder: pass checkpoint=...")
    held = None if validation is None else arguments.judged(validation)
    budget = Budget(epochs, steps, seconds, math.ceil(len(data) / batch_size))
    rate, weight = schedule_called(schedule), arguments.beta_called(beta)
    recipe = Recipe(learning_rate, rate, weight, weight_decay, clip, ema, precision)
    settings = {
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "schedule": called(schedule),
        "beta": called(beta) if callable(beta) else weight(0),
        "objective": called(objective),
        "weight_decay": weight_decay,
        "clip": clip,
        "ema": ema,
        "patience": patience,
        "criterion": called(criterion),
        "pixels": pixels,
        "precision": precision,
        "seed": seed,
        "data": [data.name, len(data)],
    }
    if checkpoint is not None:
        settings |= {"images": contents(data, y), "validation": None if held is None else contents(*held)}
    keeper = None if checkpoint is None else Keeper(arguments.folder(checkpoint), checkpoint_every, settings)
    with (
        team(device) as us,
        Progress(budget, log_every, silent=us.rank > 0) as progress,
        Interrupts() as interrupts,
        seeded(seed, us.device) as generator,
        _short_of_memory(us.device, batch_size),
        alone(us),
    ):
        us.agree({**settings, "model": model.config.as_dict()})
        model.to(us.device)
        feed = Epochs(model, data, y, objective is None, batch_size, pixels, generator, us)
        watch = None
        if held is not None:
            watch = Watch(Feed(model, *held, criterion is None), patience, pixels, precision, seed, criterion)
        if compile and us.size > 1:
            # The noise of the whole batch is drawn by a mode that the compiler does not see through.
            progress.say("torch.compile is not used with several processes; training runs uncompiled.")
            compile = False
        kind = f"{model.config} {called(objective)}"
        blocks = blocks_for(model) if us.device.type == "cpu" else 1
        measure = compiled(measured(objective or elbo_terms), compile, us.device, progress.say, kind, blocks)
        if compile:
            measure = with_tensor_beta(measure)
        loop = Loop(model, us.wrap(measure, model), feed, recipe, budget, us, watch, progress, interrupts)
        if keeper is not None:
            keeper.begin(loop, resume)
        model.train()
        with repeatable(bool(compile) and us.device.type == "cpu"):
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
        keeper.failure.history = history
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
