"""The files below one place on a file system of fsspec: created, written whole, read, removed, listed.

Paths are below the place. Whatever fsspec and the libraries below it raise is raised, but a file that is not there is
None, and nothing to list or to remove. Each file system raises errors of its own, with no base class but Exception: so
that is what is caught here, to look at it or to tidy up, and raised again unless it says what was to be found out.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from secrets import token_hex
from typing import Any, ClassVar

from durable_store_backends.fsspec_connection import Connection
from durable_store_backends.fsspec_errors import is_hopeless, is_nothing
from durable_store_backends.fsspec_place import Place, is_there, nearest_directory, parts

_AT_ONCE = 8  # requests to remove files, on an object store


class Files:
    """Threads share one; a forked child takes a connection of its own."""

    # The places that were seen to be there, each with the name of its connection.
    _seen: ClassVar[set[tuple[str, str]]] = set()

    def __init__(self, place: Place) -> None:
        self.closed = False
        self._place = place
        self._connection: Connection | None = None

    @property
    def place(self) -> tuple[str, str]:
        """What tells this place from all others in this process: the connection's name and the path."""
        return self._connected().name, self._place.root

    def create(self, path: str, content: bytes) -> None:
        """Creates a file in one move, unless there is one."""
        self._ask("pipe_file", path, content, mode="create")

    def write(self, path: str, content: bytes) -> None:
        """Writes a file, on an object store all of it or nothing, whether there is one or not."""
        self._ask("pipe_file", path, content)

    def stage(self, directory: str, content: bytes) -> str:
        """Writes a file with a hidden name of its own in a directory, made if it is missing. Gives its path."""
        path = f"{directory}/.{token_hex(8)}"
        try:
            try:
                self.write(path, content)
            except Exception as err:  # each file system says in its own way that there is no such directory
                if is_hopeless(err):
                    raise
                self._make(directory)
                self.write(path, content)
        except Exception:
            self._tidy_up(path)
            raise
        return path

    def move(self, path: str, new: str) -> None:
        """Moves a file in one move; where that fails it is removed."""
        try:
            self._ask("mv", path, self._at(new))
        except Exception:
            self._tidy_up(path)
            raise

    def read(self, path: str, first: int | None = None) -> bytes | None:
        """The content of a file, or with `first` at least so many leading bytes of it."""
        limits = {} if first is None else {"start": 0, "end": max(first, 1)}
        try:
            return bytes(self._ask("cat_file", path, **limits))
        except FileNotFoundError as err:
            if is_nothing(err):
                return None
            raise
        except Exception as err:
            if first is None or is_hopeless(err):
                raise
            return self.read(path)  # an empty file has no first byte, and each service refuses that in its own way

    def remove(self, path: str) -> None:
        """Removes a file."""
        try:
            self._ask("rm_file", path)
        except FileNotFoundError as err:
            if not is_nothing(err):
                raise

    def remove_at_once(self, paths: Iterable[str]) -> None:
        """Removes files, some at a time and in no order; after an error no more are begun."""
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            for _ in pool.map(self.remove, paths):
                pass
        finally:
            pool.shutdown(cancel_futures=True)

    def names(self, directory: str) -> list[str]:
        """The names of the files in a directory."""
        return [_name(entry) for entry in self._listed("ls", directory) if entry["type"] != "directory"]

    def directories(self, directory: str) -> Iterator[str]:
        """The names of the directories in a directory, and of what links to one."""
        for entry in self._listed("ls", directory):
            is_link = entry["type"] == "link" or entry.get("islink")
            if entry["type"] == "directory" or (is_link and self._ask("isdir", f"{directory}/{_name(entry)}")):
                yield _name(entry)

    def paths(self, directory: str) -> list[str]:
        """The paths of all files below a directory, beginning there: 1000 or more to a request on an object store."""
        before = f"{self._at(directory)}/"
        return [path.removeprefix(before) for path in self._listed("find", directory)]

    def refuse_file_in_the_way(self, directory: str) -> None:
        """Raises NotADirectoryError when it, or a parent, is a file: some say of that too that a name is taken."""
        if not self._place.is_flat:
            nearest_directory(self._at(directory), self._connected().ask)

    def close(self) -> None:
        """Lets go of the connection; from then on everything raises."""
        self.closed = True
        connection, self._connection = self._connection, None
        if connection:
            connection.leave(self)

    def _make(self, directory: str) -> None:
        """Makes a directory and its parents; tries again as long as others have made one of them in the meantime."""
        try:  # mostly the last alone is missing, and SFTP would look for each of them
            self._ask("mkdir", directory, create_parents=False)
        except Exception as err:
            if is_hopeless(err):
                raise
        else:
            return
        before = -1
        while True:
            try:
                self._ask("makedirs", directory, exist_ok=True)
            except Exception as err:
                there = 0 if is_hopeless(err) else sum(map(self._is_directory, parts(self._at(directory))))
                if there <= before or is_hopeless(err):
                    raise
                before = there
            else:
                return

    def _is_directory(self, path: str) -> bool:
        return bool(self._connected().ask("isdir", path))

    def _tidy_up(self, path: str) -> None:
        with suppress(Exception):  # the error that matters is the first
            self.remove(path)

    def _listed(self, verb: str, directory: str) -> Any:
        try:
            return self._ask(verb, directory, detail=True)
        except FileNotFoundError as err:
            if is_nothing(err):
                return ()
            raise

    def _ask(self, verb: str, path: str, *args: object, **more: object) -> Any:
        place, ask = self.place, self._connected().ask
        if place not in self._seen and is_there(self._place, ask):
            self._seen.add(place)  # else it is to be made yet, and looked for again
        return ask(verb, self._at(path), *args, **more)

    def _at(self, path: str) -> str:
        return f"{self._place.root}/{path}".rstrip("/") if path else self._place.root

    def _connected(self) -> Connection:
        connection = self._connection
        if self.closed:
            raise ConnectionError("the store is closed")
        if connection is None or connection.process != os.getpid():
            connection = self._connection = Connection.to(self._place, self)
            if self.closed:  # in the meantime
                connection.leave(self)
        return connection


def _name(entry: dict[str, Any]) -> str:
    name: str = entry["name"].rstrip("/").rpartition("/")[2]
    return name
