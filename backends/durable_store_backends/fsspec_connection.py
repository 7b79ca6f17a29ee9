"""The way from a URL to a file system of fsspec, and what its errors mean."""

import inspect
import os
import re
import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote, urlsplit

from durable_store.backend import no_backend
from durable_store.errors import InvalidURL

# Neither they nor what they give have types: Any begins here.
_fsspec: Any = import_module("fsspec")
_asyn: Any = import_module("fsspec.asyn")
import_module("encodings.idna")  # else the first connection does so, and a process forked in that moment hangs

OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}
"""Where a write is whole or not at all, and directories are but parts of names."""

UNREACHABLE = {
    "ClientConnectorError",
    "ConnectionRefusedError",
    "ConnectTimeoutError",
    "EndpointConnectionError",
    "NoValidConnectionsError",
    "gaierror",
}
"""What the libraries call it when a request could not even be sent."""

_NOT_PLAIN = re.compile(r"[?#\\\x00-\x1f\x7f\ufffd]|//|(?:^|/)\.\.?(?:/|$)")
_OURS = {"asynchronous", "loop", "skip_instance_cache", "use_listings_cache", "global_store"}
# Seconds until a host that does not answer is unreachable: paramiko has no limit of its own.
_DEFAULTS: dict[str, dict[str, Any]] = {"sftp": {"timeout": 20}, "ssh": {"timeout": 20}}

# Given with each call of a verb that takes them. Against caches; one request for a read, where s3fs would ask for the
# size first; one for a write, since a service may know the condition on an upload and not on one in parts.
_ALWAYS: dict[str, dict[str, Any]] = {
    "ls": {"refresh": True, "invalidate_cache": True},
    "cat_file": {"max_concurrency": 1},
    "pipe_file": {"chunksize": 2**30},
}
_READS = {"ls", "cat_file"}

_ADVICE = {
    **dict.fromkeys(UNREACHABLE, "nothing answers there: see its host and port"),
    "PermissionError": "these credentials may not do that, or have expired",
    "NoCredentialsError": "no credentials were found: give them as the service's own tools take them, not in the URL",
    "AuthenticationException": "it takes a key that ssh-agent or ~/.ssh has, or that the option key_filename names",
    **dict.fromkeys(("FileNotFoundError", "ResourceNotFoundError"), "make the bucket or directory that is missing"),
    "NotImplementedError": "this file system cannot hold a store",
    "TypeError": "see the options in the store URL",
    "Exception": "see whether the service is up, then try again",
}


class Place(NamedTuple):
    """Where a URL points: the class of a file system, what to make one with, and a path in it."""

    kind: Any
    protocol: str
    root: str
    options: dict[str, Any]


def place_of(url: str, options: dict[str, Any]) -> Place:
    """The place that a URL without a query names. Connects to nothing.

    Raises:
        InvalidURL: fsspec does not know the scheme, or needs another library for it; a path that not every file system
            would take as it stands; options that this one has not.
    """
    split = urlsplit(url)
    scheme, protocol = split.scheme, split.scheme.removesuffix("+fsspec")
    kind = _kind(scheme, protocol)
    path = unquote(split.path)
    if split.query or split.fragment or "@" in split.netloc or _NOT_PLAIN.search(path):
        raise InvalidURL(f"the path of a {scheme}:// store has no ? # \\ in it, no // and no . or .. as a part")
    ours = _OURS & options.keys()
    if ours:
        raise InvalidURL(f"{scheme}:// has no option {ours.pop()!r}: durable_store sets it")
    plain = f"{protocol}://{split.netloc}{path}"
    try:
        root: str = kind._strip_protocol(plain).rstrip("/")  # noqa: SLF001 - how fsspec takes a URL apart
        of_url: dict[str, Any] = kind._get_kwargs_from_urls(plain)  # noqa: SLF001
        given = {**_DEFAULTS.get(protocol, {}), **of_url, **options}
        inspect.signature(kind.__init__).bind(kind, **given)
    except (TypeError, ValueError) as err:
        raise InvalidURL(f"{scheme}:// cannot be opened like this: {in_one_line(err)}") from err
    if not (root or protocol == "memory") or (protocol in OBJECT_STORES and not split.netloc):
        raise InvalidURL(f"{scheme}:// needs a place: {scheme}://bucket/prefix, or {scheme}://host/directory")
    if kind.async_impl:
        given["use_listings_cache"] = False
    return Place(kind, protocol, root, given)


def _kind(scheme: str, protocol: str) -> Any:
    try:
        return _fsspec.get_filesystem_class(protocol)
    except ValueError as err:
        raise no_backend(scheme) from err
    except ImportError as err:
        module, hint = getattr(err.__cause__, "name", None) or "another module", in_one_line(err)
        raise InvalidURL(f"{scheme}:// needs {module}: {f'pip install {module}' if module in hint else hint}") from err


