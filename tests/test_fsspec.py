"""Where fsspec's file systems differ from what a store needs: refused, worked around, or told."""

import errno
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pytest
import trustme

from durable_store import CheckpointConflict, CheckpointKey, InvalidURL, StoreUnavailable, open_store
from durable_store.backend import Backend, open_backend
from durable_store.key import object_name
from durable_store_backends.fsspec import FsspecBackend
from durable_store_backends.fsspec_connection import Connection
from durable_store_conformance.work import content, in_threads, race
from tests.fault_proxy import Answer, AnswerAfter, CutRequest, Fault, FaultProxy, LostAnswer, Meeting, Strip
from tests.servers import Server, free_ports
from tests.sftp import SftpServer, make_key

KEY = CheckpointKey("goal", 0, "agent-0")
ONCE = 'config_kwargs={"retries":{"total_max_attempts":1}}'  # each request
MANY = [CheckpointKey("goal", 0, name) for name in ("a", "b", "c")]
RECORD = content("record", 100)

_registry: Any = import_module("fsspec.registry")
_memory: Any = import_module("fsspec.implementations.memory").MemoryFileSystem


class Remote(_memory):  # type: ignore[misc]
    """A dict in the place of a remote file system: the test says what becomes of a write there."""

    made: ClassVar[list[dict[str, Any]]]
    asked: ClassVar[list[str]]
    write: ClassVar[Callable[[Callable[..., None], str, bytes, str], None]]

    def __init__(self, **options: Any) -> None:
        _memory.__init__(self)
        self.made.append(options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.partition("://")[2] or path

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite") -> None:
        def put(path: str, value: bytes, mode: str = "overwrite") -> None:
            _memory.pipe_file(self, path, value, mode)

        type(self).write(put, path, value, mode)

    def ls(self, path: str, **options: Any) -> Any:
        self.asked.append(path)
        if path == "no-bucket":
            raise FileNotFoundError(path)
        return [] if path == "bucket" else _memory.ls(self, path, **options)


def as_told(write: Callable[..., None], path: str, value: bytes, mode: str) -> None:
    write(path, value, mode)


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> type[Remote]:
    """In the place of gs://, known to create atomically, and of mine://, not known to."""
    nothing: dict[str, Any] = {"store": {}, "pseudo_dirs": [""], "made": [], "asked": []}
    kind = type("Mine", (Remote,), {**nothing, "write": staticmethod(as_told)})
    for protocol in ("gs", "mine"):
        monkeypatch.setitem(_registry._registry, protocol, kind)
    return kind


@pytest.fixture
def url() -> str:
    """Of a place that no test has used: what was found out about a place is known as long as the process lives."""
    return f"gs://bucket/{uuid4().hex}"


class ServiceError(Exception):
    """As botocore has them."""

    def __init__(self, code: str) -> None:
        super().__init__(f"An error occurred ({code})")
        self.response = {"Error": {"Code": code}}


def steps_at(remote: type[Remote]) -> list[str]:
    """What is really there."""
    return [name.rpartition("-")[2] for name in remote.store]


# What is asked for


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("sftp://host/dir", "two writers can both win it; for one writer at a time say fencing=off"),
        ("file+fsspec:///dir", "file+fsspec:// cannot fence"),
        ("sftp://host/dir?fencing=on", "cannot fence"),
        ("sftp://host/dir?fencing=no", "fencing is on or off, not 'no'"),
        ("gs://bucket/x", "gs:// needs gcsfs: pip install gcsfs"),
        ("az://container/x", "az:// needs adlfs: pip install adlfs"),
        ("smb://host/share/x", 'SMB requires "smbprotocol"'),
        ("sqlit:///runs.db", "no backend for sqlit://; installed are file://, memory://, s3://, sqlite:// ("),
        ("nothing+fsspec://x", "no backend for nothing+fsspec://; installed are"),
        ("fsspec://x", "no backend for fsspec://; installed are"),
        ("sftp:///dir?fencing=off", "missing a required argument: 'host'"),
        ("sftp://host?fencing=off", "needs a place"),
        ("sftp://host:99999/dir?fencing=off", "Port out of range"),
        ("s3+fsspec://", "needs a place"),
        ("s3+fsspec:///bucket", "needs a place"),
        ("s3+fsspec://bucket/a/../b", "no . or .."),
        ("s3+fsspec://bucket//a", "no //"),
        ("s3+fsspec://bucket/a%3Fb", "no ? #"),
        ("s3+fsspec://bucket/%ff", "no ? #"),
        ("s3+fsspec://bucket?use_listings_cache=true", "'use_listings_cache': durable_store sets it"),
        ("s3+fsspec://bucket?asynchronous=true", "'asynchronous': durable_store sets it"),
    ],
)
def test_what_cannot_be_opened_is_told_why_before_anything_is_connected(url: str, hint: str) -> None:
    with pytest.raises(InvalidURL) as caught:
        open_store(url)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schemes", "reason"),
    [
        ("ftp", "every error of an FTP server for a missing file"),
        ("http https jlab jupyter", "its server undoes the %xx in names"),
        ("simplecache filecache blockcache cached", "a cache gives what was pruned"),
        ("dir generic async_wrapper asyncwrapper", "it stands for another file system: name that one"),
        ("zip tar libarchive reference data dask git github gist dvc", "cannot be saved and removed one by one"),
    ],
)
def test_a_file_system_that_could_not_even_keep_one_writer_s_records_is_refused_always(
    schemes: str, reason: str
) -> None:
    for scheme in schemes.split():
        assert scheme in _registry.known_implementations, "fsspec calls it something else now"
        if "_" in scheme:  # no URL can say this
            with pytest.raises(InvalidURL, match=reason):
                FsspecBackend(f"{scheme.replace('_', '')}://host/dir", fencing=False)
            continue
        for url in (f"{scheme}://host/dir", f"{scheme}+fsspec://host/dir?fencing=off"):
            with pytest.raises(InvalidURL, match=f"not with fencing=off either: .*{reason}"):
                open_store(url)


