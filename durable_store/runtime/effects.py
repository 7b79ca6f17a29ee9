"""What an agent does to the world: once, or reported as uncertain."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from durable_store.errors import DurableStoreError
from durable_store.runtime.keeping import Kept
from durable_store.state import to_json

Hook = Callable[[str, tuple[Any, ...]], Any]


class EffectUncertain(DurableStoreError):
    """A process was killed within an effect: nobody knows whether it was done.

    Attributes:
        name: of the effect.
        arguments: with which it was called now.
    """

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        super().__init__(
            f"nobody knows whether {name!r} was done: a process was killed within it; find out, and tell it by"
            " on_uncertain= what its result is"
        )
        self.name = name
        self.arguments = arguments


class Effects:
    """The effects of one turn: those that earlier processes began, and those of this one.

    An intent is committed to the agent's run, so that a superseded process is refused before it does anything. The
    result is a record of its own, under the checkpoint id `….once`, until the turn is committed.
    """

    def __init__(
        self, kept: Kept, number: int, begun: list[dict[str, Any]], meta: Callable[[], dict[str, Any]]
    ) -> None:
        self._kept = kept
        self._next: int = max([number, *(each["number"] + 1 for each in begun)])
        self._begun = {(each["name"], each["order"]): each["number"] for each in begun}
        self._meta = meta
        self._seen: dict[str, int] = {}

    @property
    def count(self) -> int:
        """How many effects the agent has had, this turn's included."""
        return self._next

    @property
    def numbers(self) -> list[int]:
        """Of the effects of this turn."""
        return sorted(self._begun.values())

    def journal(self) -> list[dict[str, Any]]:
        """What a commit carries."""
        return [{"name": name, "order": order, "number": n} for (name, order), n in self._begun.items()]

    def once(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], on_uncertain: Hook | None
    ) -> Awaitable[Any]:
        """`Turn.once`. Its order among those of its name is that of the calls."""
        order = self._seen[name] = self._seen.get(name, -1) + 1
        return self._once(name, order, function, args, on_uncertain)

    async def _once(
        self, name: str, order: int, function: Callable[..., Any], args: tuple[Any, ...], on_uncertain: Hook | None
    ) -> Any:
        number = self._begun.get((name, order))
        if number is None:
            number = self._begun[name, order] = self._next
            self._next += 1
            try:
                await self._kept.note(self._meta())
            except BaseException:
                del self._begun[name, order]  # it was not begun; the number is not used again
                raise
            result = await _called(function, *args)
        else:
            done = await self._kept.effect(number)
            if done is not None:
                return done["result"]
            if on_uncertain is None:
                raise EffectUncertain(name, args)
            result = await _called(on_uncertain, name, args)
        return await self._kept.record_effect(number, orjson.loads(to_json(result, name=f"result of {name!r}")))


async def _called(function: Callable[..., Any], *args: Any) -> Any:
    result = function(*args)
    return await result if inspect.isawaitable(result) else result
