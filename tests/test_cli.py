import contextlib
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_store import CheckpointKey, Store, open_store
from durable_store.cli.app import run

KEY = CheckpointKey("PROJ-1", 0, "orchestrator-0")
HOSTILE = CheckpointKey("[bold red]x[/]\x1b[31m\x9b31m", 0, "a\nb\tc:smile:")
SGR = re.compile(r"\x1b\[[0-9;]*m")
SECRET = "hunter2"  # noqa: S105 - to be looked for where it must not be


class Told:
    """What the command printed, and its exit status."""

    def __init__(self, *args: str | Path, cwd: Path | None = None) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "durable_store.cli", *map(str, args)],
            capture_output=True,
            check=False,
            cwd=cwd,
            encoding="utf-8",
            timeout=60,
        )
        self.out = done.stdout
        self.err = done.stderr
        self.status = done.returncode

    @property
    def error(self) -> str:
        """The one line on stderr."""
        assert self.err.startswith("durable-store: ")
        assert self.err.count("\n") == 1
        assert self.out == ""
        return self.err


class ToldHere(Told):
    """The same of the command called in this process, which is there in a hundredth of the time."""

    def __init__(self, *args: str | Path) -> None:
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        stdin, sys.stdin = sys.stdin, io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                self.status = run([*map(str, args)])
        finally:
            sys.stdin = stdin
        self.out, self.err = (stream.buffer.getvalue().decode() for stream in (out, err))


def save_some(store: Store) -> None:
    """Three steps of a running run; one of a finished one; and a key that wants to be interpreted."""
    with store.resume(KEY.goal_id, KEY.checkpoint_id, initial={}) as run:
        for number in range(3):
            run.commit({"n": number}, meta={"why": "[red]test"} if number == 2 else None)
    with store.resume("done", "orchestrator-0", initial={}) as run:
        run.commit({"text": "\x1b[31m\x9b [bold]ü"})
        run.finish()
    store.save(HOSTILE, 0, {})


