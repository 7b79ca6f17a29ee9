"""Mistakes about one record: what is kept of it, who gets it, and how often."""

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from durable_store import CheckpointConflict, CheckpointKey, StoreUnavailable
from durable_store_backends import sqlite
from durable_store_backends.files import FileBackend
from durable_store_backends.memory import MemoryBackend
from durable_store_backends.sqlite import SqliteBackend
from tests.mutants.mutant import Files, caught_by


@caught_by("DS-SAVE-01")
class LastWriterWins(Files):
    """Renames each new record over the one that is there."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        there = self.file(key, step)
        new = there.with_name(secrets.token_hex(8))
        new.write_bytes(record)
        os.replace(new, there)  # noqa: PTH105 - one call, as in the textbooks
        return record


@caught_by("DS-SAVE-01")
class ReturnsWhatItWasGiven(FileBackend):
    """Creates only what is absent, and then returns the record of its caller instead of the one that is there."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        super().save(key, step, record)
        return record


@caught_by("DS-SAVE-02")
class RefusesARetry(FileBackend):
    """Refuses a step that is taken, also to the one who took it."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        if self.load(key, step, first=0) is not None:
            raise CheckpointConflict(f"{key} step {step} is taken")
        return super().save(key, step, record)


@caught_by("DS-SAVE-03")
class TakesEmptyForAbsent(FileBackend):
    """Asks whether a record is true, instead of whether it is None."""

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        return super().load(key, step, first=first) or None


@caught_by("DS-SAVE-04")
class KeepsRecordsAsText(FileBackend):
    """Writes files in text mode, where a line has one kind of end."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        text = record.replace(b"\r\n", b"\n")
        there = super().save(key, step, text)
        return record if there == text else there


@caught_by("DS-SAVE-04")
class KeepsSixtyFourKilobytes(SqliteBackend):
    """Keeps what fits into a column of 64 KB, as MySQL's BLOB without its strict mode."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        there = super().save(key, step, record[:65535])
        return record if there == record[:65535] else there


@caught_by("DS-SIZE-01")
class RefusesLargeRecords(MemoryBackend):
    """Takes 16 MB at most, as a document of MongoDB."""

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        if len(record) > 16 * 1024 * 1024:
            raise StoreUnavailable(f"{key} step {step}: the record is too large")
        return super().save(key, step, record)


@caught_by("DS-LOAD-02")
class ServesAnotherKeysRecord(FileBackend):
    """Has a cache of what was loaded, by checkpoint id and step: the goal and the episode are forgotten."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._loaded: dict[tuple[str, int], bytes] = {}

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        record = super().load(key, step)
        if record is None:
            return self._loaded.get((key.checkpoint_id, step))
        return self._loaded.setdefault((key.checkpoint_id, step), record)[:first]


@caught_by("DS-LOAD-01")
class FindsByPrefix(FileBackend):
    """Asks the service for the first name that begins with the step's: where 1 is gone, that is 10."""

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        found = [there for there in sorted(self.steps(key)) if str(there).startswith(str(step))]
        return super().load(key, found[0], first=first) if found else None


@caught_by("DS-LOAD-03")
class ReadsOneByteTooFew(FileBackend):
    """Counts the end of a range as HTTP does not: the last byte asked for is missing."""

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        record = super().load(key, step)
        return record if record is None or first is None else record[: max(first - 1, 0)]


@caught_by("DS-READ-01")
class ReadsCreateKeys(MemoryBackend):
    """Looks into a dict that makes what it is asked for: a key that was only read is listed."""

    def steps(self, key: CheckpointKey) -> list[int]:
        self._open().of_key.setdefault(key, {})
        return super().steps(key)


@caught_by("DS-READ-02")
class ReadsCreateTheDatabase(SqliteBackend):
    """Opens its database and makes its table, whatever it is asked for."""

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        with self._connected("read", create=True) as connection:
            assert connection is not None
            sqlite._rows(connection, sqlite._CREATE)
        return super().latest(key)


@caught_by("DS-READ-01")
class MakesADirectoryToRead(Files):
    """Makes the directory of a key, whoever asks for it, so that there is always one to list."""

    def steps(self, key: CheckpointKey) -> list[int]:
        self.file(key, 0)
        return super().steps(key)


@caught_by("DS-READ-02")
class TouchesALockFile(FileBackend):
    """Makes a file beside its directory, to be locked, for a read too."""

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        with suppress(OSError):
            Path(f"{self._open()}.lock").touch()
        return super().latest(key)


@caught_by("DS-CLOSE-02")
class CloseDoesNothing(FileBackend):
    """Has no handle to let go of, and so serves on after close."""

    def close(self) -> None:
        return


@caught_by("DS-CLOSE-02")
class ClosesForEveryone(FileBackend):
    """Shares one connection among all who open the same path, and the first to close closes it."""

    _closed_paths: ClassVar[set[Path]] = set()

    def close(self) -> None:
        self._closed_paths.add(self.path)

    def _open(self) -> str:
        if self.path in self._closed_paths:
            raise StoreUnavailable(f"the store at {self.path} is closed")
        return super()._open()


@caught_by("DS-DAMAGE-01")
class SkipsWhatItCannotRead(FileBackend):
    """Takes a record with a wrong checksum for one that was never finished, and gives the one before it."""

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        for step in self.steps(key):
            record = self.load(key, step)
            if record and record[:64] == hashlib.sha256(record[65:]).hexdigest().encode():
                return step, record
        return super().latest(key)
