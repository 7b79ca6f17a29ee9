"""Records as rows of one table in a SQLite database.

Layout: table `durable_store_checkpoints(goal, episode, checkpoint, step, record)`, one row a step, the first four
its primary key, the ids as they are. It is made by the first save, beside whatever else the database holds, and
nothing else of it is changed, except that the file is switched to WAL mode: that is a property of the file, which
every program that opens it sees. A new file is private to its user (0600), since states may be.

Durable: WAL with synchronous=FULL, one flush a save; threads that save or prune at the same time share a transaction
and its flush. A save that finds its step taken flushes the WAL too: the record may have been left there by a process
that was killed before its own flush. Prunes are not flushed by themselves: what a power cut takes back is only a
removal, and the WAL keeps the order. SQLite 3.7.0 to 3.51.2 can corrupt a database in WAL mode (docs/notes/0002): on
such a library it is the rollback journal instead.

Limits: one writer at a time, whoever waits for longer than `timeout` seconds (30) gets StoreUnavailable. No network
file systems: WAL needs memory shared by all who have the file open, and a directory that can be written also to
read. No second SQLite library on the same file in one process (the `sqlite3` module beside this one): each drops
the other's locks when it closes, as POSIX has it. A database file that is removed or replaced while it is in use
ends its backend: every verb is StoreUnavailable from then on, because the history that runs rely on is gone.
"""

# ruff: noqa: SLF001 - what is done around a fork is done to all backends at once

import contextlib
import math
import os
import random
import stat
import threading
import time
import weakref
from collections.abc import Collection, Generator, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Final, Self
from urllib.parse import SplitResult, unquote

import apsw

from durable_store.errors import InvalidKey, InvalidURL, StoreUnavailable
from durable_store.key import CheckpointKey
from durable_store_backends.sqlite_groups import Change, Groups, Prune, Save

_TABLE = "durable_store_checkpoints"
_CREATE = f"""
    CREATE TABLE IF NOT EXISTS {_TABLE} (
        goal TEXT NOT NULL, episode INTEGER NOT NULL, checkpoint TEXT NOT NULL, step INTEGER NOT NULL,
        record BLOB NOT NULL, PRIMARY KEY (goal, episode, checkpoint, step)
    )"""
_INSERT = f"INSERT INTO {_TABLE} VALUES "  # noqa: S608 - only parameters follow
_OF_KEY = f"FROM {_TABLE} WHERE goal = ? AND episode = ? AND checkpoint = ?"
# CAST: text that a person's UPDATE left there comes back as bytes, and is found damaged where records are read.
_LOAD = f"SELECT CAST(record AS BLOB) {_OF_KEY} AND step = ?"
_LATEST = f"SELECT step, CAST(record AS BLOB) {_OF_KEY} ORDER BY step DESC LIMIT 1"
_DISTINCT = f"DISTINCT goal, episode, checkpoint FROM {_TABLE}"
_AFTER = "(goal, episode, checkpoint) > (?, ?, ?) ORDER BY goal, episode, checkpoint LIMIT 500"
_AFTER_IN_GOAL = "goal = ? AND (episode, checkpoint) > (?, ?) ORDER BY episode, checkpoint LIMIT 500"

_AT_ONCE = 500  # steps in one statement
_MOST_SECONDS = 86400.0
_VACUUM_ABOVE = 1024 * 1024  # bytes free, beside three quarters of the file
_VACUUM_PAGES = 4096  # a step of it holds the write lock for 0.05 to 0.2 s

# Errors of COMMIT that come before its last frame is written: known not to be saved. After all others (a failed
# flush above all) the whole transaction may stand in the WAL, and the next process to recover it would see it.
_NOT_COMMITTED = (apsw.FullError, apsw.BusyError)

