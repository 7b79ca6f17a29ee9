"""The exam: all clauses, and what one of them is examined with."""

import os
import signal
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import NamedTuple, NoReturn

from durable_store import Store, open_store
from durable_store.backend import Backend, open_backend
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
from durable_store_conformance.process import OtherProcesses
from durable_store_conformance.registry import Clause, NotEvaluable, clauses_in
from durable_store_conformance.work import HANGS_AFTER

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
        NotEvaluable: this machine cannot tell.
    """
    __tracebackhide__ = True  # what pytest shows begins in the clause
    clause = case.clause
    if "a fork" in clause.needs and not hasattr(os, "fork"):
        raise NotEvaluable("this platform has no os.fork")
    exam = Exam(url)
    with _not_hung(10 * HANGS_AFTER if clause.group.name == "SIZE" else 2 * HANGS_AFTER):
        try:
            if "a race" in clause.needs and getattr(exam.backend, "fencing", True) is False:
                raise AssertionError("this store's fencing is off: who wins a race for a step is not decided")
            arguments = clause.cases[case.name]
            clause.examine(**arguments, **{name: getattr(exam, name) for name in clause.asks_for})
        finally:
            exam.end()


@contextmanager
def _not_hung(seconds: float) -> Generator[None]:
    """Fails a clause that takes longer: a broken backend must not hang the exam."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, _hung)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _hung(*_: object) -> NoReturn:
    raise TimeoutError("the clause does not come to its end")
