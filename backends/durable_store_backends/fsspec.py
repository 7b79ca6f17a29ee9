"""Records on any file system that fsspec reaches: `gs://`, `az://`, `sftp://`, and by choice `s3+fsspec://` and so on.

Layout, as on S3::

    <path of the URL>/<goal>/<episode, 9 digits>/<checkpoint>/<2**64 - 1 - step, 16 hex digits>-<step>

The options in the URL's query are the file system's own. A value that is JSON is taken as JSON (`port=22`, `anon=true`,
`client_kwargs={"region_name":"eu-west-1"}`), any other as text; a text that looks like a number is put in quotes.

A step is created with `mode="create"`, and only where the file system is known to do that in one move: in memory, on
S3, Google Cloud Storage and Azure. The service behind it may ignore that, so before its first save in a place a process
makes sure, with a small object of its own that it then removes. Every other file system looks whether a name is taken
and then writes: it is refused unless the URL says `fencing=off`, which is for one writer at a time. A reader sees all
of a record or none even so: it is written under a hidden temporary name and moved to its own, but for object stores,
where a write is whole anyway.

How durable: as the file system says. Nothing here can flush the disk behind an SFTP server.

Limits: `latest` and `steps` list all steps of a key, and each step is removed by a request of its own. Empty
directories stay. Where fsspec is not asynchronous (SFTP) threads take turns. A kill while fencing is off can leave a
temporary file behind, which nobody reads. fsspec believes an SFTP host whatever key it shows.
"""

import os
import re
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from secrets import token_hex
from typing import Any, ClassVar, Final, Self
from urllib.parse import SplitResult, urlsplit

from durable_store.backend import option_value
from durable_store.errors import CheckpointConflict, InvalidURL, StoreUnavailable
from durable_store.key import (
    CheckpointKey,
    id_from_storage_name,
    object_name,
    step_of_object_name,
    storage_name,
    storage_path,
)
from durable_store_backends.fsspec_connection import (
    OBJECT_STORES,
    UNREACHABLE,
    Connection,
    advice,
    codes,
    in_one_line,
    is_taken,
    kinds,
    place_of,
)

_CREATES = {"memory", *OBJECT_STORES}
_HOPELESS = {"PermissionError", "TimeoutError", *UNREACHABLE}
_EPISODE = re.compile(r"[0-9]{9}")

# What tells a missing bucket from a missing object, where both are a FileNotFoundError without a cause.
_BUCKET: dict[str, tuple[str, dict[str, Any]]] = {
    **dict.fromkeys(("gs", "gcs"), ("ls", {"max_results": 1})),
    **dict.fromkeys(("az", "abfs", "abfss"), ("info", {})),
}

_TRIES = 16  # for what was there a moment ago, or is made by others at the same time
_MANY = 16  # steps: to remove more than these, one listing costs less than asking for each that is not there
_LISTED_AT_ONCE = 500  # a longer directory can change while it is listed: see files.py


