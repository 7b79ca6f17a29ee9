"""An agent, its turns, and the children that it spawns."""

import asyncio
import hashlib
import inspect
import secrets
import warnings
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import orjson

from durable_store.aio import AsyncStore
from durable_store.errors import CheckpointConflict, InvalidArgument, shown
from durable_store.key import CheckpointKey
from durable_store.record import closing_json
from durable_store.runtime import drift
from durable_store.runtime.budget import Budget, BudgetExceeded
from durable_store.runtime.effects import Effects, Hook
from durable_store.runtime.keeping import Kept, Swarm
from durable_store.state import Encoded, to_json

Act = Callable[["Turn"], Awaitable[None]]


@dataclass(frozen=True)
class Agent:
    """Somebody who acts, turn by turn.

    Attributes:
        role: what it is there for; text as in a checkpoint id, without a dot, which separates a child from its parent.
        act: one turn, `async def act(turn)`.
        depth: how many parents are above it.
        max_turns: after so many it ends with BudgetExceeded.
        name: `"{role}-{depth}-{random}"`, for logs and messages. Another one in each process: nothing is kept under it.

    Raises:
        InvalidArgument, InvalidKey: a role that cannot be part of a checkpoint id or has a dot; an act that cannot be
            called; a depth below 0; max_turns below 1.
    """

    role: str
    act: Act
    depth: int = field(default=0, kw_only=True)
    max_turns: int = field(default=1_000_000, kw_only=True)
    name: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.role, str) or not self.role or "." in self.role:
            raise InvalidArgument(f"a role is text without a dot, not {shown(self.role)}")
        if not callable(self.act):
            raise InvalidArgument(f"act is a function of a turn, not {shown(self.act)}")
        for name, least in (("depth", 0), ("max_turns", 1)):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < least:
                raise InvalidArgument(f"{name} must be an int of at least {least}, not {shown(count)}")
        CheckpointKey("any", 0, self.checkpoint_id)  # raises what its first commit would raise
        object.__setattr__(self, "name", self.name or f"{self.checkpoint_id}-{secrets.token_hex(3)}")

    @property
    def checkpoint_id(self) -> str:
        """`"{role}-{depth}"`: the same in every process."""
        return f"{self.role}-{self.depth}"


@dataclass(frozen=True)
class SwarmContext:
    """Where an agent works.

    Attributes:
        goal_id: on what.
        store: where turns are kept, or None.
        episode_id: in which attempt; 0 where nothing is kept.
        budget: of this agent.
        parent: the checkpoint id of the agent that spawned it; None for the first.
    """

    goal_id: str | int
    store: AsyncStore | None = None
    episode_id: int = 0
    budget: Budget = field(default_factory=Budget)
    parent: str | None = None


@dataclass
class Outcome:
    """What became of an agent: its result, how many turns it took, and the step that it went on from, if it did."""

    result: Any
    turns: int
    resumed_from: int | None


