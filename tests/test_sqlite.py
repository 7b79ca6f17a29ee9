"""What only the SQLite backend promises: real databases, real processes, real faults; the rest is in the exam."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import apsw
import pytest

from durable_store import CheckpointKey, InvalidURL, StoreUnavailable
from durable_store_backends import sqlite
from durable_store_backends.sqlite import SqliteBackend
from durable_store_backends.sqlite_groups import Save

KEY = CheckpointKey("g-42", 0, "orchestrator-0")
PRELUDE = """
import json, os, sys, threading
from durable_store import CheckpointKey, StoreUnavailable
from durable_store_backends.sqlite import SqliteBackend
KEY = CheckpointKey("g-42", 0, "orchestrator-0")
backend = SqliteBackend(sys.argv[1])
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def backend(path: Path) -> Iterator[SqliteBackend]:
    backend = SqliteBackend(path)
    yield backend
    backend.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("no mount command on this machine")
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)  # noqa: S607 - found where mount was


def ask(connection: apsw.Connection, statement: str, *values: str | int | bytes) -> list[Any]:
    """The rows of a statement, from the same SQLite library as the backend's: a second one would drop its locks."""
    return list(connection.execute(statement, values))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType, reportUnknownVariableType]


def look(path: Path, statement: str, *values: str | int | bytes) -> list[Any]:
    """The rows of a statement, on a connection of its own."""
    connection = apsw.Connection(str(path))
    try:
        return ask(connection, statement, *values)
    finally:
        connection.close()


