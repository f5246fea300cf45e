"""Which share of the machine's matrix-product rate training reaches, and where the rest of a step goes.

Three things are measured in turn, over and over, each for a second at most:

- the rate of large matrix products, the machine's own;
- the floor of a step: its products in their own sizes and Adam, in buffers that are never made anew, and nothing else;
- ``fit``, as it is and through ``torch.compile``.

The floor says in which state the machine was. Two cores of a rented machine share a cache at one time and not at
another: then each fetches what the other has just written from far away, while large products, which read the same
numbers again and again, are as quick as before. The floor is the usual one, in which any core reads any weight and
Adam has to take them back, because that is what shows the state; through ``torch.compile``, ``fit`` multiplies by rows
(``cvae_lib/training/_rows.py``) and can then be quicker than this floor. A share is therefore given twice: over all
rounds, and over the calm ones, before and after which the floor was near its best. The floor chooses them, not the
share.
"""

import contextlib
import io
import statistics
from typing import Any

import torch
from timing import seconds
from torch import nn

from cvae_lib import course, data
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.training import fit

NEAR = 0.9  # of the best floor's rate: what counts as calm
MODELS: tuple[tuple[str, CVAEConfig, dict[str, Any]], ...] = (
    # Grey pixels, as the example of PyTorch that this model is from reads them.
    ("784-400-20 VAE", CVAEConfig(num_classes=0, latent_dim=20, hidden=(400,)), {"batch_size": 128, "pixels": "grey"}),
    ("512-512 CVAE", CVAEConfig(hidden=(512, 512)), {"batch_size": 256}),
)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the best matrix-product rate of this machine over a few shapes, in operations per second."""
    best = 0.0
    for m, k, n in ((1024, 1024, 1024), (2048, 2048, 2048), (256, 784, 512), (784, 256, 512)):
        a, b = torch.randn(m, k, device=device, dtype=dtype), torch.randn(k, n, device=device, dtype=dtype)
        repeats = max(3, int((2e12 if device.type == "cuda" else 5e9) / (2 * m * k * n)))
        for _ in range(3):
            took = seconds(lambda a=a, b=b, r=repeats: [a @ b for _ in range(r)], device)  # type: ignore[misc]
            best = max(best, 2 * m * k * n * repeats / took)
    return best


def layers_of(model: CVAE) -> list[nn.Linear]:
    """Return the model's matrix products, the encoder's first one first."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def operations_per_image(model: CVAE) -> int:
    """Count multiplications and additions of one training step per image: forward, and twice that backward.

    The first layer of the encoder needs no gradient for its input, so it counts twice, not thrice.
    """
    layers = layers_of(model)
    return sum(6 * layer.weight.numel() for layer in layers) - 2 * layers[0].weight.numel()


class Floor:
    """The usual products of a training step and Adam, and nothing else: no model, no autograd, no memory made anew."""

    def __init__(self, model: CVAE, batch: int, device: torch.device, dtype: torch.dtype) -> None:
        layers = layers_of(model)
        self.weights = [layer.weight.detach().to(device, dtype) for layer in layers]
        self.inputs = [torch.randn(batch, w.shape[1], device=device, dtype=dtype) for w in self.weights]
        self.outputs = [torch.randn(batch, w.shape[0], device=device, dtype=dtype) for w in self.weights]
        self.gradients = [torch.empty_like(w) for w in self.weights]
        self.downstream = [torch.empty_like(x) for x in self.inputs]
        self.upstream = list(self.outputs)
        # One layer reads what another just wrote, as in the model: a buffer of its own would be at hand already.
        for k in range(1, len(layers)):
            if self.inputs[k].shape == self.outputs[k - 1].shape:
                self.inputs[k], self.upstream[k - 1] = self.outputs[k - 1], self.downstream[k]
        # In float32 the optimiser writes the very weights that the products read, as in training.
        parameters = [nn.Parameter(p.detach().to(device)) for p in model.parameters()]
        for parameter in parameters:
            # Of about the size of real ones: smaller than 1e-38 they would slow the machine down by themselves.
            parameter.grad = torch.full_like(parameter, 1e-3)
        self.optimiser = torch.optim.Adam(parameters, lr=0.0, fused=True)  # all the work, and the same numbers for ever

    @torch.no_grad()
    def step(self) -> None:
        """Do the work of one step: forward, gradients of weights and of inputs, optimiser."""
        for w, x, y in zip(self.weights, self.inputs, self.outputs, strict=True):
            torch.mm(x, w.t(), out=y)
        for k in reversed(range(len(self.weights))):
            torch.mm(self.upstream[k].t(), self.inputs[k], out=self.gradients[k])
            if k:
                torch.mm(self.upstream[k], self.weights[k], out=self.downstream[k])
        self.optimiser.step()