def test_an_option_that_a_file_system_has_not_is_refused_where_it_says_which_it_has(
    remote: type[Remote], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strict(self: Remote, timeout: int = 5) -> None:
        raise AssertionError(f"connects with {self} and {timeout}")

    monkeypatch.setattr(remote, "__init__", strict)
    open_store(f"{url}?timeout=6").close()
    with pytest.raises(InvalidURL, match=r"gs:// has no option 'timeuot'; did you mean timeout\?"):
        open_store(f"{url}?timeuot=6")
    with pytest.raises(InvalidURL, match="gs:// has no option 'port'; the options are fencing, timeout"):
        open_store(f"{url}?port=6")


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("memory+fsspec://name?fencng=off", "no option 'fencng'; did you mean fencing?"),
        ("memory+fsspec://name?a=1", "no option 'a'; the options are fencing"),
        ("s3+fsspec://bucket?fencng=off", "no option 'fencng'; did you mean fencing?"),
        ("s3+fsspec://bucket?endpont_url=http://127.0.0.1", "no option 'endpont_url'; did you mean endpoint_url?"),
        ("sftp://host/dir?fencing=off&timeuot=5", "no option 'timeuot'; did you mean timeout?"),
    ],
)
def test_an_option_that_is_nearly_one_is_not_taken_for_another(url: str, hint: str) -> None:
    with pytest.raises(InvalidURL) as caught:
        open_store(url)
    assert hint in str(caught.value)


def test_options_that_are_json_are_values_and_all_others_are_text(remote: type[Remote], url: str) -> None:
    query = 'n=22&no=false&nothing=null&name=eu-west-1&id="42"&deep={"a":[1,"b"]}&not={a}&nan=NaN&timeout=1e3'
    backend = open_backend(f"{url}?{query}")
    assert remote.made == [], "it was made before the first verb"
    assert backend.steps(KEY) == []
    assert remote.made == [
        {
            "n": 22,
            "no": False,
            "nothing": None,
            "name": "eu-west-1",
            "id": "42",
            "deep": {"a": [1, "b"]},
            "not": "{a}",
            "nan": "NaN",
            "timeout": 1000.0,
        }
    ]


def test_a_backend_can_be_made_with_options_as_they_are(remote: type[Remote], url: str) -> None:
    backend = FsspecBackend(f"{url}/with%20space/", {"n": 22, "password": "hunter2"})
    assert backend.save(KEY, 0, RECORD) == RECORD
    assert remote.made == [{"n": 22, "password": "hunter2"}]
    assert repr(backend) == f"FsspecBackend('{url}/with%20space')"
    assert all("/with space/goal/000000000/agent-0/" in name for name in remote.store)
    for wrong in (f"{url}?n=22", f"{url}#x", "gs://user:hunter2@bucket"):
        with pytest.raises(InvalidURL) as caught:
            FsspecBackend(wrong)
        assert "hunter2" not in str(caught.value)


def test_repr_says_that_fencing_is_off() -> None:
    off, on = open_backend("file+fsspec:///dir?fencing=off"), open_backend("memory+fsspec://name")
    assert (repr(off), off.fencing) == ("FsspecBackend('file+fsspec:///dir', fencing off)", False)  # type: ignore[attr-defined]
    assert (repr(on), on.fencing) == ("FsspecBackend('memory+fsspec://name')", True)  # type: ignore[attr-defined]
    assert repr(open_store("s3+fsspec://bucket?fencing=off")).endswith(", fencing off))")


# A step is created only if it is absent


def replaces(write: Callable[..., None], path: str, value: bytes, _mode: str) -> None:
    write(path, value, "overwrite")


def always_replaces(write: Callable[..., None], path: str, value: bytes, mode: str) -> None:
    if mode == "create":
        raise NotImplementedError("Only mode overwrite is available")
    write(path, value)


def has_no_condition(write: Callable[..., None], path: str, value: bytes, mode: str) -> None:
    if mode == "create":
        raise OSError(errno.ENOSYS, "A header you provided implies functionality that is not implemented") from (
            ServiceError("NotImplemented")
        )
    write(path, value)


