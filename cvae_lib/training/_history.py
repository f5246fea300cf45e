"""``History``: what training measured, epoch by epoch, and its form as JSON."""

import json
from dataclasses import asdict, dataclass, field, fields


@dataclass
class History:
    """What training measured: for each epoch the mean over its images, in nats per image.

    Attributes:
        loss: the objective.
        distortion: -log p(x|z,y).
        rate: KL(q(z|x,y) || p(z|y)).
        steps: optimiser steps taken so far, at the end of each epoch.
        validation: minus the ELBO of the validation set, or minus the criterion asked for, nats per image; empty
            without such a set.
        seconds: time spent so far, at the end of each epoch; two equal runs may differ here.
        best_epoch: the epoch, counted from 1, whose weights early stopping kept; None without it.
        interrupted: whether a person stopped the run before its end.
    """

    loss: list[float] = field(default_factory=list)
    distortion: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list, compare=False)
    best_epoch: int | None = None
    interrupted: bool = False

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def elbo(self) -> list[float]:
        """The bound per epoch, nats per image (training set, dropout on)."""
        return [-(d + r) for d, r in zip(self.distortion, self.rate, strict=True)]

    def to_json(self) -> str:
        """Return everything measured as JSON; :meth:`from_json` gives back the same digits."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "History":
        """Return the history that :meth:`to_json` wrote.

        Raises:
            ValueError: if the text is no JSON, or not that of a history.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ValueError(f"This is no history: it is not readable as JSON ({error}).") from None
        known = {entry.name for entry in fields(cls)}
        if not isinstance(values, dict) or set(values) - known:
            unknown = ", ".join(sorted(set(values) - known)) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"This is no history: unknown {unknown}; a history has {', '.join(sorted(known))}.")
        return cls(**values)

    def trim(self) -> None:
        """Cut every list to the shortest, for an interrupt may fall between two of them."""
        columns: list[list[float] | list[int]] = [self.loss, self.distortion, self.rate, self.steps, self.seconds]
        if self.validation:
            columns.append(self.validation)
        whole = min(len(values) for values in columns)
        for values in columns:
            del values[whole:]
