"""Checkpoints: a run that was stopped goes on as if it never had been, and nothing on disk is ever half of a thing."""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bars import LinearGaussian, RaisesAt, bars, same, small, weights
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, SequentialLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from cvae_lib import environment
from cvae_lib.conditions import LabelCondition
from cvae_lib.data import Batch, ImageSet
from cvae_lib.environment import write_atomically
from cvae_lib.likelihoods import BernoulliPixels, GaussianPixels
from cvae_lib.model import CVAE
from cvae_lib.networks import MLPDecoder, MLPEncoder
from cvae_lib.objective import Terms, elbo_terms
from cvae_lib.priors import ConditionalGaussian, ConditionalMixture, StandardNormal
from cvae_lib.training import CheckpointError, History, TrainingDiverged, fit, load_checkpoint, save_checkpoint

SETTINGS: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 64,
    "learning_rate": 0.01,
    "precision": "float32",
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def _at_full_length(full_profile: None) -> None:
    environment.settings.progress = False


def rising(step: int) -> float:
    """Return a beta that moves."""
    return step / 10


def sometimes(batch: Batch) -> Tensor:
    """Leave the label out now and then, which draws from torch's global stream."""
    return batch.y.masked_fill(torch.rand(len(batch.x)) < 0.3, -1)


def one_cycle(optimizer: Any, steps: int) -> Any:
    """Return a scheduler that also moves the optimiser's decays."""
    return OneCycleLR(optimizer, 0.02, total_steps=steps)


def in_turn(optimizer: Any, steps: int) -> Any:
    """Return a scheduler made of schedulers."""
    parts = LinearLR(optimizer, 0.1, total_iters=3), CosineAnnealingLR(optimizer, steps)
    return SequentialLR(optimizer, list(parts), [3])


def momentum(parameters: Any) -> Any:
    """Return an optimiser other than the usual one."""
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "clip": 1.0,
        "ema": 0.9,
        "schedule": "cosine",
        "weight_decay": 1e-3,
        "beta": rising,
        "dropout": 0.3,
        "y": sometimes,
    },
    "patience": {"patience": 3, "ema": 0.8},
    "torch's scheduler": {"schedule": one_cycle},
    "own optimizer": {"optimizer": momentum, "schedule": in_turn},
    "own optimizer with one cycle": {"optimizer": momentum, "schedule": one_cycle},
    "bf16": {"precision": "bf16"},
    "numpy's numbers": {"learning_rate": np.float32(0.01), "beta": np.float32(0.5), "batch_size": np.int64(64)},
}


def run(folder: Path | None = None, **changes: Any) -> tuple[CVAE, History]:
    """Train on bars, with a validation set where there is patience."""
    model = small(hidden=(16,), dropout=changes.pop("dropout", 0.0))
    if "patience" in changes:
        changes["validation"] = bars(40)
    data = changes.pop("data", None) or bars(200, level=180)
    return model, fit(model, data, **{**SETTINGS, "checkpoint": folder, **changes})


def nothing(*_: object) -> None:
    """Do nothing."""


# --- going on as if nothing had happened -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", ["first step", "in the second epoch", "at the end of the second"])
def test_a_resumed_run_is_bit_for_bit_the_run_that_was_never_stopped(kind, stop, tmp_path, as_users_call):
    whole, expected = run(objective=RaisesAt(elbo_terms, 0), **KINDS[kind])
    calls = {"first step": 1, "in the second epoch": 6}
    objective = RaisesAt(elbo_terms, calls.get(stop, 0))
    callback = RaisesAt(nothing, 0 if stop in calls else 2)
    _, history = run(tmp_path, objective=objective, callback=callback, **KINDS[kind])
    finished = {"first step": 0, "in the second epoch": 1}.get(stop, 2)
    assert history.interrupted and len(history) == finished
    model, history = run(tmp_path, resume=True, objective=RaisesAt(elbo_terms, 0), **KINDS[kind])
    assert same(model, whole) and history == expected and not history.interrupted
    assert same(load_checkpoint(tmp_path)[0], whole) and load_checkpoint(tmp_path)[1] == expected


def test_a_callback_that_draws_does_not_move_a_resumed_run(tmp_path):
    def watch(model: CVAE, history: History) -> None:
        model.eval().draw(1, count=2)

    whole, expected = run(dropout=0.2)
    run(tmp_path, callback=RaisesAt(watch, 2), dropout=0.2)
    model, history = run(tmp_path, callback=watch, dropout=0.2, resume=True)
    assert same(model, whole) and history == expected


