"""Several processes: they share every batch, and end where one process would have ended."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.distributions import Normal
from torch.nn import functional as F

from cvae_lib.training._distributed import GlobalDraws, Share, Team, team

CPU = torch.device("cpu")

# One script, run by one process and by two. 129 images in batches of 64 leave a last batch of one image: the second
# process then has none. Every model has a parameter that its loss does not use.
SCRIPT = """
import os, signal, sys
import safetensors.torch, torch
from torch import distributed
from cvae_lib.data import ImageSet
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms
from cvae_lib.training import TrainingDiverged, _loop, fit

torch.set_num_threads(1)
out, rank = sys.argv[1], int(os.environ.get("RANK", "0"))
labels = torch.arange(129) % 4
images = torch.zeros(129, 1, 6, 4, dtype=torch.uint8)
images[torch.arange(129), 0, :, labels] = 180
data = ImageSet(images, labels, "bars", classes=4)
found = {}


def model(**changes):
    torch.manual_seed(rank)  # the first process's weights count
    net = CVAE(CVAEConfig(num_classes=4, latent_dim=2, hidden=(32,), event_shape=(1, 6, 4), **changes))
    net.spare = torch.nn.Parameter(torch.ones(3))
    return net


def trained(name, net, **settings):
    usual = {"epochs": 3, "batch_size": 64, "learning_rate": 0.01, "precision": "float32", "device": "cpu"}
    history = fit(net, data, **usual | settings)
    found.update({f"{name}.{key}": value.clone() for key, value in net.state_dict().items()})
    found[f"{name}.history"] = torch.tensor([history.loss, history.distortion, history.rate])
    assert history.steps[-1] == settings.get("steps") or history.steps == [3, 6, 9]
    assert not distributed.is_initialized() and torch.is_grad_enabled()


trained("plain", model(), checkpoint=out + "-run")
trained("noisy", model(dropout=0.3, conditioning="film", condition_at="every"), clip=1.0, ema=0.9, beta=lambda step: step / 9)
trained("watched", model(), validation=data.subset(slice(40)), patience=1, pixels="grey", batch_size=50)
fit(net := model(), data, seconds=0.2, batch_size=64, device="cpu")  # the first one's clock ends the run for all
found["clock"] = net.decoder.net.layers[0].weight.detach().clone()
trained("longer", model(), epochs=None, steps=11, checkpoint=out + "-run", resume=True)
fit(model(), data, steps=7, batch_size=64, precision="float32", device="cpu", checkpoint=out + "-cut")
trained("inside", model(), epochs=None, steps=9, learning_rate=2e-3, checkpoint=out + "-cut", resume=True)
size = int(os.environ.get("WORLD_SIZE", "1"))
signal.signal(signal.SIGINT, signal.default_int_handler)
steps = 0


def interrupted(net, x, y):
    # Only the last process hears the interrupt, in its tenth step.
    global steps
    steps += 1
    if steps == 10 and rank == size - 1:
        os.kill(os.getpid(), signal.SIGINT)
    return elbo_terms(net, x, y)


for name, asks in (("each step", True), ("now and then", False)):
    _loop.asks, steps = lambda device, asks=asks: asks, 0
    history = fit(model(), data, steps=120, batch_size=64, device="cpu", objective=interrupted, log_every=1000)
    assert history.interrupted
    found[f"interrupted.{name}"] = torch.tensor(steps)
_loop.asks = lambda device: True

def spoilt(net, x, y):
    # Only the last process meets a loss that is no number; all must stop, with finite weights.
    terms = elbo_terms(net, x, y)
    is_last = rank == size - 1
    return terms._replace(log_likelihood=terms.log_likelihood + float("nan")) if is_last else terms


net = model()
try:
    fit(net, data, steps=3, device="cpu", objective=spoilt)
except TrainingDiverged as error:
    assert "step 0" in str(error) and all(torch.isfinite(p).all() for p in net.parameters())
    found["diverged"] = torch.ones(1)

if "RANK" in os.environ:
    try:
        fit(model(), data.subset(slice(100 - rank)), steps=2, device="cpu")
    except ValueError as error:
        assert "process 1 has data=['bars', 99], not ['bars', 100]" in str(error)
        found["differs"] = torch.ones(1)

    def broken(net, x, y):
        if rank == 1:
            raise LookupError("only here")
        return elbo_terms(net, x, y)

    try:
        fit(net := model(), data, steps=2, device="cpu", objective=broken)
    except LookupError:
        found["broke"] = torch.ones(1)
    except RuntimeError as error:
        assert "Process 0 has stopped because another of the 2 processes is gone" in str(error) and not net.training
        found["left"] = torch.ones(1)
