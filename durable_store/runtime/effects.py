"""What an agent does to the world: once, or reported as uncertain."""

import asyncio
import bisect
import hashlib
import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import orjson

from durable_store.aio import to_its_end
from durable_store.errors import DurableStoreError, InvalidArgument, InvalidState, StoreUnavailable, shown
from durable_store.runtime import drift
from durable_store.runtime.keeping import Kept, Swarm
from durable_store.state import to_json

_within: "ContextVar[tuple[Swarm, str] | None]" = ContextVar("within", default=None)
Hook = Callable[[str, tuple[Any, ...]], Any]

_TOLD = 40
"""Characters by which a journal, which every commit of a turn carries, tells an effect's arguments."""


class EffectUncertain(DurableStoreError):
    """An effect was begun and has no result: nobody knows whether it was done.

    A kill interrupted it, or an error of its own.

    Attributes:
        name: of the effect.
        arguments: with which it was called now.
    """

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        super().__init__(
            f"nobody knows whether {name!r} was done: it was begun, and a kill or an error came before its result;"
            " find out, and tell it by on_uncertain= what its result is"
        )
        self.name = name
        self.arguments = arguments


@dataclass(frozen=True)
class _Begun:
    """An effect of this turn: its number among all of the agent, and what it was begun with."""

    number: int
    told: str


class Effects:
    """The effects of one turn: those that earlier processes began, and those of this one.

    An intent is committed to the agent's run, so that a superseded process is refused before it does anything. The
    result is a record of its own, under the checkpoint id `….once`, until the turn is committed.
    """

    def __init__(
        self, swarm: Swarm, kept: Kept, number: int, begun: list[dict[str, Any]], meta: Callable[[], dict[str, Any]]
    ) -> None:
        self._swarm = swarm
        self._kept = kept
        self._next: int = max([number, *(each["number"] + 1 for each in begun)])
        self._begun = {(each["name"], each["order"]): _Begun(each["number"], each["with"]) for each in begun}
        self._highest: dict[str, int] = {}  # orders that earlier processes have come to: what they left out they tried
        for each in begun:
            self._highest[each["name"]] = max(each["order"], self._highest.get(each["name"], -1))
        self._meta = meta
        self._seen: dict[str, int] = {}
        self._is_over = False
        self._given_back: dict[tuple[str, str], list[int]] = {}  # orders of those that nothing came of

    @property
    def count(self) -> int:
        """How many effects the agent has had, this turn's included."""
        return self._next

    @property
    def numbers(self) -> list[int]:
        """Of the effects of this turn."""
        return sorted(each.number for each in self._begun.values())

    def end(self) -> None:
        """The turn is over: no more of its effects begin."""
        self._is_over = True

    def journal(self) -> list[dict[str, Any]]:
        """What a commit carries."""
        return [
            {"name": name, "order": order, "number": each.number, "with": each.told}
            for (name, order), each in self._begun.items()
        ]

    def once(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], on_uncertain: Hook | None
    ) -> Awaitable[Any]:
        """`Turn.once`. Its order among those of its name is that in which they are awaited."""
        if not isinstance(name, str) or not name:
            raise InvalidArgument(f"an effect's name is text, not {shown(name)}")
        for role, called in (("an effect", function), ("on_uncertain", on_uncertain or _told)):
            if not callable(called):
                raise InvalidArgument(f"{role} is a function, not {shown(called)}: once(name, function, *arguments)")
        check_not_within(self._swarm)
        return self._once(name, function, args, on_uncertain)

    async def _once(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], on_uncertain: Hook | None
    ) -> Any:
        """From here on it comes to its end: an intent that was cancelled half-way would be an uncertain effect."""
        told = _told(args)
        order = self._order(name, told)
        return await to_its_end(asyncio.ensure_future(self._result(name, order, told, function, args, on_uncertain)))

    async def _result(
        self,
        name: str,
        order: int,
        told: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        on_uncertain: Hook | None,
    ) -> Any:
        try:
            begun = self._begun.get((name, order))
            if begun is None:
                begun = await self._begin(name, order, told)
                uncertain = self._swarm.blind or order < self._highest.get(name, -1)
            else:
                if begun.told != told:
                    what = f"{name!r} was begun with ({begun.told}) and is now asked for with ({told})"
                    drift.tell(f"{what}: it counts as the same effect", self._swarm.on_drift)
                done = await self._kept.effect(begun.number)
                if done is not None:
                    return done["result"]
                uncertain = True
        except BaseException:  # nothing came of it: when it is tried again, it is the same effect
            bisect.insort(self._given_back.setdefault((name, told), []), order)
            raise
        if not uncertain:
            return await self._done(begun.number, name, args, function, *args)
        if on_uncertain is None:
            raise EffectUncertain(name, args)
        return await self._done(begun.number, name, args, on_uncertain, name, args)

    def _order(self, name: str, told: str) -> int:
        given_back = self._given_back.get((name, told))
        if given_back:
            return given_back.pop(0)
        self._seen[name] = self._seen.get(name, -1) + 1
        return self._seen[name]

    async def _begin(self, name: str, order: int, told: str) -> _Begun:
        """Commits the intent."""
        if self._is_over:
            raise InvalidArgument(f"the turn that asked for {name!r} is over: await it within its turn")
        begun = _Begun(self._next, told)
        self._next += 1

        def meta() -> dict[str, Any]:
            self._begun[name, order] = begun
            return self._meta()

        try:
            await self._kept.note(meta)
        except BaseException as err:
            self._begun.pop((name, order), None)
            if isinstance(err, InvalidState):
                many = f"a turn that has begun {len(self._begun)} effects has no room for {name!r}"
                raise InvalidState(f"{many}: it belongs in the next turn") from err
            raise
        return begun

    async def _done(
        self, number: int, name: str, args: tuple[Any, ...], function: Callable[..., Any], *given: Any
    ) -> Any:
        """Does it, and records the result."""
        _within.set((self._swarm, name))
        result = function(*given)
        if inspect.isawaitable(result):
            result = await result
        try:
            recorded = orjson.loads(to_json(result, name="result"))
        except InvalidState as err:
            raise InvalidState(
                f"{err}; {name!r} is uncertain: it was called, and has no result that can be kept"
            ) from err
        try:
            return await self._kept.record_effect(number, recorded)
        except StoreUnavailable as err:
            raise EffectUncertain(name, args) from err


def check_not_within(swarm: Swarm) -> None:
    """Raises InvalidArgument within an effect of it: what that began would be missing when it is not called again."""
    around = _within.get()
    if around and around[0] is swarm:
        raise InvalidArgument(f"within the effect {around[1]!r} nothing else is begun: no effect, and no child")


def _told(arguments: tuple[Any, ...]) -> str:
    """Arguments as a journal tells them: alike for equal ones; for what is no JSON, its type alone."""
    text = ", ".join(_one_told(each) for each in arguments)
    if len(text) <= _TOLD:
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return f"{text[: _TOLD - len(digest) - 1]}…{digest}"


def _one_told(argument: object) -> str:
    try:
        return orjson.dumps(orjson.loads(to_json(argument)), option=orjson.OPT_SORT_KEYS).decode()
    except InvalidState:
        return type(argument).__name__