_REASONS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (apsw.NotADBError, "it is not a SQLite database"),
    (apsw.CorruptError, "the database is corrupt: restore it from a copy, or try `.recover` of the sqlite3 shell"),
    (apsw.FullError, "the disk is full; what was saved before is intact: free some space"),
    (apsw.ReadOnlyError, "it is read-only: check the rights of this user to the file and its directory"),
    (apsw.CantOpenError, "it cannot be opened: SQLite needs to read and write the file and its directory"),
    (apsw.BusyError, "others kept it locked for {timeout:g} s: end what holds it, or allow more with ?timeout=SECONDS"),
    (apsw.LockedError, "another connection of this process holds the table"),
    (apsw.IOError, "the operating system reported an error"),
    ((apsw.AuthError, apsw.PermissionsError), "access was refused"),
    ((apsw.NoMemError, MemoryError), "out of memory"),
    (apsw.TooBigError, "the record is too large for SQLite"),
    (FileNotFoundError, "its directory {path.parent} does not exist: create it first"),
)


class SqliteBackend:
    """Keeps records in a SQLite database, shared by any number of processes of one machine.

    Attributes:
        path: the absolute path of the database file.
    """

    path: Final[Path]
    _everyone: ClassVar["weakref.WeakSet[SqliteBackend]"] = weakref.WeakSet()
    _at_rest: ClassVar["list[SqliteBackend]"] = []
    _one_fork = threading.RLock()  # re-entrant: a signal handler may fork

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 30) -> None:
        self.path = Path(path).absolute()
        self._timeout = timeout
        self._lock = threading.Lock()  # one connection, one transaction at a time
        self._groups = self._new_groups()
        self._file: tuple[int, int] | None = None
        self._has_table = False  # seen or made: from here on the file must stay what it is
        self._over = ""  # why no verb can work any more
        self._patience_ends = 0.0
        self._doubtful = False  # a flush of the WAL has failed
        self._connection: apsw.Connection | None = None
        self._wal: bool | None = None  # None until this connection was made ready to write
        self._many_pages = 0  # of its pages, as many as _VACUUM_ABOVE is
        self._synchronous = ""
        self._everyone.add(self)

    @classmethod
    def from_url(cls, url: SplitResult, *, timeout: str = "30") -> Self:
        path = unquote(url.path).removeprefix("/")
        if url.netloc:
            raise InvalidURL(
                f"sqlite:// takes three slashes and a path, or four for an absolute one: sqlite:///{url.netloc}{url.path}"
            )
        if path == ":memory:":
            raise InvalidURL("sqlite:// keeps nothing in memory; for that there is memory://")
        if not path or path.endswith("/") or "\0" in path or not _is_utf8(path):
            raise InvalidURL(f"sqlite:// needs the path of a file, as in sqlite:///runs.db, not {url.geturl()!a}")
        try:
            seconds = float(timeout)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= _MOST_SECONDS:
            raise InvalidURL(
                f"timeout is a number of seconds, above 0 and at most {_MOST_SECONDS:.0f}, not {timeout!r}"
            )
        return cls(path, timeout=seconds)

    def __repr__(self) -> str:
        return f"SqliteBackend({str(self.path)!r})"

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        save = Save(key, step, record)
        self._groups.do(save)
        return save.there

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        with self._connected("read") as connection:
            if connection is None:
                return None
            for step, record in _rows(connection, _LATEST, _row(key)):
                return int(step), bytes(record)
            return None

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        prune = Prune(key, steps)
        self._groups.do(prune)
        if prune.leaves_room:
            # The records are gone, which is all that was asked; the next prune tries again to make the file smaller.
            with contextlib.suppress(StoreUnavailable):
                self._give_back_space()

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        with self._connected("read") as connection:
            if connection is None:
                return None
            if first is None:
                for (record,) in _rows(connection, _LOAD, (*_row(key), step)):
                    return bytes(record)
                return None
            # 7 µs for the head of 600 KB; substr() reads all of it, 130 µs. One transaction, or the row could go
            # and its number be given to another row in between.
            try:
                _rows(connection, "BEGIN")
                for (row,) in _rows(connection, f"SELECT rowid {_OF_KEY} AND step = ?", (*_row(key), step)):
                    with connection.blob_open("main", _TABLE, "record", row, False) as blob:
                        return blob.read(min(first, blob.length()))
                return None
            finally:
                if connection.in_transaction:
                    _rows(connection, "END")

    def steps(self, key: CheckpointKey) -> list[int]:
        with self._connected("read") as connection:
            if connection is None:
                return []
            return [int(step) for (step,) in _rows(connection, f"SELECT step {_OF_KEY} ORDER BY step DESC", _row(key))]

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        after: tuple[str, int, str] = (goal_id or "", -1, "")
        while True:
            with self._connected("read") as connection:
                if connection is None:
                    return
                which = _AFTER if goal_id is None else _AFTER_IN_GOAL
                try:
                    page = [
                        CheckpointKey(*row) for row in _rows(connection, f"SELECT {_DISTINCT} WHERE {which}", after)
                    ]
                except (InvalidKey, UnicodeError) as err:
                    raise StoreUnavailable(
                        f"{self.path}: table {_TABLE} holds a row that is none of ours: {err}"
                    ) from err
            # No cursor stays open here: it would keep the WAL from being reset for as long as the caller takes.
            if not page:
                return
            yield from page
            after = _row(page[-1])

    def close(self) -> None:
        with self._lock:
            self._disconnect()
            self._over = self._over or "it is closed"

    def _commit(self, changes: Sequence[Change]) -> None:
        """All of them in one transaction. Where that fails and nothing was changed, each in its own."""
        try:
            self._commit_together(changes)
        except StoreUnavailable as err:
            if len(changes) > 1 and not err.maybe_saved and not isinstance(err.__cause__, apsw.BusyError):
                self._commit_one_by_one(changes)
                return
            for change in changes:
                error = StoreUnavailable(str(err), maybe_saved=err.maybe_saved and isinstance(change, Save))
                error.__cause__ = err.__cause__
                change.fail(error)
        except Exception as err:  # noqa: BLE001 - it is of one change, and told to the thread that asked for that one
            if len(changes) > 1:
                self._commit_one_by_one(changes)
            else:
                changes[0].fail(err)

    def _commit_one_by_one(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._commit([change])

    def _commit_together(self, changes: Sequence[Change]) -> None:
        saves = [change for change in changes if isinstance(change, Save)]
        prunes = [change for change in changes if isinstance(change, Prune)]
        doing = "save to" if saves else "prune"
        with self._connected(doing, create=bool(saves)) as connection:
            if connection is not None:
                self._prepare_to_write(connection)
                self._flush_commits(connection, "EXTRA" if not self._wal else "FULL" if saves else "NORMAL")
                with self._transaction(connection, doing, saving=bool(saves)):
                    all_are_ours = self._insert(connection, saves) if saves else True
                    for prune in prunes:
                        self._delete(connection, prune)
                self._has_table = True
                if not all_are_ours:
                    self._flush_what_is_there(connection)
                if prunes:  # one of them makes the file smaller for all
                    prunes[0].leaves_room = self._leaves_room(connection)
        for change in changes:
            change.is_done = True

    def _insert(self, connection: apsw.Connection, saves: Sequence[Save]) -> bool:
        """Whether each of the records is there by us; otherwise they are told what is."""
        if not self._has_table:
            _rows(connection, _CREATE)
        # One statement for all rows: each lets go of the interpreter, which other threads are after.
        rows = [(*_row(save.key), save.step, save.record) for save in saves]
        insert = _INSERT + _list_of("(?, ?, ?, ?, ?)", saves) + " ON CONFLICT DO NOTHING"
        _rows(connection, insert, tuple(chain.from_iterable(rows)))
        all_are_ours = connection.changes() == len(saves)
        for save in saves:
            save.there = save.record  # also when it was tried before, together with others
            if not all_are_ours:
                [(there,)] = _rows(connection, _LOAD, (*_row(save.key), save.step))
                save.there = bytes(there)
        return all_are_ours

    def _delete(self, connection: apsw.Connection, prune: Prune) -> None:
        for start in range(0, len(prune.steps), _AT_ONCE):
            steps = prune.steps[start : start + _AT_ONCE]
            _rows(connection, f"DELETE {_OF_KEY} AND step IN ({_list_of('?', steps)})", (*_row(prune.key), *steps))

    def _new_groups(self) -> Groups:
        return Groups(self._commit, patience=self._timeout, busy=self._kept_busy("write to"))

    def _kept_busy(self, doing: str) -> str:
        return f"cannot {doing} {self.path}: other threads of this process kept it busy for {self._timeout:g} s"

    @contextlib.contextmanager
    def _connected(self, doing: str, *, create: bool = False) -> Generator[apsw.Connection | None]:
        """The connection, for one verb of one thread; None when there is no file or table to read."""
        with self._one_fork:  # or a thread that saves without a pause would keep the lock from whoever forks
            lock = self._lock
        if not lock.acquire(timeout=self._timeout):
            raise StoreUnavailable(self._kept_busy(doing))
        try:
            yield self._connect(doing, create=create)
        except (apsw.Error, OSError, MemoryError) as err:
            raise self._unavailable(doing, err) from err
        finally:
            lock.release()

    def _connect(self, doing: str, *, create: bool) -> apsw.Connection | None:
        if not self._over:
            self._check_file(create=create)
        if self._over:
            raise StoreUnavailable(f"cannot {doing} {self.path}: {self._over}")
        if self._file is None:
            return None
        if self._connection is None:
            connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE)
            connection.set_busy_handler(self._wait_for_others)
            if not _library_has_safe_wal() and _pragma(connection, "journal_mode") == "wal":
                connection.close()
                raise StoreUnavailable(
                    f"cannot {doing} {self.path}: it is in WAL mode, which SQLite {apsw.sqlite_lib_version()} can"
                    " corrupt: upgrade apsw"
                )
            self._connection = connection
        if not self._has_table and not create:
            self._has_table = bool(_rows(self._connection, "SELECT 1 FROM sqlite_schema WHERE name = ?", (_TABLE,)))
            return self._connection if self._has_table else None
        return self._connection

    def _wait_for_others(self, tries: int) -> bool:
        """Called while another has the lock: waits a little, at random; False when it has taken too long.

        SQLite's own waits grow to 0.1 s, and whoever has just committed is there first, again and again: of 8 processes
        one got 34 commits and another 965, and the longest wait was 3.4 s. With these it is 874, 1213 and 0.16 s.
        """
        now = time.monotonic()
        if tries == 0:
            self._patience_ends = now + self._timeout
        _wait_a_moment()
        return now < self._patience_ends

    def _check_file(self, *, create: bool) -> None:
        """Takes note of the file before it is opened, and compares at every verb, for a microsecond."""
        there = _identity(self.path)
        if self._file not in (None, there):
            self._disconnect()
            if self._has_table:
                self._over = (
                    f"the file was {'replaced' if there else 'removed'} while it was in use;"
                    " if that was meant, open the store again"
                )
                return
        if there is None and create:
            _create_private(self.path)
            there = _identity(self.path)
        self._file = there

    def _prepare_to_write(self, connection: apsw.Connection) -> None:
        """Once for each connection: WAL mode, and in a new database the means to become smaller again."""
        if self._wal is not None:
            return
        # Only before the first table can auto_vacuum be chosen; somebody else's database keeps what it has.
        if not _rows(connection, "SELECT 1 FROM sqlite_schema LIMIT 1"):
            _pragma(connection, "auto_vacuum = INCREMENTAL")
        self._many_pages = _VACUUM_ABOVE // int(_pragma(connection, "page_size"))
        if not _library_has_safe_wal():
            self._wal = False
            return
        deadline = time.monotonic() + self._timeout
        while True:
            # The switch takes its lock while it reads, and there SQLite does not wait, whatever the busy timeout.
            try:
                wal = _pragma(connection, "journal_mode = WAL") == "wal"
                break
            except apsw.BusyError:
                if time.monotonic() > deadline:
                    raise
                _wait_a_moment()
        if self._doubtful:
            # Linux marks the pages of a failed flush as clean, and a later flush reports success without them. A
            # prune before it, not yet flushed, would be a gap that ends the WAL after a power cut: begin a new one.
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self._doubtful = False
        # Cuts back the WAL that a long reader let grow; it does not grow to that size otherwise.
        _pragma(connection, f"journal_size_limit = {16 * 1024 * 1024}")
        self._wal = wal

    def _flush_commits(self, connection: apsw.Connection, level: str) -> None:
        """What a COMMIT flushes: never left to chance, also when the pragma before it has failed."""
        if self._synchronous != level:
            self._synchronous = ""
            _pragma(connection, f"synchronous = {level}")
            self._synchronous = level

    def _flush_what_is_there(self, connection: apsw.Connection) -> None:
        """Makes a record durable that another process may have been killed over, between its write and its flush."""
        # SQLite holds no lock on the -wal file, so that closing it here drops none. Without WAL the last step of a
        # commit is that the journal leaves the directory.
        try:
            file = os.open(connection.filename_wal if self._wal else self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(file)
            finally:
                os.close(file)
        except FileNotFoundError:
            return
        except OSError as err:  # what was saved in the same transaction is there
            raise self._unavailable("save to", err, maybe_saved=True) from err

    @contextlib.contextmanager
    def _transaction(self, connection: apsw.Connection, doing: str, *, saving: bool = False) -> Generator[None]:
        """All of it or nothing; after an error the connection is as before, or replaced at the next verb."""
        committing = False
        try:
            _rows(connection, "BEGIN IMMEDIATE")
            yield
            committing = True
            _rows(connection, "COMMIT")
        except BaseException as err:
            try:
                if connection.in_transaction:
                    _rows(connection, "ROLLBACK")
            except apsw.Error:
                self._disconnect()
            if committing and isinstance(err, apsw.Error) and not isinstance(err, _NOT_COMMITTED):
                self._disconnect()
                self._doubtful = True
                raise self._unavailable(doing, err, maybe_saved=saving) from err
            raise

    def _give_back_space(self) -> None:
        """Makes the file smaller: in steps, between which others get their turn."""
        while True:
            started = time.monotonic()
            with self._connected("prune") as connection:
                free = int(_pragma(connection, "freelist_count")) if connection else 0
                if connection is None or free == 0:
                    return
                _rows(connection, f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
                if int(_pragma(connection, "freelist_count")) == free:  # a database without auto_vacuum
                    return
            time.sleep(time.monotonic() - started)

    def _leaves_room(self, connection: apsw.Connection) -> bool:
        """Whether most of the file is free, and so much that it is worth while to make it smaller."""
        try:
            free = int(_pragma(connection, "freelist_count"))
            return free >= self._many_pages and free * 4 > 3 * int(_pragma(connection, "page_count"))
        except apsw.Error:  # what was to be done has been committed
            return False

    def _unavailable(self, doing: str, err: BaseException, *, maybe_saved: bool = False) -> StoreUnavailable:
        reasons = (reason for kind, reason in _REASONS if isinstance(err, kind))
        reason = next(reasons, "").format(timeout=self._timeout, path=self.path)
        cause = getattr(err, "strerror", None) or str(err)
        return StoreUnavailable(
            f"cannot {doing} {self.path}: {f'{reason} ({cause})' if reason else cause}", maybe_saved=maybe_saved
        )

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._wal = None
        self._synchronous = ""
        if connection is not None:
            with contextlib.suppress(apsw.Error):  # what is left to do, whoever opens the file next will do
                connection.close()

    # fork(). SQLite keeps one account of each file's locks for the whole process. A child inherits it, while the locks
    # themselves stay with the parent, so not even a new connection of the child is safe while the parent has one:
    # tried, the parent's close removed the WAL under the child, and the child's next commit was lost. Hence nothing
    # is open during a fork; both sides connect again at their next verb.

    @classmethod
    def _before_fork(cls) -> None:
        cls._one_fork.acquire()
        for backend in list(cls._everyone):
            if backend._lock.acquire(timeout=backend._timeout):
                cls._at_rest.append(backend)
                backend._disconnect()

    @classmethod
    def _after_fork_in_parent(cls) -> None:
        while cls._at_rest:
            cls._at_rest.pop()._lock.release()
        cls._one_fork.release()

    @classmethod
    def _after_fork_in_child(cls) -> None:
        for backend in list(cls._everyone):
            if backend not in cls._at_rest:  # in a verb for all that time, or forked inside one
                backend._abandon()
            backend._lock = threading.Lock()
            backend._groups = backend._new_groups()
        cls._at_rest.clear()
        cls._one_fork = threading.RLock()

    def _abandon(self) -> None:
        """In a child whose parent's connection was in use: it can neither be used nor closed, nor another opened."""
        import ctypes  # noqa: PLC0415 - hardly ever

        if self._connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))  # or the garbage collector would close it
            self._connection = None
        self._over = "this process was forked in the middle of a verb; open the store after the fork"


