"""For pytest: tells at the end what each class that inherits StoreConformance came to, and its grade.

`pytest -p durable_store_conformance.plugin`, or `pytest_plugins = ["durable_store_conformance.plugin"]` in the
conftest.py at the root of your tests. A clause that is expected to fail and does, failed; one that was skipped was not
evaluable; a class of which something was deselected has no grade.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest

from durable_store_conformance import StoreConformance, clauses
from durable_store_conformance.exam import CLAUSES, Case
from durable_store_conformance.registry import NotEvaluable
from durable_store_conformance.report import CaseResult, Result, report_of

_PROPERTY = "durable_store_conformance"
_CLAUSES = Path(str(clauses.__file__)).parent
_MOST_LINES = 20
_LONGEST_LINE = 500  # characters: some clauses compare records of megabytes


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Writes what a case came to into its report: so it gets from a worker of pytest-xdist to where the lines are."""
    report = yield
    case = case_of(item)
    if case and (report.when == "call" or not report.passed):
        result = CaseResult(
            case.clause.id, case.name, _result(call, report), round(call.duration, 3), _message(call, report)
        )
        report.user_properties.append((_PROPERTY, asdict(result)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints a line for each class."""
    classes: dict[str, list[CaseResult]] = {}
    for reports in cast("dict[str, list[object]]", terminalreporter.stats).values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                name = report.nodeid.partition(f"::{StoreConformance.test_clause.__name__}[")[0]
                classes.setdefault(name, []).extend(results_in(report))
    lines = [f"{name}: {_summary(results)}" for name, results in sorted(classes.items()) if results]
    if lines:
        terminalreporter.section("conformance")
    for line in lines:
        terminalreporter.line(line)


def case_of(item: pytest.Item) -> Case | None:
    """The case that an item of pytest examines, if it is one of the exam."""
    if (
        isinstance(item, pytest.Function)
        and issubclass(item.cls or object, StoreConformance)
        and item.originalname == StoreConformance.test_clause.__name__
    ):
        return cast("Case", item.callspec.params["case"])
    return None


def results_in(report: pytest.TestReport) -> Iterator[CaseResult]:
    """What a report of pytest says of a case; nothing if it is of something else."""
    for name, value in report.user_properties:
        if name == _PROPERTY:
            yield CaseResult(**cast("dict[str, Any]", value))


def _summary(results: Iterable[CaseResult]) -> str:
    report = report_of(CLAUSES, results)
    counts = report.case_counts
    told = ", ".join(f"{count} {result}" for result, count in counts.items() if count or result == "held")
    return " ".join([f"{told} of {sum(counts.values())} cases; {report.verdict}.", *report.remarks])


def _result(call: pytest.CallInfo[None], report: pytest.TestReport) -> Result:
    if report.passed:
        return "held"
    skipped = report.skipped and not hasattr(report, "wasxfail")
    unable = call.excinfo is not None and call.excinfo.errisinstance(NotEvaluable)
    return "not evaluable" if skipped or unable or report.when == "setup" else "failed"


def _message(call: pytest.CallInfo[None], report: pytest.TestReport) -> str:
    """What was raised and by which statement of the clause, and the last that was written on stderr."""
    if report.passed:
        return ""
    if call.excinfo is None:
        return _shortened(report.longreprtext)
    frames = call.excinfo.traceback
    frame = next((each for each in reversed(frames) if Path(each.path).parent == _CLAUSES), frames[-1])
    statement = " ".join(str(frame.statement).split())
    where = f"at {Path(frame.path).name}:{frame.lineno + 1}: {statement}"
    stderr = [f"stderr: {line}" for line in report.capstderr.splitlines()[-5:]]
    return "\n".join([_shortened(call.excinfo.exconly(tryshort=True)), where[:_LONGEST_LINE], *stderr])


def _shortened(text: str) -> str:
    """The first lines and the last: an assertion begins with what is wrong, a traceback ends with it."""
    advice = "Use -v to get more diff"  # which the command has no option for
    lines = [line[:_LONGEST_LINE] for line in text.splitlines() if line.strip() not in {"", advice}]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES // 2 : -_MOST_LINES // 2] = ["…"]
    return "\n".join(lines)
