import json
from collections.abc import Iterable

import pytest

from durable_store_conformance.exam import CLAUSES
from durable_store_conformance.registry import Clause, Need
from durable_store_conformance.report import NOT_FOUND, NOT_SHOWN, CaseResult, Grade, Result, report_of


def a_clause(number: str, *cases: str, needs: Iterable[Need] = ()) -> Clause:
    def the_promise_holds() -> None: ...

    return Clause(number, "A promise.", the_promise_holds, {case: {} for case in cases or ("",)}, frozenset(needs))


SAVE = a_clause("DS-SAVE-01")
FRESH = a_clause("DS-FRESH-01", needs=["another process"])
IDS = a_clause("DS-ID-01", "long", "short")
FENCE = a_clause("DS-FENCE-01")
RACE = a_clause("DS-SAVE-02", needs=["a race"])
ALL = [SAVE, FRESH, IDS, FENCE, RACE]
HELD = [CaseResult(clause.id, case, "held", 1) for clause in ALL for case in clause.cases]


def but(clause: Clause, result: Result, case: str = "") -> list[CaseResult]:
    """All held, but for this case."""
    return [
        CaseResult(each.clause, each.case, result, 1, "why") if (each.clause, each.case) == (clause.id, case) else each
        for each in HELD
    ]


@pytest.mark.parametrize(
    ("results", "grade", "status"),
    [
        (HELD, "full", 0),
        (but(FENCE, "failed"), "base", 1),
        (but(RACE, "failed"), "base", 1),  # who wins a race concerns several agents
        (but(FENCE, "not evaluable"), "base", 3),
        (but(SAVE, "failed"), "none", 1),
        (but(SAVE, "not evaluable"), "none", 3),
        (but(IDS, "failed", "short"), "none", 1),
        (but(FENCE, "not asked"), None, 3),
        (but(IDS, "not asked", "long"), None, 3),
        ([], None, 3),
    ],
)
def test_the_grade_and_the_exit_status(results: list[CaseResult], grade: Grade | None, status: int) -> None:
    report = report_of(ALL, results)
    assert (report.grade, report.status) == (grade, status)
    assert report.verdict.startswith(f"grade {grade}" if grade else "no grade")


def test_a_part_of_the_exam_has_no_grade_and_its_exit_status_is_that_of_the_part() -> None:
    held = report_of(ALL, [CaseResult(SAVE.id, "", "held")], wanted=[SAVE])
    assert (held.grade, held.status) == (None, 0)
    assert held.verdict == "no grade: the exam was sat in part, 1 of 5 clauses"
    failed = report_of(ALL, [CaseResult(SAVE.id, "", "failed")], wanted=[SAVE])
    assert (failed.grade, failed.status) == (None, 1)
    broken_off = report_of(ALL, [CaseResult(SAVE.id, "", "held")], wanted=[SAVE, FENCE])
    assert (broken_off.grade, broken_off.status) == (None, 3)


def test_what_holds_now_and_then_does_not_hold() -> None:
    for results in ([*HELD, CaseResult(SAVE.id, "", "failed")], [CaseResult(SAVE.id, "", "failed"), *HELD]):
        assert report_of(ALL, results).grade == "none"


def test_clauses_and_cases_are_counted() -> None:
    report = report_of(ALL, but(IDS, "failed", "short"))
    assert report.counts == {"held": 4, "failed": 1, "not evaluable": 0, "not asked": 0}
    assert report.case_counts == {"held": 5, "failed": 1, "not evaluable": 0, "not asked": 0}


def test_the_grade_none_names_base_clauses_alone_and_not_all_of_many() -> None:
    report = report_of(ALL, [*but(SAVE, "failed"), CaseResult(FENCE.id, "", "failed")])
    assert report.verdict == "grade none: base clauses did not hold: DS-SAVE-01"
    failed = report_of(CLAUSES, [CaseResult(clause.id, case, "failed") for clause in CLAUSES for case in clause.cases])
    base = sum(clause.base for clause in CLAUSES)
    assert failed.verdict.endswith(f"DS-LATEST-01 and {base - 6} more")


@pytest.mark.parametrize(
    ("result", "message", "told"),
    [
        ("failed", f"AssertionError: {NOT_FOUND}\nassert None is not None", True),
        ("failed", "AssertionError: assert 3 == 4", False),
        ("held", "", False),
        ("not evaluable", f"Skipped: {NOT_FOUND}", False),
    ],
)
def test_a_store_that_a_fresh_process_finds_nothing_in_is_told_so(result: Result, message: str, *, told: bool) -> None:
    found = [each for each in HELD if each.clause != FRESH.id]
    remarks = report_of(ALL, [*found, CaseResult(FRESH.id, "", result, 1, message)]).remarks
    assert ["memory of one process" in remark for remark in remarks] == [True] * told


def test_json_has_each_clause_with_its_cases() -> None:
    told = json.loads(json.dumps(report_of(ALL, but(IDS, "failed", "short")).as_json({"url": "mine://"})))
    assert list(told) == [
        "url", "grade", "verdict", "counts", "case_counts", "remarks", "not_shown", "clauses",
    ]  # fmt: skip
    assert told["not_shown"] == list(NOT_SHOWN)
    assert [clause["id"] for clause in told["clauses"]] == [clause.id for clause in ALL]
    assert told["clauses"][2] == {
        "id": "DS-ID-01",
        "group": "ID",
        "name": "the_promise_holds",
        "promise": "A promise.",
        "needs": [],
        "base": True,
        "result": "failed",
        "seconds": 2,
        "cases": [
            {"case": "long", "result": "held", "seconds": 1, "message": ""},
            {"case": "short", "result": "failed", "seconds": 1, "message": "why"},
        ],
    }
    assert told["clauses"][1]["needs"] == ["another process"]
    assert told["clauses"][4]["base"] is False
