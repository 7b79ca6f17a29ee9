"""A mutant: a good backend with one mistake in it, of a kind that stores are known to make."""

import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from durable_store import CheckpointKey
from durable_store_backends.files import FileBackend
from durable_store_backends.memory import MemoryBackend
from durable_store_backends.sqlite import SqliteBackend

T = TypeVar("T", bound=type)


class LazyFiles(FileBackend):
    """Good files with a verb that imports something when it is first called, as clients of services do."""

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        import_module("colorsys")  # which nobody else needs
        super().prune(key, steps)


GOOD: dict[str, type[FileBackend | SqliteBackend | MemoryBackend]] = {
    "good-files": FileBackend,
    "good-lazy-files": LazyFiles,
    "good-sqlite": SqliteBackend,
    "good-memory": MemoryBackend,
}
"""What the mutants differ from by their mistakes: opened in the same way, and must fail nothing."""


@dataclass(frozen=True)
class Mutant:
    """One mistake, and the clause meant for it.

    Attributes:
        name: as in its URL, `mutant://NAME/path`.
        clause: the id of the clause that must find it.
        make: the backend of a path.
    """

    name: str
    clause: str
    make: type[FileBackend | SqliteBackend | MemoryBackend]

    @property
    def good(self) -> str:
        """The name of the backend that it would be without the mistake."""
        return next(name for name, make in GOOD.items() if issubclass(self.make, make))

    @property
    def mistake(self) -> str:
        """What it does wrong."""
        return " ".join((self.make.__doc__ or "").split())


def caught_by(clause: str) -> Callable[[T], T]:
    """Names the clause that is meant for this class."""

    def of(backend: T) -> T:
        backend.caught_by = clause  # type: ignore[attr-defined]
        return backend

    return of


def mutants_in(*modules: ModuleType) -> Iterator[Mutant]:
    """The mutants of these modules, named as their classes are."""
    for module in modules:
        for name, value in vars(module).items():
            if "caught_by" in getattr(value, "__dict__", {}):
                yield Mutant(re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower(), value.caught_by, value)


class Files(FileBackend):
    """Good files, with a way to where each record is."""

    def file(self, key: CheckpointKey, step: int) -> Path:
        """The record's file, in a directory that is there."""
        directory = Path(self._directory(key))
        directory.mkdir(parents=True, exist_ok=True)
        return directory / f"{step:016d}.ckpt"


def request() -> None:
    """Takes as long as a request over a network: what others do meanwhile is done for sure."""
    time.sleep(0.003)


def in_pieces(there: Path, record: bytes) -> None:
    """Writes the record in its place, piece by piece, each of them on the disk before the next."""
    with there.open("wb", buffering=0) as file:
        for start in range(0, len(record), 16384):
            file.write(record[start : start + 16384])
            os.fsync(file)
