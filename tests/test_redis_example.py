"""The example of a third party's backend: installed beside durable-store, it sits the exam on a real Redis.

And what no exam can show of it: servers that forget, hang, die, want a password or are not there.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from durable_store import CheckpointKey, InvalidURL, StoreUnavailable, open_store
from durable_store.backend import Backend, open_backend
from durable_store_conformance import StoreConformance
from durable_store_conformance.exam import CLAUSES
from examples.redis_backend.test_conformance import DURABLE, serving
from tests.servers import free_ports

EXAMPLE = Path(__file__).parent.parent / "examples" / "redis_backend"
KEY = CheckpointKey("goal", 0, "agent-0")
VERBS: dict[str, Callable[[Backend], object]] = {
    "save": lambda backend: backend.save(KEY, 0, b"record"),
    "latest": lambda backend: backend.latest(KEY),
    "prune": lambda backend: backend.prune(KEY, [0]),
    "load": lambda backend: backend.load(KEY, 0),
    "steps": lambda backend: backend.steps(KEY),
    "keys": lambda backend: list(backend.keys()),
}


@pytest.fixture(scope="session")
def installed_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip has put the example: a directory of its own, since other tests want to see no redis://."""
    target = tmp_path_factory.mktemp("site-packages")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", "pip", "install", *options, f"--target={target}", str(EXAMPLE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(autouse=True)
def installed(installed_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example is installed, for this process and those that it starts."""
    monkeypatch.setattr(sys, "path", [str(installed_in), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(installed_in))


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Redis for all tests of a session, or of a worker; each test takes a prefix of its own."""
    [port] = free_ports(1)
    with serving(tmp_path_factory.mktemp("redis"), port, *DURABLE):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def port() -> int:
    [port] = free_ports(1)
    return port


class TestRedis(StoreConformance):
    """The exam of the example is for `make prove`; of `make test` are a few clauses, by each of the two doors."""

    prove = tuple(clause.id for clause in CLAUSES)

    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return f"{redis_url}/{uuid4().hex}"


def test_it_is_one_module_of_less_than_120_lines() -> None:
    [module] = [path for path in EXAMPLE.glob("*.py") if not path.name.startswith("test_")]
    assert len(module.read_text().splitlines()) < 120


def test_its_own_tests_are_the_exam(redis_url: str) -> None:
    """As its README says, with a server that they start themselves; a few clauses stand for all."""
    assert redis_url  # or there is no server to be had, and they would all skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "DS-LATEST or DS-FRESH-01"]
    done = subprocess.run(
        command, cwd=EXAMPLE, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^[0-9]+ passed, [0-9]+ deselected", done.stdout, re.MULTILINE), done.stdout


def test_by_the_command_it_sits_the_same_exam_and_nothing_of_it_is_left(redis_url: str) -> None:
    url = f"{redis_url.removesuffix('/0')}/2"
    command = [sys.executable, "-m", "durable_store.cli", "conformance", url, "--only", "DS-KEYS"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"The exam of RedisBackend('{url}/conformance-" in done.stdout
    with closing(open_backend(url)) as backend:
        assert redis_of(backend).dbsize() == 0


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ([], "CONFIG SET appendfsync always appendonly yes"),
        (["--appendonly", "yes"], "CONFIG SET appendfsync always"),
        (["--appendfsync", "always"], "CONFIG SET appendonly yes"),
        ([*DURABLE, "--no-appendfsync-on-rewrite", "yes"], "CONFIG SET no-appendfsync-on-rewrite no"),
        ([*DURABLE, "--maxmemory-policy", "allkeys-lru"], "CONFIG SET maxmemory-policy noeviction"),
        ([*DURABLE, "--rename-command", "CONFIG", ""], "cannot read the settings of"),
    ],
)
def test_a_server_that_may_lose_what_it_acknowledged_is_refused_at_the_first_save(
    settings: list[str], wrong: str, port: int, tmp_path: Path
) -> None:
    with serving(tmp_path, port, *settings), closing(open_backend(f"redis://127.0.0.1:{port}/0")) as backend:
        assert backend.latest(KEY) is None
        with pytest.raises(StoreUnavailable) as refused:
            backend.save(KEY, 0, b"record")
        assert wrong in str(refused.value)
        assert "\n" not in str(refused.value)
        assert not refused.value.maybe_saved
        assert list(backend.keys()) == []


def test_what_the_refusal_says_is_all_there_is_to_do(port: int, tmp_path: Path) -> None:
    with serving(tmp_path, port), closing(open_backend(f"redis://127.0.0.1:{port}/0")) as backend:
        with pytest.raises(StoreUnavailable) as refused:
            backend.save(KEY, 0, b"record")
        command = re.search("CONFIG SET (.*)", str(refused.value))
        assert command
        redis_of(backend).execute_command("CONFIG SET", *command[1].split())
        assert backend.save(KEY, 0, b"record") == b"record"


def test_a_server_that_is_killed_and_started_again_has_every_acknowledged_step(port: int, tmp_path: Path) -> None:
    """And the run goes on as after any StoreUnavailable: it commits the same state again."""
    acknowledged: list[int] = []
    enough = threading.Event()
    with open_store(f"redis://127.0.0.1:{port}/0/prefix") as store:
        with serving(tmp_path, port, *DURABLE) as server, ThreadPoolExecutor(1) as pool:
            run = store.resume("goal", "agent-0", keep=None)

            def commit_until_it_dies() -> None:
                while True:
                    acknowledged.append(run.commit({"turn": run.step + 1}))
                    if len(acknowledged) == 50:
                        enough.set()

            committing = pool.submit(commit_until_it_dies)
            assert enough.wait(60)
            server.send_signal(signal.SIGKILL)
            assert isinstance(committing.exception(60), StoreUnavailable)
        with serving(tmp_path, port, *DURABLE):
            there = {info.step for info in store.history(run.key)}
            assert set(acknowledged) <= there <= {*acknowledged, len(acknowledged)}
            assert run.commit({"turn": len(acknowledged)}) == len(acknowledged)
            assert store.load(run.key, run.step).state == {"turn": run.step}


def test_a_save_whose_answer_is_lost_says_maybe_and_is_ours_when_it_is_sent_again(port: int, tmp_path: Path) -> None:
    """The server hangs when the record arrives and takes it later, when nobody waits for the answer."""
    with (
        serving(tmp_path, port, *DURABLE) as server,
        closing(open_backend(f"redis://127.0.0.1:{port}/0?timeout=0.3")) as backend,
    ):
        backend.save(KEY, 0, b"record 0")
        server.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable) as lost:
                backend.save(KEY, 1, b"record 1")
            with pytest.raises(StoreUnavailable) as unread:
                backend.latest(KEY)
        finally:
            server.send_signal(signal.SIGCONT)
        assert lost.value.maybe_saved
        assert not unread.value.maybe_saved
        assert backend.save(KEY, 1, b"record 1") == b"record 1"
        assert backend.latest(KEY) == (1, b"record 1")
        assert backend.save(KEY, 1, b"of another") == b"record 1"


