"""Records as files in a directory of a local disk; nothing but the file system is needed.

Layout::

    <root>/<goal>/<episode, 9 digits>/<checkpoint>/<step, 16 digits>.ckpt

Goal and checkpoint are storage names. Directories have mode 0700, files 0600. A name that is not spelled exactly like
this is not ours: it is never read, listed or removed.

How durable: a record is written to a file without a name (O_TMPFILE) and flushed, then linked to its name, which fails
if the name is taken, then the directory is flushed: two flushes a save. A reader sees the whole record or none, and a
kill at any moment leaves nothing over. Where O_TMPFILE is missing the temporary file has a hidden name, and a kill can
leave that behind. A power cut may bring back what retention removed, never what a delete removed.

Limits: the file system must have hard links, and it must be local: network file systems promise less of all this.
`latest` and `steps` list one directory: 0.3 to 0.7 µs for each step kept. Empty directories stay.
"""

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from urllib.parse import SplitResult, unquote_to_bytes

from durable_store.errors import InvalidURL, StoreUnavailable
from durable_store.key import CheckpointKey, id_from_storage_name, storage_name, storage_path

_EPISODE = re.compile(r"[0-9]{9}")
_RECORD = re.compile(r"([0-9]{16})\.ckpt")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY

# How often a record that was there a moment ago is looked for again: it takes a whole batch of commits and their
# pruning between two system calls to make one vanish.
_TRIES = 16

# The kernel lists about 680 of our names in one call, in which nothing changes. Between two calls a whole batch may be
# committed and pruned, so that of all steps only an old fence is seen; then two listings must agree on the newest.
_LISTED_AT_ONCE = 500

# A directory costs about 150 bytes here; forgetting all of them costs the next saves a few flushes.
_MOST_FLUSHED = 10_000

# No O_TMPFILE here, or no way to link it: an old kernel, another kind of file system, no /proc.
_NOT_UNNAMED = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.EXDEV, errno.EPERM}
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}

# With these alone the disk, or the server behind it, may have made the link all the same.
_UNDECIDED = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space or prune, then try again",
    errno.EDQUOT: "the disk quota is used up: free some space or prune, then try again",
    errno.EACCES: "this user may not: see the owner and mode of the file and of the directories above it",
    errno.EPERM: "the file system or its settings forbid it",
    errno.EROFS: "the file system is mounted read-only, as some are after an error: see the system's log",
    errno.EIO: "the disk failed: see the system's log before you trust it again",
    errno.EISDIR: "a directory is in the place of a record: move it away",
    errno.ENOTDIR: "a file is in the place of a directory: move it away, or use another path",
    errno.ESPIPE: "a pipe or a device is in the place of a record: move it away",
    errno.ENXIO: "a socket is in the place of a record: move it away",
    errno.ELOOP: "its symbolic links lead in a circle",
    errno.ENAMETOOLONG: "a store needs names of up to 255 bytes, and a shorter path to its directory helps",
    errno.EMFILE: "this process has too many open files: raise `ulimit -n`",
    errno.ENFILE: "this machine has too many open files",
}


