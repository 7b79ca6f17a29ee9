"""Mistakes about the steps of a key: their order, and which of them go."""

import hashlib
import itertools
import os
import time
from collections.abc import Collection, Iterator

from durable_store import CheckpointConflict, CheckpointKey
from durable_store_backends.files import FileBackend
from durable_store_backends.memory import MemoryBackend
from durable_store_backends.sqlite import SqliteBackend
from tests.mutants.mutant import Files, caught_by


@caught_by("DS-LATEST-02")
class LatestByTimeStamp(Files):
    """Takes the record that was written last for the newest."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        there = super().save(key, step, record)
        os.utime(self.file(key, step), ns=(time.time_ns(), time.time_ns()))
        return there

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        there = {self.file(key, step).stat().st_mtime_ns: step for step in self.steps(key)}
        if not there:
            return None
        record = self.load(key, there[max(there)])
        return record if record is None else (there[max(there)], record)


@caught_by("DS-LATEST-02")
class LatestByListingOrder(FileBackend):
    """Takes the first name that a directory lists, which is in the order of their hashes on many a file system."""

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        for step in sorted(self.steps(key), key=lambda step: hashlib.sha256(str(step).encode()).digest()):
            record = self.load(key, step)
            return record if record is None else (step, record)
        return None


@caught_by("DS-LATEST-02")
class KeepsStepsAsText(SqliteBackend):
    """Has its step in a column of text, where 9 comes after 10."""

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        for step in self.steps(key):
            record = self.load(key, step)
            return record if record is None else (step, record)
        return None

    def steps(self, key: CheckpointKey) -> list[int]:
        return sorted(super().steps(key), key=str, reverse=True)


@caught_by("DS-STEPS-01")
class StepsOldestFirst(FileBackend):
    """Lists the steps in the order in which they came."""

    def steps(self, key: CheckpointKey) -> list[int]:
        return sorted(super().steps(key))


@caught_by("DS-STEPS-02")
class StepsOfThirtyTwoBits(MemoryBackend):
    """Has its step in a column of 32 bits: after 4 294 967 295 comes 0."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        return super().save(key, step % 2**32, record)

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        return super().load(key, step % 2**32, first=first)


@caught_by("DS-STEPS-02")
class OnlyGoesUp(FileBackend):
    """Is a log, to which no lower step can be appended."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        if step < max(self.steps(key), default=-1) and self.load(key, step) is None:
            raise CheckpointConflict(f"{key} is beyond step {step}")
        return super().save(key, step, record)


@caught_by("DS-SIZE-02")
class ListsOnePage(MemoryBackend):
    """Reads the first page of a listing, a thousand names, and never asks for the next."""

    def steps(self, key: CheckpointKey) -> list[int]:
        return super().steps(key)[:1000]

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        return itertools.islice(super().keys(goal_id), 1000)


@caught_by("DS-PRUNE-01")
class PrunesTheNewest(FileBackend):
    """Removes as many steps as it is told, and begins at the wrong end."""

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        super().prune(key, self.steps(key)[: len(steps)])


@caught_by("DS-PRUNE-02")
class PruneStopsHalfWay(Files):
    """Passes over a step that is not there, and over all that come after it."""

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        self._open()
        try:
            for step in steps:
                self.file(key, step).unlink()
        except FileNotFoundError:
            return


@caught_by("DS-PRUNE-05")
class PrunesOneBatch(MemoryBackend):
    """Removes a thousand steps, the most that one request can name, and forgets the others."""

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        super().prune(key, list(steps)[:1000])


@caught_by("DS-PRUNE-04")
class PrunedStaysTaken(FileBackend):
    """Marks what it prunes, and never forgets the marks: nothing is found at such a step again."""

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        super().prune(key, steps)
        for step in steps:
            super().save(key, step, b"\0pruned")

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        record = super().load(key, step, first=first)
        return None if record == b"\0pruned"[:first] else record


@caught_by("DS-PRUNE-06")
class PrunesNewestFirst(FileBackend):
    """Removes the steps in its own order: who looks meanwhile sees the latest go back, and back again."""

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        for step in sorted(steps, reverse=True):
            super().prune(key, [step])


@caught_by("DS-FENCE-01")
class ReopensPrunedFences(FileBackend):
    """Prunes all up to the highest step that it is told, and with them the fences that retention leaves out."""

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        highest = max(steps, default=-1)
        super().prune(key, [step for step in sorted(self.steps(key)) if step <= highest])


@caught_by("DS-KEEP-03")
class KeepsTheNewestOnly(FileBackend):
    """Has a retention of its own, of ten records, as a stream or a cache has."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        there = super().save(key, step, record)
        self.prune(key, sorted(self.steps(key))[:-10])
        return there