def test_a_loader_that_shuffles_goes_on_in_the_same_order(tmp_path):
    """Its order comes from torch's global stream, which is kept too."""
    data = bars(200, level=180)
    tensors = TensorDataset(data.images, data.labels)
    whole, expected = run(data=DataLoader(tensors, batch_size=64, shuffle=True))
    run(tmp_path, data=DataLoader(tensors, batch_size=64, shuffle=True), callback=RaisesAt(nothing, 2))
    model, history = run(tmp_path, data=DataLoader(tensors, batch_size=64, shuffle=True), resume=True)
    assert same(model, whole) and history == expected


def test_a_run_that_diverged_leaves_the_checkpoint_before_it(tmp_path):
    whole, expected = run()

    def spoilt(model: Any, x: Tensor, y: Any) -> Terms:
        spoilt.calls += 1
        terms = elbo_terms(model, x, y)
        return terms._replace(log_likelihood=terms.log_likelihood * (math.nan if spoilt.calls == 10 else 1))

    spoilt.calls = 0
    with pytest.raises(TrainingDiverged, match="at step 9"):
        run(tmp_path, objective=spoilt)
    model, history = run(tmp_path, objective=spoilt, resume=True)
    assert same(model, whole) and history == expected


def test_a_longer_budget_goes_on_from_the_end(tmp_path):
    whole, expected = run(epochs=5, schedule="constant")
    run(tmp_path, epochs=2, schedule="constant")
    model, history = run(tmp_path, epochs=5, schedule="constant", resume=True)
    assert same(model, whole) and history == expected


def test_resuming_a_finished_run_returns_it_as_it_was(tmp_path):
    model, history = run(tmp_path, **KINDS["patience"])
    again, told = run(tmp_path, resume=True, **KINDS["patience"])
    assert same(model, again) and told == history
    loaded, remembered = load_checkpoint(tmp_path)
    assert same(model, loaded) and remembered == history and not loaded.training


def test_a_run_that_early_stopping_has_ended_stays_ended(tmp_path):
    values = iter([3.0, 1.0, 2.0, 5.0, 0.0, 0.0])

    def criterion(model: Any, x: Tensor, y: Any) -> Tensor:
        return torch.full((len(x),), -next(values))

    settings = {"epochs": 50, "patience": 2, "criterion": criterion}
    model, history = run(tmp_path, **settings)
    assert len(history) == 4 and history.best_epoch == 2
    again, told = run(tmp_path, resume=True, **settings)
    assert same(model, again) and told == history
    assert same(model, load_checkpoint(tmp_path)[0]) and same(model, load_checkpoint(tmp_path, weights="best")[0])
    assert not same(model, load_checkpoint(tmp_path, weights="live")[0])


def test_resuming_where_there_is_nothing_begins(tmp_path):
    whole, _ = run()
    model, _ = run(tmp_path / "new", resume=True)
    assert same(model, whole)


def test_a_mistake_before_the_first_epoch_leaves_nothing_in_the_way(tmp_path):
    with pytest.raises(ValueError, match="beta"):
        run(tmp_path, beta=-1.0)
    whole, _ = run()
    assert same(run(tmp_path)[0], whole)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    model, _ = run("~/run", epochs=1)
    assert same(load_checkpoint("~/run")[0], model) and (tmp_path / "run" / "checkpoint.json").exists()
    save_checkpoint("~/weights", model)
    assert same(load_checkpoint(tmp_path / "weights")[0], model)


# --- keeping a model, and getting it back --------------------------------------------------------------------------


def test_live_and_averaged_weights_can_both_be_had(tmp_path):
    live, _ = run()
    averaged, _ = run(tmp_path, ema=0.9)
    assert same(load_checkpoint(tmp_path, weights="live")[0], live)
    assert same(load_checkpoint(tmp_path, weights="ema")[0], averaged) and not same(live, averaged)
    with pytest.raises(CheckpointError, match="no 'best' weights, only live and ema"):
        load_checkpoint(tmp_path, weights="best")


def test_weights_can_be_put_into_a_model_of_ones_own(stored):
    model = small(hidden=(16,))
    assert load_checkpoint(stored, model=model)[0] is model and same(model, load_checkpoint(stored)[0])
    with pytest.raises(CheckpointError, match="of another model: .* there and .* here"):
        load_checkpoint(stored, model=small(hidden=(8,)))


