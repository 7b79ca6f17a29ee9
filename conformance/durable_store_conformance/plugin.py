"""For pytest: tells at the end what each class that inherits StoreConformance came to, and its grade.

pytest loads it by itself wherever durable-store is installed, and so it imports nothing of the exam: where nobody has
imported StoreConformance there is nothing to tell. A clause that is expected to fail and does, failed; one that was
skipped was not evaluable; a class of which something was deselected or replaced has no grade.
"""

import sys
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from durable_store_conformance.conformance import StoreConformance
    from durable_store_conformance.exam import Case
    from durable_store_conformance.report import CaseResult, Result

_PROPERTY = "durable_store_conformance"
_TEST = "test_clause"
_COLLECTED = pytest.StashKey[set[str]]()
_CLAUSES = Path(__file__).parent / "clauses"
_MOST_LINES = 20
_LONGEST_LINE = 500  # characters: some clauses compare records of megabytes


def pytest_itemcollected(item: pytest.Item) -> None:
    """Takes down the classes that there are, before anybody deselects a part of them."""
    if _inherits(item):
        item.config.stash.setdefault(_COLLECTED, set()).add(_class_of(item.nodeid))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Writes what a case came to into its report: so it gets from a worker of pytest-xdist to where the lines are."""
    report = yield
    case = case_of(item)
    if case and (report.when == "call" or not report.passed):
        result = {
            "clause": case.clause.id,
            "case": case.name,
            "result": _result(call, report),
            "seconds": round(call.duration, 3),
            "message": _message(call, report),
        }
        report.user_properties.append((_PROPERTY, result))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells which classes it has collected."""
    told: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if told is not None:
        told[_PROPERTY] = sorted(session.config.stash.get(_COLLECTED, ()))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes down what a worker has told; one that crashed told nothing."""
    told: dict[str, list[str]] = getattr(node, "workeroutput", {})
    node.config.stash.setdefault(_COLLECTED, set()).update(told.get(_PROPERTY, ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints a line for each class, for one of which nothing was examined too."""
    if config.option.collectonly:
        return
    classes: dict[str, list[CaseResult]] = {name: [] for name in config.stash.get(_COLLECTED, ())}
    skipped = Counter[str]()
    for reports in cast("dict[str, list[object]]", terminalreporter.stats).values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and (results := list(results_in(report))):
                classes.setdefault(_class_of(report.nodeid), []).extend(results)
                skipped[_class_of(report.nodeid)] += report.skipped and not hasattr(report, "wasxfail")
    if classes:
        terminalreporter.section("conformance")
    for name, results in sorted(classes.items()):
        terminalreporter.line(f"{name}: {_summary(results, skipped[name])}")


def case_of(item: pytest.Item) -> "Case | None":
    """The case that an item of pytest examines, if it is one of the exam and not another test in its place."""
    suite = _suite()
    if (
        suite
        and isinstance(item, pytest.Function)
        and _inherits(item)
        and item.originalname == _TEST
        and cast("object", getattr(item, "function", None)) is suite.test_clause
    ):
        return cast("Case", item.callspec.params["case"])
    return None


def results_in(report: pytest.TestReport) -> "Iterator[CaseResult]":
    """What a report of pytest says of a case; nothing if it is of something else."""
    told = [cast("dict[str, Any]", value) for name, value in report.user_properties if name == _PROPERTY]
    if told:
        from durable_store_conformance.report import CaseResult  # noqa: PLC0415 - see the docstring of the module

        yield from (CaseResult(**each) for each in told)


def _suite() -> "type[StoreConformance] | None":
    """The class that is inherited; None as long as nobody has imported it."""
    module = sys.modules.get("durable_store_conformance.conformance")
    return getattr(module, "StoreConformance", None)


def _inherits(item: pytest.Item) -> bool:
    suite = _suite()
    return suite is not None and isinstance(item, pytest.Function) and issubclass(item.cls or object, suite)


def _class_of(nodeid: str) -> str:
    return nodeid.partition("[")[0].rpartition("::")[0]


def _summary(results: "Iterable[CaseResult]", skipped: int) -> str:
    from durable_store_conformance.exam import CLAUSES  # noqa: PLC0415 - see the docstring of the module
    from durable_store_conformance.report import report_of  # noqa: PLC0415

    report = report_of(CLAUSES, results)
    counts = report.case_counts
    told = ", ".join(f"{count} {result}" for result, count in counts.items() if count or result == "held")
    remarks = [f"{skipped} cases were skipped, which is no pass."] if skipped else []
    return " ".join([f"{told} of {sum(counts.values())} cases; {report.verdict}.", *remarks, *report.remarks])


def _result(call: pytest.CallInfo[None], report: pytest.TestReport) -> "Result":
    from durable_store_conformance.registry import NotEvaluable  # noqa: PLC0415 - see the docstring of the module

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
