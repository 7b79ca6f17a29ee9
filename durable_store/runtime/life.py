"""An agent at work: turn by turn, from commit to commit, over all of its processes."""

import asyncio
import hashlib
import inspect
from dataclasses import dataclass
from typing import Any

import orjson

from durable_store.errors import InvalidArgument, shown
from durable_store.runtime import drift
from durable_store.runtime.agents import Act, Agent, Child, SwarmContext, Turn, ended
from durable_store.runtime.budget import Budget, BudgetExceeded
from durable_store.runtime.effects import Effects, check_not_within
from durable_store.runtime.keeping import Kept, Swarm
from durable_store.state import Encoded, to_json


@dataclass
class Outcome:
    """What became of an agent: its result, how many turns it took, and the step that it went on from, if it did."""

    result: Any
    turns: int
    resumed_from: int | None


class Life:
    """An agent at work, from where its last process was ended to where this one is, or to its finish."""

    def __init__(
        self, swarm: Swarm, agent: Agent, checkpoint_id: str, state: object, budget: Budget, parent: "Life | None"
    ) -> None:
        self.swarm = swarm
        self.agent = agent
        self.budget = budget
        self.kept = Kept(swarm, checkpoint_id, state)
        self.marks: dict[str, Any] = {}
        """What every commit carries beside what a life needs itself."""
        self.context: SwarmContext
        self.effects: Effects
        self.resumed_from: int | None = None
        self._parent = parent
        self._in_turn = parent.turns if parent else None
        self._superfluous: list[int] = []
        self._given = self.kept.state
        self.turns: int = 0
        self._spawned: int = 0
        self._effects: int = 0
        self._children: list[Child] = []

    async def begin(self, *, afresh: bool = False) -> None:
        """Goes to where the last process has come. The first agent opens the episode, before anybody can join it."""
        kept, swarm = self.kept, self.swarm
        await kept.begin(afresh=afresh)
        if not kept.has_place and swarm.store:
            await kept.begin(afresh=afresh)  # once more: behind its first turn it would be too late to go on
        meta = kept.meta
        self.turns, self._spawned = meta.get("turn", 0), meta.get("spawned", 0)
        self._effects = meta.get("effects", 0)
        self.resumed_from = kept.step if kept.step >= 0 else None
        self._restore_budget(meta)
        if self._parent is None:
            if meta.get("blind"):
                swarm.blind = True
            if kept.step < 0 and (kept.has_place or not swarm.store):
                await kept.commit(kept.state, self._book(at_boundary=True))
        self.context = SwarmContext(
            swarm.goal_id,
            swarm.store,
            swarm.episode_id or 0,
            self.budget,
            self._parent.kept.checkpoint_id if self._parent else None,
        )

    def _restore_budget(self, meta: dict[str, Any]) -> None:
        """What a child has spent in an earlier turn of its parent, that turn's commit has counted already."""
        spent, paid = meta.get("budget", {}), meta.get("paid", {})
        if self._in_turn is not None:
            if meta.get("in_turn", self._in_turn) < self._in_turn:
                paid = spent
            self.marks.update(in_turn=self._in_turn, paid=paid)
        self.budget.restore(spent, paid=paid)

    async def live(self) -> Outcome:
        """Acts until the agent has finished."""
        kept = self.kept
        begun: list[dict[str, Any]] = kept.meta.get("begun", [])
        while not kept.finished:
            self._check()
            turn = Turn(self, self.turns, orjson.loads(kept.state.json))
            self.effects = Effects(self.swarm, kept, self._effects, begun, self._noted)
            begun = []
            await self._act(turn)
            self.effects.end()
            state = Encoded(to_json(turn.state))
            self._superfluous += self.effects.numbers
            self.turns, self._effects = self.turns + 1, self.effects.count
            book = self._book(at_boundary=True)
            if await (kept.finish(turn.ended[0], state, book) if turn.ended else kept.commit(state, book)):
                await kept.forget_effects(self._superfluous)
                self._superfluous = []
            await asyncio.sleep(0)  # an agent that awaits nothing can be cancelled here
        return Outcome(kept.result, self.turns, self.resumed_from)

    async def result(self) -> Any:
        """Lives as a child, and gives the result."""
        at_work, name = self.swarm.at_work, self.kept.checkpoint_id
        if name in at_work:
            raise InvalidArgument(f"{name} is at work already: a name is of one child")
        at_work.add(name)
        try:
            self.swarm.check()
            await self.begin()
            self._look_at_drift()
            return (await self.live()).result
        finally:
            at_work.discard(name)

    def spawn(self, role: str, act: Act, state: object, name: str | None) -> Child:
        """`Turn.spawn`."""
        check_not_within(self.swarm)
        if name is not None and (not isinstance(name, str) or not name or "." in name or name.isdecimal()):
            raise InvalidArgument(f"a child's name is text without a dot, and no number: not {shown(name)}")
        agent = Agent(role, act, depth=self.agent.depth + 1)
        label = self._spawned if name is None else name
        checkpoint_id = f"{self.kept.checkpoint_id}.{agent.checkpoint_id}.{label}"
        budget = self.swarm.budgets.setdefault(checkpoint_id, self.budget.child())
        child = Child(Life(self.swarm, agent, checkpoint_id, state, budget, self))
        self._spawned += 1
        self._children.append(child)
        return child

    def _look_at_drift(self) -> None:
        sorted_json = orjson.dumps(orjson.loads(self._given.json), option=orjson.OPT_SORT_KEYS)
        given = hashlib.blake2b(sorted_json, digest_size=8).hexdigest()
        before = self.kept.meta.get("given", given)
        if before != given:
            began = f"{self.kept.checkpoint_id} began with another state than the one that it is now spawned with"
            drift.tell(f"{began}: it goes on with what it has", self.swarm.on_drift)
        self.marks["given"] = before

    async def _act(self, turn: Turn) -> None:
        try:
            acting = self.agent.act(turn)
            if inspect.isawaitable(acting):
                await acting
            for child in self._children:
                await child.end()
        except BaseException:
            await ended([task for child in self._children for task in child.under_way])
            raise
        finally:
            self._children.clear()
        self.swarm.check()

    def _check(self) -> None:
        self.swarm.check()
        over = self.budget.over()
        if not over and self.turns >= self.agent.max_turns:
            over = f"{self.kept.checkpoint_id} has not finished in {self.agent.max_turns} turns"
        if over:
            self.swarm.stop(BudgetExceeded(f"{over}; with a larger cap it goes on from the last turn"))
        self.swarm.check()

    def _noted(self) -> dict[str, Any]:
        """What a commit within a turn carries: the last boundary's figures, and the effects that were begun since."""
        last, budget = self.kept.meta or {"turn": self.turns}, self.budget.snapshot(at_boundary=False)
        return {**last, **self.marks, "begun": self.effects.journal(), "budget": budget}

    def _book(self, *, at_boundary: bool) -> dict[str, Any]:
        return {
            "turn": self.turns,
            "spawned": self._spawned,
            "effects": self._effects,
            "budget": self.budget.snapshot(at_boundary=at_boundary),
            **self.marks,
        }
