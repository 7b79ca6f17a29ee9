"""Where the time of one commit goes, part by part, and its system calls (docs/notes/0006).

    python -m benchmarks.commit_profile

Commits the states of two workloads of the benchmark: the last 50 of Grow's 200 turns, and 200 of Small's. Each part is
clocked without the parts within it; a clock takes about half a microsecond. System calls are counted by strace in a run
of their own, between two calls of getppid(2), which nothing else makes.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

import durable_store.delta
import durable_store.run
import durable_store_backends.files
import durable_store_backends.sqlite
from benchmarks.bench.states import Growing, Small
from durable_store import open_store

WORKLOADS: dict[str, tuple[Callable[[], Any], int, int]] = {"Grow": (Growing, 150, 50), "Small": (Small, 50, 200)}
"""What makes its states, how many commits come first, and how many are looked at."""

PLACES = {"SQLite": "sqlite:///{}/runs.db", "files": "file://{}/store"}
ROUNDS = 5
CLOCK = 0.5e-6
PRUNE = "prune, a fifth of one"


class Clocks:
    """Seconds within each part, without those of the parts within it; a prune is one part with all that it calls."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._within: list[float] = []

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        """What happens here is of this part."""
        name = PRUNE if PRUNE in self._open else name
        self._open.append(name)
        self._within.append(0)
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self._open.pop()
            self.spent[name] += spent - self._within.pop()
            if self._within:
                self._within[-1] += spent + CLOCK

    def clock(self, owner: object, function: str, part: str | Callable[..., str]) -> None:
        """Puts a function under a clock; its part may depend on what it is called with."""
        inner: Any = getattr(owner, function)

        def clocked(*args: Any, **kwargs: Any) -> Any:
            with self.part(part if isinstance(part, str) else part(*args)):
                return inner(*args, **kwargs)

        setattr(owner, function, clocked)


def _statement(_: object, sql: str, *_values: object) -> str:
    return f"backend: {sql.split(maxsplit=1)[0]}"


def clock_all(clocks: Clocks) -> None:
    """Puts the parts of a commit under clocks, for the rest of this process."""
    run, files, sqlite = durable_store.run, durable_store_backends.files, durable_store_backends.sqlite
    clocks.clock(run, "to_json", "state: JSON, looked through")
    clocks.clock(durable_store.delta.Ladder, "next", "delta: what has changed")
    clocks.clock(durable_store.delta.Plan, "body", "delta: splice and zstd")
    clocks.clock(run, "encode", "record: header and digest")
    for backend in (sqlite.SqliteBackend, files.FileBackend):
        clocks.clock(backend, "save", "backend: all else")
        clocks.clock(backend, "prune", PRUNE)
    clocks.clock(sqlite, "_rows", _statement)
    clocks.clock(files, "_flush", "backend: two flushes")
    clocks.clock(files, "_link", "backend: link")
    clocks.clock(run.Run, "commit", "run: all else")


def commit(workload: str, url: str, mark: Callable[[], object]) -> None:
    """Commits its states, and marks where those that are looked at begin and end."""
    make, before, counted = WORKLOADS[workload]
    states = make()
    with open_store(url) as store, store.resume(workload, "agent-0") as run:
        for number in range(before + counted):
            if number == before:
                mark()
            states.turn()
            run.commit(states.state)
        mark()


def clocked(workload: str, url: str) -> dict[str, float]:
    """Microseconds of each part of a commit, in a process that does nothing else any more."""
    clocks, marks = Clocks(), list[dict[str, float]]()
    clock_all(clocks)
    commit(workload, url, lambda: marks.append(dict(clocks.spent)))
    begin, end = marks
    return {part: (spent - begin.get(part, 0)) / WORKLOADS[workload][2] * 1e6 for part, spent in end.items()}


def child(what: str, workload: str, place: str, before: Sequence[str] = ()) -> str:
    """What this program prints when it is asked for one profile, in a new place."""
    with tempfile.TemporaryDirectory() as directory:
        command = [*before, sys.executable, "-m", "benchmarks.commit_profile", what, workload]
        url = PLACES[place].format(directory)
        return subprocess.run([*command, url], check=True, stdout=subprocess.PIPE, text=True).stdout


def times(workload: str, place: str) -> dict[str, float]:
    """Medians over the rounds."""
    rounds = [orjson.loads(child("clocked", workload, place)) for _ in range(ROUNDS)]
    return {part: statistics.median(each.get(part, 0) for each in rounds) for part in rounds[0]}


def calls(workload: str, place: str) -> dict[str, float]:
    """System calls of a commit, most frequent first."""
    with tempfile.NamedTemporaryFile() as trace:
        child("marked", workload, place, ["strace", "-f", "-qq", "-o", trace.name])
        lines = Path(trace.name).read_text().splitlines()
    names = [line.split(None, 1)[1].partition("(")[0] for line in lines]
    first = names.index("getppid")
    counts = Counter(names[first + 1 : names.index("getppid", first + 1)])
    return {name: count / WORKLOADS[workload][2] for name, count in counts.most_common()}


def main() -> None:
    """Prints all profiles."""
    for workload in WORKLOADS:
        for place in PLACES:
            found = times(workload, place)
            print(f"\n{workload}, {place}: {sum(found.values()):.0f} µs a commit")
            for part, spent in sorted(found.items(), key=lambda each: -each[1]):
                print(f"  {spent:7.1f}  {part}")
            counts = calls(workload, place)
            told = ", ".join(f"{count:.1f} {name}" for name, count in counts.items() if count >= 0.1)
            print(f"  {sum(counts.values()):.1f} system calls: {told}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["clocked", workload, url]:
            print(orjson.dumps(clocked(workload, url)).decode())
        case ["marked", workload, url]:
            commit(workload, url, os.getppid)
        case _:
            main()