@pytest.mark.parametrize("service", [replaces, always_replaces, has_no_condition])
def test_a_service_that_does_not_keep_the_first_is_refused_at_the_first_save(
    remote: type[Remote], url: str, service: Callable[..., None]
) -> None:
    remote.write = staticmethod(service)
    backend = open_backend(url)
    assert backend.latest(KEY) is None
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"two writers could win .* say fencing=off") as caught:
            backend.save(KEY, 0, RECORD)
        assert not caught.value.maybe_saved
        assert remote.store == {}
    assert open_backend(f"{url}?fencing=off").save(KEY, 0, RECORD) == RECORD
    assert steps_at(remote) == ["0"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failure_of_the_probe_is_not_mistaken_for_a_service_without_conditions(
    remote: type[Remote], url: str, failing: int
) -> None:
    writes: list[str] = []

    def busy(write: Callable[..., None], path: str, value: bytes, mode: str) -> None:
        writes.append(path)
        if len(writes) == failing:
            if failing == 1:  # the answer is lost, else the request
                write(path, value)
            raise OSError(errno.EBUSY, "Please reduce your request rate.")
        write(path, value, mode)

    remote.write = staticmethod(busy)
    backend = open_backend(url)
    with pytest.raises(StoreUnavailable, match="reduce your request rate") as caught:
        backend.save(KEY, 0, RECORD)
    assert "fencing=off" not in str(caught.value)
    assert not caught.value.maybe_saved
    assert remote.store == {}, "the probe left something behind"
    assert backend.save(KEY, 0, RECORD) == RECORD


def test_a_place_is_probed_once_in_a_process_and_nothing_is_left(remote: type[Remote], url: str) -> None:
    paths: list[str] = []

    def note(write: Callable[..., None], path: str, value: bytes, mode: str) -> None:
        paths.append(path)
        write(path, value, mode)

    remote.write = staticmethod(note)
    for step in range(3):
        assert open_backend(url).save(KEY, step, RECORD) == RECORD
    assert sum("probe" in path for path in paths) == 2
    assert len(paths) == 5
    open_backend(f"{url}/elsewhere").save(KEY, 0, RECORD)
    assert len(paths) == 8
    assert sorted(steps_at(remote)) == ["0", "0", "1", "2"]


def after_the_probe(remote: type[Remote], url: str, service: Callable[..., None]) -> FsspecBackend:
    backend = FsspecBackend(url)
    backend.save(CheckpointKey("other", 0, "agent-0"), 0, b"")
    remote.store.clear()
    remote.write = staticmethod(service)
    return backend


_FAILURES = {
    "lost": lambda: TimeoutError("Read timeout"),
    "EINVAL, as s3fs has it": lambda: OSError(errno.EINVAL, "At least one of the pre-conditions did not hold"),
    "taken": FileExistsError,
}


@pytest.mark.parametrize("failure", _FAILURES.values(), ids=_FAILURES.keys())
@pytest.mark.parametrize("there", [RECORD, b"another's"], ids=["ours", "another's"])
def test_whatever_a_create_says_what_is_there_decides(
    remote: type[Remote], url: str, failure: Callable[[], Exception], there: bytes
) -> None:
    def fails(write: Callable[..., None], path: str, _value: bytes, _mode: str) -> None:
        write(path, there)
        raise failure()

    assert after_the_probe(remote, url, fails).save(KEY, 0, RECORD) == there


@pytest.mark.parametrize("code", ["", "PreconditionFailed", "412"])
def test_taken_and_gone_is_a_conflict(remote: type[Remote], url: str, code: str) -> None:
    def taken(_write: Callable[..., None], _path: str, _value: bytes, _mode: str) -> None:
        if not code:
            raise FileExistsError
        raise OSError(errno.EINVAL, "At least one of the pre-conditions did not hold") from ServiceError(code)

    backend = after_the_probe(remote, url, taken)
    with pytest.raises(CheckpointConflict, match="goal/0/agent-0 step 7 was taken, and its owner has pruned it"):
        backend.save(KEY, 7, RECORD)


def test_a_save_whose_outcome_is_unknown_says_so(remote: type[Remote], url: str) -> None:
    sent: list[bytes] = []

    def lost(_write: Callable[..., None], _path: str, value: bytes, _mode: str) -> None:
        sent.append(value)
        raise TimeoutError("Read timeout")

    backend = after_the_probe(remote, url, lost)
    with pytest.raises(StoreUnavailable, match=r"cannot save gs://bucket/.*: Read timeout") as caught:
        backend.save(KEY, 0, RECORD)
    assert caught.value.maybe_saved
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert sent == [RECORD]


def test_undecided_is_tried_again_with_the_same_bytes(remote: type[Remote], url: str) -> None:
    sent: list[bytes] = []

    def undecided(write: Callable[..., None], path: str, value: bytes, mode: str) -> None:
        sent.append(value)
        if len(sent) < 4:
            raise OSError(errno.EIO, "Conflict") from ServiceError("ConditionalRequestConflict")
        write(path, value, mode)

    assert after_the_probe(remote, url, undecided).save(KEY, 0, RECORD) == RECORD
    assert sent == [RECORD] * 4


def test_waits_while_it_is_undecided_are_random_and_grow_and_end(
    remote: type[Remote], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undecided(_write: Callable[..., None], _path: str, _value: bytes, _mode: str) -> None:
        raise OSError(errno.EIO, "Conflict") from ServiceError("ConditionalRequestConflict")

    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    backend = after_the_probe(remote, url, undecided)
    for _ in range(50):
        with pytest.raises(StoreUnavailable, match="Conflict") as caught:
            backend.save(KEY, 0, RECORD)
        assert caught.value.maybe_saved
    assert len(waits) == 50 * 5
    longest = [max(waits[attempt::5]) for attempt in range(5)]
    assert all(0.1 * 2**attempt < wait <= 0.2 * 2**attempt for attempt, wait in enumerate(longest))
    assert len(set(waits)) > 200


def test_a_file_in_the_way_is_neither_a_conflict_nor_a_service_without_conditions() -> None:
    """Memory says of it too that the name is taken."""
    name = uuid4().hex
    backend = open_backend(f"memory+fsspec://{name}/store")
    _memory().pipe_file(f"/{name}", b"a file in the place of a parent")
    for verb in verbs_of(backend):
        with pytest.raises(StoreUnavailable, match=rf"/{name} is a file .a file is in the way: move it") as caught:
            verb()
        assert not caught.value.maybe_saved
    _memory().rm(f"/{name}")
    assert backend.save(KEY, 0, RECORD) == RECORD
    _memory().pipe_file(f"/{name}/store/other", b"a file in the place of a goal")
    with pytest.raises(StoreUnavailable, match=r"/store/other is a file .a file is in the way: move it") as caught:
        backend.save(CheckpointKey("other", 0, "agent-0"), 0, RECORD)
    assert not caught.value.maybe_saved


def verbs_of(backend: Backend) -> list[Callable[[], object]]:
    return [
        lambda: backend.latest(KEY),
        lambda: backend.load(KEY, 0),
        lambda: backend.load(KEY, 0, first=10),
        lambda: backend.steps(KEY),
        lambda: list(backend.keys()),
        lambda: list(backend.keys("goal")),
        lambda: backend.prune(KEY, [0]),
        lambda: backend.prune(KEY, range(100)),
        lambda: backend.save(KEY, 0, RECORD),
    ]


def test_threads_with_stores_of_their_own_in_memory_are_fenced() -> None:
    """Memory looks first and writes then: what makes it one move is that all stores share a connection."""
    url = f"memory+fsspec://{uuid4().hex}"
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for key in MANY:
            outcomes = in_threads(8, lambda number, key=key: race(open_backend(url), key, f"{number}", range(100)))  # type: ignore[misc]
            for step in range(100):
                assert sum(outcome[step][1] for outcome in outcomes) == 1
                assert len({outcome[step][2] for outcome in outcomes}) == 1
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("moved", [False, True])
def test_a_move_that_fails_leaves_no_temporary_file(
    remote: type[Remote],
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    moved: bool,  # noqa: FBT001 - pytest's way
) -> None:
    def fails(self: Remote, old: str, new: str) -> None:
        if moved:
            self.store[new] = self.store.pop(old)
        raise TimeoutError("the answer is lost")

    monkeypatch.setattr(remote, "mv", fails)
    backend = open_backend(f"{url.replace('gs', 'mine', 1)}?fencing=off")
    if moved:
        assert backend.save(KEY, 0, RECORD) == RECORD
        assert steps_at(remote) == ["0"]
        return
    with pytest.raises(StoreUnavailable, match="the answer is lost") as caught:
        backend.save(KEY, 0, RECORD)
    assert caught.value.maybe_saved
    assert remote.store == {}


@pytest.mark.parametrize("others", [0, 5])
def test_directories_that_others_make_at_the_same_moment_are_no_failure(
    remote: type[Remote], url: str, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """As OpenSSH has it: no reason is given when a directory is there already. What fails for good fails at once."""
    made: set[str] = set()
    asked: list[str] = []

    def makedirs(_self: Remote, path: str, *, exist_ok: bool) -> None:
        assert exist_ok
        asked.append(path)
        missing = [part for part in parents(path) if part not in made]
        if missing and len(asked) <= others:
            made.add(missing[0])
        if missing or not others:
            raise OSError("Failure")

    def isdir(_self: Remote, path: str) -> bool:
        return path in made

    def fails_without_directory(write: Callable[..., None], path: str, value: bytes, _mode: str) -> None:
        if path.rpartition("/")[0] not in made:
            raise OSError("Failure")
        write(path, value)

    def mkdir(self: Remote, path: str, *, create_parents: bool) -> None:
        assert not create_parents
        makedirs(self, path, exist_ok=True)

    monkeypatch.setattr(remote, "mkdir", mkdir)
    monkeypatch.setattr(remote, "makedirs", makedirs)
    monkeypatch.setattr(remote, "isdir", isdir)
    remote.write = staticmethod(fails_without_directory)
    backend = open_backend(f"{url.replace('gs', 'mine', 1)}?fencing=off")
    if others:
        assert backend.save(KEY, 0, RECORD) == RECORD
        assert len(asked) == others + 1
    else:
        with pytest.raises(StoreUnavailable, match="Failure") as caught:
            backend.save(KEY, 0, RECORD)
        assert not caught.value.maybe_saved
        assert len(asked) == 3


def parents(path: str) -> list[str]:
    names = path.split("/")
    return ["/".join(names[:count]) for count in range(1, len(names) + 1)]


# s3fs on a service that does what services do


@pytest.fixture
def proxy(moto_server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(moto_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def s3fs(proxy: FaultProxy) -> Iterator[FsspecBackend]:
    """It has saved before, so that what the next test counts is not the probe."""
    backend = open_backend(f"s3+fsspec://{proxy.bucket}/{uuid4().hex}?endpoint_url={proxy.endpoint}")
    assert isinstance(backend, FsspecBackend)
    backend.save(CheckpointKey("other", 0, "agent-0"), 0, RECORD)
    proxy.forget()
    yield backend
    backend.close()


def test_s3fs_makes_one_request_for_each_save_and_read(proxy: FaultProxy, s3fs: FsspecBackend) -> None:
    asked: dict[str, Callable[[], object]] = {
        "PUT": lambda: s3fs.save(KEY, 0, content("large", 1_000_000)),
        "LIST GET": lambda: s3fs.latest(KEY),
        "GET": lambda: s3fs.load(KEY, 0),
        " GET": lambda: s3fs.load(KEY, 0, first=100),
        "GET ": lambda: s3fs.load(KEY, 1),
        "LIST": lambda: s3fs.steps(KEY),
        "DELETE": lambda: s3fs.prune(KEY, [0]),
    }
    for kinds, verb in asked.items():
        proxy.forget()
        verb()
        assert [request.kind for request in proxy.requests] == kinds.split()


def test_the_bases_of_a_delta_are_fetched_at_the_same_time(proxy: FaultProxy, s3fs: FsspecBackend) -> None:
    records = [s3fs.save(KEY, step, content(str(step), 100)) for step in range(8)]
    proxy.next("GET", *[Meeting(threading.Barrier(8))] * 8)
    assert s3fs.load_all(KEY, range(8)) == records
    assert proxy.count()["GET"] == 8
    assert s3fs.load_all(KEY, [8, 0]) == [None, records[0]]


def test_steps_are_removed_in_the_order_given_as_far_as_latest_can_show_it(
    proxy: FaultProxy, s3fs: FsspecBackend
) -> None:
    for step in range(20):
        s3fs.save(KEY, step, RECORD)
    for steps in ([5, 3, 4], [11, 19, 2], range(18)):
        there = s3fs.steps(KEY)
        proxy.forget()
        s3fs.prune(KEY, steps)
        removed = [int(request.path.rpartition("-")[2]) for request in proxy.requests if request.kind == "DELETE"]
        expected = [step for step in steps if step in there]
        assert removed == expected or (there[0] not in steps and sorted(removed) == sorted(expected))
    assert s3fs.steps(KEY) == [18]


def test_a_prune_of_many_that_fails_in_its_middle_says_so(proxy: FaultProxy, s3fs: FsspecBackend) -> None:
    for step in range(30):
        s3fs.save(KEY, step, RECORD)
    proxy.next("DELETE", None, None, None, Answer(403, "AccessDenied"))
    with pytest.raises(StoreUnavailable, match=r"cannot prune .*these credentials may not do that"):
        s3fs.prune(KEY, range(29))
    assert s3fs.latest(KEY) == (29, RECORD)
    s3fs.prune(KEY, range(29))
    assert s3fs.steps(KEY) == [29]


_LOST: dict[str, list[Fault]] = {
    "lost": [LostAnswer()],
    "lost over and over": [LostAnswer()] * 4,
    "500 after it was done": [AnswerAfter(500, "InternalError")],
    "503 after it was done": [AnswerAfter(503, "SlowDown")],
    "undecided": [Answer(409, "ConditionalRequestConflict")] * 2,
    "cut": [CutRequest()],
    "412 without the name of the condition": [LostAnswer(), Answer(412, "PreconditionFailed")],
}


@pytest.mark.parametrize("faults", _LOST.values(), ids=_LOST.keys())
def test_s3fs_is_told_the_truth_about_its_own_save(proxy: FaultProxy, s3fs: FsspecBackend, faults: list[Fault]) -> None:
    proxy.next("PUT", *faults)
    assert s3fs.save(KEY, 0, RECORD) == RECORD
    assert s3fs.latest(KEY) == (0, RECORD)
    assert s3fs.save(KEY, 0, b"late") == RECORD


def test_s3fs_on_a_service_that_ignores_the_condition_is_refused(proxy: FaultProxy) -> None:
    proxy.plan = lambda request: Strip("if-none-match") if request.kind == "PUT" else None
    backend = open_backend(f"s3+fsspec://{proxy.bucket}/{uuid4().hex}?endpoint_url={proxy.endpoint}")
    with pytest.raises(StoreUnavailable, match=r"two writers could win .* say fencing=off"):
        backend.save(KEY, 0, RECORD)
    assert [request.kind for request in proxy.requests] == ["LIST", "PUT", "PUT", "DELETE"]


# Nothing there, or nothing to be known


def test_a_missing_bucket_is_not_an_empty_store(moto_server: Server) -> None:
    backend = open_backend(f"s3+fsspec://no-such-bucket/x?endpoint_url={moto_server.endpoint}")
    for verb in verbs_of(backend):
        with pytest.raises(StoreUnavailable, match=r"bucket does not exist .*make the bucket") as caught:
            verb()
        assert not caught.value.maybe_saved
        assert "\n" not in str(caught.value)


def test_a_missing_bucket_is_looked_for_once_where_it_shows_like_a_missing_object(remote: type[Remote]) -> None:
    with pytest.raises(StoreUnavailable, match="make the bucket"):
        open_backend("gs://no-bucket/x").latest(KEY)
    backend = open_backend("gs://bucket/x")
    remote.asked.clear()
    assert backend.latest(KEY) is None
    assert backend.load(KEY, 0) is None
    assert backend.steps(KEY) == []
    assert [path for path in remote.asked if path == "bucket"] == ["bucket"]


def test_who_may_not_ask_about_the_bucket_finds_nothing_all_the_same(
    remote: type[Remote], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = remote.ls

    def forbidden(self: Remote, path: str, **options: Any) -> Any:
        if path == "bucket":
            raise OSError("Forbidden")
        return listed(self, path, **options)

    monkeypatch.setattr(remote, "ls", forbidden)
    assert open_backend("gs://bucket/x").latest(KEY) is None


def test_a_bucket_that_could_not_be_looked_for_is_looked_for_again(
    remote: type[Remote], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, errors = remote.ls, [TimeoutError("Read timeout"), FileNotFoundError("gone")]

    def busy(self: Remote, path: str, **options: Any) -> Any:
        if path == "bucket" and errors:
            raise errors.pop(0)
        return listed(self, path, **options)

    monkeypatch.setattr(remote, "ls", busy)
    backend = open_backend("gs://bucket/x")
    for words in ("Read timeout", "make the bucket"):
        with pytest.raises(StoreUnavailable, match=words):
            backend.latest(KEY)
    assert backend.latest(KEY) is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, "<!DOCTYPE html><p>Not found<br>"),
        (404, ""),
        (403, "<html><body>No</body></html>"),
        (200, "<html><body>Hello</body></html>"),
        (200, ""),
    ],
)
def test_another_server_than_s3_is_not_an_empty_store(status: int, body: str) -> None:
    with web_server(status, body) as endpoint:
        backend = open_backend(f"s3+fsspec://bucket/x?endpoint_url={endpoint}")
        for verb in verbs_of(backend):
            with pytest.raises(StoreUnavailable, match="see endpoint_url, and the proxies on the way") as caught:
                verb()
            assert not caught.value.maybe_saved
        backend.close()


def test_a_proxy_that_answers_once_for_s3_does_not_take_a_record_away(proxy: FaultProxy, s3fs: FsspecBackend) -> None:
    assert s3fs.save(KEY, 0, RECORD) == RECORD
    for kind, verb in (("GET", lambda: s3fs.load(KEY, 0)), ("LIST", lambda: s3fs.latest(KEY))):
        proxy.next(kind, Answer(404, "404"))  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable, match="see endpoint_url, and the proxies on the way"):
            verb()
        assert verb() is not None


@contextmanager
def web_server(
    status: int, body: str, headers: dict[str, str] | None = None, *, certificate: trustme.LeafCert | None = None
) -> Generator[str]:
    """A server that gives the same answer to whatever it is asked."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body.encode())

        do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = answer  # noqa: N815 - the names that are called

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


# Listings


def test_a_listing_from_a_cache_never_decides_a_read(
    remote: type[Remote], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems answer whatever they are asked by what they have listed before."""
    listed, read = remote.ls, remote.cat_file

    def keeps(self: Remote, path: str, **options: Any) -> Any:
        self.dircache[path] = listed(self, path, **options)
        return self.dircache[path]

    def forgets(self: Remote) -> None:
        self.dircache.clear()

    def by_the_cache(self: Remote, path: str, **options: Any) -> Any:
        entries = self.dircache.get(path.rpartition("/")[0])
        if entries is not None and path not in [entry["name"] for entry in entries]:
            raise FileNotFoundError(path)
        return read(self, path, **options)

    monkeypatch.setattr(remote, "ls", keeps)
    monkeypatch.setattr(remote, "cat_file", by_the_cache)
    monkeypatch.setattr(remote, "invalidate_cache", forgets)
    ours, another = (open_backend(f"{url.replace('gs', 'mine', 1)}?fencing=off&number={number}") for number in "12")
    assert ours.save(KEY, 0, RECORD) == RECORD
    assert ours.latest(KEY) == (0, RECORD)
    assert another.save(KEY, 1, b"another's") == b"another's"
    assert ours.load(KEY, 1) == b"another's"
    assert ours.save(KEY, 1, RECORD) == b"another's"


@pytest.fixture
def long(remote: type[Remote], url: str) -> tuple[FsspecBackend, str]:
    """A key with 600 steps on a file system without an order, and where the next one belongs."""
    backend = FsspecBackend(url.replace("gs", "mine", 1), fencing=False)
    for step in range(600):
        backend.save(KEY, step, str(step).encode())
    return backend, next(iter(remote.store)).rpartition("/")[0]


def test_latest_keeps_up_with_a_writer_however_many_steps_there_are(
    remote: type[Remote], long: tuple[FsspecBackend, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, directory = long
    listed, newest = remote.ls, [599]

    def while_another_commits(self: Remote, path: str, **options: Any) -> Any:
        found = listed(self, path, **options)
        newest.append(newest[-1] + 1)
        _memory.pipe_file(self, f"{directory}/{object_name(newest[-1])}", b"committed")
        return found

    monkeypatch.setattr(remote, "ls", while_another_commits)
    assert backend.latest(KEY) == (600, b"committed")


def test_a_long_listing_that_missed_the_newest_is_not_believed(
    remote: type[Remote], long: tuple[FsspecBackend, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch was committed and the one before it pruned between two parts of it."""
    backend, _ = long
    listed, missed = remote.ls, [False, True, False, False]

    def now_and_then(self: Remote, path: str, **options: Any) -> Any:
        found = listed(self, path, **options)
        return found[:-50] if missed and missed.pop(0) else found

    monkeypatch.setattr(remote, "ls", now_and_then)
    assert backend.latest(KEY) == (599, b"599")
    assert missed == []


def test_a_key_that_changes_faster_than_it_can_be_read_is_unavailable(
    remote: type[Remote], long: tuple[FsspecBackend, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_self: Remote, path: str, **_: Any) -> Any:
        raise FileNotFoundError(path)

    monkeypatch.setattr(remote, "cat_file", gone)
    with pytest.raises(StoreUnavailable, match="goal/0/agent-0 changes faster than it can be read"):
        long[0].latest(KEY)


def test_where_listings_have_an_order_one_is_enough(remote: type[Remote], url: str) -> None:
    backend = open_backend(url)
    for step in range(600):
        backend.save(KEY, step, RECORD)
    remote.asked.clear()
    assert backend.latest(KEY) == (599, RECORD)
    assert len(remote.asked) == 1


def test_the_keys_of_a_goal_take_one_request_on_an_object_store(proxy: FaultProxy, s3fs: FsspecBackend) -> None:
    keys = [CheckpointKey("goal", episode, f"agent-{number}") for episode in range(3) for number in range(3)]
    for key in keys:
        s3fs.save(key, 0, RECORD)
        s3fs.save(key, 1, RECORD)
    proxy.forget()
    assert sorted(s3fs.keys("goal")) == keys
    assert [request.kind for request in proxy.requests] == ["LIST"]


def test_a_listing_is_never_an_old_one(moto_server: Server) -> None:
    """Another process saves and prunes between two listings of ours, of s3fs, which keeps listings if it is let."""
    url = f"s3+fsspec://{moto_server.bucket}/{uuid4().hex}?endpoint_url={moto_server.endpoint}"
    backend = open_backend(url)
    assert backend.latest(KEY) is None
    assert list(backend.keys()) == []
    elsewhere(url, "save(KEY, 0, b'0'), backend.save(KEY, 1, b'1')")
    assert backend.latest(KEY) == (1, b"1")
    assert list(backend.keys()) == [KEY]
    elsewhere(url, "prune(KEY, [1]), backend.save(MORE, 5, b'5')")
    assert backend.steps(KEY) == [0]
    assert backend.latest(KEY) == (0, b"0")
    assert backend.load(KEY, 1) is None
    assert set(backend.keys("goal")) == {KEY, CheckpointKey("goal", 1, "more")}


def elsewhere(url: str, call: str) -> None:
    code = f"""
from durable_store.backend import Backend, open_backend
from durable_store.key import CheckpointKey
KEY, MORE = CheckpointKey("goal", 0, "agent-0"), CheckpointKey("goal", 1, "more")
backend = open_backend({url!r})
backend.{call}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Errors


@pytest.mark.parametrize(
    "url",
    [
        's3+fsspec://bucket/x?endpoint_url=http://127.0.0.1:{}&config_kwargs={"retries":{"total_max_attempts":2}}',
        "sftp://127.0.0.1:{}/x?fencing=off&username=me",
    ],
    ids=["s3fs", "sftp"],
)
def test_a_closed_port_is_unavailable_and_nothing_was_saved(url: str) -> None:
    backend = open_backend(url.replace("{}", str(free_ports(1)[0])))
    before = time.monotonic()
    verbs: list[Callable[[], object]] = [
        lambda: backend.save(KEY, 0, RECORD),
        lambda: backend.load(KEY, 0, first=10),
    ]
    for verb in verbs:
        with pytest.raises(StoreUnavailable, match="nothing answers there: see its host and port") as caught:
            verb()
        assert not caught.value.maybe_saved
        assert "\n" not in str(caught.value)
    assert time.monotonic() - before < 20


def error(code: str, message: str) -> str:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            400,
            error("AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-west-1'"),
            '(see endpoint_url, and name the region: client_kwargs={"region_name":"eu-west-1"})',
        ),
        (
            301,
            error("PermanentRedirect", "Go elsewhere."),
            ': it redirects without end (see endpoint_url, and name the region: client_kwargs={"region_name":"NAME"})',
        ),
        (
            403,
            error("InvalidAccessKeyId", "No such key."),
            "No such key. (the service does not know these credentials)",
        ),
        (403, error("RequestTimeTooSkewed", "Too late."), "Too late. (set the clock of this machine"),
        (403, error("ExpiredToken", "It has expired."), "It has expired. (these credentials may not do that, or have"),
        (400, error("InvalidToken", "Malformed."), "Malformed. (these credentials may not do that, or have expired)"),
        (503, error("ServiceUnavailable", "Busy."), "Busy. (the service is busy or has failed: try again later)"),
        (400, error("Strange", "Something else."), "Something else. (the service calls it Strange)"),
    ],
)
def test_an_answer_that_says_no_says_what_to_do(status: int, body: str, words: str) -> None:
    with web_server(status, body, {"Content-Type": "application/xml"}) as endpoint:
        backend = open_backend(f"s3+fsspec://bucket/x?endpoint_url={endpoint}&{ONCE}")
        with pytest.raises(StoreUnavailable) as caught:
            backend.latest(KEY)
        backend.close()
    assert words in str(caught.value)


def test_a_certificate_that_is_refused_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = trustme.CA()
    with web_server(200, "", certificate=authority.issue_cert("127.0.0.1")) as endpoint:
        url = f"s3+fsspec://bucket/x?endpoint_url={endpoint}&{ONCE}"
        with pytest.raises(StoreUnavailable, match=r"its certificate is refused.*AWS_CA_BUNDLE"):
            open_backend(url).latest(KEY)
        authority.cert_pem.write_to_path(str(tmp_path / "authority"))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "authority"))
        with pytest.raises(StoreUnavailable, match="this is no answer of S3: it lacks KeyCount"):
            open_backend(f"{url}&anon=true").latest(KEY)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("profile=nope", "(take one of `aws configure list-profiles`)"),
        ("endpoint_url=nonsense", "Invalid endpoint: nonsense (see the options in the store URL)"),
        ("config_kwargs=5", "(see the options in the store URL)"),
        ("region=eu-west-1", "there is no option 'region' (see the options in the store URL)"),
    ],
)
def test_an_option_that_turns_out_to_be_wrong_is_told(option: str, words: str) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        open_backend(f"s3+fsspec://bucket/x?{option}").latest(KEY)
    assert words in str(caught.value)


