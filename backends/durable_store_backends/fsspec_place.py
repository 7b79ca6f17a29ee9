"""The way from a URL to a place on a file system of fsspec, and what makes sure that it is one."""

import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from durable_store.backend import no_backend
from durable_store.errors import InvalidURL
from durable_store_backends.fsspec_errors import NoBucket, NotS3, in_one_line, is_forbidden, nearest

# Neither it nor what it gives has types: Any begins here.
_fsspec: Any = import_module("fsspec")

_S3, _GOOGLE, _AZURE = {"s3", "s3a"}, {"gs", "gcs"}, {"az", "abfs", "abfss"}
_OBJECT_STORES = _S3 | _GOOGLE | _AZURE
_CREATES = {"memory", *_OBJECT_STORES}
_UNORDERED = ("--x-s3", "--xa-s3")  # how the names of S3's directory buckets end

_A_CACHE = "a cache gives what was pruned or replaced since: name the file system behind it"
_ANOTHER = "it stands for another file system: name that one"
_NO_FILES = "its files cannot be saved and removed one by one"
_NAMES_CHANGE = "its server undoes the %xx in names, so that keys are not found again"
_REFUSED = {
    "ftp": "fsspec takes every error of an FTP server for a missing file, and a step would be replaced: use sftp://",
    **dict.fromkeys(("http", "https", "jlab", "jupyter"), _NAMES_CHANGE),
    **dict.fromkeys(("simplecache", "filecache", "blockcache", "cached"), _A_CACHE),
    **dict.fromkeys(("dir", "generic", "async_wrapper", "asyncwrapper"), _ANOTHER),
    **dict.fromkeys(("zip", "tar", "libarchive", "reference", "data", "dask"), _NO_FILES),
    **dict.fromkeys(("git", "github", "gist", "dvc"), _NO_FILES),
}

_NOT_PLAIN = re.compile(r"[?#\\\x00-\x1f\x7f\ufffd]|//|(?:^|/)\.\.?(?:/|$)")
_OURS = {"asynchronous", "loop", "skip_instance_cache", "use_listings_cache", "global_store"}
# Seconds until a host that does not answer is unreachable: paramiko has no limit of its own.
_DEFAULTS: dict[str, dict[str, Any]] = {"sftp": {"timeout": 20}, "ssh": {"timeout": 20}}


class Place(NamedTuple):
    """Where a URL points: the class of a file system, what to make one with, and a path in it.

    Attributes:
        names: the options that are known; there may be more, which the file system hands on.
    """

    kind: Any
    protocol: str
    root: str
    options: dict[str, Any]
    names: set[str]

    @property
    def creates(self) -> bool:
        """Whether a file can be created there only if it is absent, in one move."""
        return self.protocol in _CREATES

    @property
    def is_flat(self) -> bool:
        """Whether directories are but parts of names there."""
        return self.protocol in _OBJECT_STORES

    @property
    def is_ordered(self) -> bool:
        """Whether the service promises its listings in the order of names."""
        return self.is_flat and not self.root.partition("/")[0].endswith(_UNORDERED)


def place_of(url: str, options: dict[str, Any]) -> Place:
    """The place that a URL without a query names. Connects to nothing.

    Raises:
        InvalidURL: fsspec does not know the scheme, or needs another library for it; one that cannot keep a store; a
            path that not every file system would take as it stands; options that this one has not.
    """
    split = urlsplit(url)
    scheme, protocol = split.scheme, split.scheme.removesuffix("+fsspec")
    if protocol in _REFUSED:
        raise InvalidURL(f"{scheme}:// cannot keep a store, not with fencing=off either: {_REFUSED[protocol]}")
    kind = _kind(scheme, protocol)
    path = unquote(split.path)
    if split.query or split.fragment or "@" in split.netloc or _NOT_PLAIN.search(path):
        raise InvalidURL(f"the path of a {scheme}:// store has no ? # \\ in it, no // and no . or .. as a part")
    names = _check_options(scheme, protocol, kind, options)
    plain = f"{protocol}://{split.netloc}{path}"
    try:
        root: str = kind._strip_protocol(plain).rstrip("/")  # noqa: SLF001 - how fsspec takes a URL apart
        of_url: dict[str, Any] = kind._get_kwargs_from_urls(plain)  # noqa: SLF001
        given = {**_DEFAULTS.get(protocol, {}), **of_url, **options}
        inspect.signature(kind.__init__).bind(kind, **given)
    except (TypeError, ValueError) as err:
        raise InvalidURL(f"{scheme}:// cannot be opened like this: {in_one_line(err)}") from err
    if not (root or protocol == "memory") or (protocol in _OBJECT_STORES and not split.netloc):
        raise InvalidURL(f"{scheme}:// needs a place: {scheme}://bucket/prefix, or {scheme}://host/directory")
    if kind.async_impl:
        given["use_listings_cache"] = False
    return Place(kind, protocol, root, given, names)


