"""The exam as a command, in processes of its own, and what the plugin prints for the classes of pytest."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from durable_store import CheckpointKey, StoreUnavailable
from durable_store.backend import open_backend
from durable_store_backends.memory import MemoryBackend
from durable_store_conformance.exam import CASES, CLAUSES
from durable_store_conformance.fresh_stores import FreshStores, named
from tests.test_cli import SGR, Told, on_a_terminal

KEY = CheckpointKey("goal", 0, "agent-0")
UNREACHABLE = "s3://bucket/prefix?endpoint_url=http://127.0.0.1:1&max_attempts=1"
NO_PROMISES = "import sys; from durable_store.cli import main; sys.argv[1:] = {args!r}; {before}; sys.exit(main())"


def told_after(before: str, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What the command prints in an interpreter that something was done to."""
    code = NO_PROMISES.format(args=["conformance", *args], before=before)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, cwd=cwd, text=True, timeout=120
    )


@pytest.mark.parametrize("url", ["sqlite:///runs.db", "./new/directory", "file+fsspec://{}/runs?fencing=off"])
def test_what_holds_is_exit_status_0_and_nothing_is_left(url: str, tmp_path: Path) -> None:
    told = Told(
        "conformance", url.replace("{}", f"{tmp_path}/{{}}"), "--only", "DS-SAVE", "--only", "ds-id-01", cwd=tmp_path
    )
    assert told.status == 0, told.err
    rows = [line.split() for line in told.out.splitlines() if line.startswith("  DS-")]
    chosen = [clause.id for clause in CLAUSES if clause.id.startswith(("DS-SAVE", "DS-ID-01"))]
    assert [row[0] for row in rows] == chosen
    assert all(row[-3] == "held" for row in rows)
    assert f"No grade: the exam was sat in part, {len(chosen)} of {len(CLAUSES)} clauses\n" in told.out
    assert "What this did not show:\n  - that a record survives a power cut" in told.out
    assert [line.partition(":")[0] for line in told.err.splitlines()] == ["SAVE", "ID"]
    assert "\x1b" not in told.out + told.err
    if "fsspec" not in url:  # of a directory fsspec knows only what is in it
        assert not list(tmp_path.iterdir())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_clause_that_fails_is_exit_status_1_and_tells_what_was_promised_and_what_happened(tmp_path: Path) -> None:
    told = Told("conformance", "memory://", "--only", "DS-FRESH-01", "--only", "DS-SAVE-01", cwd=tmp_path)
    assert told.status == 1
    assert (
        "DS-FRESH-01 failed. The promise: When it returns, the checkpoint survives SIGKILL and power loss.\n"
        in told.out
    )
    assert (
        "      AssertionError: a fresh process does not find what another one has saved\n"
        "      assert None is not None\n      at fresh.py:" in told.out
    )
    assert ": assert found is not None, NOT_FOUND\n" in told.out
    assert "1 held, 1 failed" in told.out
    assert "lives in the memory of one process only" in " ".join(told.out.split())
    assert told.err == "SAVE: 1 held of 1 cases\nFRESH: 1 failed of 1 cases\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["memory://", "--only", "DS-SAV-01"], "the groups are DS-SAVE, DS-LATEST,"),
        (["runs.db"], "runs.db looks like a SQLite database: write sqlite:///runs.db"),
        (["sqlit:///runs.db"], "no backend for sqlit://"),
        (["s3://me:hunter2@bucket/"], "URLs end up in logs"),
        (["memory://", "--json", "no/where.json"], "'no/where.json'"),
        ([], "Missing argument 'URL'"),
    ],
)
def test_misuse_is_one_line_and_exit_status_2(args: list[str], says: str, tmp_path: Path) -> None:
    told = Told("conformance", *args, cwd=tmp_path)
    assert told.status == 2
    assert says in told.error
    assert "hunter2" not in told.err
    assert not list(tmp_path.iterdir())


def test_without_pytest_it_says_what_to_install(tmp_path: Path) -> None:
    told = told_after("sys.modules['pytest'] = None", "memory://", cwd=tmp_path)
    assert told.returncode == 2
    assert told.stderr == "durable-store: the exam needs pytest: pip install 'durable-store[conformance]'\n"


