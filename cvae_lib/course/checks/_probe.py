"""What the checks of all chapters are made of: inputs to try an answer on, and ways to compare what came."""

import contextlib
import copy
import functools
import itertools
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from cvae_lib.course.checks._generic import GENERIC, misshapen
from cvae_lib.course.checks._runner import TimeUp
from cvae_lib.course.checks._verdict import SHOWN, NotAttempted, Theirs, Wrong, dtype_name, raised_as_blank, shown

Mistakes = Mapping[str, Tensor | tuple[Tensor, ...]]  # what an answer would be with a known mistake, or its variants
RELATIVE, ABSOLUTE = 1e-3, 1e-4  # coarse enough for float32, fine enough for every mistake in these exercises


@dataclass
class Trial:
    """One input of random size and values, in one dtype on one device, and what the answer makes of it."""

    hints: Mapping[str, str]
    dtype: torch.dtype
    device: torch.device
    random: torch.Generator
    on: str | Callable[[], str] = ""  # the input, described only when there is something to say about it

    def size(self, low: int, high: int) -> int:
        """Draw an integer from ``low`` to ``high``, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.random))

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers."""
        return torch.randn(*shape, generator=self.random, dtype=torch.float64).to(self.device, self.dtype)

    def uniform(self, low: float, high: float) -> float:
        """Draw a number between ``low`` and ``high``."""
        return low + (high - low) * float(torch.rand((), generator=self.random, dtype=torch.float64))

    def bits(self, *shape: int) -> Tensor:
        """Draw zeros and ones."""
        return torch.randint(0, 2, shape, generator=self.random).to(self.device, self.dtype)

    def ask(self, function: Callable[..., Any], **given: Any) -> Any:
        """Call the learner's function with copies of ``given``, in their order, and return what it returns.

        Where it makes tensors of its own without naming a dtype or a device, it gets those of the trial.

        Raises:
            NotAttempted: if a blank is met.
            Theirs: if it raises anything else.
            Wrong: if it returns nothing, or has changed a tensor it was given.
        """
        self.on = functools.partial(_described, given)
        copies = [_copied(value) for value in given.values()]
        _seed(self.size(0, 2**31))
        before = torch.get_default_dtype()
        try:
            torch.set_default_dtype(self.dtype)
            # Entering a device slows every call down, so not where it is the one that is taken anyway.
            usual = torch.get_default_device() == self.device
            with contextlib.nullcontext() if usual else self.device:
                result = function(*copies)
        except TimeUp:
            raise
        except NotImplementedError as error:
            if not raised_as_blank(error):
                raise Theirs(error, self.on()) from error
            raise NotAttempted(error) from error
        except BaseException as error:  # exit() in a learner's function must not end the notebook either
            raise Theirs(error, self.on()) from error
        finally:
            torch.set_default_dtype(before)
        for value, handed in zip(given.values(), copies, strict=True):
            if isinstance(value, Tensor) and not _same(value, handed):
                self.fail("in place")
        if result is ...:
            raise NotAttempted()
        if result is None:
            self.fail("nothing")
        return result

    def pair(self, function: Callable[..., Any], **given: Any) -> tuple[Any, Any]:
        """Call a function that must return two things."""
        return self.two(self.ask(function, **given))

    def two(self, result: Any) -> tuple[Any, Any]:
        """Take apart what must be two things."""
        if not isinstance(result, tuple | list) or len(result) != 2:
            number = len(result) if isinstance(result, tuple | list) else 1
            self.fail("two things", expected="two things", got=f"{number}: {shown(result)}")
        return result[0], result[1]

    def fail(self, mistake: str, *, expected: Any = "", got: Any = "") -> NoReturn:
        """Say that the answer is wrong, and which known mistake it is."""
        hint = self.hints.get(mistake) or GENERIC[mistake]
        texts = [value if isinstance(value, str) else shown(value) for value in (expected, got)]
        on = self.on if isinstance(self.on, str) else self.on()
        raise Wrong(hint, mistake=mistake, on=on, expected=texts[0], got=texts[1])

    def tensor(self, got: Any) -> Tensor:
        """Return the answer as float64 on the CPU."""
        if isinstance(got, Tensor):
            return got.detach().to("cpu", torch.float64)
        if isinstance(got, numbers.Real | np.ndarray):
            return torch.as_tensor(np.asarray(got, dtype=np.float64))
        self.fail("kind", got=f"a {type(got).__name__}: {shown(got)}")

    def compare(
        self,
        got: Any,
        expected: Tensor,
        mistakes: Mistakes = MappingProxyType({}),
        *,
        otherwise: str = "unknown",
        not_finite: str = "not finite",
        relative: float = RELATIVE,
        absolute: float = ABSOLUTE,
    ) -> None:
        """Compare an answer with the reference, and if they differ, with what the known mistakes would give.

        Raises:
            Wrong: if it is not the reference, up to rounding.
        """
        value, expected = self.tensor(got), expected.detach().to("cpu", torch.float64)

        def near(other: Tensor, share: float = 1.0) -> bool:
            return value.shape == other.shape and torch.allclose(value, other, share * relative, share * absolute)

        if near(expected):
            return
        # Sharply first: what a mistake gives it gives to rounding, and by chance it can lie near what another would.
        for share, (mistake, wrong) in itertools.product((0.05, 1.0), mistakes.items()):
            alternatives = wrong if isinstance(wrong, tuple) else (wrong,)
            if any(near(other.detach().to("cpu", torch.float64), share) for other in alternatives):
                self.differ(mistake, expected, value, relative, absolute)
        if value.shape != expected.shape:
            shapes = f"shape {tuple(expected.shape)}", f"shape {tuple(value.shape)}"
            self.fail(misshapen(value, expected), expected=shapes[0], got=shapes[1])
        self.differ(otherwise if value.isfinite().all() else not_finite, expected, value, relative, absolute)

    def differ(
        self, mistake: str, expected: Tensor, value: Tensor, relative: float = RELATIVE, absolute: float = ABSOLUTE
    ) -> NoReturn:
        """Say that an answer is wrong; of a large one print the first row that differs."""
        if value.shape != expected.shape or value.ndim < 2 or value.numel() <= SHOWN:
            self.fail(mistake, expected=expected, got=value)
        rows = ~torch.isclose(value, expected, relative, absolute).flatten(1).all(1)
        row = int(rows.double().argmax())
        texts = [f"row {row} of {len(rows)}: {shown(part[row])}" for part in (expected, value)]
        self.fail(mistake, expected=texts[0], got=texts[1])

    def compare_parts(
        self,
        got: Sequence[Any],
        expected: Mapping[str, Tensor],
        mistakes: Mapping[str, Sequence[Sequence[Tensor]]] = MappingProxyType({}),
    ) -> None:
        """Compare several results of one function, and print each on a line of its own, with its name.

        Each mistake has alternatives, and each alternative a tensor for every name.

        Raises:
            Wrong: if not all are the references, up to rounding.
        """
        values, exact = [self.tensor(part) for part in got], list(expected.values())

        def near(other: Sequence[Tensor]) -> bool:
            pairs = list(zip(values, other, strict=True))
            return all(a.shape == b.shape and torch.allclose(a, b.double(), RELATIVE, ABSOLUTE) for a, b in pairs)

        if near(exact):
            return
        right, came = (
            "\n".join(f"{name}: {shown(part)}" for name, part in zip(expected, parts, strict=True))
            for parts in (exact, values)
        )
        for mistake, alternatives in mistakes.items():
            if any(near(other) for other in alternatives):
                self.fail(mistake, expected=right, got=came)
        for name, part, reference in zip(expected, values, exact, strict=True):
            if part.shape != reference.shape:
                shapes = f"{name} of shape {tuple(reference.shape)}", f"{name} of shape {tuple(part.shape)}"
                self.fail(misshapen(part, reference), expected=shapes[0], got=shapes[1])
        finite = all(bool(part.isfinite().all()) for part in values)
        self.fail("unknown" if finite else "not finite", expected=right, got=came)

    def average(self, draws: Tensor, exact: Tensor | float, *, slack: float = 0.0) -> bool:
        """Say whether the mean of independent draws agrees with a number, within six standard errors."""
        draws = draws.detach().double()
        error = draws.std(0) / math.sqrt(len(draws))
        return bool(((draws.mean(0) - torch.as_tensor(exact).double()).abs() <= 6 * error + slack).all())


