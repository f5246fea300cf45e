"""Checkpoints: a run that was stopped goes on as if it never had been, and nothing on disk is ever half of a thing."""

import hashlib
import json
import math
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

import cvae_lib
from cvae_lib import _files
from cvae_lib.data import ImageSet
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms
from cvae_lib.training import (
    CheckpointError,
    History,
    TrainingDiverged,
    _checkpoint,
    fit,
    load_checkpoint,
    save_checkpoint,
)
from cvae_lib.training._progress import Interrupts

SETTINGS = {"epochs": 4, "batch_size": 64, "learning_rate": 0.01, "precision": "float32", "device": "cpu"}
KINDS = {
    "plain": {},
    "everything": {
        "clip": 1.0,
        "ema": 0.9,
        "schedule": "cosine",
        "weight_decay": 1e-3,
        "beta": lambda step: step / 10,
        "dropout": 0.3,
    },
    "patience": {"patience": 3, "ema": 0.8},
}


@pytest.fixture(autouse=True)
def full_length(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "full")
    monkeypatch.setenv("COURSE_UNATTENDED", "1")


def bars(count: int = 200) -> ImageSet:
    """Images of one grey column each, whose place is the label."""
    labels = torch.arange(count) % 4
    images = torch.zeros(count, 1, 6, 4, dtype=torch.uint8)
    images[torch.arange(count), 0, :, labels] = 180
    return ImageSet(images, labels, "bars", classes=4)


def model(**changes: object) -> CVAE:
    torch.manual_seed(0)
    return CVAE(CVAEConfig(**{"num_classes": 4, "latent_dim": 2, "hidden": (16,), "event_shape": (1, 6, 4), **changes}))


def run(folder: Path | None = None, **changes: object) -> tuple[CVAE, History]:
    changes = dict(changes)
    net = model(dropout=changes.pop("dropout", 0.0))
    if "patience" in changes:
        changes["validation"] = bars(40)
    return net, fit(net, bars(), **{**SETTINGS, "checkpoint": folder, **changes})


def same(one: CVAE, other: CVAE) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class StopsAt:
    """A function that does as it did before, but raises at its n-th call."""

    def __init__(self, original, call: int, error: BaseException | None = None) -> None:
        self.original, self.call, self.calls, self.error = original, call, 0, error or KeyboardInterrupt()

    def __call__(self, *arguments, **keywords):
        self.calls += 1
        if self.calls == self.call:
            raise self.error
        return self.original(*arguments, **keywords)