safetensors.torch.save_file(found, f"{out}-{rank}.safetensors")
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, root: Path) -> tuple[dict, dict, dict, str]:
    """What one process found, what each of two found, and what the two printed."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "script.py").write_text(SCRIPT)
    mine = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    settings = {**mine, "PYTHONPATH": str(root), "COURSE_PROFILE": "full", "COURSE_UNATTENDED": "1"}
    settings |= {"OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    runs = [
        subprocess.Popen(
            [*command, str(folder / "script.py"), str(folder / name)],
            env=settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, command in (("one", [sys.executable]), ("two", torchrun))
    ]
    try:
        said = [process.communicate(timeout=90)[0] for process in runs]
    finally:
        for process in runs:
            process.kill()
    assert [process.returncode for process in runs] == [0, 0], "\n".join(said)
    found = [safetensors.torch.load_file(folder / f"{name}.safetensors") for name in ("one-0", "two-0", "two-1")]
    return (*found, said[1])


@pytest.mark.parametrize("kind", ["plain", "noisy", "watched", "longer", "inside"])
def test_two_processes_end_where_one_does(kind, outcomes):
    """Weights and history agree to rounding, dropout, clipping, averages, stopping and resuming included."""
    one, first, second, _ = outcomes
    keys = [key for key in one if key.startswith(f"{kind}.")]
    assert len(keys) >= 10
    for key in keys:
        torch.testing.assert_close(first[key], one[key], atol=1e-5, rtol=1e-5, msg=key)
        assert torch.equal(first[key], second[key]), key


def test_a_budget_in_seconds_ends_for_all_at_once(outcomes):
    assert torch.equal(outcomes[1]["clock"], outcomes[2]["clock"])


def test_an_interrupt_that_one_process_hears_stops_all_after_the_same_step(outcomes):
    """Where the loss is looked at in every step they agree there; on GPUs, which would have to wait, now and then."""
    steps = {
        name: [int(found[f"interrupted.{name}"]) for found in outcomes[:3]] for name in ("each step", "now and then")
    }
    assert steps == {"each step": [10, 10, 10], "now and then": [10, 50, 50]}


def test_several_processes_need_a_device_they_can_share(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="CPUs or CUDA devices, not on 'meta'; pass device='cpu'"), team("meta"):
        pass
    assert not torch.distributed.is_initialized()


def test_a_loss_that_is_no_number_in_one_process_stops_all(outcomes):
    assert all("diverged" in found for found in outcomes[:3])


def test_processes_that_were_told_different_things_do_not_wait_for_each_other(outcomes):
    assert all("differs" in found for found in outcomes[1:3])


def test_a_process_whose_partner_is_gone_says_so_and_ends(outcomes):
    assert "left" in outcomes[1] and "broke" in outcomes[2]


def test_only_the_first_process_prints(outcomes):
    lines = [line for line in outcomes[3].splitlines() if line.startswith("epoch   1/3 ")]
    assert len(lines) == 4 and "Warning" not in outcomes[3]


# --- the parts, in one process -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("total", [1, 2, 7, 64])
def test_shares_cover_a_batch_and_their_weighted_means_are_its_mean(size, total):
    values = torch.rand(total, dtype=torch.float64)
    shares = [Team(rank, size, CPU).share(total) for rank in range(size)]
    true = [row for share in shares if share.weight for row in range(share.start, share.stop)]
    assert true == list(range(total)) and all(share.stop > share.start for share in shares)
    mean = sum(share.weight * values[share.rows].mean() for share in shares) / size
    torch.testing.assert_close(mean, values.mean(), atol=1e-14, rtol=0)
    counts = [share.stop - share.start for share in shares if share.weight]
    assert max(counts) - min(counts) <= 1


DRAWS = {
    "randn": lambda x: torch.randn(len(x), 3),
    "rand": lambda x: torch.rand((len(x),)),
    "by keyword": lambda x: torch.randn(size=(len(x), 2)),
    "randint": lambda x: torch.randint(0, 9, (len(x), 2)),
    "like": torch.rand_like,
    "normal": lambda x: torch.normal(x, 1 + x),
    "bernoulli": lambda x: torch.bernoulli(x),
    "in place": lambda x: torch.empty_like(x).uniform_(),
    "with rates": lambda x: torch.empty_like(x).bernoulli_(x),
    "reparameterised": lambda x: Normal(x, 1 + x).rsample(),
    "several each": lambda x: Normal(x, 1 + x).rsample((4,)).movedim(1, 0),
    "flattened": lambda x: F.dropout(x.repeat(4, 1), 0.5).unflatten(0, (4, -1)).movedim(1, 0),
    "dropout": lambda x: F.dropout(x, 0.5),
    "channels": lambda x: F.dropout2d(x[..., None, None], 0.5),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("size", [2, 3])
def test_processes_together_draw_what_one_draws(name, size):
    """Each has the seed of the one and keeps its rows; joined they are the same numbers, and so is the next draw."""
    x = torch.rand(10, 7)
    torch.manual_seed(1)
    whole, after = DRAWS[name](x), torch.rand(3)
    parts = []
    for rank in range(size):
        torch.manual_seed(1)
        share = Team(rank, size, CPU).share(10)
        with GlobalDraws(share):
            parts.append(DRAWS[name](x[share.rows]))
        assert torch.equal(torch.rand(3), after)
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=1e-6)


def test_gradients_pass_through_what_is_drawn():
    x = torch.rand(4, 3, requires_grad=True)
    with GlobalDraws(Share(4, 8, 8, 1.0)):
        out = F.dropout(x, 0.5)
    out.sum().backward()
    assert torch.equal(x.grad, (out != 0) * 2.0)


def test_what_has_no_batch_is_drawn_as_it_is():
    torch.manual_seed(1)
    expected = torch.randn(5, 2)
    torch.manual_seed(1)
    with GlobalDraws(Share(0, 3, 6, 1.0)):
        assert torch.equal(torch.randn(5, 2), expected)


def test_alone_there_is_no_process_group():
    with team("cpu") as us:
        assert (us.rank, us.size) == (0, 1) and not torch.distributed.is_initialized()
        values = torch.ones(2)
        assert us.total(values) is values and us.largest(values) is values and us.agreed(3.5) == 3.5


def test_a_group_that_is_there_already_is_used_and_left_alone(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with team("cpu") as us:
            assert us.size == 1
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()