class FileBackend:
    """Keeps records as files under one directory, which the first save creates.

    Holds no handle between two calls, so there is nothing that a fork could share.

    Attributes:
        path: the absolute path of the directory: a later `chdir` does not move the store.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if "\0" in os.fspath(path):
            raise InvalidURL("the path of a store holds no NUL character")
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps the `..`
        self._closed = False
        # Directories, as (device, inode), whose entries in all directories above are known to be on the disk. That
        # holds for as long as they exist, and nothing here removes a directory; for one that somebody else removed see
        # `_make`. Single operations on a set need no lock.
        self._flushed: set[tuple[int, int]] = set()

    @classmethod
    def from_url(cls, url: SplitResult) -> Self:
        if url.netloc:
            raise InvalidURL(
                f"file:// takes no host, and an absolute path: file:///{url.netloc}{url.path},"
                f" or for a relative one just {url.netloc}{url.path}"
            )
        if not url.path:
            raise InvalidURL("file:// needs an absolute path, as in file:///var/lib/checkpoints")
        return cls(os.fsdecode(unquote_to_bytes(url.path)))

    def __repr__(self) -> str:
        return f"FileBackend({str(self.path)!r})"

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        directory, name = self._directory(key), _file_name(step)
        path = f"{directory}/{name}"
        with _translate("save", path):
            for _ in range(_TRIES):
                with self._place(directory) as place:
                    there = record if _create(place, name, record, path) else _read(path)
                    if there is not None:
                        # Also when it is another's: that process may have been killed before it came to this. A failed
                        # flush of a file is never repeated, for the kernel then takes what it could not write for
                        # written; a directory's goes through the journal, which stays broken.
                        with _translate("flush the directory of", path, maybe_saved=there == record):
                            _flush(place)
                        return there
            raise StoreUnavailable(f"cannot save {path}: the name is taken, and nothing can be read behind it")

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        directory = self._directory(key)
        with _translate("read", directory):
            for _ in range(_TRIES):
                names = _names(directory)
                step = _highest(names)
                if step is None:
                    return None
                if len(names) > _LISTED_AT_ONCE and step != _highest(_names(directory)):
                    continue
                path = f"{directory}/{_file_name(step)}"
                with _translate("read", path):
                    record = _read(path)
                if record is not None:
                    return step, record
        raise StoreUnavailable(
            f"cannot read {directory}: its newest record is listed, and nothing can be read behind it"
        )

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        directory = self._directory(key)
        with _translate("prune", directory):
            highest = _highest(_names(directory))
            if highest is None:
                return
            # A power cut may undo removals that were not flushed, on some file systems one and not the one before it.
            # Retention does not mind, for the newest record stays; so it flushes nothing. Where the newest goes too, in
            # a delete, no older one may take its place: all others are gone for good before the last is removed.
            flush = max(steps, default=-1) >= highest
            with _opened(directory, _DIRECTORY) as place:
                for position, step in enumerate(steps, 1):
                    if flush and position == len(steps):
                        _flush(place)
                    name = _file_name(step)
                    with _translate("remove", f"{directory}/{name}"), suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=place)
                if flush:
                    _flush(place)

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        path = f"{self._directory(key)}/{_file_name(step)}"
        with _translate("read", path):
            return _read(path, first)

    def steps(self, key: CheckpointKey) -> list[int]:
        directory = self._directory(key)
        with _translate("list", directory):
            return sorted(_steps(_names(directory)), reverse=True)

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        root = self._open()
        with _translate("list", root):
            for goal in _ids(root) if goal_id is None else (goal_id,):
                of_goal = f"{root}/{storage_name(goal)}"
                for episode in filter(_EPISODE.fullmatch, _directories(of_goal)):
                    of_episode = f"{of_goal}/{episode}"
                    for checkpoint in _ids(of_episode):
                        if _highest(_names(f"{of_episode}/{storage_name(checkpoint)}")) is not None:
                            yield CheckpointKey(goal, int(episode), checkpoint)

    def strangers(self) -> Iterator[tuple[str, str, str]]:
        """What is no part of the store, or open to others: its path, the kind of finding, and what is wrong."""
        from durable_store_backends.files_strangers import strangers  # noqa: PLC0415 - for operators alone

        with _translate("list", self._open()):
            yield from strangers(self.path)

    def close(self) -> None:
        self._closed = True

    def _open(self) -> str:
        if self._closed:
            raise StoreUnavailable(f"the store at {self.path} is closed")
        return str(self.path)

    def _directory(self, key: CheckpointKey) -> str:
        return f"{self._open()}/{storage_path(key)}"

    @contextmanager
    def _place(self, directory: str) -> Generator[int]:
        """The open directory of a key, made if need be, whose entries in all directories above are on the disk."""
        if not Path(directory).is_dir():
            self._make(Path(directory))
        with _opened(directory, _DIRECTORY) as place:
            self._flush_parents(place)
            yield place

    def _make(self, directory: Path) -> None:
        with suppress(FileExistsError):  # another process made it, or it is no directory: opening it tells
            try:
                directory.mkdir(0o700)
            except FileNotFoundError:
                self._make(directory.parent)
                directory.mkdir(0o700)
            # It may have got the inode number of a known one that was removed behind our back.
            self._flushed.discard(_identity(directory.stat()))

    def _flush_parents(self, place: int) -> None:
        """Once for each directory: flushes its parents, up to the file system's root or the first not to be opened."""
        # Also if the directory was there: another process may have made it and not flushed it yet.
        here, path = os.fstat(place), "."
        chain: list[tuple[int, int]] = []
        while _identity(here) not in self._flushed:
            chain.append(_identity(here))
            path += "/.."  # not the parents in the path as written: it may lead through symbolic links
            try:
                with _opened(path, _DIRECTORY, place) as parent:
                    above = os.fstat(parent)
                    if above.st_dev != here.st_dev or above.st_ino == here.st_ino:
                        break
                    _flush(parent)
            except PermissionError:
                break
            here = above
        if len(self._flushed) > _MOST_FLUSHED:
            self._flushed.clear()
        self._flushed.update(chain)


