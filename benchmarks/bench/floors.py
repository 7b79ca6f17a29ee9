"""What the disk alone takes, and SQLite alone: no state is looked at, nothing is encoded, removed or fenced.

The bytes are those of what has changed; nobody who keeps it can write less. SQLite is the same library as ours, with
the same durability: WAL, synchronous=FULL.
"""
# ruff: noqa: D102 - what a verb is to do is said once, in Contestant

import os
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from benchmarks.bench.contestants import Contestant, Row

_INSERT = "INSERT INTO rows VALUES (?, ?, ?)"


class Append(Contestant):
    """Appends to a file of the key's own."""

    title = "floor: append + fdatasync"
    how = "`os.write` of what has changed to the end of a file, `os.fdatasync`."

    def open(self, place: str) -> None:
        self.place = Path(place)
        self.files: dict[str, int] = {}

    def begin(self, keys: Sequence[str]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.files = {key: os.open(self.place / f"{key}.log", flags) for key in keys}

    def commit(self, key: str, step: int, state: Any, changed: bytes) -> None:
        del step, state
        os.write(self.files[key], changed)
        os.fdatasync(self.files[key])

    def close(self) -> None:
        for file in self.files.values():
            os.close(file)


class Sqlite(Contestant):
    """One row, one transaction."""

    title = "floor: bare SQLite row"
    how = "`INSERT` of what has changed as one row, in a transaction of its own."

    def load(self) -> None:
        self.apsw: Any = import_module("apsw")

    def open(self, place: str) -> None:
        self.connection: Any = self.apsw.Connection(f"{place}/rows.db")
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS rows (key TEXT NOT NULL, step INTEGER NOT NULL, record BLOB NOT NULL,"
            " PRIMARY KEY (key, step))"
        )

    def commit(self, key: str, step: int, state: Any, changed: bytes) -> None:
        del state
        self.connection.execute(_INSERT, (key, step, changed))

    def about(self) -> dict[str, Any]:
        return {
            name: next(iter(self.connection.execute(f"PRAGMA {name}")))[0] for name in ("journal_mode", "synchronous")
        }

    def close(self) -> None:
        self.connection.close()


class Grouped(Sqlite):
    """A thread commits for all who wait."""

    title = "floor: bare grouped transactions, 64 threads"
    how = "Each thread hands its row to one that inserts all that have gathered, in one transaction, and waits."

    def begin(self, keys: Sequence[str]) -> None:
        del keys
        self.queue: SimpleQueue[Row | None] = SimpleQueue()
        self.mine = threading.local()
        self.committer = threading.Thread(target=self._serve)
        self.committer.start()

    def commit(self, key: str, step: int, state: Any, changed: bytes) -> None:
        del state
        if not hasattr(self.mine, "done"):
            self.mine.done = threading.Lock()
            self.mine.done.acquire()
        self.queue.put(Row(key, step, changed, self.mine.done))
        self.mine.done.acquire()

    def close(self) -> None:
        self.queue.put(None)
        self.committer.join()
        super().close()

    def _serve(self) -> None:
        going = True
        while going:
            rows: list[Row] = []
            while not rows or not self.queue.empty():
                row = self.queue.get()
                if row is None:
                    going = False
                    break
                rows.append(row)
            if rows:
                self._insert(rows)
                for row in rows:
                    row.done.release()

    def _insert(self, rows: list[Row]) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        for row in rows:
            self.connection.execute(_INSERT, (row.key, row.step, row.record))
        self.connection.execute("COMMIT")


class Batched(Grouped):
    """No threads at all: what grouping could come to if handing over were free."""

    title = "floor: 64 rows a transaction, one thread"
    how = "One thread inserts a row for each of the 64 keys in one transaction."

    def begin(self, keys: Sequence[str]) -> None:
        self.keys = keys
        self.rows: list[Row] = []

    def commit(self, key: str, step: int, state: Any, changed: bytes) -> None:
        """Inserts when it has a row of each key."""
        del state
        self.rows.append(Row(key, step, changed, threading.Lock()))
        if len(self.rows) == len(self.keys):
            self._insert(self.rows)
            self.rows = []

    def close(self) -> None:
        self.connection.close()