class Connection:
    """A file system object of this process, shared by all backends that mean the same one.

    So threads that save in memory take turns, which makes a create there atomic; the others are spared a connection
    each, or the 0.2 s that s3fs takes to begin. In a forked child it is neither used nor closed: it is the parent's.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _everyone: ClassVar[dict[str, "Connection"]] = {}
    _of_parents: ClassVar[list["Connection"]] = []

    def __init__(self, name: str, place: Place) -> None:
        self.name = name
        self.process = os.getpid()
        self._kind = place.kind
        self._options = place.options
        self._turn = threading.RLock()
        self._file_system: Any = None
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        self._always = {verb: _taken_by(place.kind, verb, extra) for verb, extra in _ALWAYS.items()}

    @classmethod
    def to(cls, place: Place, user: object) -> "Connection":
        """This process's connection to a place, for one more user; it connects when something is asked."""
        name = f"{place.protocol} {id(place.kind)} {sorted(place.options.items())!r}"
        with cls._lock:
            found = cls._everyone.get(name)
            if found is None:
                found = cls._everyone[name] = cls(name, place)
            found._users.add(user)
            return found

    def leave(self, user: object) -> None:
        """Closes it behind its last user."""
        with self._lock:
            self._users.discard(user)
            if self._users or self.process != os.getpid():
                return
            self._everyone.pop(self.name, None)
        self._hang_up()

    def ask(self, verb: str, path: str, *args: object, **more: object) -> Any:
        """What a verb of the file system gives; raises whatever it raises.

        Where fsspec is not asynchronous, threads take turns, and what is read on a connection that has died in the
        meantime is read again on a new one.
        """
        more = {**self._always.get(verb, {}), **more}
        if self._kind.async_impl:
            return self._call(verb, path, *args, **more)
        with self._turn:
            while True:
                fresh = self._file_system is None
                try:
                    return self._call(verb, path, *args, **more)
                except (FileNotFoundError, FileExistsError, PermissionError):
                    raise
                except BaseException as err:  # also an interrupt: the rest of an answer would pass for the next one
                    self._hang_up()
                    if fresh or verb not in _READS or not isinstance(err, Exception):
                        raise

    @classmethod
    def leave_to_the_parent(cls) -> None:
        """In a forked child: lets go of no connection, and waits for no lock that a thread of the parent had."""
        cls._of_parents.extend(cls._everyone.values())
        cls._everyone.clear()
        cls._lock = threading.Lock()
        _asyn.reset_lock()  # fsspec's own hook misses it: https://github.com/fsspec/filesystem_spec/pull/1790

    def _call(self, verb: str, path: str, *args: object, **more: object) -> Any:
        with self._turn:
            if self._file_system is None:
                self._file_system = self._kind(**self._options, skip_instance_cache=True)
                with suppress(AttributeError):  # paramiko alone has this
                    _tune(self._file_system.ftp.get_channel(), self._options.get("timeout"))
            file_system = self._file_system
        if verb == "ls":
            file_system.invalidate_cache()
        return getattr(file_system, verb)(path, *args, **more)

    def _hang_up(self) -> None:
        file_system, self._file_system = self._file_system, None
        with suppress(Exception):  # it was no use any more
            file_system.client.close()


os.register_at_fork(after_in_child=Connection.leave_to_the_parent)


def _taken_by(kind: Any, verb: str, extra: dict[str, Any]) -> dict[str, Any]:
    """Those of the extra arguments that this file system's verb has."""
    parameters = inspect.signature(getattr(kind, f"_{verb}" if kind.async_impl else verb)).parameters
    return {name: value for name, value in extra.items() if name in parameters}


def _tune(channel: Any, timeout: float | None) -> None:
    """Makes paramiko 50 times faster with a large record, and gives up on a server that has stopped to answer."""
    channel.get_transport().sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    channel.settimeout(timeout)


def _chain(err: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = err
    while cause is not None:
        yield cause
        cause = cause.__cause__


def kinds(err: BaseException) -> set[str]:
    """The names of its classes and its causes': most are of libraries that need not be installed."""
    return {kind.__name__ for each in _chain(err) for kind in type(each).__mro__}


def codes(err: BaseException) -> set[str]:
    """What S3 calls the error."""
    found: set[str] = set()
    for each in _chain(err):
        response: Any = getattr(each, "response", None)
        if hasattr(response, "get"):
            found.add(str(response.get("Error", {}).get("Code")))
    return found


def is_taken(err: BaseException) -> bool:
    """Whether it says that the name is taken. Some services do not name the condition, and s3fs takes it for EINVAL."""
    return "FileExistsError" in kinds(err) or not {"PreconditionFailed", "412"}.isdisjoint(codes(err))


def advice(err: BaseException) -> str:
    """What helps."""
    names = kinds(err)
    return next(what for name, what in _ADVICE.items() if name in names)


def in_one_line(err: BaseException) -> str:
    """What it says, or what it is called. Azure would have it that all of an answer is shown."""
    text = " ".join(str(err).split())
    return f"{text[:199]}…" if len(text) > 200 else text or type(err).__name__
