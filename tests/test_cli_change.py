"""`diff`, `rewind`, `fork`, `prune`, `rm`, `episodes`, `stats`: what they do, and what they refuse."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonpatch
import pytest

from durable_store import CheckpointConflict, CheckpointKey, Store, open_store
from durable_store.record import encode, timestamp
from durable_store_backends.memory import MemoryBackend
from durable_store_backends.sqlite import SqliteBackend
from tests.filled import ODD_IDS, fill, records
from tests.test_cli import ToldHere, on_a_terminal

KEY = CheckpointKey("g", 0, "o-0")
STATES: list[dict[str, Any]] = [
    {"messages": [], "budget": {"dollars": 0.5, "turns": 1}, "plan": {"a": {"b": 1}}},
    {"messages": ["one"], "budget": {"dollars": 0.75, "turns": 1}, "plan": {"a": {"b": 1}}},
    {"messages": ["one", "\x1b[31mtwo"], "budget": {"dollars": 1.0, "turns": 2}, "plan": {"c": {"b": 1}}},
]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


@pytest.fixture
def store(url: str) -> Store:
    """One run that is under way, three steps of it."""
    store = open_store(url)
    run = store.resume("g", "o-0", keep=None)
    for state in STATES:
        run.commit(state, meta={"of": "the run"})
    return store


def test_diff_shows_the_last_change_and_that_between_any_two_steps(url: str, store: Store) -> None:
    assert ToldHere("diff", url, "g/0/o-0").out == (
        "~\t/budget/dollars\t0.75\t1.0\n"
        "~\t/budget/turns\t1\t2\n"
        '+\t/messages/1\t"\\u001b[31mtwo"\n'
        '-\t/plan/a\t{"b": 1}\n'
        '+\t/plan/c\t{"b": 1}\n'
    )
    assert ToldHere("diff", url, "g/0/o-0", "0", "1").out == '~\t/budget/dollars\t0.5\t0.75\n+\t/messages/0\t"one"\n'
    assert ToldHere("diff", url, "g/0/o-0", "1", "1").out == "g/0/o-0: steps 1 and 1 hold the same state\n"
    for before in range(3):
        for after in range(3):
            patch = json.loads(ToldHere("diff", url, "g/0/o-0", str(before), str(after), "--json").out)
            assert jsonpatch.apply_patch(STATES[before], patch) == STATES[after]
    assert store.latest(KEY)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("columns", [80, 140])
def test_diff_on_a_terminal_is_a_tree_and_coloured(url: str, columns: int) -> None:
    seen = on_a_terminal(["diff", url, "g/0/o-0", "1", "2"], columns)
    assert "\x1b[1mbudget\x1b[0m\r\n\x1b[33m  ~ dollars: 0.75 → 1.0\x1b[0m\r\n\x1b[33m  ~ turns: 1 → 2" in seen
    assert '\x1b[32m  + 1: "\\u001b[31mtwo"' in seen


def test_rewind_commits_an_earlier_state_and_refuses_the_run_that_is_under_way(url: str, store: Store) -> None:
    run = store.resume("g", "o-0")
    assert ToldHere("rewind", url, "g/0/o-0", "--to", "1").out == "g/0/o-0 step 3 is step 1 again\n"
    newest = store.latest(KEY)
    assert newest
    assert (newest.step, newest.state, newest.meta) == (3, STATES[1], {"of": "the run"})
    with pytest.raises(CheckpointConflict):
        run.commit({})
    assert len(store.history(KEY)) == 4, "nothing was pruned"
    assert json.loads(ToldHere("rewind", url, "g/0/o-0", "--to", "0", "--json").out)["step"] == 4


def test_fork_begins_a_key_in_the_next_episode_or_one_that_is_under_way(url: str, store: Store) -> None:
    store.resume("g", "o-0").finish()
    assert ToldHere("fork", url, "g/0/o-0", "g/1/o-0", "--step", "1").out == "g/1/o-0 step 0 is g/0/o-0 step 1\n"
    assert ToldHere("fork", url, "g/0/o-0", "g/1/o-0.child.0").status == 0
    run = store.resume("g", "o-0")
    assert (run.key.episode_id, run.state, run.root) == (1, STATES[1], "o-0")


@pytest.mark.parametrize("goals", [[], ["--goal", "g"]])
def test_prune_removes_what_it_says_and_only_when_it_is_told_to(url: str, store: Store, goals: list[str]) -> None:
    before = records(store.backend)
    told = ToldHere("prune", url, *goals, "--keep", "1", "--dry-run")
    assert told.out == "g/0/o-0\t1-0\nwould remove 2 steps of 1 key\n"
    told = ToldHere("prune", url, *goals, "--keep", "1", "--dry-run", "--json")
    [row] = json.loads(told.out)["keys"]
    assert (row["key"], row["steps"], json.loads(told.out)["removed"]) == ("g/0/o-0", [0, 1], False)
    assert records(store.backend) == before
    assert ToldHere("prune", url, *goals, "--keep", "1", "-y").out == "removed 2 steps of 1 key\n"
    assert [info.step for info in store.history(KEY)] == [2]
    assert ToldHere("prune", url, *goals, "--keep", "1").out == "removed 0 steps of 0 keys\n"


def test_prune_takes_only_what_has_finished_or_is_old(url: str, store: Store) -> None:
    assert ToldHere("prune", url, "--keep", "1", "--finished", "-y").out == "removed 0 steps of 0 keys\n"
    old = CheckpointKey("old", 0, "a")
    for step, days in enumerate((30, 20, 10)):
        record = encode(old, step, b"{}", writer="w")
        then = timestamp(datetime.now(UTC) - timedelta(days=days)).encode()
        at = record.index(b'"saved_at":"') + 12
        head = record[65:at] + then + record[at + 27 :]
        store.backend.save(old, step, hash_of(head) + b" " + head)
    for age, removed in (("11d", "0 steps of 0 keys"), ("2w", "0 steps of 0 keys"), ("9d", "2 steps of 1 key")):
        assert ToldHere("prune", url, "--keep", "1", "--older-than", age, "-y").out == f"removed {removed}\n"
    store.resume("g", "o-0").finish()
    assert ToldHere("prune", url, "--keep", "1", "--finished", "-y").out == "removed 3 steps of 1 key\n"


def hash_of(rest: bytes) -> bytes:
    import hashlib  # noqa: PLC0415

    return hashlib.sha256(rest).hexdigest().encode()


def test_prune_leaves_a_key_that_it_cannot_read_and_tells(url: str, store: Store) -> None:
    broken = CheckpointKey("broken", 0, "a")
    for step in range(3):
        store.backend.save(broken, step, b"")
    told = ToldHere("prune", url, "--keep", "1", "-y")
    assert told.status == 1
    assert told.out == "removed 2 steps of 1 key\n"
    assert told.err.startswith(
        "durable-store: 1 key could not be pruned; the first: broken/0/a: all of its records are"
    )
    assert store.backend.steps(broken) == [2, 1, 0]


def test_rm_removes_an_episode_or_a_goal(url: str, store: Store) -> None:
    fill(store, 3)
    everything = records(store.backend)
    assert "would remove" in ToldHere("rm", url, "g", "--dry-run").out
    assert records(store.backend) == everything
    assert ToldHere("rm", url, "g", "--episode", "0", "-y").out == "removed 3 steps of 1 key\n"
    assert [episode.status for episode in store.episodes("g")] == ["deleted"]
    assert ToldHere("rm", url, "G-1", "-y").status == 0
    assert {key.goal_id for key in store.keys()} == {key.goal_id for key, _ in everything} - {"g", "G-1"}


def answered(answer: bytes | signal.Signals, *args: str) -> tuple[int, str]:
    """The status of a command that is answered on a terminal, and what it printed there."""
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "durable_store.cli", *args]
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child) as asking:
        os.close(child)
        seen = b""
        while b"[y/N]" not in seen:
            seen += os.read(parent, 1000)
        for _ in range(3):
            if isinstance(answer, bytes):
                os.write(parent, answer)
            else:
                asking.send_signal(answer)
            # A signal between the question and the read is noticed behind the read: a person presses Ctrl-C again.
            with contextlib.suppress(subprocess.TimeoutExpired):
                asking.wait(10)
                break
        else:
            asking.kill()
        seen += os.read(parent, 1000)
        os.close(parent)
    return asking.returncode, seen.decode()


@pytest.mark.parametrize("answer", [b"n\n", b"\n", b"\x04", signal.SIGINT])
def test_what_is_not_confirmed_is_not_removed(url: str, store: Store, answer: bytes | signal.Signals) -> None:
    status, seen = answered(answer, "rm", url, "g")
    assert "remove 3 steps of 1 key, for good? [y/N]" in seen
    assert status == (1 if answer in (b"n\n", b"\n") else 130)
    assert seen.endswith(("nothing was removed\r\n", "stopped\r\n"))
    assert "Traceback" not in seen
    assert len(store.history(KEY)) == 3


def test_what_is_confirmed_is_removed(url: str, store: Store) -> None:
    status, seen = answered(b"y\n", "prune", url, "--keep", "1")
    assert (status, "removed 2 steps of 1 key" in seen) == (0, True)
    assert len(store.history(KEY)) == 1


def test_episodes_are_listed_newest_first(url: str, store: Store) -> None:
    store.resume("g", "o-0").finish({"found": 42})
    store.start_episode("g")
    newest, oldest = json.loads(ToldHere("episodes", url, "g", "--json").out)
    assert (newest["episode_id"], newest["status"], newest["root"], newest["ended"]) == (1, "running", "", None)
    assert (oldest["episode_id"], oldest["status"], oldest["root"], oldest["result"]) == (
        0,
        "finished",
        "o-0",
        {"found": 42},
    )
    lines = ToldHere("episodes", url, "g").out.splitlines()
    assert lines[0] == "EPISODE\tSTATUS\tROOT\tSTARTED\tENDED\tRESULT"
    assert [line.split("\t")[:2] for line in lines[1:]] == [["1", "running"], ["0", "finished"]]
    for columns in (80, 140):
        assert "\x1b[32mfinished" in on_a_terminal(["episodes", url, "g"], columns)


def test_stats_count_all_of_a_store(url: str, store: Store) -> None:
    fill(store, 12)
    everything = {place: record for place, record in records(store.backend).items() if place[0].checkpoint_id[0] != "@"}
    keys = list(store.keys())
    told = json.loads(ToldHere("stats", url, "--json").out)
    assert (told["goals"], told["keys"], told["steps"]) == (13, len(keys), len(everything))
    assert told["episodes"] == len({(key.goal_id, key.episode_id) for key in keys})
    assert told["size"] == sum(map(len, everything.values()))
    sizes = {str(key): sum(len(record) for (there, _), record in everything.items() if there == key) for key in keys}
    assert [row["size"] for row in told["largest"]] == sorted(sizes.values(), reverse=True)[:10]
    assert all(sizes[row["key"]] == row["size"] for row in told["largest"])
    lines = ToldHere("stats", url).out.splitlines()
    assert lines[0].startswith(f"13 goals, {told['episodes']} episodes, {len(keys)} keys, {len(everything)} steps, ")
    assert len(lines) == 12


def test_episodes_and_stats_show_all_that_can_be_read(tmp_path: Path) -> None:
    files = tmp_path / "files"
    with open_store(files) as store:
        for number in range(3):
            run = store.resume("g", "o-0")
            run.commit(number)
            run.finish()
        for number in range(3):
            store.resume("other", "o-0", keep=None).commit(number)
    (files / "g" / "000000001" / "%40episode" / "0000000000000001.ckpt").write_bytes(b"")
    told = ToldHere("episodes", files, "g")
    assert told.status == 0
    assert [line.split("\t")[:2] for line in told.out.splitlines()[1:]] == [
        ["2", "finished"],
        ["1", "damaged"],
        ["0", "finished"],
    ]
    refused = files / "g" / "000000002" / "%40episode" / "0000000000000001.ckpt"
    refused.unlink()
    refused.mkdir()
    told = ToldHere("episodes", files, "g", "--json")
    assert told.status == 1
    assert told.err.startswith(f"durable-store: of 3 episodes 1 could not be read; the first: cannot read {refused}: ")
    assert [row["status"] for row in json.loads(told.out)] == ["unavailable", "damaged", "finished"]
    start = files / "other" / "000000000" / "%40episode" / "0000000000000000.ckpt"
    start.unlink()
    start.mkdir()
    told = ToldHere("episodes", files, "other", "--json")
    assert (told.status, [row["status"] for row in json.loads(told.out)]) == (1, ["unavailable"])
    refused = files / "other" / "000000000" / "o-0" / "0000000000000001.ckpt"
    refused.unlink()
    refused.mkdir()
    told = ToldHere("stats", files)
    assert told.status == 1
    assert told.out.startswith("2 goals, 4 episodes, 4 keys, 9 steps, ")
    assert told.err.startswith(f"durable-store: 1 place could not be read; the first: cannot read {refused}: ")


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("args", "status", "says"),
    [
        (["diff", "g/0/nobody"], 1, "no checkpoints under g/0/nobody; goal 'g' has g/0/o-0"),
        (["diff", "g/0/o-0", "0", "7"], 1, "g/0/o-0 has no step 7 (the steps that are there, for A and B: 2-0)"),
        (["diff", "g/0/o-0", "7"], 1, "g/0/o-0 has no step 7"),
        (["diff", "nothing"], 2, "nothing"),
        (["rewind", "g/0/o-0", "--to", "7"], 1, "g/0/o-0 has no step 7"),
        (["rewind", "g/0/nobody", "--to", "1"], 1, "g/0/nobody has no checkpoints to rewind: see `durable-store ls`"),
        (["rewind", "g/1/o-0", "--to", "1"], 1, "episode 1 of goal 'g' was never started"),
        (["rewind", "g/0/o-0"], 2, "Missing option '--to'"),
        (["fork", "g/0/o-0", "g/0/o-0"], 1, "g/0/o-0 is not empty: a fork begins a key"),
        (["fork", "g/0/o-0", "g/5/o-0"], 1, "episode 5 of goal 'g' was never started"),
        (["fork", "g/0/nobody", "g/0/x"], 1, "g/0/nobody has no checkpoints to fork from"),
        (["prune"], 2, "Missing option '--keep'"),
        (["prune", "--keep", "0"], 2, "greater than or equal to 1"),
        (["prune", "--keep", "1"], 2, "to remove 2 steps of 1 key say so: -y"),
        (["prune", "--keep", "1", "--older-than", "soon"], 2, "an age is a number and a unit, s m h d or w, as in 7d"),
        (["prune", "--keep", "1", "--older-than", "9999999w"], 2, "'9999999w' is longer ago than there are dates"),
        (["rm", "g"], 2, "to remove 3 steps of 1 key, for good say so: -y"),
        (["rm", "nobody", "-y"], 1, "goal 'nobody' has no checkpoints: see `durable-store ls`"),
        (["rm", "g", "--episode", "3", "-y"], 1, "goal 'g' has no checkpoints in episode 3"),
        (["episodes", "nobody"], 1, "goal 'nobody' has no episodes: see `durable-store ls`"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line_and_changes_nothing(
    args: list[str], status: int, says: str, url: str, store: Store
) -> None:
    before = records(store.backend)
    told = ToldHere(args[0], url, *args[1:])
    assert told.status == status
    assert says in told.error
    assert records(store.backend) == before


def test_a_store_that_is_not_there_or_is_empty_is_told(tmp_path: Path) -> None:
    for args in (["stats"], ["prune", "--keep", "1"], ["episodes", "g"], ["rm", "g"]):
        told = ToldHere(args[0], f"sqlite:///{tmp_path}/nothing.db", *args[1:])
        assert (told.status, told.error) == (1, f"durable-store: there is no store at {tmp_path}/nothing.db\n")
    (tmp_path / "empty").mkdir()
    assert ToldHere("stats", tmp_path / "empty").out == "0 goals, 0 episodes, 0 keys, 0 steps, 0 bytes\n"


def test_a_fork_that_is_refused_has_started_no_episode(url: str, store: Store) -> None:
    store.save(CheckpointKey("g", 1, "o-0"), 0, "a stranger's")
    told = ToldHere("fork", url, "g/0/o-0", "g/1/o-0")
    assert (told.status, told.error) == (1, "durable-store: g/1/o-0 is not empty: a fork begins a key\n")
    assert [episode.id for episode in store.episodes("g")] == [0]
    told = ToldHere("fork", url, "g/0/o-0", "g/1/o-1", "--step", "7")
    assert told.status == 1
    assert [episode.id for episode in store.episodes("g")] == [0]


def test_goals_are_taken_as_ls_prints_them(url: str, store: Store) -> None:
    for goal in ODD_IDS:
        store.resume(goal, "o-0").commit({})
    keys = [line.split("\t")[0] for line in ToldHere("ls", url).out.splitlines()[1:]]
    assert len(keys) == len(ODD_IDS) + 1
    told = ToldHere("rm", url, "a%2fb", "-y")
    assert told.out == "removed 1 step of 1 key\n"
    assert {key.goal_id for key in store.keys()} == {*ODD_IDS, "g"} - {"a/b"}
    for key in keys:
        if key != "a%2fb/0/o-0":
            assert ToldHere("episodes", url, "--", key.partition("/")[0]).status == 0, key
    assert "is no goal as a key shows it" in ToldHere("rm", url, "a/b", "-y").error


@pytest.mark.parametrize("command", [["verify"], ["copy", "{}/target"], ["prune", "--keep", "1"]])
@pytest.mark.usefixtures("store")
def test_a_goal_that_is_not_there_is_told(command: list[str], url: str, tmp_path: Path) -> None:
    told = ToldHere(command[0], url, *(part.format(tmp_path) for part in command[1:]), "--goal", "nobody")
    assert (told.status, told.err) == (
        1,
        "durable-store: there is no goal 'nobody' in this store: see `durable-store ls`\n",
    )


def test_without_any_stdin_it_says_what_to_do(url: str, store: Store) -> None:
    command = f"{sys.executable} -m durable_store.cli prune {url} --keep 1 <&-"
    told = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)  # noqa: S602
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert "say so: -y" in told.stderr
    assert len(store.history(KEY)) == 3


def test_prune_leaves_nothing_without_its_bases_wherever_it_is_cut_off() -> None:
    class Ends(MemoryBackend):
        left = 0

        def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
            super().prune(key, list(steps)[: self.left])

    for left in range(20):
        backend = Ends()
        store = Store(backend)
        with store.resume("g", "o-0", keep=None, initial={"log": ["-" * 9000]}) as run:
            for number in range(20):
                run.commit({"log": [*run.state["log"], f"{number} " * 50]})
        backend.left = left
        store.prune(KEY, keep=2)
        assert all(store.load(KEY, info.step) for info in store.history(KEY))


def test_prune_goes_on_past_a_key_that_the_storage_refuses(tmp_path: Path) -> None:
    with open_store(tmp_path / "files") as store:
        for goal in ("a", "b", "c"):
            run = store.resume(goal, "o-0", keep=None)
            for number in range(4):
                run.commit(number)
    record = tmp_path / "files" / "b" / "000000000" / "o-0" / "0000000000000001.ckpt"
    record.unlink()
    record.mkdir()
    told = ToldHere("prune", tmp_path / "files", "--keep", "1", "-y")
    assert told.status == 1
    assert told.out == "removed 7 steps of 3 keys\n"
    assert told.err.startswith("durable-store: 1 key could not be pruned; the first: cannot remove ")
    with open_store(tmp_path / "files") as store:
        assert {goal: store.backend.steps(CheckpointKey(goal, 0, "o-0")) for goal in "abc"} == {
            "a": [3],
            "b": [3, 1, 0],
            "c": [3],
        }
    told = ToldHere("prune", tmp_path / "files", "--keep", "1", "--finished", "-y")
    assert (told.status, told.out) == (0, "removed 0 steps of 0 keys\n")
    (tmp_path / "files" / "a" / "000000000" / "%40episode" / "0000000000000000.ckpt").write_bytes(b"")
    assert ToldHere("prune", tmp_path / "files", "--keep", "1", "--finished", "-y").status == 1


def test_a_prune_that_is_stopped_tells_all_that_it_has_removed(tmp_path: Path) -> None:
    with open_store(tmp_path / "files") as store:
        for number in range(3000):
            key = CheckpointKey("g", 0, f"a-{number}")
            for step in range(2):
                store.backend.save(key, step, encode(key, step, b"1", writer="w"))
    command = [sys.executable, "-m", "durable_store.cli", "prune", str(tmp_path / "files"), "--keep", "1", "-y"]
    first = tmp_path / "files" / "g" / "000000000" / "a-0" / "0000000000000000.ckpt"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as pruning:
        while first.exists():
            time.sleep(0.001)
        pruning.send_signal(signal.SIGINT)
        out, err = pruning.communicate(timeout=60)
    with open_store(tmp_path / "files") as store:
        gone = sum(len(store.backend.steps(key)) == 1 for key in store.keys())
    assert 0 < gone < 3000
    assert out == f"removed {gone:,} step{'s' * (gone > 1)} of {gone:,} key{'s' * (gone > 1)}\n"
    assert (pruning.returncode, err) == (130, "durable-store: stopped\n")


def test_rm_asks_about_all_that_it_removes(url: str, store: Store) -> None:
    fill(store, 1)
    dry = ToldHere("rm", url, ODD_IDS[0], "--dry-run").out.splitlines()[-1]
    assert ToldHere("rm", url, ODD_IDS[0], "-y").out == dry.replace("would remove", "removed") + "\n"


def test_an_rm_that_is_stopped_tells_all_that_it_has_removed_and_leaves_no_key_half_done(tmp_path: Path) -> None:
    each, keys = 300, 60
    for number in range(keys):
        directory = tmp_path / "files" / "g" / "000000000" / f"a-{number}"
        directory.mkdir(parents=True)
        for step in range(each):
            (directory / f"{step:016d}.ckpt").touch()
    command = [sys.executable, "-m", "durable_store.cli", "rm", str(tmp_path / "files"), "g", "-y"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as removing:
        directories = list((tmp_path / "files" / "g" / "000000000").iterdir())
        while removing.poll() is None and all(any(directory.iterdir()) for directory in directories):
            time.sleep(0.001)
        removing.send_signal(signal.SIGINT)
        out, err = removing.communicate(timeout=60)
    with open_store(tmp_path / "files") as store:
        left = [len(store.backend.steps(key)) for key in store.keys()]
    gone = keys - len(left)
    assert 0 < gone < keys
    assert set(left) == {each}
    assert out == f"removed {each * gone:,} steps of {gone} key{'s' * (gone > 1)}\n"
    assert (removing.returncode, err) == (130, "durable-store: stopped\n")


def test_rm_goes_on_past_a_key_that_the_storage_refuses(tmp_path: Path) -> None:
    with open_store(tmp_path / "files") as store:
        store.resume("g", "o-0").commit(0)
        for child in "abc":
            run = store.resume("g", child, episode_id=0, keep=None)
            for number in range(4):
                run.commit(number)
    record = tmp_path / "files" / "g" / "000000000" / "b" / "0000000000000001.ckpt"
    record.unlink()
    record.mkdir()
    told = ToldHere("rm", tmp_path / "files", "g", "-y")
    assert told.status == 1
    assert told.out == "removed 10 steps of 4 keys\n"
    assert told.err.startswith("durable-store: 1 key could not be removed; the first: cannot remove ")
    with open_store(tmp_path / "files") as store:
        assert {key: store.backend.steps(key) for key in store.keys()} == {CheckpointKey("g", 0, "b"): [3, 2, 1]}
        assert [episode.status for episode in store.episodes("g")] == ["deleted"]


def test_rm_removes_nothing_before_all_tombstones_are_there(tmp_path: Path) -> None:
    with open_store(tmp_path / "files") as store:
        for number in range(30):
            run = store.resume("g", "o-0")
            run.commit(number)
            run.finish()
    refused = tmp_path / "files" / "g" / "000000007" / "%40episode" / "0000000000000002.ckpt"
    refused.mkdir()
    told = ToldHere("rm", tmp_path / "files", "g", "-y")
    assert (told.status, told.out) == (1, "removed 0 steps of 0 keys\n")
    assert told.err.startswith(f"durable-store: cannot read {refused}: Is a directory")
    with open_store(tmp_path / "files") as store:
        assert len(list(store.keys())) == 30


def test_rm_works_on_many_keys_at_once(url: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for child in "abc":
        store.save(CheckpointKey("g", 0, child), 0, {})
    all_four = threading.Barrier(4, timeout=10)
    prune = SqliteBackend.prune

    def prune_together(self: SqliteBackend, key: CheckpointKey, steps: Collection[int]) -> None:
        if not key.checkpoint_id.startswith("@"):
            all_four.wait()
        prune(self, key, steps)

    monkeypatch.setattr(SqliteBackend, "prune", prune_together)
    assert ToldHere("rm", url, "g", "-y").out == "removed 6 steps of 4 keys\n"