def test_an_answer_that_nobody_has_read_is_not_taken_for_the_next_one(redis_url: str) -> None:
    """A signal's handler raised while a thread was waiting: the connection goes back with its answer still to come."""
    with closing(open_backend(f"{redis_url}/{uuid4().hex}")) as backend:
        for step in (0, 1):
            backend.save(KEY, step, f"record {step}".encode())
        pool = redis_of(backend).connection_pool
        connection = pool.get_connection()
        connection.send_command("PING")
        assert connection.can_read(timeout=10)
        pool.release(connection)
        assert backend.load(KEY, 0) == b"record 0"
        assert backend.load(KEY, 1) == b"record 1"


@pytest.mark.parametrize("verb", VERBS)
def test_where_no_server_is_every_verb_is_store_unavailable_in_one_line(verb: str, port: int) -> None:
    """And to open the backend connects to nothing."""
    with closing(open_backend(f"redis://127.0.0.1:{port}/0/prefix")) as backend:
        assert repr(backend) == f"RedisBackend('redis://127.0.0.1:{port}/0/prefix')"
        with pytest.raises(StoreUnavailable, match="Connection refused") as refused:
            VERBS[verb](backend)
    assert f"redis://127.0.0.1:{port}/0/prefix" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.__cause__ is not None
    assert not refused.value.maybe_saved


def test_the_password_comes_from_the_environment(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"redis://127.0.0.1:{port}/0"
    with serving(tmp_path, port, *DURABLE, "--requirepass", "hunter2"):
        with closing(open_backend(url)) as backend, pytest.raises(StoreUnavailable, match="Authentication required"):
            backend.latest(KEY)
        monkeypatch.setenv("REDIS_PASSWORD", "hunter2")
        with closing(open_backend(url)) as backend:
            assert backend.save(KEY, 0, b"record") == b"record"
            assert "hunter2" not in repr(backend)


def test_prefixes_and_databases_keep_stores_apart(redis_url: str) -> None:
    prefix = uuid4().hex
    server = redis_url.removesuffix("/0")
    urls = [
        *(f"{redis_url}/{prefix}{more}" for more in ("", "/", "/a", ":goal", ":goal/000000000/agent-0", "%2fb")),
        f"{server}/1/{prefix}",
    ]
    for url in urls:
        with closing(open_backend(url)) as backend:
            assert list(backend.keys()) == []
            assert backend.save(KEY, 0, url.encode()) == url.encode()
    for url in urls:
        with closing(open_backend(url)) as backend:
            assert backend.latest(KEY) == (0, url.encode())
            assert list(backend.keys()) == list(backend.keys("goal")) == [KEY]


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://host",
        "redis://host/",
        "redis:///0",
        "redis://host/prefix",
        "redis://host/-1",
        "redis://host:port/0",
        "redis://host:99999/0",
        "redis://host/0?timeout=soon",
        "redis://host/0?timeout=0",
        "redis://host/0?timeout=nan",
        "redis://host/0?timeout=1e300",
    ],
)
def test_a_wrong_url_is_told_what_is_right(url: str) -> None:
    with pytest.raises(InvalidURL, match="redis://host:6379/0/prefix"):
        open_backend(url)


@pytest.mark.parametrize("host", ["no-such-host.invalid", f"{'a' * 64}.invalid"])
def test_a_host_that_has_no_address_is_store_unavailable(host: str) -> None:
    with closing(open_backend(f"redis://{host}/0")) as backend, pytest.raises(StoreUnavailable):
        backend.latest(KEY)


def redis_of(backend: Backend) -> Any:
    """The client of redis-py that this backend has."""
    return getattr(backend, "_redis")  # noqa: B009 - the class is installed for the test only