def start(program: str, *args: str | Path, before: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*before, sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + program, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process: "subprocess.Popen[str]", said: str = "") -> Any:
    """The JSON that a program printed; it fails when the program did."""
    try:
        out, err = process.communicate(said, timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == 0, err
    return json.loads(out)


def flushes(tmp_path: Path, program: str, *args: str | Path) -> dict[str, int]:
    """How often a program called which flush."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("no strace on this machine")
    log = tmp_path / "flushes.log"
    answer(start(program, *args, before=(strace, "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(log))))
    lines = log.read_text().splitlines()
    if not lines:
        pytest.skip("strace sees nothing here: tracing is not permitted")
    return {call: sum(f" {call}(" in line for line in lines) for call in ("fsync", "fdatasync")}


# The URL


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///runs.db", "runs.db"),
        ("sqlite:///a/b.db", "a/b.db"),
        ("sqlite:////tmp/runs.db", "/tmp/runs.db"),  # noqa: S108 - nothing is opened
        ("sqlite:///my%20runs%23%3f.db", "my runs#?.db"),
    ],
)
def test_the_path_is_made_absolute_when_the_backend_is_made(url: str, path: str) -> None:
    assert SqliteBackend.from_url(urlsplit(url)).path == Path.cwd() / path


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("sqlite://runs.db", "sqlite:///runs.db"),
        ("sqlite://dir/runs.db", "three slashes"),
        ("sqlite://", "needs the path of a file"),
        ("sqlite:///", "needs the path of a file"),
        ("sqlite:///dir/", "needs the path of a file"),
        ("sqlite:///a%00b.db", "needs the path of a file"),
        ("sqlite:///a\udcffb.db", "needs the path of a file"),
        ("sqlite:///:memory:", "memory://"),
    ],
)
def test_a_url_that_names_no_file_is_refused_with_a_hint(url: str, hint: str) -> None:
    with pytest.raises(InvalidURL, match=hint):
        SqliteBackend.from_url(urlsplit(url))


@pytest.mark.parametrize("timeout", ["", "soon", "0", "-1", "nan", "inf", "1e300", "30s"])
def test_a_timeout_that_is_no_time_is_refused(timeout: str) -> None:
    with pytest.raises(InvalidURL, match="a number of seconds, above 0 and at most 86400"):
        SqliteBackend.from_url(urlsplit("sqlite:///runs.db"), timeout=timeout)


# The file


def test_a_read_creates_nothing(backend: SqliteBackend, tmp_path: Path) -> None:
    assert backend.latest(KEY) is None
    assert backend.load(KEY, 0) is None
    assert backend.load(KEY, 0, first=10) is None
    assert backend.steps(KEY) == []
    assert list(backend.keys()) == []
    backend.prune(KEY, [0])
    assert list(tmp_path.iterdir()) == []


def test_a_read_of_a_database_without_the_table_leaves_it_as_it_is(backend: SqliteBackend, path: Path) -> None:
    look(path, "CREATE TABLE mine (a)")
    before = path.read_bytes()
    assert backend.latest(KEY) is None
    assert list(backend.keys()) == []
    backend.prune(KEY, [0])
    backend.close()
    assert path.read_bytes() == before


def test_records_that_come_after_a_read_that_found_no_file_are_seen(backend: SqliteBackend, path: Path) -> None:
    assert backend.latest(KEY) is None
    other = SqliteBackend(path)
    other.save(KEY, 3, b"three")
    assert backend.latest(KEY) == (3, b"three")
    other.close()


def test_a_new_database_is_private_to_its_user(backend: SqliteBackend, tmp_path: Path) -> None:
    backend.save(KEY, 0, b"state")
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


def test_the_table_is_made_beside_what_else_the_database_holds(backend: SqliteBackend, path: Path) -> None:
    look(path, "PRAGMA auto_vacuum = FULL; CREATE TABLE mine (a); INSERT INTO mine VALUES (1)")
    look(path, "PRAGMA user_version = 7; PRAGMA application_id = 8")
    theirs = look(path, "SELECT name, sql FROM sqlite_schema")
    backend.save(KEY, 0, b"state")
    assert [row for row in look(path, "SELECT name, sql FROM sqlite_schema") if "durable_store" not in row[0]] == theirs
    assert look(path, "SELECT a FROM mine") == [(1,)]
    settings = [look(path, f"PRAGMA {name}")[0][0] for name in ("user_version", "application_id", "auto_vacuum")]
    assert settings == [7, 8, 1]
    assert look(path, "PRAGMA table_info(durable_store_checkpoints)") == [
        (0, "goal", "TEXT", 1, None, 1),
        (1, "episode", "INTEGER", 1, None, 2),
        (2, "checkpoint", "TEXT", 1, None, 3),
        (3, "step", "INTEGER", 1, None, 4),
        (4, "record", "BLOB", 1, None, 0),
    ]


def test_a_missing_directory_is_named_and_not_created(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "absent" / "runs.db")
    with pytest.raises(StoreUnavailable, match=r"absent does not exist: create it first") as caught:
        backend.save(KEY, 0, b"state")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"x", b"no database, but text of a person\n" * 100])
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(
    backend: SqliteBackend, path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    for verb in (lambda: backend.latest(KEY), lambda: backend.save(KEY, 0, b"state")):
        with pytest.raises(StoreUnavailable, match="is not a SQLite database") as caught:
            verb()
        assert caught.value.__cause__ is not None
        assert not caught.value.maybe_saved
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    backend.close()
    assert path.read_bytes() == content


def test_a_directory_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    for verb in (lambda: SqliteBackend(tmp_path).latest(KEY), lambda: SqliteBackend(tmp_path).save(KEY, 0, b"")):
        with pytest.raises(StoreUnavailable, match="it is a directory"):
            verb()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_goes_while_it_is_in_use_ends_its_backend(
    backend: SqliteBackend, path: Path, *, replaced: bool
) -> None:
    backend.save(KEY, 0, b"state")
    for file in path.parent.iterdir():
        file.unlink()
    if replaced:
        other = SqliteBackend(path)
        other.save(KEY, 0, b"another history")
        other.close()
    why = "replaced" if replaced else "removed"
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=f"{why} while it was in use.*open the store again"):
            backend.save(KEY, 1, b"state")
        with pytest.raises(StoreUnavailable, match=why):
            backend.latest(KEY)
    again = SqliteBackend(path)
    assert again.latest(KEY) == ((0, b"another history") if replaced else None)
    again.close()
    assert path.exists() == replaced


# What is in the table


def test_ids_with_a_nul_character_are_kept_apart(backend: SqliteBackend) -> None:
    keys = [CheckpointKey(goal, 0, "c") for goal in ("a", "a\0", "a\0b", "a\0c")]
    for step, key in enumerate(keys):
        backend.save(key, step, str(key).encode())
    assert sorted(backend.keys()) == keys
    for step, key in enumerate(keys):
        assert backend.latest(key) == (step, str(key).encode())
        assert list(backend.keys(key.goal_id)) == [key]


@pytest.mark.parametrize("first", [1, 1000, 600_000, 10**9])
def test_the_head_of_a_large_record_is_what_load_gives_with_first(backend: SqliteBackend, first: int) -> None:
    record = os.urandom(600_000)
    backend.save(KEY, 0, record)
    assert backend.load(KEY, 0, first=first) == record[:first]


def test_text_that_a_person_put_into_the_table_comes_back_as_bytes(backend: SqliteBackend, path: Path) -> None:
    backend.save(KEY, 0, b"state")
    look(path, "UPDATE durable_store_checkpoints SET record = 'wörds'")
    assert backend.latest(KEY) == (0, "wörds".encode())
    assert backend.load(KEY, 0) == "wörds".encode()


def test_a_row_that_is_no_key_is_reported_not_passed_over(backend: SqliteBackend, path: Path) -> None:
    backend.save(KEY, 0, b"state")
    look(path, "INSERT INTO durable_store_checkpoints VALUES ('', 0, 'c', 0, '')")
    with pytest.raises(StoreUnavailable, match="none of ours: goal_id is empty"):
        list(backend.keys())


def test_keys_stream_in_pages_and_hold_nothing_open_between_them(backend: SqliteBackend, path: Path) -> None:
    there = [CheckpointKey(f"g{n:04}", n % 3, "c") for n in range(1200)]
    for key in there:
        backend.save(key, 0, b"state")
    keys = backend.keys()
    seen = [next(keys)]
    backend.save(CheckpointKey("z", 0, "c"), 0, b"saved meanwhile")
    # TRUNCATE succeeds only when nobody reads; its first column says whether somebody did.
    assert look(path, "PRAGMA wal_checkpoint(TRUNCATE)")[0][0] == 0
    seen += keys
    assert seen == [*there, CheckpointKey("z", 0, "c")]
    assert [key.goal_id for key in backend.keys("g0007")] == ["g0007"]


def test_after_a_failed_save_nothing_is_locked(backend: SqliteBackend, path: Path) -> None:
    look(path, "CREATE TABLE durable_store_checkpoints (mine)")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"has 1 column|ON CONFLICT"):
            backend.save(KEY, 0, b"state")
    look(path, "DROP TABLE durable_store_checkpoints")
    assert backend.save(KEY, 0, b"state") == b"state"


# Locks


def test_a_database_locked_by_another_process_is_unavailable_after_the_timeout(path: Path) -> None:
    backend = SqliteBackend.from_url(urlsplit(f"sqlite:///{path}"), timeout="0.2")
    backend.save(KEY, 0, b"state")
    holder = start(
        """
import apsw
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
print("{}")
""",
        path,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StoreUnavailable, match=r"locked for 0\.2 s: .*\?timeout=") as caught:
        backend.save(KEY, 1, b"state")
    assert isinstance(caught.value.__cause__, apsw.BusyError)
    assert not caught.value.maybe_saved
    assert backend.latest(KEY) == (0, b"state")
    answer(holder)
    assert backend.save(KEY, 1, b"state") == b"state"
    backend.close()


def test_the_switch_to_wal_waits_as_long_as_any_other_lock(path: Path) -> None:
    backend = SqliteBackend(path, timeout=0.2)
    holder = apsw.Connection(str(path))
    ask(holder, "CREATE TABLE mine (a)")
    ask(holder, "BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"locked for 0\.2 s"):
        backend.save(KEY, 0, b"state")
    assert time.monotonic() - started >= 0.2
    ask(holder, "COMMIT")
    holder.close()
    assert backend.save(KEY, 0, b"state") == b"state"
    backend.close()


def test_a_reader_that_stays_keeps_its_view_and_stops_nobody(backend: SqliteBackend, path: Path) -> None:
    backend.save(KEY, 0, b"state")
    reader = apsw.Connection(str(path))
    ask(reader, "BEGIN")
    assert ask(reader, "SELECT max(step) FROM durable_store_checkpoints") == [(0,)]
    for step in range(1, 60):
        backend.save(KEY, step, bytes(600_000))
        backend.prune(KEY, [step - 1])
    assert ask(reader, "SELECT max(step) FROM durable_store_checkpoints") == [(0,)]
    wal = Path(f"{path}-wal")
    assert wal.stat().st_size > 30_000_000
    reader.close()
    for step in range(60, 63):  # the first commits that find nobody reading begin the WAL anew and cut it
        look(path, "PRAGMA wal_checkpoint(PASSIVE)")
        backend.save(KEY, step, b"state")
    assert wal.stat().st_size <= 16 * 1024 * 1024


def test_of_sixteen_processes_one_wins_each_step_and_none_is_locked_out(path: Path) -> None:
    steps = 60
    racers = [
        start(
            """
me, steps = sys.argv[2].encode(), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
won = [step for step in range(steps) if backend.save(KEY, step, me * 500) == me * 500]
print(json.dumps(won))
""",
            path,
            f"{n:02}",
            str(steps),
        )
        for n in range(16)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [answer(racer) for racer in racers]
    assert sorted(step for steps_of_one in won for step in steps_of_one) == list(range(steps))
    backend = SqliteBackend(path)
    for n, steps_of_one in enumerate(won):
        for step in steps_of_one:
            assert backend.load(KEY, step) == f"{n:02}".encode() * 500
    backend.close()


def test_processes_that_create_the_same_database_at_once_all_succeed(tmp_path: Path) -> None:
    program = """
from pathlib import Path
print("ready", flush=True)
sys.stdin.readline()
for n in range(30):
    backend = SqliteBackend(Path(sys.argv[1]) / f"{n}.db")
    backend.save(KEY, int(sys.argv[2]), b"state")
    backend.close()
print("{}")
"""
    makers = [start(program, tmp_path, str(n)) for n in range(8)]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    for maker in makers:
        answer(maker)
    for n in range(30):
        backend = SqliteBackend(tmp_path / f"{n}.db")
        assert backend.steps(KEY) == list(reversed(range(8)))
        backend.close()
        assert look(tmp_path / f"{n}.db", "PRAGMA journal_mode") == [("wal",)]
        assert look(tmp_path / f"{n}.db", "PRAGMA auto_vacuum") == [(2,)]


# Around a fork


def test_a_child_forked_while_a_thread_saves_can_save_and_so_can_its_parent(path: Path) -> None:
    last, children = answer(
        start(
            """
over = threading.Event()
def go_on():
    step = 0
    while not over.is_set():
        backend.save(KEY, step, b"x" * 20000)
        step += 1
    global last
    last = step - 1
thread = threading.Thread(target=go_on)
thread.start()
for n in range(25):
    child = os.fork()
    if not child:
        try:
            key = CheckpointKey("child", n, "c")
            assert backend.save(key, 0, b"child") == b"child"
            assert backend.latest(key) == (0, b"child")
            os._exit(0)
        except BaseException as err:
            print(err, file=sys.stderr, flush=True)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
over.set()
thread.join()
print(json.dumps([last, n + 1]))
""",
            path,
        )
    )
    backend = SqliteBackend(path)
    assert backend.steps(KEY) == list(range(last, -1, -1))
    assert len(list(backend.keys())) == 1 + children
    backend.close()
    assert look(path, "PRAGMA integrity_check") == [("ok",)]


def test_what_a_child_saves_survives_that_its_parent_closes(path: Path) -> None:
    """With a connection open over the fork, SQLite takes the parent for the last user and removes the WAL."""
    answer(
        start(
            """
backend.save(KEY, 0, b"parent")
up, down = os.pipe(), os.pipe()
child = os.fork()
if not child:
    backend.save(KEY, 1, b"child")
    os.write(up[1], b"x")
    os.read(down[0], 1)
    backend.save(KEY, 2, b"child, after the parent closed")
    os._exit(0)
os.read(up[0], 1)
backend.save(KEY, 3, b"parent")
backend.close()
os.write(down[1], b"x")
assert os.waitpid(child, 0)[1] == 0
print("{}")
""",
            path,
        )
    )
    backend = SqliteBackend(path)
    assert backend.steps(KEY) == [3, 2, 1, 0]
    backend.close()


def test_a_child_of_a_fork_inside_a_verb_is_refused_and_its_parent_goes_on(path: Path) -> None:
    answer(
        start(
            """
import signal
backend = SqliteBackend(sys.argv[1], timeout=0.2)
backend.save(KEY, 0, b"state")
def fork_now(*_):
    global child
    child = os.fork()
    if not child:
        for verb in (lambda: backend.latest(KEY), lambda: backend.save(KEY, 5, b"child")):
            try:
                verb()
            except StoreUnavailable as err:
                assert "open the store after the fork" in str(err)
            else:
                os._exit(1)
        os._exit(0)
with backend._connected("read"):
    fork_now()
assert os.waitpid(child, 0)[1] == 0
backend.save(KEY, 1, b"state")
print(json.dumps(backend.steps(KEY)))
""",
            path,
        )
    )


# Faults


def test_a_full_disk_leaves_what_was_saved_and_works_again_when_there_is_space(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    backend = SqliteBackend(small_disk / "runs.db")
    steps = iter(range(1000))
    with pytest.raises(StoreUnavailable, match="disk is full") as caught:
        all(backend.save(KEY, step, bytes([step]) * 50_000) for step in steps)
    saved = next(steps) - 2
    assert isinstance(caught.value.__cause__, apsw.FullError)
    assert not caught.value.maybe_saved
    assert backend.steps(KEY) == list(range(saved, -1, -1))
    assert backend.latest(KEY) == (saved, bytes([saved]) * 50_000)
    ballast.unlink()
    assert backend.save(KEY, saved + 1, b"again") == b"again"
    backend.close()
    assert look(small_disk / "runs.db", "PRAGMA integrity_check") == [("ok",)]


def test_a_disk_that_is_full_from_the_start_is_unavailable(small_disk: Path) -> None:
    with (small_disk / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError, match="space"):
        all(ballast.write(bytes(4096)) for _ in range(1000))
    backend = SqliteBackend(small_disk / "runs.db")
    with pytest.raises(StoreUnavailable, match="disk is full") as caught:
        backend.save(KEY, 0, b"state")
    assert not caught.value.maybe_saved
    assert backend.latest(KEY) is None
    (small_disk / "ballast").unlink()
    assert backend.save(KEY, 0, b"state") == b"state"
    backend.close()


@pytest.mark.parametrize(("mode", "why"), [(0o444, "read-only"), (0o000, "cannot be opened")])
def test_a_file_that_this_user_may_not_write_is_unavailable(mode: int, why: str) -> None:
    # Not tmp_path: another user could not even reach it.
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "runs.db")
        Path(name).chmod(0o777)
        look(path, "CREATE TABLE mine (a)")
        path.chmod(mode)
        # Root may write everything, so the program becomes nobody.
        said = answer(
            start(
                """
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    backend.save(KEY, 0, b"state")
except StoreUnavailable as err:
    print(json.dumps([str(err), err.maybe_saved]))
""",
                path,
            )
        )
        assert why in said[0]
        assert not said[1]


def test_a_directory_that_this_user_may_not_write_is_unavailable() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        said = answer(
            start(
                """
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
assert backend.latest(KEY) is None
try:
    backend.save(KEY, 0, b"state")
except StoreUnavailable as err:
    print(json.dumps(str(err)))
""",
                Path(name, "runs.db"),
            )
        )
        Path(name).chmod(0o755)
        assert said == f"cannot save to {name}/runs.db: Permission denied"


def test_a_save_whose_flush_failed_may_be_saved_and_the_next_one_begins_a_new_wal(tmp_path: Path, path: Path) -> None:
    program = """
other = SqliteBackend(sys.argv[1])
backend.save(KEY, 0, bytes(100_000))
backend.save(KEY, 1, b"one")
backend.prune(KEY, [0])
assert other.steps(KEY) == [1]  # it stays open, so that no close makes the WAL anew
said = []
for _ in range(int(sys.argv[2])):
    try:
        said.append(backend.save(KEY, 2, b"two").decode())
    except StoreUnavailable as err:
        said.append([err.maybe_saved, type(err.__cause__).__name__, str(err)])
print(json.dumps([*said, os.path.getsize(sys.argv[1] + "-wal")]), flush=True)
os._exit(0)
"""
    before = flushes(tmp_path, program, tmp_path / "counted.db", "0")
    call = next(call for call in ("fdatasync", "fsync") if before[call])
    nth = before[call] + 1
    fault = f"inject={call}:error=EIO:when={nth}"
    traced = ("strace", "-f", "-qq", "-e", fault, "-o", os.devnull)
    said = answer(start(program, path, "2", before=traced))
    assert said[0][:2] == [True, "IOError"]
    assert "runs.db: the operating system reported an error" in said[0][2]
    assert said[1] == "two"
    # What the failed flush left out of the WAL would end it there after a power cut: the next save begins it anew.
    assert said[2] < 100_000
    backend = SqliteBackend(path)
    assert backend.steps(KEY) == [2, 1]
    backend.close()
    assert look(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("signum", [signal.SIGKILL])
def test_an_acknowledged_save_survives_a_kill(path: Path, signum: signal.Signals) -> None:
    process = start(
        """
for step in range(10**6):
    backend.save(KEY, step, b"state")
    print(step, flush=True)
""",
        path,
    )
    assert process.stdout is not None
    for _ in range(50):
        process.stdout.readline()
    process.send_signal(signum)
    acknowledged = [49, *map(int, process.stdout.read().split())]  # not communicate(): lines lie in its buffer already
    process.communicate()
    backend = SqliteBackend(path)
    steps = backend.steps(KEY)
    assert steps == list(range(steps[0], -1, -1))
    assert steps[0] - acknowledged[-1] in (0, 1)
    backend.close()


# What it costs


SAVES = """
saves, keep = int(sys.argv[2]), 5
for step in range(saves):
    backend.save(KEY, step, b"x" * 200)
    if step % keep == 0:
        backend.prune(KEY, range(step - 2 * keep, step - keep))
print("{}", flush=True)
os._exit(0)
"""


def test_a_save_flushes_once_and_a_prune_not_at_all(tmp_path: Path, record_figure: Callable[[str], None]) -> None:
    few = flushes(tmp_path, SAVES, tmp_path / "few.db", "20")
    many = flushes(tmp_path, SAVES, tmp_path / "many.db", "120")
    extra = sum(many.values()) - sum(few.values())
    record_figure(f"{extra} flushes for 100 saves and 20 prunes")
    assert extra == 100


def test_saves_of_threads_at_the_same_time_share_flushes(tmp_path: Path, record_figure: Callable[[str], None]) -> None:
    program = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(16) as pool:
    list(pool.map(lambda step: backend.save(KEY, step, b"x" * 200), range(int(sys.argv[2]))))
print("{}", flush=True)
os._exit(0)
"""
    alone = sum(flushes(tmp_path, program, tmp_path / "alone.db", "1").values())
    shared = sum(flushes(tmp_path, program, tmp_path / "shared.db", "800").values()) - alone
    record_figure(f"{shared} flushes for 800 saves of 16 threads")
    assert shared < 400


def test_an_error_of_one_save_touches_none_that_are_saved_at_the_same_time(backend: SqliteBackend) -> None:
    beyond = 2**70

    def save(step: int) -> bytes | str:
        try:
            return backend.save(KEY, beyond if step % 10 == 3 else step, b"%d" % step)
        except OverflowError:
            return "refused"

    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(save, range(400)))
    assert said == ["refused" if step % 10 == 3 else b"%d" % step for step in range(400)]
    assert len(backend.steps(KEY)) == 360


