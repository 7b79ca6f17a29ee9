"""Agents, best-of-N attempts and swarms that survive a kill.

    async def act(turn):
        turn.state["messages"].append(await think(turn.state["messages"]))
        if len(turn.state["messages"]) == 10:
            turn.finish({"answer": turn.state["messages"][-1]})

    got = await run_goal("g-42", Agent("orchestrator", act), store=store, state={"messages": []})

An agent acts turn by turn; what is in `turn.state` when `act` returns is committed before the next turn begins. Killed
and started again, the same program goes on behind the last turn that was committed.
"""

from durable_store.runtime.agents import Agent, SwarmContext, Turn
from durable_store.runtime.attempts import Attempt, BestOfN, run_goal_best_of_n
from durable_store.runtime.budget import Budget, BudgetExceeded
from durable_store.runtime.drift import Drifted
from durable_store.runtime.effects import EffectUncertain
from durable_store.runtime.goals import GoalResult, run_goal

__all__ = [
    "Agent",
    "Attempt",
    "BestOfN",
    "Budget",
    "BudgetExceeded",
    "Drifted",
    "EffectUncertain",
    "GoalResult",
    "SwarmContext",
    "Turn",
    "run_goal",
    "run_goal_best_of_n",
]