def test_storage_that_cannot_be_reached_is_exit_status_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    told = Told("conformance", UNREACHABLE, "--json", "exam.json", cwd=tmp_path)
    assert told.status == 3
    assert "the exam cannot begin" in told.error
    assert "127.0.0.1:1" in told.error
    written = json.loads((tmp_path / "exam.json").read_text())
    assert (written["exit_status"], written["grade"], written["backend"]) == (3, None, None)
    assert written["problem"] in told.err
    assert written["counts"]["not asked"] == len(CLAUSES)


def test_what_is_not_evaluable_is_exit_status_3_and_no_pass(tmp_path: Path) -> None:
    told = told_after("import os; del os.fork", "sqlite:///runs.db", "--only", "DS-FORK-01", cwd=tmp_path)
    assert told.returncode == 3
    assert "DS-FORK-01 not evaluable. The promise: " in told.stdout
    assert "NotEvaluable: this platform has no os.fork" in told.stdout


def test_pytest_that_breaks_down_is_exit_status_3(tmp_path: Path) -> None:
    before = (
        "from durable_store_conformance.command import Sitting;"
        "real = Sitting.pytest_runtest_protocol;"
        "Sitting.pytest_runtest_protocol ="
        " lambda self, item: item.no_such_thing if self.report.missed else real(self, item)"
    )
    told = told_after(before, "memory://", "--only", "DS-FRESH-01", "--only", "DS-RACE-01", cwd=tmp_path)
    assert told.returncode == 3, "and not 1, though a clause had failed before"
    progress, problem = told.stderr.splitlines()
    assert progress == "FRESH: 1 failed of 1 cases"
    assert problem.startswith("durable-store: pytest broke down: AttributeError: ")


def test_ctrl_c_tells_what_was_done_and_leaves_nothing(tmp_path: Path) -> None:
    args = ["conformance", "sqlite:///{}.db", "--only", "DS-SAVE", "--only", "DS-KILL", "--json", "../exam.json"]
    directory = tmp_path / "exam"
    directory.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "durable_store.cli", *args],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr
        assert process.stderr.readline().startswith("SAVE: ")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "durable-store: stopped\n"
    assert "  DS-SAVE-01 " in out
    assert "No grade: the exam was sat in part" in out
    written = json.loads((tmp_path / "exam.json").read_text())
    assert written["exit_status"] == 130
    assert {clause["result"] for clause in written["clauses"]} == {"held", "not asked"}
    assert not list(directory.iterdir())
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_json_has_all_there_is_and_on_stdout_nothing_else(tmp_path: Path) -> None:
    told = Told("conformance", "sqlite:///{}.db?timeout=5", "--only", "DS-SAVE-04", "--json", "-", cwd=tmp_path)
    written = json.loads(told.out)
    assert list(written)[:5] == ["url", "backend", "version", "exit_status", "problem"]
    assert (written["url"], written["version"]) == ("sqlite:///{}.db?timeout=5", "0.1.0")
    assert (written["exit_status"], written["problem"], written["grade"]) == (0, None, None)
    assert re.fullmatch(r"SqliteBackend\('.*/conformance-[0-9a-f]{8}-0000\.db'\)", written["backend"])
    assert [clause["id"] for clause in written["clauses"]] == [clause.id for clause in CLAUSES]
    asked = [clause for clause in written["clauses"] if clause["result"] != "not asked"]
    assert [clause["id"] for clause in asked] == ["DS-SAVE-04"]
    assert all(case["result"] == "held" and 0 < case["seconds"] < 60 for case in asked[0]["cases"])
    assert not list(tmp_path.iterdir())


def test_the_settings_of_the_directory_and_of_the_environment_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\npython_classes = Nothing\n")
    (tmp_path / "conftest.py").write_text("raise SystemExit('conftest.py was run')\n")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k nothing")
    monkeypatch.setenv("PYTEST_PLUGINS", "no_such_plugin")
    before = sorted(tmp_path.iterdir())
    told = Told("conformance", "memory://", "--only", "DS-SAVE-01", cwd=tmp_path)
    assert (told.status, told.err) == (0, "SAVE: 1 held of 1 cases\n")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("columns", [80, 140])
def test_on_a_terminal_nothing_is_cut_off_and_results_have_colours(columns: int) -> None:
    seen = on_a_terminal(["conformance", "memory://", "--only", "DS-FRESH-01", "--only", "DS-LATEST"], columns)
    assert "\x1b[32mheld" in seen
    assert "\x1b[1;31mfailed" in seen
    lines = SGR.sub("", seen).split("\r\n")
    assert all(len(line) <= columns for line in lines)
    shown = " ".join(" ".join(lines).split())
    for words in ("DS-LATEST-02 latest is the highest step in any", "survives SIGKILL and power loss.", "power cut"):
        assert words in shown


