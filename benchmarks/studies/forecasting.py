"""Chapter 10's figures over three seeds: forecasters of a forking series whose law is known, and of weekly CO2.

    python benchmarks/studies/forecasting.py                # writes cvae_lib/course/records/forecasting.json
    python benchmarks/studies/forecasting.py --minutes 2    # starts no training after two minutes; call it again

A finished training is a file in a folder of its own (--kept), so a study that was stopped goes on where it was.
"""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keeping
import torch
from forecasters import (
    FIT_UNTIL,
    HELD_UNTIL,
    LEVELS,
    SAMPLES,
    WEEKLY_HORIZON,
    WEEKLY_WINDOW,
    Part,
    cvae,
    dressed,
    known,
    last_year,
    paths_of_cvae,
    paths_of_quantiles,
    pinball,
    squares,
    trained,
    weekly,
)
from torch import Tensor

from cvae_lib import evaluation
from cvae_lib.datasets import series
from cvae_lib.model import CVAE

SEEDS = (0, 1, 2)
MEMBERS = 5
HIDDEN_ENDS = (0, 4, 8, 12)
PROTOCOL = (
    f"Known series: cvae_lib.datasets.series; {series.COUNTS['train']} training windows of {series.WINDOW}, the last "
    f"2,000 held out for past errors, {series.COUNTS['test']} test windows; in half of a batch's windows each value is "
    "hidden with a probability of their own, up to 0.6, and for a CVAE the last 1 to 16 values of a quarter of them "
    "(scattered: not so). CVAE: MLPs of two hidden layers of 128, D = 8, concatenation "
    "in every block, Gaussian likelihood with a scale for each step from the decoder, prior a conditional mixture of "
    "four Gaussians (or one Gaussian); 2,000 steps of 256, one-cycle Adam 4e-3, float32. Other networks: the same MLP "
    f"without skips, 2,000 steps; quantile regressor: {len(LEVELS)} levels, sorted; ensemble: {MEMBERS} point "
    f"forecasters. Weekly: Mauna Loa CO2 as statsmodels has it, windows of {WEEKLY_WINDOW} weeks, futures of "
    f"{WEEKLY_HORIZON}, without those with a gap in the future; as differences to the last value, in deviations of the "
    f"training futures; fitted on futures that end before {FIT_UNTIL:g}, stopped by those to {HELD_UNTIL:g}, tested "
    "on windows that begin later; hidden width 64, at most 1,500 steps; last_year: the value a year before plus the "
    f"year's growth, plus past errors. Scores: {SAMPLES} draws a window, fair CRPS, energy score; total: CRPS of the "
    "mean over the horizon; between: share of draws that end within 0.4 of the way from the middle to a branch; "
    "switching: share of draws on one side of the middle at step 8 and on the other at step 12; share_k: draws above "
    "the middle minus the chance of up, mean over windows with a chance in fifth k; hidden_k: the last k values of "
    "every test window hidden, stand_in: replaced by the last one seen, and not told"
)


def score(draws: Tensor, futures: Tensor) -> dict[str, float]:
    """Return scores and coverage of draws (M, N, T)."""
    report = evaluation.forecast_report(draws, futures)
    assert report.energy is not None
    figures = {"crps": report.crps.mean, "energy": report.energy.mean}
    figures["total"] = float(evaluation.crps(draws.mean(2), futures.mean(1)).mean())
    for interval in report.coverage:
        figures |= {
            f"inside_{100 * interval.level:.0f}": interval.share,
            f"width_{100 * interval.level:.0f}": interval.width,
        }
    return figures


def against_the_law(draws: Tensor, windows: Tensor) -> dict[str, float]:
    """Return how draws share the branches, how many lie between them, and how many change sides."""
    law = series.law(windows)
    off = (draws - law.middle) / law.branch[-1]
    figures = {"between": float((off[..., -1].abs() < 0.4).float().mean())}
    figures["switching"] = float((off[..., series.SETTLED - 1].sign() != off[..., -1].sign()).float().mean())
    above = (off[..., -1] > 0).float().mean(0) - law.chance
    fifth = (5 * law.chance).long().clamp(max=4)
    return figures | {f"share_{k}": float(above[fifth == k].mean()) for k in range(5)} | {"share": float(above.mean())}


def once_twice(point: Tensor) -> Tensor:
    """Return a point forecast as two equal draws, whose CRPS is the absolute error."""
    return point.expand(2, *point.shape)


@torch.no_grad()
def draws_of(name: str, parts: dict[str, Part], seed: int, stops: bool) -> dict[str, Tensor]:
    """Train what the name says and return its draws for the test windows, under one name or more."""
    test, held, steps = parts["test"], parts["held"], 1500 if stops else 2000
    if name == "simple":
        now = torch.zeros_like(test.futures) if stops else test.windows[:, -1:].expand_as(test.futures)
        found = {"persistence": once_twice(now)}
        if stops:
            errors = torch.cat([(parts[p].futures - last_year(parts[p])) for p in ("fit", "held")])
            found["last_year"] = dressed(last_year(test), errors)
        return found
    if name == "points":
        with torch.enable_grad():
            nets = [trained(parts, 1, squares, 100 * seed + i, steps, stops) for i in range(MEMBERS)]
        members = torch.stack([net(test.flat()) for net in nets])
        errors = held.futures - nets[0](held.flat())
        return {"point": once_twice(members[0]), "errors": dressed(members[0], errors), "ensemble": members}
    if name == "quantiles":
        with torch.enable_grad():
            net = trained(parts, len(LEVELS), pinball, seed, steps, stops)
        return {name: paths_of_quantiles(net, test)}
    raise ValueError(f"There is no forecaster {name!r}.")