def test_a_model_in_float64_comes_back_in_float64(tmp_path):
    model = small().double()
    save_checkpoint(tmp_path, model, history=History(loss=[0.1], distortion=[1 / 3], rate=[math.pi], steps=[7]))
    loaded, history = load_checkpoint(tmp_path)
    assert same(loaded, model) and history.distortion == [1 / 3] and history.rate == [math.pi]


MADE = {
    "label": {},
    "vae": {"num_classes": 0, "prior": "vamp", "components": 3},
    "mixture": {"prior": "mixture", "likelihood": "logistic", "levels": 7},
    "attributes": {"condition": "label+attributes", "attributes": ("a", "b"), "conditioning": "film"},
    "captions": {"condition": "caption", "words": ("one", "two"), "caption_length": 3},
    "grey": {"pixels": "grey", "condition_at": (0, 1)},
    "batch norm": {"conditioning": "batchnorm", "condition_at": "every", "likelihood": "gaussian"},
    "convolutional": {"network": "convolutional", "hidden": (4, 8), "event_shape": (3, 8, 8), "condition": "observed"},
    "series": {"event_shape": (9,), "likelihood": "real", "prior": "gaussian"},
}


@pytest.mark.parametrize("kind", MADE)
def test_a_model_made_from_settings_comes_back_from_its_checkpoint_alone(kind, tmp_path):
    model = small(**MADE[kind])
    save_checkpoint(tmp_path, model)
    loaded, _ = load_checkpoint(tmp_path)
    assert same(loaded, model) and loaded.config == model.config and not loaded.training


@pytest.mark.parametrize("default", ["dtype", "device"])
def test_the_callers_default_dtype_and_device_change_nothing(default, tmp_path):
    """Finding 9: chapters set float64 for a while, and a notebook may set a device."""
    model, data = small(), bars()
    whole = fit(expected := small(), data, ema=0.9, **SETTINGS)
    one, other = small(), small()
    try:
        if default == "dtype":
            torch.set_default_dtype(torch.float64)
        else:
            torch.set_default_device("meta")
        save_checkpoint(tmp_path, model)
        loaded, _ = load_checkpoint(tmp_path)
        fit(one, data, ema=0.9, checkpoint=tmp_path / "run", callback=RaisesAt(nothing, 2), **SETTINGS)
        history = fit(other, data, ema=0.9, checkpoint=tmp_path / "run", resume=True, **SETTINGS)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert same(other, expected) and history == whole
    assert same(loaded, model) and loaded.device.type == "cpu"
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.draw([1], generator=seeded()), model.draw([1], generator=seeded()))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def in_a_process_group(model: nn.Module) -> nn.Module:
    """Wrap a model as torchrun's scripts do."""
    return nn.parallel.DistributedDataParallel(model)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: torch.compile(model, backend="eager"),
        nn.DataParallel,
        AveragedModel,
        in_a_process_group,
        lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
    ],
    ids=["compiled", "parallel", "averaged", "distributed", "both"],
)
def test_a_wrapped_model_is_saved_without_its_wrapping(wrap, tmp_path):
    """Finding 10: it was saved without a word, and could not be loaded."""
    model = small()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        save_checkpoint(tmp_path, wrap(model))
        loaded, _ = load_checkpoint(tmp_path)
        load_checkpoint(tmp_path, model=wrap(other := small(num_classes=4, latent_dim=2)))
    finally:
        torch.distributed.destroy_process_group()
    assert same(loaded, model) and same(other, model)


class Inner(nn.Module):
    """A model of one's own whose part happens to be called as torch calls the inside of its wrappers."""

    def __init__(self) -> None:
        super().__init__()
        self.module, self.outer = nn.Linear(2, 2), nn.Linear(3, 3)


def test_a_part_that_is_called_module_is_no_wrapping(tmp_path):
    model, other = Inner(), Inner()
    save_checkpoint(tmp_path, model)
    load_checkpoint(tmp_path, model=other)
    assert same(model, other)


class Ring(nn.Module):
    """A prior of one's own without parameters: what finding 10's kind took for a standard normal."""

    def forward(self, c: Any, batch: int) -> Any:
        return StandardNormal(2)(c, batch)


class Named(LabelCondition):
    """A condition of one's own."""


class Changed(CVAE):
    """A class of one's own, made from settings."""

    def likelihood(self, z: Tensor, y: Any = None) -> Any:
        return super().likelihood(2 * z, y)


