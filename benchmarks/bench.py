"""Speed against the loops everybody writes, side by side in one run on one machine.

    make bench                                      # prints the tables, writes benchmarks/results/<device>.json
    .venv/bin/python benchmarks/bench.py --compile  # with compiled steps too, which take a minute to compile
    .venv/bin/python benchmarks/bench.py --quick    # a rehearsal: short runs, nothing written

1. training: the 784-400-20 VAE, batch 128, plain PyTorch with a DataLoader against ``fit``;
2. likelihood: importance sampling with K = 100, one decoder pass for each sample against ``log_likelihood``; and the
   peak memory of the latter as K grows;
3. seconds to a test log-likelihood of -90 nats.

Contestants take turns for five rounds, after one that warms up, and a ratio compares two times of the same round: a
busy neighbour then disturbs both sides alike. Of the five ratios the slowest, the fastest and the median are given.
"""

import argparse
import contextlib
import io
import json
import math
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timing import seconds, table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from cvae_lib import CVAE, CVAEConfig, data, fit, log_likelihood
from cvae_lib.environment import data_root, pick_device

RESULTS = Path(__file__).parent / "results"
BATCH, ROUNDS, SAMPLES = 128, 5, 100


class ExampleVAE(nn.Module):
    """The VAE of PyTorch's example repository in our words: 784-400-20, one linear layer for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.mean, self.log_variance = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.unfold, self.out = nn.Linear(20, 400), nn.Linear(400, 784)

    def loss(self, x: Tensor) -> Tensor:
        """Return minus the ELBO, nats per image, of grey images x of shape (B, 784)."""
        h = F.silu(self.hidden(x))
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        logits = self.out(F.silu(self.unfold(z)))
        distortion = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        rate = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        return (distortion + rate) / len(x)


def plain_epoch(model: ExampleVAE, optimiser: torch.optim.Optimizer, loader: Any, device: torch.device) -> None:
    """Train for one pass the way the example does."""
    for images, _ in loader:
        optimiser.zero_grad()
        loss = model.loss(images.to(device).flatten(1))
        loss.backward()
        optimiser.step()


@torch.no_grad()
def plain_log_likelihood(model: CVAE, images: data.ImageSet, samples: int) -> Tensor:
    """Estimate log p(x|y) of every image as the formula reads: one decoder pass for each sample of each batch."""
    found = []
    for x, y, _ in images.batches(BATCH, pixels="stochastic", shuffle=False):
        q, p = model.posterior(x, y), model.prior(y, batch=len(x))
        weights = []
        for _ in range(samples):
            z = q.sample()
            weights.append(model.likelihood(z, y).log_prob(x) + p.log_prob(z) - q.log_prob(z))
        found.append(torch.stack(weights).logsumexp(0) - math.log(samples))
    return torch.cat(found)


def race(contestants: dict[str, Callable[[], object]], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Return the seconds that each contestant took in each round."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, work in contestants.items():
            with contextlib.redirect_stdout(io.StringIO()):
                took = seconds(work, device)
            if turn:  # the first round warms up, and compiles
                times[name].append(took)
    return times


def ratios(times: dict[str, list[float]], plain: str, items: int, unit: str) -> list[dict[str, Any]]:
    """Return a row for each contestant: items a second, and how many times as fast as the plain one it was."""
    rows = []
    for name, values in times.items():
        quicker = [theirs / ours for ours, theirs in zip(values, times[plain], strict=True)]
        row = {"what": name, f"{unit}_per_second": round(items / statistics.median(values))}
        ends = {"slowest": min(quicker), "fastest": max(quicker), "median": statistics.median(quicker)}
        rows.append(row | {f"{which}_ratio": round(ratio, 2) for which, ratio in ends.items()})
    return rows


def training(device: torch.device, rounds: int, compiled: bool, split: data.Split = "train") -> list[dict[str, Any]]:
    """Compare images per second of the example's loop and of ``fit``: grey pixels and the same sizes for both."""
    train = data.mnist(split, device=device)
    torch.manual_seed(0)
    contestants: dict[str, Callable[[], object]] = {}
    for count in (0, 1) if device.type == "cpu" else (1, 4, 8, 16):
        model = ExampleVAE().to(device)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        loader = DataLoader(
            datasets.MNIST(data_root(), train=split == "train", transform=transforms.ToTensor()),
            BATCH,
            shuffle=True,
            num_workers=count,
            persistent_workers=count > 0,
            pin_memory=device.type == "cuda",
        )
        name = f"plain PyTorch, {count} workers"
        contestants[name] = lambda m=model, o=optimiser, d=loader: plain_epoch(m, o, d, device)  # type: ignore[misc]
    for precision in ("float32", "auto"):
        for graph in (False, True) if compiled else (False,):
            ours = CVAE(CVAEConfig(num_classes=0, latent_dim=20, hidden=(400,), pixels="grey"))
            settings: dict[str, Any] = {"precision": precision, "compile": graph, "device": device}
            contestants[f"fit, {precision}{', compiled' if graph else ''}"] = lambda m=ours, s=settings: fit(  # type: ignore[misc]
                m, train, epochs=1, batch_size=BATCH, **s
            )
    times = race(contestants, device, rounds)
    best = min((name for name in times if name.startswith("plain")), key=lambda name: statistics.median(times[name]))
    return ratios(times, best, len(train), "images")