def piece(name: str, task: str, seed: int) -> dict[str, Any]:
    """Train and measure one forecaster of one task."""
    stops = task == "weekly"
    parts, unit = weekly() if stops else (known(), 1.0)
    test = parts["test"]
    torch.manual_seed(1000 + seed)
    extra: dict[str, float] = {}
    if name == "truth":
        law = series.law(test.windows)
        draws = {name: law.sample(SAMPLES, torch.Generator().manual_seed(seed))}
        scores = evaluation.crps_gaussian_mixture(law.weights[:, None], law.means.mT, law.scale[:, None], test.futures)
        extra = {"truth_exact": float(scores.mean()), "truth_log_density": float(law.log_prob(test.futures).mean())}
    elif name in ("mixture", "gaussian"):
        with torch.enable_grad():
            model = cvae(parts, name, seed, 1500 if stops else 2000, stops)
        draws = {name: paths_of_cvae(model, test.told())}
        draws[f"{name}_means"] = paths_of_cvae(model, test.told(), mean=True)
        ll = evaluation.log_likelihood(model, (test.futures, test.told()), samples=200)
        extra[f"{name}_log_density"] = ll.mean
        if not stops and name == "mixture":
            extra |= hidden(model, test, seed)
    elif name == "scattered":
        with torch.enable_grad():
            model = cvae(parts, "mixture", seed, 2000, stops, ends=False)
        draws = {}
        extra = {key.replace("model", name): v for key, v in hidden(model, test, seed).items() if "model" in key}
    else:
        draws = draws_of(name, parts, seed, stops)
    figures: dict[str, Any] = dict(extra)
    for which, paths in draws.items():
        found = score(unit * paths, unit * test.futures)
        if not stops:
            found |= against_the_law(paths, test.windows)
        figures |= keeping.named(which, found)
    return figures


def hidden(model: CVAE, test: Part, seed: int) -> dict[str, float]:
    """Hide the end of each window: what the model makes of it, the exact law, and the model told a stand-in."""
    found = {}
    generator = torch.Generator().manual_seed(seed)
    for steps in HIDDEN_ENDS:
        mask = test.mask.clone()
        mask[:, series.WINDOW - steps :] = False
        full = series.filled(test.windows, mask, SAMPLES, generator)
        law = series.law(full.flatten(0, 1)).sample(1, generator)[0].unflatten(0, (SAMPLES, len(test)))
        frozen = test.windows.clone()
        frozen[:, series.WINDOW - steps :] = frozen[:, series.WINDOW - steps - 1, None]
        standing_in = Part(frozen, test.mask, test.futures)
        for name, paths in (
            ("law", law),
            ("model", paths_of_cvae(model, test.told(mask=mask))),
            ("stand_in", paths_of_cvae(model, standing_in.told())),
        ):
            (interval,) = evaluation.interval_coverage(paths, test.futures, (0.8,))
            found[f"hidden_{steps}_{name}_crps"] = float(evaluation.crps(paths, test.futures).mean())
            found |= {
                f"hidden_{steps}_{name}_inside_80": interval.share,
                f"hidden_{steps}_{name}_width_80": interval.width,
            }
    return found


TASKS = {
    "known": ("truth", "simple", "points", "quantiles", "gaussian", "mixture", "scattered"),
    "weekly": ("simple", "points", "quantiles", "gaussian", "mixture"),
}


def work(kept: Path, only: str) -> Iterator[str]:
    """Do what is not kept yet, one piece at a time, and say what was done."""
    for task, names in TASKS.items():
        for seed in SEEDS:
            for name in names:
                title = f"{task}_{name}"
                todo = functools.partial(piece, name, task, seed)
                if title.startswith(only) and (found := keeping.once(keeping.place(kept, title, seed), todo)):
                    yield f"{title}, seed {seed}: { {key: round(value, 3) for key, value in found.items()} }"


def main(arguments: list[str] | None = None) -> int:
    """Go on with the study, and write the record when all of it is there."""
    parser = keeping.arguments("forecasting", "10")
    parser.add_argument("--only", default="", help="only pieces whose name begins like this")
    options = parser.parse_args(arguments)
    if not keeping.all_done(work(options.kept, options.only), options.minutes):
        return 0
    names = [f"{task}_{name}" for task, group in TASKS.items() for name in group]
    if missing := keeping.lacking(options.kept, names, SEEDS):
        print(f"Not done yet: {', '.join(sorted(missing))}.")
        return 0
    runs = []
    for seed in SEEDS:
        figures: dict[str, Any] = {"seed": seed}
        for task, group in TASKS.items():
            for name in group:
                figures |= keeping.named(task, keeping.read(keeping.place(options.kept, f"{task}_{name}", seed)))
        runs.append(figures)
    keeping.record("forecasting", PROTOCOL, runs, options.kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
