"""What a run shows while it goes on: a bar, lines, or nothing; and how Ctrl-C ends it between two steps."""

import signal
import sys
import threading
from types import FrameType, TracebackType

from tqdm import tqdm

from cvae_lib import course
from cvae_lib.training._budget import Budget
from cvae_lib.training._history import History


class Progress:
    """A live bar for somebody who watches, a line every few epochs for everybody else.

    Args:
        budget: how long the run is to be.
        log_every: epochs from line to line; about eight lines in all if None.
        silent: show nothing at all, as every process but the first does.
    """

    def __init__(self, budget: Budget, log_every: int | None, silent: bool) -> None:
        self.budget = budget
        self.every = log_every or (max(1, budget.epochs // 8) if budget.epochs else None)
        self.eighth = 0
        self.silent = silent
        watched = not silent and course.someone_watches()
        # On stdout, because notebooks show stderr in red.
        self.bar = tqdm(total=budget.steps, unit="step", leave=True, file=sys.stdout) if watched else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, step: int) -> None:
        """Move the bar to a step."""
        if self.bar is not None:
            self.bar.update(step - self.bar.n)

    def epoch(self, history: History) -> None:
        """Show the epoch that has just ended."""
        done, of = len(history), f"/{self.budget.epochs}" if self.budget.epochs else ""
        line = f"loss {history.loss[-1]:.2f} = distortion {history.distortion[-1]:.2f} + rate {history.rate[-1]:.2f}"
        if history.validation:
            line += f", validation {history.validation[-1]:.2f}"
        if self.bar is not None:
            self.bar.set_postfix_str(f"epoch {done}{of}, {line}")
        elif self._is_due(done, history.steps[-1]):
            self.say(f"epoch {done:>3}{of}  {line}")

    def say(self, sentence: str) -> None:
        """Print a sentence, in the first process only."""
        if not self.silent:
            print(sentence, flush=True)

    def _is_due(self, done: int, step: int) -> bool:
        if self.every is not None:
            return done == 1 or done % self.every == 0 or done == self.budget.epochs
        place, total = self.budget.place(step)
        last, self.eighth = self.eighth, 8 * place // total
        return done == 1 or self.eighth > last


class Interrupts:
    """Let Ctrl-C wait for the end of the step at hand, so that nothing is torn; a second one stops at once.

    Python allows this in the main thread only. Elsewhere, and where the program has its own idea of Ctrl-C,
    nothing is changed.
    """

    def __init__(self) -> None:
        self.asked = False
        self.ours = False

    def __enter__(self) -> "Interrupts":
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
            self.ours = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.ours = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            # Given back here already: on its way out this error may miss the end of the with-block.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.ours = False
            raise KeyboardInterrupt
        self.asked = True
