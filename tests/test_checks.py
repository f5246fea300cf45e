"""The checks of the exercises are checked: blanks, solutions, right answers of every kind, and known wrong ones."""

import json
import os
import random
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import sources
import torch
from answers import RIGHT, WRONG
from sources import Target
from torch import nn

from cvae_lib import checks, data
from cvae_lib.checks import _registry, _runner, examined
from cvae_lib.checks._registry import EXERCISES

ROOT = Path(__file__).resolve().parent.parent
RUNNER = ROOT / "tests" / "run_cells.py"
STEMS = [path.stem for path in sorted((ROOT / "authoring" / "exercises").glob("*.py"))]
SEEDS = ("1", "2", "3")
BY_HAND = ("1.1", "1.5", "2.1", "3.1")
TRAINED = ("1.7", "3.6", "3.7")  # answers that are trained models; the rest are numbers, functions and classes
MEASURED = (*TRAINED, "2.5")
IMPLEMENTED = [number for number in EXERCISES if number not in (*BY_HAND, *MEASURED)]


@pytest.fixture(autouse=True)
def _progress_of_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("CVAE_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(checks._progress, "_here", {})


def handed_in(kind, monkeypatch):
    """Run every exercise notebook of a kind, and return what it hands to each check."""
    answers = {}
    with monkeypatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(checks, "check", lambda number, *answer: answers.update({number: answer}))
        for stem in STEMS:
            space = {"__name__": stem}
            for index, cell in enumerate(sources.expected(Target(kind, stem, ROOT)).cells):
                if cell.cell_type == "code" and "install" not in cell.metadata.get("tags", []):
                    exec(compile(cell.source, f"<{stem}, cell {index}>", "exec"), space)
    return answers


@pytest.fixture(scope="module")
def blanks():
    with pytest.MonkeyPatch.context() as patch:
        return handed_in("exercises", patch)


@pytest.fixture(scope="module")
def solutions():
    with pytest.MonkeyPatch.context() as patch:
        return handed_in("solutions", patch)


# --- blank, solution, right, wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", EXERCISES)
def test_a_blank_is_not_attempted(number, blanks):
    verdict = examined(number, *blanks[number])
    assert verdict.status == "not attempted", verdict


@pytest.mark.parametrize("number", EXERCISES)
def test_the_solution_passes(number, solutions):
    assert examined(number, *solutions[number]).status == "passed"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("number", "how", "answer"), [(n, how, a) for n, rows in RIGHT.items() for how, a in rows])
def test_an_equivalent_answer_passes(number, how, answer, seed, monkeypatch):
    monkeypatch.setenv("COURSE_CHECK_SEED", seed)
    verdict = examined(number, *answer)
    assert verdict.status == "passed", f"{how}\n{verdict}"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("number", "mistake", "how", "answer"), [(n, m, how, a) for n, rows in WRONG.items() for m, how, a in rows]
)
def test_a_known_wrong_answer_gets_its_own_hint(number, mistake, how, answer, seed, monkeypatch):
    monkeypatch.setenv("COURSE_CHECK_SEED", seed)
    verdict = examined(number, *answer)
    assert (verdict.status, verdict.mistake) == ("wrong", mistake), f"{how}\n{verdict}"
    assert verdict.hint == EXERCISES[number].hints[mistake]
    assert EXERCISES[number].hints[mistake] in str(verdict)


def trained(epochs, beta=1.0):
    """Return chapter 01's VAE, trained for a while; made from its solution's own cells."""
    cells = sources.expected(Target("solutions", "01_the_vae", ROOT)).cells
    space = {"__name__": "lifted"}
    for cell in cells:
        wanted = re.search(r"^(import|from|def|class) ", cell.source, re.M)
        if cell.cell_type == "code" and wanted and "install" not in cell.metadata.get("tags", []):
            exec(cell.source, space)
    return space["train"](space["VAE"](), space["images"], beta=beta, epochs=epochs) if epochs else space["VAE"]()