def _wait_a_moment() -> None:
    time.sleep(random.uniform(0.0001, 0.003))  # noqa: S311 - spreads the processes, guards nothing


def _wal_is_safe(version: tuple[int, ...]) -> bool:
    """Whether this SQLite is free of the WAL corruption bug (https://sqlite.org/wal.html#walresetbug)."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def _library_has_safe_wal() -> bool:
    return _wal_is_safe(tuple(map(int, apsw.sqlite_lib_version().split("."))))


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode; None when nothing is there. Raises OSError when it is not a file."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(there.st_mode):
        raise IsADirectoryError("it is a directory" if stat.S_ISDIR(there.st_mode) else "it is not a regular file")
    if 0 < there.st_size < 512:  # SQLite would take such a file for an empty one, and write over it
        raise OSError("it is not a SQLite database")
    return there.st_dev, there.st_ino


def _create_private(path: Path) -> None:
    """An empty file, 0600. Without opening it: closing would drop this process's locks on it, had it any."""
    with contextlib.suppress(FileExistsError):
        try:
            os.mknod(path, 0o600 | stat.S_IFREG)
        except PermissionError:  # macOS lets only root do that
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _list_of(each: str, things: Sequence[object]) -> str:
    return ", ".join([each] * len(things))


def _row(key: CheckpointKey) -> tuple[str, int, str]:
    return key.goal_id, key.episode_id, key.checkpoint_id


def _rows(connection: apsw.Connection, sql: str, values: tuple[str | int | bytes, ...] = ()) -> list[Any]:
    """All rows at once: a statement that is not stepped to its end keeps its transaction open."""
    return list(connection.execute(sql, values))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType, reportUnknownVariableType]


def _pragma(connection: apsw.Connection, pragma: str) -> Any:
    for (value,) in _rows(connection, f"PRAGMA {pragma}"):
        return value
    return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


os.register_at_fork(
    before=SqliteBackend._before_fork,  # pyright: ignore[reportPrivateUsage]
    after_in_parent=SqliteBackend._after_fork_in_parent,  # pyright: ignore[reportPrivateUsage]
    after_in_child=SqliteBackend._after_fork_in_child,  # pyright: ignore[reportPrivateUsage]
)
