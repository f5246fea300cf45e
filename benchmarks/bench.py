"""Speed against the loop everybody writes, side by side in one run on one machine.

    make bench                                   # prints the table, writes benchmarks/results/<device>.json
    .venv/bin/python benchmarks/bench.py --quick # a rehearsal: short runs, nothing written

1. training throughput: the 784-400-20 VAE, batch 128, plain PyTorch with a DataLoader against ``fit``;
2. share of this machine's measured matrix-product rate that ``fit`` reaches, and where the rest goes;
3. seconds to a test log-likelihood of -90 nats;
4. importance-sampled likelihood: decoded images a second, and peak memory against K.

Runs alternate between the contestants, ratios are taken round by round, and their median counts: a busy neighbour then
disturbs both sides alike.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
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


def synchronise(device: torch.device) -> None:
    """Wait for the device, so that a clock read afterwards counts its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time one call."""
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started


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
    graphs = ["", "reduce-overhead"] if device.type == "cuda" else [""]
    for precision, graph in ((p, g) for p in ("float32", "auto") for g in graphs):
        ours = CVAE(CVAEConfig(num_classes=0, latent_dim=20, hidden=(400,)))
        settings: dict[str, Any] = {"precision": precision, "compile": graph or False, "device": device}
        contestants[f"fit, {precision}{graph and ', CUDA graphs'}"] = lambda m=ours, s=settings: fit(  # type: ignore[misc]
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


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the best matrix-product rate of this machine over a few shapes, in operations per second."""
    best = 0.0
    for m, k, n in ((1024, 1024, 1024), (2048, 2048, 2048), (256, 784, 512), (784, 256, 512)):
        a, b = torch.randn(m, k, device=device, dtype=dtype), torch.randn(k, n, device=device, dtype=dtype)
        repeats = max(3, int(2e10 / (2 * m * k * n)))
        for _ in range(3):
            took = seconds(lambda a=a, b=b, r=repeats: [a @ b for _ in range(r)], device)  # type: ignore[misc]
            best = max(best, 2 * m * k * n * repeats / took)
    return best


def operations_per_image(model: CVAE) -> int:
    """Count multiplications and additions of one training step per image: forward, and twice that backward.

    The first layer of the encoder needs no gradient for its input, so it counts twice, not thrice.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return sum(6 * layer.weight.numel() for layer in layers) - 2 * layers[0].weight.numel()


def utilisation(device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Report which share of the measured matrix rate ``fit`` turns into training.

    The matrix rate is measured before and after every round, so that a share compares what happened at one time.
    """
    train = data.mnist("train", device=device)
    rows = []
    for precision, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        if precision == "bf16" and not course.has_native_bf16(device):
            continue
        for name, config, batch in (
            ("784-400-20 VAE", CVAEConfig(num_classes=0, latent_dim=20, hidden=(400,)), 128),
            ("512-512 CVAE", CVAEConfig(hidden=(512, 512)), 256),
        ):
            model = CVAE(config)
            settings: dict[str, Any] = {"batch_size": batch, "precision": precision, "device": device}
            fit(model, train, steps=50, log_every=10**6, **settings)
            peaks, rates = [matrix_rate(device, dtype)], []
            for _ in range(rounds):
                took = seconds(lambda m=model, s=settings: fit(m, train, epochs=1, log_every=10**6, **s), device)  # type: ignore[misc]
                rates.append(operations_per_image(model) * len(train) / took)
                peaks.append(matrix_rate(device, dtype))
            shares = [2 * rate / (peaks[i] + peaks[i + 1]) for i, rate in enumerate(rates)]
            rows.append(
                {
                    "what": f"{name}, batch {batch}, {precision}",
                    "gigaflops": round(statistics.median(rates) / 1e9),
                    "machine_gigaflops": round(statistics.median(peaks) / 1e9),
                    "share": round(statistics.median(shares), 2),
                    "best": round(max(shares), 2),
                    **time_by_kind(model, train, settings),
                }
            )
    return rows


KINDS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "optimiser": ("aten::_fused_adam_", "Optimizer.step", "aten::_foreach_add_"),
    "casts": ("aten::copy_", "aten::_to_copy", "aten::to"),
}


def time_by_kind(model: CVAE, train: data.ImageSet, settings: dict[str, Any]) -> dict[str, str]:
    """Say where a step's time goes: products, optimiser, copies and casts, the rest; shares of own time."""
    with torch.profiler.profile() as profile:
        fit(model, train, steps=50, log_every=10**6, **settings)
    on_gpu = settings["device"].type == "cuda"
    own: dict[str, float] = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in profile.key_averages():
        kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), "other")
        own[kind] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    return {kind: f"{value / sum(own.values()):.0%}" for kind, value in own.items()}


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


def table(rows: list[dict[str, Any]]) -> str:
    """Lay rows out under their keys."""
    keys = list(rows[0])
    cells = [keys, *[[str(row[key]) for key in keys] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


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
        "utilisation": utilisation(device, rounds),
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
