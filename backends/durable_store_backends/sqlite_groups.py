"""Saves of many threads in one transaction: whoever comes first commits for all who wait by then.

A thread that is alone commits at once and pays for a lock and a list. While it does, others gather; the first of them
commits for all of these next. So the flushes of a swarm follow the disk, and nobody waits for more than two of them.
"""

import threading
from collections.abc import Callable, Sequence

from durable_store.errors import StoreUnavailable
from durable_store.key import CheckpointKey

_MOST = 256  # saves in a group


class Save:
    """One save, and what came of it.

    Attributes:
        key, step, record: what is to be saved.
        there: the record that is there afterwards.
        error: why that is not known.
        taken: whether a group has it that is being committed.
        given_up: whether its thread waits no more: it was interrupted.
    """

    __slots__ = ("error", "given_up", "key", "record", "step", "taken", "there", "turn")

    def __init__(self, key: CheckpointKey, step: int, record: bytes) -> None:
        self.key = key
        self.step = step
        self.record = record
        self.there: bytes | None = None
        self.error: Exception | None = None
        self.taken = False
        self.given_up = False
        self.turn = threading.Lock()  # an Event would cost five times as much
        self.turn.acquire()

    @property
    def is_done(self) -> bool:
        """Whether it is known what came of it."""
        return self.there is not None or self.error is not None

    def wake(self) -> None:
        """Ends the wait of its thread, which may have ended already."""
        if self.turn.locked():
            self.turn.release()


class Groups:
    """Gathers saves, and has them committed by one of the threads that wait for them.

    `commit` sets `there` or `error` of each save that it is given; what it raises is raised by its thread alone.
    Whoever waits for longer than `patience` seconds gets the error that `busy` tells.
    """

    def __init__(self, commit: Callable[[Sequence[Save]], None], *, patience: float, busy: str) -> None:
        self._commit = commit
        self._patience = patience
        self._busy = busy
        self._lock = threading.Lock()
        self._waiting: list[Save] = []
        self._leader: Save | None = None

    def save(self, save: Save) -> bytes:
        """The record that is there afterwards.

        Raises:
            StoreUnavailable, and whatever else is wrong with this save.
        """
        with self._lock:
            self._waiting.append(save)
            leads = self._leader is None
            if leads:
                self._leader = save
        try:
            if not leads:
                self._await_turn(save)
            if not save.is_done:
                self._lead()
        finally:
            self._leave(save)
        if save.error:
            raise save.error
        assert save.there is not None  # noqa: S101 - a save that is done has the one or the other
        return save.there

    def _await_turn(self, save: Save) -> None:
        """Returns when the save is done, or is to lead."""
        while not save.turn.acquire(timeout=self._patience):
            with self._lock:
                if save.is_done or self._leader is save:  # and whoever was to wake us was interrupted
                    return
                if not save.taken:
                    self._waiting.remove(save)
                    raise StoreUnavailable(self._busy)

    def _lead(self) -> None:
        with self._lock:
            group = self._waiting[:_MOST]
            for save in group:
                save.taken = True
        try:
            self._commit(group)
        finally:
            with self._lock:
                self._waiting = [save for save in self._waiting if not (save.is_done or save.given_up)]
                for save in group:
                    save.taken = False
            for save in group:
                if save.is_done:
                    save.wake()

    def _leave(self, save: Save) -> None:
        """Whatever has become of it: it waits no more, and if it led, the first of those who wait does now."""
        with self._lock:
            save.given_up = not save.is_done
            if save in self._waiting and not save.taken:
                self._waiting.remove(save)
            if self._leader is save:
                self._leader = self._waiting[0] if self._waiting else None
                if self._leader:
                    self._leader.wake()
