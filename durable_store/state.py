"""State as JSON: what goes in comes out equal, or is refused with its path.

orjson is fast and lenient: it writes NaN as null and a UUID as a string, and both would come back as something else;
and of tuples in tuples it counts no levels. So a state is looked through before it counts as encoded, in C: `marshal`
refuses whatever is too deep or not exactly of a built-in type, and the bits of a NaN are searched for in what it wrote;
where they are, the JSON would have a null. Only where that finds something unusual is the state walked in Python.
docs/notes/0001-looking-through-states.md has the figures.
"""

import bisect
import marshal
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from math import isfinite, isnan
from typing import Any, cast

import orjson

from durable_store.errors import InvalidState, shown

MAX_STATE = 2**30
"""Bytes of a state's JSON."""

MAX_DEPTH = 250
"""Containers inside one another; orjson itself writes 254 and reads 1024."""

_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


@dataclass(frozen=True, slots=True)
class Encoded:
    """The JSON of a value, as `to_json` has made it: it stands for that value wherever one is to be encoded."""

    json: bytes


def to_json(value: object, *, name: str = "$") -> bytes:
    """The value as compact UTF-8 JSON.

    Takes dicts with string keys, lists, tuples (they come back as lists), strings, ints from -2**63 to 2**64-1,
    finite floats, bools, None, and Enum members (their values come back). What is `Encoded` is that already.

    Raises:
        InvalidState: anything else, nesting beyond 250, or more than 1 GiB; with the path of the first offender,
            `$.messages[3].score: NaN`. `name` stands at the path's beginning.
    """
    if type(value) is Encoded:
        return value.json
    marshalled = _marshal(value)
    may_hold_nan = marshalled is not None and _may_hold_nan(marshalled)
    try:
        if marshalled is None:
            _refuse_offenders(value, name)
        del marshalled  # as large as the JSON, which can have its room
        json = orjson.dumps(value, option=_OPTIONS)
        if may_hold_nan and b"null" in json:
            _refuse_offenders(value, name)
    except orjson.JSONEncodeError as err:
        _refuse_offenders(value, name)
        raise InvalidState(f"{name}: {err}") from err
    except RecursionError as err:
        raise InvalidState(f"{name}: nested too deep for a call from here") from err
    if len(json) > MAX_STATE:
        raise InvalidState(f"{name}: {len(json)} bytes of JSON; the most is {MAX_STATE}")
    return json


def same_json(one: object, other: object) -> bool:
    """Whether two values that JSON holds are equal as JSON, whatever the order of keys; 1, 1.0 and true differ."""
    try:
        return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # another program's record may be deeper than ours can be
        return False


def _marshal(value: object) -> bytes | None:
    """What `marshal` writes, within lists perhaps; None where something may be too deep or is not of a built-in type.

    A UUID, a member of an Enum, a subclass. (One thing is not seen: a member of an Enum over `bytes`.)
    """
    if _has_few_parts(value):
        return _marshalled(value)
    try:
        nest = _NESTS.pop()
    except IndexError:
        nest = _nest()
    hole, outermost = nest
    hole[0] = value
    try:
        return _marshalled(outermost)
    finally:
        hole[0] = None
        _NESTS.append(nest)


def _has_few_parts(value: object) -> bool:
    """Whether it is made of so few that it cannot be too deep, of whatever kind they are.

    The lists around a state cost 20 µs, and 150 when 64 threads push one another's stacks out of the processor's cache.
    """
    parts = [value]
    for part in parts:
        if type(part) is dict:
            parts += cast("dict[object, object]", part).values()
        elif type(part) is list or type(part) is tuple:
            parts += cast("list[object]", part)
        if len(parts) > MAX_DEPTH:
            return False
    return True


def _marshalled(value: Any) -> bytes | None:
    try:
        return marshal.dumps(value, 4)
    except ValueError:
        return None


def _nest() -> tuple[list[Any], list[Any]]:
    """A hole, and lists in lists around it: so many that `marshal` has no level left for what is in 250 more."""
    hole: list[Any] = [None]
    outermost = hole
    for _ in range(_marshal_levels() - MAX_DEPTH - 1):
        outermost = [outermost]
    return hole, outermost


_NESTS: list[tuple[list[Any], list[Any]]] = []  # that are free: as many as threads have needed at the same time


@cache
def _marshal_levels() -> int:
    """How many lists in one another `marshal` takes: 2000 where CPython has not been built otherwise."""
    levels: list[list[Any]] = [[]]
    while len(levels) < 10_000:
        levels.append([levels[-1]])
    return bisect.bisect_left(levels, True, key=lambda level: _marshalled(level) is None)


def _may_hold_nan(marshalled: bytes) -> bool:
    """Whether there is something like `g`, six bytes, 0xf0 to 0xff, 0x7f or 0xff: a NaN or an infinity."""
    for last in (b"\x7f", b"\xff"):
        at = marshalled.find(last, 8)
        while at >= 0:
            if marshalled[at - 1] >= 0xF0 and marshalled[at - 8] & 0x7F == ord("g"):  # 0x80: it is referred to
                return True
            at = marshalled.find(last, at + 1)
    return False


def _refuse_offenders(value: object, name: str) -> None:
    for offender in _offenders(value, name, 0):
        raise InvalidState(offender)


def _offenders(value: Any, path: str, depth: int) -> Iterator[str]:
    """Whatever JSON would lose or cannot hold, in document order."""
    kind = cast("type[object]", type(value))
    if isinstance(value, Enum):
        yield from _offenders(value.value, path, depth)
    elif not issubclass(kind, (dict, list)) and kind is not tuple:
        reason = _offence(cast("object", value))
        if reason:
            yield f"{path}: {reason}"
    elif depth == MAX_DEPTH:
        yield f"{path[:200]}…: nested deeper than {MAX_DEPTH}, or containing itself"
    elif issubclass(kind, dict):
        yield from _offenders_in_dict(cast("dict[object, object]", value), path, depth + 1)
    else:
        for index, item in enumerate(_items(cast("list[object]", value))):
            yield from _offenders(item, f"{path}[{index}]", depth + 1)


def _items(value: list[object]) -> Iterator[object]:
    """Those that orjson sees, whatever a subclass makes of its iterator."""
    return list[object].__iter__(value) if isinstance(value, list) else iter(value)


def _offence(value: object) -> str | None:
    """What is wrong with a value that holds no others."""
    if isinstance(value, str):
        return None if _is_unicode(value) else "a lone surrogate"
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**64 else "an integer outside -2**63 … 2**64-1"
    if type(value) is float:
        return None if isfinite(value) else "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None:
        return None
    return f"{_type(value)} is no JSON type (convert it first: model_dump(), asdict(), isoformat() …)"


def _offenders_in_dict(value: dict[object, object], path: str, depth: int) -> Iterator[str]:
    for key, item in dict[object, object].items(value):  # as orjson does, whatever a subclass makes of it
        if type(key) is not str:
            yield f"{path}: the key {shown(key)} is {_type(key)}, not a plain string"
        elif not _is_unicode(key):
            yield f"{path}: a lone surrogate in the key {shown(key)}"
        else:
            inner = f".{key}" if key.isidentifier() else f"[{orjson.dumps(key).decode()}]"
            yield from _offenders(item, path + inner, depth)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _type(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
