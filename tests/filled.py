"""Stores with something of everything in them, and whether two of them hold the same."""

import asyncio
from collections.abc import Iterator

from durable_store import CheckpointKey, Store
from durable_store.backend import Backend
from durable_store.runtime import Agent, Turn, run_goal_best_of_n

ODD_IDS = (
    *("g-1", "G-1", "goal with blanks", "a/b", "a%2fb", "%", ".hidden", "ends.", "con", "nul.txt", "Ünïcödé", "目标"),
    *(
        "\N{ROCKET}",
        "new\nline",
        "tab\t",
        "a",
        "ab",
        "-",
        "--help",
        "'; drop table",
        "'\"",
        "~",
        "*",
        "?",
        "\\",
        "x" * 200,
    ),
)


def goals(count: int) -> Iterator[str]:
    """So many ids of goals, the odd ones first."""
    yield from ODD_IDS[:count]
    yield from (f"goal-{number}" for number in range(count - len(ODD_IDS)))


def fill(store: Store, count: int) -> None:
    """So many goals: attempts of which some have finished, failed or were deleted, fences, deltas and a child's key."""
    for number, goal in enumerate(goals(count)):
        if number % 3 == 0:
            _best_of_two(store, goal)
            continue
        for attempt in range(1 + number % 3):
            _attempt(store, goal, attempt, number)
        if number % 5 == 0:
            store.delete(goal, episode_id=0)


def _attempt(store: Store, goal: str, attempt: int, number: int) -> None:
    """Three processes: each goes on with a state of which most stays as it was, and leaves a fence."""
    store.start_episode(goal, root="o-0")
    for _ in range(3):
        with store.resume(goal, "o-0", keep=2, initial={"of": [goal, attempt], "log": ["-" * 9000]}) as run:
            for _ in range(5):
                state = run.state
                state["log"].append(f"{goal} {attempt} {run.step} " * 20)
                run.commit(state, meta={"number": number})
    store.resume(goal, "o-0.worker-1.0", episode_id=attempt, keep=None).commit({"odd": list(ODD_IDS)})
    if attempt < number % 3:
        run = store.resume(goal, "o-0")
        if number % 2:
            run.finish({"attempt": attempt})
        else:
            run.finish(error="it was not to be")


def _best_of_two(store: Store, goal: str) -> None:
    async def act(turn: Turn) -> None:
        turn.state["seen"] = turn.number
        if turn.number == 2:
            turn.finish(turn.context.episode_id)

    asyncio.run(run_goal_best_of_n(goal, lambda _: Agent("o", act), 2, score=int, store=store, state={}))


def records(backend: Backend) -> dict[tuple[CheckpointKey, int], bytes]:
    """All that a backend keeps."""
    found = {(key, step): backend.load(key, step) for key in backend.keys() for step in backend.steps(key)}
    return {place: record for place, record in found.items() if record is not None}