def composed() -> CVAE:
    torch.manual_seed(0)
    encoder, decoder = MLPEncoder((24,), (8,), 2, condition_dim=4), MLPDecoder(2, (8,), (24,), condition_dim=4)
    prior, likelihood = ConditionalGaussian(2, 4), GaussianPixels(event_dims=1)
    return CVAE(encoder, decoder, condition=LabelCondition(4), prior=prior, likelihood=likelihood)


def replaced(name: str, part: Callable[[], nn.Module], **settings: Any) -> Callable[[], CVAE]:
    """Return what makes a model from settings and then puts another part in."""

    def make() -> CVAE:
        model = small(**settings)
        torch.manual_seed(1)
        setattr(model, name, part())
        return model

    return make


OWN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "own class": (LinearGaussian, r"parts of its own \(LinearGaussian\)"),
    "own subclass": (lambda: Changed(small().config), r"parts of its own \(Changed, "),
    "composed": (composed, r"parts of its own \(CVAE, MLPEncoder, MLPDecoder, LabelCondition, Condit"),
    "own condition": (lambda: CVAE.from_config(small().config, condition=Named(4)), r"parts of its own .*Named"),
    "own prior": (replaced("prior_module", Ring), r"has Ring\(\) where its settings make StandardNormal\(\)"),
    "another prior": (
        replaced("prior_module", lambda: ConditionalMixture(2, 4, 3)),
        r"has ConditionalMixture\(\) where its settings make StandardNormal\(\)",
    ),
    "another likelihood of the same class": (
        replaced("likelihood_module", lambda: BernoulliPixels("grey")),
        r"BernoulliPixels\(pixels='grey'\) where its settings make BernoulliPixels\(pixels='stochastic'\)",
    ),
    "another link": (
        replaced("likelihood_module", lambda: GaussianPixels(link="identity"), likelihood="gaussian"),
        r"GaussianPixels\(link='identity'\) where its settings make GaussianPixels\(link='sigmoid'\)",
    ),
}


@pytest.mark.parametrize("kind", OWN)
def test_a_model_with_parts_of_its_own_comes_back_only_into_a_model_like_it(kind, tmp_path):
    make, clue = OWN[kind]
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    save_checkpoint(tmp_path, model)
    with pytest.raises(CheckpointError, match=rf"{clue}.*pass it: load_checkpoint\(folder, model=\.\.\.\)\.$"):
        load_checkpoint(tmp_path)
    loaded, _ = load_checkpoint(tmp_path, model=make())
    assert same(loaded, model)


def test_a_run_of_a_model_with_its_own_parts_can_be_resumed(tmp_path):
    def trained(folder: Path | None, **changes: Any) -> tuple[CVAE, History]:
        model = composed()
        data = torch.rand(200, 24, generator=seeded()), torch.arange(200) % 4
        return model, fit(model, data, **SETTINGS, checkpoint=folder, **changes)

    whole, expected = trained(None)
    trained(tmp_path, callback=RaisesAt(nothing, 2))
    model, history = trained(tmp_path, resume=True)
    assert same(model, whole) and history == expected


# --- what is on disk -----------------------------------------------------------------------------------------------

FULL = OSError(errno.ENOSPC, "No space left on device")


def refuses(error: OSError) -> Callable[..., None]:
    """Return a function of the system that fails."""

    def fails(*_: object, **__: object) -> None:
        raise error

    return fails


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    """Some network shares tell only when they are asked to flush that the disk, or one's share of it, is full."""
    path = tmp_path / "weights"
    write_atomically(path, b"old")
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        monkeypatch.setattr("os.fsync", refuses(OSError(code, os.strerror(code))))
        with pytest.raises(OSError):
            write_atomically(path, b"new")
        assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["weights"]


@pytest.mark.parametrize(
    "name, code", [("os.chmod", errno.EPERM), ("os.fsync", errno.EINVAL), ("os.fsync", errno.ENOTSUP)]
)
def test_a_share_that_cannot_flush_or_change_modes_takes_checkpoints(name, code, tmp_path, monkeypatch):
    """Network shares and FUSE folders: the bytes were written all the same."""
    monkeypatch.setattr(name, refuses(OSError(code, os.strerror(code))))
    model, history = run(tmp_path, epochs=2)
    loaded, remembered = load_checkpoint(tmp_path)
    assert same(loaded, model) and remembered == history


