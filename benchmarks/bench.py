"""Speed against the loop everybody writes, side by side in one run on one machine.

    make bench                                   # prints the table, writes benchmarks/results/<device>.json
    .venv/bin/python benchmarks/bench.py --quick # a rehearsal: short runs, nothing written

1. training throughput: the 784-400-20 VAE, batch 128, plain PyTorch with a DataLoader against ``fit``;
2. share of this machine's measured matrix-product rate that ``fit`` reaches, and where the rest goes;
3. seconds to a test log-likelihood of -90 nats;
4. importance-sampled likelihood: decoded images a second, and peak memory against K.

Runs alternate between the contestants, ratios are taken round by round, and their median counts: a busy neighbour then
disturbs both sides alike. What the second measures in each round stands in ``shares.py``.
"""

import argparse
import json
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
from shares import utilisation
from timing import seconds, table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from cvae_lib import course, data, evaluation
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.training import fit

RESULTS = Path(__file__).parent / "results"
BATCH = 128


class ExampleVAE(nn.Module):
    """The VAE of PyTorch's example repository in our words: 784-400-20, one linear layer for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.mean, self.log_variance = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.unfold, self.out = nn.Linear(20, 400), nn.Linear(400, 784)

    def loss(self, x: Tensor) -> Tensor:
        h = F.silu(self.hidden(x))
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        logits = self.out(F.silu(self.unfold(z)))
        distortion = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        rate = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        return (distortion + rate) / len(x)


def baseline_epoch(model: ExampleVAE, optimiser: torch.optim.Optimizer, loader: Any, device: torch.device) -> None:
    """Train for one pass the way the example does."""
    for images, _ in loader:
        optimiser.zero_grad()
        loss = model.loss(images.to(device).flatten(1))
        loss.backward()
        optimiser.step()


def throughput(device: torch.device, rounds: int, workers: list[int]) -> list[dict[str, Any]]:
    """Compare images per second of the example's loop and of ``fit``, grey pixels and the same sizes for both."""
    train = data.mnist("train", device=device)
    folder = course.data_root()
    torch.manual_seed(0)
    contestants: dict[str, Callable[[], object]] = {}
    for count in workers:
        model = ExampleVAE().to(device)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        source = datasets.MNIST(folder, train=True, transform=transforms.ToTensor())
        loader = DataLoader(
            source,
            BATCH,
            shuffle=True,
            num_workers=count,
            persistent_workers=count > 0,
            pin_memory=device.type == "cuda",
        )
        name = f"plain PyTorch, {count} workers"
        contestants[name] = lambda m=model, o=optimiser, d=loader: baseline_epoch(m, o, d, device)  # type: ignore[misc]
    mode, label = ("reduce-overhead", ", CUDA graphs") if device.type == "cuda" else ("default", ", compiled")
    for precision, graph in ((p, g) for p in ("float32", "auto") for g in ("", mode)):
        ours = CVAE(CVAEConfig(num_classes=0, latent_dim=20, hidden=(400,)))
        settings: dict[str, Any] = {"precision": precision, "compile": graph or False, "device": device}
        contestants[f"fit, {precision}{label if graph else ''}"] = lambda m=ours, s=settings: fit(  # type: ignore[misc]
            m, train, epochs=1, batch_size=BATCH, pixels="grey", log_every=10**6, **s
        )
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, work in contestants.items():
            took = seconds(work, device)
            if turn:  # the first round warms up
                times[name].append(took)
    rates = {name: len(train) / statistics.median(values) for name, values in times.items()}
    best = max((name for name in rates if name.startswith("plain")), key=rates.__getitem__)
    return [
        {
            "what": name,
            "images_per_second": round(rate),
            "ratio_to_best_plain": round(
                statistics.median(b / a for a, b in zip(times[name], times[best], strict=True)), 2
            ),
        }
        for name, rate in rates.items()
    ]


def time_to(target: float, device: torch.device) -> dict[str, Any]:
    """Find the shortest of a few schedules after which the VAE's test likelihood reaches the target."""
    train, test = data.mnist("train", device=device), data.mnist("test", device=device)
    for epochs in (8, 10, 12, 16, 24, 32):
        torch.manual_seed(0)
        model = CVAE(CVAEConfig(num_classes=0))
        took = seconds(
            lambda m=model, e=epochs: fit(  # type: ignore[misc]
                m, train, epochs=e, learning_rate=4e-3, device=device, log_every=10**6
            ),
            device,
        )
        nll = -evaluation.log_likelihood(model, test, samples=100).mean
        if nll <= target:
            return {
                "what": f"VAE, K = 100, to {target:g} nats",
                "epochs": epochs,
                "seconds": round(took, 1),
                "reached": round(nll, 2),
            }
    return {"what": f"VAE to {target:g} nats", "epochs": None, "seconds": None, "reached": round(nll, 2)}


def likelihood_speed(device: torch.device) -> list[dict[str, Any]]:
    """Time the importance sampler and its peak memory, each K in a process of its own."""
    rows = []
    for samples in (10, 100, 1000):
        done = subprocess.run(
            [sys.executable, __file__, "--likelihood", str(samples), "--device", str(device)],
            capture_output=True,
            text=True,
            check=True,
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def likelihood_once(samples: int, device: torch.device) -> None:
    """Print rate and peak memory of one importance-sampling run as JSON; for :func:`likelihood_speed`."""
    torch.manual_seed(0)
    test = data.mnist("test", device=device).subset(slice(max(100, 20_000 // samples)))
    model = CVAE(CVAEConfig()).to(device)
    evaluation.log_likelihood(model, test.subset(slice(100)), samples=10)
    took = seconds(lambda: evaluation.log_likelihood(model, test, samples=samples), device)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {"what": f"K = {samples}", "decoded_per_second": round(len(test) * samples / took), "peak_mb": round(peak)}
        )
    )


def main() -> int:
    """Run every measurement, print the tables, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a rehearsal")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--likelihood", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = course.pick_device(options.device)
    if options.likelihood:
        likelihood_once(options.likelihood, device)
        return 0
    rounds = 1 if options.quick else 4
    results: dict[str, Any] = {
        "machine": {
            "device": str(device),
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__.split("+")[0],
        },
        "throughput": throughput(device, rounds, [0, 1] if device.type == "cpu" else [1, 4, 8, 16]),
        "utilisation": utilisation(device, 1 if options.quick else 15),
        "likelihood": likelihood_speed(device),
        "time_to_90_nats": [] if options.quick else [time_to(90.0, device)],
    }
    for title in ("throughput", "utilisation", "likelihood", "time_to_90_nats"):
        if results[title]:
            print(f"\n{title}\n{table(results[title])}")
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{device.type}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
