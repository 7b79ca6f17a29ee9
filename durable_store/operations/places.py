"""Which keys and steps an operation goes through, and which refusals are of one record alone."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from durable_store.backend import Backend
from durable_store.errors import StoreUnavailable
from durable_store.key import CheckpointKey, goal_text


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


def is_away(backend: Backend) -> bool:
    """Whether a storage that has just refused something refuses everything, as far as its listing shows."""
    try:
        next(backend.keys(), None)
    except StoreUnavailable:
        return True
    return False