def test_a_folder_holds_two_files_and_loading_runs_no_code(tmp_path, monkeypatch):
    model, _ = run(tmp_path, ema=0.5)
    tensors, card = sorted(tmp_path.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert tensors.suffix == ".safetensors" and card.name == "checkpoint.json"
    header = tensors.read_bytes()
    assert json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["model.encoder.net.layers.0.weight"]
    assert json.loads(card.read_text())["torch"] == torch.__version__.split("+")[0]
    for name in ("pickle.loads", "pickle.load", "torch.load", "builtins.exec", "builtins.eval"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("loading ran code"))
    assert same(load_checkpoint(tmp_path)[0], model)


@pytest.mark.parametrize("name", ["os.fsync", "os.replace", "tempfile.mkstemp"])
@pytest.mark.parametrize("call", [5, 6])
def test_a_full_disk_is_announced_and_the_old_checkpoint_survives(name, call, tmp_path, monkeypatch):
    """Each save writes two files, so calls 5 and 6 are those of the third epoch."""
    whole, expected = run()
    module, function = name.split(".")
    real = getattr(__import__(module), function)
    model = small(hidden=(16,))
    with monkeypatch.context() as patch:
        patch.setattr(name, RaisesAt(real, call, FULL))
        with pytest.raises(CheckpointError, match="No space left on device.*still whole; make room there") as caught:
            fit(model, bars(200, level=180), **SETTINGS, checkpoint=tmp_path)
    assert caught.value.__suppress_context__ and not model.training
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert load_checkpoint(tmp_path)[1].steps == [4, 8]
    model, history = run(tmp_path, resume=True)
    assert same(model, whole) and history == expected and len(list(tmp_path.iterdir())) == 2


def test_what_a_crash_left_behind_is_cleared_away_and_nothing_else(tmp_path):
    (tmp_path / "checkpoint.0123456789ab.safetensorsq1").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "checkpoint-of-mine.safetensors").write_bytes(b"mine")
    model, _ = run(tmp_path, epochs=1)
    assert sorted(path.name.split(".")[0] for path in tmp_path.iterdir()) == [
        "checkpoint",
        "checkpoint",
        "checkpoint-of-mine",
        "notes",
    ]
    assert same(load_checkpoint(tmp_path)[0], model)


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    limit, environment.settings.steps = environment.settings.steps, None
    fit(small(hidden=(16,)), bars(), steps=3, batch_size=64, device="cpu", checkpoint=folder)
    environment.settings.steps = limit
    return folder


def resumed(folder: Path, model: CVAE | None = None, **changes: Any) -> History:
    """Go on with the run in ``stored``."""
    usual = {"data": bars(), "steps": 3, "batch_size": 64, "device": "cpu", "checkpoint": folder, "resume": True}
    return fit(model or small(hidden=(16,)), **usual | changes)


