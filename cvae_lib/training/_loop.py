"""The training loop, to be read from top to end."""

import copy
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from cvae_lib.checkpoints import CheckpointError, check_writable
from cvae_lib.data import Data, ImageSet, fingerprint
from cvae_lib.environment import Precision, autocast, seed_streams, seeded
from cvae_lib.training._arguments import budget, check_model, check_positive, out_of_memory_named, weight_of
from cvae_lib.training._batches import Batches, Conditions
from cvae_lib.training._checkpoint import CARD
from cvae_lib.training._history import History
from cvae_lib.training._objective import Loss, Objective
from cvae_lib.training._processes import process_group
from cvae_lib.training._progress import Progress
from cvae_lib.training._run import Run, setting_repr
from cvae_lib.training._schedules import Schedule, make_scheduler
from cvae_lib.training._stopping import EarlyStopping


def fit(
    model: nn.Module,
    data: Data,
    *,
    y: Conditions = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
    schedule: Schedule = "one_cycle",
    beta: float | Callable[[int], float] = 1.0,
    objective: Objective | None = None,
    clip: float | None = None,
    ema: float | None = None,
    validation: Data | tuple[ImageSet, Conditions] | None = None,
    patience: int | None = None,
    criterion: Objective | None = None,
    precision: Precision = "auto",
    compile: bool = False,
    device: str | torch.device = "auto",
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    callback: Callable[[nn.Module, History], object] | None = None,
    log_every: int | None = None,
) -> History:
    r"""Minimise :math:`-\frac1B\sum_b (E_q[\log p(x_b|z,y_b)] - \beta\,KL_b)` by gradient descent, in nats per example.

    The model is moved to ``device`` and stays there, at the end in evaluation mode. An interrupt (Ctrl-C, or Stop in a
    notebook) ends training and keeps the model and the history so far. How stored data become x (binarised anew at
    every step, grey, as they are) is the likelihood's business, see :meth:`cvae_lib.model.CVAE.prepare`.

    Under ``torchrun`` the same call trains in several processes: torch's ``DistributedDataParallel``, an equal share of
    each epoch for each process, noise of its own for each; the first one validates, prints and writes.

    Args:
        model: a CVAE, or any module with the three distributions of
            :class:`cvae_lib.objective.LatentVariableModel`.
        data: training examples: tensors (x, y), an ``ImageSet``, a ``Dataset`` or a ``DataLoader`` that gives (x, y).
            Tensors and image sets are kept on the device as a whole; the others are read as they come. Under torchrun
            an ``IterableDataset`` must give each process (``RANK`` of ``WORLD_SIZE``) its own share, equally long.
        y: what the model is told in place of the data's own y: a tensor of shape (n, ...), or a tuple or dictionary of
            such, one row per example, NaN only where the condition takes it for "not known"; or a function of the
            :class:`~cvae_lib.data.Batch`, drawing from torch's global random stream.
        epochs: passes over the data, 40 if ``steps`` is not given.
        steps: optimiser steps, in place of epochs; a stream, whose length nobody knows, needs them.
        batch_size: examples per step (and per process); a ``DataLoader`` has its own.
        learning_rate: the peak of the schedule.
        betas: Adam's decays.
        weight_decay: factor of the squared weights, in Adam's gradient.
        optimizer: makes another optimiser of the parameters: ``lambda p: torch.optim.SGD(p, 0.1)``; it then has its own
            learning rate, which the schedule scales.
        schedule: ``one_cycle``, ``cosine``, ``constant``, or a function ``(optimizer, steps) -> scheduler`` with one of
            ``torch.optim.lr_scheduler``, which is moved after every step.
        beta: weight of the rate, a number or a function of the step.
        objective: ``(model, x, y)`` to :class:`~cvae_lib.objective.Terms`, or to a bound per example, shape (B,), which
            then counts as distortion; the ELBO if None.
        clip: largest L2 norm of the whole gradient, longer ones are shortened to it.
        ema: decay of a moving average of the weights, such as 0.999: :math:`\bar w \leftarrow d\bar w + (1-d) w` with
            :math:`d = \min(\text{ema}, (1+t)/(10+t))` after step t. The model ends with the average.
        validation: examples, or (image set, y), whose ELBO is measured after each epoch, with the average if there is
            one, always with the same pixels and latent noise; held in memory.
        patience: stop after so many epochs without a better validation; the model ends with the best weights.
        criterion: what validation measures instead of the ELBO, in the form of ``objective``.
        precision: of the products: ``auto`` (bf16 where the hardware has it), ``float32`` or ``bf16``.
        compile: run the step through ``torch.compile``; its random numbers are others.
        device: ``auto`` is CUDA, then MPS, then CPU.
        seed: fixes order, pixels and latent noise; the caller's random stream is left alone.
        checkpoint: a folder for the state of the run, written at the end of every epoch, see :func:`load_checkpoint`.
        resume: go on from the checkpoint in the folder, if there is one. On the CPU, with data in memory, this gives
            the very bits of a run that was never stopped. Data and settings must be the same, functions are known by
            their names; a budget may have grown, and the library's schedules then follow the new one.
        callback: called with the model and the history after each epoch.
        log_every: print a line every so many epochs where nobody watches; about eight lines by default.

    Returns:
        What was measured, epoch by epoch.

    Raises:
        ValueError: if an argument is out of range, a function gives something else than it should, the data do not fit
            the model or are not finite, or nothing in the model can be trained.
        TrainingDiverged: if the loss or a weight is not finite; names the step, and the model keeps the weights from
            the start of the epoch, or the best where there is early stopping.
        CheckpointError: if the checkpoint cannot be resumed, or nothing be written there.
        torch.OutOfMemoryError: if a batch does not fit into the device's memory.

    Sources: Kingma and Welling 2013, arXiv:1312.6114; Kingma and Ba 2014, arXiv:1412.6980; averaged weights: Polyak and
    Juditsky 1992; fixed seeds for validation as common random numbers.
    """
    check_model(model)
    check_positive(batch_size=batch_size, learning_rate=learning_rate, clip=clip, patience=patience)
    check_positive(epochs=epochs, steps=steps, log_every=log_every)
    if epochs is not None and steps is not None:
        raise ValueError(f"Give one budget, not two: epochs={epochs} and steps={steps}.")
    if ema is not None and not 0 < ema < 1:
        raise ValueError(f"ema must lie between 0 and 1, such as 0.999, not be {ema}.")
    if validation is None and (patience is not None or criterion is not None):
        raise ValueError("patience and criterion need a validation set to judge by: pass validation=...")
    if optimizer is not None and (isinstance(optimizer, Optimizer) or not callable(optimizer)):
        raise ValueError("optimizer makes one of the parameters: lambda p: torch.optim.SGD(p, 0.1), not an optimiser.")
    if resume and checkpoint is None:
        raise ValueError("resume needs a folder: pass checkpoint=...")
    folder = None if checkpoint is None else Path(checkpoint).expanduser()
    if folder is not None and not resume and (folder / CARD).exists():
        raise CheckpointError(
            f"There is a checkpoint in {folder} already; pass resume=True to go on from it, or choose another folder."
        )

    with (
        process_group(device) as processes,
        seeded(seed, processes.device, processes.rank) as generator,
        autocast(processes.device, "float32"),  # the caller's own, if there is one, would round the backward pass
        out_of_memory_named(processes.device, getattr(data, "batch_size", None) or batch_size),
    ):
        model.to(processes.device)
        shared: dict[str, Any] = {"reads_y": objective is None, "rank": processes.rank, "size": processes.size}
        batches = Batches(model, data, y, batch_size, generator, **shared)
        total, per_epoch = budget(batches, epochs, steps)
        stopping = None
        if validation is not None:
            held, told = validation, None
            if isinstance(validation, tuple) and isinstance(validation[0], ImageSet):
                held, told = validation
            stopping = EarlyStopping(model, held, told, patience, seed, criterion)

        # First of all, because it gives every process the first one's weights.
        loss_of: Any = Loss(model, objective)
        if processes.size > 1:
            loss_of = DistributedDataParallel(loss_of)
        if compile:
            loss_of = torch.compile(loss_of)
        parameters = list(model.parameters())
        adam = {"lr": float(learning_rate), "betas": betas, "weight_decay": weight_decay}
        fused = processes.device.type in ("cpu", "cuda")
        opt = torch.optim.Adam(parameters, fused=fused, **adam) if optimizer is None else optimizer(parameters)  # type: ignore[arg-type]
        scheduler = make_scheduler(schedule, opt, total)
        average = copy.deepcopy(model).eval() if ema is not None else None
        history = History()
        named: dict[str, Any] = {"beta": beta, "objective": objective, "schedule": schedule, "optimizer": optimizer}
        named |= {"learning_rate": learning_rate, "betas": list(betas), "weight_decay": weight_decay}
        named |= {"batch_size": batch_size, "patience": patience, "criterion": criterion, "precision": precision}
        named |= {"seed": seed, "clip": clip, "ema": ema, "y": y if callable(y) else None}
        settings = {name: setting_repr(value) for name, value in named.items()}
        if folder is not None:
            settings["data"] = fingerprint(batches.data, None if callable(y) else batches.y)
            if stopping is not None:
                settings["validation"] = fingerprint(stopping.batches.data, stopping.batches.y)
        run = Run(model, average, opt, scheduler, stopping, generator, history, settings)
        if folder is not None and processes.rank == 0:
            check_writable(folder)
        if folder is not None and resume and (folder / CARD).exists():
            run.load(folder)
            if processes.rank:  # the random states are the first process's, and noise is each one's own
                seed_streams(int(torch.randint(2**31, (), device="cpu")) + processes.rank, processes.device)

        step = history.steps[-1] if history.steps else 0
        run.remember()
        sums = torch.zeros(4, device=processes.device, dtype=batches.dtype)  # loss, distortion, rate; examples
        before, began = history.seconds[-1] if history.seconds else 0.0, time.monotonic()

        model.train()
        with Progress(per_epoch and math.ceil(total / per_epoch), total, log_every, processes.rank > 0) as progress:
            try:
                while step < total and not (stopping and stopping.is_over(len(history))):
                    sums.zero_()
                    for batch in batches.prepared_epoch(len(history)):
                        if step == 0:
                            batches.check(batch, step)
                        now = weight_of(beta, step)
                        with autocast(processes.device, precision):
                            # A number that changes would be compiled in anew each time.
                            weighted = sums.new_tensor(now) if compile and now != 1 else now
                            try:
                                loss, means = loss_of(batch.x, batch.y, weighted)
                            except ValueError:
                                batches.check(batch, step)
                                raise
                        if not loss.requires_grad:
                            raise ValueError(
                                "The loss depends on no weight that is trained, so there is nothing to follow "
                                "downhill; the objective must not detach its bound, nor compute it under no_grad()."
                            )
                        if not math.isfinite(loss.item()):
                            batches.check(batch, step)
                            raise run.diverged(f"The loss became {loss.item()} at step {step}")
                        opt.zero_grad(set_to_none=True)
                        loss.backward()
                        if clip is not None:
                            nn.utils.clip_grad_norm_(parameters, clip)
                        opt.step()
                        scheduler.step()
                        if ema is not None:
                            run.average_weights(min(ema, (1 + step) / (10 + step)), step)
                        sums[:3] += means * len(batch.x)
                        sums[3] += len(batch.x)
                        step += 1
                        progress.bar.update(step - progress.bar.n)
                        if step == total:
                            break
                    else:
                        if sums[3] == 0:
                            raise ValueError(f"{batches.name} gives no batch; drop_last may leave nothing.")

                    # The end of an epoch, or of the budget in the midst of one.
                    processes.align(run.live + run.averaged)
                    if not all(bool(tensor.isfinite().all()) for tensor in parameters):
                        raise run.diverged(f"A weight became NaN or infinite before step {step}")
                    run.remember()
                    *means, _ = (processes.total(sums) / sums[3]).tolist()
                    for column, value in zip((history.loss, history.distortion, history.rate), means, strict=True):
                        column.append(value)
                    history.steps.append(step)
                    if stopping is not None:
                        judged = stopping.judge(average or model) if processes.rank == 0 else 0.0
                        history.validation.append(processes.first(judged))
                        stopping.keep_if_best(average or model, history.validation[-1], len(history))
                        history.best_epoch = stopping.best_epoch
                    history.seconds.append(before + time.monotonic() - began)
                    progress.epoch(history, None if callable(beta) else beta)
                    if folder is not None and processes.rank == 0:
                        run.save(folder)
                    if callback is not None:
                        with seeded(seed, processes.device):  # what it draws moves no noise of the training
                            callback(model, history)
                        model.train()
            except KeyboardInterrupt:
                history.trim()
                history.interrupted = True
                where = "" if folder is None else f" The end of the last epoch can be resumed from {folder}."
                progress.say(
                    f"Stopped by hand after {len(history)} full epochs; the model and its history are usable.{where}"
                )
            finally:
                run.finish()
    return history
