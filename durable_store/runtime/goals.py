"""One agent, and all that it spawns, working on one goal."""

from dataclasses import dataclass
from typing import Any, Literal

import orjson

from durable_store.aio import AsyncStore
from durable_store.errors import InvalidArgument, shown
from durable_store.runtime import drift
from durable_store.runtime.agents import Agent
from durable_store.runtime.budget import Budget, fresh
from durable_store.runtime.keeping import Swarm, opened
from durable_store.runtime.life import Life
from durable_store.state import to_json
from durable_store.store import Store

_MOST = 16 * 2**10
"""Bytes of a fingerprint: it stands in the meta of every commit."""


@dataclass(frozen=True)
class GoalResult:
    """What became of a goal.

    Attributes:
        result: what the agent finished with.
        episode_id: the attempt that did.
        turns: how many turns that took, in all processes.
        resumed_from: the step that this process went on from; None if it began.
        budget: what was spent.
        store_errors: how often the store could not be reached, with `on_store_error="continue"`.
    """

    result: Any
    episode_id: int
    turns: int
    resumed_from: int | None
    budget: Budget
    store_errors: int


async def run_goal(
    goal_id: str | int,
    agent: Agent,
    *,
    store: Store | AsyncStore | None = None,
    state: object = None,
    budget: Budget | None = None,
    resume: bool = True,
    keep: int | None = 5,
    fingerprint: object = None,
    on_drift: drift.OnDrift = "warn",
    on_store_error: Literal["raise", "continue"] = "raise",
) -> GoalResult:
    """Lets an agent act until it finishes; killed and called again, from behind its last committed turn.

    An error of `act` is raised here and leaves the episode open: calling again resumes it. When the agent finishes, its
    episode is finished with its result; the next call starts the next one.

    Args:
        goal_id: what is being worked on.
        agent: who begins; it may spawn others.
        store: where turns are committed. Without one the same code runs, and nothing is kept.
        state: what the first turn of a new episode finds in `turn.state`; any JSON.
        budget: its caps hold for the agent and all whom it spawns, over all processes.
        resume: False starts the next episode, whatever was left of the last.
        keep: how many of the newest steps of each agent stay, as in `Store.resume`.
        fingerprint: any JSON of at most 16 KiB that tells what the agent is made of. Going on under another one is
            told, as `on_drift` says, with what differs.
        on_drift: `warn`, by the warning Drifted, or `raise` it; also where a child that goes on is spawned with another
            state than it began with, or an effect that was begun is asked for with other arguments.
        on_store_error: `raise`, or `continue`: a store that cannot be reached never ends the work; it is logged once
            for each cause, counted, and tried again at the next turn.

    Raises:
        BudgetExceeded: the last turn is committed, and a larger budget goes on from there.
        CheckpointConflict: another process has taken over; all agents of this one have stopped.
        CheckpointNotFound: the goal's running episode was begun under another checkpoint id.
        CheckpointDamaged: all that was committed is damaged, or written by a newer version.
        EffectUncertain: see `Turn.once`.
        Drifted: with `on_drift="raise"`, before what differs goes on.
        StoreUnavailable: calling again resumes.
        InvalidArgument, InvalidKey, InvalidState: an argument that cannot be; nothing was done yet.
    """
    if not isinstance(agent, Agent):
        raise InvalidArgument(f"agent must be an Agent, Agent(role, act), not {shown(agent)}")
    _one_of("on_drift", on_drift, "warn", "raise")
    _one_of("on_store_error", on_store_error, "raise", "continue")
    async with opened(store) as kept_in:
        swarm = Swarm(kept_in, goal_id, keep=keep, fail_open=on_store_error == "continue", on_drift=on_drift)
        life = Life(swarm, agent, agent.checkpoint_id, state, fresh(budget), None)
        now = None if fingerprint is None else _copied(fingerprint)
        if now is not None:
            life.marks["fingerprint"] = now
        await life.begin(afresh=not resume)
        before = life.kept.meta.get("fingerprint")
        if now is None:
            life.marks.update({} if before is None else {"fingerprint": before})
        elif before is not None and (differs := drift.difference(before, now)):
            drift.tell(f"{agent.checkpoint_id} goes on under another fingerprint: {differs}", on_drift)
        outcome = await life.live()
    return GoalResult(
        outcome.result, swarm.episode_id or 0, outcome.turns, outcome.resumed_from, life.budget, swarm.errors
    )


def _copied(fingerprint: object) -> Any:
    json = to_json(fingerprint, name="fingerprint")
    if len(json) > _MOST:
        raise InvalidArgument(f"fingerprint: {len(json)} bytes of JSON; the most is {_MOST}: a digest says as much")
    return orjson.loads(json)


def _one_of(name: str, value: object, *known: str) -> None:
    if value not in known:
        raise InvalidArgument(f"{name} is {' or '.join(known)}, not {value!r}")
