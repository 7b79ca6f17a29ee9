"""Where fsspec's file systems differ from what a store needs: refused, worked around, or told."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from durable_store_conformance.clauses.sharing import in_threads

from durable_store import CheckpointConflict, CheckpointKey, InvalidURL, StoreUnavailable, open_store
from durable_store.backend import open_backend
from durable_store_backends.fsspec import FsspecBackend
from durable_store_backends.fsspec_connection import Connection
from durable_store_conformance.child import content, race
from tests.fault_proxy import Answer, AnswerAfter, CutRequest, Fault, FaultProxy, LostAnswer, Strip
from tests.servers import Server, free_ports
from tests.sftp import SftpServer, make_key

KEY = CheckpointKey("goal", 0, "agent-0")
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
    """In the place of s3a:// and gs://, known to create atomically, and of ftp://, known not to."""
    nothing: dict[str, Any] = {"store": {}, "pseudo_dirs": [""], "made": [], "asked": []}
    kind = type("Mine", (Remote,), {**nothing, "write": staticmethod(as_told)})
    for protocol in ("s3a", "gs", "ftp"):
        monkeypatch.setitem(_registry._registry, protocol, kind)
    return kind


@pytest.fixture
def url() -> str:
    """Of a place that no test has used: what was found out about a place is known as long as the process lives."""
    return f"s3a://bucket/{uuid4().hex}"


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


def test_an_option_that_a_file_system_has_not_is_refused_where_it_says_which_it_has(
    remote: type[Remote], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strict(self: Remote, timeout: int = 5) -> None:
        raise AssertionError(f"connects with {self} and {timeout}")

    monkeypatch.setattr(remote, "__init__", strict)
    open_store(f"{url}?timeout=6").close()
    with pytest.raises(InvalidURL, match="unexpected keyword argument 'timeuot'"):
        open_store(f"{url}?timeuot=6")


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
    for wrong in (f"{url}?n=22", f"{url}#x", "s3a://user:hunter2@bucket"):
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
    with pytest.raises(CheckpointConflict, match="step 7 of goal/0/agent-0 was taken, and its owner has pruned it"):
        backend.save(KEY, 7, RECORD)


def test_a_save_whose_outcome_is_unknown_says_so(remote: type[Remote], url: str) -> None:
    sent: list[bytes] = []

    def lost(_write: Callable[..., None], _path: str, value: bytes, _mode: str) -> None:
        sent.append(value)
        raise TimeoutError("Read timeout")

    backend = after_the_probe(remote, url, lost)
    with pytest.raises(StoreUnavailable, match=r"cannot save s3a://bucket/.*: Read timeout") as caught:
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
    backend = open_backend(f"{url.replace('s3a', 'ftp')}?fencing=off")
    if moved:
        assert backend.save(KEY, 0, RECORD) == RECORD
        assert steps_at(remote) == ["0"]
        return
    with pytest.raises(StoreUnavailable, match="the answer is lost") as caught:
        backend.save(KEY, 0, RECORD)
    assert caught.value.maybe_saved
    assert remote.store == {}


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
    assert [request.kind for request in proxy.requests] == ["PUT", "PUT", "DELETE"]


# Nothing there, or nothing to be known


def test_a_missing_bucket_is_not_an_empty_store(moto_server: Server) -> None:
    backend = open_backend(f"s3+fsspec://no-such-bucket/x?endpoint_url={moto_server.endpoint}")
    verbs: list[Callable[[], object]] = [
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
    for verb in verbs:
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
from durable_store.backend import open_backend
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


def test_an_option_that_turns_out_to_be_wrong_is_told_with_the_option(moto_server: Server) -> None:
    backend = open_backend(f"s3+fsspec://bucket/x?endpoint_url={moto_server.endpoint}&region=eu")
    with pytest.raises(StoreUnavailable, match=r"'region' .see the options in the store URL"):
        backend.latest(KEY)


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
    connection = sftp._connection
    assert connection is not None
    connection._file_system.client.get_transport().sock.close()


def test_a_server_that_hangs_is_unavailable_after_the_timeout(tmp_path: Path, sftp_server: SftpServer) -> None:
    backend = open_backend(sftp_server.url(tmp_path / "store", fencing="off", timeout="1", banner_timeout="1"))
    assert backend.save(KEY, 0, RECORD) == RECORD
    with sftp_server.hanging():
        before = time.monotonic()
        with pytest.raises(StoreUnavailable):
            backend.save(KEY, 1, RECORD)
        assert time.monotonic() - before < 20
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


def connections() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "paramiko" in type(thread).__module__}


def test_a_forked_child_has_a_connection_of_its_own(sftp: FsspecBackend) -> None:
    sftp.save(KEY, 0, RECORD)
    inherited = sftp._connection
    child = os.fork()
    if child == 0:
        told = sftp.latest(KEY) == (0, RECORD) and sftp._connection is not inherited
        os._exit(0 if told and inherited in Connection._of_parents else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sftp.latest(KEY) == (0, RECORD)
    assert sftp._connection is inherited
