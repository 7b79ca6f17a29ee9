"""Which keys an operation goes through, and which refusals are of one record alone."""

import errno
from collections.abc import Iterable, Iterator, Sequence

from durable_store.backend import Backend
from durable_store.errors import StoreUnavailable
from durable_store.key import CheckpointKey, goal_text

_OF_ONE_RECORD = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.EIO, errno.ELOOP, errno.ENOTDIR}


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


def is_of_one_record(err: StoreUnavailable) -> bool:
    """Whether the storage refuses one record and may well have the others."""
    return isinstance(err.__cause__, OSError) and err.__cause__.errno in _OF_ONE_RECORD
