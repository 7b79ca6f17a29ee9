"""What all groups of clauses have in common: the one fixture to override, and those made of it."""

import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

import pytest

from durable_store import CheckpointKey, Store, open_store
from durable_store.backend import Backend, open_backend
from durable_store_conformance.child import HANGS_AFTER
from durable_store_conformance.process import OtherProcesses

KEY = CheckpointKey("goal", 0, "agent-0")


def _hung(*_: object) -> NoReturn:
    raise TimeoutError(f"the clause has not come to its end in {2 * HANGS_AFTER} s")


class Clauses:
    """A group of clauses. A backend's test class overrides `url` and nothing else: all the rest is the exam."""

    def __init_subclass__(cls) -> None:
        """Refuses a class in which a clause or a fixture hides another of its name.

        `test_x = None`, a weaker clause of the same name and a stand-in for `another_process` would all shrink the
        exam, and nobody would see it.
        """
        super().__init_subclass__()
        owners: dict[str, type] = {}
        for owner in cls.__mro__[:-1]:
            for name in vars(owner):
                if name == "url" or name.startswith("__") or name == "pytestmark":
                    continue
                if name in owners:
                    raise TypeError(
                        f"{owners[name].__name__}.{name} would replace {owner.__name__}.{name}: the clauses of the"
                        " conformance suite can be added to, and not left out or replaced; override `url` only"
                    )
                owners[name] = owner

    @pytest.fixture
    def url(self) -> str:
        """A URL that another process can open, of a store that nobody has written to."""
        raise NotImplementedError("override the fixture `url` of StoreConformance")

    @pytest.fixture(autouse=True)
    def not_hung(self) -> Iterator[None]:
        """Fails a clause that takes longer than two minutes: a broken backend must not hang the exam."""
        if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGALRM, _hung)
        signal.setitimer(signal.ITIMER_REAL, 2 * HANGS_AFTER)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    @pytest.fixture
    def backend(self, url: str) -> Iterator[Backend]:
        """The backend of this process."""
        backend = open_backend(url)
        yield backend
        backend.close()

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        """The store of this process."""
        with open_store(url) as store:
            yield store

    @pytest.fixture
    def races(self, backend: Backend) -> None:
        """Fails the clause on a store whose fencing is off.

        A clause that asks for it holds only where a record is created in one move unless one is there. It is not
        skipped: a store without that keeps less than what the protocol promises, and the report says so.
        """
        if getattr(backend, "fencing", True) is False:
            pytest.fail("this store's fencing is off: who wins a race for a step is not decided", pytrace=False)

    @pytest.fixture
    def another_process(self, url: str) -> Iterator[OtherProcesses]:
        """Starts other processes on the same URL.

        A clause that asks for it holds only where processes share what is stored: on `memory://` each of them fails.
        """
        processes = OtherProcesses(url)
        yield processes
        processes.end()
