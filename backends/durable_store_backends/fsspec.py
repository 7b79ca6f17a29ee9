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
where a write is whole anyway. What cannot even do that (FTP, HTTP, caches, archives) is refused always.

Before its first request to a place a process makes sure that the bucket is there, that S3 answers, and that no file is
in the place: else all of these could pass for an empty store.

How durable: as the file system says. Nothing here can flush the disk behind an SFTP server.

Errors: each file system raises its own, with no base class but Exception; that is caught, looked at in
`fsspec_errors.py`, and raised as StoreUnavailable unless it says that a name is taken.

Limits: `latest` and `steps` list all steps of a key, and each step is removed by a request of its own. Empty
directories stay. Where fsspec is not asynchronous (SFTP) threads take turns. A kill while fencing is off can leave a
temporary file behind, which nobody reads. fsspec believes an SFTP host whatever key it shows. Google's zonal buckets
are refused at the first save: gcsfs does not pass the condition on to them.
"""

import logging
import random
import re
import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
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
from durable_store_backends.fsspec_errors import codes, is_taken, is_undecided, kinds, not_sent, told
from durable_store_backends.fsspec_files import Files
from durable_store_backends.fsspec_place import place_of

_EPISODE = re.compile(r"[0-9]{9}")

_ATTEMPTS = 6  # while others create the same object and the service does not say who wins
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds; each wait is a random part of it, doubled from one to the next
_TRIES = 16  # how often a record that was listed a moment ago and then pruned is looked for again
_MANY = 16  # steps: to remove more than these, one listing costs less than asking for each that is not there

# Without an order, a longer listing can miss what was newest when it began: it comes in parts (OpenSSH gives 100 names
# at a time), and between two of them a whole batch may be committed and the one before it pruned.
_LISTED_AT_ONCE = 100


class FsspecBackend:
    """Keeps records on a file system of fsspec: at a URL without a query, with options as Python values.

    Attributes:
        fencing: that a step is created only if it is absent. Without it two writers of one step may both be told that
            they won.
    """

    # The places where a service was seen to refuse a second record in the place of a first.
    _proven: ClassVar[set[tuple[str, str]]] = set()

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, *, fencing: bool = True) -> None:
        self.fencing: Final = fencing
        self._url = url.rstrip("/") if urlsplit(url).path else url
        self._place = place_of(url, dict(options or {}))
        self._files = Files(self._place)
        if fencing and not self._place.creates:
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
            elif (there := self._files.read(path)) is not None:
                return there
        for attempt in range(1, _ATTEMPTS + 1):
            with self._translate("save", path, maybe_saved=True):
                try:
                    self._create(directory, path, record)
                except StoreUnavailable:
                    raise
                except Exception as err:
                    if (there := self._files.read(path)) is not None:
                        return there
                    if is_taken(err):
                        with self._translate("save", path):
                            self._files.refuse_file_in_the_way(directory)
                        raise CheckpointConflict(
                            f"{key} step {step} was taken, and its owner has pruned it since"
                        ) from err
                    if attempt == _ATTEMPTS or not is_undecided(err):
                        raise
                    what = told(err, self._place.names)
                    logging.getLogger("durable_store").info("tried again: cannot save %s/%s: %s", self._url, path, what)
                else:
                    return record
            time.sleep(random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)))  # noqa: S311 - spreads the load
        raise AssertionError

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        directory = storage_path(key)
        with self._translate("read", directory):
            for _ in range(_TRIES):
                steps = self._steps(directory)
                newest = max(steps, default=-1)
                if len(steps) > _LISTED_AT_ONCE and not self._place.is_ordered:
                    earlier, newest = newest, max(self._steps(directory), default=-1)
                    if newest < earlier:
                        continue
                if newest < 0:
                    return None
                record = self._files.read(f"{directory}/{object_name(newest)}")
                if record is not None:
                    return newest, record
        raise StoreUnavailable(f"cannot read {self._url}: {key} changes faster than it can be read")

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        directory = storage_path(key)
        with self._translate("prune", directory):
            there = set(self._steps(directory)) if len(steps) > _MANY else set(steps)
            paths = [f"{directory}/{object_name(step)}" for step in steps if step in there]
            if self._place.is_flat and max(there, default=-1) not in steps:  # what `latest` shows does not change
                self._files.remove_at_once(paths)
            else:
                for path in paths:
                    self._files.remove(path)

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        path = f"{storage_path(key)}/{object_name(step)}"
        with self._translate("read", path):
            return self._files.read(path, first)

    def load_all(self, key: CheckpointKey, steps: Sequence[int]) -> list[bytes | None]:
        """As `load`, of several: at the same time, unless the file system is one of those whose threads take turns."""
        with ThreadPoolExecutor(len(steps)) as pool:
            return list(pool.map(partial(self.load, key), steps))

    def steps(self, key: CheckpointKey) -> list[int]:
        directory = storage_path(key)
        with self._translate("list", directory):
            return sorted(self._steps(directory), reverse=True)

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        for goal in self._goals() if goal_id is None else (goal_id,):
            found = (self._flat if self._place.is_flat else self._nested)(storage_name(goal))
            for episode, name in found:
                checkpoint = id_from_storage_name(name)
                if checkpoint is not None and _EPISODE.fullmatch(episode):
                    yield CheckpointKey(goal, int(episode), checkpoint)

    def close(self) -> None:
        self._files.close()

    def _create(self, directory: str, path: str, record: bytes) -> None:
        """Puts the record there, all of it or nothing; with fencing only if there is none."""
        if self.fencing:
            self._files.create(path, record)
        elif self._place.creates:
            self._files.write(path, record)
        else:
            with self._translate("save", path):
                temporary = self._files.stage(directory, record)
            self._files.move(temporary, path)

    def _prove(self) -> None:
        """Makes sure, once for each place and process, that a record that is there stays there."""
        place = self._files.place
        if place in self._proven:
            return
        name = f".durable-store-probe-{token_hex(8)}"
        try:
            fenced = self._keeps_the_first(name)
        except Exception as err:
            if not not_sent(err):
                with suppress(Exception):  # the error that matters is the first
                    self._files.remove(name)
            if not {"NotImplemented", "NotImplementedError"} & (codes(err) | kinds(err)):
                raise
            fenced = False
        else:
            self._files.remove(name)
        if not fenced:
            raise StoreUnavailable(
                f"cannot save in {self._url}: asked not to replace what is there, the service does so or does not know"
                " how, and two writers could win the same step; for one writer at a time say fencing=off in the URL"
            )
        self._proven.add(place)

    def _keeps_the_first(self, name: str) -> bool:
        in_the_way = self._refusal(name, b"first")
        if not self._refusal(name, b"second"):
            return False
        there = self._files.read(name)
        if there is None and in_the_way:  # not a file: nobody else has this name
            raise in_the_way
        return there == b"first"

    def _refusal(self, name: str, content: bytes) -> Exception | None:
        """How it is said that the name is taken, when it is to be created; None when it is."""
        try:
            self._files.create(name, content)
        except Exception as err:
            if not is_taken(err):
                raise
            return err
        return None

    def _steps(self, directory: str) -> list[int]:
        return [step for step in map(step_of_object_name, self._files.names(directory)) if step is not None]

    def _goals(self) -> list[str]:
        return [goal for goal in map(id_from_storage_name, self._directories("")) if goal is not None]

    def _directories(self, directory: str) -> list[str]:
        with self._translate("list", directory):
            return list(self._files.directories(directory))

    def _nested(self, goal: str) -> Iterator[tuple[str, str]]:
        """The episodes and checkpoints of a goal that have steps, by one directory after the other."""
        for episode in filter(_EPISODE.fullmatch, self._directories(goal)):
            for checkpoint in self._directories(f"{goal}/{episode}"):
                directory = f"{goal}/{episode}/{checkpoint}"
                with self._translate("list", directory):
                    steps = self._steps(directory)
                if steps:
                    yield episode, checkpoint

    def _flat(self, goal: str) -> Iterator[tuple[str, str]]:
        """The same by the names of all their steps: on an object store each directory would take a request."""
        with self._translate("list", goal):
            paths = [path.split("/") for path in self._files.paths(goal)]
        steps = (path for path in paths if len(path) == 3 and step_of_object_name(path[2]) is not None)
        yield from {(episode, checkpoint) for episode, checkpoint, _ in steps}

    @contextmanager
    def _translate(self, doing: str, path: str, *, maybe_saved: bool = False) -> Generator[None]:
        """Turns whatever fsspec and the libraries below it raise into StoreUnavailable."""
        try:
            yield
        except (StoreUnavailable, CheckpointConflict):
            raise
        except Exception as err:
            message = f"cannot {doing} {f'{self._url}/{path}'.rstrip('/')}: {told(err, self._place.names)}"
            if self._files.closed:
                message = f"the store at {self._url} is closed"
            raise StoreUnavailable(message, maybe_saved=maybe_saved) from err