def likelihood(device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Compare decoded images per second of importance sampling in a plain loop and in the library."""
    torch.manual_seed(0)
    test = data.mnist("test", device=device).subset(slice(1000))
    model = CVAE(CVAEConfig()).to(device).eval()
    contestants: dict[str, Callable[[], object]] = {
        "a pass for each sample": lambda: plain_log_likelihood(model, test, SAMPLES),
        "log_likelihood": lambda: log_likelihood(model, test, samples=SAMPLES),
    }
    times = race(contestants, device, rounds)
    return ratios(times, "a pass for each sample", len(test) * SAMPLES, "decoded")


def memory(device: torch.device) -> list[dict[str, Any]]:
    """Measure the peak memory of importance sampling, each K in a process of its own."""
    rows = []
    for samples in (10, 100, 1000):
        command = [sys.executable, __file__, "--memory", str(samples), "--device", str(device)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append({"what": f"log_likelihood, K = {samples}", "peak_mb": int(done.stdout.split()[-1])})
    return rows


def peak(samples: int, device: torch.device) -> int:
    """Return the peak memory of this process, in MiB, after one run of importance sampling."""
    test = data.mnist("test", device=device).subset(slice(max(100, 20_000 // samples)))
    log_likelihood(CVAE(CVAEConfig()).to(device), test, samples=samples)
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return round(kibibytes / 1024)


def time_to(target: float, device: torch.device) -> dict[str, Any]:
    """Find the shortest of a few schedules after which the VAE's test likelihood reaches the target."""
    train, test = data.mnist("train", device=device), data.mnist("test", device=device)
    for epochs in (8, 10, 12, 16, 24, 32):
        torch.manual_seed(0)
        model = CVAE(CVAEConfig(num_classes=0))
        with contextlib.redirect_stdout(io.StringIO()):
            took = seconds(lambda m=model, e=epochs: fit(m, train, epochs=e, learning_rate=4e-3, device=device), device)  # type: ignore[misc]
        nll = -log_likelihood(model, test, samples=SAMPLES).mean
        if nll <= target:
            break
    what = f"VAE, K = {SAMPLES}, to {target:g} nats"
    is_there = nll <= target
    return {
        "what": what,
        "epochs": epochs if is_there else None,
        "seconds": round(took, 1) if is_there else None,
        "reached": round(nll, 2),
    }


def main() -> int:
    """Run every measurement, print the tables, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a rehearsal: one round, nothing written")
    parser.add_argument("--compile", action="store_true", help="measure compiled steps too")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = pick_device(options.device)
    if options.memory:
        print(peak(options.memory, device))
        return 0
    rounds = 1 if options.quick else ROUNDS
    results: dict[str, Any] = {
        "machine": {
            "device": str(device),
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__.split("+")[0],
        },
        "rounds": rounds,
        "training": training(device, rounds, options.compile, "test" if options.quick else "train"),
        "likelihood": likelihood(device, rounds),
        "memory": memory(device),
        "time_to_90_nats": [] if options.quick else [time_to(90.0, device)],
    }
    for title in ("training", "likelihood", "memory", "time_to_90_nats"):
        if results[title]:
            print(f"\n{title}\n{table(results[title])}")
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{device.type}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