class FsspecBackend:
    """Keeps records on a file system of fsspec: at a URL without a query, with options as Python values.

    Attributes:
        fencing: that a step is created only if it is absent. Without it two writers of one step may both be told that
            they won.
    """

    # Where a service was seen to refuse a second record in the place of a first: the connection's name and the path.
    _proven: ClassVar[set[tuple[str, str]]] = set()

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, *, fencing: bool = True) -> None:
        self.fencing: Final = fencing
        self._url = url.rstrip("/") if urlsplit(url).path else url
        self._place = place_of(url, dict(options or {}))
        self._connection: Connection | None = None
        self._closed = False
        self._bucket_seen = self._place.protocol not in _BUCKET
        if fencing and self._place.protocol not in _CREATES:
            raise InvalidURL(
                f"{url.partition(':')[0]}:// cannot fence: fsspec looks whether a step is taken there and then writes,"
                " so that two writers can both win it; for one writer at a time say fencing=off in the URL's query"
            )

    @classmethod
    def from_url(cls, url: SplitResult, *, fencing: str = "on", **options: str) -> Self:
        if fencing not in {"on", "off"}:
            raise InvalidURL(f"fencing is on or off, not {fencing!r}")
        given = {name: option_value(text) for name, text in options.items()}
        return cls(f"{url.scheme}://{url.netloc}{url.path}", given, fencing=fencing == "on")

    def __repr__(self) -> str:
        return f"FsspecBackend({self._url!r}{'' if self.fencing else ', fencing off'})"

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        directory = storage_path(key)
        path = f"{directory}/{object_name(step)}"
        with self._translate("save", path):
            if self.fencing:
                self._prove()
            elif (there := self._read(path)) is not None:
                return there
        for others in reversed(range(_TRIES)):
            with self._translate("save", path, maybe_saved=True):
                try:
                    self._create(directory, path, record)
                except StoreUnavailable:
                    raise
                except Exception as err:
                    if (there := self._read(path)) is not None:
                        return there
                    if is_taken(err):
                        message = f"step {step} of {key} was taken, and its owner has pruned it since"
                        raise CheckpointConflict(message) from err
                    if not others or "ConditionalRequestConflict" not in codes(err):
                        raise
                else:
                    return record
        raise AssertionError("unreachable")

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        directory = storage_path(key)
        with self._translate("read", directory):
            for _ in range(_TRIES):
                steps = self._steps(directory)
                step = max(steps, default=None)
                if step is None:
                    return None
                if len(steps) > _LISTED_AT_ONCE and step != max(self._steps(directory), default=None):
                    continue
                record = self._read(f"{directory}/{object_name(step)}")
                if record is not None:
                    return step, record
        raise StoreUnavailable(
            f"cannot read {self._url}/{directory}: its newest record is listed, and nothing can be read behind it"
        )

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        directory = storage_path(key)
        with self._translate("prune", directory):
            there = set(self._steps(directory)) if len(steps) > _MANY else steps
            for step in steps:
                if step in there:
                    self._remove(f"{directory}/{object_name(step)}")

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        path = f"{storage_path(key)}/{object_name(step)}"
        with self._translate("read", path):
            return self._read(path, first)

    def steps(self, key: CheckpointKey) -> list[int]:
        directory = storage_path(key)
        with self._translate("list", directory):
            return sorted(self._steps(directory), reverse=True)

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        for goal in self._ids("") if goal_id is None else (goal_id,):
            of_goal = storage_name(goal)
            for episode in filter(_EPISODE.fullmatch, self._directories(of_goal)):
                for checkpoint in self._ids(f"{of_goal}/{episode}"):
                    key = CheckpointKey(goal, int(episode), checkpoint)
                    if self.steps(key):
                        yield key

    def close(self) -> None:
        self._closed = True
        connection, self._connection = self._connection, None
        if connection:
            connection.leave(self)

    def _ask(self, verb: str, path: str, *args: object, **more: object) -> Any:
        """What a verb of the file system gives for a path below the root; raises whatever it raises."""
        return self._connected().ask(verb, f"{self._place.root}/{path}".rstrip("/"), *args, **more)

    def _connected(self) -> Connection:
        connection = self._connection
        if self._closed:
            raise StoreUnavailable(f"the store at {self._url} is closed")
        if connection is None or connection.process != os.getpid():
            connection = self._connection = Connection.to(self._place, self)
        return connection

    def _prove(self) -> None:
        """Makes sure, once for each place and process, that a record that is there stays there."""
        proof = (self._connected().name, self._place.root)
        if proof in self._proven:
            return
        name = f".durable-store-probe-{token_hex(8)}"
        try:
            refused = [self._is_refused(name, content) for content in (b"first", b"second")]
            fenced = refused[1] and self._read(name) == b"first"
        except Exception as err:
            if not UNREACHABLE & kinds(err):
                with suppress(Exception):  # the error that matters is the first
                    self._remove(name)
            if not {"NotImplemented", "NotImplementedError"} & (codes(err) | kinds(err)):
                raise
            fenced = False
        else:
            self._remove(name)
        if not fenced:
            raise StoreUnavailable(
                f"cannot save in {self._url}: asked not to replace what is there, the service does so or does not know"
                " how, and two writers could win the same step; for one writer at a time say fencing=off in the URL"
            )
        self._proven.add(proof)

    def _is_refused(self, path: str, content: bytes) -> bool:
        try:
            self._ask("pipe_file", path, content, mode="create")
        except Exception as err:
            if not is_taken(err):
                raise
            return True
        return False

    def _create(self, directory: str, path: str, record: bytes) -> None:
        """Puts the record there, all of it or nothing; with fencing only if there is none."""
        if self.fencing:
            self._ask("pipe_file", path, record, mode="create")
        elif self._place.protocol in _CREATES:
            self._ask("pipe_file", path, record)
        else:
            temporary = f"{directory}/.{token_hex(8)}"
            try:
                with self._translate("save", path):
                    self._write(directory, temporary, record)
                self._ask("mv", temporary, f"{self._place.root}/{path}")
            except Exception:
                with suppress(Exception):  # the error that matters is the first
                    self._remove(temporary)
                raise

    def _write(self, directory: str, path: str, record: bytes) -> None:
        try:
            self._ask("pipe_file", path, record)
        except Exception:  # noqa: BLE001 - each file system says in its own way that there is no such directory
            self._make(directory)
            self._ask("pipe_file", path, record)

    def _make(self, directory: str) -> None:
        for others in reversed(range(_TRIES)):
            try:
                self._ask("makedirs", directory, exist_ok=True)
            except Exception as err:  # others may make one of them at the same moment
                if not others or _HOPELESS & kinds(err):
                    raise
            else:
                return

    def _read(self, path: str, first: int | None = None) -> bytes | None:
        limits = {} if first is None else {"start": 0, "end": max(first, 1)}
        try:
            return bytes(self._ask("cat_file", path, **limits))
        except FileNotFoundError as err:
            self._refuse_missing_bucket(err)
            return None
        except Exception as err:
            if first is None or UNREACHABLE & kinds(err):
                raise
            return self._read(path)  # an empty record has no first byte, and each service refuses that in its own way

    def _remove(self, path: str) -> None:
        try:
            self._ask("rm_file", path)
        except FileNotFoundError as err:
            self._refuse_missing_bucket(err)

    def _list(self, directory: str) -> list[tuple[str, bool]]:
        """What is in a directory: the names, and whether they are directories. Nothing where there is no directory."""
        try:
            entries = self._ask("ls", directory, detail=True)
        except FileNotFoundError as err:
            self._refuse_missing_bucket(err)
            return []
        return [(entry["name"].rstrip("/").rpartition("/")[2], entry["type"] == "directory") for entry in entries]

    def _steps(self, directory: str) -> list[int]:
        names = (name for name, is_directory in self._list(directory) if not is_directory)
        return [step for step in map(step_of_object_name, names) if step is not None]

    def _directories(self, directory: str) -> list[str]:
        with self._translate("list", directory):
            return [name for name, is_directory in self._list(directory) if is_directory]

    def _ids(self, directory: str) -> Iterator[str]:
        return (part for part in map(id_from_storage_name, self._directories(directory)) if part is not None)

    def _refuse_missing_bucket(self, err: FileNotFoundError) -> None:
        """Raises when it is the bucket that is missing: that is not the same as nothing in it."""
        if "NoSuchBucket" in codes(err):
            raise err
        if self._bucket_seen:
            return
        verb, more = _BUCKET[self._place.protocol]
        try:
            self._connected().ask(verb, self._place.root.partition("/")[0], **more)
        except FileNotFoundError:
            raise
        except Exception:  # noqa: BLE001, S110 - who may not ask about the bucket is not told, and goes on
            pass
        self._bucket_seen = True

    @contextmanager
    def _translate(self, doing: str, path: str, *, maybe_saved: bool = False) -> Generator[None]:
        """Turns whatever fsspec and the libraries below it raise into StoreUnavailable."""
        try:
            yield
        except (StoreUnavailable, CheckpointConflict):
            raise
        except Exception as err:
            where = f"{self._url}/{path}".rstrip("/")
            message = f"cannot {doing} {where}: {in_one_line(err)} ({advice(err)})"
            raise StoreUnavailable(message, maybe_saved=maybe_saved) from err