def is_there(place: Place, ask: Callable[..., Any]) -> bool:
    """Whether the place is there, and with object stores its bucket, for good; False: it is to be made yet.

    Who may not ask is not told. Otherwise `ask` raises what it raises.

    Raises:
        NoBucket: the bucket is missing.
        NotADirectoryError: a file is in its place, or in the place of a parent.
        NotS3: some other server answers.
    """
    bucket = place.root.partition("/")[0]
    try:
        if place.protocol in _S3:
            _refuse_other_servers(place, ask)
        elif place.protocol in _GOOGLE:
            ask("ls", bucket, max_results=1)
        elif place.protocol in _AZURE:
            ask("info", bucket)
        else:
            return nearest_directory(place.root, ask) == place.root
    except FileNotFoundError as err:
        raise NoBucket(in_one_line(err)) from err
    except Exception as err:
        if not is_forbidden(err):
            raise
    return True


def nearest_directory(path: str, ask: Callable[..., Any]) -> str:
    """The path itself if it is there, else the nearest of its parents that is. Raises NotADirectoryError of a file."""
    for part in parts(path):
        try:
            kind = ask("info", part)["type"]
        except FileNotFoundError:
            continue
        if kind == "file":
            raise NotADirectoryError(f"{part} is a file")
        return part
    return ""


def _refuse_other_servers(place: Place, ask: Callable[..., Any]) -> None:
    bucket, prefix, _ = ask("split_path", place.root)
    found = ask("call_s3", "list_objects_v2", Bucket=bucket, Prefix=prefix and f"{prefix}/", MaxKeys=1)
    if found.keys().isdisjoint(("KeyCount", "IsTruncated")):
        raise NotS3("this is no answer of S3: it lacks KeyCount")


def parts(path: str) -> Iterator[str]:
    """A path, and all its parents that have a name."""
    while path.strip("/"):
        yield path
        path = path.rpartition("/")[0]


def _kind(scheme: str, protocol: str) -> Any:
    try:
        return _fsspec.get_filesystem_class(protocol)
    except ValueError as err:
        raise no_backend(scheme) from err
    except ImportError as err:
        module, hint = getattr(err.__cause__, "name", None) or "another module", in_one_line(err)
        raise InvalidURL(f"{scheme}:// needs {module}: {f'pip install {module}' if module in hint else hint}") from err


def _check_options(scheme: str, protocol: str, kind: Any, options: dict[str, Any]) -> set[str]:
    """The names of the options that the file system is known to have; raises InvalidURL for others.

    Many file systems take any option, and hand those on that they do not know: then only a name that is nearly one of
    theirs is refused.
    """
    parameters = inspect.signature(kind.__init__).parameters.values()
    own = {each.name for each in list(parameters)[1:] if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    if protocol == "memory":  # all its stores are one dict, and are fenced by one connection: see Connection
        own, takes_any = set[str](), False
    names = {"fencing", *own, *_DEFAULTS.get(protocol, {})} - _OURS
    for name in options:
        if name in _OURS:
            raise InvalidURL(f"{scheme}:// has no option {name!r}: durable_store sets it")
        hint = nearest(name, names)
        if name not in names and (hint or not takes_any):
            known = f"the options are {', '.join(sorted(names))}"
            raise InvalidURL(f"{scheme}:// has no option {name!r}; {hint or known}")
    return names
