"""Mistakes that only show when there are two: threads, forked children, processes, or one process and its past."""

import os
import secrets
import select
import threading
import time
from collections.abc import Collection, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import apsw

from durable_store import CheckpointKey, StoreUnavailable
from durable_store_backends.files import FileBackend
from durable_store_backends.memory import MemoryBackend
from durable_store_backends.sqlite import SqliteBackend
from tests.mutants.mutant import Files, caught_by, in_pieces, request


@caught_by("DS-RACE-02")
class ExistsThenWrite(Files):
    """Looks whether the step is free, and then takes it: two at once both find it free."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        there = self.load(key, step)
        if there is None:
            request()
            new = self.file(key, step).with_name(secrets.token_hex(8))
            new.write_bytes(record)
            new.rename(self.file(key, step))
        return record if there is None else there


@caught_by("DS-RACE-02")
class DoesNotWait(SqliteBackend):
    """Takes a database that somebody else is writing to for one that is out of order."""

    def __init__(self, path: str) -> None:
        super().__init__(path, timeout=0.001)


@caught_by("DS-RACE-03")
class MakesADirectoryTwice(FileBackend):
    """Looks whether a directory is there, and then makes it: of two that are the first to save one is refused."""

    def _make(self, directory: Path) -> None:
        request()
        os.makedirs(directory)  # noqa: PTH103 - raises where Path.mkdir with parents does not


@caught_by("DS-THREAD-01")
class LosesOneOfTwoWrites(MemoryBackend):
    """Copies, changes and puts back, without a lock: of two threads at once one has written nothing."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        records = self._open()
        there = {known: dict(steps) for known, steps in records.of_key.items()}
        request()
        kept = there.setdefault(key, {}).setdefault(step, record)
        records.of_key = there
        return kept


@caught_by("DS-THREAD-01")
class SharesATemporaryFile(Files):
    """Names its temporary file for the process, and two threads write to it."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        there = self.file(key, step)
        temporary = self.path / f".{os.getpid()}"
        temporary.write_bytes(record)
        request()
        with suppress(FileExistsError, FileNotFoundError):
            os.link(temporary, there)
        temporary.unlink(missing_ok=True)
        return self.load(key, step) or record


@caught_by("DS-THREAD-02")
class RemovesEmptyDirectories(FileBackend):
    """Tidies up behind the last record of a key, while somebody else is about to save the first one there."""

    def _make(self, directory: Path) -> None:
        directory.parent.mkdir(parents=True, exist_ok=True)
        request()
        directory.mkdir(exist_ok=True)

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        super().prune(key, steps)
        with suppress(OSError):
            os.removedirs(self._directory(key))


@caught_by("DS-FORK-02")
class SharesAConnectionAcrossFork(SqliteBackend):
    """Lets a forked child use its parent's connection, in the middle of a transaction too."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._everyone.discard(self)
        self._in_the_middle = threading.Event()
        os.register_at_fork(before=lambda: self._in_the_middle.wait(0.05), after_in_child=self._renew_locks)

    def _renew_locks(self) -> None:
        self._lock = threading.Lock()
        self._groups = self._new_groups()
        self._in_the_middle = threading.Event()

    @contextmanager
    def _transaction(self, connection: apsw.Connection, doing: str, *, saving: bool = False) -> Generator[None]:
        with super()._transaction(connection, doing, saving=saving):
            yield
            self._in_the_middle.set()
            request()
            self._in_the_middle.clear()


@caught_by("DS-FORK-01")
class PrunesInAThread(FileBackend):
    """Has a thread that prunes, which no forked child has: there nobody ever does it."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._pruning = ThreadPoolExecutor(1)

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        self._open()
        try:
            self._pruning.submit(super().prune, key, steps).result(timeout=2)
        except TimeoutError as err:
            raise StoreUnavailable(f"cannot prune {key}: it takes too long") from err


@caught_by("DS-FORK-04")
class HangsUpForItsParent(FileBackend):
    """Says goodbye to its server when it is closed, in a forked child on the connection of its parent."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._server, self._connection = os.pipe()

    def close(self) -> None:
        super().close()
        os.write(self._connection, b"goodbye")

    def _open(self) -> str:
        if select.select([self._server], [], [], 0)[0]:
            raise StoreUnavailable("the server has closed the connection")
        return super()._open()


@caught_by("DS-READER-02")
class ReadsHalfARecord(Files):
    """Writes a record in its place, where readers see how far it got."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        there = self.load(key, step)
        if there is None:
            in_pieces(self.file(key, step), record)
        return record if there is None else there


@caught_by("DS-READER-02")
class ClaimsThenFills(Files):
    """Claims a step by an empty file, of which one can be made only, and then renames the record over it."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        there = self.file(key, step)
        try:
            there.open("xb").close()
        except FileExistsError:
            return there.read_bytes()
        request()
        new = there.with_name(secrets.token_hex(8))
        new.write_bytes(record)
        new.rename(there)
        return record


@caught_by("DS-READER-04")
class LooksOnlyOnce(FileBackend):
    """Lists, and then reads the newest: if that was pruned in between, there is nothing."""

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        for step in self.steps(key):
            time.sleep(0.0005)  # not so long that nothing is ever found
            record = self.load(key, step)
            return record if record is None else (step, record)
        return None


@caught_by("DS-KILL-04")
class EmptiesBeforeItRemoves(Files):
    """Overwrites what it prunes, so that nobody can read it: a kill before it is removed leaves an empty record."""

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        for step in set(steps).intersection(self.steps(key)):
            self.file(key, step).write_bytes(b"")
            request()
        super().prune(key, steps)


@caught_by("DS-FRESH-03")
class StaleCacheAfterReopen(FileBackend):
    """Remembers the latest of each key, for as long as the process lives and whoever else writes."""

    _latest: ClassVar[dict[tuple[Path, CheckpointKey], tuple[int, bytes]]] = {}

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        there = super().save(key, step, record)
        self._latest.pop((self.path, key), None)
        return there

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        self._open()
        found = self._latest.get((self.path, key)) or super().latest(key)
        if found:
            self._latest[self.path, key] = found
        return found

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        super().prune(key, steps)
        self._latest.pop((self.path, key), None)


@caught_by("DS-RACE-04")
class ListsWhatWas(FileBackend):
    """Lists again when its last listing is 20 ms old, as network file systems do: only its own saves are in it."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._listed: dict[CheckpointKey, tuple[float, tuple[int, bytes] | None]] = {}

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        there = super().save(key, step, record)
        listed, found = self._listed.get(key, (0.0, None))
        self._listed[key] = listed, max(found or (-1, b""), (step, there))
        return there

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        self._open()
        listed, found = self._listed.get(key, (0.0, None))
        if time.monotonic() > listed + 0.02:
            listed, found = time.monotonic(), super().latest(key)
            self._listed[key] = listed, found
        return found


@caught_by("DS-FRESH-04")
class CachesRecordsForEver(FileBackend):
    """Keeps what it has loaded, because records never change: those that another process has pruned, too."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._loaded: dict[tuple[CheckpointKey, int], bytes] = {}

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        self._open()
        record = self._loaded.get((key, step)) or super().load(key, step)
        if record is not None:
            self._loaded[key, step] = record
        return record if record is None else record[:first]

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        super().prune(key, steps)
        for step in steps:
            self._loaded.pop((key, step), None)