@pytest.fixture(params=["sqlite", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/runs.db" if request.param == "sqlite" else f"file://{tmp_path}/runs"
    with open_store(url) as store:
        save_some(store)
    return url


@pytest.fixture
def files(tmp_path: Path) -> Path:
    with open_store(tmp_path / "runs") as store:
        save_some(store)
    return tmp_path / "runs"


def record(files: Path, step: int) -> Path:
    return files / f"%50%52%4f%4a-1/000000000/orchestrator-0/{step:016d}.ckpt"


def test_ls_lists_each_key_with_its_latest_step_and_status(url: str) -> None:
    told = Told("ls", url)
    assert told.status == 0
    titles, *rows = [line.split("\t") for line in told.out.split("\n")[:-1]]
    assert titles == ["KEY", "STEP", "STEPS", "SIZE", "SAVED AT", "STATUS"]
    found = {row[0]: row[1:] for row in rows}
    assert found.keys() == {str(KEY), "done/0/orchestrator-0", str(HOSTILE)}
    assert found[str(KEY)][:3] == ["2", "3", "7"]
    assert found[str(KEY)][4] == "running"
    assert found["done/0/orchestrator-0"][4] == "finished"
    assert found[str(HOSTILE)][4] == "-"


def test_ls_as_json_is_one_array_and_takes_one_goal(url: str) -> None:
    rows = json.loads(Told("ls", url, "--json", "--goal", "PROJ-1").out)
    assert len(rows) == 1
    assert (rows[0]["key"], rows[0]["step"], rows[0]["steps"]) == (str(KEY), 2, 3)
    assert (rows[0]["status"], rows[0]["problem"]) == ("running", None)
    assert rows[0]["saved_at"].endswith("Z")
    assert {row["goal_id"] for row in json.loads(Told("ls", url, "--json").out)} == {"PROJ-1", "done", HOSTILE.goal_id}


def test_history_lists_the_steps_newest_first(url: str) -> None:
    titles, *rows = [line.split("\t") for line in Told("history", url, str(KEY)).out.splitlines()]
    assert [row[0] for row in rows] == ["2", "1", "0"]
    assert dict(zip(titles, rows[0], strict=True))["META"] == '{"why": "[red]test"}'
    as_json = json.loads(Told("history", url, str(KEY), "--json").out)
    assert [row["step"] for row in as_json] == [2, 1, 0]
    assert not any(row["damaged"] for row in as_json)


def test_show_prints_the_newest_state_or_that_of_a_step(url: str) -> None:
    told = Told("show", url, str(KEY))
    assert f"key\t{KEY}\nstep\t2\n" in told.out
    assert told.out.endswith('{\n  "n": 2\n}\n')
    newest = json.loads(Told("show", url, str(KEY), "--json").out)
    assert newest["state"] == {"n": 2}
    assert newest["meta"] == {"why": "[red]test"}
    assert newest.keys() >= {"key", "goal_id", "step", "saved_at", "writer", "size", "skipped"}
    assert json.loads(Told("show", url, str(KEY), "--step", "0", "--json").out)["state"] == {"n": 0}


def test_what_ls_prints_can_be_pasted_even_for_a_hostile_key(url: str) -> None:
    key = next(line.split("\t")[0] for line in Told("ls", url).out.split("\n") if "red" in line)
    assert json.loads(Told("show", url, key, "--json").out)["goal_id"] == HOSTILE.goal_id


def test_nothing_that_is_stored_acts_on_a_terminal(files: Path) -> None:
    for args in (
        ["ls"],
        ["ls", "--json"],
        ["show", "done/0/orchestrator-0"],
        ["show", "done/0/orchestrator-0", "--json"],
    ):
        out = Told(args[0], files, *args[1:]).out
        assert not set(out) & {"\x1b", "\x9b", "\r"}
        assert "[bold" in out


def on_a_terminal(args: list[str], columns: int) -> str:
    """What a terminal of that width gets to see."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR"}}
    command = [sys.executable, "-m", "durable_store.cli", *args]
    with subprocess.Popen(command, stdout=child, env={**environment, "TERM": "xterm-256color"}):
        os.close(child)
        return b"".join(chunks(parent)).decode()


def chunks(terminal: int) -> Iterator[bytes]:
    with contextlib.suppress(OSError):  # Linux says so when the other end is closed
        while chunk := os.read(terminal, 65536):
            yield chunk
    os.close(terminal)


@pytest.mark.parametrize("columns", [80, 140])
def test_on_a_terminal_there_is_a_table_with_colours_and_nothing_is_cut_off(files: Path, columns: int) -> None:
    seen = on_a_terminal(["ls", str(files)], columns)
    assert "\x1b[36mrunning" in seen
    titles, *lines = SGR.sub("", seen).split("\r\n")
    width = titles.index("STEP") - 2
    assert all(len(line) <= columns for line in lines)
    keys = "".join(line[:width] for line in lines).replace(" ", "")
    for key in (str(KEY), "done/0/orchestrator-0", str(HOSTILE).replace(" ", "")):
        assert key in keys


@pytest.mark.parametrize("columns", [50, 40, 30, 20])
def test_on_a_narrow_terminal_the_keys_stay_whole_and_other_columns_are_left_out(files: Path, columns: int) -> None:
    lines = SGR.sub("", on_a_terminal(["ls", str(files)], columns)).split("\r\n")
    end = next(number for number, line in enumerate(lines) if line.startswith("left out"))
    titles = lines[0].replace("SAVED AT", "SAVED_AT").split()
    left_out = " ".join(lines[end:]).partition("narrow:")[2].replace("SAVED AT", "SAVED_AT").replace(",", " ").split()
    assert titles[0] == "KEY"
    assert sorted([*titles, *left_out]) == ["KEY", "SAVED_AT", "SIZE", "STATUS", "STEP", "STEPS"]
    assert all(len(line) <= columns for line in lines)
    width = lines[0].index(titles[1]) - 2 if titles[1:] else columns
    keys = "".join(line[:width] for line in lines[:end]).replace(" ", "")
    for key in (str(KEY), "done/0/orchestrator-0", str(HOSTILE).replace(" ", "")):
        assert key in keys


def test_at_50_columns_the_time_alone_gives_way(files: Path) -> None:
    titles = SGR.sub("", on_a_terminal(["ls", str(files)], 50)).split("\r\n")[0]
    assert titles.split() == ["KEY", "STEP", "STEPS", "SIZE", "STATUS"]


def test_history_on_a_terminal_is_red_for_damaged_steps_alone(files: Path) -> None:
    red = "\x1b[1;31m"
    assert red not in on_a_terminal(["history", str(files), str(KEY)], 140)
    record(files, 1).write_bytes(b"")
    assert on_a_terminal(["history", str(files), str(KEY)], 140).count(red) == 1


@pytest.mark.parametrize(
    "args",
    [
        ["conformance", "sqlite:///exam.db", "--only", "DS-STEPS"],
        ["demo", "sqlite:///demo.db", "--kills", "1", "--turns", "4"],
    ],
    ids=lambda args: args[0],
)
def test_a_pipe_that_was_closed_is_told_by_its_own_status(args: list[str], tmp_path: Path) -> None:
    """And not by 1, which says that something failed."""
    command = [sys.executable, "-m", "durable_store.cli", *args]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
        assert process.wait(60) == 141


def test_in_a_pipe_there_are_no_colours_even_for_a_colourful_terminal(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for command in (["ls", str(files)], ["history", str(files), str(KEY)], ["show", str(files), str(KEY)], ["--help"]):
        assert "\x1b" not in Told(*command).out


def test_a_reader_that_leaves_early_is_no_error(files: Path) -> None:
    command = [sys.executable, "-m", "durable_store.cli", "ls", str(files)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["ls", "sqlit:///runs.db"], "sqlite://"),
        (["ls", "sqlite:///runs.db?colour=red"], "no option 'colour'"),
        (["ls", f"s3://me:{SECRET}@bucket/"], "URLs end up in logs"),
        (["ls", f"sqlite:///runs.db?password={SECRET}"], "URLs end up in logs"),
        (["ls", "runs.db"], "sqlite:///runs.db"),
        (["ls", ""], "store URL"),
        (["ls", "runs", "--goal", ""], "goal_id is empty"),
        (["ls", "runs", "--colour"], "--colour: see durable-store ls --help"),
        (["ls"], "Missing argument 'URL'"),
        (["remove", "runs"], "No such command 'remove'"),
        (["show", "runs", "PROJ-1"], "GOAL/EPISODE/CHECKPOINT"),
        (["show", "runs", "PROJ-1/00/orchestrator-0"], "PROJ-1/0/orchestrator-0"),
        (["show", "runs", "PROJ-1/0/@episode"], "belong to the store"),
        (["show", "runs", f"{'g' * 201}/0/orchestrator-0"], "200"),
        (["show", "runs", str(KEY), "--step", "-1"], "step must be from 0"),
        (["show", "runs", str(KEY), "--step", "two"], "'--step'"),
        (["demo", "memory://runs"], "no other process"),
        (["demo", "--kills", "5", "--turns", "10"], "at least 11 turns"),
        (["demo", "--kills", "0"], "'--kills'"),
    ],
)
def test_misuse_is_one_line_and_exit_status_2(args: list[str], says: str, files: Path) -> None:
    told = Told(*args, cwd=files.parent)
    assert told.status == 2
    assert says in told.error
    assert SECRET not in told.err


@pytest.mark.parametrize("url", ["sqlite:///no/where.db", "nowhere"])
@pytest.mark.parametrize("command", [["ls"], ["ls", "--json"], ["history", str(KEY)]])
def test_looking_at_a_store_that_is_not_there_says_so_and_creates_nothing(
    command: list[str], url: str, tmp_path: Path
) -> None:
    told = Told(command[0], url, *command[1:], cwd=tmp_path)
    assert told.status == 1
    assert "there is no store at " in told.error
    assert "where" in told.err
    assert not list(tmp_path.iterdir())


def test_an_empty_store_has_no_checkpoints_and_that_is_no_failure(tmp_path: Path) -> None:
    told = Told("ls", tmp_path)
    assert (told.status, told.out) == (0, f"no checkpoints in {tmp_path}\n")
    assert Told("ls", tmp_path, "--json").out == "[]\n"
    assert not list(tmp_path.iterdir())


def test_a_key_that_is_not_there_is_a_failure_that_names_those_that_are(files: Path) -> None:
    near = Told("history", files, "PROJ-1/1/orchestrator-0")
    assert near.status == 1
    assert str(KEY) in near.error
    far = Told("show", files, "PROJ-2/0/orchestrator-0")
    assert far.status == 1
    assert "done/0/orchestrator-0" in far.error


def test_a_step_that_is_not_there_is_a_failure_that_names_those_that_are(files: Path) -> None:
    told = Told("show", files, str(KEY), "--step", "7")
    assert told.status == 1
    assert "has no step 7 (the steps that are there, for --step: 2-0)" in told.error


def test_a_file_that_is_no_database_is_a_failure_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "runs.db").write_text("no database, but somebody's text")
    for command in (["ls"], ["show", str(KEY)], ["demo"]):
        told = Told(command[0], "sqlite:///runs.db", *command[1:], cwd=tmp_path)
        assert told.status == 1
        assert "runs.db" in told.err
        assert told.err.count("\n") == 1
    assert (tmp_path / "runs.db").read_text() == "no database, but somebody's text"


def test_a_damaged_record_is_shown_as_damaged_and_never_as_absent(files: Path) -> None:
    newest = record(files, 2)
    newest.write_bytes(newest.read_bytes()[:-1] + b"!")
    row = json.loads(Told("ls", files, "--json", "--goal", "PROJ-1").out)[0]
    assert (row["status"], row["step"], row["steps"]) == ("damaged", 2, 3)
    assert "do not match its digest" in row["problem"]
    for args in ([], ["--step", "2"]):
        told = Told("show", files, str(KEY), *args)
        assert told.status == 1
        assert "damaged" in told.error
    assert json.loads(Told("show", files, str(KEY), "--step", "1", "--json").out)["state"] == {"n": 1}


def put_a_directory_in_the_place_of(there: Path) -> None:
    there.unlink()
    there.mkdir()


def test_ls_lists_the_other_keys_when_a_record_cannot_be_read_and_fails_at_its_end(files: Path) -> None:
    put_a_directory_in_the_place_of(record(files, 2))
    told = Told("ls", files, "--json")
    rows = {row["key"]: row for row in json.loads(told.out)}
    assert rows.keys() == {str(KEY), "done/0/orchestrator-0", str(HOSTILE)}
    assert (rows[str(KEY)]["status"], rows[str(KEY)]["step"], rows[str(KEY)]["steps"]) == ("unavailable", 2, 3)
    assert "a directory is in the place of a record" in rows[str(KEY)]["problem"]
    assert rows["done/0/orchestrator-0"]["status"] == "finished"
    assert told.status == 1
    assert told.err.startswith("durable-store: of 3 keys 1 could not be read in full; the first: cannot read ")
    assert told.err.count("\n") == 1
    assert Told("ls", files, "--goal", "done").status == 0


def test_ls_tells_that_an_episode_cannot_be_read_and_lists_its_keys_all_the_same(files: Path) -> None:
    put_a_directory_in_the_place_of(record(files, 0).parent.parent / "%40episode" / "0000000000000000.ckpt")
    told = Told("ls", files, "--json", "--goal", "PROJ-1")
    row = json.loads(told.out)[0]
    assert (row["status"], row["step"], row["size"]) == ("episode unavailable", 2, 7)
    assert "a directory is in the place of a record" in row["problem"]
    assert told.status == 1


def test_a_refusal_of_the_storage_is_one_line_even_when_the_path_has_two(files: Path) -> None:
    there = files.rename(files.with_name("ru\nns"))
    put_a_directory_in_the_place_of(record(there, 2))
    for command in ("show", "history"):
        told = Told(command, there, str(KEY))
        assert told.status == 1
        assert "ru\\nns" in told.error
    told = Told("ls", there)
    assert (told.status, told.err.count("\n"), told.out.count("\n")) == (1, 1, 4)


def test_ls_says_on_stderr_that_fencing_is_off(tmp_path: Path) -> None:
    url = f"file+fsspec://{tmp_path}/runs?fencing=off"
    for args in ([], ["--json"]):
        told = Told("ls", url, *args)
        assert told.err == "durable-store: fencing is off in this store: two writers of one step can both win\n"
        assert told.status == 0
    with open_store(url) as store:
        save_some(store)
    assert Told("ls", url).out.count("\n") == 4
    assert {row["key"] for row in json.loads(Told("ls", url, "--json").out)} >= {str(KEY), str(HOSTILE)}
    assert Told("ls", tmp_path).err == ""


def test_history_marks_a_damaged_header(files: Path) -> None:
    record(files, 1).write_bytes(b"")
    rows = Told("history", files, str(KEY)).out.splitlines()
    assert rows[2].split("\t")[0] == "1"
    assert rows[2].endswith("damaged")
    assert [row["damaged"] for row in json.loads(Told("history", files, str(KEY), "--json").out)] == [
        False,
        True,
        False,
    ]


def test_a_record_of_a_newer_format_asks_for_an_upgrade(files: Path) -> None:
    newest = record(files, 2)
    newest.write_bytes(newest.read_bytes().replace(b'{"v":1,', b'{"v":2,'))
    assert json.loads(Told("ls", files, "--json", "--goal", "PROJ-1").out)[0]["status"] == "unsupported"
    told = Told("show", files, str(KEY))
    assert told.status == 1
    assert "upgrade durable-store" in told.error


def test_help_comes_without_a_command_and_with_an_example_for_each() -> None:
    bare = Told()
    assert bare.status == 0
    for command in ("demo", "ls", "history", "show"):
        assert f"  {command} " in bare.out
        assert f"Example: durable-store {command}" in " ".join(Told(command, "--help").out.split())


def test_version_is_that_of_the_distribution() -> None:
    assert Told("--version").out == "durable-store 0.1.0\n"


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_libraries_the_command_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules['{missing}'] = None; from durable_store.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert done.returncode == 2
    assert done.stderr == f"durable-store: the command needs {missing}: pip install 'durable-store[cli]'\n"


def test_importing_the_library_loads_nothing_of_the_command() -> None:
    code = "import sys, durable_store; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert not {"typer", "rich", "click", "durable_store.cli"} & set(loaded)


@pytest.mark.parametrize(
    ("redirection", "status"), [("| true", 141), ("> /dev/full", 1), (">&-", 0)], ids=["pipe", "full", "closed"]
)
@pytest.mark.parametrize(
    "command",
    [
        "ls files",
        "ls files --json",
        "episodes files many",
        "stats files",
        "verify files",
        "verify files --json",
        "diff files many/0/o-0",
        "copy files copied",
        "--help",
    ],
)
def test_output_that_nobody_can_have_is_one_line_at_most_and_a_status(
    command: str, redirection: str, status: int, tmp_path: Path
) -> None:
    with open_store(tmp_path / "files") as store:
        run = store.resume("many", "o-0", keep=None)
        for number in range(2):
            run.commit(dict.fromkeys(map(str, range(3000)), number))
    shell = f"set -o pipefail; {sys.executable} -m durable_store.cli {command} {redirection}"
    done = subprocess.run(
        ["/bin/bash", "-c", shell],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # else nothing is left to be written at the end
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    assert done.stderr.count("\n") <= 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("redirection", ["2> /dev/full", "2>&-"])
def test_what_nobody_can_read_on_stderr_changes_no_status(redirection: str, tmp_path: Path) -> None:
    save_one = f"from durable_store import *; open_store('{tmp_path}/files').save(CheckpointKey('g', 0, 'a'), 0, 1)"
    subprocess.run([sys.executable, "-c", save_one], check=True)
    for command, status in (
        ("ls", 2),
        (f"ls {tmp_path}/nothing", 1),
        (f"ls {tmp_path}/files", 0),
        (f"verify {tmp_path}/files --json", 0),
    ):
        shell = f"{sys.executable} -m durable_store.cli {command} {redirection}"
        assert subprocess.run(["/bin/bash", "-c", shell], check=False, timeout=60).returncode == status, command


def told_by_shell(command: str, unbuffered: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    shell = ["/bin/bash", "-c", command]
    return subprocess.run(shell, env=env, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_was_done_is_not_told_as_failed_where_only_its_output_is_lost(unbuffered: str, tmp_path: Path) -> None:
    with open_store(tmp_path / "files") as store:
        run = store.resume("g", "o-0")
        run.commit(0)
        run.commit(1)
    shell = f"{sys.executable} -m durable_store.cli rewind {tmp_path}/files g/0/o-0 --to 0 > /dev/full"
    told = told_by_shell(shell, unbuffered)
    assert told.stderr == "durable-store: what it prints could not be written: No space left on device\n"
    assert told.returncode == 1
    with open_store(tmp_path / "files") as store:
        assert store.resume("g", "o-0").step == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("redirection", ["| true", "> /dev/full"])
def test_what_went_wrong_is_told_also_where_its_output_is_lost(
    redirection: str, unbuffered: str, tmp_path: Path
) -> None:
    with open_store(tmp_path / "files") as store:
        store.save(CheckpointKey("g", 0, "a"), 0, 1)
    (tmp_path / "files/g/000000000/a/0000000000000000.ckpt").unlink()
    (tmp_path / "files/g/000000000/a/0000000000000000.ckpt").mkdir()
    told = told_by_shell(
        f"set -o pipefail; {sys.executable} -m durable_store.cli rm {tmp_path}/files g -y {redirection}", unbuffered
    )
    assert told.stderr.startswith("durable-store: 1 key could not be removed; the first: cannot remove ")
    assert told.returncode == 1
