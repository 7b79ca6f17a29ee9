"""The exam as `durable-store conformance URL` has it sat: by pytest, which sees nothing of the user's directory.

Imported while pytest runs, and not before: the asserts of the clauses are rewritten as they are imported.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import pytest

from durable_store import InvalidArgument
from durable_store_conformance.conformance import StoreConformance
from durable_store_conformance.exam import CLAUSES, Case
from durable_store_conformance.fresh_stores import FreshStores
from durable_store_conformance.plugin import case_of, results_in
from durable_store_conformance.registry import GROUPS, Clause
from durable_store_conformance.report import CaseResult, Report, report_of

_STORES = pytest.StashKey[FreshStores]()


class TestStore(StoreConformance):
    """The backend that the command's URL names."""

    @pytest.fixture
    def url(self, request: pytest.FixtureRequest) -> Iterator[str]:
        """A fresh store for each case."""
        with request.config.stash[_STORES].fresh() as url:
            yield url


class Watcher(Protocol):
    """Is told how the exam goes on."""

    def begins(self, cases: Sequence[Case]) -> None:
        """These are examined, in this order."""

    def starts(self, case: Case) -> None:
        """Now this one."""

    def ends(self, result: CaseResult) -> None:
        """This is what it came to."""


class Sitting:
    """A plugin of pytest that has a backend sit the exam, or a part of it, and takes the results down.

    Attributes:
        backend: the repr of what is examined, as soon as it was tried out.
        interrupted: whether Ctrl-C ended it.
        problem: how pytest broke down, if it did.
        left: what could not be removed afterwards, and why.

    Raises:
        InvalidArgument: no clause begins with one of the prefixes.
    """

    def __init__(self, config: pytest.Config, url: str, only: Sequence[str], watcher: Watcher) -> None:
        self._wanted = chosen(only)
        self._watcher = watcher
        self._results: list[CaseResult] = []
        self.interrupted = False
        self.problem = ""
        self._stores = FreshStores(url)
        self.left = self._stores.left
        config.stash[_STORES] = self._stores
        config.add_cleanup(self._stores.end)
        self.backend = ""

    def try_out(self) -> None:
        """Finds out whether there is anything to examine.

        Raises:
            InvalidURL: the URL names no usable backend.
            StoreUnavailable: a record cannot be saved there and read.
        """
        self.backend = self._stores.try_out()

    @property
    def report(self) -> Report:
        """On what was examined so far."""
        return report_of(CLAUSES, self._results, self._wanted)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leaves those that are wanted."""
        cases = [(item, case_of(item)) for item in items]
        wanted = [(item, case) for item, case in cases if case and case.clause in self._wanted]
        items[:] = [item for item, _ in wanted]
        self._watcher.begins([case for _, case in wanted])

    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Tells that a case begins, and leaves its examination to pytest."""
        case = case_of(item)
        if case:
            self._watcher.starts(case)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes down what a case came to."""
        for result in results_in(report):
            self._results.append(result)
            self._watcher.ends(result)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A clause that cannot be imported."""
        if report.failed:
            self.problem = f"the clauses cannot be loaded: {report.longreprtext.splitlines()[-1]}"

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Ctrl-C; an interruption of pytest's own is another type."""
        self.interrupted = excinfo.type is KeyboardInterrupt

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> bool:
        """Keeps pytest from printing it: the command says it in a line."""
        self.problem = f"pytest broke down: {excinfo.exconly()}"
        return True


def chosen(only: Sequence[str]) -> list[Clause]:
    """The clauses whose ids begin with one of the prefixes, upper or lower case; without a prefix, all.

    Raises:
        InvalidArgument: none begins with it.
    """
    prefixes = [prefix.upper() for prefix in only] or [""]
    for prefix in prefixes:
        if not any(clause.id.startswith(prefix) for clause in CLAUSES):
            groups = ", ".join(f"DS-{group}" for group in GROUPS)
            raise InvalidArgument(f"no clause begins with {prefix}: the groups are {groups}")
    return [clause for clause in CLAUSES if clause.id.startswith(tuple(prefixes))]
