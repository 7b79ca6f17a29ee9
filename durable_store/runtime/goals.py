"""One agent, and all that it spawns, working on one goal."""

import warnings
from dataclasses import dataclass
from typing import Any, Literal, cast

from durable_store.aio import AsyncStore
from durable_store.errors import DurableStoreError, InvalidArgument
from durable_store.runtime.agents import Agent, Life
from durable_store.runtime.budget import Budget
from durable_store.runtime.keeping import Swarm, opened
from durable_store.state import same_json, to_json
from durable_store.store import Store


class Drifted(DurableStoreError, UserWarning):
    """A run goes on under another fingerprint than the one that it was begun with: another model, prompt, tool list."""


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
    on_drift: Literal["warn", "raise"] = "warn",
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
        fingerprint: any JSON that tells what the agent is made of. Going on under another one is told, as `on_drift`
            says, with what differs.
        on_drift: `warn`, by the warning Drifted, or `raise` it.
        on_store_error: `raise`, or `continue`: a store that cannot be reached never ends the work; it is logged once
            for each cause, counted, and tried again at the next turn.

    Raises:
        BudgetExceeded: the last turn is committed, and a larger budget goes on from there.
        CheckpointConflict: another process has taken over; all agents of this one have stopped.
        CheckpointNotFound: the goal's running episode was begun under another checkpoint id.
        EffectUncertain: see `Turn.once`. Drifted: with `on_drift="raise"`.
        StoreUnavailable: calling again resumes.
    """
    _one_of("on_drift", on_drift, "warn", "raise")
    _one_of("on_store_error", on_store_error, "raise", "continue")
    async with opened(store) as kept_in:
        swarm = Swarm(kept_in, goal_id, keep=keep, fail_open=on_store_error == "continue")
        life = Life(swarm, agent, agent.checkpoint_id, state, (budget or Budget()).fresh(), None)
        await life.begin(afresh=not resume)
        if fingerprint is not None:
            _look_at_drift(life.kept.meta.get("fingerprint"), fingerprint, on_drift)
            life.marks["fingerprint"] = fingerprint
        outcome = await life.live()
    return GoalResult(
        outcome.result, swarm.episode_id or 0, outcome.turns, outcome.resumed_from, life.budget, swarm.errors
    )


def _look_at_drift(before: Any, now: object, on_drift: str) -> None:
    to_json(now, name="fingerprint")
    if before is None or same_json(before, now):
        return
    told = Drifted(f"the run goes on under another fingerprint: {_difference(before, now)}")
    if on_drift == "raise":
        raise told
    warnings.warn(told, stacklevel=3)


def _difference(before: Any, now: Any) -> str:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return f"it was {before!r} and is {now!r}"
    old, new = cast("dict[str, Any]", before), cast("dict[str, Any]", now)
    names = [name for name in {**old, **new} if not same_json(old.get(name), new.get(name))]
    return ", ".join(f"{name} was {old.get(name)!r} and is {new.get(name)!r}" for name in names)


def _one_of(name: str, value: object, *known: str) -> None:
    if value not in known:
        raise InvalidArgument(f"{name} is {' or '.join(known)}, not {value!r}")
