"""What moves while a model trains, weights, averages and optimiser: kept in a checkpoint, and taken up again."""

import base64
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cvae_lib.checkpoints import CheckpointError, described, load_weights, prefixed, read, stripped, write
from cvae_lib.training._checkpoint import CARD
from cvae_lib.training._history import History
from cvae_lib.training._stopping import EarlyStopping


class TrainingDiverged(RuntimeError):
    """The loss stopped being a number; the model keeps the last good weights.

    Attributes:
        history: what training had measured until then.
    """

    history: History


def setting_repr(value: Any) -> Any:
    """Return a setting as JSON can hold it: a function by its name, a schedule object by its parameters."""
    if callable(value):
        return repr(value) if dataclasses.is_dataclass(value) else getattr(value, "__qualname__", type(value).__name__)
    return value


@dataclasses.dataclass
class Run:
    """What moves while a model trains.

    Attributes:
        model: with the weights the optimiser moves.
        average: the model with averaged weights, or None.
        optimizer, scheduler: torch's own.
        stopping: validation and the best weights, or None.
        generator: of order and pixels.
        history: what was measured; the steps done stand in it.
        settings: what must be the same for a run to be taken up again.
    """

    model: nn.Module
    average: nn.Module | None
    optimizer: Optimizer
    scheduler: LRScheduler
    stopping: EarlyStopping | None
    generator: torch.Generator
    history: History
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        self.live, self.averaged = _floats(self.model), _floats(self.average) if self.average is not None else []
        self.good = [tensor.clone() for tensor in self.live + self.averaged]

    def average_weights(self, decay: float, step: int) -> None:
        r"""Move the averages, :math:`\bar w \leftarrow d \bar w + (1 - d) w`."""
        get_ema_multi_avg_fn(decay)(self.averaged, self.live, step)

    def remember(self) -> None:
        """Keep a copy of the weights, to go back to."""
        for kept, tensor in zip(self.good, self.live + self.averaged, strict=True):
            kept.copy_(tensor)

    def diverged(self, what: str) -> TrainingDiverged:
        """Put the weights back to where they were, and return the error that says so."""
        for tensor, kept in zip(self.live + self.averaged, self.good, strict=True):
            tensor.copy_(kept)
        error = TrainingDiverged(
            f"{what}, so training has stopped, and the model keeps weights from before epoch {len(self.history) + 1}; "
            "try a smaller learning_rate, or clip=1.0."
        )
        error.history = self.history
        return error

    def finish(self) -> None:
        """Leave the model with the weights that were asked for: the best, else the average, else those it has."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.stopping is not None and self.stopping.best:
            self.model.load_state_dict(self.stopping.best)
        elif self.average is not None:
            for tensor, kept in zip(self.live, self.averaged, strict=True):
                tensor.copy_(kept)
        self.model.eval()

    def save(self, folder: Path) -> None:
        """Write the state into a folder, in place of the one that is there.

        Raises:
            CheckpointError: if it cannot be written.
        """
        tensors = prefixed("model", self.model.state_dict())
        if self.average is not None:
            tensors |= prefixed("ema", self.average.state_dict())
        if self.stopping is not None:
            tensors |= prefixed("best", self.stopping.best)
        state = self.optimizer.state_dict()
        for index, entries in state["state"].items():
            tensors |= prefixed(f"optimizer.{index}", {k: torch.as_tensor(v, device="cpu") for k, v in entries.items()})
        facts = {
            "model": described(self.model),
            "settings": self.settings,
            "history": self.history.to_json(),
            "least": None if self.stopping is None or not self.stopping.best else self.stopping.least,
            "groups": [{k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]],
            "scheduler": {k: v for k, v in self.scheduler.state_dict().items() if k != "lr_lambdas"},
            "random": {name: base64.b64encode(bytes(s.tolist())).decode() for name, s in self._random_states().items()},
            "device": self.generator.device.type,
        }
        write(folder / CARD, facts, tensors)

    def load(self, folder: Path) -> None:
        """Take up the run that was saved in a folder.

        Raises:
            CheckpointError: if it is damaged, or of another model, data or settings.
        """
        facts, tensors = read(folder / CARD)
        if "random" not in facts:
            raise CheckpointError(
                f"The checkpoint in {folder} holds weights but no optimiser, so it cannot be resumed; load_checkpoint "
                "it, and train from there into another folder."
            )
        theirs = facts["settings"]
        names = [name for name in {**theirs, **self.settings} if theirs.get(name) != self.settings.get(name)]
        if names or facts["device"] != self.generator.device.type:
            names = names or ["device"]
            told = " and ".join(f"{n}={theirs.get(n)!r}, not {self.settings.get(n)!r}" for n in names)
            raise CheckpointError(f"The run in {folder} cannot be resumed with other settings: it has {told}.")
        load_weights(self.model, stripped("model", tensors), str(folder))
        if self.average is not None:
            load_weights(self.average, stripped("ema", tensors), str(folder))
        state: dict[int, dict[str, Tensor]] = {}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for key, value in stripped("optimizer", tensors).items():
            index, name = key.split(".", 1)
            # A fused step trusts these shapes, and would write beyond the end of a tensor that is too short.
            if int(index) >= len(parameters) or value.shape not in (torch.Size(), parameters[int(index)].shape):
                raise CheckpointError(f"The optimiser's state in {folder} does not fit the model: {key}.")
            state.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        for group, theirs in zip(groups, facts["groups"], strict=True):
            group.update(theirs)  # learning rates, and momenta where the schedule moves these
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), **facts["scheduler"]})
        for name, value in dataclasses.asdict(History.from_json(facts["history"])).items():
            setattr(self.history, name, value)
        if self.stopping is not None and facts["least"] is not None:
            self.stopping.least, self.stopping.best_epoch = facts["least"], self.history.best_epoch
            place = self.generator.device
            self.stopping.best = {key: value.to(place) for key, value in stripped("best", tensors).items()}
        for name, text in facts["random"].items():
            bits = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8).clone()
            self._set_random_state(name, bits)

    def _random_states(self) -> dict[str, Tensor]:
        device = self.generator.device
        states = {"cpu": torch.get_rng_state(), "generator": self.generator.get_state()}
        return states if device.type == "cpu" else {**states, device.type: _rng(device.type).get_rng_state()}

    def _set_random_state(self, name: str, state: Tensor) -> None:
        if name == "generator":
            self.generator.set_state(state)
        else:
            _rng(name).set_rng_state(state)


def _rng(kind: str) -> Any:
    """Return torch's module for the random stream of a kind of device."""
    return {"cpu": torch, "cuda": torch.cuda, "mps": torch.mps}[kind]


def _floats(model: nn.Module) -> list[Tensor]:
    """Return every parameter and floating-point buffer, detached: what an average is taken of."""
    # An infinite buffer, such as a mask or a limit, is a constant, and the average of infinity with itself is NaN.
    buffers = [b for b in model.buffers() if not b.isinf().any()]
    return [t.detach() for t in [*model.parameters(), *buffers] if t.is_floating_point()]
