"""A run on disk: writing all of its state between two steps, and taking it up again exactly there."""

import zlib
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvae_lib._streams import begin
from cvae_lib.data import ImageSet
from cvae_lib.training import _checkpoint as files
from cvae_lib.training._checkpoint import CheckpointError
from cvae_lib.training._feed import tensors_in
from cvae_lib.training._history import History
from cvae_lib.training._loop import Loop


def called(value: Any) -> Any:
    """Return a setting as JSON can hold it: a function by its name, a schedule object by its parameters."""
    if callable(value):
        return repr(value) if is_dataclass(value) else getattr(value, "__qualname__", type(value).__name__)
    return value


def contents(data: ImageSet, y: Any) -> str:
    """Return what tells one training set from another of the same name and length: checksums of images and of y."""
    told = called(y) if callable(y) else " ".join(map(_checksum, tensors_in(data.labels if y is None else y)))
    return f"checksum {_checksum(data.images)}, y {told}"


def _checksum(tensor: Tensor) -> str:
    return f"{zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data):08x}"


class Keeper:
    """Writes the checkpoints of a run into a folder.

    Args:
        folder: where they go, one replacing the other.
        every: steps from one to the next; None is every epoch.
        settings: what must be the same for a run to be resumed.
    """

    def __init__(self, folder: str | Path, every: int | None, settings: dict[str, Any]) -> None:
        self.folder, self.every, self.settings = Path(folder), every, settings
        self.failure: CheckpointError | None = None

    def after_step(self, loop: Loop) -> None:
        """Save if it is time."""
        if self.every is not None and loop.step % self.every == 0:
            self.save(loop)

    def after_epoch(self, loop: Loop, is_last: bool) -> None:
        """Save if it is time, and in any case at the end."""
        if self.every is None or is_last:
            self.save(loop)

    def save(self, loop: Loop, together: bool = True) -> None:
        """Write the state of the run; a full disk is announced, and the next save tries again.

        What is on disk stays if the loss has stopped being a number, which on a GPU is noted but not yet read.

        Args:
            loop: the run.
            together: whether all processes are here. If not, this one's share of the running means stands for all.
        """
        sums = loop.team.total(loop.sums.clone()) if together else loop.sums * loop.team.size
        # A gradient can spoil the weights of a step whose loss was good; then the checkpoint before it is to stay.
        if loop.team.rank == 0 and not loop.bad and not loop.bad_weight(loop.live):
            try:
                files.write(self.folder, *state(loop, self.settings, sums))
                self.failure = None
            except CheckpointError as error:
                self.failure = error
                loop.progress.say(f"{error} Training goes on.")

    def begin(self, loop: Loop, resume: bool) -> None:
        """Take up the run that is in the folder, or begin one if there is none.

        Raises:
            CheckpointError: if there is a run and ``resume`` is false, or it is damaged or another one, or nothing can
                be written there.
        """
        files.check_writable(self.folder)
        if not files.exists(self.folder):
            return
        if not resume:
            raise CheckpointError(
                f"There is a checkpoint in {self.folder} already; pass resume=True to go on from it, "
                "or choose another folder."
            )
        facts, tensors = files.read(self.folder)
        if not isinstance(facts.get("settings"), dict):
            raise CheckpointError(
                f"The checkpoint in {self.folder} holds weights but no optimiser, so it cannot be resumed; "
                "load_checkpoint it, and train from there into another folder."
            )
        if other := files.differences(loop.model.config.as_dict(), facts["architecture"]):
            raise CheckpointError(f"The checkpoint in {self.folder} is of a model with {other}.")
        if other := files.differences(self.settings, facts["settings"]):
            raise CheckpointError(
                f"The checkpoint in {self.folder} is of a run with {other}; go on with the same settings, "
                "or begin in another folder."
            )
        try:
            restore(loop, facts, tensors, self.folder)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"The checkpoint in {self.folder} does not hold the whole state of a run ({error}), "
                f"so somebody has edited it; go back to a copy of {self.folder}."
            ) from None


