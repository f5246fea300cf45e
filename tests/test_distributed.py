"""Several processes under torchrun: an equal share of each epoch, noise of one's own, and the same weights for all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from bars import bars, same, small

from cvae_lib import environment
from cvae_lib.training import fit

# One script, run by one process and by two, which find out from the environment who they are.
SCRIPT = """
import os, sys
import safetensors.torch, torch
from bars import small
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from cvae_lib.conditions import LabelCondition
from cvae_lib.likelihoods import GaussianPixels
from cvae_lib.model import CVAE
from cvae_lib.objective import elbo_terms
from cvae_lib.priors import ConditionalGaussian
from cvae_lib.training import fit

torch.set_num_threads(1)
out, rank, size = sys.argv[1], int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
generator = torch.Generator().manual_seed(0)
X, Y = torch.rand(256, 6, generator=generator), torch.arange(256) % 4
found = {}


def keep(name, model, history=None):
    found.update({f"{name}.{key}": value.detach().clone() for key, value in model.state_dict().items()})
    if history is not None:
        found[f"{name}.history"] = torch.tensor([history.loss, history.distortion, history.rate])
    assert torch.is_grad_enabled() and not model.training


class Encoder(nn.Module):
    # Its posterior is a point, so that there is no noise by which one process and two could differ.
    def __init__(self):
        super().__init__()
        self.mean = nn.Linear(10, 2)

    def forward(self, x, c):
        mean = self.mean(torch.cat([x, c], 1))
        return mean, torch.full_like(mean, -30.0)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Sequential(nn.Linear(6, 16), nn.SiLU(), nn.Linear(16, 6))

    def forward(self, z, c):
        return self.out(torch.cat([z, c], 1))


def without_noise(seed):
    torch.manual_seed(seed)
    prior, likelihood = ConditionalGaussian(2, 4), GaussianPixels(event_dims=1)
    return CVAE(Encoder(), Decoder(), condition=LabelCondition(4), prior=prior, likelihood=likelihood)


class Numbers(Dataset):
    def __len__(self):
        return 129

    def __getitem__(self, place):
        return torch.full((6,), place / 129), place % 4


def watched():
    # Writes down which examples come by, and what this process draws for them.
    seen, drawn = [], []

    def objective(model, x, y):
        seen.append(129 * x[:, 0])
        drawn.append(torch.randn(2))
        return elbo_terms(model, x, y)

    return seen, drawn, objective


places = torch.arange(129)
stored = TensorDataset((places / 129)[:, None].expand(-1, 6), places % 4)
usual = {"learning_rate": 0.01, "precision": "float32", "device": "cpu"}

# The weights of the first process count; together they take the steps that one takes on the whole batch.
whole = {**usual, "batch_size": 64 // size, "epochs": 3, "clip": 1.0, "ema": 0.9, "beta": lambda step: step / 12}
settings = {**whole, "validation": (X[:40], Y[:40]), "patience": 2}
run = f"{out}-run-of-{rank}"
history = fit(model := without_noise(rank), (X, Y), checkpoint=run, **settings)
keep("fit", model, history)
found["fit.validation"] = torch.tensor(history.validation)
assert not distributed.is_initialized()

# A loop of one's own, as torch's documentation has it.
model = without_noise(0).train()
if size > 1:
    distributed.init_process_group("gloo")
wrapped = DistributedDataParallel(model) if size > 1 else model
optimizer = torch.optim.SGD(model.parameters(), 0.01)
for x, y in zip(X.split(64), Y.split(64)):
    optimizer.zero_grad()
    elbo_terms(wrapped, x[rank::size], y[rank::size]).loss().backward()
    optimizer.step()
keep("loop", model.eval())

# A group that is there already is used, and left alone.
keep("in a group", net := without_noise(0), fit(net, (X, Y), **whole))
if size > 1:
    loader = DataLoader(stored, 32, sampler=DistributedSampler(stored))
    seen, drawn, objective = watched()
    fit(without_noise(0), loader, objective=objective, **{**usual, "epochs": 2})
    found["loader.seen"], found["loader.drawn"] = torch.cat(seen), torch.stack(drawn)
    assert distributed.is_initialized()
    distributed.destroy_process_group()

# Batch norm's running means, the average and every random number differ from process to process; what is kept does not.
changes = {"conditioning": "batchnorm", "condition_at": "every", "dropout": 0.2, "event_shape": (6,), "pixels": "grey"}
config = small(**changes).config
torch.manual_seed(rank)
model = CVAE(config)
settings = {**usual, "batch_size": 16, "epochs": 4, "ema": 0.9, "validation": (X[:40], Y[:40]), "patience": 1}
history = fit(model, (X, Y), **settings)
keep("noisy", model, history)
found["noisy.validation"] = torch.tensor(history.validation)

for name, data in {"tensors": stored.tensors, "set": Numbers()}.items():
    seen, drawn, objective = watched()
    fit(without_noise(0), data, objective=objective, **{**usual, "batch_size": 32, "epochs": 2})
    found[f"{name}.seen"], found[f"{name}.drawn"] = torch.cat(seen), torch.stack(drawn)

# Going on with a run: the first process's numbers are read by all, and noise stays each one's own.
seen, drawn, objective = watched()
resumable = {**usual, "batch_size": 32, "schedule": "constant", "objective": objective, "checkpoint": f"{out}-resumed"}
fit(without_noise(0), (X, Y), epochs=2, **resumable)
done = len(drawn)
history = fit(model := without_noise(rank), (X, Y), epochs=3, resume=True, **resumable)
keep("resumed", model, history)
found["resumed.drawn"] = torch.stack(drawn[done:])

if size > 1:
    try:
        fit(without_noise(0), DataLoader(stored, 32, shuffle=True), epochs=1, **usual)
    except ValueError as error:
        assert "Under torchrun a DataLoader needs a DistributedSampler" in str(error)
        found["refused"] = torch.ones(1)
safetensors.torch.save_file(found, f"{out}-{rank}.safetensors")
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, root: Path) -> tuple[list[dict[str, torch.Tensor]], str, Path]:
    """Return what one process found, what each of two found, what the two printed, and where they wrote."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "script.py").write_text(SCRIPT)
    mine = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    settings = {**mine, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]), "OMP_NUM_THREADS": "1"}
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
        said = [process.communicate(timeout=300)[0] for process in runs]
    finally:
        for process in runs:
            if process.poll() is None:
                process.terminate()  # which torchrun passes on to the processes that it has started
    assert [process.returncode for process in runs] == [0, 0], "\n".join(said)
    found = [safetensors.torch.load_file(folder / f"{name}.safetensors") for name in ("one-0", "two-0", "two-1")]
    return found, said[1], folder


@pytest.mark.parametrize("kind", ["fit", "loop", "in a group"])
def test_two_processes_take_the_steps_of_one(kind, outcomes):
    """Without noise the mean of two gradients is the gradient of the whole batch, by fit and by a loop of one's own."""
    one, first, second = outcomes[0]
    keys = [key for key in one if key.startswith(f"{kind}.")]
    assert len(keys) >= 9
    for key in keys:
        torch.testing.assert_close(first[key], one[key], atol=1e-5, rtol=1e-5, msg=key)
        assert torch.equal(first[key], second[key]), key


