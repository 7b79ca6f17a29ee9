"""A backend that fails when a test says so."""

from durable_store import CheckpointKey, StoreUnavailable
from durable_store_backends.memory import MemoryBackend


class Failing(MemoryBackend):
    """A memory that cannot be reached for so many requests, or takes no writes.

    Attributes:
        away: for how many requests nobody answers; `math.inf` until it is told otherwise.
        full: whether a save is refused; prunes are not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.away: float = 0
        self.full = False

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
        return super().load(key, step, first=first)

    def _look(self) -> None:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("nobody answers")
