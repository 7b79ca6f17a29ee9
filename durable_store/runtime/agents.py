"""An agent, its turns, and the children that it spawns."""

import asyncio
import inspect
import secrets
import warnings
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from durable_store.aio import AsyncStore, to_its_end
from durable_store.errors import CheckpointConflict, InvalidArgument, shown
from durable_store.key import CheckpointKey
from durable_store.record import closing_json
from durable_store.runtime.budget import Budget, BudgetExceeded
from durable_store.runtime.effects import Hook

if TYPE_CHECKING:
    from durable_store.runtime.life import Life

T = TypeVar("T")
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
                `on_uncertain(name, arguments)`, whose answer, awaited if it can be, becomes the recorded result. Or
                the result could not be recorded now.
            CheckpointConflict: another process has taken over; the function was not called.
            StoreUnavailable: the intent could not be written, or what is recorded not be read; the function was not
                called.
            InvalidState: what the function returned is no JSON: it was called, and is uncertain. Or the turn has no
                room for its intent, after some 300: it was not called.
            InvalidArgument: a name that is no text, a function that cannot be called; within an effect.
        """
        return self._life.effects.once(name, function, args, on_uncertain)

    def spawn(self, role: str, act: Act, state: object = None, name: str | None = None) -> "Child":
        """A child of this agent; awaited, it acts until it finishes, and gives the result that it finished with.

        Its checkpoint id is `"{parent}.{role}-{depth}.{ordinal}"`: the ordinal counts all that this agent has ever
        spawned; a `name`, which is no number and has no dot, stands in its place. After a kill a finished child gives
        its recorded result, any other goes on from its own last turn; `state` is what a new one begins with, and one
        that began with another is told, as `on_drift` of `run_goal` says.

        Raises:
            InvalidArgument: a role or name that cannot be; within an effect.
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
        return await all_of(
            [each.started() if isinstance(each, Child) else asyncio.ensure_future(each) for each in awaitables]
        )


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

    @property
    def under_way(self) -> "list[asyncio.Task[Any]]":
        """Its task, if it has begun."""
        return [self._task] if self._task else []


async def all_of(tasks: "list[asyncio.Task[T]]") -> list[T]:
    """Their results. The first error ends the others and is raised: what stops a swarm before any other."""
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        await ended(tasks)
    errors = [err for task in tasks if not task.cancelled() and (err := task.exception())]
    for err in sorted(errors, key=lambda err: not isinstance(err, CheckpointConflict | BudgetExceeded)):
        raise err
    return [task.result() for task in tasks]


async def ended(tasks: "Sequence[asyncio.Task[Any]]") -> None:
    """Cancels those that are not done, and returns when all are, however often it is cancelled itself."""
    for task in tasks:
        task.cancel()
    if tasks:
        await to_its_end(asyncio.gather(*tasks, return_exceptions=True))
