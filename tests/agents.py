"""Agents that are killed at a chosen place: `python -m tests.agents SCENARIO URL DIE`. They speak JSON, a line each."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from durable_store import episode, open_store
from durable_store.runtime import Agent, Budget, EffectUncertain, Turn, run_goal, run_goal_best_of_n


def say(what: str, **more: Any) -> None:
    print(json.dumps({"what": what, **more}), flush=True)


def die_if(place: str) -> None:
    """Is killed by SIGKILL where the command line says."""
    if sys.argv[3] == place:
        os.kill(os.getpid(), signal.SIGKILL)


async def turns(store: Any) -> None:
    async def act(turn: Turn) -> None:
        say("turn", number=turn.number, name=turn.agent.name, state=turn.state)
        turn.state["seen"].append(turn.number)
        await asyncio.sleep(0.01)
        die_if(f"turn {turn.number}")
        if turn.number == 4:
            turn.finish({"seen": turn.state["seen"]})

    got = await run_goal("g-42", Agent("orchestrator", act), store=store, state={"seen": []})
    say("got", result=got.result, turns=got.turns, resumed_from=got.resumed_from, seconds=got.budget.seconds)


async def clock(store: Any) -> None:
    async def act(turn: Turn) -> None:
        await asyncio.sleep(0.3)
        die_if(f"turn {turn.number}")

    got = await run_goal("g-42", Agent("orchestrator", act, max_turns=9), store=store, budget=Budget(wall_seconds=1))
    say("got", seconds=got.budget.seconds)


async def mail(store: Any) -> None:
    """Its effect is a line in a file."""
    sent = Path(os.environ["SENT"])

    def send(text: str) -> str:
        die_if("before it is done")
        with sent.open("a") as file:
            file.write(f"{text}\n")
        die_if("after it was done")
        return f"sent {text}"

    def find_out(name: str, arguments: tuple[Any, ...]) -> Any:
        say("uncertain", name=name, arguments=arguments)
        return f"found {arguments[0]}" if arguments[0] in sent.read_text() else send(*arguments)

    async def act(turn: Turn) -> None:
        hook = find_out if "HOOK" in os.environ else None
        answers = [await turn.once("mail", send, f"{turn.number} {n}", on_uncertain=hook) for n in range(2)]
        die_if(f"at the end of turn {turn.number}")
        turn.state += answers
        if turn.number == 1:
            turn.finish(turn.state)

    try:
        got = await run_goal("g-42", Agent("clerk", act), store=store, state=[])
        say("got", result=got.result)
    except EffectUncertain as err:
        say("error", name=err.name, arguments=err.arguments, text=str(err))


async def best(store: Any) -> None:
    if sys.argv[3] == "before the episode's end is written":

        def end(*_: Any, **__: Any) -> None:
            die_if(sys.argv[3])

        episode.end = end

    def make_agent(attempt: int) -> Agent:
        async def act(turn: Turn) -> None:
            say("turn", attempt=attempt, number=turn.number, state=turn.state)
            turn.state["of"].append(attempt)
            die_if(f"attempt {attempt} turn {turn.number}")
            if turn.number == 2:
                turn.finish(turn.state["of"])

        return Agent("orchestrator", act)

    def score(result: Any) -> int:
        say("score", result=result)
        return int(sum(result) % 5)

    found = await run_goal_best_of_n("g-42", make_agent, 3, score=score, store=store, state={"of": []})
    say("got", winner=found.winner.number, episodes=[attempt.episode_id for attempt in found.attempts])


if __name__ == "__main__":
    with open_store(sys.argv[2]) as _store:
        asyncio.run({"turns": turns, "clock": clock, "mail": mail, "best": best}[sys.argv[1]](_store))