def utilisation(device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Report which share of the measured matrix rate ``fit`` turns into training, and how near the floor it comes."""
    train = data.mnist("train", device=device)
    rows = []
    for precision, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        if precision == "bf16" and not course.has_native_bf16(device):
            continue
        for name, config, settings in MODELS:
            settings = {**settings, "precision": precision, "device": device}
            what = f"{name}, batch {settings['batch_size']}, {precision}"
            rows += [{"what": f"{what}, {way}", **row} for way, row in _shares(config, settings, dtype, train, rounds)]
    return rows


def _shares(
    config: CVAEConfig, settings: dict[str, Any], dtype: torch.dtype, train: data.ImageSet, rounds: int
) -> list[tuple[str, dict[str, Any]]]:
    device, batch = settings["device"], settings["batch_size"]
    steps = (200 if batch <= 128 else 60) * (10 if device.type == "cuda" else 1)
    work: float = operations_per_image(CVAE(config)) * batch  # of one step
    floor = Floor(CVAE(config), batch, device, dtype)
    ways: dict[str, bool | str] = {"eager": False, "compiled": "reduce-overhead" if device.type == "cuda" else True}
    models = {way: CVAE(config) for way in ways}

    def state() -> tuple[float, float]:
        """Return the machine's rate and the floor's, as they are now."""
        took = seconds(lambda: [floor.step() for _ in range(steps // 4)], device)
        return matrix_rate(device, dtype), work * (steps // 4) / took

    def run(way: str) -> float:
        return (
            work
            * steps
            / seconds(lambda: quiet(models[way], train, steps=steps, compile=ways[way], **settings), device)
        )

    for way in ways:
        run(way)  # warms up, and compiles
    rates: dict[str, list[float]] = {way: [] for way in ways}
    states = [state() for _ in range(2)][1:]
    for _ in range(rounds):
        for way in ways:
            rates[way].append(run(way))
            states.append(state())
    calm = NEAR * max(floor / peak for peak, floor in states)
    rows = [("floor", _row([floor / peak for peak, floor in states], [floor / peak >= calm for peak, floor in states]))]
    for place, way in enumerate(ways):
        # The states before and after each run of this way: what a share compares happened at one time.
        pairs = [states[len(ways) * turn + place :][:2] for turn in range(rounds)]
        shares = [2 * rate / sum(peak for peak, _ in pair) for rate, pair in zip(rates[way], pairs, strict=True)]
        of_floor = [2 * rate / sum(low for _, low in pair) for rate, pair in zip(rates[way], pairs, strict=True)]
        row = _row(shares, [all(low / peak >= calm for peak, low in pair) for pair in pairs])
        rows.append((way, {**row, "of_floor": round(statistics.median(of_floor), 2)}))
    kinds = time_by_kind(models["eager"], train, settings)
    blank = dict.fromkeys(["of_floor", *kinds], "")
    machine = {"machine_gigaflops": round(statistics.median(peak for peak, _ in states) / 1e9)}
    return [(way, {**machine, **blank, **row, **(kinds if way == "eager" else {})}) for way, row in rows]


def _row(shares: list[float], calm: list[bool]) -> dict[str, Any]:
    """Return the median share, over everything and over what was measured while the machine was calm."""
    chosen = [share for share, is_calm in zip(shares, calm, strict=True) if is_calm]
    return {
        "share": round(statistics.median(shares), 2),
        "share_when_calm": round(statistics.median(chosen), 2) if chosen else None,
        "calm": f"{len(chosen)} of {len(shares)}",
    }


def quiet(model: CVAE, train: data.ImageSet, **settings: Any) -> None:
    """Train without a word."""
    with contextlib.redirect_stdout(io.StringIO()):
        fit(model, train, log_every=10**6, **settings)


KINDS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "optimiser": ("aten::_fused_adam_", "Optimizer.step", "aten::_foreach_add_"),
    "casts": ("aten::copy_", "aten::_to_copy", "aten::to"),
}


def time_by_kind(model: CVAE, train: data.ImageSet, settings: dict[str, Any]) -> dict[str, str]:
    """Say where a step's time goes: products, optimiser, copies and casts, the rest; shares of own time."""
    with torch.profiler.profile() as profile:
        quiet(model, train, steps=50, **settings)
    on_gpu = settings["device"].type == "cuda"
    own: dict[str, float] = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in profile.key_averages():
        if event.device_type.name != "CPU":
            continue  # a kernel, whose time the operation that launched it counts already
        kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), "other")
        own[kind] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    return {kind: f"{value / sum(own.values()):.0%}" for kind, value in own.items()}