def test_a_save_that_is_tried_again_alone_is_told_what_is_there_then(backend: SqliteBackend) -> None:
    """Not what it was told by the transaction with others that was rolled back."""
    save = Save(KEY, 0, b"ours")
    save.there = b"of another, which was rolled back"
    backend._commit([save])
    assert (save.is_done, save.error, save.there) == (True, None, b"ours")
    assert backend.load(KEY, 0) == b"ours"


def test_what_was_committed_may_be_saved_when_the_flush_after_it_fails(
    backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One finds its step taken, and the flush that this takes fails; the other is there all the same."""
    backend.save(KEY, 0, b"first")
    new, late = Save(KEY, 1, b"new"), Save(KEY, 0, b"late")

    def fails(_file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    backend._commit([new, late])
    assert [isinstance(save.error, StoreUnavailable) and save.error.maybe_saved for save in (new, late)] == [True, True]
    assert backend.load(KEY, 1) == b"new"


def test_a_save_that_finds_its_step_taken_flushes_too(tmp_path: Path) -> None:
    program = """
for _ in range(int(sys.argv[2])):
    backend.save(KEY, 0, b"state")
print("{}", flush=True)
os._exit(0)
"""
    once = flushes(tmp_path, program, tmp_path / "once.db", "1")
    more = flushes(tmp_path, program, tmp_path / "more.db", "6")
    assert sum(more.values()) - sum(once.values()) == 5


def test_the_file_becomes_small_again_after_a_large_prune(backend: SqliteBackend, path: Path) -> None:
    for step in range(40):
        backend.save(KEY, step, bytes(600_000))
    look(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size > 20_000_000
    backend.prune(KEY, range(39))
    look(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size < 1_000_000
    assert backend.latest(KEY) == (39, bytes(600_000))


def test_a_database_of_others_that_cannot_shrink_is_pruned_all_the_same(backend: SqliteBackend, path: Path) -> None:
    look(path, "CREATE TABLE mine (a)")
    for step in range(10):
        backend.save(KEY, step, bytes(600_000))
    backend.prune(KEY, range(9))
    assert backend.steps(KEY) == [9]


# The WAL corruption bug


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 6, 23), False),
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 49, 2), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 0), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_wal_is_for_versions_without_the_corruption_bug(version: tuple[int, ...], *, safe: bool) -> None:
    assert sqlite._wal_is_safe(version) == safe  # pyright: ignore[reportPrivateUsage]


def test_the_library_that_is_installed_has_a_safe_wal(backend: SqliteBackend, path: Path) -> None:
    backend.save(KEY, 0, b"state")
    assert look(path, "PRAGMA journal_mode") == [("wal",)]


def test_an_unsafe_library_writes_with_a_rollback_journal(
    backend: SqliteBackend, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    backend.save(KEY, 0, b"state")
    backend.save(KEY, 1, b"state")
    backend.prune(KEY, [0])
    assert backend.save(KEY, 1, b"other") == b"state"
    assert backend.steps(KEY) == [1]
    assert look(path, "PRAGMA journal_mode") == [("delete",)]


def test_an_unsafe_library_refuses_a_database_in_wal_mode(
    backend: SqliteBackend, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SqliteBackend(path).save(KEY, 0, b"state")
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    for verb in (lambda: backend.latest(KEY), lambda: backend.save(KEY, 1, b"state")):
        with pytest.raises(StoreUnavailable, match=r"WAL mode, which SQLite 3\.51\.2 can corrupt: upgrade apsw"):
            verb()