def _create(place: int, name: str, record: bytes, path: str) -> bool:
    """Creates the record, all of it or nothing, with its bytes on the disk. False when the name is taken."""
    unnamed: int | None = getattr(os, "O_TMPFILE", None)
    if unnamed is not None:
        try:
            with _opened(".", os.O_WRONLY | unnamed, place) as file:
                _write(file, record)
                # Works without privileges; without a src_dir_fd Python would call link(2), which follows nothing.
                return _link(f"/proc/self/fd/{file}", name, place, path)
        except OSError as err:
            if err.errno not in _NOT_UNNAMED:
                raise
    hidden = f".{secrets.token_hex(8)}"
    with _opened(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, place) as file:
        try:
            _write(file, record)
            return _link(hidden, name, place, path)
        except OSError as err:
            if err.errno not in _NO_HARD_LINKS:
                raise
            raise StoreUnavailable(
                f"cannot save {path}: {err.strerror}: this file system has no hard links, and without them a"
                " record could be seen half-written: use another one, or sqlite://"
            ) from err
        finally:
            with suppress(OSError):  # the outcome is decided, and nobody reads a hidden name
                os.unlink(hidden, dir_fd=place)


def _link(source: str, name: str, place: int, path: str) -> bool:
    try:
        os.link(source, name, src_dir_fd=place, dst_dir_fd=place, follow_symlinks=True)
    except FileExistsError:
        return False
    except OSError as err:
        if err.errno in _UNDECIDED:
            raise _unavailable("link", path, err, maybe_saved=True) from err
        raise
    return True


def _write(file: int, record: bytes) -> None:
    rest = memoryview(record)
    while rest:
        rest = rest[os.write(file, rest) :]
    _flush(file)


def _flush(file: int) -> None:
    full: int | None = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(file)
    else:  # on macOS fsync stops at the drive's own cache
        fcntl.fcntl(file, full)


def _read(path: str, first: int | None = None) -> bytes | None:
    try:
        # Non-blocking: the kernel makes whoever opens a named pipe wait for its other end. Files do not mind, but for
        # one on which another program holds a lease, as a file server may: it is unavailable for that moment.
        with _opened(path, os.O_RDONLY | os.O_NONBLOCK) as opened, os.fdopen(opened, "rb", closefd=False) as file:
            if not file.seekable():  # known since it was opened: no system call
                raise OSError(errno.ESPIPE, "Not a file")
            os.set_blocking(opened, True)  # or where a file system minds, what is not there yet would read as absent
            return file.read(first)
    except FileNotFoundError:
        return None


def _names(directory: str) -> list[str]:
    """What is in a directory, in no order; nothing where there is no directory."""
    try:
        return os.listdir(directory)  # noqa: PTH208 - a Path for each of thousands of names takes longer than the rest
    except FileNotFoundError:
        return []


def _steps(names: Iterable[str]) -> Iterator[int]:
    """The steps of the records among these names."""
    return (int(match[1]) for match in map(_RECORD.fullmatch, names) if match)


def _highest(names: list[str]) -> int | None:
    """The highest of the steps; their names are ordered as they are."""
    last = max(names, default="")
    return int(last[:16]) if _RECORD.fullmatch(last) else max(_steps(names), default=None)


def _directories(directory: str) -> Iterator[str]:
    """The names of the directories in a directory, as they come; none where there is no directory."""
    try:
        entries = os.scandir(directory)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            if is_directory(entry):
                yield entry.name


def is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or leads to one; a link that leads in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _ids(directory: str) -> Iterator[str]:
    return (part for part in map(id_from_storage_name, _directories(directory)) if part is not None)


def _file_name(step: int) -> str:
    return f"{step:016d}.ckpt"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


@contextmanager
def _opened(path: str, flags: int, directory: int | None = None) -> Generator[int]:
    opened = os.open(path, flags, 0o600, dir_fd=directory)
    try:
        yield opened
    finally:
        with suppress(OSError):  # what was flushed is on the disk, whatever close says
            os.close(opened)


@contextmanager
def _translate(doing: str, path: str, *, maybe_saved: bool = False) -> Generator[None]:
    """Turns every refusal of the operating system into StoreUnavailable."""
    try:
        yield
    except OSError as err:
        below = str(err.filename or "")
        raise _unavailable(doing, below if below.startswith(path) else path, err, maybe_saved=maybe_saved) from err


def _unavailable(doing: str, path: str, err: OSError, *, maybe_saved: bool) -> StoreUnavailable:
    """What was refused, where and why, in one line, with what helps."""
    advice = f" ({_ADVICE[err.errno]})" if err.errno in _ADVICE else ""
    return StoreUnavailable(f"cannot {doing} {path}: {err.strerror or err}{advice}", maybe_saved=maybe_saved)
