"""The demo's swarms: attempts at one goal, each with children that review source files, in a process to be killed.

`python -m durable_store.cli.swarm_agents URL GOAL ATTEMPTS CHILDREN FILES SEED MAILS`. It reads one line of leave from
stdin for each turn of anybody, so that it never outruns a kill that comes late, and ends when the demo is gone. It
reports on stdout, a line for each event. WHO is an attempt, `2`, or one of its children, `2/0`. In each turn
`reached WHO TURN` (those before it are committed), `begin WHO TURN`, `mail WHO TURN` before it is sent,
`commit WHO TURN`; after a kill `uncertain WHO TURN sent|unsent`; `finished WHO` when its result is had, whether it had
to act for it or not; then `outcome JSON` or `error MESSAGE`.
"""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Awaitable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from durable_store.cli.reviewer import report, reporting, review, source_files
from durable_store.runtime import Agent, BestOfN, Turn, run_goal_best_of_n
from durable_store.store import Store, open_store

ROOT = "orchestrator"
ROOT_ID = f"{ROOT}-0"
ROOT_TURNS = 2


@dataclass(frozen=True, slots=True)
class Task:
    """What the swarms work on: the arguments of their process."""

    url: str
    goal: str
    attempts: int
    children: int
    files: int
    seed: int
    mails: str

    @property
    def arguments(self) -> list[str]:
        """On a command line."""
        return list(map(str, astuple(self)))

    @property
    def turns(self) -> dict[str, int]:
        """How many turns everybody takes."""
        roots = {str(attempt): ROOT_TURNS for attempt in range(self.attempts)}
        return roots | {f"{root}/{child}": self.files for root in roots for child in range(self.children)}

    @property
    def mails_to_send(self) -> int:
        """One for each file, and one for each attempt."""
        return self.attempts * (self.children * self.files + 1)


class Leave:
    """What the demo gives; without it nobody begins a turn."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(0)
        asyncio.get_running_loop().add_reader(0, self._more)

    async def taken(self) -> None:
        """Returns when one more turn may begin."""
        await self._turns.acquire()

    def _more(self) -> None:
        given = os.read(0, 4096)
        if not given:
            os._exit(1)  # the demo is gone, and nobody would stop us
        for _ in given:
            self._turns.release()


class Swarms:
    """Those who act."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._files = source_files(task.seed)
        self._mails = Path(task.mails)
        self._leave = Leave()

    async def run(self, store: Store) -> BestOfN:
        """All attempts, from wherever an earlier process was killed."""
        best = await run_goal_best_of_n(self.task.goal, self.agent, self.task.attempts, score=_score, store=store)
        for attempt in best.attempts:
            if attempt.error:
                raise attempt.error
        return best

    def agent(self, attempt: int) -> Agent:
        """Who begins an attempt: it sends the children out, and then a mail of what they found."""

        async def act(turn: Turn) -> None:
            who = str(attempt)
            await self._begin(who, turn)
            if turn.number == 0:
                numbers = range(self.task.children)
                children = [turn.spawn("reviewer", self._reviews, _errand(attempt, number)) for number in numbers]
                results = (_told(f"{who}/{number}", child) for number, child in enumerate(children))
                turn.state = {"reviews": await turn.gather(*results)}
            else:
                found = sum(each["undocumented"] for each in turn.state["reviews"])
                await self._send_mail(who, turn, f"{found} definitions have no docstring")
                turn.finish({"attempt": attempt, "undocumented": found, "reviews": turn.state["reviews"]})
            report("commit", who, turn.number)

        return Agent(ROOT, act)

    async def _reviews(self, turn: Turn) -> None:
        """A child's turn: it reviews a file that nobody else has, and sends a mail about it."""
        attempt, child = turn.state["attempt"], turn.state["child"]
        who = f"{attempt}/{child}"
        await self._begin(who, turn)
        first = (attempt * self.task.children + child) * self.task.files
        messages = review(self._files, first + turn.number)
        found = messages[-1]["content"]
        turn.state["messages"] += messages
        turn.state["undocumented"] += (missing := found["documentable"] - found["documented"])
        await self._send_mail(who, turn, f"{missing} of {found['documentable']} have no docstring in {found['file']}")
        if turn.number + 1 >= self.task.files:
            digest = hashlib.sha256(json.dumps(turn.state["messages"]).encode()).hexdigest()
            turn.finish({"undocumented": turn.state["undocumented"], "sha256": digest})
        report("commit", who, turn.number)

    async def _begin(self, who: str, turn: Turn) -> None:
        report("reached", who, turn.number)
        await self._leave.taken()
        report("begin", who, turn.number)

    async def _send_mail(self, who: str, turn: Turn, text: str) -> None:
        """The effect of a turn; a mail is a line in a file, where they can be counted."""

        def send(mail: str) -> str:
            report("mail", who, turn.number)
            with self._mails.open("a", encoding="utf-8") as mails:
                mails.write(f"{mail}\n")
            return "sent"

        def look(_effect: str, arguments: tuple[Any, ...]) -> str:
            (mail,) = arguments
            is_sent = self._mails.exists() and mail in self._mails.read_text(encoding="utf-8").splitlines()
            report("uncertain", who, turn.number, "sent" if is_sent else "unsent")
            return "sent" if is_sent else send(mail)

        await turn.once("send-mail", send, f"{who}/{turn.number}: {text}", on_uncertain=look)


def _errand(attempt: int, child: int) -> dict[str, Any]:
    return {"attempt": attempt, "child": child, "undocumented": 0, "messages": []}


async def _told(who: str, child: Awaitable[Any]) -> Any:
    result = await child
    report("finished", who)
    return result


def _score(result: dict[str, Any]) -> int:
    report("finished", result["attempt"])
    score: int = result["undocumented"]
    return score


def _work(task: Task) -> None:
    async def work() -> BestOfN:
        return await Swarms(task).run(store)

    with open_store(task.url) as store:
        best = asyncio.run(work())
    attempts = [{"result": each.result, "score": each.score, "turns": each.turns} for each in best.attempts]
    outcome = {"winner": best.winner.number, "episode": best.winner.episode_id, "attempts": attempts}
    report("outcome", json.dumps(outcome))


def _main() -> int:
    url, goal, attempts, children, files, seed, mails = sys.argv[1:]
    task = Task(url, goal, int(attempts), int(children), int(files), int(seed), mails)
    return reporting(lambda: _work(task))


if __name__ == "__main__":
    sys.exit(_main())