@dataclass(frozen=True)
class Probe:
    """What a check has at hand: its hints, a seed that differs from call to call, and whose numbers are asked about."""

    hints: Mapping[str, str]
    seed: int
    edition: int = 0

    def trials(self, *dtypes: torch.dtype) -> Iterator[Trial]:
        """Yield trials: in float32, in float64, and on the graphics card where the notebook already uses one."""
        places = [(dtype, torch.device("cpu")) for dtype in dtypes or (torch.float32, torch.float64)]
        if torch.cuda.is_initialized():
            places.append((torch.float32, torch.device("cuda")))
        for index, (dtype, device) in enumerate(places):
            yield self.trial(dtype, device, index)

    def trial(self, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", index: int = 0) -> Trial:
        """Return one trial; another ``index`` is another draw."""
        random = torch.Generator().manual_seed(self.seed + 1_000_003 * index)
        return Trial(self.hints, dtype, torch.device(device), random)

    def number(
        self,
        got: Any,
        expected: float,
        mistakes: Mapping[str, float | tuple[float, ...]] = MappingProxyType({}),
        *,
        name: str = "",
        tolerance: float = 0.005,
    ) -> None:
        """Compare a number worked out by hand with the reference, and with what known mistakes would give.

        Where several are handed in, ``name`` says which one this is.

        Raises:
            Wrong: if it is further than ``tolerance`` from the reference. The reference is then not printed.
        """
        trial = self.trial()
        trial.on = f"your `{name}`" if name else ""
        wanted = "a number, right to the second digit after the point"
        value = trial.tensor(got)
        if value.numel() != 1:
            trial.fail("one number", expected=wanted, got=value)
        if abs(float(value) - expected) <= tolerance:
            return
        for mistake, wrong in mistakes.items():
            alternatives = wrong if isinstance(wrong, tuple) else (wrong,)
            if any(abs(float(value) - other) <= min(tolerance, 0.01 * abs(other)) for other in alternatives):
                trial.fail(mistake, expected=wanted, got=value)
        trial.fail("by hand", expected=wanted, got=value)


def model_copy(model: Any, trial: Trial) -> nn.Module:
    """Return a copy of a trained model on the CPU, so that the learner's own keeps its mode, weights and gradients."""
    if not isinstance(model, nn.Module):
        trial.fail("no model", expected="a trained model", got=shown(model))
    # What a forward pass has left lying about in the model cannot be copied while it hangs on a graph.
    memo = {
        id(value): value.detach()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and value.grad_fn is not None
    }
    return copy.deepcopy(model, memo).cpu()


def _seed(seed: int) -> None:
    """Do what torch.manual_seed does, without the stack trace that it takes for every device not yet in use."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def _described(given: Mapping[str, Any]) -> str:
    """Return what a function was given, a line for each argument."""
    parts = []
    for name, value in given.items():
        if not isinstance(value, nn.Module) and not callable(value):
            many = isinstance(value, Tensor) and value.ndim > 0
            parts.append(f"{name} = {shown(value)}" + (f" ({dtype_name(value.dtype)})" if many else ""))
    return "\n".join(parts)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value if value.requires_grad else value.clone()
    return copy.copy(value) if hasattr(value, "__dict__") and not callable(value) else value


def _same(value: Tensor, handed: Tensor) -> bool:
    return value.shape == handed.shape and torch.allclose(value, handed, 0.0, 0.0, equal_nan=True)
