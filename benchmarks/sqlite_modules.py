"""`apsw` against the standard library's `sqlite3`, for what a backend does (docs/notes/0002-apsw.md).

    python benchmarks/sqlite_modules.py [DIRECTORY]

Both do the same on databases of their own, in turns within one run: machines drift, ratios hold. WAL with
synchronous=FULL, so the directory must be on a disk, not in memory; the default is the current one.
"""

import os
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import apsw

ROUNDS = 21
THREADS = 64
Execute = Callable[..., Any]

SETUP = (
    "PRAGMA auto_vacuum = INCREMENTAL",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    """CREATE TABLE checkpoints (
        goal TEXT NOT NULL, episode INTEGER NOT NULL, checkpoint TEXT NOT NULL, step INTEGER NOT NULL,
        record BLOB NOT NULL, PRIMARY KEY (goal, episode, checkpoint, step))""",
)
INSERT = "INSERT INTO checkpoints VALUES (?, 0, 'orchestrator-0', ?, ?) ON CONFLICT DO NOTHING"
LATEST = "SELECT step, record FROM checkpoints WHERE goal = ? AND episode = 0 AND checkpoint = 'orchestrator-0'"


class Case(NamedTuple):
    """What is timed, how often in a round, and the seconds of one."""

    name: str
    times: int
    seconds: Callable[[Execute, int], float]


def save(execute: Execute, goal: str, step: int, record: bytes) -> None:
    """One durable row."""
    execute("BEGIN IMMEDIATE").fetchall()
    execute(INSERT, (goal, step, record)).fetchall()
    execute("COMMIT").fetchall()


def saves(size: int, times: int) -> Case:
    """One-row transactions of one thread."""
    record = os.urandom(size)

    def seconds(execute: Execute, number: int) -> float:
        started = time.perf_counter()
        save(execute, f"save-{size}", number, record)
        return time.perf_counter() - started

    return Case(f"durable INSERT of {size // 1000} KB", times, seconds)


def reads(size: int, times: int) -> Case:
    """The newest row of a key, as `saves` left it."""

    def seconds(execute: Execute, number: int) -> float:
        del number
        started = time.perf_counter()
        [(_, record)] = execute(f"{LATEST} ORDER BY step DESC LIMIT 1", (f"save-{size}",)).fetchall()
        taken = time.perf_counter() - started
        assert len(record) == size
        return taken

    return Case(f"latest row, {size // 1000} KB", times, seconds)


def crowd() -> Case:
    """Threads with keys of their own over one connection, each transaction under a lock, as the backend has it."""
    lock = threading.Lock()
    record = os.urandom(4000)

    def seconds(execute: Execute, number: int) -> float:
        def go(me: int) -> None:
            for step in range(4):
                with lock:
                    save(execute, f"thread-{me}", number * 4 + step, record)

        threads = [threading.Thread(target=go, args=(me,)) for me in range(THREADS)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (time.perf_counter() - started) / (THREADS * 4)

    return Case(f"the same of 4 KB, {THREADS} threads, each commit", 1, seconds)


def beside() -> Case:
    """How long pure Python takes in one thread while another saves: what a module that keeps the GIL would cost."""
    record = os.urandom(600_000)

    def seconds(execute: Execute, number: int) -> float:
        over = threading.Event()

        def go() -> None:
            step = number * 100_000
            while not over.is_set():
                save(execute, "beside", step, record)
                step += 1

        thread = threading.Thread(target=go)
        thread.start()
        started = time.perf_counter()
        total = 0
        for n in range(300_000):
            total += n
        taken = time.perf_counter() - started
        over.set()
        thread.join()
        execute("DELETE FROM checkpoints WHERE goal = 'beside'").fetchall()
        return taken

    return Case("300 000 additions beside a thread that saves", 1, seconds)


def main(directory: Path) -> None:
    """Prints a table: the medians in µs, and the median of the ratios of the rounds."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        ours = apsw.Connection(str(Path(name, "apsw.db")))
        theirs = sqlite3.connect(Path(name, "sqlite3.db"), isolation_level=None, check_same_thread=False)
        modules: tuple[Execute, Execute] = (ours.execute, theirs.execute)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        for execute in modules:
            for statement in SETUP:
                execute(statement).fetchall()
        print(f"apsw {apsw.apsw_version()} with SQLite {apsw.sqlite_lib_version()}, ", end="")
        print(f"sqlite3 of Python {sys.version.split()[0]} with SQLite {sqlite3.sqlite_version}, {ROUNDS} rounds\n")
        print(f"{'µs, median':46} {'apsw':>8} {'sqlite3':>8} {'sqlite3/apsw':>13}")
        for case in (saves(4000, 50), saves(600_000, 5), reads(4000, 200), reads(600_000, 20), crowd(), beside()):
            medians: list[tuple[float, float]] = []
            for round_ in range(ROUNDS):
                numbers = range(round_ * case.times, (round_ + 1) * case.times)
                taken = [statistics.median(case.seconds(execute, n) for n in numbers) for execute in modules]
                medians.append((taken[0], taken[1]))
            first, second = (statistics.median(column) * 1e6 for column in zip(*medians, strict=True))
            ratio = statistics.median(b / a for a, b in medians)
            print(f"{case.name:46} {first:8.1f} {second:8.1f} {ratio:13.2f}", flush=True)
        ours.close()
        theirs.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
