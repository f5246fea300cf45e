"""The checks of the exercises are checked: blanks, solutions, right answers of every kind, and known wrong ones."""

import count_checks
import pytest
import torch
from answers import RIGHT, WRONG
from answers.models import handed_in, wrong_models

from cvae_lib.checks import examined
from cvae_lib.checks._registry import EXERCISES

SEEDS = ("1", "2", "3")
BY_HAND = ("1.1", "1.5", "2.1", "3.1", "4.1", "5.1", "7.1", "8.1")
# Answers that are trained models; the rest are numbers, functions and classes.
TRAINED = ("1.7", "3.6", "3.7", "4.6", "5.6", "7.6", "8.6")
MEASURED = (*TRAINED, "2.5", "5.5")
IMPLEMENTED = [number for number in EXERCISES if number not in (*BY_HAND, *MEASURED)]


@pytest.fixture(scope="module")
def blanks():
    return handed_in("exercises")


@pytest.fixture(scope="module")
def solutions():
    return handed_in("solutions")


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
    assert verdict.hint in " ".join(str(verdict).split())


def test_a_wrong_model_gets_its_own_hint(solutions):
    rows = wrong_models(solutions)
    for number, mistake, how, answer in rows:
        verdict = examined(number, *answer)
        assert (verdict.status, verdict.mistake) == ("wrong", mistake), f"{how}\n{verdict}"
        assert verdict.hint == EXERCISES[number].hints[mistake]
    for number in TRAINED:
        assert {mistake for wanted, mistake, _, _ in rows if wanted == number} == set(EXERCISES[number].hints)


def test_every_hint_is_met_by_a_wrong_answer_and_says_something_of_its_own():
    for number, entry in EXERCISES.items():
        assert len(set(entry.hints.values())) == len(entry.hints)
        assert all(len(hint) > 20 for hint in entry.hints.values())
        if number not in TRAINED:
            assert {mistake for mistake, _, _ in WRONG[number]} == set(entry.hints), number
    for number in IMPLEMENTED:
        assert len(WRONG[number]) >= 3 and len(RIGHT[number]) >= 2


def test_the_count_names_what_is_not_met_as_it_should_be(solutions, monkeypatch, capsys):
    monkeypatch.setattr(count_checks, "handed_in", lambda kind: solutions)
    by_hand = [("std", "variance 3", (0.95,)), ("half", "no mistake at all", (3.40,))]
    monkeypatch.setattr(count_checks, "WRONG", {"2.1": [("half", "no 2 below", (0.36, -3.56))], "1.1": by_hand})
    monkeypatch.setattr(count_checks, "RIGHT", {"2.1": [("half the bound", (0.18, -1.69))]})
    assert count_checks.main(["2", "1"]) == 1
    *table, first, second = capsys.readouterr().out.splitlines()
    assert [line.split() for line in table[1:]] == [
        ["02", "6", "6", "7", "6", "1", "1"],
        ["01", "8", "8", "8", "8", "8", "7"],
        ["all", "14", "14", "15", "14", "9", "8"],
    ]
    assert first.startswith("2.1 right, half the bound: wrong")
    assert second == "1.1 wrong, no mistake at all: passed , not half"


def test_a_wrong_prediction_is_no_failure_but_is_remarked_on(solutions):
    _, honest, lied_to = solutions["3.6"]
    assert "as you predicted" in examined("3.6", 0.1, honest, lied_to).note
    assert "you predicted 0.90" in examined("3.6", 0.9, honest, lied_to).note
    assert "came out narrower" in examined("2.5", "wider", 0.436).note


def test_a_learners_model_stays_as_it_was(solutions):
    model = solutions["3.6"][1]
    model.train().zero_grad()
    model.lying_about = model.decode(torch.zeros(1, 4), torch.zeros(1).long())  # hangs on a graph
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert examined("3.6", 0.1, model, solutions["3.6"][2]).status == "passed"
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    del model.lying_about


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
