"""Where records live: the protocol of a backend, and the way from a URL to one.

The whole library rests on one primitive that every backend has: *create the record at (key, step) unless one is
there*. To write a backend, copy `durable_store_backends/memory.py`, name the class in an entry point of the group
`durable_store.backends`, and inherit the classes of `durable_store_conformance` in your tests.

The class that an entry point names has one thing more than the protocol:
`from_url(cls, url: SplitResult, **options: str)`, which makes the backend that a URL names and connects to nothing. It
names its options as keyword-only parameters, and raises InvalidURL for a part of the URL that has no meaning to it and
for an ill-typed option. Whatever else it raises, or that it is not there, becomes an InvalidURL that names the entry
point.
"""

import inspect
import os
import re
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import orjson

from durable_store.errors import DurableStoreError, InvalidURL, shown
from durable_store.key import CheckpointKey

if TYPE_CHECKING:
    from urllib.parse import SplitResult

ENTRY_POINTS = "durable_store.backends"
_FALLBACK = "fsspec"  # the entry point that takes every scheme without one of its own
_OUR_OWN = "durable_store_backends."  # their libraries are extras of this package; nobody else's are
# As in pyproject.toml. To look there takes most of the time that opening a store takes: 20 ms and more, the more is
# installed. So nobody else can take these schemes either.
_OURS = {
    "file": "durable_store_backends.files:FileBackend",
    "memory": "durable_store_backends.memory:MemoryBackend",
    "s3": "durable_store_backends.s3:S3Backend",
    "sqlite": "durable_store_backends.sqlite:SqliteBackend",
}


class Backend(Protocol):
    """Keeps records: bytes that it never looks into, each under a key and a step.

    Safe to share among threads, and safe after `fork()`. Storage that is unreachable, refused, full or closed is
    `StoreUnavailable` with the cause chained; nothing else leaks out. Reads create nothing: no file, table, bucket
    or directory. Keys and steps are valid when they get here.

    Where the storage cannot create a record only if it is absent, a backend may be used all the same if the user asks
    for it; it then says so in its `repr` and has an attribute `fencing` that is False.
    """

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        """Creates the record at (key, step) unless one is there, and returns the record that is there.

        So `returned == record` means that it is ours. Atomic among threads, processes and machines: of any number of
        racers one wins. When it returns, the record survives SIGKILL and power loss. A reader sees all of it or none.

        Raises:
            CheckpointConflict: the step was taken, and its owner has pruned it before it could be read back.
            StoreUnavailable: with `maybe_saved` when the record may be there, or may still appear.
        """
        ...

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        """The highest step and its record, or None when the key has none.

        Read-after-write, also across processes. Never decided by time stamps, nor by the order of a listing that the
        service does not promise.
        """
        ...

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        """Removes these steps, in the order given; those that are not there are no error.

        `latest` never shows another order, though a service may remove several at once and in any order when the newest
        is not among them. Never visible as a half-removed record. What could not be removed is raised, never swallowed.
        """
        ...

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        """One record, or None. With `first`, at least that many of its leading bytes; returning all is allowed."""
        ...

    def steps(self, key: CheckpointKey) -> list[int]:
        """The steps that are there now, newest first."""
        ...

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        """The keys that have records now, of one goal or of all; streamed, each once, in no promised order."""
        ...

    def close(self) -> None:
        """Lets go of connections and handles; after it every verb is StoreUnavailable. Closing twice is fine."""
        ...


_IN_SCHEME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-")
# Patterns as text, compiled where they are needed: that takes longer than all else in opening a store.
_NEARLY_A_URL = r"([A-Za-z][A-Za-z0-9+.-]+):"
# A user or token before the host; or a password, which may itself hold / ? #, so that no parser would find its end.
_USER = r"(?:^|:)//(?:[^/?#]*@|[^/@][^@]*:[^@]*@)"
_CREDENTIAL = (
    r"(?i)pass(?:word|wd|phrase)?$|pwd$|secret|token|credential|signature|conn(?:ection)?_str"
    r"|^key$|(?:api|access|account|private|shared)_?key(?:_id)?$"
)


def open_backend(url: str) -> Backend:
    """The backend that a URL or a plain path names. Connects to nothing.

    Raises:
        InvalidURL: credentials in the URL, no installed backend for the scheme, an unknown or ill-typed option.
    """
    _refuse_credentials(url)
    split = _split(url)
    if split.fragment or (url.endswith("#") and _is_url(url)):
        raise InvalidURL(f"a {split.scheme}:// store URL has no #fragment; in a path write %23 for #")
    entry_point = _entry_point_of(split.scheme)
    with _works(entry_point, split.scheme):
        from_url: Callable[..., Backend] = entry_point.load().from_url
        options = _options(split, from_url)
        with _usable_path():
            return from_url(split, **options)


def _is_url(text: str) -> bool:
    scheme, found, _ = text.partition("://")
    return bool(found) and scheme[:1].isalpha() and _IN_SCHEME.issuperset(scheme)


