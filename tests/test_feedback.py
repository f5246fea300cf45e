"""What a learner sees and keeps: common mistakes named, a limited time, a notebook left as it was, progress."""

import _thread
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
import torch
from answers import RIGHT
from answers.chapter_01 import with_decode
from answers.chapter_03 import Hears
from torch import nn

from cvae_lib.conditions import LabelCondition
from cvae_lib.course import checks
from cvae_lib.course.checks import _registry, examined
from cvae_lib.course.checks._probe import Probe
from cvae_lib.course.checks._registry import EXERCISES
from cvae_lib.course.checks._verdict import Wrong, shown

ROOT = Path(__file__).resolve().parent.parent
rate = RIGHT["1.3"][0][1][0]


@pytest.fixture(autouse=True)
def _progress_of_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("CVAE_STATE", str(tmp_path / "state"))


@pytest.fixture(autouse=True)
def _no_run_goes_on_into_the_next_test():
    yield
    for thread in [thread for thread in threading.enumerate() if thread.name == "check"]:
        thread.join(60)
        assert not thread.is_alive()


# --- mistakes of no exercise in particular ---------------------------------------------------------------------


def in_place(mean, log_variance, prior_mean, prior_log_variance):
    result = rate(mean, log_variance, prior_mean, prior_log_variance)
    log_variance.exp_()
    return result