def tensors(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def edited(folder: Path, change: Callable[[str], str]) -> None:
    """Change the text of a card."""
    (folder / "checkpoint.json").write_text(change((folder / "checkpoint.json").read_text()))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda f: tensors(f).write_bytes(tensors(f).read_bytes()[:-5]), "cut short or changed"),
    "changed": (lambda f: tensors(f).write_bytes(tensors(f).read_bytes()[:-1] + b"\x77"), "cut short or changed"),
    "gone": (lambda f: tensors(f).unlink(), "cannot be read"),
    "card cut": (lambda f: edited(f, lambda text: text[:-9]), "cannot be read, or is no checkpoint"),
    "card empty": (lambda f: edited(f, lambda text: ""), "cannot be read, or is no checkpoint"),
    "card list": (lambda f: edited(f, lambda text: "[1]"), "cannot be read, or is no checkpoint"),
    "card of something else": (lambda f: edited(f, lambda text: '{"a": 1}'), "is no checkpoint"),
    "card gone": (lambda f: (f / "checkpoint.json").unlink(), "There is no checkpoint in"),
    "newer": (lambda f: edited(f, lambda t: t.replace('"format": 2', '"format": 9')), "format 9.*reads format 2"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_in_one_sentence(kind, stored, tmp_path):
    folder = Path(shutil.copytree(stored, tmp_path / "copy"))
    spoil, clue = DAMAGE[kind]
    spoil(folder)
    with pytest.raises(CheckpointError, match=clue) as caught:
        load_checkpoint(folder)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    if kind != "card gone":
        with pytest.raises(CheckpointError, match=clue):
            resumed(folder)


def test_a_file_elsewhere_is_never_read(stored, tmp_path):
    """A card that names a path outside its folder gets the file of that name inside, if there is one."""
    folder = Path(shutil.copytree(stored, tmp_path / "copy"))
    shutil.move(tensors(folder), tmp_path / tensors(folder).name)
    edited(folder, lambda text: text.replace('"file": "', '"file": "../'))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(folder)


OTHER_IMAGES = ImageSet(bars().images.flip(0), bars().labels, "bars", classes=4)
OTHER_LABELS = ImageSet(bars().images, bars().labels.flip(0), "bars", classes=4)


@pytest.mark.parametrize(
    "changes, settings, clue",
    [
        ({"hidden": (16, 8)}, {}, "of another model: .* there and .* here"),
        ({"conditioning": "film"}, {}, "of another model: .* there and .* here"),
        ({"prior": "gaussian"}, {}, r"of another model: prior_module\.head.* is absent there"),
        ({}, {"batch_size": 32, "seed": 4}, "batch_size=64, not 32 and seed=0, not 4"),
        ({}, {"beta": 2.0}, r"beta=1\.0, not 2\.0"),
        ({}, {"ema": 0.9}, r"ema=None, not 0\.9"),
        ({}, {"schedule": "cosine"}, "schedule='one_cycle', not 'cosine'"),
        ({}, {"optimizer": momentum}, "optimizer=None, not 'momentum'"),
        ({}, {"objective": elbo_terms}, "objective=None, not 'elbo_terms'"),
        ({}, {"precision": "bf16"}, "precision='auto', not 'bf16'"),
        ({}, {"data": OTHER_IMAGES}, "data='.*', not '"),
        ({}, {"data": OTHER_LABELS}, "data='.*', not '"),
        ({}, {"y": (bars().labels + 1) % 4}, "data='.*', not '"),
        ({}, {"y": sometimes}, "y=None, not 'sometimes'"),
        ({}, {"validation": bars(40)}, "validation=None, not '"),
    ],
)
def test_another_model_or_run_is_refused_by_the_setting_that_differs(changes, settings, clue, stored):
    model = small(**{"hidden": (16,), **changes})
    before = weights(model)
    with pytest.raises(CheckpointError, match=clue):
        resumed(stored, model, **settings)
    assert same(model, before)


def test_the_labels_may_be_given_or_left_to_the_data(stored):
    assert resumed(stored, y=bars().labels).steps == [3]


def test_a_run_in_another_precision_is_refused(stored):
    with pytest.raises(CheckpointError, match=r"float32 there and .*float64 here"):
        resumed(stored, small(hidden=(16,)).double())


@pytest.mark.parametrize("kind", ["file", "below a file", "full"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_place_that_takes_no_checkpoint_is_refused_before_training(kind, resume, stored, tmp_path, monkeypatch):
    """Not after an hour of it; and a folder that takes files has none of the probe in it."""
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / {"file": "file", "below a file": "file/run", "full": "new"}[kind]
    if kind == "full":
        if resume:
            shutil.copytree(stored, folder)
        monkeypatch.setattr("tempfile.TemporaryFile", refuses(OSError(errno.EROFS, "Read-only file system")))
    never = RaisesAt(elbo_terms, 1, AssertionError("it has begun"))
    model = small(hidden=(16,))
    with pytest.raises(CheckpointError, match=r"Nothing can be written to .*; choose another folder\.$") as caught:
        fit(model, bars(), **SETTINGS, checkpoint=folder, resume=resume, objective=never)
    assert caught.value.__suppress_context__ and (tmp_path / "file").read_text() == "mine"


def test_a_run_is_not_written_over_unless_it_is_resumed(stored):
    with pytest.raises(CheckpointError, match="already; pass resume=True"):
        resumed(stored, resume=False)


def test_weights_alone_cannot_be_resumed(tmp_path):
    save_checkpoint(tmp_path, small(hidden=(16,)))
    with pytest.raises(CheckpointError, match="no optimiser"):
        resumed(tmp_path)


def test_an_optimisers_state_that_does_not_fit_is_refused(stored, tmp_path):
    """A fused step trusts it, and would write past the end of a tensor that is too short, and end the process."""
    import hashlib

    import safetensors.torch

    folder = Path(shutil.copytree(stored, tmp_path / "copy"))
    path = tensors(folder)
    held = safetensors.torch.load(path.read_bytes())
    held["optimizer.0.exp_avg"] = torch.zeros(1)
    old, data = hashlib.sha256(path.read_bytes()).hexdigest(), safetensors.torch.save(held)
    path.write_bytes(data)
    edited(folder, lambda text: text.replace(old, hashlib.sha256(data).hexdigest()))
    with pytest.raises(CheckpointError, match="optimiser's state .* does not fit the model"):
        resumed(folder, steps=5)