# --- going on as if nothing had happened -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [1, 6, 8, 13])
def test_a_resumed_run_is_bit_for_bit_the_run_that_was_never_stopped(kind, stop, tmp_path):
    """Stops lie in the first step, inside epochs, and at the end of one; saving is every 3 steps of 4 an epoch."""
    whole, expected = run(**KINDS[kind])
    objective = StopsAt(elbo_terms, stop)
    changes = {**KINDS[kind], "checkpoint_every": 3, "objective": objective}
    _, history = run(tmp_path, **changes)
    assert history.interrupted and len(history) == (stop - 1) // 4
    objective.call = 0
    net, history = run(tmp_path, resume=True, **changes)
    assert same(net, whole) and history == expected
    assert objective.calls == stop + 16 - 3 * ((stop - 1) // 3), "a resumed run begins at the last checkpoint"


def test_a_run_gone_wrong_unread_on_a_gpu_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    """There nobody looks at the loss until the epoch ends; steps 6 and 7 are noted as bad, and 6 is time to save."""
    whole, expected = run(checkpoint_every=3, folder=tmp_path / "whole")

    def spoilt(net, x, y):
        terms = elbo_terms(net, x, y)
        spoilt.calls += 1
        return terms._replace(log_likelihood=terms.log_likelihood * (math.nan if spoilt.calls >= spoilt.bad else 1))

    spoilt.calls, spoilt.bad = 0, 6
    monkeypatch.setattr("cvae_lib.training._loop.asks", lambda device: False)
    with pytest.raises(TrainingDiverged, match="at step 5"):
        run(tmp_path / "run", checkpoint_every=3, objective=spoilt)
    assert json.loads((tmp_path / "run" / "checkpoint.json").read_text())["step"] == 3
    spoilt.bad = math.inf
    net, history = run(tmp_path / "run", checkpoint_every=3, objective=spoilt, resume=True)
    assert same(net, whole) and history == expected


@pytest.fixture
def listening():
    """Hear Ctrl-C as a terminal does: a shell that starts the tests in the background tells them to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("where", [1, 2, 4, 7])
def test_ctrl_c_ends_the_step_at_hand_and_nothing_is_lost(where, tmp_path, capsys):
    whole, expected = run()
    steps = 0

    def terms(*arguments):
        nonlocal steps
        steps += 1
        if steps == where:
            signal.raise_signal(signal.SIGINT)
        return elbo_terms(*arguments)

    _, history = run(tmp_path, objective=terms)
    assert history.interrupted and steps == where and "can be resumed" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    net, history = run(tmp_path, objective=terms, resume=True)
    assert same(net, whole) and history == expected and steps == 16


@pytest.mark.usefixtures("listening")
def test_a_second_ctrl_c_does_not_wait(tmp_path):
    def terms(*arguments):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second one should have been heard at once")

    net, history = run(objective=terms)
    assert history.interrupted and not net.training


@pytest.mark.usefixtures("listening")
def test_a_second_ctrl_c_at_the_edge_of_the_block_leaves_no_handler_behind():
    """An error on the way into a with-block, or out of it, does not run the block's end."""
    interrupts = Interrupts().__enter__()
    signal.raise_signal(signal.SIGINT)
    assert interrupts.asked
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_on_any_line_leaves_model_history_and_checkpoint_whole(tmp_path):
    """KeyboardInterrupt on lines of the library drawn at random, from set-up to clean-up, saving after each step."""
    changes = {"epochs": 2, "batch_size": 100, "checkpoint_every": 1, "ema": 0.9, "patience": 5}
    whole, expected = run(**{**changes, "checkpoint_every": None})
    library = os.path.dirname(cvae_lib.__file__)
    lines, stop = 0, 0

    def trace(frame, event, argument):
        nonlocal lines
        if not frame.f_code.co_filename.startswith(library):
            return None
        if event == "line":
            lines += 1
            if lines == stop:
                raise KeyboardInterrupt
        return trace

    def traced(folder: Path, at: int) -> tuple[CVAE, History | None]:
        nonlocal lines, stop
        lines, stop = 0, at
        net, images, judged = model(), bars(), bars(40)
        settings = {**SETTINGS, **changes, "validation": judged}
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            return net, fit(net, images, checkpoint=folder, **settings)
        except KeyboardInterrupt:  # before the loop, or after it
            return net, None
        finally:
            sys.settrace(before)

    traced(tmp_path / "all", 0)
    total = lines
    for at in random.Random(0).sample(range(1, total), 15):
        folder = tmp_path / str(at)
        net, history = traced(folder, at)
        assert all(torch.isfinite(p).all() for p in net.parameters()), at
        if history is not None:
            assert not net.training and history.interrupted, at
            assert len({len(history.loss), len(history.rate), len(history.steps), len(history.validation)}) == 1, at
        if _checkpoint.exists(folder):
            assert load_checkpoint(folder)[0].num_parameters() == net.num_parameters()
        net, history = run(folder, resume=True, **changes)
        assert same(net, whole) and history == expected, at


def test_a_longer_budget_goes_on_in_the_midst_of_an_epoch(tmp_path):
    whole, expected = run(epochs=None, steps=15, schedule="constant")
    _, short = run(tmp_path, epochs=None, steps=6, schedule="constant")
    assert short.steps == [4, 6]
    net, history = run(tmp_path, epochs=None, steps=15, schedule="constant", resume=True)
    assert same(net, whole) and history == expected and history.steps == [4, 8, 12, 15]


def test_resuming_a_finished_run_returns_it_as_it_was(tmp_path):
    net, history = run(tmp_path, **KINDS["patience"])
    again, told = run(tmp_path, resume=True, objective=None, **KINDS["patience"])
    assert same(net, again) and told == history
    loaded, remembered = load_checkpoint(tmp_path)
    assert same(net, loaded) and remembered == history and not loaded.training


def test_resuming_where_there_is_nothing_begins(tmp_path):
    whole, _ = run()
    net, _ = run(tmp_path / "new", resume=True)
    assert same(net, whole)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    net, _ = run("~/run", epochs=1)
    assert same(load_checkpoint("~/run")[0], net) and (tmp_path / "run" / "checkpoint.json").exists()
    save_checkpoint("~/weights", net)
    assert same(load_checkpoint(tmp_path / "weights")[0], net)


def test_live_and_averaged_weights_can_both_be_had(tmp_path):
    live, _ = run()
    averaged, _ = run(tmp_path, ema=0.9)
    assert same(load_checkpoint(tmp_path, weights="live")[0], live)
    assert same(load_checkpoint(tmp_path, weights="ema")[0], averaged) and not same(live, averaged)
    with pytest.raises(CheckpointError, match="no 'best' weights, only live and ema"):
        load_checkpoint(tmp_path, weights="best")


def test_weights_can_be_put_into_a_model_of_ones_own(stored):
    net = model()
    assert load_checkpoint(stored, model=net)[0] is net and same(net, load_checkpoint(stored)[0])
    with pytest.raises(CheckpointError, match="of another model: .* there and .* here"):
        load_checkpoint(stored, model=model(hidden=(8,)))


def test_a_model_in_float64_comes_back_in_float64(tmp_path):
    net = model().double()
    save_checkpoint(tmp_path, net, history=History(loss=[0.1], distortion=[1 / 3], rate=[math.pi], steps=[7]))
    loaded, history = load_checkpoint(tmp_path)
    assert same(loaded, net) and history.distortion == [1 / 3] and history.rate == [math.pi]


def test_another_kind_of_device_goes_on_with_other_numbers_and_says_so(tmp_path, capsys):
    objective = StopsAt(elbo_terms, 7)
    run(tmp_path, checkpoint_every=1, objective=objective)
    card = json.loads((tmp_path / "checkpoint.json").read_text())
    reseal(tmp_path, {**card, "device": "cuda"})
    net, history = run(tmp_path, checkpoint_every=1, objective=objective, resume=True)
    assert "written on cuda; on cpu" in capsys.readouterr().out
    assert history.steps == [4, 8, 12, 16] and all(torch.isfinite(p).all() for p in net.parameters())


# --- what is on disk -----------------------------------------------------------------------------------------------


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    _files.write_atomically(path, b"old")
    monkeypatch.setattr("os.fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError):
        _files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["weights"]


def test_a_folder_holds_two_files_and_neither_is_a_pickle(tmp_path, monkeypatch):
    run(tmp_path, checkpoint_every=2, ema=0.5)
    weights, card = sorted(tmp_path.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert weights.suffix == ".safetensors" and card.name == "checkpoint.json"
    header = weights.read_bytes()
    assert json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["model.encoder.net.layers.0.weight"]
    assert json.loads(card.read_text())["versions"]["torch"] == torch.__version__
    for name in ("pickle.loads", "pickle.load", "torch.load", "builtins.exec", "builtins.eval"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("loading ran code"))
    load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["os.fsync", "os.replace", "tempfile.mkstemp"])
@pytest.mark.parametrize("call", [5, 6])
def test_a_full_disk_is_announced_and_the_old_checkpoint_survives(name, call, tmp_path, monkeypatch, capsys):
    """Each save writes two files, so calls 5 and 6 are the third one's; the ones after it succeed again."""
    whole, _ = run()
    module, function = name.split(".")
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(name, StopsAt(getattr(sys.modules[module], function), call, full))
    net, history = run(tmp_path)
    said = capsys.readouterr().out
    assert "No space left on device" in said and "still whole" in said and same(net, whole)
    assert len(history) == 4 and len(list(tmp_path.iterdir())) == 2
    assert same(load_checkpoint(tmp_path)[0], whole)


def test_a_disk_that_is_full_to_the_end_is_an_error_but_the_model_is_there(tmp_path, monkeypatch):
    run(tmp_path, epochs=1)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("os.fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    net = model()
    with pytest.raises(CheckpointError, match="No space left on device.*still whole.*free some space") as caught:
        fit(net, bars(), **SETTINGS, checkpoint=tmp_path, resume=True)
    assert caught.value.history is not None and caught.value.history.steps == [4, 8, 12, 16]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old
    assert not net.training


def test_what_a_crash_left_behind_is_cleared_away(tmp_path):
    (tmp_path / "step-000001-abc.safetensorsq1").write_bytes(b"half")
    (tmp_path / "checkpoint.jsonq2").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    run(tmp_path, epochs=1)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors", ".txt"]


# --- refusals ------------------------------------------------------------------------------------------------------


def reseal(folder: Path, card: dict) -> None:
    """Write a changed card with a checksum that agrees."""
    card = {key: value for key, value in card.items() if key != "checksum"}
    (folder / "checkpoint.json").write_text(json.dumps({**card, "checksum": _checkpoint._checksum(card)}))


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    fit(model(), bars(), steps=3, batch_size=64, device="cpu", checkpoint=folder)
    return folder


def tensors(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def card(folder: Path) -> dict:
    return json.loads((folder / "checkpoint.json").read_text())


DAMAGE = {
    "cut": (lambda f: tensors(f).write_bytes(tensors(f).read_bytes()[:-5]), "cut short.* of .* bytes"),
    "changed": (lambda f: tensors(f).write_bytes(tensors(f).read_bytes()[:-1] + b"\x77"), "changed after"),
    "gone": (lambda f: tensors(f).unlink(), "cannot be read"),
    "card cut": (lambda f: (f / "checkpoint.json").write_bytes((f / "checkpoint.json").read_bytes()[:-9]), "cut short"),
    "card empty": (lambda f: (f / "checkpoint.json").write_bytes(b""), "cut short"),
    "card list": (lambda f: (f / "checkpoint.json").write_text("[1]"), "no checkpoint at all"),
    "card edited": (
        lambda f: (f / "checkpoint.json").write_text(json.dumps({**card(f), "step": 1})),
        "changed after",
    ),
    "card gone": (lambda f: (f / "checkpoint.json").unlink(), "no checkpoint in"),
    "newer": (lambda f: reseal(f, {**card(f), "format": 9}), "format 9.*reads format 1"),
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
            fit(model(), bars(), steps=3, batch_size=64, device="cpu", checkpoint=folder, resume=True)


@pytest.mark.parametrize(
    "changes, settings, clue",
    [
        ({"hidden": (16, 8)}, {}, r"model with hidden=\[16\], not \[16, 8\]"),
        ({"conditioning": "film"}, {}, "conditioning='concatenation', not 'film'"),
        ({}, {"batch_size": 32, "seed": 4}, "batch_size=64, not 32 and seed=0, not 4"),
        ({}, {"beta": 2.0}, r"beta=1\.0, not 2\.0"),
        ({}, {"precision": "bf16"}, "precision='auto', not 'bf16'"),
        ({}, {"data": ImageSet(bars().images.flip(0), bars().labels, "bars", classes=4)}, "images='checksum"),
        ({}, {"data": ImageSet(bars().images, bars().labels.flip(0), "bars", classes=4)}, "images='checksum"),
        ({}, {"y": (bars().labels + 1) % 4}, "images='checksum"),
        ({}, {"y": lambda batch: batch.y}, "images='checksum .*, y <lambda>'"),
        ({}, {"validation": bars(40)}, "validation=None, not 'checksum"),
    ],
)
def test_another_model_or_run_is_refused_by_the_setting_that_differs(changes, settings, clue, stored):
    net = model(**changes)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=clue):
        usual = {"data": bars(), "steps": 3, "batch_size": 64, "checkpoint": stored, "resume": True}
        fit(net, **usual | settings)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_the_labels_may_be_given_or_left_to_the_data(stored):
    fit(model(), bars(), y=bars().labels, steps=3, batch_size=64, device="cpu", checkpoint=stored, resume=True)


def test_a_run_in_another_precision_is_refused(stored):
    with pytest.raises(CheckpointError, match="float32 there and torch.float64 here; convert the model with .to"):
        fit(model().double(), bars(), steps=3, batch_size=64, device="cpu", checkpoint=stored, resume=True)


@pytest.mark.parametrize("kind", ["file", "below a file", "full"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_place_that_takes_no_checkpoint_is_refused_before_training(kind, resume, tmp_path, monkeypatch):
    """Not after an hour of it; and a folder that takes files has none of the probe in it."""
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / {"file": "file", "below a file": "file/run", "full": "new"}[kind]
    if kind == "full":
        full = OSError(28, "No space left on device")
        monkeypatch.setattr("tempfile.mkstemp", lambda **_: (_ for _ in ()).throw(full))
    never = StopsAt(elbo_terms, 1, AssertionError("it has begun"))
    with pytest.raises(CheckpointError, match=r"choose another (name|folder)\.$") as caught:
        fit(model(), bars(), **SETTINGS, checkpoint=folder, resume=resume, objective=never)
    assert caught.value.__suppress_context__ and (tmp_path / "file").read_text() == "mine"


def retensored(folder: Path, change) -> None:
    """Change the tensors of a checkpoint, with checksums that agree."""
    held = safetensors.torch.load(tensors(folder).read_bytes())
    change(held)
    data = safetensors.torch.save(held)
    tensors(folder).write_bytes(data)
    weights = {"file": tensors(folder).name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    reseal(folder, {**card(folder), "weights": weights})


MOMENT = "optimiser.encoder.net.layers.0.weight.exp_avg"
FORGED = {
    "step": lambda f: reseal(f, {**card(f), "step": "x"}),
    "position": lambda f: reseal(f, {**card(f), "position": 99}),
    "seconds": lambda f: reseal(f, {**card(f), "seconds": "q"}),
    "random": lambda f: reseal(f, {**card(f), "random": {}}),
    "history": lambda f: reseal(f, {**card(f), "history": "{"}),
    "begun": lambda f: reseal(f, {**card(f), "begun": "!!!"}),
    "a moment that is too short": lambda f: retensored(f, lambda held: held.update({MOMENT: torch.zeros(1)})),
    "no sums": lambda f: retensored(f, lambda held: held.pop("run.sums")),
    "sums": lambda f: retensored(f, lambda held: held.update({"run.sums": torch.zeros(7)})),
}


@pytest.mark.parametrize("kind", FORGED)
def test_an_edited_run_with_checksums_that_agree_is_refused(kind, stored, tmp_path):
    """A moment that is too short would be written past its end by the fused step, and end the process."""
    folder = Path(shutil.copytree(stored, tmp_path / "copy"))
    FORGED[kind](folder)
    with pytest.raises(CheckpointError, match="does not hold the whole state of a run.*edited.*go back") as caught:
        fit(model(), bars(), steps=5, batch_size=64, device="cpu", checkpoint=folder, resume=True)
    assert caught.value.__suppress_context__


def without(name: str):
    return lambda f: reseal(f, {key: value for key, value in card(f).items() if key != name})


UNSAID = {
    "weights": (without("weights"), "does not say the weights"),
    "file": (lambda f: reseal(f, {**card(f), "weights": {}}), "does not say the weights"),
    "architecture": (without("architecture"), "does not say the architecture"),
    "history": (without("history"), "does not say the history"),
    "format": (without("format"), "format None"),
    "no weights": (lambda f: retensored(f, lambda held: held.clear()), "holds no weights"),
}


@pytest.mark.parametrize("kind", UNSAID)
def test_a_card_that_leaves_something_out_is_refused(kind, stored, tmp_path):
    folder = Path(shutil.copytree(stored, tmp_path / "copy"))
    spoil, clue = UNSAID[kind]
    spoil(folder)
    with pytest.raises(CheckpointError, match=clue):
        load_checkpoint(folder)


def test_tensors_that_are_none_are_refused(stored, tmp_path):
    folder = Path(shutil.copytree(stored, tmp_path / "copy"))
    tensors(folder).write_bytes(b"garbage")
    digest = hashlib.sha256(b"garbage").hexdigest()
    reseal(folder, {**card(folder), "weights": {"file": tensors(folder).name, "bytes": 7, "sha256": digest}})
    with pytest.raises(CheckpointError, match="holds no tensors .*go back to a copy"):
        load_checkpoint(folder)


def test_a_run_is_not_written_over_unless_it_is_resumed(stored):
    with pytest.raises(CheckpointError, match="already; pass resume=True"):
        fit(model(), bars(), steps=3, checkpoint=stored)


def test_weights_alone_cannot_be_resumed(tmp_path):
    save_checkpoint(tmp_path, model())
    with pytest.raises(CheckpointError, match="no optimiser"):
        fit(model(), bars(), steps=3, checkpoint=tmp_path, resume=True)


def test_a_model_with_other_parts_than_its_settings_say_is_refused(stored):
    net = model()
    net.encoder.net.layers[0] = torch.nn.Linear(3, 16)
    with pytest.raises(CheckpointError, match=r"encoder.net.layers.0.weight is \(16, 28\) there and \(16, 3\) here"):
        fit(net, bars(), steps=3, batch_size=64, checkpoint=stored, resume=True)