class Turn:
    """One turn of an agent. It is what `act` is given.

    Attributes:
        number: 0, 1 …, counted since the agent's first turn in any process.
        state: what `act` changes; committed when it returns.
        budget: what the agent spends is added here.
        agent: whose turn it is.
        context: where it works.
    """

    def __init__(self, life: "Life", number: int, state: Any) -> None:
        self.number = number
        self.state = state
        self.agent = life.agent
        self.budget = life.budget
        self.context = life.context
        self.ended: tuple[Any] | None = None
        self._life = life

    def finish(self, result: object = None) -> None:
        """Makes this turn the last one; `result` is any JSON of at most 32 KiB, encoded now.

        Raises:
            InvalidState: JSON cannot hold the result, or it takes more: it belongs in the state.
        """
        self.ended = (orjson.loads(closing_json("finished", result))["result"],)

    def once(
        self, name: str, function: Callable[..., Any], *args: Any, on_uncertain: Hook | None = None
    ) -> Awaitable[Any]:
        """Awaits what the function returns, and never calls it twice in the life of this agent.

        The intent is committed before the call, the result kept after it: after a kill a finished effect returns its
        recorded result. Effects of one name in one turn are told apart by their order. The result is JSON. One that was
        begun with other arguments, of those that are JSON, is told, as `on_drift` of `run_goal` says. Cancelled, the
        agent ends when an effect that is under way has come to its end.

        Raises:
            EffectUncertain: it was begun and has no result, because of a kill or an error of its own; unless there is
                `on_uncertain(name, arguments)`, whose answer, awaited if it can be, becomes the recorded result.
            CheckpointConflict: another process has taken over; the function was not called.
            StoreUnavailable: the intent could not be written; the function was not called.
            InvalidState: what the function returned is no JSON: it was called, and is uncertain. Or the turn has no
                room for its intent, after some 300: it was not called.
            InvalidArgument: a name that is no text, a function that cannot be called.
        """
        return self._life.effects.once(name, function, args, on_uncertain)

    def spawn(self, role: str, act: Act, state: object = None, name: str | None = None) -> "Child":
        """A child of this agent; awaited, it acts until it finishes, and gives the result that it finished with.

        Its checkpoint id is `"{parent}.{role}-{depth}.{ordinal}"`: the ordinal counts all that this agent has ever
        spawned; a `name`, which is no number and has no dot, stands in its place. After a kill a finished child gives
        its recorded result, any other goes on from its own last turn; `state` is what a new one begins with, and one
        that began with another is told, as `on_drift` of `run_goal` says.

        Raises:
            InvalidArgument: a role or name that cannot be.
            InvalidKey: an id that is too long, which bounds how deep children nest.
            InvalidState: a state that is no JSON.
        """
        return self._life.spawn(role, act, state, name)

    async def gather(self, *awaitables: Awaitable[Any]) -> list[Any]:
        """The results of children, and of anything else, all at work at the same time.

        The first error ends the others and is raised: what stops the swarm before what one of them failed by.
        """
        for each in awaitables:
            if not isinstance(each, Child) and not inspect.isawaitable(each):
                raise InvalidArgument(f"gather awaits children, gather(*children), not {shown(each)}")
        tasks = [each.started() if isinstance(each, Child) else asyncio.ensure_future(each) for each in awaitables]
        try:
            if tasks:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            await _ended(tasks)
        errors = [err for task in tasks if not task.cancelled() and (err := task.exception())]
        for err in sorted(errors, key=lambda err: not isinstance(err, CheckpointConflict | BudgetExceeded)):
            raise err
        return [task.result() for task in tasks]


class Child:
    """A spawned agent, which begins to act when it is awaited or gathered."""

    def __init__(self, life: "Life") -> None:
        self._life = life
        self._task: asyncio.Task[Any] | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        return self.started().__await__()

    def started(self) -> "asyncio.Task[Any]":
        """The task in which it acts."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._life.result())
        return self._task

    async def end(self) -> None:
        """Lets it come to its end."""
        if self._task:
            await asyncio.wait([self._task])
        else:
            told = f"{self._life.kept.checkpoint_id} was spawned and never awaited: it did nothing"
            warnings.warn(told, RuntimeWarning, stacklevel=2)

    async def cancel(self) -> None:
        """Ends it, if it has begun; its last turn stays committed."""
        if self._task:
            await _ended([self._task])


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
            if kept.step < 0:
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
        if name is not None and (not isinstance(name, str) or not name or "." in name or name.isdecimal()):
            raise InvalidArgument(f"a child's name is text without a dot, and no number: not {shown(name)}")
        agent = Agent(role, act, depth=self.agent.depth + 1)
        label = self._spawned if name is None else name
        checkpoint_id = f"{self.kept.checkpoint_id}.{agent.checkpoint_id}.{label}"
        child = Child(Life(self.swarm, agent, checkpoint_id, state, self.budget.child(), self))
        self._spawned += 1
        self._children.append(child)
        return child

    def _look_at_drift(self) -> None:
        sorted_json = orjson.dumps(orjson.loads(self._given.json), option=orjson.OPT_SORT_KEYS)
        given = hashlib.blake2b(sorted_json, digest_size=8).hexdigest()
        if self.kept.meta.get("given", given) != given:
            began = f"{self.kept.checkpoint_id} began with another state than the one that it is now spawned with"
            drift.tell(f"{began}: it goes on with what it has", self.swarm.on_drift)
        self.marks["given"] = given

    async def _act(self, turn: Turn) -> None:
        try:
            acting = self.agent.act(turn)
            if inspect.isawaitable(acting):
                await acting
            for child in self._children:
                await child.end()
        except BaseException:
            for child in self._children:
                await child.cancel()
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
        last = self.kept.meta or {"turn": self.turns, **self.marks}
        return {**last, "begun": self.effects.journal(), "budget": self.budget.snapshot(at_boundary=False)}

    def _book(self, *, at_boundary: bool) -> dict[str, Any]:
        return {
            "turn": self.turns,
            "spawned": self._spawned,
            "effects": self._effects,
            "budget": self.budget.snapshot(at_boundary=at_boundary),
            **({"blind": True} if self.swarm.blind and self._parent is None else {}),
            **self.marks,
        }


async def _ended(tasks: list["asyncio.Task[Any]"]) -> None:
    """Cancels those that are not done, and returns when all are."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)
