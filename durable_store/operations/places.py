"""Which keys and steps an operation goes through, and which refusals are of one record alone."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from durable_store.backend import Backend
from durable_store.errors import StoreUnavailable
from durable_store.key import CheckpointKey, goal_text
from durable_store.operations.ahead import ahead


class Listed(NamedTuple):
    """The steps of a key, oldest first; or why the storage refuses to list them, when it lists others."""

    key: CheckpointKey
    steps: list[int]
    refused: StoreUnavailable | None


def goal_names(goals: Iterable[str | int] | None) -> list[str] | None:
    """The goals, each once; None for all. Raises InvalidKey."""
    return None if goals is None else list(dict.fromkeys(map(goal_text, goals)))


def keys_of(backend: Backend, goals: Sequence[str] | None) -> Iterator[CheckpointKey]:
    """All keys, or those of some goals; also the store's own."""
    if goals is None:
        yield from backend.keys()
        return
    for goal in goals:
        yield from backend.keys(goal)


def listed(backend: Backend, key: CheckpointKey) -> Listed:
    """What there is of a key. Raises StoreUnavailable when the storage is away."""
    try:
        return Listed(key, backend.steps(key)[::-1], None)
    except StoreUnavailable as err:
        if is_away(backend):
            raise
        return Listed(key, [], err)


class Loaded(NamedTuple):
    """A record, or None if it was removed; or why the storage refuses it, when it has others.

    Without a step it is the key whose steps the storage refuses to list.
    """

    key: CheckpointKey
    step: int | None
    record: bytes | None = None
    refused: StoreUnavailable | None = None


def loaded(backend: Backend, place: Loaded) -> Loaded:
    """What stands in this place. Raises StoreUnavailable when the storage is away."""
    if place.step is None:
        return place
    try:
        return place._replace(record=backend.load(place.key, place.step))
    except StoreUnavailable as err:
        if is_away(backend):
            raise
        return place._replace(refused=err)


def records_of(
    backend: Backend, keys: Iterable[CheckpointKey], threads: ThreadPoolExecutor, at_once: int
) -> Iterator[Loaded]:
    """All records of these keys, each key's oldest first; so many are under way at the same time."""
    found = ahead(threads, partial(listed, backend), keys, at_once)
    return ahead(threads, partial(loaded, backend), _places(found), at_once)


def _places(keys: Iterable[Listed]) -> Iterator[Loaded]:
    for key, steps, refused in keys:
        if refused:
            yield Loaded(key, None, refused=refused)
        yield from (Loaded(key, step) for step in steps)


def is_away(backend: Backend) -> bool:
    """Whether a storage that has just refused something refuses everything, as far as its listing shows."""
    try:
        next(backend.keys(), None)
    except StoreUnavailable:
        return True
    return False
