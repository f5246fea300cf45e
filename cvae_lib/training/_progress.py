"""What a run shows while it goes on: a bar for somebody who watches, a line every few epochs for everybody else."""

import math
import sys

from tqdm import tqdm

from cvae_lib.environment import shows_progress
from cvae_lib.training._history import History


class Progress:
    """Shows how far a run has come.

    Args:
        epochs: how many there will be; None where nobody knows.
        steps: how many there will be.
        log_every: epochs from line to line; about eight lines in all if None.
        silent: show nothing at all, as every process but the first does.
    """

    def __init__(self, epochs: int | None, steps: int, log_every: int | None, silent: bool) -> None:
        self.epochs, self.silent = epochs, silent
        self.every = log_every or max(1, (epochs or 8) // 8)
        watched = not silent and shows_progress()
        # On stdout, because notebooks show stderr in red.
        self.bar = tqdm(total=steps, unit="step", file=sys.stdout, disable=not watched)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def epoch(self, history: History, beta: float | None) -> None:
        """Show the epoch that has just ended; beta is None where it changes from step to step."""
        done, of = len(history), f"/{self.epochs}" if self.epochs else ""
        weight = "" if beta == 1 else "beta x " if beta is None else f"{beta:g} x "
        places = 2 + math.ceil(math.log10(max(1, beta or 1)))  # so that the sum comes out however large beta is
        line = f"loss {history.loss[-1]:.2f} = distortion {history.distortion[-1]:.2f} + {weight}rate "
        line += f"{history.rate[-1]:.{places}f}"
        if history.validation:
            line += f", validation {history.validation[-1]:.2f}"
        if not self.bar.disable:
            self.bar.set_postfix_str(f"epoch {done}{of}, {line}")
        elif done == 1 or done % self.every == 0 or done == self.epochs:
            self.say(f"epoch {done:>3}{of}  {line}")

    def say(self, sentence: str) -> None:
        """Print a sentence, in the first process only."""
        if not self.silent:
            print(sentence, flush=True)
