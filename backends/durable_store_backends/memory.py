"""Records in a dict, for tests and as the sample to copy for a new backend.

Layout: `{(key, step): record}`. `memory://` is private to its store; `memory://name` is shared by all who open that
name in this process. Nothing survives the process: the conformance suite's fresh-process clauses must fail here.
"""

import os
import threading
import weakref
from collections.abc import Collection, Iterator
from typing import ClassVar, Self
from urllib.parse import SplitResult

from durable_store.errors import InvalidURL, StoreUnavailable
from durable_store.key import CheckpointKey


class _Records:
    """The records of one name, and the lock that makes each verb atomic."""

    everyone: ClassVar["weakref.WeakSet[_Records]"] = weakref.WeakSet()

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.of_key: dict[CheckpointKey, dict[int, bytes]] = {}
        self.everyone.add(self)


class MemoryBackend:
    """Keeps records in this process's memory, and loses them with it."""

    _shared: ClassVar[dict[str, _Records]] = {}

    def __init__(self, name: str = "") -> None:
        self._name = name
        self._records: _Records | None = self._shared.setdefault(name, _Records()) if name else _Records()

    @classmethod
    def from_url(cls, url: SplitResult) -> Self:
        if url.path.strip("/"):
            raise InvalidURL(f"memory:// takes one name and no path: memory://{url.netloc}, not {url.geturl()}")
        return cls(url.netloc)

    def __repr__(self) -> str:
        return f"MemoryBackend('memory://{self._name}')"

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        records = self._open()
        with records.lock:
            return records.of_key.setdefault(key, {}).setdefault(step, record)

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        records = self._open()
        with records.lock:
            return max(records.of_key.get(key, {}).items(), default=None)

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        records = self._open()
        with records.lock:
            there = records.of_key.get(key, {})
            for step in steps:
                there.pop(step, None)
            if not there:
                records.of_key.pop(key, None)

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        records = self._open()
        with records.lock:
            record = records.of_key.get(key, {}).get(step)
        return record if record is None else record[:first]

    def steps(self, key: CheckpointKey) -> list[int]:
        records = self._open()
        with records.lock:
            return sorted(records.of_key.get(key, {}), reverse=True)

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        records = self._open()
        with records.lock:
            found = [key for key in records.of_key if goal_id in (None, key.goal_id)]
        yield from found

    def close(self) -> None:
        self._records = None

    def _open(self) -> _Records:
        if self._records is None:
            raise StoreUnavailable(f"memory://{self._name} is closed")
        return self._records


def _renew_locks() -> None:
    """A fork may have copied a lock that a thread of the parent held; the dicts themselves are whole."""
    for records in _Records.everyone:
        records.lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)
