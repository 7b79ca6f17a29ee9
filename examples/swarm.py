"""A swarm with best-of-N: three attempts at the highest point of a landscape, each with two rounds of four climbers.

    python examples/swarm.py            # it may spend 2 dollars
    python examples/swarm.py 0.50

Press Ctrl-C at any moment, or `kill -9` it from another terminal, and give the same command again: attempts and
climbers that have finished are not run again, the others go on behind their last turn. With a budget that is too small
it stops; give the command again with a larger one. When it is done, it tells the recorded result, and starts nothing.
The store is `swarm.db`, in the directory where you are.
"""

import asyncio
import random
import sys
from math import cos, hypot

from durable_store import CheckpointConflict, open_store
from durable_store.runtime import Agent, Budget, BudgetExceeded, Turn, run_goal_best_of_n

ATTEMPTS, ROUNDS, CLIMBERS, STRIDES = 3, 2, 4, 3


def height(x: float, y: float) -> float:
    """Of the landscape: a mountain with many hills on it."""
    return round(100 - hypot(x - 30, y - 60) + 9 * cos(x / 3) * cos(y / 5), 3)


def orchestrator(attempt: int) -> Agent:
    """The agent of an attempt: in each turn it sends climbers out, and goes where the best of them came."""

    async def act(turn: Turn) -> None:
        print(f"attempt {attempt}, round {turn.number}: climbers set out from {turn.state['at']}")
        starts = [{"attempt": attempt, "climber": n, "at": turn.state["at"]} for n in range(CLIMBERS)]
        places = await turn.gather(*(turn.spawn("climber", climb, start) for start in starts))
        turn.state["at"] = max([turn.state["at"], *places], key=lambda at: height(*at))
        if turn.number == ROUNDS - 1:
            turn.finish({"at": turn.state["at"], "height": height(*turn.state["at"])})

    return Agent("orchestrator", act)


async def climb(turn: Turn) -> None:
    """A child's turn: looks around and takes a stride. In your swarm: a call of a model."""
    seed = f"{turn.state['attempt']} {turn.context.parent} {turn.state['climber']} {turn.state['at']} {turn.number}"
    chance = random.Random(seed)  # noqa: S311 - the same in each process: a turn that runs again does the same
    await asyncio.sleep(0.1 + 0.1 * chance.random())
    x, y = turn.state["at"]
    seen = [[round(x + chance.gauss(0, 15), 1), round(y + chance.gauss(0, 15), 1)] for _ in range(10)]
    turn.state["at"] = max([[x, y], *seen], key=lambda at: height(*at))
    turn.budget.add(dollars=0.02, tool_calls=1)
    print(f"  attempt {turn.state['attempt']}, climber {turn.state['climber']}: stride {turn.number}")
    if turn.number == STRIDES - 1:
        turn.finish(turn.state["at"])


async def main(dollars: float) -> None:
    """All attempts, as far as they are not finished."""
    goal, cap, start = "summit", Budget(dollars=dollars), {"at": [0, 0]}
    with open_store("sqlite:///swarm.db") as store:
        best = await run_goal_best_of_n(
            goal, orchestrator, ATTEMPTS, score=lambda result: result["height"], store=store, budget=cap, state=start
        )
    for attempt in best.attempts:
        print(f"attempt {attempt.number} came to {attempt.score} in {attempt.turns} turns")
    spent = best.budget.spent["dollars"]
    print(f"result: attempt {best.winner.number} at {best.winner.result['at']}, for {spent:.2f} dollars")


if __name__ == "__main__":
    try:
        asyncio.run(main(float(sys.argv[1]) if sys.argv[1:] else 2))
    except (KeyboardInterrupt, CheckpointConflict, BudgetExceeded) as err:
        sys.exit(f"stopped, and the same command goes on: {err!r}")
