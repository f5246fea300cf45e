"""Numbers of its own for each class: every edition can be solved, and every known mistake is still told apart."""

import pytest
import sources
from answers.models import ROOT, handed_in
from sources import SourceError, Target

from cvae_lib.course import checks
from cvae_lib.course.checks import _given, examined
from cvae_lib.course.checks._probe import Probe

EDITIONS = range(60)


@pytest.fixture(scope="module")
def every_number():
    """What an exercise by hand compares with, for all editions: (edition, number, place, right, mistakes)."""
    rows = []

    def noted(self, got, expected, mistakes=(), *, name="", tolerance=0.005):
        rows.append((self.edition, float(expected), dict(mistakes), tolerance))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Probe, "number", noted)
        for number in _given.CHOICES:
            answers = _registry_answers(number)
            for edition in EDITIONS:
                before = len(rows)
                examined(number, *(0.0 for _ in answers), edition=edition)
                assert len(rows) == before + len(answers)
                rows[before:] = [(number, *row) for row in rows[before:]]
    return rows


def _registry_answers(number):
    return checks._registry.EXERCISES[number].answers


def test_no_mistake_gives_the_right_answer_or_that_of_another(every_number):
    for number, edition, right, mistakes, tolerance in every_number:
        where = f"{number}, edition {edition}"
        values = [(name, other) for name, wrong in mistakes.items() for other in _several(wrong)]
        for place, (name, value) in enumerate(values):
            # Two digits after the point are asked for: whatever they are rounded to must be told apart.
            near = min(tolerance, 0.01 * abs(value))
            assert abs(value - right) > tolerance + near, f"{where}: {name} is right"
            for other, second in values[:place]:
                assert abs(value - second) > near or name == other, f"{where}: {name} looks like {other}"


def _several(wrong):
    return wrong if isinstance(wrong, tuple) else (wrong,)


def test_published_answers_are_wrong_in_every_other_edition(every_number):
    published = [(number, right) for number, edition, right, _, _ in every_number if edition == 0]
    for number, edition, right, _, tolerance in every_number:
        if edition:
            assert all(abs(right - known) > tolerance for at, known in published if at == number), (number, edition)


def test_editions_differ_and_are_always_the_same():
    for number in _given.CHOICES:
        drawn = [tuple(vars(_given.drawn(number, edition)).values()) for edition in EDITIONS]
        assert len(set(drawn)) > 4
        assert drawn == [tuple(vars(_given.drawn(number, edition)).values()) for edition in EDITIONS]


@pytest.mark.parametrize("edition", [1, 2, 3])
def test_the_worked_answers_of_an_edition_pass_in_it_and_in_no_other(edition, monkeypatch):
    expected = sources.expected
    monkeypatch.setattr(sources, "expected", lambda target: expected(target, edition))
    answers = handed_in("solutions", ["02_the_conditional_elbo"])
    assert examined("2.1", *answers["2.1"], edition=edition).status == "passed"
    assert examined("2.1", *answers["2.1"]).status == "wrong"
    with pytest.raises(checks.CheckFailed):
        checks.grade("2.1", *answers["2.1"])
    checks.grade("2.1", *answers["2.1"], edition=edition)


def test_a_number_that_is_not_given_is_refused():
    for text in ("{{ 1.1 height }}", "x = GIVEN_1_1_height", "{{ 1.9 std }}"):
        with pytest.raises(SourceError, match="is not given"):
            sources.numbered(text, "somewhere")
    assert sources.numbered("{{ 1.1 std }} GIVEN_1_1_variance", "somewhere") == "3 9"


def test_no_placeholder_is_left_in_any_notebook():
    for target in sources.targets(ROOT):
        if target.kind != "notebooks":
            text = "\n".join(cell.source for cell in sources.expected(Target(target.kind, target.stem), 5).cells)
            assert "{{" not in text and "GIVEN" not in text
