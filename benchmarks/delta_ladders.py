"""What a run writes and reads, by what its records build on: whole states, a chain, the last snapshot, a ladder.

    python -m benchmarks.delta_ladders

A state grows by two messages of 1.5 KB of real text in each of 200 turns; `budget` stands behind the messages or before
them. Bytes are those of all bodies, which is what `keep=None` keeps; a read is of the newest record and its bases. The
ways take turns in each of five rounds, and the times are medians of the last fifty turns: take them as ratios.
"""

import random
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from durable_store.body import Body, Reader
from durable_store.delta import MAX_BASES, Ladder, Plan, Rung, difference

TURNS = 200
ROUNDS = 5

State = dict[str, Any]
Made = list[tuple[Body, int]]
"""Of each step its body, and the bytes of its state."""


def states(*, budget_first: bool) -> list[bytes]:
    """The states of a run, as JSON."""
    chance = random.Random(1)  # noqa: S311 - chance, no secret
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "".join(path.read_text(errors="replace") for path in sources[:60])
    messages: list[State] = []
    made: list[bytes] = []
    for turn in range(TURNS):
        for role in ("user", "assistant"):
            at = chance.randrange(len(text) - 1500)
            messages.append({"role": role, "content": text[at : at + 1500]})
        budget = {"turns": turn + 1, "dollars": round(0.013 * (turn + 1), 4)}
        parts = {"budget": budget, "messages": messages} if budget_first else {"messages": messages, "budget": budget}
        made.append(orjson.dumps(parts))
    return made


def whole(_step: int, _old: bytes, new: bytes, _ladder: Ladder) -> Plan:
    """A snapshot at each step."""
    return Ladder().next(b"", new)


def chain(_step: int, old: bytes, new: bytes, ladder: Ladder) -> Plan:
    """On the record before, eight times; then a snapshot."""
    rungs = ladder.rungs
    if not rungs or len(rungs) > MAX_BASES:
        return Ladder().next(b"", new)
    return Plan(rungs, difference(rungs[-1].step, old, new), new)


class LastSnapshot:
    """On the last snapshot, while the difference is at most half of the state."""

    def __init__(self) -> None:
        self._state = b""

    def __call__(self, _step: int, _old: bytes, new: bytes, ladder: Ladder) -> Plan:
        """What the record of the new state builds on."""
        if ladder.rungs:
            snapshot: Rung = ladder.rungs[0]
            pieces = difference(snapshot.step, self._state, new)
            if 2 * sum(piece.length for piece in pieces if piece.source < 0) <= len(new):
                return Plan((snapshot,), pieces, new)
        self._state = new
        return Ladder().next(b"", new)


def ladder_of_records(_step: int, old: bytes, new: bytes, ladder: Ladder) -> Plan:
    """What runs do."""
    return ladder.next(old, new)


WAYS: dict[str, Callable[[], Callable[[int, bytes, bytes, Ladder], Plan]]] = {
    "whole states": lambda: whole,
    "a chain of 8": lambda: chain,
    "on the last snapshot": LastSnapshot,
    "a ladder": lambda: ladder_of_records,
}


def commits(way: Callable[[int, bytes, bytes, Ladder], Plan], run: list[bytes]) -> tuple[Made, float]:
    """The bodies of a run, and the CPU seconds of making one of the last."""
    made: Made = []
    seconds: list[float] = []
    old, ladder = b"", Ladder()
    for step, new in enumerate(run):
        begun = time.process_time()
        plan = way(step, old, new, ladder)
        body = plan.body()
        ladder = plan.ladder(step, f"{step:064x}")
        seconds.append(time.process_time() - begun)
        made.append((body, len(new)))
        old = new
    return made, statistics.median(seconds[-50:])


def needed(made: Made, step: int) -> Iterator[int]:
    """The steps whose records are read for this one, itself last."""
    yield from (base for base, _ in made[step][0].bases)
    yield step


def read(made: Made, step: int) -> tuple[bytes, float]:
    """The state of a step, and the CPU seconds of making it of its records."""
    begun = time.process_time()
    reader = Reader()
    for each in needed(made, step):
        reader.add(each, *made[each])
    state = reader.state(step)
    return state, time.process_time() - begun


def measure(run: list[bytes]) -> Iterator[tuple[str, ...]]:
    """A line of the table for each way."""
    made: dict[str, Made] = {}
    making: dict[str, list[float]] = {name: [] for name in WAYS}
    reading: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            made[name], seconds = commits(way(), run)
            making[name].append(seconds)
            reads = [read(made[name], step) for step in range(TURNS - 50, TURNS)]
            assert [state for state, _ in reads] == run[-50:]
            reading[name].append(statistics.median(seconds for _, seconds in reads))
    for name, bodies in made.items():
        written = sum(len(body.content) for body, _ in bodies)
        records = [list(needed(bodies, step)) for step in range(TURNS)]
        fetched = statistics.mean(sum(len(bodies[each][0].content) for each in steps) for steps in records[-50:])
        yield (
            name,
            f"{written / 1e6:.2f} MB",
            f"{written / len(run[-1]):.2f}",
            f"{statistics.mean(map(len, records)):.1f}, {max(map(len, records))}",
            f"{fetched / 1000:.0f} KB",
            f"{statistics.median(making[name]) * 1e3:.2f} ms",
            f"{statistics.median(reading[name]) * 1e3:.2f} ms",
        )


def main() -> None:
    """Prints a table for each kind of state."""
    for budget_first in (False, True):
        run = states(budget_first=budget_first)
        where = "before" if budget_first else "behind"
        print(f"\n`budget` {where} the messages, {len(run[-1]) / 1000:.0f} KB at the end\n")
        print("| builds on | written in all | last states | records per read: mean, most | bytes per read |", end="")
        print(" commit | read |\n|---|---|---|---|---|---|---|")
        for line in measure(run):
            print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
