"""The training loop: one step after another, with a state that can be saved between any two of them."""

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cvae_lib.data import Batch
from cvae_lib.model import CVAE
from cvae_lib.training._arguments import check_scale
from cvae_lib.training._budget import Budget, Schedule
from cvae_lib.training._distributed import GlobalDraws, Share, Team
from cvae_lib.training._feed import Epochs, blame
from cvae_lib.training._history import History
from cvae_lib.training._numerics import Precision, asks, autocast
from cvae_lib.training._progress import Interrupts, Progress
from cvae_lib.training._stopping import Watch, floats

LISTENS = 50  # steps after which processes on GPUs ask each other about Ctrl-C, for which they all have to wait


class TrainingDiverged(RuntimeError):
    """The loss stopped being a number; the model keeps the last good weights.

    Attributes:
        history: what training had measured until then.
    """

    history: History


@dataclass(frozen=True)
class Recipe:
    """What is the same for every step of a run."""

    learning_rate: float
    schedule: Schedule
    beta: Callable[[int], float]
    weight_decay: float
    clip: float | None
    ema: float | None
    precision: Precision


class Loop:
    """A run: the model, its optimiser, and where they are.

    Attributes:
        step: optimiser steps done.
        position: batches done of the running epoch.
        seen: images seen in the running epoch.
        sums: over those images: loss, distortion, rate.
        average: the model with averaged weights, or None.
        is_between_steps: whether the state is whole, so that it can be saved.
    """

    def __init__(
        self,
        model: CVAE,
        measure: Callable[[Tensor, Any, Any], tuple[Tensor, Tensor]],
        epochs: Epochs,
        recipe: Recipe,
        budget: Budget,
        team: Team,
        watch: Watch | None,
        progress: Progress,
        interrupts: Interrupts,
    ) -> None:
        self.model, self.measure, self.epochs, self.recipe = model, measure, epochs, recipe
        self.budget, self.team, self.watch = budget, team, watch
        self.progress, self.interrupts = progress, interrupts
        device = model.device
        self.parameters = list(model.parameters())
        self.optimiser = torch.optim.Adam(
            self.parameters,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            betas=(0.9, 0.99),
            fused=device.type in ("cpu", "cuda"),
        )
        self.average = copy.deepcopy(model).eval() if recipe.ema is not None else None
        # Looked up once: walking through the modules at every step takes as long as averaging them.
        self.live, self.averaged = floats(model), [] if self.average is None else floats(self.average)
        self.autocast = autocast(device, recipe.precision)
        # Sums stay on the device: asking for a number at every step would make a GPU wait for it. For the same
        # reason a bad loss there only switches off its own step and all later ones, and is read at the epoch's end.
        self.asks = asks(device)
        self.sums = torch.zeros(3, device=device, dtype=epochs.dtype)
        self.bad = torch.zeros((), device=device, dtype=torch.float32)
        self.good_steps = torch.zeros((), device=device)
        if not self.asks:
            self.optimiser.found_inf = self.bad  # type: ignore[attr-defined]  # as GradScaler does
        castable = torch.amp.is_autocast_available(device.type)
        self.modes = torch.is_grad_enabled(), torch.is_autocast_enabled(device.type) if castable else None
        self.history = History()
        self.step = self.position = self.seen = 0
        self.is_between_steps = True
        self.is_interrupted = False
        self.last_good: list[Tensor] = []
        self.place, self.total = 0, 1

    def run(self, after_step: Callable[[], None], after_epoch: Callable[[bool], None]) -> None:
        """Train until the budget is spent, early stopping says so, or somebody interrupts.

        Args:
            after_step: called between any two steps.
            after_epoch: called when an epoch is in the history, and when the budget ends in the midst of one; told
                whether this is the end of the run.

        Raises:
            TrainingDiverged: if the loss is not finite.
            ValueError: if the pixels are not, which then are the cause.
            KeyboardInterrupt: if somebody interrupts.
        """
        self._look_at_the_clock()
        while not self._is_over():
            self._remember()
            self.is_between_steps = False  # fetching a batch draws from the generator already
            for x, y, share, batch in self.epochs.epoch(self.position):
                self._train(x, y, share, batch)
                self.step += 1
                self.position += 1
                self.seen += share.total
                self.is_between_steps = True
                self.progress.step(self.step)
                after_step()
                if self._should_stop():
                    raise KeyboardInterrupt
                self._look_at_the_clock()
                if self.place >= self.total:
                    break
                self.is_between_steps = False
            if self.position == len(self.epochs):
                self._close()
            after_epoch(self._is_over())
        if self.seen:
            # Saved before it is closed: a longer budget can then go on with the rest of this epoch.
            self._close()

    def _should_stop(self) -> bool:
        """Say whether somebody interrupts; several processes have to agree, or some would wait for the others."""
        if self.team.size > 1 and not self.asks and self.step % LISTENS == 0:
            self.is_interrupted = self.team.any(self.interrupts.asked)
        return self.is_interrupted or (self.interrupts.asked and self.team.size == 1)

    def _is_over(self) -> bool:
        stopped = self.watch is not None and self.watch.is_over(len(self.history))
        return stopped or self.place >= self.total

    def _look_at_the_clock(self) -> None:
        elapsed = None if self.budget.seconds is None else self.team.agreed(self.budget.elapsed())
        self.place, self.total = self.budget.place(self.step, elapsed)

    def _train(self, x: Tensor, y: Any, share: Share, batch: Batch) -> None:
        recipe, several = self.recipe, self.team.size > 1
        if self.step == 0:
            blame(x, batch, 0, self.epochs.data)
            self.epochs.check(y)
        beta = check_scale("beta", recipe.beta(self.step), self.step)
        rate = recipe.learning_rate * check_scale("schedule", recipe.schedule(self.place, self.total), self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with GlobalDraws(share) if several else contextlib.nullcontext(), self.autocast:
            loss, means = self.measure(x, y, beta)
        if not loss.requires_grad:
            raise ValueError(
                "The loss depends on no weight that is trained, so there is nothing to follow downhill; "
                "the objective must not detach its bound, nor compute it under torch.no_grad()."
            )
        if self.asks:
            self._ask(loss, x, batch)
        for parameter in self.parameters:
            parameter.grad = None  # what zero_grad does, without what it does around it
        (loss * share.weight if several else loss).backward()
        norm = None
        if recipe.clip is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters, recipe.clip)
        if not self.asks:
            self._note(loss, norm)
        elif norm is not None and not math.isfinite(norm.item()):
            self._diverged(f"The gradient became {norm.item()}", self.step)
        self.optimiser.step()
        if self.average is not None and recipe.ema is not None:
            decay = min(recipe.ema, (1 + self.step) / (10 + self.step))
            get_ema_multi_avg_fn(decay)(self.averaged, self.live, self.step)
        self.sums += means * (len(x) if share.weight else 0)

    def _ask(self, loss: Tensor, x: Tensor, batch: Batch) -> None:
        """Stop here and now if the loss is not finite, in every process if it is so in one."""
        is_bad = not math.isfinite(loss.item())
        if self.team.size > 1:
            flags = torch.tensor([is_bad, self.interrupts.asked], dtype=torch.float32, device=loss.device)
            is_bad, self.is_interrupted = map(bool, self.team.largest(flags).tolist())
        if is_bad:
            blame(x, batch, self.step, self.epochs.data)
            self._diverged(f"The loss became {loss.item()}", self.step)

    def _note(self, loss: Tensor, norm: Tensor | None) -> None:
        """Switch this step and all later ones off, on the device, if its loss is not finite."""
        whole = torch.isfinite(loss) if norm is None else torch.isfinite(loss) & torch.isfinite(norm)
        torch.maximum(self.bad, (~whole).to(self.bad.dtype), out=self.bad)
        self.team.largest(self.bad)
        self.good_steps += 1 - self.bad

    def _diverged(self, what: str, step: int) -> None:
        if name := self.bad_weight(self.last_good):
            self._stop(
                f"{what} at step {step}, because the weights had been so before: {name} holds NaN or infinity; "
                "build the model anew, or load a good checkpoint."
            )
        whole = all(bool(torch.isfinite(tensor).all()) for tensor in self._kept())
        if not whole:
            for tensor, kept in zip(self._kept(), self.last_good, strict=True):
                tensor.copy_(kept)
        since = "from before that step" if whole else f"from the start of epoch {len(self.history) + 1}"
        if self.watch is not None and self.watch.best:
            since = f"of epoch {self.watch.best_epoch}, the best"
        self._stop(
            f"{what} at step {step}, so training has stopped with the weights {since}; "
            "try a smaller learning_rate, or clip=1.0."
        )

    def bad_weight(self, tensors: list[Tensor]) -> str:
        """Return which parameter is not finite in such a list of weights; nothing if all are. Buffers may hold -inf."""
        names = [name for name, value in self.model.named_parameters() if value.is_floating_point()]
        return next((name for name, value in zip(names, tensors, strict=False) if not value.isfinite().all()), "")

    def _stop(self, sentence: str) -> None:
        error = TrainingDiverged(sentence)
        error.history = self.history
        raise error

    def _kept(self) -> list[Tensor]:
        return self.live + self.averaged

    def _remember(self) -> None:
        """Keep a copy of the weights: a finite loss can still have a gradient that is not."""
        if not self.last_good:
            self.last_good = [tensor.clone() for tensor in self._kept()]
        for kept, tensor in zip(self.last_good, self._kept(), strict=True):
            kept.copy_(tensor)

    def _close(self) -> None:
        """Write the running epoch, whole or cut off by the budget, into the history."""
        self.is_between_steps = False
        means = (self.team.total(self.sums.clone()) / self.seen).tolist()
        if self.bad:
            begun = self.history.steps[-1] if self.history.steps else 0
            self._diverged("The loss was not finite", begun + int(self.good_steps))
        if self.asks and not math.isfinite(means[0]):
            self._diverged(f"The loss became {means[0]}", self.step - 1)
        if self.bad_weight(self.live):  # by the last step, whose loss was good: the next step would have noticed
            self._diverged("A weight became NaN or infinite", self.step - 1)
        history = self.history
        judged = self.average or self.model
        validation = None if self.watch is None else self.watch.look(judged, len(history) + 1, self.team)
        if validation is not None and not math.isfinite(validation):
            best = None if self.watch is None else self.watch.best_epoch
            which = "that step" if best is None else f"epoch {best}, the best"
            self._stop(
                f"The validation became {validation} after epoch {len(history) + 1}, at step {self.step}, so training "
                f"has stopped with the weights of {which}; look at the validation images and at criterion, or try a "
                "smaller learning_rate."
            )
        if validation is not None:
            history.validation.append(validation)  # first, so that trim() can tell whether there should be one
        for values, mean in zip((history.loss, history.distortion, history.rate), means, strict=True):
            values.append(mean)
        history.steps.append(self.step)
        history.seconds.append(self.budget.elapsed())
        history.best_epoch = None if self.watch is None else self.watch.best_epoch
        self.position = self.seen = 0
        self.sums.zero_()
        self.good_steps.zero_()
        self.epochs.finish()
        self.is_between_steps = True
        self.progress.epoch(history)

    def finish(self) -> None:
        """Leave the model with the weights that were asked for: the best, else the average, else those it has."""
        # An interrupt can fall into the very exit of a with-block, and would leave its mode on for the caller.
        torch.set_grad_enabled(self.modes[0])
        if self.modes[1] is not None:
            torch.set_autocast_enabled(self.model.device.type, self.modes[1])
        self.optimiser.zero_grad(set_to_none=True)
        if self.watch is not None and self.watch.best:
            self.model.load_state_dict(self.watch.best)
        elif self.average is not None:
            for live, averaged in zip(self.live, self.averaged, strict=True):
                live.copy_(averaged)
        self.model.eval()