def test_the_other_commands_load_neither_pytest_nor_the_suite() -> None:
    code = "import sys, durable_store.cli.app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert "durable_store.cli.conformance" in loaded
    assert not {module for module in loaded if module.startswith(("pytest", "_pytest", "durable_store_conformance"))}


@pytest.mark.prove
@pytest.mark.parametrize("url", ["sqlite:///runs.db", "runs"])
def test_a_good_backend_has_the_grade_full(url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "durable_store.cli", "conformance", url],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout
    assert f"Grade full: each of the {len(CLAUSES)} clauses held\n" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "fresh"),
    [
        ("sqlite:///runs.db", "sqlite:///runs-NAME.db"),
        ("sqlite:////tmp/a.b/runs.db?timeout=5", "sqlite:////tmp/a.b/runs-NAME.db?timeout=5"),
        ("s3://bucket", "s3://bucket/NAME"),
        ("s3://bucket/?region=x", "s3://bucket/NAME?region=x"),
        ("s3://bu.cket/a/b?endpoint_url=http://h:1/p.q", "s3://bu.cket/a/b/NAME?endpoint_url=http://h:1/p.q"),
        ("redis://localhost:6379/0", "redis://localhost:6379/0/NAME"),
        ("redis://localhost/0?prefix={}", "redis://localhost/0?prefix=NAME"),
        ("file:///tmp/dir/", "file:///tmp/dir/NAME"),
        ("memory://", "memory://NAME"),
        ("./dir", "./dir/NAME"),
        ("dir", "dir/NAME"),
        (".", "./NAME"),
        ("..", "../NAME"),
        ("/", "/NAME"),
        (".hidden", ".hidden/NAME"),
        ("what?/v1.d", "what?/v1-NAME.d"),
    ],
)
def test_the_name_of_a_fresh_store_has_its_place_in_any_url(url: str, fresh: str) -> None:
    assert named(url, "NAME") == fresh


def test_a_removal_that_ctrl_c_breaks_off_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    stores = FreshStores(f"sqlite:///{tmp_path}/{{}}.db")
    removal = stores.fresh()
    open_backend(removal.__enter__()).save(KEY, 0, b"record")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupted)
        with pytest.raises(KeyboardInterrupt):
            removal.__exit__(None, None, None)
    assert list(tmp_path.iterdir())
    stores.end()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_saved_in_a_fresh_store_is_pruned_also_when_its_clause_fails(*, fails: bool) -> None:
    stores = FreshStores("memory://")
    url = ""
    try:
        with stores.fresh() as url:
            backend = open_backend(url)
            for step in (3, 1, 2):
                backend.save(KEY, step, b"record")
            assert not fails
    except AssertionError:
        assert fails
    assert list(open_backend(url).keys()) == []
    assert stores.left == []


def test_what_cannot_be_removed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreUnavailable("no more")

    monkeypatch.setattr(MemoryBackend, "prune", fail)
    stores = FreshStores("memory://")
    with stores.fresh() as url:
        open_backend(url).save(KEY, 0, b"record")
    assert stores.left == [f"{url}: no more"]


def test_a_path_that_the_exam_has_not_named_is_never_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "precious"
    precious.touch()
    monkeypatch.setattr(MemoryBackend, "path", precious, raising=False)
    with FreshStores("memory://").fresh() as url:
        open_backend(url).save(KEY, 0, b"record")
    assert precious.exists()
    assert list(open_backend(url).keys()) == []


def test_of_what_is_beside_a_fresh_store_nothing_is_removed(tmp_path: Path) -> None:
    (tmp_path / "runs.db").write_text("somebody's")
    stores = FreshStores(f"sqlite:///{tmp_path}/runs.db")
    stores.try_out()
    with stores.fresh() as url, stores.fresh() as other:
        open_backend(url).save(KEY, 0, b"record")
        open_backend(other).save(KEY, 0, b"record")
        assert len(list(tmp_path.iterdir())) > 1
    stores.end()
    assert [path.name for path in tmp_path.iterdir()] == ["runs.db"]


