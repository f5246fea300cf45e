"""Chapter 10's figures over three seeds: forecasters of a forking series whose law is known, and of weekly CO2.

    python benchmarks/studies/forecasting.py                # writes cvae_lib/records/forecasting.json
    python benchmarks/studies/forecasting.py --minutes 2    # starts no training after two minutes; call it again

A finished training is a file in a folder of its own (--kept), so a study that was stopped goes on where it was.
"""

import copy
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keeping
import torch
from torch import Tensor, nn

from cvae_lib import course, data, evaluation, series
from cvae_lib.conditions import Observed, ObservedCondition
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.training import fit

SEEDS = (0, 1, 2)
SAMPLES, MEMBERS = 200, 5
LEVELS = torch.linspace(0.025, 0.975, 39)
HIDDEN_ENDS = (0, 4, 8, 12)
MOST_LATE = 16
YEAR = 52
WEEKLY_WINDOW, WEEKLY_HORIZON = YEAR + 4, 26
FIT_UNTIL, HELD_UNTIL = 1980.0, 1985.0
PROTOCOL = (
    f"Known series: cvae_lib.series; {series.COUNTS['train']} training windows of {series.WINDOW}, the last 2,000 "
    f"held out for past errors, {series.COUNTS['test']} test windows; in half of a batch's windows each value is "
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


@dataclass(frozen=True)
class Part:
    """Windows (hidden values are zero), which of their values are known, and what came after them."""

    windows: Tensor
    mask: Tensor
    futures: Tensor

    def __len__(self) -> int:
        return len(self.windows)

    def told(self, index: Any = slice(None), mask: Tensor | None = None) -> Observed:
        """Return what a CVAE is told of these windows."""
        mask = self.mask[index] if mask is None else mask
        return Observed(self.windows[index][:, None, None], mask[:, None, None])

    def flat(self, index: Any = slice(None), mask: Tensor | None = None) -> Tensor:
        """Return what a plain network reads: known values, and which they are."""
        mask = self.mask[index] if mask is None else mask
        return torch.cat([torch.where(mask, self.windows[index], 0.0), mask.float()], 1)


def hiding(mask: Tensor, ends: bool) -> Tensor:
    """Hide values of half of the windows, each with a probability of its own; with ``ends``, of a quarter the last."""
    share = 0.6 * torch.rand(len(mask), 1) * (torch.rand(len(mask), 1) < 0.5)
    seen = mask & (torch.rand(mask.shape) >= share)
    if ends:
        late = torch.randint(1, MOST_LATE + 1, (len(mask), 1)) * (torch.rand(len(mask), 1) < 0.25)
        seen = seen & (torch.arange(mask.shape[1]) < mask.shape[1] - late)
    return seen


def known() -> dict[str, Part]:
    """Return the known series: to fit on, held out, and to test on."""
    parts = {}
    for split in ("train", "test"):
        found = data.forks(split)
        parts[split] = Part(found.windows, torch.ones_like(found.windows, dtype=torch.bool), found.futures)
    cut = len(parts["train"]) * 9 // 10
    whole = parts["train"]
    fits, held = (Part(whole.windows[s], whole.mask[s], whole.futures[s]) for s in (slice(cut), slice(cut, None)))
    return {"fit": fits, "held": held, "test": parts["test"]}


def weekly() -> tuple[dict[str, Part], float]:
    """Return the weekly record in its three parts, and how many ppm their unit is."""
    record = data.co2()
    windows, futures, mask = data.sliding(record.values, WEEKLY_WINDOW, WEEKLY_HORIZON)
    begin, end = record.years[: len(windows)], record.years[WEEKLY_WINDOW + WEEKLY_HORIZON - 1 :]
    whole = futures.isfinite().all(1) & mask[:, -1] & (mask.float().mean(1) > 0.5)
    chosen = {
        "fit": end < FIT_UNTIL,
        "held": (begin >= FIT_UNTIL - 1) & (end < HELD_UNTIL),
        "test": begin >= HELD_UNTIL,
    }
    last = windows[:, -1:]
    away = torch.where(mask, windows - last, 0.0), futures - last
    unit = float(away[1][whole & chosen["fit"]].std())
    return {
        name: Part(away[0][whole & rows] / unit, mask[whole & rows], away[1][whole & rows] / unit)
        for name, rows in chosen.items()
    }, unit


def mlp(inputs: int, outputs: int, width: int) -> nn.Sequential:
    """Return a plain network."""
    hidden = [nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


def squares(out: Tensor, futures: Tensor) -> Tensor:
    """Return the squared error."""
    return (out - futures).square().mean()


def pinball(out: Tensor, futures: Tensor) -> Tensor:
    """Return the pinball loss, averaged over the levels: out (B, T * L)."""
    off = futures[..., None] - out.unflatten(1, (futures.shape[1], len(LEVELS)))
    return torch.maximum(LEVELS * off, (LEVELS - 1) * off).mean()


def trained(
    parts: dict[str, Part], outputs: int, loss: Callable[..., Tensor], seed: int, steps: int, stops: bool
) -> nn.Module:
    """Train a plain network; with ``stops``, keep the weights that were best on what was held out."""
    torch.manual_seed(seed)
    part, held = parts["fit"], parts["held"]
    net = mlp(2 * part.windows.shape[1], outputs * part.futures.shape[1], 64 if stops else 128)
    steps = course.capped(steps, course.FAST_STEPS)
    optimiser = torch.optim.Adam(net.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps, pct_start=0.1)
    best, kept = float("inf"), net.state_dict()
    for step in range(steps):
        rows = torch.randint(len(part), (256,))
        optimiser.zero_grad()
        seen = part.mask[rows] if stops else hiding(part.mask[rows], ends=False)
        loss(net(part.flat(rows, seen)), part.futures[rows]).backward()
        optimiser.step()
        schedule.step()
        if stops and step % 25 == 24:
            with torch.no_grad():
                now = float(loss(net(held.flat()), held.futures))
            if now < best:
                best, kept = now, copy.deepcopy(net.state_dict())
    if stops:
        net.load_state_dict(kept)
    return net.eval()


@torch.no_grad()
def paths_of_quantiles(net: nn.Module, part: Part, mask: Tensor | None = None) -> Tensor:
    """Draw paths from sorted quantiles, each step by itself: (M, N, T)."""
    table = net(part.flat(mask=mask)).unflatten(1, (part.futures.shape[1], len(LEVELS))).sort(-1).values  # (N, T, L)
    place = (torch.rand(SAMPLES, *part.futures.shape) * (len(LEVELS) + 1) - 1).clamp(0, len(LEVELS) - 1)
    low = place.long().clamp(max=len(LEVELS) - 2)
    table = table.expand(SAMPLES, *table.shape)
    ends = [table.gather(-1, (low + i)[..., None])[..., 0] for i in (0, 1)]
    return torch.lerp(*ends, place - low)


@torch.no_grad()
def paths_of_cvae(model: CVAE, y: Observed, mean: bool = False) -> Tensor:
    """Draw paths: z from p(z|y), then x from p(x|z,y), or only its mean: (M, N, T)."""
    x = model.likelihood(model.prior(y).sample((SAMPLES,)), y)
    return (x.mean if mean else x.sample())[:, :, 0, 0]


def cvae(parts: dict[str, Part], prior: str, seed: int, steps: int, stops: bool, ends: bool = True) -> CVAE:
    """Train a CVAE on windows and futures."""
    torch.manual_seed(seed)
    part, held = parts["fit"], parts["held"]
    width = 64 if stops else 128
    config = CVAEConfig(
        image_shape=(1, 1, part.futures.shape[1]),
        latent_dim=8,
        hidden=(width, width),
        prior=prior,
        components=4,
        likelihood="real",
        where="every",
    )
    model = CVAE(config, ObservedCondition((1, 1, part.windows.shape[1]), flat=True))
    settings: dict[str, Any] = {"steps": steps, "learning_rate": 4e-3, "seed": seed, "log_every": 10_000}
    if stops:
        settings |= {"validation": (data.SeriesSet.of(held.futures), held.told()), "patience": 100}
    futures = data.SeriesSet.of(part.futures)

    def told(batch: data.Batch) -> Observed:
        mask = part.mask[batch.index]
        return part.told(batch.index, mask if stops else hiding(mask, ends))

    fit(model, futures, y=told, device="cpu", precision="float32", **settings)
    return model.eval()


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


def dressed(point: Tensor, errors: Tensor) -> Tensor:
    """Return a point forecast plus whole paths of past errors: (M, N, T)."""
    return point + errors[torch.randint(len(errors), (SAMPLES, len(point)))]


def last_year(part: Part) -> Tensor:
    """Return what was measured a year before, plus the year's growth; gaps are filled from the side."""
    filled = part.windows.clone()
    for step in range(1, filled.shape[1]):
        filled[:, step] = torch.where(part.mask[:, step], filled[:, step], filled[:, step - 1])
    window, horizon = filled.shape[1], part.futures.shape[1]
    before = filled[:, window - YEAR : window - YEAR + horizon]
    return before + filled[:, -1:] - filled[:, window - YEAR - 1, None]


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
        ll = evaluation.log_likelihood(
            model, data.SeriesSet.of(test.futures), y=test.told(), samples=200, precision="float32"
        )
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
