"""Several attempts at one goal, the best of which wins."""

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from durable_store import episode as episodes
from durable_store.aio import AsyncStore
from durable_store.backend import Backend
from durable_store.episode import Episode
from durable_store.errors import CheckpointConflict, CheckpointNotFound, InvalidArgument, StoreUnavailable, shown
from durable_store.key import CheckpointKey, goal_text
from durable_store.record import random_tag, writer_name
from durable_store.runtime import claims
from durable_store.runtime.agents import Agent, all_of
from durable_store.runtime.budget import Budget, BudgetExceeded, fresh
from durable_store.runtime.keeping import Swarm, opened
from durable_store.runtime.life import Life
from durable_store.state import to_json
from durable_store.store import Store

_ENDS_ALL = (BudgetExceeded, CheckpointConflict, StoreUnavailable)


@dataclass(frozen=True)
class Attempt:
    """One attempt.

    Attributes:
        number: 0, 1 …
        episode_id: where it is kept.
        result: what it finished with; None if it did not.
        score: of the result; None if it raised.
        turns: how many it took.
        error: what it raised, or `score` of its result. Calling again resumes it, or asks for the score again.
    """

    number: int
    episode_id: int
    result: Any = None
    score: Any = None
    turns: int = 0
    error: Exception | None = None


@dataclass(frozen=True)
class BestOfN:
    """All attempts, and the one with the best score; of equal ones the earlier."""

    winner: Attempt
    attempts: list[Attempt]
    budget: Budget


async def run_goal_best_of_n(
    goal_id: str | int,
    make_agent: Callable[[int], Agent],
    n: int,
    *,
    score: Callable[[Any], Any],
    store: Store | AsyncStore | None,
    concurrency: int = 1,
    budget: Budget | None = None,
    state: object = None,
    keep: int | None = 5,
) -> BestOfN:
    """Lets n agents attempt one goal, each in an episode of its own, and returns the best.

    Killed and called again, an attempt that was under way goes on behind its last turn, finished ones are not run again
    (results and scores come from the store), and the others begin. That holds when all are finished, too: for another
    n attempts take another goal. No attempt sees or inherits what another one has committed.

    Args:
        goal_id: what is being attempted.
        make_agent: the agent of an attempt, by its number; a fresh one for each.
        n: how many attempts.
        score: of a result; the highest wins. A number, or lists of numbers. May be a coroutine function. What it
            said is kept, and it is not asked again; if it raises, its attempt counts as one that raised.
        store: where turns are committed; None keeps nothing.
        concurrency: how many attempts are under way at the same time.
        budget: its caps hold for all attempts together, over all processes.
        state: what each attempt begins with.
        keep: as in `run_goal`.

    Raises:
        BudgetExceeded, CheckpointConflict, StoreUnavailable: all attempts were ended at their last turn.
        CheckpointNotFound: an attempt was begun under another role, or its episode was deleted.
        Exception: of the first attempt, when all have raised. One that raised while another one finished is told in
            its Attempt.
    """
    for name, count in (("n", n), ("concurrency", concurrency)):
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InvalidArgument(f"{name} must be an int of at least 1, not {shown(count)}")
    whole = fresh(budget)
    async with opened(store) as kept_in:
        attempting = _Attempting(kept_in, goal_id, keep, state, score)
        budgets = [whole.child() for _ in range(n)]
        for number in range(n):
            if begun := await attempting.begun(number):
                budgets[number].restore(begun.meta.get("budget", {}))  # all of it, before anybody spends more
        at_once = asyncio.Semaphore(concurrency)

        async def attempt(number: int) -> Attempt:
            async with at_once:
                agent = make_agent(number)
                if not isinstance(agent, Agent):
                    raise InvalidArgument(f"make_agent({number}) must return an Agent, not {shown(agent)}")
                return await attempting.attempt(number, agent, budgets[number])

        attempts = await all_of([asyncio.ensure_future(attempt(number)) for number in range(n)])
    finished = [attempt for attempt in attempts if attempt.error is None]
    if not finished:
        raise next(attempt.error for attempt in attempts if attempt.error)
    try:
        winner = max(finished, key=lambda attempt: attempt.score)
    except TypeError as err:
        scores = [attempt.score for attempt in finished]
        raise InvalidArgument(f"scores must be comparable with one another, not {shown(scores)}") from err
    return BestOfN(winner, attempts, whole)