def wrong_models(solutions):
    """Return (number, mistake, answers) where the answers are models."""
    floor, silent = solutions["1.7"]
    prediction, honest, lied_to = solutions["3.6"]
    new = type(honest)
    images = data.digits("train").subset(slice(2000)).pixels().double()
    p, entropy = images.mean(0), lambda q: torch.special.entr(q) + torch.special.entr(1 - q)
    return [
        ("1.7", "bits", (float(floor) / np.log(2), silent)),
        ("1.7", "pixel mean", (entropy(p).mean(), silent)),
        ("1.7", "one grey", (784 * entropy(p.mean()), silent)),
        ("1.7", "each image", (entropy(images).sum((1, 2, 3)).mean(), silent)),
        ("1.7", "untrained", (floor, trained(0))),
        ("1.7", "rate", (floor, trained(3))),
        ("3.6", "prediction", (7.0, honest, lied_to)),
        ("3.6", "deaf", (prediction, new(), new())),
        ("3.6", "not shuffled", (prediction, honest, honest)),
        ("3.6", "exchanged", (prediction, lied_to, honest)),
        ("3.7", "deaf", (new(),)),
        ("3.7", "unknown label", (honest,)),
        ("3.7", "stuck", (Stuck(solutions["3.7"][0]),)),
    ]


