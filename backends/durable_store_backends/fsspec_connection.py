"""The file systems of fsspec that a process has made, and the verbs of them."""

import inspect
import os
import socket
import threading
import weakref
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

from durable_store_backends.fsspec_place import Place

_asyn: Any = import_module("fsspec.asyn")
import_module("encodings.idna")  # else the first connection does so, and a process forked in that moment hangs

# Given with each call of a verb that takes them. Against caches; one request for a read, where s3fs would ask for the
# size first; one for a write, since a service may know the condition on an upload and not on one in parts.
_ALWAYS: dict[str, dict[str, Any]] = {
    "ls": {"refresh": True, "invalidate_cache": True},
    "cat_file": {"max_concurrency": 1},
    "pipe_file": {"chunksize": 2**30},
}
_REPEATABLE = {"ls", "cat_file", "info", "isdir", "rm_file"}  # done twice, they do what they do once


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
        self._over = False
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
        """Closes it behind its last user, for good: a verb that is under way fails, and does not connect again."""
        with self._lock:
            self._users.discard(user)
            if self._users or self.process != os.getpid():
                return
            self._everyone.pop(self.name, None)
            self._over = True
        self._hang_up()

    def ask(self, verb: str, *args: object, **more: object) -> Any:
        """What a verb of the file system gives; raises whatever it raises.

        Where fsspec is not asynchronous, threads take turns, and what may be done twice is done again on a new
        connection when the old one has died in the meantime.
        """
        more = {**self._always.get(verb, {}), **more}
        if self._kind.async_impl:
            return getattr(self._connected(), verb)(*args, **more)
        with self._turn:
            while True:
                fresh = self._file_system is None
                try:
                    return getattr(self._connected(), verb)(*args, **more)
                except (FileNotFoundError, FileExistsError, PermissionError):
                    raise
                except BaseException as err:  # also an interrupt: the rest of an answer would pass for the next one
                    self._hang_up()
                    if fresh or verb not in _REPEATABLE or not isinstance(err, Exception):
                        raise

    @classmethod
    def leave_to_the_parent(cls) -> None:
        """In a forked child: lets go of no connection, and waits for no lock that a thread of the parent had."""
        cls._of_parents.extend(cls._everyone.values())
        cls._everyone.clear()
        cls._lock = threading.Lock()
        _asyn.reset_lock()  # fsspec's own hook misses it: https://github.com/fsspec/filesystem_spec/pull/1790

    def _connected(self) -> Any:
        """The file system, and nothing left of what it has listed before: some answer every verb by that."""
        with self._turn:
            if self._file_system is None and not self._over:
                self._file_system = self._kind(**self._options, skip_instance_cache=True)
                with suppress(AttributeError):  # paramiko alone has this
                    _tune(self._file_system.ftp, self._options.get("timeout"))
            file_system: Any = self._file_system
        if self._over:  # perhaps only since this one was made
            self._hang_up()
            raise ConnectionError("the connection is closed")
        file_system.invalidate_cache()
        return file_system

    def _hang_up(self) -> None:
        file_system, self._file_system = self._file_system, None
        with suppress(Exception):  # it was no use any more
            file_system.client.close()


os.register_at_fork(after_in_child=Connection.leave_to_the_parent)


def _taken_by(kind: Any, verb: str, extra: dict[str, Any]) -> dict[str, Any]:
    """Those of the extra arguments that this file system's verb has."""
    parameters = inspect.signature(getattr(kind, f"_{verb}" if kind.async_impl else verb)).parameters
    return {name: value for name, value in extra.items() if name in parameters}


def _tune(sftp: Any, timeout: float | None) -> None:
    """Makes paramiko 50 times faster with a large record, and gives up on a server that has stopped to answer.

    Of each directory it would ask 50 times for more names, before the first of them have come.
    """
    channel = sftp.get_channel()
    channel.get_transport().sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    channel.settimeout(timeout)
    sftp.listdir_iter = partial(sftp.listdir_iter, read_aheads=4)
