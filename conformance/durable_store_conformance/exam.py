"""The exam: all clauses, and what one of them is examined with."""

import os
from contextlib import ExitStack, suppress
from functools import cached_property
from typing import NamedTuple

from durable_store import Store, open_store
from durable_store.backend import Backend, open_backend
from durable_store_conformance import limits
from durable_store_conformance.clauses import (
    costs,
    damage,
    fences,
    fresh,
    ids,
    kills,
    outages,
    runs,
    sharing,
    sizes,
    stores,
    verbs,
)
from durable_store_conformance.limits import DidNotEnd, ends_within
from durable_store_conformance.process import OtherProcesses
from durable_store_conformance.registry import Clause, NotEvaluable, clauses_in

__all__ = ["CASES", "CLAUSES", "Case", "Exam", "examine"]


class Case(NamedTuple):
    """One examination: a clause, and one of its cases."""

    clause: Clause
    name: str

    def __str__(self) -> str:
        return "-".join(part for part in (self.clause.id, self.clause.name, self.name) if part)


CLAUSES = clauses_in(verbs, ids, sizes, fresh, kills, sharing, outages, stores, runs, costs, fences, damage)
"""Every clause there is, in the order of the report."""

CASES = [Case(clause, name) for clause in CLAUSES for name in clause.cases]
"""All that is examined."""


class Exam:
    """What a clause may ask for by the names of its parameters: made when asked for, closed by `end`.

    Attributes:
        url: of a store that nobody has written to, and that another process can open.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._stack = ExitStack()

    @cached_property
    def backend(self) -> Backend:
        """The backend of this process."""
        return self._opened()

    @cached_property
    def reopened(self) -> Backend:
        """A second backend object on the same URL: it has seen nothing of what the first one did."""
        return self._opened()

    @cached_property
    def store(self) -> Store:
        """The store of this process."""
        return self._stack.enter_context(open_store(self.url))

    @cached_property
    def another_process(self) -> OtherProcesses:
        """Starts other processes on the same URL."""
        processes = OtherProcesses(self.url)
        self._stack.callback(processes.end)
        return processes

    def end(self) -> None:
        """Closes what was opened, and ends the processes that were started."""
        self._stack.close()

    def _opened(self) -> Backend:
        backend = open_backend(self.url)
        self._stack.callback(backend.close)
        return backend


def examine(case: Case, url: str) -> None:
    """Examines one case on the store that the URL names.

    Raises:
        AssertionError: the promise does not hold. So says, in its own way, every other error but the next.
        NotEvaluable: this machine cannot tell, or not within the time that `limits` gives it.
    """
    __tracebackhide__ = True  # what pytest shows begins in the clause
    if "a fork" in case.clause.needs and not hasattr(os, "fork"):
        raise NotEvaluable("this platform has no os.fork")
    exam = Exam(url)
    try:
        try:
            _ask(case, exam)
        except BaseException:
            with suppress(DidNotEnd):  # what the clause came to counts
                _end(exam)
            raise
        _end(exam)
    except DidNotEnd as err:
        raise NotEvaluable(str(err)).with_traceback(err.__traceback__) from None
    if not limits.is_measured(url):  # now that its store may be written to
        with suppress(Exception), ends_within(limits.AGAIN):
            limits.measure(url)


def _ask(case: Case, exam: Exam) -> None:
    __tracebackhide__ = True
    clause = case.clause
    seconds = limits.SIZE_CLAUSE if clause.group.name == "SIZE" else limits.CLAUSE
    with ends_within(seconds * limits.slowness_of(exam.url)):
        if "a race" in clause.needs and getattr(exam.backend, "fencing", True) is False:
            raise AssertionError("this store's fencing is off: who wins a race for a step is not decided")
        arguments = clause.cases[case.name]
        clause.examine(**arguments, **{name: getattr(exam, name) for name in clause.asks_for})


def _end(exam: Exam) -> None:
    with ends_within(limits.CLEAN_UP * limits.slowness_of(exam.url)):
        exam.end()
