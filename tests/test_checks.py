"""The checks of the exercises are checked: solutions, right answers of every kind, and known wrong ones."""

import count_checks
import pytest
import torch
from answers import RIGHT, WRONG
from answers.models import of_chapter, wrong_models

from cvae_lib.course.checks import examined, numbers
from cvae_lib.course.checks._registry import EXERCISES

SEEDS = ("1", "2", "3")
# Answers that are trained models: their wrong ones are trained as well, and stand in answers/models.py.
TRAINED = [number for number in EXERCISES if number not in WRONG]
CHAPTERS = sorted({entry.chapter for entry in EXERCISES.values()})


def pytest_generate_tests(metafunc):
    """Give the tests of a chapter's class that chapter's exercises and answers."""
    chapter = getattr(metafunc.cls, "chapter", None)
    names = metafunc.fixturenames
    if chapter is None:
        return
    if "mistake" in names:
        rows = [(n, *row) for n in numbers(chapter) for row in WRONG.get(n, [])]
        metafunc.parametrize(("number", "mistake", "how", "answer"), rows)
    elif "how" in names:
        rows = [(n, *row) for n in numbers(chapter) for row in RIGHT.get(n, [])]
        metafunc.parametrize(("number", "how", "answer"), rows)
    elif "number" in names:
        metafunc.parametrize("number", numbers(chapter))


# --- solution, right, wrong: a class for each chapter, so that two workers share them ------------------


class OneChapter:
    """What every chapter's checks must do."""

    chapter: int

    def test_the_solution_passes(self, number):
        assert examined(number, *of_chapter("solutions", self.chapter)[number]).status == "passed"

    @pytest.mark.parametrize("seed", SEEDS)
    def test_an_equivalent_answer_passes(self, number, how, answer, seed, monkeypatch):
        monkeypatch.setenv("COURSE_CHECK_SEED", seed)
        verdict = examined(number, *answer)
        assert verdict.status == "passed", f"{how}\n{verdict}"

    @pytest.mark.parametrize("seed", SEEDS)
    def test_a_known_wrong_answer_gets_its_own_hint(self, number, mistake, how, answer, seed, monkeypatch):
        monkeypatch.setenv("COURSE_CHECK_SEED", seed)
        verdict = examined(number, *answer)
        assert (verdict.status, verdict.mistake) == ("wrong", mistake), f"{how}\n{verdict}"
        assert verdict.hint == EXERCISES[number].hints[mistake]
        assert verdict.hint in " ".join(str(verdict).split())

    def test_a_wrong_model_gets_its_own_hint(self):
        rows = wrong_models(self.chapter)
        for number, mistake, how, answer in rows:
            verdict = examined(number, *answer)
            assert (verdict.status, verdict.mistake) == ("wrong", mistake), f"{how}\n{verdict}"
            assert verdict.hint == EXERCISES[number].hints[mistake]
        for number in set(TRAINED) & set(numbers(self.chapter)):
            assert {mistake for wanted, mistake, _, _ in rows if wanted == number} == set(EXERCISES[number].hints)


class TestChapter03(OneChapter):
    """And what is best seen on its models."""

    chapter = 3

    def test_a_wrong_prediction_is_no_failure_but_is_remarked_on(self):
        _, honest, lied_to = of_chapter("solutions", 3)["3.6"]
        assert "as you predicted" in examined("3.6", 0.1, honest, lied_to).note
        assert "you predicted 0.90" in examined("3.6", 0.9, honest, lied_to).note
        assert "came out narrower" in examined("2.5", "wider", 0.436).note

    def test_a_learners_model_stays_as_it_was(self):
        _, model, lied_to = of_chapter("solutions", 3)["3.6"]
        model.train().zero_grad()
        model.lying_about = model.decode(torch.zeros(1, 4), torch.zeros(1).long())  # hangs on a graph
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert examined("3.6", 0.1, model, lied_to).status == "passed"
        assert model.training and all(parameter.grad is None for parameter in model.parameters())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        del model.lying_about


for _chapter in CHAPTERS:
    _name = f"TestChapter{_chapter:02d}"
    globals().setdefault(_name, type(_name, (OneChapter,), {"chapter": _chapter, "__module__": __name__}))


# --- what holds for all ---------------------------------------------------------------------------------------


def test_every_exercise_is_examined_in_the_class_of_its_chapter():
    assert set(RIGHT) | set(WRONG) <= set(EXERCISES)
    assert sorted(number for chapter in CHAPTERS for number in numbers(chapter)) == sorted(EXERCISES)


def test_every_hint_is_met_by_a_wrong_answer_and_says_something_of_its_own():
    for number, entry in EXERCISES.items():
        assert len(set(entry.hints.values())) == len(entry.hints)
        assert all(len(hint) > 20 for hint in entry.hints.values())
        if number not in TRAINED:
            assert {mistake for mistake, _, _ in WRONG[number]} == set(entry.hints), number
            assert len(WRONG[number]) >= 3 and len(RIGHT[number]) >= 2, number


def test_the_count_names_what_is_not_met_as_it_should_be(monkeypatch, capsys):
    solved = {"2.1": (0.18, -3.38), "1.1": (3.40,)}
    monkeypatch.setattr(count_checks, "numbers", {2: ["2.1"], 1: ["1.1"]}.get)
    monkeypatch.setattr(count_checks, "of_chapter", lambda kind, chapter: solved)
    monkeypatch.setattr(count_checks, "wrong_models", lambda chapter: [])
    by_hand = [("std", "variance 3", (0.95,)), ("half", "no mistake at all", (3.40,))]
    monkeypatch.setattr(count_checks, "WRONG", {"2.1": [("half", "no 2 below", (0.36, -3.56))], "1.1": by_hand})
    monkeypatch.setattr(count_checks, "RIGHT", {"2.1": [("half the bound", (0.18, -1.69))]})
    assert count_checks.main(["2", "1"]) == 1
    *table, first, second = capsys.readouterr().out.splitlines()
    assert [line.split() for line in table[1:]] == [
        ["02", "1", "1", "2", "1", "1", "1"],
        ["01", "1", "1", "1", "1", "2", "1"],
        ["all", "2", "2", "3", "2", "3", "2"],
    ]
    assert first.startswith("2.1 right, half the bound: wrong")
    assert second == "1.1 wrong, no mistake at all: passed , not half"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_answers_are_also_tried_on_the_graphics_card_where_the_notebook_uses_it():
    torch.zeros(1, device="cuda")
    rate = RIGHT["1.3"][0][1][0]
    for number in ("1.2", "1.3", "1.4", "2.2", "2.3", "2.4", "3.2", "3.4", "3.5"):
        for how, answer in RIGHT[number]:
            assert examined(number, *answer).status == "passed", (number, how)
    assert examined("1.3", lambda *a: rate(*(t.cpu() for t in a)).numpy()).status == "passed"
    seen = []
    examined("1.3", lambda m, *a: seen.append(m.device.type) or rate(m, *a))
    assert seen[-1] == "cuda"