def test_what_google_forbids_is_told_as_a_matter_of_credentials(
    remote: type[Remote], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(_self: Remote, path: str, **_: Any) -> Any:
        raise OSError(f"Forbidden: {path}\nyou do not have storage.objects.get access")

    monkeypatch.setattr(remote, "cat_file", forbidden)
    with pytest.raises(StoreUnavailable, match=r"storage.objects.get access .these credentials may not do that"):
        open_backend(url).load(KEY, 0)


def test_a_file_system_that_cannot_write_says_so(remote: type[Remote], url: str) -> None:
    def read_only(*_: object) -> None:
        raise NotImplementedError

    remote.write = staticmethod(read_only)
    backend = open_backend(f"{url}?fencing=off")
    with pytest.raises(StoreUnavailable, match="this file system cannot hold a store") as caught:
        backend.save(KEY, 0, RECORD)
    assert "NotImplementedError" in str(caught.value)


# SFTP


@pytest.fixture
def sftp(sftp_server: SftpServer, tmp_path: Path) -> Iterator[FsspecBackend]:
    backend = open_backend(sftp_server.url(tmp_path / "store", fencing="off"))
    assert isinstance(backend, FsspecBackend)
    yield backend
    backend.close()


def test_sftp_without_fencing_leaves_nothing_but_the_record(sftp: FsspecBackend, tmp_path: Path) -> None:
    for step in range(3):
        assert sftp.save(KEY, step, RECORD) == RECORD
    directory = tmp_path / "store/goal/000000000/agent-0"
    assert sorted(path.name[-2:] for path in directory.iterdir()) == ["-0", "-1", "-2"]
    assert {path.read_bytes() for path in directory.iterdir()} == {RECORD}


def test_what_a_killed_writer_left_behind_is_no_record(sftp: FsspecBackend, tmp_path: Path) -> None:
    directory = tmp_path / "store/goal/000000000/agent-0"
    directory.mkdir(parents=True)
    (directory / ".0123456789abcdef").write_bytes(RECORD)
    (directory / "7").write_bytes(RECORD)
    assert list(sftp.keys()) == []
    assert sftp.steps(KEY) == []
    assert sftp.latest(KEY) is None


def test_a_record_that_cannot_be_written_was_surely_not_saved(sftp: FsspecBackend, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file in the place of the directory")
    with pytest.raises(StoreUnavailable) as caught:
        sftp.save(KEY, 0, RECORD)
    assert not caught.value.maybe_saved


def test_a_connection_that_has_died_is_replaced(sftp: FsspecBackend) -> None:
    for step in range(3):
        assert sftp.save(KEY, step, RECORD) == RECORD
        hang_up(sftp)
        assert sftp.latest(KEY) == (step, RECORD)
        hang_up(sftp)


def hang_up(sftp: FsspecBackend) -> None:
    """As a router does that forgets a connection."""
    connected(sftp).client.get_transport().sock.close()


def connected(backend: FsspecBackend) -> Any:
    connection = backend._files._connection
    assert connection is not None
    return connection._file_system


def test_a_server_that_hangs_is_unavailable_after_the_timeout(tmp_path: Path, sftp_server: SftpServer) -> None:
    backend = open_backend(sftp_server.url(tmp_path / "store", fencing="off", timeout="1", banner_timeout="1"))
    assert backend.save(KEY, 0, RECORD) == RECORD
    with sftp_server.hanging():
        before = time.monotonic()
        with pytest.raises(StoreUnavailable):
            backend.save(KEY, 1, RECORD)
        assert time.monotonic() - before < 20
    assert backend.latest(KEY) == (0, RECORD)


def test_a_server_that_hangs_in_the_middle_of_a_save_holds_it_for_few_timeouts(
    tmp_path: Path, sftp_server: SftpServer
) -> None:
    backend = open_backend(sftp_server.url(tmp_path / "store", fencing="off", timeout="1", banner_timeout="1"))
    assert isinstance(backend, FsspecBackend)
    assert backend.save(KEY, 0, RECORD) == RECORD
    assert backend.load(KEY, 1) is None
    file_system = connected(backend)
    write = file_system.pipe_file
    with ExitStack() as until_the_end:

        def hang(*args: Any, **more: Any) -> None:
            until_the_end.enter_context(sftp_server.hanging())
            write(*args, **more)

        file_system.pipe_file = hang
        before = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            backend.save(KEY, 1, RECORD)
        assert time.monotonic() - before < 5
        assert not caught.value.maybe_saved
    assert backend.save(KEY, 1, RECORD) == RECORD


def test_a_prune_is_done_on_a_new_connection_when_the_old_one_has_died(sftp: FsspecBackend) -> None:
    for step in range(3):
        sftp.save(KEY, step, RECORD)
    hang_up(sftp)
    sftp.prune(KEY, [0])
    hang_up(sftp)
    sftp.prune(KEY, [0, 1])
    assert sftp.steps(KEY) == [2]


def test_a_file_in_the_place_of_the_store_is_not_an_empty_store(sftp: FsspecBackend, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    local = open_backend(f"file+fsspec://{tmp_path}/store?fencing=off")
    below = open_backend(f"file+fsspec://{tmp_path}/store/below?fencing=off")
    for backend in (sftp, local, below):
        for verb in verbs_of(backend):
            with pytest.raises(StoreUnavailable, match="a file is in the way: move it, or take another") as caught:
                verb()
            assert not caught.value.maybe_saved
    (tmp_path / "store").unlink()
    for backend in (sftp, local, below):
        assert backend.latest(KEY) is None
    assert list(tmp_path.iterdir()) == [], "a read made something"


def test_a_goal_that_is_a_link_to_a_directory_has_its_keys(sftp: FsspecBackend, tmp_path: Path) -> None:
    sftp.save(KEY, 0, RECORD)
    store = tmp_path / "store"
    (store / "goal").rename(tmp_path / "elsewhere")
    (store / "goal").symlink_to(tmp_path / "elsewhere")
    (store / "another").symlink_to(tmp_path / "nowhere")
    for backend in (sftp, open_backend(f"file+fsspec://{store}?fencing=off")):
        assert list(backend.keys()) == [KEY]
        assert backend.latest(KEY) == (0, RECORD)


def test_a_key_that_the_server_does_not_know_is_told_what_it_takes(sftp_server: SftpServer, tmp_path: Path) -> None:
    key = tmp_path / "key"
    make_key(key)
    backend = open_backend(sftp_server.url(tmp_path / "store", fencing="off", key_filename=str(key)))
    with pytest.raises(StoreUnavailable, match=r"Authentication failed.* .it takes a key that ssh-agent"):
        backend.latest(KEY)


def test_stores_of_a_process_share_a_connection_and_the_last_one_closes_it(
    sftp_server: SftpServer, tmp_path: Path
) -> None:
    before = connections()
    first, second = (open_backend(sftp_server.url(tmp_path / name, fencing="off", compress="true")) for name in "ab")
    for backend in (first, second):
        backend.save(KEY, 0, RECORD)
    assert len(connections() - before) == 1
    first.close()
    assert second.load(KEY, 0) == RECORD
    second.close()
    for thread in connections() - before:
        thread.join(10)
    assert connections() <= before


def test_a_store_that_is_closed_beside_its_readers_leaves_no_connection(
    sftp_server: SftpServer, tmp_path: Path
) -> None:
    before = connections()
    for step in range(10):
        url = sftp_server.url(tmp_path / "store", fencing="off", temppath=str(tmp_path / str(step)))
        with open_store(url) as store, ThreadPoolExecutor(3) as pool:
            assert store.backend.save(KEY, step, RECORD) == RECORD
            reading = threading.Barrier(4)
            readers = [pool.submit(read_until_it_fails, store.backend, step, reading) for _ in range(3)]
            reading.wait(10)
            store.close()
            assert all("is closed" in str(reader.exception(30)) for reader in readers)
    for thread in connections() - before:
        thread.join(10)
    assert connections() <= before


def read_until_it_fails(backend: Backend, step: int, reading: threading.Barrier) -> None:
    assert backend.load(KEY, step) == RECORD
    reading.wait(10)
    while True:
        backend.load(KEY, step)


def connections() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "paramiko" in type(thread).__module__}


def test_a_forked_child_has_a_connection_of_its_own(sftp: FsspecBackend) -> None:
    sftp.save(KEY, 0, RECORD)
    inherited = sftp._files._connection
    child = os.fork()
    if child == 0:
        told = sftp.latest(KEY) == (0, RECORD) and sftp._files._connection is not inherited
        os._exit(0 if told and inherited in Connection._of_parents else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sftp.latest(KEY) == (0, RECORD)
    assert sftp._files._connection is inherited
