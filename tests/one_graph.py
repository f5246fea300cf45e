"""Trace a training step of many models with ``fullgraph=True`` and compare it with the plain step.

    python tests/one_graph.py      # prints a line for each model: its name, and "same" or what went wrong

A script of its own, since the shape checks that the tests wrap around every function cannot be traced. The tracer
raises where it would have to split the step; the backend leaves the C++ compiler out, which takes half a minute.
"""

import contextlib
import functools
import io
from collections.abc import Callable

import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from cvae_lib.conditions import Observed
from cvae_lib.data import ImageSet
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms, importance_weighted_bound
from cvae_lib.training import fit
from cvae_lib.training._rows import by_rows

SMALL = {"num_classes": 3, "latent_dim": 4, "hidden": (16, 16), "image_shape": (1, 28, 28)}
LABELS = torch.tensor([0, 2, 1, 1, 2, 0])
WORDS, IDS = ("thin", "thick", "seven"), torch.tensor([[1, 3], [2, 3], [3, 0]] * 2)
NUMBERS = torch.linspace(-1, 1, 12).view(6, 2)
PART = Observed(torch.ones(6, 1, 28, 28), torch.arange(28).expand(6, 1, 28, 28) < 14)
CASES = {
    "vae": ({"num_classes": 0}, None),
    "concatenation": ({}, LABELS),
    "film": ({"how": "film", "where": "every"}, LABELS),
    "batch norm": ({"how": "batchnorm", "where": "every"}, LABELS),
    "embedding": ({"how": "addition", "condition": "embedding"}, LABELS),
    "attributes": ({"condition": "attributes", "attributes": ("a", "b")}, NUMBERS),
    "dropout": ({"dropout": 0.1}, LABELS),
    "convolutional": ({"network": "convolutional", "hidden": (4, 8), "how": "film", "where": "every"}, LABELS),
    "gaussian prior": ({"prior": "gaussian"}, LABELS),
    "mixture prior": ({"prior": "mixture", "components": 3}, LABELS),
    "vamp prior": ({"prior": "vamp", "components": 3, "num_classes": 0}, None),
    "captions": ({"condition": "caption", "words": WORDS, "how": "attention", "hidden": (16,)}, IDS),
    "observed part": ({"condition": "observed"}, PART),
    "gaussian pixels": ({"likelihood": "gaussian"}, LABELS),
    "logistic pixels": ({"likelihood": "logistic"}, LABELS),
    "categorical pixels": ({"likelihood": "categorical", "levels": 4}, LABELS),
    "importance-weighted bound": ({}, LABELS),
}
BY_ROWS = ("vae", "film", "convolutional", "captions")  # once more, with the layers cut for two cores


def step(net: CVAE, x: Tensor, y: Tensor | Observed | None, case: str) -> Tensor:
    """Return the loss of one batch."""
    if case == "importance-weighted bound":
        return -importance_weighted_bound(net, x, y, samples=5).mean()
    return elbo_terms(net, x, y).loss()


def compare(case: str, blocks: int = 1) -> str:
    """Return "same" if the traced step is one graph with the plain step's loss and gradients."""
    settings, y = CASES[case]
    torch.manual_seed(0)
    # In float64, since torch's own Bernoulli is traced in place of the one that is quick on a CPU.
    net, x = CVAE(CVAEConfig(**{**SMALL, **settings})).double(), torch.rand(6, 1, 28, 28).double()
    plain: Callable[[], Tensor] = functools.partial(step, net, x, y, case)
    torch._dynamo.reset()
    found = []
    for way in (plain, torch.compile(by_rows(plain, blocks), fullgraph=True, backend="eager")):
        torch.manual_seed(1)
        loss = way()
        found.append([loss, *torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs, ours)
    return "same"


def rising_beta() -> str:
    """Return "same" if training with another beta in each step is compiled twice at most, and gives the same weights.

    With the number itself in the graph it would be compiled anew again and again, and recorded anew on a GPU.
    """
    data = ImageSet(torch.arange(28 * 28 * 60).view(60, 1, 28, 28).to(torch.uint8), torch.arange(60) % 3, "stripes")
    torch._dynamo.reset()
    counter, plain, found = CompileCounter(), torch.compile, []
    for how in (False, True):
        torch.manual_seed(0)
        net = CVAE(CVAEConfig(**SMALL))
        torch.compile = functools.partial(plain, backend=counter)
        with contextlib.redirect_stdout(io.StringIO()):
            fit(net, data, steps=9, batch_size=20, precision="float32", beta=lambda step: min(1, step / 8), compile=how)
        found.append(list(net.parameters()))
    torch.compile = plain
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs, ours)
    # Two for beta below 1 and at 1, and one for the trial whether there is a compiler.
    return "same" if counter.frame_count <= 3 else f"compiled {counter.frame_count} times"


WAYS: dict[str, Callable[[], str]] = {
    **{case: functools.partial(compare, case) for case in CASES},
    **{f"{case} by rows": functools.partial(compare, case, blocks=2) for case in BY_ROWS},
    "rising beta": rising_beta,
}


def main() -> None:
    """Print a line for each model."""
    torch.set_num_threads(1)
    for case, way in WAYS.items():
        try:
            print(f"{case}: {way()}", flush=True)
        except Exception as error:
            first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            print(f"{case}: {first}", flush=True)


if __name__ == "__main__":
    main()
