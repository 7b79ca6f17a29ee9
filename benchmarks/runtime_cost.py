"""What the runtime adds to a turn, in multiples of one `run.commit` of 4 KB on SQLite; and a thousand children at once.

    python benchmarks/runtime_cost.py [DIRECTORY]

All ways of keeping a state of 4 KB take turns in one run, each in a database of its own: machines drift, ratios hold.
The directory must be on a disk, not in memory; the default is the current one.
"""

import asyncio
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from typing import Any

from durable_store import CheckpointKey, Store, open_store
from durable_store.aio import AsyncStore
from durable_store.runtime import Agent, Turn, run_goal

ROUNDS = 11
TURNS = 200
CHILDREN = 1000
STATE: dict[str, Any] = {"n": 0, "notes": [f"{n:060d}" for n in range(64)]}


async def commits(store: Store | None) -> None:
    """A loop of one's own."""
    assert store
    with store.resume("g", "agent-0", initial=STATE) as run:
        for n in range(TURNS):
            run.commit({**STATE, "n": n})


async def awaited_commits(store: Store | None) -> None:
    """The same, with the I/O in a thread."""
    assert store
    threads = AsyncStore(store)
    run = await threads.resume("g", "agent-0", initial=STATE)
    for n in range(TURNS):
        await run.commit({**STATE, "n": n})
    threads.leave()


async def turns(store: Store | None) -> None:
    """An agent's turns."""

    async def act(turn: Turn) -> None:
        turn.state["n"] = turn.number
        if turn.number == TURNS - 1:
            turn.finish()

    await run_goal("g", Agent("agent", act), store=store, state=STATE)


def seconds(work: Callable[[Store | None], Coroutine[Any, Any, None]], directory: str, *, kept: bool) -> float:
    """How long a turn takes, on the average of a round."""
    with tempfile.TemporaryDirectory(dir=directory) as here, open_store(f"sqlite:///{here}/x.db") as store:
        store.save(CheckpointKey("other", 0, "warm"), 0, {})  # the file and its table are there
        began = time.perf_counter()
        asyncio.run(work(store if kept else None))
        return (time.perf_counter() - began) / TURNS


def main() -> None:
    """Prints the figures."""
    directory = sys.argv[1] if len(sys.argv) > 1 else "."
    rounds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for work, kept in ((commits, True), (awaited_commits, True), (turns, True), (turns, False)):
            name = f"{work.__name__}{'' if kept else ', not kept'}"
            rounds.setdefault(name, []).append(seconds(work, directory, kept=kept))
    base = rounds["commits"]
    for name, measured in rounds.items():
        ratios = sorted(one / other for one, other in zip(measured, base, strict=True))
        print(
            f"{name:20} {statistics.median(measured) * 1e6:7.0f} µs a turn; in commits: median"
            f" {statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}"
        )
    subprocess.run([sys.executable, __file__, directory, "children"], check=True)


def children(directory: str) -> None:
    """A thousand children of one turn, in a process of their own: its memory is theirs."""

    async def child(turn: Turn) -> None:
        turn.state["n"] = turn.number
        if turn.number == 2:
            turn.finish(turn.state["n"])

    async def act(turn: Turn) -> None:
        turn.finish(sum(await turn.gather(*(turn.spawn("helper", child, STATE) for _ in range(CHILDREN)))))

    with tempfile.TemporaryDirectory(dir=directory) as here, open_store(f"sqlite:///{here}/x.db") as store:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        got = asyncio.run(run_goal("g", Agent("orchestrator", act), store=store))
        took = time.perf_counter() - began
        assert got.result == 2 * CHILDREN
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{CHILDREN} children at once, 3 turns of 4 KB each: {3 * CHILDREN / took:.0f} commits a second,"
        f" {after / 1024:.0f} MiB at the peak, {before / 1024:.0f} before"
    )


if __name__ == "__main__":
    if sys.argv[2:] == ["children"]:
        children(sys.argv[1])
    else:
        main()