def _split(url: str) -> "SplitResult":
    from urllib import parse  # noqa: PLC0415 - a sixth of this package's import time

    if not isinstance(url, str) or not url.strip():
        what = shown(url) if isinstance(url, str) else type(url).__name__  # bytes might hold a password
        raise InvalidURL(f"a store URL is a non-empty string like sqlite:///runs.db, not {what}")
    if "\0" in url:
        raise InvalidURL("a store URL holds no NUL character")
    if _is_url(url):
        try:
            return parse.urlsplit(url)
        except ValueError:  # its message quotes the host
            raise InvalidURL("not a URL: its host cannot be read") from None
    if "://" in url and not url.startswith((".", "/", "~")):
        raise InvalidURL("a store URL begins with its scheme, as in sqlite:///runs.db; before a path write ./")
    nearly = re.match(_NEARLY_A_URL, url)
    if nearly:
        raise InvalidURL(
            f"{nearly[1]}: is followed by // in a URL, as in sqlite:///runs.db; before a path of that name write ./"
        )
    if url.endswith((".db", ".sqlite", ".sqlite3")):
        raise InvalidURL(
            f"{url} looks like a SQLite database: write sqlite:///{url} for one,"
            " or file:///absolute/path for a directory of that name"
        )
    # Quoted, because a backend undoes the %xx of a URL's path: in a plain path they stand for themselves.
    with _usable_path():
        path = os.path.abspath(os.path.expanduser(url))  # noqa: PTH100, PTH111 - Path keeps `..`, raises for ~nobody
        return parse.SplitResult("file", "", parse.quote(os.fsencode(path)), "", "")


@contextmanager
def _usable_path() -> Generator[None]:
    try:
        yield
    except (OSError, UnicodeError) as err:  # the current directory was removed; a name that no file can have
        raise InvalidURL(f"the path cannot be used: {err}") from err


def _refuse_credentials(url: str) -> None:
    """Before anything else looks at the URL. No message shows a part of it: that would leak what is refused."""
    advice = "URLs end up in logs: use the service's own configuration or environment"
    if not isinstance(url, str):
        return
    if "@" in url and re.search(_USER, url):
        raise InvalidURL(f"the store URL carries a user or a password; {advice} (in a path write %40 for @)")
    from urllib import parse  # noqa: PLC0415 - a sixth of this package's import time

    query = url.partition("?")[2] if _is_url(url) else ""
    for separated in (query, query.replace(";", "&")):
        for option, value in parse.parse_qsl(separated, keep_blank_values=True):
            names, texts = _inside(option_value(value))
            where = f"in its option {option!r}" if re.fullmatch(r"[\w.-]+", option) else "in its options"
            if any(re.search(_CREDENTIAL, name) for name in (option, *names)):
                raise InvalidURL(f"the store URL carries a secret {where}; {advice}")
            if any(re.search(_USER, text) for text in texts):
                raise InvalidURL(f"the store URL carries a user or a password {where}; {advice}")


def option_value(text: str) -> Any:
    """An option's value as JSON if it is that, else as text: for backends that hand options on to another library."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _inside(value: Any) -> tuple[list[str], list[str]]:
    """The names and the texts in a value of JSON, at any depth."""
    names: list[str] = []
    texts: list[str] = []
    rest = [value]
    while rest:
        each = rest.pop()
        if type(each) is dict:
            names += each
            rest += each.values()
        elif type(each) is list:
            rest += each
        elif type(each) is str:
            texts.append(each)
    return names, texts


class _EntryPoint(NamedTuple):
    """Where a package has a backend's class."""

    name: str
    value: str

    def load(self) -> Any:
        """The class."""
        module, _, name = self.value.partition(":")
        return getattr(import_module(module), name)


def _entry_point_of(scheme: str) -> _EntryPoint:
    if scheme in _OURS:
        return _EntryPoint(scheme, _OURS[scheme])
    from importlib.metadata import entry_points  # noqa: PLC0415 - twice the import time of all of this package

    found = entry_points(group=ENTRY_POINTS)
    name = scheme if scheme in found.names else _FALLBACK
    if name not in found.names:
        raise no_backend(scheme)
    return _EntryPoint(name, found[name].value)


@contextmanager
def _works(entry_point: _EntryPoint, scheme: str) -> Generator[None]:
    """Whatever is wrong with somebody's class is told by the name under which they have installed it."""
    told = f"the entry point {entry_point.name} = {entry_point.value} of the group {ENTRY_POINTS}"
    try:
        yield
    except DurableStoreError:
        raise
    except ModuleNotFoundError as err:
        if entry_point.name == _FALLBACK:
            raise no_backend(scheme) from err
        if entry_point.value.startswith(_OUR_OWN):
            raise InvalidURL(f"{scheme}:// needs the module {err.name}: pip install 'durable-store[{scheme}]'") from err
        raise InvalidURL(f"{scheme}:// needs the module {err.name}, which is not installed: {told} imports it") from err
    except Exception as err:
        why = " ".join(f"{type(err).__name__}: {err}".split())
        raise InvalidURL(f"{scheme}:// cannot be opened: {told} fails with {why}") from err


def no_backend(scheme: str) -> InvalidURL:
    """What a scheme is told that nobody knows: for a backend that stands in for all schemes without one."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - twice the import time of all of this package

    names = sorted(entry_points(group=ENTRY_POINTS).names - {_FALLBACK})
    return InvalidURL(
        f"no backend for {scheme}://; installed are {', '.join(f'{name}://' for name in names) or 'none'}"
        " (others come in a package of their own, or with fsspec: pip install 'durable-store[fsspec]')"
    )


def _options(url: "SplitResult", from_url: Callable[..., Backend]) -> dict[str, str]:
    """The options in the URL's query, each known to the backend and named once."""
    if not url.query:
        return {}
    from urllib import parse  # noqa: PLC0415 - a sixth of this package's import time

    parameters = inspect.signature(from_url).parameters.values()
    valid = sorted(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    options: dict[str, str] = {}
    for name, value in parse.parse_qsl(url.query, keep_blank_values=True):
        if name not in valid and not takes_any:
            known = f"the options are {', '.join(valid)}" if valid else "it has none"
            raise InvalidURL(f"{url.scheme}:// has no option {name!r}; {known}")
        if name in options:
            raise InvalidURL(f"option {name!r} stands twice in the {url.scheme}:// URL")
        options[name] = value
    return options