_CLASSES = """
import os, pytest
from durable_store_conformance import StoreConformance

class Local(StoreConformance):
    @pytest.fixture
    def url(self, tmp_path):
        return f"memory://{tmp_path.name}"

class TestForgetful(Local):
    @pytest.fixture(autouse=True)
    def control(self, request, case):
        if "another process" in case.clause.needs:
            request.applymarker(pytest.mark.xfail)

class TestNowhere(StoreConformance):
    @pytest.fixture
    def url(self):
        pytest.skip("no server")

class TestForkless(Local):
    @pytest.fixture(autouse=True)
    def no_fork(self, monkeypatch):
        monkeypatch.delattr(os, "fork")

def test_of_something_else():
    pass
"""
_PART = "DS-FRESH-01 or DS-SAVE-01 or DS-FORK-01 or something_else"


def pytest_in(directory: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """What pytest tells there, as it is for an outsider: nobody has named the plugin that prints the grades."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def ran(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    (tmp_path / "test_mine.py").write_text(_CLASSES)
    done = pytest_in(tmp_path, *request.param)
    assert done.returncode == 1, done.stdout
    return done.stdout


@pytest.mark.parametrize("ran", [["-k", _PART], ["-k", _PART, "-n", "2"]], ids=["alone", "xdist"], indirect=True)
def test_pytest_ends_with_a_line_for_each_class(ran: str) -> None:
    lines = dict(re.findall(r"^test_mine\.py::(Test\w+): (.*)$", ran, re.MULTILINE))
    left = len(CASES) - 3
    in_part = f"no grade: the exam was sat in part, 3 of {len(CLAUSES)} clauses."
    of = f"{left} not asked of {len(CASES)} cases; {in_part}"
    assert sorted(lines) == ["TestForgetful", "TestForkless", "TestNowhere"]
    assert lines["TestForgetful"].startswith(f"1 held, 2 failed, {of} DS-FRESH-01: a fresh process does not find")
    assert lines["TestForkless"].startswith(f"1 held, 1 failed, 1 not evaluable, {of} DS-FRESH-01: ")
    assert lines["TestNowhere"] == f"0 held, 3 not evaluable, {of} 3 cases were skipped, which is no pass."


@pytest.mark.parametrize("ran", [["-k", "TestForkless and DS-FORK-01"]], indirect=True)
def test_what_is_not_evaluable_fails_in_pytest_with_its_reason(ran: str) -> None:
    assert "NotEvaluable: this platform has no os.fork" in ran
    assert "1 failed" in ran


_SHRUNK = """
import pytest
from durable_store_conformance import StoreConformance
from durable_store_conformance.exam import CASES

class TestSkips(StoreConformance):
    @pytest.fixture
    def url(self, tmp_path):
        return f"memory://{tmp_path.name}"

    @pytest.fixture(autouse=True)
    def only_the_first(self, case):
        if case is not CASES[0]:
            pytest.skip("")

class Easy(StoreConformance):
    def __init_subclass__(cls):
        pass

class TestReplaces(Easy):
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_clause(self, case):
        pass

class TestDeselects(StoreConformance):
    pass
"""


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_an_exam_that_was_made_smaller_has_no_grade_to_show_for_it(options: list[str], tmp_path: Path) -> None:
    """By fixtures that skip, by a class in between that puts another test in the place of the exam, by selection."""
    (tmp_path / "test_mine.py").write_text(_SHRUNK)
    told = pytest_in(tmp_path, "-k", "not TestDeselects", "-q", *options)
    assert told.returncode == 0
    lines = dict(re.findall(r"^test_mine\.py::(Test\w+): (.*)$", told.stdout, re.MULTILINE))
    nothing = f"0 held, {len(CASES)} not asked of {len(CASES)} cases; no grade: the exam was sat in part, 0 of"
    left = len(CASES) - 1
    assert sorted(lines) == ["TestDeselects", "TestReplaces", "TestSkips"]
    assert lines["TestSkips"].startswith(
        f"1 held, {left} not evaluable of {len(CASES)} cases; grade none: base clauses"
    )
    assert lines["TestSkips"].endswith(f" {left} cases were skipped, which is no pass.")
    assert lines["TestReplaces"].startswith(nothing)
    assert lines["TestDeselects"].startswith(nothing)


def test_where_nobody_inherits_the_exam_the_plugin_prints_and_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import sys\n\ndef test_mine():\n"
        "    loaded = {name for name in sys.modules if name.startswith('durable_store')}\n"
        "    assert loaded == {'durable_store_conformance', 'durable_store_conformance.plugin'}\n"
    )
    told = pytest_in(tmp_path)
    assert told.returncode == 0, told.stdout
    assert "= conformance =" not in told.stdout