def state(loop: Loop, settings: dict[str, Any], sums: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return all that a run is made of between two steps: what JSON holds, and the tensors; sums over all processes."""
    device, watch = loop.model.device, loop.watch
    tensors = files.prefixed("model", loop.model.state_dict())
    if loop.average is not None:
        tensors |= files.prefixed("ema", loop.average.state_dict())
    if watch is not None:
        tensors |= files.prefixed("best", watch.best)
    for name, parameter in loop.model.named_parameters():
        moments = {key: v for key, v in loop.optimiser.state.get(parameter, {}).items() if isinstance(v, Tensor)}
        tensors |= files.prefixed(f"optimiser.{name}", moments)
    tensors |= files.prefixed("run", {"sums": sums, "good_steps": loop.good_steps})
    facts = {
        "architecture": loop.model.config.as_dict(),
        "settings": settings,
        "step": loop.step,
        "position": loop.position,
        "seen": loop.seen,
        "seconds": loop.budget.elapsed(),
        "history": loop.history.to_json(),
        "least": None if watch is None or watch.best_epoch is None else watch.least,
        "device": device.type,
        "random": {name: files.as_text(get()) for name, (get, _) in _streams(loop).items()},
        "begun": None if loop.epochs.begun is None else files.as_text(loop.epochs.begun),
    }
    return facts, tensors


def restore(loop: Loop, facts: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> None:
    """Put a run into the state that :func:`state` returned.

    Raises:
        CheckpointError: if the weights do not fit the model.
        ValueError: if something is not as :func:`state` makes it.
    """
    device = loop.model.device
    weights = files.stripped("model", tensors)
    for key, here in loop.model.state_dict().items():
        if key in weights and weights[key].dtype != here.dtype:
            raise CheckpointError(
                f"The checkpoint in {folder} is of a model in another precision: {key} is {weights[key].dtype} there "
                f"and {here.dtype} here; convert the model with .to({weights[key].dtype}) before."
            )
    if not 0 <= facts["position"] <= len(loop.epochs) or facts["step"] < facts["position"] or facts["seen"] < 0:
        raise ValueError(f"step {facts['step']!r}, position {facts['position']!r}")
    files.load_weights(loop.model, weights, folder)
    if loop.average is not None:
        files.load_weights(loop.average, files.stripped("ema", tensors), folder)
    moments = {}
    for index, (name, parameter) in enumerate(loop.model.named_parameters()):
        if found := files.stripped(f"optimiser.{name}", tensors):
            # The fused step trusts these shapes, and would write beyond the end of a tensor that is too short.
            wanted = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
            if {key: value.shape for key, value in found.items()} != wanted:
                raise ValueError(f"the moments of {name}")
            moments[index] = found
    groups = loop.optimiser.state_dict()["param_groups"]
    loop.optimiser.load_state_dict({"state": moments, "param_groups": groups})
    loop.sums.copy_(tensors["run.sums"] if loop.team.rank == 0 else torch.zeros(3))  # they are added up over processes
    loop.good_steps.copy_(tensors["run.good_steps"])
    loop.step, loop.position, loop.seen = facts["step"], facts["position"], facts["seen"]
    loop.budget.before = float(facts["seconds"])
    loop.history = History.from_json(facts["history"])
    if loop.watch is not None and facts["least"] is not None:
        loop.watch.least, loop.watch.best_epoch = facts["least"], loop.history.best_epoch
        loop.watch.best = {key: value.to(device) for key, value in files.stripped("best", tensors).items()}
    if facts["device"] == device.type:
        for name, (_, put) in _streams(loop).items():
            put(files.from_text(facts["random"][name]))
        loop.epochs.begun = None if facts["begun"] is None else files.from_text(facts["begun"])
    else:
        # Random states belong to a kind of device. A new stream, and a new order for the rest of the epoch.
        begin(loop.step, device)
        loop.epochs.generator.manual_seed(loop.step)
        loop.progress.say(
            f"The checkpoint was written on {facts['device']}; on {device.type} the run goes on from its weights "
            "with random numbers of its own, so it is not the run that would have gone on there."
        )


def _streams(loop: Loop) -> dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], object]]]:
    """Return how to read and to set every stream of random numbers that a run draws from."""
    device, generator = loop.model.device, loop.epochs.generator
    streams: dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], object]]] = {
        "torch": (torch.get_rng_state, torch.set_rng_state),
        "generator": (generator.get_state, generator.set_state),
    }
    if device.type == "cuda":
        streams["cuda"] = (
            lambda: torch.cuda.get_rng_state(device),
            lambda value: torch.cuda.set_rng_state(value, device),
        )
    if device.type == "mps":
        streams["mps"] = (torch.mps.get_rng_state, torch.mps.set_rng_state)
    return streams
