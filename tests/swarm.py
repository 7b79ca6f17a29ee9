"""Attempts at one goal, each a swarm with effects: `python -m tests.swarm URL JOURNAL`, to be killed and started again.

What every agent does goes into the journal, a line each, before the next thing happens; `test_swarm.py` reads it. At
the end, and only then, it says what came of it all.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from durable_store import open_store
from durable_store.runtime import Agent, Budget, Turn, run_goal_best_of_n

GOAL = "swarm"
ATTEMPTS, TURNS, CHILDREN, CHILD_TURNS = 3, 3, 4, 2


def main(url: str, journal: str) -> None:
    """Runs it to its end, wherever the last process was."""
    said = Journal(Path(journal))
    with open_store(url) as store:
        said.note("ready", "process", os.getpid())
        best = asyncio.run(
            run_goal_best_of_n(
                GOAL,
                lambda attempt: Agent("orchestrator", orchestrator(attempt, said)),
                ATTEMPTS,
                score=lambda result: result["score"],
                store=store,
                budget=Budget(dollars=1000),
                state={"attempt": None, "rows": [], "mails": []},
            )
        )
    print(
        json.dumps(
            {
                "winner": best.winner.number,
                "attempts": [[each.number, each.result, each.score, each.turns] for each in best.attempts],
                "dollars": best.budget.spent["dollars"],
            }
        )
    )


class Journal:
    """What was done by all processes, in its order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, what: str, who: str, number: int) -> None:
        """One line, in one write."""
        os.write(self._file, json.dumps([what, who, number]).encode() + b"\n")

    def lines(self) -> list[tuple[str, str, int]]:
        """All of it."""
        return lines_of(self.path)


def lines_of(journal: Path) -> list[tuple[str, str, int]]:
    """What is in a journal, none if there is none."""
    text = journal.read_text() if journal.exists() else ""
    return [(what, who, number) for what, who, number in map(json.loads, text.splitlines())]


def orchestrator(attempt: int, journal: Journal) -> Any:
    """The root of an attempt: in each turn children, and a mail that is to be sent once."""

    async def act(turn: Turn) -> None:
        who = f"{attempt}/{turn.agent.checkpoint_id}"
        journal.note("begin", who, turn.number)
        if turn.state["attempt"] not in (None, attempt):
            journal.note("stranger", who, turn.state["attempt"])
        turn.state["attempt"] = attempt
        turn.budget.add(dollars=1, tool_calls=1)
        rows = await turn.gather(
            *(
                turn.spawn(
                    "researcher",
                    researcher(attempt, journal),
                    {"attempt": attempt, "of": turn.number, "question": n, "seen": []},
                )
                for n in range(CHILDREN)
            )
        )
        for row in rows:
            journal.note("got", f"{attempt}/{row['id']}", turn.number)
            if row["question"] == 0:
                journal.note("got", f"{attempt}/{row['id']}/reader-2", turn.number)
        turn.state["mails"].append(await mailed(turn, journal, f"{attempt}/{turn.number}"))
        turn.state["rows"] += [row["answer"] for row in rows]
        if turn.number == TURNS - 1:
            turn.finish({"score": sum(turn.state["rows"]) * (attempt % 2 + 1), "mails": turn.state["mails"]})

    return act


async def mailed(turn: Turn, journal: Journal, mail: str) -> str:
    """What came of a mail that is to be sent once."""

    def send(text: str) -> str:
        journal.note("mail", text, 0)
        return f"sent {text}"

    def find_out(_name: str, arguments: tuple[Any, ...]) -> str:
        journal.note("uncertain", mail, 0)
        return f"sent {arguments[0]}" if ("mail", mail, 0) in journal.lines() else send(arguments[0])

    sent: str = await turn.once("send-mail", send, mail, on_uncertain=find_out)
    return sent


def researcher(attempt: int, journal: Journal) -> Any:
    """A child, which sends a mail; the first one of each turn has a child of its own."""

    async def act(turn: Turn) -> None:
        own = f"{turn.context.parent}/{turn.agent.checkpoint_id}/{turn.state['of']}.{turn.state['question']}"
        journal.note("begin", f"{attempt}/{own}", turn.number)
        if turn.state["attempt"] != attempt or turn.state["seen"] != list(range(turn.number)):
            journal.note("stranger", f"{attempt}/{own}", turn.number)
        turn.budget.add(dollars=0.5)
        turn.state["seen"].append(turn.number)
        if turn.number == 0:
            await mailed(turn, journal, f"{attempt}/{own}")
        elif turn.state["question"] == 0:
            turn.state["seen"].append(await turn.spawn("reader", reader(f"{attempt}/{own}", journal), {"of": own}))
        if turn.number == CHILD_TURNS - 1:
            answer = turn.state["question"] + len(turn.state["seen"])
            turn.finish({"id": own, "question": turn.state["question"], "answer": answer})

    return act


def reader(parent: str, journal: Journal) -> Any:
    """A child of a child."""

    async def act(turn: Turn) -> None:
        journal.note("begin", f"{parent}/{turn.agent.checkpoint_id}", turn.number)
        if turn.context.goal_id != GOAL or not parent.endswith(turn.state["of"]):
            journal.note("stranger", parent, turn.number)
        turn.budget.add(dollars=0.25)
        if turn.number == CHILD_TURNS - 1:
            turn.finish("read")

    return act


def kept_turns(url: str) -> dict[str, int]:
    """How many turns of everybody are committed."""
    with open_store(url) as store:
        roots = {
            key.episode_id: latest.meta["attempt"]
            for key in store.keys(GOAL)
            if "." not in key.checkpoint_id and (latest := store.latest(key))
        }
        kept: dict[str, int] = {}
        for key in store.keys(GOAL):
            parts = key.checkpoint_id.split(".")
            if parts[-1] not in ("once", "score") and (latest := store.latest(key)):
                if len(parts) > 1:
                    parts[2] = "{}.{}".format(*divmod(int(parts[2]), CHILDREN))
                who = "/".join([str(roots[key.episode_id]), *parts[:4]])
                kept[who] = latest.meta["turn"]
        return kept


if __name__ == "__main__":
    main(*sys.argv[1:])