@pytest.mark.parametrize(
    ("mistake", "answer"),
    [
        ("nothing", lambda *a: None),
        ("kind", lambda *a: "0.3"),
        ("shape", lambda *a: rate(*a)[:1].repeat(9)),
        ("axis of one", lambda *a: rate(*a)[:, None]),
        ("axis left", lambda *a: rate(*a) + rate(*a)[:, None]),
        ("axis lost", lambda *a: rate(*a)[0] + 1),
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
    assert examined("1.1", torch.zeros(3)).mistake == "one number"
    assert examined("1.1", "3.4").mistake == "kind"


def test_a_failure_shows_input_expected_got_and_hint():
    text = str(examined("1.3", lambda *a: -rate(*a)))
    assert text.startswith("1.3 not right yet: the KL between any two Gaussians\n")
    assert [line.split()[0] for line in text.splitlines()[1:] if line[2] != " "] == ["on", "expected", "got", "hint"]


def test_a_long_sentence_is_folded_and_stays_in_its_column():
    *_, hint, rest = str(examined("1.3", lambda *a: rate(*a).mean())).splitlines()
    assert hint.startswith("  hint      You also") and rest.startswith(" " * 12) and len(hint) <= 96


def test_of_a_large_answer_the_first_row_that_differs_is_shown():
    rows = RIGHT["3.2"][0][1][0]

    def one_wrong(y, classes):
        out = rows(y, classes)
        out[2] = 0.5
        return out

    verdict = examined("3.2", one_wrong)
    assert verdict.expected.startswith("row 2 of ") and verdict.got.startswith("row 2 of ")
    assert verdict.got.split(": ")[1].startswith("[0.5, 0.5, 0.5") and verdict.expected != verdict.got


def test_of_a_long_list_only_the_beginning_is_shown():
    assert shown([0.25] * 800) == "(" + 6 * "0.25, " + "... 800 in all)"
    assert shown((1, 2.0)) == "(1, 2)"


def test_a_number_that_lies_near_another_mistake_by_chance_gets_its_own_hint():
    trial = Probe({"chance": "the other", "own": "its own"}, seed=0).trial()
    near, exact = torch.tensor(1.0005), torch.tensor(1.0)
    for mistakes, named in (({"chance": near, "own": exact}, "own"), ({"chance": near}, "chance")):
        with pytest.raises(Wrong) as found:
            trial.compare(1.0, torch.tensor(2.0), mistakes)
        assert found.value.found["mistake"] == named


def test_two_results_are_printed_by_name_and_one_in_place_of_two_is_said_so():
    posterior = RIGHT["2.2"][0][1][0]
    verdict = examined("2.2", lambda *a: (posterior(*a)[0], posterior(*a)[1] + 1))
    assert verdict.mistake == "unknown"
    for text in (verdict.expected, verdict.got):
        assert [line.split(": ")[0] for line in text.splitlines()] == ["mean", "variance"]
    assert examined("2.2", lambda *a: (posterior(*a)[0], posterior(*a)[1][:, None])).mistake == "axis of one"
    assert examined("2.2", lambda *a: posterior(*a)[0]).mistake == "two things"
    assert examined("2.1", 0.18, -1.0).on == "your `bound`"


def test_models_are_asked_for_and_have_to_return_logits():
    assert examined("1.7", torch.tensor(206.0), 3).mistake in ("no model", "by hand")
    assert examined("4.6", 3).mistake == "no model"
    for mistake, answer in (("no logits", torch.sigmoid), ("rectified", torch.relu)):
        assert examined("4.6", with_decode(answer, Hears)()).mistake == mistake
        assert examined("3.7", with_decode(answer, Hears)()).mistake == mistake


def test_a_learners_exception_is_theirs_and_short():
    def broken(mean, log_variance, *prior):
        return torch.ones(2, 3) @ torch.ones(2)

    verdict = examined("1.3", broken)
    assert verdict.status == "raised" and verdict.got.startswith("RuntimeError: ")
    assert re.fullmatch(r"line \d+ of `broken`:  return torch.ones\(2, 3\) @ torch.ones\(2\)", verdict.hint)
    assert len(str(verdict).splitlines()) < 10 and "/" not in verdict.hint


def test_an_exception_out_of_the_library_is_told_by_the_learners_own_line():
    verdict = examined("1.3", lambda *a: LabelCondition(3)(torch.tensor([7])))
    assert verdict.status == "raised" and verdict.got.startswith("ValueError: ")
    assert "LabelCondition(3)(torch.tensor([7]))" in verdict.hint


def test_wrong_arguments_endless_recursion_and_exit_are_exceptions_too():
    def endless(*given):
        return endless(*given)

    assert "positional argument" in examined("1.3", lambda mean: mean).got
    assert examined("1.3", endless).got.startswith("RecursionError")
    assert examined("1.3", lambda *a: sys.exit(3)).status == "raised"
    assert examined("1.6", nn.Linear(3, 4)).status in ("raised", "wrong")
    assert "`encode`" in examined("1.6", nn.Identity).expected
    without_forward = type("Bare", (nn.Module,), {"encode": lambda self, x: self(x)})
    assert 'missing the required "forward"' in examined("1.6", without_forward).got


def test_a_blank_inside_an_answer_is_named():
    def piece(*given):
        raise NotImplementedError("your code here")

    verdict = examined("1.3", lambda *a: piece(*a))
    assert verdict.status == "not attempted" and verdict.note == "`piece` is still blank"
    assert examined("1.3", lambda *a: ...).status == "not attempted"
    assert examined("1.3", ...).status == "not attempted"
    some = examined("3.6", 0.1, ..., ...)
    assert some.status == "not attempted" and some.note == "`honest` and `lied_to` are still blank"
    assert examined("2.1", 0.18, ...).note == "`bound` is still blank" and not examined("2.1", ..., ...).note


def test_unknown_exercises_and_wrong_numbers_of_answers_are_refused():
    with pytest.raises(ValueError, match=r"no exercise '9.9'; there are 1.1, "):
        checks.check("9.9", 1)
    with pytest.raises(ValueError, match=r"wants check\('2.1', gap, bound\), and got 1"):
        checks.check("2.1", 0.18)
    with pytest.raises(ValueError, match="Chapter 99 has no exercises"):
        checks.progress(99)


# --- a limited time, and nothing changed -----------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    """Give every exercise half a second."""
    quick = {n: _registry.Exercise(e.number, e.title, e.examine, e.hints, 0.5) for n, e in EXERCISES.items()}
    monkeypatch.setattr(_registry, "EXERCISES", quick)


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


def test_an_interrupt_reaches_the_learner_and_ends_what_ran():
    def pressed(*given):
        _thread.interrupt_main()
        forever()

    with pytest.raises(KeyboardInterrupt):
        examined("1.3", pressed)
    left = [thread for thread in threading.enumerate() if thread.name == "check"]
    for thread in left:
        thread.join(30)
    assert not any(thread.is_alive() for thread in left)


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()


@pytest.mark.usefixtures("as_users_call")  # the annotation checks draw from `random`
@pytest.mark.parametrize("answer", [rate, forever, lambda *a: torch.manual_seed(1) and random.random() and None])
def test_random_numbers_and_settings_stay_as_they_were(answer, impatient):
    before, dtype, stack = states(), torch.get_default_dtype(), threading.stack_size()
    examined("1.3", answer)
    assert states() == before and torch.get_default_dtype() == dtype and threading.stack_size() == stack


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
    start = "from cvae_lib.course.checks import check, progress\n"
    script(start + 'check("1.1", 3.4); check("1.5", 784); check("2.1", ..., ...)', CVAE_STATE=state)
    assert json.loads((tmp_path / "a folder" / "progress.json").read_text()) == {"1.1": "passed", "1.5": "tried"}
    script(start + 'check("1.1", 7); check("1.5", 3.07)', CVAE_STATE=state)  # once passed, it stays passed
    alt = script(start + "print(progress())", CVAE_STATE=state)
    assert "Chapter 01: 2 of 8 exercises done (1.1, 1.5); chapter 02: 0 of 6 exercises done;" in alt
    assert "chapter 02" not in script(start + "print(progress(1))", CVAE_STATE=state)


def test_progress_lies_in_the_users_folder_and_only_for_a_user(tmp_path):
    code = 'from cvae_lib.course.checks import check\ncheck("1.1", 3.4)'
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
    assert json.loads(path.read_text())["1.1"] == "passed"
    assert "1 of 8" in checks.progress(1).alt


def test_progress_that_cannot_be_written_is_said_once_and_after_the_verdict(tmp_path, capsys):
    (tmp_path / "state").write_text("a file where the folder should be")
    checks.check("1.1", 3.4)
    checks.check("1.1", 3.4)
    checks.check("1.5", 3.072)
    said = capsys.readouterr().out
    assert said.count("kept for this session only") == 1
    assert said.index("1.1 passed") < said.index("kept for this session only") < said.index("1.5 passed")
    assert "2 of 8" in checks.progress(1).alt


# As in containers and batch jobs: no HOME, and a user id of which the system knows no more than its number.
NOBODY = "import os\nos.environ.pop('HOME', None)\nos.getuid = lambda: 987654321\n"


def test_without_a_home_the_verdict_comes_all_the_same():
    code = NOBODY + (
        'from cvae_lib.course.checks import check, progress\ncheck("1.1", 3.4)\ncheck("1.5", 7)\nprint(progress(1))'
    )
    first, *_ = said = script(code, XDG_STATE_HOME="").splitlines()
    assert first.startswith("1.1 passed")
    (why,) = (line for line in said if "this session only" in line)
    assert "no home folder" in why and "CVAE_STATE" in why
    assert "1 of 8 exercises done (1.1)" in said[-1]


def test_a_terminal_that_knows_only_ascii_gets_the_hint_too():
    said = script(
        "from cvae_lib.course.checks import check\ncheck('1.1', 1.5)\ncheck('1.1', 6.8)", PYTHONIOENCODING="ascii"
    )
    assert said.count("1.1 not right yet") == 2 and "what became of the ? in front of the sum" in said
