"""Stores that nobody has written to, as many as are needed, all from one URL; and nothing left of them."""

import glob
import itertools
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path, PurePosixPath

from durable_store import CheckpointKey, StoreUnavailable
from durable_store.backend import Backend, open_backend
from durable_store_conformance import limits
from durable_store_conformance.limits import DidNotEnd, ends_within
from durable_store_conformance.registry import KEY
from durable_store_conformance.work import in_threads

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?]*)([^?]*)(.*)", re.DOTALL)
_AT_ONCE = 8  # threads that prune: a service answers in 10 to 100 ms, and a clause may leave thousands of keys


class FreshStores:
    """Hands out URLs of fresh stores, and removes what was in them.

    Attributes:
        left: what could not be removed, and why.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._names = (f"conformance-{secrets.token_hex(4)}-{number:04}" for number in itertools.count())
        self._missing: list[Path] = []
        self._unremoved: dict[str, str] = {}  # the URLs of those that are in use, by their names
        self._hung = 0
        self.left: list[str] = []

    def try_out(self) -> str:
        """Saves a record in a store of its own and reads it, and measures that; returns the repr of its backend.

        Raises:
            InvalidURL: the URL names no usable backend.
            StoreUnavailable: there is nothing that could be examined, or it does not answer in time.
        """
        try:
            return self._tried_out()
        except DidNotEnd as err:
            raise StoreUnavailable(f"{self._url} was tried out, and {err}") from None

    def _tried_out(self) -> str:
        if "{}" not in self._url:  # what is wrong with it is told of the URL that was given
            with ends_within(limits.TRY_OUT):
                open_backend(self._url).close()
        with self.fresh() as url, ends_within(limits.TRY_OUT), closing(open_backend(url)) as backend:
            path = getattr(backend, "path", None)
            if isinstance(path, Path):
                self._missing = [each for each in path.parents if not each.exists()]
            try:
                backend.save(KEY, 0, b"is anybody there?")
                backend.load(KEY, 0)
                limits.measure(url)
            except StoreUnavailable:
                raise
            except Exception:  # noqa: BLE001 - the clauses are there to tell what is broken
                return repr(backend)
            return repr(backend)

    @contextmanager
    def fresh(self) -> Generator[str]:
        """The URL of a store that nobody has written to; what is in it afterwards is removed."""
        name = next(self._names)
        self._unremoved[name] = named(self._url, name)
        try:
            yield self._unremoved[name]
        finally:
            self._remove(name)

    def end(self) -> None:
        """Removes what Ctrl-C kept from being removed, and directories above the stores that were not there before."""
        for name in list(self._unremoved):
            self._remove(name)
        for path in self._missing:
            with suppress(OSError):  # somebody else's things are in it
                path.rmdir()

    def _remove(self, name: str) -> None:
        url = self._unremoved.get(name)
        if url is None:  # Ctrl-C came between its beginning and its clause, and `end` has removed it
            return
        try:
            with ends_within(self._patience(url)), closing(open_backend(url)) as backend:
                _clean_up(backend, name)
        except DidNotEnd as err:
            self._hung += 1
            self.left.append(f"{url}: its removal: {err}")
        except Exception as err:  # noqa: BLE001 - a broken backend may raise anything, and the exam goes on
            self.left.append(f"{url}: {err}")
        del self._unremoved[name]

    def _patience(self, url: str) -> float:
        """Halved by each removal that hung: all that hang take together no longer than two."""
        return max(limits.CLEAN_UP * limits.slowness_of(url) * 0.5**self._hung, 0.1)


def named(url: str, name: str) -> str:
    """The URL of the store of this name.

    `{}` in the URL stands for the name. Without it the name is the last segment of the path, or stands before the
    suffix of the last one: `runs.db` is `runs-NAME.db`. The query stays.
    """
    if "{}" in url:
        return url.replace("{}", name)
    match = _URL.fullmatch(url)
    scheme, host, path, query = match.groups() if match else ("", "", url, "")
    parent, slash, last = path.rstrip("/").rpartition("/")
    suffix = PurePosixPath(last).suffix
    if suffix:
        return f"{scheme}{host}{parent}{slash}{last.removesuffix(suffix)}-{name}{suffix}{query}"
    return f"{scheme}{host}{path.rstrip('/')}{'/' if host or path else ''}{name}{query}"


def _clean_up(backend: Backend, name: str) -> None:
    """Removes what a store keeps on this machine's disk by its path, and all else through the protocol."""
    path = getattr(backend, "path", None)
    for made in (path, *path.parents) if isinstance(path, Path) else ():
        if name in made.name:
            for each in made.parent.glob(f"{glob.escape(made.name)}*"):  # with what SQLite keeps beside a database
                shutil.rmtree(each) if each.is_dir() else each.unlink()
            return

    # First without asking for steps: a key mostly has this one alone, and moto looks at a whole bucket for each answer.
    _prune(backend, lambda _: [0])
    _prune(backend, lambda key: backend.steps(key)[::-1])


def _prune(backend: Backend, steps_of: Callable[[CheckpointKey], Collection[int]]) -> None:
    keys = list(backend.keys())

    def prune_a_part(first: int) -> None:
        for key in keys[first::_AT_ONCE]:
            backend.prune(key, steps_of(key))

    in_threads(_AT_ONCE, prune_a_part)