class Stuck(nn.Module):
    """A model that draws the same picture whenever it is not told what to draw."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.encode, self.terms = model.encode, model.terms

    def decode(self, z, y):
        return self.model.decode(torch.where(y[:, None] < 0, 0.0, z), y)


def test_a_wrong_model_gets_its_own_hint(solutions):
    rows = wrong_models(solutions)
    for number, mistake, answer in rows:
        verdict = examined(number, *answer)
        assert (verdict.status, verdict.mistake) == ("wrong", mistake), verdict
        assert verdict.hint == EXERCISES[number].hints[mistake]
    for number in TRAINED:
        assert {mistake for wanted, mistake, _ in rows if wanted == number} == set(EXERCISES[number].hints)


def test_every_hint_is_met_by_a_wrong_answer_and_says_something_of_its_own():
    for number, entry in EXERCISES.items():
        assert len(set(entry.hints.values())) == len(entry.hints)
        assert all(len(hint) > 20 for hint in entry.hints.values())
        if number not in TRAINED:
            assert {mistake for mistake, _, _ in WRONG[number]} == set(entry.hints), number
    for number in IMPLEMENTED:
        assert len(WRONG[number]) >= 3 and len(RIGHT[number]) >= 2


def test_a_wrong_prediction_is_no_failure_but_is_remarked_on(solutions):
    _, honest, lied_to = solutions["3.6"]
    assert "as you predicted" in examined("3.6", 0.1, honest, lied_to).note
    assert "you predicted 0.90" in examined("3.6", 0.9, honest, lied_to).note
    assert "came out narrower" in examined("2.5", "wider", 0.436).note


# --- mistakes of no exercise in particular ---------------------------------------------------------------------


def rate(mean, log_variance, prior_mean, prior_log_variance):
    ratio = log_variance - prior_log_variance
    return 0.5 * (ratio.exp() + (mean - prior_mean) ** 2 / prior_log_variance.exp() - 1 - ratio).sum(1)


def in_place(mean, log_variance, prior_mean, prior_log_variance):
    result = rate(mean, log_variance, prior_mean, prior_log_variance)
    log_variance.exp_()
    return result


@pytest.mark.parametrize(
    ("mistake", "answer"),
    [
        ("nothing", lambda *a: None),
        ("kind", lambda *a: "0.3"),
        ("shape", lambda *a: rate(*a)[:, None]),
        ("not finite", lambda *a: rate(*a) * float("nan")),
        ("in place", in_place),
        ("unknown", lambda *a: rate(*a) + 1),
    ],
)
def test_a_common_mistake_is_named(mistake, answer):
    verdict = examined("1.3", answer)
    assert (verdict.status, verdict.mistake) == ("wrong", mistake)
    assert "mean = " in verdict.on and "(float32)" in verdict.on


def test_a_number_by_hand_may_be_wrong_in_an_unknown_way_and_is_not_given_away():
    verdict = examined("1.1", 2.0)
    assert verdict.mistake == "by hand" and "3.40" not in str(verdict)
    assert examined("1.1", torch.zeros(3)).mistake == "kind"
    assert examined("1.1", "3.4").mistake == "kind"


def test_a_failure_shows_input_expected_got_and_hint():
    text = str(examined("1.3", lambda *a: -rate(*a)))
    assert text.startswith("1.3 not right yet: the KL between any two Gaussians\n")
    assert [line.split()[0] for line in text.splitlines()[1:] if line[2] != " "] == ["on", "expected", "got", "hint"]


def test_a_learners_exception_is_theirs_and_short():
    def broken(mean, log_variance, *prior):
        return mean @ log_variance

    verdict = examined("1.3", broken)
    assert verdict.status == "raised" and verdict.got.startswith("RuntimeError: ")
    assert re.fullmatch(r"line \d+ of `broken`:  return mean @ log_variance", verdict.hint)
    assert len(str(verdict).splitlines()) < 10 and "/" not in verdict.hint


def test_wrong_arguments_endless_recursion_and_exit_are_exceptions_too():
    def endless(*given):
        return endless(*given)

    assert "positional argument" in examined("1.3", lambda mean: mean).got
    assert examined("1.3", endless).got.startswith("RecursionError")
    assert examined("1.3", lambda *a: sys.exit(3)).status == "raised"
    assert examined("1.6", nn.Linear(3, 4)).status in ("raised", "wrong")
    assert "`encode`" in examined("1.6", nn.Identity).expected


def test_a_blank_inside_an_answer_is_named():
    def piece(*given):
        raise NotImplementedError("your code here")

    verdict = examined("1.3", lambda *a: piece(*a))
    assert verdict.status == "not attempted" and verdict.note == "`piece` is still blank"
    assert examined("1.3", lambda *a: ...).status == "not attempted"
    assert examined("1.3", ...).status == "not attempted"


def test_unknown_exercises_and_wrong_numbers_of_answers_are_refused():
    with pytest.raises(ValueError, match=r"no exercise '9.9'; there are 1.1, "):
        checks.check("9.9", 1)
    with pytest.raises(ValueError, match=r"wants check\('2.1', gap, elbo\), and got 1"):
        checks.check("2.1", 0.18)
    with pytest.raises(ValueError, match="Chapter 99 has no exercises"):
        checks.progress(99)


# --- a limited time, and nothing changed -----------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    """Give every exercise half a second."""
    quick = {n: _registry.Exercise(e.number, e.title, e.examine, e.hints, 0.5) for n, e in EXERCISES.items()}
    monkeypatch.setattr(_registry, "EXERCISES", quick)
    monkeypatch.setattr(_runner, "GRACE_SECONDS", 0.5)


def forever(*given):
    while True:
        pass


def forever_and_deaf_to_errors(*given):
    while True:
        try:
            pass
        except Exception:
            continue


@pytest.mark.parametrize("answer", [forever, forever_and_deaf_to_errors])
def test_an_endless_loop_is_ended(answer, impatient):
    verdict = examined("1.3", answer)
    assert verdict.status == "out of time" and "never ends" in verdict.hint and "restart" not in verdict.hint
    assert not [thread for thread in threading.enumerate() if thread.name == "check"]


def test_a_wait_that_python_cannot_end_is_left_behind_and_said_so(impatient):
    gate = threading.Event()
    verdict = examined("1.3", lambda *a: gate.wait())
    assert verdict.status == "out of time" and "restart the kernel" in verdict.hint
    gate.set()


def test_an_interrupt_reaches_the_learner(monkeypatch):
    def pressed(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(_runner._Worker, "join", pressed)
    monkeypatch.setattr(_runner, "_stop", lambda worker: True)
    with pytest.raises(KeyboardInterrupt):
        examined("1.3", rate)


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()


@pytest.mark.parametrize("answer", [rate, forever, lambda *a: torch.manual_seed(1) and random.random() and None])
def test_random_numbers_and_settings_stay_as_they_were(answer, impatient):
    before, dtype, stack = states(), torch.get_default_dtype(), threading.stack_size()
    examined("1.3", answer)
    assert states() == before and torch.get_default_dtype() == dtype and threading.stack_size() == stack


def test_a_learners_model_stays_as_it_was(solutions):
    model = solutions["3.6"][1]
    model.train().zero_grad()
    model.lying_about = model.decode(torch.zeros(1, 4), torch.zeros(1).long())  # hangs on a graph
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert examined("3.6", 0.1, model, solutions["3.6"][2]).status == "passed"
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    del model.lying_about


def test_another_default_dtype_of_the_notebook_is_no_obstacle():
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        for number in ("1.2", "1.3", "2.3", "3.2"):
            assert examined(number, *RIGHT[number][0][1]).status == "passed"
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)


def test_inputs_differ_from_call_to_call_unless_a_seed_is_named(monkeypatch):
    def inputs():
        return examined("1.3", lambda *a: rate(*a) + 1).on

    monkeypatch.delenv("COURSE_CHECK_SEED", raising=False)
    assert len({inputs() for _ in range(4)}) == 4
    monkeypatch.setenv("COURSE_CHECK_SEED", "5")
    assert inputs() == inputs()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_answers_are_also_tried_on_the_graphics_card_where_the_notebook_uses_it():
    torch.zeros(1, device="cuda")
    for number in ("1.2", "1.3", "1.4", "2.2", "2.3", "2.4", "3.2", "3.4", "3.5"):
        for how, answer in RIGHT[number]:
            assert examined(number, *answer).status == "passed", (number, how)
    assert examined("1.3", lambda *a: rate(*(t.cpu() for t in a)).numpy()).status == "passed"
    seen = []
    examined("1.3", lambda m, *a: seen.append(m.device.type) or rate(m, *a))
    assert seen[-1] == "cuda"


# --- strictness and progress -----------------------------------------------------------------------------------


def test_only_strict_checks_raise(monkeypatch, capsys):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    checks.check("1.1", 6.8)
    assert "1.1 not right yet" in capsys.readouterr().out
    monkeypatch.setenv("COURSE_STRICT", "1")
    for answer in (6.8, ...):
        with pytest.raises(checks.CheckFailed, match="1.1 not"):
            checks.check("1.1", answer)
    checks.check("1.1", 3.4)
    assert "1.1 passed" in capsys.readouterr().out


def script(code, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "CVAE_"))}
    kept |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run([sys.executable, "-c", code], env=kept, text=True, capture_output=True, check=True).stdout


def test_progress_survives_a_restart_and_is_described(tmp_path):
    state = str(tmp_path / "a folder")
    start = "from cvae_lib.checks import check, progress\n"
    script(start + 'check("1.1", 3.4); check("1.5", 784); check("2.1", ..., ...)', CVAE_STATE=state)
    assert json.loads((tmp_path / "a folder" / "progress.json").read_text()) == {"1.1": "passed", "1.5": "tried"}
    script(start + 'check("1.1", 7); check("1.5", 3.07)', CVAE_STATE=state)  # once passed, it stays passed
    alt = script(start + "print(progress())", CVAE_STATE=state)
    assert "chapter 01: 2 of 8 exercises done (1.1, 1.5)" in alt and "chapter 02: 0 of 6" in alt
    assert "chapter 02" not in script(start + "print(progress(1))", CVAE_STATE=state)


def test_progress_lies_in_the_users_folder_and_only_for_a_user(tmp_path):
    code = 'from cvae_lib.checks import check\ncheck("1.1", 3.4)'
    home = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    for quiet in ("COURSE_STRICT", "COURSE_UNATTENDED"):
        script(code, **home, **{quiet: "1"})
    script(code, **home, COURSE_PROFILE="fast")
    assert not list(tmp_path.rglob("progress.json"))
    script(code, **home)
    assert len(list(tmp_path.rglob("progress.json"))) == 1


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"1.1": 3, "x": "passed"}'])
def test_a_damaged_progress_file_is_no_obstacle(text, tmp_path):
    path = tmp_path / "state" / "progress.json"
    path.parent.mkdir()
    path.write_text(text)
    checks.check("1.1", 3.4)
    assert checks._progress.recorded()["1.1"] == "passed"
    assert json.loads(path.read_text())["1.1"] == "passed"
    assert "1 of 8" in checks.progress(1).alt


def test_progress_that_cannot_be_written_is_said_once(monkeypatch, tmp_path, capsys):
    (tmp_path / "state").write_text("a file where the folder should be")
    checks.check("1.1", 3.4)
    checks.check("1.1", 3.4)
    assert capsys.readouterr().out.count("kept for this session only") == 1
    assert "1 of 8" in checks.progress(1).alt


# --- the notebooks ---------------------------------------------------------------------------------------------


def run(path, tmp_path, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
    kept |= {"COURSE_PROFILE": "fast", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    kept |= {"IPYTHONDIR": str(tmp_path / "ipython"), "CVAE_STATE": str(tmp_path / "state")} | environment
    command = [sys.executable, str(RUNNER), str(path)]
    return subprocess.run(command, env=kept, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.parametrize("stem", STEMS)
def test_a_blank_notebook_runs_from_top_to_bottom(stem, tmp_path):
    done = run(ROOT / "exercises" / f"{stem}.ipynb", tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    numbers = checks.numbers(int(stem[:2]))
    assert [line.split()[0] for line in done.stdout.splitlines() if " not attempted yet" in line] == numbers
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("stem", STEMS)
def test_a_solution_runs_and_passes_strictly(stem, tmp_path):
    done = run(ROOT / "solutions" / f"{stem}.ipynb", tmp_path, COURSE_STRICT="1")
    assert done.returncode == 0, done.stdout[-3000:]
    assert [line.split()[0] for line in done.stdout.splitlines() if " passed: " in line] == checks.numbers(
        int(stem[:2])
    )


@pytest.mark.parametrize("stem", STEMS)
def test_every_exercise_has_number_title_difficulty_minutes_check_and_two_hints(stem):
    cells = sources.expected(Target("exercises", stem, ROOT)).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    numbers = checks.numbers(int(stem[:2]))
    assert len(numbers) >= 4
    parts = re.split(r"^## (?=\d+\.\d+ · )", text, flags=re.M)[1:]
    assert [part.split(" · ")[0] for part in parts] == numbers
    minutes, kinds = 0, []
    for number, part in zip(numbers, parts, strict=True):
        kind, took = re.search(r"^\*([\w, ]+) · [★☆]{3} · (\d+) minutes\*$", part, re.M).groups()
        kinds.append(kind)
        minutes += int(took)
        assert part.count("<details>") == part.count("</details>") == 2
        assert f'check("{number}", ' in code
    assert {"By hand", "Implement", "Predict, then measure", "Open stretch"} == set(kinds)
    assert f"about {minutes} minutes" in text


def test_grading_marks_stand_on_every_answer_and_every_check():
    for stem in STEMS:
        source = sources.expected(Target("exercises", stem, ROOT))
        marks = [cell.metadata.get("nbgrader") for cell in source.cells]
        for cell, mark in zip(source.cells, marks, strict=True):
            if cell.cell_type == "code" and ("your code here" in cell.source or "check(" in cell.source):
                assert mark is not None, cell.source
                assert mark["solution"] == ("your code here" in cell.source)
                assert mark["grade"] == mark["locked"] == cell.source.startswith("check(")
        names = [mark["grade_id"] for mark in marks if mark]
        assert len(set(names)) == len(names)
