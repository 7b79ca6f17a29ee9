"""Saves and prunes of many threads in one transaction: whoever comes first commits for all who wait by then.

A thread that is alone commits at once and pays for a lock and a list. While it does, others gather; the first of them
commits for all of these next. So the flushes of a swarm follow the disk, and nobody waits for more than two of them.
"""

import threading
from collections.abc import Callable, Collection, Sequence

from durable_store.errors import StoreUnavailable
from durable_store.key import CheckpointKey

_MOST = 256  # changes in a group


class Change:
    """Something that one thread wants to be committed, and what came of it.

    Attributes:
        is_done: whether it is known what came of it.
        error: why it could not be done.
        taken: whether a group has it that is being committed.
        given_up: whether its thread waits no more: it was interrupted.
    """

    __slots__ = ("error", "given_up", "is_done", "taken", "turn")

    def __init__(self) -> None:
        self.is_done = False
        self.error: Exception | None = None
        self.taken = False
        self.given_up = False
        self.turn = threading.Lock()  # an Event would cost five times as much
        self.turn.acquire()

    def fail(self, error: Exception) -> None:
        """It could not be done."""
        self.error = error
        self.is_done = True

    def wake(self) -> None:
        """Ends the wait of its thread, which may have ended already."""
        if self.turn.locked():
            self.turn.release()


class Save(Change):
    """A record to be saved, and afterwards the one that is there."""

    __slots__ = ("key", "record", "step", "there")

    def __init__(self, key: CheckpointKey, step: int, record: bytes) -> None:
        super().__init__()
        self.key = key
        self.step = step
        self.record = self.there = record


class Prune(Change):
    """Steps to be removed, and afterwards whether the file could be much smaller."""

    __slots__ = ("key", "leaves_room", "steps")

    def __init__(self, key: CheckpointKey, steps: Collection[int]) -> None:
        super().__init__()
        self.key = key
        self.steps = list(steps)
        self.leaves_room = False


class Groups:
    """Gathers changes, and has them committed by one of the threads that wait for them.

    `commit` does each that it is given, or fails it; what it raises is raised by its thread alone.
    Whoever waits for longer than `patience` seconds gets the error that `busy` tells.
    """

    def __init__(self, commit: Callable[[Sequence[Change]], None], *, patience: float, busy: str) -> None:
        self._commit = commit
        self._patience = patience
        self._busy = busy
        self._lock = threading.Lock()
        self._waiting: list[Change] = []
        self._leader: Change | None = None

    def do(self, change: Change) -> None:
        """Returns when it is committed.

        Raises:
            StoreUnavailable, and whatever else is wrong with this change.
        """
        with self._lock:
            self._waiting.append(change)
            leads = self._leader is None
            if leads:
                self._leader = change
        try:
            if not leads:
                self._await_turn(change)
            if not change.is_done:
                self._lead()
        finally:
            self._leave(change)
        if change.error:
            raise change.error

    def _await_turn(self, change: Change) -> None:
        """Returns when the change is done, or is to lead."""
        while not change.turn.acquire(timeout=self._patience):
            with self._lock:
                if change.is_done or self._leader is change:  # and whoever was to wake us was interrupted
                    return
                if not change.taken:
                    self._waiting.remove(change)
                    raise StoreUnavailable(self._busy)

    def _lead(self) -> None:
        with self._lock:
            group = self._waiting[:_MOST]
            for change in group:
                change.taken = True
        try:
            self._commit(group)
        finally:
            with self._lock:
                self._waiting = [change for change in self._waiting if not (change.is_done or change.given_up)]
                for change in group:
                    change.taken = False
            for change in group:
                if change.is_done:
                    change.wake()

    def _leave(self, change: Change) -> None:
        """Whatever has become of it: it waits no more, and if it led, the first of those who wait does now."""
        with self._lock:
            change.given_up = not change.is_done
            if change in self._waiting and not change.taken:
                self._waiting.remove(change)
            if self._leader is change:
                self._leader = self._waiting[0] if self._waiting else None
                if self._leader:
                    self._leader.wake()
