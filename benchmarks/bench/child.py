"""One contestant does one thing, in a process of its own, and tells what it cost: a line of JSON on stdout.

    python -m benchmarks.bench.child '{"role": "grow", "contestant": "ours-sqlite", "place": …, …}'

`python -m benchmarks.bench` starts it, in the environment of the benchmark. What all contestants need is imported
before anything is measured.
"""

import gc
import hashlib
import json
import os
import platform
import random
import sqlite3
import statistics
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.bench.measuring import disk, memory, written, written_since
from benchmarks.bench.states import Growing, Small

CONTESTANTS = {
    "ours-sqlite": "contestants:OursSqlite",
    "ours-files": "contestants:OursFiles",
    "ours-s3": "contestants:OursS3",
    "whole-s3": "contestants:PlainS3",
    "json": "contestants:PlainJson",
    "langgraph": "peers:LangGraph",
    "langgraph-pruning": "peers:LangGraphPruning",
    "langgraph-writes": "peers:LangGraphWrites",
    "burr": "peers:Burr",
    "floor-sqlite": "floors:Sqlite",
    "floor-append": "floors:Append",
    "floor-grouped": "floors:Grouped",
    "floor-batched": "floors:Batched",
}
"""Module and class of each, imported when it takes part."""

KEY = "agent-0"
POINTS = 20
"""So many points of a curve."""
TRIES = 5
"""A step is read so often, and the quickest counts: its own cost is asked for, not that of what else goes on."""

Spec = dict[str, Any]
Said = dict[str, Any]


def contestant_of(name: str, keep: int | None = 5) -> Any:
    """A new one."""
    module, _, cls = CONTESTANTS[name].partition(":")
    return getattr(import_module(f"benchmarks.bench.{module}"), cls)(keep=keep)


class Meter:
    """Counts what a contestant costs from its `open` to its `close`.

    Attributes:
        times: seconds of each commit.
        cpu: seconds of CPU time in all of them; of threads that commit at the same time it says nothing.
    """

    def __init__(self, spec: Spec) -> None:
        self.contestant = contestant_of(spec["contestant"], spec.get("keep", 5))
        self.contestant.load()
        self.times: list[float] = []
        self.cpu = 0.0
        self._place = None if "://" in spec["place"] else Path(spec["place"])
        gc.collect()
        self.start = memory()["now"]
        self._before = written()
        self.contestant.open(spec["place"])

    def commit(self, step: int, state: Any, changed: bytes, key: str = KEY) -> None:
        """One commit, timed."""
        cpu, began = time.process_time(), time.perf_counter()
        self.contestant.commit(key, step, state, changed)
        self.times.append(time.perf_counter() - began)
        self.cpu += time.process_time() - cpu

    def written(self) -> int | None:
        """Bytes since the beginning."""
        return written_since(self._before).get("wchar") if self._before else None

    def figures(self, seconds: float | None = None, cpu: float | None = None) -> Said:
        """All there is to say; closes the contestant."""
        seconds = sum(self.times) if seconds is None else seconds
        said: Said = {
            "commits": len(self.times),
            "seconds": seconds,
            "commits_per_s": len(self.times) / seconds,
            "p50_us": statistics.median(self.times) * 1e6,
            "most_us": max(self.times) * 1e6,
            "peak": memory()["peak"],
            "start": self.start,
            **self.contestant.about(),
        }
        if len(self.times) >= 100:
            said["p99_us"] = statistics.quantiles(self.times, n=100)[98] * 1e6
        if cpu is not None:
            said["cpu_us"] = cpu / len(self.times) * 1e6
        if self._place:
            said["disk_open"] = disk(self._place)
        self.contestant.close()
        if self._place:
            said |= {"disk": disk(self._place), **(written_since(self._before) if self._before else {})}
        return said


def mark() -> None:
    """A system call that nothing else makes, for whoever looks on with strace."""
    os.getppid()


