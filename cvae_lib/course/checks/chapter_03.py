"""Checks of chapter 03's exercises: a conditional VAE, and what it can be asked."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical

from cvae_lib import data
from cvae_lib.course.checks import _asking, _autoencoder
from cvae_lib.course.checks._asking import ENOUGH, TRAINED, by_columns, check_reads_label, cost, drawings, obeyed
from cvae_lib.course.checks._autoencoder import built, check_decode, check_terms
from cvae_lib.course.checks._given import drawn
from cvae_lib.course.checks._probe import Mistakes, Probe, Trial, model_copy
from cvae_lib.course.checks._registry import exercise
from cvae_lib.course.checks._verdict import Wrong, shown

TITLE = "03 · Class-conditional"


@exercise(
    "3.1",
    "what a label is worth, by hand",
    hints={
        "bits": "That is right in bits; the course counts in nats.",
        "no doubt": "That is ln 4, what the label would be worth if no image left a doubt. Half of them do.",
        "every image": "You charged the doubt to every image. Only the 3s and 8s, half of them, leave one.",
        "doubt": "That is the doubt that is left, H(y|x). The label is worth H(y) minus it.",
        "ten": "There are four digits here, not ten: H(y) = ln 4.",
        "added": "You added the doubt. It is what the label cannot tell beyond the image's own word: subtract it.",
    },
)
def _worth(probe: Probe, worth: Any) -> None:
    a = drawn("3.1", probe.edition).sure
    b = 1 - a
    believed = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, a, b], [0, 0, b, a]], dtype=torch.float64)
    doubt = float(Categorical(believed).entropy().mean())
    whole = math.log(4)
    mistakes = {
        "bits": (whole - doubt) / math.log(2),
        "no doubt": whole,
        "every image": whole - 2 * doubt,
        "doubt": doubt,
        "ten": math.log(10) - doubt,
        "added": whole + doubt,
    }
    probe.number(worth, whole - doubt, mistakes)


def _rows(y: Tensor, columns: range) -> Tensor:
    """Return a 1.0 wherever a label is what its column stands for."""
    return torch.tensor([[float(label == column) for column in columns] for label in y.tolist()])


@exercise(
    "3.2",
    "labels as rows, and a row for 'unknown'",
    hints={
        "wraps": "The unknown label -1 came out as the last class: an index of -1 counts from the end.",
        "clamped": "The unknown label -1 came out as class 0. It should be no class at all: a row of zeros.",
        "integers": "Right numbers, but integers. A network multiplies them with its weights: return floats.",
        "transposed": "Rows and columns are exchanged: one row for each label, shape (B, classes).",
        "plain": "Labels as plain numbers say that 7 lies between 6 and 8. Give each class a column of its own.",
        "shifted": "The ones stand one column off: class 0 is the first column, and there is none for 'unknown'.",
        "columns": "Another number of columns than `classes`. Is a 10 written down in it?",
        "bools": "Right, but as true and false. A network multiplies them with its weights: return floats.",
    },
)
def _one_hot(probe: Probe, one_hot: Any) -> None:
    for trial in probe.trials():
        b, classes = trial.size(5, 8), trial.size(3, 4)
        y = torch.tensor([trial.size(0, classes - 1) for _ in range(b - 2)] + [classes - 1, -1]).to(trial.device)
        got = trial.ask(one_hot, y=y, classes=classes)
        exact, column = _rows(y, range(classes)), y.double().cpu()[:, None]
        mistakes: Mistakes = {
            "wraps": torch.from_numpy(np.eye(classes)[y.cpu().numpy()]),
            "clamped": torch.from_numpy(np.eye(classes)[y.cpu().numpy().clip(0)]),
            "transposed": exact.T,
            "plain": (column, column / (classes - 1), column / classes, column[:, 0]),
            "shifted": tuple(_rows(y, range(*ends)) for ends in ((1, classes + 1), (-1, classes - 1), (-1, classes))),
            "columns": _rows(y, range(10)),
        }
        trial.compare(got, exact, mistakes)
        if isinstance(got, Tensor) and not got.is_floating_point():
            trial.fail("bools" if got.dtype == torch.bool else "integers", expected="floats", got=str(got.dtype))


@exercise(
    "3.3",
    "a conditional VAE of your own",
    seconds=30.0,
    hints=_autoencoder.HINTS | _asking.HINTS,
)
def _conditional(probe: Probe, conditional_vae: Any) -> None:
    for index in range(2):
        trial = probe.trial(index=index)
        b = trial.size(3, 5)
        x = (trial.normal(b, 1, 28, 28) > 0.7).to(trial.dtype)
        y = torch.tensor([trial.size(0, 8) for _ in range(b)])
        model = built(trial, conditional_vae, x=x, y=y)
        check_reads_label(trial, model, x, y)
        by_columns(trial, model, x, y)
        check_decode(trial, model, x=x, y=y)
        check_terms(trial, model, x=x, y=y)


# Moderate numbers, all far below what exp can take, and images of which each is far less likely than the one before.
LEVELS = {"unknown": (-3.0, 0.0), "unstable": (-900.0, 0.0), "one maximum": (-3.0, -900.0)}


def _table(trial: Trial, level: float, apart: float) -> tuple[Tensor, Tensor]:
    """Draw a table of log p(x|y), shape (N, C), and unequal log p(y), shape (C,)."""
    n, c = trial.size(2, 4), trial.size(5, 7)
    rows = torch.arange(n, dtype=trial.dtype, device=trial.device)[:, None]
    return level + apart * rows + 2 * trial.normal(n, c), trial.normal(c).log_softmax(0)


@exercise(
    "3.4",
    "a model of x alone",
    hints={
        "mean of logs": "That averages logarithms. Probabilities are what adds up: take the logarithm last.",
        "no prior": "Every class counts fully: p(y) is left out. Add log_prior before you sum.",
        "uniform": "You gave every class the same odds. Use log_prior.",
        "axis": "You summed over the images. The classes lie along the second axis, dim=1.",
        "prior as is": "log_prior is a logarithm already; it was used as if it were a probability.",
        "product": "You multiplied logarithms. The logarithm of a product is the sum of the logarithms.",
        "unstable": "Right for moderate numbers, but exp(-900) is 0. `torch.logsumexp` takes the largest out first.",
        "one maximum": "Right while the images are alike. Take out one maximum per image, `dim=1, keepdim=True`: with "
        "one for all, an image far less likely than another is left with exp(-900).",
        "best": "That is the best class only. The others have a share in p(x) too.",
    },
)
def _marginal(probe: Probe, marginal: Any) -> None:
    for trial in probe.trials():
        for kind, level in LEVELS.items():
            table, log_prior = _table(trial, *level)
            got = trial.ask(marginal, table=table, log_prior=log_prior)
            t, prior = table.double().cpu(), log_prior.double().cpu()
            exact = _log_sum(t + prior, 1)
            mistakes: Mistakes = {
                "mean of logs": (t.mean(1), (prior.exp() * t).sum(1), (t + prior).mean(1), (t + prior).sum(1)),
                "no prior": _log_sum(t, 1),
                "uniform": _log_sum(t, 1) - math.log(t.shape[1]),
                "axis": _log_sum(t + prior, 0),
                "prior as is": (_log_sum(t + prior.exp(), 1), _log_sum(t, 1) + prior.sum()),
                "best": (t + prior).max(1).values,
                "product": (_log_sum(t * prior, 1), (t * prior).sum(1)),
            }
            trial.compare(got, exact, mistakes, otherwise=kind, not_finite=kind, relative=0.0, absolute=0.005)


def _log_sum(values: Tensor, axis: int) -> Tensor:
    """Return the log of a sum of exponentials, in float64 after the largest has been divided out."""
    array = values.numpy()
    top = array.max(axis, keepdims=True)
    return torch.as_tensor(np.log(np.exp(array - top).sum(axis)) + top.squeeze(axis))


@exercise(
    "3.5",
    "the generator as a classifier",
    hints={
        "axis": "The softmax runs over the images: columns sum to 1. The classes of one image compete: dim=1.",
        "no prior": "The odds before looking, p(y), are left out. Add log_prior first.",
        "prior as is": "log_prior is a logarithm already: add it to the logarithms, or multiply by its exponential.",
        "log": "Those are logarithms of the probabilities. Take the exponential.",
        "joint": "The rows do not sum to 1. p(y) p(x|y) is not yet p(y|x): divide it by its sum over the classes.",
        "label": "That is the winning class. The probabilities of all classes are asked for.",
        "unstable": "Right for moderate numbers, but exp(-900) is 0. `softmax` takes the largest out first.",
        "one maximum": "Right while the images are alike. Take out one maximum per image, `dim=1, keepdim=True`: with "
        "one for all, every class of an unlikely image gets exp(-900), and 0/0 is no probability.",
    },
)
def _bayes(probe: Probe, class_posterior: Any) -> None:
    for trial in probe.trials():
        for kind, level in LEVELS.items():
            table, log_prior = _table(trial, *level)
            got = trial.ask(class_posterior, table=table, log_prior=log_prior)
            joint = table.double().cpu() + log_prior.double().cpu()
            exact = Categorical(logits=joint).probs
            mistakes: Mistakes = {
                "axis": Categorical(logits=joint.T).probs.T,
                "no prior": Categorical(logits=table.double().cpu()).probs,
                "prior as is": Categorical(logits=table.double().cpu() + log_prior.double().cpu().exp()).probs,
                "log": exact.log(),
                "label": joint.argmax(1).double(),
            }
            rows = trial.tensor(got).sum(1) if trial.tensor(got).shape == exact.shape else torch.ones(1)
            off = kind == "unknown" and bool(rows.isfinite().all()) and float((rows - 1).abs().max()) > 0.01
            try:
                trial.compare(got, exact, mistakes, otherwise="joint" if off else kind, not_finite=kind)
            except Wrong as wrong:
                if wrong.found["mistake"] == "joint":
                    trial.fail("joint", expected="rows that sum to 1", got=f"rows that sum to {shown(rows)}")
                raise


@exercise(
    "3.6",
    "labels that lie",
    seconds=60.0,
    hints={
        "prediction": "Predict first, as a share between 0 and 1.",
        "same": "Both are one and the same model, trained twice: `train` changes the model it is given. Make a new "
        "`ConditionalVAE()` for each.",
        "untrained": "Images cost the honest model as much as one that was never trained. Did its loss fall?",
        "positions": "Both models were trained, and neither obeys. Batches come shuffled: a batch's labels are "
        "`labels[index]`, by its third item.",
        "deaf": "The honest model is not read as asked often enough. Train it longer, with every image's own label.",
        "not shuffled": "The second model obeys, so its labels did not lie. Deal them out at random; or does `train` "
        "take y from the batch, and not `labels[index]`?",
        "exchanged": "The first model ignores its orders and the second obeys: the two are exchanged.",
    },
)
def _lies(probe: Probe, prediction: Any, honest: Any, lied_to: Any) -> str:
    trial = probe.trial()
    guess = trial.tensor(prediction)
    if guess.numel() != 1 or not 0 <= float(guess) <= 1:
        trial.fail("prediction", expected="a share between 0 and 1", got=guess)
    models = [model_copy(model, trial) for model in (honest, lied_to)]
    if honest is lied_to:
        trial.fail("same", expected="two models", got="one")
    shares = [obeyed(trial, model) for model in models]
    images = data.digits("test").subset(slice(500))
    nats = cost(trial, models[0], images.pixels(None, "stochastic", trial.random), images.labels)
    measured = f"{shares[0]:.2f} with honest labels, {shares[1]:.2f} with shuffled ones"
    trial.on = "1,000 drawings of each model, a hundred of each digit, read by the judge"
    if not nats < TRAINED:
        trial.fail("untrained", expected="about 130 nats for a test image", got=f"{nats:.0f} nats; {measured}")
    if shares[0] < 0.3 and shares[1] > 0.5:
        trial.fail("exchanged", got=measured)
    if max(shares) < 0.2:
        trial.fail("positions", expected=f"more than {ENOUGH} of the honest model's read as asked", got=measured)
    if shares[0] < ENOUGH:
        trial.fail("deaf", expected=f"more than {ENOUGH} read as asked", got=measured)
    if shares[1] > 0.25:
        trial.fail("not shuffled", expected="about one in ten", got=measured)
    verdict = "as you predicted" if abs(float(guess) - 0.1) <= 0.05 else f"you predicted {float(guess):.2f}"
    return f"{measured}; {verdict}. A label that says nothing about x is ignored, and one in ten is right by luck."


@exercise(
    "3.7",
    "one model, with and without a label",
    seconds=60.0,
    hints={
        "untrained": "With the label images cost it as much as a model that was never trained. Did its loss fall?",
        "deaf": "Asked for a digit, it draws others. Was it trained with most of its labels in place?",
        "stuck": "Without a label it draws few kinds of digits, or none. It must have met the label -1 in training.",
        "unknown label": "Its likelihood without a label is poor: has it met the label -1 in training?",
    },
)
def _both(probe: Probe, model: Any) -> str:
    trial = probe.trial()
    model = model_copy(model, trial)
    images = data.digits("test").subset(slice(500))
    x = images.pixels(None, "stochastic", trial.random)
    share = obeyed(trial, model)
    costs = [cost(trial, model, x, y) for y in (images.labels, torch.full_like(images.labels, -1))]
    trial.on = "500 test images, and 1,000 drawings read by the judge"
    measured = f"{share:.2f} read as asked; -ELBO {costs[0]:.1f} nats with the label, {costs[1]:.1f} without"
    if not costs[0] < TRAINED:
        trial.fail("untrained", expected="about 130 nats with the label", got=measured)
    if share < ENOUGH:
        trial.fail("deaf", expected=f"more than {ENOUGH} read as asked", got=measured)
    if costs[1] > costs[0] + 30:
        trial.fail("unknown label", expected="at most 30 nats more without the label", got=measured)
    _, free = drawings(trial, model, -1, 1000)
    kinds = int((torch.bincount(free, minlength=10) >= 10).sum())
    if kinds < 4:
        trial.fail("stuck", expected="at least four kinds of digits without a label", got=f"{kinds}")
    return f"{measured}; without one it draws {kinds} kinds of digits."