@pytest.mark.parametrize("kind", ["fit", "noisy", "resumed"])
def test_every_process_ends_with_the_same_model_and_history(kind, outcomes):
    """Running means of batch norm, averaged weights and early stopping included."""
    _, first, second = outcomes[0]
    keys = [key for key in first if key.startswith(f"{kind}.") and not key.endswith("drawn")]
    assert len(keys) >= 9 and all(torch.equal(first[key], second[key]) for key in keys)


@pytest.mark.parametrize("form", ["tensors", "set", "loader"])
def test_every_example_of_an_epoch_comes_once(form, outcomes):
    """129 examples make 65 for each of two processes, so that one example fills up; the next epoch has a new order."""
    _, first, second = outcomes[0]
    epochs = [torch.cat([part[f"{form}.seen"].split(65)[epoch] for part in (first, second)]) for epoch in range(2)]
    for seen in epochs:
        assert len(seen) == 130 and seen.round().unique().tolist() == list(range(129))
    assert not torch.equal(*epochs)


@pytest.mark.parametrize("kind", ["tensors", "set", "loader", "resumed"])
def test_every_process_draws_noise_of_its_own(kind, outcomes):
    one, first, second = (found.get(f"{kind}.drawn") for found in outcomes[0])
    assert first is not None and second is not None and not torch.isin(first, second).any()
    if one is not None and kind != "resumed":
        assert len(one) > len(first), "one process takes twice as many steps"


def test_only_the_first_process_prints_and_writes(outcomes):
    _, said, folder = outcomes
    lines = [line for line in said.splitlines() if line.startswith("epoch   1/3 ")]
    assert len(lines) == 2, said  # "fit" and "in a group"
    assert (folder / "two-run-of-0" / "checkpoint.json").exists() and not (folder / "two-run-of-1").exists()


def test_a_loader_that_would_give_all_processes_the_same_is_refused(outcomes):
    assert all("refused" in found for found in outcomes[0][1:])


ALONE = """
import os
from bars import bars, small
from cvae_lib.training import fit
history = fit(small(), bars(), steps=3, device="cpu")
assert history.steps[-1] == 3
print("done")
"""


@pytest.mark.parametrize("address", [{}, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512", "RANK": "0"}])
def test_a_batch_systems_variables_make_nobody_wait(address, root):
    """A notebook on a cluster finds WORLD_SIZE set, and no second process will ever come."""
    settings = {"PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]), "WORLD_SIZE": "2", **address}
    done = subprocess.run(
        [sys.executable, "-c", ALONE], env={**os.environ, **settings}, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.endswith("done\n"), done.stderr


@pytest.mark.usefixtures("full_profile")
def test_a_group_of_one_trains_as_one_alone(tmp_path):
    environment.settings.progress = False
    settings = {"epochs": 1, "precision": "float32", "device": "cpu"}
    fit(expected := small(), bars(), **settings)
    assert not torch.distributed.is_initialized()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        fit(model := small(), bars(), **settings)
        assert torch.distributed.is_initialized() and same(model, expected)
    finally:
        torch.distributed.destroy_process_group()