def digest(state: Any) -> str:
    """Tells whether two states are the same."""
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def grow(spec: Spec) -> Said:
    """Commits a state that grows, turn by turn."""
    growing = Growing(budget_first=spec.get("budget_first", False))
    meter = Meter(spec)
    meter.contestant.begin([KEY])
    curve: list[list[int]] = []
    for turn in range(spec["turns"]):
        growing.turn()
        if turn == spec.get("mark"):
            mark()
        meter.commit(turn, growing.state, growing.changed)
        if (turn + 1) % max(1, spec["turns"] // POINTS) == 0 and (so_far := meter.written()) is not None:
            curve.append([turn + 1, so_far])
    mark()
    state = json.dumps(growing.state, separators=(",", ":"), ensure_ascii=False).encode()
    said = meter.figures(cpu=meter.cpu)
    said |= {"curve": curve, "state": len(state), "digest": digest(growing.state)}
    if "disk" in said:
        said["disk_of_state"] = said["disk"] / len(state)
    return said


def small(spec: Spec) -> Said:
    """Commits a state of 4 KB, again and again."""
    states = Small()
    meter = Meter(spec)
    meter.contestant.begin([KEY])
    for turn in range(spec["commits"]):
        states.turn()
        if turn == spec.get("mark"):
            mark()
        meter.commit(turn, states.state, states.changed)
    mark()
    return meter.figures() | {"digest": digest(states.state), "state": len(states.changed)}


def swarm(spec: Spec) -> Said:
    """Commits from many threads at once, each under a key of its own."""
    turns = {f"agent-{number}": _turns(number % 4, spec["commits"]) for number in range(spec["threads"])}
    meter = Meter(spec)
    meter.contestant.begin(list(turns))
    work = _in_one_thread if spec["contestant"] == "floor-batched" else _in_threads
    cpu = time.process_time()
    seconds, refusals = work(meter, turns)
    cpu = time.process_time() - cpu
    said = meter.figures(seconds, cpu) | {"digest": digest(turns[KEY][-1][0]), "refused": len(refusals)}
    return {**said, "threads": spec["threads"], **({"refusal": refusals[0]} if refusals else {})}


Turns = dict[str, list[tuple[Any, bytes]]]


def _turns(seed: int, commits: int) -> list[tuple[Any, bytes]]:
    """Made before: what is timed is the keeping."""
    states = Small(seed)
    turns: list[tuple[Any, bytes]] = []
    for _ in range(commits):
        states.turn()
        turns.append((states.state, states.changed))
    return turns


def _in_threads(meter: Meter, turns: Turns) -> tuple[float, list[str]]:
    """How long it took until the last of them was done, and what was refused."""
    refusals: list[str] = []
    together = threading.Barrier(len(turns) + 1)

    def work(key: str) -> None:
        together.wait()
        for step, (state, changed) in enumerate(turns[key]):
            try:
                meter.commit(step, state, changed, key)
            except Exception as err:  # noqa: BLE001 - what a contestant refuses is told as such
                refusals.append(f"{type(err).__name__}: {err}")

    threads = [threading.Thread(target=work, args=(key,)) for key in turns]
    for thread in threads:
        thread.start()
    mark()
    together.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    mark()
    return seconds, refusals


def _in_one_thread(meter: Meter, turns: Turns) -> tuple[float, list[str]]:
    """The same commits, one after the other."""
    mark()
    began = time.perf_counter()
    for step, _ in enumerate(turns[KEY]):
        for key, states in turns.items():
            meter.commit(step, *states[step], key)
    seconds = time.perf_counter() - began
    mark()
    return seconds, []


def latest(spec: Spec) -> Said:
    """A process that was just started reads the newest state: what is timed ends with a state of Python objects."""
    contestant = contestant_of(spec["contestant"])
    began = time.perf_counter()
    contestant.load()
    loaded = time.perf_counter()
    contestant.open(spec["place"])
    opened = time.perf_counter()
    state = contestant.latest(KEY)
    done = time.perf_counter()
    said = {
        "import_ms": (loaded - began) * 1e3,
        "open_ms": (opened - loaded) * 1e3,
        "latest_ms": (done - loaded) * 1e3,
        "fresh_ms": (done - began) * 1e3,
        "latest_peak": memory()["peak"],
    }
    contestant.close()
    return {} if state is None else said | {"digest": digest(state)}


def any_step(spec: Spec) -> Said:
    """A process that was just started reads the newest step, and then each of them."""
    contestant = contestant_of(spec["contestant"])
    contestant.load()
    contestant.open(spec["place"])
    steps = contestant.steps(KEY)
    quickest: list[float] = []
    for step in (steps[-1], *steps):
        tries: list[float] = []
        for _ in range(TRIES):
            began = time.perf_counter()
            contestant.read(KEY, step)
            tries.append(time.perf_counter() - began)
        quickest.append(min(tries))
    contestant.close()
    newest = min(quickest[0], quickest[-1])
    return {
        "steps": len(steps),
        "newest_ms": newest * 1e3,
        "worst_ms": max(quickest) * 1e3,
        "worst_of_newest": max(quickest) / newest,
    }


def long(spec: Spec) -> Said:
    """Commits a state that grows very long; of the last turns it is told what part of it is the JSON alone."""
    to_json: Callable[[Any], bytes] = import_module("durable_store.state").to_json
    growing = Growing()
    meter = Meter(spec)
    meter.contestant.begin([KEY])
    json_times: list[float] = []
    size = 0
    for turn in range(spec["turns"]):
        growing.turn()
        if turn >= spec["turns"] - spec["last"]:
            began = time.perf_counter()
            size = len(to_json(growing.state))
            json_times.append(time.perf_counter() - began)
        meter.commit(turn, growing.state, growing.changed)
    at_end = statistics.median(meter.times[-spec["last"] :])
    alone = statistics.median(json_times)
    said = meter.figures()
    return said | {
        "state": size,
        "end_ms": at_end * 1e3,
        "json_ms": alone * 1e3,
        "commit_of_json": at_end / alone,
        "memory_of_state": (said["peak"] - said["start"]) / size,
        "disk_of_state": said["disk"] / size,
        "digest": digest(growing.state),
    }


def fill(spec: Spec) -> Said:
    """Puts records where a store would have them, past the store: many keys, or many steps of one."""
    from benchmarks.bench import filling  # noqa: PLC0415 - needs the library

    filling.fill(spec["contestant"], spec["place"], keys=spec["keys"], steps=spec["steps"])
    return {}


def probe(spec: Spec) -> Said:
    """A process that was just started asks for the newest of some keys."""
    contestant = contestant_of(spec["contestant"])
    contestant.load()
    library = import_module("durable_store")
    chosen = random.Random(spec["seed"])  # noqa: S311 - to be repeated, not to be secret
    contestant.open(spec["place"])
    times: list[float] = []
    for _ in range(spec["asked"]):
        key = library.CheckpointKey(f"g-{chosen.randrange(spec['keys']):07}", 0, KEY)
        began = time.perf_counter()
        found = contestant.store.latest(key)
        times.append(time.perf_counter() - began)
        assert found.step == spec["steps"] - 1
    contestant.close()
    return {"latest_us": statistics.median(times) * 1e6, "first_us": times[0] * 1e6, "asked": len(times)}


def versions(spec: Spec) -> Said:
    """Of what takes part, as it is installed here."""
    metadata = import_module("importlib.metadata")
    found = {name: metadata.version(name) for name in spec["packages"]}
    return {
        "python": platform.python_version(),
        "versions": found,
        "sqlite": {"apsw": import_module("apsw").sqlite_lib_version(), "sqlite3": sqlite3.sqlite_version},
    }


ROLES: dict[str, Callable[[Spec], Said]] = {
    role.__name__: role for role in (grow, small, swarm, latest, any_step, long, fill, probe, versions)
}


def main() -> None:
    """Does what it is told."""
    spec: Spec = json.loads(sys.argv[1])
    said = ROLES[spec["role"]](spec)
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
