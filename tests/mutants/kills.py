"""Mistakes that a kill brings to light, or storage that is out of reach: nothing else may notice them."""

import fcntl
import os
import threading
import time
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from durable_store import CheckpointKey, StoreUnavailable
from durable_store_backends.files import FileBackend
from tests.mutants.mutant import Files, caught_by, in_pieces


@caught_by("DS-FRESH-01")
class ForgetsTheLastWrite(FileBackend):
    """Writes a record when the next call comes, whatever that is: a process that is killed had one more to write."""

    _unwritten: ClassVar[dict[Path, tuple[CheckpointKey, int, bytes]]] = {}

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        there = self.load(key, step)
        if there is None:
            self._unwritten[self.path] = key, step, record
        return record if there is None else there

    def _open(self) -> str:
        last = self._unwritten.pop(self.path, None)
        if last:
            FileBackend(self.path).save(*last)
        return super()._open()


@caught_by("DS-FRESH-07")
class TakesOverFromTheDead(FileBackend):
    """Takes what is there, once the process that made the store is gone, for a try that failed: writes over it."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        last = self.path.with_name(f"{self.path.name}.writer")
        with suppress(OSError):  # where there is no store
            if not last.exists():
                last.write_text(str(os.getpid()))
            if not Path("/proc", last.read_text()).exists():
                self.prune(key, [step])
        return super().save(key, step, record)


@caught_by("DS-KILL-02")
class AcknowledgesTooEarly(FileBackend):
    """Returns from a save that a thread will do in 20 ms. Its own process waits for that, a kill does not."""

    _under_way: ClassVar[dict[Path, threading.Thread]] = {}

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        there = self.load(key, step)
        if there is None:
            self._under_way[self.path] = threading.Thread(target=self._save, args=(key, step, record))
            self._under_way[self.path].start()
        return record if there is None else there

    def _save(self, key: CheckpointKey, step: int, record: bytes) -> None:
        time.sleep(0.02)
        FileBackend(self.path).save(key, step, record)

    def _open(self) -> str:
        if self.path in self._under_way:
            self._under_way[self.path].join()
        return super()._open()


@caught_by("DS-KILL-03")
class TornWrite(Files):
    """Writes a record in its place, where a kill leaves a half of it. A lock keeps readers away meanwhile."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        self._open()
        with self._locked(fcntl.LOCK_EX):
            there = super().load(key, step)
            if there is None:
                in_pieces(self.file(key, step), record)
        return record if there is None else there

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        with self._locked(fcntl.LOCK_SH):
            return super().latest(key)

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        with self._locked(fcntl.LOCK_SH):
            return super().load(key, step, first=first)

    @contextmanager
    def _locked(self, how: int) -> Generator[None]:
        there = Path(f"{self.path}.lock")
        if how == fcntl.LOCK_SH and not there.exists():  # nobody has written anything
            yield
            return
        with there.open("a") as lock:
            fcntl.flock(lock, how)
            yield


@caught_by("DS-OUT-01")
class SwallowsErrors(FileBackend):
    """Takes whatever goes wrong in a read for nothing there."""

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        self._open()
        with suppress(StoreUnavailable):
            return super().latest(key)
        return None

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        self._open()
        with suppress(StoreUnavailable):
            return super().load(key, step, first=first)
        return None


@caught_by("DS-OUT-01")
class LeaksErrors(Files):
    """Knows one error of a read, that there is no such file; all others go to its caller as they are."""

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        try:
            with open(f"{self._directory(key)}/{step:016d}.ckpt", "rb") as file:  # noqa: PTH123 - no errors but its own
                return file.read(first)
        except FileNotFoundError:
            return None


@caught_by("DS-OUT-04")
class HidesTheCause(FileBackend):
    """Has an error of its own, as is promised, and cuts off the one that it comes from."""

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        try:
            return super().load(key, step, first=first)
        except StoreUnavailable:
            raise StoreUnavailable(f"cannot load {key} step {step}") from None


@caught_by("DS-OUT-02")
class PruneSwallowsErrors(FileBackend):
    """Thinks that what could not be removed today can be removed tomorrow."""

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        self._open()
        with suppress(StoreUnavailable):
            super().prune(key, steps)


@caught_by("DS-OUT-02")
class LeavesAHalfOnAFullDisk(Files):
    """Takes its step by a file, and leaves that there when the record does not fit into it."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        there = self.load(key, step)
        if there is None:
            try:
                in_pieces(self.file(key, step), record)
            except OSError as err:
                raise StoreUnavailable(f"cannot save {key} step {step}: {err}") from err
        return record if there is None else there