@dataclass(frozen=True)
class _Attempting:
    """What all attempts have in common."""

    store: AsyncStore | None
    goal_id: str | int
    keep: int | None
    state: object
    score: Callable[[Any], Any]

    async def begun(self, number: int) -> "_Begun | None":
        """What earlier processes have made of an attempt."""
        if self.store is None:
            return None
        backend, goal = self.store.backend, goal_text(self.goal_id)
        episode_id = await self.store.call(claims.claimed, backend, goal, number)
        return None if episode_id is None else await self._begun_in(self.store, episode_id)

    async def attempt(self, number: int, agent: Agent, budget: Budget) -> Attempt:
        """Goes on with an attempt, or begins it, or tells what came of it."""
        begun = await self.begun(number) or await self._claimed(number, agent)
        if begun and begun.episode.root != agent.checkpoint_id:
            raise CheckpointNotFound(
                f"attempt {number} at {self.goal_id!r} is run by {begun.episode.root!r}, not by"
                f" {agent.checkpoint_id!r}: a role is the same in every process"
            )
        episode_id = begun.episode.id if begun else 0
        result, turns = None, begun.meta.get("turn", 0) if begun else 0
        if begun:
            budget.restore(begun.meta.get("budget", {}))  # another process may have begun it meanwhile
            if begun.episode.status == "failed":
                error = CheckpointConflict(f"attempt {number} was closed as failed: {shown(begun.episode.result)}")
                return Attempt(number, episode_id, turns=turns, error=error)
        try:
            if begun and begun.episode.status == "finished":
                result = begun.episode.result
            else:
                swarm = Swarm(self.store, self.goal_id, keep=self.keep)
                swarm.episode_id = begun.episode.id if begun else None
                life = Life(swarm, agent, agent.checkpoint_id, self.state, budget, None)
                life.marks["attempt"] = number
                await life.begin()
                try:
                    result = (await life.live()).result
                finally:
                    turns = life.turns
            scored = await self._scored(episode_id, agent, result)
        except _ENDS_ALL:
            raise
        except Exception as err:  # noqa: BLE001 - told in the attempt
            return Attempt(number, episode_id, result, turns=turns, error=err)
        return Attempt(number, episode_id, result, scored, turns)

    async def _claimed(self, number: int, agent: Agent) -> "_Begun | None":
        """A new episode for an attempt; or the one that another process has given it meanwhile."""
        if self.store is None:
            return None
        new = await self.store.start_episode(self.goal_id, root=agent.checkpoint_id)
        backend, goal = self.store.backend, goal_text(self.goal_id)
        claimed = await self.store.call(claims.claim, backend, goal, number, new)
        if claimed != new:
            await self.store.delete(self.goal_id, episode_id=new)  # nobody will ever look for it
        return await self._begun_in(self.store, claimed)

    async def _begun_in(self, store: AsyncStore, episode_id: int) -> "_Begun":
        episode = await store.call(_settled, store.backend, goal_text(self.goal_id), episode_id)
        latest = await store.latest(CheckpointKey(self.goal_id, episode_id, episode.root), skip_damaged=True)
        return _Begun(episode, latest.meta if latest else {})

    async def _scored(self, episode_id: int, agent: Agent, result: Any) -> Any:
        """The score of a result: the one in the store, or a new one, which is then kept there."""
        key = CheckpointKey(self.goal_id, episode_id, f"{agent.checkpoint_id}.score")
        if self.store:
            try:
                return (await self.store.load(key, 0)).state["score"]
            except CheckpointNotFound:
                pass
        scored = self.score(result)
        if inspect.isawaitable(scored):
            scored = await scored
        scored = orjson.loads(to_json(scored, name="score"))
        if type(scored) not in (bool, int, float, list):
            raise InvalidArgument(f"a score is a number, or a list of numbers, not {shown(scored)}")
        if self.store:
            await self.store.save(key, 0, {"score": scored})
        return scored


@dataclass(frozen=True)
class _Begun:
    """An attempt that an earlier process has begun, and what its last commit says of it."""

    episode: Episode
    meta: dict[str, Any]


def _settled(backend: Backend, goal: str, episode_id: int) -> Episode:
    """The episode, once its end is written down: a process may have been killed between its root's end and its own."""
    episode = episodes.read(backend, goal, episode_id)
    if episode is None or episode.status == "deleted":
        raise CheckpointNotFound(f"episode {episode_id} of goal {goal!r}, which has an attempt, was deleted")
    if episode.status == "running" and episodes.end_if_decided(backend, goal, episode, writer_name(random_tag())):
        return episodes.read(backend, goal, episode_id) or episode
    return episode
