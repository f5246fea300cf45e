"""Chapter 10's data in three parts, and its forecasters: a CVAE, plain networks, quantiles, last year's values."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cvae_lib import data
from cvae_lib.conditions import Observed, ObservedCondition
from cvae_lib.environment import at_most, settings
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.training import fit

SAMPLES = 200
LEVELS = torch.linspace(0.025, 0.975, 39)
MOST_LATE = 16
YEAR = 52
WEEKLY_WINDOW, WEEKLY_HORIZON = YEAR + 4, 26
FIT_UNTIL, HELD_UNTIL = 1980.0, 1985.0


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
    steps = at_most(steps, settings.steps)
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
    below, above = (table.gather(-1, (low + i)[..., None])[..., 0] for i in (0, 1))
    return torch.lerp(below, above, place - low)


@torch.no_grad()
def paths_of_cvae(model: CVAE, y: Observed, mean: bool = False) -> Tensor:
    """Draw paths: z from p(z|y), then x from p(x|z,y), or only its mean: (M, N, T)."""
    x = model.likelihood(model.prior(y).sample(torch.Size((SAMPLES,))), y)
    paths: Tensor = x.mean if mean else x.sample()
    return paths


def cvae(parts: dict[str, Part], prior: str, seed: int, steps: int, stops: bool, ends: bool = True) -> CVAE:
    """Train a CVAE on windows and futures."""
    torch.manual_seed(seed)
    part, held = parts["fit"], parts["held"]
    width = 64 if stops else 128
    config = CVAEConfig(
        event_shape=(part.futures.shape[1],),
        latent_dim=8,
        hidden=(width, width),
        prior=prior,
        components=4,
        likelihood="real",
        condition_at="every",
    )
    model = CVAE(config, condition=ObservedCondition((1, 1, part.windows.shape[1]), flat=True))
    plan: dict[str, Any] = {"steps": steps, "learning_rate": 4e-3, "seed": seed, "log_every": 10_000}
    if stops:
        plan |= {"validation": (held.futures, held.told()), "patience": 100}

    def told(batch: data.Batch) -> Observed:
        mask = part.mask[batch.index]
        return part.told(batch.index, mask if stops else hiding(mask, ends))

    fit(model, part.futures, y=told, device="cpu", precision="float32", **plan)
    return model.eval()


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
