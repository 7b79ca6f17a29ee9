"""A backend that fails when a test says so."""

from collections.abc import Iterator

from durable_store import CheckpointKey, StoreUnavailable
from durable_store_backends.memory import MemoryBackend


class Failing(MemoryBackend):
    """A memory that cannot be reached for so many requests, or takes no writes.

    Attributes:
        away: for how many requests nobody answers; `math.inf` until it is told otherwise.
        full: whether a save is refused; prunes are not.
        refused: the keys that are not listed, and the keys with the steps that are not read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.away: float = 0
        self.full = False
        self.refused: set[CheckpointKey | tuple[CheckpointKey, int]] = set()

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        self._look()
        if self.full:
            raise StoreUnavailable("no room")
        return super().save(key, step, record)

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        self._look()
        return super().latest(key)

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        self._look()
        self._refuse((key, step))
        return super().load(key, step, first=first)

    def steps(self, key: CheckpointKey) -> list[int]:
        self._refuse(key)
        return super().steps(key)

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        self._look()
        return super().keys(goal_id)

    def _refuse(self, what: CheckpointKey | tuple[CheckpointKey, int]) -> None:
        if what in self.refused:
            raise StoreUnavailable(f"no right to read {what}")

    def _look(self) -> None:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("nobody answers")
